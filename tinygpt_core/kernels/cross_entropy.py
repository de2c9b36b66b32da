"""The loss that compares predicted probabilities with what came: the cross-entropy of logits.

    loss = -log p[target] with p = softmax(x)      dL/dx = g (p - onehot(target))

Notation as in `base`.
"""

from __future__ import annotations

from typing import Any

from .. import shape_errors
from ..buffer.base import Buffer
from ..dtype import DType
from ..shape_errors import ShapeError
from .base import Gradient, Kernel, require_float, rows_of
from .softmax import LogSoftmax


class CrossEntropy(Kernel):
    """loss = -log softmax(logits)[target] for each row: logits (…, V), integer targets (…), losses (…).

    dL/dlogits = g (softmax(logits) - onehot(target)), where nothing of the size of a one-hot matrix is kept.
    A row whose target is `ignore_index` has loss 0 and no gradient.

    Raises:
        TypeError: logits that are not floating, or targets that are no integers.
        ShapeError: shapes that do not fit.
        IndexError: a target outside [0, V) that is not `ignore_index`.
    """

    @staticmethod
    def check(logits: Buffer, targets: Buffer, ignore_index: int | None) -> Buffer:
        """Returns the targets with ignored ones replaced by 0; raises TypeError, ShapeError or IndexError as
        the class says.
        """
        require_float("cross_entropy", logits=logits)
        if logits.ndim == 0:
            raise ShapeError(
                shape_errors.wrong_shape("cross_entropy", "logits", logits.shape, expected=("...", "classes"))
            )
        if targets.shape != logits.shape[:-1]:
            rows = slice(0, -1)  # all axes of the logits but the last
            raise ShapeError(
                shape_errors.wrong_shape(
                    "cross_entropy", "targets", targets.shape, expected=logits.shape, of="logits", axes=rows
                )
            )
        if targets.dtype.kind != "i":
            raise TypeError(f"cross_entropy: targets are integer class ids, not {targets.dtype.name}")
        if ignore_index is not None:
            targets = Buffer.where(targets == ignore_index, 0, targets)
        try:
            targets.check_indices(logits.shape[-1])
        except IndexError as problem:
            raise IndexError(
                f"cross_entropy: a target is no class id in [0, {logits.shape[-1]}): {problem}"
            ) from None
        return targets

    @staticmethod
    def forward(logits: Buffer, targets: Buffer, *, ignore_index: int | None = None) -> tuple[Buffer, Any]:
        ids = CrossEntropy.check(logits, targets, ignore_index)
        x = rows_of(logits)
        count, classes = x.shape
        log_probabilities, _ = LogSoftmax.forward(x, axis=1)
        kind = type(x)
        positions = kind.arange(0, count, dtype=DType.int64) * classes + ids.reshape((count,))
        losses = -log_probabilities.reshape((count * classes,)).take(positions)
        if ignore_index is None:
            keep = kind.full((count,), True, DType.bool)
        else:
            keep = (targets != ignore_index).reshape((count,))
            losses = Buffer.where(keep, losses, 0.0)
        return losses.reshape(targets.shape), (log_probabilities, positions, keep, logits.shape)

    @staticmethod
    def backward(saved: Any, grad: Buffer) -> tuple[Gradient, ...]:
        log_probabilities, positions, keep, shape = saved
        count, classes = log_probabilities.shape
        # A choice, not a product: an infinite gradient, or probability, times 0 would be NaN
        g = Buffer.where(keep, grad.reshape((count,)), 0.0)
        of_rows = log_probabilities.exp() * g.reshape((count, 1))
        result = Buffer.where(keep.reshape((count, 1)), of_rows, 0.0).reshape((count * classes,))
        result.scatter_add(positions, -g)
        return result.reshape(shape), None
