"""Activation functions, element by element: ReLU, GELU, SiLU.

    ReLU    y = max(x, 0)          dL/dx = g where x > 0
    GELU    y = x Phi(x)           dL/dx = g (Phi(x) + x Phi'(x))
    SiLU    y = x s(x)             dL/dx = g s(x) (1 + x (1 - s(x)))

with Phi(x) the probability that a standard normal number is below x, and s(x) = 1 / (1 + exp(-x)). Those that
need no kernel (tanh, sigmoid) are operations of their own. Notation as in `base`.
"""

from __future__ import annotations

import math
from typing import Any

from ..buffer.base import Buffer
from .base import Gradient, Kernel, require_float

SQRT_2_OVER_PI = math.sqrt(2.0 / math.pi)
GELU_CUBIC = 0.044715


class Relu(Kernel):
    """y = max(x, 0) of each element; dL/dx = g where x > 0, else 0 (at 0 too)."""

    @staticmethod
    def forward(x: Buffer) -> tuple[Buffer, Any]:
        y = x.maximum(0.0)
        return y, (y,)

    @staticmethod
    def backward(saved: Any, grad: Buffer) -> tuple[Gradient, ...]:
        (y,) = saved
        return (Buffer.where(y > 0.0, grad, 0.0),)


class GELU(Kernel):
    """y = x Phi(x) of each element, with Phi the distribution function of the standard normal distribution.

    approximate="none": Phi(x) = (1 + erf(x / sqrt 2)) / 2 and dy/dx = Phi(x) + x phi(x).
    approximate="tanh" (GPT-2's): Phi(x) = (1 + t) / 2 with t = tanh(sqrt(2 / pi) (x + 0.044715 x^3)), and
    dy/dx = (1 + t) / 2 + x (1 - t^2) / 2 sqrt(2 / pi) (1 + 3 * 0.044715 x^2).
    Source: Hendrycks, Gimpel, "Gaussian Error Linear Units", 2016.

    Raises:
        TypeError: x is not floating.
        ValueError: another `approximate`.
    """

    @staticmethod
    def check(x: Buffer, approximate: str) -> None:
        """Raises TypeError or ValueError unless the elements of x are floats and the form is known."""
        require_float("gelu", x=x)
        if approximate not in ("tanh", "none"):
            raise ValueError(f"gelu: approximate is 'tanh' or 'none', not {approximate!r}")

    @staticmethod
    def forward(x: Buffer, *, approximate: str = "tanh") -> tuple[Buffer, Any]:
        GELU.check(x, approximate)
        if approximate == "tanh":
            t = ((x + x * x * x * GELU_CUBIC) * SQRT_2_OVER_PI).tanh()
        else:
            t = (x * math.sqrt(0.5)).erf()
        return x * (t + 1.0) * 0.5, (x, t, approximate)

    @staticmethod
    def backward(saved: Any, grad: Buffer) -> tuple[Gradient, ...]:
        x, t, approximate = saved
        if approximate == "tanh":
            slope = (1.0 - t * t) * (x * x * (3.0 * GELU_CUBIC) + 1.0) * (0.5 * SQRT_2_OVER_PI)
        else:
            slope = (x * x * -0.5).exp() * (1.0 / math.sqrt(2.0 * math.pi))
        return (grad * ((t + 1.0) * 0.5 + x * slope),)


class SiLU(Kernel):
    """y = x s of each element, with s = 1 / (1 + exp(-x)), also called swish; dy/dx = s (1 + x (1 - s)).

    Source: Elfwing, Uchibe, Doya, "Sigmoid-Weighted Linear Units", 2017.

    Raises:
        TypeError: x is not floating.
    """

    @staticmethod
    def forward(x: Buffer) -> tuple[Buffer, Any]:
        require_float("silu", x=x)
        s = (x * 0.5).tanh() * 0.5 + 0.5  # the logistic function without an overflow
        return x * s, (x, s)

    @staticmethod
    def backward(saved: Any, grad: Buffer) -> tuple[Gradient, ...]:
        x, s = saved
        return (grad * s * (x * (1.0 - s) + 1.0),)
