"""Attention by batched products, with a softmax of our own between them, some heads at a time."""

from __future__ import annotations

from typing import Any

from ..buffer import CudaBuffer
from .softmax import softmax, softmax_gradient

SCORES = 1 << 28  # scores that are there at a time


class Batched:
    """Attention of arrays (B, H, T, D) by batched products. The backward computes probabilities again."""

    @staticmethod
    def forward(
        kind: type[CudaBuffer], q: Any, k: Any, v: Any, causal: bool, scale: float, fast: bool
    ) -> tuple[Any, Any]:
        """Returns y, which lies as (B, T, H, D), and nothing else that the backward would need."""
        shape = q.shape
        q, k, v = (_dense_heads(kind, x) for x in (q, k, v))
        y = kind.xp.empty(q.shape, q.dtype)
        for part in _parts(q, k):
            p = _probabilities(kind, q[part], k[part], causal, scale, fast)
            kind.batched_product(p, v[part], y[part], fast)
        result = empty_like_heads(kind, y.reshape(shape))
        result[...] = y.reshape(shape)
        return result, None

    @staticmethod
    def backward(
        kind: type[CudaBuffer],
        q: Any,
        k: Any,
        v: Any,
        y: Any,
        g: Any,
        causal: bool,
        scale: float,
        fast: bool,
        state: Any,
        out: Any,
    ) -> None:
        """Writes the gradients of q, k and v into the arrays `out`.

        With p the probabilities and dp = g v^T: ds = scale p (dp - sum dp p), dq = ds k, dk = ds^T q,
        dv = p^T g.
        """
        q, k, v, g = (_dense_heads(kind, x) for x in (q, k, v, g))
        dq, dk, dv = (kind.xp.empty(x.shape, x.dtype) for x in (q, k, v))
        for part in _parts(q, k):
            p = _probabilities(kind, q[part], k[part], causal, scale, fast)
            dp = kind.xp.empty(p.shape, p.dtype)
            kind.batched_product(g[part], v[part].transpose(0, 2, 1), dp, fast)
            kind.batched_product(p.transpose(0, 2, 1), g[part], dv[part], fast)
            ds = softmax_gradient(kind, p, dp, scale, *_mask(q, k, causal))
            kind.batched_product(ds, k[part], dq[part], fast)
            kind.batched_product(ds.transpose(0, 2, 1), q[part], dk[part], fast)
        for x, result in zip((dq, dk, dv), out, strict=True):
            result[...] = x.reshape(result.shape)


def empty_like_heads(kind: type[CudaBuffer], x: Any) -> Any:
    """Returns an empty array of x's shape (B, H, T, D) that lies as (B, T, H, D)."""
    batch, heads, length, size = x.shape
    return kind.xp.empty((batch, length, heads, size), x.dtype).transpose(0, 2, 1, 3)


def _dense_heads(kind: type[CudaBuffer], x: Any) -> Any:
    """Returns (B, H, T, D) as dense (B H, T, D)."""
    return kind.xp.ascontiguousarray(x).reshape(-1, *x.shape[2:])


def _parts(q: Any, k: Any) -> list[slice]:
    """Returns ranges of heads, each with no more scores than there is to be room for."""
    step = max(SCORES // (q.shape[1] * k.shape[1]), 1)
    return [slice(i, i + step) for i in range(0, len(q), step)]


def _mask(q: Any, k: Any, causal: bool) -> tuple[int, int]:
    """Returns `queries` and `offset` of `softmax`."""
    return (q.shape[1], k.shape[1] - q.shape[1] + 1) if causal else (0, 0)


def _probabilities(kind: type[CudaBuffer], q: Any, k: Any, causal: bool, scale: float, fast: bool) -> Any:
    """Returns softmax(scale q k^T)."""
    scores = kind.xp.empty((len(q), q.shape[1], k.shape[1]), q.dtype)
    # Scaled here, so that they stay in float16's range
    kind.batched_product(q, k.transpose(0, 2, 1), scores, fast, scale)
    return softmax(kind, scores, 1.0, *_mask(q, k, causal))
