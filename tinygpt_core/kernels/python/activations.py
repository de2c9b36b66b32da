"""GELU and ReLU in pure Python.

What is fast here: for GELU one comprehension for tanh (or erfc) and one for the result, one for the slope and
one for the gradient, where the textbook version makes a list and packs an array for each of some fifteen
steps. ReLU is one comprehension each way.

With t = tanh(u), 1 + t has lost most of its digits where t is near -1. There, 1 + t and 1 - t^2 are computed
from e^(2u) instead: 1 + t = 2 e^(2u) / (1 + e^(2u)).
"""

from __future__ import annotations

import math
from typing import Any

from ...buffer.python import PythonBuffer
from ..activations import GELU, GELU_CUBIC, SQRT_2_OVER_PI, Relu
from ..base import Gradient

# From here down the tail is computed anew: above, 1 + t has twelve digits in doubles, and float32 keeps seven
TAIL = -0.9999


def _tail(v: float) -> float:
    """Returns 1 + tanh(u) for an element v in the left tail of the tanh form, with all digits."""
    e = math.exp(2.0 * SQRT_2_OVER_PI * (v + GELU_CUBIC * v * v * v))
    return 2.0 * e / (1.0 + e)


class PythonGELU(GELU):
    """`GELU` in two comprehensions forward and two backward."""

    @staticmethod
    def forward(x: Any, *, approximate: str = "tanh") -> tuple[Any, Any]:
        GELU.check(x, approximate)
        values = x.values()
        if approximate == "tanh":
            tanh = math.tanh
            t = [tanh(SQRT_2_OVER_PI * (v + GELU_CUBIC * v * v * v)) for v in values]
        else:
            erfc, root = math.erfc, -math.sqrt(0.5)
            shares = [0.5 * erfc(v * root) for v in values]
            y = [v * share for v, share in zip(values, shares, strict=True)]
            return PythonBuffer.of(y, x.shape, x.dtype), (values, shares, approximate)
        y = [0.5 * v * (1.0 + u if u > TAIL else _tail(v)) for v, u in zip(values, t, strict=True)]
        return PythonBuffer.of(y, x.shape, x.dtype), (values, t, approximate)

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        values, t, approximate = saved
        pairs = zip(values, t, strict=True)
        if approximate == "tanh":
            a, b = 0.5 * SQRT_2_OVER_PI, 3.0 * GELU_CUBIC
            slopes = [
                0.5 * (1.0 + u) + v * (1.0 - u * u) * a * (1.0 + b * v * v)
                if u > TAIL
                else _tail(v) * (0.5 + v * (2.0 - _tail(v)) * a * (1.0 + b * v * v))
                for v, u in pairs
            ]
        else:
            a, exp = 1.0 / math.sqrt(2.0 * math.pi), math.exp
            slopes = [share + v * a * exp(-0.5 * v * v) for v, share in pairs]
        of_input = [g * slope for g, slope in zip(grad.values(), slopes, strict=True)]
        return (PythonBuffer.of(of_input, grad.shape, grad.dtype),)


class PythonRelu(Relu):
    """`Relu` in one comprehension forward and one backward."""

    @staticmethod
    def forward(x: Any) -> tuple[Any, Any]:
        if x.dtype.kind != "f":
            return Relu.forward(x)
        # NaN is not below 0, and stays
        y = [0.0 if v <= 0.0 else v for v in x.flat()]
        return PythonBuffer.of(y, x.shape, x.dtype), (y,)

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        (y,) = saved
        of_input = [g if v > 0.0 else 0.0 for g, v in zip(grad.flat(), y, strict=True)]
        return (PythonBuffer.of(of_input, grad.shape, grad.dtype),)
