"""Losses: how far a model's output is from what it should be."""

from __future__ import annotations

from typing import Any

from . import operations, shape_errors
from .buffer.base import Buffer
from .module import Module
from .operations import Operation
from .tensor import Tensor, apply_op


def check_reduction(name: str) -> str:
    """Returns a reduction's name; raises ValueError where there is none of that name."""
    if name not in ("mean", "sum", "none"):
        raise ValueError(f"a reduction is 'mean', 'sum' or 'none', not {name!r}")
    return name


def reduce_losses(
    losses: Tensor, reduction: str, labels: Tensor | None = None, ignore_index: int = -1
) -> Tensor:
    """Returns the losses (...), or their sum or mean, a scalar.

    With labels the mean is over those that are not `ignore_index` (0 where none is counted).
    """
    if reduction == "mean" and labels is not None:
        return losses.sum() / max((labels != ignore_index).sum().item(), 1)
    return losses.mean() if reduction == "mean" else losses.sum() if reduction == "sum" else losses


class CrossEntropyLoss(Module):
    """Cross-entropy of a predicted distribution: ``loss = -sum_v p_v log softmax(logits)_v``, one loss a row,
    in nats.

    With an integer label c, p is 1 at c and 0 elsewhere: ``loss = -log softmax(logits)_c``. That is the fast
    path: nothing of the logits' size is made for the labels.

    Args:
        ignore_index: integer labels of this value are padding: their loss is 0 and no gradient comes from
            them.
        reduction: "none" (one loss a row), or the "sum" or "mean" of them; the mean is over rows that are not
            padding.

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
            labels: class indices, integers (...); or probabilities (or one-hot rows) that broadcast to the
                logits' shape.

        Returns:
            floats (...), one a row, or a scalar, as the reduction says. Of single losses take ``.mean()``, or
            divide ``.sum()`` by the number of labels that count.

        Raises:
            ValueError: the shapes do not fit.
            IndexError: a label is no class index and not ignore_index.
        """
        if logits.ndim < 1 or not logits.dtype.is_floating:
            raise ValueError(
                f"logits must be floats of shape (..., classes), but got {logits.dtype.name} {logits.shape}"
            )
        if labels.dtype.kind == "i" and labels.shape == logits.shape[:-1]:
            losses = apply_op(operations.CrossEntropy, logits, labels, ignore_index=self.ignore_index)
            return reduce_losses(losses, self.reduction, labels, self.ignore_index)
        if labels.shape != logits.shape[logits.ndim - labels.ndim :] or labels.ndim < 1:
            said = f"labels of shape {labels.shape} do not fit logits of shape {logits.shape}: expected class indices of shape "
            said += f"{logits.shape[:-1]} (int32 or int64), or probabilities of shape {logits.shape}"
            stop = -1 if labels.dtype.kind == "i" else None
            raise ValueError(
                shape_errors.wrong_shape(
                    "",
                    "labels",
                    labels.shape,
                    expected=logits.shape,
                    of="logits",
                    axes=slice(0, stop),
                    title=said,
                )
            )
        if labels.dtype.kind == "i":  # one-hot rows of integers: float32 times int32 would become float64
            labels = Tensor(labels.buffer.cast(logits.dtype))
        return reduce_losses(-(logits.log_softmax(axis=-1) * labels).sum(-1), self.reduction)

    def _extra_repr(self) -> str:
        return f"ignore_index={self.ignore_index}, reduction={self.reduction!r}"


