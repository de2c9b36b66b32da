"""The reference backend: every element in one `array.array`, every operation in pure Python.

What makes it fast enough to train a GPT is that nothing here computes the position of a single element. Views
are copied in whole slices along their longest axis (`shape.copy_plan`), and arithmetic runs through `map`
over whole lists, in C, with one rounding to the dtype at the end. Sums and products accumulate in doubles
whatever the dtype.
"""

from __future__ import annotations

import math
import operator
from array import array
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, repeat
from typing import Any, final

from ..dtype import DType
from ..shape import (
    Index,
    Shape,
    broadcast_shapes,
    contiguous_strides,
    copy_plan,
    expand_strides,
    is_contiguous,
    numel,
    reduced_shape,
    reshape_strides,
    slice_strides,
)
from .base import Buffer, Scalar

Row = Sequence[float]
INFINITY, NAN = math.inf, math.nan
_sumprod: Callable[[Any, Any], float] | None = getattr(math, "sumprod", None)  # Python 3.12 and later


def dot(a: Row, b: Row) -> float:
    """The sum of a[i] * b[i]."""
    return _sumprod(a, b) if _sumprod else sum(map(operator.mul, a, b))


def chunks(values: Sequence[Any], size: int) -> list[Any]:
    """Returns a flat list as rows of `size`."""
    return [values[i : i + size] for i in range(0, len(values), size)]


def product(a: Sequence[Row], b: Sequence[Row], single: bool = True) -> list[list[float]]:
    """Returns the rows of a @ b, for at least one row of `b`; `single`: float32 is accurate enough."""
    return product_transposed(a, list(zip(*b, strict=True)), single)


def product_transposed(
    a: Sequence[Row], b: Sequence[Row], single: bool = True, bias: Row | None = None
) -> list[list[float]]:
    """Returns the rows of a @ b^T (+ bias in every row): every row of `a` dotted with every row of `b`.

    For up to eight columns, one comprehension does all multiply-adds of an element, so that the interpreter's
    cost of making an element is paid once. Longer rows are left to a function that runs over two of them in C
    (`_dots`).
    """
    if not b:
        return [[] for _ in a]
    if bias is not None:  # the weights of one more input, which is always 1
        a, b = [(*row, 1.0) for row in a], [(*row, x) for row, x in zip(b, bias, strict=True)]
    if len(a) > 2 * len(b):  # less is done for a row of `b` than for one of `a`
        return list(map(list, zip(*product_transposed(b, a, single), strict=True)))
    if len(b[0]) > 8:
        return _dots(a, b, single)
    missing = (0.0,) * (8 - len(b[0]))
    a, b = [(*row, *missing) for row in a], [(*row, *missing) for row in b]
    products = [
        a0 * b0 + a1 * b1 + a2 * b2 + a3 * b3 + a4 * b4 + a5 * b5 + a6 * b6 + a7 * b7
        for a0, a1, a2, a3, a4, a5, a6, a7 in a
        for b0, b1, b2, b3, b4, b5, b6, b7 in b
    ]
    return chunks(products, len(b))


