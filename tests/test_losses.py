"""Losses against their definitions, in plain Python."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygpt_core.checks import check_gradients
from tinygpt_core.dtype import DType
from tinygpt_core.losses import CrossEntropyLoss, MSELoss
from tinygpt_core.tensor import Tensor

loss = CrossEntropyLoss()
numbers = st.floats(-30, 30, width=32)


def by_hand(logits, probabilities):
    highest = max(logits)
    log_total = highest + math.log(sum(math.exp(logit - highest) for logit in logits))
    return -sum(p * (logit - log_total) for logit, p in zip(logits, probabilities, strict=True))


def one_hot(label, size):
    return [float(label == place) for place in range(size)]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.lists(numbers, min_size=3, max_size=3), st.integers(0, 2)), min_size=1, max_size=4))
def test_cross_entropy_of_class_indices_is_that_of_one_hot_rows(rows):
    logits = [row for row, _ in rows]
    labels = [label for _, label in rows]
    expected = [by_hand(row, one_hot(label, 3)) for row, label in rows]
    one_hot_rows = [one_hot(label, 3) for label in labels]
    for form in (
        Tensor(labels),
        Tensor(labels, dtype=DType.int64),
        Tensor(one_hot_rows),
        Tensor([list(map(int, row)) for row in one_hot_rows]),
    ):
        result = loss(logits=Tensor(logits), labels=form)
        assert result.dtype is DType.float32
        assert result.to_python() == pytest.approx(expected, abs=1e-4)


def test_cross_entropy_of_probabilities():
    logits, labels = [[1.0, 5.0, 1.0], [-1.0, 5.0, -1.0]], [[0.1, 0.7, 0.2], [0.0, 0.0, 1.0]]
    expected = [by_hand(row, p) for row, p in zip(logits, labels, strict=True)]
    assert loss(logits=Tensor(logits), labels=Tensor(labels)).to_python() == pytest.approx(expected, abs=1e-5)
    same_for_all = loss(logits=Tensor(logits), labels=Tensor([0.0, 1.0, 0.0])).to_python()
    assert same_for_all == pytest.approx([0.035976, 0.004945], abs=1e-5)
    assert loss(logits=Tensor(logits[0]), labels=Tensor([0.0, 1.0, 0.0])).to_python() == pytest.approx(0.035976, abs=1e-5)
    assert loss(logits=Tensor(logits[0]), labels=Tensor(1)).to_python() == pytest.approx(0.035976, abs=1e-5)


def test_uniform_logits_cost_the_logarithm_of_the_number_of_classes():
    result = loss(logits=Tensor.zeros((2, 3, 5)), labels=Tensor([[0, 1, 2], [3, 4, 0]]))
    assert result.shape == (2, 3)
    assert sum(result.to_python(), []) == pytest.approx([math.log(5)] * 6, abs=1e-6)


def test_extreme_logits_stay_finite():
    result = loss(logits=Tensor([[1e4, -1e4], [1e4, -1e4]]), labels=Tensor([0, 1])).to_python()
    assert result == [0.0, 2e4]


@pytest.mark.parametrize("form", ["indices", "probabilities"])
def test_gradient_is_softmax_minus_labels(form):
    logits = Tensor([[0.5, -1.0, 2.0], [0.0, 0.0, 1.0]], dtype=DType.float64, requires_grad=True)
    labels = Tensor([2, 0]) if form == "indices" else Tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]], dtype=DType.float64)
    check_gradients(lambda x: loss(logits=x, labels=labels), logits)
    loss(logits=logits, labels=labels).sum().backward()
    expected = logits.softmax(-1).detach() - Tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]], dtype=DType.float64)
    assert logits.grad.close_to(expected, atol=1e-12)


def test_ignored_rows_have_no_loss_and_no_gradient():
    rows = [[0.5, -1.0, 2.0], [9.0, 0.0, 1.0], [0.0, 1.0, 1.0]]
    logits, kept = Tensor(rows, requires_grad=True), Tensor([rows[0], rows[2]], requires_grad=True)
    result, expected = loss(logits=logits, labels=Tensor([2, -1, 0])), loss(logits=kept, labels=Tensor([2, 0]))
    assert result.to_python() == [expected.to_python()[0], 0.0, expected.to_python()[1]]
    result.sum().backward()
    expected.sum().backward()
    assert logits.grad.to_python() == [kept.grad.to_python()[0], [0.0] * 3, kept.grad.to_python()[1]]
    other = CrossEntropyLoss(ignore_index=-100)
    assert other(logits=Tensor(rows), labels=Tensor([2, -100, 0])).to_python() == result.to_python()


def test_cross_entropy_errors():
    logits = Tensor.zeros((2, 3))
    for labels in ([0, 3], [-2, 0]):
        with pytest.raises(IndexError):
            loss(logits=logits, labels=Tensor(labels))
    for labels in ([0, 1, 2, 0], [0.0, 1.0], [[0]], True):
        with pytest.raises(ValueError, match=r"do not fit logits of shape \(2, 3\)"):
            loss(logits=logits, labels=Tensor(labels))
    with pytest.raises(ValueError, match="logits must be floats"):
        loss(logits=Tensor(3.4), labels=Tensor(1.0))
    with pytest.raises(ValueError, match="logits must be floats"):
        loss(logits=Tensor([[1, 2]]), labels=Tensor([0]))


def test_mean_squared_error():
    prediction = Tensor([[1.0, 2.0], [3.0, 5.0]], requires_grad=True)
    result = MSELoss()(prediction, Tensor([[1.0, 0.0], [0.0, 4.0]]))
    assert result.to_python() == pytest.approx((4 + 9 + 1) / 4)
    result.backward()
    assert prediction.grad.to_python() == [[0.0, 1.0], [1.5, 0.5]]
    with pytest.raises(ValueError, match=r"\(2, 2\) and \(2,\)"):
        MSELoss()(prediction, Tensor([1.0, 2.0]))
