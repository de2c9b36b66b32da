"""LayerNorm and RMSNorm in pure Python.

What is fast here: row by row, a mean and a sum of squares that run in C, and one comprehension for the
normalized row, which the backward finds again. Both norms are one function; RMSNorm leaves the mean out.
"""

from __future__ import annotations

import math
from typing import Any

from ...buffer.python import PythonBuffer
from ...buffer.rows import Row, column_dots, column_sums, dot
from ...shape import Shape
from ..base import Gradient
from ..normalization import LayerNorm, RMSNorm, normalized_shape


def _normalize(x: Any, weights: Any, bias: Any, shape: Shape, eps: float, centre: bool) -> tuple[Any, Any]:
    """The forward of both norms, over the last axes, which have `shape`. Saves the normalized rows and their
    scales.
    """
    size = math.prod(shape)
    scales: list[float] = []
    normal: list[list[float]] = []
    for row in x.rows(size) if x.numel else ():
        if centre:
            mean = sum(row) / size
            row = [v - mean for v in row]
        scale = 1.0 / math.sqrt(dot(row, row) / size + eps)
        scales.append(scale)
        normal.append([v * scale for v in row])
    w = None if weights is None else weights.values()
    if bias is not None:
        scale_and_shift = list(zip(w or [1.0] * size, bias.values(), strict=True))
        y = [[v * a + b for v, (a, b) in zip(row, scale_and_shift, strict=True)] for row in normal]
    elif w is not None:
        y = [_scaled(row, w) for row in normal]
    else:
        y = normal
    return PythonBuffer.of_rows(y, x.shape, x.dtype), (normal, scales, w, shape, centre)


def _normalize_gradients(saved: Any, grad: Any) -> tuple[Gradient, Gradient, Gradient]:
    normal, scales, w, shape, centre = saved
    size = math.prod(shape)
    g = grad.rows(size) if grad.numel else []

    def of_input() -> PythonBuffer:
        result = []
        for row, n, scale in zip(g, normal, scales, strict=True):
            h = row if w is None else _scaled(row, w)
            mean = sum(h) / size if centre else 0.0
            along = dot(h, n) / size  # mean(h n)
            result.append([scale * (v - mean - u * along) for v, u in zip(h, n, strict=True)])
        return PythonBuffer.of_rows(result, grad.shape, grad.dtype)

    def of_weights() -> PythonBuffer:
        return PythonBuffer.of(column_dots(g, normal, size), shape, grad.dtype)

    def of_bias() -> PythonBuffer:
        return PythonBuffer.of(column_sums(g, size), shape, grad.dtype)

    return of_input, of_weights, of_bias


def _scaled(row: Row, w: Row) -> list[float]:
    return [v * a for v, a in zip(row, w, strict=True)]


class PythonLayerNorm(LayerNorm):
    """`LayerNorm` row by row."""

    @staticmethod
    def forward(
        x: Any, weights: Any = None, bias: Any = None, *, eps: float = 1e-5, num_axes: int = 1
    ) -> tuple[Any, Any]:
        shape = normalized_shape(x, weights, bias, num_axes, "layer_norm")
        return _normalize(x, weights, bias, shape, eps, centre=True)

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        return _normalize_gradients(saved, grad)


class PythonRMSNorm(RMSNorm):
    """`RMSNorm` row by row."""

    @staticmethod
    def forward(x: Any, weights: Any = None, *, eps: float = 1e-5, num_axes: int = 1) -> tuple[Any, Any]:
        shape = normalized_shape(x, weights, None, num_axes, "rms_norm")
        return _normalize(x, weights, None, shape, eps, centre=False)

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        of_input, of_weights, _ = _normalize_gradients(saved, grad)
        return of_input, of_weights
