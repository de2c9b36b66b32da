"""Measures what `import tinygpt_core` costs: fresh processes, with and without it, in turn.

python benchmarks/import_time.py [--runs 20]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 25.0


def milliseconds(code: str) -> float:
    """Returns how long a fresh interpreter without site-packages takes to run `code`."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-S", "-c", code], check=True, cwd=ROOT)
    return (time.perf_counter() - start) * 1e3


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=20, help="pairs of processes (default: 20)")
    runs = parser.parse_args().runs
    milliseconds("import tinygpt_core")  # once, so that compiled files are there
    pairs = [(milliseconds("pass"), milliseconds("import tinygpt_core")) for _ in range(runs)]
    bare, full = (statistics.median(column) for column in zip(*pairs, strict=True))
    cost = statistics.median(b - a for a, b in pairs)
    print("| what | median |\n|---|---|")
    print(f"| a bare interpreter | {bare:.0f} ms |\n| with import tinygpt_core | {full:.0f} ms |")
    print(f"| the import | {cost:.0f} ms (limit {LIMIT:.0f} ms) |")
    print(f"| the import, in starts of a bare interpreter | {cost / bare:.1f} |")


if __name__ == "__main__":
    main()
