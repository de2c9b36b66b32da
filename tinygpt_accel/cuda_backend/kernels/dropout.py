"""Dropout on a CUDA device."""

from __future__ import annotations

from typing import Any

from tinygpt_core.kernels.base import Gradient, require_float
from tinygpt_core.kernels.dropout import Dropout

from ..buffer import format_of


class CudaDropout(Dropout):
    """Dropout, y = x / (1 - p) where a random number u >= p, else 0.

    Fast: the kernel draws the mask itself, and once more in the backward, instead of keeping it.
    """

    @staticmethod
    def forward(x: Any, *, probability: float, key: Any) -> tuple[Any, Any]:
        require_float("dropout", x=x)
        if not 0.0 <= probability < 1.0:
            return Dropout.forward(x, probability=probability, key=key)  # which raises
        stored = x.stored
        saved = probability, key, type(x).random_offset
        return _masked(x, stored, *saved), (format_of(stored), *saved)

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        fmt, *rest = saved
        return (_masked(grad, grad.in_format(fmt), *rest),)  # as what comes before it reads it


def _masked(x: Any, stored: Any, probability: float, key: Any, random_offset: Any) -> Any:
    """Returns x, as it is `stored`, / (1 - p) where the mask of the stream at `key` is set, else 0."""
    kind = type(x)
    flat = kind.xp.ascontiguousarray(stored)
    y = kind.xp.empty(x.shape, flat.dtype)
    stream = (_as_signed(key.seed), _as_signed(key.stream), _as_signed(key.block))
    kind.launch_elementwise(
        "dropout", format_of(flat), flat.size, flat, y, flat.size, *stream, random_offset, float(probability)
    )
    return kind.wrap(y, x.dtype)


def _as_signed(word: int) -> int:
    """Returns the signed integer with the bits of a 64-bit word."""
    word &= (1 << 64) - 1
    return word - (1 << 64) if word >= 1 << 63 else word
