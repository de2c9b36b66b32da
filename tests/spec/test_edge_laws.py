"""Laws at the edges of the dtypes: integers that leave their range, casts, ranges, zeros with a sign, numbers
below the normal ones, and what is left of empty axes.
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygpt_core.buffer import Buffer
from tinygpt_core.dtype import DType

from .strategies import FLOATS, INTEGERS, arrays, make, read, supported
from .table import ROWS, Row
from .templates import truth
from .tolerances import assert_close

# ---------------------------------------------------------------- integers


def wrapped(value: int, dtype: str) -> int:
    """Returns the integer that equals `value` modulo 2^bits, by its bytes."""
    size = np.dtype(dtype).itemsize
    return int.from_bytes((value % (1 << 8 * size)).to_bytes(size, "little"), "little", signed=True)


def edges(dtype: str) -> st.SearchStrategy[int]:
    low, high = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    near = [low, low + 1, high, high - 1, -1, 0, 1, 3, high // 2, low // 2]
    return st.one_of(st.sampled_from(near), st.integers(low, high))


@given(data=st.data())
def test_integers_wrap_around(backend: type[Buffer], data: st.DataObject) -> None:
    """Results of integers are right modulo 2^bits, as two's complement has them, and as NumPy does."""
    dtype = data.draw(st.sampled_from(supported(backend, INTEGERS)))
    first, second = (data.draw(st.lists(edges(dtype), min_size=2, max_size=2)) for _ in range(2))
    a, b = (make(backend, np.array(values, dtype)) for values in (first, second))
    pairs = list(zip(first, second, strict=True))

    def check(result: Buffer, expected: list[int], what: str) -> None:
        assert result.dtype.kind == "i"
        right = [wrapped(value, result.dtype.name) for value in expected]
        assert read(result).reshape(-1).tolist() == right, f"{what} of {first} and {second} in {dtype}"

    check(a + b, [x + y for x, y in pairs], "+")
    check(a - b, [x - y for x, y in pairs], "-")
    check(a * b, [x * y for x, y in pairs], "*")
    check(-a, [-x for x in first], "negation")
    check(a.sum(), [sum(first)], "sum")
    row, column = a.reshape((1, 2)), b.reshape((2, 1))
    check(row.matmul(column), [sum(x * y for x, y in pairs)], "matmul")
    total = a.copy()
    total.scatter_add(make(backend, np.zeros(2, np.int64)), b)
    check(total, [first[0] + sum(second), first[1]], "scatter_add")
    exponents = data.draw(st.lists(st.integers(0, 70), min_size=2, max_size=2))
    power = a ** make(backend, np.array(exponents, dtype))
    check(power, [x**y for x, y in zip(first, exponents, strict=True)], f"** {exponents}")


def test_a_large_power_takes_no_time(backend: type[Buffer]) -> None:
    """3^(10^8) has 48 million digits, of which nobody asks for more than ten."""
    start = time.perf_counter()
    power = backend([3, -3], DType.int64) ** backend([10**8, 10**8 + 1], DType.int64)
    assert time.perf_counter() - start < 1.0
    modulus = 1 << 64
    assert power.to_python() == [
        wrapped(pow(3, 10**8, modulus), "int64"),
        wrapped(-pow(3, 10**8 + 1, modulus), "int64"),
    ]


# ---------------------------------------------------------------- casts and ranges


@given(data=st.data())
def test_floats_are_truncated(backend: type[Buffer], data: st.DataObject) -> None:
    """Towards 0, never rounded, wherever the integer before the point fits; else OverflowError."""
    source = data.draw(st.sampled_from(supported(backend, FLOATS)))
    target = data.draw(st.sampled_from(supported(backend, INTEGERS)))
    limit = float(2 ** (8 * np.dtype(target).itemsize - 1))
    value = data.draw(
        st.one_of(
            st.floats(-8.0, 8.0, width=32),
            st.floats(-2.0 * limit, 2.0 * limit),
            st.sampled_from([0.999999, -0.999999, 0.5, -0.5, 1.5, 2.5, -2.5, -0.0, 5e-324, limit, -limit]),
            st.sampled_from([-limit - 0.5, limit - 0.5, -limit - 1.0, limit - 1.0, 16777217.0]),
        )
    )
    stored = float(np.array(value, source))
    buffer = make(backend, np.array([stored, 0.0], source))
    if -limit <= math.trunc(stored) < limit:
        assert buffer.cast(DType.from_name(target)).to_python() == [math.trunc(stored), 0]
    else:
        with pytest.raises(OverflowError, match=target):
            buffer.cast(DType.from_name(target))


