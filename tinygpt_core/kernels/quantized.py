"""Matrices in fewer bits than float32, for models that only compute.

When one text is sampled, every weight is read from memory for each token, and used once: half or a quarter of
the bytes take half or a quarter of the time, as far as widening them keeps up.

    bfloat16   the upper half of a float32: its sign, its exponent, and 7 bits of its fraction; rounded to the
               nearest, ties to even
    int8       w[i, j] = s[i] q[i, j], with a scale s[i] = max_j |w[i, j]| / 127 for each row, and q from -127
               to 127, rounded to the nearest, ties to even: |w - s q| <= s / 2

A row is what makes an output of a linear map, or the vector of a token. Products are computed in float32, of
numbers that are widened a few rows at a time. Kernels have a forward only.

Source: Dettmers et al. 2022, "LLM.int8(): 8-bit Matrix Multiplication for Transformers at Scale",
https://arxiv.org/abs/2208.07339 (a scale for each row; activations are rounded there, too, and not here)
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable
from itertools import chain
from typing import Any

from .. import shape_errors
from ..buffer.base import Buffer
from ..dtype import DType
from ..shape import ShapeError
from .base import Kernel, rows_of

TYPECODES = {"bfloat16": "H", "int8": "b"}
"""How each dtype of a `QuantizedMatrix` is kept, as a code of the standard library's `array`."""
LARGEST_INT8 = 127
SMALLEST_SCALE = 2.0**-126
"""Of a row that is not zero: a smaller one would be no normal float32, and lose the digits of its scale."""
BFLOAT16_INFINITY = 0x7F80  # its bits, but for the sign
BLOCK = 1 << 16  # numbers that are widened at once
NOT_FINITE = "weights must be finite, and these are not (nan or inf), or too large for 16 bits"


def check_dtype(name: str) -> str:
    """Returns the name of a dtype of quantized matrices; raises ValueError for another."""
    if name not in TYPECODES:
        raise ValueError(f"weights are quantized to {' or '.join(TYPECODES)}, not {name!r:.80}")
    return name


