"""The linear map and the embedding on a CUDA device."""

from __future__ import annotations

from typing import Any

from tinygpt_core.dtype import DType
from tinygpt_core.kernels.base import Gradient
from tinygpt_core.kernels.dense import Embedding, Linear
from tinygpt_core.kernels.precision import compute_dtype

from ..buffer import CudaBuffer, Epilogue, Promised, WaitingTerm
from .common import as_matrix, as_row, column_sums, compute_format, with_dense_rows
from .products import GradientInParts, WaitingProduct, empty_gradient, multiply_into


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
        a, b = as_matrix(x.in_format(fmt), inputs), weights.in_format(fmt)
        work = WaitingProduct(kind, a, b, (*x.shape[:-1], outputs), fast, as_row(kind, bias, fmt))
        return kind.wrap_waiting(work), (x, weights, fmt, fast, bias is not None)

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        x, weights, fmt, fast, has_bias = saved
        kind = type(x)
        inputs, outputs = weights.shape
        w = weights.in_format(fmt)
        parts = grad.waiting_for(GradientInParts)
        if parts is not None and not has_bias:
            return _backward_in_parts(kind, as_matrix(x.in_format(fmt), inputs), w, parts, x.shape, fast)
        g = as_matrix(grad.in_format(fmt), outputs)
        sums: list[Any] = []  # down the columns of g, where the product with it has found them

        def of_input() -> Any:
            return kind.wrap_waiting(WaitingProduct(kind, g, w.T, x.shape, fast))

        def of_weights() -> Any:
            rows = as_matrix(x.in_format(fmt), inputs)
            result = empty_gradient(kind, w)  # float32, never 16 bits, as of all parameters
            vector = kind.xp.empty(outputs, "float32") if has_bias else None
            if has_bias and kind.product(rows.T, g, result, fast, Epilogue("column_sums", vector)):
                sums.append(vector)
            else:
                multiply_into(kind, rows.T, g, result, fast)
            return kind.wrap(result, x.dtype)

        def of_bias() -> Any:
            found = sums.pop() if sums else column_sums(kind, with_dense_rows(kind, g))
            return kind.wrap(found, x.dtype)

        return of_input, of_weights, of_bias


def _backward_in_parts(
    kind: type[CudaBuffer], rows: Any, w: Any, work: GradientInParts, shape: Any, fast: bool
) -> tuple[Gradient, ...]:
    """Returns what gives the gradients of x, whose matrix is `rows`, and of the weights w, both in one walk
    over the gradient of their product.
    """
    found: list[Any] = []

    def both() -> list[Any]:
        if not found:
            of_input = kind.xp.empty(rows.shape, rows.dtype)
            of_weights = empty_gradient(kind, w)
            for part, g in work.parts():
                kind.product(g, w.T, of_input[part], fast)
                multiply_into(kind, rows[part].T, g, of_weights, fast, add=part.start > 0)
            found.extend(kind.wrap(x, DType.float32) for x in (of_input.reshape(shape), of_weights))
        return found

    return lambda: both()[0], lambda: both()[1], None


class WaitingRows(WaitingTerm):
    """out = zeros, but for the rows that some places of a text have chosen: the sums of their gradients."""

    def __init__(self, kind: type[CudaBuffer], shape: Any, indices: Any, values: Any) -> None:
        self.indices = indices
        self.values = values
        super().__init__(kind, Promised.of(shape, "float32"))

    def launch(self) -> Any:
        out = self.kind.xp.zeros(self.out.shape, "float32")
        self.kind.add_rows(out, self.indices, self.values)
        return out

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
            return kind.wrap_waiting(WaitingRows(kind, shape, indices, grad.stored))

        return of_weights, None
