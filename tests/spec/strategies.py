"""What Hypothesis draws: shapes, dtypes, values and layouts, always as a pair of a Buffer and a NumPy array
that say the same.

A layout is drawn as a way to build a *bigger* Buffer and the views that lead from it to the wanted shape
(permuted, sliced with steps, indexed, broadcast), so that every operation meets every layout. NumPy takes the
same steps and is the reference.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tinygpt_core.buffer import Buffer
from tinygpt_core.dtype import DType

Shape = tuple[int, ...]

FLOATS = ("float32", "float64")
INTEGERS = ("int32", "int64")
NUMBERS = (*FLOATS, *INTEGERS)
DTYPES = (*NUMBERS, "bool")


def lacks(backend: type[Buffer], capability: str) -> bool:
    """Whether the backend declares (class attribute `lacks`: capability -> reason) that it cannot do this."""
    return capability in getattr(backend, "lacks", {})


def supported(backend: type[Buffer], dtypes: tuple[str, ...]) -> list[str]:
    """Returns the dtypes that the backend has; the plug-in prints what it lacks."""
    return [name for name in dtypes if not lacks(backend, name)]


# ---------------------------------------------------------------- shapes


def shapes(
    min_dims: int = 0, max_dims: int = 4, min_side: int = 0, max_side: int = 4
) -> st.SearchStrategy[Shape]:
    """Shapes with axes of size 1 among them, no axes at all, and (one in six) axes of size 0, of which
    nothing else can be learnt.
    """
    filled = hnp.array_shapes(
        min_dims=min_dims, max_dims=max_dims, min_side=max(min_side, 1), max_side=max_side
    )
    if min_side > 0:
        return filled
    any_size = hnp.array_shapes(min_dims=min_dims, max_dims=max_dims, min_side=0, max_side=max_side)
    return st.integers(0, 5).flatmap(lambda choice: any_size if choice == 5 else filled)


@st.composite
def broadcastable(draw: st.DrawFn, count: int = 2, max_dims: int = 3, min_side: int = 0) -> tuple[Shape, ...]:
    """Shapes that broadcast with each other: a common shape's first axes are dropped, others set to 1."""
    common = draw(shapes(max_dims=max_dims, min_side=min_side))
    result = []
    for _ in range(count):
        kept = draw(st.integers(0, len(common))) if draw(st.booleans()) else len(common)
        tail = common[len(common) - kept :]
        result.append(tuple(1 if draw(st.integers(0, 3)) == 0 else size for size in tail))
    return tuple(result)


# ---------------------------------------------------------------- values


def floats(low: float = -8.0, high: float = 8.0, special: bool = False) -> st.SearchStrategy[float]:
    """float32 numbers in [low, high], zeros and repeated values often among them (so that there are ties)."""
    low, high = float(np.float32(low)), float(np.float32(high))
    nice = [x for x in (0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.0, 3.0, -3.0) if low <= x <= high]
    choices = [st.floats(low, high, width=32, allow_subnormal=False)]
    if nice:
        choices.insert(0, st.sampled_from(nice))
    if special:
        choices.append(st.sampled_from([np.nan, np.inf, -np.inf, np.nan, 1e30, -1e30, 3e38, 100.0, np.nan]))
    return st.one_of(choices)


def elements(
    dtype: str, low: float = -8.0, high: float = 8.0, special: bool = False
) -> st.SearchStrategy[Any]:
    if dtype == "bool":
        return st.booleans()
    if dtype in INTEGERS:
        return st.integers(int(np.ceil(low)), int(np.floor(high)))
    return floats(low, high, special)


def arrays(
    dtype: str, shape: Shape, low: float = -8.0, high: float = 8.0, special: bool = False
) -> st.SearchStrategy[np.ndarray]:
    # In larger arrays one value fills most places, which draws faster.
    fill = st.nothing() if np.prod(shape) < 8 else None
    return hnp.arrays(np.dtype(dtype), shape, elements=elements(dtype, low, high, special), fill=fill)


# ---------------------------------------------------------------- layouts

View = Callable[[Any], Any]


class Layout(NamedTuple):
    """How a Buffer of a shape is seen: build one of shape `base`, then follow `steps` (each works on Buffers
    and on arrays).
    """

    base: Shape
    steps: tuple[tuple[str, Any], ...]

    def view(self, base: Any) -> Any:
        """Returns the view of `base`, a Buffer or a NumPy array."""
        for name, option in self.steps:
            if name == "slice":
                # With ints alone NumPy would give a number, with `...` it gives a view without axes.
                base = base[option] if isinstance(base, Buffer) else base[(*option, ...)]
            elif name == "permute":
                base = base.permute(option) if isinstance(base, Buffer) else np.transpose(base, option)
            else:
                base = base.expand(option) if isinstance(base, Buffer) else np.broadcast_to(base, option)
        return base


