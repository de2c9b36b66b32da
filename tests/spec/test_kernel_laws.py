"""Laws of kernels: the one that a backend has registered does what the textbook one, composed from its own
hooks, does.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygpt_core import kernels
from tinygpt_core.buffer import Buffer
from tinygpt_core.dtype import DType
from tinygpt_core.kernels.optimizer_steps import orthogonalized

from .strategies import FLOATS, arrays, make, operands, read, shapes, supported
from .table import ROWS, Row
from .templates import arrays_of, buffers_of, draw_operands, truth
from .tolerances import assert_close

KERNELS = [pytest.param(row, id=row.name) for row in ROWS if row.kernel]


def gradients_of(kernel: type[kernels.Kernel], saved: Any, grad: Buffer) -> list[Any]:
    """Returns the gradients of a kernel's inputs, those that come as functions called."""
    return [gradient() if callable(gradient) else gradient for gradient in kernel.backward(saved, grad)]


@pytest.mark.parametrize("row", KERNELS)
@given(data=st.data())
def test_fused_equals_composed(backend: type[Buffer], row: Row, data: st.DataObject) -> None:
    """For all values and all gradients, in any layout, float32 and float64. Inputs and incoming gradient stay
    as they were.
    """
    case = data.draw(row.cases())
    dtype = data.draw(st.sampled_from(supported(backend, FLOATS)))
    count = sum(slot is not None and not slot.dtype for slot in case.slots)
    made = draw_operands(data.draw, backend, row, case, [dtype] * count)
    composed: type[kernels.Kernel] = row.kernel  # type: ignore[assignment]
    fused = kernels.lookup(composed, backend)
    assert issubclass(fused, composed)
    result, saved = fused.forward(*buffers_of(made), **case.options)
    expected, expected_saved = composed.forward(*buffers_of(made), **case.options)
    assert (result.shape, result.dtype) == (expected.shape, expected.dtype)
    _, magnitude = truth(row, arrays_of(made), case.options)
    assert_close(read(result), read(expected), dtype, magnitude, f"{row.name} forward {case.options}")
    grad = data.draw(operands(backend, result.shape, dtype, -2, 2))
    got, wanted = gradients_of(fused, saved, grad.buffer), gradients_of(composed, expected_saved, grad.buffer)
    free = [i for i, slot in enumerate(case.slots) if slot is not None and not slot.dtype]
    for i in free:
        assert got[i] is not None, f"{row.name} gives input {i} no gradient"
        assert got[i].dtype.name == dtype and got[i].shape == made[i].buffer.shape  # type: ignore[union-attr]
        # Gradients of a normalization are differences of numbers as large as the slope 1 / deviation times
        # the gradient.
        scale = float(np.max(np.abs(read(wanted[i])), initial=0.0)) + 10.0 * _steepness(
            row, made, case.options
        )
        assert_close(read(got[i]), read(wanted[i]), dtype, scale, f"{row.name} gradient {i} {case.options}")
    for operand in (*made, grad):
        if operand is not None:
            floats = operand.array.dtype.kind == "f"
            assert np.array_equal(read(operand.buffer), operand.array, equal_nan=floats), (
                f"{row.name} changed an operand"
            )


def _steepness(row: Row, made: list[Any], options: Mapping[str, Any]) -> float:
    """Returns how large a normalization's derivative can be; 1 for everything else."""
    if row.name not in ("LayerNorm", "RMSNorm"):
        return 1.0
    x = made[0].array.astype(np.float64)
    axes = tuple(range(-options["num_axes"], 0))
    spread = x.var(axes) if row.name == "LayerNorm" else np.mean(x * x, axes)
    slope = float(np.max(1.0 / np.sqrt(spread + options["eps"]), initial=0.0))
    return slope * (1.0 + slope * float(np.max(np.abs(x), initial=0.0)))


@pytest.mark.parametrize("row", KERNELS)
@given(data=st.data())
def test_backward_can_run_again(backend: type[Buffer], row: Row, data: st.DataObject) -> None:
    """A second backward on the same `saved` gives the same bits: the first used nothing up."""
    case = data.draw(row.cases())
    count = sum(slot is not None and not slot.dtype for slot in case.slots)
    made = draw_operands(data.draw, backend, row, case, ["float32"] * count)
    kernel = kernels.lookup(row.kernel, backend)  # type: ignore[type-var]
    result, saved = kernel.forward(*buffers_of(made), **case.options)  # type: ignore[union-attr]
    grad = make(backend, data.draw(arrays("float32", result.shape, -2, 2)))
    first, second = gradients_of(kernel, saved, grad), gradients_of(kernel, saved, grad)
    for one, other in zip(first, second, strict=True):
        assert (one is None) == (other is None), f"{row.name}: {one!r} at first, then {other!r}"
        if one is not None:
            assert np.array_equal(read(one), read(other), equal_nan=True), (
                f"{row.name} {case.options}: {read(one)} at first, then {read(other)}"
            )


# Relu is a maximum, which integers have, and an einsum a sum of products.
OF_FLOATS = [param for param in KERNELS if param.id not in ("Relu", "Einsum")]