class ElementwiseLoss(Module):
    """What the losses below share: ``loss[i] = f(prediction[i], target[i])`` of two tensors of one shape, and
    its reduction.

    Args:
        reduction: "mean" or "sum" of all elements (a scalar), or "none" (a loss for each element).

    Raises:
        ValueError: another reduction.
    """

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        self.reduction = check_reduction(reduction)

    def losses(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The loss of each element."""
        raise NotImplementedError(f"{type(self).__name__} defines no losses")

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Compute the loss; raises a ValueError unless both shapes are the same."""
        if prediction.shape != target.shape:
            raise ValueError(
                shape_errors.wrong_shape(
                    type(self).__name__, "target", target.shape, expected=prediction.shape, of="prediction"
                )
            )
        return reduce_losses(self.losses(prediction, target), self.reduction)

    def _extra_repr(self) -> str:
        return f"reduction={self.reduction!r}"


class MSELoss(ElementwiseLoss):
    """Squared error: ``loss = (prediction - target) ** 2``."""

    def losses(self, prediction: Tensor, target: Tensor) -> Tensor:
        """(prediction - target) ** 2 of each element."""
        difference = prediction - target
        return difference * difference


class L1Loss(ElementwiseLoss):
    """Absolute error: ``loss = |prediction - target|``; where they are equal its slope is 0."""

    def losses(self, prediction: Tensor, target: Tensor) -> Tensor:
        """|prediction - target| of each element."""
        difference = prediction - target
        # Of equals each gets half the gradient, so the slope at 0 is 0
        return difference.maximum(-difference)


class HuberLoss(ElementwiseLoss):
    """Squared near the target and absolute far from it, so that outliers do not dominate.

    With d = |prediction - target|: ``loss = d ** 2 / 2`` where d <= delta, else ``delta (d - delta / 2)``.
    Huber 1964.

    Args:
        reduction: as for `ElementwiseLoss`.
        delta: where the two parts meet.

    Raises:
        ValueError: another reduction, or a delta that is not above 0.
    """

    def __init__(self, reduction: str = "mean", delta: float = 1.0) -> None:
        super().__init__(reduction)
        if not delta > 0.0:
            raise ValueError(f"delta must be above 0, but got {delta}")
        self.delta = delta

    def losses(self, prediction: Tensor, target: Tensor) -> Tensor:
        """c (d - c / 2) of each element with c = min(d, delta), which is both parts in one."""
        difference = prediction - target
        distance = difference.maximum(-difference)
        near = -(-distance).maximum(-self.delta)
        return near * (distance - near * 0.5)


class BinaryCrossEntropy(Operation):
    """y = log(1 + e^-|x|) + t max(-x, 0) + (1 - t) max(x, 0), for logits x and targets t of one shape.

    dL/dx = g (σ(x) - t), dL/dt = -g x. y is -t log σ(x) - (1 - t) log(1 - σ(x)) as a sum of terms that are
    not negative, so nothing overflows and nothing cancels.
    """

    def forward(self, logits: Buffer, targets: Buffer) -> Buffer:
        self.logits, self.targets = logits, targets
        small = (-logits.maximum(-logits)).exp()
        grown = small + 1.0
        # log(1 + s) without losing a small s to the 1: the error of 1 + s is the same in both factors
        # (Kahan).
        log_grown = Buffer.where(grown == 1.0, small, grown.log() * small / (grown - 1.0))
        return log_grown + targets * (-logits).maximum(0.0) + (1.0 - targets) * logits.maximum(0.0)

    def backward(self, grad: Buffer) -> Any:
        return (
            lambda: grad * ((self.logits * 0.5).tanh() * 0.5 + 0.5 - self.targets),
            lambda: -grad * self.logits,
        )


class BinaryCrossEntropyLoss(ElementwiseLoss):
    """Cross-entropy of yes or no: ``loss = -t log σ(x) - (1 - t) log(1 - σ(x))``, in nats, for logits x and
    targets t in [0, 1].

    Targets may be floats, integers or bools. Logits may be as large as they like.
    """

    def losses(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Returns `BinaryCrossEntropy` of each element; raises ValueError for a target outside [0, 1]."""
        values = target.buffer.cast(prediction.dtype) if target.dtype.kind != "f" else target.buffer
        if values.numel and (float(values.max()) > 1.0 or float((-values).max()) > 0.0):
            raise ValueError(
                f"targets lie in [0, 1], but got some from {-float((-values).max()):g} to {float(values.max()):g}"
            )
        return apply_op(BinaryCrossEntropy, prediction, target if values is target.buffer else Tensor(values))
