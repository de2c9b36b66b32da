"""The cross-entropy on NumPy."""

from __future__ import annotations

from typing import Any

import numpy

from tinygpt_core.kernels.base import Gradient
from tinygpt_core.kernels.cross_entropy import CrossEntropy

from .. import threads
from ..buffer import NumpyBuffer, without_warnings
from ..loops import loops_for
from .layout import as_flat, as_rows


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
