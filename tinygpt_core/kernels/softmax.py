"""Probabilities from logits: softmax and log-softmax.

    softmax        p_i = exp(x_i) / sum_j exp(x_j)      dL/dx = p (g - sum(g p))
    log-softmax    y = log p                            dL/dx = g - p sum(g)

Both subtract the largest logit first: that changes no quotient, and exp cannot overflow.
Notation as in `base`.
"""

from __future__ import annotations

from typing import Any

from ..buffer.base import Buffer
from ..shape import normalize_axis
from .base import Gradient, Kernel, require_float


class Softmax(Kernel):
    """y = exp(x - max x) / sum exp(x - max x) along an axis; dL/dx = y (g - sum(g y)). A row of only
    -infinity gives NaN.

    Raises:
        TypeError: x is not floating, or the axis no int.
        ValueError: x does not have that axis.
    """

    @staticmethod
    def forward(x: Buffer, *, axis: int = -1) -> tuple[Buffer, Any]:
        require_float("softmax", x=x)
        axis = normalize_axis(axis, x.ndim)
        if not x.numel:
            return x.copy(), (x, axis)
        e = (x - x.max((axis,))).exp()
        y = e / e.sum((axis,))
        return y, (y, axis)

    @staticmethod
    def backward(saved: Any, grad: Buffer) -> tuple[Gradient, ...]:
        y, axis = saved
        return (y * (grad - (grad * y).sum((axis,))),)


class LogSoftmax(Kernel):
    """y = x - max x - log sum exp(x - max x) along an axis; dL/dx = g - exp(y) sum(g).

    Raises:
        TypeError: x is not floating, or the axis no int.
        ValueError: x does not have that axis.
    """

    @staticmethod
    def forward(x: Buffer, *, axis: int = -1) -> tuple[Buffer, Any]:
        require_float("log_softmax", x=x)
        axis = normalize_axis(axis, x.ndim)
        if not x.numel:
            return x.copy(), (x, axis)
        shifted = x - x.max((axis,))
        y = shifted - shifted.exp().sum((axis,)).log()
        return y, (y, axis)

    @staticmethod
    def backward(saved: Any, grad: Buffer) -> tuple[Gradient, ...]:
        y, axis = saved
        return (grad - y.exp() * grad.sum((axis,)),)
