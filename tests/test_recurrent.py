"""Recurrent layers against their equations, PyTorch's and central differences; truncation gives the gradient
it should.
"""

from __future__ import annotations

import math

import pytest

from tinygpt_core import nn, operations, random
from tinygpt_core.checks import check_gradients
from tinygpt_core.dtype import DType
from tinygpt_core.nn.recurrent import detach_state
from tinygpt_core.tensor import Tensor

KINDS = {
    "rnn-tanh": lambda *sizes, **options: nn.RNN(*sizes, **options),
    "rnn-relu": lambda *sizes, **options: nn.RNN(*sizes, activation="relu", **options),
    "lstm": lambda *sizes, **options: nn.LSTM(*sizes, **options),
    "gru": lambda *sizes, **options: nn.GRU(*sizes, **options),
}


@pytest.fixture(autouse=True)
def fixed_seed():
    random.seed(11)


def as_float64(module):
    module.apply(lambda tensor: tensor.cast(DType.float64))
    return module


def inputs(*shape):
    return Tensor.normal(shape, dtype=DType.float64)


def flat(state):
    return list(state) if isinstance(state, tuple) else [state]


def total(output, state):
    """A number that every output and every part of the state takes part in."""
    return (output * output).sum() + sum((part * 0.5).sum() for part in flat(state))


