"""What the laws' small cases do not reach in NumPy's kernels: many blocks and tasks, several threads.

How much a thread, a block or a task gets is set low here, so that a few thousand elements are shared out as
millions are otherwise. Whatever it is, the result is the textbook's, and any number of threads gives the same
bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

np = pytest.importorskip("numpy", reason="this is about the numpy backend, and NumPy is not installed")
pytest.importorskip("tinygpt_accel", reason="this is about the plug-in tinygpt-accel, which is not installed")

from tinygpt_accel.numpy_backend import NumpyBuffer, chains, loops, threads  # noqa: E402
from tinygpt_accel.numpy_backend.kernels import (  # noqa: E402
    activations,
    attention,
    cross_entropy,
    dense,
    dropout,
    normalization,
    optimizer_steps,
    quantized,
    softmax,
)
from tinygpt_core import kernels, random  # noqa: E402
from tinygpt_core.dtype import DType  # noqa: E402
from tinygpt_core.kernels.quantized import QuantizedMatrix  # noqa: E402

MODULES = (activations, attention, cross_entropy, dense, dropout, normalization, softmax)


def numbers(seed: int, *shape: int) -> Any:
    return NumpyBuffer.wrap(np.random.default_rng(seed).normal(size=shape).astype(np.float32), DType.float32)


def whole(high: int, seed: int, *shape: int) -> Any:
    return NumpyBuffer.wrap(
        np.random.default_rng(seed).integers(0, high, shape).astype(np.int32), DType.int32
    )


def transposed(x: Any) -> Any:
    """The same elements as they lie behind a transpose."""
    return x.transpose(0, 1).copy().transpose(0, 1)


CASES: dict[str, tuple[Any, Callable[[], list[Any]], dict[str, Any]]] = {
    "relu": (kernels.Relu, lambda: [numbers(0, 37, 41)], {}),
    "relu of a transposed Buffer": (kernels.Relu, lambda: [transposed(numbers(0, 37, 41))], {}),
    "gelu": (kernels.GELU, lambda: [numbers(0, 37, 41)], {}),
    "silu": (kernels.SiLU, lambda: [numbers(0, 37, 41)], {}),
    "dropout": (
        kernels.Dropout,
        lambda: [numbers(0, 37, 41)],
        {"probability": 0.3, "key": random.Key(7, 2, 5)},
    ),
    "softmax": (kernels.Softmax, lambda: [numbers(0, 130, 11)], {}),
    "softmax along another axis": (kernels.Softmax, lambda: [numbers(0, 130, 11)], {"axis": 0}),
    "log_softmax": (kernels.LogSoftmax, lambda: [numbers(0, 130, 11)], {}),
    "log_softmax along another axis": (kernels.LogSoftmax, lambda: [numbers(0, 130, 3, 2)], {"axis": -2}),
    "cross_entropy": (kernels.CrossEntropy, lambda: [numbers(0, 130, 11), whole(11, 1, 130)], {}),
    "cross_entropy of few": (
        kernels.CrossEntropy,
        lambda: [numbers(0, 13, 10, 11), whole(11, 1, 13, 10)],
        {"ignore_index": 3},
    ),
    "layer_norm": (kernels.LayerNorm, lambda: [numbers(0, 300, 7), numbers(1, 7), numbers(2, 7)], {}),
    "layer_norm of two axes": (
        kernels.LayerNorm,
        lambda: [numbers(0, 200, 3, 2), numbers(1, 3, 2)],
        {"num_axes": 2},
    ),
    "rms_norm": (kernels.RMSNorm, lambda: [numbers(0, 300, 7), numbers(1, 7)], {"eps": 1e-2}),
    "linear": (kernels.Linear, lambda: [numbers(0, 90, 5), numbers(1, 5, 6), numbers(2, 6)], {}),
    "linear, tied": (kernels.Linear, lambda: [numbers(0, 90, 5), transposed(numbers(1, 5, 6))], {}),
    "embedding": (kernels.Embedding, lambda: [numbers(0, 40, 6), whole(40, 1, 19, 11)], {}),
    "attention": (kernels.Attention, lambda: [numbers(i, 3, 4, 23, 5) for i in range(3)], {}),
    "attention to what was before": (
        kernels.Attention,
        lambda: [numbers(0, 2, 3, 9, 5), numbers(1, 2, 3, 23, 5), numbers(2, 2, 3, 23, 5)],
        {"scale": 0.7},
    ),
    "attention to all": (
        kernels.Attention,
        lambda: [numbers(0, 2, 3, 9, 5), numbers(1, 2, 3, 23, 5), numbers(2, 2, 3, 23, 5)],
        {"causal": False},
    ),
    "packed attention": (kernels.PackedAttention, lambda: [numbers(0, 3, 23, 3 * 4 * 5)], {"num_heads": 4}),
}


def results(kernel: Any, inputs: list[Any], options: dict[str, Any]) -> list[Any]:
    """The result of a kernel and its gradients, as ndarrays."""
    y, saved = kernel.forward(*inputs, **options)
    gradients = kernel.backward(saved, numbers(9, *y.shape))
    parts = [y, *(part() if callable(part) else part for part in gradients)]
    return [None if part is None else np.array(part.array) for part in parts]


@pytest.mark.parametrize("is_compiled", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_how_work_is_shared_out_changes_nothing(
    name: str, is_compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_compiled and loops.compiled_loops() is None:
        pytest.skip("Numba is not installed, so there are no compiled loops")
    if not is_compiled:
        for module in MODULES:
            if hasattr(module, "loops_for"):
                monkeypatch.setattr(module, "loops_for", lambda dtype: chains)
    kernel, make, options = CASES[name]
    inputs = make()
    wanted = results(kernel, inputs, options)
    fused = kernels.lookup(kernel, NumpyBuffer)
    monkeypatch.setattr(threads, "CHAIN_GRAIN", 60)
    monkeypatch.setattr(threads, "STEP_GRAIN", 60)
    monkeypatch.setattr(normalization, "ROW_BLOCK", 32)
    for block, task in ((1, 1), (4, 100), (7, 10**6), (64, 400)):
        monkeypatch.setattr(attention, "QUERY_BLOCK", block)
        monkeypatch.setattr(attention, "TASK", task)
        runs = []
        for count in (1, 2, 3):
            monkeypatch.setattr(threads, "_count", count)
            runs.append(results(fused, inputs, options))
        for one, *others, truth in zip(*runs, wanted, strict=True):
            if truth is None:
                assert one is None
                continue
            scale = max(float(np.max(np.abs(truth))), 1.0)
            assert one.shape == truth.shape and one.dtype == truth.dtype
            np.testing.assert_allclose(one, truth, rtol=3e-5, atol=4e-6 * scale)
            for other in others:
                if "attention" in name:  # whose products BLAS may cut in another way
                    np.testing.assert_allclose(other, one, rtol=1e-5, atol=2e-6 * scale)
                else:
                    assert other.tobytes() == one.tobytes()
        if "attention" not in name:
            break


@pytest.mark.parametrize("count", [1, 3])
def test_a_step_of_many_parts(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """AdamW in parts of a few elements, also of what does not lie in one piece, is the textbook's."""
    monkeypatch.setattr(threads, "_count", count)
    monkeypatch.setattr(optimizer_steps, "BLOCK", 5)
    shapes = [(31, 3), (4,), (7, 2), (1,), (0, 3)]
    options: Any = {
        "learning_rate": 0.01,
        "betas": (0.8, 0.95),
        "eps": 1e-7,
        "weight_decays": [0.1, 0.0, 0.2, 0.1, 0.1],
        "step": 3,
    }

    def operands() -> list[list[Any]]:
        parts = [[numbers(10 * i + j, *shape) for j, shape in enumerate(shapes)] for i in range(4)]
        parts[3] = [x.maximum(-x) for x in parts[3]]
        for buffers in parts:
            buffers[2] = transposed(buffers[2])
        return parts

    ours, theirs = operands(), operands()
    versions = [x.version[0] for x in ours[0]]
    kernels.lookup(kernels.AdamWStep, NumpyBuffer).forward(*ours, **options)
    kernels.AdamWStep.forward(*theirs, **options)
    for mine, their in zip(ours, theirs, strict=True):
        for x, y in zip(mine, their, strict=True):
            np.testing.assert_allclose(x.array, y.array, rtol=2e-5, atol=1e-6)
    assert all(x.version[0] > before for x, before in zip(ours[0], versions, strict=True))


