"""LoRA on every backend: what an adapter adds, against NumPy in float64; that a fresh one changes no bit,
that a merged one changes what the adapters did, and that nothing but adapters learns.
"""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygpt_core import DType, Tensor, check_gradients, no_grad, random
from tinygpt_core.buffer import Buffer
from tinygpt_core.losses import CrossEntropyLoss
from tinygpt_core.nn import GPT, MLP, GPTConfig, Linear, LoRA, LoRAConfig, LoRALinear, add_lora, merge_lora
from tinygpt_core.nn.lora import Place, adapters_by_place, chosen_places, lora_config, places_in, put_adapters
from tinygpt_core.optimizers import SGD, AdamW, Muon

from .test_decoder_laws import IDS, configs, expected, made

WAYS = st.sampled_from([(), ("all-linear",), ("out",), ("query_key_value", "attn.out"), ("head",)])


@st.composite
def columns(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]]]:
    """The width of a layer, and ranges of its columns that get an adapter each."""
    width = draw(st.integers(1, 7))
    edges = sorted(draw(st.sets(st.integers(0, width), min_size=2, max_size=5)))
    pairs = list(pairwise(edges))
    kept = draw(st.sets(st.integers(0, len(pairs) - 1), min_size=1))
    return width, [pairs[number] for number in sorted(kept)]


def fill(model: Any, seed: int) -> None:
    """Draws A and B of all adapters, which are zero in part at first."""
    rng = np.random.default_rng(seed)
    for name, tensor in model.named_parameters(trainable_only=True):
        assert name.rpartition(".")[2] in ("lora_A", "lora_B")
        tensor.buffer = type(tensor.buffer)(rng.normal(0.0, 0.6, tensor.shape).tolist(), tensor.dtype)


def array(tensor: Any) -> Any:
    return np.array(tensor.to_python(), dtype=np.float64)


def targets_of(model: GPT, wanted: tuple[str, ...]) -> tuple[str, ...]:
    return () if wanted == ("head",) and model.config.tied_head else wanted


