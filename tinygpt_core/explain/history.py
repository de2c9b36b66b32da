"""Training over time, from what a run's directory keeps: the log, and the parameters at its checkpoints."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from typing import Any

from ..buffer import Buffer

POINTS = 600  # of a curve
BINS = 36  # of a histogram
SAMPLE = 4096  # elements of a parameter, at most, in a histogram


def read_log(path: str) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """Returns the curves of a log: (step, loss, learning_rate and, where it was kept, gradient_norm), and the validation's (step, loss).

    Lines that are not JSON objects, such as one that is being written, are left out; of many steps, evenly spaced ones are kept.
    """
    steps, validations = [], []
    if os.path.isfile(path):
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue
                if isinstance(entry, dict) and _is_number(entry.get("step")):
                    if _is_number(entry.get("loss")):
                        steps.append(entry)
                    elif _is_number(entry.get("val_loss")):
                        validations.append(entry)
    steps, validations = thinned(steps, POINTS), thinned(validations, POINTS)
    log: dict[str, list[Any]] = {name: [_number(entry.get(name)) for entry in steps] for name in ("step", "loss", "learning_rate")}
    if any(_is_number(entry.get("gradient_norm")) for entry in steps):
        log["gradient_norm"] = [_number(entry.get("gradient_norm")) for entry in steps]
    return log, {"step": [entry["step"] for entry in validations], "loss": [_number(entry["val_loss"]) for entry in validations]}


def thinned(entries: list[Any], most: int) -> list[Any]:
    """At most `most` of the entries, evenly spaced, with the first and the last."""
    if len(entries) <= most:
        return entries
    return [entries[round(i * (len(entries) - 1) / (most - 1))] for i in range(most)]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _number(value: Any) -> float | None:
    return float(f"{value:.5g}") if _is_number(value) else None


def sample(buffer: Buffer) -> list[float]:
    """At most SAMPLE elements of a Buffer, evenly spaced."""
    flat = buffer.reshape((buffer.numel,))
    values: list[float] = flat[:: max(1, math.ceil(buffer.numel / SAMPLE))].to_python()
    return values


def snapshot(step: int, label: str, parameters: Iterable[tuple[str, Buffer]]) -> dict[str, Any]:
    """Returns histograms of parameters at one checkpoint."""
    return {"step": step, "label": label, "parameters": [histogram(name, sample(buffer)) for name, buffer in parameters]}


def histogram(name: str, values: Sequence[float]) -> dict[str, Any]:
    """Counts values in BINS equal bins from the least to the largest; with their standard deviation."""
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    low, high = (low, high) if high > low else (low - 0.5, low + 0.5)
    counts = [0] * BINS
    for value in finite:
        counts[min(BINS - 1, int((value - low) / (high - low) * BINS))] += 1
    mean = math.fsum(finite) / max(1, len(finite))
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in finite) / max(1, len(finite)))
    return {"name": name, "low": _number(low), "high": _number(high), "deviation": _number(deviation), "counts": counts}
