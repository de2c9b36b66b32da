"""The rows of the table for the methods of Tensor beyond what a GPT needs (`tinygpt_core.tensor_methods`).

Each is computed through the method, on Buffers of every backend and dtype as well as with gradients. The
reference is NumPy in float64, or plain Python where NumPy's answer is another (sorting downwards, parts).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tinygpt_core.buffer import Buffer
from tinygpt_core.tensor import Tensor

from .strategies import DTYPES, FLOATS, INTEGERS, NUMBERS, axes_of, broadcastable, make, shapes
from .table import (
    ROWS,
    Case,
    Row,
    Slot,
    Wrong,
    _bad_axis,
    _no_bool,
    _unfit,
    _where_axes,
    along_axis,
    always,
    composite,
    floating,
    one,
    reduction,
    reduction_not_empty,
    summed,
    triangle,
    two,
    zeros,
)

Shape = tuple[int, ...]
_Method = Callable[..., Any]


def method(
    name: str, reference: Any, cases: Any, call: _Method, covers: tuple[str, ...] = (), **more: Any
) -> Row:
    """A row whose values and gradients are those of `call`, which takes Tensors; `records` says whether it
    leaves a record.
    """
    records = more.pop("records", True)

    def on_buffers(*buffers: Any, **options: Any) -> Buffer:
        return call(*[None if b is None else Tensor(b) for b in buffers], **options).buffer

    return Row(name, covers, reference, cases, on_buffers, call if records else None, **more)


def wrong(
    what: str,
    call: Callable[[Tensor], Any],
    exception: Any,
    *names: str,
    shape: Shape = (2, 3),
    dtype: str = "float32",
) -> Wrong:
    return Wrong(what, lambda backend: call(Tensor(zeros(backend, shape, dtype))), exception, names)


def _of_floats(function: Any) -> Any:
    """A NumPy function of floats; integers and bools stay as they are."""
    return lambda x, **options: function(x, **options) if x.dtype.kind == "f" else x


# ---------------------------------------------------------------- cases


@composite
def quotients(draw: st.DrawFn) -> Case:
    first, second = draw(broadcastable())
    low, high = draw(st.sampled_from([(1.0, 8.0), (-8.0, -1.0)]))
    # Where derivatives are taken, no quotient is near an integer
    return Case((Slot(first, smooth=(2.2, 2.8)), Slot(second, "", low, high, (1.0, 1.05))))


@composite
def limits(draw: st.DrawFn) -> Case:
    x, low, high = draw(broadcastable(3))
    lower = Slot(low, smooth=draw(st.sampled_from([(-1.03, -0.51), (1.21, 1.63)])))
    upper = Slot(high, smooth=(0.47, 1.09))
    kind = draw(st.integers(0, 3))
    return Case((Slot(x), None if kind == 1 else lower, None if kind == 2 else upper))


@composite
def masks(draw: st.DrawFn) -> Case:
    shape = draw(shapes(max_dims=3))
    kept = draw(st.integers(0, len(shape)))
    mask = tuple(1 if draw(st.integers(0, 3)) == 0 else size for size in shape[len(shape) - kept :])
    return Case((Slot(shape), Slot(mask, "bool")), {"value": draw(st.sampled_from([0.0, -2.5, 1e30, 7]))})


@composite
def with_correction(draw: st.DrawFn) -> Case:
    shape = draw(shapes(max_dims=3, min_side=1))
    axes = draw(axes_of(len(shape)))
    listed = range(len(shape)) if axes is None else axes if isinstance(axes, tuple) else (axes,)
    count = math.prod(shape[axis] for axis in listed)
    corrections = [c for c in (0, 1, 0.5, 2) if c < count]
    return Case((Slot(shape),), {"axes": axes, "correction": draw(st.sampled_from(corrections))})


@composite
def with_p(draw: st.DrawFn) -> Case:
    case = draw(reduction_not_empty())
    p = draw(st.sampled_from([2, 1, 3.0, 0.5, 0, math.inf, -math.inf, -1.0]))
    smooth = draw(st.sampled_from([(0.3, 2.0), (-2.0, -0.3)]))
    return Case((case.slots[0]._replace(smooth=smooth),), {**case.options, "p": p})


@composite
def products_over(draw: st.DrawFn) -> Case:
    case = draw(reduction())
    return Case((case.slots[0]._replace(low=-2.0, high=2.0),), case.options)


@composite
def running(draw: st.DrawFn) -> Case:
    shape = draw(shapes(min_dims=1, max_dims=3))
    return Case((Slot(shape),), {"axis": draw(st.integers(-len(shape), len(shape) - 1))})


@composite
def ordering(draw: st.DrawFn) -> Case:
    case = draw(running())
    return Case(case.slots, {**case.options, "descending": draw(st.booleans())})


@composite
def choosing_k(draw: st.DrawFn) -> Case:
    case = draw(running())
    size = case.slots[0].shape[case.options["axis"]]
    return Case(case.slots, {**case.options, "k": draw(st.integers(0, size)), "largest": draw(st.booleans())})


@composite
def gathering(draw: st.DrawFn) -> Case:
    shape = draw(shapes(min_dims=1, max_dims=3, min_side=1))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    index = [draw(st.integers(0, size)) for size in shape]
    index[axis] = draw(st.integers(0, 5))
    dtype = draw(st.sampled_from(INTEGERS))
    return Case((Slot(shape), Slot(tuple(index), dtype, -shape[axis], shape[axis] - 1)), {"axis": axis})


@composite
def squeezing(draw: st.DrawFn) -> Case:
    shape = list(draw(shapes(max_dims=2)))
    for _ in range(draw(st.integers(0, 2))):
        shape.insert(draw(st.integers(0, len(shape))), 1)
    ones = [axis for axis, size in enumerate(shape) if size == 1]
    chosen = tuple(axis - draw(st.sampled_from([0, len(shape)])) for axis in ones if draw(st.booleans()))
    return Case((Slot(tuple(shape)),), {"axis": draw(st.sampled_from([None, chosen, *chosen[:1]]))})


@composite
def unsqueezing(draw: st.DrawFn) -> Case:
    shape = draw(shapes(max_dims=3))
    return Case((Slot(shape),), {"axis": draw(st.integers(-len(shape) - 1, len(shape)))})


@composite
def flattening(draw: st.DrawFn) -> Case:
    shape = draw(shapes(max_dims=4))
    if not shape:
        return Case((Slot(shape),), {"start_axis": 0, "end_axis": -1})
    start = draw(st.integers(0, len(shape) - 1))
    end = draw(st.integers(start, len(shape) - 1))
    return Case(
        (Slot(shape),), {"start_axis": start - draw(st.sampled_from([0, len(shape)])), "end_axis": end}
    )


@composite
def rolling(draw: st.DrawFn) -> Case:
    shape = draw(shapes(max_dims=3))
    shift = st.integers(-7, 7)
    if not shape or draw(st.booleans()):
        return Case((Slot(shape),), {"shifts": draw(shift), "axes": None})
    axes = draw(st.lists(st.integers(-len(shape), len(shape) - 1), min_size=1, max_size=3))
    shifts = tuple(draw(shift) for _ in axes)
    if len(axes) == 1 and draw(st.booleans()):
        return Case((Slot(shape),), {"shifts": shifts[0], "axes": axes[0]})
    return Case((Slot(shape),), {"shifts": shifts, "axes": tuple(axes)})


@composite
def tiling(draw: st.DrawFn) -> Case:
    shape = draw(shapes(max_dims=3, max_side=3))
    counts = tuple(draw(st.lists(st.integers(0, 3), max_size=4)))
    return Case((Slot(shape),), {"repeats": draw(st.sampled_from([counts, *counts[:1]]))})


@composite
def repeating(draw: st.DrawFn) -> Case:
    shape = draw(shapes(max_dims=2, max_side=3))
    more = draw(st.integers(0, 1))
    return Case((Slot(shape),), {"repeats": tuple(draw(st.integers(0, 3)) for _ in range(len(shape) + more))})


@composite
def interleaving(draw: st.DrawFn) -> Case:
    shape = draw(shapes(max_dims=3, max_side=3))
    axes = [None, *range(-len(shape), len(shape))]
    return Case((Slot(shape),), {"repeats": draw(st.integers(0, 3)), "axis": draw(st.sampled_from(axes))})


@composite
def splitting(draw: st.DrawFn) -> Case:
    case = draw(running())
    size = case.slots[0].shape[case.options["axis"]]
    if draw(st.booleans()):
        sizes: Any = draw(st.integers(1, 5))
        count = max(1, -(-size // sizes))
    else:
        cuts = sorted(draw(st.lists(st.integers(0, size), max_size=3)))
        sizes = [b - a for a, b in zip([0, *cuts], [*cuts, size], strict=True)]
        count = len(sizes)
    return Case(case.slots, {**case.options, "sizes": sizes, "part": draw(st.integers(0, count - 1))})


@composite
def chunking(draw: st.DrawFn) -> Case:
    case = draw(running())
    size, chunks = case.slots[0].shape[case.options["axis"]], draw(st.integers(1, 5))
    count = len(range(0, size, -(-size // chunks))) if size else chunks
    return Case(case.slots, {**case.options, "chunks": chunks, "part": draw(st.integers(0, count - 1))})


@composite
def stacking(draw: st.DrawFn) -> Case:
    shape = draw(shapes(max_dims=2))
    slots = [Slot(shape)] * draw(st.integers(1, 3))
    return Case(tuple(slots), {"axis": draw(st.integers(-len(shape) - 1, len(shape)))})


@composite
def vectors(draw: st.DrawFn) -> Case:
    n, m = draw(st.integers(0, 4)), draw(st.integers(0, 4))
    return Case((Slot((n,)), Slot((m,), smooth=(-3.0, 1.9))))


@composite
def class_ids(draw: st.DrawFn) -> Case:
    count = draw(st.integers(1, 5))
    return Case((Slot(draw(shapes(max_dims=3)), "", 0, count - 1),), {"num_classes": count})


@composite
def indices(draw: st.DrawFn) -> Case:
    """Ints, slices, None, `...`, arrays of positions that broadcast, and masks, in any order."""
    shape = draw(shapes(min_dims=1, max_dims=3, min_side=1))
    common = draw(shapes(max_dims=2, max_side=3))
    entries: list[Any] = []
    axis = 0
    while axis < len(shape) and draw(st.integers(0, 4)):
        size = shape[axis]
        kind = draw(st.sampled_from(["array", "array", "int", "slice", "None", "mask"]))
        if kind == "None":
            entries.append(None)
            continue
        if kind == "mask" and not any(isinstance(entry, np.ndarray) for entry in entries):
            covered = shape[axis : axis + draw(st.integers(1, len(shape) - axis))]
            mask = draw(hnp.arrays(bool, covered))
            # Beside other arrays the positions where it holds broadcast with theirs: as many, or one
            entries.append(mask)
            axis, common = axis + len(covered), (int(mask.sum()),)
            continue
        if kind == "int":
            entries.append(draw(st.integers(-size, size - 1)))
        elif kind == "array":
            kept = common[draw(st.integers(0, len(common))) :]
            places = tuple(1 if draw(st.integers(0, 3)) == 0 else n for n in kept)
            dtype = np.dtype(draw(st.sampled_from(INTEGERS)))
            entries.append(draw(hnp.arrays(dtype, places, elements=st.integers(-size, size - 1))))
        else:
            bound = st.one_of(st.none(), st.integers(-size - 1, size + 1))
            entries.append(slice(draw(bound), draw(bound), draw(st.sampled_from([None, 1, 2, -1]))))
        axis += 1
    if draw(st.integers(0, 2)) == 0:
        place = draw(st.integers(0, len(entries)))
        after = sum(e.ndim if _is_mask(e) else e is not None for e in entries[place:])
        before = sum(e.ndim if _is_mask(e) else e is not None for e in entries[:place])
        # What stands behind `...` is for the last axes, which must be as long
        if not after or before + after == len(shape):
            entries.insert(place, Ellipsis)
    return Case((Slot(shape),), {"index": tuple(entries)})


def _is_mask(entry: Any) -> bool:
    return isinstance(entry, np.ndarray) and entry.dtype == bool


def own_index(index: tuple[Any, ...], kind: type[Buffer]) -> Any:
    """The index with a Tensor for each array; for one of integers with one axis, a list."""
    entries = [
        entry.tolist()
        if isinstance(entry, np.ndarray) and entry.dtype == np.int64 and entry.ndim == 1 and entry.size
        else Tensor(make(kind, entry))
        if isinstance(entry, np.ndarray)
        else entry
        for entry in index
    ]
    return entries[0] if len(entries) == 1 else tuple(entries)


# ---------------------------------------------------------------- references


def _clamped(x: Any, low: Any = None, high: Any = None) -> Any:
    y = x if low is None else np.maximum(x, low)
    return y if high is None else np.minimum(y, high)


def _log_sum_exp(x: Any, axes: Any = None) -> Any:
    listed = range(x.ndim) if axes is None else axes if isinstance(axes, tuple) else (axes,)
    for axis in sorted(axis % x.ndim for axis in listed):
        x = np.logaddexp.reduce(x, axis, keepdims=True, initial=-np.inf)
    return x


def _norm(x: Any, p: float, axes: Any = None) -> Any:
    x = np.abs(x)
    if p == 0:
        return (x != 0).sum(axes, keepdims=True)
    if math.isinf(p):
        return x.max(axes, keepdims=True) if p > 0 else x.min(axes, keepdims=True)
    return (x**p).sum(axes, keepdims=True) ** (1 / p)


def _order(x: Any, axis: int, descending: bool) -> Any:
    """Python's sort, which is stable both ways; NaN is the largest."""
    lines = np.moveaxis(np.zeros(x.shape, np.int64), axis, -1)
    values = np.moveaxis(x, axis, -1)
    for where in np.ndindex(lines.shape[:-1]):
        line = values[where].tolist()
        key = [(v != v, 0 if v != v else v) for v in line]
        lines[where] = sorted(range(len(line)), key=key.__getitem__, reverse=descending)
    return np.moveaxis(lines, -1, axis)


