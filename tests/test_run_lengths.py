"""How long runs are: with another number of steps than before, and by the clock, in a few steps each."""

from __future__ import annotations

import json
import math
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_runs import SMALLEST

from tinygpt_core.training import StepEvent, Trainer, budget
from tinygpt_core.training.checkpoint import CheckpointError, load_checkpoint
from tinygpt_core.training.loop import _elapsed, timed_learning_rate

CONFIG = replace(SMALLEST, steps=9, batch_size=2, eval_batches=1)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of nine steps that was stopped after five."""
    directory = tmp_path_factory.mktemp("stopped") / "run"
    trainer = Trainer.start(CONFIG, str(directory))
    for event in trainer.run():
        if isinstance(event, StepEvent) and event.step == 5:
            trainer.stop_requested = True
    assert trainer.step == 5
    return directory


@pytest.mark.parametrize("steps", [5, 6, 9, 12])
def test_another_rate_is_told_where_a_step_is_made_at_it(steps: int, stopped: Path, tmp_path: Path) -> None:
    """Not of steps that end where the run stands, nor of those that it had in any case."""
    directory = str(shutil.copytree(stopped, tmp_path / "run"))
    if steps in (6, 12):
        with pytest.warns(UserWarning, match=f"{steps} steps in place of 9"):
            Trainer.resume(directory, steps=steps)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resumed = Trainer.resume(directory, steps=steps)
    assert resumed.is_finished == (steps == 5)


def test_steps_behind_the_checkpoint_are_made_and_logged_once(stopped: Path, tmp_path: Path) -> None:
    """What a process had logged when it was killed goes away, and comes again."""
    directory = shutil.copytree(stopped, tmp_path / "run")
    log = directory / "log.jsonl"
    with log.open("a", encoding="utf-8") as file:
        file.write('{"step": 6, "loss": 1.0}\n{"step": 7, "loss": 1.0}\n')
    list(Trainer.resume(str(directory)).run())
    entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    steps = [entry["step"] for entry in entries if "loss" in entry]
    assert steps == list(range(1, 10)) and entries[5]["loss"] != 1.0


class Time:
    """Half a second later whenever somebody looks."""

    now = 100.0

    def perf_counter(self) -> float:
        self.now += 0.5
        return self.now


def test_a_few_seconds_by_the_clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The rate of each step is that of the time before it, which is what was recorded of steps that are made
    again; after the run the clock stands.
    """
    time = Time()
    monkeypatch.setattr(budget, "time", time)
    config = replace(CONFIG, steps=1000, time_budget=8.0, learning_rate=0.5, minimum_learning_rate=0.1)
    trainer = Trainer.start(replace(config, warmup_steps=0), str(tmp_path / "run"))
    recorded = {1: 0.25, 2: 1.5, 3: 2.25}
    trainer.clock.recorded = dict(recorded)
    steps = [event for event in trainer.run() if isinstance(event, StepEvent)]
    times = [event.elapsed for event in steps]
    assert times[:3] == list(recorded.values()) and len(steps) > 4 and not trainer.clock.recorded
    for event in steps:
        share = (1.0 + math.cos(math.pi * min(event.elapsed / 8.0, 1.0))) / 2.0  # type: ignore[operator]
        assert event.learning_rate == pytest.approx(0.1 + 0.4 * share, rel=1e-12)
    shares = [int(elapsed / 8.0 * 20) for elapsed in times]  # type: ignore[operator]
    assert [event.parameters is not None for event in steps] == [
        number == 0 or shares[number] != shares[number - 1] for number in range(len(steps))
    ]
    elapsed = trainer.clock.elapsed
    time.now += 1000.0
    assert trainer.is_finished and trainer.clock.elapsed == elapsed < 10.0


def test_the_clock_of_a_run_goes_on_where_its_checkpoint_left_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Steps behind it begin when they did before, and what comes after goes on from there; the time in
    between counts for nothing.
    """
    time = Time()
    monkeypatch.setattr(budget, "time", time)
    config = replace(CONFIG, steps=1000, time_budget=50.0, checkpoint_every=3)
    trainer = Trainer.start(config, str(tmp_path / "run"))
    times: dict[int, float] = {}
    for event in trainer.run():
        if isinstance(event, StepEvent):
            times[event.step] = event.elapsed  # type: ignore[assignment]
            if event.step == 5:
                shutil.copytree(tmp_path / "run", tmp_path / "killed")
                trainer.stop_requested = True
    time.now += 1000.0
    kept = load_checkpoint(tmp_path / "killed").state["elapsed"]
    again = Trainer.resume(str(tmp_path / "killed"))
    assert again.step == 3 and again.clock.elapsed == kept and times[3] < kept < times[4]
    for event in again.run():
        if isinstance(event, StepEvent):
            assert event.elapsed == times.get(event.step, event.elapsed)
            again.stop_requested = event.step == 6
            assert event.step < 6 or times[5] < event.elapsed < times[5] + 5.0  # type: ignore[operator]
    assert load_checkpoint(tmp_path / "killed").state["step"] == 6


def test_a_checkpoint_has_the_time_until_it_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also what a validation before it took."""
    time = Time()
    monkeypatch.setattr(budget, "time", time)
    trainer = Trainer.start(replace(CONFIG, steps=1000, time_budget=50.0), str(tmp_path / "run"))
    trainer.clock.start()
    time.now += 7.0
    trainer.save()
    assert 7.0 <= load_checkpoint(tmp_path / "run").state["elapsed"] < 14.0


@pytest.mark.parametrize("elapsed", [0, 0.0, 0.25, 1e9])
def test_seconds_that_a_checkpoint_may_have(elapsed: float) -> None:
    assert _elapsed(elapsed, "there") == elapsed


@pytest.mark.parametrize("elapsed", ["soon", -1e-9, True, None, math.inf, math.nan])
def test_seconds_that_a_checkpoint_cannot_have(elapsed: object) -> None:
    with pytest.raises(CheckpointError, match="elapsed"):
        _elapsed(elapsed, "there")


@given(
    st.sampled_from(["cosine", "wsd"]),
    st.floats(0.5, 40.0),
    st.integers(0, 6),
    st.integers(0, 12),
    st.floats(0.0, 60.0),
    st.floats(0.05, 1.0),
    st.floats(0.0, 1.0),
)
def test_the_rate_by_the_clock(
    schedule: str, seconds: float, warmup_steps: int, step: int, elapsed: float, fraction: float, share: float
) -> None:
    """As its formula is written out here: it falls by the time that has passed, and rises by steps."""
    lowest = 0.4 * share
    config = replace(
        CONFIG,
        schedule=schedule,
        time_budget=seconds,
        learning_rate=0.4,
        minimum_learning_rate=lowest,
        warmup_steps=warmup_steps,
        decay_fraction=fraction,
    )
    passed = elapsed / seconds if elapsed < seconds else 1.0
    if schedule == "cosine":
        height = math.cos(math.pi * passed / 2.0) ** 2
    elif seconds - elapsed >= fraction * seconds:
        height = 1.0
    else:
        height = 1.0 - math.sqrt(1.0 - (1.0 - passed) / fraction)
    expected = lowest * (1.0 - height) + 0.4 * height
    if step < warmup_steps:
        expected = min(expected, 0.4 * (step + 1) / (warmup_steps + 1))
    assert timed_learning_rate(config, step, elapsed) == pytest.approx(expected, abs=1e-6)
