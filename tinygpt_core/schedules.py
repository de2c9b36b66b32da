"""Learning-rate schedules: functions from the number of updates done so far (0 at first) to a learning rate.

Use: `optimizer.learning_rate = schedule(step)` before each `optimizer.update()`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[int], float]


def _check(learning_rate: float, minimum: float, warmup_steps: int, total_steps: int) -> None:
    if not 0.0 <= minimum <= learning_rate < math.inf:
        raise ValueError(
            "expected 0 <= minimum <= learning_rate, "
            f"but got minimum {minimum}, learning_rate {learning_rate}"
        )
    if not 0 <= warmup_steps <= total_steps or total_steps < 1:
        raise ValueError(
            "expected 0 <= warmup_steps <= total_steps and at least one step, "
            f"but got {warmup_steps} and {total_steps}"
        )


def _warmed_up(
    learning_rate: float, minimum: float, warmup_steps: int, total_steps: int, shape: Callable[[float], float]
) -> Schedule:
    """Rises over the warm-up, then falls from learning_rate to minimum as `shape` falls from 1 to 0.

    Args:
        shape: a function on [0, 1] with shape(0) = 1 and shape(1) = 0.
    """
    _check(learning_rate, minimum, warmup_steps, total_steps)

    def schedule(step: int) -> float:
        if step < warmup_steps:
            return learning_rate * (step + 1) / (warmup_steps + 1)
        if step >= total_steps:
            return minimum
        ratio = (step - warmup_steps) / (total_steps - warmup_steps)
        return minimum + (learning_rate - minimum) * shape(ratio)

    return schedule


def half_a_cosine(ratio: float) -> float:
    """Returns `y = (1 + cos(π ratio)) / 2`, which falls from 1 at ratio 0 to 0 at ratio 1: the shape of
    cosine annealing (Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2016,
    arXiv:1608.03983).
    """
    return 0.5 * (1.0 + math.cos(math.pi * ratio))


def constant(learning_rate: float) -> Schedule:
    """Returns `rate(step) = learning_rate`, the same for every step.

    Raises:
        ValueError: a negative or infinite learning rate.
    """
    _check(learning_rate, 0.0, 0, 1)
    return lambda step: learning_rate


def linear_warmup(learning_rate: float, warmup_steps: int) -> Schedule:
    """Returns `rate(step) = learning_rate * min(1, (step + 1) / (warmup_steps + 1))`: it rises, then stays.

    Raises:
        ValueError: a negative or infinite learning rate, or a negative number of steps.
    """
    _check(learning_rate, 0.0, warmup_steps, max(warmup_steps, 1))
    return lambda step: learning_rate * min(1.0, (step + 1) / (warmup_steps + 1))


def cosine_with_warmup(
    learning_rate: float, *, total_steps: int, warmup_steps: int = 0, minimum: float = 0.0
) -> Schedule:
    """Returns a rate that rises linearly and then falls along half a cosine: nanoGPT's schedule.

        rate(step) = learning_rate * (step + 1) / (warmup_steps + 1)            for step < warmup_steps
        rate(step) = minimum + (learning_rate - minimum) * (1 + cos(π r)) / 2   then, up to total_steps
        rate(step) = minimum                                                    from total_steps on

    with r = (step - warmup_steps) / (total_steps - warmup_steps).

    Args:
        learning_rate: the highest, reached at step == warmup_steps.
        total_steps: the step at which the minimum is reached.
        warmup_steps: steps of the rise.
        minimum: the lowest, at the end.

    Raises:
        ValueError: not 0 <= minimum <= learning_rate, or not 0 <= warmup_steps <= total_steps with a step at
            least.

    Source: Loshchilov, Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2016,
    https://arxiv.org/abs/1608.03983
    """
    return _warmed_up(learning_rate, minimum, warmup_steps, total_steps, half_a_cosine)


def linear(
    learning_rate: float, *, total_steps: int, warmup_steps: int = 0, minimum: float = 0.0
) -> Schedule:
    """Returns a rate that rises as in `cosine_with_warmup` and then falls along a straight line to `minimum`.

    In the fall it is `rate(step) = minimum + (learning_rate - minimum) * (1 - r)`, with the same r.

    Raises:
        ValueError: as `cosine_with_warmup`.
    """
    return _warmed_up(learning_rate, minimum, warmup_steps, total_steps, lambda ratio: 1.0 - ratio)


def square_root_fall(ratio: float) -> float:
    """Returns `y = 1 - sqrt(ratio)`, which falls from 1 at ratio 0 to 0 at ratio 1, fast at first: the best
    of the decays that Hägele et al. tried ("Scaling Laws and Compute-Optimal Training Beyond Fixed Training
    Durations", 2024, arXiv:2405.18392).
    """
    return 1.0 - math.sqrt(ratio)


def stable_then_fall(ratio: float, decay_fraction: float) -> float:
    """Returns `y = 1` up to the ratio s = 1 - decay_fraction, and then `y = 1 - sqrt((ratio - s) /
    decay_fraction)`, which is 0 at ratio 1.
    """
    start = 1.0 - decay_fraction
    return 1.0 if ratio <= start else square_root_fall(min(1.0, (ratio - start) / decay_fraction))


def warmup_stable_decay(
    learning_rate: float,
    *,
    total_steps: int,
    warmup_steps: int = 0,
    decay_fraction: float = 0.2,
    minimum: float = 0.0,
) -> Schedule:
    """Returns a rate that rises, stays for most of the steps, and falls at the end: WSD.

        rate(step) = learning_rate * (step + 1) / (warmup_steps + 1)            for step < warmup_steps
        rate(step) = learning_rate                                              then, up to the decay
        rate(step) = minimum + (learning_rate - minimum) * (1 - sqrt(r))        in it
        rate(step) = minimum                                                    from total_steps on

    The decay is the last `decay_fraction` of the steps after the warm-up, and r the part of it that has
    passed. Until it begins nothing depends on total_steps: a run may go on for longer as if it had been meant
    to, where a cosine would have to be stretched.

    Args:
        learning_rate, total_steps, warmup_steps, minimum: as for `cosine_with_warmup`.
        decay_fraction: of the steps after the warm-up, above 0 and at most 1.

    Raises:
        ValueError: as `cosine_with_warmup`, or a decay_fraction outside (0, 1].

    Source: Hu et al., "MiniCPM", 2024, https://arxiv.org/abs/2404.06395; the shape of the fall: Hägele et
    al., 2024, https://arxiv.org/abs/2405.18392
    """
    if not 0.0 < decay_fraction <= 1.0:
        raise ValueError(f"decay_fraction must lie above 0 and not above 1, but got {decay_fraction}")
    return _warmed_up(
        learning_rate,
        minimum,
        warmup_steps,
        total_steps,
        lambda ratio: stable_then_fall(ratio, decay_fraction),
    )


def step_decay(learning_rate: float, *, factor: float, every: int) -> Schedule:
    """Returns a rate that shrinks by a factor at regular intervals.

    `rate(step) = learning_rate * factor ** floor(step / every)`

    Raises:
        ValueError: a negative or infinite learning rate, a factor outside (0, 1], or `every` below 1.
    """
    _check(learning_rate, 0.0, 0, 1)
    if not 0.0 < factor <= 1.0 or every < 1:
        raise ValueError(
            f"expected a factor in (0, 1] and every >= 1, but got factor {factor}, every {every}"
        )
    return lambda step: learning_rate * factor ** (step // every)


def exponential_decay(learning_rate: float, *, factor: float) -> Schedule:
    """Returns a rate that shrinks by a factor at every step: `rate(step) = learning_rate * factor ** step`.

    Raises:
        ValueError: a negative or infinite learning rate, or a factor outside (0, 1].
    """
    return step_decay(learning_rate, factor=factor, every=1)
