"""The smallest backend there can be: the MUST hooks and nothing else, each written in the plainest way.
Proof, and tutorial.

To write a backend of your own, copy this file and replace one hook after the other by something faster; run

    pytest -p tinygpt_spec.plugin --pyargs tinygpt_spec --backend yours

after each. A hook may trust its arguments: the public methods of `Buffer` have checked shapes, promoted
dtypes and normalized axes. Two things are less obvious than the rest:

- `_reshape`, `_permute`, `_expand` and `_slice` return *views*: they share `data` and `version` with the
  Buffer they come from.
- Floats follow IEEE 754: 1/0 is an infinity, log(-1) is NaN, where Python would raise.
"""

from __future__ import annotations

import math
import operator
from array import array
from collections.abc import Callable, Iterable
from typing import Any

from tinygpt_core import backends
from tinygpt_core.buffer import Buffer
from tinygpt_core.dtype import DType
from tinygpt_core.shape import (
    broadcast_shapes,
    contiguous_strides,
    expand_strides,
    numel,
    reduced_shape,
    reshape_strides,
    slice_strides,
)

Shape = tuple[int, ...]


class MinimalBuffer(Buffer):
    """One `array.array` seen through shape, stride and offset; every operation visits one element after the
    other.
    """

    __slots__ = ()
    backend = "minimal"

    @classmethod
    def _of(cls, values: Iterable[Any], shape: Shape, dtype: DType) -> MinimalBuffer:
        """A new Buffer of the given elements in C order. `array` rounds to float32; a number too large for it
        becomes an infinity, an integer wraps around.
        """
        if dtype.kind == "i":
            values = map(dtype.wrap, values)
        return cls._from_array(array(dtype.typecode, values), shape, dtype)

    def _view(self, shape: Shape, stride: Shape, offset: int) -> MinimalBuffer:
        view = object.__new__(type(self))
        view.data, view.dtype, view.version = self.data, self.dtype, self.version
        view.shape, view.stride, view.offset = shape, stride, offset
        return view

    def _positions(self) -> list[int]:
        """Where the elements lie in `data`, in C order."""
        positions = [self.offset]
        for size, step in zip(self.shape, self.stride, strict=True):
            positions = [position + i * step for position in positions for i in range(size)]
        return positions

    def _values(self) -> list[Any]:
        return [self.data[position] for position in self._positions()]

    def _rows(self, axes: int) -> list[list[Any]]:
        """The elements, cut into rows that hold the last `axes` axes each."""
        values, length = self._values(), numel(self.shape[self.ndim - axes :])
        return [values[i * length : (i + 1) * length] for i in range(numel(self.shape[: self.ndim - axes]))]

    # ---------------------------------------------------------------- creation

    @classmethod
    def _from_array(cls, flat: array[Any], shape: Shape, dtype: DType) -> MinimalBuffer:
        buffer = object.__new__(cls)
        buffer.data, buffer.dtype, buffer.version = flat, dtype, [0]
        buffer.shape, buffer.stride, buffer.offset = shape, contiguous_strides(shape), 0
        return buffer

    def _to_array(self) -> array[Any]:
        return array(self.dtype.typecode, self._values())

    @classmethod
    def _full(cls, shape: Shape, value: Any, dtype: DType) -> MinimalBuffer:
        return cls._of([value] * numel(shape), shape, dtype)

    @classmethod
    def _arange(cls, start: Any, step: Any, count: int, dtype: DType) -> MinimalBuffer:
        return cls._of([dtype.convert(start + i * step) for i in range(count)], (count,), dtype)

    def _cast(self, dtype: DType) -> MinimalBuffer:
        flat = dtype.pack(list(map(dtype.convert, self._values())))  # raises where one does not fit
        return self._from_array(flat, self.shape, dtype)

    def _copy(self) -> MinimalBuffer:
        return self._of(self._values(), self.shape, self.dtype)

    # ---------------------------------------------------------------- layout

    def _reshape(self, shape: Shape) -> MinimalBuffer:
        stride = reshape_strides(self.shape, self.stride, shape)
        return self._copy()._reshape(shape) if stride is None else self._view(shape, stride, self.offset)

    def _permute(self, axes: Shape) -> MinimalBuffer:
        return self._view(
            tuple(self.shape[a] for a in axes), tuple(self.stride[a] for a in axes), self.offset
        )

    def _expand(self, shape: Shape) -> MinimalBuffer:
        return self._view(shape, expand_strides(self.shape, self.stride, shape), self.offset)

    def _slice(self, index: Any) -> MinimalBuffer:
        shape, stride, distance = slice_strides(self.shape, self.stride, index)
        return self._view(shape, stride, self.offset + distance)

    def _assign(self, value: Any) -> None:
        # All elements are read before the first is written: `value` may be a view of this storage.
        for position, element in zip(self._positions(), value._values(), strict=True):
            self.data[position] = element

    @classmethod
    def _concatenate(cls, buffers: Any, axis: int, shape: Shape, dtype: DType) -> MinimalBuffer:
        result, start = cls._full(shape, 0, dtype), 0
        for buffer in buffers:
            stop = start + buffer.shape[axis]
            part = [slice(0, size, 1) for size in shape]
            part[axis] = slice(start, stop, 1)
            result._slice(tuple(part))._assign(buffer)
            start = stop
        return result

    # ---------------------------------------------------------------- elementwise

    def _map(self, function: Callable[[Any], Any]) -> MinimalBuffer:
        return self._of(map(function, self._values()), self.shape, self.dtype)

    def _zip(
        self, other: Any, function: Callable[[Any, Any], Any], dtype: DType | None = None
    ) -> MinimalBuffer:
        shape = broadcast_shapes(self.shape, other.shape)
        values = map(function, self._expand(shape)._values(), other._expand(shape)._values())
        return self._of(values, shape, dtype or self.dtype)

    def _neg(self) -> MinimalBuffer:
        return self._map(operator.neg)

    def _exp(self) -> MinimalBuffer:
        return self._map(_exp)

    def _log(self) -> MinimalBuffer:
        return self._map(lambda x: -math.inf if x == 0 else _defined(math.log, x))

    def _sqrt(self) -> MinimalBuffer:
        return self._map(lambda x: _defined(math.sqrt, x))

    def _tanh(self) -> MinimalBuffer:
        return self._map(math.tanh)

    def _sin(self) -> MinimalBuffer:
        return self._map(lambda x: _defined(math.sin, x))

    def _cos(self) -> MinimalBuffer:
        return self._map(lambda x: _defined(math.cos, x))

    def _add(self, other: Any) -> MinimalBuffer:
        return self._zip(other, operator.or_ if self.dtype is DType.bool else operator.add)

    def _sub(self, other: Any) -> MinimalBuffer:
        return self._zip(other, operator.sub)

    def _mul(self, other: Any) -> MinimalBuffer:
        return self._zip(other, operator.mul)

    def _div(self, other: Any) -> MinimalBuffer:
        return self._zip(other, _divide)

    def _pow(self, other: Any) -> MinimalBuffer:
        if self.dtype.is_floating:
            return self._zip(other, _power)
        # Powers wrap around, so that none need be computed that is larger
        return self._zip(other, lambda base, exponent: pow(base, exponent, 1 << 8 * self.dtype.itemsize))

    def _maximum(self, other: Any) -> MinimalBuffer:
        return self._zip(other, _larger)

    def _equal(self, other: Any) -> MinimalBuffer:
        return self._zip(other, operator.eq, DType.bool)

    def _less(self, other: Any) -> MinimalBuffer:
        return self._zip(other, operator.lt, DType.bool)

    def _where(self, first: Any, second: Any) -> MinimalBuffer:
        shape = broadcast_shapes(self.shape, first.shape, second.shape)
        chosen = zip(
            self._expand(shape)._values(),
            first._expand(shape)._values(),
            second._expand(shape)._values(),
            strict=True,
        )
        return self._of([a if condition else b for condition, a, b in chosen], shape, first.dtype)

    # ---------------------------------------------------------------- reductions, products, indices

    def _reduce(self, axes: Shape, function: Callable[[list[Any]], Any], dtype: DType) -> MinimalBuffer:
        kept = [axis for axis in range(self.ndim) if axis not in axes]
        rows = self._permute((*kept, *axes))._rows(len(axes))
        return self._of(map(function, rows), reduced_shape(self.shape, axes), dtype)

    def _sum(self, axes: Shape) -> MinimalBuffer:
        return self._reduce(axes, sum, self.dtype)

    def _max(self, axes: Shape) -> MinimalBuffer:
        return self._reduce(axes, _largest, self.dtype)

    def _argmax(self, axis: int) -> MinimalBuffer:
        # A NaN equals nothing, not even itself, so the first element that is not below the largest is the
        # first NaN if there is one.
        return self._reduce((axis,), lambda row: _first(row, _largest(row)), DType.int64)

    def _matmul(self, other: Any, shape: Shape) -> MinimalBuffer:
        batch, (n, m), k = shape[:-2], shape[-2:], self.shape[-1]
        turned = other._permute((*range(other.ndim - 2), other.ndim - 1, other.ndim - 2))
        firsts, seconds = self._expand((*batch, n, k))._rows(1), turned._expand((*batch, m, k))._rows(1)
        values = [
            sum(map(operator.mul, row, column))
            for b in range(numel(batch))
            for row in firsts[b * n : (b + 1) * n]
            for column in seconds[b * m : (b + 1) * m]
        ]
        return self._of(map(self.dtype.convert, values), shape, self.dtype)

    def _take(self, indices: Any) -> MinimalBuffer:
        rows = self._rows(self.ndim - 1)
        return self._of(
            [x for index in indices._values() for x in rows[index]],
            indices.shape + self.shape[1:],
            self.dtype,
        )

    def _scatter_add(self, indices: Any, values: Any) -> None:
        rest = tuple(slice(0, size, 1) for size in self.shape[1:])
        totals: dict[int, Any] = {}  # in doubles; rounded once, and not by every row that is added
        for index, row in zip(indices._values(), values._rows(self.ndim - 1), strict=True):
            for position, element in zip(self._slice((index, *rest))._positions(), row, strict=True):
                totals[position] = totals.get(position, self.data[position]) + element
        for position, total in totals.items():
            self.data[position] = self.dtype.wrap(total) if self.dtype.kind == "i" else total