@pytest.mark.parametrize("row", OF_FLOATS)
@given(data=st.data())
def test_every_operand_is_of_one_float_dtype(backend: type[Buffer], row: Row, data: st.DataObject) -> None:
    """An integer in the place of any one operand, or a float64 beside float32, is a TypeError, also where the
    textbook's kernel is asked.
    """
    case = data.draw(row.cases())
    free = [i for i, slot in enumerate(case.slots) if slot is not None and not slot.dtype]
    textbook: type[kernels.Kernel] = row.kernel  # type: ignore[assignment]
    for wrong in free:
        for dtype in supported(backend, ("int32", "float64") if len(free) > 1 else ("int32",)):
            buffers = [
                None
                if slot is None
                else make(backend, np.zeros(slot.shape, dtype if i == wrong else slot.dtype or "float32"))
                for i, slot in enumerate(case.slots)
            ]
            for kernel in {textbook, kernels.lookup(textbook, backend)}:
                with pytest.raises(TypeError, match=dtype):
                    kernel.forward(*buffers, **case.options)
                    pytest.fail(f"{kernel.__name__} {case.options} takes {dtype} as operand {wrong}")


# Shapes of operands, the last of which has an axis too few or too many; and what the others say it must be.
OF_OTHER_AXES: list[tuple[type[kernels.Kernel], str, list[tuple[int, ...]], dict[str, Any]]] = [
    (kernels.Linear, "(3,)", [(2, 3), (3,)], {}),
    (kernels.Linear, "(3, 4, 1)", [(2, 3), (3, 4, 1)], {}),
    (kernels.Linear, "()", [(), (1, 1)], {}),
    (kernels.Linear, "(1, 4)", [(2, 3), (3, 4), (1, 4)], {}),
    (kernels.Embedding, "(3,)", [(3,), (2,)], {}),
    (kernels.Embedding, "(3, 2, 1)", [(3, 2, 1), (2,)], {}),
    (kernels.Rotary, "(1, 3, 2)", [(1, 3, 2)], {}),
    (kernels.Rotary, "(1, 1, 3, 2, 1)", [(1, 1, 3, 2, 1)], {}),
    (kernels.Rotary, "(1, 1, 3, 5)", [(1, 1, 3, 5)], {}),
    (kernels.Attention, "(2, 3)", [(2, 3)] * 3, {}),
    (kernels.Attention, "(1, 2, 3)", [(1, 2, 3)] * 3, {}),
    (kernels.Attention, "(1, 1, 2, 4)", [(1, 1, 2, 3), (1, 1, 2, 4), (1, 1, 2, 4)], {}),
    (kernels.Attention, "(1, 1, 4, 3)", [(1, 1, 2, 3), (1, 1, 3, 3), (1, 1, 4, 3)], {}),
    (kernels.PackedAttention, "(2, 6)", [(2, 6)], {"num_heads": 1}),
    (kernels.PackedAttention, "(1, 2, 6, 1)", [(1, 2, 6, 1)], {"num_heads": 1}),
    (kernels.PackedAttention, "(1, 2, 6)", [(1, 2, 6)], {"num_heads": 4}),
    (kernels.PackedAttention, "3 x 2 heads", [(1, 2, 9)], {"num_heads": 2}),
    (kernels.CrossEntropy, "()", [(), ()], {}),
    (kernels.CrossEntropy, "(2, 1)", [(2, 3), (2, 1)], {}),
    (kernels.LayerNorm, "(3, 1)", [(2, 3), (3, 1)], {}),
    (kernels.LayerNorm, "(2,)", [(2, 3), (3,), (2,)], {}),
    (kernels.RMSNorm, "(1, 3)", [(2, 3), (1, 3)], {}),
    (kernels.Conv2d, "(4, 5, 5)", [(4, 5, 5), (8, 4, 3, 3)], {}),
    (kernels.Conv2d, "(8, 4, 3)", [(2, 4, 5, 5), (8, 4, 3)], {}),
    (kernels.Conv2d, "(8, 4, 3, 3, 1)", [(2, 4, 5, 5), (8, 4, 3, 3, 1)], {}),
    (kernels.Conv2d, "(1, 8)", [(2, 4, 5, 5), (8, 4, 3, 3), (1, 8)], {}),
    (kernels.Conv2d, "the shape (8, 2, 3, 3)", [(2, 4, 5, 5), (8, 4, 3, 3)], {"groups": 2}),
    (kernels.MaxPool2d, "(4, 5, 5)", [(4, 5, 5)], {"kernel_size": 2}),
    (kernels.AvgPool2d, "(1, 2, 4, 5, 5)", [(1, 2, 4, 5, 5)], {"kernel_size": 2}),
]


@pytest.mark.parametrize(
    "case", OF_OTHER_AXES, ids=lambda case: f"{case[0].__name__}-{case[1]}".replace(" ", "")
)
def test_shapes_that_do_not_fit_are_named(backend: type[Buffer], case: Any) -> None:
    """By every kernel of a name, the textbook's as well, and as a ValueError."""
    textbook, named, shapes_, options = case
    integers = textbook in (kernels.CrossEntropy, kernels.Embedding)
    buffers = [
        make(backend, np.zeros(shape, "int64" if integers and i == 1 else "float32"))
        for i, shape in enumerate(shapes_)
    ]
    for kernel in {textbook, kernels.lookup(textbook, backend)}:
        with pytest.raises(ValueError, match=re.escape(named)):
            kernel.forward(*buffers, **options)
            pytest.fail(f"{kernel.__name__} takes operands of the shapes {shapes_}")


