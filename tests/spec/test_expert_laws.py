"""A mixture of experts against one written out in NumPy, in which every expert works on every token."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tinygpt_core import Tensor, no_grad, random
from tinygpt_core.buffer import Buffer
from tinygpt_core.dtype import DType
from tinygpt_core.nn import MixtureOfExperts, Routing, recorded_routing
from tinygpt_core.nn.inspection import inspect
from tinygpt_core.nn.mlp import mlp_layer
from tinygpt_core.optimizers import SGD

Weights = dict[str, Any]
CLOSE_CHOICE = 1e-3  # of scores: which of two experts is chosen is then up to rounding


def silu(x: Any) -> Any:
    return x / (1 + np.exp(-x))


def expert(x: Any, weights: Weights, name: str) -> Any:
    def linear(x: Any, part: str) -> Any:
        return x @ weights[f"{name}.{part}.weights"] + weights.get(f"{name}.{part}.bias", 0.0)

    if f"{name}.gate.weights" in weights:
        return linear(silu(linear(x, "gate")) * linear(x, "up"), "down")
    return linear(np.tanh(linear(x, "layers.0")), "layers.1")


def softmax(x: Any) -> Any:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def dense(x: Any, weights: Weights, layer: MixtureOfExperts) -> tuple[Any, Any, Any]:
    """The result (N, C), the probabilities (N, E), and 1 where an expert is chosen, else 0 (N, E)."""
    scores = x @ weights["router.weights"]
    p = softmax(scores)
    k = layer.experts_per_token
    least = -np.sort(-scores, axis=-1)
    if k < layer.num_experts:
        assume(((least[:, k - 1] - least[:, k]) > CLOSE_CHOICE).all())
    chosen = (scores >= least[:, k - 1 : k]).astype(float)
    shares = p * chosen
    if layer.normalized_weights:
        shares = shares / shares.sum(-1, keepdims=True)
    said = np.stack([expert(x, weights, f"experts.{e}") for e in range(layer.num_experts)], 1)
    return (shares[..., None] * said).sum(1), p, chosen


@st.composite
def layers(draw: st.DrawFn) -> MixtureOfExperts:
    num_experts = draw(st.integers(1, 5))
    return MixtureOfExperts(
        draw(st.integers(1, 4)),
        draw(st.integers(1, 4)),
        num_experts,
        draw(st.integers(1, num_experts)),
        activation=draw(st.sampled_from(["swiglu", "tanh"])),
        bias=draw(st.booleans()),
        normalized_weights=draw(st.sampled_from([None, True, False])),
    )


def filled(layer: MixtureOfExperts, seed: int, dtype: DType) -> Weights:
    """The weights, drawn, as arrays."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, tensor in layer.named_parameters():
        values = rng.normal(0.0, 0.8, tensor.shape).astype(dtype.name)
        weights[name] = values.astype("float64")
        tensor.buffer = type(tensor.buffer)(values.tolist(), dtype)
    return weights


def tokens(shape: tuple[int, ...], seed: int, dtype: DType) -> tuple[Tensor, Any]:
    x = np.random.default_rng(seed).normal(0.0, 1.0, shape).astype(dtype.name)
    return Tensor(x.tolist(), dtype=dtype, requires_grad=True), x.astype("float64")


@given(layer=layers(), lead=st.lists(st.integers(1, 4), max_size=2), seed=st.integers(0, 99))
def test_the_result_is_that_of_all_experts_on_all_tokens(
    backend: type[Buffer], layer: MixtureOfExperts, lead: list[int], seed: int
) -> None:
    weights = filled(layer, seed, DType.float32)
    size = layer.router.weights.shape[0]
    x, values = tokens((*lead, size), seed, DType.float32)
    expected, p, chosen = dense(values.reshape((-1, size)), weights, layer)
    with recorded_routing() as routings:
        y = layer(x)
    assert y.shape == x.shape
    assert np.allclose(np.array(y.to_python()).reshape((-1, size)), expected, rtol=2e-5, atol=2e-5)
    (routing,) = routings
    assert np.allclose(routing.probabilities.to_python(), p, atol=1e-5)
    taken = np.array(routing.experts.to_python())
    assert (np.take_along_axis(chosen, taken, 1) == 1.0).all()
    assert all(len(set(row)) == layer.experts_per_token for row in taken.tolist())
    with no_grad(), recorded_routing() as inner, recorded_routing() as innermost:
        assert np.allclose(layer(x).to_python(), y.to_python(), rtol=1e-6, atol=1e-6)
    assert inner == innermost and len(inner) == len(routings) == 1


