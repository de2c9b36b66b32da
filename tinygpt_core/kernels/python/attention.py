"""Attention in pure Python, all heads of all sequences at once."""

from __future__ import annotations

import math
from itertools import chain, repeat
from typing import Any

from ...buffer.python import PythonBuffer, chunks
from ..attention import Attention
from ..base import Gradient
from .rows import Rows


def _by_position(x: Any) -> list[list[float]]:
    """For each position of x (B, H, T, D), element 0 of every head, then element 1 of every head, and so on."""
    flat, size, head = x.values(), x.shape[3], x.shape[2] * x.shape[3]
    return [
        list(chain.from_iterable([flat[i + d :: head] for d in range(size)])) for i in range(0, head, size)
    ]


def _by_element(x: Any) -> list[list[float]]:
    """For each element of a head of x (B, H, T, D), position 0 of every head, then position 1 of every head,
    and so on.
    """
    flat, size, head = x.values(), x.shape[3], x.shape[2] * x.shape[3]
    return [
        list(chain.from_iterable([flat[i + d :: head] for i in range(0, head, size)])) for d in range(size)
    ]


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
    """All heads of all sequences at once, query by query: each list holds one number of every head, for each
    key or element in turn.

    So the comprehensions are as long as there are heads, however short the sequences, and a query's lists end
    where causality does.
    """

    @staticmethod
    def forward(
        query: Any, key: Any, value: Any, *, causal: bool = True, scale: float | None = None
    ) -> tuple[Any, Any]:
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
        # The first query that sees each key
        firsts = [max(0, j - total + length) if causal else 0 for j in range(total)]
        of_key = [_sum_of_products([x[j] for x in of_scores[i:]], q[i:]) for j, i in enumerate(firsts)]
        of_value = [_sum_of_products([x[j] for x in spread[i:]], g[i:]) for j, i in enumerate(firsts)]
        return _from_positions(of_query, grad), _from_positions(of_key, key), _from_positions(of_value, key)