def test_attention_is_causal(backend: type[Buffer]) -> None:
    """What comes after a position has no influence on it, however large it is, and no gradient from it."""
    values = np.random.default_rng(0).normal(size=(3, 1, 2, 5, 4)).astype(np.float32)
    changed = values.copy()
    changed[1:, :, :, 3:] = 1e4
    kernel = kernels.lookup(kernels.Attention, backend)
    first, saved = kernel.forward(*[make(backend, x) for x in values])
    second, _ = kernel.forward(*[make(backend, x) for x in changed])
    assert np.array_equal(read(first)[:, :, :3], read(second)[:, :, :3])
    grad = np.zeros((1, 2, 5, 4), np.float32)
    grad[:, :, :3] = 1.0
    _, of_keys, of_values = gradients_of(kernel, saved, make(backend, grad))
    assert not read(of_keys)[:, :, 3:].any() and not read(of_values)[:, :, 3:].any()


def test_attention_of_a_suffix_is_the_suffix_of_attention(backend: type[Buffer]) -> None:
    """What a key/value cache relies on: the last T queries alone, with all S keys, give the last T rows."""
    query, key, value = np.random.default_rng(1).normal(size=(3, 2, 2, 6, 4)).astype(np.float32)
    kernel = kernels.lookup(kernels.Attention, backend)
    whole, _ = kernel.forward(*[make(backend, x) for x in (query, key, value)])
    for t in (1, 2, 5):
        part, _ = kernel.forward(make(backend, query[:, :, -t:]), make(backend, key), make(backend, value))
        assert_close(read(part), read(whole)[:, :, -t:], "float32", 4.0)


@pytest.mark.parametrize(
    "shapes_",
    [
        [(1, 2, 3, 4), (1, 2, 0, 4)],
        [(1, 2, 0, 4), (1, 2, 3, 4)],
        [(0, 2, 3, 4)] * 2,
        [(1, 2, 3, 0), (1, 2, 5, 0)],
    ],
    ids=str,
)
def test_attention_to_nothing_and_of_nothing(backend: type[Buffer], shapes_: Any) -> None:
    """A query that sees no key gets zeros, and passes none on; without queries, or in heads of size 0, there
    is nothing to get.
    """
    query, key = (make(backend, np.ones(shape, np.float32)) for shape in shapes_)
    for kernel in {kernels.Attention, kernels.lookup(kernels.Attention, backend)}:
        for scale in (0.7, None):
            y, saved = kernel.forward(query, key, key, causal=False, scale=scale)
            assert y.shape == query.shape and not read(y).any()
            gradients = gradients_of(kernel, saved, y + 1.0)
            for gradient, operand in zip(gradients, (query, key, key), strict=True):
                assert gradient.shape == operand.shape and not read(gradient).any()


def test_heads_without_numbers(backend: type[Buffer]) -> None:
    """Of size 0, packed or with a window: their results have as many."""
    x = make(backend, np.ones((2, 3, 4, 0), np.float32))
    for kernel in {kernels.WindowedAttention, kernels.lookup(kernels.WindowedAttention, backend)}:
        y, saved = kernel.forward(x, x, x, window=2, soft_cap=1.0)
        assert [part.shape for part in (y, *gradients_of(kernel, saved, y))] == [x.shape] * 4
    packed = make(backend, np.ones((2, 4, 0), np.float32))
    for kernel in {kernels.PackedAttention, kernels.lookup(kernels.PackedAttention, backend)}:
        y, saved = kernel.forward(packed, num_heads=3)
        assert [part.shape for part in (y, *gradients_of(kernel, saved, y))] == [packed.shape] * 2


@given(data=st.data())
def test_attention_is_the_plain_formula(backend: type[Buffer], data: st.DataObject) -> None:
    """softmax(q k^T / sqrt(D)) v, written out with the softmax and products of Buffers; where it is causal,
    row i of the T x S scores has S - T + i + 1 entries that count.
    """
    batch, heads, queries, size = (data.draw(st.integers(1, 3)) for _ in range(4))
    keys = queries + data.draw(st.integers(0, 2))
    shapes_ = [(batch, heads, length, size) for length in (queries, keys, keys)]
    q, k, v = (make(backend, data.draw(arrays("float32", shape, -2, 2))) for shape in shapes_)
    scores = q.matmul(k.transpose(2, 3)) / math.sqrt(size)
    causal = data.draw(st.booleans())
    if causal:
        for i in range(queries):
            scores[:, :, i, keys - queries + i + 1 :] = -math.inf
    plain = kernels.Softmax.forward(scores)[0].matmul(v)
    result, _ = kernels.lookup(kernels.Attention, backend).forward(q, k, v, causal=causal)
    assert_close(read(result), read(plain), "float32", 4.0)