@given(layer=layers(), count=st.integers(1, 5), seed=st.integers(0, 99), masked=st.booleans())
def test_gradients_are_the_slopes_of_the_dense_mixture_and_its_losses(
    backend: type[Buffer], layer: MixtureOfExperts, count: int, seed: int, masked: bool
) -> None:
    """Along a drawn direction for each parameter and the input. Which experts are chosen is a constant."""
    weights = filled(layer, seed, DType.float64)
    size = layer.router.weights.shape[0]
    x, values = tokens((count, size), seed, DType.float64)
    counted = np.arange(count) % 2 == 0 if masked else np.ones(count, bool)
    mask = Tensor(counted.tolist()) if masked else None
    with recorded_routing() as routings:
        y = layer(x)
    ((y * y).sum() + routings[0].balance_loss(mask) * 0.7 + routings[0].z_loss(mask) * 0.3).backward()
    _, _, chosen = dense(values, weights, layer)
    shares = chosen[counted].mean(0) / layer.experts_per_token

    def loss(changed: Weights) -> float:
        x = changed["x"]
        y, p, _ = dense(x, changed, layer)
        balance = layer.num_experts * (shares * p[counted].mean(0)).sum()
        z = np.log(np.exp(x @ changed["router.weights"]).sum(-1))
        return float((y * y).sum() + 0.7 * balance + 0.3 * (z[counted] ** 2).mean())

    rng = np.random.default_rng(seed + 1)
    everything = {**weights, "x": values}
    for name, tensor in [*layer.named_parameters(), ("x", x)]:
        direction = rng.normal(0.0, 1.0, tensor.shape)
        direction /= max(np.linalg.norm(direction), 1e-9)
        step = 1e-5
        up, down = (
            loss(everything | {name: everything[name] + sign * step * direction}) for sign in (1.0, -1.0)
        )
        slope = (up - down) / (2 * step)
        assert tensor.grad is not None, name  # of an expert without tokens, too
        ours = float((np.array(tensor.grad.to_python()) * direction).sum())
        assert abs(ours - slope) <= 1e-6 * max(1.0, abs(slope)), name


@given(layer=layers(), count=st.integers(1, 6), seed=st.integers(0, 99))
def test_an_expert_works_on_its_own_tokens_only(
    backend: type[Buffer], layer: MixtureOfExperts, count: int, seed: int
) -> None:
    filled(layer, seed, DType.float32)
    x, _ = tokens((count, layer.router.weights.shape[0]), seed, DType.float32)
    with no_grad(), inspect(layer) as calls, recorded_routing() as routings:
        layer(x)
    read = {each.name: each.inputs[0].shape[0] for each in calls if each.name.startswith("experts.")}
    chosen = [e for row in routings[0].experts.to_python() for e in row]
    rows = {name: rows for name, rows in read.items() if name.count(".") == 1}
    assert rows == {f"experts.{e}": chosen.count(e) for e in set(chosen)}


@given(
    activation=st.sampled_from(["swiglu", "geglu", "gelu", "relu"]),
    normalized=st.booleans(),
    seed=st.integers(0, 99),
)
def test_one_expert_is_the_plain_mlp(
    backend: type[Buffer], activation: str, normalized: bool, seed: int
) -> None:
    random.seed(seed)
    layer = MixtureOfExperts(3, 5, 1, 1, activation, True, normalized_weights=normalized)
    plain = mlp_layer(3, 5, activation, True)
    plain.load_weights([(name, tensor.buffer) for name, tensor in layer.experts[0].named_parameters()])
    x = Tensor.normal((2, 4, 3))
    assert layer(x).to_python() == plain(x).to_python()


