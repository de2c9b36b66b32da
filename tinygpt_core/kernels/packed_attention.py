"""Self-attention of queries, keys and values that come side by side, as one product makes them: one operation instead of ten."""

from __future__ import annotations

from typing import Any

from ..buffer.base import Buffer
from ..misfit import unlike
from ..shape import ShapeError
from .base import Gradient, Kernel, lookup
from .composed import Attention, require_float


class PackedAttention(Kernel):
    """Causal self-attention of a packed x (B, T, 3 H D), which holds query, key and value side by side, each split into H heads of D.

    y = softmax(q k^T / sqrt(D)) v for each head, with the heads side by side again, (B, T, H D); dL/dx holds dL/dq, dL/dk and dL/dv of
    `Attention` side by side. Source: Vaswani et al., "Attention Is All You Need", 2017.

    Raises:
        TypeError: x is not floating.
        ShapeError: x has no such shape.
    """

    @staticmethod
    def heads(x: Buffer, num_heads: int) -> tuple[Buffer, ...]:
        """Returns views (B, H, T, D) of the query, key and value; raises TypeError or ShapeError where x has none."""
        require_float("packed_attention", x=x)
        if x.ndim != 3 or x.shape[2] % (3 * num_heads):
            wanted = ("batch", "positions", f"3 x {num_heads} heads x their size")
            raise ShapeError(unlike("packed_attention", "input", x.shape, wanted))
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
        return (type(x).concatenate([part.permute((0, 2, 1, 3)).reshape(grad.shape) for part in parts], axis=2),)
