"""Loggers: TensorBoard and others, to which a run's numbers go when its own log is written.

A plug-in names a class under the entry-point group `tinygpt.loggers`. It is loaded when its name is asked
for, never before:

    tinygpt train --log-to tensorboard
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

from .events import Event, StepEvent, ValidationEvent

ENTRY_POINT_GROUP = "tinygpt.loggers"


class Logger(Protocol):
    """What a plug-in gives: a class whose instances take numbers by name.

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


def find_logger(name: str) -> type[Logger]:
    """Returns the class that is installed under a name.

    Raises:
        ValueError: there is none; the message says which there are.
        RuntimeError: it cannot be imported; the message says what to install.
    """
    from importlib.metadata import entry_points  # 20 ms to import, so only when someone asks

    points = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    if name not in points:
        known = 'none is installed: pip install . "./tinygpt_accel[tensorboard]" in the project\'s folder'
        if points:
            known = f"known are {', '.join(sorted(points))}"
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

        yield log
