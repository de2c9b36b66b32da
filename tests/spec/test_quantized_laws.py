"""Weights in 16 and 8 bits: what rounding them does, against NumPy, and that products are those of the
numbers that are kept.

The reference rounds in float64, or by looking at the two neighbours, and shares nothing with the kernels.
"""

from __future__ import annotations

import copy
import math
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tinygpt_core import Tensor
from tinygpt_core.buffer import Buffer
from tinygpt_core.dtype import DType
from tinygpt_core.kernels import halves, quantized
from tinygpt_core.kernels.base import lookup
from tinygpt_core.kernels.quantized import QuantizedMatrix
from tinygpt_core.nn import GPT, Embedding, FullyConnectedLayer, GPTConfig
from tinygpt_core.nn.quantized import QuantizedEmbedding, QuantizedLinear, quantize

from .test_decoder_laws import IDS, configs, expected, made
from .tolerances import assert_close

DTYPES = ("bfloat16", "int8")
FLOAT32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


def matrices(elements: st.SearchStrategy[float], least: int = 0) -> st.SearchStrategy[Any]:
    sides = hnp.array_shapes(min_dims=2, max_dims=2, min_side=least, max_side=6)
    return hnp.arrays(np.float32, sides, elements=elements)


def kept(backend: type[Buffer], rows: Any, dtype: str) -> QuantizedMatrix:
    """A matrix of all rows, written at once."""
    matrix = QuantizedMatrix(dtype, rows.shape)
    return written(backend, rows, matrix, 0)


def written(backend: type[Buffer], rows: Any, matrix: QuantizedMatrix, first: int) -> QuantizedMatrix:
    buffer = backend(rows.tolist(), DType.float32).reshape(rows.shape)
    return lookup(quantized.Quantize, backend).forward(buffer, matrix, first)[0]


def numbers_of(matrix: QuantizedMatrix) -> Any:
    """What a matrix says, by what the dtypes mean, in float64."""
    values = np.array(matrix.values.tolist(), np.int64).reshape(matrix.shape)
    if matrix.dtype == "int8":
        return values * np.array(matrix.scales.tolist(), np.float64).reshape(-1, 1)
    sign, exponent, fraction = values >> 15, values >> 7 & 0xFF, values & 0x7F
    size = np.where(exponent == 0, fraction / 128.0, 1.0 + fraction / 128.0)
    return np.where(sign == 1, -1.0, 1.0) * size * 2.0 ** (np.maximum(exponent, 1) - 127.0)


# ---------------------------------------------------------------- rounding


# Half way between two numbers of 16 bits, one of which is even, and right beside that
NEAR_TIES = st.builds(
    lambda upper, lower: float(np.array(upper << 16 | lower, np.uint32).view(np.float32)),
    st.integers(0x0080, 0x7F70) | st.integers(0x8080, 0xFF70),
    st.sampled_from([0x7FFF, 0x8000, 0x8001]),
)


@given(rows=matrices(FLOAT32.filter(lambda x: abs(x) < 3.38e38) | NEAR_TIES))
@example(rows=np.array([[0x3F808000, 0x3F818000, 0x3F807FFF, 0x3F808001]], np.uint32).view(np.float32))
@example(rows=np.array([[0xBF828000, 0xBF838000, 0xBF837FFF, 0xBF828001]], np.uint32).view(np.float32))
def test_bfloat16_is_the_nearest_number_and_the_even_one_of_two(backend: type[Buffer], rows: Any) -> None:
    matrix = kept(backend, rows, "bfloat16")
    found, exact = numbers_of(matrix), rows.astype(np.float64)
    for step in (-1, 1):  # no neighbour is nearer, and an odd one is no tie
        neighbour = QuantizedMatrix("bfloat16", rows.shape)
        bits = [max(0, (v & 0x7FFF) + step) | v & 0x8000 for v in matrix.values]
        neighbour.values[:] = type(matrix.values)("H", bits)
        other = np.abs(numbers_of(neighbour) - exact)
        is_odd = np.array([v & 1 for v in matrix.values], bool).reshape(rows.shape)
        mine = np.abs(found - exact)
        assert np.all((mine < other) | ((mine == other) & (~is_odd | (found == numbers_of(neighbour)))))
    assert np.array_equal(np.signbit(found), np.signbit(exact))


