"""Attention layers: queries that share keys and values, and what a cache of them hands out."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest

from tinygpt_core import random
from tinygpt_core.dtype import DType
from tinygpt_core.nn import (
    CausalSelfAttention,
    MixtureOfExperts,
    RotaryEncoding,
    RotaryScaling,
    TransformerBlock,
    attention,
)
from tinygpt_core.nn.cache import KeyValueCache
from tinygpt_core.tensor import Tensor, apply_op, no_grad


def close(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.close_to(other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("shared", [1, 2, 4])
def test_shared_heads_are_those_heads_for_each_of_their_queries(shared: int, rotary: bool) -> None:
    """Keys and values of G heads serve H queries: as H heads whose weights are repeated."""
    random.seed(4)
    heads, size = 4, 2
    few = CausalSelfAttention(8, 6, heads, num_key_value_heads=shared, rotary=rotary)
    all_of_them = CausalSelfAttention(8, 6, heads, rotary=rotary)
    packed = few.query_key_value.weights.reshape((8, heads + 2 * shared, size))
    parts = [packed[:, :heads]]
    for start in (heads, heads + shared):
        parts.append(packed[:, start : start + shared].repeat_interleave(heads // shared, 1))
    all_of_them.query_key_value.weights.assign(Tensor.concatenate(parts, 1).reshape((8, 24)).detach())
    all_of_them.out.weights.assign(few.out.weights.detach())
    x = Tensor.normal((3, 6, 8))
    assert close(few(x), all_of_them(x))
    cache = KeyValueCache(1, 3, shared, 6, size, few.out.weights.buffer)
    with no_grad():
        first = few(x[:, :4], cache)
        cache.length = 4
        rest = few(x[:, 4:], cache)
    assert close(Tensor.concatenate([first, rest], 1), few(x).detach())


def test_heads_that_cannot_be_shared_out_are_refused() -> None:
    for wrong, message in (
        (3, "num_key_value_heads"),
        (0, "num_key_value_heads"),
        (8, "num_key_value_heads"),
    ):
        with pytest.raises(ValueError, match=message):
            CausalSelfAttention(8, 6, 4, num_key_value_heads=wrong)
    with pytest.raises(ValueError, match="num_heads"):
        CausalSelfAttention(8, 6, 3)
    with pytest.raises(ValueError, match="even head size"):
        CausalSelfAttention(6, 6, 2, rotary=True)
    with pytest.raises(ValueError, match="even head size, but head_dim is 5"):
        CausalSelfAttention(8, 6, 2, head_dim=5, rotary=True)
    for wrong, message in ((3, "must be even"), (6, "at most the head size 4"), (-2, "at least 1")):
        with pytest.raises(ValueError, match=f"rotary_dim .*{message}"):
            CausalSelfAttention(8, 6, 2, rotary=True, rotary_dim=wrong)
    layer = CausalSelfAttention(8, 6, 4)
    for shape in ((2, 8), (1, 2, 7)):
        with pytest.raises(ValueError, match="CausalSelfAttention"):
            layer(Tensor.zeros(shape))
    with pytest.raises(ValueError, match="7 positions after 0 cached ones"):
        layer(Tensor.zeros((1, 7, 8)))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("output_bias", [None, False, True])
def test_which_maps_have_a_bias(bias: bool, output_bias: bool | None) -> None:
    """The one behind attention as the one before it, unless something else is said."""
    layer = CausalSelfAttention(8, 6, 2, bias=bias, output_bias=output_bias)
    names = [name for name, _ in layer.named_parameters() if name.endswith("bias")]
    has_output_bias = bias if output_bias is None else output_bias
    assert names == ["query_key_value.bias"] * bias + ["out.bias"] * has_output_bias


def test_values_and_their_embeddings_count_alike_at_first() -> None:
    """Half of each: the same vector as both is one of them."""
    random.seed(7)
    layer = CausalSelfAttention(8, 6, 2, value_embedding=True)
    assert layer.value_mix.to_python() == [0.5, 0.5] and layer.value_mix.requires_grad
    x = Tensor.normal((2, 6, 8))
    values = layer.query_key_value(x)[:, :, 16:]
    plain = CausalSelfAttention(8, 6, 2)
    plain.load_weights(layer.named_parameters(), strict=False)
    assert close(layer(x, value_embedding=values), plain(x))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "PackedAttention"),
        ({"rotary": True}, "Attention"),
        ({"query_key_norm": True}, "Attention"),
        ({"num_key_value_heads": 1}, "Attention"),
        ({"scale": 0.3}, "Attention"),
        ({"window": 5}, "PackedAttention"),  # hides nothing of five positions
        ({"window": 5, "scale": 0.3}, "Attention"),
        ({"window": 4}, "WindowedAttention"),
        ({"soft_cap": 2.0}, "WindowedAttention"),
        ({"soft_cap": 2.0, "window": 9}, "WindowedAttention"),
    ],
    ids=str,
)
def test_attending_is_one_operation(
    options: dict[str, Any], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of the whole packed map, where nothing happens in between; with a cache it is the other."""
    names: list[str] = []

    def noted(operation: Any, *inputs: Any, **settings: Any) -> Any:
        names.append(operation.__name__)
        return apply_op(operation, *inputs, **settings)

    monkeypatch.setattr(attention, "apply_op", noted)
    layer = CausalSelfAttention(4, 6, 2, **options)
    x = Tensor.normal((1, 5, 4))
    layer(x)
    with no_grad():
        layer(x, KeyValueCache(1, 1, layer.num_key_value_heads, 6, 2, x.buffer))
    assert names == [expected, expected.replace("Packed", "")]