def _dots(a: Sequence[Row], b: Sequence[Row], single: bool) -> list[list[float]]:
    """The dot products of rows of `a` and `b`, by `math.sumprod` where Python has it.

    Python 3.11 has one function that runs over two rows in C, `math.dist`, and it is three times faster than
    sum(map(mul)). As
    |u - v|^2 = |u|^2 + |v|^2 - 2 u.v, it gives the dot product too: with u a row of `a` scaled to the length of the rows of `b`, the
    error is a few 1e-16 of |a| |b|, as with a sum of doubles and far below what float32 keeps. Where the rows
    of `b` differ much in length (or are zero), they are scaled to length 1 as well.
    """
    if _sumprod:
        return [[_sumprod(x, y) for y in b] for x in a]
    b = list(map(tuple, b))
    origin, dist = repeat((0.0,) * len(b[0])), math.dist
    lengths_a, lengths_b = list(map(dist, a, origin)), list(map(dist, b, origin))
    common = max(lengths_b)
    if not single or not math.isfinite(common + sum(lengths_a)):
        return [[sum(map(operator.mul, x, y)) for y in b] for x in a]
    uneven = min(lengths_b) < 1e-3 * common
    if uneven:
        common, b = (
            1.0,
            [tuple([x / n for x in row]) if n else row for row, n in zip(b, lengths_b, strict=True)],
        )
    squares = [common * common + (1.0 if uneven else n * n) for n in lengths_b]
    result = []
    for row, length in zip(a, lengths_a, strict=True):
        half, scale = length / (2.0 * common or 1.0), common / (length or 1.0)
        distances = map(dist, repeat(tuple([x * scale for x in row])), b)
        result.append([half * (s - d * d) for s, d in zip(squares, distances, strict=True)])
    return [list(map(operator.mul, row, lengths_b)) for row in result] if uneven else result


def copy_elements(
    source: array[Any],
    source_start: int,
    source_stride: Shape,
    target: array[Any],
    target_start: int,
    target_stride: Shape,
    shape: Shape,
) -> None:
    """Copies the elements of one strided array onto another of the same shape, slice by slice."""
    if 0 in shape:
        return
    length, source_step, target_step, starts = copy_plan(shape, source_stride, target_stride)
    reach, span = length * source_step, length * target_step
    for p, q in starts:
        p, q = p + source_start, q + target_start
        if source_step:
            end = p + reach
            run = source[p : None if end < 0 else end : source_step]
        else:
            run = source[p : p + 1] * length
        end = q + span
        target[q : None if end < 0 else end : target_step] = run


def _safely(function: Callable[[float], float], at_zero: float = NAN) -> Callable[[float], float]:
    """Wraps a `math` function so that it answers as IEEE 754 does where Python raises."""

    def call(x: float) -> float:
        try:
            return function(x)
        except OverflowError:
            return INFINITY
        except ValueError:
            return at_zero if x == 0 else NAN

    return call


def _safe_divide(x: float, y: float) -> float:
    if y:
        return x / y
    return NAN if x == 0 or x != x else math.copysign(INFINITY, x) * math.copysign(1.0, y)


def _safe_power(x: float, y: float) -> float:
    try:
        return math.pow(x, y)
    except OverflowError:
        return -INFINITY if x < 0 and abs(math.fmod(y, 2)) == 1 else INFINITY
    except ValueError:  # a negative base to a fraction, or zero to a negative power
        if x:
            return NAN
        return math.copysign(INFINITY, x) if abs(math.fmod(y, 2)) == 1 else INFINITY


