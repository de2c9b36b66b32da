"""What an update did to each parameter of a model, in a few hundred bytes.

That is: its norm, how large its change was beside it, the norm of its gradient, and a histogram.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..buffer.base import Buffer
from ..module import Module
from ..operations import SparseGradient
from ..tensor import Tensor

BINS = 36  # of a histogram
SAMPLE = 2048  # elements of a parameter, at most and evenly spaced, in its histogram
TIMES = 20  # in a run that statistics are kept


def are_due(step: int, steps: int) -> bool:
    """Whether statistics are kept of update number `step` of `steps`: now and then, and at both ends."""
    return step in (1, steps) or step % max(1, steps // TIMES) == 0


def copies(model: Module) -> dict[str, Buffer]:
    """Returns copies of the parameters that are trained, as they are now, by name, each in its own shape."""
    return {name: tensor.buffer.copy() for name, tensor in model.named_parameters(trainable_only=True)}


def statistics(model: Module, before: dict[str, Buffer] | None = None) -> list[dict[str, Any]]:
    """Returns for each parameter, of any shape, a `name`, a `norm` ‖w‖ and a `histogram`.

    Args:
        before: the `copies` from before an update, to add what it did: `ratio`, ‖Δw‖ / ‖w‖ with w before it,
            and `gradient`, the norm of the gradient that the optimizer was given (so after clipping), where
            the parameter has one. Of one that is frozen both are None.

    Returns:
        Dictionaries of JSON values with 4 significant digits; None stands for what is not finite.
    """
    entries = []
    for name, tensor in model.named_parameters():
        entry = {"name": name, "norm": _rounded(_norm(tensor.buffer)), **histogram(_sample(tensor.buffer))}
        if before is not None:
            entry["ratio"] = _ratio(tensor, before[name]) if name in before else None
            gradient = tensor.compact_grad
            entry["gradient"] = None if gradient is None else _rounded(_norm(gradient))
        entries.append(entry)
    return entries


def _ratio(tensor: Tensor, before: Buffer) -> float | None:
    """Returns ‖Δw‖ / ‖w‖ of a parameter, given what it was before."""
    gradient = tensor.compact_grad
    if isinstance(gradient, SparseGradient):  # the other rows are what they were
        change = _norm(tensor.buffer.take(gradient.rows) - before.take(gradient.rows))
    else:
        change = _norm(tensor.buffer - before)
    old_norm = _norm(before)
    return _rounded(change / old_norm) if old_norm else None


def histogram(values: Sequence[float]) -> dict[str, Any]:
    """Returns how many values lie in each of BINS equal bins, as `counts`, and their standard `deviation`.

    The bins go from `low` to `high`, the least and largest finite value.
    """
    finite = [value for value in values if math.isfinite(value)]
    low = min(finite, default=0.0)
    high = max(finite, default=0.0)
    if low == high:
        margin = max(0.5, abs(low) / 2)
        low -= margin
        high += margin
    counts = [0] * BINS
    for value in finite:
        counts[min(BINS - 1, int((value - low) / (high - low) * BINS))] += 1
    number = max(1, len(finite))
    mean = math.fsum(finite) / number
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in finite) / number)
    return {"low": _rounded(low), "high": _rounded(high), "deviation": _rounded(deviation), "counts": counts}


def _sample(buffer: Buffer) -> list[float]:
    """Returns at most SAMPLE elements of a Buffer, evenly spaced."""
    distance = max(1, math.ceil(buffer.numel / SAMPLE))
    values: list[float] = buffer.reshape((buffer.numel,))[::distance].to_python()
    return values


def _norm(buffer: Buffer | SparseGradient) -> float:
    return math.sqrt(buffer.sum_of_squares())


def _rounded(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None