@given(data=st.data())
def test_integers_are_cast_exactly_or_not_at_all(backend: type[Buffer], data: st.DataObject) -> None:
    source, target = (data.draw(st.sampled_from(supported(backend, INTEGERS))) for _ in range(2))
    value = data.draw(edges(source))
    buffer = make(backend, np.array([value], source))
    info = np.iinfo(target)
    if info.min <= value <= info.max:
        assert buffer.cast(DType.from_name(target)).to_python() == [value]
    else:
        with pytest.raises(OverflowError, match=target):
            buffer.cast(DType.from_name(target))


@given(data=st.data())
def test_ranges_are_exact(backend: type[Buffer], data: st.DataObject) -> None:
    """Integers stay integers beyond 2^24 and 2^53, and each float is rounded once, from start + i step in
    doubles.
    """
    start = data.draw(st.sampled_from([2**24 - 1, 2**24 + 1, 2**31 - 9, -(2**31), 7]))
    step = data.draw(st.sampled_from([1, 2, -1, -3]))
    stop = start + (4 if step > 0 else -4) * abs(step)
    if -(2**31) <= start + 3 * step < 2**31:
        assert backend.arange(start, stop, step, DType.int32).to_python() == list(range(start, stop, step))
    else:
        with pytest.raises(OverflowError, match="int32"):
            backend.arange(start, stop, step, DType.int32)
    if "int64" in supported(backend, INTEGERS):
        far = 2**53 + start
        assert backend.arange(far, far + 3, 1, DType.int64).to_python() == [far, far + 1, far + 2]
    count = data.draw(st.integers(1, 300))
    for dtype in supported(backend, FLOATS):
        begin, width = data.draw(st.sampled_from([(0.1, 0.1), (1e4 + 0.3, 0.01), (-5.7, 1 / 3)]))
        found = read(backend.arange(begin, begin + (count - 0.5) * width, width, DType.from_name(dtype)))
        assert found.tolist() == [float(np.array(begin + i * width, dtype)) for i in range(count)]


# ---------------------------------------------------------------- zeros with a sign, subnormal numbers


def signed(x: np.ndarray) -> list[str]:
    return [repr(value) for value in x.reshape(-1).tolist()]


ZEROS = [0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, math.nan]


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_larger_of_zeros_is_the_positive_one(backend: type[Buffer], dtype: str) -> None:
    """As IEEE 754-2019 has it for `maximum`: -0 only where both are, at every place of an array."""
    if dtype not in supported(backend, FLOATS):
        return
    for repeat in (1, 9, 40):  # as a scalar, and where a processor takes several at once
        first = np.array([[a] * repeat for a in ZEROS for _ in ZEROS], dtype)
        second = np.array([[b] * repeat for _ in ZEROS for b in ZEROS], dtype)
        wanted = np.maximum(first, second)
        both = (first == 0) & (second == 0)
        wanted[both] = np.where(np.signbit(first) & np.signbit(second), -0.0, 0.0)[both]
        found = read(make(backend, first).maximum(make(backend, second)))
        assert signed(found) == signed(wanted)
        for scalar in (0.0, -0.0):
            found = read(make(backend, first).maximum(scalar))
            zeros = np.full_like(first, scalar)
            wanted = np.maximum(first, zeros)
            both = first == 0
            wanted[both] = np.where(np.signbit(first) & np.signbit(zeros), -0.0, 0.0)[both]
            assert signed(found) == signed(wanted)


