"""Laws of precision: a tiny result has as many digits as a large one, and a sum of many numbers as many as
its terms.

The tolerances of the table are relative to what was added up on the way; here they are relative to the result
alone. The references are computed in doubles, from formulas that keep their digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygpt_core import backends, kernels, operations, random
from tinygpt_core.buffer import Buffer
from tinygpt_core.losses import BinaryCrossEntropyLoss
from tinygpt_core.tensor import Tensor, apply_op

from .strategies import FLOATS, make, read, supported
from .tolerances import assert_close

# ---------------------------------------------------------------- tails


def _logistic(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x > -700.0 else math.exp(x)


def _softplus(x: float) -> float:
    """Returns log(1 + e^x)."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def _tanh_argument(x: float) -> float:
    return 2.0 * math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)


def _gelu(x: float) -> float:
    return x * _logistic(_tanh_argument(x))


def _gelu_slope(x: float) -> float:
    share, rest = _logistic(_tanh_argument(x)), _logistic(-_tanh_argument(x))
    return share + x * share * rest * 2.0 * math.sqrt(2.0 / math.pi) * (1.0 + 3.0 * 0.044715 * x * x)


def _exact_gelu(x: float) -> float:
    return x * math.erfc(-x / math.sqrt(2.0)) / 2.0


def _exact_gelu_slope(x: float) -> float:
    return math.erfc(-x / math.sqrt(2.0)) / 2.0 + x * math.exp(-x * x / 2.0) / math.sqrt(2.0 * math.pi)


def _cross_entropy(target: float) -> Callable[[Tensor], Tensor]:
    def losses(x: Tensor) -> Tensor:
        return BinaryCrossEntropyLoss("none")(x, x.detach() * 0.0 + target)

    return losses


# name: the function, its value and its slope, the exponent that it takes e to the power of
TAILS: dict[str, tuple[Callable[[Tensor], Tensor], Any, Any, Callable[[float], float]]] = {
    "sigmoid": (Tensor.sigmoid, _logistic, lambda x: _logistic(x) * _logistic(-x), lambda x: 0.0),
    "log_sigmoid": (Tensor.log_sigmoid, lambda x: -_softplus(-x), lambda x: _logistic(-x), lambda x: 0.0),
    "silu": (
        Tensor.silu,
        lambda x: x * _logistic(x),
        lambda x: _logistic(x) * (1.0 + x * _logistic(-x)),
        lambda x: 0.0,
    ),
    "gelu": (Tensor.gelu, _gelu, _gelu_slope, _tanh_argument),
    "exact gelu": (lambda x: x.gelu(approximate="none"), _exact_gelu, _exact_gelu_slope, lambda x: x * x),
    "cross-entropy of no": (_cross_entropy(0.0), _softplus, _logistic, lambda x: 0.0),
    "cross-entropy of yes": (
        _cross_entropy(1.0),
        lambda x: _softplus(-x),
        lambda x: -_logistic(-x),
        lambda x: 0.0,
    ),
}
DEEPEST = {"gelu": 12.0, "exact gelu": 12.0}


@pytest.mark.parametrize("name", TAILS)
@given(data=st.data())
def test_tails_keep_their_digits(backend: type[Buffer], name: str, data: st.DataObject) -> None:
    """The value and the gradient, a few units in the last place from the true ones, as far out as the dtype
    has normal numbers.

    An exponent that is itself rounded costs as many units as it is large.
    """
    function, value, slope, exponent = TAILS[name]
    dtype = data.draw(st.sampled_from(supported(backend, FLOATS)))
    deepest = DEEPEST.get(name, 120.0)
    numbers = data.draw(st.lists(st.floats(1.5, deepest, width=32), min_size=1, max_size=9))
    x = np.array([-v for v in numbers] + numbers + [-17.5, 17.5][: 2 if deepest > 17.5 else 0], dtype)
    tensor = Tensor(make(backend, x), requires_grad=True)
    y = function(tensor)
    y.sum().backward()
    assert tensor.grad is not None
    doubles = x.astype(np.float64).tolist()
    unit, smallest = float(np.finfo(dtype).eps), float(np.finfo(dtype).tiny)
    # GELU in pure Python computes 1 + tanh in doubles down to its tail
    units = np.array([16.0 + 4.0 * abs(exponent(v)) for v in doubles])
    if name == "gelu" and dtype == "float64":
        units += 1e4
    for what, found, reference in (
        ("value", read(y.buffer), value),
        ("gradient", read(tensor.grad.buffer), slope),
    ):
        wanted = np.array([reference(v) for v in doubles])
        room = units * unit * np.abs(wanted) + (2.0 + np.abs(x)) ** 3 * smallest
        assert np.all(np.abs(found - wanted) <= room), (
            f"the {what} of {name} at {doubles}:\nfound  {found.tolist()}\nwanted {wanted.tolist()}"
        )


