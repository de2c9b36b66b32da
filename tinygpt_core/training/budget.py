"""A time budget: how much of it has passed, and how a run that is resumed passes it again.

With a budget the learning rate depends on the clock, and so does every loss. So the log has with each step
the time at which it began. Steps that are made again, since the process was killed after its last checkpoint,
take those times in place of the clock's: they are the same steps, to the bit. While they are made again the
log has lost them, so the checkpoint keeps those that are still to come.
"""

from __future__ import annotations

import os
import time

from .log_reading import is_number, read_lines

MOST_AHEAD = 100_000  # times that a checkpoint keeps


class Clock:
    """The time that a run has behind it.

    Args:
        budget: in seconds; 0 for a run without one, of which the clock says nothing.

    Attributes:
        elapsed: seconds that training has taken, as far as they were read; what lies between two processes
            does not count.
        recorded: for steps that are made again, the time at which each began.
    """

    def __init__(self, budget: float) -> None:
        self.budget = budget
        self.elapsed = 0.0
        self.recorded: dict[int, float] = {}
        self._read_at: float | None = None  # while the clock runs
        self._shares = -1

    def start(self) -> None:
        """Goes on from now."""
        self._read_at = time.perf_counter()

    def times_ahead(self) -> list[float]:
        """Returns the times of the steps that are made again, in their order, as a checkpoint keeps them."""
        return [self.recorded[step] for step in sorted(self.recorded)[:MOST_AHEAD]]

    def stop(self) -> None:
        """Stands still until it is started again."""
        self.advance()
        self._read_at = None

    def advance(self) -> None:
        """Takes into `elapsed` what has passed since it was last read. Of steps that are made again the log
        says it.
        """
        if self._read_at is None:
            return
        now = time.perf_counter()
        if not self.recorded:
            self.elapsed += now - self._read_at
        self._read_at = now

    def read(self, step: int) -> float | None:
        """Returns the time at which a step, counted from 1, begins; None where there is no budget."""
        if not self.budget:
            return None
        self.advance()
        if step in self.recorded:
            self.elapsed = self.recorded.pop(step)
        return self.elapsed

    def has_passed_a_share(self, shares: int) -> bool:
        """Returns whether one more of so many equal shares of the budget has passed since the last call."""
        passed = int(self.elapsed / self.budget * shares)
        is_new = passed != self._shares
        self._shares = passed
        return is_new

    @property
    def is_over(self) -> bool:
        """Whether the budget has passed. Steps that were made before are made again in any case."""
        if not self.budget or self.recorded:
            return False
        self.advance()
        return self.elapsed >= self.budget


def recorded_times(path: str, after: int) -> dict[int, float]:
    """Returns the times at which the steps after one began, as a log has them; of a damaged line none.

    Raises:
        ValueError: the log has more bytes than are read.
        OSError: it cannot be read.
    """
    found: dict[int, float] = {}
    if not os.path.isfile(path):
        return found
    for line in read_lines(path):
        values = line.values or {}
        step = values.get("step")
        elapsed = values.get("elapsed")
        if type(step) is int and step > after and is_number(elapsed) and elapsed >= 0:
            found[step] = float(elapsed)
    known: dict[int, float] = {}
    step = after + 1
    while step in found:  # what comes after a gap cannot be made again as it was
        known[step] = found[step]
        step += 1
    return known
