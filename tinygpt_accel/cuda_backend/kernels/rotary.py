"""Rotary position embeddings on a CUDA device."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy

from tinygpt_core.buffer.python import PythonBuffer
from tinygpt_core.dtype import DType
from tinygpt_core.kernels.base import Gradient
from tinygpt_core.kernels.rotary import Rotary

from ..buffer import format_of

Frequencies = tuple[float, ...] | None


class CudaRotary(Rotary):
    """Rotary positions: pairs of a head's numbers, turned by angles that grow with the position.

    Fast: it reads heads where they lie in the packed product, and the result lies as (B, T, H, D); the angles
    of a length are computed once. Source: Su et al., "RoFormer", 2021.
    """

    @staticmethod
    def forward(
        x: Any, *, positions_start: int = 0, base: float = 10000.0, frequencies: Sequence[float] | None = None
    ) -> tuple[Any, Any]:
        options = (positions_start, base, None if frequencies is None else tuple(frequencies))
        if x.ndim != 4 or x.shape[3] % 2:
            Rotary.angles(x, *options)  # which raises
        tables = _angles(type(x), x.shape[2], x.shape[3], *options)
        return _rotated(x, tables, 1.0), tables

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        return (_rotated(grad, saved, -1.0),)


@lru_cache(maxsize=16)
def _host_angles(
    length: int, size: int, start: int, base: float, frequencies: Frequencies
) -> tuple[Any, Any]:
    """Returns cosine and sine of the angles, (length, size / 2) in float32, in the host's memory."""
    like = PythonBuffer.zeros((1, 1, length, size), DType.float32)
    cosine, sine = (
        numpy.frombuffer(table.to_array(), numpy.float32).reshape(length, size // 2)
        for table in Rotary.angles(like, start, base, frequencies)
    )
    return cosine, sine


@lru_cache(maxsize=16)
def _device_angles(
    kind: Any, length: int, size: int, start: int, base: float, frequencies: Frequencies
) -> tuple[Any, Any]:
    """Returns the same on the device."""
    cosine, sine = (kind.xp.asarray(table) for table in _host_angles(length, size, start, base, frequencies))
    return cosine, sine


def _angles(
    kind: Any, length: int, size: int, start: int, base: float, frequencies: Frequencies
) -> tuple[Any, Any]:
    """Returns cosine and sine of the angles on the device. A graph has tables of its own."""
    described = (length, size, start, base, frequencies)
    if kind.graph_tables is not None:
        return kind.graph_tables.named(kind, described, _host_angles(*described))
    return _device_angles(kind, *described)


def _rotated(x: Any, tables: Any, sign: float) -> Any:
    """Returns x with its pairs turned by the angles (`sign` 1.0), or back (-1.0)."""
    kind = type(x)
    cosine, sine = tables
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
