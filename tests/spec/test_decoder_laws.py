"""A GPT with every option that a family of checkpoints has, against a decoder written out in NumPy.

The reference shares nothing with ours: it is float64, loops over heads, and turns pairs as complex numbers.
"""

from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import assume, example, given
from hypothesis import strategies as st

from tinygpt_core import Tensor
from tinygpt_core.buffer import Buffer
from tinygpt_core.dtype import DType
from tinygpt_core.losses import CrossEntropyLoss
from tinygpt_core.nn import GPT, GPTConfig, RotaryEncoding, RotaryScaling

Weights = dict[str, Any]


def normalized(x: Any, weights: Weights, name: str, config: GPTConfig, kind: str = "") -> Any:
    if (kind or config.normalization) == "layer_norm":
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + config.eps)
        return x * weights[f"{name}.weights"] + weights.get(f"{name}.bias", 0.0)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + config.eps) * weights[f"{name}.weights"]


def linear(x: Any, weights: Weights, name: str) -> Any:
    return x @ weights[f"{name}.weights"] + weights.get(f"{name}.bias", 0.0)


def frequency(pair: int, size: int, base: float, scaling: RotaryScaling | None) -> float:
    found = base ** (-2.0 * pair / size)
    if scaling is None:
        return found
    if scaling.kind == "linear":
        return found / scaling.factor
    if scaling.kind == "yarn":
        return found * (1 - yarn_ramp(pair, size, base, scaling)) + found / scaling.factor * yarn_ramp(
            pair, size, base, scaling
        )
    # As Llama 3's authors write it, by wavelengths
    wavelength = 2 * math.pi / found
    original = scaling.original_context_length
    if wavelength < original / scaling.high_turns:
        return found
    if wavelength > original / scaling.low_turns:
        return found / scaling.factor
    smooth = (original / wavelength - scaling.low_turns) / (scaling.high_turns - scaling.low_turns)
    return (1 - smooth) * found / scaling.factor + smooth * found


def yarn_ramp(pair: int, size: int, base: float, scaling: RotaryScaling) -> float:
    """As YaRN's authors write it: 0 where a frequency stays, 1 where it is divided."""

    def correction(rotations: float) -> float:
        return (
            size
            * math.log(scaling.original_context_length / (rotations * 2 * math.pi))
            / (2 * math.log(base))
        )

    low, high = correction(scaling.high_turns), correction(scaling.low_turns)
    if scaling.truncated:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    return float(np.clip((pair - low) / (high - low if high != low else 0.001), 0, 1))


