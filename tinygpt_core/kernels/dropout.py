"""Dropout: each element is set to 0 with probability p, and the others are scaled up to make up for it.

    y = x m / (1 - p)    dL/dx = g m / (1 - p)    m is 0 with probability p and else 1

Every backend draws the same mask m. It chooses, and is not multiplied by: what is dropped becomes 0, whatever
it was, and so does its gradient, also an infinite one. Notation as in `base`.
"""

from __future__ import annotations

from typing import Any

from .. import random
from ..buffer.base import Buffer
from .base import Gradient, Kernel, require_float


class Dropout(Kernel):
    """y = x m / (1 - p) of each element, where m is 0 with probability p and else 1; dL/dx = g m / (1 - p).

    m comes from the counter-based stream at `key`: the same mask on every backend. Element i is kept where
    its uniform number is >= p. Source: Srivastava et al., "Dropout", 2014.

    Raises:
        TypeError: x is not floating.
        ValueError: a probability outside [0, 1).
    """

    @staticmethod
    def forward(x: Buffer, *, probability: float, key: random.Key) -> tuple[Buffer, Any]:
        require_float("dropout", x=x)
        if not 0.0 <= probability < 1.0:
            raise ValueError(f"dropout: a probability lies in [0, 1), but got {probability}")
        uniform = type(x).uniform_at(key, x.shape)
        factor = 1.0 / (1.0 - probability)
        is_kept = uniform >= probability
        return Buffer.where(is_kept, x * factor, 0.0), (is_kept, factor)

    @staticmethod
    def backward(saved: Any, grad: Buffer) -> tuple[Gradient, ...]:
        is_kept, factor = saved
        return (Buffer.where(is_kept, grad * factor, 0.0),)
