"""Floor 1: what can be said about shapes and strides without touching an element.

A strided array is one flat storage seen through three things: `shape` (how many elements each axis has),
`stride` (how far apart in the storage two neighbours along an axis lie, in elements) and `offset` (where the
first element lies):

    position(i_0, …, i_n) = offset + i_0 * stride_0 + … + i_n * stride_n

Everything that only rearranges positions (reshape, permute, expand, slice) is arithmetic on those three,
which is this module. What an error says about shapes that do not fit stands in `shape_errors`, once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from operator import index as as_index
from typing import Any

from . import shape_errors
from .shape_errors import Shape, ShapeError

Index = tuple["int | slice", ...]


def numel(shape: Sequence[int]) -> int:
    """Returns how many elements an array of `shape` has: the product of its axes, 1 for no axes."""
    return prod(shape)


def check_int(what: str, value: Any) -> int:
    """Returns an int; raises TypeError for what is none, saying `what` should be one."""
    try:
        return as_index(value)
    except TypeError:
        raise TypeError(f"{what} is an int, not {value!r}") from None


def check_shape(shape: Any) -> Shape:
    """Returns `shape`, an int or a sequence of ints, as a tuple; raises TypeError or ValueError else."""
    try:
        axes = tuple(map(as_index, shape)) if isinstance(shape, (tuple, list)) else (as_index(shape),)
    except TypeError:
        raise TypeError(f"a shape is an int or a tuple of ints, not {shape!r}") from None
    if any(size < 0 for size in axes):
        raise ValueError(f"a shape has no negative axes, but got {axes}")
    return axes


@lru_cache(maxsize=4096)
def contiguous_strides(shape: Shape) -> Shape:
    """Returns the strides of C order: the last axis has stride 1, each other steps over all behind it."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


@lru_cache(maxsize=4096)
def is_contiguous(shape: Shape, stride: Shape) -> bool:
    """Returns whether elements in C order lie one after the other.

    Axes of size 1 may have any stride. An empty array is contiguous.
    """
    if 0 in shape:
        return True
    expected = 1
    for size, step in zip(reversed(shape), reversed(stride), strict=True):
        if size != 1 and step != expected:
            return False
        expected *= size
    return True


@lru_cache(maxsize=4096)
def broadcast_shapes(*shapes: Shape) -> Shape:
    """Returns the shape that all `shapes` broadcast to.

    Aligned on their last axes, sizes must agree or be 1, or be missing.

    Raises:
        ShapeError: showing the shapes aligned and the axes that disagree.
    """
    return check_broadcast("broadcast", *shapes)


@lru_cache(maxsize=4096)
def check_broadcast(name: str, *shapes: Shape) -> Shape:
    """Returns what `broadcast_shapes` does, for an operation `name`; raises ShapeError, which names it."""
    depth = max(map(len, shapes), default=0)
    result = []
    for axis in range(-depth, 0):
        sizes = {shape[axis] for shape in shapes if len(shape) >= -axis} - {1}
        if len(sizes) > 1:
            raise ShapeError(shape_errors.broadcast(name, *shapes))
        result.append(sizes.pop() if sizes else 1)
    return tuple(result)


def normalize_axis(axis: Any, ndim: int) -> int:
    """Returns `axis` counted from the front.

    Raises:
        TypeError: it is no int.
        ValueError: it lies outside [-ndim, ndim).
    """
    try:
        position = as_index(axis)
    except TypeError:
        raise TypeError(f"an axis is an int, not {axis!r}") from None
    if not -ndim <= position < ndim:
        raise ValueError(f"axis {axis} is out of range for an array with {ndim} axes")
    return position % ndim


def normalize_axes(axes: Any, ndim: int) -> Shape:
    """Returns `axes` (an int, a sequence of ints, or None for all) sorted and counted from the front.

    Raises:
        TypeError: an axis that is no int.
        ValueError: one outside [-ndim, ndim), or named twice.
    """
    if axes is None:
        return tuple(range(ndim))
    listed = axes if isinstance(axes, (tuple, list)) else (axes,)
    found = sorted([normalize_axis(axis, ndim) for axis in listed])
    if len(set(found)) != len(found):
        raise ValueError(f"axes {axes} name one axis twice for an array with {ndim} axes")
    return tuple(found)


def reduced_shape(shape: Shape, axes: Shape) -> Shape:
    """Returns `shape` with the given axes of size 1: what a reduction that keeps its axes gives."""
    return tuple([1 if axis in axes else size for axis, size in enumerate(shape)])


