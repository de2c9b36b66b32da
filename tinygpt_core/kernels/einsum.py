"""Einstein summation: every product of arrays in which axes are matched by letters.

    "ij,jk->ik"           y[i, k] = sum over j of a[i, j] b[j, k]              the product of two matrices
    "bhid,bhjd->bhij"     y[b, h, i, j] = sum over d of q[b, h, i, d] k[b, h, j, d]        attention's scores
    dL/da                 the same with g in the place of a: "ik,jk->ij" of g and b

A contraction becomes a short program. Each operand is first reduced on its own: an index that it repeats
becomes a diagonal, one that stands nowhere else is summed away. Then two operands at a time are multiplied,
in an order chosen by cost, each pair as one batched matrix product: indices that both have and the result
keeps are batch axes, those that the result drops are the inner axis, and what only one of them has are rows
or columns. The last step puts the axes into the order that was asked for.

The derivative runs the program backwards. For a pair y = a b, dL/da is the contraction of g with b that
leaves the indices of a, and the other way round; what is kept from the forward are the operands of the pairs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache, reduce
from itertools import combinations
from typing import Any, NamedTuple

from .. import shape_errors
from ..buffer.base import Buffer
from ..dtype import promote
from ..shape import Shape, inverse_permutation, without_axes
from ..shape_errors import ShapeError
from .base import Gradient, Kernel

Term = str  # the indices of an operand, one character an axis
Sizes = dict[str, int]

# An axis that "..." stands for is the character at this place plus its distance from the end
ELLIPSIS_AXES = 0x2460
MOST_EXHAUSTIVE = 8  # operands up to which the best order is found by trying all


class Plan(NamedTuple):
    """What to do with operands of certain shapes.

    Attributes:
        terms: for each operand, the indices of its axes.
        values: the indices of each value: first those left of each operand, in the same order, then those of
            each product.
        pairs: which two values make the next product.
        output: the indices of the result.
        plain: whether all operands enter the products as they are.
    """

    terms: tuple[Term, ...]
    values: tuple[Term, ...]
    pairs: tuple[tuple[int, int], ...]
    output: Term
    plain: bool


def _expand_ellipsis(text: str, count: int) -> Term:
    """The indices of an operand in which "..." stands for `count` axes."""
    return text.replace("...", "".join(chr(ELLIPSIS_AXES + i) for i in reversed(range(count))))


def parse(subscripts: str, shapes: Sequence[Shape]) -> tuple[tuple[Term, ...], Term, Sizes]:
    """Returns the indices of each operand, those of the result, and the size of each index.

    Raises:
        TypeError, ValueError: the subscripts are no such text.
        ShapeError: they do not fit the shapes; the message names index and operand.
    """
    if not isinstance(subscripts, str):
        raise TypeError(
            f"einsum: subscripts are a text such as 'ij,jk->ik', not a {type(subscripts).__name__}"
        )
    left, arrow, right = subscripts.replace(" ", "").partition("->")
    texts = left.split(",")
    if len(texts) != len(shapes):
        raise ValueError(
            f"einsum: {subscripts!r} speaks of {len(texts)} operands, but there are {len(shapes)}"
        )
    _check_letters(subscripts, texts, right)
    terms: list[Term] = []
    sizes: Sizes = {}
    widest = 0  # axes that an ellipsis stands for
    for position, (text, shape) in enumerate(zip(texts, shapes, strict=True)):
        covered = len(shape) - len(text.replace("...", ""))
        if covered < 0 or (covered and "..." not in text):
            raise ShapeError(_wrong_number_of_axes(subscripts, text, position, shape))
        widest = max(widest, covered)
        term = _expand_ellipsis(text, covered)
        terms.append(term)
        for index, size in zip(term, shape, strict=True):
            first = shape[term.index(index)]  # where the operand repeats the index
            known = sizes.get(index, 1)
            if size != first or (known != 1 and size not in (1, known)):
                raise ShapeError(shape_errors.einsum(subscripts, terms, shapes, ELLIPSIS_AXES))
            if index not in sizes or size != 1:
                sizes[index] = size
    if not arrow:
        right = "..." + "".join(
            index for index in sorted(sizes) if index.isalpha() and _count(texts, index) == 1
        )
    elif widest and "..." not in right:
        raise ValueError(
            f"einsum: '...' stands for {widest} axes in {subscripts!r}, so the output needs a '...' too"
        )
    output = _expand_ellipsis(right, widest)
    for index in output:
        if index not in sizes:
            raise ValueError(f"einsum: index {index!r} of the output stands in no operand of {subscripts!r}")
        if output.count(index) > 1:
            raise ValueError(
                f"einsum: index {index!r} stands twice in the output of {subscripts!r}: "
                "a result has each axis once"
            )
    return tuple(terms), output, sizes


def _count(texts: Sequence[str], index: str) -> int:
    return sum(text.count(index) for text in texts)


def _check_letters(subscripts: str, texts: Sequence[str], output: str) -> None:
    """Raises ValueError unless operands and output are letters, and perhaps one ellipsis."""
    for position, text in enumerate((*texts, output)):
        where = f"operand {position}" if position < len(texts) else "the output"
        for character in text.replace("...", "", 1):
            if not (character.isascii() and character.isalpha()):
                raise ValueError(
                    f"einsum: {subscripts!r} has {character!r} in {where}: "
                    "indices are letters, and one '...' may stand among them"
                )


def _wrong_number_of_axes(subscripts: str, text: str, position: int, shape: Shape) -> str:
    letters = text.replace("...", "")
    return shape_errors.wrong_shape(
        "",
        f"operand {position}",
        shape,
        expected=tuple(letters),
        of="index",
        axes=slice(0, len(letters)),
        title=(
            f"einsum: {text!r} in {subscripts!r} does not fit operand {position}, "
            f"which has {len(shape)} axes: {shape}"
        ),
    )


def _product(a: Term, b: Term, others: str) -> Term:
    """The indices of a product, when those in `others` are still wanted."""
    return "".join(index for index in dict.fromkeys(a + b) if index in others)


def _cost(a: Term, b: Term, product: Term, sizes: Sizes) -> int:
    """Multiplications of a pair, and elements written."""
    return math.prod(sizes[index] for index in {*a, *b}) + math.prod(sizes[index] for index in product)


def _best_order(terms: Sequence[Term], output: Term, sizes: Sizes) -> Iterator[tuple[int, int, Term]]:
    """Yields the pairs of the cheapest order of all.

    By dynamic programming over sets of operands (bits of an integer), smaller sets first.
    """
    everything = (1 << len(terms)) - 1
    best: dict[int, tuple[int, Term, int, int]] = {1 << i: (0, term, 0, 0) for i, term in enumerate(terms)}
    for size in range(2, len(terms) + 1):
        for chosen in combinations(range(len(terms)), size):
            whole = sum(1 << i for i in chosen)
            others = output + "".join(term for i, term in enumerate(terms) if not whole >> i & 1)
            rest = second = whole & (whole - 1)
            while second:  # each way to split the set once: its first operand is always in the first part
                first = whole - second
                (cost_a, a, _, _), (cost_b, b, _, _) = best[first], best[second]
                product = _product(a, b, others)
                cost = cost_a + cost_b + _cost(a, b, product, sizes)
                if whole not in best or cost < best[whole][0]:
                    best[whole] = cost, product, first, second
                second = (second - 1) & rest
    places = {1 << i: i for i in range(len(terms))}

    def pairs_of(whole: int) -> Iterator[tuple[int, int, Term]]:
        _, product, first, second = best[whole]
        if first:
            yield from pairs_of(first)
            yield from pairs_of(second)
            yield places[first], places[second], product
            places[whole] = len(places)

    yield from pairs_of(everything)


def _greedy_order(terms: Sequence[Term], output: Term, sizes: Sizes) -> Iterator[tuple[int, int, Term]]:
    """Yields at each step the pair whose product grows the least: its elements less those it replaces."""
    left, count = dict(enumerate(terms)), len(terms)

    def elements(term: Term) -> int:
        return math.prod(sizes[index] for index in term)

    while len(left) > 1:
        used = {index: sum(index in term for term in left.values()) + (index in output) for index in sizes}
        candidates = []
        for (i, a), (j, b) in combinations(left.items(), 2):
            kept = "".join(index for index in sizes if used[index] > (index in a) + (index in b))
            product = _product(a, b, kept)
            growth = elements(product) - elements(a) - elements(b)
            candidates.append((growth, _cost(a, b, product, sizes), i, j, product))
        _, _, i, j, product = min(candidates)
        del left[i], left[j]
        left[count] = product
        count += 1
        yield i, j, product


@lru_cache(maxsize=1024)
def plan(subscripts: str, shapes: tuple[Shape, ...]) -> Plan:
    """Returns how to contract operands of these shapes; raises what `parse` raises.

    The order of three and more is the one with the fewest multiplications (up to `MOST_EXHAUSTIVE` operands),
    or a greedy one.
    """
    terms, output, sizes = parse(subscripts, shapes)
    # An axis of size 1 that stretches over a larger one adds nothing but that axis, which some other operand
    # has.
    full = [
        "".join(dict.fromkeys(index for index, size in zip(term, shape, strict=True) if size == sizes[index]))
        for term, shape in zip(terms, shapes, strict=True)
    ]
    reduced = []
    for i, term in enumerate(full):
        others = output + "".join(full[:i] + full[i + 1 :])
        reduced.append("".join(index for index in term if index in others))
    order = _best_order if len(terms) <= MOST_EXHAUSTIVE else _greedy_order
    found = list(order(reduced, output, sizes))
    values = [*reduced, *(term for *_, term in found)]
    if found:
        values[-1] = output
    return Plan(terms, tuple(values), tuple((i, j) for i, j, _ in found), output, terms == tuple(reduced))


def _diagonal_axes(term: Term, shape: Shape) -> tuple[Term, tuple[int, ...], list[tuple[int, int]]]:
    """Returns the distinct indices of an operand, its axes in their order, and what repeats.

    Repeated indices come last; of each there is its size, and how often it stands in the term.
    """
    single = [index for index in term if term.count(index) == 1]
    repeated = [index for index in dict.fromkeys(term) if term.count(index) > 1]
    order = [axis for index in (*single, *repeated) for axis, other in enumerate(term) if other == index]
    sizes = [(shape[term.index(index)], term.count(index)) for index in repeated]
    return "".join(single + repeated), tuple(order), sizes


def _on_diagonals(repeated: list[tuple[int, int]]) -> tuple[Any, ...]:
    """The index of the diagonals of axes that were made one: every (1 + n + n^2 + …)th element of n^k."""
    return (..., *(slice(None, None, sum(size**i for i in range(count))) for size, count in repeated))


def reduce_operand(x: Buffer, term: Term, kept: Term) -> Buffer:
    """Returns the diagonals of repeated indices of x, summed over the axes of indices that are not `kept`."""
    if term == kept:
        return x
    if len(set(term)) < len(term):
        distinct, order, repeated = _diagonal_axes(term, x.shape)
        x = x.permute(order)
        lead = x.shape[: len(distinct) - len(repeated)]
        x = x.reshape((*lead, *(size**count for size, count in repeated)))[_on_diagonals(repeated)]
        # The indices that are kept stand in the order of the term
        term = "".join(dict.fromkeys(term))
        x = x.permute([distinct.index(index) for index in term])
    gone = tuple(axis for axis, index in enumerate(term) if index not in kept)
    if not gone:
        return x
    total = x if all(x.shape[axis] == 1 for axis in gone) else x.sum(gone)
    return total.as_dtype(x.dtype).reshape(without_axes(x.shape, gone))  # int32 is added up in int64


def spread_gradient(grad: Buffer, kept: Term, term: Term, shape: Shape) -> Buffer:
    """Returns the gradient of `reduce_operand`'s input: g along summed axes, and 0 beside diagonals."""
    if kept == term:
        return grad
    distinct, order, repeated = _diagonal_axes(term, shape)
    sizes = dict(zip(term, shape, strict=True))
    rank = {index: place for place, index in enumerate(kept)}
    grad = grad.permute([rank[index] for index in distinct if index in rank])
    grad = grad.reshape(tuple(sizes[index] if index in rank else 1 for index in distinct))
    grad = grad.expand(tuple(sizes[index] for index in distinct))
    if not repeated:
        return grad
    lead = grad.shape[: len(distinct) - len(repeated)]
    total = type(grad).zeros((*lead, *(size**count for size, count in repeated)), grad.dtype)
    total[_on_diagonals(repeated)] = grad
    total = total.reshape(tuple(shape[axis] for axis in order))
    return total.permute(inverse_permutation(order))


