"""Training over time, from what a run's directory keeps: the curves in its log, and what it says of each
parameter now and then.
"""

from __future__ import annotations

import os
from typing import Any

from ..training.log_reading import LONGEST_LOG, is_number, ladder_of, read_lines
from ..training.statistics import BINS

POINTS = 600  # of a curve
HISTOGRAMS = 4000  # in one page, at most


def read_log(path: str) -> dict[str, Any]:
    """Returns the curves in a run's log, and what it says of each parameter.

    Lines that are no JSON objects, such as one that is being written, are left out; of a log that is too long
    nothing is shown.

    Returns:
        `log`: lists `step`, `loss`, `learning_rate` and, where it was kept, `gradient_norm`, at evenly spaced
        steps; `validation`: lists `step` and `loss`; `ladder`: what counting needs on the same text, by its
        name (see `training.ladder`), empty until a run has ended; `snapshots`: for some steps the statistics
        of each parameter.
    """
    steps: list[dict[str, Any]] = []
    validations: list[dict[str, Any]] = []
    rungs: dict[str, float] = {}
    snapshots: list[dict[str, Any]] = []
    if os.path.isfile(path) and os.path.getsize(path) <= LONGEST_LOG:
        for line in read_lines(path):
            entry = line.values
            if entry is not None and is_number(entry.get("step")):
                parameters = entry.pop("parameters", None)
                if is_number(entry.get("loss")):
                    steps.append(entry)
                elif is_number(entry.get("val_loss")):
                    validations.append(entry)
                    rungs = ladder_of(entry.get("ladder")) or rungs
                if isinstance(parameters, list) and parameters and all(map(_is_statistics, parameters)):
                    snapshots.append({"step": entry["step"], "parameters": parameters})
    steps = thinned(steps, POINTS)
    validations = thinned(validations, POINTS)
    log: dict[str, list[Any]] = {
        name: [_number(entry.get(name)) for entry in steps] for name in ("step", "loss", "learning_rate")
    }
    if any(is_number(entry.get("gradient_norm")) for entry in steps):
        log["gradient_norm"] = [_number(entry.get("gradient_norm")) for entry in steps]
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
        and is_number(entry.get("low"))
        and is_number(entry.get("high"))
        and all(entry.get(name) is None or is_number(entry[name]) for name in numbers)
        and isinstance(entry.get("counts"), list)
        and len(entry["counts"]) == BINS
        and all(map(is_number, entry["counts"]))
    )


def _number(value: Any) -> float | None:
    return float(f"{value:.5g}") if is_number(value) else None
