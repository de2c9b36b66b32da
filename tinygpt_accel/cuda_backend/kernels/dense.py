"""The linear map and the embedding on a CUDA device."""

from __future__ import annotations

import math
from typing import Any

from tinygpt_core.kernels.base import Gradient
from tinygpt_core.kernels.dense import Embedding, Linear
from tinygpt_core.kernels.precision import compute_dtype

from ..buffer import ARRAY_DTYPE
from ..sources import SIXTEEN_BIT
from .common import as_matrix, as_row, column_sums, compute_format, with_dense_rows

ALIGNED = 8  # 16-bit rows of a product begin at multiples of 16 bytes, or cuBLAS takes slower paths


class CudaLinear(Linear):
    """The linear map, y = x W + b.

    Fast: cuBLAS multiplies matrices as they lie. The bias waits for the next kernel, which adds it on its own
    way through the elements.
    """

    @staticmethod
    def forward(x: Any, weights: Any, bias: Any = None) -> tuple[Any, Any]:
        Linear.check(x, weights, bias)
        kind = type(x)
        fmt = compute_format(x.dtype)
        fast = compute_dtype() == "tf32"
        inputs, outputs = weights.shape
        rows = math.prod(x.shape[:-1])
        gap = -outputs % ALIGNED if fmt in SIXTEEN_BIT else 0
        y = kind.xp.empty((rows, outputs + gap), ARRAY_DTYPE[fmt])[:, :outputs]
        kind.product(as_matrix(x.in_format(fmt), inputs), weights.in_format(fmt), y, fast)
        pending = as_row(kind, bias) if y.size else None
        result = kind.wrap_stored(y.reshape(*x.shape[:-1], outputs), x.dtype, pending)
        return result, (x, weights, fmt, fast)

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        x, weights, fmt, fast = saved
        kind = type(x)
        inputs, outputs = weights.shape
        g = as_matrix(grad.in_format(fmt), outputs)
        w = weights.in_format(fmt)

        def of_input() -> Any:
            result = kind.xp.empty((len(g), inputs), ARRAY_DTYPE[fmt])
            kind.product(g, w.T, result, fast)
            return kind.wrap_stored(result.reshape(x.shape), x.dtype)

        def of_weights() -> Any:
            rows = as_matrix(x.in_format(fmt), inputs)
            dtype = weights.array.dtype  # gradients of parameters are never 16 bits
            # Weights that lie transposed, as those of a tied head do, get a gradient that does.
            if w.flags.f_contiguous and not w.flags.c_contiguous:
                result = kind.xp.empty((outputs, inputs), dtype)
                kind.product(g.T, rows, result, fast)
                return kind.wrap(result.T, x.dtype)
            result = kind.xp.empty((inputs, outputs), dtype)
            kind.product(rows.T, g, result, fast)
            return kind.wrap(result, x.dtype)

        def of_bias() -> Any:
            return kind.wrap(column_sums(kind, with_dense_rows(kind, g)), x.dtype)

        return of_input, of_weights, of_bias


class CudaEmbedding(Embedding):
    """The embedding, y = W[indices].

    The gradient adds up rows in an order that is always the same. It is always the whole one: which rows were
    looked up only the device knows.
    """

    backward_by_rows = None  # type: ignore[assignment]

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        indices, shape, dtype = saved
        kind = type(grad)

        def of_weights() -> Any:
            total = kind.xp.zeros(shape, kind.dtypes[dtype])
            kind.add_rows(total, indices, grad.stored)
            return kind.wrap(total, dtype)

        return of_weights, None
