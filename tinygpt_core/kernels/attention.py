"""Scaled dot-product attention, rotary positions, and attention of packed queries, keys and values.

Notation as in `dense`.
"""

from __future__ import annotations

import math
from typing import Any

from .. import shape_errors
from ..buffer.base import Buffer
from ..dtype import DType
from ..shape_errors import ShapeError
from .base import Gradient, Kernel, lookup, require_float
from .softmax import Softmax


class Attention(Kernel):
    """y = softmax(q k^T scale) v for each head: q (B, H, T, D), k and v (B, H, S, D), y (B, H, T, D).

    Causal: position i of the T queries, which are the last of the S positions, sees keys j <= i + S - T. The
    scale is 1 / sqrt(D) unless given. With P the probabilities and dP = g v^T: dv = P^T g, dS = P (dP -
    sum(dP P)), dq = dS k scale, dk = dS^T q scale.
    Source: Vaswani et al., "Attention Is All You Need", 2017, equation 1.

    Raises:
        TypeError: operands that are not of one float dtype.
        ShapeError: shapes that do not fit, or a causal T above S.
    """

    @staticmethod
    def check(query: Buffer, key: Buffer, value: Buffer, causal: bool) -> None:
        """Raises TypeError or ValueError unless shapes and dtypes fit."""
        require_float("attention", query=query, key=key, value=value)
        fits = query.ndim == key.ndim == 4 and key.shape == value.shape and query.shape[:2] == key.shape[:2]
        if not fits or query.shape[3] != key.shape[3] or (causal and query.shape[2] > key.shape[2]):
            raise ShapeError(shape_errors.attention(query.shape, key.shape, value.shape, causal))

    @staticmethod
    def forward(
        query: Buffer, key: Buffer, value: Buffer, *, causal: bool = True, scale: float | None = None
    ) -> tuple[Buffer, Any]:
        Attention.check(query, key, value, causal)
        scale = 1.0 / math.sqrt(query.shape[3]) if scale is None else scale
        scores = query.matmul(key.transpose(2, 3)) * scale
        if causal:
            length, total = scores.shape[2:]
            kind = type(query)
            last_seen = kind.arange(total - length, total, dtype=DType.int64).reshape((length, 1))
            scores = Buffer.where(kind.arange(0, total, dtype=DType.int64) > last_seen, -math.inf, scores)
        probabilities, _ = Softmax.forward(scores, axis=3)
        return probabilities.matmul(value), (query, key, value, probabilities, scale)

    @staticmethod
    def backward(saved: Any, grad: Buffer) -> tuple[Gradient, ...]:
        query, key, value, probabilities, scale = saved
        of_probabilities = grad.matmul(value.transpose(2, 3))
        (of_scores,) = Softmax.backward((probabilities, 3), of_probabilities)
        of_scores = of_scores * scale
        return (
            lambda: of_scores.matmul(key),
            lambda: of_scores.transpose(2, 3).matmul(query),
            lambda: probabilities.transpose(2, 3).matmul(grad),
        )


class Rotary(Kernel):
    """Rotates each pair (x_i, x_{i + D/2}) of a head at position p by the angle p base^(-2 i / D): x of shape
    (B, H, T, D), D even.

    y_i = x_i cos - x_{i+D/2} sin, y_{i+D/2} = x_{i+D/2} cos + x_i sin; dL/dx = g rotated back by the same
    angles. The T positions start at `positions_start`. Source: Su et al., "RoFormer", 2021, with the halves
    of a head paired as in GPT-NeoX and Llama.

    Raises:
        TypeError: x is not floating.
        ShapeError: x is not (B, H, T, D) with an even D.
    """

    @staticmethod
    def angles(x: Buffer, positions_start: int, base: float) -> tuple[Buffer, Buffer]:
        """Returns cosines and sines of shape (T, D / 2); raises TypeError or ShapeError as the class says."""
        require_float("rotary", x=x)
        if x.ndim != 4 or x.shape[3] % 2:
            raise ShapeError(
                shape_errors.wrong_shape(
                    "rotary", "input", x.shape, expected=("batch", "heads", "positions", "an even size")
                )
            )
        half = x.shape[3] // 2
        frequencies = [base ** (-i / half) for i in range(half)]
        angles = [(positions_start + t) * f for t in range(x.shape[2]) for f in frequencies]
        kind, shape = type(x), (x.shape[2], half)
        return tuple(
            kind.from_array(x.dtype.pack(list(map(f, angles))), shape, x.dtype) for f in (math.cos, math.sin)
        )  # type: ignore[return-value]

    @staticmethod
    def rotate(x: Buffer, cosine: Buffer, sine: Buffer) -> Buffer:
        """Returns x rotated by the angles of which cosine and sine are given."""
        half = x.shape[3] // 2
        a, b = x[..., :half], x[..., half:]
        return type(x).concatenate([a * cosine - b * sine, b * cosine + a * sine], axis=3)

    @staticmethod
    def forward(x: Buffer, *, positions_start: int = 0, base: float = 10000.0) -> tuple[Buffer, Any]:
        cosine, sine = Rotary.angles(x, positions_start, base)
        return Rotary.rotate(x, cosine, sine), (cosine, sine)

    @staticmethod
    def backward(saved: Any, grad: Buffer) -> tuple[Gradient, ...]:
        cosine, sine = saved
        return (Rotary.rotate(grad, cosine, -sine),)


class PackedAttention(Kernel):
    """Causal self-attention of a packed x (B, T, 3 H D), which holds query, key and value side by side, each
    split into H heads of D.

    y = softmax(q k^T / sqrt(D)) v for each head, with the heads side by side again, (B, T, H D); dL/dx holds
    dL/dq, dL/dk and dL/dv of `Attention` side by side. Source: Vaswani et al., "Attention Is All You Need",
    2017.

    Raises:
        TypeError: x is not floating.
        ShapeError: x has no such shape.
    """

    @staticmethod
    def heads(x: Buffer, num_heads: int) -> tuple[Buffer, ...]:
        """Returns views (B, H, T, D) of the query, key and value; raises TypeError or ShapeError where x has
        none.
        """
        require_float("packed_attention", x=x)
        if x.ndim != 3 or x.shape[2] % (3 * num_heads):
            wanted = ("batch", "positions", f"3 x {num_heads} heads x their size")
            raise ShapeError(shape_errors.wrong_shape("packed_attention", "input", x.shape, expected=wanted))
        split = x.reshape((*x.shape[:2], 3, num_heads, x.shape[2] // (3 * num_heads)))
        return tuple(split[:, :, part].permute((0, 2, 1, 3)) for part in range(3))

    @staticmethod
    def forward(x: Buffer, *, num_heads: int) -> tuple[Buffer, Any]:
        kernel = lookup(Attention, type(x))
        y, saved = kernel.forward(*PackedAttention.heads(x, num_heads), causal=True)
        return y.permute((0, 2, 1, 3)).reshape((*x.shape[:2], x.shape[2] // 3)), (x, kernel, saved, y.shape)

    @staticmethod
    def backward(saved: Any, grad: Buffer) -> tuple[Gradient, ...]:
        x, kernel, of_heads, (batch, heads, length, size) = saved
        g = grad.reshape((batch, length, heads, size)).permute((0, 2, 1, 3))
        parts = [part() if callable(part) else part for part in kernel.backward(of_heads, g)]
        return (
            type(x).concatenate([part.permute((0, 2, 1, 3)).reshape(grad.shape) for part in parts], axis=2),
        )
