"""Rotary position encoding, which tells attention how far apart two positions are."""

from __future__ import annotations

from .. import operations
from ..module import Module
from ..tensor import Tensor, apply_op


class RotaryEncoding(Module):
    """Rotary position encoding: turns each pair (x[i], x[i + D/2]) at position p by the angle
    `a = p * base ** (-2 i / D)`.

    `y[i] = x[i] cos(a) - x[i + D/2] sin(a); y[i + D/2] = x[i + D/2] cos(a) + x[i] sin(a)`
    The product of a rotated query and key then depends on the distance of their positions only.

    Args:
        base: the longest wavelength is about 2 π base positions.

    Shape:
        (B, H, T, D) -> the same; D is even. `start` is the position of the first of the T.

    Source: Su et al. 2021, https://arxiv.org/abs/2104.09864; halves are paired as in GPT-NeoX and Llama.
    """

    def __init__(self, base: float = 10000.0) -> None:
        super().__init__()
        self.base = base

    def __call__(self, x: Tensor, start: int = 0) -> Tensor:
        return apply_op(operations.Rotary, x, positions_start=start, base=self.base)

    def _extra_repr(self) -> str:
        return f"base={self.base}"