@given(data=st.data())
def test_packed_attention_is_attention_of_its_parts(backend: type[Buffer], data: st.DataObject) -> None:
    """Head h of the query is x[:, :, h D : (h + 1) D]; key and value follow at distances of H D. Forward and
    backward of the packed kernel are those of `Attention` for each head alone, with the heads side by side.
    """
    batch, heads, length, size = (data.draw(st.integers(1, 3)) for _ in range(4))
    width = heads * size
    x = make(backend, data.draw(arrays("float32", (batch, length, 3 * width), -2, 2)))
    grad = make(backend, data.draw(arrays("float32", (batch, length, width), -2, 2)))
    packed = kernels.lookup(kernels.PackedAttention, backend)
    result, saved = packed.forward(x, num_heads=heads)
    (gradient,) = gradients_of(packed, saved, grad)
    for head in range(heads):
        own = slice(head * size, (head + 1) * size)
        columns = [slice(part * width + own.start, part * width + own.stop) for part in range(3)]
        parts = [x[:, :, each].reshape((batch, 1, length, size)) for each in columns]
        y, saved_of_head = kernels.Attention.forward(*parts)
        g = grad[:, :, own].reshape(y.shape)
        assert_close(read(result[:, :, own]), read(y)[:, 0], "float32", 4.0)
        for each, wanted in zip(columns, gradients_of(kernels.Attention, saved_of_head, g), strict=True):
            assert_close(read(gradient[:, :, each]), read(wanted)[:, 0], "float32", 16.0)


def test_weights_scale_what_is_normalized_and_a_bias_shifts_it(backend: type[Buffer]) -> None:
    x = make(backend, np.random.default_rng(4).normal(size=(3, 4)).astype(np.float32))
    weights, bias = np.array([0.5, 2.0, -3.0, 8.0], np.float32), np.array([1.0, -2.0, 0.25, 4.0], np.float32)
    w, b = make(backend, weights), make(backend, bias)
    for textbook in (kernels.LayerNorm, kernels.RMSNorm):
        kernel: Any = kernels.lookup(textbook, backend)
        normal = read(kernel.forward(x)[0])
        assert_close(read(kernel.forward(x, w)[0]), normal * weights, "float32", 8.0, kernel.__name__)
    normal = read(kernels.lookup(kernels.LayerNorm, backend).forward(x)[0])
    shifted = read(kernels.lookup(kernels.LayerNorm, backend).forward(x, w, b)[0])
    assert_close(shifted, normal * weights + bias, "float32", 8.0, "LayerNorm with a bias")
    for kernel in {kernels.LayerNorm, kernels.lookup(kernels.LayerNorm, backend)}:
        only_shifted = read(kernel.forward(x, None, b)[0])
        assert_close(only_shifted, normal + bias, "float32", 8.0, "LayerNorm with a bias alone")


def test_weights_scale_the_gradient_of_what_is_normalized(backend: type[Buffer]) -> None:
    """g with weights w is g w without: of the registered kernel and the textbook's; and an addend changes no
    gradient.
    """
    generator = np.random.default_rng(5)
    x, g = (make(backend, generator.normal(size=(3, 4)).astype(np.float32)) for _ in range(2))
    w = make(backend, np.array([0.5, 2.0, -3.0, 8.0], np.float32))
    for textbook in (kernels.LayerNorm, kernels.RMSNorm):
        for kernel in {textbook, kernels.lookup(textbook, backend)}:
            of_plain, *_ = gradients_of(kernel, kernel.forward(x)[1], g * w)  # type: ignore[call-arg]
            options = [(x, w), (x, w, w)] if textbook is kernels.LayerNorm else [(x, w)]
            for operands_ in options:
                _, saved = kernel.forward(*operands_)  # type: ignore[arg-type]
                of_input, of_weights, *_ = gradients_of(kernel, saved, g)
                assert_close(read(of_input), read(of_plain), "float32", 32.0, kernel.__name__)
                normal = read(kernel.forward(x)[0])  # type: ignore[call-arg]
                assert_close(read(of_weights), (read(g) * normal).sum(0), "float32", 8.0, kernel.__name__)


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_moving_mean(backend: type[Buffer], dtype: str) -> None:
    """A mean that is fed with itself stays to the bit where little is forgotten, and forgets all at 0,
    however large it was.
    """
    if dtype not in supported(backend, FLOATS):
        return
    from tinygpt_core.kernels.optimizer_steps import moving_mean

    x = make(backend, np.random.default_rng(6).normal(size=(50,)).astype(dtype))
    for beta in (0.5, 0.9, 0.999, 0.9999):
        assert np.array_equal(read(moving_mean(x, x, beta)), read(x)), beta
    large = x * 1e12
    assert np.array_equal(read(moving_mean(large, x, 0.0)), read(x))
    exact = read(large).astype(np.float64) * 0.25 + read(x).astype(np.float64) * 0.75
    assert_close(read(moving_mean(large, x, 0.25)), exact, dtype)
    assert_close(read(moving_mean(x, large, 0.75)), read(x) * 0.75 + read(large) * 0.25, dtype, 1e12)


@pytest.mark.parametrize("shape", [(0, 0), (2, 0, 0), (0, 3), (0, 2, 1)], ids=str)
def test_cross_entropy_of_nothing_is_nothing(backend: type[Buffer], shape: tuple[int, ...]) -> None:
    """No rows have no losses, whether or not there are classes, and the gradient has no elements either."""
    logits = make(backend, np.zeros(shape, np.float32))
    targets = make(backend, np.zeros(shape[:-1], np.int32))
    for kernel in {kernels.CrossEntropy, kernels.lookup(kernels.CrossEntropy, backend)}:
        for options in ({}, {"ignore_index": -1}):
            y, saved = kernel.forward(logits, targets, **options)
            assert y.shape == shape[:-1] and y.dtype == logits.dtype
            assert gradients_of(kernel, saved, y)[0].shape == shape