def _defined(function: Callable[[float], float], x: float) -> float:
    """function(x), or NaN outside its domain."""
    try:
        return function(x)
    except ValueError:
        return math.nan


def _exp(x: float) -> float:
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


def _divide(x: float, y: float) -> float:
    if y == 0:
        return math.nan if x == 0 or x != x else math.copysign(math.inf, x) * math.copysign(1.0, y)
    return x / y


def _power(x: float, y: float) -> float:
    try:
        return math.pow(x, y)
    except OverflowError:
        return -math.inf if x < 0 and y % 2 == 1 else math.inf
    except ValueError:  # a negative base and no integer exponent, or zero to a negative power
        if x != 0:
            return math.nan
        return math.copysign(math.inf, x) if y % 2 == 1 else math.inf


def _larger(x: Any, y: Any) -> Any:
    if x == y:
        return x + y if x == 0 else x  # 0 is larger than -0
    return x if x > y or x != x else y


def _largest(row: list[Any]) -> Any:
    return next((x for x in row if x != x), None) if any(x != x for x in row) else max(row)


def _first(row: list[Any], largest: Any) -> int:
    return next(i for i, x in enumerate(row) if x == largest or x != x)


def register() -> None:
    """Makes the backend known as "minimal"."""
    backends.register(
        "minimal", lambda device: MinimalBuffer, description="the specification's example: MUST hooks only"
    )
