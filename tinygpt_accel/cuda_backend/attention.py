"""Attention on a CUDA device: the one place where its implementation is chosen.

An implementation takes arrays (B, H, T, D), whose layout is the caller's, and gives the result as a view that
lies as (B, T, H, D).
"""

from __future__ import annotations

from typing import Any

from . import flash as cuda_flash
from .buffer import CudaBuffer, kind_of

ROWS = 1 << 16
SCORES = 1 << 28  # scores that are there at a time


def choose(kind: type[CudaBuffer], form: str, q: Any, k: Any, causal: bool) -> Any:
    """Returns what computes attention of arrays in this form: cuDNN's flash attention where it can, else
    batched products.
    """
    return cuda_flash if cuda_flash.can(kind, form, q, k, causal) else Batched


def attend(
    kind: type[CudaBuffer], form: str, arrays: list[Any], causal: bool, scale: float, fast: bool
) -> tuple[Any, Any]:
    """Returns attention of arrays q, k and v, and what `attend_gradients` wants besides them."""
    q, k, v = arrays
    implementation = choose(kind, form, q, k, causal)
    try:
        y, state = implementation.forward(kind, q, k, v, causal, scale, fast)
    except cuda_flash.NoPlan:
        implementation = Batched
        y, state = Batched.forward(kind, q, k, v, causal, scale, fast)
    return y, (implementation, y, causal, scale, fast, state)


def attend_gradients(kind: type[CudaBuffer], arrays: list[Any], grad: Any, kept: Any, out: list[Any]) -> None:
    """Writes the gradients of q, k and v into the arrays `out`."""
    (q, k, v), (implementation, y, causal, scale, fast, state) = arrays, kept
    try:
        implementation.backward(kind, q, k, v, y, grad, causal, scale, fast, state, out)
    except cuda_flash.NoPlan:  # the probabilities that it computes again are those of either forward
        Batched.backward(kind, q, k, v, y, grad, causal, scale, fast, None, out)


def softmax(kind: type[CudaBuffer], x: Any, scale: float = 1.0, queries: int = 0, offset: int = 0) -> Any:
    """Returns softmax(x scale) over the last axis of a dense array; see cuda/softmax.cu."""
    y, (rows, columns) = kind.xp.empty(x.shape, x.dtype), (x.size // x.shape[-1], x.shape[-1])
    kind.launch("softmax", kind_of(x), (min(rows, ROWS),), x, y, rows, columns, float(scale), queries, offset)
    return y


def softmax_gradient(
    kind: type[CudaBuffer], y: Any, grad: Any, scale: float = 1.0, queries: int = 0, offset: int = 0
) -> Any:
    """Returns the gradient that goes with it."""
    result, (rows, columns) = kind.xp.empty(y.shape, y.dtype), (y.size // y.shape[-1], y.shape[-1])
    kind.launch(
        "softmax_gradient",
        kind_of(y),
        (min(rows, ROWS),),
        y,
        grad,
        result,
        rows,
        columns,
        float(scale),
        queries,
        offset,
    )
    return result


def like_heads(kind: type[CudaBuffer], x: Any) -> Any:
    """Returns an empty array of x's shape (B, H, T, D) that lies as (B, T, H, D)."""
    batch, heads, length, size = x.shape
    return kind.xp.empty((batch, length, heads, size), x.dtype).transpose(0, 2, 1, 3)


class Batched:
    """Batched products with a softmax of our own between them, some heads at a time. Probabilities are
    computed again in the backward.
    """

    @staticmethod
    def forward(
        kind: type[CudaBuffer], q: Any, k: Any, v: Any, causal: bool, scale: float, fast: bool
    ) -> tuple[Any, Any]:
        """Returns y and nothing else that the backward would need."""
        shape = q.shape
        q, k, v = (_heads(kind, x) for x in (q, k, v))
        y = kind.xp.empty(q.shape, q.dtype)
        for part in _parts(q, k):
            kind.batched_product(
                _probabilities(kind, q[part], k[part], causal, scale, fast), v[part], y[part], fast
            )
        result = like_heads(kind, y.reshape(shape))
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
        """Writes the gradients of q, k and v into the arrays `out`."""
        q, k, v, g = (_heads(kind, x) for x in (q, k, v, g))
        dq, dk, dv = (kind.xp.empty(x.shape, x.dtype) for x in (q, k, v))
        for part in _parts(q, k):
            p = _probabilities(kind, q[part], k[part], causal, scale, fast)
            d = kind.xp.empty(p.shape, p.dtype)
            kind.batched_product(g[part], v[part].transpose(0, 2, 1), d, fast)
            kind.batched_product(p.transpose(0, 2, 1), g[part], dv[part], fast)
            d = softmax_gradient(kind, p, d, scale, *_seen(q, k, causal))
            kind.batched_product(d, k[part], dq[part], fast)
            kind.batched_product(d.transpose(0, 2, 1), q[part], dk[part], fast)
        for x, result in zip((dq, dk, dv), out, strict=True):
            result[...] = x.reshape(result.shape)


def _heads(kind: type[CudaBuffer], x: Any) -> Any:
    """Returns (B, H, T, D) as dense (B H, T, D)."""
    return kind.xp.ascontiguousarray(x).reshape(-1, *x.shape[2:])


def _parts(q: Any, k: Any) -> list[slice]:
    step = max(SCORES // (q.shape[1] * k.shape[1]), 1)
    return [slice(i, i + step) for i in range(0, len(q), step)]


def _seen(q: Any, k: Any, causal: bool) -> tuple[int, int]:
    return (q.shape[1], k.shape[1] - q.shape[1] + 1) if causal else (0, 0)


def _probabilities(kind: type[CudaBuffer], q: Any, k: Any, causal: bool, scale: float, fast: bool) -> Any:
    scores = kind.xp.empty((len(q), q.shape[1], k.shape[1]), q.dtype)
    # Scaled here, so that they stay in float16's range
    kind.batched_product(q, k.transpose(0, 2, 1), scores, fast, scale)
    return softmax(kind, scores, 1.0, *_seen(q, k, causal))
