"""The linear map and the embedding on NumPy."""

from __future__ import annotations

from typing import Any

import numpy

from tinygpt_core.dtype import DType
from tinygpt_core.kernels.base import Gradient
from tinygpt_core.kernels.dense import Embedding, Linear

from .. import threads
from ..buffer import NumpyBuffer, without_warnings
from ..loops import loops_for
from ..sums import column_sums
from .layout import as_flat, as_matrix


class NumpyLinear(Linear):
    """The linear map, y = x W + b.

    Fast: BLAS multiplies matrices as they lie, and the gradient of the weights gets the weights' own layout.
    """

    @staticmethod
    @without_warnings
    def forward(x: Any, weights: Any, bias: Any = None) -> tuple[Any, Any]:
        Linear.check(x, weights, bias)
        inputs, outputs = weights.shape
        y = as_matrix(x.array, inputs) @ weights.array
        if bias is not None:
            row = as_flat(bias.array)
            add_to_rows = loops_for(y.dtype).add_to_rows
            grain = threads.STEP_GRAIN // max(outputs, 1)
            threads.parallel_for(lambda start, stop: add_to_rows(y[start:stop], row), len(y), grain)
        return NumpyBuffer.wrap(y.reshape(*x.shape[:-1], outputs), x.dtype), (x, weights)

    @staticmethod
    @without_warnings
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        x, weights = saved
        inputs, outputs = weights.shape
        g = as_matrix(grad.array, outputs)
        w = weights.array

        def of_input() -> Any:
            return NumpyBuffer.wrap((g @ w.T).reshape(x.shape), x.dtype)

        def of_weights() -> Any:
            rows = as_matrix(x.array, inputs)
            # Weights that lie transposed, as those of a tied head do, get a gradient that does: when the two
            # are added up, both are read along their rows.
            if w.flags.f_contiguous and not w.flags.c_contiguous:
                return NumpyBuffer.wrap((g.T @ rows).T, x.dtype)
            return NumpyBuffer.wrap(rows.T @ g, x.dtype)

        def of_bias() -> Any:
            return NumpyBuffer.wrap(
                column_sums(g, loops_for(g.dtype).add_columns).astype(g.dtype, copy=False), x.dtype
            )

        return of_input, of_weights, of_bias


class NumpyEmbedding(Embedding):
    """The embedding, y = W[indices].

    Fast: the gradient adds up whole rows, not single elements.
    """

    @staticmethod
    @without_warnings
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        if not grad.numel:
            return Embedding.backward(saved, grad)
        indices, shape, dtype = saved

        def of_weights() -> Any:
            ids = as_flat(indices.array)
            rows = numpy.ascontiguousarray(grad.array).reshape(indices.numel, -1)
            total = numpy.zeros((shape[0], rows.shape[1]), rows.dtype)
            loops_for(rows.dtype).add_rows(total, ids, rows)
            return NumpyBuffer.wrap(total.reshape(shape), dtype)

        return of_weights, None

    @staticmethod
    @without_warnings
    def backward_by_rows(saved: Any, grad: Any) -> tuple[Any, Any]:
        if not grad.numel:
            return Embedding.backward_by_rows(saved, grad)
        indices, _, dtype = saved
        rows = numpy.ascontiguousarray(grad.array).reshape(indices.numel, -1)
        occurring, places = numpy.unique(as_flat(indices.array), return_inverse=True)
        total = numpy.zeros((len(occurring), rows.shape[1]), rows.dtype)
        loops_for(rows.dtype).add_rows(total, places.reshape(-1).astype(indices.array.dtype), rows)
        return NumpyBuffer.wrap(occurring.astype(numpy.int32), DType.int32), NumpyBuffer.wrap(total, dtype)