@given(
    layout=columns(),
    sizes=st.tuples(st.integers(1, 5), st.integers(1, 4)),
    alpha=st.sampled_from([None, 0.5, 3.0]),
    bias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_what_adapters_add_is_that_product(
    backend: type[Buffer], layout: Any, sizes: tuple[int, int], alpha: float | None, bias: bool, seed: int
) -> None:
    width, ranges = layout
    inputs, rank = sizes
    layer = LoRALinear(Linear(inputs, width, bias=bias), rank, alpha, columns=ranges)
    layer.apply(lambda tensor: Tensor(tensor.buffer.cast(DType.float64)))
    fill(layer, seed)
    x = np.random.default_rng(seed + 1).normal(0.0, 1.0, (2, 3, inputs))
    y = x @ array(layer.weights) + (array(layer.bias) if bias else 0.0)
    for (start, stop), adapter in zip(ranges, layer.adapters, strict=True):
        a, b = array(adapter.lora_A), array(adapter.lora_B)
        assert a.shape == (rank, inputs) and b.shape == (stop - start, rank)
        y[..., start:stop] += (1.0 if alpha is None else alpha / rank) * np.einsum("bti,ri,or->bto", x, a, b)
    given_x = Tensor(x.tolist(), dtype=DType.float64)
    assert np.allclose(array(layer(given_x)), y, rtol=1e-12, atol=1e-12)
    before = array(layer.weights)
    layer.merge()
    layer.merge()  # once is enough
    assert np.allclose(array(layer(given_x)), y, rtol=1e-12, atol=1e-12)
    assert np.allclose(array(layer.merged()(given_x)), y, rtol=1e-12, atol=1e-12)
    layer.unmerge()
    assert np.allclose(array(layer.weights), before, rtol=1e-12, atol=1e-12)


@given(sizes=st.tuples(*[st.integers(1, 4)] * 3), alpha=st.sampled_from([None, 3.0]), seed=st.integers(0, 99))
def test_the_gradients_of_an_adapter_are_its_slopes(
    backend: type[Buffer], sizes: tuple[int, int, int], alpha: float | None, seed: int
) -> None:
    inputs, outputs, rank = sizes
    random.seed(seed)
    adapter = LoRA(inputs, outputs, rank, alpha)

    def y(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        adapter.lora_A, adapter.lora_B = a, b
        return adapter(x)

    drawn = [Tensor.normal(shape) for shape in ((2, inputs), (rank, inputs), (outputs, rank))]
    assert check_gradients(y, *drawn)


@given(inputs=st.integers(1, 40), rank=st.integers(1, 9), seed=st.integers(0, 99))
def test_a_fresh_adapter_is_drawn_as_a_linear_layer_and_zero(
    backend: type[Buffer], inputs: int, rank: int, seed: int
) -> None:
    random.seed(seed)
    adapter = LoRA(inputs, 3, rank)
    a = array(adapter.lora_A)
    assert (np.abs(a) <= inputs**-0.5).all() and np.unique(a).size > a.size // 2
    assert not array(adapter.lora_B).any()


@given(config=configs(), seed=st.integers(0, 99), wanted=WAYS)
def test_fresh_adapters_change_no_bit(
    backend: type[Buffer], config: GPTConfig, seed: int, wanted: tuple[str, ...]
) -> None:
    model, _ = made(config, seed, DType.float32)
    before = model(Tensor(IDS)).to_python()
    weights = {name: tensor.to_python() for name, tensor in model.named_parameters()}
    add_lora(model, 1, targets=targets_of(model, wanted), dropout=0.5)
    assert model(Tensor(IDS)).to_python() == before
    merge_lora(model)
    assert model(Tensor(IDS)).to_python() == before
    assert {name: tensor.to_python() for name, tensor in model.named_parameters()} == weights


@given(config=configs(), seed=st.integers(0, 99), wanted=WAYS, alpha=st.sampled_from([None, 4.0]))
def test_merged_equals_adapted_and_the_decoder_written_out(
    backend: type[Buffer], config: GPTConfig, seed: int, wanted: tuple[str, ...], alpha: float | None
) -> None:
    """In float64 to 1e-11 of the largest logit, and in float32 to 2e-5."""
    for dtype, tolerance in ((DType.float64, 1e-11), (DType.float32, 2e-5)):
        model, weights = made(config, seed, dtype)
        rank = min(2, config.embedding_dim, config.mlp_dim)
        add_lora(model, rank, targets=targets_of(model, wanted), alpha=alpha)
        model.eval()
        model.apply(lambda tensor, dtype=dtype: Tensor(tensor.buffer.cast(dtype)))
        fill(model, seed)
        for place, adapter in adapters_by_place(model):
            change = array(adapter.lora_A).T @ array(adapter.lora_B).T
            weights[f"{place.layer}.weights"] += change * (1.0 if alpha is None else alpha / rank)
        adapted = array(model(Tensor(IDS)))
        merge_lora(model)
        merged = array(model(Tensor(IDS)))
        theirs = expected(weights, config)
        scale = max(1.0, np.abs(theirs).max())
        assert np.abs(adapted - merged).max() <= tolerance * scale
        assert np.abs(adapted - theirs).max() <= tolerance * scale
        assert lora_config(model) is None and model.num_parameters() == model.num_parameters(True)


@given(config=configs(), seed=st.integers(0, 99), wanted=WAYS, kind=st.sampled_from([SGD, AdamW, Muon]))
def test_nothing_but_adapters_learns(
    backend: type[Buffer], config: GPTConfig, seed: int, wanted: tuple[str, ...], kind: Any
) -> None:
    model, _ = made(config, seed, DType.float32)
    frozen = {name: tensor.to_python() for name, tensor in model.named_parameters()}
    chosen = add_lora(model, 1, targets=targets_of(model, wanted)).places
    fill(model, seed)
    learning = {
        f"{place.layer}.adapters.0.{leaf}" for place in chosen for leaf in ("lora_A", "lora_B")
    }  # one range of columns each, by our own names
    before = {name: tensor.to_python() for name, tensor in model.named_parameters()}
    optimizer = kind(model, learning_rate=0.1)
    targets = Tensor([[*row[1:], 0] for row in IDS])
    CrossEntropyLoss()(logits=model(Tensor(IDS)), labels=targets).mean().backward()
    assert {name for name, tensor in model.named_parameters() if tensor.grad is not None} == learning
    optimizer.update()
    kept = {name.partition(".")[2] for name in optimizer.state_dict() if name != "step"}
    assert kept == learning or (kind is SGD and kept <= learning)
    after = {name: tensor.to_python() for name, tensor in model.named_parameters()}
    assert {name: after[name] for name in frozen} == frozen
    assert before.keys() == after.keys() == frozen.keys() | learning
    gradients = {name: tensor.grad for name, tensor in model.named_parameters() if name in learning}
    moved = {name for name, gradient in gradients.items() if array(gradient).any()}
    assert all(after[name] != before[name] for name in moved)


@given(config=configs(), seed=st.integers(0, 99), wanted=WAYS)
def test_what_describes_adapters_comes_back_from_json_and_makes_the_same(
    backend: type[Buffer], config: GPTConfig, seed: int, wanted: tuple[str, ...]
) -> None:
    model, _ = made(config, seed, DType.float32)
    described = add_lora(model, 1, alpha=2.5, dropout=0.25, targets=targets_of(model, wanted))
    fill(model, seed)
    again = LoRAConfig.from_dict(json.loads(json.dumps(described.to_dict())))
    assert again == described == lora_config(model)
    other = GPT(config)
    put_adapters(other, again)
    other.eval()
    other.load_weights([(name, tensor) for name, tensor in model.named_parameters()])
    assert other(Tensor(IDS)).to_python() == model(Tensor(IDS)).to_python()


def test_parts_of_one_matrix_share_what_goes_in(backend: type[Buffer]) -> None:
    """As gate and up of Phi-3 do, which are one matrix there."""
    random.seed(3)
    model = MLP(4, [5, 4], "relu")
    parts = [Place("both", "layers.0", 0, 2), Place("both", "layers.0", 2, 5), Place("own", "layers.1", 1, 3)]
    add_lora(model, 2, places=parts, targets=("both", "own"))
    first, second = model.layers[0].adapters
    assert first.lora_A is second.lora_A and first.lora_A is not model.layers[1].adapters[0].lora_A
    assert model.num_parameters(trainable_only=True) == 2 * (4 + 5) + 2 * (5 + 2)
    fill(model, 0)
    x = Tensor.normal((6, 4))
    before = array(model(x))
    merge_lora(model)
    assert np.allclose(array(model(x)), before, rtol=1e-5, atol=1e-5)


def test_dropout_is_of_what_an_adapter_reads_and_of_training_alone(backend: type[Buffer]) -> None:
    random.seed(5)
    layer = LoRALinear(Linear(8, 3), 2, dropout=0.5)
    fill(layer, 1)
    x = Tensor.normal((16, 8))
    with no_grad():
        plain = array(x) @ array(layer.weights) + array(layer.bias)
        drawn = [array(layer(x)) for _ in range(2)]
        layer.eval()
        still = [array(layer(x)) for _ in range(2)]
    assert (still[0] == still[1]).all() and (drawn[0] != drawn[1]).any()
    assert np.allclose(still[0], plain + array(x) @ array(layer.adapters[0].matrix()), atol=1e-5)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda model: add_lora(model, 0), "rank must be at least 1"),
        (lambda model: add_lora(model, 5), "rank 5 is more than the 4 that .*query_key_value can have"),
        (lambda model: add_lora(model, 2, targets=("q_proj",)), "no linear layer is called 'q_proj'"),
        (lambda model: add_lora(model, 2, alpha=float("nan")), "alpha must be a number"),
        (lambda model: add_lora(model, 2, dropout=1.0), r"dropout must lie in \[0, 1\)"),
        (lambda model: [add_lora(model, 1), add_lora(model, 1)], "has adapters already"),
        (lambda model: add_lora(model.transformer_blocks[0].mlp, 1), "has no attention"),
        (lambda model: put(model, Place("a", "nowhere", 0, 1)), "no linear layer 'nowhere'"),
        (lambda model: put(model, Place("a", "head", 0, 8)), "columns 0 to 8 of 7 cannot"),
        (lambda model: put(model, Place("a", "head", 0, 2), Place("b", "head", 1, 3)), "columns 1 to 3"),
        (lambda model: LoRALinear(Linear(2, 2), 1, columns=[(1, 1)]), "columns 1 to 1"),
    ],
)
def test_what_cannot_be_is_said(backend: type[Buffer], make: Any, words: str) -> None:
    model = GPT(GPTConfig(7, 9, 1, 2, 4, tied_head=False))
    names = [name for name, _ in model.named_parameters()]
    with pytest.raises(ValueError, match=words):
        make(model)
    if "already" not in words:
        assert [name for name, _ in model.named_parameters(trainable_only=True)] == names


