"""GELU in pure Python.

What is fast here: one comprehension for tanh (or erf) and one for the result, one for the slope and one for
the gradient, where the textbook version makes a list and packs an array for each of some fifteen steps.
"""

from __future__ import annotations

import math
from typing import Any

from ...buffer.python import PythonBuffer
from ..activations import GELU, GELU_CUBIC, SQRT_2_OVER_PI
from ..base import Gradient


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
            erf, root = math.erf, math.sqrt(0.5)
            t = [erf(v * root) for v in values]
        y = [0.5 * v * (1.0 + u) for v, u in zip(values, t, strict=True)]
        return PythonBuffer.of(y, x.shape, x.dtype), (values, t, approximate)

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        values, t, approximate = saved
        pairs = zip(values, t, strict=True)
        if approximate == "tanh":
            a, b = 0.5 * SQRT_2_OVER_PI, 3.0 * GELU_CUBIC
            slopes = [0.5 * (1.0 + u) + v * (1.0 - u * u) * a * (1.0 + b * v * v) for v, u in pairs]
        else:
            a, exp = 1.0 / math.sqrt(2.0 * math.pi), math.exp
            slopes = [0.5 * (1.0 + u) + v * a * exp(-0.5 * v * v) for v, u in pairs]
        of_input = [g * slope for g, slope in zip(grad.values(), slopes, strict=True)]
        return (PythonBuffer.of(of_input, grad.shape, grad.dtype),)