@final
class PythonBuffer(Buffer):
    """A Buffer whose storage is an `array.array`."""

    __slots__ = ()

    backend = "python"

    @classmethod
    def _make(
        cls, data: array[Any], shape: Shape, stride: Shape, offset: int, dtype: DType, version: list[int]
    ) -> PythonBuffer:
        self = object.__new__(cls)
        self.data, self.shape, self.stride, self.offset, self.dtype, self.version = (
            data,
            shape,
            stride,
            offset,
            dtype,
            version,
        )
        return self

    @classmethod
    def _from_array(cls, flat: array[Any], shape: Shape, dtype: DType) -> PythonBuffer:
        return cls._make(flat, shape, contiguous_strides(shape), 0, dtype, [0])

    @classmethod
    def of(cls, values: Sequence[Any], shape: Shape, dtype: DType) -> PythonBuffer:
        """Returns flat Python numbers, rounded to `dtype`, as a new Buffer."""
        return cls._make(dtype.pack(values), shape, contiguous_strides(shape), 0, dtype, [0])

    @classmethod
    def of_rows(cls, rows: Iterable[Row], shape: Shape, dtype: DType) -> PythonBuffer:
        """Returns equally long rows of floats as a new Buffer."""
        return cls._from_array(dtype.pack_rows(rows), shape, dtype)

    def as_strided(self, shape: Shape, stride: Shape, offset: int) -> PythonBuffer:
        """Returns a view of the same storage, in which element (i, j, …) lies at offset + i * stride[0] + j *
        stride[1] + …; nothing is checked.
        """
        return self._make(self.data, shape, stride, offset, self.dtype, self.version)

    def _flat(self) -> array[Any]:
        """The elements in C order: the storage itself where it is exactly that, so the result must not be
        written to.
        """
        total = numel(self.shape)
        if is_contiguous(self.shape, self.stride):
            data: array[Any] = self.data
            return data if total == len(data) else data[self.offset : self.offset + total]
        flat = array(self.dtype.typecode, bytes(total * self.dtype.itemsize))
        copy_elements(
            self.data, self.offset, self.stride, flat, 0, contiguous_strides(self.shape), self.shape
        )
        return flat

    def values(self) -> list[Any]:
        """The elements in C order as Python numbers (0 and 1 for bool)."""
        return self._flat().tolist()

    def rows(self) -> list[list[Any]]:
        """The elements as lists along the last axis."""
        width = self.shape[-1]
        return chunks(self.values(), width) if width else [[] for _ in range(numel(self.shape[:-1]))]

    def _to_array(self) -> array[Any]:
        return self._flat()[:]

    # ---------------------------------------------------------------- making one

    @classmethod
    def _full(cls, shape: Shape, value: Scalar, dtype: DType) -> PythonBuffer:
        return cls._from_array(dtype.pack((value,)) * numel(shape), shape, dtype)

    @classmethod
    def _arange(cls, start: Scalar, step: Scalar, count: int, dtype: DType) -> PythonBuffer:
        return cls.of([dtype.convert(start + i * step) for i in range(count)], (count,), dtype)

    def _cast(self, dtype: DType) -> PythonBuffer:
        values = self.values()
        if dtype.kind == "f" or self.dtype.kind == "b" or (dtype.kind == "i" and self.dtype.kind == "i"):
            return self.of(values, self.shape, dtype)
        return self.of(list(map(dtype.convert, values)), self.shape, dtype)

    def _copy(self) -> PythonBuffer:
        return self._from_array(self._to_array(), self.shape, self.dtype)

    # ---------------------------------------------------------------- how it is seen

    def _reshape(self, shape: Shape) -> PythonBuffer:
        stride = reshape_strides(self.shape, self.stride, shape)
        return self._copy()._reshape(shape) if stride is None else self.as_strided(shape, stride, self.offset)

    def _permute(self, axes: Shape) -> PythonBuffer:
        return self.as_strided(
            tuple(self.shape[axis] for axis in axes), tuple(self.stride[axis] for axis in axes), self.offset
        )

    def _expand(self, shape: Shape) -> PythonBuffer:
        return (
            self
            if shape == self.shape
            else self.as_strided(shape, expand_strides(self.shape, self.stride, shape), self.offset)
        )

    def _slice(self, index: Index) -> PythonBuffer:
        shape, stride, distance = slice_strides(self.shape, self.stride, index)
        return self.as_strided(shape, stride, self.offset + distance)

    def _assign(self, value: PythonBuffer) -> None:
        if is_contiguous(self.shape, self.stride):
            self.data[self.offset : self.offset + numel(self.shape)] = value._flat()
            return
        copy_elements(
            value._to_array(),
            0,
            contiguous_strides(self.shape),
            self.data,
            self.offset,
            self.stride,
            self.shape,
        )

    @classmethod
    def _concatenate(
        cls, buffers: Sequence[PythonBuffer], axis: int, shape: Shape, dtype: DType
    ) -> PythonBuffer:
        joined = cls._full(shape, 0, dtype)
        start = 0
        for buffer in buffers:
            offset = start * joined.stride[axis]
            copy_elements(
                buffer.data, buffer.offset, buffer.stride, joined.data, offset, joined.stride, buffer.shape
            )
            start += buffer.shape[axis]
        return joined

    # ---------------------------------------------------------------- one operand

    def _unary(self, function: Callable[[float], float], safe: Callable[[float], float]) -> PythonBuffer:
        values = self.values()
        try:
            return self.of(list(map(function, values)), self.shape, self.dtype)
        except (OverflowError, ValueError):
            return self.of(list(map(safe, values)), self.shape, self.dtype)

    def _neg(self) -> PythonBuffer:
        return self.of(list(map(operator.neg, self.values())), self.shape, self.dtype)

    def _exp(self) -> PythonBuffer:
        return self._unary(math.exp, _safely(math.exp))

    def _log(self) -> PythonBuffer:
        return self._unary(math.log, _safely(math.log, at_zero=-INFINITY))

    def _sqrt(self) -> PythonBuffer:
        return self._unary(math.sqrt, _safely(math.sqrt))

    def _tanh(self) -> PythonBuffer:
        return self._unary(math.tanh, math.tanh)

    def _sin(self) -> PythonBuffer:
        return self._unary(math.sin, _safely(math.sin))

    def _cos(self) -> PythonBuffer:
        return self._unary(math.cos, _safely(math.cos))

    # ---------------------------------------------------------------- two operands

    def _broadcast(self, shape: Shape) -> Iterable[Any]:
        """The elements of this Buffer broadcast to `shape`; endless where there is only one."""
        if self.shape != shape and numel(self.shape) == 1 and numel(shape) != 1:
            return repeat(self.data[self.offset])
        return self._expand(shape).values()

    def _binary(
        self, other: PythonBuffer, function: Callable[[Any, Any], Any], dtype: DType | None = None
    ) -> PythonBuffer:
        shape = self.shape if self.shape == other.shape else broadcast_shapes(self.shape, other.shape)
        first, second = self._broadcast(shape), other._broadcast(shape)
        return self.of(list(map(function, first, second)) if numel(shape) else (), shape, dtype or self.dtype)

    def _add(self, other: PythonBuffer) -> PythonBuffer:
        return self._binary(other, operator.or_ if self.dtype.kind == "b" else operator.add)

    def _sub(self, other: PythonBuffer) -> PythonBuffer:
        return self._binary(other, operator.sub)

    def _mul(self, other: PythonBuffer) -> PythonBuffer:
        return self._binary(other, operator.mul)

    def _div(self, other: PythonBuffer) -> PythonBuffer:
        try:
            return self._binary(other, operator.truediv)
        except ZeroDivisionError:
            return self._binary(other, _safe_divide)

    def _pow(self, other: PythonBuffer) -> PythonBuffer:
        if self.dtype.kind == "i":
            return self._binary(other, operator.pow)
        if other.shape == () and other.data[other.offset] == 2:
            return self._mul(self)
        try:
            return self._binary(other, math.pow)
        except (OverflowError, ValueError):
            return self._binary(other, _safe_power)

    def _maximum(self, other: PythonBuffer) -> PythonBuffer:
        shape = broadcast_shapes(self.shape, other.shape)
        pairs = zip(self._broadcast(shape), other._broadcast(shape), strict=False)
        # A != a: NaN wins
        return self.of([a if a >= b or a != a else b for a, b in pairs], shape, self.dtype)

    def _equal(self, other: PythonBuffer) -> PythonBuffer:
        return self._binary(other, operator.eq, DType.bool)

    def _less(self, other: PythonBuffer) -> PythonBuffer:
        return self._binary(other, operator.lt, DType.bool)

    def _where(self, first: PythonBuffer, second: PythonBuffer) -> PythonBuffer:
        shape = broadcast_shapes(self.shape, first.shape, second.shape)
        columns = (self._broadcast(shape), first._broadcast(shape), second._broadcast(shape))
        return self.of([a if c else b for c, a, b in zip(*columns, strict=False)], shape, first.dtype)

    # ---------------------------------------------------------------- reductions

    def _groups(self, axes: Shape) -> list[Any]:
        """The elements as one list for each element of the result of a reduction over `axes`."""
        kept = tuple(axis for axis in range(self.ndim) if axis not in axes)
        size = numel([self.shape[axis] for axis in axes])
        if axes and kept and axes[-1] < kept[0] and is_contiguous(self.shape, self.stride):
            flat, width = self._flat(), numel([self.shape[axis] for axis in kept])
            # Leading axes: every width-th element, as one slice
            return [flat[i::width] for i in range(width)]
        values = self._permute(kept + axes).values()
        return chunks(values, size) if size else [()] * numel([self.shape[axis] for axis in kept])

    def _sum(self, axes: Shape) -> PythonBuffer:
        shape = reduced_shape(self.shape, axes)
        zero = 0.0 if self.dtype.kind == "f" else 0
        return self.of([sum(group, zero) for group in self._groups(axes)], shape, self.dtype)

    def _max(self, axes: Shape) -> PythonBuffer:
        shape = reduced_shape(self.shape, axes)
        # A sum is NaN where an element is, or where infinities of both signs are.
        result = [
            max(group) if (t := sum(group)) == t or all(x == x for x in group) else NAN
            for group in self._groups(axes)
        ]
        return self.of(result, shape, self.dtype)

    def _argmax(self, axis: int) -> PythonBuffer:
        result = []
        for group in self._groups((axis,)):
            group = list(group)
            bad = next((i for i, x in enumerate(group) if x != x), None) if self.dtype.kind == "f" else None
            result.append(group.index(max(group)) if bad is None else bad)
        return self.of(result, reduced_shape(self.shape, (axis,)), DType.int64)

    # ---------------------------------------------------------------- products and indices

    def _matmul(self, other: PythonBuffer, shape: Shape) -> PythonBuffer:
        batch, (height, depth), width = shape[:-2], self.shape[-2:], other.shape[-1]
        if 0 in shape or depth == 0:
            return self._full(shape, 0, self.dtype)
        rows_of_a = self._expand((*batch, height, depth)).rows()
        other = other._expand((*batch, depth, width))
        exact, single = self.dtype.kind != "f", self.dtype is DType.float32
        pairs = zip(chunks(rows_of_a, height), chunks(other.transpose(-1, -2).rows(), width), strict=True)
        if exact:
            rows = ([sum(map(operator.mul, x, y)) for y in b] for a, b in pairs for x in a)
            return self.of(list(map(self.dtype.convert, chain.from_iterable(rows))), shape, self.dtype)
        return self.of_rows(
            chain.from_iterable(product_transposed(a, b, single) for a, b in pairs), shape, self.dtype
        )

    def _take(self, indices: PythonBuffer) -> PythonBuffer:
        width = numel(self.shape[1:])
        flat, taken = self._flat(), array(self.dtype.typecode)
        for i in indices._flat():
            taken += flat[i * width : (i + 1) * width]
        return self._from_array(taken, indices.shape + self.shape[1:], self.dtype)

    def _scatter_add(self, indices: PythonBuffer, values: PythonBuffer) -> None:
        width = numel(self.shape[1:])
        sums: dict[int, Any] = {}  # one running total in doubles for each index, rounded once
        for i, row in zip(indices._flat(), chunks(values.values(), width) if width else (), strict=False):
            sums[i] = list(map(operator.add, sums[i], row)) if i in sums else row
        for i, row in sums.items():
            target = self._slice((i, *(slice(0, size, 1) for size in self.shape[1:])))
            target._assign(self.of(list(map(operator.add, target.values(), row)), target.shape, self.dtype))
