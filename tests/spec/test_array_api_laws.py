"""The array API namespace says what NumPy's says, whose names are the standard's, on every backend.

Each function is called with drawn arrays in any layout, on both sides with the same arguments; values, dtypes
and shapes of all results agree. Signatures are compared in tests/test_array_api.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygpt_core import array_api as xp
from tinygpt_core import backends
from tinygpt_core.buffer import Buffer
from tinygpt_core.dtype import DType

from .strategies import (
    DTYPES,
    FLOATS,
    INTEGERS,
    NUMBERS,
    axes_of,
    broadcastable,
    lacks,
    make,
    operands,
    read,
    shapes,
    supported,
)
from .tolerances import assert_close

Draw = Callable[[Any], Any]


class Call(NamedTuple):
    """What a function is called with: operands, each a Buffer with its array, and options."""

    operands: list[Any]
    options: dict[str, Any] = {}  # noqa: RUF012  never changed
    as_sequence: bool = False


Cases = Callable[[Draw, type[Buffer]], Call]


def one(dtypes: tuple[str, ...], low: float = -6.0, high: float = 6.0, special: bool = False) -> Cases:
    def cases(draw: Draw, backend: type[Buffer]) -> Call:
        dtype = draw(st.sampled_from(supported(backend, dtypes)))
        return Call([draw(operands(backend, draw(shapes(max_dims=3)), dtype, low, high, special))])

    return cases


def two(dtypes: tuple[str, ...], low: float = -6.0, high: float = 6.0, special: bool = False) -> Cases:
    def cases(draw: Draw, backend: type[Buffer]) -> Call:
        dtype = draw(st.sampled_from(supported(backend, dtypes)))
        return Call(
            [draw(operands(backend, shape, dtype, low, high, special)) for shape in draw(broadcastable())]
        )

    return cases


def reduced(
    dtypes: tuple[str, ...], least: int = 0, low: float = -6.0, high: float = 6.0, **more: Any
) -> Cases:
    def cases(draw: Draw, backend: type[Buffer]) -> Call:
        dtype = draw(st.sampled_from(supported(backend, dtypes)))
        shape = draw(shapes(max_dims=3, min_side=least))
        axes = draw(axes_of(len(shape)))
        made = draw(operands(backend, shape, dtype, low, high))
        return Call([made], {"axis": axes, "keepdims": draw(st.booleans()), **more})

    return cases


def along(dtypes: tuple[str, ...], least: int = 0, none: bool = False, **options: Any) -> Cases:
    """With an axis, and options that are drawn where they are strategies."""

    def cases(draw: Draw, backend: type[Buffer]) -> Call:
        dtype = draw(st.sampled_from(supported(backend, dtypes)))
        shape = draw(shapes(min_dims=1, max_dims=3, min_side=least))
        axes = list(range(-len(shape), len(shape)))
        axis = draw(st.sampled_from([None, *axes] if none else axes))
        drawn = {name: draw(value) if hasattr(value, "map") else value for name, value in options.items()}
        return Call([draw(operands(backend, shape, dtype))], {"axis": axis, **drawn})

    return cases


def joined(draw: Draw, backend: type[Buffer]) -> Call:
    shape = draw(shapes(min_dims=1, max_dims=3))
    parts = [
        draw(operands(backend, shape, draw(st.sampled_from(supported(backend, DTYPES))))) for _ in range(2)
    ]
    return Call(parts, {"axis": draw(st.integers(-len(shape), len(shape) - 1))}, True)


def reshaped(draw: Draw, backend: type[Buffer]) -> Call:
    shape = draw(shapes(max_dims=3))
    return Call([draw(operands(backend, shape, "float32"))], {"shape": (-1,) if math.prod(shape) else (0, 2)})


def permuted(draw: Draw, backend: type[Buffer]) -> Call:
    shape = draw(shapes(max_dims=3))
    return Call(
        [draw(operands(backend, shape, "float32"))], {"axes": tuple(draw(st.permutations(range(len(shape)))))}
    )


def moved(draw: Draw, backend: type[Buffer]) -> Call:
    shape = draw(shapes(min_dims=1, max_dims=4))
    count = draw(st.integers(1, len(shape)))
    source, place = (tuple(draw(st.permutations(range(len(shape))))[:count]) for _ in range(2))
    return Call([draw(operands(backend, shape, "float32")), source, place])


def matrices(draw: Draw, backend: type[Buffer]) -> Call:
    first, second = draw(broadcastable(max_dims=1))
    n, k, m = (draw(st.integers(1, 3)) for _ in range(3))
    dtype = draw(st.sampled_from(supported(backend, NUMBERS)))
    return Call(
        [draw(operands(backend, (*first, n, k), dtype)), draw(operands(backend, (*second, k, m), dtype))]
    )


def contracted(draw: Draw, backend: type[Buffer]) -> Call:
    count = draw(st.integers(0, 2))
    inner = tuple(draw(st.integers(1, 3)) for _ in range(count))
    left, right = draw(shapes(max_dims=1)), draw(shapes(max_dims=1))
    return Call(
        [draw(operands(backend, left + inner, "float64")), draw(operands(backend, inner + right, "float64"))],
        {"axes": count},
    )


def dotted(draw: Draw, backend: type[Buffer]) -> Call:
    shape = draw(shapes(min_dims=1, max_dims=3, min_side=1))
    return Call([draw(operands(backend, shape, "float64")), draw(operands(backend, shape[-1:], "float64"))])


def taken(draw: Draw, backend: type[Buffer]) -> Call:
    shape = draw(shapes(min_dims=1, max_dims=3, min_side=1))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    indices = draw(operands(backend, draw(shapes(1, 1)), "int64", -shape[axis], shape[axis] - 1))
    return Call([draw(operands(backend, shape, "float32")), indices], {"axis": axis})


def taken_along(draw: Draw, backend: type[Buffer]) -> Call:
    shape = draw(shapes(min_dims=1, max_dims=3, min_side=1))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    index = list(shape)
    index[axis] = draw(st.integers(0, 3))
    indices = draw(operands(backend, tuple(index), "int64", -shape[axis], shape[axis] - 1))
    return Call([draw(operands(backend, shape, "float32")), indices], {"axis": axis})


def chosen(draw: Draw, backend: type[Buffer]) -> Call:
    condition, first, second = draw(broadcastable(3))
    return Call(
        [
            draw(operands(backend, condition, "bool")),
            draw(operands(backend, first, "float32")),
            draw(operands(backend, second, "float32")),
        ]
    )


def rolled(draw: Draw, backend: type[Buffer]) -> Call:
    shape = draw(shapes(min_dims=1, max_dims=3))
    axis = draw(st.sampled_from([None, 0, -1, tuple(range(len(shape)))]))
    return Call([draw(operands(backend, shape, "int64")), draw(st.integers(-4, 4))], {"axis": axis})


def tiled(draw: Draw, backend: type[Buffer]) -> Call:
    counts = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
    return Call([draw(operands(backend, draw(shapes(max_dims=2)), "float32")), counts])


def repeated(draw: Draw, backend: type[Buffer]) -> Call:
    shape = draw(shapes(min_dims=1, max_dims=2))
    axis = draw(st.sampled_from([None, 0, -1]))
    count: Any = draw(st.integers(0, 3))
    if axis is not None and draw(st.booleans()):
        count = draw(operands(backend, (shape[axis],), "int64", 0, 3))
    return Call([draw(operands(backend, shape, "float32")), count], {"axis": axis})


def squeezed(draw: Draw, backend: type[Buffer]) -> Call:
    shape = draw(shapes(max_dims=2))
    return Call(
        [draw(operands(backend, (1, *shape, 1), "float32"))],
        {"axis": draw(st.sampled_from([0, -1, (0, -1)]))},
    )


def limited(draw: Draw, backend: type[Buffer]) -> Call:
    shape, low = draw(broadcastable(2))
    shape = np.broadcast_shapes(shape, low)
    x, least = draw(operands(backend, shape, "float32")), draw(operands(backend, low, "float32"))
    return Call([x, draw(st.sampled_from([least, -1.0, None])), draw(st.sampled_from([2.0, None]))])


def grid(draw: Draw, backend: type[Buffer]) -> Call:
    count = draw(st.integers(1, 3))
    lines = [draw(operands(backend, (draw(st.integers(0, 3)),), "float32")) for _ in range(count)]
    return Call(lines, {"indexing": draw(st.sampled_from(["xy", "ij"]))})


CASES: dict[str, Cases] = {
    **dict.fromkeys(["abs", "negative", "sign", "square", "positive"], one(NUMBERS)),
    **dict.fromkeys(
        ["ceil", "floor", "trunc", "round", "isfinite", "isinf", "isnan"], one(FLOATS, special=True)
    ),
    **dict.fromkeys(["cos", "sin", "tanh", "cosh", "sinh", "exp", "expm1"], one(FLOATS)),
    **dict.fromkeys(["signbit"], one(FLOATS, special=True)),
    **dict.fromkeys(["log", "log10", "log2", "log1p", "sqrt"], one(FLOATS, 0.0, 60.0)),
    "reciprocal": one(FLOATS),
    "tan": one(FLOATS, -1.5, 1.5),
    **dict.fromkeys(["logical_not", "bitwise_invert"], one(("bool",))),
    **dict.fromkeys(["add", "subtract", "multiply"], two(NUMBERS)),
    **dict.fromkeys(["divide", "hypot", "logaddexp", "copysign"], two(FLOATS)),
    **dict.fromkeys(
        ["equal", "not_equal", "less", "less_equal", "greater", "greater_equal"], two(NUMBERS, special=True)
    ),
    **dict.fromkeys(["maximum", "minimum"], two(NUMBERS, special=True)),
    **dict.fromkeys(["floor_divide", "remainder"], two(NUMBERS, 1.0, 6.0)),
    "pow": two(NUMBERS, 1.0, 3.0),
    **dict.fromkeys(
        ["logical_and", "logical_or", "logical_xor", "bitwise_and", "bitwise_or", "bitwise_xor"],
        two(("bool",)),
    ),
    "clip": limited,
    "where": chosen,
    **dict.fromkeys(["all", "any", "count_nonzero"], reduced(DTYPES)),
    **dict.fromkeys(["max", "min", "mean"], reduced(NUMBERS, 1)),
    "sum": reduced(NUMBERS),
    "prod": reduced(NUMBERS, 0, -2.0, 2.0),
    **dict.fromkeys(["std", "var"], reduced(FLOATS, 1, correction=0)),
    **dict.fromkeys(["argmax", "argmin"], along(NUMBERS, 1, True, keepdims=st.booleans())),
    "argsort": along(NUMBERS, stable=True),
    "sort": along(NUMBERS, stable=True),
    "cumulative_sum": along(NUMBERS, include_initial=st.booleans()),
    "diff": along(DTYPES, 1, n=st.integers(0, 2)),
    "flip": along(DTYPES, none=True),
    "unstack": along(DTYPES),
    "expand_dims": along(DTYPES),
    "nonzero": lambda draw, backend: Call([draw(operands(backend, draw(shapes(1, 3)), "int64", -1, 1))]),
    "concat": joined,
    "stack": joined,
    "broadcast_arrays": two(NUMBERS),
    "reshape": reshaped,
    "permute_dims": permuted,
    "moveaxis": moved,
    "matrix_transpose": lambda draw, backend: Call([draw(operands(backend, draw(shapes(2, 4)), "float32"))]),
    "matmul": matrices,
    "tensordot": contracted,
    "vecdot": dotted,
    "take": taken,
    "take_along_axis": taken_along,
    "roll": rolled,
    "tile": tiled,
    "repeat": repeated,
    "squeeze": squeezed,
    "meshgrid": grid,
    **dict.fromkeys(
        ("tril", "triu"),
        lambda draw, backend: Call(
            [draw(operands(backend, draw(shapes(2, 3)), "int64"))], {"k": draw(st.integers(-2, 2))}
        ),
    ),
    **dict.fromkeys(["ones_like", "zeros_like"], one(DTYPES)),
}
# What has tests of its own below, or makes no array of arrays
OTHERS = {
    "asarray",
    "arange",
    "empty",
    "empty_like",
    "eye",
    "from_dlpack",
    "full",
    "full_like",
    "linspace",
    "ones",
    "zeros",
    "broadcast_to",
    "astype",
    "can_cast",
    "finfo",
    "iinfo",
    "isdtype",
    "result_type",
    "bool",
    "int32",
    "int64",
    "float32",
    "float64",
    "e",
    "inf",
    "nan",
    "newaxis",
    "pi",
}


@pytest.mark.parametrize("name", sorted(CASES))
@given(data=st.data())
def test_the_namespace_says_what_numpys_does(backend: type[Buffer], name: str, data: st.DataObject) -> None:
    call = CASES[name](data.draw, backend)
    options = call.options
    ours_in = [getattr(value, "buffer", value) for value in call.operands]
    theirs_in = [getattr(value, "array", value) for value in call.operands]
    with np.errstate(all="ignore"):
        theirs = (
            getattr(np, name)(theirs_in, **options)
            if call.as_sequence
            else getattr(np, name)(*theirs_in, **options)
        )
    ours = (
        getattr(xp, name)(ours_in, **options) if call.as_sequence else getattr(xp, name)(*ours_in, **options)
    )
    if isinstance(theirs, (tuple, list)):
        assert isinstance(ours, tuple) and len(ours) == len(theirs)
    pairs = zip(ours, theirs, strict=True) if isinstance(theirs, (tuple, list)) else [(ours, theirs)]
    for mine, their in pairs:
        their = np.asarray(their)
        assert isinstance(mine, backend) and mine.dtype.name == their.dtype.name, (mine, their)
        magnitude = 64.0 if name in ("sum", "cumulative_sum", "matmul", "tensordot", "vecdot", "var") else 8.0
        assert_close(read(mine), their, mine.dtype.name, magnitude, f"{name} {options}")


def test_every_name_has_a_law(backend: type[Buffer]) -> None:
    public = {name for name in vars(xp) if not name.startswith("_")}
    imported = {
        "annotations",
        "builtins",
        "math",
        "Callable",
        "Sequence",
        "Any",
        "backends",
        "functions",
        "Buffer",
    }
    imported |= {
        "DType",
        "Tensor",
        "LEFT_OUT",
        "as_number",
        "check_dtype",
        "promote",
        "promote_scalar",
        "numel",
    }
    imported |= {"broadcast_shapes", "check_int", "normalize_axes", "normalize_axis", "without_axes"}
    assert public - imported == set(CASES) | OTHERS


def test_creation(backend: type[Buffer]) -> None:
    assert read(xp.arange(5)).tolist() == [0, 1, 2, 3, 4] and xp.arange(5).dtype is DType.int64
    assert read(xp.arange(1, 2, 0.25)).tolist() == [1.0, 1.25, 1.5, 1.75]
    assert xp.asarray([1, 2]).dtype is DType.int64 and xp.asarray([1.0]).dtype is DType.float32
    assert xp.asarray([1, 2], dtype=xp.float64).to_python() == [1.0, 2.0]
    x = xp.asarray([[True]])
    assert xp.asarray(x) is x and xp.asarray(x, copy=True) is not x
    assert xp.empty((2, 0)).shape == (2, 0) and xp.empty_like(x).dtype is DType.bool
    assert xp.eye(2, 3, k=1).to_python() == [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    assert xp.full((2,), 3).dtype is DType.int64 and xp.full((), True).dtype is DType.bool
    assert xp.full_like(xp.zeros(2), 5).to_python() == [5.0, 5.0]
    assert xp.linspace(0, 1, 4, endpoint=False).to_python() == [0.0, 0.25, 0.5, 0.75]
    assert xp.ones((1,), dtype=xp.int32).to_python() == [1] and xp.zeros(1).dtype is DType.float32
    assert xp.broadcast_to(xp.asarray([1, 2]), (2, 2)).to_python() == [[1, 2], [1, 2]]
    assert xp.zeros((), device=backend.backend).backend == backend.backend
    if not lacks(backend, "host_memory"):
        assert xp.asarray(np.arange(3)).to_python() == [0, 1, 2]
    assert xp.asarray([1, 2.5]).dtype is DType.float32 and xp.asarray([[2**40]]).dtype is DType.int64
    assert xp.asarray([np.int32(1)]).dtype is DType.int64 and xp.asarray([]).dtype is DType.float32
    with pytest.raises(TypeError, match="bool and int"):
        xp.asarray([True, 2])


def test_when_an_array_is_copied(backend: type[Buffer]) -> None:
    """None copies where nothing else will do, True always, False never: then it is an error."""
    x = xp.asarray([1.0, 2.0])
    assert xp.asarray(x) is x and xp.asarray(x, copy=False) is x and xp.asarray(x, dtype=xp.float32) is x
    for made in (xp.asarray(x, copy=True), xp.asarray(x, dtype=xp.float64), xp.astype(x, xp.float32)):
        made[0] = 9.0
        assert x.to_python() == [1.0, 2.0]
    for call in (
        lambda: xp.asarray(x, dtype=xp.float64, copy=False),
        lambda: xp.asarray([1.0], copy=False),
        lambda: xp.asarray(1.0, copy=False),
    ):
        with pytest.raises(ValueError, match="copy=False"):
            call()
    if lacks(backend, "host_memory"):
        return
    theirs = np.array([1.0, 2.0])
    shared, copied = xp.asarray(theirs), xp.asarray(theirs, copy=True)
    converted = xp.asarray(theirs, dtype=xp.float32)
    theirs[0] = 9.0
    assert copied.to_python() == converted.to_python() == [1.0, 2.0]
    if shared.to_python() == [9.0, 2.0]:
        assert shared.shares_memory(theirs) and not copied.shares_memory(theirs)
        theirs[1] = 7.0
        again = xp.asarray(theirs, copy=False)
        theirs[0] = 3.0
        assert again.to_python() == [3.0, 7.0]
    else:
        with pytest.raises(ValueError, match="copy=False"):
            xp.asarray(theirs, copy=False)


def test_an_array_stays_on_its_device(backend: type[Buffer]) -> None:
    """Without a device, whatever backend is in use; on another one it is a copy."""
    x = xp.asarray([1.0, 2.0])
    other = next((name for name in ("python", "numpy") if name != backend.backend), "")
    if not other or backends.why_not(other):
        return
    with backends.use(other):
        assert xp.asarray(x) is x and xp.from_dlpack(x) is x and xp.asarray(x, copy=True).backend == x.backend
        assert xp.zeros_like(x).backend == x.backend and xp.asarray([1.0]).backend == other
    moved = xp.asarray(x, device=other)
    assert moved.backend == other and moved.to_python() == [1.0, 2.0]
    assert xp.asarray(x, device=backend.backend, copy=False) is x
    with pytest.raises(ValueError, match="copy=False"):
        xp.asarray(x, device=other, copy=False)


SPECIAL: dict[str, Callable[..., float]] = {
    "cosh": math.cosh,
    "sinh": math.sinh,
    "hypot": math.hypot,
    "logaddexp": lambda a, b: float(np.logaddexp(a, b)),
    "copysign": math.copysign,
}


@pytest.mark.parametrize("name", SPECIAL)
@pytest.mark.parametrize("dtype", FLOATS)
def test_special_values_of_what_is_composed(backend: type[Buffer], name: str, dtype: str) -> None:
    """-0, numbers below the normal ones, the largest, infinities and NaN, with their signs; and few units in
    the last place beside them.
    """
    if dtype not in supported(backend, FLOATS):
        return
    info = np.finfo(dtype)
    values = [
        0.0,
        1.0,
        1e-3,
        0.3,
        40.0,
        math.log(info.max) * 0.999,
        float(info.tiny),
        float(info.max),
        math.inf,
    ]
    values += [float(info.smallest_subnormal), math.nan]
    numbers = np.array([sign * v for v in values for sign in (1.0, -1.0) if v == v or sign > 0], dtype)
    function = SPECIAL[name]
    if name in ("cosh", "sinh"):
        pairs: Any = [(x,) for x in numbers]
    else:
        pairs = [(x, y) for x in numbers for y in numbers]
    columns = [make(backend, np.array(column, dtype)) for column in zip(*pairs, strict=True)]
    found = read(getattr(xp, name)(*columns))
    for pair, ours in zip(pairs, found.tolist(), strict=True):
        try:
            with np.errstate(all="ignore"):
                exact = function(*map(float, pair))
        except OverflowError:
            exact = math.copysign(math.inf, float(pair[0])) if name == "sinh" else math.inf
        with np.errstate(all="ignore"):
            theirs = float(np.array(exact).astype(dtype))
        what = f"{name}{tuple(map(float, pair))} in {dtype}: {ours!r}, not {theirs!r}"
        if not math.isfinite(theirs) or theirs == 0.0:
            assert repr(ours) == repr(theirs), what
        elif abs(theirs) < 0.999 * info.max:
            room = 8 * float(info.eps) * abs(theirs) + 2 * float(info.smallest_subnormal)
            # Of two that cancel, what is left is as right as they are
            room += 4 * float(info.eps) * max(map(abs, map(float, pair))) if name == "logaddexp" else 0.0
            assert abs(ours - theirs) <= room and math.copysign(1.0, ours) == math.copysign(1.0, theirs), what


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("base", [2, 10])
def test_logarithms_to_a_base(backend: type[Buffer], base: int, dtype: str) -> None:
    """Exact of every power that a dtype has, and as right far away from 1 as near it: beside a power, too."""
    if dtype not in supported(backend, FLOATS):
        return
    info = np.finfo(dtype)
    compute, reference = (xp.log2, math.log2) if base == 2 else (xp.log10, math.log10)
    least = int(math.log(float(info.tiny), base)) + 1
    exponents = range(least, (int(info.maxexp) if base == 2 else int(math.log10(float(info.max))) + 1))
    powers = np.array([float(base) ** k for k in exponents], dtype)
    is_exact = [p == float(base) ** k for p, k in zip(powers.tolist(), exponents, strict=True)]
    found = read(compute(make(backend, powers))).tolist()
    for k, ours, exact in zip(exponents, found, is_exact, strict=True):
        assert not exact or ours == k, (base, k, ours)
    one = np.array(1.0, dtype)
    with np.errstate(all="ignore"):
        beside = np.concatenate([powers * (one + n * info.eps) for n in (1, 2, 3, 40, 900)])
    beside = beside[np.isfinite(beside)]
    for x, ours in zip(beside.tolist(), read(compute(make(backend, beside))).tolist(), strict=True):
        assert abs(ours - reference(x)) <= 4 * float(info.eps) * abs(reference(x)), (base, x, ours)


def test_dtypes(backend: type[Buffer]) -> None:
    x = xp.zeros(2)
    assert xp.astype(x, xp.float32, copy=False) is x and xp.astype(x, xp.float32) is not x
    assert xp.astype(xp.asarray([1.5]), xp.int32).to_python() == [1]
    assert xp.can_cast(xp.int32, xp.float64) and not xp.can_cast(xp.float64, xp.float32)
    assert (
        xp.result_type(x, 1, xp.int32) is DType.float64 and xp.result_type(xp.int32, xp.int64) is DType.int64
    )
    assert xp.isdtype(xp.int32, "integral") and not xp.isdtype(xp.bool, ("numeric", xp.int32))
    for name in FLOATS:
        ours, theirs = xp.finfo(getattr(xp, name)), np.finfo(name)
        for attribute in ("bits", "eps", "max", "min", "smallest_normal"):
            assert getattr(ours, attribute) == float(getattr(theirs, attribute)), attribute
    for name in INTEGERS:
        whole, limits = xp.iinfo(getattr(xp, name)), np.iinfo(name)
        assert (whole.bits, whole.max, whole.min) == (limits.bits, limits.max, limits.min)


def test_what_an_array_has(backend: type[Buffer]) -> None:
    """The attributes and operators of the standard that Buffer has under another name, or for its sake."""
    x = xp.asarray([[1, -2, 3]])
    assert x.__array_namespace__() is xp and x.size == 3 and x.device == backend.backend
    assert x.T.shape == x.mT.shape == (3, 1) and x.to_device(backend.backend) is x
    assert abs(x).to_python() == [[1, 2, 3]] and (+x).to_python() == x.to_python() and +x is not x
    assert [10, 20, 30][xp.asarray(1)] == 20  # type: ignore[call-overload]
    info = xp.__array_namespace_info__()
    assert info.default_device() == backend.backend and backend.backend in info.devices()
    assert info.dtypes(kind="real floating") == {"float32": xp.float32, "float64": xp.float64}
    assert info.default_dtypes()["integral"] is xp.int64 and info.capabilities()["boolean indexing"] is False


def test_what_is_wrong_is_said(backend: type[Buffer]) -> None:
    x = xp.zeros((2, 3))
    for exception, text, call in [
        (ValueError, "1999.01", lambda: x.__array_namespace__(api_version="1999.01")),
        (TypeError, "float32", lambda: x.__index__()),
        (TypeError, "bool", lambda: abs(x == 0)),
        (ValueError, "(2, 3, 4)", lambda: xp.zeros((2, 3, 4)).T),
        (ValueError, "copy=False", lambda: xp.asarray([1], copy=False)),
        (ValueError, "copy=False", lambda: xp.reshape(x.T, (6,), copy=False)),
        (ValueError, "complex", lambda: xp.isdtype(xp.bool, "complex")),
        (ValueError, "at least one", lambda: xp.result_type(1, 2)),
        (TypeError, "float", lambda: xp.iinfo(xp.float32)),
        (TypeError, "int", lambda: xp.finfo(xp.int32)),
        (IndexError, "3", lambda: xp.expand_dims(x, axis=3)),
        (ValueError, "(2, 3)", lambda: xp.take(x, xp.asarray([0]))),
        (ValueError, "(2, 3)", lambda: xp.cumulative_sum(x)),
        (ValueError, "indexing", lambda: xp.meshgrid(x[0], indexing="ji")),
        (ValueError, "(0, 1)", lambda: xp.moveaxis(x, 0, (0, 1))),
        (ValueError, "(2, 3)", lambda: xp.tensordot(x, x, axes=1)),
        (ValueError, "-1", lambda: xp.diff(x, n=-1)),
        (ValueError, "-1", lambda: xp.linspace(0, 1, -1)),
        (ValueError, "-1", lambda: xp.linspace(0, 1, -1, endpoint=False)),
        (TypeError, "2.5", lambda: xp.linspace(0, 1, 2.5, endpoint=False)),
        (TypeError, "1.5", lambda: xp.repeat(x, 1.5)),
        (ValueError, "-1", lambda: xp.repeat(x, -1)),
        (ValueError, "-2", lambda: xp.repeat(x[0], xp.asarray([1, -2, 0]))),
        (TypeError, "float32", lambda: xp.repeat(x[0], xp.asarray([1.0, 2.0, 0.0]))),
        (TypeError, "str", lambda: xp.maximum(x, "a")),
        (TypeError, "str", lambda: xp.minimum(x, "a")),
        (ValueError, "(0, 3)", lambda: xp.mean(xp.zeros((0, 3)), axis=0)),
        (TypeError, "list", lambda: xp.full((2,), [1])),
        (TypeError, "array", lambda: xp.add(1, 2)),
    ]:
        with pytest.raises(exception) as caught:
            call()  # type: ignore[no-untyped-call]
        assert text in str(caught.value), (text, caught.value)