def turned(x: Any, config: GPTConfig, is_local: bool) -> Any:
    """(T, D)."""
    size = config.rotary_dim or x.shape[1]
    has_own_base = is_local and config.local_rotary_base is not None
    base = config.local_rotary_base if has_own_base else config.rotary_base
    scaling = None if has_own_base else config.rotary_scaling
    factor = 1.0
    if scaling is not None and scaling.kind == "yarn":
        factor = scaling.attention_factor or 0.1 * math.log(scaling.factor) + 1
    result = x.copy()
    for position in range(x.shape[0]):
        for pair in range(size // 2):
            a, b = pair, pair + size // 2
            angle = position * frequency(pair, size, base, scaling)
            number = (x[position, a] + 1j * x[position, b]) * np.exp(1j * angle) * factor
            result[position, a], result[position, b] = number.real, number.imag
    return result


def value_table(config: GPTConfig, layer: int) -> int | None:
    """0 1 2 - - 0 1 2 for three tables and eight layers; where there are fewer layers, the first ones win."""
    tables = list(range(config.value_embeddings))
    of_layers: list[int | None] = [None] * config.num_layers
    of_layers[config.num_layers - len(tables) :] = tables
    of_layers[: len(tables)] = tables
    return of_layers[layer]


def attention(
    x: Any, weights: Weights, name: str, config: GPTConfig, is_local: bool, token_values: Any = None
) -> Any:
    """(T, C), one head after the other, one query after the other."""
    size, heads, shared = config.head_dim, config.num_heads, config.key_value_heads
    packed = linear(x, weights, f"{name}.query_key_value")
    if config.norm_across_heads:
        columns = np.split(packed, [heads * size, (heads + shared) * size], axis=1)
        for i, kind in enumerate(("query_norm", "key_norm")):
            columns[i] = normalized(columns[i], weights, f"{name}.{kind}", config, "rms_norm")
        packed = np.concatenate(columns, 1)
    scale = 1 / math.sqrt(size) if config.attention_scale is None else config.attention_scale
    columns = []
    for head in range(heads):
        group = head // (heads // shared)
        starts = (head, heads + group, heads + shared + group)
        query, key, value = (packed[:, start * size : (start + 1) * size] for start in starts)
        if config.query_key_norm and not config.norm_across_heads:
            query = normalized(query, weights, f"{name}.query_norm", config, "rms_norm")
            key = normalized(key, weights, f"{name}.key_norm", config, "rms_norm")
        if config.positions == "rotary":
            query, key = turned(query, config, is_local), turned(key, config, is_local)
        if token_values is not None:
            own, other = weights[f"{name}.value_mix"]
            value = own * value + other * token_values[:, group * size : (group + 1) * size]
        rows = []
        for i in range(x.shape[0]):
            first = max(0, i - config.sliding_window + 1) if is_local else 0
            scores = key[first : i + 1] @ query[i] * scale
            if config.attention_soft_cap is not None:
                scores = config.attention_soft_cap * np.tanh(scores / config.attention_soft_cap)
            e = np.exp(scores - scores.max())
            rows.append(e / e.sum() @ value[first : i + 1])
        columns.append(np.array(rows))
    return linear(np.concatenate(columns, -1), weights, f"{name}.out")


ACTIVATIONS = {
    "swiglu": lambda x: x / (1 + np.exp(-x)),
    "geglu": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "relu2": lambda x: np.maximum(x, 0) * np.maximum(x, 0),
    "gelu_exact": lambda x: x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
}


def mlp(x: Any, weights: Weights, name: str, config: GPTConfig) -> Any:
    f = ACTIVATIONS[config.activation]
    if config.activation in ("gelu_exact", "relu2"):
        return linear(f(linear(x, weights, f"{name}.layers.0")), weights, f"{name}.layers.1")
    h = f(linear(x, weights, f"{name}.gate")) * linear(x, weights, f"{name}.up")
    return linear(h, weights, f"{name}.down")


CLOSE_CHOICE = 1e-3  # of scores: which of two experts is chosen is then up to rounding


def mixture(x: Any, weights: Weights, name: str, config: GPTConfig) -> Any:
    """(T, C): every expert works on all tokens, and those that were not chosen count 0."""
    scores = linear(x, weights, f"{name}.router")
    total = np.zeros_like(x)
    is_normalized = config.normalized_expert_weights
    if is_normalized is None:
        is_normalized = config.experts_per_token > 1
    for token in range(x.shape[0]):
        order = sorted(range(config.num_experts), key=lambda e: -scores[token, e])
        chosen, others = order[: config.experts_per_token], order[config.experts_per_token :]
        if others:
            assume(scores[token, chosen[-1]] - scores[token, others[0]] > CLOSE_CHOICE)
        shares = np.exp(scores[token] - scores[token].max())
        shares /= shares[chosen].sum() if is_normalized else shares.sum()
        for expert in range(config.num_experts):
            counts = shares[expert] if expert in chosen else 0.0
            total[token] += counts * mlp(x[token], weights, f"{name}.experts.{expert}", config)
    return total


def logits(weights: Weights, config: GPTConfig, ids: Any) -> Any:
    """(T, vocab_size), for the ids of one sequence."""
    x = weights["embedding_layer.embeddings"][ids] * config.embedding_scale
    for layer in range(config.num_layers):
        name = f"transformer_blocks.{layer}"
        kinds = config.layer_types or ("sliding_attention",) * config.num_layers
        is_local = config.sliding_window is not None and kinds[layer] == "sliding_attention"
        table = value_table(config, layer)
        token_values = None if table is None else weights[f"value_embedding_layers.{table}.embeddings"][ids]
        added = attention(
            normalized(x, weights, f"{name}.ln_1", config),
            weights,
            f"{name}.attn",
            config,
            is_local,
            token_values,
        )
        if config.post_normalization:
            added = normalized(added, weights, f"{name}.post_ln_1", config)
        h = normalized(x if config.parallel_residual else x + added, weights, f"{name}.ln_2", config)
        if config.num_experts is None:
            h = mlp(h, weights, f"{name}.mlp", config)
        else:
            h = mixture(h, weights, f"{name}.mlp", config)
        if config.post_normalization:
            h = normalized(h, weights, f"{name}.post_ln_2", config)
        x = x + added + h
    x = normalized(x, weights, "layer_norm", config)
    y = x @ (weights["embedding_layer.embeddings"].T if config.tied_head else weights["head.weights"])
    cap = config.logit_soft_cap
    return y if cap is None else cap * np.tanh(y / cap)


@st.composite
def configs(draw: st.DrawFn) -> GPTConfig:
    shared, group, half = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(1, 3))
    layers = draw(st.integers(1, 3))
    maybe = st.booleans()
    kinds = ["full_attention", "sliding_attention"]
    query_key_norm = draw(maybe)
    num_experts = draw(st.sampled_from([None, None, 1, 2, 4]))
    scaling = draw(
        st.sampled_from(
            [
                None,
                RotaryScaling("linear", 3.0),
                RotaryScaling("llama3", 8.0, 1.0, 4.0, 8),
                RotaryScaling("llama3", 2.0, 0.5, 9.0, 64),
                RotaryScaling("yarn", 4.0, 1.0, 32.0, 40),
                RotaryScaling("yarn", 3.0, 0.5, 4.0, 9, attention_factor=0.8, truncated=False),
            ]
        )
    )
    return GPTConfig(
        vocab_size=7,
        context_length=9,
        num_layers=layers,
        num_heads=shared * group,
        embedding_dim=2 * shared * group * draw(st.integers(1, 2)),
        hidden_dim=draw(st.integers(1, 5)),
        normalization=draw(st.sampled_from(["layer_norm", "rms_norm"])),
        positions=draw(st.sampled_from(["rotary", "none"])),
        activation=draw(st.sampled_from(list(ACTIVATIONS))),
        bias=draw(maybe),
        attention_bias=draw(maybe),
        tied_head=draw(maybe),
        num_key_value_heads=shared,
        rotary_base=draw(st.sampled_from([10.0, 10000.0])),
        attention_head_dim=2 * half,
        attention_output_bias=draw(maybe),
        attention_scale=draw(st.sampled_from([None, 0.7])),
        attention_soft_cap=draw(st.sampled_from([None, 0.5, 4.0])),
        logit_soft_cap=draw(st.sampled_from([None, 1.5])),
        query_key_norm=query_key_norm,
        norm_across_heads=query_key_norm and draw(maybe),
        num_experts=num_experts,
        experts_per_token=draw(st.integers(1, num_experts or 3)),
        normalized_expert_weights=draw(st.sampled_from([None, True, False])),
        rotary_dim=draw(st.sampled_from([None, *range(2, 2 * half + 1, 2)])),
        rotary_scaling=scaling,
        sliding_window=draw(st.sampled_from([None, 1, 2, 3, 20])),
        layer_types=draw(st.one_of(st.just(()), st.tuples(*[st.sampled_from(kinds)] * layers))),
        local_rotary_base=draw(st.sampled_from([None, 50.0])),
        embedding_scale=draw(st.sampled_from([1.0, 1.7])),
        post_normalization=draw(maybe),
        parallel_residual=draw(maybe),
        value_embeddings=draw(st.integers(0, layers)),
        eps=draw(st.sampled_from([1e-5, 0.1])),
    )


