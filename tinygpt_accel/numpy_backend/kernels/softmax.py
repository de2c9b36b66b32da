"""Softmax, its logarithm and the cross-entropy on NumPy, over rows: where the axis is the last. Any other
axis is the textbook's.
"""

from __future__ import annotations

from typing import Any

import numpy

from tinygpt_core.kernels.base import Gradient
from tinygpt_core.kernels.softmax import CrossEntropy, LogSoftmax, Softmax
from tinygpt_core.shape import normalize_axis

from .. import threads
from ..buffer import NumpyBuffer, without_warnings
from ..loops import loops_for
from .layout import as_flat, as_rows


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


class NumpyCrossEntropy(CrossEntropy):
    """The cross-entropy, y = log sum e^x - x[target].

    Fast: it keeps the exponentials of each row and their sum, so that no logarithm of a matrix is made, and
    the backward is one walk.
    """

    @staticmethod
    @without_warnings
    def forward(logits: Any, targets: Any, *, ignore_index: int | None = None) -> tuple[Any, Any]:
        chosen: Any = CrossEntropy.check(logits, targets, ignore_index)
        ids = as_flat(chosen.array)
        if not logits.shape[-1]:
            return CrossEntropy.forward(logits, targets, ignore_index=ignore_index)
        x = as_rows(logits.array, logits.shape[-1])
        count, classes = x.shape
        exponentials = numpy.empty_like(x)
        totals = numpy.empty(count, x.dtype)
        losses = numpy.empty(count, x.dtype)
        loop = loops_for(x.dtype).cross_entropy

        def work(start: int, stop: int) -> None:
            part = slice(start, stop)
            loop(x[part], ids[part], exponentials[part], totals[part], losses[part])

        threads.parallel_for(work, count, threads.CHAIN_GRAIN // classes + 1)
        counted = None if ignore_index is None else targets.array.reshape(-1) != ignore_index
        if counted is not None:
            losses[~counted] = 0.0
        # A list, so that the backward can tell it from what the textbook forward keeps
        saved = [exponentials, totals, ids, counted, logits.shape]
        return NumpyBuffer.wrap(losses.reshape(targets.shape), logits.dtype), saved

    @staticmethod
    @without_warnings
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        if isinstance(saved, tuple):  # by the textbook forward
            return CrossEntropy.backward(saved, grad)
        exponentials, totals, ids, counted, shape = saved
        g = as_flat(grad.array)
        if counted is not None:
            g = numpy.where(counted, g, g.dtype.type(0))
        factors = g / totals
        result = numpy.empty_like(exponentials)
        scale_rows = loops_for(g.dtype).scale_rows

        def work(start: int, stop: int) -> None:
            scale_rows(exponentials[start:stop], factors[start:stop], result[start:stop])

        threads.parallel_for(work, len(g), threads.STEP_GRAIN // shape[-1] + 1)
        result[numpy.arange(len(ids)), ids] -= g
        return NumpyBuffer.wrap(result.reshape(shape), grad.dtype), None


def _is_along_rows(x: Any, axis: int) -> bool:
    """Whether the axis is the last of a float array that has elements."""
    if x.dtype.kind != "f" or not x.ndim or not x.numel:
        return False
    return normalize_axis(axis, x.ndim) == x.ndim - 1
