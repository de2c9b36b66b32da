"""How far a result may lie from the true value: the one place that says so, by dtype.

An element passes when |result - truth| <= relative * |truth| + relative * magnitude, where `magnitude` is
what the row of the table says was added up on the way (sum |x_i| for a sum): rounding errors scale with that,
not with a result in which terms cancel. Integers and bools are exact.
"""

from __future__ import annotations

from typing import Any

import numpy as np

# float32: 2**-24 is 6e-8; a chain of a few dozen rounded operations, or a vectorised tanh with errors of some
# units in the last place.
RELATIVE = {"float32": 1e-5, "float64": 1e-12}
ABSOLUTE = {"float32": 2e-6, "float64": 1e-13}  # for results near 0 of operands near 1

# Gradients are compared in float64 with central differences of step h: their truncation is h**2 and their
# rounding 2**-52 / h.
STEP = 1e-5
GRADIENT_RELATIVE = 2e-6
GRADIENT_ABSOLUTE = 2e-7


def assert_close(actual: Any, expected: Any, dtype: str, magnitude: Any = None, what: str = "") -> None:
    """Fails unless every element of `actual` lies within the tolerance of `dtype` of `expected`; NaN and
    infinities must match.
    """
    actual, expected = np.asarray(actual), np.asarray(expected)
    note = f"{what}\nexpected {expected!r}\nactual   {actual!r}"
    assert actual.shape == expected.shape, f"shape {actual.shape} instead of {expected.shape}: {note}"
    if dtype not in RELATIVE:
        assert np.array_equal(actual, expected), note
        return
    with np.errstate(all="ignore"):
        expected = expected.astype(np.float64)
        # What overflows the dtype is an infinity in it.
        stored = expected.astype(dtype).astype(np.float64)
        actual = actual.astype(np.float64)
        scale = np.abs(expected) + (0.0 if magnitude is None else np.abs(magnitude))
        near = np.abs(actual - expected) <= RELATIVE[dtype] * scale + ABSOLUTE[dtype]
        same = (actual == stored) | (np.isnan(actual) & np.isnan(stored))
        # Just below the largest float32 two roundings may differ on whether it overflows.
        edge = (
            np.isinf(actual)
            & (np.abs(expected) >= np.finfo(dtype).max * (1 - 1e-5))
            & (np.sign(actual) == np.sign(expected))
        )
    assert bool(np.all((np.isfinite(stored) & near) | same | edge)), note


def assert_gradient_close(actual: Any, expected: Any, what: str = "", magnitude: float = 1.0) -> None:
    """Fails unless a gradient agrees with central differences of a function whose values have the given
    magnitude.
    """
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    note = f"{what}\ncentral differences {expected!r}\ngradient            {actual!r}"
    assert actual.shape == expected.shape, f"shape {actual.shape} instead of {expected.shape}: {note}"
    bound = GRADIENT_RELATIVE * np.abs(expected) + GRADIENT_ABSOLUTE * max(1.0, magnitude)
    assert bool(np.all(np.abs(actual - expected) <= bound)), note