def test_the_ends_of_the_tails(backend: type[Buffer]) -> None:
    """At infinities these functions have limits; NaN stays NaN."""
    x = Tensor(make(backend, np.array([-np.inf, np.inf, np.nan], np.float32)), requires_grad=True)
    assert np.array_equal(read(x.sigmoid().buffer), [0.0, 1.0, np.nan], equal_nan=True)
    assert np.array_equal(read(x.log_sigmoid().buffer), [-np.inf, 0.0, np.nan], equal_nan=True)
    x.log_sigmoid().sum().backward()
    assert x.grad is not None
    assert np.array_equal(read(x.grad.buffer), [1.0, 0.0, np.nan], equal_nan=True)


# ---------------------------------------------------------------- sums of many terms

# Of the sum of the absolute values: 64 roundings in a row, or pairwise sums of any number of terms.
SUM_UNITS = 64.0


def assert_sum(found: Any, columns: np.ndarray, what: str, count: float = 1.0) -> None:
    """Fails unless each element of `found` is the sum of its column, as `math.fsum` has it, divided by
    `count`.
    """
    doubles = columns.astype(np.float64)
    wanted = np.array([math.fsum(column) for column in doubles.T]) / count
    room = SUM_UNITS * float(np.finfo(columns.dtype).eps) / 2.0 * np.abs(doubles).sum(0) / count
    found = np.asarray(found, np.float64).reshape(wanted.shape)
    assert np.all(np.abs(found - wanted) <= room), (
        f"{what} of {len(columns)} rows: {found.tolist()} instead of {wanted.tolist()}"
    )


def many_rows(count: int, width: int = 2) -> np.ndarray:
    """Rows whose running total is rounded in the same direction again and again: 0.1, 0.3, 0.7, …"""
    return np.tile(np.array([0.1, 0.7, 0.3, 0.9], np.float32)[:width], (count, 1))


def test_three_hundred_thousand_rows(backend: type[Buffer]) -> None:
    """Whatever the axis, whatever the layout."""
    rows = many_rows(300_000)
    buffer = make(backend, rows)
    columns = make(backend, np.ascontiguousarray(rows.T))
    cube = make(backend, rows.reshape(300, 1000, 2))
    assert_sum(read(buffer.sum((0,))), rows, "sum over axis 0")
    assert_sum(read(columns.transpose(0, 1).sum((0,))), rows, "sum over axis 0 of a transposed Buffer")
    assert_sum(read(columns.sum((1,))), rows, "sum over axis 1")
    assert_sum(read(buffer[::-1].sum((0,))), rows, "sum over axis 0 of a reversed Buffer")
    assert_sum(read(cube.sum((0, 1))), rows, "sum over two axes")
    assert_sum(read(cube.permute((1, 0, 2)).sum((0, 1))), rows, "sum over two permuted axes")
    assert_sum(read(buffer.sum()), rows.reshape(-1, 1), "sum over all axes")
    assert_sum(read(Tensor(buffer).mean(0).buffer), rows, "mean", len(rows))
    ones = make(backend, np.ones((300_000, 1), np.float32)).expand((300_000, 2))
    assert read(ones.sum((0,))).tolist() == [[300_000.0] * 2]