def test_products_of_integers_are_exact(backend: type[Buffer]) -> None:
    """However long the rows are: sums of doubles below 2^53 are not rounded, in either direction."""
    if "float64" not in supported(backend, FLOATS):
        pytest.skip("no float64")
    rng = np.random.default_rng(7)
    x, weights, grad = (
        rng.integers(-1000, 1000, shape).astype(np.float64) for shape in ((11, 31), (31, 12), (11, 12))
    )
    kernel = kernels.lookup(kernels.Linear, backend)
    y, saved = kernel.forward(make(backend, x), make(backend, weights))
    of_x, of_weights = gradients_of(kernel, saved, make(backend, grad))[:2]
    assert np.array_equal(read(y), x @ weights)
    assert np.array_equal(read(of_x), grad @ weights.T)
    assert np.array_equal(read(of_weights), x.T @ grad)


@pytest.mark.parametrize("classes", [1, 2, 5])
def test_a_row_is_ignored_whatever_classes_there_are(backend: type[Buffer], classes: int) -> None:
    """Its loss is 0 and so is its gradient; the others' are what they are without it."""
    logits = np.random.default_rng(7).normal(size=(3, classes)).astype(np.float32)
    others = make(backend, logits[1:])
    for kernel in {kernels.CrossEntropy, kernels.lookup(kernels.CrossEntropy, backend)}:
        wanted, saved = kernel.forward(others, backend([0, classes - 1], DType.int32))
        (of_others, *_) = gradients_of(kernel, saved, wanted * 0.0 + 1.0)
        for ignored in (-100, classes):
            targets = backend([ignored, 0, classes - 1], DType.int32)
            losses, saved = kernel.forward(make(backend, logits), targets, ignore_index=ignored)
            (gradient, *_) = gradients_of(kernel, saved, losses * 0.0 + 1.0)
            assert_close(read(losses), [0.0, *read(wanted)], "float32")
            assert_close(read(gradient), [np.zeros(classes), *read(of_others)], "float32")


def test_places_in_logits_are_counted_in_64_bits(backend: type[Buffer]) -> None:
    """There may be more than 2^31 of them, which are too many for a test."""
    targets = backend([1, 2], DType.int32)
    _, (_, positions, _, _) = kernels.CrossEntropy.forward(backend.zeros((2, 3)), targets)
    assert positions.dtype is DType.int64 and positions.to_python() == [1, 5]


def test_large_logits_stay_finite(backend: type[Buffer]) -> None:
    """Softmax and its kin subtract the maximum first: logits of 1e4 give no infinity and no NaN."""
    logits = backend([[1e4, 0.0, -1e4], [-1e4, -1e4, -1e4]])
    probabilities, saved = kernels.lookup(kernels.Softmax, backend).forward(logits)
    assert_close(read(probabilities), [[1, 0, 0], [1 / 3, 1 / 3, 1 / 3]], "float32")
    (gradient,) = gradients_of(
        kernels.lookup(kernels.Softmax, backend), saved, backend([[1.0, 2.0, 3.0]] * 2)
    )
    assert np.isfinite(read(gradient)).all()
    losses, _ = kernels.lookup(kernels.CrossEntropy, backend).forward(logits, backend([1, 2]))
    assert_close(read(losses), [1e4, math.log(3)], "float32")
    for kernel in (kernels.GELU, kernels.SiLU):
        result, saved = kernels.lookup(kernel, backend).forward(logits)
        assert_close(read(result), [[1e4, 0, 0], [0, 0, 0]], "float32")
        (gradient,) = gradients_of(kernels.lookup(kernel, backend), saved, logits * 0.0 + 1.0)
        assert_close(read(gradient), [[1, 0.5, 0], [0, 0, 0]], "float32")


def test_max_pooling_gives_the_gradient_to_the_first_of_equals(backend: type[Buffer]) -> None:
    """Row by row within a window, in every window that an element is the first maximum of; NaN is the
    largest; padding never wins.
    """
    kernel = kernels.lookup(kernels.MaxPool2d, backend)

    def gradient(x: list[Any], **options: Any) -> Any:
        result, saved = kernel.forward(backend([[x]]), **options)
        return read(result)[0, 0].tolist(), read(gradients_of(kernel, saved, backend.ones(result.shape))[0])[
            0, 0
        ].tolist()

    assert gradient([[7.0]], kernel_size=1) == ([[7.0]], [[1.0]])
    assert gradient([[1.0, 3.0], [3.0, 3.0]], kernel_size=2) == ([[3.0]], [[0.0, 1.0], [0.0, 0.0]])
    assert gradient([[2.0] * 3] * 2, kernel_size=2, stride=1) == ([[2.0, 2.0]], [[1.0, 1.0, 0.0], [0.0] * 3])
    assert gradient([[0.0, 0.0, 5.0, 0.0]], kernel_size=(1, 2), stride=1) == (
        [[0.0, 5.0, 5.0]],
        [[1.0, 0.0, 2.0, 0.0]],
    )
    assert gradient([[-4.0, -5.0]], kernel_size=3, padding=1, stride=1) == ([[-4.0, -4.0]], [[2.0, 0.0]])
    lowest = -math.inf
    assert gradient([[lowest, 1.0], [1.0, 1.0]], kernel_size=2, padding=1) == (
        [[lowest, 1.0], [1.0, 1.0]],
        [[1.0, 1.0], [1.0, 1.0]],
    )
    largest, shares = gradient([[lowest] * 3] * 3, kernel_size=3, padding=1, stride=1)
    assert largest == [[lowest] * 3] * 3
    assert shares == [[4.0, 2.0, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 0.0]], "the first real element gets it"
    result, saved = kernel.forward(backend([[[[7.0, math.nan, math.nan, math.inf]]]]), kernel_size=(1, 4))
    assert math.isnan(result.item())
    assert read(gradients_of(kernel, saved, backend([[[[1.0]]]]))[0])[0, 0].tolist() == [[0.0, 1.0, 0.0, 0.0]]


