"""The linear map and the embedding on a CUDA device."""

from __future__ import annotations

import math
from typing import Any

from tinygpt_core.dtype import DType
from tinygpt_core.kernels.base import Gradient
from tinygpt_core.kernels.dense import Embedding, Linear
from tinygpt_core.kernels.precision import compute_dtype

from ..buffer import ARRAY_DTYPE, CudaBuffer, Epilogue, WaitingTerm
from ..sources import SIXTEEN_BIT
from .common import as_matrix, as_row, column_sums, compute_format, with_dense_rows
from .products import WaitingProduct

ALIGNED = 8  # 16-bit rows of a product begin at multiples of 16 bytes, or cuBLAS takes slower paths


class CudaLinear(Linear):
    """The linear map, y = x W + b.

    Fast: cuBLASLt multiplies matrices as they lie, adds the bias, and sums the bias's gradient while it
    multiplies for that of the weights.
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
        a, b = as_matrix(x.in_format(fmt), inputs), weights.in_format(fmt)
        shape = (*x.shape[:-1], outputs)
        work = WaitingProduct(kind, a, b, y, shape, fast, as_row(kind, bias, fmt))
        result = kind.wrap_stored(work.out, x.dtype, work)
        return result, (x, weights, fmt, fast, bias is not None)

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        x, weights, fmt, fast, has_bias = saved
        kind = type(x)
        inputs, outputs = weights.shape
        g = as_matrix(grad.in_format(fmt), outputs)
        w = weights.in_format(fmt)
        sums: list[Any] = []  # down the columns of g, where the product with it has found them

        def of_input() -> Any:
            result = kind.xp.empty((len(g), inputs), ARRAY_DTYPE[fmt])
            work = WaitingProduct(kind, g, w.T, result, x.shape, fast)
            return kind.wrap_stored(work.out, x.dtype, work)

        def of_weights() -> Any:
            rows = as_matrix(x.in_format(fmt), inputs)
            # Weights that lie transposed, as those of a tied head do, get a gradient that does.
            if w.flags.f_contiguous and not w.flags.c_contiguous:
                result = kind.xp.empty((outputs, inputs), "float32")
                kind.product(g.T, rows, result, fast)
                return kind.wrap(result.T, x.dtype)
            result = kind.xp.empty((inputs, outputs), "float32")  # never 16 bits, as of all parameters
            if has_bias:
                vector = kind.xp.empty(outputs, "float32")
                if kind.product(rows.T, g, result, fast, Epilogue("column_sums", vector)):
                    sums.append(vector)
                    return kind.wrap(result, x.dtype)
            kind.product(rows.T, g, result, fast)
            return kind.wrap(result, x.dtype)

        def of_bias() -> Any:
            found = sums.pop() if sums else column_sums(kind, with_dense_rows(kind, g))
            return kind.wrap(found, x.dtype)

        return of_input, of_weights, of_bias


class WaitingRows(WaitingTerm):
    """out = zeros, but for the rows that some places of a text have chosen: the sums of their gradients."""

    def __init__(self, kind: type[CudaBuffer], shape: Any, indices: Any, values: Any) -> None:
        self.indices = indices
        self.values = values
        super().__init__(kind, kind.xp.empty(shape, "float32"))

    def launch(self) -> None:
        self.out.fill(0)
        self.kind.add_rows(self.out, self.indices, self.values)

    def added_to(self, other: Any) -> tuple[Any, list[Any]]:
        total = other.array.copy(order="C")
        self.kind.add_rows(total, self.indices, self.values)
        return total, []


class CudaEmbedding(Embedding):
    """The embedding, y = W[indices].

    The gradient adds up rows in an order that is always the same. It is always the whole one: which rows were
    looked up only the device knows.
    """

    backward_by_rows = None  # type: ignore[assignment]

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        indices, shape, _ = saved
        kind = type(grad)

        def of_weights() -> Any:
            work = WaitingRows(kind, shape, indices, grad.stored)
            return kind.wrap_stored(work.out, DType.float32, work)

        return of_weights, None
