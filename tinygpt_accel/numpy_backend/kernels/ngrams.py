"""Hashes of n-grams on NumPy."""

from __future__ import annotations

from typing import Any

import numpy

from tinygpt_core.dtype import DType
from tinygpt_core.kernels.ngrams import MULTIPLIER, SHIFT, HashNgrams

from ..buffer import NumpyBuffer


class NumpyHashNgrams(HashNgrams):
    """`HashNgrams` for all positions at once, in 32-bit integers that wrap around."""

    @staticmethod
    def forward(ids: Any, *, table_sizes: Any) -> tuple[Any, None]:
        HashNgrams.check(ids)
        tokens = ids.array.astype(numpy.uint32) + numpy.uint32(1)
        hashes = numpy.zeros_like(tokens)
        found = numpy.empty((len(table_sizes), *tokens.shape), numpy.int32)
        length = tokens.shape[1]
        for back in range(len(table_sizes) + 1):
            hashes[:, back:] ^= tokens[:, : max(0, length - back)]
            hashes *= numpy.uint32(MULTIPLIER)
            hashes ^= hashes >> numpy.uint32(SHIFT)
            if back:
                wide = hashes.astype(numpy.uint64) * numpy.uint64(table_sizes[back - 1])
                found[back - 1] = wide >> numpy.uint64(32)
        return NumpyBuffer.wrap(found, DType.int32), None
