"""Floor 9: whoever else wants to follow a run, such as TensorBoard, told at the moment when the run's own log
is written.

A plug-in names a class under the entry-point group `tinygpt.loggers`. It is loaded when its name is asked
for, never before:

    tinygpt train --log-to tensorboard
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

from .loop import Event, StepEvent, Trainer, ValidationEvent

ENTRY_POINT_GROUP = "tinygpt.loggers"


class Logger(Protocol):
    """What a plug-in gives: a class whose instances take numbers by name.

    Args:
        directory: of the run, where it may keep files of its own.
        settings: of the run, as plain JSON values.
        step: after which the run goes on; whatever was told of later ones before is void.
    """

    def __init__(self, directory: str, settings: Mapping[str, Any], step: int) -> None: ...

    def write(self, scalars: Mapping[str, float], step: int) -> None:
        """Takes the numbers of a step."""

    def close(self) -> None:
        """Writes what is left, also where the run has failed."""


def scalars(event: Event) -> dict[str, float]:
    """Returns the numbers of an event by names in the manner of TensorBoard, where a slash groups them;
    losses in nats a token.
    """
    if isinstance(event, StepEvent):
        rate = event.tokens / max(event.seconds, 1e-9)
        numbers = {
            "loss/training": event.loss,
            "learning_rate": event.learning_rate,
            "tokens_per_second": rate,
        }
        numbers |= {"gradient_norm": event.gradient_norm} if event.gradient_norm is not None else {}
        return numbers | {
            f"update_to_weight/{e['name']}": e["ratio"]
            for e in event.parameters or []
            if e.get("ratio") is not None
        }
    return {"loss/validation": event.val_loss} if isinstance(event, ValidationEvent) else {}


def find_logger(name: str) -> type[Logger]:
    """Returns the class that is installed under a name.

    Raises:
        ValueError: there is none; the message says which there are.
        RuntimeError: it cannot be imported; the message says what to install.
    """
    from importlib.metadata import entry_points  # 20 ms to import, so only when someone asks

    points = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    if name not in points:
        known = (
            f"known are {', '.join(sorted(points))}"
            if points
            else 'none is installed: pip install "tinygpt-accel[tensorboard]"'
        )
        raise ValueError(f"there is no logger {name!r}: {known}")
    try:
        found: type[Logger] = points[name].load()
    except ImportError as problem:
        raise RuntimeError(
            f'the logger {name} needs {problem.name}: pip install "tinygpt-accel[{name}]"'
        ) from problem
    return found


@contextmanager
def following(trainer: Trainer, kinds: list[type[Logger]]) -> Iterator[Callable[[Event], None]]:
    """Opens loggers for a run that is about to go on, and closes them at its end.

    Returns:
        A context manager; what it gives is a function that tells all of them of an event.
    """
    with ExitStack() as stack:
        opened = []
        for kind in kinds:
            opened.append(kind(trainer.directory, trainer.config.to_dict(), trainer.step))
            stack.callback(opened[-1].close)

        def tell(event: Event) -> None:
            if numbers := scalars(event):
                for logger in opened:
                    logger.write(numbers, event.step)

        yield tell
