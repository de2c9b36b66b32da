"""The linear map, and rows of a table: products with a matrix of weights.

Notation: x is the input, y the result, g the gradient of the loss with respect to y; sums run over the axis a
formula names.
"""

from __future__ import annotations

from typing import Any

from .. import shape_errors
from ..buffer.base import Buffer
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
    def check(x: Buffer, weight: Buffer, bias: Buffer | None) -> None:
        """Raises TypeError or ValueError unless shapes and dtypes fit."""
        require_float("linear", x=x, weight=weight, bias=bias)
        if weight.ndim != 2:
            raise ShapeError(
                shape_errors.wrong_shape("linear", "weight", weight.shape, expected=("in", "out"))
            )
        if x.ndim == 0 or x.shape[-1] != weight.shape[0]:
            raise ShapeError(shape_errors.matmul("linear", x.shape, weight.shape, ("input", "weight")))
        if bias is not None and bias.shape != weight.shape[1:]:
            raise ShapeError(
                shape_errors.wrong_shape(
                    "linear", "bias", bias.shape, expected=weight.shape, of="weight", axes=slice(1, None)
                )
            )

    @staticmethod
    def forward(x: Buffer, weight: Buffer, bias: Buffer | None = None) -> tuple[Buffer, Any]:
        Linear.check(x, weight, bias)
        y = rows_of(x).matmul(weight)
        y = y if bias is None else y + bias
        return y.reshape((*x.shape[:-1], weight.shape[1])), (x, weight)

    @staticmethod
    def backward(saved: Any, grad: Buffer) -> tuple[Gradient, ...]:
        x, weight = saved
        g = rows_of(grad)
        return (
            lambda: g.matmul(weight.transpose(0, 1)).reshape(x.shape),
            lambda: rows_of(x).transpose(0, 1).matmul(g),
            lambda: g.sum((0,)).reshape((g.shape[1],)),
        )


class Embedding(Kernel):
    """y = W[indices]: W of shape (V, C), integer indices (…), y (…, C). dL/dW[i] is the sum of g over the
    places where index i stood.

    Raises:
        TypeError: a weight that is not floating, or indices that are no integers.
        ShapeError: the weight is no matrix.
        IndexError: an index outside [0, V).
    """

    @staticmethod
    def check(weight: Buffer, indices: Buffer) -> None:
        """Raises TypeError, ShapeError or IndexError unless the weight is a float matrix and every index an
        id of one of its rows.
        """
        require_float("embedding", weight=weight)
        if weight.ndim != 2:
            raise ShapeError(
                shape_errors.wrong_shape("embedding", "weight", weight.shape, expected=("ids", "size"))
            )
        try:
            indices.check_indices(weight.shape[0])
        except IndexError as problem:
            raise IndexError(f"embedding: an id is not in [0, {weight.shape[0]}): {problem}") from None

    @staticmethod
    def forward(weight: Buffer, indices: Buffer) -> tuple[Buffer, Any]:
        Embedding.check(weight, indices)
        return weight.take(indices), (indices, weight.shape, weight.dtype)

    @staticmethod
    def backward(saved: Any, grad: Buffer) -> tuple[Gradient, ...]:
        indices, shape, dtype = saved
        return lambda: type(grad).zeros(shape, dtype).scatter_add(indices, grad), None
