"""The same elements in other places: axes of size 1, parts, repetitions, and what is turned round.

All but `triu` are made of reshape, expand, slices and concatenation, and so are their derivatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Self

from ..buffer import functions
from ..buffer.base import Buffer
from ..operations import Concatenate, Expand, Mul, Operation, Permute, Reshape, Slice
from ..shape import check_int, normalize_axes, normalize_axis, numel, without_axes
from ..shape_errors import ShapeError
from .base import TensorMethods


class Triu(Operation):
    """y = x with zeros below a diagonal of its last two axes; so has dL/dx."""

    def forward(self, x: Buffer, diagonal: int = 0) -> Buffer:
        self.diagonal = diagonal
        return functions.triu(x, diagonal)

    def backward(self, grad: Buffer) -> Any:
        return functions.triu(grad, self.diagonal)


class Layout(TensorMethods):
    """The methods of Tensor that rearrange elements, beside reshape, expand, permute and tril."""

    __slots__ = ()

    @property
    def T(self) -> Self:
        """The transpose of a matrix (two axes); raises ValueError for another number of axes."""
        if self.ndim != 2:
            raise ShapeError(
                f"T is the transpose of a matrix, not of shape {self.shape}: use transpose or permute"
            )
        return self._operate(Permute, axes=(1, 0))

    def squeeze(self, axis: Any = None) -> Self:
        """Returns a view without the axes named, which have size 1: an int, a tuple, or None for all such.

        Raises:
            TypeError: an axis that is no int.
            ValueError: an axis that is not there, named twice, or of another size than 1.
        """
        if axis is None:
            gone = tuple(i for i, size in enumerate(self.shape) if size == 1)
        else:
            gone = normalize_axes(axis, self.ndim)
        for i in gone:
            if self.shape[i] != 1:
                raise ShapeError(
                    f"squeeze takes axes of size 1 away, and axis {i} of shape {self.shape} is none"
                )
        return self._operate(Reshape, shape=without_axes(self.shape, gone))

    def unsqueeze(self, axis: int) -> Self:
        """Returns a view with an axis of size 1 put in, which becomes axis `axis` of the result.

        Raises:
            TypeError: the axis is no int.
            ValueError: the result has no such axis.
        """
        axis = normalize_axis(axis, self.ndim + 1)
        return self._operate(Reshape, shape=(*self.shape[:axis], 1, *self.shape[axis:]))

    def flatten(self, start_axis: int = 0, end_axis: int = -1) -> Self:
        """Returns the elements with the axes from the first to the last named merged into one.

        Raises:
            TypeError: an axis that is no int.
            ValueError: an axis that is not there, or a last one before the first.
        """
        if not self.ndim:
            return self._operate(Reshape, shape=(1,))
        start, end = normalize_axis(start_axis, self.ndim), normalize_axis(end_axis, self.ndim)
        if end < start:
            raise ValueError(
                f"flatten merges axes from one to a later one, not from {start_axis} to {end_axis}"
            )
        merged = numel(self.shape[start : end + 1])
        return self._operate(Reshape, shape=(*self.shape[:start], merged, *self.shape[end + 1 :]))

    def flip(self, axes: Any = None) -> Self:
        """Returns a view in which the order along `axes` is turned round: an int, a tuple, or None for all.

        Raises:
            TypeError: an axis that is no int.
            ValueError: an axis that is not there, or named twice.
        """
        turned = normalize_axes(axes, self.ndim)
        return self._operate(
            Slice, index=tuple(slice(None, None, -1 if i in turned else 1) for i in range(self.ndim))
        )

    def roll(self, shifts: Any, axes: Any = None) -> Self:
        """Returns the elements moved on by `shifts` places along `axes`, from the end to the front.

        Both are an int or tuples of equal length. Without axes the flattened Tensor is rolled.

        Raises:
            TypeError: shifts or axes that are no ints.
            ValueError: an axis that is not there; not as many shifts as axes.
        """
        if axes is None:
            flat = self._operate(Reshape, shape=(self.numel,))
            return flat.roll(shifts, 0)._operate(Reshape, shape=self.shape)
        listed = axes if isinstance(axes, (tuple, list)) else (axes,)
        steps = shifts if isinstance(shifts, (tuple, list)) else (shifts,)
        if len(listed) != len(steps):
            raise ValueError(f"roll needs a shift for each axis, not shifts {shifts} for axes {axes}")
        result = self
        for axis, shift in zip(listed, steps, strict=True):
            result = result._rolled(check_int("a shift", shift), normalize_axis(axis, self.ndim))
        return result

    def _rolled(self, shift: int, axis: int) -> Self:
        size = self.shape[axis]
        if not size or not shift % size:
            return self._part(axis, 0, size)
        end, front = self._part(axis, size - shift % size, size), self._part(axis, 0, size - shift % size)
        return end._operate(Concatenate, front, axis=axis)

    def _part(self, axis: int, start: int, end: int) -> Self:
        return self._operate(Slice, index=(*(slice(None),) * axis, slice(start, end)))

    def split(self, sizes: Any, axis: int = 0) -> tuple[Self, ...]:
        """Returns views of parts along `axis`: of an int, parts of that size, the last perhaps smaller.

        Of a list, a part of each size, which add up to the axis.

        Raises:
            TypeError: an axis or a size that is no int.
            ValueError: an axis that is not there; a size of 0 for all, a negative one, or sizes that do not
                add up to the axis.
        """
        axis = normalize_axis(axis, self.ndim)
        whole = self.shape[axis]
        if isinstance(sizes, (tuple, list)):
            listed = [check_int("a size", size) for size in sizes]
            if sum(listed) != whole or min(listed, default=0) < 0:
                raise ShapeError(
                    f"split: sizes {tuple(sizes)} do not add up to axis {axis} of shape {self.shape}"
                )
        else:
            size = check_int("a size", sizes)
            if size <= 0:
                raise ValueError(f"split takes parts of at least one element, not of {size}")
            listed = [min(size, whole - start) for start in range(0, whole, size)] or [0]
        ends = accumulate(listed)
        return tuple(self._part(axis, end - size, end) for size, end in zip(listed, ends, strict=True))

    def chunk(self, chunks: int, axis: int = 0) -> tuple[Self, ...]:
        """Returns views of at most `chunks` equally long parts along `axis`; the last may be smaller.

        As in PyTorch there can be fewer: 5 elements in 4 chunks are 2, 2 and 1.

        Raises:
            TypeError: the axis or the number is no int.
            ValueError: the axis is not there, or the number is less than 1.
        """
        axis = normalize_axis(axis, self.ndim)
        if check_int("chunks", chunks) < 1:
            raise ValueError(f"chunk makes at least one part, not {chunks}")
        if not self.shape[axis]:
            return tuple(self._part(axis, 0, 0) for _ in range(chunks))
        return self.split(-(-self.shape[axis] // chunks), axis)

    def tile(self, repeats: Any) -> Self:
        """Returns the whole repeated along each axis, an int or a tuple; further numbers in front add axes.

        Raises:
            TypeError: repeats that are no ints.
            ValueError: a negative one.
        """
        listed = tuple(repeats) if isinstance(repeats, (tuple, list)) else (repeats,)
        counts = tuple(check_int("a number of repeats", count) for count in listed)
        if min(counts, default=0) < 0:
            raise ValueError(f"tile repeats at least 0 times, not {repeats}")
        counts = (1,) * (self.ndim - len(counts)) + counts
        shape = (1,) * (len(counts) - self.ndim) + self.shape
        pairs = list(zip(counts, shape, strict=True))
        apart = self._operate(Reshape, shape=[n for _, size in pairs for n in (1, size)])
        spread = apart._operate(Expand, shape=[n for pair in pairs for n in pair])
        return spread._operate(Reshape, shape=[count * size for count, size in pairs])

    def repeat(self, *repeats: Any) -> Self:
        """Returns the whole repeated along each axis, as PyTorch's repeat does: a `tile`.

        NumPy's repeat, of each element, is `repeat_interleave`.

        Raises:
            TypeError: repeats that are no ints.
            ValueError: fewer than there are axes, or a negative one.
        """
        listed = tuple(repeats[0]) if len(repeats) == 1 and isinstance(repeats[0], (tuple, list)) else repeats
        for count in listed:
            check_int("a number of repeats", count)
        if len(listed) < self.ndim:
            raise ValueError(
                f"repeat needs a number for each axis of shape {self.shape}, not {listed}: use tile"
            )
        return self.tile(listed)

    def repeat_interleave(self, repeats: int, axis: int | None = None) -> Self:
        """Returns each element repeated beside itself, along `axis`; of the flattened Tensor without one.

        Raises:
            TypeError: the axis or the number is no int.
            ValueError: the axis is not there, or the number is negative.
        """
        if check_int("a number of repeats", repeats) < 0:
            raise ValueError(f"repeat_interleave repeats at least 0 times, not {repeats}")
        if axis is None:
            return self._operate(Reshape, shape=(self.numel,)).repeat_interleave(repeats, 0)
        axis = normalize_axis(axis, self.ndim)
        size = self.shape[axis]
        front, rest = self.shape[:axis], self.shape[axis + 1 :]
        apart = self._operate(Reshape, shape=(*front, size, 1, *rest))
        spread = apart._operate(Expand, shape=(*front, size, repeats, *rest))
        return spread._operate(Reshape, shape=(*front, size * repeats, *rest))

    def triu(self, diagonal: int = 0) -> Self:
        """Returns a copy with zeros below a diagonal of the last two axes.

        Raises:
            ValueError: fewer than two axes.
        """
        return self._operate(Triu, diagonal=diagonal)

    def outer(self, other: Self) -> Self:
        """Returns the products of all pairs of elements of two vectors: (n,) and (m,) give (n, m).

        Raises:
            TypeError: the other is no Tensor.
            ValueError: one of them is no vector.
        """
        if not isinstance(other, TensorMethods):
            raise TypeError(f"outer needs a Tensor, not a {type(other).__name__}")
        if self.ndim != 1 or other.ndim != 1:
            raise ShapeError(f"outer multiplies two vectors, not shapes {self.shape} and {other.shape}")
        return self._operate(Reshape, shape=(self.numel, 1))._operate(Mul, other)

    @staticmethod
    def stack(tensors: Sequence[Any], axis: int = 0) -> Any:
        """Returns tensors of one shape joined along a new axis, which becomes axis `axis` of the result.

        Raises:
            ValueError: there are none, their shapes differ, or the result has no such axis.
            TypeError: the axis is no int, or something is no Tensor.
        """
        tensors = tuple(tensors)
        if not tensors:
            raise ValueError("stack needs at least one Tensor")
        for position, tensor in enumerate(tensors):
            if not isinstance(tensor, TensorMethods):
                raise TypeError(f"stack joins Tensors, not a {type(tensor).__name__} (at {position})")
            if tensor.shape != tensors[0].shape:
                raise ShapeError(
                    f"stack joins Tensors of one shape, and {position} is {tensor.shape}, "
                    f"not {tensors[0].shape}"
                )
        first, *others = (tensor.unsqueeze(axis) for tensor in tensors)
        return first._operate(Concatenate, *others, axis=axis)
