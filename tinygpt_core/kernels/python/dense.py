"""Linear maps in pure Python: two matrix products over rows."""

from __future__ import annotations

from typing import Any

from ...buffer.python import PythonBuffer, product, product_transposed
from ...dtype import DType
from ..base import Gradient
from ..dense import Linear
from .rows import _column_sums


class PythonLinear(Linear):
    """Two matrix products over rows."""

    @staticmethod
    def forward(x: Any, weight: Any, bias: Any = None) -> tuple[Any, Any]:
        Linear.check(x, weight, bias)
        rows, columns = x.rows(), weight.transpose(0, 1).rows()
        y = product_transposed(
            rows, columns, x.dtype is DType.float32, None if bias is None else bias.values()
        )
        return PythonBuffer.of_rows(y, (*x.shape[:-1], weight.shape[1]), x.dtype), (x, weight, rows, columns)

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        x, weight, rows, columns = saved
        if not x.numel or not grad.numel:
            return Linear.backward((x, weight), grad)
        g, single = grad.rows(), x.dtype is DType.float32
        return (
            lambda: PythonBuffer.of_rows(product(g, columns, single), x.shape, x.dtype),
            lambda: PythonBuffer.of_rows(
                product(list(zip(*rows, strict=True)), g, single), weight.shape, x.dtype
            ),
            lambda: PythonBuffer.of(_column_sums(g, weight.shape[1]), weight.shape[1:], x.dtype),
        )
