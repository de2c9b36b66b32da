"""The linear map, and rows of a table: products with a matrix of weights.

    linear       y = x W + b       dL/dx = g W^T,  dL/dW = x^T g,  dL/db = sum of g over the rows
    embedding    y = W[indices]    dL/dW[i] = sum of g over the places where index i stood

An embedding is the linear map of one-hot rows, without the multiplications by 0 and 1.
Notation as in `base`.
"""

from __future__ import annotations

from array import array
from typing import Any

from .. import shape_errors
from ..buffer.base import Buffer
from ..dtype import DType
from ..shape_errors import ShapeError
from .base import Gradient, Kernel, require_float, rows_of


class Linear(Kernel):
    """y = x W + b, for x of shape (…, in), W of (in, out), b of (out) or None.

    dL/dx = g W^T, dL/dW = x^T g, dL/db = sum of g over all but the last axis.

    Raises:
        TypeError: operands that are not of one float dtype.
        ShapeError: shapes that do not fit.
    """

    @staticmethod
    def check(x: Buffer, weights: Buffer, bias: Buffer | None) -> None:
        """Raises TypeError or ValueError unless shapes and dtypes fit."""
        require_float("linear", x=x, weights=weights, bias=bias)
        if weights.ndim != 2:
            raise ShapeError(
                shape_errors.wrong_shape("linear", "weights", weights.shape, expected=("in", "out"))
            )
        if x.ndim == 0 or x.shape[-1] != weights.shape[0]:
            raise ShapeError(shape_errors.matmul("linear", x.shape, weights.shape, ("input", "weights")))
        if bias is not None and bias.shape != weights.shape[1:]:
            raise ShapeError(
                shape_errors.wrong_shape(
                    "linear", "bias", bias.shape, expected=weights.shape, of="weights", axes=slice(1, None)
                )
            )

    @staticmethod
    def forward(x: Buffer, weights: Buffer, bias: Buffer | None = None) -> tuple[Buffer, Any]:
        Linear.check(x, weights, bias)
        y = rows_of(x).matmul(weights)
        if bias is not None:
            y = y + bias
        return y.reshape((*x.shape[:-1], weights.shape[1])), (x, weights)

    @staticmethod
    def backward(saved: Any, grad: Buffer) -> tuple[Gradient, ...]:
        x, weights = saved
        g = rows_of(grad)
        return (
            lambda: g.matmul(weights.transpose(0, 1)).reshape(x.shape),
            lambda: rows_of(x).transpose(0, 1).matmul(g),
            lambda: g.sum((0,)).reshape((g.shape[1],)),
        )


class Embedding(Kernel):
    """y = W[indices]: W of shape (V, C), integer indices (…), y (…, C).

    dL/dW[i] is the sum of g over the places where index i stood.

    Raises:
        TypeError: weights that are not floating, or indices that are no integers.
        ShapeError: the weights are no matrix.
        IndexError: an index outside [0, V).
    """

    @staticmethod
    def check(weights: Buffer, indices: Buffer) -> None:
        """Raises TypeError, ShapeError or IndexError unless the weights are a float matrix and every index an
        id of one of its rows.
        """
        require_float("embedding", weights=weights)
        if weights.ndim != 2:
            raise ShapeError(
                shape_errors.wrong_shape("embedding", "weights", weights.shape, expected=("ids", "size"))
            )
        try:
            indices.check_indices(weights.shape[0])
        except IndexError as problem:
            raise IndexError(f"embedding: an id is not in [0, {weights.shape[0]}): {problem}") from None

    @staticmethod
    def forward(weights: Buffer, indices: Buffer) -> tuple[Buffer, Any]:
        Embedding.check(weights, indices)
        return weights.take(indices), (indices, weights.shape, weights.dtype)

    @staticmethod
    def backward(saved: Any, grad: Buffer) -> tuple[Gradient, ...]:
        indices, shape, dtype = saved
        return lambda: type(grad).zeros(shape, dtype).scatter_add(indices, grad), None

    @staticmethod
    def backward_by_rows(saved: Any, grad: Buffer) -> tuple[Buffer, Buffer]:
        """Returns dL/dW as the rows that were looked up, integers (n,), and their gradients (n, C).

        A backend for which it is None gives the whole gradient, where rows were asked for, too.
        """
        indices, (_, width), _ = saved
        return sums_by_row(indices.reshape((indices.numel,)), grad.reshape((indices.numel, width)))


def sums_by_row(rows: Buffer, values: Buffer) -> tuple[Buffer, Buffer]:
    """Returns each of the rows (m,) once, integers (n,), and the sums (n, ...) of its values (m, ...)."""
    places: dict[int, int] = {}  # in the order in which they come
    order = [places.setdefault(row, len(places)) for row in rows.to_array()]
    if len(places) == len(order):
        return rows, values
    kind = type(values)
    total = kind.zeros((len(places), *values.shape[1:]), values.dtype)
    total.scatter_add(kind.from_array(array("i", order), rows.shape, DType.int32), values)
    return kind.from_array(array("i", places), (len(places),), DType.int32), total
