"""float32 means float32: no operation, scalar, kernel or gradient on the way of a model turns it into
float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygpt_core import kernels, operations
from tinygpt_core.buffer import Buffer
from tinygpt_core.dtype import DType
from tinygpt_core.random import Generator
from tinygpt_core.tensor import GradientFunction, Tensor, apply_op

from .strategies import read
from .table import ROWS, Row
from .templates import buffers_of, draw_operands
from .test_kernel_laws import gradients_of


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, id=row.name)
        for row in ROWS
        if row.on_buffers and row.name != "cast" and "float32" in row.dtypes
    ],
)
@given(data=st.data())
def test_float32_in_float32_out(backend: type[Buffer], row: Row, data: st.DataObject) -> None:
    """The dtype says float32, and so do the bits: each value is one that float32 has, in a storage of four
    bytes an element.
    """
    case = data.draw(row.cases())
    count = sum(slot is not None and not slot.dtype for slot in case.slots)
    made = draw_operands(data.draw, backend, row, case, ["float32"] * count)
    results = []
    if row.kernel:
        kernel = kernels.lookup(row.kernel, backend)
        result, saved = kernel.forward(*buffers_of(made), **case.options)
        results = [result, *gradients_of(kernel, saved, backend.ones(result.shape))]
    else:
        results = [row.on_buffers(*buffers_of(made), **case.options)]  # type: ignore[misc]
    for result in results:
        if result is not None and row.result("float32") == "float32":
            assert_float32(result, row.name)


def assert_float32(buffer: Buffer, what: str) -> None:
    """Not only by name: each value is one that float32 has, in a storage of four bytes an element (of an
    ndarray, its real dtype).
    """
    assert buffer.dtype is DType.float32, f"{what} gives {buffer.dtype.name}"
    values = np.array(buffer.to_python(), np.float64)
    with np.errstate(all="ignore"):
        assert np.array_equal(values, values.astype(np.float32).astype(np.float64), equal_nan=True), (
            f"{what} holds more than float32"
        )
    assert getattr(buffer.data, "itemsize", 4) == 4 and str(
        getattr(buffer.data, "dtype", "float32")
    ).endswith("float32"), what


def _watch_backward(operation: operations.Operation) -> None:
    """Checks what the backward of a recorded operation returns, before the engine casts it to the dtype of
    the input.
    """
    backward = operation.backward

    def check(gradient: Any) -> Any:
        if callable(gradient):
            return lambda: check(gradient())
        buffer = gradient.values if isinstance(gradient, operations.PartialGradient) else gradient
        if buffer is not None:
            assert_float32(buffer, f"the backward of {type(operation).__name__}")
        return gradient

    def watched(grad: Buffer) -> Any:
        gradients = backward(grad)
        return tuple(map(check, gradients)) if isinstance(gradients, tuple) else check(gradients)

    operation.backward = watched  # type: ignore[method-assign]


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, id=row.name)
        for row in ROWS
        if row.on_tensors and row.gradient and row.name != "cast"
    ],
)
@given(data=st.data())
def test_float32_gradients(backend: type[Buffer], row: Row, data: st.DataObject) -> None:
    """Forward and backward of every operation: the result, and each gradient as the operation returns it."""
    case = data.draw(row.cases())
    free = [slot is not None and not slot.dtype for slot in case.slots]
    made = buffers_of(draw_operands(data.draw, backend, row, case, ["float32"] * sum(free), special=False))
    tensors = [
        x if x is None else Tensor(x, requires_grad=wanted) for x, wanted in zip(made, free, strict=True)
    ]
    result = row.on_tensors(*tensors, **case.options)  # type: ignore[misc]
    assert_float32(result.buffer, row.name)
    for record in records(result):
        _watch_backward(record.operation)  # type: ignore[arg-type]
    result.backward()
    for tensor, wanted in zip(tensors, free, strict=True):
        if wanted:
            assert tensor.grad is not None
            assert_float32(tensor.grad.buffer, row.name)


def records(tensor: Tensor) -> list[GradientFunction]:
    """All records behind a Tensor, each once."""
    found: dict[int, GradientFunction] = {}
    stack: list[object] = [tensor.grad_fn]
    while stack:
        record = stack.pop()
        if isinstance(record, GradientFunction) and id(record) not in found:
            found[id(record)] = record
            stack.extend(record.parents)
    return list(found.values())


def test_scalars_do_not_widen(backend: type[Buffer]) -> None:
    x = Tensor(backend([1.0, 2.0]))
    for y in (
        x + 1,
        x * 0.1,
        1 - x,
        1 / x,
        x**2,
        x**0.5,
        2.0**x,
        x.mean(),
        x.maximum(0.5),
        Tensor.where(x > 1, x, 0.0),
        x + True,
    ):
        assert y.dtype is DType.float32


def test_a_model_in_float32_has_no_float64_anywhere(backend: type[Buffer]) -> None:
    """Walks the records of a transformer's step: every result, everything kept, and every gradient is float32
    (or an index).
    """
    generator = Generator(1)

    def parameter(*shape: int) -> Tensor:
        return Tensor(backend.normal(shape, generator=generator), requires_grad=True)

    table, weights, gain, bias = parameter(5, 8), parameter(8, 5), parameter(8), parameter(8)
    ids = Tensor(backend([[0, 3, 3, 4]]))
    x = apply_op(operations.Embedding, table, ids)
    x = apply_op(operations.Dropout, x, probability=0.2, key=generator.reserve(32))
    x = apply_op(operations.LayerNorm, x, gain, bias)
    x = apply_op(operations.RMSNorm, x, gain)
    heads = apply_op(operations.Rotary, x.reshape((1, 4, 2, 4)).transpose(1, 2))
    x = x + apply_op(operations.Attention, heads, heads, heads).transpose(1, 2).reshape((1, 4, 8))
    x = x.gelu() + x.silu() + x.relu() + x.softmax() + x.log_softmax() + x.tanh() * x.sigmoid()
    loss = apply_op(operations.CrossEntropy, apply_op(operations.Linear, x, weights, None), ids).mean()
    for record in records(loss):
        assert record.result[1] is DType.float32, record
        for name, buffer, _ in record.kept:
            assert buffer.dtype is not DType.float64, f"{record.name} keeps {name} in float64"
    assert len(records(loss)) > 20
    loss.backward()
    for tensor in (table, weights, gain, bias):
        assert (
            tensor.grad is not None
            and tensor.grad.dtype is DType.float32
            and np.isfinite(read(tensor.grad.buffer)).all()
        )
