"""A time budget: how much of it has passed, and how a run that is resumed passes it again.

With a budget the learning rate depends on the clock, and so does every loss. So the log has with each step
the time at which it began. Steps that are made again, since the process was killed after its last checkpoint,
take those times in place of the clock's: they are the same steps, to the bit.
"""

from __future__ import annotations

import json
import os
import time

LONGEST_LINE = 1 << 24  # bytes of a line of a log


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
        self._read_at = time.perf_counter()
        self._shares = -1

    def start(self) -> None:
        """Goes on from now."""
        self._read_at = time.perf_counter()

    def read(self, step: int) -> float | None:
        """Returns the time at which a step, counted from 1, begins; None where there is no budget."""
        if not self.budget:
            return None
        now = time.perf_counter()
        self.elapsed += now - self._read_at
        self._read_at = now
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
        return self.elapsed + time.perf_counter() - self._read_at >= self.budget


def recorded_times(path: str, after: int) -> dict[int, float]:
    """Returns the times at which the steps after one began, as a log has them; of a damaged line none."""
    found: dict[int, float] = {}
    if not os.path.isfile(path):
        return found
    with open(path, "rb") as file:
        while line := file.readline(LONGEST_LINE):
            try:
                entry = json.loads(line)
                step = entry["step"]
                elapsed = entry["elapsed"]
            except (ValueError, KeyError, TypeError, RecursionError):
                continue
            if type(step) is int and step > after and type(elapsed) in (int, float) and elapsed >= 0.0:
                found[step] = float(elapsed)
    known: dict[int, float] = {}
    step = after + 1
    while step in found:  # what comes after a gap cannot be made again as it was
        known[step] = found[step]
        step += 1
    return known
