"""Laws about the methods of Tensor that rows of the table cannot say: ties, zeros and their signs, writes by
index, views, what makes arrays, and the scalars of NumPy.
"""

from __future__ import annotations

import gc
import math
import operator
import time
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygpt_core.buffer import Buffer
from tinygpt_core.dtype import DType
from tinygpt_core.tensor import Tensor

from .strategies import DTYPES, FLOATS, INTEGERS, arrays, lacks, make, operands, read, supported
from .table import method_rows


def tensor(values: Any, dtype: DType = DType.float64, requires_grad: bool = True) -> Tensor:
    return Tensor(values, dtype=dtype, requires_grad=requires_grad)


def gradient_of(function: Callable[[Tensor], Tensor], values: Any) -> Any:
    x = tensor(values)
    function(x).sum().backward()
    assert x.grad is not None
    return x.grad.to_python()


# ---------------------------------------------------------------- ties, and where a derivative is a choice


def test_equal_elements_share_the_gradient(backend: type[Buffer]) -> None:
    assert gradient_of(lambda x: x.min(1), [[2.0, 1.0, 1.0]]) == [[0.0, 0.5, 0.5]]
    assert gradient_of(lambda x: x.minimum(1.0), [2.0, 1.0, 0.0]) == [0.0, 0.5, 1.0]
    assert gradient_of(lambda x: x.norm(math.inf), [-3.0, 3.0, 1.0]) == [-0.5, 0.5, 0.0]
    assert gradient_of(lambda x: x.norm(-math.inf), [-3.0, 1.0, -1.0]) == [0.0, 0.5, -0.5]


def test_a_clamp_passes_the_gradient_on_its_limits(backend: type[Buffer]) -> None:
    assert gradient_of(lambda x: x.clamp(0.0, 1.0), [-1.0, 0.0, 0.5, 1.0, 2.0]) == [0.0, 1.0, 1.0, 1.0, 0.0]
    low, high = tensor([0.0, 0.0, 3.0]), tensor([1.0, 1.0, 1.0])
    tensor([-1.0, 2.0, 2.0]).clamp(low, high).backward()  # in the last place low lies above high
    assert low.grad is not None and high.grad is not None
    assert (low.grad.to_python(), high.grad.to_python()) == ([1.0, 0.0, 0.0], [0.0, 1.0, 1.0])


def test_zeros_are_no_exception_for_a_product(backend: type[Buffer]) -> None:
    assert gradient_of(lambda x: x.prod(), [2.0, 0.0, 3.0, 5.0]) == [0.0, 30.0, 0.0, 0.0]
    assert gradient_of(lambda x: x.prod(), [2.0, 0.0, 0.0]) == [0.0, 0.0, 0.0]
    assert gradient_of(lambda x: x.prod((0, 2)), [[[1.0, 2.0]], [[3.0, 0.0]]]) == [[[0.0, 0.0]], [[0.0, 6.0]]]


def test_where_a_slope_is_infinite_or_none_the_gradient_is_0(backend: type[Buffer]) -> None:
    assert gradient_of(lambda x: x.std(), [4.0, 4.0]) == [0.0, 0.0]
    assert gradient_of(lambda x: x.norm(), [0.0, 0.0]) == [0.0, 0.0]
    assert gradient_of(lambda x: x.norm(0.5), [0.0, 4.0]) == [0.0, 1.0]
    assert gradient_of(lambda x: x.abs(), [0.0, -0.0, -2.0]) == [0.0, 0.0, -1.0]
    for step in ("floor", "ceil", "round", "trunc", "sign"):
        assert gradient_of(lambda x, step=step: getattr(x, step)(), [0.0, 1.0, 2.5]) == [0.0, 0.0, 0.0]


def test_infinities_have_no_nan_in_the_gradient_of_logsumexp(backend: type[Buffer]) -> None:
    inf = math.inf
    assert gradient_of(lambda x: x.logsumexp(), [-inf, 0.0, 0.0]) == [0.0, 0.5, 0.5]
    assert gradient_of(lambda x: x.logsumexp(), [inf, 0.0]) == [1.0, 0.0]
    assert gradient_of(lambda x: x.logsumexp(), [-inf, -inf]) == [0.0, 0.0]
    assert gradient_of(lambda x: x.logsumexp(), [1000.0, 1000.0]) == [0.5, 0.5]


