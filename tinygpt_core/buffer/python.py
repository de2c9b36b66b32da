"""The reference backend: every element in one `array.array`, every operation in pure Python.

What makes it fast enough to train a GPT is that nothing here computes the position of a single element. Views
are copied in whole slices along their longest axis (`shape.copy_plan`), and arithmetic runs through `map`
over whole lists, in C, with one rounding to the dtype at the end. Sums and products accumulate in doubles
whatever the dtype. Products of matrices are products of rows (`rows`).
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
from .rows import Row, chunks, dots

INFINITY, NAN = math.inf, math.nan


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
    source_span, target_span = length * source_step, length * target_step
    for relative_source, relative_target in starts:
        start = source_start + relative_source
        if source_step:
            end = start + source_span
            run = source[start : None if end < 0 else end : source_step]
        else:
            run = source[start : start + 1] * length
        start = target_start + relative_target
        end = start + target_span
        target[start : None if end < 0 else end : target_step] = run


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
        self.data = data
        self.shape = shape
        self.stride = stride
        self.offset = offset
        self.dtype = dtype
        self.version = version
        return self

    @classmethod
    def _from_array(cls, flat: array[Any], shape: Shape, dtype: DType) -> PythonBuffer:
        return cls._make(flat, shape, contiguous_strides(shape), 0, dtype, [0])

    @classmethod
    def of(cls, values: Sequence[Any], shape: Shape, dtype: DType) -> PythonBuffer:
        """Returns flat Python numbers, rounded (integers: wrapped around) to `dtype`, as a new Buffer."""
        return cls._make(dtype.pack_wrapped(values), shape, contiguous_strides(shape), 0, dtype, [0])

    @classmethod
    def of_rows(cls, rows: Iterable[Row], shape: Shape, dtype: DType) -> PythonBuffer:
        """Returns equally long rows of floats as a new Buffer."""
        return cls._from_array(dtype.pack_rows(rows), shape, dtype)

    def as_strided(self, shape: Shape, stride: Shape, offset: int) -> PythonBuffer:
        """Returns a view of the same storage under any shape, stride and offset; nothing is checked."""
        return self._make(self.data, shape, stride, offset, self.dtype, self.version)

    def flat(self) -> array[Any]:
        """Returns the elements in C order: perhaps the storage itself, so nobody may write to the result."""
        total = math.prod(self.shape)
        if is_contiguous(self.shape, self.stride):
            data: array[Any] = self.data
            return data if total == len(data) else data[self.offset : self.offset + total]
        flat = array(self.dtype.typecode, bytes(total * self.dtype.itemsize))
        copy_elements(
            self.data, self.offset, self.stride, flat, 0, contiguous_strides(self.shape), self.shape
        )
        return flat

    def values(self) -> list[Any]:
        """Returns the elements in C order as Python numbers (0 and 1 for bool)."""
        return self.flat().tolist()

    def rows(self, width: int | None = None) -> list[tuple[Any, ...]]:
        """Returns the elements as rows along the last axis, or in C order as rows of `width`."""
        if width is None:
            width = self.shape[-1]
            if not width:
                return [()] * numel(self.shape[:-1])
        return self.dtype.unpack_rows(self.flat(), width)

    def _to_array(self) -> array[Any]:
        return self.flat()[:]

    def write_values(self, values: Sequence[float]) -> None:
        """Writes floats in C order, rounded to the dtype, over all elements, as `assign` does a Buffer.

        Raises:
            ValueError: this Buffer is a broadcast view or a part of one.
        """
        if not is_contiguous(self.shape, self.stride):
            self.assign(self.of(values, self.shape, self.dtype))
            return
        self.check_writable()
        self.dtype.pack_into(self.data, self.offset, values)
        self.version[0] += 1

    # ---------------------------------------------------------------- making one

    @classmethod
    def _full(cls, shape: Shape, value: Scalar, dtype: DType) -> PythonBuffer:
        return cls._from_array(dtype.pack((value,)) * numel(shape), shape, dtype)

    @classmethod
    def _arange(cls, start: Scalar, step: Scalar, count: int, dtype: DType) -> PythonBuffer:
        return cls.of([dtype.convert(start + i * step) for i in range(count)], (count,), dtype)

    def _cast(self, dtype: DType) -> PythonBuffer:
        values = self.values()
        if not (dtype.kind == "f" or self.dtype.kind == "b" or dtype.kind == self.dtype.kind == "i"):
            values = list(map(dtype.convert, values))
        return self._from_array(dtype.pack(values), self.shape, dtype)  # which refuses what does not fit

    def _copy(self) -> PythonBuffer:
        return self._from_array(self._to_array(), self.shape, self.dtype)

    # ---------------------------------------------------------------- how it is seen

    def _reshape(self, shape: Shape) -> PythonBuffer:
        stride = reshape_strides(self.shape, self.stride, shape)
        if stride is None:
            return self._copy()._reshape(shape)
        return self.as_strided(shape, stride, self.offset)

    def _permute(self, axes: Shape) -> PythonBuffer:
        shape = tuple(self.shape[axis] for axis in axes)
        stride = tuple(self.stride[axis] for axis in axes)
        return self.as_strided(shape, stride, self.offset)

    def _expand(self, shape: Shape) -> PythonBuffer:
        if shape == self.shape:
            return self
        return self.as_strided(shape, expand_strides(self.shape, self.stride, shape), self.offset)

    def _slice(self, index: Index) -> PythonBuffer:
        shape, stride, distance = slice_strides(self.shape, self.stride, index)
        return self.as_strided(shape, stride, self.offset + distance)

    def _assign(self, value: PythonBuffer) -> None:
        if is_contiguous(self.shape, self.stride):
            self.data[self.offset : self.offset + numel(self.shape)] = value.flat()
            return
        # A copy of the value: it may be a view of this storage
        flat, stride = value._to_array(), contiguous_strides(self.shape)
        copy_elements(flat, 0, stride, self.data, self.offset, self.stride, self.shape)

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
        values = self.flat()
        try:
            return self.of(list(map(function, values)), self.shape, self.dtype)
        except (OverflowError, ValueError):
            return self.of(list(map(safe, values)), self.shape, self.dtype)

    def _neg(self) -> PythonBuffer:
        return self.of(list(map(operator.neg, self.flat())), self.shape, self.dtype)

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
        """Returns the elements of this Buffer broadcast to `shape`; without end where there is only one."""
        if self.shape != shape and numel(self.shape) == 1 and numel(shape) != 1:
            return repeat(self.data[self.offset])
        return self._expand(shape).flat()

    def _binary(
        self, other: PythonBuffer, function: Callable[[Any, Any], Any], dtype: DType | None = None
    ) -> PythonBuffer:
        shape = self.shape
        if shape == other.shape:
            values = list(map(function, self.flat(), other.flat()))
        else:
            shape = broadcast_shapes(shape, other.shape)
            first, second = self._broadcast(shape), other._broadcast(shape)
            values = list(map(function, first, second)) if numel(shape) else []
        return self.of(values, shape, dtype or self.dtype)

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
            modulus = 1 << (8 * self.dtype.itemsize)  # powers wrap around, so none need be larger
            return self._binary(other, lambda base, exponent: pow(base, exponent, modulus))
        if other.shape == () and other.data[other.offset] == 2:
            return self._mul(self)
        try:
            return self._binary(other, math.pow)
        except (OverflowError, ValueError):
            return self._binary(other, _safe_power)

    def _maximum(self, other: PythonBuffer) -> PythonBuffer:
        shape = broadcast_shapes(self.shape, other.shape)
        pairs = zip(self._broadcast(shape), other._broadcast(shape), strict=False)
        # a != a: NaN wins. Of zeros, 0 is larger than -0, and only the sum of two -0 is -0
        larger = [a if a > b or a != a else b or (a + b if a == b else b) for a, b in pairs]
        return self.of(larger, shape, self.dtype)

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
        """Returns a list of elements for each element of the result of a reduction over `axes`."""
        kept = tuple([axis for axis in range(len(self.shape)) if axis not in axes])
        if not kept:
            return [self.flat()]
        size = numel([self.shape[axis] for axis in axes])
        if axes and axes[-1] < kept[0] and is_contiguous(self.shape, self.stride):
            flat, width = self.flat(), numel([self.shape[axis] for axis in kept])
            # Leading axes: every width-th element, as one slice
            return [flat[i::width] for i in range(width)]
        groups = self._permute(kept + axes)
        return groups.rows(size) if size else [()] * numel([self.shape[axis] for axis in kept])

    def _sum(self, axes: Shape) -> PythonBuffer:
        shape = reduced_shape(self.shape, axes)
        zero = 0.0 if self.dtype.kind == "f" else 0
        return self.of([sum(group, zero) for group in self._groups(axes)], shape, self.dtype)

    def _sum_of_squares(self) -> float:
        if self.dtype.kind != "f":
            return super()._sum_of_squares()
        flat = self.flat()  # no list: a table may have millions of elements
        return sum(map(operator.mul, flat, flat), 0.0)  # Python's floats are doubles

    def _max(self, axes: Shape) -> PythonBuffer:
        shape = reduced_shape(self.shape, axes)
        # A sum is NaN where an element is, or where infinities of both signs are.
        result = []
        for group in self._groups(axes):
            total = sum(group)
            has_nan = total != total and any(x != x for x in group)
            result.append(NAN if has_nan else max(group))
        return self.of(result, shape, self.dtype)

    def _argmax(self, axis: int) -> PythonBuffer:
        result = []
        for group in self._groups((axis,)):
            group = list(group)
            nans = (i for i, x in enumerate(group) if x != x)
            first_nan = next(nans, None) if self.dtype.kind == "f" else None
            result.append(group.index(max(group)) if first_nan is None else first_nan)
        return self.of(result, reduced_shape(self.shape, (axis,)), DType.int64)

    # ---------------------------------------------------------------- products and indices

    def _matmul(self, other: PythonBuffer, shape: Shape) -> PythonBuffer:
        batch = shape[:-2]
        height, depth = self.shape[-2:]
        width = other.shape[-1]
        if 0 in shape or depth == 0:
            return self._full(shape, 0, self.dtype)
        rows = self._expand((*batch, height, depth)).rows()
        columns = other._expand((*batch, depth, width)).transpose(-1, -2).rows()
        pairs = zip(
            chunks(rows, height), chunks(columns, width), strict=True
        )  # one for each matrix of the batch
        if self.dtype.kind != "f":  # integers, exactly
            sums = [sum(map(operator.mul, row, column)) for a, b in pairs for row in a for column in b]
            return self.of(list(map(self.dtype.convert, sums)), shape, self.dtype)
        single = self.dtype is DType.float32
        products = chain.from_iterable([dots(a, b, single) for a, b in pairs])
        return self.of(list(products), shape, self.dtype)

    def _take(self, indices: PythonBuffer) -> PythonBuffer:
        width = numel(self.shape[1:])
        flat, taken = self.flat(), array(self.dtype.typecode)
        for i in indices.flat():
            taken += flat[i * width : (i + 1) * width]
        return self._from_array(taken, indices.shape + self.shape[1:], self.dtype)

    def _scatter_add(self, indices: PythonBuffer, values: PythonBuffer) -> None:
        width = numel(self.shape[1:])
        sums: dict[int, Any] = {}  # one running total in doubles for each index, rounded once
        for i, row in zip(indices.flat(), values.rows(width) if width else (), strict=False):
            sums[i] = list(map(operator.add, sums[i], row)) if i in sums else row
        if not is_contiguous(self.shape, self.stride):
            total = self._copy()
            total._scatter_add(indices, values)
            self._assign(total)
            return
        for i, row in sums.items():
            elements = slice(self.offset + i * width, self.offset + (i + 1) * width)
            self.data[elements] = self.dtype.pack_wrapped(list(map(operator.add, self.data[elements], row)))
