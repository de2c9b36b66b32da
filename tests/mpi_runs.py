"""Runs of several real processes: how tests and benchmarks start them, and find their ranks on Linux."""

from __future__ import annotations

import json
import os
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Any

MPIEXEC = shutil.which("mpiexec", path=sysconfig.get_path("scripts")) or shutil.which("mpiexec")


def log_of(directory: Path) -> list[dict[str, Any]]:
    """The lines of a run's log, without what depends on the machine."""
    lines = [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def environment() -> dict[str, str]:
    """The environment of a run: without what would tell it that it was launched already."""
    known = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TINYGPT_THREADS": "1"}
    if hasattr(os, "geteuid") and os.geteuid() == 0:  # as in containers
        known |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PMI_", "OMPI_"))}
    return kept | known | {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)}


def command_of(ranks: int, *arguments: object) -> list[str]:
    own = [sys.executable, "-m", "tinygpt_core", "train", *map(str, arguments)]
    return own if ranks == 1 else [str(MPIEXEC), "-n", str(ranks), *own]


def ranks_of(launcher: int) -> dict[int, int]:
    """The ranks that an mpiexec has started, and the number of each one's process."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found = {}
    for pid in parents:
        above = pid
        while above in parents and above != launcher:
            above = parents[above]
        if above == launcher:
            try:
                variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                is_rank = b"tinygpt_core" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            for line in variables if is_rank else ():
                name, _, value = line.partition(b"=")
                if name in (b"PMI_RANK", b"OMPI_COMM_WORLD_RANK"):
                    found[int(value)] = pid
    return found