class Factor(NamedTuple):
    """What decides how an operand of a product lies: the indices of its axes, their sizes and strides."""

    term: Term
    shape: Shape
    stride: Shape


class Layout(NamedTuple):
    """How a pair becomes one batched matrix product.

    Without an inner axis it becomes a product of elements that broadcast.

    Attributes:
        swapped: whether the operands change places: (a b)^T = b^T a^T may lie as the output does.
        axes, shapes: for each operand, the order of its axes and the shape they take then.
        product: the shape of the matrix product; None for a product of elements, which already lies as the
            output does.
        output_shape, output_axes: the axes of the matrix product one by one, and their order in the output.
    """

    swapped: bool
    axes: tuple[Shape, Shape]
    shapes: tuple[Shape, Shape]
    product: Shape | None
    output_shape: Shape
    output_axes: Shape


@lru_cache(maxsize=4096)
def layout(a: Factor, b: Factor, output: Term) -> Layout:
    """Returns how to multiply two operands.

    Axes that become one are taken in the order in which they lie: no copy is made where they are a run.
    """
    sizes = dict(zip(a.term + b.term, a.shape + b.shape, strict=True))

    def as_they_lie(factor: Factor, indices: list[str]) -> list[str]:
        steps = dict(zip(factor.term, factor.stride, strict=True))
        return sorted(indices, key=lambda index: -steps[index])

    def sizes_of(indices: list[str]) -> Shape:
        return tuple(sizes[index] for index in indices)

    inner = [index for index in a.term if index in b.term and index not in output]
    if not inner:
        return _layout_of_elements(a.term, b.term, output, sizes)
    batch = [index for index in output if index in a.term and index in b.term]
    rows = as_they_lie(a, [index for index in a.term if index not in b.term])
    columns = as_they_lie(b, [index for index in b.term if index not in a.term])
    if rows and columns and output.index(columns[-1]) < output.index(rows[-1]):
        return layout(b, a, output)._replace(swapped=True)
    inner = as_they_lie(a if math.prod(a.shape) >= math.prod(b.shape) else b, inner)

    n, k, m = (math.prod(sizes_of(indices)) for indices in (rows, inner, columns))
    order = batch + rows + columns
    return Layout(
        swapped=False,
        axes=(
            tuple(map(a.term.index, batch + rows + inner)),
            tuple(map(b.term.index, batch + inner + columns)),
        ),
        shapes=((*sizes_of(batch), n, k), (*sizes_of(batch), k, m)),
        product=(*sizes_of(batch), n, m),
        output_shape=sizes_of(order),
        output_axes=tuple(map(order.index, output)),
    )