def without_axes(shape: Shape, axes: Any) -> Shape:
    """Returns `shape` without `axes`: an int, a sequence of ints, or None for all.

    Raises:
        TypeError: an axis that is no int.
        ValueError: one outside [-ndim, ndim), or named twice.
    """
    gone = normalize_axes(axes, len(shape))
    return tuple(size for axis, size in enumerate(shape) if axis not in gone)


def refuse_empty(name: str, shape: Shape, axes: Shape) -> None:
    """Raises ValueError where a reduction of `shape` over `axes`, which has no value of nothing, has nothing
    to make an element of. A result without elements needs none.
    """
    if 0 in shape and numel(reduced_shape(shape, axes)):
        raise ValueError(f"{name} over the empty axes {axes} of shape {shape} has no value")


def permutation(axes: Any, ndim: int) -> Shape:
    """Returns `axes` as a permutation of all axes; raises TypeError or ValueError where it is none."""
    order = tuple(normalize_axis(axis, ndim) for axis in axes)
    if sorted(order) != list(range(ndim)):
        raise ValueError(f"axes {tuple(axes)} are not a permutation of the {ndim} axes of the array")
    return order


def inverse_permutation(axes: Sequence[int]) -> Shape:
    """Returns the permutation that undoes `axes`: x.permute(axes).permute(inverse_permutation(axes)) is x."""
    return tuple(sorted(range(len(axes)), key=axes.__getitem__))


def exchanged(axis1: int, axis2: int, ndim: int) -> Shape:
    """Returns the permutation of `ndim` axes that exchanges two of them.

    Raises:
        TypeError: an axis that is no int.
        ValueError: one outside [-ndim, ndim).
    """
    first = normalize_axis(axis1, ndim)
    second = normalize_axis(axis2, ndim)
    order = list(range(ndim))
    order[first], order[second] = second, first
    return tuple(order)


