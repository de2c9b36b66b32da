"""Runs that are resumed with another number of steps: what is said of the learning rate, and when not."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from tinygpt_core.training import StepEvent, Trainer, TrainingConfig

CONFIG = TrainingConfig(
    corpus="identifiers",
    steps=9,
    context_length=8,
    num_layers=1,
    num_heads=1,
    embedding_dim=8,
    batch_size=2,
    checkpoint_every=0,
    eval_every=0,
    eval_batches=1,
    backend="python",
)


def stopped_at(step: int, folder: Path) -> str:
    trainer = Trainer.start(CONFIG, str(folder / "run"))
    for event in trainer.run():
        if isinstance(event, StepEvent) and event.step == step:
            trainer.stop_requested = True
    assert trainer.step == step
    return str(folder / "run")


@pytest.mark.parametrize("steps", [5, 9])
def test_where_no_step_is_made_at_another_rate_nothing_is_said(steps: int, tmp_path: Path) -> None:
    """Of steps that end where the run stands, and of those that it had in any case."""
    directory = stopped_at(5, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resumed = Trainer.resume(directory, steps=steps)
    assert resumed.is_finished == (steps == 5)


@pytest.mark.parametrize("steps", [6, 12])
def test_where_one_is_made_it_is_said(steps: int, tmp_path: Path) -> None:
    directory = stopped_at(5, tmp_path)
    with pytest.warns(UserWarning, match=f"{steps} steps in place of 9"):
        Trainer.resume(directory, steps=steps)
