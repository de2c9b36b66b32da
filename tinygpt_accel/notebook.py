"""A run in a Jupyter notebook: its events one after the other, and a loss curve that grows while it trains.

    from tinygpt_accel.notebook import watch

    for event in watch(trainer.run()):
        ...

The curve is what `tinygpt plot` draws. Where nothing can show it, in a terminal or a log, there are lines of
text in its place. IPython (the extra `notebook`) is never imported: a notebook has it imported already.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tinygpt_core.cli.plotting.curves import LARGEST_LOSS, Run
from tinygpt_core.cli.plotting.svg_chart import svg
from tinygpt_core.training.events import Event, StepEvent, ValidationEvent

SECONDS = 1.0  # between two drawings
LARGEST_SHARE = 0.1  # of the time that drawing may take


class Curve:
    """The losses of a run, as far as its events have told them.

    Args:
        name: of the run, in the drawing.

    Attributes:
        run: what `tinygpt plot` draws.
    """

    def __init__(self, name: str = "run") -> None:
        self.run = Run(name, [], [], {})

    def add(self, event: Event) -> bool:
        """Takes in the loss of an event; returns whether it has one that can be drawn."""
        if isinstance(event, StepEvent) and abs(event.loss) <= LARGEST_LOSS:
            self.run.losses.append((event.step, event.loss))
        elif isinstance(event, ValidationEvent) and abs(event.val_loss) <= LARGEST_LOSS:
            self.run.validations.append((event.step, event.val_loss))
            self.run.ladder.update(event.ladder or {})
        else:
            return False
        return True

    def __str__(self) -> str:
        """Returns the last losses in a line, such as "step 250: loss 2.105, validation 2.231"."""
        if not self:
            return "no step yet"
        parts = []
        if self.run.losses:
            parts.append(f"loss {self.run.losses[-1][1]:.3f}")
        if self.run.validations:
            parts.append(f"validation {self.run.validations[-1][1]:.3f}")
        step = max(int(points[-1][0]) for points in (self.run.losses, self.run.validations) if points)
        return f"step {step:,}: {', '.join(parts)}"

    def __bool__(self) -> bool:
        """Whether there is a loss yet."""
        return bool(self.run.losses or self.run.validations)


def watch(events: Iterable[Event], name: str = "run", seconds: float = SECONDS) -> Iterator[Event]:
    """Yields the events of a run as they come, and shows meanwhile how its loss falls.

    In a notebook that is a drawing below the cell, which is replaced by a newer one; elsewhere a line is
    printed. It is shown after the first event, at each validation, when some time has passed, and at the end,
    whether the run has ended, was left, or has failed. Where drawing takes long it is done less often, so
    that it takes at most about a tenth of the time.

    Args:
        events: of `Trainer.run()`.
        name: of the run, in the drawing.
        seconds: the least time between two drawings; a validation does not wait for it.

    Yields:
        The events, each before the next one is asked for.
    """
    curve = Curve(name)
    show = _shower()
    is_shown = True
    due = 0.0
    try:
        for event in events:
            is_shown = not curve.add(event) and is_shown
            started = time.perf_counter()
            if not is_shown and (started >= due or isinstance(event, ValidationEvent)):
                show(curve)
                is_shown = True
                ended = time.perf_counter()
                due = ended + max(seconds, (ended - started) / LARGEST_SHARE)
            yield event
    finally:
        if not is_shown:
            show(curve)


def _shower() -> Callable[[Curve], None]:
    """Returns what shows a curve here: a drawing in a notebook, and a line elsewhere."""
    ipython: Any = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if getattr(shell, "kernel", None) is None:  # no IPython, or IPython in a terminal
        return lambda curve: print(curve, flush=True)

    handle = ipython.display.display({"text/plain": "no step yet"}, raw=True, display_id=True)

    def show(curve: Curve) -> None:
        handle.update({"image/svg+xml": svg([curve.run]), "text/plain": str(curve)}, raw=True)

    return show
