"""Laws of precision: a tiny result has as many digits as a large one, and a sum of many numbers as many as its
terms.

The tolerances of the table are relative to what was added up on the way; here they are relative to the result
alone. The references are computed in doubles, from formulas that keep their digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygpt_core.buffer import Buffer
from tinygpt_core.losses import BinaryCrossEntropyLoss
from tinygpt_core.tensor import Tensor

from .strategies import FLOATS, make, read, supported

# ---------------------------------------------------------------- tails


def _logistic(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x > -700.0 else math.exp(x)


def _softplus(x: float) -> float:
    """Returns log(1 + e^x)."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def _tanh_argument(x: float) -> float:
    return 2.0 * math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)


def _gelu(x: float) -> float:
    return x * _logistic(_tanh_argument(x))


def _gelu_slope(x: float) -> float:
    share, rest = _logistic(_tanh_argument(x)), _logistic(-_tanh_argument(x))
    return share + x * share * rest * 2.0 * math.sqrt(2.0 / math.pi) * (1.0 + 3.0 * 0.044715 * x * x)


def _exact_gelu(x: float) -> float:
    return x * math.erfc(-x / math.sqrt(2.0)) / 2.0


def _exact_gelu_slope(x: float) -> float:
    return math.erfc(-x / math.sqrt(2.0)) / 2.0 + x * math.exp(-x * x / 2.0) / math.sqrt(2.0 * math.pi)


def _cross_entropy(target: float) -> Callable[[Tensor], Tensor]:
    def losses(x: Tensor) -> Tensor:
        return BinaryCrossEntropyLoss("none")(x, x.detach() * 0.0 + target)

    return losses


# name: the function, its value and its slope, the exponent that it takes e to the power of
TAILS: dict[str, tuple[Callable[[Tensor], Tensor], Any, Any, Callable[[float], float]]] = {
    "sigmoid": (Tensor.sigmoid, _logistic, lambda x: _logistic(x) * _logistic(-x), lambda x: 0.0),
    "log_sigmoid": (Tensor.log_sigmoid, lambda x: -_softplus(-x), lambda x: _logistic(-x), lambda x: 0.0),
    "silu": (
        Tensor.silu,
        lambda x: x * _logistic(x),
        lambda x: _logistic(x) * (1.0 + x * _logistic(-x)),
        lambda x: 0.0,
    ),
    "gelu": (Tensor.gelu, _gelu, _gelu_slope, _tanh_argument),
    "exact gelu": (
        lambda x: x.gelu(approximate="none"),
        _exact_gelu,
        _exact_gelu_slope,
        lambda x: x * x,
    ),
    "cross-entropy of no": (_cross_entropy(0.0), _softplus, _logistic, lambda x: 0.0),
    "cross-entropy of yes": (
        _cross_entropy(1.0),
        lambda x: _softplus(-x),
        lambda x: -_logistic(-x),
        lambda x: 0.0,
    ),
}
DEEPEST = {"gelu": 12.0, "exact gelu": 12.0}


@pytest.mark.parametrize("name", TAILS)
@given(data=st.data())
def test_tails_keep_their_digits(backend: type[Buffer], name: str, data: st.DataObject) -> None:
    """The value and the gradient, a few units in the last place from the true ones, as far out as the dtype
    has normal numbers.

    An exponent that is itself rounded costs as many units as it is large.
    """
    function, value, slope, exponent = TAILS[name]
    dtype = data.draw(st.sampled_from(supported(backend, FLOATS)))
    deepest = DEEPEST.get(name, 120.0)
    numbers = data.draw(st.lists(st.floats(1.5, deepest, width=32), min_size=1, max_size=9))
    x = np.array([-v for v in numbers] + numbers + [-17.5, 17.5][: 2 if deepest > 17.5 else 0], dtype)
    tensor = Tensor(make(backend, x), requires_grad=True)
    y = function(tensor)
    y.sum().backward()
    assert tensor.grad is not None
    doubles = x.astype(np.float64).tolist()
    unit, smallest = float(np.finfo(dtype).eps), float(np.finfo(dtype).tiny)
    # GELU in pure Python computes 1 + tanh in doubles down to its tail
    units = np.array([16.0 + 4.0 * abs(exponent(v)) for v in doubles])
    if name == "gelu" and dtype == "float64":
        units += 1e4
    for what, found, reference in (
        ("value", read(y.buffer), value),
        ("gradient", read(tensor.grad.buffer), slope),
    ):
        wanted = np.array([reference(v) for v in doubles])
        room = units * unit * np.abs(wanted) + (2.0 + np.abs(x)) ** 3 * smallest
        assert np.all(np.abs(found - wanted) <= room), (
            f"the {what} of {name} at {doubles}:\nfound  {found.tolist()}\nwanted {wanted.tolist()}"
        )


def test_the_ends_of_the_tails(backend: type[Buffer]) -> None:
    """At infinities these functions have limits; NaN stays NaN."""
    x = Tensor(make(backend, np.array([-np.inf, np.inf, np.nan], np.float32)), requires_grad=True)
    assert np.array_equal(read(x.sigmoid().buffer), [0.0, 1.0, np.nan], equal_nan=True)
    assert np.array_equal(read(x.log_sigmoid().buffer), [-np.inf, 0.0, np.nan], equal_nan=True)
    x.log_sigmoid().sum().backward()
    assert x.grad is not None
    assert np.array_equal(read(x.grad.buffer), [1.0, 0.0, np.nan], equal_nan=True)