# ---------------------------------------------------------------- optimizers' steps


@st.composite
def parameter_lists(draw: st.DrawFn, count: int) -> tuple[str, list[list[np.ndarray]]]:
    """`count` lists of arrays of the same shapes."""
    dtype = draw(st.sampled_from(FLOATS))
    wanted = draw(st.lists(shapes(max_dims=2), min_size=0, max_size=3))
    return dtype, [[draw(arrays(dtype, shape, -2, 2)) for shape in wanted] for _ in range(count)]


@given(data=st.data())
def test_adamw_step(backend: type[Buffer], data: st.DataObject) -> None:
    """Registered and textbook step, several in a row, against NumPy in float64; gradients stay the same."""
    dtype, (parameters, grads) = data.draw(parameter_lists(2))
    options: dict[str, Any] = {
        "learning_rate": data.draw(st.sampled_from([1e-3, 0.1])),
        "betas": data.draw(st.sampled_from([(0.9, 0.999), (0.0, 0.95), (0.3, 0.4)])),
        "eps": 1e-3,
        "weight_decays": [data.draw(st.sampled_from([0.0, 0.1])) for _ in parameters],
    }
    beta1, beta2 = options["betas"]
    p = [x.astype(np.float64) for x in parameters]
    m, v = [x * 0 for x in p], [x * 0 for x in p]
    for step in (1, 2, 3):
        for i, grad in enumerate(grads):
            g = grad.astype(np.float64)
            m[i] = beta1 * m[i] + (1 - beta1) * g
            v[i] = beta2 * v[i] + (1 - beta2) * g * g
            p[i] = p[i] - options["learning_rate"] * options["weight_decays"][i] * p[i]
            p[i] = p[i] - options["learning_rate"] * (m[i] / (1 - beta1**step)) / (
                np.sqrt(v[i] / (1 - beta2**step)) + options["eps"]
            )
    for kernel in {kernels.AdamWStep, kernels.lookup(kernels.AdamWStep, backend)}:
        ours, gradients = [make(backend, x) for x in parameters], [make(backend, x) for x in grads]
        first, second = ([make(backend, x * 0) for x in parameters] for _ in range(2))
        versions = [x.version[0] for x in ours]
        for step in (1, 2, 3):
            kernel.forward(ours, gradients, first, second, step=step, **options)
        parts = {
            "parameter": (ours, p),
            "mean": (first, m),
            "square": (second, v),
            "grad": (gradients, grads),
        }
        for what, (got, wanted) in parts.items():
            for i, (one, other) in enumerate(zip(got, wanted, strict=True)):
                assert_close(read(one), other, dtype, 2.0, f"{kernel.__name__}, {what} {i}, {options}")
        for i, (x, version) in enumerate(zip(ours, versions, strict=True)):
            assert x.version[0] > version, (
                f"{kernel.__name__}: parameter {i} changed, and its version did not"
            )


@pytest.mark.parametrize("betas", [(0.99, 0.9999), (0.3, 0.4)], ids=str)
def test_fifty_steps_of_adamw(backend: type[Buffer], betas: tuple[float, float]) -> None:
    """In float32 they are those in float64: of a beta near one, 1 - beta keeps all its digits."""
    beta1, beta2 = betas
    draw = np.random.default_rng(0)
    grads = draw.normal(size=(50, 64)).astype(np.float32)
    start = draw.normal(size=64).astype(np.float32)
    options: dict[str, Any] = {"learning_rate": 1e-2, "betas": betas, "eps": 1e-8, "weight_decays": [0.01]}
    p, m, v = start.astype(np.float64), np.zeros(64), np.zeros(64)
    for step, grad in enumerate(grads, 1):
        g = grad.astype(np.float64)
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        p = p * (1 - 1e-4) - 1e-2 * (m / (1 - beta1**step)) / (np.sqrt(v / (1 - beta2**step)) + 1e-8)
    for kernel in {kernels.AdamWStep, kernels.lookup(kernels.AdamWStep, backend)}:
        ours = [[make(backend, x)] for x in (start, start * 0, start * 0)]
        for step, grad in enumerate(grads, 1):
            kernel.forward(ours[0], [make(backend, grad)], *ours[1:], step=step, **options)
        for (found,), wanted in zip(ours, (p, m, v), strict=True):
            error = np.max(np.abs(read(found) - wanted)) / np.max(np.abs(wanted))
            assert error < 2e-6, f"{kernel.__name__}: {error:.1e} from float64"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@given(
    rows=st.integers(1, 6), columns=st.integers(1, 6), rank=st.integers(1, 6), number=st.integers(0, 2**32)
)
def test_orthogonalized(
    backend: type[Buffer], dtype: str, rows: int, columns: int, rank: int, number: int
) -> None:
    """Against the singular values, by NumPy's decomposition in float64, also where some of them are 0. Five
    steps enlarge an error in a small singular value by up to 3.4445 to the fifth, 485.
    """
    draw = np.random.default_rng(number)
    x = (draw.normal(size=(rows, rank)) @ draw.normal(size=(rank, columns))).astype(dtype)
    u, s, v = np.linalg.svd(x.astype(np.float64), full_matrices=False)
    s = s / np.sqrt((s**2).sum())
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    found = orthogonalized(make(backend, x))
    limit = 485 * 20 * np.finfo(dtype).eps
    assert found.dtype.name == dtype and found.shape == (rows, columns)
    assert np.abs(read(found) - (u * s) @ v).max() < limit
    # It does not depend on the scale, however large, and zeros stay
    for factor in (2.0**-100, 2.0**100):
        assert (
            np.abs(read(orthogonalized(make(backend, (x * factor).astype(dtype)))) - read(found)).max()
            < limit
        )
    assert np.array_equal(read(orthogonalized(make(backend, x * 0))), x * 0)