def _sorted(x: Any, axis: int, descending: bool) -> Any:
    return np.take_along_axis(x, _order(x, axis, descending), axis)


def _largest(x: Any, k: int, axis: int, largest: bool) -> Any:
    return np.take_along_axis(x, np.take(_order(x, axis, largest), range(k), axis), axis)


def _gathered(x: Any, index: Any, axis: int) -> Any:
    result = np.zeros(index.shape, x.dtype)
    for where in np.ndindex(index.shape):
        place = list(where)
        place[axis] = index[where]
        result[where] = x[tuple(place)]
    return result


def _part(x: Any, sizes: Any, axis: int, part: int) -> Any:
    whole = x.shape[axis]
    cuts = list(range(sizes, whole, sizes)) if isinstance(sizes, int) else list(np.cumsum(sizes)[:-1])
    return np.split(x, cuts, axis)[part]


def _chunk(x: Any, chunks: int, axis: int, part: int) -> Any:
    size = -(-x.shape[axis] // chunks)
    return _part(x, size, axis, part) if size else x


# ---------------------------------------------------------------- rows

_STEPS = {"dtypes": DTYPES, "special": True}

ROWS += [
    # ------------------------------------------------------------ element by element
    method(
        "abs",
        np.abs,
        one(),
        lambda x: abs(x),
        ("Abs", "absolute", "Tensor.abs"),
        dtypes=NUMBERS,
        special=True,
        errors=(wrong("bool", lambda x: x.abs(), TypeError, "abs", "bool", dtype="bool"),),
    ),
    method(
        "sign",
        np.sign,
        one(),
        lambda x: x.sign(),
        ("Sign", "sign", "Tensor.sign"),
        dtypes=NUMBERS,
        special=True,
        errors=(wrong("bool", lambda x: x.sign(), TypeError, "sign", "bool", dtype="bool"),),
    ),
    *[
        method(
            name,
            _of_floats(getattr(np, name)),
            one(smooth=(0.05, 0.95)),
            lambda x, name=name: getattr(x, name)(),
            (name.title(), name, f"Tensor.{name}"),
            **_STEPS,
        )
        for name in ("floor", "ceil", "trunc")
    ],
    method(
        "round",
        _of_floats(np.round),
        one(smooth=(0.6, 1.4)),
        lambda x: round(x),
        ("Round", "round_half_even", "round_to_decimals", "Tensor.round"),
        errors=(
            wrong("decimals that are no int", lambda x: x.round(0.5), TypeError, "0.5"),
            wrong("integers to tens", lambda x: x.round(-1), ValueError, "-1", dtype="int32"),
        ),
        **_STEPS,
    ),
    method(
        "minimum",
        np.minimum,
        two(),
        lambda x, y: x.minimum(y),
        ("Minimum", "minimum", "Tensor.minimum"),
        dtypes=DTYPES,
        mixed=True,
        special=True,
        errors=(
            _unfit(lambda x, y: Tensor(x).minimum(Tensor(y))),
            wrong("a list", lambda x: x.minimum([1.0]), TypeError, "minimum", "list"),
        ),
    ),
    method(
        "clamp",
        _clamped,
        limits,
        lambda x, low=None, high=None: x.clamp(low, high),
        ("Clamp", "Tensor.clamp", "Tensor.clip"),
        dtypes=NUMBERS,
        mixed=True,
        special=True,
        errors=(
            wrong("no limits", lambda x: x.clamp(), TypeError, "min, max or both"),
            wrong("a text", lambda x: x.clamp("0"), TypeError, "clamp", "str"),
            _unfit(lambda x, y: Tensor(x).clamp(Tensor(y))),
        ),
    ),
    method(
        "floor_divide",
        np.floor_divide,
        quotients,
        lambda x, y: x // y,
        ("FloorDivide", "__floordiv__", "__rfloordiv__"),
        dtypes=NUMBERS,
        mixed=True,
        special=True,
        errors=(
            _unfit(lambda x, y: x // y),
            _no_bool(lambda x: x // x),
            Wrong("an integer by 0", lambda b: b([2, 3]) // b([1, 0]), ZeroDivisionError, ("0",)),
            Wrong("an integer by a number 0", lambda b: Tensor(b([2])) // 0, ZeroDivisionError, ("0",)),
        ),
    ),
    method(
        "remainder",
        np.remainder,
        quotients,
        lambda x, y: x % y,
        ("Remainder", "__mod__", "__rmod__"),
        dtypes=NUMBERS,
        mixed=True,
        special=True,
        magnitude=lambda x, y: np.abs(y),
        errors=(
            _unfit(lambda x, y: x % y),
            _no_bool(lambda x: x % x),
            Wrong("an integer by 0", lambda b: b([2, 3]) % b([1, 0]), ZeroDivisionError, ("0",)),
        ),
    ),
    method(
        "log1p",
        np.log1p,
        one(smooth=(-0.5, 3.0)),
        lambda x: x.log1p(),
        ("Log1p", "log1p", "Tensor.log1p"),
        dtypes=DTYPES,
        special=True,
        result=floating,
    ),
    method(
        "expm1",
        np.expm1,
        one(),
        lambda x: x.expm1(),
        ("Expm1", "expm1", "Tensor.expm1"),
        dtypes=DTYPES,
        special=True,
        result=floating,
    ),
    *[
        method(
            name,
            getattr(np, name),
            one(),
            lambda x, name=name: getattr(x, name)(),
            (name, f"Tensor.{name}"),
            dtypes=DTYPES,
            special=True,
            result=always("bool"),
            records=False,
        )
        for name in ("isnan", "isinf", "isfinite")
    ],
    method(
        "and",
        np.logical_and,
        two(),
        lambda x, y: x & y,
        ("__and__", "__rand__"),
        dtypes=("bool",),
        records=False,
        errors=(
            _unfit(lambda x, y: (x == 0) & (y == 0)),
            wrong("floats", lambda x: x & x, TypeError, "&", "float32"),
        ),
    ),
    method(
        "or",
        np.logical_or,
        two(),
        lambda x, y: x | y,
        ("__or__", "__ror__"),
        dtypes=("bool",),
        records=False,
        errors=(wrong("integers", lambda x: x | x, TypeError, "|", "int32", dtype="int32"),),
    ),
    method(
        "xor",
        np.logical_xor,
        two(),
        lambda x, y: x ^ y,
        ("__xor__", "__rxor__"),
        dtypes=("bool",),
        records=False,
        errors=(wrong("floats", lambda x: x ^ x, TypeError, "^", "float32"),),
    ),
    method(
        "invert",
        np.logical_not,
        one(),
        lambda x: ~x,
        ("__invert__",),
        dtypes=("bool",),
        records=False,
        errors=(wrong("integers", lambda x: ~x, TypeError, "~", "int32", dtype="int32"),),
    ),
    # ------------------------------------------------------------ reductions
    method(
        "min",
        lambda x, axes: x.min(_where_axes(axes), keepdims=True),
        reduction_not_empty,
        lambda x, axes: x.min(axes, keepdim=True),
        ("Min", "min_over", "Tensor.min"),
        dtypes=DTYPES,
        special=True,
        errors=(
            wrong("an empty axis", lambda x: x.min(0), ValueError, "(0, 3)", shape=(0, 3)),
            wrong("an axis out of range", lambda x: x.min(2), ValueError, "2"),
            wrong("an axis that is no int", lambda x: x.min(1.0), TypeError, "1.0"),
        ),
    ),
    method(
        "argmin",
        lambda x, axis: x.argmin(axis, keepdims=True),
        along_axis,
        lambda x, axis: x.argmin(axis, keepdim=True),
        ("argmin", "Tensor.argmin"),
        dtypes=DTYPES,
        special=True,
        result=always("int64"),
        records=False,
        errors=(
            wrong("an empty axis", lambda x: x.argmin(0), ValueError, "(0, 3)", shape=(0, 3)),
            _bad_axis(lambda x: Tensor(x).argmin(2)),
        ),
    ),
    method(
        "prod",
        lambda x, axes: x.prod(_where_axes(axes), keepdims=True),
        products_over,
        lambda x, axes: x.prod(axes, keepdim=True),
        ("Prod", "prod", "prod_levels", "merge_axes", "split_axes", "Tensor.prod"),
        dtypes=DTYPES,
        result=summed,
        errors=(_bad_axis(lambda x: Tensor(x).prod(2)),),
    ),
    method(
        "mean",
        lambda x, axes: x.mean(_where_axes(axes), keepdims=True),
        reduction_not_empty,
        lambda x, axes: x.mean(axes, keepdim=True),
        ("Tensor.mean",),
        dtypes=DTYPES,
        special=True,
        result=floating,
        magnitude=lambda x, axes: np.abs(x).max(),
        errors=(
            wrong("an empty axis", lambda x: x.mean(0), ValueError, "(0, 3)", shape=(0, 3)),
            wrong("an axis that is no int", lambda x: x.mean(1.0), TypeError, "1.0"),
            _bad_axis(lambda x: Tensor(x).mean(2)),
        ),
    ),
    method(
        "var",
        lambda x, axes, correction: x.var(_where_axes(axes), ddof=correction, keepdims=True),
        with_correction,
        lambda x, axes, correction: x.var(axes, correction, keepdim=True),
        ("Var", "variance", "Tensor.var"),
        dtypes=DTYPES,
        result=floating,
        magnitude=lambda x, axes, correction: np.square(x).max(),
        errors=(
            wrong("one element", lambda x: x.var(0), ValueError, "correction 1", shape=(1, 3)),
            wrong("no elements", lambda x: x.var(0, 0), ValueError, "(0, 3)", shape=(0, 3)),
            wrong("a correction that is no number", lambda x: x.var(0, "1"), TypeError, "'1'"),
            _bad_axis(lambda x: Tensor(x).var(2)),
        ),
    ),
    method(
        "std",
        lambda x, axes, correction: x.std(_where_axes(axes), ddof=correction, keepdims=True),
        with_correction,
        lambda x, axes, correction: x.std(axes, correction, keepdim=True),
        ("Std", "Tensor.std"),
        dtypes=DTYPES,
        result=floating,
        magnitude=lambda x, axes, correction: np.abs(x).max(),
        errors=(wrong("one element", lambda x: x.std(0), ValueError, "correction 1", shape=(1, 3)),),
    ),
    method(
        "logsumexp",
        _log_sum_exp,
        reduction,
        lambda x, axes: x.logsumexp(axes, keepdim=True),
        ("LogSumExp", "Tensor.logsumexp"),
        dtypes=DTYPES,
        special=True,
        result=floating,
        magnitude=lambda x, axes: 4.0,
        errors=(_bad_axis(lambda x: Tensor(x).logsumexp(2)),),
    ),
    method(
        "norm",
        _norm,
        with_p,
        lambda x, p, axes: x.norm(p, axes, keepdim=True),
        ("Norm", "vector_norm", "Tensor.norm"),
        dtypes=NUMBERS,
        special=True,
        result=floating,
        errors=(
            wrong("nothing that is largest", lambda x: x.norm(math.inf), ValueError, "(0,)", shape=(0,)),
            wrong("a p that is no number", lambda x: x.norm("fro"), TypeError, "'fro'"),
            _bad_axis(lambda x: Tensor(x).norm(axes=2)),
        ),
    ),
    method(
        "any",
        lambda x, axes: x.any(_where_axes(axes), keepdims=True),
        reduction,
        lambda x, axes: x.any(axes, keepdim=True),
        ("any_over", "Tensor.any"),
        dtypes=DTYPES,
        special=True,
        result=always("bool"),
        records=False,
        errors=(_bad_axis(lambda x: Tensor(x).any(2)),),
    ),
    method(
        "all",
        lambda x, axes: x.all(_where_axes(axes), keepdims=True),
        reduction,
        lambda x, axes: x.all(axes, keepdim=True),
        ("all_over", "Tensor.all"),
        dtypes=DTYPES,
        special=True,
        result=always("bool"),
        records=False,
        errors=(_bad_axis(lambda x: Tensor(x).all(2)),),
    ),
    method(
        "cumsum",
        lambda x, axis: np.cumsum(x, axis),
        running,
        lambda x, axis: x.cumsum(axis),
        ("CumSum", "cumsum", "Tensor.cumsum"),
        dtypes=DTYPES,
        result=summed,
        magnitude=lambda x, axis: np.cumsum(np.abs(x), axis),
        errors=(
            _bad_axis(lambda x: Tensor(x).cumsum(2)),
            wrong("an axis that is no int", lambda x: x.cumsum(None), TypeError, "None"),
        ),
    ),
    # ------------------------------------------------------------ order
    method(
        "argsort",
        _order,
        ordering,
        lambda x, axis, descending: x.argsort(axis, descending),
        ("argsort", "Tensor.argsort"),
        dtypes=DTYPES,
        special=True,
        result=always("int64"),
        records=False,
        errors=(_bad_axis(lambda x: Tensor(x).argsort(2)),),
    ),
    method(
        "sort",
        _sorted,
        ordering,
        lambda x, axis, descending: x.sort(axis, descending).values,
        ("Tensor.sort",),
        dtypes=DTYPES,
        special=True,
        errors=(
            _bad_axis(lambda x: Tensor(x).sort(2)),
            wrong("no axes", lambda x: x.sort(), ValueError, "0 axes", shape=()),
        ),
    ),
    method(
        "topk",
        _largest,
        choosing_k,
        lambda x, k, axis, largest: x.topk(k, axis, largest).values,
        ("Tensor.topk",),
        dtypes=DTYPES,
        special=True,
        errors=(
            wrong("more than there are", lambda x: x.topk(4), ValueError, "4", "3"),
            wrong("fewer than none", lambda x: x.topk(-1), ValueError, "-1"),
            wrong("a number that is no int", lambda x: x.topk(2.0), TypeError, "2.0"),
        ),
    ),
    # ------------------------------------------------------------ by index
    method(
        "gather",
        _gathered,
        gathering,
        lambda x, index, axis: x.gather(axis, index),
        ("Gather", "gather", "gather_positions", "counted_from_front", "Tensor.gather"),
        dtypes=DTYPES,
        special=True,
        errors=(
            wrong("an index out of range", lambda x: x.gather(1, [[3]]), IndexError, "3"),
            wrong("an index far below 0", lambda x: x.gather(1, [[-4]]), IndexError, "-4"),
            wrong("float indices", lambda x: x.gather(1, [[1.0]]), TypeError, "float32"),
            wrong("an index with other axes", lambda x: x.gather(1, [1]), ValueError, "(2, 3)", "(1,)"),
            wrong("an index too long", lambda x: x.gather(1, [[0]] * 3), ValueError, "(2, 3)", "(3, 1)"),
            wrong("an axis out of range", lambda x: x.gather(2, [[1]]), ValueError, "2"),
        ),
    ),
    method(
        "index",
        lambda x, index: x[index],
        indices,
        lambda x, index: x[own_index(index, type(x.buffer))],
        ("AdvancedIndex", "flat_positions", "nonzero_positions"),
        dtypes=DTYPES,
        special=True,
        errors=(
            wrong("a position out of range", lambda x: x[[0, 2]], IndexError, "2"),
            wrong("a position far below 0", lambda x: x[:, [-4]], IndexError, "-4"),
            wrong("floats", lambda x: x[[0.5]], TypeError, "float32"),
            wrong("a text", lambda x: x["a"], TypeError, "'a'"),
            wrong("True", lambda x: x[True], IndexError, "True"),
            wrong("too many entries", lambda x: x[[0], 0, 0], IndexError, "3 axes", "(2, 3)"),
            wrong("two ellipses", lambda x: x[..., [0], ...], IndexError, "ellipsis"),
            wrong("arrays that do not broadcast", lambda x: x[[0, 1], [0, 1, 2]], ValueError, "(2,)", "(3,)"),
            wrong("a mask of another shape", lambda x: x[(x == 0)[:, :2]], IndexError, "(2, 2)", "(2, 3)"),
        ),
    ),
    method(
        "masked_fill",
        lambda x, mask, value: np.where(mask, value, x),
        masks,
        lambda x, mask, value: x.masked_fill(mask, value),
        ("Tensor.masked_fill",),
        dtypes=FLOATS,
        special=True,
        errors=(
            wrong("a mask of floats", lambda x: x.masked_fill(x, 0), TypeError, "float32"),
            wrong("a list", lambda x: x.masked_fill([True], 0), TypeError, "list"),
            wrong(
                "a mask with more axes",
                lambda x: x.masked_fill((x == 0).unsqueeze(0).tile((2, 1, 1)), 0),
                ValueError,
                "(2, 2, 3)",
            ),
            wrong("a text", lambda x: x.masked_fill(x == 0, "0"), TypeError, "str"),
        ),
    ),
    method(
        "nonzero",
        np.argwhere,
        lambda: shapes(min_dims=1, max_dims=3).map(lambda shape: Case((Slot(shape),))),
        lambda x: x.nonzero(),
        ("nonzero", "Tensor.nonzero"),
        dtypes=DTYPES,
        special=True,
        result=always("int64"),
        records=False,
        errors=(wrong("no axes", lambda x: x.nonzero(), ValueError, "()", shape=()),),
    ),
    method(
        "one_hot",
        lambda x, num_classes: np.eye(num_classes, dtype=np.int64)[x],
        class_ids,
        lambda x, num_classes: x.one_hot(num_classes),
        ("Tensor.one_hot",),
        dtypes=INTEGERS,
        result=always("int64"),
        records=False,
        errors=(
            wrong("floats", lambda x: x.one_hot(2), TypeError, "float32"),
            wrong("classes that are no int", lambda x: x.one_hot(2.5), TypeError, "2.5", dtype="int32"),
            wrong("fewer classes than none", lambda x: x.one_hot(-1), ValueError, "-1", dtype="int32"),
            Wrong("a class too many", lambda b: Tensor(b([0, 2])).one_hot(2), IndexError, ("2",)),
            Wrong("a class below 0", lambda b: Tensor(b([0, -1])).one_hot(), IndexError, ("-1",)),
        ),
    ),
    # ------------------------------------------------------------ layout
    method(
        "squeeze",
        lambda x, axis: np.squeeze(x, axis),
        squeezing,
        lambda x, axis: x.squeeze(axis),
        ("Tensor.squeeze",),
        dtypes=DTYPES,
        errors=(wrong("an axis of another size", lambda x: x.squeeze(1), ValueError, "axis 1", "(2, 3)"),),
    ),
    method(
        "unsqueeze",
        lambda x, axis: np.expand_dims(x, axis),
        unsqueezing,
        lambda x, axis: x.unsqueeze(axis),
        ("Tensor.unsqueeze",),
        dtypes=DTYPES,
        errors=(wrong("an axis out of range", lambda x: x.unsqueeze(3), ValueError, "3"),),
    ),
    method(
        "flatten",
        lambda x, start_axis, end_axis: (
            x.reshape(
                *x.shape[: start_axis % x.ndim],
                int(np.prod(x.shape[start_axis % x.ndim : end_axis + 1])),
                *x.shape[end_axis + 1 :],
            )
            if x.ndim
            else x.reshape(1)
        ),
        flattening,
        lambda x, start_axis, end_axis: x.flatten(start_axis, end_axis),
        ("Tensor.flatten",),
        dtypes=DTYPES,
        errors=(wrong("an end before the start", lambda x: x.flatten(1, 0), ValueError, "1", "0"),),
    ),
    method(
        "flip",
        lambda x, axes: np.flip(x, _where_axes(axes)),
        reduction,
        lambda x, axes: x.flip(axes),
        ("Tensor.flip",),
        dtypes=DTYPES,
        errors=(_bad_axis(lambda x: Tensor(x).flip(2)),),
    ),
    method(
        "roll",
        lambda x, shifts, axes: np.roll(x, shifts, axes),
        rolling,
        lambda x, shifts, axes: x.roll(shifts, axes),
        ("Tensor.roll",),
        dtypes=DTYPES,
        errors=(
            wrong("one shift for two axes", lambda x: x.roll(1, (0, 1)), ValueError, "1", "(0, 1)"),
            wrong("a shift that is no int", lambda x: x.roll(1.5, 0), TypeError, "1.5"),
            _bad_axis(lambda x: Tensor(x).roll(1, 2)),
        ),
    ),
    method(
        "tile",
        lambda x, repeats: np.tile(x, repeats),
        tiling,
        lambda x, repeats: x.tile(repeats),
        ("Tensor.tile",),
        dtypes=DTYPES,
        errors=(
            wrong("a negative number", lambda x: x.tile((1, -1)), ValueError, "-1"),
            wrong("a number that is no int", lambda x: x.tile(1.5), TypeError, "1.5"),
        ),
    ),
    method(
        "repeat",
        lambda x, repeats: np.tile(x, repeats),
        repeating,
        lambda x, repeats: x.repeat(*repeats),
        ("Tensor.repeat",),
        dtypes=DTYPES,
        errors=(
            wrong("fewer numbers than axes", lambda x: x.repeat(2), ValueError, "(2, 3)"),
            wrong("a number that is no int", lambda x: x.repeat(1.5), TypeError, "1.5"),
            wrong("a negative number", lambda x: x.repeat(1, -1), ValueError, "-1"),
        ),
    ),
    method(
        "repeat_interleave",
        lambda x, repeats, axis: np.repeat(x, repeats, axis),
        interleaving,
        lambda x, repeats, axis: x.repeat_interleave(repeats, axis),
        ("Tensor.repeat_interleave",),
        dtypes=DTYPES,
        errors=(wrong("a negative number", lambda x: x.repeat_interleave(-1), ValueError, "-1"),),
    ),
    method(
        "split",
        _part,
        splitting,
        lambda x, sizes, axis, part: x.split(sizes, axis)[part],
        ("Tensor.split",),
        dtypes=DTYPES,
        errors=(
            wrong("sizes that do not add up", lambda x: x.split([1, 1], 1), ValueError, "(1, 1)", "(2, 3)"),
            wrong("a negative size", lambda x: x.split([4, -1], 1), ValueError, "(4, -1)"),
            wrong("parts of nothing", lambda x: x.split(0), ValueError, "0"),
            wrong("a size that is no int", lambda x: x.split(1.0), TypeError, "1.0"),
        ),
    ),
    method(
        "chunk",
        _chunk,
        chunking,
        lambda x, chunks, axis, part: x.chunk(chunks, axis)[part],
        ("Tensor.chunk",),
        dtypes=DTYPES,
        errors=(
            wrong("no parts", lambda x: x.chunk(0), ValueError, "0"),
            wrong("a number that is no int", lambda x: x.chunk(1.0), TypeError, "1.0"),
        ),
    ),
    method(
        "stack",
        lambda *arrays, axis: np.stack(arrays, axis),
        stacking,
        lambda *tensors, axis: Tensor.stack(tensors, axis),
        ("Tensor.stack",),
        dtypes=DTYPES,
        errors=(
            Wrong("nothing", lambda b: Tensor.stack([]), ValueError, ("at least one",)),
            wrong("two shapes", lambda x: Tensor.stack([x, x[0]]), ValueError, "(2, 3)", "(3,)"),
            wrong("a list of lists", lambda x: Tensor.stack([x, [1.0]]), TypeError, "list"),
            wrong("an axis out of range", lambda x: Tensor.stack([x], 3), ValueError, "3"),
        ),
    ),
    method(
        "outer",
        np.multiply.outer,
        vectors,
        lambda x, y: x.outer(y),
        ("Tensor.outer",),
        dtypes=NUMBERS,
        mixed=True,
        errors=(
            wrong("a matrix", lambda x: x.outer(x), ValueError, "(2, 3)"),
            wrong("a list", lambda x: x[0].outer([1.0]), TypeError, "list"),
        ),
    ),
    method(
        "triu",
        lambda x, diagonal: np.triu(x, diagonal),
        triangle,
        lambda x, diagonal: x.triu(diagonal),
        ("Triu", "triu", "Tensor.triu"),
        dtypes=DTYPES,
        special=True,
        errors=(wrong("one axis", lambda x: x.triu(), ValueError, "(3,)", shape=(3,)),),
    ),
    method(
        "matrix transpose",
        np.transpose,
        lambda: shapes(min_dims=2, max_dims=2).map(lambda shape: Case((Slot(shape),))),
        lambda x: x.T,
        ("Tensor.T",),
        dtypes=DTYPES,
        errors=(wrong("three axes", lambda x: x.T, ValueError, "(1, 2, 3)", shape=(1, 2, 3)),),
    ),
]

# What has laws of its own, in test_method_laws
OWN_METHOD_LAWS = ("linspace", "eye", "Tensor.linspace", "Tensor.eye")
