"""What an update did to each parameter of a model: norms, the update-to-weight ratio, and a histogram, in a
few hundred bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..buffer.base import Buffer
from ..dataset.batches import Batch
from ..module import Module
from .step import TrainingStep

BINS = 36  # of a histogram
SAMPLE = 2048  # elements of a parameter, at most and evenly spaced, in its histogram


def watched(
    update: TrainingStep, batches: Sequence[Batch], step: int, steps: int
) -> tuple[float, dict[str, Any]]:
    """Makes the update that is number `step` of `steps`.

    Returns:
        The loss, and what is to be told beside it: ``gradient_norm`` and, twenty times in a run and at both
        ends, ``parameters``.
    """
    before = copies(update.model) if step in (1, steps) or step % max(1, steps // 20) == 0 else None
    loss = update(batches)
    changes = None if before is None else statistics(update.model, before)
    return loss, {"gradient_norm": update.gradient_norm, "parameters": changes}


def copies(model: Module) -> dict[str, Buffer]:
    """Returns the parameters as they are now, by name and each in its own shape, for `statistics` after an
    update.
    """
    return {name: tensor.buffer.copy() for name, tensor in model.named_parameters()}


def statistics(model: Module, before: dict[str, Buffer] | None = None) -> list[dict[str, Any]]:
    """Returns, for each parameter whatever its shape, its ``name``, the ``norm`` ‖w‖ and a histogram, and
    what an update did to it.

    Args:
        before: what `copies` gave before the update; adds ``ratio``, ‖Δw‖ / ‖w‖ with w before the update, and
            ``gradient``, the norm of the gradient that the optimizer was given (so after clipping), where the
            parameter has one.

    Returns:
        Dictionaries of JSON values with 4 significant digits; None stands for what is not finite.
    """
    entries = []
    for name, tensor in model.named_parameters():
        entry = {"name": name, "norm": _rounded(_norm(tensor.buffer)), **histogram(_sample(tensor.buffer))}
        if before is not None:
            old = _norm(before[name])
            entry["ratio"] = _rounded(_norm(tensor.buffer - before[name]) / old) if old else None
            entry["gradient"] = None if tensor.grad is None else _rounded(_norm(tensor.grad.buffer))
        entries.append(entry)
    return entries


def histogram(values: Sequence[float]) -> dict[str, Any]:
    """Returns the ``counts`` of values in BINS equal bins from ``low`` to ``high``, the least and largest
    finite, and ``deviation``.
    """
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    if low == high:
        margin = max(0.5, abs(low) / 2)
        low, high = low - margin, low + margin
    counts = [0] * BINS
    for value in finite:
        counts[min(BINS - 1, int((value - low) / (high - low) * BINS))] += 1
    mean = math.fsum(finite) / max(1, len(finite))
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in finite) / max(1, len(finite)))
    return {"low": _rounded(low), "high": _rounded(high), "deviation": _rounded(deviation), "counts": counts}


def _sample(buffer: Buffer) -> list[float]:
    values: list[float] = buffer.reshape((buffer.numel,))[
        :: max(1, math.ceil(buffer.numel / SAMPLE))
    ].to_python()
    return values


def _norm(buffer: Buffer) -> float:
    return math.sqrt(buffer.sum_of_squares())


def _rounded(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None
