"""Sums that do not lose digits, however many terms they have.

NumPy adds up pairwise along an axis whose elements lie side by side, so that the error grows with the
logarithm of the number of terms. Along every other axis it adds row after row to one running total: after
300,000 rows of float32 five digits are left, and from 2^24 on ones no longer count. Here rows are added in
blocks first, by a compiled loop or as products with a row of ones, which BLAS does faster than a sum; what
the blocks come to is added in doubles.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy

from . import threads

BLOCK = 64  # rows that are added up in their own dtype
WORTH_A_LOOP = 1 << 13  # elements; for fewer, Numba is not imported
AddColumns = Callable[[Any, Any], None]


def sum_over(
    x: Any, axes: tuple[int, ...], add_columns_for: Callable[[Any], AddColumns] = lambda dtype: add_blocks
) -> Any:
    """Returns the sum of an array over axes, which stay with size 1, in the array's dtype.

    Args:
        add_columns_for: gives what adds the rows of matrices of a dtype, as `add_blocks` does.
    """
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
            total = _sum_along(total.reshape(-1, size, inner), add_columns_for)
        else:
            inner *= size
    total = total.reshape([x.shape[axis] for axis in kept]).transpose(numpy.argsort(kept))
    return total.reshape([1 if axis in axes else size for axis, size in enumerate(x.shape)]).astype(
        x.dtype, copy=False
    )


def column_sums(x: Any, add_columns: AddColumns | None = None) -> Any:
    """Returns the sum of each column of a matrix, in doubles."""
    return _sum_along(x[None], lambda dtype: add_columns or add_blocks)[0]


def add_blocks(total: Any, x: Any) -> None:
    """Adds the sums of x (N, R, C) over its rows to total (N, C), which is in doubles: `BLOCK` rows at a time
    by a product, and what these come to in doubles.
    """
    outer, count, inner = x.shape
    blocks = count // BLOCK
    whole = blocks * BLOCK
    rows = x[:, :whole].reshape(outer, blocks, BLOCK, inner)
    partial = numpy.matmul(numpy.ones((1, BLOCK), x.dtype), rows).reshape(outer, blocks, inner)
    if blocks > BLOCK * BLOCK and x.dtype == numpy.float64:
        add_blocks(total, partial)
    else:
        total += numpy.add.reduce(partial, axis=1, dtype=numpy.float64)
    if whole < count:
        total += numpy.add.reduce(x[:, whole:], axis=1)


def _sum_along(x: Any, add_columns_for: Callable[[Any], AddColumns]) -> Any:
    """Returns the sums along the middle one of three axes, without it; in doubles where there are many.

    How rows are cut does not depend on the number of threads, so neither does the result.
    """
    outer, count, inner = x.shape
    if inner == 1 or count <= BLOCK:  # along rows NumPy adds pairwise
        return numpy.add.reduce(x.reshape(outer, count) if inner == 1 else x, axis=1).reshape(outer, inner)
    add_columns = add_columns_for(x.dtype) if x.size >= WORTH_A_LOOP else add_blocks
    rows = max(BLOCK, threads.STEP_GRAIN // (2 * inner) // BLOCK * BLOCK)
    if count <= 2 * rows:
        total = numpy.zeros((outer, inner))

        def work(start: int, stop: int) -> None:
            add_columns(total[start:stop], x[start:stop])

        threads.parallel_for(work, outer, threads.STEP_GRAIN // (count * inner) + 1)
        return total
    chunks = -(-count // rows)
    partial = numpy.zeros((outer * chunks, 1, inner))

    def work_on_chunks(start: int, stop: int) -> None:
        for i in range(start, stop):
            matrix, chunk = divmod(i, chunks)
            add_columns(partial[i], x[matrix : matrix + 1, chunk * rows : (chunk + 1) * rows])

    threads.parallel_for(work_on_chunks, outer * chunks)
    return numpy.add.reduce(partial.reshape(outer, chunks, inner), axis=1)
