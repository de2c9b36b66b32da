"""A run that is killed at any moment and resumed has the losses, bit for bit, of one that was not."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_runs import WORDS

ROOT = Path(__file__).resolve().parent.parent
STEPS = 40
SETTINGS = [
    "--steps",
    STEPS,
    "--layers",
    1,
    "--heads",
    2,
    "--embedding-dim",
    8,
    "--context-length",
    8,
    "--batch-size",
    3,
    "--dropout",
    0.25,
    "--accumulation",
    2,
    "--eval-every",
    5,
    "--eval-batches",
    2,
    "--checkpoint-every",
    3,
    "--quiet",
]


def start(*arguments: object, cwd: Path) -> subprocess.Popen[str]:
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("TINYGPT_", "PYTHON", "COV_"))
    }
    environment |= {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-S", "-m", "tinygpt_core", "train", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8"
    )


def finish(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors


def losses(run: Path) -> list[tuple[object, ...]]:
    """Everything in the log but the clock."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [tuple((key, value) for key, value in line.items() if key != "seconds") for line in lines]


def lines_in(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.parametrize(
    "corpus", [["names", "--data", "words.txt"], ["--data", "words.txt"]], ids=["documents", "stream"]
)
def test_killed_and_resumed_is_the_same_run(tmp_path: Path, corpus: list[str]) -> None:
    (tmp_path / "words.txt").write_text(WORDS)
    finish(start(*corpus, *SETTINGS, "--out", "whole", cwd=tmp_path))
    expected = losses(tmp_path / "whole")
    assert [dict(line)["step"] for line in expected if "loss" in dict(line)] == list(range(1, STEPS + 1))

    chance = random.Random(7)
    log = tmp_path / "killed" / "log.jsonl"
    state = tmp_path / "killed" / "state.json"
    process = start(*corpus, *SETTINGS, "--out", "killed", cwd=tmp_path)
    kills = 0
    for line in (2, 11, 17, 30):  # some steps after a checkpoint, so that the log is ahead of it
        deadline = time.monotonic() + 60
        while lines_in(log) < line or not state.exists():
            assert process.poll() is None and time.monotonic() < deadline, (
                process.stderr and process.stderr.read()
            )
            time.sleep(0.001)
        time.sleep(chance.random() * 0.02)  # in the middle of a step or of a checkpoint
        process.kill()
        process.communicate()
        kills += process.returncode == -9
        process = start("--resume", "killed", "--quiet", cwd=tmp_path)
    finish(process)
    assert kills >= 3
    assert losses(tmp_path / "killed") == expected
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_killed_before_the_first_checkpoint_says_so(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    process = start("--resume", "run", cwd=tmp_path)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2 and errors.startswith("tinygpt: error: ") and errors.count("\n") == 1


@pytest.mark.skipif(os.name == "nt", reason="Windows has no lock on directories")
def test_a_run_that_is_going_on_is_not_resumed_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text(WORDS)
    first = start("names", "--data", "words.txt", *SETTINGS, "--steps", 100_000, "--out", "run", cwd=tmp_path)
    try:
        log, deadline = tmp_path / "run" / "log.jsonl", time.monotonic() + 60
        while lines_in(log) < 5:
            assert first.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        second = start("--resume", "run", "--quiet", cwd=tmp_path)
        _, errors = second.communicate(timeout=60)
        assert second.returncode == 1 and errors.count("\n") == 1 and "another process" in errors
        written = lines_in(log)
        while lines_in(log) < written + 5:  # the first goes on, in the same file
            assert first.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        first.kill()
        first.communicate(timeout=60)
    finish(
        start(
            "--resume",
            "run",
            "--steps",
            lines_in(tmp_path / "run" / "log.jsonl") + 5,
            "--quiet",
            cwd=tmp_path,
        )
    )
