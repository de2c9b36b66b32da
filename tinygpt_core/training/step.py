"""One update of a model: gradients of some batches' mean loss, clipped, then the optimizer; in 16 bits with a
scaled loss if asked.

A backend that can do this faster gives its Buffer class an attribute `training_step`: a subclass of
`TrainingStep`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from .. import backends, dataset
from ..buffer.base import Buffer
from ..dtype import DType
from ..kernels.precision import LossScaler, check_compute_dtype
from ..module import Module
from ..optimizers import Optimizer, clip_gradients
from ..tensor import Tensor


def as_tensors(batch: Any) -> tuple[Tensor, Tensor]:
    """A batch's inputs and targets, int32 (B, T), as Tensors on the active backend; those it has as
    `tensors`, if it has.
    """
    if ready := getattr(batch, "tensors", None):
        return ready
    inputs, targets = (
        Buffer.from_array(ids[:], batch.shape, DType.int32) for ids in (batch.inputs, batch.targets)
    )
    return Tensor(inputs), Tensor(targets)


class TrainingStep:
    """What changes a model's parameters once, when called with batches.

    Args:
        model, optimizer: what to train.
        total_loss: gives the sum of the losses of all targets of a batch that count, under the `autocast` of
            `dtype`.
        gradient_clip: the largest norm of the gradient.
        dtype: the name for `autocast`; with "float16" the loss is scaled and a step whose gradients overflow
            changes nothing.

    Attributes:
        scaler: the `LossScaler`, or None where none is needed.
        gradient_norm: the norm of the last step's gradient before it was clipped, or None where that number
            stays on a device.

    Raises:
        ValueError: a dtype that `autocast` does not know, or the active backend cannot.
    """

    def __init__(
        self,
        model: Module,
        optimizer: Optimizer,
        total_loss: Callable[[Any], Tensor],
        gradient_clip: float,
        dtype: str = "float32",
    ) -> None:
        check_compute_dtype(dtype)
        self.model, self.optimizer, self.total_loss, self.gradient_clip, self.dtype = (
            model,
            optimizer,
            total_loss,
            gradient_clip,
            dtype,
        )
        self.scaler = LossScaler() if dtype == "float16" else None
        self.gradient_norm: float | None = None

    def __call__(self, batches: Sequence[dataset.Batch]) -> float:
        """Makes the update and returns the mean loss a target before it."""
        num_targets = sum(batch.num_targets for batch in batches)
        self.optimizer.zero_grad()
        loss = 0.0
        for batch in batches:
            # Dividing by the targets of all batches makes accumulation equal to one large batch, padded or
            # not.
            part = self.total_loss(batch) / num_targets
            (part if self.scaler is None else part * self.scaler.scale).backward()
            loss += part.item()
        if self.scaler is not None:
            self._multiply_gradients(1.0 / self.scaler.scale)
        norm = clip_gradients(self.model, self.gradient_clip)
        self.gradient_norm = norm if math.isfinite(norm) else None  # JSON has no infinity
        if self.scaler is not None:
            self.scaler.update(math.isfinite(norm))
            if not math.isfinite(norm):
                return loss
        self.optimizer.update()
        return loss

    def _multiply_gradients(self, factor: float) -> None:
        for tensor in {id(tensor): tensor for _, tensor in self.model.named_parameters()}.values():
            if tensor.grad is not None:
                tensor.grad = Tensor(tensor.grad.buffer * factor)


def training_step(*arguments: Any) -> TrainingStep:
    """Returns the active backend's TrainingStep, which takes the same arguments."""
    kind: type[TrainingStep] = getattr(backends.active(), "training_step", TrainingStep)
    return kind(*arguments)
