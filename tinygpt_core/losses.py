"""Losses: how far a model's output is from what it should be.

`CrossEntropyLoss` compares a predicted distribution with the label of what came: the loss of language models
and classifiers. The elementwise losses compare two tensors of one shape, number by number: `MSELoss`,
`L1Loss`, `HuberLoss`, and `BinaryCrossEntropyLoss` for questions of yes or no.
"""

from __future__ import annotations

import math
from typing import Any

from . import operations, shape_errors
from .buffer.base import Buffer
from .kernels.activations import log_of_one_plus, logistic
from .module import Module
from .operations import Operation
from .tensor import Tensor, apply_op

# ---------------------------------------------------------------- from many losses to one


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
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    if labels is None:
        return losses.mean()
    num_counted = (labels != ignore_index).sum().item()
    return losses.sum() / max(num_counted, 1)


# ---------------------------------------------------------------- of a distribution


class CrossEntropyLoss(Module):
    """Cross-entropy of a predicted distribution: `loss = -sum_v p_v log softmax(logits)_v`, one loss a row,
    in nats.

    With an integer label c, p is 1 at c and 0 elsewhere: `loss = -log softmax(logits)_c`. That is the fast
    path: nothing of the logits' size is made for the labels.

    Two changes of the loss are for training:

        label smoothing ε: p becomes (1 - ε) p + ε / V, so that no logit is pulled to infinity
        z-loss λ:          λ log(sum_v exp logits_v)² is added, so that the logits do not drift together

    Args:
        ignore_index: integer labels of this value are padding: their loss is 0 and no gradient comes from
            them.
        reduction: "none" (one loss a row), or the "sum" or "mean" of them; the mean is over rows that are not
            padding.
        label_smoothing: ε, at least 0 and below 1.
        z_loss: λ, at least 0.

    Raises:
        ValueError: another reduction, or a label_smoothing or z_loss out of its range.

    Source: label smoothing: Szegedy et al. 2015, https://arxiv.org/abs/1512.00567; z-loss: Chowdhery et al.,
    "PaLM", 2022, https://arxiv.org/abs/2204.02311
    """

    def __init__(
        self,
        ignore_index: int = -1,
        reduction: str = "none",
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
    ) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        self.reduction = check_reduction(reduction)
        if not 0.0 <= label_smoothing < 1.0:
            raise ValueError(f"label_smoothing must be at least 0 and below 1, but got {label_smoothing}")
        if not 0.0 <= z_loss < math.inf:
            raise ValueError(f"z_loss must be a number of at least 0, but got {z_loss}")
        self.label_smoothing = label_smoothing
        self.z_loss = z_loss

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Returns the losses, or what the reduction makes of them.

        Args:
            logits: floats (..., V).
            labels: class indices, integers (...); or probabilities (or one-hot rows) that broadcast to the
                logits' shape.

        Returns:
            Floats (...), one a row, or a scalar, as the reduction says. Of single losses take `.mean()`, or
            divide `.sum()` by the number of labels that count.

        Raises:
            ValueError: the shapes do not fit.
            IndexError: a label is no class index and not ignore_index.
        """
        if logits.ndim < 1 or not logits.dtype.is_floating:
            raise ValueError(
                f"logits must be floats of shape (..., classes), but got {logits.dtype.name} {logits.shape}"
            )
        are_integers = labels.dtype.kind == "i"
        if are_integers and labels.shape == logits.shape[:-1]:
            losses = self._of_labels(logits, labels)
            return reduce_losses(losses, self.reduction, labels, self.ignore_index)
        if labels.ndim < 1 or labels.shape != logits.shape[logits.ndim - labels.ndim :]:
            said = (
                f"labels of shape {labels.shape} do not fit logits of shape {logits.shape}: "
                f"expected class indices of shape {logits.shape[:-1]} (int32 or int64), "
                f"or probabilities of shape {logits.shape}"
            )
            axes = slice(0, -1 if are_integers else None)
            raise ValueError(
                shape_errors.wrong_shape(
                    "", "labels", labels.shape, expected=logits.shape, of="logits", axes=axes, title=said
                )
            )
        if are_integers:  # one-hot rows of integers: float32 times int32 would become float64
            labels = Tensor(labels.buffer.cast(logits.dtype))
        if self.label_smoothing:
            labels = labels * (1.0 - self.label_smoothing) + self.label_smoothing / logits.shape[-1]
        losses = -(logits.log_softmax(axis=-1) * labels).sum(-1)
        if self.z_loss:
            losses = losses + logits.logsumexp(-1) ** 2 * self.z_loss
        return reduce_losses(losses, self.reduction)

    def _of_labels(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Returns the losses (...) of class indices (...)."""
        if not self.label_smoothing and not self.z_loss:
            return apply_op(operations.CrossEntropy, logits, labels, ignore_index=self.ignore_index)
        # With z = log(sum of exp(logits)): (1 - ε) (z - logit of the label) + ε (z - mean logit) + λ z²
        is_counted = labels != self.ignore_index
        chosen = Tensor.where(is_counted, labels, 0).reshape((*labels.shape, 1))
        # What padding has may be infinite
        logits = logits.masked_fill(~is_counted.reshape(chosen.shape), 0.0)
        wanted = logits.gather(-1, chosen).reshape(labels.shape)
        z = logits.logsumexp(-1)
        losses = z - wanted
        if self.label_smoothing:
            losses = losses + (wanted - logits.mean(-1)) * self.label_smoothing
        if self.z_loss:
            losses = losses + z**2 * self.z_loss
        return losses * is_counted.cast(logits.dtype)

    def _extra_repr(self) -> str:
        settings = [f"ignore_index={self.ignore_index}", f"reduction={self.reduction!r}"]
        settings += [
            f"{name}={getattr(self, name)}" for name in ("label_smoothing", "z_loss") if getattr(self, name)
        ]
        return ", ".join(settings)


