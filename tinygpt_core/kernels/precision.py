"""Which numbers products are computed in: float32, or 16 bits under `autocast`.

    with autocast("bfloat16"):
        loss = criterion(logits=model(ids), labels=targets).mean()
    loss.backward()

Under autocast a product rounds its operands to 16 bits and adds up in float32; so do the kernels around it,
where the backend has ones for it. Everything else, parameters and optimizers among it, stays float32, and so
does every Buffer's dtype. float16 has so small a range that gradients vanish: `LossScaler` keeps them in it.

`autocast` holds for the calling thread only: a new thread computes in float32.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

from .. import backends
from ..contexts import ChoiceBlock

NAMES = ("float32", "tf32", "bfloat16", "float16")
_compute_dtype = ContextVar("compute dtype", default="float32")
_compute_dtypes_before: ContextVar[tuple[str, ...]] = ContextVar("compute dtypes before", default=())


def compute_dtype() -> str:
    """Returns the name that the innermost `autocast` of this thread gave; "float32" outside of any."""
    return _compute_dtype.get()


def check_compute_dtype(name: str) -> None:
    """Raises ValueError unless the active backend computes products in `name`."""
    if name not in NAMES:
        raise ValueError(f"unknown compute dtype {name!r}: expected one of {', '.join(NAMES)}")
    able = getattr(backends.active(), "compute_dtypes", NAMES[:1])
    if name not in able:
        raise ValueError(
            f"the {backends.active().backend} backend computes in {', '.join(able)}, not {name}: "
            "the cupy backend can, on a GPU"
        )


class autocast(ChoiceBlock):
    """Computes products in another dtype, for a `with` block or a decorated function or generator.

    Args:
        name: "bfloat16" or "float16" (with sums in float32), "tf32" (float32 with a shorter fraction) or
            "float32".

    Raises:
        ValueError: when it is entered: no such name, or the active backend cannot.
    """

    chosen = _compute_dtype
    before = _compute_dtypes_before

    def __init__(self, name: str) -> None:
        super().__init__(name)

    def __enter__(self) -> None:
        check_compute_dtype(self.value)
        super().__enter__()


class LossScaler:
    """A factor on the loss, so that float16 gradients neither vanish nor overflow.

    An overflow halves it; `patience` steps without one double it.

    Args:
        scale: to begin with; powers of two, as here, change no digit of a gradient.
        patience: steps without an overflow after which the scale doubles.

    Raises:
        ValueError: a scale that is not finite and above 0, or a patience below 1.

    Source: Micikevicius et al. 2017, https://arxiv.org/abs/1710.03740.
    """

    def __init__(self, scale: float = 65536.0, patience: int = 2000) -> None:
        if not 0.0 < scale < math.inf or patience < 1:
            raise ValueError(
                f"a loss scale is finite and above 0 and its patience at least 1, not {scale} and {patience}"
            )
        self.scale = scale
        self.patience = patience
        self.good_steps = 0

    def update(self, finite: bool) -> None:
        """Takes note of whether the gradients of a step were finite."""
        if not finite:
            self.scale = max(self.scale / 2.0, 2.0**-24)
            self.good_steps = 0
            return
        self.good_steps += 1
        if self.good_steps >= self.patience:
            self.scale = min(self.scale * 2.0, 2.0**127)
            self.good_steps = 0

    def get_state(self) -> dict[str, float]:
        """Returns the state, for JSON."""
        return {"scale": self.scale, "good_steps": self.good_steps}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes to a state of `get_state`; raises ValueError where it is none."""
        scale = state.get("scale")
        steps = state.get("good_steps")
        if (
            not isinstance(scale, (int, float))
            or not 0.0 < scale < math.inf
            or not isinstance(steps, int)
            or steps < 0
        ):
            raise ValueError(
                f"a loss scaler's state has a scale above 0 and good_steps from 0, but got {state!r}"
            )
        self.scale = float(scale)
        self.good_steps = steps
