"""Laws of a Buffer that no row of the table can say: making and reading one, views that share storage,
assignment, dtypes.
"""

from __future__ import annotations

import copy
import pickle
import warnings
from array import array
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygpt_core import backends
from tinygpt_core.buffer import Buffer
from tinygpt_core.dtype import DType
from tinygpt_core.random import Key
from tinygpt_core.shape import inverse_permutation

from .strategies import (
    DTYPES,
    FLOATS,
    INTEGERS,
    NUMBERS,
    arrays,
    basic_indices,
    broadcastable,
    lacks,
    layouts,
    make,
    operands,
    read,
    shapes,
    supported,
)
from .tolerances import assert_close

DEFAULTS: dict[type, np.dtype[Any]] = {
    bool: np.dtype("bool"),
    int: np.dtype("int32"),
    float: np.dtype("float32"),
}


def same(first: np.ndarray, second: np.ndarray) -> bool:
    return first.shape == second.shape and np.array_equal(first, second, equal_nan=first.dtype.kind == "f")


# ---------------------------------------------------------------- making and reading


@given(data=st.data())
def test_nested_lists_there_and_back(backend: type[Buffer], data: st.DataObject) -> None:
    """Buffer(lists, dtype) has the lists' shape and elements, in C order; to_python, to_array, iteration and
    len agree with NumPy.
    """
    dtype = data.draw(st.sampled_from(supported(backend, DTYPES)))
    values = data.draw(shapes().flatmap(lambda shape: arrays(dtype, shape, special=True)))
    # Lists do not say what lies behind an axis of size 0.
    expected = np.array(values.tolist(), dtype)
    buffer = backend(values.tolist(), DType.from_name(dtype))
    assert type(buffer) is backend and buffer.dtype.name == dtype
    assert (buffer.shape, buffer.ndim, buffer.numel) == (expected.shape, expected.ndim, expected.size)
    assert same(read(buffer), expected)
    assert same(np.array(buffer.to_python(), dtype), expected)
    if not buffer.ndim:
        assert type(buffer.to_python()) is type(expected.item())
    else:
        assert len(buffer) == len(expected) == len(list(buffer))
        for i, (row, wanted) in enumerate(zip(buffer, expected, strict=True)):
            assert same(read(row), wanted), f"row {i} is {read(row)}, not {wanted}"


@given(data=st.data())
def test_to_python_keeps_the_shape(backend: type[Buffer], data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(supported(backend, DTYPES)))
    shape = data.draw(shapes())
    made = data.draw(operands(backend, shape, dtype, special=True))
    assert repr(made.buffer.to_python()) == repr(made.array.tolist())
    if made.array.size == 1:
        assert repr(made.buffer.item()) == repr(made.array.item())
        assert repr(float(made.buffer)) == repr(float(made.array.reshape(())))
        assert bool(made.buffer) == bool(made.array)
    else:
        for convert in (Buffer.item, float, int, bool):
            with pytest.raises(ValueError, match="one element"):
                convert(made.buffer)


@pytest.mark.parametrize(
    "value", [True, 3, -1.5, [1, 2], [[1.0], [2.0]], (True, False), [], [[], []]], ids=repr
)
def test_a_dtype_is_deduced(backend: type[Buffer], value: Any) -> None:
    """bool, int and float become bool, int32 and float32; no elements become float32."""
    leaf = value
    while isinstance(leaf, (list, tuple)) and leaf:
        leaf = leaf[0]
    expected = "float32" if isinstance(leaf, (list, tuple)) else DEFAULTS[type(leaf)].name
    buffer = backend(value)
    assert buffer.dtype.name == expected
    assert buffer.shape == np.array(value).shape


def test_large_ints_become_int64(backend: type[Buffer]) -> None:
    assert backend([2**40, 1]).dtype is DType.int64 and backend([2**40, 1]).to_python() == [2**40, 1]
    assert backend([2**31 - 1, -(2**31)]).dtype is DType.int32


@pytest.mark.parametrize(
    "data, exception, names",
    [
        ([[1, 2], [3]], ValueError, ["dimension 1", "2", "1"]),
        ([[1, 2], 3], (ValueError, TypeError), ["dimension 1", "3"]),
        ([[1], [[2]]], (ValueError, TypeError), []),
        ([1, [2]], (ValueError, TypeError), ["dimension"]),
        ([1, 2.0], TypeError, ["int", "float"]),
        ([True, 1], TypeError, ["bool", "int"]),
        (["a"], TypeError, ["str"]),
        (None, TypeError, ["None"]),
        ([1 + 2j], TypeError, ["complex"]),
    ],
    ids=repr,
)
def test_what_is_no_array_is_refused(
    backend: type[Buffer], data: Any, exception: Any, names: list[str]
) -> None:
    with pytest.raises(exception) as caught:
        backend(data)
    for name in names:
        assert name in str(caught.value)


def test_numbers_that_do_not_fit_are_refused(backend: type[Buffer]) -> None:
    with pytest.raises((OverflowError, ValueError)):
        backend([2**31], DType.int32)
    with pytest.raises((ValueError, TypeError)):
        backend([float("nan")], DType.int32)
    with pytest.raises(TypeError, match="float32"):
        backend([1.0], "float32")  # type: ignore[arg-type]


