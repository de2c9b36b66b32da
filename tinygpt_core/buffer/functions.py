"""Functions of Buffers, composed from what every Buffer can do, so that no backend has to provide them.

What rounds, what looks at signs and infinities, reductions beside sum and max, and elements by index. The
derivatives stand in `tensor_methods`, beside the methods of Tensor that call these.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..dtype import DType, check_dtype
from ..shape import (
    Shape,
    check_broadcast,
    check_int,
    check_shape,
    inverse_permutation,
    normalize_axes,
    normalize_axis,
    numel,
    reduced_shape,
    refuse_empty,
)
from ..shape_errors import ShapeError
from .base import Buffer

# ---------------------------------------------------------------- making one


def linspace(
    start: float, stop: float, count: int, dtype: DType = DType.float32, endpoint: bool = True
) -> Buffer:
    """Returns `count` elements along one axis, equally far apart, from start to stop, both included.

    x_i = start + i (stop - start) / (count - 1), and the last is stop itself; without `endpoint` they are
    divided by count, and stop would come next.

    Raises:
        ValueError: a negative count, or NaN or an infinity for an integer dtype.
        TypeError: a count that is no int, or a dtype that is none.
    """
    size = check_int("a number of elements", count)
    if size < 0:
        raise ValueError(f"linspace gives at least 0 elements, not {size}")
    width = (stop - start) / max(size - 1 if endpoint else size, 1)
    values = [start + i * width for i in range(size)]
    if size > 1 and endpoint:
        values[-1] = stop
    return Buffer([check_dtype(dtype).convert(value) for value in values], dtype)


def eye(rows: int, columns: int | None = None, dtype: DType = DType.float32, diagonal: int = 0) -> Buffer:
    """Returns a matrix (rows, columns), square without columns, with ones where column = row + diagonal.

    Raises:
        ValueError: a negative size.
        TypeError: a size that is no int, or a dtype that is none.
    """
    height, width = check_shape((rows, rows if columns is None else columns))
    down = Buffer.arange(diagonal, diagonal + height, dtype=DType.int64).reshape((height, 1))
    return (down == Buffer.arange(width, dtype=DType.int64)).as_dtype(check_dtype(dtype))


# ---------------------------------------------------------------- signs


def absolute(x: Buffer) -> Buffer:
    """Returns |x| of each element; of the least integer, which has no positive counterpart, it is itself.

    Raises:
        TypeError: x is bool.
    """
    return abs(x)


def sign(x: Buffer) -> Buffer:
    """Returns -1, 0 or 1 of each element, in the dtype of x; NaN of NaN, as in NumPy.

    Raises:
        TypeError: x is bool.
    """
    _refuse_bool("sign", x)
    signs = (x > 0).as_dtype(x.dtype) - (x < 0).as_dtype(x.dtype)
    return Buffer.where(x == x, signs, x) if x.dtype.kind == "f" else signs


def minimum(first: Buffer, second: Any) -> Buffer:
    """Returns the smaller of two elements, broadcast; NaN where either is NaN. -0 is smaller than 0.

    Raises:
        TypeError: an operand that is neither a Buffer nor a number, or on another backend.
        ShapeError: shapes that do not broadcast.
    """
    pair = first._promoted_pair(second, "minimum")
    if pair is None:
        raise TypeError(f"minimum takes Buffers and numbers, not a {type(second).__name__}")
    one, other = pair
    return _reversed(_reversed(one).maximum(_reversed(other)))


def _reversed(x: Buffer) -> Buffer:
    """Returns elements of the same shape and dtype in the opposite order, each undone by doing it again.

    -x has no counterpart of the least integer; -1 - x has.
    """
    if x.dtype.kind == "f":
        return -x
    return ~x if x.dtype.kind == "b" else -1 - x


def isnan(x: Buffer) -> Buffer:
    """Returns whether each element is NaN, as bool."""
    return x != x


def isinf(x: Buffer) -> Buffer:
    """Returns whether each element is an infinity, as bool."""
    if x.dtype.kind != "f":
        return x != x
    return x.maximum(-x) == math.inf


def isfinite(x: Buffer) -> Buffer:
    """Returns whether each element is neither NaN nor an infinity, as bool."""
    if x.dtype.kind != "f":
        return x == x
    return x.maximum(-x) < math.inf


def _refuse_bool(name: str, x: Buffer) -> None:
    if x.dtype.kind == "b":
        raise TypeError(f"{name} is not defined on bool: cast() to an integer dtype first")


# ---------------------------------------------------------------- rounding

# By bytes of an element: from the first on every float is an integer; ten to the second is still a float
_ALL_INTEGERS = {4: 2.0**23, 8: 2.0**52}
_LARGEST_POWER_OF_TEN = {4: 38, 8: 308}


def round_half_even(x: Buffer) -> Buffer:
    """Returns the nearest integer to each element, the even one of two, in the dtype of x.

    Added to the number from which on all floats are integers, |x| loses its fraction to the rounding of the
    sum, which is to the nearest and to even; what is subtracted again is exact. NaN, infinities, zeros and
    what is that large already stay as they are.

    Source: IEEE 754-2019, 5.9 (roundToIntegralTiesToEven)
    """
    if x.dtype.kind != "f":
        return x.copy()
    limit = _ALL_INTEGERS[x.dtype.itemsize]
    magnitude = x.maximum(-x)
    rounded = (magnitude + limit) - limit
    has_fraction = (magnitude > 0.0) & (magnitude < limit)
    return Buffer.where(has_fraction, Buffer.where(x < 0.0, -rounded, rounded), x)


def round_to_decimals(x: Buffer, decimals: int) -> Buffer:
    """Returns each element rounded to `decimals` places behind the point, or before it where they are
    negative, in the dtype of x; integers stay as they are.

    It is multiplied by 10^decimals (divided by a negative one's, which is exact as 0.01 is not), rounded to
    the even neighbour of two, and brought back. What has no such places, as NaN, infinities and what is large
    have none, stays as it is. No power leaves the range of the dtype: of two factors the second may be 1.
    """
    if x.dtype.kind != "f" or not decimals:
        return round_half_even(x)
    most = _LARGEST_POWER_OF_TEN[x.dtype.itemsize]
    places = min(abs(decimals), 2 * most)  # twice as many lead from the least number to the largest
    powers = [10.0 ** min(places, most), 10.0 ** max(places - most, 0)]
    scaled = x
    for power in powers:
        scaled = scaled * power if decimals > 0 else scaled / power
    rounded = round_half_even(scaled)
    for power in reversed(powers):
        rounded = rounded / power if decimals > 0 else rounded * power
    return Buffer.where(scaled.maximum(-scaled) < _ALL_INTEGERS[x.dtype.itemsize], rounded, x)


def floor(x: Buffer) -> Buffer:
    """Returns the largest integer that is not larger than each element, in the dtype of x."""
    if x.dtype.kind != "f":
        return x.copy()
    near = round_half_even(x)
    return Buffer.where(near > x, near - 1.0, near)


def ceil(x: Buffer) -> Buffer:
    """Returns the smallest integer that is not smaller than each element, in the dtype of x."""
    return x.copy() if x.dtype.kind != "f" else -floor(-x)


def trunc(x: Buffer) -> Buffer:
    """Returns each element without its fraction, in the dtype of x."""
    return x.copy() if x.dtype.kind != "f" else Buffer.where(x < 0.0, ceil(x), floor(x))


# ---------------------------------------------------------------- logarithms


def log1p(x: Buffer) -> Buffer:
    """Returns log(1 + x) of each element without losing a small x to the 1; -infinity at -1, NaN below.

    Where 1 + x is rounded, log(1 + x) and (1 + x) - 1 are those of a slightly different x, which their
    quotient does not show.

    Source: Kahan's log1p; Goldberg, "What Every Computer Scientist Should Know About Floating-Point
    Arithmetic", 1991, theorem 4
    """
    x = x.as_floating()
    u = x + 1.0
    log = u.log()
    # Far from 1 the rounding of u does not count, and the quotient may overflow
    is_near = (u > 0.5) & (u < 2.0) & (u != 1.0)
    return Buffer.where(is_near, log * x / (u - 1.0), Buffer.where(u == 1.0, x, log))


def expm1(x: Buffer) -> Buffer:
    """Returns e^x - 1 of each element without losing the digits of a small x.

    With u = e^x as it is rounded, (u - 1) / log u is right although u is not: both are those of a slightly
    different x.

    Source: Kahan's expm1; Higham, "Accuracy and Stability of Numerical Algorithms", 2nd edition 2002, 1.14.1
    """
    x = x.as_floating()
    u = x.exp()
    # Far from 1 nothing is lost
    is_near = (u > 0.5) & (u < 2.0) & (u != 1.0)
    log = Buffer.where(is_near, u, 2.0).log()
    return Buffer.where(is_near, (u - 1.0) * x / log, Buffer.where(u == 1.0, x, u - 1.0))


# ---------------------------------------------------------------- reductions


def min_over(x: Buffer, axes: Any = None) -> Buffer:
    """Returns the smallest element over `axes` (None: all), which stay with size 1; NaN if there is one.

    Raises:
        ValueError: a reduced axis is empty, not there, or named twice.
        TypeError: an axis that is no int.
    """
    axes = normalize_axes(axes, x.ndim)
    refuse_empty("min", x.shape, axes)
    return _reversed(_reversed(x).max(axes))


def argmin(x: Buffer, axis: int) -> Buffer:
    """Returns the int64 position of the smallest element along `axis`, which stays with size 1.

    Of equals it is the first, and the first NaN where there are any. A result without elements is empty.

    Raises:
        TypeError: the axis is no int.
        ValueError: the axis is empty, and the result is not; or it is not there.
    """
    refuse_empty("argmin", x.shape, (normalize_axis(axis, x.ndim),))
    return _reversed(x).argmax(axis)


def any_over(x: Buffer, axes: Any = None) -> Buffer:
    """Returns whether any element over `axes` (None: all) is not 0, as bool; they stay with size 1.

    Raises:
        TypeError: an axis that is no int.
        ValueError: an axis that is not there, or one named twice.
    """
    return (x != 0).sum(axes) != 0


def all_over(x: Buffer, axes: Any = None) -> Buffer:
    """Returns whether all elements over `axes` (None: all) are not 0, as bool; they stay with size 1.

    Raises:
        TypeError: an axis that is no int.
        ValueError: an axis that is not there, or one named twice.
    """
    return (x == 0).sum(axes) == 0


def prod_levels(x: Buffer) -> list[Buffer]:
    """Returns x (n, …), the products of its pairs along axis 0, the products of those, … down to (1, …).

    The first of an odd number goes on alone. Of no elements the last level is a one.
    """
    levels = [x] if x.shape[0] else [x, type(x).ones((1, *x.shape[1:]), x.dtype)]
    while (size := levels[-1].shape[0]) > 1:
        last, odd = levels[-1], size % 2
        pairs = last[odd::2] * last[odd + 1 :: 2]
        levels.append(type(x).concatenate([last[:1], pairs]) if odd else pairs)
    return levels


def merge_axes(x: Buffer, axes: Shape) -> Buffer:
    """Returns x with `axes`, sorted and counted from the front, merged into one that comes first: (n, …)."""
    others = tuple(axis for axis in range(x.ndim) if axis not in axes)
    size = numel([x.shape[axis] for axis in axes])
    return x.permute((*axes, *others)).reshape((size, *(x.shape[axis] for axis in others)))


def split_axes(merged: Buffer, axes: Shape, shape: Shape) -> Buffer:
    """Returns what `merge_axes` made of an array of `shape` in that shape again."""
    others = tuple(axis for axis in range(len(shape)) if axis not in axes)
    order = (*axes, *others)
    spread = merged.reshape(tuple(shape[axis] for axis in order))
    return spread.permute(inverse_permutation(order))


def prod(x: Buffer, axes: Any = None) -> Buffer:
    """Returns the product over `axes` (None: all), which stay with size 1; bool and int32 multiply in int64.

    Raises:
        TypeError: an axis that is no int.
        ValueError: an axis that is not there, or one named twice.
    """
    axes = normalize_axes(axes, x.ndim)
    operand = x if x.dtype.kind == "f" else x.as_dtype(DType.int64)
    return prod_levels(merge_axes(operand, axes))[-1].reshape(reduced_shape(x.shape, axes))


def variance(x: Buffer, axes: Any = None, correction: float = 1) -> tuple[Buffer, Buffer, float]:
    """Returns sum (x - mean)² / (n - correction) over `axes`, x - mean, and n - correction.

    Of integers they are float64. The reduced axes stay with size 1.

    Raises:
        TypeError: an axis that is no int.
        ValueError: an axis that is not there, or named twice; or no more elements than the correction.
    """
    axes = normalize_axes(axes, x.ndim)
    count = numel([x.shape[axis] for axis in axes])
    free = count - correction
    if not numel(reduced_shape(x.shape, axes)):
        count, free = 1, 1.0  # a result without elements divides nothing
    if free <= 0:
        raise ValueError(
            f"the variance of {count} elements with correction {correction} has no value: it divides by "
            f"{free} (axes {axes} of shape {x.shape})"
        )
    x = x.as_floating()
    distance = x - x.sum(axes) / float(count)
    return (distance * distance).sum(axes) / float(free), distance, free


def vector_norm(x: Buffer, p: float = 2.0, axes: Any = None) -> Buffer:
    """Returns (sum |x|^p)^(1/p) over `axes`, which stay with size 1; the largest |x| for infinity.

    The smallest for -infinity, and for 0 how many elements are not 0. Elements are divided by the largest
    before they are raised, so that no power overflows. Of integers it is float64.

    Raises:
        TypeError: an axis that is no int.
        ValueError: an axis that is not there, or named twice; or no elements where p is infinite or negative.
    """
    axes = normalize_axes(axes, x.ndim)
    x = x.as_floating()
    magnitude = x.maximum(-x)
    if x.numel == 0 and p >= 0 and p != math.inf:
        return type(x).zeros(reduced_shape(x.shape, axes), x.dtype)
    if p == 0:
        return (x != 0.0).sum(axes).as_dtype(x.dtype)
    if p == -math.inf:
        return min_over(magnitude, axes)
    scale = min_over(magnitude, axes) if p < 0 else magnitude.max(axes)
    if p == math.inf:
        return scale
    is_usual = (scale > 0.0) & (scale < math.inf)  # else the norm is 0, infinite or NaN, as the scale is
    ratios = magnitude / Buffer.where(is_usual, scale, 1.0)
    powers = (ratios * ratios if p == 2 else ratios if p == 1 else ratios**p).sum(axes)
    root = powers.sqrt() if p == 2 else powers if p == 1 else powers ** (1.0 / p)
    return Buffer.where(is_usual, root * Buffer.where(is_usual, scale, 1.0), scale)


# ---------------------------------------------------------------- triangles


def triu(x: Buffer, diagonal: int = 0) -> Buffer:
    """Returns a copy with zeros below a diagonal of the last two axes: where column < row + diagonal.

    Raises:
        ValueError: fewer than two axes.
    """
    if x.ndim < 2:
        raise ValueError(f"triu needs at least two axes, not shape {x.shape}")
    kind = type(x)
    rows = kind.arange(diagonal, diagonal + x.shape[-2], dtype=DType.int64).reshape((x.shape[-2], 1))
    columns = kind.arange(x.shape[-1], dtype=DType.int64)
    return Buffer.where(columns < rows, kind.zeros((), x.dtype), x)


# ---------------------------------------------------------------- by index


def nonzero_positions(x: Buffer) -> Buffer:
    """Returns where the elements of x that are not 0 stand (count,), int64, counted through it in C order.

    They come first, and in order, where it is sorted what is 0 and what is not.
    """
    is_zero = (x == 0).reshape((x.numel,))
    count = x.numel - int(is_zero.sum())
    return is_zero.argsort(0)[:count]


def nonzero(x: Buffer) -> tuple[Buffer, ...]:
    """Returns the int64 positions of elements that are not 0, in C order: a Buffer (count,) for each axis.

    Raises:
        ValueError: x has no axes.
    """
    if not x.ndim:
        raise ValueError("nonzero needs at least one axis: a Buffer of shape () has no positions")
    rest, result = nonzero_positions(x), []
    for size in reversed(x.shape[1:]):
        result.append(rest % max(size, 1))
        rest = rest // max(size, 1)
    return (rest, *reversed(result))


def counted_from_front(indices: Buffer, size: int) -> Buffer:
    """Returns integer indices of the same shape in which those below 0, which count from the end, count from
    the front.

    Raises:
        TypeError: indices that are no integers.
        IndexError: an index outside [-size, size).
    """
    if indices.dtype.kind != "i":
        raise TypeError(f"indices have an integer dtype, not {indices.dtype.name}")
    wide = indices.as_dtype(DType.int64)
    moved = Buffer.where(wide < 0, wide + size, wide)
    try:
        moved.check_indices(size)
    except IndexError:
        flat = indices.to_array()
        wrong = next(index for index in flat if not -size <= index < size)
        raise IndexError(f"index {wrong} is out of range for an axis of size {size}") from None
    return moved


def flat_positions(shape: Shape, indices: Sequence[Buffer]) -> Buffer:
    """Returns int64 positions, in C order, of what indices name on the first axes of an array of `shape`.

    The indices broadcast.

    Raises:
        TypeError, IndexError: indices that are no integers, or out of range.
        ShapeError: indices that do not broadcast.
    """
    check_broadcast("index", *(index.shape for index in indices))
    total = counted_from_front(indices[0], shape[0])
    for size, index in zip(shape[1 : len(indices)], indices[1:], strict=True):
        total = total * size + counted_from_front(index, size)
    return total


def gather_positions(x: Buffer, index: Buffer, axis: int) -> Buffer:
    """Returns the int64 positions in x, in C order, of what `gather` takes: of the shape of `index`.

    Raises:
        TypeError: indices that are no integers, or on another backend.
        IndexError: an index outside the axis.
        ValueError: an axis that is not there; an index with other axes, or with one longer than x's.
    """
    axis = normalize_axis(axis, x.ndim)
    x.check_backend(index)
    fits = index.ndim == x.ndim and all(i == axis or size <= x.shape[i] for i, size in enumerate(index.shape))
    if not fits:
        raise ShapeError(
            f"gather along axis {axis} of shape {x.shape} takes an index with {x.ndim} axes, none but axis "
            f"{axis} longer than there, not one of shape {index.shape}"
        )
    total, step = index.scalar(0), 1
    for i in reversed(range(x.ndim)):
        size = index.shape[i]
        if i == axis:
            along = counted_from_front(index, x.shape[axis]) if index.numel else index.as_dtype(DType.int64)
        else:
            line = (size, *(1,) * (x.ndim - 1 - i))
            along = type(x).arange(size, dtype=DType.int64).reshape(line)
        total = total + along * step
        step *= x.shape[i]
    return total.as_dtype(DType.int64)


def gather(x: Buffer, index: Buffer, axis: int) -> Buffer:
    """Returns, for each place of `index`, the element of x that stands there but for `axis`, where it is the
    index that says which.

    y[i, j, k] = x[i, index[i, j, k], k] for three axes and axis 1. Raises as `gather_positions` does.
    """
    return x.reshape((x.numel,)).take(gather_positions(x, index, axis))
