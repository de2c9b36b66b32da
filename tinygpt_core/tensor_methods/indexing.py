"""Elements by index: `x[…]` with all that NumPy takes, gather, masks, and positions.

An index is a tuple of entries, one for each axis: an int drops it, a slice shortens it, `None` puts in an
axis of size 1, `...` stands for all axes not named, an array of ints takes these places, and an array of
bools, a mask, stands for as many axes as it has and takes the places where it holds. Several arrays
broadcast: x[rows, columns] takes an element for each pair. The axes of the arrays stand where they stood, or
in front where something else stands between two of them.

Source: NumPy's advanced indexing, https://numpy.org/doc/stable/user/basics.indexing.html
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import index as as_index
from types import EllipsisType
from typing import Any, Self

from ..buffer import functions
from ..buffer.base import Buffer
from ..dtype import DType, check_dtype, promote
from ..operations import Cast, Operation, Permute, Reshape, Slice, Where
from ..shape import Shape, check_broadcast, check_int, inverse_permutation, numel
from ..shape_errors import ShapeError
from .base import TensorMethods

# ---------------------------------------------------------------- operations


def _added_at(positions: Buffer, grad: Buffer, count: int) -> Buffer:
    """Returns zeros (count, …) to which the rows of g are added at positions."""
    total = type(grad).zeros((count, *grad.shape[positions.ndim :]), grad.dtype)
    return total.scatter_add(positions, grad)


class Gather(Operation):
    """y[i, j, k] = x[i, index[i, j, k], k], for axis 1 of three; dL/dx adds g up where y came from.

    Raises:
        TypeError: indices that are no integers.
        IndexError: an index outside the axis.
        ValueError: an axis that is not there; an index with other axes, or with one longer than x's.
    """

    def forward(self, x: Buffer, index: Buffer, axis: int) -> Buffer:
        self.shape = x.shape
        self.positions = functions.gather_positions(x, index, axis)
        return x.reshape((x.numel,)).take(self.positions)

    def backward(self, grad: Buffer) -> Any:
        return lambda: _added_at(self.positions, grad, numel(self.shape)).reshape(self.shape), None


class AdvancedIndex(Operation):
    """y = the elements of x that indices name on some axes, whose axes come first; dL/dx adds g up there.

    Raises:
        TypeError: indices that are no integers.
        IndexError: an index outside its axis.
        ValueError: indices that do not broadcast.
    """

    def forward(self, x: Buffer, *indices: Buffer, axes: Shape) -> Buffer:
        for index in indices:
            x.check_backend(index)
        self.order = (*axes, *(axis for axis in range(x.ndim) if axis not in axes))
        self.shape = tuple(x.shape[axis] for axis in self.order)
        self.positions = functions.flat_positions(self.shape, indices)
        rest = self.shape[len(axes) :]
        self.count = numel(self.shape[: len(axes)])
        return x.permute(self.order).reshape((self.count, *rest)).take(self.positions)

    def backward(self, grad: Buffer) -> Any:
        def of_x() -> Buffer:
            total = _added_at(self.positions, grad, self.count).reshape(self.shape)
            return total.permute(inverse_permutation(self.order))

        return (of_x, *[None] * (len(self.needs_input_grad) - 1))


# ---------------------------------------------------------------- what an index means


def _spread(entries: list[Any], sizes: Sequence[int]) -> Shape:
    """Returns the sizes of the axes that entries make, with a 1 for each None among them."""
    rest = iter(sizes)
    return tuple(1 if entry is None else next(rest) for entry in entries)


def _is_basic(index: Any) -> bool:
    """Whether an index is made of ints, slices and `...` alone, so that the result is a view."""
    if isinstance(index, tuple):
        return all(isinstance(entry, (int, slice, EllipsisType)) for entry in index)
    return isinstance(index, (int, slice, EllipsisType))


_Read = tuple[tuple[Any, ...], list[tuple[int, Buffer]], list[Any]]


def _read(index: Any, kind: type[Buffer], shape: Shape) -> _Read:
    """Returns what an index says about an array of `shape`.

    Returns:
        A slice for each axis, or an int where there are no arrays; for each axis with an array, the axis and
        integers; and None, a slice or "array" in the order in which they make axes of the result.

    Raises:
        TypeError: an entry that is none of those the module names. IndexError: a mask of another shape, more
        entries than axes, more than one `...`, or an int outside its axis.
    """
    listed = [_entry(entry, kind) for entry in (index if isinstance(index, tuple) else (index,))]
    named = sum(_axes_of(entry) for entry in listed)
    if sum(entry is Ellipsis for entry in listed) > 1:
        raise IndexError(f"index {index!r} has more than one ellipsis")
    if named > len(shape):
        raise IndexError(f"an index for {named} axes does not fit an array of shape {shape}")
    if Ellipsis not in [entry for entry in listed if not isinstance(entry, Buffer)]:
        listed.append(Ellipsis)
    at = next(i for i, entry in enumerate(listed) if entry is Ellipsis)
    listed[at : at + 1] = [slice(None)] * (len(shape) - named)
    has_arrays = any(isinstance(entry, Buffer) for entry in listed)

    slices: list[Any] = []
    arrays: list[tuple[int, Buffer]] = []
    entries: list[Any] = []
    for entry in listed:
        axis = len(slices)
        if entry is None or isinstance(entry, slice):
            entries.append(entry)
            slices += [] if entry is None else [entry]
        elif isinstance(entry, int) and not has_arrays:
            slices.append(entry)
        else:
            found = [kind(entry, DType.int64)] if isinstance(entry, int) else _places(entry, axis, shape)
            arrays += [(axis + i, places) for i, places in enumerate(found)]
            slices += [slice(None)] * len(found)
            entries.append("array")
    return tuple(slices), arrays, entries


def _entry(entry: Any, kind: type[Buffer]) -> Any:
    """Returns an entry of an index as None, `...`, a slice, an int, or a Buffer of ints or bools."""
    if entry is None or entry is Ellipsis or isinstance(entry, slice):
        return entry
    if isinstance(entry, TensorMethods):
        entry = entry.buffer
    elif not isinstance(entry, Buffer):
        if isinstance(entry, bool):
            raise IndexError("index True or False picks nothing: a mask has axes, and None puts one in")
        try:
            return as_index(entry)
        except TypeError:
            pass
        try:
            entry = kind(list(entry) if isinstance(entry, range) else entry)
        except (TypeError, ValueError) as problem:
            raise TypeError(
                f"index entry {entry!r} is no int, slice, None, `...` or array of ints or bools: {problem}"
            ) from None
        if entry.numel == 0 and entry.dtype.kind == "f":
            entry = entry.cast(DType.int64)  # an empty list
    if entry.dtype.kind == "f":
        raise TypeError(f"indices have an integer dtype, or bool for a mask, not {entry.dtype.name}")
    if entry.dtype.kind == "b" and not entry.ndim:
        raise IndexError("a mask has axes, and this bool has none: use where")
    return entry


def _axes_of(entry: Any) -> int:
    """Returns how many axes of the array an entry is for."""
    if entry is None or entry is Ellipsis:
        return 0
    return entry.ndim if isinstance(entry, Buffer) and entry.dtype.kind == "b" else 1


def _places(entry: Buffer, axis: int, shape: Shape) -> list[Buffer]:
    """Returns integers for each axis that an array is for: itself, or where a mask holds."""
    if entry.dtype.kind != "b":
        return [entry]
    covered = shape[axis : axis + entry.ndim]
    if entry.shape != covered:
        raise IndexError(f"a mask of shape {entry.shape} does not fit shape {shape} from axis {axis} on")
    return list(functions.nonzero(entry))


class Indexing(TensorMethods):
    """The methods of Tensor that choose elements by where they stand, beside take."""

    __slots__ = ()

    def __getitem__(self, index: Any) -> Self:
        """Returns a view for ints, slices, None and `...`; a copy for masks and arrays of positions.

        Gradients of elements that are taken more than once add up.

        Raises:
            TypeError: an entry that is none of these.
            IndexError: a position outside its axis, a mask of another shape, or too many entries.
            ValueError: arrays that do not broadcast.
        """
        if _is_basic(index):
            return self._operate(Slice, index=index)
        slices, arrays, entries = _read(index, type(self.buffer), self.shape)
        sliced = self if all(s == slice(None) for s in slices) else self._operate(Slice, index=slices)
        if not arrays:
            return sliced._operate(Reshape, shape=_spread(entries, sliced.shape))
        positions = [self._without_record(places) for _, places in arrays]
        taken = sliced._operate(AdvancedIndex, *positions, axes=tuple(axis for axis, _ in arrays))
        return taken._in_order_of(entries)

    def _in_order_of(self, entries: list[Any]) -> Self:
        """Returns what arrays took, whose axes come first, with these where the arrays stood, and the axes
        of size 1 that None puts in.
        """
        at = [i for i, entry in enumerate(entries) if entry == "array"]
        first = at[0] if at[-1] - at[0] < len(at) else 0  # something stands between them: in front
        others = [entry for entry in entries if entry != "array"]
        count = self.ndim - sum(entry is not None for entry in others)  # axes of the arrays
        before = sum(entry is not None for entry in others[:first])
        rest = range(count, self.ndim)
        moved = (
            self._operate(Permute, axes=(*rest[:before], *range(count), *rest[before:])) if before else self
        )
        if None not in others:
            return moved
        places, sizes = self.shape[:count], _spread(others, self.shape[count:])
        return moved._operate(Reshape, shape=(*sizes[:first], *places, *sizes[first:]))

    def _assign_at(self, index: Any, value: Any) -> None:
        """Writes a Buffer, a number or nested lists, broadcast and cast, to what an index selects; of several
        for one place the last.
        """
        buffer, kind = self.buffer, type(self.buffer)
        if _is_basic(index):
            buffer[index] = value
            return
        numbers = self._without_record(kind.arange(buffer.numel, dtype=DType.int64).reshape(buffer.shape))
        positions = numbers[index].buffer
        source = value if isinstance(value, Buffer) else kind(value, buffer.dtype)
        buffer.check_backend(source)
        values = source.as_dtype(buffer.dtype).expand(positions.shape).reshape((positions.numel,))
        last = {position: i for i, position in enumerate(positions.to_array())}
        if last:
            # Elements are moved, not added to zeros, which would make 0 of -0: those there, then the new ones
            both = kind.concatenate([buffer.reshape((buffer.numel,)), values])
            new = [buffer.numel + i - position for position, i in last.items()]
            places = kind.arange(buffer.numel, dtype=DType.int64)
            places.scatter_add(kind(list(last), DType.int64), kind(new, DType.int64))
            buffer.assign(both.take(places).reshape(buffer.shape))

    def gather(self, axis: int, index: Any) -> Self:
        """Returns an element for each place of an integer `index`, which says where it stands along `axis`.

        y[i, j] = x[i, index[i, j]] for axis 1 of two. The index has as many axes, none but `axis` longer.

        Raises:
            TypeError: indices that are no integers.
            IndexError: an index outside the axis.
            ValueError: an axis that is not there; an index of a shape that does not fit.
        """
        if not isinstance(index, TensorMethods):
            index = self._without_record(type(self.buffer)(index))
        return self._operate(Gather, index, axis=axis)

    def masked_fill(self, mask: Any, value: Any) -> Self:
        """Returns a copy of the same dtype with `value` where the bool mask holds; both broadcast to it.

        Args:
            mask: a bool Tensor.
            value: a number or a Tensor, which is cast.

        Raises:
            TypeError: a mask that is no bool Tensor; a value that is none of these, or a float for integers,
                or a number for bools.
            ValueError: a mask or a value that does not broadcast to this shape.
        """
        if not isinstance(mask, TensorMethods) or mask.dtype.kind != "b":
            found = mask.dtype.name if isinstance(mask, TensorMethods) else type(mask).__name__
            raise TypeError(f"a mask is a Tensor of dtype bool, not {found}")
        value = self._beside(value, "masked_fill")
        for what, shape in (("mask", mask.shape), ("value", value.shape)):
            if check_broadcast("masked_fill", self.shape, shape) != self.shape:
                raise ShapeError(f"masked_fill: a {what} of shape {shape} does not broadcast to {self.shape}")
        if promote(self.dtype, value.dtype).kind != self.dtype.kind:
            raise TypeError(
                f"masked_fill: {value.dtype.name} does not go into {self.dtype.name}: cast() one of the two"
            )
        if value.dtype is not self.dtype:
            value = value._operate(Cast, dtype=self.dtype)
        filled: Any = mask._operate(Where, value, self)
        return filled

    def nonzero(self) -> Self:
        """Returns the int64 positions (count, axes) of the elements that are not 0, in C order.

        Raises:
            ValueError: there are no axes.
        """
        columns = functions.nonzero(self.buffer)
        flat = type(columns[0]).concatenate([column.reshape((column.numel, 1)) for column in columns], 1)
        return self._without_record(flat)

    def one_hot(self, num_classes: int | None = None, dtype: DType = DType.int64) -> Self:
        """Returns, for integers of any shape, an axis more with 1 at the class that each names, else 0.

        Without `num_classes` there are as many as the largest needs.

        Raises:
            TypeError: elements that are no integers, a number of classes that is no int, or a dtype that is
                none.
            ValueError: a negative number of classes.
            IndexError: an element outside [0, num_classes).
        """
        if self.dtype.kind != "i":
            raise TypeError(f"one_hot takes integers, which name classes, not {self.dtype.name}")
        if num_classes is None:
            num_classes = self.buffer.max().item() + 1 if self.numel else 0
        elif check_int("a number of classes", num_classes) < 0:
            raise ValueError(f"one_hot has at least 0 classes, not {num_classes}")
        self.buffer.check_indices(num_classes)
        classes = type(self.buffer).arange(num_classes, dtype=self.dtype)
        return self._without_record(
            (self.buffer.reshape((*self.shape, 1)) == classes).as_dtype(check_dtype(dtype))
        )
