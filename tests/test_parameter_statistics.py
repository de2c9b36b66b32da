"""What a log says of parameters: when, and in how many numbers. Pages of earlier logs rely on it."""

from __future__ import annotations

import math

import pytest

from tinygpt_core.dtype import DType
from tinygpt_core.module import Module
from tinygpt_core.nn import Embedding
from tinygpt_core.tensor import Tensor
from tinygpt_core.training.statistics import are_due, copies, histogram, statistics


@pytest.mark.parametrize(
    "steps, every", [(1, 1), (7, 1), (20, 1), (39, 1), (40, 2), (45, 2), (100, 5), (2000, 100)]
)
def test_twenty_times_and_at_both_ends(steps: int, every: int) -> None:
    due = [step for step in range(1, steps + 1) if are_due(step, steps)]
    assert due == sorted({1, steps, *range(every, steps + 1, every)})


def test_thirty_six_bins_of_finite_values() -> None:
    """From the least to the largest, which lies in the last; of one value the bins lie around it."""
    values = [0.0, 35.9, 36.0, 1.0, 0.99, math.inf, math.nan, -math.inf]
    found = histogram(values)
    counts = [0] * 36
    counts[0], counts[1], counts[35] = 2, 1, 2
    assert (found["low"], found["high"], found["counts"]) == (0.0, 36.0, counts)
    finite = values[:5]
    mean = sum(finite) / 5
    assert found["deviation"] == pytest.approx(math.sqrt(sum((v - mean) ** 2 for v in finite) / 5), rel=1e-3)
    for value, low, high in ((5.0, 2.5, 7.5), (0.5, 0.0, 1.0), (-4.0, -6.0, -2.0), (0.0, -0.5, 0.5)):
        found = histogram([value] * 3)
        assert (found["low"], found["high"], found["deviation"]) == (low, high, 0.0)
        assert found["counts"][18] == 3 and sum(found["counts"]) == 3
    for nothing in ([], [math.inf, math.nan]):
        expected = {"low": -0.5, "high": 0.5, "deviation": 0.0, "counts": [0] * 36}
        assert histogram(nothing) == expected
    assert histogram([5.0])["deviation"] == 0.0


class Two(Module):
    """A parameter that is trained and one without a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = Tensor([[3.0, 4.0]], dtype=DType.float64, requires_grad=True)
        self.frozen = Tensor([1.0, 0.0], dtype=DType.float64)


def test_what_an_update_did() -> None:
    module = Two()
    before = copies(module)
    assert before["weights"] is not module.weights.buffer
    module.weights.grad = Tensor([[0.0, 12.0]], dtype=DType.float64)
    module.weights.assign([[3.0, 4.5]])
    entries = {entry["name"]: entry for entry in statistics(module, before)}
    assert entries["weights"]["ratio"] == 0.1 and entries["weights"]["gradient"] == 12.0
    assert entries["weights"]["norm"] == pytest.approx(math.hypot(3.0, 4.5), rel=1e-3)
    assert entries["frozen"]["ratio"] is None and entries["frozen"]["gradient"] is None
    assert "ratio" not in statistics(module)[0]


def test_what_an_update_of_some_rows_did() -> None:
    """The change is that of the rows that have a gradient, beside the norm of all."""
    table = Embedding(3, 2, sparse=True)
    table.embeddings.assign([[3.0, 0.0], [0.0, 0.0], [0.0, 4.0]])
    before = copies(table)
    table(Tensor([2, 2])).sum().backward()
    table.embeddings.assign([[3.0, 0.0], [0.0, 0.0], [0.0, 5.0]])
    (entry,) = statistics(table, before)
    assert entry["ratio"] == 0.2 and entry["gradient"] == pytest.approx(math.sqrt(8.0), rel=1e-3)


def test_of_a_large_parameter_a_part_is_counted() -> None:
    """At most 2,048 elements, evenly far apart."""
    for count, taken in ((2048, 2048), (2049, 1025), (4096, 2048), (5000, 1667)):
        module = Two()
        module.weights.buffer = Tensor.arange(count, dtype=DType.float64).buffer
        (entry,) = [entry for entry in statistics(module) if entry["name"] == "weights"]
        assert sum(entry["counts"]) == taken
        assert entry["low"] == 0.0 and entry["high"] >= 0.99 * count