# ---------------------------------------------------------------- of numbers, element by element


class ElementwiseLoss(Module):
    """What the losses below share: `loss[i] = f(prediction[i], target[i])` of two tensors of one shape, and
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
        """Returns the loss of each element."""
        raise NotImplementedError(f"{type(self).__name__} defines no losses")

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Returns the losses, or what the reduction makes of them; raises ValueError unless both shapes are
        the same.
        """
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
    """Squared error: `loss = (prediction - target) ** 2`."""

    def losses(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Returns (prediction - target) ** 2 of each element."""
        difference = prediction - target
        return difference * difference


class L1Loss(ElementwiseLoss):
    """Absolute error: `loss = |prediction - target|`; where they are equal its slope is 0."""

    def losses(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Returns |prediction - target| of each element."""
        difference = prediction - target
        # Of equals each gets half the gradient, so the slope at 0 is 0.
        return difference.maximum(-difference)


class HuberLoss(ElementwiseLoss):
    """Squared near the target and absolute far from it, so that outliers do not dominate.

    With d = |prediction - target|: `loss = d ** 2 / 2` where d <= delta, else `delta (d - delta / 2)`.

    Args:
        reduction: as for `ElementwiseLoss`.
        delta: where the two parts meet.

    Raises:
        ValueError: another reduction, or a delta that is not above 0.

    Source: Huber, "Robust Estimation of a Location Parameter", 1964
    """

    def __init__(self, reduction: str = "mean", delta: float = 1.0) -> None:
        super().__init__(reduction)
        if not delta > 0.0:
            raise ValueError(f"delta must be above 0, but got {delta}")
        self.delta = delta

    def losses(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Returns c (d - c / 2) of each element with c = min(d, delta), which is both parts in one."""
        difference = prediction - target
        distance = difference.maximum(-difference)
        clipped = -(-distance).maximum(-self.delta)
        return clipped * (distance - clipped * 0.5)


class BinaryCrossEntropy(Operation):
    """y = log(1 + e^-|x|) + t max(-x, 0) + (1 - t) max(x, 0), for logits x and targets t of one shape.

    dL/dx = g (σ(x) - t) = g ((1 - t) σ(x) - t σ(-x)), dL/dt = -g x. y is -t log σ(x) - (1 - t) log(1 - σ(x))
    as a sum of terms that are not negative, so nothing overflows and nothing cancels.
    """

    def forward(self, logits: Buffer, targets: Buffer) -> Buffer:
        self.logits = logits
        self.targets = targets
        logarithm = log_of_one_plus((-logits.maximum(-logits)).exp())
        return logarithm + targets * (-logits).maximum(0.0) + (1.0 - targets) * logits.maximum(0.0)

    def backward(self, grad: Buffer) -> Any:
        def of_logits() -> Buffer:
            yes = logistic(self.logits)
            no = logistic(-self.logits)
            return grad * ((1.0 - self.targets) * yes - self.targets * no)

        def of_targets() -> Buffer:
            return -grad * self.logits

        return of_logits, of_targets


class BinaryCrossEntropyLoss(ElementwiseLoss):
    """Cross-entropy of yes or no: `loss = -t log σ(x) - (1 - t) log(1 - σ(x))`, in nats, for logits x and
    targets t in [0, 1].

    Targets may be floats, integers or bools. Logits may be as large as they like.
    """

    def losses(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Returns `BinaryCrossEntropy` of each element; raises ValueError for a target outside [0, 1]."""
        if target.dtype.kind != "f":
            target = Tensor(target.buffer.cast(prediction.dtype))
        if target.numel:
            largest = float(target.buffer.max())
            smallest = -float((-target.buffer).max())
            if largest > 1.0 or smallest < 0.0:
                raise ValueError(f"targets lie in [0, 1], but got some from {smallest:g} to {largest:g}")
        return apply_op(BinaryCrossEntropy, prediction, target)
