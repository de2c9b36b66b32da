"""Losses: how far a model's output is from what it should be. Those that compare single numbers are in `elementwise_losses`."""

from __future__ import annotations

from . import misfit, operations
from .elementwise_losses import BinaryCrossEntropyLoss, HuberLoss, L1Loss, MSELoss, check_reduction, reduce_losses  # noqa: F401  # handed on
from .module import Module
from .tensor import Tensor, apply_op


class CrossEntropyLoss(Module):
    """Cross-entropy of a predicted distribution: ``loss = -sum_v p_v log softmax(logits)_v``, one loss a row, in nats.

    With an integer label c, p is 1 at c and 0 elsewhere: ``loss = -log softmax(logits)_c``. That is the fast path:
    nothing of the logits' size is made for the labels.

    Args:
        ignore_index: integer labels of this value are padding: their loss is 0 and no gradient comes from them.
        reduction: "none" (one loss a row), or the "sum" or "mean" of them; the mean is over rows that are not padding.

    Raises:
        ValueError: another reduction.
    """

    def __init__(self, ignore_index: int = -1, reduction: str = "none") -> None:
        super().__init__()
        self.ignore_index = ignore_index
        self.reduction = check_reduction(reduction)

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Compute the losses.

        Args:
            logits: floats (..., V).
            labels: class indices, integers (...); or probabilities (or one-hot rows) that broadcast to the logits'
                shape.

        Returns:
            floats (...), one a row, or a scalar, as the reduction says. Of single losses take ``.mean()``, or divide ``.sum()``
            by the number of labels that count.

        Raises:
            ValueError: the shapes do not fit.
            IndexError: a label is no class index and not ignore_index.
        """
        if logits.ndim < 1 or not logits.dtype.is_floating:
            raise ValueError(f"logits must be floats of shape (..., classes), but got {logits.dtype.name} {logits.shape}")
        if labels.dtype.kind == "i" and labels.shape == logits.shape[:-1]:
            losses = apply_op(operations.CrossEntropy, logits, labels, ignore_index=self.ignore_index)
            return reduce_losses(losses, self.reduction, labels, self.ignore_index)
        if labels.shape != logits.shape[logits.ndim - labels.ndim :] or labels.ndim < 1:
            said = f"labels of shape {labels.shape} do not fit logits of shape {logits.shape}: expected class indices of shape "
            said += f"{logits.shape[:-1]} (int32 or int64), or probabilities of shape {logits.shape}"
            stop = -1 if labels.dtype.kind == "i" else None
            raise ValueError(misfit.unlike("", "labels", labels.shape, logits.shape, "logits", 0, stop, said))
        if labels.dtype.kind == "i":  # one-hot rows of integers: float32 times int32 would become float64
            labels = Tensor(labels.buffer.cast(logits.dtype))
        return reduce_losses(-(logits.log_softmax(axis=-1) * labels).sum(-1), self.reduction)

    def _extra_repr(self) -> str:
        return f"ignore_index={self.ignore_index}, reduction={self.reduction!r}"
