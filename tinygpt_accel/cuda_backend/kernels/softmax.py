"""Softmax on a CUDA device, over rows: where the axis is the last."""

from __future__ import annotations

from typing import Any

from tinygpt_core.kernels.base import Gradient
from tinygpt_core.kernels.softmax import Softmax
from tinygpt_core.shape import normalize_axis

from ..buffer import CudaBuffer, format_of
from .common import ROWS, Composed


def softmax(kind: type[CudaBuffer], x: Any, scale: float = 1.0, queries: int = 0, offset: int = 0) -> Any:
    """Returns softmax(x scale) over the last axis of a dense array; see cu/softmax.cu.

    Args:
        queries, offset: for causal attention, of whose scores row i sees the first (i mod queries) + offset
            columns; 0: every row sees all.
    """
    columns = x.shape[-1]
    rows = x.size // columns
    y = kind.xp.empty(x.shape, x.dtype)
    grid = (min(rows, ROWS),)
    kind.launch("softmax", format_of(x), grid, x, y, rows, columns, float(scale), queries, offset)
    return y


def softmax_gradient(
    kind: type[CudaBuffer], y: Any, grad: Any, scale: float = 1.0, queries: int = 0, offset: int = 0
) -> Any:
    """Returns the gradient of x, given y = `softmax` of it, a dense array, and the gradient of y."""
    columns = y.shape[-1]
    rows = y.size // columns
    result = kind.xp.empty(y.shape, y.dtype)
    grid = (min(rows, ROWS),)
    kind.launch(
        "softmax_gradient", format_of(y), grid, y, grad, result, rows, columns, float(scale), queries, offset
    )
    return result


class CudaSoftmax(Softmax):
    """Softmax, y = e^x / sum e^x.

    Fast: a block of threads reads each row once, and writes it once.
    """

    @staticmethod
    def forward(x: Any, *, axis: int = -1) -> tuple[Any, Any]:
        if normalize_axis(axis, x.ndim) != x.ndim - 1:
            y, saved = Softmax.forward(x, axis=axis)
            return y, Composed(saved)
        kind = type(x)
        result = kind.wrap(softmax(kind, kind.xp.ascontiguousarray(x.stored)), x.dtype)
        return result, result

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        kind = type(saved)
        y = kind.xp.ascontiguousarray(saved.stored)
        g = kind.xp.ascontiguousarray(grad.in_format(format_of(y)))
        return (kind.wrap(softmax_gradient(kind, y, g), saved.dtype),)
