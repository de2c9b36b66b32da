"""What the scripts that measure side by side share: workers that take turns, medians with their spread,
memory, tables.

Importing this puts the repository on sys.path. It imports neither NumPy nor PyTorch, so that a script's own
process stays small.

How two sides are paired. Each side is an object with a method that works for a few steps and returns what
they took. `alternate` lets the sides work in turn, A B A B, so that a machine that slows down or speeds up
does so for both. By default each side lives in a process of its own (`Worker`), of which only one works at a
time, and a pause lies between two turns. In one process (`Local`) NumPy's OpenBLAS and PyTorch's OpenMP keep
a pool of threads each, which spin for a while after their last product (OpenBLAS up to some 25 ms) and so
take a core from the other side; the pause is there for the same reason, since a pool spins on while another
process works. After a pause the pool sleeps and the caches are cold, so the first step of each turn is not
counted.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import platform
import re
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "TINYGPT_THREADS",
)
PAUSE = 0.15  # seconds between turns; several times what any pool of threads spins


def limit_threads(threads: int) -> None:
    """Gives every numerical library that is imported afterwards, here or in a Worker, this many threads."""
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))


# ---------------------------------------------------------------- sides


class Local:
    """A side in this process."""

    def __init__(self, factory: Callable[..., Any], *arguments: Any) -> None:
        self.side = factory(*arguments)

    def call(self, method: str, *arguments: Any) -> Any:
        """Returns what a method of the side returns."""
        return getattr(self.side, method)(*arguments)

    def close(self) -> None:
        """Lets the side go."""
        del self.side


class Worker:
    """A side in a process of its own, started anew (not forked); it works while `call` waits, and sleeps
    otherwise.

    Raises:
        RuntimeError: the side failed there; the message carries its traceback.
    """

    def __init__(self, factory: Callable[..., Any], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, factory, arguments), daemon=True)
        self._process.start()
        theirs.close()
        try:
            self._answer()
        except RuntimeError:
            self.close()
            raise

    def call(self, method: str, *arguments: Any) -> Any:
        """Returns what a method of the side returns."""
        self._connection.send((method, arguments))
        return self._answer()

    def _answer(self) -> Any:
        try:
            failed, value = self._connection.recv()
        except EOFError:
            raise RuntimeError("the process of a side died (out of memory?)") from None
        if failed:
            raise RuntimeError(value)
        return value

    def close(self) -> None:
        """Ends the process."""
        self._connection.close()
        self._process.join(10)
        if self._process.is_alive():
            self._process.terminate()


def _serve(connection: Any, factory: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    side = None
    method: Callable[..., Any] = factory
    while True:
        try:
            value = method(*arguments)
            if side is None:
                side, value = value, None
            connection.send((False, value))
        except Exception:
            connection.send((True, traceback.format_exc()))
        try:
            name, arguments = connection.recv()
        except EOFError:  # the script has ended or closed this worker
            return
        method = getattr(side, name)


def alternate(
    sides: Mapping[str, Local | Worker],
    turns: int,
    steps: int,
    warm_up: int = 1,
    pause: float = PAUSE,
    method: str = "steps",
) -> dict[str, list[list[Any]]]:
    """Lets the sides work in turn.

    Args:
        sides: by name; each has a method that takes a number of steps and returns a list with an entry a
            step.
        turns: of each side.
        steps: in a turn, that are counted.
        warm_up: steps before them that are not. The first turn has five times as many.
        pause: seconds before each turn, in which the threads of the side before fall asleep.
        method: the method's name.

    Returns:
        For each side the counted entries, turn by turn.
    """
    results: dict[str, list[list[Any]]] = {name: [] for name in sides}
    for turn in range(turns):
        for name, side in sides.items():
            time.sleep(pause)
            skipped = warm_up if turn else 5 * warm_up
            results[name].append(side.call(method, skipped + steps)[skipped:])
    return results


# ---------------------------------------------------------------- figures


def quartiles(values: Iterable[float]) -> tuple[float, float, float]:
    """Returns the lower quartile, the median and the upper quartile."""
    ordered = sorted(values)
    if len(ordered) == 1:
        return ordered[0], ordered[0], ordered[0]
    low, middle, high = statistics.quantiles(ordered, n=4, method="inclusive")
    return low, middle, high


def paired_ratio(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> float:
    """Returns the median over the turns of (our median) / (their median) in the same turn."""
    return statistics.median(
        statistics.median(a) / statistics.median(b) for a, b in zip(ours, theirs, strict=True)
    )


def flat(turns: Iterable[Iterable[float]]) -> list[float]:
    """Returns the entries of all turns in one list."""
    return [value for turn in turns for value in turn]


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Returns the least-squares slope of log y against log x: the exponent p of y ~ x**p."""
    return statistics.linear_regression([math.log(v) for v in x], [math.log(v) for v in y]).slope


def milliseconds(seconds: Iterable[float]) -> tuple[str, str]:
    """Returns the median and the quartiles of times, as cells of a table."""
    low, middle, high = (1e3 * value for value in quartiles(seconds))
    digits = 0 if middle >= 100 else 1 if middle >= 10 else 2
    return f"{middle:.{digits}f}", f"{low:.{digits}f} to {high:.{digits}f}"


# ---------------------------------------------------------------- memory


def peak_memory() -> int:
    """Returns the most bytes this process ever had in memory.

    On Linux this is VmHWM, not `getrusage`, whose figure a new program inherits from the process that started
    it.
    """
    return _status("VmHWM") or _maximum_resident()


def present_memory() -> int:
    """Returns the bytes that this process has in memory now (elsewhere than on Linux, the most it had so
    far).
    """
    return _status("VmRSS") or _maximum_resident()


def _status(field: str) -> int:
    try:
        found = re.search(
            rf"^{field}:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE
        )
    except OSError:
        return 0
    return 1024 * int(found.group(1)) if found else 0


def _maximum_resident() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


# ---------------------------------------------------------------- output


def machine(*packages: str) -> str:
    """Returns a line on the machine: what runs, and how busy it is before this begins (anything above 0
    disturbs every figure).
    """
    versions = [
        f"Python {platform.python_version()}",
        *(f"{name} {metadata.version(name)}" for name in packages),
    ]
    load = f", load average {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else ""
    return f"{', '.join(versions)}, {os.cpu_count()} cores{load}"


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Returns a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def write_json(path: str | None, result: Any) -> None:
    """Writes a result where an option `--json FILE` said so."""
    if path is not None:
        Path(path).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def save_picture(figure: Any, path: Path) -> None:
    """Writes a matplotlib figure as an SVG that is the same byte for byte each time it is drawn from the same
    figures.
    """
    import matplotlib

    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.hashsalt": "tinygpt", "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None, "Creator": None}, bbox_inches="tight")
    path.write_text(
        "\n".join(line.rstrip() for line in path.read_text(encoding="utf-8").splitlines()) + "\n",
        encoding="utf-8",
    )


class Promises:
    """What a script promises: each is printed as kept or missed; with `--check` a missed one fails."""

    def __init__(self) -> None:
        self.missed = False

    def say(self, kept: bool, text: str) -> None:
        """Prints one promise."""
        self.missed |= not kept
        print(f"- {'kept' if kept else 'MISSED'}: {text}")