@given(bits=st.lists(st.integers(0, 0xFFFF).filter(lambda b: b & 0x7F80 != 0x7F80), min_size=1, max_size=9))
def test_numbers_of_16_bits_stay_what_they_are(backend: type[Buffer], bits: list[int]) -> None:
    rows = (np.array([bits], np.uint32) << 16).astype(np.uint32).view(np.float32)
    if not any(0 < b & 0x7FFF < 0x80 for b in bits):  # a Python float keeps them, some backends flush them
        assert kept(backend, rows, "bfloat16").values.tolist() == bits


@given(rows=matrices(FLOAT32))
def test_int8_is_off_by_half_a_scale_at_most(backend: type[Buffer], rows: Any) -> None:
    matrix = kept(backend, rows, "int8")
    exact, scales = rows.astype(np.float64), np.array(matrix.scales.tolist(), np.float64).reshape(-1, 1)
    # A scale is a float32: it may be smaller than a 127th of the largest by a rounding, which is then cut off
    slack = np.abs(exact) * 2.0**-23
    assert np.all(np.abs(numbers_of(matrix) - exact) <= scales / 2 + slack)
    largest = np.abs(exact).max(1, initial=0.0) if rows.size else np.zeros(len(rows))
    assert np.all(scales[:, 0] <= np.maximum(largest / 127 * (1 + 2.0**-23), 2.0**-126))
    assert np.all((scales[:, 0] == 0) == (largest == 0)) and all(-127 <= v <= 127 for v in matrix.values)
    quotients = np.divide(exact, scales, out=np.zeros_like(exact), where=scales > 0)
    assert np.array_equal(
        np.array(matrix.values.tolist()).reshape(rows.shape), np.clip(np.rint(quotients), -127, 127)
    )


@given(row=st.lists(st.sampled_from([0.0, 2.0**-126, -(2.0**-125), 3 * 2.0**-126]), min_size=1, max_size=5))
def test_a_row_of_tiny_numbers_has_the_smallest_normal_scale(backend: type[Buffer], row: list[float]) -> None:
    """2^-126, by which they come out as they went in; and a row of zeros has the scale 0."""
    matrix = kept(backend, np.array([row], np.float32), "int8")
    assert matrix.scales.tolist() == [2.0**-126 if any(row) else 0.0]
    assert matrix.values.tolist() == [number * 2.0**126 for number in row]


@pytest.mark.parametrize("dtype", DTYPES)
@given(shape=st.tuples(st.integers(0, 9), st.integers(0, 9)))
def test_a_matrix_begins_with_zeros_and_takes_what_it_says(dtype: str, shape: tuple[int, int]) -> None:
    matrix = QuantizedMatrix(dtype, shape)
    count = math.prod(shape)
    assert matrix.values.tolist() == [0] * count
    assert matrix.scales.tolist() == ([] if dtype == "bfloat16" else [0.0] * shape[0])
    assert matrix.nbytes == (2 * count if dtype == "bfloat16" else count + 4 * shape[0])