def test_running_sums_of_many_rows(backend: type[Buffer]) -> None:
    """Each is as accurate as the sum of what it adds up, along either axis."""
    rows = many_rows(100_000)
    found = {
        0: read(make(backend, rows).cumsum(0)),
        1: read(make(backend, np.ascontiguousarray(rows.T)).cumsum(1)).T,
        -2: read(Tensor(make(backend, rows)).cumsum(-2).buffer),
    }
    for axis, sums in found.items():
        assert sums.dtype == np.float32 and sums.shape == rows.shape
        for count in (1, 2, 999, 40_000, 100_000):
            assert_sum(sums[count - 1], rows[:count], f"cumsum along {axis}")


@given(data=st.data())
def test_sums_are_as_accurate_as_their_terms(backend: type[Buffer], data: st.DataObject) -> None:
    """Over any axes of up to four, in float32 and float64; the first element is large, the rest repeat."""
    dtype = data.draw(st.sampled_from(supported(backend, FLOATS)))
    shape = data.draw(st.lists(st.sampled_from([1, 2, 3, 40, 129]), min_size=1, max_size=3).map(tuple))
    order = data.draw(st.permutations(range(len(shape))))
    axes = data.draw(st.sets(st.sampled_from(order), min_size=1))
    value = data.draw(st.floats(0.125, 1.0, width=32))
    x = np.full(shape, value, dtype)
    x.reshape(-1)[0] = data.draw(st.sampled_from([value, 1e3]))
    kept = [axis for axis in range(len(shape)) if axis not in axes]
    columns = x.transpose(order).transpose([*sorted(axes), *kept])
    columns = columns.reshape(math.prod(columns.shape[: len(axes)]), -1)
    found = make(backend, x).permute(order).sum(tuple(axes))
    assert_sum(read(found), columns, f"sum of shape {found.shape}")


