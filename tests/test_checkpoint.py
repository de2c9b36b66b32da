"""Checkpoints: whole at every moment, whatever is interrupted; and nothing damaged is ever loaded."""

from __future__ import annotations

import builtins
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tinygpt_core import Buffer
from tinygpt_core.tokenizer import CharTokenizer
from tinygpt_core.training import checkpoint
from tinygpt_core.training.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
    truncate_log,
)

ROOT = Path(__file__).resolve().parent.parent
FILES = ["config.json", "model.safetensors", "optimizer.safetensors", "state.json", "tokenizer"]


def save(directory: Path, number: int) -> None:
    save_checkpoint(
        directory,
        config={"number": number},
        tokenizer=CharTokenizer("abc"),
        model_tensors={"w": Buffer([float(number)] * 3)},
        optimizer_tensors={"m": Buffer([[float(number)]])},
        state={"step": number, "loss": 0.1 * number},
    )


def number_of(checkpoint: Checkpoint) -> int:
    """Which checkpoint this is; fails if its parts are of different ones."""
    number = int(checkpoint.state["step"])
    assert checkpoint.config == {"number": number} and checkpoint.state["loss"] == 0.1 * number
    assert checkpoint.model_tensors["w"].to_python() == [float(number)] * 3
    assert checkpoint.optimizer_tensors["m"].to_python() == [[float(number)]]
    assert checkpoint.tokenizer.encode("cab") == [2, 0, 1]
    return number


def test_round_trip(tmp_path: Path) -> None:
    save(tmp_path / "run", 1)
    assert sorted(os.listdir(tmp_path / "run")) == FILES
    assert number_of(load_checkpoint(tmp_path / "run")) == 1
    save(tmp_path / "run", 2)
    assert number_of(load_checkpoint(tmp_path / "run")) == 2
    assert load_checkpoint(tmp_path / "run", optimizer=False).optimizer_tensors == {}


class Crash(BaseException):
    """The process dies here."""