def _layout_of_elements(a: Term, b: Term, output: Term, sizes: Sizes) -> Layout:
    """Both operands with the axes of the output, those that one lacks with size 1."""

    def axes_of(term: Term) -> Shape:
        return tuple(term.index(index) for index in output if index in term)

    def shape_of(term: Term) -> Shape:
        return tuple(sizes[index] if index in term else 1 for index in output)

    return Layout(
        swapped=False,
        axes=(axes_of(a), axes_of(b)),
        shapes=(shape_of(a), shape_of(b)),
        product=None,
        output_shape=(),
        output_axes=(),
    )


def contract(a: Buffer, a_term: Term, b: Buffer, b_term: Term, output: Term) -> Buffer:
    """Returns the contraction of two operands of one dtype, with the axes of `output`.

    An index that one of them lacks is in the output, and each stands once a term.
    """
    found = layout(Factor(a_term, a.shape, a.stride), Factor(b_term, b.shape, b.stride), output)
    if found.swapped:
        a, b = b, a
    a = _arranged(a, found.axes[0], found.shapes[0])
    b = _arranged(b, found.axes[1], found.shapes[1])
    if found.product is None:
        return a * b
    return _arranged_back(a.matmul(b), found.output_shape, found.output_axes)


def _arranged(x: Buffer, axes: Shape, shape: Shape) -> Buffer:
    """Returns x with its axes in another order, and then under another shape."""
    if axes != tuple(range(len(axes))):
        x = x.permute(axes)
    return x if x.shape == shape else x.reshape(shape)