@pytest.mark.parametrize("window", [1, 2, 3, 6])
@pytest.mark.parametrize("soft_cap", [None, 1.5])
def test_a_window_and_a_cap_are_their_definition(window: int, soft_cap: float | None) -> None:
    """Position i sees j with i - window < j <= i, also where that is more than a head is wide."""
    random.seed(6)
    layer = CausalSelfAttention(2, 6, 1, window=window, soft_cap=soft_cap)
    x = Tensor.normal((2, 6, 2))
    packed = layer.query_key_value(x)
    query, key, value = packed[..., :2], packed[..., 2:4], packed[..., 4:]
    scores = query @ key.transpose(1, 2) / math.sqrt(2.0)
    if soft_cap is not None:
        scores = (scores / soft_cap).tanh() * soft_cap
    distances = Tensor([[i - j for j in range(6)] for i in range(6)])
    is_seen = Tensor.where(distances >= 0, distances, window) < window
    weights = Tensor.where(is_seen, scores, -math.inf).softmax(axis=2)
    assert close(layer(x), layer.out(weights @ value))


def test_rotation_of_one_position_and_of_a_part() -> None:
    """Position 0 stays what it is, and so does what lies behind the part that is turned."""
    x = Tensor([[[[1.0, 2.0, 3.0, 4.0]]]])
    assert RotaryEncoding()(x).to_python() == RotaryEncoding(dim=2)(x).to_python() == x.to_python()
    (turned,) = RotaryEncoding(dim=2)(x, 3).to_python()[0][0]
    c, s = math.cos(3.0), math.sin(3.0)
    assert turned == pytest.approx([c - 2.0 * s, 2.0 * c + s, 3.0, 4.0], rel=1e-5)