def reshaped(shape: Shape, new_shape: Any) -> Shape:
    """Returns `new_shape` with a -1 replaced by what is left.

    Raises:
        ShapeError: the numbers of elements differ.
    """
    listed = new_shape if isinstance(new_shape, (tuple, list)) else (new_shape,)
    wanted = tuple(map(as_index, listed))
    total = numel(shape)
    if wanted.count(-1) == 1:
        known = prod(size for size in wanted if size != -1)
        if known and total % known == 0:
            wanted = tuple(total // known if size == -1 else size for size in wanted)
    if any(size < 0 for size in wanted) or numel(wanted) != total:
        raise ShapeError(shape_errors.reshape(shape, new_shape))
    return wanted


@lru_cache(maxsize=4096)
def reshape_strides(shape: Shape, stride: Shape, new_shape: Shape) -> Shape | None:
    """Returns strides that show the same elements in the same order under `new_shape`, if there are any.

    Returns None where only a copy can have that shape. Walks both shapes from the back in groups of equal
    size: within a group the old axes must lie as one run.
    """
    if 0 in shape:
        return contiguous_strides(new_shape)
    old = [(size, step) for size, step in zip(shape, stride, strict=True) if size != 1]
    result = []
    run, step = 1, 1  # what is left of the current run of old axes, and the stride of its innermost element
    for size in reversed(new_shape):
        if size == 1:
            result.append(step)
            continue
        if run == 1:
            run, step = old.pop()
        while run % size and old and old[-1][1] == step * run:
            run *= old.pop()[0]
        if run % size:
            return None
        result.append(step)
        run //= size
        step *= size
    return tuple(reversed(result))


@lru_cache(maxsize=4096)
def expand_strides(shape: Shape, stride: Shape, new_shape: Shape) -> Shape:
    """Returns strides that show `shape` broadcast to `new_shape`: stretched and added axes get stride 0.

    Raises:
        ShapeError: `shape` does not broadcast to `new_shape`.
    """
    extra = len(new_shape) - len(shape)
    if extra < 0 or any(
        size not in (1, wanted) for size, wanted in zip(shape, new_shape[extra:], strict=True)
    ):
        raise ShapeError(shape_errors.expand("expand", shape, new_shape))
    kept = [
        step if size == wanted else 0
        for size, step, wanted in zip(shape, stride, new_shape[extra:], strict=True)
    ]
    return (*(0,) * extra, *kept)


def normalize_index(index: Any, shape: Shape) -> Index:
    """Returns `index` as one int, counted from the front, or one slice for each axis of `shape`.

    In `index`, `...` stands for all axes not named.

    Raises:
        IndexError: an int outside its axis, or more entries than axes.
        TypeError: an entry that is neither an int, a slice nor one `...`.
        ValueError: a slice with step 0.
    """
    entries = index if isinstance(index, tuple) else (index,)
    dots = [position for position, entry in enumerate(entries) if entry is Ellipsis]
    if len(dots) > 1:
        raise IndexError(f"index {index!r} has more than one ellipsis")
    missing = len(shape) - len(entries) + len(dots)
    if missing < 0:
        raise IndexError(
            f"index {index!r} has {len(entries) - len(dots)} entries for an array of shape {shape}"
        )
    at = dots[0] if dots else len(entries)
    entries = entries[:at] + (slice(None),) * missing + entries[at + len(dots) :]
    result: list[int | slice] = []
    for axis, (entry, size) in enumerate(zip(entries, shape, strict=True)):
        if isinstance(entry, slice):
            if entry.step == 0:
                raise ValueError(f"slice step is zero on axis {axis}")
            start, stop, step = entry.indices(size)
            count = len(range(start, stop, step))
            end = start + count * step
            result.append(slice(start, None if end < 0 else end, step) if count else slice(0, 0, 1))
            continue
        try:
            position = as_index(entry)
        except TypeError:
            advice = "take(indices, axis) picks by a list of ints, reshape adds an axis"
            raise TypeError(
                f"index entry {entry!r} on axis {axis} is neither an int nor a slice: {advice}"
            ) from None
        if isinstance(entry, bool) or not -size <= position < size:
            raise IndexError(
                f"index {entry!r} is out of range for axis {axis} of size {size} (shape {shape})"
            )
        result.append(position % size)
    return tuple(result)


def slice_strides(shape: Shape, stride: Shape, index: Index) -> tuple[Shape, Shape, int]:
    """Returns shape and strides of the view that a normalized index selects, and where its first element is.

    That is a distance from the first element of the whole. Ints drop axes.
    """
    new_shape: list[int] = []
    new_stride: list[int] = []
    distance = 0
    for entry, size, step in zip(index, shape, stride, strict=True):
        if isinstance(entry, slice):
            chosen = range(size)[entry]
            new_shape.append(len(chosen))
            new_stride.append(step * chosen.step)
            distance += step * chosen.start if chosen else 0
        else:
            distance += step * entry
    return tuple(new_shape), tuple(new_stride), distance


def concatenated_shape(shapes: Sequence[Shape], axis: int) -> Shape:
    """Returns the shape of arrays joined along `axis`; raises ShapeError for the first that does not fit."""
    first = shapes[0]
    before, after = first[:axis], first[axis + 1 :]
    for position, shape in enumerate(shapes):
        if len(shape) != len(first) or shape[:axis] != before or shape[axis + 1 :] != after:
            raise ShapeError(shape_errors.concatenate(first, shape, position, axis))
    return (*before, sum(shape[axis] for shape in shapes), *after)


@lru_cache(maxsize=4096)
def matmul_shape(first: Shape, second: Shape) -> Shape:
    """Returns the shape of a matrix product: (…, n, k) by (…, k, m) gives (…, n, m).

    The axes in front, the batch, broadcast.

    Raises:
        ShapeError: an operand without two axes, or inner sizes that differ.
    """
    try:
        if first[-1] == second[-2]:
            return (*broadcast_shapes(first[:-2], second[:-2]), first[-2], second[-1])
    except (IndexError, ShapeError):  # too few axes, or batches that do not broadcast
        pass
    raise ShapeError(shape_errors.matmul("matmul", first, second, least=2))


@lru_cache(maxsize=1024)
def copy_plan(
    shape: Shape, source: Shape, target: Shape
) -> tuple[int, int, int, tuple[tuple[int, int], ...]]:
    """Returns how to copy a strided array onto another with as few slices as possible.

    Neighbouring axes that lie as one run on both sides are merged. Then the longest axis becomes the run that
    one slice copies.

    Returns:
        (length, source step, target step, starts): for each (source start, target start), relative to the
        first elements, copy `length` elements at those steps.
    """
    axes: list[tuple[int, int, int]] = []
    for size, a, b in zip(shape, source, target, strict=True):
        if size == 1:
            continue
        if axes and axes[-1][1] == a * size and axes[-1][2] == b * size:
            axes[-1] = (axes[-1][0] * size, a, b)
        else:
            axes.append((size, a, b))
    if not axes:
        return 1, 1, 1, ((0, 0),)
    longest = max(range(len(axes)), key=lambda axis: axes[axis][0])
    length, source_step, target_step = axes.pop(longest)
    starts = [(0, 0)]
    for size, a, b in axes:
        starts = [(p + i * a, q + i * b) for p, q in starts for i in range(size)]
    return length, source_step, target_step, tuple(starts)