def put(model: GPT, *places: Place) -> None:
    put_adapters(model, LoRAConfig(1, 1.0, 0.0, places))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rank": 2**40}, "rank must be at most"),
        ({"rank": True}, "rank"),
        ({"alpha": "8"}, "alpha must be a number"),
        ({"places": [["a", "head", 0]]}, "a place is a name"),
        ({"places": [["a", "head", 0, 1.5]]}, "a place is a name"),
        ({"format": 3}, "format and base are texts"),
        ({"more": 1}, "unknown or missing in what describes adapters: more"),
    ],
)
def test_a_description_that_is_wrong_is_refused(changes: dict[str, Any], words: str) -> None:
    values = {**LoRAConfig(1, 1.0, 0.0, ()).to_dict(), **changes}
    with pytest.raises((TypeError, ValueError), match=words):
        LoRAConfig.from_dict(values)
    with pytest.raises(TypeError, match="is a mapping"):
        LoRAConfig.from_dict([1])


def test_targets_are_the_last_parts_of_names() -> None:
    names = ("h.0.attn.c_attn", "h.0.attn.c_proj", "h.0.mlp.c_proj", "h.1.mlp.c_proj")
    places = [Place(name, f"blocks.{number}", 0, 1) for number, name in enumerate(names)]

    def chosen(*targets: str) -> list[str]:
        return [place.name for place in chosen_places(places, targets)]

    assert chosen("c_proj") == [*names[1:]]
    assert chosen("mlp.c_proj") == [*names[2:]]
    assert chosen("h.0.mlp.c_proj", "c_attn") == [names[0], names[2]]
    assert chosen("all-linear") == [*names]
    with pytest.raises(ValueError, match=r"is called 'proj': there are c_attn, c_proj, or all-linear"):
        chosen("proj")  # no part of a name, but its end
    assert chosen_places([Place("lm_head", "head", 0, 1), places[0]], ["all-linear"]) == (places[0],)
    model = MLP(2, [2, 2], "relu")
    assert [place.name for place in places_in(model)] == ["layers.0", "layers.1"]
