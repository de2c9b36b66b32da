"""What happens while a model trains: the events that `Trainer.run` yields, one after the other."""

from __future__ import annotations

from typing import Any, NamedTuple


class StepEvent(NamedTuple):
    """One update: its mean loss a target token (nats), how many target tokens it saw and how long it took.

    Where they are known, also the gradient's norm before it was clipped and, now and then, what the update
    did to each parameter (see `statistics.statistics`). `skipped` is True where the gradient was not finite:
    then nothing was changed. `elapsed` is the time in seconds that a run with a time budget had behind it
    when the step began, by which its learning rate was chosen. `sample` is a text that the model wrote after
    the update, its beginning included, at the steps where one was asked for.
    """

    step: int
    loss: float
    learning_rate: float
    tokens: int
    seconds: float
    gradient_norm: float | None = None
    parameters: list[dict[str, Any]] | None = None
    skipped: bool | None = None
    elapsed: float | None = None
    sample: str | None = None


class ValidationEvent(NamedTuple):
    """The mean loss over the fixed validation batches after `step` updates.

    At the end of a run also the `ladder`: what others need on the same batches (see `ladder`). In a run that
    looks for its best validation, after which step that was (`best_step`), and how many came after it
    (`waited`).
    """

    step: int
    val_loss: float
    ladder: dict[str, float] | None = None
    best_step: int | None = None
    waited: int | None = None


class CheckpointEvent(NamedTuple):
    """The state after `step` updates is safe on disk."""

    step: int
    directory: str


Event = StepEvent | ValidationEvent | CheckpointEvent