# ---------------------------------------------------------------- zeros, small numbers, least integers


@given(data=st.data())
def test_rounding_keeps_the_sign_of_zero(backend: type[Buffer], data: st.DataObject) -> None:
    """Also of what becomes zero, as IEEE 754 has it; and what has no fraction is itself, however large."""
    dtype = data.draw(st.sampled_from(supported(backend, FLOATS)))
    values = data.draw(arrays(dtype, (6,), -3, 3, special=True))
    large = data.draw(
        st.sampled_from([2.0**22 + 0.5, 2.0**23 - 0.5, 2.0**24 + 2, -(2.0**23) - 1, 2.0**51 + 0.5])
    )
    values[0] = large
    for name in ("floor", "ceil", "trunc", "round"):
        ours = read(getattr(Tensor(make(backend, values)), name)().buffer)
        with np.errstate(all="ignore"):
            theirs = getattr(np, name)(values)
        assert np.array_equal(ours, theirs, equal_nan=True), (name, values, ours, theirs)
        numbers = ~np.isnan(theirs)
        assert np.array_equal(np.signbit(ours)[numbers], np.signbit(theirs)[numbers]), (name, values, ours)


@given(data=st.data())
def test_what_is_small_keeps_its_digits(backend: type[Buffer], data: st.DataObject) -> None:
    """log1p and expm1 are right to some units in the last place of a result near 0."""
    dtype = data.draw(st.sampled_from(supported(backend, FLOATS)))
    exponent = data.draw(st.integers(-30, 0))
    values = data.draw(arrays(dtype, (4,), -0.9, 0.9)) * np.dtype(dtype).type(2.0**exponent)
    units = 8 * np.finfo(dtype).eps
    for name in ("log1p", "expm1"):
        ours = read(getattr(Tensor(make(backend, values)), name)().buffer).astype(np.float64)
        theirs = np.array([getattr(math, name)(float(value)) for value in values])
        assert np.all(np.abs(ours - theirs) <= units * np.abs(theirs)), (name, values, ours, theirs)