@given(data=st.data())
def test_full_zeros_ones(backend: type[Buffer], data: st.DataObject) -> None:
    shape, dtype = data.draw(shapes()), data.draw(st.sampled_from(supported(backend, DTYPES)))
    kind = DType.from_name(dtype)
    assert same(read(backend.zeros(shape, kind)), np.zeros(shape, dtype))
    assert same(read(backend.ones(shape, kind)), np.ones(shape, dtype))
    assert same(read(backend.full(shape, 3, kind)), np.full(shape, 3, dtype))
    full = backend.full(shape, 0, kind)
    if full.numel:  # each element has a place of its own
        full[...] = 1
        assert full.sum().item() == full.numel
    assert backend.zeros(3).shape == (3,)
    assert backend.full((), 0.1).dtype is DType.float32 and backend.full((), 1).dtype is DType.int32


@pytest.mark.parametrize("shape", [(-1,), (2, -3), "ab", (1.5,), None], ids=repr)
def test_bad_shapes_are_refused(backend: type[Buffer], shape: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        backend.zeros(shape)


@given(start=st.integers(-9, 9), stop=st.integers(-9, 9), step=st.sampled_from([1, 2, 3, -1, -2]))
def test_arange_of_integers(backend: type[Buffer], start: int, stop: int, step: int) -> None:
    assert backend.arange(start, stop, step).to_python() == list(range(start, stop, step))
    assert backend.arange(start, stop, step).dtype is DType.int32
    assert backend.arange(max(stop, 0)).to_python() == list(range(max(stop, 0)))
    assert backend.arange(start, stop, step, DType.float64).to_python() == [
        float(i) for i in range(start, stop, step)
    ]


def test_arange_of_floats(backend: type[Buffer]) -> None:
    assert_close(read(backend.arange(0.0, 1.0, 0.25)), np.arange(0.0, 1.0, 0.25), "float32")
    assert backend.arange(0, 1, 0.3).shape == (4,) and backend.arange(0, 1, 0.3).dtype is DType.float32
    with pytest.raises(ValueError, match="zero"):
        backend.arange(0, 3, 0)


def test_from_array_checks_what_it_takes(backend: type[Buffer]) -> None:
    buffer = backend.from_array(array("f", range(6)), (2, 3), DType.float32)
    assert buffer.to_python() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    with pytest.raises(ValueError, match=r"5.*\(2, 3\)"):
        backend.from_array(array("f", range(5)), (2, 3), DType.float32)
    with pytest.raises(TypeError, match="float32"):
        backend.from_array(array("d", range(6)), (2, 3), DType.float32)


@given(data=st.data())
def test_storage_stride_and_offset_say_where_elements_lie(backend: type[Buffer], data: st.DataObject) -> None:
    """Element (i, j, …) is at offset + i stride_0 + j stride_1 + … of memoryview(buffer.data), for every
    view.
    """
    dtype = data.draw(st.sampled_from(supported(backend, NUMBERS)))
    made = data.draw(operands(backend, data.draw(shapes(max_dims=3)), dtype))
    try:
        view = memoryview(made.buffer.data)
    except TypeError:  # storage far from the host (a GPU) has no memory to look at; its laws are the others
        assert "host_memory" in getattr(backend, "lacks", {}), (
            "buffer.data has no buffer protocol, and no lack of host_memory is declared"
        )
        return
    flat = np.frombuffer(view.cast("B"), dtype)
    for where in np.ndindex(made.array.shape):
        position = made.buffer.offset + sum(
            i * step for i, step in zip(where, made.buffer.stride, strict=True)
        )
        assert flat[position] == made.array[where]


@given(data=st.data())
def test_contiguous_is_what_numpy_says(backend: type[Buffer], data: st.DataObject) -> None:
    layout = data.draw(layouts(data.draw(shapes())))
    view = layout.view(make(backend, np.zeros(layout.base, np.float32)))
    assert view.is_contiguous() == layout.view(np.zeros(layout.base, np.float32)).flags.c_contiguous
    assert view.copy().is_contiguous()


def test_copies_and_moves(backend: type[Buffer]) -> None:
    buffer = backend([[1.0, 2.0], [3.0, 4.0]])
    for other in (buffer.copy(), copy.deepcopy(buffer), buffer.cast(DType.float32), buffer.float()):
        assert other.dtype is DType.float32
        other[0, 0] = 9.0
        assert buffer.to_python() == [[1.0, 2.0], [3.0, 4.0]], "a copy shares storage"
    assert buffer.to(backend.backend) is buffer
    there = buffer.transpose(0, 1).to("python")
    assert there.backend == "python" and there.to_python() == [[1.0, 3.0], [2.0, 4.0]]
    with pytest.raises(ValueError, match="nowhere"):
        buffer.to("nowhere")


def test_operands_of_two_backends_are_refused(backend: type[Buffer]) -> None:
    from .minimal import MinimalBuffer
    from .plugin import resolve

    name = "minimal" if backend.backend != "minimal" else "python"
    other = resolve(name)([1.0, 2.0])
    assert name == "python" or type(other).__name__ == MinimalBuffer.__name__
    ours = backend([1.0, 2.0])
    for call in (
        lambda: ours + other,
        lambda: ours == other,
        lambda: backend.concatenate([ours, other]),
        lambda: ours.assign(other),
    ):
        with pytest.raises(TypeError) as caught:
            call()
        assert backends.get("python").backend in str(caught.value) or name in str(caught.value)


# ---------------------------------------------------------------- dtypes


@given(data=st.data())
def test_casts(backend: type[Buffer], data: st.DataObject) -> None:
    """Floats are truncated to integers, anything but 0 is True, float32 is rounded to; as NumPy does it."""
    source, target = (data.draw(st.sampled_from(supported(backend, DTYPES))) for _ in range(2))
    made = data.draw(
        operands(backend, data.draw(shapes(max_dims=3)), source, special=target in (*FLOATS, "bool"))
    )
    with np.errstate(all="ignore"):
        expected = made.array.astype(target)
    result = made.buffer.cast(DType.from_name(target))
    assert result.dtype.name == target and same(read(result), expected)


def test_casts_that_have_no_value_are_refused(backend: type[Buffer]) -> None:
    for value in (np.nan, np.inf):
        with pytest.raises(ValueError):
            backend([value]).cast(DType.int64)
    with pytest.raises(OverflowError):
        backend([2**40]).cast(DType.int32)


SCALARS = [True, False, 0, 1, 2, 3, 0.5, 2.0, 0.1]
OPERATORS: dict[str, Any] = {
    "add": lambda a, b: a + b,
    "mul": lambda a, b: a * b,
    "sub": lambda a, b: a - b,
    "div": lambda a, b: a / b,
    "less": lambda a, b: a < b,
    "equal": lambda a, b: a == b,
}


@pytest.mark.parametrize("name", OPERATORS)
@given(data=st.data())
def test_scalars_are_weak(backend: type[Buffer], name: str, data: st.DataObject) -> None:
    """A Python number beside a Buffer, on either side, changes its dtype only to a higher kind (NumPy
    Enhancement Proposal 50).
    """
    dtype = data.draw(st.sampled_from(supported(backend, DTYPES)))
    scalar = data.draw(st.sampled_from(SCALARS))
    if name == "sub" and dtype == "bool" and isinstance(scalar, bool):
        return  # refused, see the table
    made = data.draw(operands(backend, data.draw(shapes(max_dims=2)), dtype))
    operator, swapped = OPERATORS[name], data.draw(st.booleans())
    with np.errstate(all="ignore"):
        expected = operator(scalar, made.array) if swapped else operator(made.array, scalar)
    result = operator(scalar, made.buffer) if swapped else operator(made.buffer, scalar)
    wanted = np.asarray(expected).dtype.name
    assert result.dtype.name == wanted
    assert_close(read(result), expected, wanted, 8.0)


def test_float32_results_are_rounded_to_float32(backend: type[Buffer]) -> None:
    """What is stored has 24 bits: 0.1 + 0.2 in float32 is not 0.3 in float64, however it was computed."""
    third = backend([1.0]) / 3.0
    for result in (
        third,
        third + third,
        third.exp(),
        third.sum(),
        third * 0.1,
        backend([0.1]),
        backend.full((1,), 0.1),
    ):
        value = result.to_python()[0]
        assert result.dtype is DType.float32 and value == float(np.float32(value)), f"{value!r} is no float32"
    # In doubles, 2^24 + 1 is another number than 2^24; in float32 it is not, and what is added later cannot
    # bring it back.
    assert ((backend([2.0**24]) + 1.0) - 2.0**24).to_python() == [0.0]


def test_int64_is_exact(backend: type[Buffer]) -> None:
    """Large integers do not pass through floats."""
    big = backend([2**53 + 1, -(2**60) - 1], DType.int64)
    assert (big + 1).to_python() == [2**53 + 2, -(2**60)]
    assert big.sum().item() == 2**53 + 1 - 2**60 - 1
    assert big.max().item() == 2**53 + 1
    assert (big == big + 0).to_python() == [True, True] and (big == big + 1).to_python() == [False, False]
    assert (big < big + 1).to_python() == [True, True]
    assert big.cast(DType.int64).to_python() == big.to_python()
    assert backend([[2**31, 1]], DType.int64).matmul(backend([[2**31], [1]], DType.int64)).to_python() == [
        [2**62 + 1]
    ]


def test_unknown_operands_are_refused(backend: type[Buffer]) -> None:
    buffer = backend([1.0])
    for call in (lambda: buffer + "a", lambda: buffer < None, lambda: [1.0] * buffer):
        with pytest.raises(TypeError):
            call()
    with pytest.raises(TypeError):
        hash(buffer)
    assert "[1.]" in repr(buffer) and "float32" in repr(buffer) and backend.backend in repr(buffer)


# ---------------------------------------------------------------- views share storage


@given(data=st.data())
def test_views_share_storage(backend: type[Buffer], data: st.DataObject) -> None:
    """A write through a view is seen in the Buffer it came from, and the other way round; in every layout, as
    in NumPy.
    """
    shape = data.draw(shapes(max_dims=3, max_side=3))
    dtype = data.draw(st.sampled_from(supported(backend, DTYPES)))
    layout = data.draw(layouts(shape, expand=False))
    base = data.draw(arrays(dtype, layout.base))
    buffer, reference = make(backend, base), base.copy()
    view, reference_view = layout.view(buffer), layout.view(reference)
    values = data.draw(arrays(dtype, shape))
    assert view.assign(make(backend, values)) is view
    reference_view[...] = values
    assert same(read(buffer), reference), "a write through the view did not reach the Buffer"
    buffer[...] = make(backend, base[::-1] if base.ndim else base)
    assert same(read(view), layout.view(base[::-1] if base.ndim else base)), (
        "a write to the Buffer did not reach the view"
    )
    assert view.version is buffer.version


@given(data=st.data())
def test_broadcast_views_see_writes_and_refuse_them(backend: type[Buffer], data: st.DataObject) -> None:
    buffer = backend([[1.0], [2.0]])
    wide = buffer.expand((3, 2, 4))
    buffer[1] = 5.0
    assert same(read(wide), np.broadcast_to(np.array([[1], [5]], np.float32), (3, 2, 4)))
    before = read(wide)
    attempts = [
        lambda: wide.assign(0.0),
        lambda: wide.__setitem__((0, 0), 0.0),
        lambda: wide.permute((2, 1, 0)).assign(1),
        lambda: wide.__setitem__(
            (0, slice(None), 0), 7.0
        ),  # each stands once in the part, often in the whole
    ]
    for write in attempts:
        with pytest.raises(ValueError, match="broadcast"):
            write()
    assert same(read(wide), before)
    buffer.expand((1, 2, 1))[0, :, 0] = 7.0  # no element is repeated
    assert buffer.to_python() == [[7.0], [7.0]]


@given(data=st.data())
def test_reshape_is_a_view_where_numpy_has_one(backend: type[Buffer], data: st.DataObject) -> None:
    """Where strides allow, a reshape shares storage; elsewhere it is a copy. Exactly where NumPy's does."""
    layout = data.draw(layouts(data.draw(shapes(min_side=1)), expand=False))
    base = np.arange(np.prod(layout.base), dtype=np.float32).reshape(layout.base)
    reference = layout.view(base)
    buffer = make(backend, base)
    view = layout.view(buffer)
    total = reference.size
    divisors = [d for d in range(1, total + 1) if total % d == 0]
    first = data.draw(st.sampled_from(divisors))
    second = data.draw(st.sampled_from([d for d in divisors if (total // first) % d == 0]))
    shape = (first, second, total // first // second)
    shared = np.shares_memory(reference.reshape(shape), base)
    reshaped = view.reshape(shape)
    assert same(read(reshaped), reference.reshape(shape))
    reshaped[0, 0, 0] = -1.0
    assert (view[(0,) * view.ndim].item() == -1.0) == shared


@given(data=st.data())
def test_a_permutation_is_undone_by_its_inverse(backend: type[Buffer], data: st.DataObject) -> None:
    shape = data.draw(shapes())
    axes = data.draw(st.permutations(range(len(shape))))
    buffer = backend.arange(int(np.prod(shape))).reshape(shape)
    back = buffer.permute(axes).permute(inverse_permutation(axes))
    assert same(read(back), read(buffer)) and back.stride == buffer.stride


def test_is_a_view(backend: type[Buffer]) -> None:
    """Slices with steps, permutations, single rows: none of them moves data."""
    buffer = backend.arange(24).reshape((2, 3, 4))
    for view in (
        buffer[1],
        buffer[:, ::2],
        buffer[..., ::-1],
        buffer.permute((2, 0, 1)),
        buffer.transpose(0, 2),
        buffer.reshape((6, 4)),
    ):
        view[(0,) * view.ndim] = -5
        assert -5 in read(buffer)
        buffer[...] = backend.arange(24).reshape((2, 3, 4))


# ---------------------------------------------------------------- assignment


@given(data=st.data())
def test_assignment_is_numpys(backend: type[Buffer], data: st.DataObject) -> None:
    """buffer[index] = value broadcasts, casts to the Buffer's dtype, and writes nothing else; in every
    layout.
    """
    dtype = data.draw(st.sampled_from(supported(backend, DTYPES)))
    made = data.draw(operands(backend, data.draw(shapes(max_dims=3)), dtype, expand=False))
    index = data.draw(basic_indices(made.array.shape))
    expected = made.array.copy()
    target = expected[index]
    value_shape = tuple(1 if data.draw(st.booleans()) else size for size in np.shape(target))
    if value_shape[:1] == (1,) and data.draw(st.booleans()):
        value_shape = value_shape[1:]
    value_dtype = data.draw(st.sampled_from(supported(backend, DTYPES)))
    value = data.draw(operands(backend, value_shape, value_dtype))
    expected[index] = value.array
    version = made.buffer.version[0]
    made.buffer[index] = value.buffer
    assert made.buffer.version[0] > version, "a write that the version does not show"
    assert same(read(made.buffer), expected)


@given(data=st.data())
def test_assignment_of_numbers_and_lists(backend: type[Buffer], data: st.DataObject) -> None:
    buffer = backend.zeros((2, 3), DType.from_name(data.draw(st.sampled_from(supported(backend, NUMBERS)))))
    buffer[:, 1] = 2
    buffer[1] = [3, 4, 5]
    buffer[0, 0] = True
    assert buffer.to_python() == [[1, 2, 0], [3, 4, 5]]
    for index, value in ((0, [1, 2]), ((), [[1, 2, 3]] * 3), (slice(None), backend.zeros((3,))[:2])):
        with pytest.raises(ValueError):
            buffer[index] = value
    assert buffer.to_python() == [[1, 2, 0], [3, 4, 5]]


@given(data=st.data())
def test_assignment_from_an_overlapping_view(backend: type[Buffer], data: st.DataObject) -> None:
    """The value is read as it was before the assignment, although it lies in the same storage."""
    dtype = data.draw(st.sampled_from(supported(backend, NUMBERS)))
    values = data.draw(arrays(dtype, (12,)))
    pairs = [
        (slice(1, None), slice(None, -1)),
        (slice(None, -1), slice(1, None)),
        (slice(None), slice(None, None, -1)),
    ]
    count, steps = data.draw(st.integers(1, 4)), st.sampled_from((-3, -2, -1, 1, 2, 3))
    drawn = []
    # Steps may differ; NumPy's own assignment reads what it wrote in some of these
    for step in (data.draw(steps), data.draw(steps)):
        first = data.draw(st.integers(0, 11 - (count - 1) * abs(step)))
        places = range(first, first + count * abs(step), abs(step))
        drawn.append(
            slice(first, places[-1] + 1, step)
            if step > 0
            else slice(places[-1], first - 1 if first else None, step)
        )
    for target, source in [*pairs, (drawn[0], drawn[1]), (slice(1, 10, 3), slice(2, 5))]:
        buffer, expected = make(backend, values), values.copy()
        buffer[target] = buffer[source]
        expected[target] = expected[source].copy()
        assert same(read(buffer), expected)
    square = data.draw(arrays(dtype, (3, 3)))
    buffer = make(backend, square)
    buffer.assign(buffer.transpose(0, 1))
    assert same(read(buffer), square.T)


# ---------------------------------------------------------------- more of what rows say once


@given(data=st.data())
def test_slices_are_pythons(backend: type[Buffer], data: st.DataObject) -> None:
    """On one axis, any slice selects what it selects of a list (an independent second reference)."""
    size = data.draw(st.integers(0, 7))
    bound = st.one_of(st.none(), st.integers(-10, 10))
    index = data.draw(st.builds(slice, bound, bound, st.sampled_from([None, 1, 2, 3, -1, -2, -3, 9, -9])))
    assert backend.arange(size)[index].to_python() == list(range(size))[index]


@given(data=st.data())
def test_argmax_takes_the_first_of_equals(backend: type[Buffer], data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(supported(backend, NUMBERS)))
    values = data.draw(arrays(dtype, (3, 5), 0, 2).map(np.round))
    for axis in (0, 1, -1):
        assert same(read(make(backend, values).argmax(axis)), values.argmax(axis, keepdims=True))


def test_argmax_and_max_at_nan_and_infinities(backend: type[Buffer]) -> None:
    """NaN is the largest there is, and the first of them counts; as in NumPy."""
    nan, inf = np.nan, np.inf
    rows = np.array(
        [[1, nan, 3, nan], [-inf, -inf, -inf, -inf], [inf, 1, inf, 0], [nan, inf, 1, 2], [-0.0, 0.0, -1, 0]],
        np.float32,
    )
    buffer = make(backend, rows)
    assert read(buffer.argmax(1)).ravel().tolist() == rows.argmax(1).tolist()
    assert same(read(buffer.max(1)), rows.max(1, keepdims=True))
    assert same(read(buffer.maximum(buffer[:, ::-1])), np.maximum(rows, rows[:, ::-1]))
    assert same(read(buffer.sum(1)), rows.sum(1, keepdims=True))


def test_powers_of_special_values(backend: type[Buffer]) -> None:
    """As IEEE 754 has it, without an exception and without complex numbers."""
    nan, inf = np.nan, np.inf
    cases = [
        (0, 0, 1),
        (0, 2, 0),
        (0, -1, inf),
        (-0.0, -1, -inf),
        (0, -2, inf),
        (-8, 3, -512),
        (-8, 1 / 3, nan),
        (-2, -1, -0.5),
        (1e30, 2, inf),
        (-1e30, 3, -inf),
        (1e30, -3, 0),
        (nan, 0, 1),
        (nan, 1, nan),
        (1, nan, 1),
        (inf, -1, 0),
        (inf, 2, inf),
        (-inf, 3, -inf),
    ]
    bases, exponents, expected = (np.array(column, np.float32) for column in zip(*cases, strict=True))
    assert_close(read(make(backend, bases) ** make(backend, exponents)), expected, "float32")
    with np.errstate(all="ignore"):
        assert_close(read(make(backend, bases) ** 2.0), bases.astype(float) ** 2, "float32")
        assert_close(read(make(backend, bases) ** -1), 1 / bases.astype(float), "float32")


@given(data=st.data())
def test_scatter_add_through_a_view(backend: type[Buffer], data: st.DataObject) -> None:
    """It works in place, on any layout that can be written; repeated indices add up; its version moves."""
    dtype = data.draw(st.sampled_from(supported(backend, NUMBERS)))
    shape = data.draw(shapes(min_dims=1, max_dims=3, min_side=1))
    layout = data.draw(layouts(shape, expand=False))
    base = data.draw(arrays(dtype, layout.base))
    count = data.draw(st.integers(0, 6))
    indices = data.draw(operands(backend, (count,), data.draw(st.sampled_from(INTEGERS)), 0, shape[0] - 1))
    values = data.draw(operands(backend, (count, *shape[1:]), dtype))
    buffer, expected = make(backend, base), base.astype(np.float64 if dtype in FLOATS else dtype)
    view, reference = layout.view(buffer), layout.view(expected)
    version = buffer.version[0]
    assert view.scatter_add(indices.buffer, values.buffer) is view
    for index, row in zip(indices.array, values.array, strict=True):
        reference[index] += row
    assert_close(read(buffer), expected, dtype, 8.0 * (count + 1))
    assert buffer.version[0] > version


@given(data=st.data())
def test_matmul_broadcasts_batches(backend: type[Buffer], data: st.DataObject) -> None:
    """Each matrix of the batch is the product of those that broadcasting pairs, by loops over lists."""
    first, second = data.draw(broadcastable(max_dims=2, min_side=1))
    a = data.draw(operands(backend, (*first, 2, 3), "float32"))
    b = data.draw(operands(backend, (*second, 3, 2), "float32"))
    batch = np.broadcast_shapes(first, second)
    wide_a, wide_b = np.broadcast_to(a.array, (*batch, 2, 3)), np.broadcast_to(b.array, (*batch, 3, 2))
    expected = np.empty((*batch, 2, 2))
    for where in np.ndindex(*batch, 2, 2):
        *lead, i, j = where
        expected[where] = sum(float(wide_a[(*lead, i, k)]) * float(wide_b[(*lead, k, j)]) for k in range(3))
    assert_close(read(a.buffer.matmul(b.buffer)), expected, "float32", 64.0 * 3)


def test_where_takes_numbers(backend: type[Buffer]) -> None:
    condition = backend([True, False])
    assert backend.where(condition, 1.5, backend([3.0, 4.0])).to_python() == [1.5, 4.0]
    assert backend.where(condition, backend([3.0, 4.0]), -np.inf).to_python() == [3.0, -np.inf]
    assert backend.where(condition, backend([3, 4]), 1).dtype is DType.int32
    assert backend.where(condition, backend([3, 4]), 0.5).dtype is DType.float64
    assert backend.where(condition, 2, backend([3.0, 4.0])).dtype is DType.float32


@given(data=st.data())
def test_iteration_gives_views(backend: type[Buffer], data: st.DataObject) -> None:
    buffer = backend.zeros((3, 2))
    for row in buffer:
        row[0] = 1.0
    assert buffer.to_python() == [[1.0, 0.0]] * 3
    with pytest.raises(TypeError):
        iter(backend(1.0)).__next__()
    with pytest.raises(TypeError):
        len(backend(1.0))


# ---------------------------------------------------------------- other libraries


@given(data=st.data())
def test_numpy_sees_the_storage(backend: type[Buffer], data: st.DataObject) -> None:
    """numpy.asarray is no copy: what either side writes the other sees. A broadcast view is read-only there,
    too.
    """
    if lacks(backend, "host_memory"):
        return
    dtype = data.draw(st.sampled_from(supported(backend, DTYPES)))
    operand = data.draw(data.draw(shapes(max_dims=3).map(lambda shape: operands(backend, shape, dtype))))
    buffer, seen = operand.buffer, np.asarray(operand.buffer)
    assert seen.dtype.name == dtype and same(seen, operand.array)
    if not seen.size:
        return
    shared = any(step == 0 and size > 1 for size, step in zip(buffer.shape, buffer.stride, strict=True))
    assert seen.flags.writeable != shared
    if not shared:
        buffer.assign(backend(True).cast(buffer.dtype))
        assert seen.min() == seen.max() == 1
        seen[...] = 0
        assert not read(buffer).any()


@given(data=st.data())
def test_an_ndarray_comes_in(backend: type[Buffer], data: st.DataObject) -> None:
    """Buffer(ndarray) has its shape, dtype and elements, whatever its layout: shared or copied, as the
    backend can.
    """
    dtype = data.draw(st.sampled_from(supported(backend, DTYPES)))
    layout = data.draw(data.draw(shapes(max_dims=3).map(layouts)))
    values = layout.view(data.draw(arrays(dtype, layout.base, special=True)))
    buffer = backend(values)
    assert type(buffer) is backend and buffer.dtype.name == dtype and same(read(buffer), values)
    assert same(read(backend(values, DType.float64)), values.astype("float64"))


@pytest.mark.parametrize("dtype", ["uint8", "float16", "int16", "complex64", ">f4", "U2", "datetime64[s]"])
def test_an_ndarray_of_another_dtype_is_refused(backend: type[Buffer], dtype: str) -> None:
    with pytest.raises(TypeError, match="no dtype holds"):
        backend(np.zeros(2, np.dtype(dtype)))


def test_an_ndarray_does_not_take_part_in_arithmetic(backend: type[Buffer]) -> None:
    """NumPy would answer with an ndarray, on another backend and, for Tensors, without gradients."""
    for compute in (lambda a, b: a * b, lambda a, b: b * a, lambda a, b: b - a, lambda a, b: np.exp(a)):
        with pytest.raises(TypeError):
            compute(backend([1.0, 2.0]), np.ones(2, "float32"))


@given(data=st.data())
def test_dlpack_is_the_storage_or_an_error(backend: type[Buffer], data: st.DataObject) -> None:
    """A backend that exports DLPack exports the elements; one that does not says so. On the host NumPy shows
    which.
    """
    dtype = data.draw(st.sampled_from(supported(backend, DTYPES)))
    operand = data.draw(
        data.draw(shapes(max_dims=3).map(lambda shape: operands(backend, shape, dtype, expand=False)))
    )
    if lacks(backend, "host_memory"):
        return
    try:
        seen = np.from_dlpack(operand.buffer)
    except BufferError as problem:
        assert backend.backend in str(problem)
        return
    assert same(seen, operand.array)
    assert not seen.size or np.shares_memory(seen, np.asarray(operand.buffer))


@pytest.mark.parametrize("wrong", ["float32", float, np.float32])
def test_what_is_no_dtype_is_named(backend: type[Buffer], wrong: Any) -> None:
    """A dtype is one of ours, not its name nor another library's type; wherever one is passed, the error
    lists those that there are.
    """
    for call in (
        lambda: backend([1.0], wrong),
        lambda: backend([1.0]).cast(wrong),
        lambda: backend([1.0]).as_dtype(wrong),
        lambda: backend.full((1,), 1, wrong),
        lambda: backend.zeros((1,), wrong),
        lambda: backend.arange(3, dtype=wrong),
        lambda: backend.uniform((1,), dtype=wrong),
        lambda: backend.normal((1,), dtype=wrong),
        lambda: backend.uniform_at(Key(0, 0, 0), (1,), dtype=wrong),
        lambda: backend.normal_at(Key(0, 0, 0), (1,), dtype=wrong),
        lambda: backend.from_memory(memoryview(b""), (0,), wrong),
    ):
        with pytest.raises(TypeError, match=r"a dtype is one of DType\.bool, .*DType\.float64, not"):
            call()


@pytest.mark.parametrize("value", [3.0, 1e30, 1e-30, 0.0])
def test_squares_beyond_the_dtype_are_summed_in_silence(backend: type[Buffer], value: float) -> None:
    """The norm of gradients is exact where their squares leave float32's range, and no library warns of the
    range being left.
    """
    buffer = make(backend, np.full((5,), value, "float32"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = buffer.sum_of_squares()
    assert found == pytest.approx(5.0 * float(np.float32(value)) ** 2, rel=1e-6)


# ---------------------------------------------------------------- for kernels


@given(data=st.data())
def test_as_dtype_and_as_floating_copy_only_where_they_must(
    backend: type[Buffer], data: st.DataObject
) -> None:
    """A Buffer that has the dtype already comes back itself; else the result is that of a cast."""
    dtype, wanted = (data.draw(st.sampled_from(supported(backend, DTYPES))) for _ in range(2))
    buffer, array_ = data.draw(operands(backend, data.draw(shapes(max_dims=2)), dtype))
    as_wanted, as_floating = buffer.as_dtype(DType.from_name(wanted)), buffer.as_floating()
    assert same(read(as_wanted), array_.astype(wanted)) and as_wanted.dtype.name == wanted
    assert (as_wanted is buffer) == (dtype == wanted)
    assert same(read(as_floating), array_.astype(dtype if dtype in FLOATS else "float64"))
    assert (as_floating is buffer) == (dtype in FLOATS)


@given(data=st.data())
def test_a_number_as_an_operand(backend: type[Buffer], data: st.DataObject) -> None:
    """`scalar` is that second operand with which arithmetic gives what it gives with the number."""
    buffer = make(backend, np.ones((2,), data.draw(st.sampled_from(supported(backend, DTYPES)))))
    number = data.draw(st.sampled_from([True, 3, 2.5]))
    scalar, product = buffer.scalar(number), buffer * number
    assert scalar.shape == () and scalar.item() == number and type(scalar) is backend
    assert scalar.dtype is product.dtype and same(read(buffer * scalar), read(product))


@given(data=st.data())
def test_add_in_place_is_a_sum_that_is_assigned(backend: type[Buffer], data: st.DataObject) -> None:
    """In every layout of the target and the value, which may broadcast; views see it, versions show it."""
    dtype = data.draw(st.sampled_from(supported(backend, NUMBERS)))
    layout = data.draw(layouts(data.draw(shapes(max_dims=3, max_side=3)), expand=False))
    base = data.draw(arrays(dtype, layout.base))
    buffer, reference = make(backend, base), base.copy()
    target, expected = layout.view(buffer), layout.view(reference)
    shape = expected.shape[data.draw(st.integers(0, expected.ndim)) :]
    value, added = data.draw(operands(backend, shape, dtype))
    version = buffer.version[0]
    assert target.add_in_place(value) is target
    expected[...] += added
    assert same(read(buffer), reference) and buffer.version[0] > version
    assert same(read(value), added)


def test_add_in_place_refuses_what_assign_refuses(backend: type[Buffer]) -> None:
    buffer, wide = backend([1.0, 2.0]), backend([1.0]).expand((2,))
    with pytest.raises(ValueError, match="broadcast"):
        wide.add_in_place(buffer)
    with pytest.raises(ValueError, match=r"\(3,\).*\(2,\)"):
        buffer.add_in_place(backend([1.0, 2.0, 3.0]))
    assert buffer.to_python() == [1.0, 2.0] and wide.to_python() == [1.0, 1.0]
    assert buffer.add_in_place(backend([1, 2])).dtype is DType.float32
    assert buffer.to_python() == [2.0, 4.0]


def test_checks_name_what_is_wrong(backend: type[Buffer]) -> None:
    class Elsewhere(backend):  # type: ignore[misc, valid-type]
        __slots__ = ()

    here = backend([[1.0], [2.0]])
    for call in (here.check_backend, here.add_in_place):
        with pytest.raises(TypeError, match="two backends"):
            call(Elsewhere([[1.0], [2.0]]))
    with pytest.raises(ValueError, match="broadcast"):
        here.expand((2, 3)).check_writable()
    with pytest.raises(TypeError, match="float32"):
        here.check_indices(3)
    with pytest.raises(IndexError, match="2"):
        backend([0, 2]).check_indices(2)
    assert here.check_backend(here) is here.check_writable() is backend([0, 2]).check_indices(3) is None


@given(data=st.data())
def test_memory_becomes_a_buffer(backend: type[Buffer], data: st.DataObject) -> None:
    """Bytes of elements in C order are those elements; too many or too few bytes are refused."""
    dtype = data.draw(st.sampled_from(supported(backend, DTYPES)))
    values = data.draw(arrays(dtype, data.draw(shapes(max_dims=3))))
    memory = bytearray(values.tobytes())
    buffer = backend.from_memory(memoryview(memory), values.shape, DType.from_name(dtype))
    assert type(buffer) is backend and same(read(buffer), values) and buffer.is_contiguous()
    for wrong in (memory + b"\0", memory[:-1] if memory else b"\0"):
        with pytest.raises(ValueError, match=rf"{len(memory)} bytes, not {len(wrong)}"):
            backend.from_memory(memoryview(wrong), values.shape, DType.from_name(dtype))


@given(data=st.data())
def test_a_part_of_a_broadcast_view_cannot_be_written(backend: type[Buffer], data: st.DataObject) -> None:
    """Where elements are repeated, neither the view nor any view of it takes a write, and nothing changes."""
    shape = data.draw(shapes(min_dims=1, max_dims=3, min_side=1))
    base = make(backend, data.draw(arrays("float32", shape)))
    before = read(base)
    whole = base.expand((*data.draw(st.sampled_from([(2,), (1, 3), (2, 1)])), *shape))
    part = whole[data.draw(basic_indices(whole.shape))]
    if data.draw(st.booleans()):
        part = part.permute(tuple(data.draw(st.permutations(range(part.ndim)))))
    if data.draw(st.booleans()):
        part = part.reshape((-1,))  # may be a copy, which is the part's own
    writes = [
        lambda: part.assign(9.0),
        lambda: part.add_in_place(backend.ones(part.shape)),
        lambda: part.__setitem__((..., slice(0, 1)) if part.ndim else ..., 9.0),
    ]
    if part.version is base.version and part.numel:
        for write in writes:
            with pytest.raises(ValueError, match="broadcast view"):
                write()
        if "host_memory" not in getattr(backend, "lacks", {}):
            assert not np.asarray(part).flags.writeable
    else:
        part.assign(9.0)
    assert np.array_equal(read(base), before)


@given(data=st.data())
def test_pickled_buffers_come_back(backend: type[Buffer], data: st.DataObject) -> None:
    """On their backend, by its name, with every bit; a view becomes contiguous, with its own storage."""
    dtype = data.draw(st.sampled_from(supported(backend, DTYPES)))
    made = data.draw(operands(backend, data.draw(shapes(max_dims=3)), dtype, special=True))
    protocol = data.draw(st.integers(0, pickle.HIGHEST_PROTOCOL))
    again = pickle.loads(pickle.dumps(made.buffer, protocol))
    assert type(again) is backend and again.dtype is made.buffer.dtype and again.shape == made.buffer.shape
    assert again.to_array().tobytes() == made.buffer.to_array().tobytes() and again.is_contiguous()
    again.assign(made.buffer)


def test_copies_share_and_deep_copies_do_not(backend: type[Buffer]) -> None:
    buffer = backend([1.0, 2.0])
    shallow, deep = copy.copy(buffer), copy.deepcopy(buffer)
    buffer[0] = 5.0
    assert shallow.to_python() == [5.0, 2.0] and shallow.version is buffer.version
    assert deep.to_python() == [1.0, 2.0]
