"""Layer norm and RMS norm on NumPy: one walk over rows forward, one backward."""

from __future__ import annotations

import math
from typing import Any

import numpy

from tinygpt_core.kernels.base import Gradient
from tinygpt_core.kernels.normalization import LayerNorm, RMSNorm, normalized_shape
from tinygpt_core.shape import Shape

from .. import threads
from ..buffer import NumpyBuffer, without_warnings
from ..loops import loops_for
from .layout import as_flat, as_rows

# Elements of the rows whose sums are added up on their own, whatever thread does it: fewer roundings, and an
# order of summation that does not depend on the number of threads
ROW_BLOCK = 1 << 16


class NumpyLayerNorm(LayerNorm):
    """Layer norm, y = n w + b with n = (x - mean x) / sqrt(var x + eps).

    Fast: one walk over the rows makes y and n, and the backward makes all three gradients in one.

    Source: Ba, Kiros, Hinton, "Layer Normalization", 2016.
    """

    @staticmethod
    @without_warnings
    def forward(
        x: Any, weights: Any = None, bias: Any = None, *, eps: float = 1e-5, num_axes: int = 1
    ) -> tuple[Any, Any]:
        shape = normalized_shape(x, weights, bias, num_axes, "layer_norm")
        return _normalize(x, weights, bias, shape, eps, centre=True)

    @staticmethod
    @without_warnings
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        return _normalize_gradients(saved, grad)


class NumpyRMSNorm(RMSNorm):
    """RMS norm, y = n w with n = x / sqrt(mean x^2 + eps).

    Fast: as layer norm.

    Source: Zhang, Sennrich, "Root Mean Square Layer Normalization", 2019.
    """

    @staticmethod
    @without_warnings
    def forward(x: Any, weights: Any = None, *, eps: float = 1e-5, num_axes: int = 1) -> tuple[Any, Any]:
        shape = normalized_shape(x, weights, None, num_axes, "rms_norm")
        return _normalize(x, weights, None, shape, eps, centre=False)

    @staticmethod
    @without_warnings
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        of_input, of_weights, _ = _normalize_gradients(saved, grad)
        return of_input, of_weights


def _normalize(x: Any, weights: Any, bias: Any, shape: Shape, eps: float, centre: bool) -> tuple[Any, Any]:
    """Returns both norms' result; keeps the normalized rows and the scale of each."""
    size = math.prod(shape)
    rows = as_rows(x.array, size)
    dtype = rows.dtype
    w = numpy.ones(size, dtype) if weights is None else as_flat(weights.array)
    b = numpy.zeros(size, dtype) if bias is None else as_flat(bias.array)
    y = numpy.empty_like(rows)
    normal = numpy.empty_like(rows)
    scales = numpy.empty(len(rows), dtype)
    loop = loops_for(dtype).normalize
    epsilon = dtype.type(eps)

    def work(start: int, stop: int) -> None:
        part = slice(start, stop)
        loop(rows[part], w, b, y[part], normal[part], scales[part], epsilon, centre)

    threads.parallel_for(work, len(rows), threads.CHAIN_GRAIN // max(size, 1) + 1)
    return NumpyBuffer.wrap(y.reshape(x.shape), x.dtype), (weights, normal, scales, shape, centre)


def _normalize_gradients(saved: Any, grad: Any) -> tuple[Any, Any, Any]:
    """Returns dL/dx, dL/dw and dL/db, made in one walk."""
    weights, normal, scales, shape, centre = saved
    size = math.prod(shape)
    g = as_rows(grad.array, size)
    w = numpy.ones(size, g.dtype) if weights is None else as_flat(weights.array)
    loop = loops_for(g.dtype).normalize_gradients
    rows_per_block = max(64, ROW_BLOCK // max(size, 1))
    blocks = -(-len(g) // rows_per_block)
    result = numpy.empty_like(g)
    sums = numpy.zeros((blocks, 2, size))  # in doubles, as there may be many rows

    def work(start: int, stop: int) -> None:
        for block in range(start, stop):
            first = block * rows_per_block
            rows = slice(first, min(first + rows_per_block, len(g)))
            loop(g[rows], w, normal[rows], scales[rows], result[rows], sums[block], centre)

    threads.parallel_for(work, blocks, threads.CHAIN_GRAIN // (rows_per_block * max(size, 1)) + 1)
    of_weights, of_bias = numpy.add.reduce(sums, axis=0).astype(g.dtype, copy=False).reshape(2, *shape)
    return (
        NumpyBuffer.wrap(result.reshape(grad.shape), grad.dtype),
        NumpyBuffer.wrap(of_weights, grad.dtype),
        NumpyBuffer.wrap(of_bias, grad.dtype),
    )
