"""Dropout on NumPy."""

from __future__ import annotations

import math
from typing import Any

import numpy

from tinygpt_core.kernels.base import Gradient
from tinygpt_core.kernels.dropout import Dropout
from tinygpt_core.random import Key

from ... import philox
from .. import threads
from ..buffer import NumpyBuffer, without_warnings
from ..loops import loops_for
from .layout import as_flat


class NumpyDropout(Dropout):
    """Dropout, y = x / (1 - p) where a random number u >= p, else 0.

    Fast: it compares the words of the random stream and makes no numbers of them: u >= p where the word is
    at least 2^32 p, as u has steps of 2^-24.
    """

    @staticmethod
    @without_warnings
    def forward(x: Any, *, probability: float, key: Key) -> tuple[Any, Any]:
        if x.dtype.kind != "f" or not 0.0 <= probability < 1.0:
            return Dropout.forward(x, probability=probability, key=key)  # which raises
        flat = as_flat(x.array)
        threshold = numpy.uint64(math.ceil(float(numpy.float32(probability)) * 2**24) << 8)
        stream = numpy.uint64(key.stream)
        keys = philox.round_keys(numpy, key.seed)
        mask = numpy.empty(flat.size, bool)
        result = numpy.empty_like(flat)
        loops = loops_for(flat.dtype)
        factor = flat.dtype.type(1.0 / (1.0 - probability))

        def work(start: int, stop: int) -> None:
            part = slice(4 * start, min(4 * stop, flat.size))
            loops.keep_mask(mask[part], numpy.uint64(key.block + start), stream, keys, threshold)
            loops.scale_where(flat[part], mask[part], factor, result[part])

        # In blocks of the random stream, of four words each
        threads.parallel_for(work, -(-flat.size // 4), threads.CHAIN_GRAIN // 4)
        return NumpyBuffer.wrap(result.reshape(x.shape), x.dtype), (mask, factor)

    @staticmethod
    @without_warnings
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        mask, factor = saved
        g = as_flat(grad.array)
        result = numpy.empty(grad.numel, grad.array.dtype)
        scale_where = loops_for(grad.array.dtype).scale_where

        def work(start: int, stop: int) -> None:
            scale_where(g[start:stop], mask[start:stop], factor, result[start:stop])

        threads.parallel_for(work, g.size, threads.STEP_GRAIN)
        return (NumpyBuffer.wrap(result.reshape(grad.shape), grad.dtype),)
