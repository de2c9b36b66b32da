"""Laws of einsum beside its row in the table: many operands, the order of contraction, and the derivative of
repeated operands.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygpt_core import einsum
from tinygpt_core.buffer import Buffer
from tinygpt_core.checks import check_gradients
from tinygpt_core.kernels.einsum import MOST_EXHAUSTIVE, Factor, layout, parse, plan
from tinygpt_core.tensor import Tensor

from .strategies import make, read
from .tolerances import assert_close


def work(pairs: list[tuple[int, int]], terms: list[str], output: str, sizes: dict[str, int]) -> int:
    """What a contraction in this order costs, by definition: for each pair the product of all its sizes, and
    what it writes.
    """
    values: list[str | None] = list(terms)
    total = 0
    for i, j in pairs:
        both = set(values[i] or "") | set(values[j] or "")
        values[i] = values[j] = None
        left = set(output).union(*(value for value in values if value is not None))
        total += math.prod(sizes[x] for x in both) + math.prod(sizes[x] for x in both & left)
        values.append("".join(sorted(both & left)))
    return total


def all_orders(alive: list[int], following: int) -> list[list[tuple[int, int]]]:
    """Every order in which values can be multiplied two at a time."""
    if len(alive) == 1:
        return [[]]
    return [
        [(i, j), *rest]
        for i, j in itertools.combinations(alive, 2)
        for rest in all_orders([x for x in alive if x not in (i, j)] + [following], following + 1)
    ]


@given(data=st.data())
def test_the_order_is_the_cheapest_of_all(data: st.DataObject) -> None:
    """Against every order there is, for three and four operands."""
    terms = [
        data.draw(st.permutations("abcde"))[: data.draw(st.integers(1, 3))]
        for _ in range(data.draw(st.integers(3, 4)))
    ]
    sizes = {letter: data.draw(st.integers(2, 9)) for letter in "abcde"}
    texts = ["".join(term) for term in terms]
    output = "".join(sorted(set(data.draw(st.sampled_from(texts)))))
    found = plan(",".join(texts) + "->" + output, tuple(tuple(sizes[x] for x in text) for text in texts))
    reduced = list(found.values[: len(texts)])
    costs = [work(order, reduced, output, sizes) for order in all_orders(list(range(len(texts))), len(texts))]
    assert work(list(found.pairs), reduced, output, sizes) == min(costs)


def test_a_chain_is_not_multiplied_from_the_left(backend: type[Buffer]) -> None:
    """Where the last factor is a vector, no matrix product is computed: 2 n^2 steps instead of n^3."""
    found = plan("ij,jk,k->i", ((50, 50), (50, 50), (50,)))
    assert found.pairs == ((1, 2), (0, 3))


@pytest.mark.parametrize("rows", ["", "r"])
@pytest.mark.parametrize("columns", ["", "c"])
def test_what_is_summed_is_taken_as_the_larger_operand_lies(rows: str, columns: str) -> None:
    """Of which no copy is then made; of two that are as large as each other, the first one counts."""
    sizes = {"r": 5, "c": 4, "x": 3, "y": 2}

    def factor(term: str) -> Factor:
        shape = tuple(sizes[index] for index in term)
        return Factor(term, shape, tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape))))

    a, b = factor(rows + "xy"), factor("yx" + columns)
    found = layout(a, b, rows + columns)
    a_is_smaller = math.prod(a.shape) < math.prod(b.shape)
    expected = ["y", "x"] if a_is_smaller else ["x", "y"]
    for operand, axes in zip((a, b), found.axes, strict=True):
        assert [operand.term[axis] for axis in axes if operand.term[axis] in "xy"] == expected
    assert not found.swapped


@pytest.mark.parametrize("count", [MOST_EXHAUSTIVE, MOST_EXHAUSTIVE + 1, 20])
def test_many_operands(backend: type[Buffer], count: int) -> None:
    """A ring of matrices (the trace of their product), on both sides of where the search becomes greedy."""
    letters = "abcdefghijklmnopqrst"[:count]
    subscripts = ",".join(a + b for a, b in zip(letters, letters[1:] + letters[0], strict=True)) + "->"
    arrays = [np.random.default_rng(i).normal(size=(2, 2)) for i in range(count)]
    product = np.linalg.multi_dot(arrays) if count > 1 else arrays[0]
    found = einsum(subscripts, *[Tensor(make(backend, array)) for array in arrays])
    assert_close(
        read(found.buffer),
        np.trace(product),
        "float64",
        np.trace(np.linalg.multi_dot([np.abs(x) for x in arrays])),
    )
    _, _, sizes = parse(subscripts, [(2, 2)] * count)
    assert max(map(len, plan(subscripts, ((2, 2),) * count).values)) <= 2 and len(sizes) == count


def test_one_tensor_in_several_places(backend: type[Buffer]) -> None:
    """x^T A x: the gradient adds up over the places where x stands."""
    x, matrix = Tensor([1.0, -2.0, 0.5]), Tensor([[1.0, 2.0, 3.0], [0.0, 1.0, -1.0], [2.0, 0.5, 1.5]])
    assert check_gradients(lambda x, m: einsum("i,ij,j->", x, m, x), x, matrix)


@pytest.mark.parametrize(
    "subscripts", ["ii->i", "ii->", "iij->ji", "iijj->", "iiij->ij", "...ii->i...", "ijij->ij"]
)
def test_gradients_of_diagonals(backend: type[Buffer], subscripts: str) -> None:
    """What is not on a diagonal gets no gradient, what is gets all of it."""
    shape = {
        "ii": (3, 3),
        "iij": (2, 2, 3),
        "iijj": (2, 2, 3, 3),
        "iiij": (2, 2, 2, 3),
        "...ii": (2, 3, 3),
        "ijij": (2, 3, 2, 3),
    }
    array = np.random.default_rng(0).normal(size=shape[subscripts.partition("->")[0]])
    assert check_gradients(lambda x: einsum(subscripts, x), Tensor(make(backend, array)))


def test_spaces_and_the_seeds_examples(backend: type[Buffer]) -> None:
    """Tricycle's own: a transpose, a sum along an axis, a product of matrices, a dense layer on four axes."""
    a, b = Tensor([[1.0, 2.0], [3.0, 4.0]]), Tensor([[5.0, 6.0], [7.0, 8.0]])
    assert einsum("ij->ji", a).to_python() == [[1.0, 3.0], [2.0, 4.0]]
    assert einsum(" i j -> i ", a).to_python() == [3.0, 7.0]
    assert einsum("ij, jk -> ik", a, b).to_python() == [[19.0, 22.0], [43.0, 50.0]]
    inputs, weights = Tensor.normal((5, 4, 3, 2)), Tensor.normal((2, 6), requires_grad=True)
    y = einsum("zxTb,bW->zxTW", inputs, weights)
    assert y.close_to(inputs @ weights, rtol=1e-4, atol=1e-5)
    y.backward()
    assert weights.grad is not None
    assert weights.grad.close_to(einsum("zxTb,zxTW->bW", inputs, Tensor.ones(y.shape)), rtol=1e-4, atol=1e-4)
