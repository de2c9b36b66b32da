"""The cross-entropy on a CUDA device.

Logits are the largest array of a GPT's training, and nobody needs them once the loss and its gradient are
known. So within a training step the loss takes the product over that makes them, in one of two ways: the
gradient is written over the logits as soon as they are there (`GradientInPlace`); or only so many rows are
there at a time as `logit_rows` of the Buffer class says, once for the loss and once more for the gradient
(`LogitsGradient`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from tinygpt_core.kernels.base import Gradient, require_float
from tinygpt_core.kernels.cross_entropy import CrossEntropy
from tinygpt_core.shape import ShapeError

from ..buffer import CudaBuffer, format_of, matrix_layout
from .common import as_matrix, with_dense_rows
from .products import GradientInParts, WaitingProduct


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
        if not _are_known_to_be_classes(targets, classes, ignore_index):
            CrossEntropy.check(logits, targets, ignore_index)
        rows = Rows.of(kind, targets, ignore_index)
        result = kind.wrap(rows.losses.reshape(targets.shape), logits.dtype)
        product = logits.waiting_for(WaitingProduct)
        if product is not None and product.bias is None and 0 < kind.logit_rows < targets.numel:
            for part in rows.parts(kind.logit_rows):
                part.launch_losses(product.rows(part.range))
            return result, LogitsSaved(product, rows)
        x = with_dense_rows(kind, as_matrix(logits.stored, classes))
        if product is not None and kind.loss_scale is not None:
            rows.launch_both(x, kind.loss_scale)
            logits.wait_for(product.again())
            return result, GradientInPlace([x], logits.shape, kind.loss_scale)
        rows.launch_losses(x)
        return result, (logits, targets, x, rows)

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        kind = type(grad)
        g = kind.xp.ascontiguousarray(grad.array).reshape(-1)
        if isinstance(saved, GradientInPlace):
            return kind.wrap(saved.for_losses(kind, g), grad.dtype), None
        if isinstance(saved, LogitsSaved):
            return kind.wrap_waiting(LogitsGradient(saved, g, kind.logit_rows)), None
        logits, _, x, rows = saved
        stride = matrix_layout(x)[2]
        result = kind.xp.empty((len(x), stride), x.dtype)[:, : x.shape[1]]
        rows.launch_gradient(x, g, result)
        return kind.wrap(result.reshape(logits.shape), logits.dtype), None


class Rows(NamedTuple):
    """Rows of logits, or some of them: what the kernels of cu/cross_entropy.cu read and write beside these.

    Attributes:
        kind: the Buffer class.
        range: which rows these are.
        ids: their targets, int64.
        losses: of each, float32.
        normalizers: the largest logit of each, and the sum of exp(logit - largest), float32: written by
            `launch_losses`, read by `launch_gradient`.
        ignored: whether a target may say that its row does not count, and which one.
    """

    kind: type[CudaBuffer]
    range: slice
    ids: Any
    losses: Any
    normalizers: tuple[Any, Any]
    ignored: tuple[int, int]

    @classmethod
    def of(cls, kind: type[CudaBuffer], targets: Any, ignore_index: int | None) -> Rows:
        """Returns the rows for some targets, with arrays that hold nothing yet."""
        ids = kind.xp.ascontiguousarray(targets.array).reshape(-1).astype("int64", copy=False)
        losses, maxima, sums = (kind.xp.empty(targets.numel, "float32") for _ in range(3))
        ignored = (int(ignore_index is not None), ignore_index or 0)
        return cls(kind, slice(0, targets.numel), ids, losses, (maxima, sums), ignored)

    def parts(self, count: int) -> Iterator[Rows]:
        """Yields these rows, so many at a time."""
        for start in range(0, len(self.ids), count):
            part = slice(start, min(start + count, len(self.ids)))
            maxima, sums = self.normalizers
            arrays = self.ids[part], self.losses[part], (maxima[part], sums[part])
            yield Rows(self.kind, part, *arrays, self.ignored)

    def _launch(self, name: str, x: Any, *arguments: Any, **options: Any) -> None:
        self.kind.launch(name, format_of(x), (len(x),), x, self.ids, *arguments, **options)

    def launch_losses(self, x: Any) -> None:
        """Writes the losses of logits, and the normalizers."""
        _, classes, stride = matrix_layout(x)
        self._launch("cross_entropy", x, self.losses, *self.normalizers, classes, stride, *self.ignored)

    def launch_gradient(self, x: Any, g: Any, result: Any) -> None:
        """Writes the gradient of logits, given that of the losses and the normalizers; `result` may be x."""
        _, classes, stride = matrix_layout(x)
        self._launch(
            "cross_entropy_gradient", x, g, *self.normalizers, result, classes, stride, *self.ignored
        )

    def launch_both(self, x: Any, scale: float) -> None:
        """Writes the losses of logits and, over these, their gradient, where that of each loss is `scale`."""
        _, classes, stride = matrix_layout(x)
        room = classes * x.itemsize
        is_staged = room <= self.kind.shared_memory
        self._launch(
            "cross_entropy_both",
            x,
            self.losses,
            classes,
            stride,
            *self.ignored,
            scale,
            int(is_staged),
            block=self.kind.threads_of_long_rows,
            shared=room if is_staged else 0,
        )


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


class LogitsSaved(NamedTuple):
    """What is kept of logits that are computed a few rows at a time, and once more for their gradient.

    Attributes:
        product: which makes them.
        rows: their targets and normalizers.
    """

    product: WaitingProduct
    rows: Rows


class LogitsGradient(GradientInParts):
    """The gradient of logits, of which only a few rows are in memory at a time.

    Args:
        saved: by the forward.
        g: the gradient of each loss.
        count: rows at a time.
    """

    def __init__(self, saved: LogitsSaved, g: Any, count: int) -> None:
        self.saved = saved
        self.g = g
        self.count = count
        super().__init__(saved.rows.kind, saved.product.promised)

    def parts(self) -> Iterator[tuple[slice, Any]]:
        for part in self.saved.rows.parts(self.count):
            x = self.saved.product.rows(part.range)
            part.launch_gradient(x, self.g[part.range], x)
            yield part.range, x


def _are_known_to_be_classes(targets: Any, classes: int, ignore_index: int | None) -> bool:
    """Whether the host knows, without asking the device, that every target is a class or to be ignored."""
    known = targets.known_range()
    if known is None:
        return False
    low, high = known
    return high < classes and (low >= 0 or low == ignore_index == -1)
