"""Softmax and the cross-entropy on a CUDA device, over rows: where the axis is the last."""

from __future__ import annotations

from typing import Any

from tinygpt_core.kernels.base import Gradient, require_float
from tinygpt_core.kernels.softmax import CrossEntropy, Softmax
from tinygpt_core.shape import ShapeError, normalize_axis

from ..buffer import CudaBuffer, format_of, matrix_layout
from .common import ROWS, as_matrix, with_dense_rows


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
        if x.dtype.kind != "f" or not x.numel or not x.ndim or normalize_axis(axis, x.ndim) != x.ndim - 1:
            return Softmax.forward(x, axis=axis)
        kind = type(x)
        y = softmax(kind, kind.xp.ascontiguousarray(x.stored))
        result = kind.wrap(y, x.dtype)
        return result, (result, x.ndim - 1)

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        result, axis = saved
        if axis != result.ndim - 1 or not result.numel:
            return Softmax.backward(saved, grad)
        kind = type(result)
        y = kind.xp.ascontiguousarray(result.stored)
        g = kind.xp.ascontiguousarray(grad.in_format(format_of(y)))
        return (kind.wrap(softmax_gradient(kind, y, g), result.dtype),)


class CudaCrossEntropy(CrossEntropy):
    """The cross-entropy, y = log sum e^x - x[target].

    Fast: it reads the logits once and keeps them as they are, with a maximum and a sum for each row.
    """

    @staticmethod
    def forward(logits: Any, targets: Any, *, ignore_index: int | None = None) -> tuple[Any, Any]:
        require_float("cross_entropy", logits=logits)
        if logits.ndim == 0 or targets.shape != logits.shape[:-1] or targets.dtype.kind != "i":
            CrossEntropy.check(logits, targets, ignore_index)
            raise ShapeError(
                f"cross_entropy: logits of shape {logits.shape} do not go with targets of {targets.shape}"
            )
        kind = type(logits)
        classes = logits.shape[-1]
        count = targets.numel
        if not _are_known_to_be_classes(targets, classes, ignore_index):
            CrossEntropy.check(logits, targets, ignore_index)
        if not count or not classes:
            return CrossEntropy.forward(logits, targets, ignore_index=ignore_index)
        x = with_dense_rows(kind, as_matrix(logits.stored, classes))
        ids = kind.xp.ascontiguousarray(targets.array).reshape(-1).astype("int64", copy=False)
        wide = "float64" if format_of(x) == "float64" else "float32"
        losses = kind.xp.empty(count, wide)
        maxima = kind.xp.empty(count, wide)
        sums = kind.xp.empty(count, wide)
        stride = matrix_layout(x)[2]
        ignored = (int(ignore_index is not None), ignore_index or 0)
        kind.launch(
            "cross_entropy", format_of(x), (count,), x, ids, losses, maxima, sums, classes, stride, *ignored
        )
        # A list, so that the backward can tell it from what the textbook forward keeps
        saved = [logits, targets, x, ids, maxima, sums, ignored]
        return kind.wrap(losses.reshape(targets.shape), logits.dtype), saved

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        if isinstance(saved, tuple):  # by the textbook forward
            return CrossEntropy.backward(saved, grad)
        logits, _, x, ids, maxima, sums, ignored = saved
        kind = type(logits)
        rows, classes = x.shape
        stride = matrix_layout(x)[2]
        g = kind.xp.ascontiguousarray(grad.array).reshape(-1)
        result = kind.xp.empty((rows, stride), x.dtype)[:, :classes]
        kind.launch(
            "cross_entropy_gradient",
            format_of(x),
            (rows,),
            x,
            ids,
            g,
            maxima,
            sums,
            result,
            classes,
            stride,
            *ignored,
        )
        return kind.wrap_stored(result.reshape(logits.shape), logits.dtype), None


def _are_known_to_be_classes(targets: Any, classes: int, ignore_index: int | None) -> bool:
    """Whether the host knows, without asking the device, that every target is a class or to be ignored."""
    known = targets.known_range()
    if known is None:
        return False
    low, high = known
    return high < classes and (low >= 0 or low == ignore_index == -1)