@pytest.mark.parametrize("first", [False, True], ids=["with an older checkpoint", "the first checkpoint"])
def test_a_crash_at_any_call_leaves_the_old_or_the_new_checkpoint(
    first: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes, n = [], 0
    while True:
        n += 1
        directory = tmp_path / str(n)
        if not first:
            save(directory, 1)
        calls = 0

        def counted(function: Any, limit: int = n) -> Any:
            def call(*arguments: Any, **options: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls == limit:
                    raise Crash
                return function(*arguments, **options)

            return call

        with monkeypatch.context() as patch:
            for name in ("replace", "fsync", "makedirs", "unlink"):
                patch.setattr(os, name, counted(getattr(os, name)))
            patch.setattr(builtins, "open", counted(builtins.open))
            try:
                save(directory, 2)
                done = True
            except Crash:
                done = False
        if done:
            break
        copy = tmp_path / f"{n}-copy"
        if directory.exists():
            # What a second look would find, before the first one repairs anything
            shutil.copytree(directory, copy)
        for place in (copy, directory):
            try:
                outcomes.append(number_of(load_checkpoint(place)))
            except CheckpointError:
                assert first  # there was nothing to fall back on
                outcomes.append(0)
        assert outcomes[-1] == outcomes[-2]
        save(directory, 3)  # and life goes on
        assert number_of(load_checkpoint(directory)) == 3
    assert n > 15
    assert outcomes == sorted(outcomes) and set(outcomes) == ({0, 2} if first else {1, 2})


def test_a_second_crash_does_not_destroy_what_the_first_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1)
    real = os.replace
    with monkeypatch.context() as patch:  # dies after the commit, before the renames

        def replace(source: Any, target: Any) -> None:
            if str(source).endswith(".next"):
                raise Crash
            real(source, target)

        patch.setattr(os, "replace", replace)
        with pytest.raises(Crash):
            save(tmp_path, 2)
    with monkeypatch.context() as patch:  # the next save dies while it writes

        def fsync(descriptor: int) -> None:
            raise Crash

        patch.setattr(os, "fsync", fsync)
        with pytest.raises(Crash):
            save(tmp_path, 3)
    assert number_of(load_checkpoint(tmp_path)) == 2


@pytest.mark.parametrize("name", [name for name in FILES if name != "state.json"])
def test_damaged_files_are_named(name: str, tmp_path: Path) -> None:
    save(tmp_path / "run", 1)
    whole = (tmp_path / "run" / name).read_bytes()
    for damage in (whole[:-1], b"", bytes([whole[0] ^ 1]) + whole[1:], whole + b" "):
        (tmp_path / "run" / name).write_bytes(damage)
        with pytest.raises(CheckpointError, match=name):
            load_checkpoint(tmp_path / "run")
    (tmp_path / "run" / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        load_checkpoint(tmp_path / "run")


def test_damaged_states_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "run", 1)
    path = tmp_path / "run" / "state.json"
    whole = path.read_text()
    value = json.loads(whole)
    for cut in range(0, len(whole) - 2, 5):
        path.write_text(whole[:cut])
        with pytest.raises(CheckpointError):
            load_checkpoint(tmp_path / "run")
    for change in (
        {"files": {}},
        {"files": []},
        {"state": 3},
        {"format_version": "1"},
        {"format_version": 0},
    ):
        path.write_text(json.dumps({**value, **change}))
        with pytest.raises(CheckpointError):
            load_checkpoint(tmp_path / "run")
    path.write_text(json.dumps({**value, "format_version": 99}))
    with pytest.raises(CheckpointError, match=r"newer.*upgrade"):
        load_checkpoint(tmp_path / "run")
    value["files"]["tokenizer"]["sha256"] = 5
    path.write_text(json.dumps(value))
    with pytest.raises(CheckpointError, match="tokenizer"):
        load_checkpoint(tmp_path / "run")


def test_no_checkpoint_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no directory"):
        load_checkpoint(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_checkpoint(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="cannot write"):
        save(tmp_path / "file" / "run", 1)


LOOP = """
import sys
sys.path.insert(0, {root!r}); sys.path.insert(0, {tests!r})
from pathlib import Path
from test_checkpoint import save
number = 1
while True:
    number += 1
    save(Path({directory!r}), number)
"""


def test_a_process_killed_while_it_saves(tmp_path: Path) -> None:
    save(tmp_path, 1)
    code = LOOP.format(root=str(ROOT), tests=str(ROOT / "tests"), directory=str(tmp_path))
    reached = 1
    for attempt in range(4):
        process = subprocess.Popen([sys.executable, "-c", code])
        deadline = time.monotonic() + 20
        while number_of(load_checkpoint(tmp_path)) <= 2 and time.monotonic() < deadline and attempt == 0:
            time.sleep(0.02)
        time.sleep(0.4 + random.Random(attempt).random() / 10)
        process.send_signal(signal.SIGKILL)
        process.wait()
        reached = max(reached, number_of(load_checkpoint(tmp_path)))
    assert reached > 1


def test_reading_while_another_process_saves(tmp_path: Path) -> None:
    """What is read is always one whole checkpoint, never an older one than before; and the one that saves is
    not disturbed.
    """
    save(tmp_path, 1)
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            LOOP.format(root=str(ROOT), tests=str(ROOT / "tests"), directory=str(tmp_path)),
        ]
    )
    try:
        seen, deadline = [1], time.monotonic() + 60
        while len(set(seen)) < 30 and time.monotonic() < deadline:
            seen.append(number_of(load_checkpoint(tmp_path)))
        assert process.poll() is None, "reading has ended the process that saves"
    finally:
        process.kill()
        process.wait()
    assert len(set(seen)) >= 30 and seen == sorted(seen)


def test_a_reader_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a killed process has left a rename undone."""
    save(tmp_path, 1)
    real, calls = os.replace, iter(range(10))

    def replace(*paths: Any) -> None:
        if next(calls) == 2:  # state.json and one file have been renamed
            raise Crash
        real(*paths)

    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(os, "replace", replace)
        save(tmp_path, 2)
    names = sorted(os.listdir(tmp_path))
    assert any(name.endswith(".next") for name in names)
    assert number_of(load_checkpoint(tmp_path)) == 2 and sorted(os.listdir(tmp_path)) == names
    save(tmp_path, 3)
    assert sorted(os.listdir(tmp_path)) == FILES and number_of(load_checkpoint(tmp_path)) == 3


def test_a_checkpoint_that_never_holds_still_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1)
    stamps = iter(range(10**6))
    monkeypatch.setattr(checkpoint, "_stamp", lambda path: (next(stamps),))
    monkeypatch.setattr(checkpoint.time, "sleep", lambda seconds: None)
    with pytest.raises(CheckpointError, match="changes faster than it can be read"):
        load_checkpoint(tmp_path)


def test_the_log_is_cut_to_a_step(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    truncate_log(log, 5)
    assert not log.exists()
    lines = [json.dumps({"step": step, "loss": 1.5}) + "\n" for step in range(1, 9)]
    log.write_text("".join(lines) + '{"step": 9, "lo')
    truncate_log(log, 100)
    assert log.read_text() == "".join(lines)
    truncate_log(log, 5)
    assert log.read_text() == "".join(lines[:5])