IDS = [[1, 4, 0, 6, 6, 2, 3], [5, 5, 1, 0, 2, 4, 1]]


def made(config: GPTConfig, seed: int, dtype: DType) -> tuple[GPT, Weights]:
    """A model with drawn weights, none of them 0 or 1, and these as arrays."""
    rng = np.random.default_rng(seed)
    model = GPT(config)
    weights = {name: rng.normal(0.0, 0.6, tensor.shape) for name, tensor in model.named_parameters()}
    for name, tensor in model.named_parameters():
        weights[name] = weights[name].astype(dtype.name).astype("float64")
        tensor.buffer = type(tensor.buffer)(weights[name].tolist(), dtype)
    model.eval()
    return model, weights


def expected(weights: Weights, config: GPTConfig) -> Any:
    return np.array([logits(weights, config, np.array(row)) for row in IDS])


@given(config=configs(), seed=st.integers(0, 99))
def test_logits_are_those_of_the_decoder_written_out(
    backend: type[Buffer], config: GPTConfig, seed: int
) -> None:
    model, weights = made(config, seed, DType.float32)
    ours, theirs = np.array(model(Tensor(IDS)).to_python()), expected(weights, config)
    assert np.abs(ours - theirs).max() <= 2e-5 * max(1.0, np.abs(theirs).max())