def test_gradients_that_add_up_rows(backend: type[Buffer]) -> None:
    """Of a bias, of what was broadcast, of rows that many indices name, of a normalization's weights."""
    count = 20_000
    rows = many_rows(count, 4)

    def gradient(function: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> np.ndarray:
        parameter = Tensor(make(backend, np.ones(shape, np.float32)), requires_grad=True)
        function(parameter).backward(Tensor(make(backend, rows)))
        assert parameter.grad is not None
        return read(parameter.grad.buffer)

    x = Tensor(make(backend, np.zeros((count, 3), np.float32)))
    alternating = np.tile(np.array([1.0, -1.0, -1.0, 1.0], np.float32), (count, 1))
    normal = Tensor(make(backend, alternating))
    weights = Tensor(make(backend, np.zeros((3, 4), np.float32)))
    ids = Tensor(make(backend, np.zeros(count, np.int64)))
    no_bias = Tensor(make(backend, np.zeros(4, np.float32)))

    def apply(operation: type[operations.Operation], *inputs: Tensor, **options: Any) -> Tensor:
        return apply_op(operation, *inputs, **options)

    assert_sum(gradient(lambda b: apply(operations.Linear, x, weights, b), (4,)), rows, "a bias")
    assert_sum(gradient(lambda b: normal * 0.0 + b, (4,)), rows, "a broadcast operand")
    assert_sum(gradient(lambda w: w.take(ids), (2, 4))[0], rows, "take")
    assert_sum(gradient(lambda w: apply(operations.Embedding, w, ids), (2, 4))[0], rows, "an embedding")
    assert_sum(
        gradient(lambda w: apply(operations.Embedding, w, ids), (count + 1, 4))[0], rows, "a large embedding"
    )
    assert_sum(
        gradient(lambda b: apply(operations.LayerNorm, normal, no_bias + 1.0, b, eps=0.0), (4,)),
        rows,
        "LayerNorm's bias",
    )
    for operation in (operations.LayerNorm, operations.RMSNorm):
        found = gradient(lambda w: apply(operation, normal, w, eps=0.0), (4,))  # noqa: B023
        assert_sum(found, rows * alternating, f"{operation.__name__}'s weights")
    images = Tensor(make(backend, np.zeros((count // 100, 1, 10, 10), np.float32)))
    pixels = np.full((count // 100, 1, 10, 10), 0.1, np.float32)
    bias = Tensor(make(backend, np.zeros(1, np.float32)), requires_grad=True)
    kernel = Tensor(make(backend, np.zeros((1, 1, 1, 1), np.float32)))
    apply(operations.Conv2d, images, kernel, bias).backward(Tensor(make(backend, pixels)))
    assert bias.grad is not None
    assert_sum(read(bias.grad.buffer), pixels.reshape(-1, 1), "a convolution's bias")
    total = make(backend, np.zeros((2, 4), np.float32))
    total.scatter_add(make(backend, np.ones(count, np.int32)), make(backend, rows))
    assert_sum(read(total)[1], rows, "scatter_add")


# ---------------------------------------------------------------- what was not chosen

# Of the first two numbers of this stream the first is below one half, the second not
DROPS_THE_FIRST = next(
    key
    for key in (random.Key(seed, 0, 0) for seed in range(99))
    if [u >= 0.5 for u in random.uniforms32(key, 2)] == [False, True]
)
CHOICES: dict[str, tuple[Callable[[Tensor], Tensor], list[float], list[bool]]] = {
    "maximum": (lambda x: x.maximum(0.0), [-1.0, 4.0], [False, True]),
    "maximum, other side": (lambda x: Tensor([0.0, 0.0]).maximum(x), [-1.0, 4.0], [False, True]),
    "max": (lambda x: x.max(0, keepdim=True), [-1.0, 4.0], [False, True]),
    "relu": (Tensor.relu, [-1.0, 4.0], [False, True]),
    "minimum": (lambda x: x.minimum(0.0), [1.0, -4.0], [False, True]),
    "min": (lambda x: x.min(0, keepdim=True), [1.0, -4.0], [False, True]),
    "clamp": (lambda x: x.clamp(0.0, 9.0), [-1.0, 4.0], [False, True]),
    "clamp, other side": (lambda x: x.clamp(-9.0, 0.0), [1.0, -4.0], [False, True]),
    "abs": (Tensor.abs, [0.0, -4.0], [False, True]),
    "norm 1": (lambda x: x.norm(1.0, 0, keepdim=True), [0.0, -4.0], [False, True]),
    "norm 2": (lambda x: x.norm(2.0, 0, keepdim=True), [0.0, -4.0], [False, True]),
    "norm 3": (lambda x: x.norm(3.0, 0, keepdim=True), [0.0, -4.0], [False, True]),
    "largest": (lambda x: x.norm(math.inf, 0, keepdim=True), [0.0, -4.0], [False, True]),
    "least": (lambda x: x.norm(-math.inf, 0, keepdim=True), [5.0, -4.0], [False, True]),
    "logsumexp": (lambda x: x.logsumexp(0, keepdim=True), [-math.inf, 4.0], [False, True]),
    "masked_fill": (lambda x: x.masked_fill(Tensor([True, False]), 0.0), [1.0, 4.0], [False, True]),
    "gather": (lambda x: x.gather(0, [1, 1]), [1.0, 4.0], [False, True]),
    "topk": (lambda x: x.topk(1).values, [1.0, 4.0], [False, True]),
    "index": (lambda x: x[[1]], [1.0, 4.0], [False, True]),
    "slice": (lambda x: x[1:], [1.0, 4.0], [False, True]),
    "triu": (lambda x: x.reshape((2, 1)).triu(), [4.0, 1.0], [True, False]),
    "dropout": (
        lambda x: apply_op(operations.Dropout, x, probability=0.5, key=DROPS_THE_FIRST),
        [1.0, 4.0],
        [False, True],
    ),
    "tril": (lambda x: x.reshape((1, 2)).tril(), [1.0, 4.0], [True, False]),
    "where": (
        lambda x: apply_op(operations.Where, Tensor([False, True]), x, x.detach()),
        [1.0, 4.0],
        [False, True],
    ),
    "pow to 0": (lambda x: x ** Tensor([0.0, 1.0]), [2.0, 4.0], [False, True]),
    "pooling": (
        lambda x: apply_op(operations.MaxPool2d, x.reshape((1, 1, 1, 2)), kernel_size=(1, 2)),
        [-1.0, 4.0],
        [False, True],
    ),
    "cross-entropy": (
        lambda x: apply_op(
            operations.CrossEntropy, x.reshape((2, 1)).expand((2, 3)), Tensor([-1, 0]), ignore_index=-1
        ),
        [1.0, 2.0],
        [False, True],
    ),
}


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("incoming", [math.inf, -math.inf, math.nan])
def test_what_was_not_chosen_gets_no_gradient(backend: type[Buffer], name: str, incoming: float) -> None:
    """0 where an element had no part in the result, even of an infinite gradient or NaN."""
    function, values, chosen = CHOICES[name]
    with backends.use(backend.backend):
        x = Tensor(values, requires_grad=True)
        y = function(x)
        y.backward(Tensor(backend.full(y.shape, incoming, x.dtype)))
    assert x.grad is not None
    for gradient, has_part in zip(x.grad.to_python(), chosen, strict=True):
        assert has_part or gradient == 0.0, f"{name}: {x.grad.to_python()} of {incoming}"
        assert not has_part or not math.isfinite(gradient)


def test_the_root_of_a_positive_part(backend: type[Buffer]) -> None:
    with backends.use(backend.backend):
        x = Tensor([-1.0, 4.0], requires_grad=True)
        x.maximum(0.0).sqrt().sum().backward()
        assert x.grad is not None and x.grad.to_python() == [0.0, 0.25]


def test_the_gradients_of_zero_to_the_power_of_zero(backend: type[Buffer]) -> None:
    """0^0 is 1, whatever the base of 0, and 0^b is 0 for the next b: both slopes are 0."""
    with backends.use(backend.backend):
        a = Tensor([0.0, 0.0, 0.0, 2.0], requires_grad=True)
        b = Tensor([0.0, 1.0, 2.0, 0.0], requires_grad=True)
        y = a**b
        assert y.to_python() == [1.0, 0.0, 0.0, 1.0]
        y.sum().backward()
        assert a.grad is not None and b.grad is not None
        assert a.grad.to_python() == [0.0, 1.0, 0.0, 0.0]
        assert_close(read(b.grad.buffer), [0.0, 0.0, 0.0, math.log(2.0)], "float32")


@pytest.mark.parametrize("dtype", FLOATS)
def test_dropout_chooses(backend: type[Buffer], dtype: str) -> None:
    """What is dropped is 0, whatever it was, and so is its gradient; what is kept is scaled. The registered
    kernel and the textbook one drop the same.
    """
    if dtype not in supported(backend, FLOATS):
        return
    special = [math.inf, -math.inf, math.nan, 1.0, -0.0, 2.5, 1e30, -3.0]
    x = np.array(special * 25, dtype)
    key = random.Key(5, 1, 3)
    kept = np.array([u >= 0.25 for u in random.uniforms32(key, x.size)])
    assert 0 < kept.sum() < x.size
    scale = np.dtype(dtype).type(1.0 / 0.75)
    with np.errstate(all="ignore"):
        expected = np.where(kept, x * scale, np.zeros_like(x))
    for kernel in {kernels.Dropout, kernels.lookup(kernels.Dropout, backend)}:
        y, saved = kernel.forward(make(backend, x), probability=0.25, key=key)
        (gradient,) = kernel.backward(saved, make(backend, x))
        for found in (read(y), read(gradient() if callable(gradient) else gradient)):
            assert_close(found, expected, dtype)
            assert not found[~kept].any() and not np.isnan(found[~kept]).any()
