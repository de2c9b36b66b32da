"""What both drawings of loss curves share: where things lie along an axis, and what is written beside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable


def step_scale(log_steps: bool) -> Callable[[float], float]:
    """Returns the function that says where a step lies along its axis, linear or logarithmic.

    Step 0 (a validation before the first update) has no logarithm and lies at 1.
    """
    if log_steps:
        return lambda step: math.log10(max(1.0, step))
    return float


def limits(values: Iterable[float], room: float = 0.0) -> tuple[float, float]:
    """Returns the least and the greatest of values, with a share of `room` beyond either; apart by a
    millionth of them at least.
    """
    values = list(values)
    low = min(values)
    high = max(values)
    size = max(abs(low), abs(high))
    margin = (high - low) * room
    is_flat = high - low <= 1e-6 * size
    if is_flat:
        margin = size * 0.05 or 0.5
    return low - margin, high + margin


def ticks(low: float, high: float, about: int) -> list[float]:
    """Returns the multiples of 1, 2 or 5 times a power of ten within [low, high], about so many; at least
    one.
    """
    if not high > low:
        return [low]
    rough_gap = (high - low) / max(1, about)
    power = 10.0 ** math.floor(math.log10(rough_gap))
    gap = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough_gap * 0.999)
    first = math.ceil(low / gap - 1e-9)
    last = math.floor(high / gap + 1e-9)
    # Twelve digits, since 3 * 0.1 is not 0.3.
    return [float(f"{multiple * gap:.12g}") for multiple in range(first, last + 1)] or [low]


def step_ticks(low: float, high: float, log_steps: bool) -> list[float]:
    """Returns which steps an axis names: whole ones; on a logarithmic axis powers of ten, and 2 and 5 times
    them where those are few.
    """
    if not log_steps:
        return [step for step in ticks(low, high, 8) if step == int(step)] or [low]
    powers = range(int(math.log10(max(1, high))) + 1)
    factors = (1,) if len(powers) > 3 else (1, 2, 5)
    steps = [float(factor * 10**power) for power in powers for factor in factors]
    return [step for step in steps if low <= step <= high] or [low]