@given(data=st.data())
def test_sgd_step(backend: type[Buffer], data: st.DataObject) -> None:
    """Registered and textbook step against NumPy in float64: momentum, dampening, Nesterov and weight decay
    (also without momentum).
    """
    dtype, (parameters, grads) = data.draw(parameter_lists(2))
    momentum = data.draw(st.sampled_from([0.0, 0.9]))
    options: dict[str, Any] = {
        "learning_rate": 0.1,
        "momentum": momentum,
        "dampening": data.draw(st.sampled_from([0.0, 0.5])),
        "nesterov": bool(momentum) and data.draw(st.booleans()),
        "weight_decays": [data.draw(st.sampled_from([0.0, 0.1])) for _ in parameters],
    }
    p, u = [x.astype(np.float64) for x in parameters], [x.astype(np.float64) * 0 for x in parameters]
    for step in (1, 2, 3):
        for i, grad in enumerate(grads):
            d = grad.astype(np.float64) + options["weight_decays"][i] * p[i]
            if momentum:
                u[i] = d if step == 1 else momentum * u[i] + (1 - options["dampening"]) * d
                d = d + momentum * u[i] if options["nesterov"] else u[i]
            p[i] = p[i] - 0.1 * d
    for kernel in {kernels.SGDStep, kernels.lookup(kernels.SGDStep, backend)}:
        ours, gradients = [make(backend, x) for x in parameters], [make(backend, x) for x in grads]
        velocities = [make(backend, x * 0) for x in parameters] if momentum else None
        for step in (1, 2, 3):
            kernel.forward(ours, gradients, velocities, step=step, **options)
        parts = {
            "parameter": (ours, p),
            "velocity": (velocities or [], u if momentum else []),
            "grad": (gradients, grads),
        }
        for what, (got, wanted) in parts.items():
            for i, (one, other) in enumerate(zip(got, wanted, strict=True)):
                assert_close(read(one), other, dtype, 2.0, f"{kernel.__name__}, {what} {i}, {options}")


# ---------------------------------------------------------------- tables of which few rows are looked up


@given(data=st.data())
def test_hash_ngrams(backend: type[Buffer], data: st.DataObject) -> None:
    """Registered and textbook hash against the definition, one n-gram at a time in Python's own integers."""
    rows, length = data.draw(st.tuples(st.integers(0, 3), st.integers(0, 6)))
    sizes = data.draw(st.lists(st.sampled_from([1, 7, 4096, 2**24, 2**31 - 1]), min_size=1, max_size=4))
    ids = np.array(
        data.draw(
            st.lists(
                st.sampled_from([0, 1, 2, 63, 50256, 2**31 - 2]),
                min_size=rows * length,
                max_size=rows * length,
            )
        ),
        dtype=data.draw(st.sampled_from(supported(backend, ("int32", "int64")))),
    ).reshape(rows, length)
    expected = np.zeros((len(sizes), rows, length), np.int32)
    for k, row, place in np.ndindex(expected.shape):
        h = 0
        for back in range(k + 2):
            token = int(ids[row, place - back]) if back <= place else -1
            y = (h ^ (token + 1)) * 2654435769 % 2**32
            h = y ^ (y >> 15)
        expected[k, row, place] = h * sizes[k] // 2**32
    for kernel in {kernels.HashNgrams, kernels.lookup(kernels.HashNgrams, backend)}:
        found, _ = kernel.forward(make(backend, ids), table_sizes=tuple(sizes))
        assert (found.shape, found.dtype.name) == (expected.shape, "int32")
        assert np.array_equal(read(found), expected), kernel.__name__
        with pytest.raises(TypeError, match="float32"):
            kernel.forward(backend.zeros((1, 2)), table_sizes=(4,))
        with pytest.raises(ValueError, match="positions"):
            kernel.forward(make(backend, np.zeros(3, np.int32)), table_sizes=(4,))


@given(data=st.data())
def test_nonzero_rows(backend: type[Buffer], data: st.DataObject) -> None:
    """Registered and textbook kernel: rows with an element that is not 0; NaN is not, and -0 is."""
    shape = data.draw(st.sampled_from([(0, 3), (4, 1), (5, 3), (3, 2, 2)]))
    values = np.array(
        data.draw(
            st.lists(
                st.sampled_from([0.0, 0.0, 0.0, -0.0, 1e-30, -2.0, math.nan, math.inf]),
                min_size=math.prod(shape),
                max_size=math.prod(shape),
            )
        ),
        dtype=data.draw(st.sampled_from(supported(backend, FLOATS))),
    ).reshape(shape)
    expected = [i for i in range(shape[0]) if np.any(values[i] != 0)]
    for kernel in {kernels.NonzeroRows, kernels.lookup(kernels.NonzeroRows, backend)}:
        found, _ = kernel.forward(make(backend, values))
        assert found.dtype.name == "int32" and found.to_python() == expected, kernel.__name__