@given(rows=st.integers(0, 40), columns=st.integers(0, 12))
def test_a_few_rows_are_widened_at_once(rows: int, columns: int) -> None:
    """As many as are at most `BLOCK` numbers, and one where a row has more; together they are all rows."""
    with mock.patch.object(quantized, "BLOCK", 8):
        blocks = list(QuantizedMatrix("int8", (rows, columns)).row_blocks())
    assert [row for start, stop in blocks for row in range(start, stop)] == list(range(rows))
    for start, stop in blocks:
        assert stop - start == 1 or (stop - start) * columns <= 8
        assert stop == rows or (stop - start + 1) * max(columns, 1) > 8


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_rows_may_come_a_few_at_a_time_and_lie_anyhow(
    backend: type[Buffer], dtype: str, data: st.DataObject
) -> None:
    rows = data.draw(matrices(FLOAT32.filter(lambda x: abs(x) < 3.38e38), least=1))
    whole = kept(backend, rows, dtype)
    parts = QuantizedMatrix(dtype, rows.shape)
    cut = data.draw(st.integers(0, len(rows)))
    written(backend, rows[:cut], parts, 0)
    written(backend, rows[cut:], parts, cut)
    lying = QuantizedMatrix(dtype, rows.shape)
    transposed = backend(rows.T.tolist(), DType.float32).transpose(0, 1)
    lookup(quantized.Quantize, backend).forward(transposed, lying)
    for other in (parts, lying):
        assert (other.values, other.scales) == (whole.values, whole.scales)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused(backend: type[Buffer], dtype: str, wrong: float) -> None:
    rows = np.ones((2, 3), np.float32)
    rows[1, 2] = wrong
    with pytest.raises(ValueError, match="must be finite"):
        kept(backend, rows, dtype)


def test_what_would_be_an_infinity_in_16_bits_is_refused(backend: type[Buffer]) -> None:
    largest = np.full((1, 1), np.finfo(np.float32).max, np.float32)
    with pytest.raises(ValueError, match="too large for 16 bits"):
        kept(backend, largest, "bfloat16")
    assert kept(backend, largest, "int8").values.tolist() == [127]


def test_rows_that_do_not_fit_are_refused(backend: type[Buffer]) -> None:
    forward = lookup(quantized.Quantize, backend).forward
    matrix = QuantizedMatrix("int8", (2, 3))
    for rows, first in (((2, 2), 0), ((2, 3), 1), ((6,), 0)):
        with pytest.raises(ValueError, match="rows"):
            forward(backend.zeros(rows, DType.float32), matrix, first)
    with pytest.raises(TypeError, match="float32 is quantized, not int32"):
        forward(backend.zeros((2, 3), DType.int32), matrix)
    with pytest.raises(ValueError, match="bfloat16 or int8, not 'int4'"):
        QuantizedMatrix("int4", (2, 3))


# ---------------------------------------------------------------- computing


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_a_product_is_that_of_the_numbers_that_are_kept(
    backend: type[Buffer], dtype: str, data: st.DataObject
) -> None:
    """For few rows of x and for many, whatever the layout, in float64."""
    weights = data.draw(matrices(st.floats(-2, 2, width=32)))
    outer = data.draw(st.sampled_from([(), (1,), (2, 3), (7,), (0,)]))
    x = data.draw(hnp.arrays(np.float32, (*outer, weights.shape[1]), elements=st.floats(-2, 2, width=32)))
    bias = data.draw(
        st.none() | hnp.arrays(np.float32, weights.shape[:1], elements=st.floats(-2, 2, width=32))
    )
    matrix = kept(backend, weights, dtype)
    operands = [None if a is None else backend(a.tolist(), DType.float32).reshape(a.shape) for a in (x, bias)]
    if len(outer) == 2:  # behind a transpose
        operands[0] = operands[0].transpose(0, 1).copy().transpose(0, 1)  # type: ignore[union-attr]
    y = lookup(quantized.QuantizedLinear, backend).forward(*operands, matrix=matrix)[0]
    truth = x.astype(np.float64) @ numbers_of(matrix).T + (0.0 if bias is None else bias)
    size = np.abs(x).astype(np.float64) @ np.abs(numbers_of(matrix)).T
    assert_close(np.array(y.to_python()).reshape(y.shape), truth, "float32", size)
    assert y.dtype is DType.float32


