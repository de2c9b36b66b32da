"""Losses against their definitions, in plain Python."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygpt_core import backends
from tinygpt_core.checks import check_gradients
from tinygpt_core.dtype import DType
from tinygpt_core.losses import BinaryCrossEntropyLoss, CrossEntropyLoss, HuberLoss, L1Loss, MSELoss
from tinygpt_core.tensor import Tensor

BACKENDS = ["python"] if backends.why_not("numpy") else ["python", "numpy"]
loss = CrossEntropyLoss()
numbers = st.floats(-30, 30, width=32)


def by_hand(logits, probabilities):
    highest = max(logits)
    log_total = highest + math.log(sum(math.exp(logit - highest) for logit in logits))
    return -sum(p * (logit - log_total) for logit, p in zip(logits, probabilities, strict=True))


def one_hot(label, size):
    return [float(label == place) for place in range(size)]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.lists(numbers, min_size=3, max_size=3), st.integers(0, 2)), min_size=1, max_size=4)
)
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
    assert loss(logits=Tensor(logits[0]), labels=Tensor([0.0, 1.0, 0.0])).to_python() == pytest.approx(
        0.035976, abs=1e-5
    )
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
    labels = (
        Tensor([2, 0])
        if form == "indices"
        else Tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]], dtype=DType.float64)
    )
    check_gradients(lambda x: loss(logits=x, labels=labels), logits)
    loss(logits=logits, labels=labels).sum().backward()
    expected = logits.softmax(-1).detach() - Tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]], dtype=DType.float64)
    assert logits.grad.close_to(expected, atol=1e-12)


def test_ignored_rows_have_no_loss_and_no_gradient():
    rows = [[0.5, -1.0, 2.0], [9.0, 0.0, 1.0], [0.0, 1.0, 1.0]]
    logits, kept = Tensor(rows, requires_grad=True), Tensor([rows[0], rows[2]], requires_grad=True)
    result, expected = (
        loss(logits=logits, labels=Tensor([2, -1, 0])),
        loss(logits=kept, labels=Tensor([2, 0])),
    )
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


def changed_by_hand(logits, probabilities, smoothing, z_loss):
    """The loss of smoothed probabilities, and λ log(sum of exp)²."""
    size = len(logits)
    smoothed = [(1.0 - smoothing) * p + smoothing / size for p in probabilities]
    highest = max(logits)
    log_total = highest + math.log(sum(math.exp(logit - highest) for logit in logits))
    return by_hand(logits, smoothed) + z_loss * log_total**2


@pytest.mark.parametrize("where", BACKENDS)
@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.tuples(st.lists(st.floats(-30, 30), min_size=3, max_size=3), st.integers(-1, 2)),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from([0.0, 0.1, 0.9]),
    st.sampled_from([0.0, 1e-2, 1.0]),
)
def test_label_smoothing_and_z_loss(where, rows, smoothing, z_loss):
    """Against their definition in double precision, by labels and by rows of probabilities, and the gradients
    against differences; padding has neither loss nor gradient.
    """
    changed = CrossEntropyLoss(label_smoothing=smoothing, z_loss=z_loss)
    numbers, labels = [row for row, _ in rows], [label for _, label in rows]
    expected = [
        changed_by_hand(row, one_hot(label, 3), smoothing, z_loss) if label >= 0 else 0.0
        for row, label in rows
    ]
    with backends.use(where):
        logits = Tensor(numbers, dtype=DType.float64, requires_grad=True)
        assert changed(logits, Tensor(labels)).to_python() == pytest.approx(expected, rel=1e-9, abs=1e-9)
        assert check_gradients(lambda x: changed(x, Tensor(labels)), logits)
        shares = Tensor([one_hot(label, 3) for label in labels if label >= 0] or [[1.0, 0.0, 0.0]])
        counted = [row for row, label in rows if label >= 0] or [[0.0, 1.0, 2.0]]
        wanted = [value for value, label in zip(expected, labels, strict=True) if label >= 0]
        found = changed(Tensor(counted, dtype=DType.float64), shares.cast(DType.float64)).to_python()
        if wanted:
            assert found == pytest.approx(wanted, rel=1e-9, abs=1e-9)
        changed(logits, Tensor(labels)).sum().backward()
        for row, label in zip(logits.grad.to_python(), labels, strict=True):
            assert label >= 0 or row == [0.0, 0.0, 0.0]


def test_changed_losses_of_extreme_logits_and_of_padding_that_is_no_number():
    changed = CrossEntropyLoss(label_smoothing=0.5, z_loss=1e-4)
    rows = Tensor([[1e4, -1e4], [math.nan, math.inf]], dtype=DType.float64, requires_grad=True)
    result = changed(rows, Tensor([0, -1]))
    assert result.to_python() == pytest.approx([0.5 * 1e4 + 1e4, 0.0])
    result.sum().backward()
    assert rows.grad.to_python()[1] == [0.0, 0.0]
    with pytest.raises(IndexError):
        changed(rows, Tensor([2, -1]))
    mean = CrossEntropyLoss(reduction="mean", label_smoothing=0.5, z_loss=1e-4)
    assert mean(rows, Tensor([0, -1])).item() == pytest.approx(1.5e4)
    for options in (
        {"label_smoothing": 1.0},
        {"label_smoothing": -0.1},
        {"z_loss": -1.0},
        {"z_loss": math.inf},
    ):
        with pytest.raises(ValueError, match=next(iter(options))):
            CrossEntropyLoss(**options)
    assert repr(changed).count("label_smoothing=0.5, z_loss=0.0001") == 1
    assert "z_loss" not in repr(loss)


def test_mean_squared_error():
    prediction = Tensor([[1.0, 2.0], [3.0, 5.0]], requires_grad=True)
    result = MSELoss()(prediction, Tensor([[1.0, 0.0], [0.0, 4.0]]))
    assert result.to_python() == pytest.approx((4 + 9 + 1) / 4)
    result.backward()
    assert prediction.grad.to_python() == [[0.0, 1.0], [1.5, 0.5]]
    with pytest.raises(ValueError, match=r"MSELoss: target must have the shape \(2, 2\), not \(2,\)"):
        MSELoss()(prediction, Tensor([1.0, 2.0]))


ELEMENTWISE = {
    "mse": (MSELoss, lambda p, t: (p - t) ** 2),
    "l1": (L1Loss, lambda p, t: abs(p - t)),
    "huber": (HuberLoss, lambda p, t: (p - t) ** 2 / 2 if abs(p - t) <= 1 else abs(p - t) - 0.5),
    "huber-2": (
        lambda reduction: HuberLoss(reduction, delta=2.0),
        lambda p, t: (p - t) ** 2 / 2 if abs(p - t) <= 2 else 2 * (abs(p - t) - 1.0),
    ),
    "binary": (
        BinaryCrossEntropyLoss,
        lambda p, t: t * math.log1p(math.exp(-p)) + (1 - t) * math.log1p(math.exp(p)),
    ),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
@settings(max_examples=30, deadline=None)
@given(
    pairs=st.lists(st.tuples(st.floats(-6, 6, width=32), st.floats(0, 1, width=32)), min_size=1, max_size=6)
)
def test_elementwise_losses_and_their_reductions(name, pairs):
    """Each against its textbook formula in Python floats; "none" keeps the shape, "sum" and "mean" are those
    of it.
    """
    make, formula = ELEMENTWISE[name]
    predictions, targets = (Tensor([list(column)], DType.float64) for column in zip(*pairs, strict=True))
    expected = [formula(p, t) for p, t in pairs]
    assert make("none")(predictions, targets).to_python()[0] == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert make("sum")(predictions, targets).item() == pytest.approx(sum(expected), rel=1e-9, abs=1e-12)
    assert make("mean")(predictions, targets).item() == pytest.approx(
        sum(expected) / len(pairs), rel=1e-9, abs=1e-12
    )


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_gradients_of_elementwise_losses(name, reduction, backend):
    predictions, targets = Tensor([[0.3, -2.7], [1.4, 5.0]]), Tensor([[0.9, 0.1], [0.45, 0.2]])
    assert check_gradients(ELEMENTWISE[name][0](reduction), predictions, targets)


def test_slopes_where_the_formulas_meet(backend):
    """At a difference of 0 the absolute error is flat; Huber's parts meet with one slope; a logit of 0 is
    worth 1/2.
    """
    for make, values, slopes in (
        (L1Loss("sum"), [0.0, 2.0, -2.0], [0.0, 1.0, -1.0]),
        (HuberLoss("sum"), [0.0, 1.0, -1.0, 3.0], [0.0, 1.0, -1.0, 1.0]),
        (BinaryCrossEntropyLoss("sum"), [0.0], [0.5]),
    ):
        predictions = Tensor(values, requires_grad=True)
        make(predictions, Tensor([0.0] * len(values))).backward()
        assert predictions.grad.to_python() == slopes


def test_binary_cross_entropy_neither_overflows_nor_cancels(backend):
    loss = BinaryCrossEntropyLoss("none")(
        Tensor([1e4, -1e4, 1e4, -20.0, 20.0]), Tensor([1, 0, 0, 0, 1])
    ).to_python()
    assert loss == pytest.approx(
        [0.0, 0.0, 1e4, math.log1p(math.exp(-20)), math.log1p(math.exp(-20))], rel=1e-6
    )
    for targets in (Tensor([1, 0]), Tensor([True, False]), Tensor([1.0, 0.0])):
        result = BinaryCrossEntropyLoss()(Tensor([0.0, 0.0]), targets)
        assert result.dtype is DType.float32 and result.item() == pytest.approx(math.log(2))
    with pytest.raises(ValueError, match=r"targets lie in \[0, 1\], but got some from -1 to 2"):
        BinaryCrossEntropyLoss()(Tensor([0.0, 0.0]), Tensor([2, -1]))


def test_reductions_of_cross_entropy():
    """The mean is over rows that count; a batch of padding costs nothing."""
    logits, labels = Tensor([[0.5, -1.0], [2.0, 0.0], [0.0, 0.0]]), Tensor([0, -1, 1])
    rows = loss(logits=logits, labels=labels).to_python()
    assert CrossEntropyLoss(reduction="sum")(logits, labels).item() == pytest.approx(sum(rows))
    assert CrossEntropyLoss(reduction="mean")(logits, labels).item() == pytest.approx(sum(rows) / 2)
    assert CrossEntropyLoss(reduction="mean")(logits, Tensor([-1, -1, -1])).item() == 0.0
    probabilities = Tensor([[0.5, 0.5], [1.0, 0.0], [0.0, 1.0]])
    rows = loss(logits=logits, labels=probabilities).to_python()
    assert CrossEntropyLoss(reduction="sum")(logits, probabilities).item() == pytest.approx(sum(rows))
    assert CrossEntropyLoss(reduction="mean")(logits, probabilities).item() == pytest.approx(sum(rows) / 3)


def test_bad_settings_of_losses():
    for make in (
        MSELoss,
        L1Loss,
        HuberLoss,
        BinaryCrossEntropyLoss,
        lambda reduction: CrossEntropyLoss(reduction=reduction),
    ):
        with pytest.raises(ValueError, match="'mean', 'sum' or 'none', not 'average'"):
            make("average")
    with pytest.raises(ValueError, match="delta must be above 0, but got 0"):
        HuberLoss(delta=0.0)
    with pytest.raises(ValueError, match=r"target must have the shape \(2,\), not \(1,\)"):
        BinaryCrossEntropyLoss()(Tensor([0.0, 0.0]), Tensor([1]))
