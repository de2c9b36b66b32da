"""Measures what `import tinygpt_core` costs: fresh processes, with and without it, in turn.

    python benchmarks/import_time.py [--runs 20] [--before CHECKOUT]

The limit is 25 ms on a machine where the tree of commit 0cd0ebb takes 20. Machines differ, so with a checkout
of that commit (`git worktree add ../before 0cd0ebb`) its processes take their turns, too, and the limit is
that of this machine: 1.25 times as long.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIMIT, BEFORE = 25.0, 20.0  # ms, on one machine


def milliseconds(code: str, place: Path) -> float:
    """Returns how long a fresh interpreter without site-packages takes to run `code` in a folder."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-S", "-c", code], check=True, cwd=place)
    return (time.perf_counter() - start) * 1e3


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=20, help="turns of processes (default: 20)")
    parser.add_argument("--before", type=Path, metavar="CHECKOUT", help="of an earlier commit, to compare")
    arguments = parser.parse_args()
    trees = [ROOT] if arguments.before is None else [ROOT, arguments.before]
    for tree in trees:
        milliseconds("import tinygpt_core", tree)  # once, so that compiled files are there
    bare: list[float] = []
    costs: list[list[float]] = [[] for _ in trees]
    for _ in range(arguments.runs):
        bare.append(milliseconds("pass", ROOT))
        for tree, cost in zip(trees, costs, strict=True):
            cost.append(milliseconds("import tinygpt_core", tree) - bare[-1])
    ours = statistics.median(costs[0])
    print("| what | median |\n|---|---|")
    print(f"| a bare interpreter | {statistics.median(bare):.0f} ms |")
    print(f"| the import | {ours:.0f} ms (limit {LIMIT:.0f} ms, where 0cd0ebb takes {BEFORE:.0f}) |")
    print(f"| the import, in starts of a bare interpreter | {ours / statistics.median(bare):.1f} |")
    if len(trees) > 1:
        ratio = statistics.median(a / b for a, b in zip(*costs, strict=True))
        print(f"| that of {arguments.before.name} | {statistics.median(costs[1]):.0f} ms |")
        print(f"| ours by that | {ratio:.2f} (limit {LIMIT / BEFORE:.2f}) |")


if __name__ == "__main__":
    main()
