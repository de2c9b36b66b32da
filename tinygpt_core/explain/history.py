"""Training over time, from what a run's directory keeps: the curves in its log, and what it says of each
parameter now and then.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from ..training.statistics import BINS

POINTS = 600  # of a curve
LONGEST_LOG = 1 << 30  # bytes; of a longer one nothing is shown
HISTOGRAMS = 4000  # in one page, at most
MOST_RUNGS = 20  # of a ladder


def read_log(path: str) -> dict[str, Any]:
    """Returns the curves in a run's log, and what it says of each parameter.

    Lines that are no JSON objects, such as one that is being written, are left out.

    Returns:
        `log`: lists `step`, `loss`, `learning_rate` and, where it was kept, `gradient_norm`, at evenly spaced
        steps; `validation`: lists `step` and `loss`; `ladder`: what counting needs on the same text, by its
        name (see `training.ladder`), empty until a run has ended; `snapshots`: for some steps the statistics
        of each parameter.
    """
    steps: list[dict[str, Any]] = []
    validations: list[dict[str, Any]] = []
    snapshots: list[dict[str, Any]] = []
    if os.path.isfile(path) and os.path.getsize(path) <= LONGEST_LOG:
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    entry = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if isinstance(entry, dict) and _is_number(entry.get("step")):
                    parameters = entry.pop("parameters", None)
                    if _is_number(entry.get("loss")):
                        steps.append(entry)
                    elif _is_number(entry.get("val_loss")):
                        validations.append(entry)
                    if isinstance(parameters, list) and parameters and all(map(_is_statistics, parameters)):
                        snapshots.append({"step": entry["step"], "parameters": parameters})
    steps = thinned(steps, POINTS)
    validations = thinned(validations, POINTS)
    log: dict[str, list[Any]] = {
        name: [_number(entry.get(name)) for entry in steps] for name in ("step", "loss", "learning_rate")
    }
    if any(_is_number(entry.get("gradient_norm")) for entry in steps):
        log["gradient_norm"] = [_number(entry.get("gradient_norm")) for entry in steps]
    rungs: dict[str, Any] = next(
        (entry["ladder"] for entry in reversed(validations) if _is_ladder(entry.get("ladder"))), {}
    )
    validation = {
        "step": [entry["step"] for entry in validations],
        "loss": [_number(entry["val_loss"]) for entry in validations],
    }
    largest = max((len(snapshot["parameters"]) for snapshot in snapshots), default=1)
    return {
        "log": log,
        "validation": validation,
        "ladder": {name: _number(nats) for name, nats in rungs.items()},
        "snapshots": thinned(snapshots, max(2, HISTOGRAMS // largest)),
    }


def thinned(entries: list[Any], most: int) -> list[Any]:
    """Returns at most `most` of the entries, evenly spaced, with the first and the last."""
    if len(entries) <= most:
        return entries
    return [entries[round(i * (len(entries) - 1) / (most - 1))] for i in range(most)]


def _is_statistics(entry: Any) -> bool:
    """Returns whether an entry of a log is one of `training.statistics`: a log is a file like any other."""
    numbers = ("norm", "low", "high", "deviation", "ratio", "gradient")
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("name"), str)
        and _is_number(entry.get("low"))
        and _is_number(entry.get("high"))
        and all(entry.get(name) is None or _is_number(entry[name]) for name in numbers)
        and isinstance(entry.get("counts"), list)
        and len(entry["counts"]) == BINS
        and all(map(_is_number, entry["counts"]))
    )


def _is_ladder(value: Any) -> bool:
    """Returns whether an entry of a log is a ladder: a few names with numbers."""
    return isinstance(value, dict) and 0 < len(value) <= MOST_RUNGS and all(map(_is_number, value.values()))


def _is_number(value: Any) -> bool:
    """Whether a value of JSON is a number that a float can be: an integer there may have any length."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    return abs(value) <= sys.float_info.max  # unlike math.isfinite, for integers of any size


def _number(value: Any) -> float | None:
    return float(f"{value:.5g}") if _is_number(value) else None
