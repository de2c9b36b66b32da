"""Attention in pure Python, all heads of all sequences at once.

What is fast here: a comprehension costs the same to start, however short it is, so it should be long. The
N = B H heads of all sequences go through the same steps. So each list holds one number of every head, then
the next of every head, and so on:

    by position    q[i] = element 0 of N heads, element 1 of N heads, … element D - 1    at position i
    by element     k[d] = position 0 of N heads, position 1 of N heads, …                of element d

The scores of query i are the sum over d of its element d, repeated for every key, times k[d]: D products of
long lists. A query's lists end where causality does: what a mask would throw away is not computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import chain, repeat
from typing import Any

from ...buffer.python import PythonBuffer
from ...buffer.rows import Row, Rows, chunks
from ..attention import Attention
from ..base import Gradient


def _by_position(x: Any) -> list[list[float]]:
    """For each position of x (B, H, T, D): element 0 of every head, then element 1 of every head, …"""
    flat = x.values()
    size = x.shape[3]
    next_head = x.shape[2] * size
    return [
        list(chain.from_iterable([flat[start + d :: next_head] for d in range(size)]))
        for start in range(0, next_head, size)
    ]


def _by_element(x: Any) -> list[list[float]]:
    """For each element of a head of x (B, H, T, D): position 0 of every head, then position 1, …"""
    flat = x.values()
    size = x.shape[3]
    next_head = x.shape[2] * size
    return [
        list(chain.from_iterable([flat[start + d :: next_head] for start in range(0, next_head, size)]))
        for d in range(size)
    ]


def _from_positions(rows: Rows, like: Any) -> PythonBuffer:
    """The Buffer of the shape and dtype of `like` that `_by_position` takes apart."""
    next_head = like.shape[2] * like.shape[3]
    heads = like.numel // next_head
    flat = [0.0] * like.numel
    for i, numbers in enumerate(chunks(list(chain.from_iterable(rows)), heads)):
        flat[i::next_head] = numbers
    return PythonBuffer.of(flat, like.shape, like.dtype)


def _sum_of_products(a: Rows, b: Rows) -> list[float]:
    """The sum over k of a[k] times b[k], element by element, as far as both go; four terms at a time."""
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


def _for_each_head(function: Callable[[Any], float], values: Row, heads: int) -> list[float]:
    """What a function makes of the numbers of each head, which stand `heads` apart."""
    return list(map(function, zip(*chunks(values, heads), strict=True)))


class PythonAttention(Attention):
    """`Attention` of all heads of all sequences at once, query by query."""

    @staticmethod
    def forward(
        query: Any, key: Any, value: Any, *, causal: bool = True, scale: float | None = None
    ) -> tuple[Any, Any]:
        Attention.check(query, key, value, causal)
        if not query.numel or not key.numel:
            return Attention.forward(query, key, value, causal=causal, scale=scale)
        *outer, length, size = query.shape
        heads = math.prod(outer)
        num_keys = key.shape[2]
        scale = Attention.scale_of(query, scale)
        exp = math.exp
        highest = max if scale > 0.0 else min  # of the scores before they are scaled
        q = _by_position(query)
        k = _by_element(key)
        v = _by_position(value)
        result: list[list[float]] = []
        probabilities: list[list[float]] = []
        for i, row in enumerate(q):
            seen = num_keys - length + i + 1 if causal else num_keys
            scores = _sum_of_products([element * seen for element in chunks(row, heads)], k)
            tops = _for_each_head(highest, scores, heads)
            e = [exp((score - top) * scale) for score, top in zip(scores, tops * seen, strict=True)]
            sums = _for_each_head(sum, e, heads)
            p = [x / y for x, y in zip(e, sums * seen, strict=True)]
            result.append(_sum_of_products([of_key * size for of_key in chunks(p, heads)], v))
            probabilities.append(p)
        return _from_positions(result, query), (scale, causal, q, key, value, probabilities)

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        if isinstance(saved[0], PythonBuffer):  # the textbook forward saved this
            return Attention.backward(saved, grad)
        scale, causal, q, key, value, probabilities = saved
        *outer, length, size = grad.shape
        heads = math.prod(outer)
        num_keys = key.shape[2]
        g = _by_position(grad)
        k = _by_position(key)
        v = _by_element(value)
        of_query: list[list[float]] = []
        # For each query and each key that it sees: one number of each head, once for each element of a head
        of_scores: list[list[list[float]]] = []
        weights: list[list[list[float]]] = []
        for row, p in zip(g, probabilities, strict=True):
            p_of_keys = chunks(p, heads)
            seen = len(p_of_keys)
            of_p = _sum_of_products([element * seen for element in chunks(row, heads)], v)
            means = _sum_of_products(p_of_keys, chunks(of_p, heads)) * seen  # sum(dP P)
            s = [x * (y - mean) * scale for x, y, mean in zip(p, of_p, means, strict=True)]
            of_scores.append([of_key * size for of_key in chunks(s, heads)])
            weights.append([of_key * size for of_key in p_of_keys])
            of_query.append(_sum_of_products(of_scores[-1], k))
        of_key: list[list[float]] = []
        of_value: list[list[float]] = []
        for j in range(num_keys):
            first = max(0, j - num_keys + length) if causal else 0  # the first query that sees this key
            of_key.append(_sum_of_products([keys[j] for keys in of_scores[first:]], q[first:]))
            of_value.append(_sum_of_products([keys[j] for keys in weights[first:]], g[first:]))
        return _from_positions(of_query, grad), _from_positions(of_key, key), _from_positions(of_value, key)
