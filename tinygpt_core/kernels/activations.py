"""Activation functions, element by element: ReLU, GELU, SiLU.

    ReLU    y = max(x, 0)          dL/dx = g where x > 0
    GELU    y = x Phi(x)           dL/dx = g (Phi(x) + x Phi'(x))
    SiLU    y = x s(x)             dL/dx = g s(x) (1 + x (1 - s(x)))

with Phi(x) the probability that a standard normal number is below x, and s(x) = 1 / (1 + exp(-x)). Those that
need no kernel (tanh, sigmoid) are operations of their own. Notation as in `base`.

In the tails, Phi(x) and s(x) are tiny numbers, and as tiny numbers they are computed. A sum such as
(1 + tanh(x / 2)) / 2 means the same, but rounds what is left of 1 - 0.99999997, and is 0 from -17 on.
"""

from __future__ import annotations

import math
from typing import Any

from ..buffer.base import Buffer
from .base import Gradient, Kernel, require_float

SQRT_2_OVER_PI = math.sqrt(2.0 / math.pi)
GELU_CUBIC = 0.044715


def logistic(x: Buffer) -> Buffer:
    """Returns 1 / (1 + exp(-x)) of each element, of the shape of x, to a few units in the last place in both
    tails.

    Where exp(-x) is infinite, the quotient is the right 0. 1 minus it is `logistic(-x)`.
    """
    return 1.0 / ((-x).exp() + 1.0)


def log_of_one_plus(s: Buffer) -> Buffer:
    """Returns log(1 + s) of each element, of the shape of s, without losing a small s to the 1.

    Where 1 + s is rounded, log(1 + s) and (1 + s) - 1 are those of a slightly different s, which their
    quotient does not show.

    Source: Kahan's log1p; Goldberg, "What Every Computer Scientist Should Know About Floating-Point
    Arithmetic", 1991, theorem 4
    """
    one_plus_s = s + 1.0
    return Buffer.where(one_plus_s == 1.0, s, one_plus_s.log() * s / (one_plus_s - 1.0))


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

    approximate="none": Phi(x) = (1 + erf(x / sqrt 2)) / 2 = erfc(-x / sqrt 2) / 2, dy/dx = Phi(x) + x phi(x).
    approximate="tanh" (GPT-2's): Phi(x) = (1 + tanh(u)) / 2 = s(2 u) with u = sqrt(2 / pi) (x + 0.044715 x^3)
    and s the logistic function, and dy/dx = s + 2 x s (1 - s) sqrt(2 / pi) (1 + 3 * 0.044715 x^2).
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
            share = logistic((x + x * x * x * GELU_CUBIC) * (2.0 * SQRT_2_OVER_PI))
        else:
            share = (x * -math.sqrt(0.5)).erfc() * 0.5
        return x * share, (x, share, approximate)

    @staticmethod
    def backward(saved: Any, grad: Buffer) -> tuple[Gradient, ...]:
        x, share, approximate = saved
        if approximate == "tanh":
            slope = share * (1.0 - share) * (x * x * (3.0 * GELU_CUBIC) + 1.0) * (2.0 * SQRT_2_OVER_PI)
        else:
            slope = (x * x * -0.5).exp() * (1.0 / math.sqrt(2.0 * math.pi))
        return (grad * (share + x * slope),)


class SiLU(Kernel):
    """y = x s of each element, with s = 1 / (1 + exp(-x)), also called swish; dy/dx = s (1 + x (1 - s)).

    Source: Elfwing, Uchibe, Doya, "Sigmoid-Weighted Linear Units", 2017.

    Raises:
        TypeError: x is not floating.
    """

    @staticmethod
    def forward(x: Buffer) -> tuple[Buffer, Any]:
        require_float("silu", x=x)
        s = logistic(x)
        return x * s, (x, s)

    @staticmethod
    def backward(saved: Any, grad: Buffer) -> tuple[Gradient, ...]:
        x, s = saved
        return (grad * s * (x * (1.0 - s) + 1.0),)