def test_one_step_by_hand():
    """The equations with numbers: one input, a state of one."""
    sigmoid = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731
    for kind, name in ((nn.RNN, "rnn"), (nn.LSTM, "lstm"), (nn.GRU, "gru")):
        layer = as_float64(kind(1, 1))
        (weights,) = layer.layers
        w, u = weights.input_weights.to_python()[0], weights.hidden_weights.to_python()[0]
        b, d = weights.input_bias.to_python(), weights.hidden_bias.to_python()
        x, h, c = 0.7, -0.4, 0.3
        a, r = [x * p + q for p, q in zip(w, b, strict=True)], [h * p + q for p, q in zip(u, d, strict=True)]
        hidden = Tensor([[[h]]], DType.float64)
        if name == "rnn":
            expected = [math.tanh(a[0] + r[0])]
        elif name == "lstm":
            i, f, g, o = (p + q for p, q in zip(a, r, strict=True))
            cell = sigmoid(f) * c + sigmoid(i) * math.tanh(g)
            expected, hidden = [sigmoid(o) * math.tanh(cell), cell], (hidden, Tensor([[[c]]], DType.float64))
        else:
            z = sigmoid(a[1] + r[1])
            expected = [(1 - z) * math.tanh(a[2] + sigmoid(a[0] + r[0]) * r[2]) + z * h]
        output, state = layer(Tensor([[[x]]], DType.float64), hidden)
        assert [part.item() for part in flat(state)] == pytest.approx(expected, abs=1e-12)
        assert output.item() == pytest.approx(expected[0], abs=1e-12)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_equal_to_pytorch(kind, bias):
    """The same weights, inputs and initial state in both: outputs, states and all gradients agree."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    ours = as_float64(KINDS[kind](3, 4, 2, bias))
    their_class = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[kind[:4].rstrip("-")]
    options = {"nonlinearity": kind[4:]} if kind.startswith("rnn") else {}

    def double(tensor):
        return torch.tensor(tensor.to_python(), dtype=torch.float64)

    def same(one, other):
        return one.close_to(Tensor(other.tolist(), DType.float64), rtol=1e-9, atol=1e-11)

    theirs = their_class(3, 4, 2, bias=bias, batch_first=True, dtype=torch.float64, **options)
    names = {
        "weight_ih": "input_weights",
        "weight_hh": "hidden_weights",
        "bias_ih": "input_bias",
        "bias_hh": "hidden_bias",
    }
    pairs = []
    for name, parameter in theirs.named_parameters():
        stem, _, layer = name.rpartition("_l")
        pairs.append((parameter, getattr(ours.layers[int(layer)], names[stem])))
        with torch.no_grad():
            parameter.copy_(double(pairs[-1][1]).t())
    x, count = inputs(2, 5, 3), 2 if kind == "lstm" else 1
    x.requires_grad = True
    states = [inputs(2, 2, 4) for _ in range(count)]
    their_x, their_states = double(x).requires_grad_(), [double(s) for s in states]
    output, state = ours(x, tuple(states) if count > 1 else states[0])
    their_output, their_state = theirs(their_x, tuple(their_states) if count > 1 else their_states[0])
    total(output, state).backward()
    total(their_output, their_state).backward()
    for one, other in [(output, their_output), *zip(flat(state), flat(their_state), strict=True)]:
        assert same(one, other)
    assert same(x.grad, their_x.grad)
    assert all(same(one.grad, other.grad.t()) for other, one in pairs)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients(kind, backend):
    """Of the inputs, the carried state and every weight, against central differences."""
    layer = KINDS[kind](2, 3, 2)
    x, state = inputs(2, 3, 2), [inputs(2, 2, 3) for _ in range(layer.num_states)]
    names = [name for name, _ in layer.named_parameters()]
    values = [parameter for _, parameter in layer.named_parameters()]

    def run(x, *rest):
        parts, parameters = rest[: len(state)], rest[len(state) :]
        for name, parameter in zip(names, parameters, strict=True):
            _, number, attribute = name.split(".")
            setattr(layer.layers[int(number)], attribute, parameter)
        return total(*layer(x, parts if len(parts) > 1 else parts[0]))

    assert check_gradients(run, x, *state, *values)


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_with_carried_state_are_the_whole(kind):
    layer = as_float64(KINDS[kind](2, 3, 2))
    x = inputs(2, 7, 2)
    whole, final = layer(x)
    state, outputs = None, []
    for start, stop in ((0, 3), (3, 4), (4, 7)):
        output, state = layer(x[:, start:stop], state)
        outputs.append(output)
    assert Tensor.concatenate(outputs, axis=1).close_to(whole, rtol=1e-12)
    assert all(a.close_to(b, rtol=1e-12) for a, b in zip(flat(state), flat(final), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_truncation_stops_the_gradient_and_nothing_else(kind):
    """The second piece's gradient is the one for a state that is a constant; the first piece's inputs get
    none of it.
    """

    def gradients(carry):
        random.seed(5)
        layer = as_float64(KINDS[kind](2, 3))
        first, second = inputs(2, 3, 2), inputs(2, 3, 2)
        first.requires_grad = second.requires_grad = True
        _, state = layer(first)
        total(*layer(second, carry(state))).backward()
        return [first.grad, second.grad, *(parameter.grad for _, parameter in layer.named_parameters())]

    def constant(state):
        copies = tuple(Tensor(part.to_python(), DType.float64) for part in flat(state))
        return copies if len(copies) > 1 else copies[0]

    truncated, expected, whole = gradients(detach_state), gradients(constant), gradients(lambda state: state)
    assert truncated[0] is None and whole[0] is not None
    assert all(a.close_to(b, rtol=1e-12) for a, b in zip(truncated[1:], expected[1:], strict=True))
    # Inputs of the second piece do not see where its state came from
    assert truncated[1].close_to(whole[1], rtol=1e-12)
    assert not any(a.close_to(b, rtol=1e-6) for a, b in zip(truncated[2:], whole[2:], strict=True))
    assert detach_state(None) is None


@pytest.mark.parametrize("kind", KINDS)
def test_one_product_a_layer_for_all_inputs(kind, monkeypatch):
    """L products for the inputs and L T for the states, not 2 L T."""
    products = []
    forward = operations.Linear.forward
    monkeypatch.setattr(
        operations.Linear,
        "forward",
        lambda self, x, *rest: (products.append(x.shape), forward(self, x, *rest))[1],
    )
    KINDS[kind](4, 5, 2)(Tensor.normal((3, 6, 4)))
    assert [shape for shape in products if len(shape) == 3] == [(3, 6, 4), (3, 6, 5)]
    assert [shape for shape in products if len(shape) == 2] == [(3, 5)] * 12


def test_dropout_is_between_layers_and_in_training_only():
    x = inputs(2, 4, 3)
    single, double = as_float64(nn.GRU(3, 4, dropout=0.5)), as_float64(nn.GRU(3, 4, 2, dropout=0.5))
    assert single(x)[0].close_to(single(x)[0])
    assert not double(x)[0].close_to(double(x)[0])
    double.eval()
    assert double(x)[0].close_to(double(x)[0])


def test_errors_name_shapes():
    lstm = nn.LSTM(3, 4, 2)
    for shape in ((2, 3), (2, 5, 4), (2, 0, 3)):
        with pytest.raises(
            ValueError, match=r"LSTM: .*\(batch, positions >= 1, 3\), not \(" + ", ".join(map(str, shape))
        ):
            lstm(Tensor.zeros(shape))
    x = Tensor.zeros((2, 5, 3))
    for state in (
        Tensor.zeros((2, 2, 4)),
        (Tensor.zeros((2, 2, 4)), Tensor.zeros((1, 2, 4))),
        (Tensor.zeros((2, 2, 4)), None),
    ):
        with pytest.raises(
            ValueError, match=r"LSTM: expected a state of 2 x \(2, 2, 4\), but got \(2, 2, 4\)"
        ):
            lstm(x, state)
    with pytest.raises(ValueError, match="'tanh' or 'relu', not 'gelu'"):
        nn.RNN(3, 4, activation="gelu")
    with pytest.raises(ValueError, match="num_layers must be at least 1"):
        nn.GRU(3, 4, 0)