@st.composite
def layouts(draw: st.DrawFn, shape: Shape, expand: bool = True) -> Layout:
    """Ways to arrive at `shape`; the first and simplest is a contiguous Buffer of that shape."""
    kind = draw(st.sampled_from(["contiguous", "views", "views"]))
    if kind == "contiguous":
        return Layout(shape, ())
    steps: list[tuple[str, Any]] = []
    current = shape
    # The steps are found from the last to the first, each asking what the one before it must have given.
    if expand and draw(st.booleans()):
        steps.append(("expand", current))
        squeezed = tuple(1 if draw(st.booleans()) else size for size in current)
        drop = draw(st.integers(0, len(squeezed)))
        while drop and any(size != 1 for size in squeezed[:drop]):
            drop -= 1
        current = squeezed[drop:]
    if draw(st.booleans()):
        order = draw(st.permutations(range(len(current))))
        steps.append(("permute", tuple(order)))
        source = [0] * len(current)
        for position, axis in enumerate(order):
            source[axis] = current[position]
        current = tuple(source)
    if draw(st.booleans()):
        index: list[Any] = []
        base: list[int] = []
        for size in current:
            if draw(st.integers(0, 4)) == 0:  # an axis that an int drops
                extra = draw(st.integers(1, 3))
                base.append(extra)
                index.append(draw(st.integers(-extra, extra - 1)))
            step = draw(st.sampled_from([1, 2, 3, -1, -2]))
            before, after = draw(st.integers(0, 2)), draw(st.integers(0, 2))
            span = (size - 1) * abs(step) + 1 if size else 0
            base.append(before + span + after)
            if not size:
                index.append(slice(before, before, step))
            elif step > 0:
                index.append(slice(before, before + span, step))
            else:
                index.append(slice(before + span - 1, before - 1 if before else None, step))
        steps.append(("slice", tuple(index)))
        current = tuple(base)
    return Layout(current, tuple(reversed(steps)))


class Operand(NamedTuple):
    """A Buffer, and the NumPy array that says what is in it."""

    buffer: Buffer
    array: np.ndarray


def make(backend: type[Buffer], values: np.ndarray) -> Buffer:
    """Returns a contiguous Buffer of a NumPy array's elements, through the standard library's `array`."""
    dtype = DType.from_name(values.dtype.name)
    flat = array(dtype.typecode)
    flat.frombytes(np.ascontiguousarray(values).tobytes())
    return backend.from_array(flat, values.shape, dtype)


def read(buffer: Buffer) -> np.ndarray:
    """Returns a Buffer's elements as a NumPy array of the same dtype, by way of `array.array`."""
    flat = buffer.to_array()
    assert flat.typecode == buffer.dtype.typecode, (
        f"to_array() of a {buffer.dtype.name} Buffer has typecode {flat.typecode!r}"
    )
    # `array` of a bool Buffer holds bytes.
    return np.frombuffer(flat.tobytes(), np.dtype(buffer.dtype.name)).reshape(buffer.shape).copy()


@st.composite
def operands(
    draw: st.DrawFn,
    backend: type[Buffer],
    shape: Shape,
    dtype: str,
    low: float = -8.0,
    high: float = 8.0,
    special: bool = False,
    expand: bool = True,
) -> Operand:
    """A Buffer of this shape and dtype in any layout, with its reference."""
    layout = draw(layouts(shape, expand))
    base = draw(arrays(dtype, layout.base, low, high, special))
    return Operand(layout.view(make(backend, base)), np.array(layout.view(base)))


@st.composite
def distinct(draw: st.DrawFn, shape: Shape, low: float, high: float) -> np.ndarray:
    """float64 values that differ from each other and from 0 by far more than central differences step."""
    count = int(np.prod(shape))
    grid = np.linspace(low, high, 2 * count + 3)[1:-1]
    grid = grid[np.abs(grid) > (high - low) * 1e-3]
    if count <= 12:
        order = draw(st.permutations(range(len(grid))))
    else:
        order = list(np.random.default_rng(draw(st.integers(0, 99))).permutation(len(grid)))
    return grid[np.array(order[:count], dtype=int)].reshape(shape) if count else np.zeros(shape)


@st.composite
def axes_of(draw: st.DrawFn, ndim: int) -> Any:
    """None, an int or a tuple of distinct axes, counted from either end."""
    if ndim == 0:
        return draw(st.sampled_from([None, ()]))
    chosen = draw(st.lists(st.integers(0, ndim - 1), unique=True, max_size=ndim))
    signed = tuple(axis - ndim if draw(st.booleans()) else axis for axis in chosen)
    return draw(st.sampled_from([None, signed, signed[0]] if signed else [None, ()]))


@st.composite
def basic_indices(draw: st.DrawFn, shape: Shape) -> tuple[Any, ...]:
    """ints, slices with any step (bounds inside and far outside) and at most one `...`."""
    index: list[Any] = []
    for size in shape[: draw(st.integers(0, len(shape)))]:
        bound = st.one_of(st.none(), st.integers(-size - 2, size + 2))
        step = st.sampled_from([None, 1, 2, 3, -1, -2, -5, 100])
        kinds = [st.builds(slice, bound, bound, step)]
        if size:
            kinds.append(st.integers(-size, size - 1))
        index.append(draw(st.one_of(kinds)))
    if draw(st.integers(0, 3)) == 0:
        index.append(Ellipsis)
    return tuple(index)
