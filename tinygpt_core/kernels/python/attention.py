"""Attention in pure Python, all heads of all sequences at once.

What is fast here: a comprehension costs the same to start, however short it is, so it should be long. The
N = B H heads of all sequences go through the same steps. So each list holds one number of every head, then
the next of every head, and so on:

    by position    q[i] = element 0 of N heads, element 1 of N heads, … element D - 1    at position i
    by element     k[d] = position 0 of N heads, position 1 of N heads, …                of element d

The scores of query i are the sum over d of its element d, repeated for every key, times k[d]: D products of
long lists. A query's lists end where causality does: what a mask would throw away is not computed.

Where query, key and value lie side by side (`PackedAttention`), the numbers of a position already lie
together, of each head the D elements, and one call of an `itemgetter` puts them into that order.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import chain
from operator import itemgetter
from typing import Any

from ...buffer.python import PythonBuffer
from ...buffer.rows import Row, Rows, chunks, sum_of_products
from ...dtype import DType
from ...shape import Shape, inverse_permutation
from ..attention import Attention, PackedAttention
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


def _by_element(positions: Rows, heads: int) -> list[list[float]]:
    """For each element of a head: position 0 of every head, then position 1, …; from rows by position."""
    starts = range(0, len(positions[0]), heads)
    return [list(chain.from_iterable([row[d : d + heads] for row in positions])) for d in starts]


def _from_positions(rows: Rows, like: Any) -> PythonBuffer:
    """The Buffer of the shape and dtype of `like` that `_by_position` takes apart."""
    next_head = like.shape[2] * like.shape[3]
    heads = like.numel // next_head
    flat = [0.0] * like.numel
    for i, numbers in enumerate(chunks(list(chain.from_iterable(rows)), heads)):
        flat[i::next_head] = numbers
    return PythonBuffer.of(flat, like.shape, like.dtype)


def _for_each_head(function: Callable[[Any], float], values: Row, heads: int) -> list[float]:
    """What a function makes of the numbers of each head, which stand `heads` apart."""
    return [function(values[head::heads]) for head in range(heads)]


# ---------------------------------------------------------------- all heads at once


def _attend(q: Rows, k: Rows, v: Rows, heads: int, scale: float, causal: bool) -> tuple[Rows, Rows]:
    """Returns the results and the probabilities, of rows by position."""
    size = len(q[0]) // heads
    exp = math.exp
    highest = max if scale > 0.0 else min  # of the scores before they are scaled
    k_by_element = _by_element(k, heads)
    result: list[list[float]] = []
    probabilities: list[list[float]] = []
    for i, row in enumerate(q):
        seen = len(k) - len(q) + i + 1 if causal else len(k)
        scores = sum_of_products([element * seen for element in chunks(row, heads)], k_by_element)
        tops = _for_each_head(highest, scores, heads)
        e = [exp((score - top) * scale) for score, top in zip(scores, tops * seen, strict=True)]
        sums = _for_each_head(sum, e, heads)
        p = [x / y for x, y in zip(e, sums * seen, strict=True)]
        result.append(sum_of_products([of_key * size for of_key in chunks(p, heads)], v))
        probabilities.append(p)
    return result, probabilities


def _attention_gradients(
    q: Rows, k: Rows, v: Rows, probabilities: Rows, g: Rows, heads: int, scale: float
) -> tuple[Rows, Rows, Rows]:
    """Returns the gradients of q, k and v, of rows by position."""
    size = len(q[0]) // heads
    v_by_element = _by_element(v, heads)
    of_query: list[list[float]] = []
    # For each query and each key that it sees: one number of each head, once for each element of a head
    of_scores: list[list[list[float]]] = []
    weights: list[list[list[float]]] = []
    for row, p in zip(g, probabilities, strict=True):
        p_of_keys = chunks(p, heads)
        seen = len(p_of_keys)
        of_p = sum_of_products([element * seen for element in chunks(row, heads)], v_by_element)
        means = sum_of_products(p_of_keys, chunks(of_p, heads)) * seen  # sum(dP P)
        s = [x * (y - mean) * scale for x, y, mean in zip(p, of_p, means, strict=True)]
        of_scores.append([of_key * size for of_key in chunks(s, heads)])
        weights.append([of_key * size for of_key in p_of_keys])
        of_query.append(sum_of_products(of_scores[-1], k))
    of_key: list[list[float]] = []
    of_value: list[list[float]] = []
    keys_seen = [len(keys) for keys in weights]  # each query sees a key more than the last, or all see all
    for j in range(len(k)):
        first = bisect_right(keys_seen, j)  # the first query that sees this key
        of_key.append(sum_of_products([keys[j] for keys in of_scores[first:]], q[first:]))
        of_value.append(sum_of_products([keys[j] for keys in weights[first:]], g[first:]))
    return of_query, of_key, of_value


class PythonAttention(Attention):
    """`Attention` of all heads of all sequences at once, query by query."""

    @staticmethod
    def forward(
        query: Any, key: Any, value: Any, *, causal: bool = True, scale: float | None = None
    ) -> tuple[Any, Any]:
        Attention.check(query, key, value, causal)
        if not query.numel or not key.numel:
            return Attention.forward(query, key, value, causal=causal, scale=scale)
        heads = query.shape[0] * query.shape[1]
        scale = Attention.scale_of(query, scale)
        q, k, v = (_by_position(x) for x in (query, key, value))
        result, probabilities = _attend(q, k, v, heads, scale, causal)
        return _from_positions(result, query), (q, k, v, probabilities, heads, scale, key)

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        if isinstance(saved[0], PythonBuffer):  # the textbook forward saved this
            return Attention.backward(saved, grad)
        q, k, v, probabilities, heads, scale, key = saved
        g = _by_position(grad)
        of_query, of_key, of_value = _attention_gradients(q, k, v, probabilities, g, heads, scale)
        return _from_positions(of_query, grad), _from_positions(of_key, key), _from_positions(of_value, key)


# ---------------------------------------------------------------- query, key and value side by side


@lru_cache(maxsize=64)
def _head_order(batch: int, parts: int, heads: int, size: int) -> tuple[itemgetter[Any], itemgetter[Any]]:
    """Returns what takes the numbers of one position in the order (parts, size, batch, heads), in which all
    heads stand together, and what puts them back to where they lie: (batch, parts, heads, size).
    """
    order = [
        ((b * parts + part) * heads + h) * size + d
        for part in range(parts)
        for d in range(size)
        for b in range(batch)
        for h in range(heads)
    ]
    return itemgetter(*order), itemgetter(*inverse_permutation(order))


def _split_heads(x: Any, parts: int, heads: int) -> list[Sequence[float]]:
    """Returns, of x (B, T, parts H D), the parts of position 0 as `_by_position` gives them, then of 1, …"""
    batch, length, width = x.shape
    size = width // (parts * heads)
    in_order, _ = _head_order(batch, parts, heads, size)
    rows = x.rows()
    if batch > 1:
        rows = [list(chain.from_iterable(rows[i::length])) for i in range(length)]
    together = map(in_order, rows)
    return chunks(list(chain.from_iterable(together)), batch * heads * size)


def _merge_heads(rows: Iterable[Row], parts: int, heads: int, shape: Shape, dtype: DType) -> PythonBuffer:
    """Returns the Buffer (B, T, parts H D) that `_split_heads` takes apart, of rows for each position."""
    batch, _, width = shape
    _, back = _head_order(batch, parts, heads, width // (parts * heads))
    positions = list(map(back, rows))
    split = [row[start : start + width] for start in range(0, batch * width, width) for row in positions]
    return PythonBuffer.of_rows(split, shape, dtype)


class PythonPackedAttention(PackedAttention):
    """`PackedAttention` whose numbers go straight from x to the lists of all heads, and back."""

    @staticmethod
    def forward(x: Any, *, num_heads: int) -> tuple[Any, Any]:
        PackedAttention.check(x, num_heads)
        batch, length, width = x.shape
        if not x.numel or width == 3:  # an itemgetter of one place returns no tuple
            return PackedAttention.forward(x, num_heads=num_heads)
        parts = _split_heads(x, 3, num_heads)
        q = parts[0::3]
        k = parts[1::3]
        v = parts[2::3]
        scale = 1.0 / math.sqrt(width // (3 * num_heads))
        result, probabilities = _attend(q, k, v, batch * num_heads, scale, causal=True)
        y = _merge_heads(result, 1, num_heads, (batch, length, width // 3), x.dtype)
        return y, (q, k, v, probabilities, num_heads, scale)

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        if isinstance(saved[0], PythonBuffer):  # the textbook forward saved this
            return PackedAttention.backward(saved, grad)
        q, k, v, probabilities, heads, scale = saved
        batch, length, width = grad.shape
        g = _split_heads(grad, 1, heads)
        gradients = _attention_gradients(q, k, v, probabilities, g, batch * heads, scale)
        rows = map(chain, *gradients)
        return (_merge_heads(map(list, rows), 3, heads, (batch, length, 3 * width), grad.dtype),)
