"""Softmax and its logarithm on NumPy, over rows: where the axis is the last. Any other
axis is the textbook's.
"""

from __future__ import annotations

from typing import Any

import numpy

from tinygpt_core.kernels.base import Gradient
from tinygpt_core.kernels.softmax import LogSoftmax, Softmax
from tinygpt_core.shape import normalize_axis

from .. import threads
from ..buffer import NumpyBuffer, without_warnings
from ..loops import loops_for
from .layout import as_rows


class NumpySoftmax(Softmax):
    """Softmax, y = e^x / sum e^x.

    Fast: one walk over the rows; the largest element is subtracted only from rows that need it.
    """

    @staticmethod
    @without_warnings
    def forward(x: Any, *, axis: int = -1) -> tuple[Any, Any]:
        if not _is_along_rows(x, axis):
            return Softmax.forward(x, axis=axis)
        columns = x.shape[-1]
        rows = as_rows(x.array, columns)[:, None, :]
        y = numpy.empty_like(rows)
        softmax = loops_for(rows.dtype).softmax
        one = rows.dtype.type(1)

        def work(start: int, stop: int) -> None:
            softmax(rows[start:stop], y[start:stop], one, False)

        threads.parallel_for(work, len(rows), threads.CHAIN_GRAIN // columns + 1)
        result = NumpyBuffer.wrap(y.reshape(x.shape), x.dtype)
        return result, (result, x.ndim - 1)

    @staticmethod
    @without_warnings
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        result, axis = saved
        if axis != result.ndim - 1 or not result.numel:
            return Softmax.backward(saved, grad)
        y = result.array
        g = grad.array
        difference = g - numpy.vecdot(g, y)[..., None]
        return (NumpyBuffer.wrap(numpy.multiply(difference, y, out=difference), grad.dtype),)


class NumpyLogSoftmax(LogSoftmax):
    """The logarithm of softmax, y = x - log sum e^x.

    Fast: two of its steps are done in place.
    """

    @staticmethod
    @without_warnings
    def forward(x: Any, *, axis: int = -1) -> tuple[Any, Any]:
        if not _is_along_rows(x, axis):
            return LogSoftmax.forward(x, axis=axis)
        y = x.array - numpy.maximum.reduce(x.array, axis=-1, keepdims=True)
        y -= numpy.log(numpy.add.reduce(numpy.exp(y), axis=-1, keepdims=True))
        result = NumpyBuffer.wrap(y, x.dtype)
        return result, (result, x.ndim - 1)


def _is_along_rows(x: Any, axis: int) -> bool:
    """Whether the axis is the last of a float array that has elements."""
    if x.dtype.kind != "f" or not x.ndim or not x.numel:
        return False
    return normalize_axis(axis, x.ndim) == x.ndim - 1