class QuantizedMatrix:
    """A matrix in 16 or 8 bits, which lies in the memory of the host, whatever the backend.

    Args:
        dtype: "bfloat16" or "int8".
        shape: rows and columns; all are zeros at first, see `Quantize`.

    Attributes:
        values: the numbers, row by row, as an `array.array`: the bits of bfloat16 as unsigned integers.
        scales: float32, one a row; none for bfloat16.

    Raises:
        ValueError: another dtype.
    """

    __slots__ = ("dtype", "scales", "shape", "values")

    def __init__(self, dtype: str, shape: tuple[int, int]) -> None:
        self.dtype = check_dtype(dtype)
        self.shape = shape
        self.values: array[int] = array(TYPECODES[dtype], [0]) * math.prod(shape)
        self.scales: array[float] = array("f", [0.0]) * (shape[0] if dtype == "int8" else 0)

    @property
    def nbytes(self) -> int:
        """How many bytes it takes."""
        return len(self.values) * self.values.itemsize + len(self.scales) * self.scales.itemsize

    def row_blocks(self) -> Iterable[tuple[int, int]]:
        """Yields the starts and stops of ranges of rows that are widened at once."""
        rows, columns = self.shape
        step = max(1, BLOCK // max(columns, 1))
        return ((start, min(start + step, rows)) for start in range(0, rows, step))

    def widened(self, start: int, stop: int) -> array[float]:
        """Returns the numbers of the rows [start, stop) in float32, scales and all, row by row."""
        columns = self.shape[1]
        part = self.values[start * columns : stop * columns]
        if self.dtype == "bfloat16":
            return _floats_of(array("I", (bits << 16 for bits in part)))
        scales = self.scales[start:stop]
        repeated = chain.from_iterable([scale] * columns for scale in scales)
        return array("f", (scale * number for scale, number in zip(repeated, part, strict=True)))


def _floats_of(bits: array[int]) -> array[float]:
    floats = array("f")
    floats.frombytes(memoryview(bits).cast("B"))
    return floats


class Quantize(Kernel):
    """Writes rows into a `QuantizedMatrix`: q = round(w / s) with s = max |w| / 127 of a row, or the bfloat16
    that is nearest to w; returns the matrix.

    Args of `forward`: the rows (n, columns), float32; the matrix; and the number of the first of them there.

    Raises:
        TypeError: rows that are not float32.
        ShapeError: they do not fit into the matrix.
        ValueError: one of the numbers is not finite, or would not be in 16 bits; these rows are then not
            written.
    """

    @staticmethod
    def check(rows: Buffer, matrix: QuantizedMatrix, first: int) -> None:
        """Raises TypeError or ShapeError unless the rows fit."""
        if rows.dtype is not DType.float32:
            raise TypeError(f"float32 is quantized, not {rows.dtype.name}")
        if rows.ndim != 2 or rows.shape[1] != matrix.shape[1] or first + rows.shape[0] > matrix.shape[0]:
            expected = (matrix.shape[0] - first, matrix.shape[1])
            raise ShapeError(
                shape_errors.wrong_shape("quantize", "rows", rows.shape, expected=expected, of="matrix")
            )

    @staticmethod
    def forward(rows: Buffer, matrix: QuantizedMatrix, first: int = 0) -> tuple[QuantizedMatrix, Any]:
        Quantize.check(rows, matrix, first)
        columns = matrix.shape[1]
        numbers = rows.to_array()
        start, stop = first * columns, (first + rows.shape[0]) * columns
        if not all(map(math.isfinite, numbers)):
            raise ValueError(NOT_FINITE)
        if matrix.dtype == "bfloat16":
            bits = array("I")
            bits.frombytes(memoryview(numbers).cast("B") if numbers else b"")
            # Half of the last place that stays, less one where that place is even: ties go to even
            halves = array("H", ((each + 0x7FFF + (each >> 16 & 1)) >> 16 for each in bits))
            if any(half & 0x7FFF == BFLOAT16_INFINITY for half in halves):
                raise ValueError(NOT_FINITE)
            matrix.values[start:stop] = halves
            return matrix, None
        found: array[int] = array("b")
        scales = array("f")
        for place in range(0, len(numbers), columns or 1):
            row = numbers[place : place + columns]
            largest = max(map(abs, row))
            scales.append(max(largest / LARGEST_INT8, SMALLEST_SCALE) if largest else 0.0)
            scale = scales[-1] or 1.0  # as it was rounded
            # Where a scale was rounded down, the largest of its row comes to more than 127
            found.extend(max(-LARGEST_INT8, min(round(number / scale), LARGEST_INT8)) for number in row)
        matrix.values[start:stop] = found
        if columns:
            matrix.scales[first : first + rows.shape[0]] = scales
        return matrix, None


class QuantizedLinear(Kernel):
    """y = x W^T + b, for x of shape (..., columns), W a `QuantizedMatrix` (rows, columns), b of (rows) or
    None.

    Raises:
        TypeError: x or b is not float32.
        ShapeError: shapes that do not fit.
    """

    @staticmethod
    def check(x: Buffer, bias: Buffer | None, matrix: QuantizedMatrix) -> None:
        """Raises TypeError or ShapeError unless shapes and dtypes fit."""
        for operand in (x, bias):
            if operand is not None and operand.dtype is not DType.float32:
                raise TypeError(f"quantized weights are multiplied with float32, not {operand.dtype.name}")
        if x.ndim == 0 or x.shape[-1] != matrix.shape[1]:
            raise ShapeError(shape_errors.matmul("linear", x.shape, matrix.shape[::-1], ("input", "weights")))
        if bias is not None and bias.shape != matrix.shape[:1]:
            raise ShapeError(
                shape_errors.wrong_shape(
                    "linear", "bias", bias.shape, expected=matrix.shape[:1], of="weights"
                )
            )

    @staticmethod
    def forward(x: Buffer, bias: Buffer | None, *, matrix: QuantizedMatrix) -> tuple[Buffer, Any]:
        QuantizedLinear.check(x, bias, matrix)
        rows = rows_of(x)
        kind = type(x)
        parts = []
        for start, stop in matrix.row_blocks():
            numbers = matrix.widened(start, stop)
            block = kind.from_array(numbers, (stop - start, matrix.shape[1]), DType.float32)
            parts.append(rows.matmul(block.transpose(0, 1)))
        y = kind.concatenate(parts, axis=1) if parts else kind.zeros((rows.shape[0], 0), DType.float32)
        if bias is not None:
            y = y + bias
        return y.reshape((*x.shape[:-1], matrix.shape[0])), None


class QuantizedEmbedding(Kernel):
    """y = W[indices]: W a `QuantizedMatrix` (V, C), integer indices (...), y (..., C), float32.

    Raises:
        TypeError: indices that are no integers.
        IndexError: an index outside [0, V).
    """

    @staticmethod
    def check(indices: Buffer, matrix: QuantizedMatrix) -> None:
        """Raises TypeError or IndexError unless every index is an id of one of the rows."""
        try:
            indices.check_indices(matrix.shape[0])
        except IndexError as problem:
            raise IndexError(f"embedding: an id is not in [0, {matrix.shape[0]}): {problem}") from None

    @staticmethod
    def forward(indices: Buffer, *, matrix: QuantizedMatrix) -> tuple[Buffer, Any]:
        QuantizedEmbedding.check(indices, matrix)
        numbers = array("f")
        for row in indices.to_array():
            numbers.extend(matrix.widened(row, row + 1))
        return type(indices).from_array(numbers, (*indices.shape, matrix.shape[1]), DType.float32), None
