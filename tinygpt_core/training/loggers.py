"""Loggers: TensorBoard and others, to which a run's numbers go when its own log is written.

A plug-in names a class under the entry-point group `tinygpt.loggers`. It is loaded when its name is asked
for, never before:

    tinygpt train --log-to tensorboard

One is here: `--log-to csv` writes log.csv in the directory of the run, which any spreadsheet reads.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

from ..files.atomic import atomic_write
from ..files.reading import open_file
from .events import Event, StepEvent, ValidationEvent

ENTRY_POINT_GROUP = "tinygpt.loggers"
LONGEST_ROW = 1000  # bytes of a row of log.csv


class Logger(Protocol):
    """What a plug-in gives: a class whose instances take numbers by name. One that also has a method
    `write_text(name, text, step)` gets the samples of a run, too.

    Args:
        directory: of the run, where it may keep files of its own.
        settings: of the run, as plain JSON values.
        step: after which the run goes on; whatever was written of later ones before is void.
    """

    def __init__(self, directory: str, settings: Mapping[str, Any], step: int) -> None: ...

    def write(self, scalars: Mapping[str, float], step: int) -> None:
        """Takes the numbers of a step."""

    def close(self) -> None:
        """Writes what is left, also where the run has failed."""


def scalars(event: Event) -> dict[str, float]:
    """Returns the numbers of an event by name; losses are in nats a token.

    The names are in the manner of TensorBoard, where a slash groups them.
    """
    if isinstance(event, ValidationEvent):
        return {"loss/validation": event.val_loss}
    if not isinstance(event, StepEvent):
        return {}
    numbers = {
        "loss/training": event.loss,
        "learning_rate": event.learning_rate,
        "tokens_per_second": event.tokens / max(event.seconds, 1e-9),
    }
    if event.gradient_norm is not None:
        numbers["gradient_norm"] = event.gradient_norm
    for entry in event.parameters or []:
        if entry.get("ratio") is not None:
            numbers[f"update_to_weight/{entry['name']}"] = entry["ratio"]
    return numbers


COLUMNS = ("loss/training", "loss/validation", "learning_rate", "tokens_per_second", "gradient_norm")


class CSVLogger:
    """A logger that writes log.csv: a row an event, with the step and those numbers that it has. A run that
    is resumed takes back the rows of steps that were lost. Samples are in log.jsonl only.

    Source: RFC 4180, 2005, https://www.rfc-editor.org/rfc/rfc4180
    """

    FILE = "log.csv"

    def __init__(self, directory: str, settings: Mapping[str, Any], step: int) -> None:
        path = os.path.join(directory, self.FILE)
        heading = ",".join(("step", *COLUMNS)) + "\r\n"
        kept = [heading]
        if step and os.path.isfile(path):
            with open_file(path) as file:
                lines = [
                    line.decode("ascii", "replace") for line in iter(lambda: file.readline(LONGEST_ROW), b"")
                ]
            kept += [line for line in lines[1:] if _step_of(line) <= step]
        atomic_write(path, "".join(kept).encode(), replace_anything=True)
        self.file = open(path, "a", encoding="ascii", newline="")  # noqa: SIM115

    def write(self, scalars: Mapping[str, float], step: int) -> None:
        """Adds a row, which is then in the file."""
        cells = (repr(scalars[name]) if name in scalars else "" for name in COLUMNS)
        self.file.write(f"{step},{','.join(cells)}\r\n")
        self.file.flush()

    def close(self) -> None:
        """Writes what is left."""
        self.file.close()


def _step_of(line: str) -> float:
    """Returns the step of a row, or infinity where it is not whole."""
    first = line.partition(",")[0]
    is_whole = line.endswith("\r\n") and line.count(",") == len(COLUMNS) and first.isdigit()
    return int(first) if is_whole else math.inf


BUILT_IN: dict[str, type[Logger]] = {"csv": CSVLogger}


def find_logger(name: str) -> type[Logger]:
    """Returns the class that is installed under a name, or the one that is here.

    Raises:
        ValueError: there is none; the message says which there are.
        RuntimeError: it cannot be imported; the message says what to install.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    from importlib.metadata import entry_points  # 20 ms to import, so only when someone asks

    points = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    if name not in points:
        known = f"known are {', '.join(sorted({*points, *BUILT_IN}))}"
        if not points:
            known += (
                '; others come with pip install . "./tinygpt_accel[tensorboard]" in the project\'s folder'
            )
        raise ValueError(f"there is no logger {name!r}: {known}")
    try:
        found: type[Logger] = points[name].load()
    except ImportError as problem:
        raise RuntimeError(
            f'the logger {name} needs {problem.name}: pip install . "./tinygpt_accel[{name}]" '
            "in the project's folder"
        ) from problem
    return found


@contextmanager
def open_loggers(
    kinds: Sequence[type[Logger]],
    directory: str,
    settings: Mapping[str, Any],
    step: int,
    skipped_steps: int = 0,
) -> Iterator[Callable[[Event], None]]:
    """Opens loggers for a run that is about to go on, and closes them at its end.

    Args:
        kinds: their classes.
        directory, settings, step: of the run, as a `Logger` takes them.
        skipped_steps: how many of its steps changed nothing so far.

    Returns:
        A context manager; what it gives is a function that writes an event to all of them: its `scalars`, and
        as `skipped_steps` how many changed nothing, once there are any.
    """
    with ExitStack() as stack:
        loggers: list[Logger] = []
        for kind in kinds:
            logger = kind(directory, settings, step)
            stack.callback(logger.close)
            loggers.append(logger)

        def log(event: Event) -> None:
            nonlocal skipped_steps
            numbers = scalars(event)
            if isinstance(event, StepEvent):
                skipped_steps += bool(event.skipped)
                if skipped_steps:
                    numbers["skipped_steps"] = skipped_steps
            if numbers:
                for logger in loggers:
                    logger.write(numbers, event.step)
            if isinstance(event, StepEvent) and event.sample is not None:
                for writer in [getattr(logger, "write_text", None) for logger in loggers]:
                    if writer is not None:
                        writer("sample", event.sample, event.step)

        yield log