@given(data=st.data(), rows=st.sampled_from([1, 3, 5, 40]))
def test_a_product_of_16_bits_has_the_bits_of_weights_widened_first(
    backend: type[Buffer], data: st.DataObject, rows: int
) -> None:
    """Of numbers whose sums are exact in float32, so that their order makes no difference."""
    small = st.integers(-60, 60).map(lambda n: n / 16)
    weights = data.draw(matrices(small, least=1))
    x = data.draw(hnp.arrays(np.float32, (rows, weights.shape[1]), elements=small))
    left, right = backend(x.tolist()), backend(weights.tolist())
    y = lookup(quantized.QuantizedLinear, backend).forward(
        left, None, matrix=kept(backend, weights, "bfloat16")
    )[0]
    assert y.to_python() == left.matmul(right.transpose(0, 1)).to_python()


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_vectors_are_the_rows_that_are_kept(backend: type[Buffer], dtype: str, data: st.DataObject) -> None:
    table = data.draw(matrices(st.floats(-2, 2, width=32), least=1))
    ids = data.draw(hnp.arrays(np.int32, (2, 3), elements=st.integers(0, len(table) - 1)))
    matrix = kept(backend, table, dtype)
    found = lookup(quantized.QuantizedEmbedding, backend).forward(backend(ids.tolist()), matrix=matrix)[0]
    widened = numbers_of(matrix).astype(np.float32)[ids]
    assert np.array_equal(np.array(found.to_python(), np.float32), widened)
    rows = np.array(matrix.widened(0, len(table)).tolist(), np.float32).reshape(table.shape)
    assert np.array_equal(rows, numbers_of(matrix).astype(np.float32))


@pytest.mark.parametrize("dtype", DTYPES)
def test_operands_that_do_not_fit_are_refused(backend: type[Buffer], dtype: str) -> None:
    matrix = kept(backend, np.ones((2, 3), np.float32), dtype)
    linear = lookup(quantized.QuantizedLinear, backend).forward
    take = lookup(quantized.QuantizedEmbedding, backend).forward

    def zeros(*shape: int, kind: DType = DType.float32) -> Buffer:
        return backend.zeros(shape, kind)

    with pytest.raises(ValueError, match="linear"):
        linear(zeros(4, 2), None, matrix=matrix)
    with pytest.raises(ValueError, match="bias"):
        linear(zeros(4, 3), zeros(3), matrix=matrix)
    for wrong in (DType.float64, DType.int32):
        with pytest.raises(TypeError, match=f"multiplied with float32, not {wrong.name}"):
            linear(zeros(4, 3, kind=wrong), None, matrix=matrix)
    for index in (2, -1):
        with pytest.raises(IndexError, match=r"an id is not in \[0, 2\)"):
            take(backend([index], DType.int32), matrix=matrix)
    with pytest.raises(TypeError):
        take(zeros(2), matrix=matrix)


@given(
    raw=st.binary(max_size=40).filter(lambda raw: len(raw) % 2 == 0), kind=st.sampled_from(["F16", "BF16"])
)
def test_halves_in_files_are_widened_exactly(backend: type[Buffer], raw: bytes, kind: str) -> None:
    found = np.frombuffer(lookup(halves.WidenHalves, backend).forward(raw, kind)[0], np.float32)
    if kind == "F16":
        assert np.array_equal(found, np.frombuffer(raw, "<f2").astype(np.float32), equal_nan=True)
    else:
        assert found.view(np.uint32).tolist() == [b << 16 for b in np.frombuffer(raw, "<u2").tolist()]


