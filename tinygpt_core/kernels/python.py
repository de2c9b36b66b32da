"""The reference backend's own kernels: the same formulas, fused over rows of Python floats.

A composed kernel rounds to the dtype and packs an array after every elementary step. These unpack their inputs once, do all their
arithmetic in doubles on lists, and pack once. What they save for the backward are lists too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
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
        rows, shape, single = x.rows(), (*x.shape[:-1], weight.shape[1]), x.dtype is DType.float32
        if not weight.shape[0]:
            return Linear.forward(x, weight, bias)
        if bias is None and weight.stride[0] == 1 < weight.stride[1]:  # a transposed view, as of a tied head: its columns lie as rows
            y = product_transposed(rows, weight.transpose(0, 1).rows(), None, single)
        else:
            y = product(rows, weight.rows(), None if bias is None else bias.values(), single)
        return PythonBuffer.of_rows(y, shape, x.dtype), (x, weight)

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        x, weight = saved
        if not x.numel or not grad.numel:
            return Linear.backward(saved, grad)
        g, single = grad.rows(), x.dtype is DType.float32
        return (
            lambda: PythonBuffer.of_rows(product_transposed(g, weight.rows(), None, single), x.shape, x.dtype),
            lambda: PythonBuffer.of_rows(product(list(zip(*x.rows(), strict=True)), g, None, single), weight.shape, x.dtype),
            lambda: PythonBuffer.of(_column_sums(g, weight.shape[1]), weight.shape[1:], x.dtype),
        )


def _softmax(row: Row, scale: float) -> list[float]:
    top, exp = (max(row) if scale > 0.0 else min(row)), math.exp
    e = [exp((x - top) * scale) for x in row]
    total = sum(e)
    return [x / total for x in e]


class PythonCrossEntropy(CrossEntropy):
    """Keeps the exponentials of each row and their sum; the gradient is one scaling of them."""

    @staticmethod
    def forward(logits: Any, targets: Any, *, ignore_index: int | None = None) -> tuple[Any, Any]:
        CrossEntropy.check(logits, targets, ignore_index)
        exp = math.exp
        losses: list[float] = []
        kept: list[tuple[list[float], float, int] | None] = []
        for row, target in zip(logits.rows(), targets.values(), strict=True):
            if target == ignore_index:
                losses.append(0.0)
                kept.append(None)
                continue
            top = max(row)
            e = [exp(x - top) for x in row]
            total = sum(e)
            losses.append(math.log(total) + top - row[target])
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


class PythonAttention(Attention):
    """Head by head, over lists of rows; a query's row of scores ends where causality does."""

    @staticmethod
    def forward(query: Any, key: Any, value: Any, *, causal: bool = True, scale: float | None = None) -> tuple[Any, Any]:
        Attention.check(query, key, value, causal)
        if not query.numel or not key.numel:
            y, saved = Attention.forward(query, key, value, causal=causal, scale=scale)
            return y, (None, saved)
        length, total, size = query.shape[2], key.shape[2], query.shape[3]
        scale = 1.0 / math.sqrt(size) if scale is None else scale
        single = query.dtype is DType.float32
        hidden = [[0.0] * (length - 1 - i) for i in range(length)] if causal else [[]] * length
        result, heads = [], []
        for q, k, v in zip(*(chunks(x.rows(), x.shape[2]) for x in (query, key, value)), strict=True):
            scores = product_transposed(q, k, None, single)
            p = [_softmax(row[: total - len(mask)], scale) + mask for row, mask in zip(scores, hidden, strict=True)]
            result.append(product(p, v, None, single))
            heads.append((q, k, v, p))
        return PythonBuffer.of_rows(chain.from_iterable(result), query.shape, query.dtype), (scale, heads)

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        scale, heads = saved
        if scale is None:
            return Attention.backward(heads, grad)
        of_query, of_key, of_value, single = [], [], [], grad.dtype is DType.float32
        for g, (q, k, v, p) in zip(chunks(grad.rows(), grad.shape[2]), heads, strict=True):
            of_scores = []
            for probabilities, d in zip(p, product_transposed(g, v, None, single), strict=True):
                mean = dot(probabilities, d)
                of_scores.append([a * (b - mean) * scale for a, b in zip(probabilities, d, strict=True)])
            of_query.append(product(of_scores, k, None, single))
            of_key.append(product(list(zip(*of_scores, strict=True)), q, None, single))
            of_value.append(product(list(zip(*p, strict=True)), g, None, single))
        keys = (*grad.shape[:2], len(heads[0][1]), grad.shape[3])
        return tuple(
            PythonBuffer.of_rows(chain.from_iterable(rows), shape, grad.dtype)
            for rows, shape in ((of_query, grad.shape), (of_key, keys), (of_value, keys))
        )


class PythonAdamWStep(AdamWStep):
    """Three comprehensions a parameter."""

    @staticmethod
    def forward(
        parameters: Any, grads: Any, first: Any, second: Any, *, learning_rate: float, betas: Any, eps: float, weight_decays: Any, step: int
    ) -> tuple[None, None]:
        beta1, beta2 = betas
        new1, new2, sqrt = 1.0 - beta1, 1.0 - beta2, math.sqrt
        root = sqrt(1.0 - beta2**step)
        rate, small = learning_rate * root / (1.0 - beta1**step), eps * root  # the corrections, moved out of the loop
        for p, g, m, v, decay in zip(parameters, grads, first, second, weight_decays, strict=True):
            keep, gradient = 1.0 - learning_rate * decay, g.values()
            new_m = [beta1 * a + new1 * d for a, d in zip(m.values(), gradient, strict=True)]
            new_v = [beta2 * b + new2 * d * d for b, d in zip(v.values(), gradient, strict=True)]
            updated = [keep * x - rate * a / (b + small) for x, a, b in zip(p.values(), new_m, map(sqrt, new_v), strict=True)]
            for buffer, values in ((m, new_m), (v, new_v), (p, updated)):
                buffer.assign(PythonBuffer.of(values, buffer.shape, buffer.dtype))
        return None, None


register(Linear, PythonBuffer, PythonLinear)
register(CrossEntropy, PythonBuffer, PythonCrossEntropy)
register(LayerNorm, PythonBuffer, PythonLayerNorm)
register(RMSNorm, PythonBuffer, PythonRMSNorm)
register(GELU, PythonBuffer, PythonGELU)
register(Attention, PythonBuffer, PythonAttention)
register(AdamWStep, PythonBuffer, PythonAdamWStep)
