"""The best validation of a run: its checkpoint is kept, and a run ends when none is better for a while."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mpi_runs import log_of
from small_runs import TINY_WITHOUT_COUNTING as TINY
from small_runs import WORDS, config_of_words
from test_cli import assert_refused, tinygpt

from tinygpt_core import cli
from tinygpt_core.training import SettingError, Trainer, TrainingConfig, ValidationEvent, load_model
from tinygpt_core.training.best import Best
from tinygpt_core.training.checkpoint import CheckpointError, load_checkpoint

LOSSES = [3.0, 2.5, 2.5, 2.0, 2.75, 2.25, 2.5, 1.0, 1.5]  # of the validations, one every two steps
CHECKPOINT = ("config.json", "model.safetensors", "optimizer.safetensors", "state.json", "tokenizer")


@pytest.fixture
def config(tmp_path: Path) -> TrainingConfig:
    return config_of_words(
        tmp_path, steps=18, eval_every=2, eval_batches=1, checkpoint_every=5, batch_size=2, dropout=0.25
    )


@pytest.fixture
def validations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of LOSSES in place of the true ones, whose course nobody can choose."""
    monkeypatch.setattr(Trainer, "validate", lambda self: LOSSES[self.step // 2 - 1])


def train(trainer: Trainer) -> list[Any]:
    return list(trainer.run())


def checkpoint(run: Path) -> dict[str, bytes]:
    return {name: (run / name).read_bytes() for name in CHECKPOINT}


# ---- the rule


@given(st.lists(st.sampled_from([1.0, 1.5, 2.0, 3.0]), max_size=12))
def test_the_best_is_the_first_of_the_least(losses: list[float]) -> None:
    best = Best()
    better = [best.note(step, loss) for step, loss in enumerate(losses)]
    assert better == [all(loss < before for before in losses[:i]) for i, loss in enumerate(losses)]
    if losses:
        assert best.val_loss == min(losses) and best.step == losses.index(min(losses))
        assert best.waited == len(losses) - 1 - losses.index(min(losses))
    again = Best()
    again.set_state(json.loads(json.dumps(best.get_state())))
    assert vars(again) == vars(best)


@pytest.mark.parametrize(
    "state",
    [
        None,
        {},
        {"step": 1, "val_loss": "low", "waited": 0},
        {"step": 1, "val_loss": None, "waited": 0},
        {"step": None, "val_loss": 1.0, "waited": 0},
        {"step": -1, "val_loss": 1.0, "waited": 0},
        {"step": True, "val_loss": 1.0, "waited": 0},
        {"step": 1, "val_loss": 1.0, "waited": -1},
        {"step": 1, "val_loss": 10**400, "waited": 0},
    ],
)
def test_a_state_that_is_none_is_refused(state: object) -> None:
    with pytest.raises(ValueError, match="best validation"):
        Best().set_state(state)


# ---- in a run


@pytest.mark.usefixtures("validations")
@pytest.mark.parametrize(("patience", "ends"), [(1, 6), (2, 12), (3, 14), (4, 18), (0, 18)])
def test_a_run_ends_when_it_has_lost_patience(
    config: TrainingConfig, tmp_path: Path, patience: int, ends: int
) -> None:
    run = tmp_path / "run"
    trainer = Trainer.start(replace(config, patience=patience), str(run))
    events = train(trainer)
    assert trainer.step == trainer.saved_step == ends and trainer.is_finished
    assert trainer.has_lost_patience == (ends < 18)
    last = [event for event in events if isinstance(event, ValidationEvent)][-1]
    assert last.step == ends and last.ladder
    assert (last.waited == patience or ends == 18) if patience else last.waited is None
    assert load_checkpoint(run).state["step"] == ends
    resumed = Trainer.resume(str(run))
    assert resumed.is_finished and train(resumed) == []
    if ends < 18:  # with more patience it goes on as if it had had it from the beginning
        train(Trainer.resume(str(run), patience=4))
        whole = tmp_path / "whole"
        train(Trainer.start(replace(config, patience=4), str(whole)))
        without_ladder = [{k: v for k, v in line.items() if k != "ladder"} for line in log_of(run)]
        assert without_ladder == [{k: v for k, v in line.items() if k != "ladder"} for line in log_of(whole)]
        assert checkpoint(run) == checkpoint(whole)


@pytest.mark.usefixtures("validations")
def test_the_best_checkpoint_is_what_the_run_was_then(config: TrainingConfig, tmp_path: Path) -> None:
    run, until = tmp_path / "run", tmp_path / "until"
    train(Trainer.start(replace(config, keep_best=True), str(run)))
    assert {line["best_step"] for line in log_of(run) if "val_loss" in line} == {2, 4, 8, 16}
    assert load_checkpoint(run).state["step"] == 18
    assert load_checkpoint(run / "best").state["best"] == {"step": 16, "val_loss": 1.0, "waited": 0}
    trainer = Trainer.start(config, str(until))
    for event in trainer.run():
        trainer.stop_requested = event.step >= 16
    for name in ("model.safetensors", "optimizer.safetensors", "tokenizer"):
        assert (run / "best" / name).read_bytes() == (until / name).read_bytes()
    assert load_model(str(run / "best"))[0].config == load_model(str(run))[0].config


@pytest.mark.usefixtures("validations")
@pytest.mark.parametrize("stops", [[1, 2, 3, 4, 5, 6, 7], [8, 9, 14], [15, 16, 17]])
def test_stopped_anywhere_and_resumed_it_is_the_same_run(
    config: TrainingConfig, tmp_path: Path, stops: list[int]
) -> None:
    config = replace(config, keep_best=True, patience=4)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(Trainer.start(config, str(whole)))
    trainer = Trainer.start(config, str(parts))
    for stop in stops:
        for event in trainer.run():
            trainer.stop_requested = event.step >= stop
        trainer = Trainer.resume(str(parts))
    train(trainer)
    assert log_of(parts) == log_of(whole)
    assert checkpoint(parts) == checkpoint(whole)
    assert checkpoint(parts / "best") == checkpoint(whole / "best")


class Killed(BaseException):
    """Ends a run where nothing of it can be caught, as a kill does."""


@pytest.mark.usefixtures("validations")
@pytest.mark.parametrize("write", range(12))
def test_killed_between_the_two_checkpoints_it_is_the_same_run(
    config: TrainingConfig, tmp_path: Path, write: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the n-th write of a checkpoint, of the best or of the run's own."""
    config = replace(config, keep_best=True, patience=4)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(Trainer.start(config, str(whole)))
    save: Callable[..., None] = Trainer.save
    count = 0

    def save_until(self: Trainer, directory: str | None = None) -> None:
        nonlocal count
        count += 1
        if count == write + 2:  # the first is that of the start
            raise Killed
        save(self, directory)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "save", save_until)
        trainer = Trainer.start(config, str(killed))
        try:
            train(trainer)
        except Killed:
            pass
        else:
            assert write >= count - 1
    train(Trainer.resume(str(killed)))
    assert log_of(killed) == log_of(whole)
    assert checkpoint(killed) == checkpoint(whole)
    assert checkpoint(killed / "best") == checkpoint(whole / "best")


def test_without_validations_there_is_no_best(config: TrainingConfig) -> None:
    for change in ({"keep_best": True}, {"patience": 3}):
        with pytest.raises(
            SettingError, match=f"^{next(iter(change))} needs validations, and eval_every is 0"
        ):
            replace(config, eval_every=0, **change)


@pytest.mark.usefixtures("validations")
def test_a_damaged_best_is_refused(config: TrainingConfig, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(Trainer.start(replace(config, patience=2), str(run)))
    state = json.loads((run / "state.json").read_text())
    state["state"]["best"]["waited"] = "long"
    del state["state_sha256"]
    (run / "state.json").write_text(json.dumps(state))
    with pytest.raises(CheckpointError, match="damaged: expected the step and the loss of the best"):
        Trainer.resume(str(run))


# ---- as real processes


def test_a_run_that_gets_worse_ends_early_and_its_best_is_kept(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text(WORDS)
    options = [*TINY, "--backend", "python", "--steps", "60", "--eval-every", "1", "--learning-rate", "3"]
    options += ["--warmup-steps", "0", "--keep-best", "--patience", "2", "--out", "run", "--quiet"]
    done = tinygpt("train", "names", "--data", "words.txt", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = re.search(r"ended early, after step (\d+): 2 validations in a row not better", done.stdout)
    assert found and int(found[1]) < 60, done.stdout
    losses = {line["step"]: line["val_loss"] for line in log_of(tmp_path / "run") if "val_loss" in line}
    best = min(losses, key=lambda step: losses[step])
    assert f"the best, after step {best} with {losses[best]:.3f}, is kept in run/best" in done.stdout
    assert json.loads((tmp_path / "run/best/state.json").read_text())["state"]["step"] == best
    assert tinygpt("generate", "run/best", "--tokens", "3", cwd=tmp_path).returncode == 0
    again = tinygpt("train", "--resume", "run", cwd=tmp_path)
    assert "it has ended early: --patience N" in again.stdout
    more = tinygpt("train", "--resume", "run", "--patience", "0", "--no-keep-best", "--quiet", cwd=tmp_path)
    assert more.returncode == 0 and "ended early" not in more.stdout
    assert log_of(tmp_path / "run")[-1]["step"] == 60
    refused = tinygpt("train", "--resume", "run", "--eval-every", "0", "--patience", "1", cwd=tmp_path)
    assert_refused(refused, "--patience needs validations, and --eval-every is 0")


def test_a_run_that_has_diverged_follows_the_advice_it_is_given(
    config: TrainingConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    total_loss = Trainer.total_loss

    def diverging(self: Trainer, batch: Any) -> Any:
        """Infinite from step 5 on, but only at a large rate."""
        factor = math.inf if self.optimizer.learning_rate > 0.1 and self.step >= 4 else 1.0
        return total_loss(self, batch) * factor

    monkeypatch.setattr(Trainer, "total_loss", diverging)
    run = str(tmp_path / "run")
    options = ["names", "--data", str(config.data_file), *TINY, "--backend", "python", "--quiet"]
    assert cli.main(["train", *options, "--learning-rate", "0.5", "--warmup-steps", "0", "--out", run]) == 1
    told = capsys.readouterr().err
    advice = re.search(r"`train --resume (\S+) --learning-rate (\S+)` goes on from step (\d+)", told)
    assert advice and (advice[1], advice[2], advice[3]) == (run, "0.05", "3") and told.count("\n") == 1
    resumed = ["train", "--resume", advice[1], "--learning-rate", advice[2], "--quiet"]
    assert cli.main([*resumed, "--show-config"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^learning-rate = 0\.05 ", shown, re.MULTILINE)
    assert cli.main(resumed) == 0
    rates = [line["learning_rate"] for line in log_of(tmp_path / "run") if "loss" in line]
    assert len(rates) == 6 and rates[2] > 0.1 and max(rates[3:]) < 0.05
    kept = json.loads((tmp_path / "run" / "config.json").read_text())["training"]
    assert kept["learning_rate"] == 0.05
    assert kept["minimum_learning_rate"] == pytest.approx(0.005)  # a tenth, as before


def test_another_learning_rate_is_kept_at_once(config: TrainingConfig, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    trainer = Trainer.start(config, run)
    for event in trainer.run():
        trainer.stop_requested = event.step >= 3
    resumed = Trainer.resume(run, learning_rate=config.learning_rate / 5)
    events = resumed.run()
    next(events)
    kept = load_checkpoint(run)
    assert kept.state["step"] == 3  # a kill now would lose step 4, but not the rate
    assert kept.config["training"]["learning_rate"] == config.learning_rate / 5
    assert kept.config["training"]["minimum_learning_rate"] == pytest.approx(config.minimum_learning_rate / 5)
    for event in events:
        resumed.stop_requested = event.step >= 6
    with pytest.raises(SettingError, match="learning_rate must be above 0"):
        Trainer.resume(run, learning_rate=0.0)