@given(data=st.data())
def test_put_rows(backend: type[Buffer], data: st.DataObject) -> None:
    """Registered and textbook kernel: rows are replaced, in tables of any layout and by numbers of any float
    dtype; all others stay.
    """
    dtype, other = (data.draw(st.sampled_from(supported(backend, FLOATS))) for _ in range(2))
    table = data.draw(operands(backend, (5, 3), dtype, -2, 2))
    rows = data.draw(st.lists(st.integers(0, 4), unique=True, max_size=5))
    values = data.draw(arrays(other, (len(rows), 3), -2, 2))
    expected = read(table.buffer).copy()
    for row, value in zip(rows, values, strict=True):
        expected[row] = value
    places = make(backend, np.array(rows, np.int32))
    for kernel in {kernels.PutRows, kernels.lookup(kernels.PutRows, backend)}:
        for target in (table.buffer.copy(), table.buffer.copy().transpose(0, 1).copy().transpose(0, 1)):
            before = target.version[0]
            kernel.forward(target, places, make(backend, values))
            assert np.array_equal(read(target), expected), kernel.__name__
            assert target.version[0] > before or not rows
        one = backend.zeros((1, 3)).cast(table.buffer.dtype)
        with pytest.raises(IndexError):
            kernel.forward(table.buffer.copy(), make(backend, np.array([5], np.int32)), one)
        with pytest.raises(ValueError, match="broadcast"):
            kernel.forward(one.expand((5, 3)), make(backend, np.array([1], np.int32)), one)


@given(data=st.data())
def test_the_rows_of_an_embedding_are_its_gradient(backend: type[Buffer], data: st.DataObject) -> None:
    """`backward_by_rows`, put into a table of zeros, is the whole gradient; no row comes twice."""
    dtype = data.draw(st.sampled_from(supported(backend, FLOATS)))
    shape = data.draw(st.sampled_from([(0,), (1,), (6,), (2, 4)]))
    count = math.prod(shape)
    ids = np.array(data.draw(st.lists(st.integers(0, 4), min_size=count, max_size=count)), np.int32)
    grad = data.draw(operands(backend, (*shape, 3), dtype, -2, 2))
    for kernel in {kernels.Embedding, kernels.lookup(kernels.Embedding, backend)}:
        if kernel.backward_by_rows is None:
            continue
        weights = make(backend, np.zeros((5, 3), dtype))
        _, saved = kernel.forward(weights, make(backend, ids.reshape(shape)))
        rows, values = kernel.backward_by_rows(saved, grad.buffer)
        assert rows.dtype.kind == "i" and values.dtype.name == dtype
        found = rows.to_python()
        assert sorted(found) == sorted(set(ids.tolist()))
        whole = np.zeros((5, 3))
        whole[np.array(found, int)] = read(values).reshape(len(found), 3)
        expected = np.zeros((5, 3))
        np.add.at(expected, ids, read(grad.buffer).astype(np.float64).reshape(count, 3))
        assert_close(whole, expected, dtype, 2.0 * max(1, count))


# ---------------------------------------------------------------- the registry


def test_registered_kernels_take_the_same_arguments(backend: type[Buffer]) -> None:
    """Options have the same names and the same defaults as the textbook's."""
    for kernel, own in kernels.base.registered(backend):
        parameters, wanted = (inspect.signature(x.forward).parameters for x in (own, kernel))
        for name, parameter in wanted.items():
            if parameter.kind is not parameter.KEYWORD_ONLY and parameter.default is parameter.empty:
                continue
            assert name in parameters, f"{own.__name__}.forward takes no {name}"
            found = parameters[name].default
            assert found == parameter.default, f"{own.__name__}: {name} is {found}, not {parameter.default}"


def test_lookup_walks_the_class_hierarchy(backend: type[Buffer]) -> None:
    """A subclass of a backend's Buffer uses its kernels until it has its own; the textbook one stays
    reachable as the class itself.
    """

    class Nearer(backend):  # type: ignore[misc, valid-type]
        __slots__ = ()

    class Own(kernels.SiLU):
        pass

    assert kernels.lookup(kernels.SiLU, Nearer) is kernels.lookup(kernels.SiLU, backend)
    before = kernels.lookup(kernels.SiLU, backend)
    kernels.register(kernels.SiLU, Nearer, Own)
    assert kernels.lookup(kernels.SiLU, Nearer) is Own and kernels.lookup(kernels.SiLU, backend) is before
    implementations = dict(kernels.base.registered(Nearer))
    assert implementations.pop(kernels.SiLU) is Own
    assert implementations == {kernel: kernels.lookup(kernel, backend) for kernel in implementations}
    assert dict(kernels.base.registered(backend)).keys() - {kernels.SiLU} == implementations.keys()
    with pytest.raises(TypeError, match="SiLU"):
        kernels.register(kernels.SiLU, Nearer, kernels.GELU)  # type: ignore[type-var]
