"""Laws of learning-rate schedules."""

import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tinygpt_core import schedules


@settings(max_examples=50)
@given(
    st.sampled_from(["cosine_with_warmup", "linear"]), st.integers(0, 20), st.integers(1, 30), st.floats(0, 1)
)
def test_rise_then_fall_then_stay(name, warmup_steps, falling_steps, share):
    total = warmup_steps + falling_steps
    minimum = 0.5 * share
    schedule = getattr(schedules, name)(0.5, total_steps=total, warmup_steps=warmup_steps, minimum=minimum)
    rates = [schedule(step) for step in range(total + 5)]
    assert rates[warmup_steps] == pytest.approx(0.5)
    assert rates[total:] == [minimum] * 5
    rise, fall = rates[: warmup_steps + 1], rates[warmup_steps:]
    assert rise == sorted(rise) and fall == sorted(fall, reverse=True)
    assert all(0 < rate <= 0.5 for rate in rise) and all(minimum <= rate <= 0.5 + 1e-12 for rate in fall)
    assert rise == pytest.approx([0.5 * (step + 1) / (warmup_steps + 1) for step in range(warmup_steps + 1)])


def test_known_values():
    cosine = schedules.cosine_with_warmup(1.0, total_steps=9, warmup_steps=1, minimum=0.2)
    assert [cosine(step) for step in (0, 1, 3, 5, 9)] == pytest.approx(
        [0.5, 1.0, 0.2 + 0.4 * (1 + math.cos(math.pi / 4)), 0.6, 0.2]
    )
    line = schedules.linear(1.0, total_steps=4)
    assert [line(step) for step in range(6)] == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    assert [schedules.constant(0.3)(step) for step in (0, 10**6)] == [0.3, 0.3]
    warmup = schedules.linear_warmup(1.0, 3)
    assert [warmup(step) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    decay = schedules.step_decay(1.0, factor=0.5, every=2)
    assert [decay(step) for step in range(5)] == [1.0, 1.0, 0.5, 0.5, 0.25]
    assert [schedules.exponential_decay(2.0, factor=0.5)(step) for step in range(4)] == [2.0, 1.0, 0.5, 0.25]


@settings(max_examples=50)
@given(st.integers(0, 20), st.integers(1, 30), st.floats(0, 1), st.floats(0.01, 1.0))
@example(2, 8, 0.5, 1.0)  # all steps after the warm-up
def test_warmup_stable_decay(warmup_steps, others, share, fraction):
    """Against its definition; before the decay nothing depends on the number of steps."""
    total = warmup_steps + others
    minimum = 0.5 * share
    options = {"warmup_steps": warmup_steps, "minimum": minimum, "decay_fraction": fraction}
    schedule = schedules.warmup_stable_decay(0.5, total_steps=total, **options)
    rates = [schedule(step) for step in range(total + 5)]
    assert rates[: warmup_steps + 1] == pytest.approx(
        [0.5 * (step + 1) / (warmup_steps + 1) for step in range(warmup_steps + 1)]
    )
    assert rates[total:] == [minimum] * 5
    start = others * (1 - fraction)
    for step in range(warmup_steps, total):
        passed = step - warmup_steps
        r = max(0.0, (passed - start) / (others - start))
        assert rates[step] == pytest.approx(minimum + (0.5 - minimum) * (1 - math.sqrt(r)), abs=1e-6)
    longer = schedules.warmup_stable_decay(0.5, total_steps=total + 7, **options)
    stable = warmup_steps + math.floor(start)
    assert [longer(step) for step in range(stable)] == rates[:stable]


def test_a_decay_that_is_none():
    for fraction in (0.0, -0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="decay_fraction must lie above 0"):
            schedules.warmup_stable_decay(1.0, total_steps=5, decay_fraction=fraction)


def test_where_the_rise_is_all_there_is():
    for make in (schedules.cosine_with_warmup, schedules.linear):
        schedule = make(1.0, total_steps=3, warmup_steps=3, minimum=0.25)
        assert [schedule(step) for step in range(5)] == [0.25, 0.5, 0.75, 0.25, 0.25]


def test_bad_settings():
    for options in (
        {"total_steps": 0},
        {"total_steps": 5, "warmup_steps": 6},
        {"total_steps": 5, "warmup_steps": -1},
        {"total_steps": 5, "minimum": 2.0},
        {"total_steps": 5, "minimum": -0.1},
    ):
        for make in (schedules.cosine_with_warmup, schedules.linear):
            with pytest.raises(ValueError, match="expected"):
                make(1.0, **options)
    with pytest.raises(ValueError):
        schedules.constant(math.nan)
    with pytest.raises(ValueError, match="factor"):
        schedules.step_decay(1.0, factor=2.0, every=1)


@pytest.mark.parametrize(
    "make",
    [
        schedules.constant,
        lambda rate: schedules.linear_warmup(rate, 0),
        lambda rate: schedules.step_decay(rate, factor=1.0, every=1),
        lambda rate: schedules.exponential_decay(rate, factor=1.0),
        lambda rate: schedules.cosine_with_warmup(rate, total_steps=9, minimum=rate),
        lambda rate: schedules.linear(rate, total_steps=9, minimum=rate),
    ],
)
def test_any_finite_rate_from_0_is_one(make):
    """A factor of 1 and a fall to the rate itself keep it; negative and infinite rates are refused."""
    for rate in (0.0, 1e-9, 0.1, 1.0, 30.0):
        assert [make(rate)(step) for step in (0, 3, 20)] == pytest.approx([rate] * 3)
    for rate in (-1e-9, math.inf, math.nan):
        with pytest.raises(ValueError):
            make(rate)
    with pytest.raises(ValueError, match="warmup_steps"):
        schedules.linear_warmup(1.0, -1)
    for factor, every in ((0.0, 1), (-0.5, 1), (1.5, 1), (0.5, 0)):
        with pytest.raises(ValueError, match="factor"):
            schedules.step_decay(1.0, factor=factor, every=every)
