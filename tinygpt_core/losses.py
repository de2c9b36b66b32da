"""Losses: how far a model's output is from what it should be."""

from __future__ import annotations

from . import operations
from .module import Module
from .tensor import Tensor, apply_op


class CrossEntropyLoss(Module):
    """Cross-entropy of a predicted distribution: ``loss = -sum_v p_v log softmax(logits)_v``, one loss a row, in nats.

    With an integer label c, p is 1 at c and 0 elsewhere: ``loss = -log softmax(logits)_c``. That is the fast path:
    nothing of the logits' size is made for the labels.

    Args:
        ignore_index: integer labels of this value are padding: their loss is 0 and no gradient comes from them.
    """

    def __init__(self, ignore_index: int = -1) -> None:
        super().__init__()
        self.ignore_index = ignore_index

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Compute the losses.

        Args:
            logits: floats (..., V).
            labels: class indices, integers (...); or probabilities (or one-hot rows) that broadcast to the logits'
                shape.

        Returns:
            floats (...), one a row. Take ``.mean()``, or divide ``.sum()`` by the number of labels that count.

        Raises:
            ValueError: the shapes do not fit.
            IndexError: a label is no class index and not ignore_index.
        """
        if logits.ndim < 1 or not logits.dtype.is_floating:
            raise ValueError(f"logits must be floats of shape (..., classes), but got {logits.dtype.name} {logits.shape}")
        if labels.dtype.kind == "i" and labels.shape == logits.shape[:-1]:
            return apply_op(operations.CrossEntropy, logits, labels, ignore_index=self.ignore_index)
        if labels.shape != logits.shape[logits.ndim - labels.ndim :] or labels.ndim < 1:
            raise ValueError(
                f"labels of shape {labels.shape} do not fit logits of shape {logits.shape}: expected class indices "
                f"of shape {logits.shape[:-1]} (int32 or int64), or probabilities of shape {logits.shape}"
            )
        if labels.dtype.kind == "i":  # one-hot rows of integers: float32 times int32 would become float64
            labels = Tensor(labels.buffer.cast(logits.dtype))
        return -(logits.log_softmax(axis=-1) * labels).sum(-1)

    def _extra_repr(self) -> str:
        return f"ignore_index={self.ignore_index}"


class MSELoss(Module):
    """Mean squared error: ``loss = mean((prediction - target) ** 2)`` over all elements."""

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Compute the loss, a scalar; raises a ValueError unless both shapes are the same."""
        if prediction.shape != target.shape:
            raise ValueError(f"prediction and target must have one shape, but got {prediction.shape} and {target.shape}")
        difference = prediction - target
        return (difference * difference).mean()
