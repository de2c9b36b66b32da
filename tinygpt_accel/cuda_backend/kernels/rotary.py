"""Rotary position embeddings on a CUDA device."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from tinygpt_core.dtype import DType
from tinygpt_core.kernels.base import Gradient
from tinygpt_core.kernels.rotary import Rotary

from ..buffer import format_of


class CudaRotary(Rotary):
    """Rotary positions: pairs of a head's numbers, turned by angles that grow with the position.

    Fast: it reads heads where they lie in the packed product, and the result lies as (B, T, H, D); the angles
    of a length are computed once. Source: Su et al., "RoFormer", 2021.
    """

    @staticmethod
    def forward(x: Any, *, positions_start: int = 0, base: float = 10000.0) -> tuple[Any, Any]:
        if x.ndim != 4 or x.shape[3] % 2 or x.dtype.kind != "f":
            return Rotary.forward(x, positions_start=positions_start, base=base)  # which raises
        kind: Any = type(x)
        tables: Any = _angles(kind, x.shape[2], x.shape[3], positions_start, base, x.dtype)
        if kind.graph_tables is not None:
            # A graph reads them where they lie, also when the cache has let them go
            kind.graph_tables.append((tables, None))
        return _rotated(x, tables, 1.0), tables

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        return (_rotated(grad, saved, -1.0),)


@lru_cache(maxsize=16)
def _angles(kind: Any, length: int, size: int, start: int, base: float, dtype: DType) -> tuple[Any, Any]:
    """Returns cosine and sine of the angles, as Buffers."""
    like = kind.zeros((1, 1, length, size), dtype)
    cosine, sine = Rotary.angles(like, start, base)
    return cosine, sine


def clear_rotary_cache() -> None:
    """Has the angles computed again when they are next asked for."""
    _angles.cache_clear()


def _rotated(x: Any, tables: Any, sign: float) -> Any:
    """Returns x with its pairs turned by the angles (`sign` 1.0), or back (-1.0)."""
    kind = type(x)
    cosine, sine = (table.array for table in tables)
    stored = x.stored
    if stored.shape[3] > 1 and stored.strides[3] != stored.itemsize:
        stored = kind.xp.ascontiguousarray(stored)
    batch, heads, length, size = stored.shape
    y = kind.xp.empty((batch, length, heads, size), stored.dtype).transpose(0, 2, 1, 3)
    steps = [step // stored.itemsize for array in (stored, y) for step in array.strides[:3]]
    pairs = stored.size // 2
    kind.launch_elementwise(
        "rotate",
        format_of(stored),
        pairs,
        stored,
        y,
        cosine,
        sine,
        pairs,
        heads,
        length,
        size // 2,
        *steps,
        sign,
    )
    return kind.wrap(y, x.dtype)
