"""Quantized matrices on NumPy, and numbers of 16 bits in files."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy

from tinygpt_core.dtype import DType
from tinygpt_core.kernels.halves import WidenHalves
from tinygpt_core.kernels.quantized import (
    BFLOAT16_INFINITY,
    LARGEST_INT8,
    NOT_FINITE,
    SMALLEST_SCALE,
    Quantize,
    QuantizedEmbedding,
    QuantizedLinear,
    QuantizedMatrix,
)

from .. import chains, threads
from ..buffer import NumpyBuffer, without_warnings
from ..loops import loops_for
from .layout import as_flat, as_rows

FEW = 8
"""Rows of x up to which each reads the weights as they are kept; for more of them, these are widened once."""
BLOCK = 1 << 22
"""Numbers that are widened at once for many rows of x. Each product wakes BLAS's threads, so smaller blocks,
which would stay in a core's own cache, take up to twice as long.
"""
ROUNDED = 1 << 18  # numbers that are rounded at once
GRAIN = 1 << 16  # numbers that are worth a thread
UNIT = 16
"""Outputs that a thread computes together: BLAS takes several at once, and adds up what is left over in
another order.
"""
TO_FLOAT32 = {"F16": numpy.dtype("<f2"), "BF16": numpy.dtype("<u2")}


def _values(matrix: QuantizedMatrix) -> tuple[Any, Any]:
    """Returns the numbers of a matrix (rows, columns) and its scales as arrays that share its memory."""
    kind = numpy.uint16 if matrix.dtype == "bfloat16" else numpy.int8
    return _shared(matrix.values, kind).reshape(matrix.shape), _shared(matrix.scales, numpy.float32)


def _shared(numbers: Any, kind: Any) -> Any:
    """Returns what is in an `array.array`, as an array that shares its memory."""
    return numpy.frombuffer(numbers, kind) if numbers else numpy.empty(0, kind)


def _blocks(count: int, width: int, block: int) -> list[slice]:
    """Returns `count` rows of `width` numbers as ranges of so many rows that a block holds them."""
    step = max(1, block // max(width, 1))
    return [slice(i, min(i + step, count)) for i in range(0, count, step)]


class NumpyQuantize(Quantize):
    """Quantizing, q = round(w / s).

    Fast: a block of rows after the other, in doubles where scales divide.
    """

    @staticmethod
    @without_warnings
    def forward(rows: Any, matrix: QuantizedMatrix, first: int = 0) -> tuple[QuantizedMatrix, Any]:
        Quantize.check(rows, matrix, first)
        if not numpy.isfinite(rows.array).all():
            raise ValueError(NOT_FINITE)
        count, columns = rows.shape
        values, scales = (each[first : first + count] for each in _values(matrix))
        for block in _blocks(count, columns, ROUNDED):
            numbers = numpy.ascontiguousarray(rows.array[block])
            if matrix.dtype == "bfloat16":
                bits = numbers.view(numpy.uint32)
                # Half of the last place that stays, less one where that place is even: ties go to even
                halves = (bits + (0x7FFF + ((bits >> 16) & 1)).astype(numpy.uint32)) >> 16
                if ((halves & 0x7FFF) == BFLOAT16_INFINITY).any():
                    raise ValueError(NOT_FINITE)
                values[block] = halves
            elif columns:
                largest = numpy.abs(numbers).max(1)
                found = numpy.maximum(largest / numpy.float64(LARGEST_INT8), SMALLEST_SCALE)
                scales[block] = numpy.where(largest > 0, found, 0.0)
                divisors = numpy.where(largest > 0, scales[block], 1.0).astype(numpy.float64)
                quotients = numpy.rint(numbers / divisors[:, None])
                values[block] = quotients.clip(-LARGEST_INT8, LARGEST_INT8)
        return matrix, None


class NumpyQuantizedLinear(QuantizedLinear):
    """The linear map of quantized weights.

    Fast: a compiled loop reads 16 or 8 bits a weight, and nothing else of its size, where there are few rows
    of x; without Numba a block that stays in the cache is widened, and BLAS multiplies it. Both are shared
    out among the cores. Where there are many rows, a layer is widened as a whole.
    """

    @staticmethod
    @without_warnings
    def forward(x: Any, bias: Any, *, matrix: QuantizedMatrix) -> tuple[Any, Any]:
        QuantizedLinear.check(x, bias, matrix)
        outputs, inputs = matrix.shape
        rows = as_rows(x.array, inputs)
        y = numpy.empty((len(rows), outputs), numpy.float32)
        if len(rows) <= FEW:
            _few(rows, matrix, y)
        else:
            _many(rows, matrix, y)
        if bias is not None:
            numpy.add(y, as_flat(bias.array), out=y)
        return NumpyBuffer.wrap(y.reshape(*x.shape[:-1], outputs), DType.float32), None


def _few(rows: Any, matrix: QuantizedMatrix, y: Any) -> None:
    """Computes y = rows W^T, each row by itself."""
    values, scales = _values(matrix)
    loops = loops_for(numpy.float32)
    outputs, inputs = matrix.shape

    def work(start: int, stop: int) -> None:
        part = slice(start * UNIT, min(stop * UNIT, outputs))
        for x, out in zip(rows, y, strict=True):
            if matrix.dtype == "bfloat16":
                loops.product_of_bfloat16(values[part], x, out[part])
            else:
                loops.product_of_int8(values[part], scales[part], x, out[part])

    with threads.single_threaded_blas() if loops is chains else nullcontext():
        threads.parallel_for(work, -(-outputs // UNIT), max(1, GRAIN // (UNIT * max(inputs, 1))))


def _many(rows: Any, matrix: QuantizedMatrix, y: Any) -> None:
    """Computes y = rows W^T, a block of W after the other."""
    values, scales = _values(matrix)
    loops = loops_for(numpy.float32)
    for block in _blocks(*matrix.shape, BLOCK):
        part, factors = values[block], scales[block]
        wide = threads.workspace(0, part.size, numpy.float32).reshape(part.shape)
        widen = partial(_widen, loops, matrix.dtype, part, factors, wide)
        threads.parallel_for(widen, len(part), max(1, GRAIN // max(part.shape[1], 1)))
        numpy.matmul(rows, wide.T, out=y[:, block])


def _widen(
    loops: Any, dtype: str, rows: Any, scales: Any, wide: Any, start: int = 0, stop: int | None = None
) -> None:
    """Computes the numbers of the rows [start, stop) in float32."""
    if dtype == "bfloat16":
        loops.widen_bfloat16(rows[start:stop], wide[start:stop])
    else:
        loops.widen_int8(rows[start:stop], scales[start:stop], wide[start:stop])


class NumpyQuantizedEmbedding(QuantizedEmbedding):
    """Takes the rows, and widens them."""

    @staticmethod
    @without_warnings
    def forward(indices: Any, *, matrix: QuantizedMatrix) -> tuple[Any, Any]:
        QuantizedEmbedding.check(indices, matrix)
        values, scales = _values(matrix)
        ids = as_flat(indices.array)
        wide = numpy.empty((len(ids), matrix.shape[1]), numpy.float32)
        _widen(chains, matrix.dtype, values[ids], scales[ids] if matrix.scales else scales, wide)
        return NumpyBuffer.wrap(wide.reshape(*indices.shape, matrix.shape[1]), DType.float32), None


class NumpyWidenHalves(WidenHalves):
    """Numbers of 16 bits as float32, y = x of each element.

    Fast: one conversion, or one shift.
    """

    @staticmethod
    def forward(raw: Any, dtype_name: str) -> tuple[memoryview, Any]:
        halves = numpy.frombuffer(raw, TO_FLOAT32[dtype_name]) if len(raw) else numpy.empty(0, numpy.uint16)
        wide: Any = halves.astype(numpy.float32 if dtype_name == "F16" else numpy.uint32)
        if dtype_name == "BF16":
            wide <<= 16
        return memoryview(wide).cast("B"), None
