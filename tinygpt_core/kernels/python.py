"""The reference backend's own kernels: the same formulas, fused over rows of Python floats.

A composed kernel rounds to the dtype and packs an array after every elementary step. These unpack their inputs once, do all their
arithmetic in doubles on lists, and pack once. What they save for the backward are lists too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain, repeat
from typing import Any

from ..buffer.python import PythonBuffer, Row, chunks, dot, product, product_transposed
from ..dtype import DType
from ..shape import Shape
from . import python_convolution
from .base import Gradient, register
from .composed import GELU, GELU_CUBIC, SQRT_2_OVER_PI, AdamWStep, Attention, CrossEntropy, LayerNorm, Linear, RMSNorm, _normalized

__all__ = ["PythonBuffer", "python_convolution"]  # importing both registers what they have

Rows = Sequence[Row]


def _column_sums(rows: Rows, width: int) -> list[float]:
    return list(map(sum, zip(*rows, strict=True))) if rows else [0.0] * width


def _column_dots(a: Rows, b: Rows, width: int) -> list[float]:
    """The sum over rows of a times b, for each column."""
    return list(map(dot, zip(*a, strict=True), zip(*b, strict=True))) if a else [0.0] * width


class PythonLinear(Linear):
    """Two matrix products over rows."""

    @staticmethod
    def forward(x: Any, weight: Any, bias: Any = None) -> tuple[Any, Any]:
        Linear.check(x, weight, bias)
        rows, columns = x.rows(), weight.transpose(0, 1).rows()
        y = product_transposed(rows, columns, x.dtype is DType.float32, None if bias is None else bias.values())
        return PythonBuffer.of_rows(y, (*x.shape[:-1], weight.shape[1]), x.dtype), (x, weight, rows, columns)

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        x, weight, rows, columns = saved
        if not x.numel or not grad.numel:
            return Linear.backward((x, weight), grad)
        g, single = grad.rows(), x.dtype is DType.float32
        return (
            lambda: PythonBuffer.of_rows(product(g, columns, single), x.shape, x.dtype),
            lambda: PythonBuffer.of_rows(product(list(zip(*rows, strict=True)), g, single), weight.shape, x.dtype),
            lambda: PythonBuffer.of(_column_sums(g, weight.shape[1]), weight.shape[1:], x.dtype),
        )


class PythonCrossEntropy(CrossEntropy):
    """Keeps the exponentials of each row and their sum; the gradient is one scaling of them."""

    @staticmethod
    def forward(logits: Any, targets: Any, *, ignore_index: int | None = None) -> tuple[Any, Any]:
        CrossEntropy.check(logits, targets, ignore_index)
        losses: list[float] = []
        kept: list[tuple[list[float], float, int] | None] = []
        for row, target in zip(logits.rows(), targets.values(), strict=True):
            if target == ignore_index:
                losses.append(0.0)
                kept.append(None)
                continue
            top = max(row)
            shift = top if abs(top) > 500.0 else 0.0  # exp must not overflow, nor all of them vanish
            e = list(map(math.exp, [x - shift for x in row] if shift else row))
            total = sum(e)
            losses.append(math.log(total) + shift - row[target])
            kept.append((e, total, target))
        return PythonBuffer.of(losses, targets.shape, logits.dtype), (kept, logits.shape)

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        kept, shape = saved
        rows: list[Row] = []
        for g, row in zip(grad.values(), kept, strict=True):
            if row is None:
                rows.append([0.0] * shape[-1])
                continue
            e, total, target = row
            scale = g / total
            d = [x * scale for x in e]
            d[target] -= g
            rows.append(d)
        return PythonBuffer.of_rows(rows, shape, grad.dtype), None


def _normalize(x: Any, weight: Any, bias: Any, shape: Shape, eps: float, centre: bool) -> tuple[Any, Any]:
    """Row by row, both norms; keeps the normalized rows and their scales."""
    size, scales, normal = math.prod(shape), [], []
    for row in chunks(x.values(), size) if x.numel else ():
        if centre:
            mean = sum(row) / size
            row = [v - mean for v in row]
        scale = 1.0 / math.sqrt(dot(row, row) / size + eps)
        scales.append(scale)
        normal.append([v * scale for v in row])
    w = None if weight is None else weight.values()
    if bias is not None:
        scale_and_shift = list(zip(w or [1.0] * size, bias.values(), strict=True))
        y = [[v * a + c for v, (a, c) in zip(row, scale_and_shift, strict=True)] for row in normal]
    else:
        y = normal if w is None else [[v * a for v, a in zip(row, w, strict=True)] for row in normal]
    return PythonBuffer.of_rows(y, x.shape, x.dtype), (normal, scales, w, shape, centre)


def _normalize_gradients(saved: Any, grad: Any) -> tuple[Gradient, Gradient, Gradient]:
    normal, scales, w, shape, centre = saved
    size = math.prod(shape)
    g = chunks(grad.values(), size) if grad.numel else []

    def of_input() -> PythonBuffer:
        result = []
        for row, n, scale in zip(g, normal, scales, strict=True):
            h = row if w is None else [v * a for v, a in zip(row, w, strict=True)]
            mean, along = sum(h) / size if centre else 0.0, dot(h, n) / size
            result.append([scale * (v - mean - u * along) for v, u in zip(h, n, strict=True)])
        return PythonBuffer.of_rows(result, grad.shape, grad.dtype)

    return (
        of_input,
        lambda: PythonBuffer.of(_column_dots(g, normal, size), shape, grad.dtype),
        lambda: PythonBuffer.of(_column_sums(g, size), shape, grad.dtype),
    )


class PythonLayerNorm(LayerNorm):
    """Row by row."""

    @staticmethod
    def forward(x: Any, weight: Any = None, bias: Any = None, *, eps: float = 1e-5, num_axes: int = 1) -> tuple[Any, Any]:
        return _normalize(x, weight, bias, _normalized(x, weight, bias, num_axes, "layer_norm"), eps, centre=True)

    backward = staticmethod(_normalize_gradients)


class PythonRMSNorm(RMSNorm):
    """Row by row."""

    @staticmethod
    def forward(x: Any, weight: Any = None, *, eps: float = 1e-5, num_axes: int = 1) -> tuple[Any, Any]:
        return _normalize(x, weight, None, _normalized(x, weight, None, num_axes, "rms_norm"), eps, centre=False)

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        return _normalize_gradients(saved, grad)[:2]


class PythonGELU(GELU):
    """One comprehension forward, one backward."""

    @staticmethod
    def forward(x: Any, *, approximate: str = "tanh") -> tuple[Any, Any]:
        GELU.check(x, approximate)
        values, tanh, erf, root = x.values(), math.tanh, math.erf, math.sqrt(0.5)
        if approximate == "tanh":
            t = [tanh(SQRT_2_OVER_PI * (v + GELU_CUBIC * v * v * v)) for v in values]
        else:
            t = [erf(v * root) for v in values]
        y = [0.5 * v * (1.0 + u) for v, u in zip(values, t, strict=True)]
        return PythonBuffer.of(y, x.shape, x.dtype), (values, t, approximate)

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        values, t, approximate = saved
        if approximate == "tanh":
            a, b = 0.5 * SQRT_2_OVER_PI, 3.0 * GELU_CUBIC
            slopes = [0.5 * (1.0 + u) + v * (1.0 - u * u) * a * (1.0 + b * v * v) for v, u in zip(values, t, strict=True)]
        else:
            a, exp = 1.0 / math.sqrt(2.0 * math.pi), math.exp
            slopes = [0.5 * (1.0 + u) + v * a * exp(-0.5 * v * v) for v, u in zip(values, t, strict=True)]
        return (PythonBuffer.of([g * s for g, s in zip(grad.values(), slopes, strict=True)], grad.shape, grad.dtype),)


def _by_position(x: Any) -> list[list[float]]:
    """For each position of x (B, H, T, D), element 0 of every head, then element 1 of every head, and so on."""
    flat, size, head = x.values(), x.shape[3], x.shape[2] * x.shape[3]
    return [list(chain.from_iterable([flat[i + d :: head] for d in range(size)])) for i in range(0, head, size)]


def _by_element(x: Any) -> list[list[float]]:
    """For each element of a head of x (B, H, T, D), position 0 of every head, then position 1 of every head, and so on."""
    flat, size, head = x.values(), x.shape[3], x.shape[2] * x.shape[3]
    return [list(chain.from_iterable([flat[i + d :: head] for i in range(0, head, size)])) for d in range(size)]


def _from_positions(rows: Rows, like: Any) -> PythonBuffer:
    """The Buffer of the shape and dtype of `like` that `_by_position` takes apart."""
    head, flat = like.shape[2] * like.shape[3], [0.0] * like.numel
    for i, elements in enumerate(chunks(list(chain.from_iterable(rows)), like.numel // head)):
        flat[i::head] = elements
    return PythonBuffer.of(flat, like.shape, like.dtype)


def _sum_of_products(a: Rows, b: Rows) -> list[float]:
    """The sum over k of a[k] times b[k], element by element, four terms at a time."""
    pairs = list(zip(a, b, strict=False))
    total: Any = repeat(0.0)
    fours = len(pairs) // 4 * 4
    for k in range(0, fours, 4):
        (a0, b0), (a1, b1), (a2, b2), (a3, b3) = pairs[k : k + 4]
        columns = zip(total, a0, b0, a1, b1, a2, b2, a3, b3, strict=False)
        total = [t + p * q + r * s + u * v + x * y for t, p, q, r, s, u, v, x, y in columns]
    for x, y in pairs[fours:]:
        total = [t + p * q for t, p, q in zip(total, x, y, strict=False)]
    return total


class PythonAttention(Attention):
    """All heads of all sequences at once, query by query: each list holds one number of every head, for each key or element in turn.

    So the comprehensions are as long as there are heads, however short the sequences, and a query's lists end where causality does.
    """

    @staticmethod
    def forward(query: Any, key: Any, value: Any, *, causal: bool = True, scale: float | None = None) -> tuple[Any, Any]:
        Attention.check(query, key, value, causal)
        if not query.numel or not key.numel:
            return Attention.forward(query, key, value, causal=causal, scale=scale)
        (*outer, length, size), total, exp = query.shape, key.shape[2], math.exp
        heads, scale = math.prod(outer), 1.0 / math.sqrt(size) if scale is None else scale
        q, k, v = _by_position(query), _by_element(key), _by_position(value)
        first = total - length + 1 if causal else total  # how many keys the first query sees
        result, probabilities = [], []
        for i, row in enumerate(q):
            seen = first + i if causal else total
            scores = _sum_of_products([x * seen for x in chunks(row, heads)], k)
            tops = list(map(max if scale > 0.0 else min, zip(*chunks(scores, heads), strict=True)))
            e = [exp((x - top) * scale) for x, top in zip(scores, tops * seen, strict=True)]
            sums = list(map(sum, zip(*chunks(e, heads), strict=True)))
            p = [x / y for x, y in zip(e, sums * seen, strict=True)]
            result.append(_sum_of_products([x * size for x in chunks(p, heads)], v))
            probabilities.append(p)
        return _from_positions(result, query), (scale, causal, q, key, value, probabilities)

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        if isinstance(saved[0], PythonBuffer):
            return Attention.backward(saved, grad)
        scale, causal, q, key, value, probabilities = saved
        (*outer, length, size), total = grad.shape, key.shape[2]
        heads = math.prod(outer)
        g, k, v = _by_position(grad), _by_position(key), _by_element(value)
        of_query, of_scores, spread = [], [], []
        for row, p in zip(g, probabilities, strict=True):
            seen, columns = len(p) // heads, chunks(p, heads)
            d = _sum_of_products([x * seen for x in chunks(row, heads)], v)
            means = _sum_of_products(columns, chunks(d, heads)) * seen
            s = chunks([x * (y - mean) * scale for x, y, mean in zip(p, d, means, strict=True)], heads)
            of_scores.append([x * size for x in s])  # once for each element of a head
            spread.append([x * size for x in columns])
            of_query.append(_sum_of_products(of_scores[-1], k))
        firsts = [max(0, j - total + length) if causal else 0 for j in range(total)]  # the first query that sees each key
        of_key = [_sum_of_products([x[j] for x in of_scores[i:]], q[i:]) for j, i in enumerate(firsts)]
        of_value = [_sum_of_products([x[j] for x in spread[i:]], g[i:]) for j, i in enumerate(firsts)]
        return _from_positions(of_query, grad), _from_positions(of_key, key), _from_positions(of_value, key)


class PythonAdamWStep(AdamWStep):
    """One loop over all elements of a parameter."""

    @staticmethod
    def forward(
        parameters: Any, grads: Any, first: Any, second: Any, *, learning_rate: float, betas: Any, eps: float, weight_decays: Any, step: int
    ) -> tuple[None, None]:
        beta1, beta2 = betas
        new1, new2, sqrt = 1.0 - beta1, 1.0 - beta2, math.sqrt
        root = sqrt(1.0 - beta2**step)
        rate, small = learning_rate * root / (1.0 - beta1**step), eps * root  # the corrections, moved out of the loop
        for *buffers, gradient, decay in zip(first, second, parameters, grads, weight_decays, strict=True):
            results: tuple[list[float], ...] = ([], [], [])
            new_m, new_v, updated = results
            moments1, moments2, x_values = (buffer.values() for buffer in buffers)
            if decay:
                keep = 1.0 - learning_rate * decay
                x_values = [keep * x for x in x_values]
            for m, v, x, g in zip(moments1, moments2, x_values, gradient.values(), strict=True):
                m = beta1 * m + new1 * g
                v = beta2 * v + new2 * g * g
                new_m.append(m)
                new_v.append(v)
                updated.append(x - rate * m / (sqrt(v) + small))
            for buffer, values in zip(buffers, results, strict=True):
                buffer.assign(PythonBuffer.of(values, buffer.shape, buffer.dtype))
        return None, None


register(Linear, PythonBuffer, PythonLinear)
register(CrossEntropy, PythonBuffer, PythonCrossEntropy)
register(LayerNorm, PythonBuffer, PythonLayerNorm)
register(RMSNorm, PythonBuffer, PythonRMSNorm)
register(GELU, PythonBuffer, PythonGELU)
register(Attention, PythonBuffer, PythonAttention)
register(AdamWStep, PythonBuffer, PythonAdamWStep)
