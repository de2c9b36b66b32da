"""Sums that do not lose digits, however many terms they have.

NumPy adds up pairwise along an axis whose elements lie side by side, so that the error grows with the
logarithm of the number of terms. Along every other axis it adds row after row to one running total: after
300,000 rows of float32 five digits are left, and from 2^24 on ones no longer count. Here rows are added in
blocks first, as products with a row of ones, which BLAS does faster than a sum; what the blocks come to is
added in doubles.
"""

from __future__ import annotations

import math
from typing import Any

import numpy

from . import threads

BLOCK = 32  # rows that are added up in their own dtype


def sum_over(x: Any, axes: tuple[int, ...]) -> Any:
    """Returns the sum of an array over axes, which stay with size 1, in the array's dtype."""
    terms = math.prod([x.shape[axis] for axis in axes])
    if terms <= BLOCK or x.dtype.kind != "f" or not x.size:
        return numpy.add.reduce(x, axis=axes, keepdims=True)
    if x.flags.c_contiguous and axes[0] == x.ndim - len(axes):  # the last axes: one row of neighbours each
        return numpy.add.reduce(x, axis=axes, keepdims=True)
    order = sorted(range(x.ndim), key=lambda axis: -x.strides[axis])  # as the elements lie
    flat = x.transpose(order)
    if not flat.flags.c_contiguous:
        return numpy.add.reduce(x, axis=axes, dtype=numpy.float64, keepdims=True).astype(x.dtype)
    kept = [axis for axis in order if axis not in axes]
    # From the last axis to the first, neighbours that are both summed, or both kept, as one.
    total = flat
    inner = 1
    while order:
        is_summed = order[-1] in axes
        size = 1
        while order and (order[-1] in axes) == is_summed:
            size *= x.shape[order.pop()]
        if is_summed:
            total = _sum_along(total.reshape(-1, size, inner))
        else:
            inner *= size
    total = total.reshape([x.shape[axis] for axis in kept]).transpose(numpy.argsort(kept))
    return total.reshape([1 if axis in axes else size for axis, size in enumerate(x.shape)]).astype(
        x.dtype, copy=False
    )


def sums_by_index(indices: Any, values: Any, count: int, add_rows: Any) -> Any:
    """Returns `count` rows, each the sum of the rows of values whose index it is, in the dtype of the values.

    `add_rows(total, indices, values)` is the loop that adds them. Only where an index stands in many places
    does it add in doubles; and where most of `count` do not occur, to rows for those that do.
    """
    dtype = values.dtype
    shape = (count, values.shape[1])
    if dtype == numpy.float64 or numpy.bincount(indices, minlength=1).max() <= BLOCK:
        total = numpy.zeros(shape, dtype)
        add_rows(total, indices, values)
        return total
    if count <= len(indices):
        sums = numpy.zeros(shape)
        add_rows(sums, indices, values)
        return sums.astype(dtype)
    occurring, places = numpy.unique(indices, return_inverse=True)
    sums = numpy.zeros((len(occurring), values.shape[1]))
    add_rows(sums, places, values)
    total = numpy.zeros(shape, dtype)
    total[occurring] = sums
    return total


def column_sums(x: Any) -> Any:
    """Returns the sum of each column of a matrix, in doubles."""
    return _sum_along(x[None])[0]


def _sum_along(x: Any) -> Any:
    """Returns the sums along the middle one of three axes, without it; in doubles where there are many."""
    outer, count, inner = x.shape
    if inner == 1 or count <= BLOCK:  # along rows NumPy adds pairwise
        return numpy.add.reduce(x.reshape(outer, count) if inner == 1 else x, axis=1).reshape(outer, inner)
    blocks = count // BLOCK
    whole = blocks * BLOCK
    ones = numpy.ones((1, BLOCK), x.dtype)
    partial = numpy.empty((outer, blocks, 1, inner), x.dtype)
    rows = x[:, :whole].reshape(outer, blocks, BLOCK, inner)

    def work(start: int, stop: int) -> None:
        numpy.matmul(ones, rows[:, start:stop], out=partial[:, start:stop])

    threads.parallel_for(work, blocks, threads.STEP_GRAIN // (outer * BLOCK * inner) + 1)
    partial = partial.reshape(outer, blocks, inner)
    if x.dtype != numpy.float64:
        total = numpy.add.reduce(partial, axis=1, dtype=numpy.float64)
    else:
        total = _sum_along(partial)
    if whole < count:
        total = total + numpy.add.reduce(x[:, whole:], axis=1)
    return total
