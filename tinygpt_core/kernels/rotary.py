"""Rotary positions: each pair of numbers of a head is a point in the plane, and is turned by an angle that
grows with the position.

    (y_1, y_2) = (x_1 cos a - x_2 sin a, x_2 cos a + x_1 sin a)    a = position * frequency

The product of a query and a key, turned so, depends on how far apart they stand and not on where: that is
what attention sees of positions. Notation as in `base`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from .. import shape_errors
from ..buffer.base import Buffer
from ..shape_errors import ShapeError
from .base import Gradient, Kernel, require_float


class Rotary(Kernel):
    """Rotates each pair (x_i, x_{i + D/2}) of a head at position p by the angle p base^(-2 i / D): x of shape
    (B, H, T, D), D even.

    y_i = x_i cos - x_{i+D/2} sin, y_{i+D/2} = x_{i+D/2} cos + x_i sin; dL/dx = g rotated back by the same
    angles. The T positions start at `positions_start`. With `frequencies`, one for each pair, the angle is p
    times that of the pair instead. Source: Su et al., "RoFormer", 2021, with the halves of a head paired as
    in GPT-NeoX and Llama.

    Raises:
        TypeError: x is not floating.
        ShapeError: x is not (B, H, T, D) with an even D.
        ValueError: another number of frequencies than D / 2.
    """

    @staticmethod
    def frequencies(base: float, half: int) -> list[float]:
        """Returns by what angle each of the D / 2 pairs is turned from one position to the next."""
        return [base ** (-i / half) for i in range(half)]

    @staticmethod
    def angles(
        x: Buffer, positions_start: int, base: float, frequencies: Sequence[float] | None = None
    ) -> tuple[Buffer, Buffer]:
        """Returns cosines and sines of shape (T, D / 2); raises TypeError, ShapeError or ValueError as the
        class says.
        """
        require_float("rotary", x=x)
        if x.ndim != 4 or x.shape[3] % 2:
            expected = ("batch", "heads", "positions", "an even size")
            raise ShapeError(shape_errors.wrong_shape("rotary", "input", x.shape, expected=expected))
        length, half = x.shape[2], x.shape[3] // 2
        if frequencies is None:
            frequencies = Rotary.frequencies(base, half)
        if len(frequencies) != half:
            raise ValueError(
                f"rotary: {half} pairs need {half} frequencies, but there are {len(frequencies)}"
            )
        positions = range(positions_start, positions_start + length)
        angles = [position * frequency for position in positions for frequency in frequencies]

        def table(function: Any) -> Buffer:
            return type(x).from_array(x.dtype.pack(list(map(function, angles))), (length, half), x.dtype)

        return table(math.cos), table(math.sin)

    @staticmethod
    def rotate(x: Buffer, cosine: Buffer, sine: Buffer) -> Buffer:
        """Returns x rotated by the angles of which cosine and sine are given."""
        half = x.shape[3] // 2
        a, b = x[..., :half], x[..., half:]
        return type(x).concatenate([a * cosine - b * sine, b * cosine + a * sine], axis=3)

    @staticmethod
    def forward(
        x: Buffer,
        *,
        positions_start: int = 0,
        base: float = 10000.0,
        frequencies: Sequence[float] | None = None,
    ) -> tuple[Buffer, Any]:
        cosine, sine = Rotary.angles(x, positions_start, base, frequencies)
        return Rotary.rotate(x, cosine, sine), (cosine, sine)

    @staticmethod
    def backward(saved: Any, grad: Buffer) -> tuple[Gradient, ...]:
        cosine, sine = saved
        return (Rotary.rotate(grad, cosine, -sine),)
