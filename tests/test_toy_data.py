"""Two moons: where the points lie, and that a seed fixes them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygpt_core.dataset.toy_data import two_moons
from tinygpt_core.dtype import DType


@given(st.integers(2, 50), st.integers(0, 5))
def test_without_noise_the_points_lie_on_two_half_circles(count, seed):
    points, classes = two_moons(count, 0.0, seed)
    assert points.shape == (count, 2) and points.dtype is DType.float32
    assert classes.to_python() == [i % 2 for i in range(count)] and classes.dtype is DType.int32
    for (x, y), label in zip(points.to_python(), classes.to_python(), strict=True):
        centre = (1.0, 0.5) if label else (0.0, 0.0)
        assert math.hypot(x - centre[0], y - centre[1]) == pytest.approx(1.0, abs=1e-6)
        assert (y <= 0.5 + 1e-6) if label else (y >= -1e-6)


def test_both_halves_reach_from_end_to_end():
    for count in (2, 9, 10):
        points, _ = two_moons(count, 0.0)
        ends = points.to_python()
        assert ends[0] == pytest.approx([1.0, 0.0], abs=1e-6) and ends[1] == pytest.approx(
            [0.0, 0.5], abs=1e-6
        )
        if count > 3:
            first, second = ends[0::2], ends[1::2]
            assert first[-1] == pytest.approx([-1.0, 0.0], abs=1e-6) and second[-1] == pytest.approx(
                [2.0, 0.5], abs=1e-6
            )


def test_noise_is_seeded_and_as_large_as_asked():
    first, again, other = (two_moons(400, 0.2, seed)[0].to_python() for seed in (1, 1, 2))
    assert first == again != other
    exact = two_moons(400, 0.0)[0].to_python()
    offsets = [a - b for p, q in zip(first, exact, strict=True) for a, b in zip(p, q, strict=True)]
    assert math.sqrt(sum(d * d for d in offsets) / len(offsets)) == pytest.approx(0.2, rel=0.1)


@pytest.mark.parametrize(("count", "noise"), [(1, 0.1), (10, -0.1), (10, math.nan)])
def test_bad_settings(count, noise):
    with pytest.raises(ValueError, match=f"but got {count} and {noise}"):
        two_moons(count, noise)