def _arranged_back(y: Buffer, shape: Shape, axes: Shape) -> Buffer:
    """Returns y under another shape, and then with its axes in another order."""
    if y.shape != shape:
        y = y.reshape(shape)
    return y if axes == tuple(range(len(axes))) else y.permute(axes)


class Einsum(Kernel):
    """y[output] = sum over all other indices of the product of the operands: `subscripts` such as
    "bhid,bhjd->bhij".

    Letters name axes. An index that several operands have is one axis of the product, along which sizes agree
    or are 1. An index that an operand repeats is its diagonal. "..." stands for the axes not named, which
    broadcast. Without "->" the output has "..." and then, in alphabetical order, each index that stands once.
    All of this is NumPy's notation.

    dL/d(operand) is the contraction of g with the other operands that leaves that operand's indices.

    Raises:
        TypeError: operands on bool.
        ValueError: subscripts that do not fit the operands' shapes.
    """

    @staticmethod
    def forward(*operands: Buffer, subscripts: str) -> tuple[Buffer, Any]:
        dtype = operands[0].dtype
        if any(x.dtype is not dtype for x in operands):
            dtype = reduce(promote, [x.dtype for x in operands])
        if dtype.kind == "b":
            raise TypeError("einsum is not defined on bool: cast() to another dtype first")
        found = plan(subscripts, tuple([x.shape for x in operands]))
        terms = found.values
        values = [x.as_dtype(dtype) for x in operands]
        if not found.plain:
            values = list(map(reduce_operand, values, found.terms, terms))
        for i, j in found.pairs:
            values.append(contract(values[i], terms[i], values[j], terms[j], terms[len(values)]))
        y = values.pop()
        if not found.pairs:
            y = y.permute([terms[0].index(index) for index in found.output])
        return y, (found, tuple(x.shape for x in operands), *values)

    @staticmethod
    def backward(saved: Any, grad: Buffer) -> tuple[Gradient, ...]:
        found, shapes, *values = saved
        terms = found.values
        used = {}  # for each value but the result: the product it goes into, and the other factor
        for product, (a, b) in enumerate(found.pairs, len(shapes)):
            used[a] = product, b
            used[b] = product, a
        known: dict[int, Buffer] = {}

        def of_value(i: int) -> Buffer:
            if i not in used:  # the result
                if found.pairs:
                    return grad
                return grad.permute([found.output.index(index) for index in terms[0]])
            if i not in known:
                product, other = used[i]
                known[i] = contract(of_value(product), terms[product], values[other], terms[other], terms[i])
            return known[i]

        def gradient_of(i: int) -> Gradient:
            return lambda: spread_gradient(of_value(i), terms[i], found.terms[i], shapes[i])

        return tuple(gradient_of(i) for i in range(len(shapes)))