def test_rows_that_are_not_there() -> None:
    """Below 0 an ndarray would count from the end, and write there."""
    for row in (-1, 4):
        with pytest.raises(IndexError, match=str(row)):
            kernels.lookup(kernels.PutRows, NumpyBuffer).forward(
                numbers(0, 4, 2), NumpyBuffer.wrap(np.array([row], np.int32), DType.int32), numbers(1, 1, 2)
            )


@pytest.mark.parametrize("shape", [(3, 2), (2, 3, 4), (0, 3), (3, 0), (1,)])
@pytest.mark.parametrize("kernel", [kernels.Softmax, kernels.LogSoftmax])
def test_along_every_axis(kernel: Any, shape: tuple[int, ...]) -> None:
    x = numbers(0, *shape)
    for axis in range(-len(shape), len(shape)):
        for one, truth in zip(
            results(kernels.lookup(kernel, NumpyBuffer), [x], {"axis": axis}),
            results(kernel, [x], {"axis": axis}),
            strict=True,
        ):
            np.testing.assert_allclose(one, truth, rtol=1e-5, atol=1e-6)
    for axis in (len(shape), -len(shape) - 1):
        with pytest.raises(ValueError, match="out of range"):
            kernels.lookup(kernel, NumpyBuffer).forward(x, axis=axis)


