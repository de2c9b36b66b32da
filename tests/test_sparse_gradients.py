"""Tables of which few rows are looked up: their gradients are those rows, and optimizers touch no others.

The reference is written here, row by row in float64, and shares no code with the optimizers.
"""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygpt_core import backends, kernels, random
from tinygpt_core.buffer import Buffer
from tinygpt_core.dtype import DType
from tinygpt_core.module import Module
from tinygpt_core.nn import Embedding
from tinygpt_core.operations import SparseGradient
from tinygpt_core.optimizers import SGD, Adam, AdamW, clip_gradients, rows_with_gradient
from tinygpt_core.tensor import Tensor

BACKENDS = ["python"] if backends.why_not("numpy") else ["python", "numpy", "cuda-on-cpu"]
ROWS, WIDTH = 7, 3


@pytest.fixture(params=BACKENDS, autouse=True)
def _on_each_backend(request: pytest.FixtureRequest) -> Any:
    if why := backends.why_not(request.param):
        pytest.skip(f"{request.param} cannot run here: {why}")
    with backends.use(request.param):
        yield


def keeps_rows() -> bool:
    """Whether the backend in use keeps gradients as rows: python and NumPy do; a device may not know them."""
    kernel = kernels.lookup(kernels.Embedding, backends.active())
    is_able = getattr(kernel, "backward_by_rows", None) is not None
    assert is_able or backends.active().backend not in ("python", "numpy")
    return is_able


def assert_sparse(tensor: Tensor) -> None:
    """Fails unless a gradient is kept as rows, where it can be."""
    assert isinstance(tensor.compact_grad, SparseGradient if keeps_rows() else Buffer)


class Tables(Module):
    """One table whose gradient is sparse, a matrix whose gradient is not."""

    def __init__(self, sparse: bool = True) -> None:
        super().__init__()
        with random.use_generator(random.Generator(3)):
            self.table = Embedding(ROWS, WIDTH, sparse=sparse)
            self.matrix = Tensor.normal((WIDTH, WIDTH), requires_grad=True)

    def loss(self, ids: list[int], weights: list[float]) -> Tensor:
        found = self.table(Tensor(Buffer(ids, DType.int32)))
        factors = Tensor([[w] * WIDTH for w in weights], dtype=DType.float32)
        return (found.dot(self.matrix) * factors).sum()


def rows_of(tensor: Tensor) -> list[list[float]]:
    found: list[list[float]] = tensor.to_python()
    return found


def close(found: Any, expected: Any) -> bool:
    return all(
        math.isclose(a, b, rel_tol=2e-5, abs_tol=2e-6)
        for one, other in zip(found, expected, strict=True)
        for a, b in zip(one, other, strict=True)
    )


BATCHES = [([1, 4, 1], [1.0, -0.5, 2.0]), ([4, 2], [0.5, 1.0]), ([0, 1], [1.0, 0.0]), ([5], [-3.0])]


def lazy_adamw(
    rows: list[list[float]], gradients: list[dict[int, list[float]]], rate: float, betas: Any, decay: float
) -> list[list[float]]:
    """SparseAdam's rule with decoupled decay: m, v and the weights of each step's rows, and of no others."""
    weights = [list(row) for row in rows]
    first = [[0.0] * WIDTH for _ in rows]
    second = [[0.0] * WIDTH for _ in rows]
    b1, b2 = betas
    for t, step in enumerate(gradients, 1):
        for row, gradient in step.items():
            for j, g in enumerate(gradient):
                first[row][j] = b1 * first[row][j] + (1 - b1) * g
                second[row][j] = b2 * second[row][j] + (1 - b2) * g * g
                m = first[row][j] / (1 - b1**t)
                v = second[row][j] / (1 - b2**t)
                weights[row][j] -= rate * decay * weights[row][j]
                weights[row][j] -= rate * m / (math.sqrt(v) + 1e-8)
    return weights


@pytest.mark.parametrize(
    ("values", "kept"), [([[1.0, 2.0], [0.0, 0.0], [0.0, 3.0]], [0, 2]), ([[1.0]] * 3, [0, 1, 2])]
)
def test_rows_whose_gradient_is_zero_are_left_out(values: list[list[float]], kept: list[int]) -> None:
    """Of a gradient kept as rows, and of the whole one, as many of them as there may be."""
    ids = [1, 4, 6]
    width = len(values[0])
    gradient = SparseGradient((ROWS, width), Buffer(ids, DType.int32), Buffer(values, DType.float32))
    for given_one in (gradient, gradient.add_to(None)):
        rows, found = rows_with_gradient(given_one)
        assert rows.to_python() == [ids[i] for i in kept]
        assert found.to_python() == [values[i] for i in kept]