LLAMA3 = {"kind": "llama3", "factor": 8.0, "low_turns": 1.0, "high_turns": 4.0, "original_context_length": 64}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"kind": "longrope"}, ValueError, "of kind linear, llama3 or yarn, not 'longrope'"),
        ({"attention_factor": "1"}, TypeError, "attention_factor must be a number"),
        ({"attention_factor": 0.0}, ValueError, "attention_factor must lie above 0"),
        ({"truncated": None}, TypeError, "truncated must be True or False"),
        *[
            ({name: value}, error, f"{name} must")
            for name in ("factor", "low_turns", "high_turns")
            for error, values in (
                (TypeError, ("2", None, True, [1.0])),
                (ValueError, (0.0, -1.0, math.nan, math.inf, 1e9)),
            )
            for value in values
        ],
        ({"original_context_length": 64.0}, TypeError, "original_context_length must be an int"),
        ({"original_context_length": 0}, ValueError, "original_context_length must be at least 1"),
        ({"original_context_length": 2**40 + 1}, ValueError, "beyond any context"),
        ({"low_turns": 4.0}, ValueError, "must be below high_turns"),
        ({"high_turns": 0.5}, ValueError, "must be below high_turns"),
        ({"surplus": 1}, ValueError, "has a kind and a factor, and may have"),
    ],
    ids=str,
)
def test_scalings_of_frequencies_that_cannot_be_are_refused(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        RotaryScaling.from_dict({**LLAMA3, **change})


def test_scalings_of_frequencies_at_their_limits() -> None:
    for change in (
        {},
        {"factor": 1},
        {"factor": 5e-324},
        {"factor": math.nextafter(1e9, 0)},
        {"original_context_length": 1},
        {"original_context_length": 2**40},
        {"low_turns": math.nextafter(4.0, 0)},
    ):
        values = {**LLAMA3, **change}
        assert RotaryScaling.from_dict(values).to_dict() == values
    yarn = {**LLAMA3, "kind": "yarn", "attention_factor": None, "truncated": True}
    for change in ({}, {"attention_factor": 5e-324, "truncated": False}, {"attention_factor": 1}):
        assert RotaryScaling.from_dict(yarn | change).to_dict() == yarn | change
    for needed in ("kind", "factor"):
        with pytest.raises(ValueError, match="has a kind and a factor, and may have"):
            RotaryScaling.from_dict({name: value for name, value in LLAMA3.items() if name != needed})
    assert RotaryScaling.from_dict({"kind": "linear", "factor": 2.0}) == RotaryScaling("linear", 2.0)
    with pytest.raises(TypeError, match="must be a mapping, but got a list"):
        RotaryScaling.from_dict([["kind", "linear"]])  # type: ignore[arg-type]


def test_yarn_keeps_high_frequencies_divides_low_ones_and_sharpens_attention() -> None:
    scaling = RotaryScaling("yarn", 4.0, 1.0, 32.0, 4096)
    before = RotaryEncoding(10000.0).frequencies(128)
    after = RotaryEncoding(10000.0, scaling=scaling).frequencies(128)
    turns = [4096 * each / (2 * math.pi) for each in before]
    for was, found, count in zip(before, after, turns, strict=True):
        assert was / 4.0 <= found * (1 + 1e-12) and found <= was
        if count > 40.0:
            assert found == was
        if count < 0.8:
            assert math.isclose(found, was / 4.0)
    assert all(x > y for x, y in pairwise(after))
    assert math.isclose(scaling.magnitude, 0.1 * math.log(4.0) + 1.0)
    assert RotaryScaling("yarn", 0.5).magnitude == RotaryScaling("llama3", 4.0).magnitude == 1.0
    x = Tensor.normal((1, 1, 5, 8))
    longer = RotaryEncoding(scaling=scaling)(x)
    ratio = ((longer * longer).sum() / (x * x).sum()).item()
    assert math.isclose(ratio, scaling.magnitude**2, rel_tol=1e-5)


@pytest.mark.parametrize(
    ("scaling", "expected"),
    [
        (RotaryScaling("yarn", 4.0, attention_factor=0.5), 0.5),
        (RotaryScaling("yarn", 4.0, attention_factor=1.0), 1.0),
        (RotaryScaling("yarn", math.e, attention_factor=None), 1.1),
        (RotaryScaling("yarn", 0.7), 1.0),  # by less than 1, nothing is sharper
        (RotaryScaling("yarn", 1.5), 1.0 + 0.1 * math.log(1.5)),
        (RotaryScaling("linear", 4.0, attention_factor=0.5), 1.0),
    ],
    ids=str,
)
def test_what_is_turned_is_multiplied_by_a_factor(scaling: RotaryScaling, expected: float) -> None:
    """At position 0, where nothing turns, that is all that is done."""
    assert math.isclose(scaling.magnitude, expected)
    x = Tensor.normal((1, 2, 1, 6))
    assert close(RotaryEncoding(scaling=scaling)(x), x * expected)


def test_a_cache_remembers_the_ids_of_its_positions() -> None:
    """None before any came, and after a reset; each is of the positions so far, as int32."""
    cache = KeyValueCache(1, 2, 1, 4, 2, Tensor.zeros((1,)).buffer)
    assert cache.past_ids() is None
    cache.store_ids(Tensor([[5, 6], [7, 8]], dtype=DType.int64))
    assert cache.past_ids() is None, "the model says when positions count"
    cache.length = 2
    past = cache.past_ids()
    assert past is not None and past.to_python() == [[5, 6], [7, 8]] and past.dtype is DType.int32
    cache.store_ids(Tensor([[1], [2]]))
    cache.length = 3
    past = cache.past_ids()
    assert past is not None and past.to_python() == [[5, 6, 1], [7, 8, 2]]
    cache.reset()
    assert cache.past_ids() is None
    cache.store_ids(Tensor([[3], [4]]))
    cache.length = 1
    past = cache.past_ids()
    assert past is not None and past.to_python() == [[3], [4]]


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("per_token", [1, 2])
def test_the_experts_of_a_block(normalized: bool, per_token: int) -> None:
    """Those that it was told: as many, of which each token passes through as many, and with such weights."""
    block = TransformerBlock(
        8,
        6,
        2,
        hidden_dim=5,
        activation="swiglu",
        bias=False,
        num_experts=3,
        experts_per_token=per_token,
        normalized_expert_weights=normalized,
    )
    mixture = MixtureOfExperts(8, 5, 3, per_token, activation="swiglu", normalized_weights=normalized)
    mixture.load_weights(block.mlp.named_parameters())
    x = Tensor.normal((2, 6, 8))
    assert close(block.mlp(x), mixture(x))


def test_a_block_in_parts() -> None:
    """x + attention(norm x), then + mlp(norm x), four times as wide inside; with a cache of one layer, each
    position by itself.
    """
    random.seed(5)
    block = TransformerBlock(8, 6, 2)
    for made, width in ((block, 32), (TransformerBlock(8, 6, 2, hidden_dim=5), 5)):
        assert [w.shape for _, w in made.mlp.named_parameters() if w.ndim == 2] == [(8, width), (width, 8)]
    x = Tensor.normal((2, 6, 8))
    middle = x + block.attn(block.ln_1(x))
    assert close(block(x), middle + block.mlp(block.ln_2(middle)))
    cache = KeyValueCache(1, 2, 2, 6, 4, x.buffer)
    parts = []
    with no_grad():
        for i in range(6):
            parts.append(block(x[:, i : i + 1], cache))
            cache.length += 1
    assert close(Tensor.concatenate(parts, 1), block(x).detach())
