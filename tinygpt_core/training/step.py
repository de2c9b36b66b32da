"""One update of a model, and the hook through which a backend makes it in its own way.

What the hook is. The Buffer class of a backend may have an attribute `training_step`: a subclass of
`TrainingStep` whose `__call__` takes the place of the one here, that is of the lines zero_grad, loss,
backward, clip and update. It gets the same arguments, returns the same loss, and leaves the same weights, up
to rounding. A backend without the attribute trains by the lines below.

Why it exists. Between those lines the host looks at numbers: is the gradient's norm too large, is it finite?
With a GPU each look makes both sides wait. A step that knows the whole update keeps these numbers on the
device, and can record all of its launches once and repeat them as one CUDA graph, as
`tinygpt_accel.cuda_backend.step` does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from .. import backends
from ..buffer.base import Buffer
from ..dataset.batches import Batch
from ..dtype import DType
from ..kernels.precision import LossScaler, check_compute_dtype
from ..module import Module
from ..optimizers import Optimizer, clip_gradients
from ..tensor import Tensor

Step = TypeVar("Step")


class TrainingStep:
    """One update of a model: the gradient of some batches' mean loss, clipped, then the optimizer.

    Args:
        model, optimizer: what to train.
        total_loss: gives the sum of the losses of all targets of a batch that count, under the `autocast` of
            `dtype`.
        gradient_clip: the largest norm of the gradient.
        dtype: the name for `autocast`; with "float16" the loss is scaled, by less after an overflow.

    Attributes:
        scaler: the `LossScaler`, or None where none is needed.
        gradient_norm: the norm of the last step's gradient before it was clipped, or None where it was not
            finite or that number stays on a device.
        is_skipped: whether the last step's gradient was not finite. Such a step changes nothing: neither the
            weights nor the optimizer, whose step does not count it.

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
        self.model = model
        self.optimizer = optimizer
        self.total_loss = total_loss
        self.gradient_clip = gradient_clip
        self.dtype = dtype
        self.scaler = LossScaler() if dtype == "float16" else None
        self.gradient_norm: float | None = None
        self.is_skipped = False

    def __call__(self, batches: Sequence[Batch]) -> float:
        """Makes the update and returns the mean loss a target before it.

        A backend may do this in its own way, see `step`.
        """
        num_targets = sum(batch.num_targets for batch in batches)
        self.optimizer.zero_grad()
        loss = 0.0
        for batch in batches:
            # Divided by the targets of all batches, so that they count like one large batch, padded or not.
            part = self.total_loss(batch) / num_targets
            self._scaled(part).backward()
            loss += part.item()
        self._unscale_gradients()
        norm = clip_gradients(self.model, self.gradient_clip)
        self.is_skipped = not math.isfinite(norm)
        if self.scaler is not None:
            self.scaler.update(not self.is_skipped)
        if not self.is_skipped:
            self.optimizer.update()
        self.gradient_norm = None if self.is_skipped else norm  # JSON has no infinity
        return loss

    # ---- float16: its gradients are computed from a loss that is scaled up, so that they do not vanish

    def _scaled(self, loss: Tensor) -> Tensor:
        return loss if self.scaler is None else loss * self.scaler.scale

    def _unscale_gradients(self) -> None:
        if self.scaler is None:
            return
        factor = 1.0 / self.scaler.scale
        unique = {id(tensor): tensor for _, tensor in self.model.named_parameters()}  # tied weights once
        for tensor in unique.values():
            if (gradient := tensor.compact_grad) is not None:
                tensor.compact_grad = gradient * factor


def training_step(*arguments: Any) -> TrainingStep:
    """Returns the active backend's TrainingStep, which takes the same arguments."""
    return step_class(TrainingStep)(*arguments)


def step_class(textbook: type[Step]) -> type[Step]:
    """Returns the class that makes updates on the active backend: its own, or else the textbook's."""
    own: type[Step] = getattr(backends.active(), "training_step", textbook)
    return own


def as_tensors(batch: Any) -> tuple[Tensor, Tensor]:
    """Returns a batch's inputs and targets, int32 (B, T), as Tensors on the active backend.

    A batch may have them already, as `tensors`: a backend's own step may have put them on a device.
    """
    ready: tuple[Tensor, Tensor] | None = getattr(batch, "tensors", None)
    if ready is not None:
        return ready
    inputs = Buffer.from_array(batch.inputs[:], batch.shape, DType.int32)
    targets = Buffer.from_array(batch.targets[:], batch.shape, DType.int32)
    return Tensor(inputs), Tensor(targets)


def logits_of(model: Any, batch: Any, inputs: Tensor, targets: Tensor | None = None) -> Tensor:
    """Returns a model's logits for a batch whose inputs are Tensors already. Documents that share a row do
    not see each other.

    Args:
        targets: for a model that starts from counts of its training text: in training it learns as if these
            had not been counted.
    """
    options: dict[str, Tensor] = {}
    documents = getattr(batch, "documents", None)
    if documents is not None:
        options["documents"] = Tensor(Buffer.from_array(documents[:], batch.shape, DType.int32))
    if targets is not None and getattr(model, "ngram_prior", None) is not None and model.training:
        options["targets"] = targets
    logits: Tensor = model(inputs, **options)
    return logits