ELEMENTWISE: dict[str, tuple[Any, Any]] = {
    "neg": (lambda a, b: -a, lambda a, b: -a),
    "add": (lambda a, b: a + b, np.add),
    "sub": (lambda a, b: a - b, np.subtract),
    "mul": (lambda a, b: a * b, np.multiply),
    "div": (lambda a, b: a / b, np.divide),
    "sqrt": (lambda a, b: a.sqrt(), lambda a, b: np.sqrt(a)),
    "equal": (lambda a, b: a == b, np.equal),
    "less": (lambda a, b: a < b, np.less),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
@given(data=st.data())
def test_signs_of_zeros_and_subnormal_numbers(backend: type[Buffer], name: str, data: st.DataObject) -> None:
    """What IEEE 754 defines to the bit: -0, numbers below the normal ones, infinities, NaN."""
    ours, theirs = ELEMENTWISE[name]
    dtype = data.draw(st.sampled_from(supported(backend, FLOATS)))
    tiny = float(np.finfo(dtype).tiny)
    least = float(np.finfo(dtype).smallest_subnormal)
    choices = st.sampled_from([*ZEROS, tiny, -tiny, tiny / 2, least, -least, 3 * least, 0.5, 2.0, 3.0])
    a, b = (np.array(data.draw(st.lists(choices, min_size=5, max_size=5)), dtype) for _ in range(2))
    with np.errstate(all="ignore"):
        wanted = theirs(a, b)
    found = read(ours(make(backend, a), make(backend, b)))
    assert [x.replace("-nan", "nan") for x in signed(found)] == signed(wanted)


# Numbers that are not finite meet a zero or each other on the way, and it depends on the way whether that is
# NaN, or still an infinity.
ANY_NOT_FINITE = {"LogSoftmax", "CrossEntropy", "Rotary", "matmul", "Linear"}
# They meet numbers whose share in the result is 0, which a reference may leave out and a kernel may not:
# these get numbers below the normal ones and zeros with a sign only.
ONLY_FINITE = {
    "Attention": "keys that come later have a weight of 0",
    "PackedAttention": "keys that come later have a weight of 0",
    "Einsum": "what is added up before it is multiplied may be 0",
    "Conv2d": "padding is an image of zeros",
    "RMSNorm": "an infinity in the row makes the scale of all others 0",
}
# These only choose or move elements, so that every bit stays.
MOVES = {
    *("where", "reshape", "permute", "transpose", "expand", "slice", "concatenate", "tril", "cast", "to"),
    *("take", "Embedding"),
}
ON_FLOATS = [
    pytest.param(row, id=row.name)
    for row in ROWS
    if row.on_buffers and set(FLOATS) <= set(row.dtypes)
    if row.name != "pow"  # test_powers_of_special_values
]


@pytest.mark.parametrize("row", ON_FLOATS)
@given(data=st.data())
def test_special_values_of_every_row(backend: type[Buffer], row: Row, data: st.DataObject) -> None:
    """-0, numbers below the normal ones, infinities and NaN give what they give in the reference; where that
    is finite, so is the result.
    """
    dtype = data.draw(st.sampled_from(supported(backend, FLOATS)))
    tiny = float(np.finfo(dtype).tiny)
    least = float(np.finfo(dtype).smallest_subnormal)
    special = [0.0, -0.0, 1.0, -2.0, 0.5, tiny, -tiny, tiny / 2, least, -3 * least]
    if row.name not in ONLY_FINITE:
        special += [math.inf, -math.inf, math.nan]
    case = data.draw(row.cases())
    operands: list[Any] = []
    for slot in case.slots:
        if slot is None:
            operands.append(None)
        elif slot.dtype:
            operands.append(data.draw(arrays(slot.dtype, slot.shape, slot.low, max(slot.low, slot.high))))
        else:
            count = math.prod(slot.shape)
            values = data.draw(st.lists(st.sampled_from(special), min_size=count, max_size=count))
            operands.append(np.array(values, dtype).reshape(slot.shape))
    buffers = [None if x is None else make(backend, x) for x in operands]
    found = row.on_buffers(*buffers, **case.options)  # type: ignore[misc]
    given_ = [None if x is None else x.tolist() for x in operands]
    what = f"{row.name} {dict(case.options)} of {given_} in {dtype}"
    if row.name in MOVES:
        wanted = np.asarray(row.reference(*operands, **case.options))
        if row.name != "cast" and wanted.dtype.kind == "f":
            assert signed(read(found)) == signed(wanted), what
        return
    expected, magnitude = truth(row, operands, case.options)
    result = read(found)
    if row.name in ANY_NOT_FINITE:
        finite = np.isfinite(np.asarray(expected))
        assert not np.isfinite(result[~finite]).any(), f"{what}: {result}, and not {expected}"
        result = np.where(finite, result, expected)
    assert_close(result, expected, found.dtype.name, magnitude, what)


# ---------------------------------------------------------------- empty axes, views


@given(data=st.data())
def test_the_maximum_over_an_empty_axis(backend: type[Buffer], data: st.DataObject) -> None:
    """Has no value, and is an error, unless none is asked for."""
    shape = data.draw(st.lists(st.integers(0, 2), min_size=1, max_size=3).map(tuple))
    axis = data.draw(st.integers(0, len(shape) - 1))
    buffer = backend.zeros(shape)
    result = (*shape[:axis], 1, *shape[axis + 1 :])
    if shape[axis] == 0 and 0 not in result:
        with pytest.raises(ValueError, match="empty"):
            buffer.max((axis,))
    else:
        found = buffer.max((axis,))
        assert found.shape == result and found.dtype is DType.float32


def test_a_reshaped_copy_shares_nothing(backend: type[Buffer]) -> None:
    """Whether `reshape` of what an operation made is a view is the backend's affair; a copy is contiguous."""
    for x in (backend([[1.0, 2.0], [3.0, 4.0]]), backend([[1.0, 2.0], [3.0, 4.0]]).transpose(0, 1)):
        made = x.maximum(0.0)
        flat = made.copy().reshape((4,))
        made[0, 0] = 9.0
        assert flat.to_python()[0] == 1.0
        contiguous = made.copy()
        view = contiguous.reshape((4,))
        contiguous[0, 0] = 5.0
        assert view.to_python()[0] == 5.0, "of contiguous elements it is a view"
