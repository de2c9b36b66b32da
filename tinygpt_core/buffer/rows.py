"""Arithmetic on rows of Python floats: what matrix products of the reference backend come down to.

What is fast here: the interpreter spends far more on making one step than on one multiplication. So a product
is a few calls that each run over whole rows in C, or one comprehension in which a step does eight
multiplications.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from itertools import chain, repeat, starmap
from typing import Any

Row = Sequence[float]
Rows = Sequence[Row]
_sumprod: Callable[[Any, Any], float] | None = getattr(math, "sumprod", None)  # Python 3.12 and later


def chunks(values: Sequence[Any], size: int) -> list[Any]:
    """Returns a flat list as rows of `size`."""
    return [values[i : i + size] for i in range(0, len(values), size)]


def dot(a: Row, b: Row) -> float:
    """Returns the sum of a[i] * b[i]."""
    return _sumprod(a, b) if _sumprod else sum(map(operator.mul, a, b))


def column_sums(rows: Rows, width: int) -> list[float]:
    """Returns the sum of each of `width` columns."""
    if not rows:
        return [0.0] * width
    return list(map(sum, zip(*rows, strict=True)))


def column_dots(a: Rows, b: Rows, width: int) -> list[float]:
    """Returns, for each of `width` columns, the sum over rows of `a` times `b`."""
    if not a:
        return [0.0] * width
    return list(map(dot, zip(*a, strict=True), zip(*b, strict=True)))


def sum_of_products(a: Rows, b: Rows) -> list[float]:
    """Returns the sum over k of a[k] times b[k], element by element, as far as all of them go.

    Eight terms at a time, one comprehension does all multiply-adds of an element.
    """
    terms = min(len(a), len(b))
    done = min(terms, 8)
    if not done:
        return []
    total = _SUMS_OF_PRODUCTS[done](a[:done], b[:done])
    if done == terms:
        return total
    ones = [1.0] * len(total)
    while done < terms:  # the sum so far, times 1, is the first term of the next
        end = min(terms, done + 7)
        total = _SUMS_OF_PRODUCTS[end - done + 1]([total, *a[done:end]], [ones, *b[done:end]])
        done = end
    return total


# By the number of terms
_SUMS_OF_PRODUCTS: dict[int, Callable[[Rows, Rows], list[float]]] = {
    1: lambda a, b: [a0 * b0 for a0, b0 in zip(*a, *b, strict=False)],
    2: lambda a, b: [a0 * b0 + a1 * b1 for a0, a1, b0, b1 in zip(*a, *b, strict=False)],
    3: lambda a, b: [a0 * b0 + a1 * b1 + a2 * b2 for a0, a1, a2, b0, b1, b2 in zip(*a, *b, strict=False)],
    4: lambda a, b: [
        a0 * b0 + a1 * b1 + a2 * b2 + a3 * b3 for a0, a1, a2, a3, b0, b1, b2, b3 in zip(*a, *b, strict=False)
    ],
    5: lambda a, b: [
        a0 * b0 + a1 * b1 + a2 * b2 + a3 * b3 + a4 * b4
        for a0, a1, a2, a3, a4, b0, b1, b2, b3, b4 in zip(*a, *b, strict=False)
    ],
    6: lambda a, b: [
        a0 * b0 + a1 * b1 + a2 * b2 + a3 * b3 + a4 * b4 + a5 * b5
        for a0, a1, a2, a3, a4, a5, b0, b1, b2, b3, b4, b5 in zip(*a, *b, strict=False)
    ],
    7: lambda a, b: [
        a0 * b0 + a1 * b1 + a2 * b2 + a3 * b3 + a4 * b4 + a5 * b5 + a6 * b6
        for a0, a1, a2, a3, a4, a5, a6, b0, b1, b2, b3, b4, b5, b6 in zip(*a, *b, strict=False)
    ],
    8: lambda a, b: [
        a0 * b0 + a1 * b1 + a2 * b2 + a3 * b3 + a4 * b4 + a5 * b5 + a6 * b6 + a7 * b7
        for a0, a1, a2, a3, a4, a5, a6, a7, b0, b1, b2, b3, b4, b5, b6, b7 in zip(*a, *b, strict=False)
    ],
}


# ---------------------------------------------------------------- matrix products


def product(a: Rows, b: Rows, single: bool = True) -> list[list[float]]:
    """Returns the rows of a @ b, for at least one row of `b`; `single`: float32 is accurate enough."""
    return product_transposed(a, list(zip(*b, strict=True)), single)


def product_transposed(a: Rows, b: Rows, single: bool = True) -> list[list[float]]:
    """Returns the rows of a @ b^T: every row of `a` dotted with every row of `b`."""
    return chunks(dots(a, b, single), len(b)) if b else [[] for _ in a]


def dots(a: Rows, b: Rows, single: bool = True, bias: Row | None = None) -> list[float]:
    """Returns the elements of a @ b^T (+ bias in every row): every row of `a` dotted with every row of `b`.

    For up to eight columns, one comprehension does all multiply-adds of an element, so that the interpreter's
    cost of making an element is paid once. Longer rows are left to a function that runs over two of them in
    C: `math.sumprod` where Python has it, else, where float32 is accurate enough, `math.dist`.
    """
    if not b:
        return []
    if bias is not None:  # the weights of one more input, which is always 1
        a = [(*row, 1.0) for row in a]
        b = [(*row, x) for row, x in zip(b, bias, strict=True)]
    short = _SHORT_DOTS.get(len(b[0]))
    if short is not None:
        return short(a, b)
    if _sumprod:
        return [_sumprod(x, y) for x in a for y in b]
    products = _dots_by_distance(a, b) if single else None
    return [sum(map(operator.mul, x, y)) for x in a for y in b] if products is None else products


# By the length of the rows: the dot products of all rows of `a` and `b`, one after the other
_SHORT_DOTS: dict[int, Callable[[Rows, Rows], list[float]]] = {
    1: lambda a, b: [a0 * b0 for (a0,) in a for (b0,) in b],
    2: lambda a, b: [a0 * b0 + a1 * b1 for a0, a1 in a for b0, b1 in b],
    3: lambda a, b: [a0 * b0 + a1 * b1 + a2 * b2 for a0, a1, a2 in a for b0, b1, b2 in b],
    4: lambda a, b: [a0 * b0 + a1 * b1 + a2 * b2 + a3 * b3 for a0, a1, a2, a3 in a for b0, b1, b2, b3 in b],
    5: lambda a, b: [
        a0 * b0 + a1 * b1 + a2 * b2 + a3 * b3 + a4 * b4
        for a0, a1, a2, a3, a4 in a
        for b0, b1, b2, b3, b4 in b
    ],
    6: lambda a, b: [
        a0 * b0 + a1 * b1 + a2 * b2 + a3 * b3 + a4 * b4 + a5 * b5
        for a0, a1, a2, a3, a4, a5 in a
        for b0, b1, b2, b3, b4, b5 in b
    ],
    7: lambda a, b: [
        a0 * b0 + a1 * b1 + a2 * b2 + a3 * b3 + a4 * b4 + a5 * b5 + a6 * b6
        for a0, a1, a2, a3, a4, a5, a6 in a
        for b0, b1, b2, b3, b4, b5, b6 in b
    ],
    8: lambda a, b: [
        a0 * b0 + a1 * b1 + a2 * b2 + a3 * b3 + a4 * b4 + a5 * b5 + a6 * b6 + a7 * b7
        for a0, a1, a2, a3, a4, a5, a6, a7 in a
        for b0, b1, b2, b3, b4, b5, b6, b7 in b
    ],
}


def _dots_by_distance(a: Rows, b: Rows) -> list[float] | None:
    """Returns what `dots` does, or None where numbers are too large for this.

    Python 3.11 has one function that runs over two rows in C, `math.dist`, and it is three times faster than
    sum(map(mul)). It gives the dot product, too:

        |u - v|^2 = |u|^2 + |v|^2 - 2 u.v

    With u a row of `a` scaled to the length of the rows of `b`, the error is a few 1e-16 of |a| |b|, as with
    a sum of doubles and far below what float32 keeps. Where the rows of `b` differ much in length (or are
    zero), they are scaled to length 1 as well.
    """
    if len(a) > 2 * len(b):  # less is done for a row of `b` than for one of `a`
        products = _dots_by_distance(b, a)
        return products and list(chain.from_iterable(zip(*chunks(products, len(a)), strict=True)))
    dist = math.dist
    if type(b[0]) is not tuple:  # else `dist` would make tuples of them anew for every row of `a`
        b = list(map(tuple, b))
    lengths_of_a = list(starmap(math.hypot, a))
    lengths_of_b = list(starmap(math.hypot, b))
    length = max(lengths_of_b)  # to which rows of `a` are scaled
    if not math.isfinite(length + sum(lengths_of_a)):
        return None
    uneven = min(lengths_of_b) < 1e-3 * length
    if uneven:
        length = 1.0
        b = [tuple([x / n for x in row]) if n else row for row, n in zip(b, lengths_of_b, strict=True)]
        sums_of_squares = [2.0] * len(b)  # |u|^2 + |v|^2 for each row of `b`
    else:
        square = length * length
        sums_of_squares = [square + n * n for n in lengths_of_b]
    products = []
    for row, length_of_row in zip(a, lengths_of_a, strict=True):
        half = length_of_row / (2.0 * length or 1.0)
        scale = length / (length_of_row or 1.0)
        distances = map(dist, repeat(tuple([x * scale for x in row])), b)
        products += [half * (s - d * d) for s, d in zip(sums_of_squares, distances, strict=True)]
    if uneven:
        products = list(map(operator.mul, products, lengths_of_b * len(a)))
    return products
