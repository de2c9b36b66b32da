"""The log of a run, read line by line: for its curves, and for the page that explains it.

A log is a file like any other, so nothing in it is believed: a line may be anything, a number of any size.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeGuard

from ..files.atomic import Path
from ..files.reading import open_file

LONGEST_LINE = 1 << 24  # bytes of a line; what is longer is none
LONGEST_LOG = 1 << 30  # bytes
MOST_RUNGS = 20  # of a ladder


class Line(NamedTuple):
    """A line of a log.

    Attributes:
        number: which it is, from 1.
        values: what it says; None where it is no object of JSON.
        is_being_written: whether it is the last and does not end: a run that is going on writes it.
    """

    number: int
    values: dict[str, Any] | None
    is_being_written: bool


def read_lines(path: Path) -> Iterator[Line]:
    """Yields the lines of a log.

    Raises:
        ValueError: it has more than `LONGEST_LOG` bytes.
        NotAFileError: it is a pipe or a device.
        OSError: it cannot be read.
    """
    with open_file(path) as file:
        if os.fstat(file.fileno()).st_size > LONGEST_LOG:
            raise ValueError(
                f"{os.fspath(path)} has more than {LONGEST_LOG:,} bytes; at most that many are read"
            )
        number = 0
        while line := file.readline(LONGEST_LINE):
            number += 1
            try:
                values = json.loads(line)
            except (ValueError, RecursionError):
                values = None
            is_being_written = not line.endswith(b"\n") and not file.peek(1)
            yield Line(number, values if isinstance(values, dict) else None, is_being_written)


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value of JSON is a number that a float can be: an integer there may have any length."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    return abs(value) <= sys.float_info.max  # unlike math.isfinite, for integers of any size


def ladder_of(value: Any) -> dict[str, float]:
    """Returns the rungs of what a log has as its ladder: names with finite numbers of at least 0; empty where
    it is no ladder.
    """
    if not isinstance(value, dict) or len(value) > MOST_RUNGS:
        return {}
    return {name: float(nats) for name, nats in value.items() if is_number(nats) and nats >= 0}