@pytest.mark.parametrize("make", [lambda m: SGD(m, 0.5), lambda m: AdamW(m, 0.5)])
def test_a_table_without_a_gradient_keeps_nobody_from_moving(make: Any) -> None:
    """Its gradient is there, and zero everywhere."""
    model = Tables()
    optimizer = make(model)
    model.loss([1, 2], [0.0, 0.0]).backward()
    model.matrix.grad = Tensor([[1.0] * WIDTH] * WIDTH)
    table, matrix = rows_of(model.table.embeddings), rows_of(model.matrix)
    optimizer.update()
    assert rows_of(model.table.embeddings) == table
    assert all(
        a != b
        for one, other in zip(rows_of(model.matrix), matrix, strict=True)
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adam_is_lazy(decay: float) -> None:
    model = Tables()
    optimizer = AdamW(model, 0.05, betas=(0.8, 0.9), weight_decay=decay)
    before = rows_of(model.table.embeddings)
    gradients = []
    for ids, weights in BATCHES:
        optimizer.zero_grad()
        model.loss(ids, weights).backward()
        assert_sparse(model.table.embeddings)
        assert isinstance(model.matrix.compact_grad, Buffer)
        matrix_sums = [sum(row) for row in rows_of(model.matrix)]
        gradient: dict[int, list[float]] = {}
        for row, weight in zip(ids, weights, strict=True):
            old = gradient.get(row, [0.0] * WIDTH)
            gradient[row] = [g + weight * total for g, total in zip(old, matrix_sums, strict=True)]
        gradients.append({row: values for row, values in gradient.items() if any(values)})
        optimizer.update()
    after = rows_of(model.table.embeddings)
    assert close(after, lazy_adamw(before, gradients, 0.05, (0.8, 0.9), decay))
    for row in (3, 6):  # never looked up
        assert after[row] == before[row]
    moments = optimizer.state["table.embeddings"]
    assert rows_of(moments["first_moment"])[3] == [0.0] * WIDTH


@pytest.mark.parametrize(("size", "most"), [(1.0, 1e-5), (1e-7, None)])
def test_adam_is_as_lazy_as_sparseadam(size: float, most: float | None) -> None:
    """Of gradients that are not small beside eps; SparseAdam moves a row less where they are."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: nothing to compare with")
    model = Tables()
    optimizer = Adam(model.table, 0.05)
    table = torch.nn.Embedding(ROWS, WIDTH, sparse=True)
    table.weight.data = torch.tensor(rows_of(model.table.embeddings))
    other = torch.optim.SparseAdam(table.parameters(), lr=0.05)
    before = rows_of(model.table.embeddings)
    for step, ids in enumerate(([1, 4, 1], [4, 2], [0, 1], [5])):
        factors = [[size * (1 + i + j + step) for j in range(WIDTH)] for i in range(len(ids))]
        optimizer.zero_grad()
        other.zero_grad()
        found = model.table(Tensor(Buffer(ids, DType.int32)))
        (found * Tensor(factors, dtype=DType.float32)).sum().backward()
        (table(torch.tensor(ids)) * torch.tensor(factors)).sum().backward()
        optimizer.update()
        other.step()
    moved = list(zip(before, rows_of(model.table.embeddings), table.weight.tolist(), strict=True))
    if most is not None:
        assert all(abs(a - b) < most for _, ours, theirs in moved for a, b in zip(ours, theirs, strict=True))
        return
    for row, (start, ours, theirs) in enumerate(moved):
        for x, a, b in zip(start, ours, theirs, strict=True):
            assert a == b == x if row in (3, 6) else x - a > x - b > 0


@pytest.mark.parametrize(
    "make", [lambda m: Adam(m, 0.1), lambda m: SGD(m, 0.1, momentum=0.9, weight_decay=0.1)]
)
def test_how_the_gradient_is_kept_makes_no_difference(make: Any) -> None:
    """A whole gradient with zeros and one that is kept as rows give the same bits."""
    results = []
    for is_whole in (False, True):
        model = Tables()
        optimizer = make(model)
        for ids, weights in BATCHES:
            optimizer.zero_grad()
            model.loss(ids, weights).backward()
            if is_whole:
                model.table.embeddings.grad = Tensor(model.table.embeddings.grad.to_python())
                assert isinstance(model.table.embeddings.compact_grad, Buffer)
            else:
                assert_sparse(model.table.embeddings)
            optimizer.update()
        results.append((rows_of(model.table.embeddings), rows_of(model.matrix)))
    assert results[0] == results[1]


def test_a_row_with_a_gradient_of_zero_counts_as_not_looked_up() -> None:
    model = Tables()
    optimizer = AdamW(model, 0.05, weight_decay=0.5)
    model.loss([1, 2], [1.0, 1.0]).backward()
    optimizer.update()
    before = rows_of(model.table.embeddings)
    optimizer.zero_grad()
    model.loss([1, 2], [0.0, 1.0]).backward()
    optimizer.update()
    after = rows_of(model.table.embeddings)
    assert after[1] == before[1] and after[2] != before[2]


@settings(max_examples=30, deadline=None)
@given(
    ids=st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=9), limit=st.sampled_from([0.01, 0.5, 1e6])
)
def test_gradients_and_clipping_are_those_of_a_dense_table(ids: list[int], limit: float) -> None:
    sparse, dense = Tables(), Tables(sparse=False)
    norms = []
    for model in (sparse, dense):
        for _ in range(2):  # gradients of two passes add up
            model.loss(ids, [1.0 + i for i in range(len(ids))]).backward()
        norms.append(clip_gradients(model, limit))
    assert math.isclose(*norms, rel_tol=1e-5)
    assert_sparse(sparse.table.embeddings)
    kept = sparse.table.embeddings.compact_grad
    if isinstance(kept, SparseGradient):
        assert sorted(kept.rows.to_python()) == sorted(set(ids))
    assert close(rows_of(sparse.table.embeddings.grad), rows_of(dense.table.embeddings.grad))


def test_a_table_that_is_also_used_whole_gets_a_whole_gradient() -> None:
    """As a head whose weights are the embeddings."""
    for order in (0, 1):
        models = Tables(), Tables(sparse=False)
        for model in models:
            parts = [
                model.table(Tensor(Buffer([1, 1, 5], DType.int32))).sum() * 2.0,
                (model.table.embeddings * model.table.embeddings).sum(),
            ]
            for part in (parts, parts[::-1])[order]:
                part.backward()
        sparse, dense = (model.table.embeddings for model in models)
        assert isinstance(sparse.compact_grad, Buffer)
        assert close(rows_of(sparse.grad), rows_of(dense.grad))


def test_a_table_that_was_computed_passes_its_gradient_on() -> None:
    from tinygpt_core import apply_op, operations

    weights = Tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], requires_grad=True)
    doubled = weights * 2.0
    ids = Tensor(Buffer([2, 2, 0], DType.int32))
    apply_op(operations.Embedding, doubled, ids, sparse=True).sum().backward()
    assert rows_of(weights.grad) == [[2.0, 2.0], [0.0, 0.0], [4.0, 4.0]]


def test_a_gradient_that_was_looked_at_is_still_sparse_and_one_that_was_changed_counts() -> None:
    model = Tables()
    model.loss([1, 1], [1.0, 1.0]).backward()
    table = model.table.embeddings
    kept = table.compact_grad
    shown = table.grad
    assert shown is table.grad and shown.shape == (ROWS, WIDTH)
    assert table.compact_grad is kept
    shown.buffer[6] = 1.0
    assert isinstance(table.compact_grad, Buffer) and rows_of(table.grad)[6] == [1.0] * WIDTH
    before = rows_of(table)
    SGD(model, 1.0).update()
    assert close([rows_of(table)[6]], [[x - 1.0 for x in before[6]]])


def test_copies_moves_and_pickles_stay_sparse() -> None:
    model = Tables()
    model.loss([1, 4], [1.0, 1.0]).backward()
    table = model.table.embeddings
    copied = copy.deepcopy(table)
    assert copied.sparse_grad and rows_of(copied.grad) == rows_of(table.grad)
    assert_sparse(copied)
    assert copy.copy(table).sparse_grad
    pickled = pickle.loads(pickle.dumps(table))
    assert pickled.sparse_grad and rows_of(pickled.grad) == rows_of(table.grad)
    assert_sparse(pickled)
    model.to("python")
    assert model.table.embeddings.sparse_grad and not model.matrix.sparse_grad
    assert "sparse=True" in repr(model)


def test_a_table_that_nothing_looks_up_changes_nothing() -> None:
    model = Tables()
    optimizer = AdamW(model, 0.1, weight_decay=0.1)
    before = rows_of(model.table.embeddings)
    model.loss([2], [0.0]).backward()
    optimizer.update()
    assert rows_of(model.table.embeddings) == before


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize("is_shown", [False, True])
def test_a_copy_has_a_gradient_of_its_own(duplicate: Any, is_shown: bool) -> None:
    """Whether it was looked at before or not, what is written into one is not seen in the other."""
    model = Tables()
    model.loss([1, 4], [1.0, 2.0]).backward()
    table = model.table.embeddings
    before = rows_of(table.grad) if is_shown else []
    other = duplicate(table)
    assert_sparse(other)
    if isinstance(other.compact_grad, SparseGradient):
        other.compact_grad.values.assign(7.0)
        other.compact_grad.rows.assign(0)
    other.grad.buffer.assign(5.0)
    before = before or rows_of(table.grad)
    assert rows_of(table.grad) == before and rows_of(table.grad)[0] == [0.0] * WIDTH
    assert rows_of(other.grad) == [[5.0] * WIDTH] * ROWS


def test_rows_without_elements() -> None:
    """A table of width 0 has rows, and nothing in them to divide or to write."""
    for kernel in {kernels.PutRows, kernels.lookup(kernels.PutRows, backends.active())}:
        table = backends.active().zeros((4, 0))
        kernel.forward(table, Buffer([2, 0], DType.int32), backends.active().zeros((2, 0)))
        assert table.shape == (4, 0)
