"""Attention on a CUDA device, and the one place where its implementation is chosen: `choose`.

An implementation takes arrays (B, H, T, D), whose layout is the caller's, and gives the result as a view that
lies as (B, T, H, D). There are two, `batched_attention` and `flash_attention`.
"""

from __future__ import annotations

from typing import Any

from tinygpt_core.kernels.attention import Attention, PackedAttention
from tinygpt_core.kernels.base import Gradient
from tinygpt_core.kernels.precision import compute_dtype

from ..buffer import CudaBuffer
from . import flash_attention
from .batched_attention import Batched, empty_like_heads
from .common import compute_format


def choose(kind: type[CudaBuffer], fmt: str, q: Any, k: Any, causal: bool) -> Any:
    """Returns what computes attention of arrays in this format: cuDNN's flash attention where it can, else
    batched products.
    """
    return flash_attention if flash_attention.can(kind, fmt, q, k, causal) else Batched


def attend(
    kind: type[CudaBuffer], fmt: str, arrays: list[Any], causal: bool, scale: float, fast: bool
) -> tuple[Any, Any]:
    """Returns attention of arrays q, k and v, and what `attend_gradients` wants besides them."""
    q, k, v = arrays
    implementation = choose(kind, fmt, q, k, causal)
    try:
        y, state = implementation.forward(kind, q, k, v, causal, scale, fast)
    except flash_attention.NoPlan:
        implementation = Batched
        y, state = Batched.forward(kind, q, k, v, causal, scale, fast)
    return y, (implementation, y, causal, scale, fast, state)


def attend_gradients(
    kind: type[CudaBuffer], arrays: list[Any], grad: Any, saved: Any, out: list[Any]
) -> None:
    """Writes the gradients of q, k and v into the arrays `out`."""
    q, k, v = arrays
    implementation, y, causal, scale, fast, state = saved
    try:
        implementation.backward(kind, q, k, v, y, grad, causal, scale, fast, state, out)
    except flash_attention.NoPlan:  # the probabilities that it computes again are those of either forward
        Batched.backward(kind, q, k, v, y, grad, causal, scale, fast, None, out)


class CudaAttention(Attention):
    """Attention, y = softmax(scale q k^T) v.

    Fast: flash attention where cuDNN's front end is installed and the numbers have 16 bits, else batched
    products. Source: Vaswani et al., "Attention Is All You Need", 2017.
    """

    @staticmethod
    def forward(
        query: Any, key: Any, value: Any, *, causal: bool = True, scale: float | None = None
    ) -> tuple[Any, Any]:
        Attention.check(query, key, value, causal)
        kind = type(query)
        fmt = compute_format(query.dtype)
        arrays = [buffer.in_format(fmt) for buffer in (query, key, value)]
        scale = Attention.scale_of(query, scale)
        y, saved = attend(kind, fmt, arrays, causal, scale, compute_dtype() == "tf32")
        return kind.wrap(y, query.dtype), (query, key, value, fmt, saved)

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        query, key, value, fmt, of_arrays = saved
        kind = type(query)
        arrays = [buffer.in_format(fmt) for buffer in (query, key, value)]
        gradients = [empty_like_heads(kind, x) for x in arrays]
        attend_gradients(kind, arrays, grad.in_format(fmt), of_arrays, gradients)
        return tuple(kind.wrap(x, query.dtype) for x in gradients)


class CudaPackedAttention(PackedAttention):
    """Causal attention on query, key and value that lie side by side, as one product made them.

    Fast: it reads the heads where they lie in that product, and writes their gradients where they lie in its
    gradient.
    """

    @staticmethod
    def forward(x: Any, *, num_heads: int) -> tuple[Any, Any]:
        PackedAttention.check(x, num_heads)
        kind = type(x)
        fmt = compute_format(x.dtype)
        heads = _split(x.in_format(fmt), num_heads)
        scale = Attention.scale_of(heads[0], None)
        y, saved = attend(kind, fmt, heads, True, scale, compute_dtype() == "tf32")
        result = y.transpose(0, 2, 1, 3).reshape(*x.shape[:2], x.shape[2] // 3)
        return kind.wrap(result, x.dtype), (x, fmt, num_heads, saved)

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        x, fmt, num_heads, of_arrays = saved
        kind = type(x)
        packed = x.in_format(fmt)
        result = kind.xp.empty(x.shape, packed.dtype)
        heads = _split(packed, num_heads)
        batch, _, length, size = heads[0].shape
        g = grad.in_format(fmt).reshape(batch, length, num_heads, size).transpose(0, 2, 1, 3)
        attend_gradients(kind, heads, g, of_arrays, _split(result, num_heads))
        return (kind.wrap(result, x.dtype),)


def _split(x: Any, num_heads: int) -> list[Any]:
    """Returns query, key and value (B, H, T, D) of a packed array: views of it, where it is dense."""
    parts = x.reshape(*x.shape[:2], 3, num_heads, x.shape[2] // (3 * num_heads))
    return [parts[:, :, i].transpose(0, 2, 1, 3) for i in range(3)]
