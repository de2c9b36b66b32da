"""Linear maps in pure Python.

What is fast here: x and the weights become rows of floats once, for the forward and the backward together,
and each product runs over whole rows (`buffer.rows`). The bias rides along as the weights of one more input.
"""

from __future__ import annotations

import operator
from array import array
from typing import Any

from ...buffer.python import PythonBuffer
from ...buffer.rows import column_sums, dots
from ...dtype import DType
from ..base import Gradient
from ..dense import Embedding, Linear


class PythonLinear(Linear):
    """`Linear` as matrix products over rows: x W + b, and in the backward g W^T and x^T g."""

    @staticmethod
    def forward(x: Any, weights: Any, bias: Any = None) -> tuple[Any, Any]:
        Linear.check(x, weights, bias)
        rows = x.rows()
        weight_rows = weights.rows()
        columns = list(zip(*weight_rows, strict=True)) if weight_rows else [()] * weights.shape[1]
        single = x.dtype is DType.float32
        y = dots(rows, columns, single, None if bias is None else bias.values())
        shape = (*x.shape[:-1], weights.shape[1])
        return PythonBuffer.of(y, shape, x.dtype), (x, weights, rows, weight_rows)

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        x, weights, rows, weight_rows = saved
        if not x.numel or not grad.numel:
            return Linear.backward((x, weights), grad)
        g = grad.rows()
        single = x.dtype is DType.float32

        def of_input() -> PythonBuffer:
            return PythonBuffer.of(dots(g, weight_rows, single), x.shape, x.dtype)

        def of_weights() -> PythonBuffer:
            inputs, outputs = list(zip(*rows, strict=True)), list(zip(*g, strict=True))
            return PythonBuffer.of(dots(inputs, outputs, single), weights.shape, x.dtype)

        def of_bias() -> PythonBuffer:
            return PythonBuffer.of(column_sums(g, weights.shape[1]), weights.shape[1:], x.dtype)

        return of_input, of_weights, of_bias


class PythonEmbedding(Embedding):
    """`Embedding` whose gradient by rows is added up in lists of floats, and rounded once."""

    @staticmethod
    def backward_by_rows(saved: Any, grad: Any) -> tuple[Any, Any]:
        indices, (_, width), dtype = saved
        sums: dict[int, Any] = {}
        for row, new in zip(indices.to_array(), grad.rows(width), strict=True):
            sums[row] = list(map(operator.add, sums[row], new)) if row in sums else new
        rows = PythonBuffer.from_array(array("i", sums), (len(sums),), DType.int32)
        return rows, PythonBuffer.of_rows(sums.values(), (len(sums), width), dtype)
