"""A run of several processes, of which a random one is killed at a random moment, again and again.

    python benchmarks/kills.py [--kills 100] [--ranks 2] [--check]

Needs mpi4py and an mpiexec (`pip install mpi4py mpich`), and Linux. After each kill the run is resumed from
its last checkpoint, until it has made all its steps. What is promised: no process is left after 15 seconds,
one line names the rank, a checkpoint is always there, and the losses and weights at the end are, bit for
bit, those of a run of one process that nobody has killed.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pairing  # beside this file; puts the repository on sys.path

sys.path.insert(0, str(pairing.ROOT / "tests"))

from mpi_runs import MPIEXEC, command_of, environment, log_of, ranks_of

EARLY = 0.1  # of the kills: while a run starts, when its ranks may not know each other yet
LIMIT = 15.0  # seconds until all processes have ended


def size_of(path: Path) -> int:
    """How many bytes a file has, or 0 where there is none."""
    return path.stat().st_size if path.exists() else 0


def begin(ranks: int, *options: object) -> subprocess.Popen[str]:
    """Starts a run."""
    return subprocess.Popen(
        command_of(ranks, *options),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def kill_again_and_again(arguments: argparse.Namespace, place: Path) -> dict[str, Any]:
    """Returns what came of it."""
    draw = random.Random(arguments.seed)
    settings = ["--preset", "debug", "--backend", arguments.backend, "--quiet", "--shards", 4]
    settings += ["--batch-size", 4, "--accumulation", 2, "--dropout", 0.1]
    settings += ["--steps", arguments.steps, "--checkpoint-every", 5, "--eval-every", 0]
    whole, run = place / "whole", place / "run"
    assert begin(1, *settings, "--out", whole).wait() == 0
    slowest = 0.0
    unnamed = early = hung = lost = 0
    kills = resumed = 0
    while kills < arguments.kills:
        options = ["--resume", run, "--quiet"] if (run / "state.json").exists() else [*settings, "--out", run]
        resumed += options[0] == "--resume"
        before = size_of(run / "log.jsonl")
        process = begin(arguments.ranks, *options)
        found: dict[int, int] = {}
        while process.poll() is None and len(found) < arguments.ranks:
            time.sleep(0.05)
            found = ranks_of(process.pid)
        is_early = draw.random() < EARLY
        while process.poll() is None and not is_early and size_of(run / "log.jsonl") <= before:
            time.sleep(0.02)
        waits = time.monotonic() + draw.uniform(0.0, arguments.longest)
        while process.poll() is None and time.monotonic() < waits:
            time.sleep(0.01)
        if process.poll() is not None:  # it was at its end before
            said = process.communicate()[1]
            if process.returncode:
                lost += 1
                print(said)
                break
            for path in run.iterdir():
                path.unlink()
            run.rmdir()
            continue
        rank = draw.choice(sorted(found))
        started = time.monotonic()
        try:
            os.kill(found[rank], signal.SIGKILL)
        except ProcessLookupError:  # it has come to its end in this very moment
            process.communicate()
            continue
        kills += 1
        try:
            said = process.communicate(timeout=LIMIT)[1]
        except subprocess.TimeoutExpired:
            hung += 1
            process.kill()
            said = process.communicate()[1]
        slowest = max(slowest, time.monotonic() - started)
        early += is_early
        if f"rank {rank} of {arguments.ranks} " not in said:
            unnamed += 1
            print(f"kill {kills}, of rank {rank}: {said.strip()!r}")
    options = ["--resume", run, "--quiet"] if (run / "state.json").exists() else [*settings, "--out", run]
    assert begin(arguments.ranks, *options).wait() == 0
    same = log_of(run) == log_of(whole)
    for name in ("model.safetensors", "optimizer.safetensors"):
        same = same and (run / name).read_bytes() == (whole / name).read_bytes()
    return {
        "kills": kills,
        "resumed": resumed,
        "hung": hung,
        "lost checkpoints": lost,
        "early": early,
        "unnamed": unnamed,
        "slowest end": slowest,
        "same bits": same,
    }


def main() -> int:
    """Kills a run again and again, and prints what became of it; returns 1 where anything was lost."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100, help="how many (default: 100)")
    parser.add_argument("--ranks", type=int, default=2, help="processes of a run (default: 2)")
    parser.add_argument("--steps", type=int, default=400, help="of the run (default: 400)")
    parser.add_argument(
        "--longest", type=float, default=4.0, help="seconds until a kill, at most (default: 4)"
    )
    parser.add_argument("--backend", default="python", help="default: python")
    parser.add_argument("--seed", type=int, default=0, help="of who is killed when (default: 0)")
    parser.add_argument("--json", metavar="FILE", help="write what came of it")
    parser.add_argument("--check", action="store_true", help="a promise that is not kept is an error")
    arguments = parser.parse_args()
    if MPIEXEC is None:
        sys.exit("this needs mpi4py and an mpiexec: pip install mpi4py mpich")
    with tempfile.TemporaryDirectory() as place:
        found = kill_again_and_again(arguments, Path(place))
    print(f"# {found['kills']} kills\n\n{pairing.machine('mpi4py')}\n")
    shown = found | {
        "slowest end": f"{found['slowest end']:.2f} s",
        "same bits": "yes" if found["same bits"] else "no",
    }
    print(pairing.table(list(shown), [list(map(str, shown.values()))]) + "\n")
    promises = pairing.Promises()
    promises.say(
        not found["hung"],
        f"no process was left after {LIMIT:g} s: the slowest end took {found['slowest end']:.2f} s",
    )
    promises.say(not found["lost checkpoints"], "a run could always go on from a checkpoint")
    promises.say(found["same bits"], "the losses and weights are those of one process that nobody has killed")
    promises.say(
        found["unnamed"] <= found["early"],
        f"a line named the rank in all but {found['unnamed']} of the kills, of which {found['early']} came "
        "while the ranks were starting",
    )
    pairing.write_json(arguments.json, found)
    return int(arguments.check and promises.missed)


if __name__ == "__main__":
    sys.exit(main())