@pytest.mark.parametrize(("order", "dtype"), [("little", "<f4"), ("big", ">f4")])
def test_halves_are_widened_to_the_numbers_of_the_machine(
    order: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files have the least byte first, whatever a machine has."""
    monkeypatch.setattr(halves, "sys", SimpleNamespace(byteorder=order))
    found, _ = halves.WidenHalves.forward(bytes([0x80, 0x3F, 0x20, 0xC0]), "BF16")
    assert np.frombuffer(found, dtype).tolist() == [1.0, -2.5]


# ---------------------------------------------------------------- models


@pytest.mark.parametrize("dtype", DTYPES)
@given(config=configs(), seed=st.integers(0, 99))
def test_every_gpt_computes_with_the_numbers_that_are_kept(
    backend: type[Buffer], dtype: str, config: GPTConfig, seed: int
) -> None:
    """Against the decoder written out in NumPy: whole, and with a cache."""
    model, weights = made(config, seed, DType.float32)
    for name, module in list(model.named_modules()):
        if isinstance(module, (Embedding, FullyConnectedLayer)):
            leaf = f"{name}.{'embeddings' if isinstance(module, Embedding) else 'weights'}"
            by_row = weights[leaf] if isinstance(module, Embedding) else weights[leaf].T
            rounded = numbers_of(kept(backend, by_row.astype(np.float32), dtype))
            weights[leaf] = rounded if isinstance(module, Embedding) else rounded.T
    assert quantize(model, dtype) is model
    truth = expected(weights, config)
    near = 2e-5 * max(1.0, np.abs(truth).max())
    assert np.abs(np.array(model(Tensor(IDS)).to_python()) - truth).max() <= near
    cache = model.new_cache(2)
    parts = [
        np.array(model(Tensor([row[a:b] for row in IDS]), cache).to_python())
        for a, b in ((0, 5), (5, 6), (6, 7))
    ]
    assert np.abs(np.concatenate(parts, 1) - truth).max() <= near


def small_gpt(**options: Any) -> GPT:
    return GPT(GPTConfig(7, 8, 1, 2, 8, **options))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", [{}, {"tied_head": False, "ngram_tables": (5,)}])
def test_all_large_weights_are_kept_in_few_bits(
    backend: type[Buffer], dtype: str, options: dict[str, Any]
) -> None:
    model = small_gpt(**options)
    before = {name: tensor.to_python() for name, tensor in model.named_parameters()}
    quantize(model, dtype)
    left = {name for name, tensor in model.named_parameters() if tensor.ndim == 2}
    assert left == {"position_embedding_layer.embeddings"}
    for name, tensor in model.named_parameters():
        assert tensor.to_python() == before[name] and not tensor.requires_grad
    layers = [each for each in model.modules() if isinstance(each, (QuantizedLinear, QuantizedEmbedding))]
    assert len(layers) == (5 if not options else 7)
    assert all(f"dtype='{dtype}'" in repr(each) for each in layers)


@pytest.mark.parametrize("dtype", DTYPES)
def test_it_travels_as_other_modules_do(backend: type[Buffer], dtype: str) -> None:
    model = quantize(small_gpt(), dtype)
    logits = model(Tensor(IDS)).to_python()
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert again(Tensor(IDS)).to_python() == logits


@pytest.mark.parametrize("dtype", DTYPES)
def test_it_neither_learns_nor_is_saved(backend: type[Buffer], dtype: str, tmp_path: Path) -> None:
    model = quantize(small_gpt(), dtype)
    assert not model(Tensor(IDS)).requires_grad
    model.unfreeze()
    with pytest.raises(RuntimeError, match=f"{dtype} weights do not learn"):
        model(Tensor(IDS))
    with pytest.raises(ValueError, match=f"embedding_layer cannot be saved: its weights are {dtype}"):
        model.save_weights(tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="cannot be saved"):
        model.transformer_blocks[0].save_weights(tmp_path / "w.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_model_that_cannot_be_quantized_stays_as_it_is(backend: type[Buffer], dtype: str) -> None:
    model = small_gpt()
    weights = model.transformer_blocks[0].attn.out.weights
    weights.buffer = backend(np.full((8, 8), np.nan).tolist(), DType.float32)
    names = [type(module) for module in model.modules()]
    with pytest.raises(
        ValueError, match=r"transformer_blocks\.0\.attn\.out\.weights: weights must be finite"
    ):
        quantize(model, dtype)
    weights.buffer = backend.zeros((8, 8), DType.float64)
    with pytest.raises(TypeError, match=r"attn\.out\.weights is float64"):
        quantize(model, dtype)
    assert [type(module) for module in model.modules()] == names
    assert all(tensor.requires_grad for _, tensor in model.named_parameters())
    with pytest.raises(ValueError, match="bfloat16 or int8, not 'float16'"):
        quantize(model, "float16")