@pytest.mark.parametrize("name", INTEGERS)
def test_the_least_integer_has_its_place(backend: type[Buffer], name: str) -> None:
    """-x of it is itself, so nothing may be built on that."""
    if lacks(backend, name):
        pytest.skip(f"no {name}")
    dtype = DType.from_name(name)
    least, most = int(np.iinfo(name).min), int(np.iinfo(name).max)
    x = Tensor([least, most, 0], dtype=dtype)
    assert (x.min().item(), x.argmin().item(), x.argsort().to_python()) == (least, 0, [0, 2, 1])
    assert x.minimum(0).to_python() == [least, 0, 0]
    assert x.clamp(-1, 1).to_python() == [-1, 1, 0]
    assert (x // -1).to_python() == [least, -most, 0]  # it wraps around, as NumPy's does
    assert ((x // 7).to_python(), (x % 7).to_python()) == (
        [least // 7, most // 7, 0],
        [least % 7, most % 7, 0],
    )
    assert x[:1].abs().to_python() == [least]


# ---------------------------------------------------------------- order


@given(data=st.data())
def test_sort_says_where_elements_stood(backend: type[Buffer], data: st.DataObject) -> None:
    """values are the elements at indices, which name each place once; topk is the beginning of that."""
    case = data.draw(method_rows.ordering())
    axis, descending = case.options["axis"], case.options["descending"]
    dtype = data.draw(st.sampled_from(supported(backend, DTYPES)))
    (slot,) = case.slots
    assert slot is not None
    x = Tensor(data.draw(operands(backend, slot.shape, dtype, special=True)).buffer)
    values, order = x.sort(axis, descending)
    assert np.array_equal(read(x.gather(axis, order).buffer), read(values.buffer), equal_nan=dtype in FLOATS)
    lines = np.moveaxis(read(order.buffer), axis, -1).reshape(-1, x.shape[axis])
    assert all(sorted(line) == list(range(x.shape[axis])) for line in lines.tolist())
    k = data.draw(st.integers(0, x.shape[axis]))
    first = x.topk(k, axis, largest=descending)
    expected = np.take(read(order.buffer), range(k), axis)
    assert np.array_equal(read(first.indices.buffer), expected)
    assert first.values.shape == first.indices.shape and first.indices.dtype is DType.int64


def test_positions_behind_the_floats_that_are_integers(backend: type[Buffer]) -> None:
    """2^24 + 1 is no float32: downwards, too, positions are counted in integers."""
    if not getattr(backend, "is_fast", False):
        pytest.skip("sorting 16 million elements takes minutes here")
    count = 2**24 + 2
    order = read(backend.zeros((count,)).argsort(descending=True))
    assert order[-3:].tolist() == [count - 3, count - 2, count - 1] and order[0] == 0


@given(data=st.data())
def test_what_is_sorted_along_an_empty_axis(backend: type[Buffer], data: st.DataObject) -> None:
    """Has a shape, and can be given another one."""
    shape = list(data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=3)))
    axis = data.draw(st.integers(0, len(shape) - 1))
    shape[axis] = 0
    x = Tensor(backend.zeros(tuple(shape)))
    descending = data.draw(st.booleans())
    values, order = x.sort(axis, descending)
    parts = [values, order, x.argsort(axis, descending), x.topk(0, axis).values, x.cumsum(axis)]
    for made in parts:
        assert made.shape == tuple(shape)
        assert made.reshape((0,)).to_python() == [] and made.reshape((3, 0, 2)).shape == (3, 0, 2)
        assert made.transpose(0, -1).reshape((2, 0)).to_python() == [[], []]


# ---------------------------------------------------------------- of nothing

OF_NOTHING: dict[str, Callable[[Tensor, int], Tensor]] = {
    "max": lambda x, axis: x.max(axis),
    "min": lambda x, axis: x.min(axis),
    "argmax": lambda x, axis: x.argmax(axis),
    "argmin": lambda x, axis: x.argmin(axis),
    "mean": lambda x, axis: x.mean(axis),
    "var": lambda x, axis: x.var(axis, 0),
    "std": lambda x, axis: x.std(axis, 0),
    "the largest": lambda x, axis: x.norm(math.inf, axis),
    "the least": lambda x, axis: x.norm(-math.inf, axis),
}


@pytest.mark.parametrize("name", OF_NOTHING)
def test_of_nothing_there_is_an_error_where_one_is_asked_for(backend: type[Buffer], name: str) -> None:
    """A reduction that has no value of nothing says so, unless its result has no elements either."""
    reduce = OF_NOTHING[name]
    for shape, axis in [((0,), 0), ((0, 3), 0), ((3, 0), 1), ((2, 0, 3), -2)]:
        with pytest.raises(ValueError, match="no value"):
            reduce(Tensor(backend.zeros(shape)), axis)
    for shape, axis, left in [
        ((0, 0), 0, (0,)),
        ((0, 0), 1, (0,)),
        ((0, 3), 1, (0,)),
        ((3, 0, 0), 1, (3, 0)),
    ]:
        x = Tensor(backend.zeros(shape), requires_grad=True)
        y = reduce(x, axis)
        assert y.shape == left and y.to_python() == ([] if left == (0,) else [[]] * 3)
        if name not in ("argmax", "argmin"):
            y.sum().backward()
            assert x.grad is not None and x.grad.shape == shape
        else:
            assert y.dtype is DType.int64
    for shape in ((0,), (0, 0), (2, 0)):  # over all axes there is always one element
        with pytest.raises(ValueError, match="no value"):
            reduce(Tensor(backend.zeros(shape)), None)  # type: ignore[arg-type]


# ---------------------------------------------------------------- rounding to decimals


@given(data=st.data())
def test_rounding_to_decimals(backend: type[Buffer], data: st.DataObject) -> None:
    """Within one unit in the last place of what Python rounds the float to, or half a step beside it where
    that is a tie; what has no such digit stays.
    """
    dtype = data.draw(st.sampled_from(supported(backend, FLOATS)))
    decimals = data.draw(
        st.one_of(st.integers(-6, 6), st.sampled_from([-400, -39, 20, 39, 60, 309, 400, 10**6]))
    )
    values = data.draw(arrays(dtype, (4,), -3000.0, 3000.0, special=True))
    found = read(Tensor(make(backend, values)).round(decimals).buffer)
    for x, ours in zip(values.tolist(), found.tolist(), strict=True):
        if not math.isfinite(x):
            assert repr(ours) == repr(x)
            continue
        exact = Fraction(x)
        step = Fraction(10) ** -decimals if abs(decimals) < 500 else Fraction(0)
        unit = Fraction(float(np.spacing(np.abs(np.array(x, dtype)))))
        if decimals > 450 or step < unit / 2:
            assert ours == x, (decimals, x)
        elif decimals < -350:
            assert repr(ours) == repr(math.copysign(0.0, x))
        else:
            whole = round(exact / step) * step
            off = abs(abs(exact / step - round(exact / step)) - Fraction(1, 2)) * step
            near = abs(Fraction(ours) - whole) <= 2 * max(
                unit, Fraction(float(np.spacing(np.array(float(abs(whole)), dtype))))
            )
            assert near or off <= 2 * unit, (decimals, x, ours)
        assert math.copysign(1.0, ours) == math.copysign(1.0, x)


def test_tens_are_divided_by(backend: type[Buffer]) -> None:
    """0.1 is no float, 10 is: ties are ties, and the even neighbour is taken, as NumPy takes it."""
    values = [5.0, 15.0, 25.0, 35.0, 45.0, 150.0, 250.0, 350.0, 1450.0, -2500.0]
    for decimals in (-1, -2, -3):
        x = Tensor(values, dtype=DType.float64)
        assert x.round(decimals).to_python() == np.round(np.array(values), decimals).tolist()
    assert Tensor([3e38, 1.5]).round(2).to_python() == Tensor([3e38, 1.5]).to_python()
    assert gradient_of(lambda x: x.round(2), [0.125, 3.0]) == [0.0, 0.0]
    assert Tensor([7, -3]).round(400).to_python() == [7, -3]
    assert Tensor([1.25, -3e-30]).round(400).to_python() == Tensor([1.25, -3e-30]).to_python()
    assert [repr(x) for x in Tensor([1.25, -3e38]).round(-400).to_python()] == ["0.0", "-0.0"]


# ---------------------------------------------------------------- parts


def test_many_parts_take_as_long_as_all_of_them(backend: type[Buffer]) -> None:
    """Four times as many parts take four times as long: nothing is added up anew for each."""

    def seconds(count: int) -> float:
        whole = Tensor(backend.zeros((count,)))
        taken = []
        gc.disable()  # which looks at all parts now and then, however many there are
        try:
            for _ in range(3):
                start = time.process_time()
                assert len(whole.split([1] * count)) == count
                taken.append(time.process_time() - start)
        finally:
            gc.enable()
        return min(taken)

    assert seconds(12_000) < 7 * seconds(3_000) + 0.1


# ---------------------------------------------------------------- masks


def test_a_fill_changes_neither_shape_nor_dtype(backend: type[Buffer]) -> None:
    x, mask = Tensor([1.0, 2.0]), Tensor([[True], [False]])
    with pytest.raises(ValueError, match=r"a mask of shape \(2, 1\)"):
        x.masked_fill(mask, 0.0)
    with pytest.raises(ValueError, match=r"a value of shape \(2, 1\)"):
        x.masked_fill(x > 1.0, Tensor([[1.0], [2.0]]))
    whole = Tensor([1, 2])
    for value in (1.5, math.nan, Tensor([1.5])):
        with pytest.raises(TypeError, match="int32"):
            whole.masked_fill(whole > 1, value)
    with pytest.raises(TypeError, match="bool"):
        (x > 1.0).masked_fill(x > 1.0, 1)
    with pytest.raises(OverflowError):
        whole.masked_fill(whole > 1, 2**40)
    assert whole.masked_fill(whole > 1, True).to_python() == [1, 1]
    value = Tensor([5.0], dtype=DType.float64, requires_grad=True)
    y = x.masked_fill(x > 1.0, value)
    assert (y.dtype, y.shape, y.to_python()) == (DType.float32, (2,), [1.0, 5.0])
    y.sum().backward()
    assert value.grad is not None and value.grad.dtype is DType.float64 and value.grad.to_python() == [1.0]


# ---------------------------------------------------------------- by index


@given(data=st.data())
def test_writes_by_index_are_numpys(backend: type[Buffer], data: st.DataObject) -> None:
    """x[index] = value, of masks, arrays, None and the rest, with a number or an array that broadcasts."""
    case = data.draw(method_rows.indices())
    shape, index = case.slots[0].shape, case.options["index"]  # type: ignore[union-attr]
    dtype = data.draw(st.sampled_from(supported(backend, FLOATS)))
    made = data.draw(operands(backend, shape, dtype, special=True, expand=False))
    expected, x = made.array.copy(), Tensor(made.buffer)
    target = np.asarray(expected[index]).shape
    if data.draw(st.booleans()):
        value: Any = data.draw(st.sampled_from([2.5, -0.0, math.inf]))
        expected[index] = value
    else:
        kept = target[data.draw(st.integers(0, len(target))) :]
        value = data.draw(arrays(dtype, kept, special=True))
        expected[index] = value
        value = Tensor(make(backend, value))
    version = x.buffer.version[0]
    x[method_rows.own_index(index, backend)] = value
    assert np.array_equal(read(x.buffer), expected, equal_nan=True)
    assert np.array_equal(np.signbit(read(x.buffer)), np.signbit(expected)), "the sign of a zero"
    if expected[index].size:
        assert x.buffer.version[0] > version, "autograd cannot notice the write"


def test_of_several_values_for_one_place_the_last_stays(backend: type[Buffer]) -> None:
    x = Tensor([0.0, 0.0, 0.0])
    x[[1, 1, 2]] = Tensor([5.0, 6.0, math.nan])
    assert x[:2].to_python() == [0.0, 6.0] and math.isnan(x[2].item())


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_write_by_index_moves_elements(backend: type[Buffer], dtype: str) -> None:
    """To the bit, in every dtype, beside what stays."""
    if dtype not in supported(backend, DTYPES):
        return
    edges: dict[str, list[Any]] = {
        "f": [math.inf, -0.0, math.nan, float(np.finfo(dtype).smallest_subnormal) if dtype in FLOATS else 0],
        "i": [
            np.iinfo(dtype).min if dtype in INTEGERS else 0,
            -1,
            np.iinfo(dtype).max if dtype in INTEGERS else 0,
            3,
        ],
        "b": [True, False, True, True],
    }
    values = np.array(edges[np.dtype(dtype).kind], dtype)
    x = Tensor(make(backend, values[::-1].copy()))
    x[[2, 0, 2, 1]] = Tensor(make(backend, values))
    assert read(x.buffer).tobytes() == values[[1, 3, 2, 0]].tobytes()


def test_the_gradient_of_what_is_taken_twice_adds_up(backend: type[Buffer]) -> None:
    assert gradient_of(lambda x: x[[0, 0, 1], [1, 1, 0]], [[1.0, 2.0], [3.0, 4.0]]) == [
        [0.0, 2.0],
        [1.0, 0.0],
    ]
    assert gradient_of(lambda x: x.gather(1, [[1, 1], [0, 1]]), [[1.0, 2.0], [3.0, 4.0]]) == [
        [0.0, 2.0],
        [1.0, 1.0],
    ]
    assert gradient_of(lambda x: x[x > 1.5], [1.0, 2.0, 3.0]) == [0.0, 1.0, 1.0]


def test_views_share_their_storage(backend: type[Buffer]) -> None:
    """What only looks at elements in another way shows what is written later."""
    x = Tensor([[1.0, 2.0, 3.0]])
    views = {
        "squeeze": (x.squeeze(0), [9.0, 2.0, 3.0]),
        "unsqueeze": (x.unsqueeze(0), [[[9.0, 2.0, 3.0]]]),
        "flatten": (x.flatten(), [9.0, 2.0, 3.0]),
        "flip": (x.flip(1), [[3.0, 2.0, 9.0]]),
        "split": (x.split(2, 1)[0], [[9.0, 2.0]]),
        "chunk": (x.chunk(3, 1)[0], [[9.0]]),
        "T": (x.T, [[9.0], [2.0], [3.0]]),
        "None": (x[0, None, :2], [[9.0, 2.0]]),
    }
    x[0, 0] = 9.0
    for name, (view, expected) in views.items():
        assert view.to_python() == expected, name


# ---------------------------------------------------------------- what makes arrays


@given(data=st.data())
def test_linspace_and_eye_are_numpys(backend: type[Buffer], data: st.DataObject) -> None:
    start, stop = (data.draw(st.floats(-100, 100, width=32)) for _ in range(2))
    count = data.draw(st.integers(0, 6))
    ours = Tensor.linspace(start, stop, count, DType.float64)
    assert np.allclose(read(ours.buffer), np.linspace(start, stop, count), rtol=1e-13, atol=1e-13)
    if count > 1:
        assert (ours[0].item(), ours[-1].item()) == (start, stop)
    rows, columns = data.draw(st.integers(0, 4)), data.draw(st.one_of(st.none(), st.integers(0, 4)))
    dtype = data.draw(st.sampled_from(supported(backend, DTYPES)))
    eye = Tensor.eye(rows, columns, DType.from_name(dtype))
    assert eye.dtype.name == dtype and np.array_equal(read(eye.buffer), np.eye(rows, columns, dtype=dtype))


def test_what_makes_arrays_says_what_is_wrong(backend: type[Buffer]) -> None:
    with pytest.raises(ValueError, match="-1"):
        Tensor.linspace(0, 1, -1)
    with pytest.raises(TypeError, match=r"2\.5"):
        Tensor.linspace(0, 1, 2.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="-2"):
        Tensor.eye(-2)
    with pytest.raises(TypeError, match="float32"):
        Tensor.eye(2, dtype="float32")  # type: ignore[arg-type]


# ---------------------------------------------------------------- the scalars of NumPy

_SCALARS = [
    np.float32(2),
    np.float64(2),
    np.float16(2),
    np.int64(2),
    np.int32(2),
    np.uint8(2),
    np.bool_(True),
]
_ARITHMETIC = [
    operator.add,
    operator.mul,
    operator.truediv,
    operator.lt,
    operator.ge,
    operator.eq,
    operator.ne,
]
_NUMBERS_ONLY = [operator.sub, operator.pow, operator.floordiv, operator.mod]


@pytest.mark.parametrize("scalar", _SCALARS, ids=lambda scalar: type(scalar).__name__)
def test_a_scalar_of_numpys_is_a_python_number(backend: type[Buffer], scalar: Any) -> None:
    """On either side of an operator, in a method, in a list, and as what fills an array: never an ndarray."""
    number = scalar.item()
    for x in (Tensor([1.0, 3.0], requires_grad=True), Tensor([1, 3])):
        for apply in _ARITHMETIC if isinstance(number, bool) else _ARITHMETIC + _NUMBERS_ONLY:
            for ours, expected in (
                (apply(x, scalar), apply(x, number)),
                (apply(scalar, x), apply(number, x)),
                (apply(scalar, x.buffer), apply(number, x.buffer)),
            ):
                assert type(ours) is type(expected) and ours.dtype is expected.dtype, apply
                assert ours.to_python() == expected.to_python(), apply
    x = Tensor([1.0, 3.0])
    assert x.clamp(scalar).to_python() == x.clamp(number).to_python()
    assert x.maximum(scalar).to_python() == x.maximum(number).to_python()
    assert x.masked_fill(x > 2, scalar).to_python() == [1.0, float(number)]
    assert Tensor.where(x > 2, scalar, x).to_python() == [1.0, float(number)]
    assert Tensor.full((2,), scalar).dtype is Tensor.full((2,), number).dtype
    assert Tensor([scalar, scalar]).dtype is Tensor([number, number]).dtype
    x[0] = scalar
    x += scalar
    assert x.to_python() == [2.0 * number, 3.0 + number]


def test_an_ndarray_with_axes_is_refused(backend: type[Buffer]) -> None:
    """NumPy would answer with an ndarray, and no gradient."""
    x = Tensor([1.0, 2.0], requires_grad=True)
    for compare in (lambda: x == np.ones(2), lambda: np.ones(2) != x, lambda: x.buffer == np.ones(2)):
        with pytest.raises(TypeError, match="ndarray"):
            compare()
    for call in (
        lambda: np.ones(2) * x,
        lambda: x * np.ones(2),
        lambda: x // np.ones(2),
        lambda: np.ones(2) % x,
    ):
        with pytest.raises(TypeError):
            call()


def test_what_is_masked_with_minus_infinity_has_no_part(backend: type[Buffer]) -> None:
    """The mask of attention: probability 0, and gradient 0, not NaN."""
    x = Tensor([[1.0, 2.0, 3.0]], requires_grad=True)
    y = x.masked_fill(Tensor([[False, True, False]]), -math.inf).softmax()
    (y * Tensor([[1.0, 2.0, 3.0]])).sum().backward()
    assert y[0, 1].item() == 0.0 and x.grad is not None and x.grad[0, 1].item() == 0.0
    assert np.isfinite(read(x.grad.buffer)).all()
