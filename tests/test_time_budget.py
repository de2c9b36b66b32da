"""Runs that end by the clock: the learning rate falls by it, and a run that was killed goes on to the bit."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tinygpt_core.cli.options import seconds
from tinygpt_core.training import Trainer, TrainingConfig, budget
from tinygpt_core.training.budget import recorded_times
from tinygpt_core.training.checkpoint import CheckpointError, load_checkpoint
from tinygpt_core.training.presets import PRESETS

CONFIG = replace(
    PRESETS["debug"].config,
    time_budget=8.0,
    steps=1000,
    embedding_dim=4,
    batch_size=2,
    checkpoint_every=3,
    eval_every=4,
    eval_batches=1,
    warmup_steps=2,
)


class FakeTime:
    """A clock that goes on by a second whenever it is looked at, or by another time."""

    def __init__(self, tick: float) -> None:
        self.now = 100.0
        self.tick = tick

    def perf_counter(self) -> float:
        self.now += self.tick
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    fake = FakeTime(0.2)
    monkeypatch.setattr(budget, "time", fake)
    return fake


def steps_in(log: Path) -> list[dict[str, Any]]:
    entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return [
        {k: v for k, v in e.items() if k not in ("seconds", "parameters")} for e in entries if "loss" in e
    ]


def test_the_rate_falls_by_the_clock_and_the_run_ends_with_it(clock: FakeTime, tmp_path: Path) -> None:
    trainer = Trainer.start(CONFIG, str(tmp_path / "run"))
    events = list(trainer.run())
    steps = steps_in(tmp_path / "run" / "log.jsonl")
    assert trainer.is_finished and 10 < trainer.step < 1000 and len(steps) == trainer.step
    times = [entry["elapsed"] for entry in steps]
    assert times == sorted(times) and times[-1] < 8.5 and trainer.clock.elapsed > 7.0
    for entry in steps:
        ratio = entry["elapsed"] / 8.0
        rate = 0.0007 + (0.015 - 0.0007) * (1 + math.cos(math.pi * ratio)) / 2
        assert entry["learning_rate"] == pytest.approx(min(rate, 0.015 * entry["step"] / 3), rel=1e-12)
    assert events[-2].ladder is not None  # the last validation knows that it is the last


def test_a_run_that_was_killed_makes_the_same_steps_again(clock: FakeTime, tmp_path: Path) -> None:
    trainer = Trainer.start(CONFIG, str(tmp_path / "run"))
    for event in trainer.run():
        if hasattr(event, "loss") and event.step == 8:
            shutil.copytree(tmp_path / "run", tmp_path / "killed")  # two steps after the last checkpoint
    expected = steps_in(tmp_path / "run" / "log.jsonl")[:8]
    clock.tick = 0.01  # another machine
    resumed = Trainer.resume(str(tmp_path / "killed"))
    assert resumed.step == 6
    for event in resumed.run():
        if hasattr(event, "loss") and event.step == 9:
            resumed.stop_requested = True
    again = steps_in(tmp_path / "killed" / "log.jsonl")
    assert again[:8] == expected
    assert again[8]["elapsed"] >= expected[7]["elapsed"]


def test_a_run_that_is_killed_while_it_makes_steps_again_makes_them_once_more(
    clock: FakeTime, tmp_path: Path
) -> None:
    """What the log has lost when it is resumed, the checkpoint knows."""
    trainer = Trainer.start(replace(CONFIG, checkpoint_every=6), str(tmp_path / "run"))
    for event in trainer.run():
        if hasattr(event, "loss") and event.step == 5:
            shutil.copytree(tmp_path / "run", tmp_path / "killed")  # nothing is kept but the beginning
    expected = steps_in(tmp_path / "run" / "log.jsonl")[:5]
    clock.tick = 0.01
    for stop_at in (0, 2, 4):  # killed before its first step, and after some of them
        resumed = Trainer.resume(str(tmp_path / "killed"))
        assert resumed.step == 0 and sorted(resumed.clock.recorded) == [1, 2, 3, 4, 5]
        for event in resumed.run() if stop_at else ():
            if event.step == stop_at:
                break
    resumed = Trainer.resume(str(tmp_path / "killed"))
    for event in resumed.run():
        resumed.stop_requested = event.step == 3  # is kept with the times of the last two
    assert resumed.step == 3
    resumed = Trainer.resume(str(tmp_path / "killed"))
    assert sorted(resumed.clock.recorded) == [4, 5]
    for event in resumed.run():
        resumed.stop_requested = event.step == 6
    again = steps_in(tmp_path / "killed" / "log.jsonl")
    assert again[:5] == expected and again[5]["elapsed"] >= expected[4]["elapsed"]
    assert "times_ahead" not in load_checkpoint(tmp_path / "killed").state


@pytest.mark.parametrize("ahead", ["soon", {"1": 2.0}, [1.0, "soon"], [-1.0], [math.nan]])
def test_damaged_times_ahead_are_refused(clock: FakeTime, tmp_path: Path, ahead: object) -> None:
    trainer = Trainer.start(CONFIG, str(tmp_path / "run"))
    trainer.save()
    saved = load_checkpoint(tmp_path / "run")
    saved.state["times_ahead"] = ahead
    with pytest.raises(CheckpointError, match=r"is damaged: its (times_ahead|elapsed)"):
        trainer.restore(saved)


def test_a_run_whose_time_is_over_makes_no_more_steps(clock: FakeTime, tmp_path: Path) -> None:
    first = Trainer.start(CONFIG, str(tmp_path / "run"))
    list(first.run())
    assert first.is_finished and first.clock.elapsed >= 8.0
    elapsed = first.clock.elapsed
    again = Trainer.resume(str(tmp_path / "run"))
    assert again.is_finished and again.clock.elapsed == pytest.approx(elapsed, abs=1.0)
    assert list(again.run()) == [] and again.step == first.step


def test_a_run_that_was_stopped_stays_unfinished_while_the_clock_stands(
    clock: FakeTime, tmp_path: Path
) -> None:
    """What comes after the loop, such as samples, takes nothing from the budget."""
    trainer = Trainer.start(CONFIG, str(tmp_path / "run"))
    for event in trainer.run():
        if hasattr(event, "loss") and event.step == 4:
            trainer.stop_requested = True
    clock.now += 1000.0
    assert not trainer.is_finished and trainer.clock.elapsed < 8.0


def test_more_time_goes_on(clock: FakeTime, tmp_path: Path) -> None:
    first = Trainer.start(CONFIG, str(tmp_path / "run"))
    list(first.run())
    longer = Trainer.resume(str(tmp_path / "run"), time_budget=12.0)
    assert not longer.is_finished
    list(longer.run())
    assert longer.step > first.step


def test_times_in_a_log_that_cannot_be_are_left_out(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    lines = [
        '{"step": 3, "elapsed": 1.0}',
        '{"step": 4, "elapsed": 2.0}',
        "not json",
        '{"step": 5, "elapsed": "soon"}',
        '{"step": 6, "elapsed": 3.0}',
        f'{{"step": 5, "elapsed": {10**400}}}',
        '{"step": 5, "elapsed": Infinity}',
        '{"step": true, "elapsed": 3.0}',
        "[]",
    ]
    log.write_text("\n".join(lines), encoding="utf-8")
    assert recorded_times(str(log), 3) == {4: 2.0}
    assert recorded_times(str(tmp_path / "none"), 0) == {}


@pytest.mark.parametrize("elapsed", ["soon", -1.0, True, None, 10**400, math.inf, math.nan])
def test_a_damaged_time_is_refused(clock: FakeTime, tmp_path: Path, elapsed: object) -> None:
    from tinygpt_core.training.loop import _elapsed

    with pytest.raises(CheckpointError, match="elapsed"):
        _elapsed(elapsed, "there")


def test_times_on_the_command_line() -> None:
    assert [seconds(text) for text in ("60s", "5m", "1.5h", "7")] == [60.0, 300.0, 5400.0, 7.0]
    for text in ("", "s", "soon", "5 minutes"):
        with pytest.raises(Exception, match="a time is like"):
            seconds(text)
    assert "time_budget" not in TrainingConfig().to_dict()
