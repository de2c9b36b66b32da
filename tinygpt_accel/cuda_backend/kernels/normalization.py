"""Layer norm and RMS norm on a CUDA device: a block of threads for each row."""

from __future__ import annotations

import math
from typing import Any

from tinygpt_core.kernels.base import Gradient
from tinygpt_core.kernels.normalization import LayerNorm, RMSNorm, normalized_shape
from tinygpt_core.shape import Shape

from ..buffer import ARRAY_DTYPE, CudaBuffer, format_of
from .common import ROW_CHUNK, ROWS, as_matrix, as_row, column_sums, compute_format


class CudaLayerNorm(LayerNorm):
    """Layer norm, y = n w + b with n = (x - mean x) / sqrt(var x + eps).

    Fast: it reads the residual stream in float32 and writes what the next product reads. Source: Ba, Kiros,
    Hinton, "Layer Normalization", 2016.
    """

    @staticmethod
    def forward(
        x: Any, weights: Any = None, bias: Any = None, *, eps: float = 1e-5, num_axes: int = 1
    ) -> tuple[Any, Any]:
        shape = normalized_shape(x, weights, bias, num_axes, "layer_norm")
        return _normalize(x, weights, bias, shape, eps, centre=1)

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        return _normalize_gradients(saved, grad)


class CudaRMSNorm(RMSNorm):
    """RMS norm, y = n w with n = x / sqrt(mean x^2 + eps).

    Fast: as layer norm. Source: Zhang, Sennrich, "Root Mean Square Layer Normalization", 2019.
    """

    @staticmethod
    def forward(x: Any, weights: Any = None, *, eps: float = 1e-5, num_axes: int = 1) -> tuple[Any, Any]:
        shape = normalized_shape(x, weights, None, num_axes, "rms_norm")
        return _normalize(x, weights, None, shape, eps, centre=0)

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        of_input, of_weights, _ = _normalize_gradients(saved, grad)
        return of_input, of_weights


def _threads_per_row(kind: type[CudaBuffer], columns: int) -> int:
    """Returns how many threads take a row: some eight elements each, so that many rows are under way at a
    time.
    """
    return min(kind.threads, -(-columns // 256) * 32)


def _normalize(x: Any, weights: Any, bias: Any, shape: Shape, eps: float, centre: int) -> tuple[Any, Any]:
    """Returns both norms' result; keeps the mean and the scale of each row."""
    kind = type(x)
    xp = kind.xp
    fmt = compute_format(x.dtype)
    columns = math.prod(shape)
    rows = as_matrix(xp.ascontiguousarray(x.array), columns)
    y = xp.empty(rows.shape, ARRAY_DTYPE[fmt])
    means = xp.zeros(len(rows), rows.dtype)
    scales = xp.zeros(len(rows), rows.dtype)
    if rows.size:
        kind.launch(
            "normalize",
            f"{format_of(rows)},{fmt}",
            (min(len(rows), ROWS),),
            rows,
            as_row(kind, weights),
            as_row(kind, bias),
            y,
            means,
            scales,
            len(rows),
            columns,
            float(eps),
            centre,
            block=_threads_per_row(kind, columns),
        )
    result = kind.wrap_stored(y.reshape(x.shape), x.dtype)
    return result, (x, weights, means, scales, shape, fmt, centre)


def _normalize_gradients(saved: Any, grad: Any) -> tuple[Gradient, Gradient, Gradient]:
    """Returns what gives dL/dx, dL/dw and dL/db. The sums for the two parameters are made by one launch."""
    x, weights, means, scales, shape, fmt, centre = saved
    kind = type(x)
    xp = kind.xp
    columns = math.prod(shape)
    rows = as_matrix(xp.ascontiguousarray(x.array), columns)
    g = as_matrix(xp.ascontiguousarray(grad.in_format(fmt)), columns)
    formats = f"{format_of(rows)},{fmt}"

    def of_input() -> Any:
        result = xp.empty(rows.shape, rows.dtype)
        if rows.size:
            kind.launch(
                "normalize_gradient",
                formats,
                (min(len(rows), ROWS),),
                rows,
                as_row(kind, weights),
                g,
                means,
                scales,
                result,
                len(rows),
                columns,
                centre,
                block=_threads_per_row(kind, columns),
            )
        return kind.wrap(result.reshape(x.shape), x.dtype)

    sums: list[Any] = []  # of both parameters, by whoever asks first

    def of_parameter(which: int) -> Any:
        if not sums:
            chunks = max(-(-len(rows) // ROW_CHUNK), 1)
            partial = xp.zeros((chunks, 2 * columns), rows.dtype)
            if rows.size:
                kind.launch(
                    "normalize_parameter_gradients",
                    formats,
                    (-(-columns // 32), chunks),
                    rows,
                    g,
                    means,
                    scales,
                    partial,
                    len(rows),
                    columns,
                    ROW_CHUNK,
                )
            sums.append(column_sums(kind, partial).reshape(2, *shape))
        return kind.wrap(sums[0][which].copy(), x.dtype)

    return of_input, lambda: of_parameter(0), lambda: of_parameter(1)