@st.composite
def scalings(draw: st.DrawFn) -> RotaryScaling:
    low = draw(st.floats(0.01, 40.0))
    return RotaryScaling(
        draw(st.sampled_from(["linear", "llama3", "yarn"])),
        draw(st.floats(0.5, 40.0)),
        low,
        low * draw(st.floats(1.1, 40.0)),
        draw(st.integers(1, 4096)),
        truncated=draw(st.booleans()),
    )


@given(scaling=scalings(), pairs=st.integers(1, 12), base=st.sampled_from([3.0, 10.0, 10000.0, 1e6]))
@example(scaling=RotaryScaling("llama3", 8.0, 1.0, 4.0, 40), pairs=6, base=10.0)  # from 6.4 turns to 0.9
@example(scaling=RotaryScaling("yarn", 4.0, 1.0, 4.0, 400, truncated=False), pairs=6, base=100.0)
@example(scaling=RotaryScaling("yarn", 4.0, 7.0, 9.0, 40), pairs=3, base=10.0)  # both ends are pair 0
@example(scaling=RotaryScaling("yarn", 4.0, 1e-4, 1e-3, 40), pairs=3, base=10.0)  # both lie behind all pairs
@example(scaling=RotaryScaling("yarn", 4.0, 1e-3, 2.0, 40), pairs=3, base=10.0)  # the second one does
def test_frequencies_are_lowered_as_their_authors_write_it(
    scaling: RotaryScaling, pairs: int, base: float
) -> None:
    size = 2 * pairs
    expected = [frequency(pair, size, base, scaling) for pair in range(pairs)]
    found = RotaryEncoding(base, scaling=scaling).frequencies(size)
    assert np.allclose(found, expected, rtol=1e-9, atol=0.0)


@given(config=configs(), seed=st.integers(0, 99), cuts=st.tuples(st.integers(1, 6), st.integers(1, 6)))
def test_a_cache_changes_no_logits(
    backend: type[Buffer], config: GPTConfig, seed: int, cuts: tuple[int, int]
) -> None:
    model, _ = made(config, seed, DType.float32)
    whole = np.array(model(Tensor(IDS)).to_python())
    cache = model.new_cache(2)
    ends = [0, *sorted(set(cuts)), 7]
    parts = [
        np.array(model(Tensor([row[start:end] for row in IDS]), cache).to_python())
        for start, end in pairwise(ends)
    ]
    assert np.abs(np.concatenate(parts, 1) - whole).max() <= 2e-5 * max(1.0, np.abs(whole).max())


@given(config=configs(), seed=st.integers(0, 99))
def test_gradients_are_the_slopes_of_the_decoder_written_out(
    backend: type[Buffer], config: GPTConfig, seed: int
) -> None:
    """Along a drawn direction for each parameter, against central differences of the reference."""
    model, weights = made(config, seed, DType.float64)
    targets = np.array([[*row[1:], 0] for row in IDS])
    CrossEntropyLoss()(logits=model(Tensor(IDS)), labels=Tensor(targets.tolist())).mean().backward()

    def loss(changed: Weights) -> float:
        y = expected(changed, config)
        y = y - y.max(-1, keepdims=True)
        chosen = np.take_along_axis(y, targets[..., None], -1)[..., 0]
        return float((np.log(np.exp(y).sum(-1)) - chosen).mean())

    rng = np.random.default_rng(seed + 1)
    for name, tensor in model.named_parameters():
        direction = rng.normal(0.0, 1.0, tensor.shape)
        direction /= max(np.linalg.norm(direction), 1e-9)
        step = 1e-5
        sides = (loss(weights | {name: weights[name] + sign * step * direction}) for sign in (1.0, -1.0))
        slope = (next(sides) - next(sides)) / (2 * step)
        ours = float((np.array(tensor.grad.to_python()) * direction).sum())
        assert abs(ours - slope) <= 1e-6 * max(1.0, abs(slope)), name


@given(config=configs())
def test_a_config_comes_back_from_json(config: GPTConfig) -> None:
    assert GPTConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
