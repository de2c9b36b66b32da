"""Runs of several real processes, started by mpiexec: same bits, and a clear end whatever happens to one.

They need mpi4py and an mpiexec (`pip install mpi4py mpich`). The laws behind them are in test_sharding.py,
with threads for ranks; `benchmarks/kills.py` kills a hundred times.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from mpi_runs import MPIEXEC, command_of, environment, log_of, ranks_of

pytestmark = [
    pytest.mark.skipif(find_spec("mpi4py") is None, reason="mpi4py is not installed"),
    pytest.mark.skipif(MPIEXEC is None, reason="there is no mpiexec: pip install mpich"),
    pytest.mark.skipif(sys.platform != "linux", reason="ranks are found in /proc"),
]
LIMIT = 120.0  # seconds, of runs that take a few on an idle machine
PRESET = ("--preset", "debug", "--batch-size", "6", "--quiet")


def _train(ranks: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command_of(ranks, *arguments), env=environment(), capture_output=True, text=True, timeout=LIMIT
    )


class Running:
    """A run of several processes that goes on, waited for until it has made some steps."""

    def __init__(self, ranks: int, directory: Path, *arguments: object) -> None:
        self.directory = directory
        self.process = subprocess.Popen(
            command_of(ranks, *PRESET, "--out", directory, *arguments),
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        deadline = time.monotonic() + LIMIT
        while not (directory / "log.jsonl").exists() or len(log_of(directory)) < 3:
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        self.ranks = ranks_of(self.process.pid)
        assert sorted(self.ranks) == list(range(ranks))

    def end(self) -> tuple[int, str, float]:
        """Waits for its end: the exit code, what it said as errors, and how long that took."""
        started = time.monotonic()
        _, said = self.process.communicate(timeout=LIMIT)
        return self.process.returncode, said, time.monotonic() - started


@pytest.fixture
def running() -> Iterator[list[Running]]:
    runs: list[Running] = []
    yield runs
    for run in runs:
        for pid in (*run.ranks.values(), run.process.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                continue
        run.process.communicate()


def _same(first: Path, second: Path) -> None:
    assert log_of(first) == log_of(second)
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


@pytest.mark.parametrize("name", ["python", "numpy"])
def test_two_processes_give_the_bits_of_one(tmp_path: Path, name: str) -> None:
    options = (*PRESET, "--backend", name, "--shards", 4, "--steps", 6)
    options += ("--accumulation", 2, "--dropout", 0.1)
    one = _train(1, *options, "--out", tmp_path / "one")
    two = _train(2, *options, "--out", tmp_path / "two", "--shard-optimizer")
    assert (one.returncode, two.returncode, two.stderr) == (0, 0, "")
    _same(tmp_path / "one", tmp_path / "two")
    # The first process alone has written: nothing is said twice
    assert two.stdout.replace(str(tmp_path / "two"), str(tmp_path / "one")) == one.stdout


def test_a_run_of_four_goes_on_with_two(tmp_path: Path) -> None:
    options = (*PRESET, "--backend", "python", "--steps", 8, "--checkpoint-every", 4, "--shards", 4)
    assert _train(1, *options, "--out", tmp_path / "whole").returncode == 0
    half = _train(4, *options[:-5], 4, "--decay-steps", 8, "--shards", 4, "--out", tmp_path / "cut")
    assert half.returncode == 0, half.stderr
    rest = _train(2, "--resume", tmp_path / "cut", "--steps", 8, "--quiet")
    assert rest.returncode == 0, rest.stderr
    assert (tmp_path / "whole/model.safetensors").read_bytes() == (
        tmp_path / "cut/model.safetensors"
    ).read_bytes()


def test_the_header_and_backends_say_how_many_and_where(tmp_path: Path) -> None:
    options = ("--preset", "debug", "--backend", "python", "--steps", 1, "--out", tmp_path / "run")
    said = _train(2, *options).stdout
    assert "processes  2 (mpi, " in said and "; 2 shards of a batch" in said
    command = [str(MPIEXEC), "-n", "2", sys.executable, "-m", "tinygpt_core", "backends"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=LIMIT)
    assert done.stdout.count("processes  2 (mpi, ") == 1
    assert done.stdout.count("the reference: pure Python") == 1


def test_a_rank_that_is_killed_ends_all_with_a_line_that_names_it(
    tmp_path: Path, running: list[Running]
) -> None:
    run = Running(3, tmp_path / "run", "--backend", "python", "--steps", 2000, "--checkpoint-every", 2)
    running.append(run)
    os.kill(run.ranks[1], signal.SIGKILL)
    code, said, seconds = run.end()
    assert code != 0 and seconds < 15
    assert said.count("tinygpt: error:") == 1
    assert "rank 1 of 3 " in said
    state = (run.directory / "state.json").read_text()
    step = max(line["step"] for line in log_of(run.directory))
    rest = _train(3, "--resume", run.directory, "--steps", step + 4, "--quiet")
    assert rest.returncode == 0, rest.stderr
    assert json.loads(state)["state"]["step"] > 0
    assert max(line["step"] for line in log_of(run.directory)) == step + 4


def test_a_rank_that_hangs_is_noticed_after_the_timeout(tmp_path: Path, running: list[Running]) -> None:
    run = Running(2, tmp_path / "run", "--backend", "python", "--steps", 2000, "--collective-timeout", 2)
    running.append(run)
    os.kill(run.ranks[1], signal.SIGSTOP)
    code, said, seconds = run.end()
    assert code == 1 and seconds < 15
    assert said.count("tinygpt: error:") == 1
    assert "rank 0 of 2 " in said and "waited 2 seconds for " in said


def test_ctrl_c_stops_all_politely_with_a_checkpoint(tmp_path: Path, running: list[Running]) -> None:
    run = Running(2, tmp_path / "run", "--backend", "python", "--steps", 2000, "--checkpoint-every", 0)
    running.append(run)
    run.process.send_signal(signal.SIGINT)
    code, said, seconds = run.end()
    assert code == 130 and seconds < 15
    assert said.count("tinygpt: error:") == 1 and "which is kept; continue with: " in said
    last = max(line["step"] for line in log_of(run.directory))
    assert f"at step {last}, which is kept" in said


def test_a_rank_that_fails_alone_says_so(tmp_path: Path) -> None:
    command = command_of(2, *PRESET, "--backend", "python", "--out", tmp_path / "run")
    command[3:] = [
        *command[3:],
        ":",
        "-n",
        "1",
        sys.executable,
        "-m",
        "tinygpt_core",
        "train",
        "no-such-corpus",
    ]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 2
    assert done.stderr.count("tinygpt: error:") == 1
    assert "rank 2 of 3 " in done.stderr and "no-such-corpus" in done.stderr


def test_a_rank_with_another_seed_is_named(tmp_path: Path) -> None:
    options = (*PRESET, "--backend", "python", "--out", str(tmp_path / "run"))
    command = command_of(2, *options)
    command += [":", "-n", "1", sys.executable, "-m", "tinygpt_core", "train", *options, "--seed", "5"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 1
    assert "rank 2 of 3 " in done.stderr and "its setting seed is 5, theirs is 1337" in done.stderr
    assert done.stderr.count("tinygpt: error:") == 1


def test_a_single_process_imports_no_mpi(tmp_path: Path) -> None:
    arguments = ["train", "--preset", "debug", "--steps", "1", "--quiet", "--out", str(tmp_path / "run")]
    program = f"""
import sys
from tinygpt_core.cli.main import main
main({arguments!r})
heavy = ("mpi4py", "tinygpt_accel.communicators", "tinygpt_core.training.sharding")
assert not [name for name in sys.modules if name.startswith(heavy)]
"""
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, timeout=LIMIT
    )
    assert done.returncode == 0, done.stderr
