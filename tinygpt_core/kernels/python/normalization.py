"""LayerNorm and RMSNorm in pure Python, row by row."""

from __future__ import annotations

import math
from typing import Any

from ...buffer.python import PythonBuffer, chunks, dot
from ...shape import Shape
from ..base import Gradient
from ..normalization import LayerNorm, RMSNorm, _normalized
from .rows import _column_dots, _column_sums


def _normalize(x: Any, weight: Any, bias: Any, shape: Shape, eps: float, centre: bool) -> tuple[Any, Any]:
    """Row by row, both norms; keeps the normalized rows and their scales."""
    size, scales, normal = math.prod(shape), [], []
    for row in chunks(x.values(), size) if x.numel else ():
        if centre:
            mean = sum(row) / size
            row = [v - mean for v in row]
        scale = 1.0 / math.sqrt(dot(row, row) / size + eps)
        scales.append(scale)
        normal.append([v * scale for v in row])
    w = None if weight is None else weight.values()
    if bias is not None:
        scale_and_shift = list(zip(w or [1.0] * size, bias.values(), strict=True))
        y = [[v * a + c for v, (a, c) in zip(row, scale_and_shift, strict=True)] for row in normal]
    else:
        y = normal if w is None else [[v * a for v, a in zip(row, w, strict=True)] for row in normal]
    return PythonBuffer.of_rows(y, x.shape, x.dtype), (normal, scales, w, shape, centre)


def _normalize_gradients(saved: Any, grad: Any) -> tuple[Gradient, Gradient, Gradient]:
    normal, scales, w, shape, centre = saved
    size = math.prod(shape)
    g = chunks(grad.values(), size) if grad.numel else []

    def of_input() -> PythonBuffer:
        result = []
        for row, n, scale in zip(g, normal, scales, strict=True):
            h = row if w is None else [v * a for v, a in zip(row, w, strict=True)]
            mean, along = sum(h) / size if centre else 0.0, dot(h, n) / size
            result.append([scale * (v - mean - u * along) for v, u in zip(h, n, strict=True)])
        return PythonBuffer.of_rows(result, grad.shape, grad.dtype)

    return (
        of_input,
        lambda: PythonBuffer.of(_column_dots(g, normal, size), shape, grad.dtype),
        lambda: PythonBuffer.of(_column_sums(g, size), shape, grad.dtype),
    )


class PythonLayerNorm(LayerNorm):
    """Row by row."""

    @staticmethod
    def forward(
        x: Any, weight: Any = None, bias: Any = None, *, eps: float = 1e-5, num_axes: int = 1
    ) -> tuple[Any, Any]:
        return _normalize(
            x, weight, bias, _normalized(x, weight, bias, num_axes, "layer_norm"), eps, centre=True
        )

    backward = staticmethod(_normalize_gradients)


class PythonRMSNorm(RMSNorm):
    """Row by row."""

    @staticmethod
    def forward(x: Any, weight: Any = None, *, eps: float = 1e-5, num_axes: int = 1) -> tuple[Any, Any]:
        return _normalize(
            x, weight, None, _normalized(x, weight, None, num_axes, "rms_norm"), eps, centre=False
        )

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        return _normalize_gradients(saved, grad)[:2]
