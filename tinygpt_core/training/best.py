"""The best validation of a run: which it was, and how many came after it that were not better.

With patience P a run ends at the first validation at which P in a row were not better than the best before.

Source: Prechelt, "Early Stopping - But When?", 1998, https://doi.org/10.1007/3-540-49430-8_3
"""

from __future__ import annotations

import math
from typing import Any

from .log_reading import is_number


class Best:
    """The best validation so far.

    Attributes:
        step: after which it was made; None before the first.
        val_loss: what it found, in nats a token.
        waited: how many validations came after it.
    """

    def __init__(self) -> None:
        self.step: int | None = None
        self.val_loss = math.inf
        self.waited = 0

    def note(self, step: int, val_loss: float) -> bool:
        """Takes in a validation; returns whether it is better than all before, which an equal one is not."""
        is_better = val_loss < self.val_loss
        if is_better:
            self.step = step
            self.val_loss = val_loss
            self.waited = 0
        else:
            self.waited += 1
        return is_better

    def get_state(self) -> dict[str, Any]:
        """Returns it as plain JSON values."""
        val_loss = None if self.step is None else self.val_loss  # JSON has no infinity
        return {"step": self.step, "val_loss": val_loss, "waited": self.waited}

    def set_state(self, state: Any) -> None:
        """Goes to where `get_state` was called.

        Raises:
            ValueError: it did not give that.
        """
        values: dict[str, Any] = state if isinstance(state, dict) else {}
        step, val_loss, waited = (values.get(name) for name in ("step", "val_loss", "waited"))
        is_new = step is None and val_loss is None
        is_right = is_new or (type(step) is int and step >= 0 and is_number(val_loss))
        if not is_right or type(waited) is not int or waited < 0:
            raise ValueError(f"expected the step and the loss of the best validation, not {state!r:.80}")
        self.step = step
        self.waited = waited
        self.val_loss = math.inf if val_loss is None else float(val_loss)