def test_a_gradient_lies_as_its_weights_do() -> None:
    """That of a tied head, whose weights are a transposed table, is added to the table's along its rows."""
    kernel = kernels.lookup(kernels.Linear, NumpyBuffer)
    apart = numbers(1, 5, 12)[:, ::2]
    for weights, order in ((numbers(1, 5, 6), "C"), (transposed(numbers(1, 5, 6)), "F"), (apart, "C")):
        assert weights.array.flags[f"{order}_CONTIGUOUS"] or weights is apart
        _, saved = kernel.forward(numbers(0, 9, 5), weights)
        found = kernel.backward(saved, numbers(2, 9, 6))[1]().array  # type: ignore[misc, operator]
        assert found.flags[f"{order}_CONTIGUOUS"] and not found.flags["CF"[order == "C"] + "_CONTIGUOUS"]


@pytest.mark.parametrize("kernel", [kernels.LayerNorm, kernels.RMSNorm])
@pytest.mark.parametrize("shape", [(3, 0), (0, 3), (0, 0)])
def test_normalization_of_nothing(kernel: Any, shape: tuple[int, ...]) -> None:
    fused = kernels.lookup(kernel, NumpyBuffer)
    x = numbers(0, *shape)
    y, saved = fused.forward(x, numbers(1, shape[1]))
    assert y.shape == shape
    for part in fused.backward(saved, y):
        assert not np.asarray((part() if callable(part) else part).array).any()


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("batch, heads", [(1, 1), (3, 4), (5, 12), (2, 7)])
@pytest.mark.parametrize("scores", [1, 30, 100, 101, 10**9])
def test_tasks_are_every_head_once(
    batch: int, heads: int, scores: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is of one head at least, and no larger than it may be; there is one for every thread, if they go
    round.
    """
    monkeypatch.setattr(threads, "_count", count)
    monkeypatch.setattr(attention, "TASK", 100)
    seen = np.zeros((batch, heads), int)
    tasks = attention._tasks(batch, heads, scores)
    for task in tasks:
        seen[task] += 1
        size = seen[task].size
        assert size == 1 or size * scores <= 100
    assert (seen == 1).all() and len(tasks) >= min(count, batch)


@pytest.mark.parametrize("length, total, size", [(1, 1, 4), (7, 7, 4), (8, 20, 4), (9, 9, 1), (128, 130, 64)])
def test_blocks_are_every_query_once(length: int, total: int, size: int) -> None:
    """With the keys that its last query sees, of about the size that is asked for."""
    blocks = attention._query_blocks(length, total, True, size)
    assert [i for start, stop, _ in blocks for i in range(start, stop)] == list(range(length))
    assert all(keys == total - length + stop for _, stop, keys in blocks)
    assert len(blocks) == max(1, length // size)
    assert attention._query_blocks(length, total, False, size) == [(0, length, total)]


@pytest.mark.parametrize("is_compiled", [False, True])
@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
@pytest.mark.parametrize("rows", [1, 8, 9])
def test_quantized_products_are_shared_out(
    rows: int, dtype: str, is_compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outputs are computed in parts, blocks and threads: the textbook's products, and the same bits however
    many threads there are.
    """
    if is_compiled and loops.compiled_loops() is None:
        pytest.skip("Numba is not installed, so there are no compiled loops")
    if not is_compiled:
        monkeypatch.setattr(quantized, "loops_for", lambda dtype: chains)
    monkeypatch.setattr(quantized, "GRAIN", 100)
    monkeypatch.setattr(quantized, "BLOCK", 37 * 20)
    monkeypatch.setattr(chains, "BLOCK", 37 * 40)
    x, weights, bias = numbers(0, rows, 37), numbers(1, 150, 37), numbers(2, 150)
    matrix = QuantizedMatrix(dtype, (150, 37))
    quantized.NumpyQuantize.forward(weights, matrix)
    truth = quantized.QuantizedLinear.forward(x, bias, matrix=matrix)[0].array
    found = []
    for count in (1, 2, 3):
        monkeypatch.setattr(threads, "_count", count)
        found.append(quantized.NumpyQuantizedLinear.forward(x, bias, matrix=matrix)[0].array)
        np.testing.assert_allclose(found[-1], truth, rtol=1e-5, atol=1e-5)
        assert found[-1].tobytes() == found[0].tobytes()


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_a_row_wider_than_a_block_is_a_block(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantized, "BLOCK", 16)
    monkeypatch.setattr(quantized, "ROUNDED", 16)
    monkeypatch.setattr(quantized, "GRAIN", 16)
    x, weights = numbers(0, quantized.FEW + 1, 37), numbers(1, 5, 37)
    matrix, expected = QuantizedMatrix(dtype, (5, 37)), QuantizedMatrix(dtype, (5, 37))
    quantized.NumpyQuantize.forward(weights, matrix)
    quantized.Quantize.forward(weights, expected)
    assert (matrix.values, matrix.scales) == (expected.values, expected.scales)
    y = quantized.NumpyQuantizedLinear.forward(x, None, matrix=matrix)[0].array
    truth = quantized.QuantizedLinear.forward(x, None, matrix=matrix)[0].array
    np.testing.assert_allclose(y, truth, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [1, quantized.FEW + 1])
@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_products_over_no_inputs_are_the_bias(dtype: str, rows: int) -> None:
    bias, matrix = numbers(0, 3), QuantizedMatrix(dtype, (3, 0))
    y = quantized.NumpyQuantizedLinear.forward(numbers(1, rows, 0), bias, matrix=matrix)[0].array
    assert y.tolist() == [bias.array.tolist()] * rows
