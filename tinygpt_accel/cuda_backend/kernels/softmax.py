"""Softmax and the cross-entropy on a CUDA device, over rows: where the axis is the last."""

from __future__ import annotations

from typing import Any, NamedTuple

from tinygpt_core.kernels.base import Gradient, require_float
from tinygpt_core.kernels.softmax import CrossEntropy, Softmax
from tinygpt_core.shape import ShapeError, normalize_axis

from ..buffer import CudaBuffer, format_of, matrix_layout
from .common import ROWS, Composed, as_matrix, with_dense_rows
from .products import ProductAgain, WaitingProduct


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


class CudaCrossEntropy(CrossEntropy):
    """The cross-entropy, y = log sum e^x - x[target].

    Fast: it reads the logits once and keeps them as they are, with a maximum and a sum for each row. Within a
    training step, where it is known what gradient each loss will get, it writes the gradient of the logits
    over them at once; whoever asks for the logits after that has them computed again.
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
        product = logits.waiting_for(WaitingProduct)
        x = with_dense_rows(kind, as_matrix(logits.stored, classes))
        ids = kind.xp.ascontiguousarray(targets.array).reshape(-1).astype("int64", copy=False)
        losses = kind.xp.empty(count, "float32")
        stride = matrix_layout(x)[2]
        ignored = (int(ignore_index is not None), ignore_index or 0)
        result = kind.wrap(losses.reshape(targets.shape), logits.dtype)
        fmt = format_of(x)
        if product is not None and kind.loss_scale is not None:
            room = classes * x.itemsize
            is_staged = room <= kind.shared_memory
            kind.launch(
                "cross_entropy_both",
                fmt,
                (count,),
                x,
                ids,
                losses,
                classes,
                stride,
                *ignored,
                kind.loss_scale,
                int(is_staged),
                block=kind.threads_of_long_rows,
                shared=room if is_staged else 0,
            )
            logits._waiting = ProductAgain(product)
            return result, GradientInPlace([x], logits.shape, kind.loss_scale)
        maxima = kind.xp.empty(count, "float32")
        sums = kind.xp.empty(count, "float32")
        kind.launch("cross_entropy", fmt, (count,), x, ids, losses, maxima, sums, classes, stride, *ignored)
        return result, (logits, targets, x, ids, maxima, sums, ignored)

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        kind = type(grad)
        g = kind.xp.ascontiguousarray(grad.array).reshape(-1)
        if isinstance(saved, GradientInPlace):
            return kind.wrap_stored(saved.for_losses(kind, g), grad.dtype), None
        logits, _, x, ids, maxima, sums, ignored = saved
        rows, classes = x.shape
        stride = matrix_layout(x)[2]
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


class GradientInPlace(NamedTuple):
    """The gradient of some logits, written where they were.

    Attributes:
        arrays: the one that holds it as a matrix; none any more once it was handed out.
        shape: of the logits.
        scale: the gradient that each loss was thought to get.
    """

    arrays: list[Any]
    shape: Any
    scale: float

    def for_losses(self, kind: type[CudaBuffer], g: Any) -> Any:
        """Returns the gradient of the logits, given that of the losses.

        Raises:
            RuntimeError: for the second time.
        """
        if not self.arrays:
            raise RuntimeError("within a training step a cross-entropy can be differentiated once")
        x = self.arrays.pop()
        rows, classes = x.shape
        kind.launch("rescale_rows", format_of(x), (rows,), x, g, classes, matrix_layout(x)[2], self.scale)
        return x.reshape(self.shape)


def _are_known_to_be_classes(targets: Any, classes: int, ignore_index: int | None) -> bool:
    """Whether the host knows, without asking the device, that every target is a class or to be ignored."""
    known = targets.known_range()
    if known is None:
        return False
    low, high = known
    return high < classes and (low >= 0 or low == ignore_index == -1)
