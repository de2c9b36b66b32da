"""The hook through which a backend makes an update in its own way.

What it is. The Buffer class of a backend may have an attribute `training_step`: a subclass of
`loop.TrainingStep` whose `__call__` takes the place of the one there, that is of the lines zero_grad, loss,
backward, clip and update. It gets the same arguments, returns the same loss, and leaves the same weights, up
to rounding. A backend without the attribute trains by the lines in `loop`.

Why it exists. Between those lines the host looks at numbers: is the gradient's norm too large, is it finite?
With a GPU each look makes both sides wait. A step that knows the whole update keeps these numbers on the
device, and can record all of its launches once and repeat them as one CUDA graph, as
`tinygpt_accel.cuda_backend.step` does.
"""

from __future__ import annotations

from typing import Any, TypeVar

from .. import backends
from ..buffer.base import Buffer
from ..dtype import DType
from ..tensor import Tensor

Step = TypeVar("Step")


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