@pytest.mark.parametrize("k", [1, 2, 3])
def test_of_equally_probable_experts_the_first_are_chosen(backend: type[Buffer], k: int) -> None:
    layer = MixtureOfExperts(2, 3, 3, k)
    layer.router.weights.assign(0.0)
    routing = layer.route(Tensor.ones((4, 2)))
    assert routing.experts.to_python() == [list(range(k))] * 4
    assert np.allclose(routing.weights.to_python(), 1 / k if k > 1 else 1 / 3)
    assert [MixtureOfExperts(2, 3, 3, each).normalized_weights for each in (1, 2)] == [False, True]
    layer.router.weights.assign(Tensor([[0.0, 1.0, 1.0], [0.0, 0.0, 0.0]]))
    assert layer.route(Tensor.ones((1, 2))).experts.to_python() == [[1, 2, 0][:k]]


def test_no_tokens_and_a_token_that_is_not_finite(backend: type[Buffer]) -> None:
    layer = MixtureOfExperts(2, 3, 3, 2)
    for shape in ((0, 2), (3, 0, 2)):
        assert layer(Tensor.zeros(shape)).shape == shape
        with no_grad(), recorded_routing() as routings:
            assert layer(Tensor.zeros(shape)).shape == shape
        assert routings[0].balance_loss().item() == 0.0
    x = Tensor.normal((3, 2))
    broken = Tensor([x[0].to_python(), [float("nan"), 1.0], x[2].to_python()])
    expected, found = (np.array(layer(each).to_python()) for each in (x, broken))
    assert np.allclose(found[[0, 2]], expected[[0, 2]], rtol=1e-6, atol=1e-7)
    assert np.isnan(found[1]).all()


def test_the_balance_loss_is_1_where_experts_are_used_evenly_and_e_where_one_is_all(
    backend: type[Buffer],
) -> None:
    even, one = np.eye(4), np.tile(np.eye(4)[2], (4, 1))
    for p, experts, expected in ((even, [[0], [1], [2], [3]], 1.0), (one, [[2]] * 4, 4.0)):
        probabilities = Tensor(p.tolist())
        chosen = Tensor(experts, dtype=DType.int64)
        routing = Routing(probabilities, probabilities, chosen, probabilities)
        assert abs(routing.balance_loss().item() - expected) < 1e-6
        assert np.allclose(routing.shares().to_python(), p.mean(0))


def test_the_balance_loss_ends_the_reign_of_one_expert(backend: type[Buffer]) -> None:
    """At first all tokens go to the first of four; descent on this loss alone shares them out."""
    random.seed(3)
    layer = MixtureOfExperts(4, 2, 4, 1)
    layer.router.weights.assign(Tensor([[1.0, 0.0, 0.0, 0.0]] * 4) + layer.router.weights * 0.1)
    x = Tensor.normal((64, 4)) + 2.0
    assert layer.route(x).shares().to_python() == [1.0, 0.0, 0.0, 0.0]
    optimizer = SGD(layer, learning_rate=0.03)
    for _ in range(300):
        optimizer.zero_grad()
        layer.route(x).balance_loss().backward()
        optimizer.update()
    routing = layer.route(x)
    assert min(routing.shares().to_python()) > 0.05 and routing.balance_loss().item() < 1.2


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((4, 4, 0, 1), "num_experts must be at least 1"),
        ((4, 4, 2, 3), r"experts_per_token \(3\) must be at most num_experts \(2\)"),
        ((4, 4, 2, 0), "experts_per_token must be at least 1"),
        ((0, 4, 2, 1), "input_dims must be at least 1"),
    ],
)
def test_sizes_that_do_not_work(backend: type[Buffer], sizes: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MixtureOfExperts(*sizes)
    with pytest.raises(TypeError, match="must be an int"):
        MixtureOfExperts(4, 4, 2.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown activation function 'x'"):
        MixtureOfExperts(4, 4, 2, 1, "x")
