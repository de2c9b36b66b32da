"""The table: one row for everything public that computes. The templates in `test_table_laws` turn rows into
laws.

A row says what a thing means by a reference that shares nothing with our code (NumPy in float64, `math`),
which operands it takes (a strategy of cases), in which dtypes, what dtype comes out, and which inputs are
errors. `covers` names what the row stands for; a test fails when a public method, operation or kernel is in
no row (and in no law of its own, see OWN_LAWS).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

from tinygpt_core import kernels, operations
from tinygpt_core.buffer import Buffer
from tinygpt_core.dtype import DType
from tinygpt_core.random import Generator, Key, uniforms32
from tinygpt_core.tensor import Tensor, apply_op

from . import minimal
from .strategies import DTYPES, FLOATS, INTEGERS, NUMBERS, axes_of, basic_indices, broadcastable, shapes

Shape = tuple[int, ...]


class Slot(NamedTuple):
    """One operand of a case: its shape, its dtype ("" is the one under test) and range; `smooth` is the range
    for gradients.
    """

    shape: Shape
    dtype: str = ""
    low: float = -8.0
    high: float = 8.0
    smooth: tuple[float, float] = (-2.0, 2.0)


class Case(NamedTuple):
    slots: tuple[Slot | None, ...]
    options: Mapping[str, Any] = MappingProxyType({})


class Wrong(NamedTuple):
    """An input that is an error: the call, the exception, and what its message must name."""

    what: str
    call: Callable[[type[Buffer]], Any]
    exception: type[Exception] | tuple[type[Exception], ...]
    names: tuple[str, ...] = ()


def promoted(*dtypes: str) -> str:
    return np.result_type(*dtypes).name


def floating(*dtypes: str) -> str:
    """Integers and bools become float64, floats promote: the rule of true division."""
    found = np.result_type(*dtypes)
    return found.name if found.kind == "f" else "float64"


def summed(dtype: str) -> str:
    return dtype if dtype in FLOATS else "int64"


def always(dtype: str) -> Callable[..., str]:
    return lambda *dtypes: dtype


@dataclass(frozen=True, repr=False)
class Row:
    """See the module's docstring. `on_buffers` and `on_tensors` compute with Buffers and with Tensors;
    `kernel` is both.
    """

    name: str
    covers: tuple[str, ...]
    reference: Callable[..., Any]
    cases: Callable[[], st.SearchStrategy[Case]]
    on_buffers: Callable[..., Buffer] | None = None
    on_tensors: Callable[..., Tensor] | None = None
    kernel: type[kernels.Kernel] | None = None
    dtypes: tuple[str, ...] = FLOATS
    mixed: bool = False  # operands of different dtypes are drawn, too
    special: bool = False  # infinities, NaN and numbers near the end of the range are drawn, too
    result: Callable[..., str] = promoted  # from the dtypes of the operands under test
    magnitude: Callable[..., Any] | None = None
    gradient: bool = True
    errors: tuple[Wrong, ...] = field(default=())

    def __repr__(self) -> str:
        return f"<row {self.name}>"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))  # Hypothesis would print all that a row has


def elsewhere_of(x: Buffer | Tensor) -> str:
    """Returns the name of a backend that x is not on."""
    if x.backend != "python":
        return "python"
    minimal.register()
    return "minimal"


# ---------------------------------------------------------------- cases


def one(
    low: float = -8.0, high: float = 8.0, smooth: tuple[float, float] = (-2.0, 2.0)
) -> Callable[[], st.SearchStrategy[Case]]:
    return lambda: shapes(max_dims=3).map(lambda shape: Case((Slot(shape, "", low, high, smooth),)))


def two(
    first: tuple[float, float] = (-8.0, 8.0),
    second: tuple[float, float] = (-8.0, 8.0),
    smooth: tuple[tuple[float, float], tuple[float, float]] = ((-2.0, 2.0), (-3.0, 1.9)),
) -> Callable[[], st.SearchStrategy[Case]]:
    return lambda: broadcastable().map(
        lambda s: Case((Slot(s[0], "", *first, smooth[0]), Slot(s[1], "", *second, smooth[1])))
    )


def composite(function: Callable[[st.DrawFn], Case]) -> Callable[[], st.SearchStrategy[Case]]:
    return st.composite(function)


@composite
def reduction(draw: st.DrawFn) -> Case:
    shape = draw(shapes(max_dims=3))
    return Case((Slot(shape),), {"axes": draw(axes_of(len(shape)))})


@composite
def reduction_not_empty(draw: st.DrawFn) -> Case:
    shape = draw(shapes(max_dims=3, min_side=1))
    return Case((Slot(shape),), {"axes": draw(axes_of(len(shape)))})


@composite
def along_axis(draw: st.DrawFn) -> Case:
    shape = draw(shapes(min_dims=1, max_dims=3, min_side=1))
    return Case((Slot(shape),), {"axis": draw(st.integers(-len(shape), len(shape) - 1))})


@composite
def reshaping(draw: st.DrawFn) -> Case:
    shape = draw(shapes(max_dims=4, max_side=4))
    total, wanted = math.prod(shape), []
    if not total:
        return Case((Slot(shape),), {"shape": draw(st.sampled_from([(0,), (2, 0), (0, 3, 1)]))})
    while total > 1:
        size = draw(st.sampled_from([d for d in range(2, total + 1) if total % d == 0]))
        wanted.append(size)
        total //= size
    for _ in range(draw(st.integers(0, 2))):
        wanted.insert(draw(st.integers(0, len(wanted))), 1)
    if wanted and draw(st.booleans()):
        wanted[draw(st.integers(0, len(wanted) - 1))] = -1
    return Case((Slot(shape),), {"shape": tuple(wanted)})


@composite
def permuting(draw: st.DrawFn) -> Case:
    shape = draw(shapes())
    order = [
        axis - len(shape) if draw(st.booleans()) else axis
        for axis in draw(st.permutations(range(len(shape))))
    ]
    return Case((Slot(shape),), {"axes": tuple(order)})


@composite
def transposing(draw: st.DrawFn) -> Case:
    shape = draw(shapes(min_dims=1))
    axis = st.integers(-len(shape), len(shape) - 1)
    return Case((Slot(shape),), {"axis1": draw(axis), "axis2": draw(axis)})


@composite
def expanding(draw: st.DrawFn) -> Case:
    shape = draw(shapes(max_dims=3))
    grown = tuple(draw(st.integers(0, 3)) if size == 1 else size for size in shape)
    extra = draw(st.lists(st.integers(0, 3), max_size=2))
    return Case((Slot(shape),), {"shape": (*extra, *grown)})


@composite
def slicing(draw: st.DrawFn) -> Case:
    shape = draw(shapes(max_dims=3, max_side=5))
    return Case((Slot(shape),), {"index": draw(basic_indices(shape))})


@composite
def joining(draw: st.DrawFn) -> Case:
    shape = draw(shapes(min_dims=1, max_dims=3))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    sizes = draw(st.lists(st.integers(0, 3), min_size=1, max_size=3))
    at = axis % len(shape)
    return Case(tuple(Slot((*shape[:at], size, *shape[at + 1 :])) for size in sizes), {"axis": axis})


@composite
def triangle(draw: st.DrawFn) -> Case:
    return Case((Slot(draw(shapes(min_dims=2, max_dims=3))),), {"diagonal": draw(st.integers(-4, 4))})


@composite
def choosing(draw: st.DrawFn) -> Case:
    condition, first, second = draw(broadcastable(3))
    return Case((Slot(condition, "bool"), Slot(first), Slot(second, smooth=(-3.0, 1.9))))


# Batches that pair other matrices than those at the same position, which chance draws rarely.
CROSSED = [((2, 3), (2, 1)), ((3, 1), (3, 2)), ((2, 1), (1, 3)), ((1, 2), (3, 1))]


@composite
def products(draw: st.DrawFn) -> Case:
    first, second = draw(st.one_of(broadcastable(max_dims=2), st.sampled_from(CROSSED)))
    n, k, m = (draw(st.integers(0, 5)) for _ in range(3))
    return Case((Slot((*first, n, k)), Slot((*second, k, m), smooth=(-3.0, 1.9))))


@composite
def taking(draw: st.DrawFn) -> Case:
    shape = draw(shapes(min_dims=1, max_dims=3, min_side=1))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    return Case(
        (Slot(shape), Slot(draw(shapes(max_dims=2)), draw(st.sampled_from(INTEGERS)), 0, shape[axis] - 1)),
        {"axis": axis},
    )


@composite
def scattering(draw: st.DrawFn) -> Case:
    shape = draw(shapes(min_dims=1, max_dims=3, min_side=1))
    indices = draw(shapes(max_dims=2, max_side=5))
    return Case(
        (
            Slot(shape),
            Slot(indices, draw(st.sampled_from(INTEGERS)), 0, shape[0] - 1),
            Slot(indices + shape[1:]),
        )
    )


@composite
def linear_cases(draw: st.DrawFn) -> Case:
    lead, k, m = draw(shapes(max_dims=3, max_side=3)), draw(st.integers(0, 5)), draw(st.integers(0, 5))
    bias = Slot((m,)) if draw(st.booleans()) else None
    return Case((Slot((*lead, k)), Slot((k, m), smooth=(-3.0, 1.9)), bias))


@composite
def class_cases(draw: st.DrawFn) -> Case:
    lead, classes = draw(shapes(max_dims=2, max_side=4)), draw(st.integers(1, 6))
    dtype = draw(st.sampled_from(INTEGERS))
    if draw(st.integers(0, 3)) == 0:
        return Case((Slot((*lead, classes)), Slot(lead, dtype, -1, classes - 1)), {"ignore_index": -1})
    return Case((Slot((*lead, classes)), Slot(lead, dtype, 0, classes - 1)))


def _norm_cases(bias: bool) -> Callable[[], st.SearchStrategy[Case]]:
    @composite
    def draw_case(draw: st.DrawFn) -> Case:
        shape = draw(shapes(min_dims=1, max_dims=4, min_side=1, max_side=4))
        count = draw(st.integers(1, len(shape)))
        if draw(st.integers(0, 5)) == 0:
            shape = (0, *shape)
        tail = shape[len(shape) - count :]
        weights = Slot(tail, smooth=(0.2, 2.0)) if draw(st.booleans()) else None
        options = {"num_axes": count, "eps": draw(st.sampled_from([1e-5, 1e-3, 0.1]))}
        slots = (Slot(shape), weights, Slot(tail) if weights and draw(st.booleans()) else None)
        return Case(slots if bias else slots[:2], options)

    return draw_case


@composite
def gelu_cases(draw: st.DrawFn) -> Case:
    return Case((Slot(draw(shapes(max_dims=3))),), {"approximate": draw(st.sampled_from(["tanh", "none"]))})


@composite
def dropout_cases(draw: st.DrawFn) -> Case:
    key = Generator(draw(st.integers(0, 2**40)), draw(st.integers(0, 3))).reserve(4)
    return Case(
        (Slot(draw(shapes(max_dims=3))),),
        {"probability": draw(st.sampled_from([0.0, 0.1, 0.5, 0.9])), "key": key},
    )


@composite
def attention_cases(draw: st.DrawFn) -> Case:
    b, h, t, d = (
        draw(st.integers(0, 2)),
        draw(st.integers(1, 2)),
        draw(st.integers(1, 5)),
        draw(st.integers(1, 4)),
    )
    causal = draw(st.booleans())
    s = t + draw(st.integers(0, 3)) if causal else draw(st.integers(1, 6))
    options: dict[str, Any] = {"causal": causal}
    if draw(st.booleans()):
        options["scale"] = draw(st.sampled_from([0.25, 1.0, 0.1]))
    keys = Slot((b, h, s, d), "", -2.0, 2.0, (-1.5, 1.0))
    return Case((Slot((b, h, t, d), "", -2.0, 2.0, (-1.0, 1.0)), keys, Slot((b, h, s, d))), options)


@composite
def windowed_attention_cases(draw: st.DrawFn) -> Case:
    b, h = draw(st.integers(0, 2)), draw(st.integers(1, 2))
    t, d = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    s = t + draw(st.integers(0, 3))
    choices = {"window": [None, 1, 2, 9], "soft_cap": [None, 0.5, 5.0], "scale": [None, 0.25, 1.0]}
    options = {name: draw(st.sampled_from(values)) for name, values in choices.items()}
    keys = Slot((b, h, s, d), "", -2.0, 2.0, (-1.5, 1.0))
    return Case((Slot((b, h, t, d), "", -2.0, 2.0, (-1.0, 1.0)), keys, Slot((b, h, s, d))), options)


@composite
def packed_attention_cases(draw: st.DrawFn) -> Case:
    heads, size = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    shape = (draw(st.integers(0, 2)), draw(st.integers(1, 5)), 3 * heads * size)
    return Case((Slot(shape, "", -2.0, 2.0, (-1.5, 1.0)),), {"num_heads": heads})


@composite
def rotary_cases(draw: st.DrawFn) -> Case:
    b, h, t, half = (
        draw(st.integers(0, 2)),
        draw(st.integers(1, 2)),
        draw(st.integers(0, 4)),
        draw(st.integers(1, 3)),
    )
    options = {"positions_start": draw(st.integers(0, 40)), "base": draw(st.sampled_from([10000.0, 100.0]))}
    if draw(st.booleans()):
        options["frequencies"] = tuple(draw(st.sampled_from([0.0, 0.01, 1.0])) for _ in range(half))
    return Case((Slot((b, h, t, 2 * half)),), options)


@composite
def embedding_cases(draw: st.DrawFn) -> Case:
    count, size = draw(st.integers(1, 6)), draw(st.integers(0, 4))
    return Case(
        (
            Slot((count, size)),
            Slot(draw(shapes(max_dims=2, max_side=6)), draw(st.sampled_from(INTEGERS)), 0, count - 1),
        )
    )


def _kernel_over(
    draw: st.DrawFn, size: int, least_kernel: int = 1, dilations: tuple[int, ...] = (1,), pool: bool = False
) -> Any:
    """Draws kernel size, stride, padding and dilation along one axis such that the kernel fits the padded
    image.
    """
    kernel, dilation = draw(st.integers(least_kernel, 3)), draw(st.sampled_from(dilations))
    reach = dilation * (kernel - 1) + 1
    least = max(0, -(-(reach - size) // 2))
    padding = (
        draw(st.integers(least, kernel // 2))
        if pool and least <= kernel // 2
        else draw(st.integers(least, least + 2))
    )
    if pool and 2 * padding > kernel:
        return 1, draw(st.integers(1, 2)), 0, 1
    return kernel, draw(st.integers(1, 3)), padding, dilation


def _pairs(draw: st.DrawFn, first: tuple[int, ...], second: tuple[int, ...]) -> list[Any]:
    """Returns options as pairs, or as ints where both are the same and an int is drawn."""
    return [a if a == b and draw(st.booleans()) else (a, b) for a, b in zip(first, second, strict=True)]


@composite
def convolution_cases(draw: st.DrawFn) -> Case:
    groups, height, width = (
        draw(st.sampled_from([1, 1, 2, 3])),
        draw(st.integers(1, 5)),
        draw(st.integers(1, 5)),
    )
    images, inside, outside = (
        draw(st.integers(0, 2)),
        groups * draw(st.integers(1, 2)),
        groups * draw(st.integers(1, 2)),
    )
    vertical, horizontal = (_kernel_over(draw, size, dilations=(1, 1, 2)) for size in (height, width))
    _, stride, padding, dilation = _pairs(draw, vertical, horizontal)
    weights = Slot((outside, inside // groups, vertical[0], horizontal[0]), smooth=(-1.5, 1.0))
    bias = Slot((outside,)) if draw(st.booleans()) else None
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return Case((Slot((images, inside, height, width)), weights, bias), options)


@composite
def pooling_cases(draw: st.DrawFn) -> Case:
    height, width = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    kernel, stride, padding, _ = _pairs(
        draw, *(_kernel_over(draw, size, pool=True) for size in (height, width))
    )
    options = {"kernel_size": kernel, "padding": padding}
    if draw(st.booleans()):
        options["stride"] = stride
    return Case((Slot((draw(st.integers(0, 2)), draw(st.integers(1, 2)), height, width)),), options)


@composite
def einsum_cases(draw: st.DrawFn) -> Case:
    """One to four operands over four letters, some repeated in one operand, some axes of size 1 or 0, with
    and without "..." and "->".
    """
    sizes = {letter: draw(st.sampled_from([1, 2, 3, 2, 3, 0])) for letter in "aBcd"}
    ellipsis = tuple(draw(st.lists(st.integers(1, 3), max_size=2)))
    texts, slots = [], []
    for position in range(draw(st.integers(1, 4))):
        letters = draw(st.lists(st.sampled_from("aBcd"), max_size=4))
        shape = [1 if letters.count(x) == 1 and draw(st.integers(0, 5)) == 0 else sizes[x] for x in letters]
        if draw(st.integers(0, 2)) == 0:
            place, count = draw(st.integers(0, len(letters))), draw(st.integers(0, len(ellipsis)))
            letters.insert(place, "...")
            shape[place:place] = [
                1 if draw(st.integers(0, 4)) == 0 else size for size in ellipsis[len(ellipsis) - count :]
            ]
        texts.append("".join(letters))
        slots.append(
            Slot(tuple(shape), "", -4.0, 4.0, ((-2.0, 2.0), (-3.0, 1.9), (-1.0, 1.5), (-1.2, 1.0))[position])
        )
    subscripts = ",".join(texts)
    if draw(st.booleans()):
        found = sorted(set(subscripts) - set(".,"))
        output = draw(st.permutations(found))[: draw(st.integers(0, len(found)))]
        if "..." in subscripts:
            output.insert(draw(st.integers(0, len(output))), "...")
        subscripts += "->" + "".join(output)
    return Case(tuple(slots), {"subscripts": subscripts})


# ---------------------------------------------------------------- references (NumPy in float64, math)


def _where_axes(axes: Any) -> Any:
    return tuple(axes) if isinstance(axes, list) else axes


def _take(x: Any, indices: Any, axis: int) -> Any:
    return np.take(x, indices, axis)


def _scatter(x: Any, indices: Any, values: Any) -> Any:
    result = x.copy()
    np.add.at(result, indices, values)
    return result


def _scatter_magnitude(x: Any, indices: Any, values: Any) -> Any:
    return _scatter(np.abs(x), indices, np.abs(values))


def _linear(x: Any, weights: Any, bias: Any = None) -> Any:
    return np.einsum("...i,io->...o", x, weights) + (0.0 if bias is None else bias)


def _softmax(x: Any, axis: int = -1) -> Any:
    if not x.size:
        return x
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def _log_softmax(x: Any, axis: int = -1) -> Any:
    return x - np.logaddexp.reduce(x, axis, keepdims=True) if x.size else x


def _cross_entropy(logits: Any, targets: Any, ignore_index: int | None = None) -> Any:
    losses = np.zeros(targets.shape)
    for where in np.ndindex(targets.shape):
        if targets[where] != ignore_index:
            losses[where] = np.logaddexp.reduce(logits[where]) - logits[where][targets[where]]
    return losses


def _layer_norm(x: Any, weights: Any = None, bias: Any = None, eps: float = 1e-5, num_axes: int = 1) -> Any:
    axes = tuple(range(-num_axes, 0))
    y = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps)
    return (y if weights is None else y * weights) + (0.0 if bias is None else bias)


def _rms_norm(x: Any, weights: Any = None, eps: float = 1e-5, num_axes: int = 1) -> Any:
    y = x / np.sqrt(np.mean(x**2, tuple(range(-num_axes, 0)), keepdims=True) + eps)
    return y if weights is None else y * weights


def _norm_magnitude(
    x: Any, weights: Any = None, bias: Any = None, eps: float = 1e-5, num_axes: int = 1
) -> Any:
    # Rounding the mean moves x - mean by a unit of the largest |x|, which the division by a small deviation
    # magnifies.
    axes = tuple(range(-num_axes, 0))
    largest = np.abs(x).max(axes, keepdims=True) if x.size else 0.0
    amplified = 3 * largest / np.sqrt(x.var(axes, keepdims=True) + eps)
    return (amplified + 0 * x) * (1.0 if weights is None else np.abs(weights)) + (
        0.0 if bias is None else np.abs(bias)
    )


_erf = np.vectorize(math.erf, otypes=[np.float64])


def _gelu(x: Any, approximate: str = "tanh") -> Any:
    if approximate == "none":
        return 0.5 * x * (1 + _erf(x / math.sqrt(2)))
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _silu(x: Any) -> Any:
    return x / (1 + np.exp(-x))


def _relu(x: Any) -> Any:
    return np.where(x <= 0, 0.0, x)  # NaN stays


def _dropout(x: Any, probability: float, key: Key) -> Any:
    kept = np.array(uniforms32(key, x.size), np.float32).reshape(x.shape) >= np.float32(probability)
    return np.where(kept, x / (1 - probability), 0.0)


def _attention(query: Any, key: Any, value: Any, causal: bool = True, scale: float | None = None) -> Any:
    t, s, d = query.shape[2], key.shape[2], query.shape[3]
    result = np.zeros(query.shape)
    for b, h, i in np.ndindex(*query.shape[:3]):
        last = i + s - t + 1 if causal else s
        scores = [
            float(query[b, h, i] @ key[b, h, j]) * (1 / math.sqrt(d) if scale is None else scale)
            for j in range(last)
        ]
        weights = [math.exp(score - max(scores)) for score in scores]
        result[b, h, i] = sum(w * value[b, h, j] for j, w in enumerate(weights)) / sum(weights)
    return result


def _windowed_attention(
    query: Any,
    key: Any,
    value: Any,
    window: int | None = None,
    soft_cap: float | None = None,
    scale: float | None = None,
) -> Any:
    t, s, d = query.shape[2], key.shape[2], query.shape[3]
    result = np.zeros(query.shape)
    for b, h, i in np.ndindex(*query.shape[:3]):
        last = i + s - t
        weights = {}
        for j in range(0 if window is None else max(0, last - window + 1), last + 1):
            score = float(query[b, h, i] @ key[b, h, j]) * (1 / math.sqrt(d) if scale is None else scale)
            weights[j] = math.exp(score if soft_cap is None else soft_cap * math.tanh(score / soft_cap))
        result[b, h, i] = sum(w * value[b, h, j] for j, w in weights.items()) / sum(weights.values())
    return result


def _packed_attention(x: Any, num_heads: int) -> Any:
    batch, length, width = x.shape
    query, key, value = np.moveaxis(
        x.reshape(batch, length, 3, num_heads, width // (3 * num_heads)), (2, 3), (0, 2)
    )
    return _attention(query, key, value).transpose(0, 2, 1, 3).reshape(batch, length, width // 3)


def _rotary(x: Any, positions_start: int = 0, base: float = 10000.0, frequencies: Any = None) -> Any:
    half = x.shape[3] // 2
    result = np.empty_like(x)
    for t in range(x.shape[2]):
        for i in range(half):  # a pair is a complex number that is turned by an angle
            frequency = base ** (-2 * i / (2 * half)) if frequencies is None else frequencies[i]
            angle = (positions_start + t) * frequency
            turned = (x[:, :, t, i] + 1j * x[:, :, t, i + half]) * np.exp(1j * angle)
            result[:, :, t, i], result[:, :, t, i + half] = turned.real, turned.imag
    return result


def _both(option: Any) -> tuple[int, int]:
    return option if isinstance(option, tuple) else (option, option)


def _conv2d(
    x: Any,
    weights: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    """The sum as it stands in the definition, one element of the result after the other; what lies outside
    the image counts nothing.
    """
    (sh, sw), (ph, pw), (dh, dw) = _both(stride), _both(padding), _both(dilation)
    (images, _, height, width), (outside, depth, kh, kw) = x.shape, weights.shape
    result = np.zeros(
        (
            images,
            outside,
            (height + 2 * ph - dh * (kh - 1) - 1) // sh + 1,
            (width + 2 * pw - dw * (kw - 1) - 1) // sw + 1,
        )
    )
    for o, p, q, i, j in np.ndindex(*result.shape[1:], kh, kw):
        row, column, first = p * sh + i * dh - ph, q * sw + j * dw - pw, o // (outside // groups) * depth
        if 0 <= row < height and 0 <= column < width:
            result[:, o, p, q] += x[:, first : first + depth, row, column] @ weights[o, :, i, j]
    return result if bias is None else result + bias[:, None, None]


def _pooled(x: Any, kernel_size: Any, stride: Any, padding: Any, choose: Callable[[Any], Any]) -> Any:
    """What `choose` makes of the part of each window that lies inside the image."""
    (kh, kw), (sh, sw), (ph, pw) = (
        _both(kernel_size),
        _both(kernel_size if stride is None else stride),
        _both(padding),
    )
    height, width = x.shape[2:]
    result = np.zeros((*x.shape[:2], (height + 2 * ph - kh) // sh + 1, (width + 2 * pw - kw) // sw + 1))
    for p, q in np.ndindex(*result.shape[2:]):
        top, left = p * sh - ph, q * sw - pw
        result[:, :, p, q] = choose(x[:, :, max(top, 0) : top + kh, max(left, 0) : left + kw])
    return result


def _max_pool2d(x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0) -> Any:
    return _pooled(x, kernel_size, stride, padding, lambda window: window.max((2, 3)))


def _avg_pool2d(x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0) -> Any:
    return _pooled(
        x, kernel_size, stride, padding, lambda window: window.sum((2, 3)) / math.prod(_both(kernel_size))
    )


def _slice(x: Any, index: Any) -> Any:
    return x[index]


def _or(first: Any, second: Any) -> Any:
    return first + second


# ---------------------------------------------------------------- errors


def zeros(backend: type[Buffer], shape: Shape, dtype: str = "float32") -> Buffer:
    return backend.zeros(shape, DType.from_name(dtype))


def _unfit(operation: Callable[[Buffer, Buffer], Any]) -> Wrong:
    return Wrong(
        "shapes that do not broadcast",
        lambda backend: operation(zeros(backend, (2, 3)), zeros(backend, (2, 4))),
        ValueError,
        ("(2, 3)", "(2, 4)"),
    )


def _no_bool(operation: Callable[[Buffer], Any]) -> Wrong:
    return Wrong("bool", lambda backend: operation(zeros(backend, (2,), "bool")), TypeError, ("bool",))


def _bad_axis(operation: Callable[[Buffer], Any], axis: int = 2) -> Wrong:
    return Wrong(
        "an axis out of range",
        lambda backend: operation(zeros(backend, (2, 3))),
        (ValueError, IndexError),
        (str(axis), "2"),
    )


def _kernel_error(
    kernel: Any, what: str, exception: Any, names: tuple[str, ...], *slots: tuple[Shape, str], **options: Any
) -> Wrong:
    def call(backend: type[Buffer]) -> Any:
        operands = [zeros(backend, shape, dtype) for shape, dtype in slots]
        try:
            kernel.forward(*operands, **options)
        except exception:
            return kernels.lookup(kernel, backend).forward(*operands, **options)
        raise AssertionError(f"the textbook's {kernel.__name__} takes it")

    return Wrong(what, call, exception, names)


def _too_many_queries(kernel: Any) -> Wrong:
    shapes = ((1, 1, 3, 2), (1, 1, 2, 2), (1, 1, 2, 2))
    slots = [(shape, "float32") for shape in shapes]
    return _kernel_error(kernel, "more queries than keys", ValueError, ("3", "2"), *slots)


def _einsum_error(
    what: str, exception: Any, names: tuple[str, ...], subscripts: Any, *shapes: Shape
) -> Wrong:
    return _kernel_error(
        kernels.Einsum,
        what,
        exception,
        names,
        *[(shape, "float32") for shape in shapes],
        subscripts=subscripts,
    )


# ---------------------------------------------------------------- rows: one operand


def unary(
    name: str,
    reference: Any,
    operation: bool = True,
    low: float = -8.0,
    smooth: tuple[float, float] = (-2.0, 2.0),
    **more: Any,
) -> Row:
    values: dict[str, Any] = {"dtypes": DTYPES, "special": True, "result": floating, **more}
    return Row(
        name,
        (name, *([name.capitalize()] if operation else [])),
        reference,
        one(low, 8.0, smooth),
        lambda x: getattr(x, name)(),
        (lambda x: getattr(x, name)()) if operation else None,
        **values,
    )


ROWS: list[Row] = [
    Row(
        "neg",
        ("neg", "__neg__", "Neg"),
        np.negative,
        one(),
        lambda x: -x,
        lambda x: -x,
        dtypes=NUMBERS,
        special=True,
        errors=(_no_bool(lambda x: -x),),
    ),
    unary("exp", np.exp),
    unary("log", np.log, smooth=(0.3, 3.0)),
    unary("sqrt", np.sqrt, smooth=(0.3, 3.0)),
    unary("tanh", np.tanh),
    # NumPy's and the C library's sines of huge arguments agree; those of float32 in single precision may not.
    unary("sin", np.sin, special=False),
    unary("cos", np.cos, special=False),
    unary("erf", _erf, operation=False),
    unary("erfc", np.vectorize(math.erfc, otypes=[np.float64]), operation=False),
    Row("relu", (), _relu, one(), None, lambda x: x.relu()),
    Row("sigmoid", ("Sigmoid",), lambda x: 1 / (1 + np.exp(-x)), one(), None, lambda x: x.sigmoid()),
    Row(
        "log_sigmoid",
        ("LogSigmoid",),
        lambda x: -np.logaddexp(0.0, -x),
        one(),
        None,
        lambda x: x.log_sigmoid(),
    ),
    # ------------------------------------------------------------ two operands
    Row(
        "add",
        ("add", "__add__", "__radd__", "Add"),
        _or,
        two(),
        lambda x, y: x + y,
        lambda x, y: x + y,
        dtypes=DTYPES,
        mixed=True,
        special=True,
        errors=(_unfit(lambda x, y: x + y),),
        magnitude=lambda x, y: np.abs(x) + np.abs(y),
    ),
    Row(
        "sub",
        ("sub", "__sub__", "__rsub__", "Sub"),
        lambda x, y: x - y,
        two(),
        lambda x, y: x - y,
        lambda x, y: x - y,
        dtypes=NUMBERS,
        mixed=True,
        special=True,
        errors=(_unfit(lambda x, y: x - y), _no_bool(lambda x: x - x)),
        magnitude=lambda x, y: np.abs(x) + np.abs(y),
    ),
    Row(
        "mul",
        ("mul", "__mul__", "__rmul__", "Mul"),
        lambda x, y: x * y,
        two(),
        lambda x, y: x * y,
        lambda x, y: x * y,
        dtypes=DTYPES,
        mixed=True,
        special=True,
        errors=(_unfit(lambda x, y: x * y),),
    ),
    Row(
        "div",
        ("div", "__truediv__", "__rtruediv__", "Div"),
        lambda x, y: np.true_divide(x, y),
        two(smooth=((-2.0, 2.0), (0.4, 3.0))),
        lambda x, y: x / y,
        lambda x, y: x / y,
        dtypes=DTYPES,
        mixed=True,
        special=True,
        result=floating,
        errors=(_unfit(lambda x, y: x / y),),
    ),
    Row(
        "pow",
        ("pow", "__pow__", "__rpow__", "Pow"),
        np.power,
        two((-4.0, 4.0), (0.0, 4.0), ((0.4, 2.0), (-2.0, 1.9))),
        lambda x, y: x**y,
        lambda x, y: x**y,
        dtypes=NUMBERS,
        mixed=True,
        # (-inf) ** 0.5 is infinite by IEEE 754 and NaN where a square root is taken:
        # test_powers_of_special_values says what holds.
        special=False,
        errors=(
            _unfit(lambda x, y: x**y),
            _no_bool(lambda x: x**x),
            Wrong(
                "an integer to a negative power", lambda b: b([2, 3]) ** b([1, -1]), ValueError, ("negative",)
            ),
            Wrong("an integer to a negative scalar", lambda b: b([2, 3]) ** -2, ValueError, ("negative",)),
        ),
    ),
    Row(
        "maximum",
        ("maximum", "Maximum"),
        np.maximum,
        two(),
        lambda x, y: x.maximum(y),
        lambda x, y: x.maximum(y),
        dtypes=DTYPES,
        mixed=True,
        special=True,
        errors=(
            _unfit(lambda x, y: x.maximum(y)),
            Wrong("a text", lambda b: zeros(b, (2,)).maximum("a"), TypeError, ("maximum", "str")),
            Wrong("a Tensor's text", lambda b: Tensor(zeros(b, (2,))).maximum("a"), TypeError, ("str",)),
        ),
    ),
    *[
        Row(
            name,
            (name, method),
            reference,
            two(),
            (lambda operator: lambda x, y: operator(x, y))(reference),
            None,
            dtypes=DTYPES,
            mixed=True,
            special=True,
            result=always("bool"),
            errors=(_unfit(reference),),
            gradient=False,
        )
        for name, method, reference in (
            ("equal", "__eq__", lambda x, y: x == y),
            ("not_equal", "__ne__", lambda x, y: x != y),
            ("less", "__lt__", lambda x, y: x < y),
            ("less_equal", "__le__", lambda x, y: x <= y),
            ("greater", "__gt__", lambda x, y: x > y),
            ("greater_equal", "__ge__", lambda x, y: x >= y),
        )
    ],
    Row(
        "where",
        ("where", "Where"),
        np.where,
        choosing,
        Buffer.where,
        Tensor.where,
        dtypes=DTYPES,
        mixed=True,
        special=True,
        errors=(
            Wrong(
                "a condition that is not bool",
                lambda b: b.where(zeros(b, (2,)), zeros(b, (2,)), zeros(b, (2,))),
                TypeError,
                ("bool", "float32"),
            ),
            Wrong(
                "shapes that do not broadcast",
                lambda b: b.where(zeros(b, (4,), "bool"), zeros(b, (2, 3)), zeros(b, (2, 3))),
                ValueError,
                ("(4,)", "(2, 3)"),
            ),
        ),
    ),
    # ------------------------------------------------------------ reductions and products
    Row(
        "sum",
        ("sum", "Sum"),
        lambda x, axes: np.sum(
            x, _where_axes(axes), keepdims=True, dtype=None if x.dtype.kind == "f" else np.int64
        ),
        reduction,
        lambda x, axes: x.sum(axes),
        lambda x, axes: x.sum(axes, keepdim=True),
        dtypes=DTYPES,
        special=True,
        result=summed,
        magnitude=lambda x, axes: np.sum(np.abs(x), _where_axes(axes), keepdims=True),
        errors=(
            _bad_axis(lambda x: x.sum(2)),
            _bad_axis(lambda x: x.sum((0, -3)), -3),
            Wrong("an axis twice", lambda b: zeros(b, (2, 3)).sum((1, -1)), ValueError, ("1",)),
        ),
    ),
    Row(
        "max",
        ("max", "Max"),
        lambda x, axes: np.max(x, _where_axes(axes), keepdims=True),
        reduction_not_empty,
        lambda x, axes: x.max(axes),
        lambda x, axes: x.max(axes, keepdim=True),
        dtypes=DTYPES,
        special=True,
        errors=(
            _bad_axis(lambda x: x.max(2)),
            Wrong("nothing to choose from", lambda b: zeros(b, (2, 0)).max(1), ValueError, ("(2, 0)",)),
        ),
    ),
    Row(
        "argmax",
        ("argmax", "Tensor.argmax"),
        lambda x, axis: np.argmax(x, axis, keepdims=True),
        along_axis,
        lambda x, axis: x.argmax(axis),
        dtypes=DTYPES,
        special=True,
        result=always("int64"),
        gradient=False,
        errors=(
            _bad_axis(lambda x: x.argmax(2)),
            Wrong("nothing to choose from", lambda b: zeros(b, (2, 0)).argmax(1), ValueError, ("(2, 0)",)),
        ),
    ),
    Row(
        "matmul",
        ("matmul", "__matmul__", "MatMul"),
        np.matmul,
        products,
        lambda x, y: x.matmul(y),
        lambda x, y: x @ y,
        dtypes=NUMBERS,
        mixed=True,
        magnitude=lambda x, y: np.abs(x) @ np.abs(y),
        errors=(
            Wrong(
                "inner sizes that differ",
                lambda b: zeros(b, (2, 3)).matmul(zeros(b, (4, 2))),
                ValueError,
                ("(2, 3)", "(4, 2)"),
            ),
            Wrong("one axis only", lambda b: zeros(b, (3,)).matmul(zeros(b, (3, 2))), ValueError, ("(3,)",)),
            Wrong(
                "batches that do not broadcast",
                lambda b: zeros(b, (2, 1, 3)).matmul(zeros(b, (5, 3, 1))),
                ValueError,
                ("2", "5"),
            ),
            Wrong("no Buffer", lambda b: zeros(b, (2, 3)).matmul(3), TypeError, ("int",)),
        ),
    ),
    # ------------------------------------------------------------ layout
    Row(
        "reshape",
        ("reshape", "Reshape"),
        lambda x, shape: x.reshape(shape),
        reshaping,
        lambda x, shape: x.reshape(shape),
        lambda x, shape: x.reshape(shape),
        dtypes=DTYPES,
        special=True,
        errors=(
            Wrong(
                "another number of elements",
                lambda b: zeros(b, (2, 3)).reshape((4,)),
                ValueError,
                ("(2, 3)", "(4,)"),
            ),
            Wrong("two free axes", lambda b: zeros(b, (2, 3)).reshape((-1, -1)), ValueError, ("(2, 3)",)),
            Wrong(
                "a free axis that does not divide",
                lambda b: zeros(b, (2, 3)).reshape((4, -1)),
                ValueError,
                ("(2, 3)",),
            ),
        ),
    ),
    Row(
        "permute",
        ("permute", "Permute"),
        lambda x, axes: np.transpose(x, axes),
        permuting,
        lambda x, axes: x.permute(axes),
        lambda x, axes: x.permute(axes),
        dtypes=DTYPES,
        special=True,
        errors=(
            Wrong("an axis twice", lambda b: zeros(b, (2, 3)).permute((0, 0)), ValueError, ("(0, 0)",)),
            Wrong("an axis too few", lambda b: zeros(b, (2, 3)).permute((0,)), ValueError, ("2",)),
        ),
    ),
    Row(
        "transpose",
        ("transpose",),
        lambda x, axis1, axis2: np.swapaxes(x, axis1, axis2),
        transposing,
        lambda x, axis1, axis2: x.transpose(axis1, axis2),
        lambda x, axis1, axis2: x.transpose(axis1, axis2),
        dtypes=DTYPES,
        errors=(_bad_axis(lambda x: x.transpose(0, 2)),),
    ),
    Row(
        "expand",
        ("expand", "Expand"),
        lambda x, shape: np.broadcast_to(x, shape),
        expanding,
        lambda x, shape: x.expand(shape),
        lambda x, shape: x.expand(shape),
        dtypes=DTYPES,
        special=True,
        errors=(
            Wrong(
                "an axis that is not 1",
                lambda b: zeros(b, (2, 3)).expand((4, 3)),
                ValueError,
                ("(2, 3)", "(4, 3)"),
            ),
            Wrong("fewer axes", lambda b: zeros(b, (2, 3)).expand((3,)), ValueError, ("(2, 3)", "(3,)")),
        ),
    ),
    Row(
        "slice",
        ("slice", "__getitem__", "Slice"),
        _slice,
        slicing,
        lambda x, index: x[index],
        lambda x, index: x[index],
        dtypes=DTYPES,
        special=True,
        errors=(
            Wrong(
                "an index out of range", lambda b: zeros(b, (2, 3))[0, 3], IndexError, ("3", "1", "(2, 3)")
            ),
            Wrong(
                "a negative index out of range", lambda b: zeros(b, (2, 3))[-3], IndexError, ("-3", "(2, 3)")
            ),
            Wrong("too many entries", lambda b: zeros(b, (2, 3))[0, 0, 0], IndexError, ("(2, 3)",)),
            Wrong("a float", lambda b: zeros(b, (2, 3))[1.0], (TypeError, IndexError), ("1.0",)),
            Wrong("two ellipses", lambda b: zeros(b, (2, 3))[..., ...], IndexError, ("ellipsis",)),
            Wrong("a step of zero", lambda b: zeros(b, (2, 3))[::0], ValueError, ("step",)),
        ),
    ),
    Row(
        "concatenate",
        ("concatenate", "Concatenate"),
        lambda *arrays, axis: np.concatenate(arrays, axis),
        joining,
        lambda *buffers, axis: type(buffers[0]).concatenate(list(buffers), axis),
        lambda *tensors, axis: Tensor.concatenate(list(tensors), axis),
        dtypes=DTYPES,
        mixed=True,
        special=True,
        errors=(
            Wrong(
                "other axes that differ",
                lambda b: b.concatenate([zeros(b, (2, 3)), zeros(b, (2, 4))], 0),
                ValueError,
                ("(2, 3)", "(2, 4)"),
            ),
            Wrong(
                "other numbers of axes",
                lambda b: b.concatenate([zeros(b, (2, 3)), zeros(b, (2,))], 0),
                ValueError,
                ("(2, 3)", "(2,)"),
            ),
            Wrong("no Buffers", lambda b: b.concatenate([], 0), ValueError, ("at least one",)),
            Wrong("an axis out of range", lambda b: b.concatenate([zeros(b, (2, 3))], 2), ValueError, ("2",)),
            Wrong("no axes", lambda b: b.concatenate([zeros(b, ())], 0), ValueError, ("0",)),
        ),
    ),
    Row(
        "tril",
        ("tril", "Tril"),
        lambda x, diagonal: np.tril(x, diagonal),
        triangle,
        lambda x, diagonal: x.tril(diagonal),
        lambda x, diagonal: x.tril(diagonal),
        dtypes=DTYPES,
        special=True,
        errors=(Wrong("one axis only", lambda b: zeros(b, (3,)).tril(), ValueError, ("(3,)",)),),
    ),
    Row(
        "cast",
        ("cast", "Cast"),
        lambda x: x,
        one(),
        lambda x: x.cast(DType.float64),
        lambda x: x.cast(DType.float64).cast(x.dtype),
        dtypes=DTYPES,
        special=True,
        result=always("float64"),
        errors=(),
    ),
    Row(
        "to",
        ("to", "To"),
        lambda x: x,
        one(),
        lambda x: x.to(elsewhere_of(x)).to(x.backend),
        lambda x: x.to(elsewhere_of(x)).to(x.backend),
        dtypes=DTYPES,
        special=True,
        errors=(Wrong("no such backend", lambda b: zeros(b, (2,)).to("nowhere"), ValueError, ("nowhere",)),),
    ),
    # ------------------------------------------------------------ by index
    Row(
        "take",
        ("take", "Take"),
        _take,
        taking,
        lambda x, indices, axis: x.take(indices, axis),
        lambda x, indices, axis: x.take(indices, axis),
        dtypes=DTYPES,
        special=True,
        errors=(
            Wrong("an index out of range", lambda b: zeros(b, (2, 3)).take(b([0, 2])), IndexError, ("2",)),
            Wrong("a negative index", lambda b: zeros(b, (2, 3)).take(b([-1])), IndexError, ("-1",)),
            Wrong("float indices", lambda b: zeros(b, (2, 3)).take(b([1.0])), TypeError, ("float32",)),
            Wrong("an axis out of range", lambda b: zeros(b, (2, 3)).take(b([1]), 2), ValueError, ("2",)),
            Wrong("no axes", lambda b: zeros(b, ()).take(b([0])), (ValueError, IndexError), ("0",)),
        ),
    ),
    Row(
        "scatter_add",
        ("scatter_add",),
        _scatter,
        scattering,
        lambda x, indices, values: x.copy().scatter_add(indices, values),
        dtypes=NUMBERS,
        gradient=False,
        magnitude=_scatter_magnitude,
        errors=(
            Wrong(
                "an index out of range",
                lambda b: zeros(b, (2, 3)).scatter_add(b([2]), zeros(b, (1, 3))),
                IndexError,
                ("2",),
            ),
            Wrong(
                "values of another shape",
                lambda b: zeros(b, (2, 3)).scatter_add(b([1]), zeros(b, (1, 2))),
                ValueError,
                ("(1, 2)", "(2, 3)"),
            ),
            Wrong(
                "float indices",
                lambda b: zeros(b, (2, 3)).scatter_add(b([1.0]), zeros(b, (1, 3))),
                TypeError,
                ("float32",),
            ),
            Wrong(
                "a broadcast view",
                lambda b: zeros(b, (1,)).expand((3,)).scatter_add(b([0, 1]), b([1.0, 1.0])),
                ValueError,
                ("(3,)",),
            ),
        ),
    ),
]


def kernel_row(kernel: Any, reference: Any, cases: Any, **more: Any) -> Row:
    operation = getattr(operations, kernel.__name__)
    return Row(
        kernel.__name__,
        (kernel.__name__,),
        reference,
        cases,
        lambda *buffers, **options: kernels.lookup(kernel, type(buffers[0])).forward(*buffers, **options)[0],
        lambda *tensors, **options: apply_op(operation, *tensors, **options),
        kernel,
        **more,
    )


_F, _I = "float32", "int32"

ROWS += [
    kernel_row(
        kernels.Linear,
        _linear,
        linear_cases,
        magnitude=lambda x, w, b=None: _linear(np.abs(x), np.abs(w), None if b is None else np.abs(b)),
        errors=(
            _kernel_error(
                kernels.Linear,
                "inner sizes that differ",
                ValueError,
                ("(2, 3)", "(4, 5)"),
                ((2, 3), _F),
                ((4, 5), _F),
            ),
            _kernel_error(
                kernels.Linear,
                "a bias of another size",
                ValueError,
                ("(3, 5)", "(4,)"),
                ((2, 3), _F),
                ((3, 5), _F),
                ((4,), _F),
            ),
            _kernel_error(
                kernels.Linear,
                "two dtypes",
                TypeError,
                ("float32", "float64"),
                ((2, 3), _F),
                ((3, 5), "float64"),
            ),
            _kernel_error(kernels.Linear, "integers", TypeError, ("int32",), ((2, 3), _I), ((3, 5), _I)),
        ),
    ),
    kernel_row(
        kernels.Softmax,
        _softmax,
        along_axis,
        errors=(
            _kernel_error(kernels.Softmax, "an axis out of range", ValueError, ("2",), ((2, 3), _F), axis=2),
            _kernel_error(kernels.Softmax, "integers", TypeError, ("int32",), ((2, 3), _I)),
        ),
    ),
    kernel_row(
        kernels.LogSoftmax,
        _log_softmax,
        along_axis,
        magnitude=lambda x, axis=-1: np.abs(x),
        errors=(_kernel_error(kernels.LogSoftmax, "integers", TypeError, ("int32",), ((2, 3), _I)),),
    ),
    kernel_row(
        kernels.CrossEntropy,
        _cross_entropy,
        class_cases,
        magnitude=lambda x, *rest, **options: 16.0,
        errors=(
            _kernel_error(
                kernels.CrossEntropy,
                "targets of another shape",
                ValueError,
                ("(2, 3)", "(3,)"),
                ((2, 3), _F),
                ((3,), _I),
            ),
            _kernel_error(
                kernels.CrossEntropy, "float targets", TypeError, ("float32",), ((2, 3), _F), ((2,), _F)
            ),
            Wrong(
                "a target out of range",
                lambda b: kernels.lookup(kernels.CrossEntropy, b).forward(zeros(b, (2, 3)), b([0, 3])),
                IndexError,
                ("3",),
            ),
            Wrong(
                "a negative target",
                lambda b: kernels.lookup(kernels.CrossEntropy, b).forward(zeros(b, (2, 3)), b([0, -1])),
                IndexError,
                ("-1",),
            ),
        ),
    ),
    kernel_row(
        kernels.LayerNorm,
        _layer_norm,
        _norm_cases(True),
        magnitude=_norm_magnitude,
        errors=(
            _kernel_error(
                kernels.LayerNorm,
                "a weight of another shape",
                ValueError,
                ("(2, 3)", "(2,)"),
                ((2, 3), _F),
                ((2,), _F),
            ),
            _kernel_error(
                kernels.LayerNorm, "too many axes", ValueError, ("3", "(2, 3)"), ((2, 3), _F), num_axes=3
            ),
            _kernel_error(kernels.LayerNorm, "integers", TypeError, ("int32",), ((2, 3), _I)),
        ),
    ),
    kernel_row(
        kernels.RMSNorm,
        _rms_norm,
        _norm_cases(False),
        errors=(
            _kernel_error(
                kernels.RMSNorm,
                "a weight of another shape",
                ValueError,
                ("(2, 3)", "(2,)"),
                ((2, 3), _F),
                ((2,), _F),
            ),
        ),
    ),
    kernel_row(
        kernels.GELU,
        _gelu,
        gelu_cases,
        magnitude=lambda x, **options: np.abs(x),
        errors=(
            _kernel_error(
                kernels.GELU,
                "an unknown form",
                ValueError,
                ("'sigmoid'", "tanh"),
                ((2, 3), _F),
                approximate="sigmoid",
            ),
            _kernel_error(kernels.GELU, "integers", TypeError, ("int32",), ((2, 3), _I)),
        ),
    ),
    kernel_row(kernels.Relu, _relu, one()),
    kernel_row(
        kernels.SiLU,
        _silu,
        one(),
        magnitude=np.abs,
        errors=(_kernel_error(kernels.SiLU, "integers", TypeError, ("int32",), ((2, 3), _I)),),
    ),
    kernel_row(
        kernels.Dropout,
        _dropout,
        dropout_cases,
        errors=(
            _kernel_error(
                kernels.Dropout,
                "a probability of 1",
                ValueError,
                ("1",),
                ((2,), _F),
                probability=1.0,
                key=Key(0, 0, 0),
            ),
            _kernel_error(
                kernels.Dropout,
                "a negative probability",
                ValueError,
                ("-0.5",),
                ((2,), _F),
                probability=-0.5,
                key=Key(0, 0, 0),
            ),
        ),
    ),
    kernel_row(
        kernels.PackedAttention,
        _packed_attention,
        packed_attention_cases,
        magnitude=lambda x, **options: 8.0,
        errors=(
            _kernel_error(
                kernels.PackedAttention,
                "two axes",
                ValueError,
                ("(2, 6)", "2 heads"),
                ((2, 6), _F),
                num_heads=2,
            ),
            _kernel_error(
                kernels.PackedAttention,
                "a width for no heads",
                ValueError,
                ("(1, 2, 8)",),
                ((1, 2, 8), _F),
                num_heads=2,
            ),
            _kernel_error(
                kernels.PackedAttention, "integers", TypeError, ("int32",), ((1, 2, 6), _I), num_heads=2
            ),
        ),
    ),
    kernel_row(
        kernels.Attention,
        _attention,
        attention_cases,
        magnitude=lambda q, k, v, **options: 8.0,
        errors=(
            _kernel_error(
                kernels.Attention,
                "sizes that differ",
                ValueError,
                ("(1, 1, 2, 3)", "(1, 1, 2, 4)"),
                ((1, 1, 2, 3), _F),
                ((1, 1, 2, 4), _F),
                ((1, 1, 2, 4), _F),
            ),
            _too_many_queries(kernels.Attention),
            _kernel_error(
                kernels.Attention,
                "three axes",
                ValueError,
                ("(1, 2, 3)",),
                ((1, 2, 3), _F),
                ((1, 2, 3), _F),
                ((1, 2, 3), _F),
            ),
        ),
    ),
    kernel_row(
        kernels.WindowedAttention,
        _windowed_attention,
        windowed_attention_cases,
        magnitude=lambda q, k, v, **options: 8.0,
        errors=(
            _too_many_queries(kernels.WindowedAttention),
            *(
                _kernel_error(
                    kernels.WindowedAttention,
                    f"no {name}",
                    ValueError,
                    (name, str(value)),
                    *[((1, 1, 2, 2), _F)] * 3,
                    **{name: value},
                )
                for name, value in {"window": 0, "soft_cap": 0.0}.items()
            ),
        ),
    ),
    kernel_row(
        kernels.Rotary,
        _rotary,
        rotary_cases,
        magnitude=lambda x, **options: 8.0,
        errors=(
            _kernel_error(kernels.Rotary, "an odd size", ValueError, ("(1, 1, 2, 3)",), ((1, 1, 2, 3), _F)),
            _kernel_error(
                kernels.Rotary,
                "frequencies for other pairs",
                ValueError,
                ("2 frequencies", "1"),
                ((1, 1, 2, 4), _F),
                frequencies=(1.0,),
            ),
        ),
    ),
    kernel_row(
        kernels.Embedding,
        lambda weights, indices: weights[indices],
        embedding_cases,
        errors=(
            Wrong(
                "an id out of range",
                lambda b: kernels.lookup(kernels.Embedding, b).forward(zeros(b, (2, 3)), b([2])),
                IndexError,
                ("2",),
            ),
            Wrong(
                "a negative id",
                lambda b: kernels.lookup(kernels.Embedding, b).forward(zeros(b, (2, 3)), b([-1])),
                IndexError,
                ("-1",),
            ),
            _kernel_error(kernels.Embedding, "float ids", TypeError, ("float32",), ((2, 3), _F), ((2,), _F)),
        ),
    ),
]

_IMAGES = (2, 4, 5, 6)


def _conv_error(
    what: str,
    exception: Any,
    names: tuple[str, ...],
    x: Shape,
    *others: Shape,
    dtype: str = _F,
    **options: Any,
) -> Wrong:
    return _kernel_error(
        kernels.Conv2d, what, exception, names, *((shape, dtype) for shape in (x, *others)), **options
    )


def _pool_errors(kernel: Any) -> tuple[Wrong, ...]:
    return (
        _kernel_error(
            kernel,
            "a kernel larger than the padded image",
            ValueError,
            ("(7, 7)", "(5, 6)"),
            (_IMAGES, _F),
            kernel_size=7,
        ),
        _kernel_error(
            kernel,
            "more padding than half the kernel",
            ValueError,
            ("2", "3"),
            (_IMAGES, _F),
            kernel_size=3,
            padding=2,
        ),
        _kernel_error(kernel, "three axes", ValueError, ("(4, 5, 6)",), ((4, 5, 6), _F), kernel_size=2),
        _kernel_error(
            kernel, "a kernel of nothing", ValueError, ("kernel_size", "0"), (_IMAGES, _F), kernel_size=(2, 0)
        ),
        _kernel_error(
            kernel,
            "a kernel that is no int",
            TypeError,
            ("kernel_size", "2.0"),
            (_IMAGES, _F),
            kernel_size=2.0,
        ),
        _kernel_error(kernel, "integers", TypeError, ("int32",), (_IMAGES, _I), kernel_size=2),
        _kernel_error(kernel, "half a size", TypeError, ("1.5",), (_IMAGES, _F), kernel_size=(2, 1.5)),
        _kernel_error(kernel, "a bool in a pair", TypeError, ("True",), (_IMAGES, _F), kernel_size=(2, True)),
    )


ROWS += [
    kernel_row(
        kernels.Conv2d,
        _conv2d,
        convolution_cases,
        magnitude=lambda x, w, b=None, **options: _conv2d(
            np.abs(x), np.abs(w), None if b is None else np.abs(b), **options
        ),
        errors=(
            _conv_error(
                "a kernel larger than the padded image",
                ValueError,
                ("(9, 3)", "(7, 8)"),
                _IMAGES,
                (8, 4, 9, 3),
                padding=1,
            ),
            _conv_error(
                "a dilated kernel that is too large",
                ValueError,
                ("(7, 7)", "(5, 6)"),
                _IMAGES,
                (8, 4, 3, 3),
                dilation=3,
            ),
            _conv_error(
                "channels that groups do not divide",
                ValueError,
                ("4", "9", "3"),
                _IMAGES,
                (9, 4, 3, 3),
                groups=3,
            ),
            _conv_error(
                "outputs that groups do not divide",
                ValueError,
                ("4", "7", "2"),
                _IMAGES,
                (7, 2, 3, 3),
                groups=2,
            ),
            _conv_error("no groups", ValueError, ("0 groups",), _IMAGES, (8, 4, 3, 3), groups=0),
            _conv_error(
                "channels that differ",
                ValueError,
                ("(2, 4, 5, 6)", "(8, 3, 3, 3)", "(8, 4, 3, 3)"),
                _IMAGES,
                (8, 3, 3, 3),
            ),
            _conv_error("three axes", ValueError, ("(4, 5, 6)",), (4, 5, 6), (8, 4, 3, 3)),
            _conv_error("a weight of three axes", ValueError, ("(8, 4, 3)",), _IMAGES, (8, 4, 3)),
            _conv_error("a bias of another size", ValueError, ("(8,)", "(7,)"), _IMAGES, (8, 4, 3, 3), (7,)),
            _conv_error("a stride of zero", ValueError, ("stride", "0"), _IMAGES, (8, 4, 3, 3), stride=0),
            _conv_error(
                "a negative padding", ValueError, ("padding", "-1"), _IMAGES, (8, 4, 3, 3), padding=-1
            ),
            _conv_error(
                "a stride of three",
                TypeError,
                ("stride", "(1, 2, 3)"),
                _IMAGES,
                (8, 4, 3, 3),
                stride=(1, 2, 3),
            ),
            _conv_error("integers", TypeError, ("int32",), _IMAGES, (8, 4, 3, 3), dtype=_I),
        ),
    ),
    kernel_row(
        kernels.MaxPool2d, _max_pool2d, pooling_cases, special=True, errors=_pool_errors(kernels.MaxPool2d)
    ),
    kernel_row(
        kernels.AvgPool2d,
        _avg_pool2d,
        pooling_cases,
        magnitude=lambda x, **options: _avg_pool2d(np.abs(x), **options),
        errors=_pool_errors(kernels.AvgPool2d),
    ),
]

ROWS += [
    kernel_row(
        kernels.Einsum,
        lambda *arrays, subscripts: np.einsum(subscripts, *arrays),
        einsum_cases,
        dtypes=NUMBERS,
        mixed=True,
        magnitude=lambda *arrays, subscripts: np.einsum(subscripts, *map(np.abs, arrays)),
        errors=(
            _einsum_error(
                "another number of operands",
                ValueError,
                ("'ij,jk->ik'", "2 operands", "1"),
                "ij,jk->ik",
                (2, 3),
            ),
            _einsum_error("too few axes", ValueError, ("'ijk'", "operand 0", "(2, 3)"), "ijk", (2, 3)),
            _einsum_error(
                "too many axes", ValueError, ("'jk'", "operand 1", "(2, 3, 4)"), "ij,jk", (2, 3), (2, 3, 4)
            ),
            _einsum_error(
                "sizes that disagree",
                ValueError,
                ("'j'", "operand 0", "(2, 3)", "operand 1", "(4, 5)"),
                "ij,jk",
                (2, 3),
                (4, 5),
            ),
            _einsum_error(
                "a diagonal of no square", ValueError, ("'i'", "operand 0", "(1, 3)"), "ii", (1, 3)
            ),
            _einsum_error(
                "an ellipsis that disagrees",
                ValueError,
                ("ellipsis", "operand 1", "(4,)"),
                "...,...",
                (2, 3),
                (4,),
            ),
            _einsum_error("an unknown output index", ValueError, ("'k'",), "ij->ik", (2, 3)),
            _einsum_error("an output index twice", ValueError, ("'i'", "twice"), "ij->ii", (2, 3)),
            _einsum_error(
                "an output without the ellipsis", ValueError, ("2 axes", "'...i->i'"), "...i->i", (2, 3, 4)
            ),
            _einsum_error("a digit", ValueError, ("'1'", "operand 1"), "ij,j1", (2, 3), (3, 4)),
            _einsum_error("two ellipses", ValueError, ("'.'", "operand 0"), "...i...", (2, 3)),
            _einsum_error("two arrows", ValueError, ("'-'", "output"), "i->i->i", (2,)),
            _einsum_error("no text", TypeError, ("list",), ["ij"], (2, 3)),
            _kernel_error(kernels.Einsum, "bool", TypeError, ("bool",), ((2,), "bool"), subscripts="i"),
        ),
    )
]

# What has laws of its own instead of a row: name -> the module with them.
_OF_BUFFERS = """
from_array to_array to_python item full zeros ones arange float copy assign is_contiguous ndim numel data
dtype shape stride offset version backend __new__ __copy__ __deepcopy__ __reduce__ __setitem__ __len__
__iter__ __repr__ __float__ __int__ __bool__ __hash__ __array_interface__ __dlpack__ __dlpack_device__
from_foreign check_backend check_writable as_dtype as_floating scalar add_in_place accumulate sum_of_squares
from_memory
"""
OWN_LAWS: dict[str, str] = {
    **dict.fromkeys(_OF_BUFFERS.split(), "test_buffer_laws"),
    "uniform": "test_random_laws",
    "normal": "test_random_laws",
    "uniform_at": "test_random_laws",
    "normal_at": "test_random_laws",
    "check_indices": "test_table_laws",
    **dict.fromkeys(
        [
            "__array_namespace__",
            "size",
            "device",
            "to_device",
            "T",
            "mT",
            "__index__",
            "__abs__",
            "__pos__",
            "shares_memory",
        ],
        "test_array_api_laws",
    ),
    "AdamWStep": "test_kernel_laws",
    "SGDStep": "test_kernel_laws",
    "HashNgrams": "test_kernel_laws",
    "NonzeroRows": "test_kernel_laws",
    "PutRows": "test_kernel_laws",
}

from . import method_rows  # noqa: E402  adds the rows for the methods of Tensor

OWN_LAWS |= dict.fromkeys(method_rows.OWN_METHOD_LAWS, "test_method_laws")

COVERED = {name for row in ROWS for name in row.covers} | set(OWN_LAWS)
