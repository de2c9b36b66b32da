"""The live microscope's protocol: every number that it shows is computed again, in NumPy's doubles by
formulas of its own, and everything that is not a question is refused.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinygpt_core import random
from tinygpt_core.counting import CountingModel
from tinygpt_core.dataset.corpora import Corpus
from tinygpt_core.dtype import DType
from tinygpt_core.formats import save_pretrained
from tinygpt_core.generation import generate_ids
from tinygpt_core.live import Microscope
from tinygpt_core.live.cells import activated, explain_attention, explain_cell
from tinygpt_core.live.protocol import (
    LONGEST_REQUEST,
    METHODS,
    MOST_CHARACTERS,
    MOST_CORPUS,
    MOST_ROWS,
    ProtocolError,
    runs_of,
)
from tinygpt_core.live.session import MOST_PARAMETERS, TrainingSession
from tinygpt_core.live.views import Switches, trace
from tinygpt_core.nn import ACTIVATION_FUNCTIONS, GPT, GPTConfig
from tinygpt_core.tensor import Tensor
from tinygpt_core.tokenizer import CharTokenizer
from tinygpt_core.training import PRESETS, Trainer
from tinygpt_core.training.counts import counted_sequences

RUNS = Path(__file__).parent / "fixtures" / "runs"
SIZES: dict[str, Any] = {
    "vocab_size": 13,
    "context_length": 12,
    "num_layers": 2,
    "num_heads": 2,
    "embedding_dim": 8,
}
IDS = [3, 1, 12, 0, 5, 5, 7]
KINDS = {
    "default": {"positions": "rotary", "tied_head": False},
    "gpt2": {},
    "llama": {"normalization": "rms_norm", "positions": "rotary", "activation": "swiglu", "bias": False},
    "grouped": {"num_heads": 4, "num_key_value_heads": 2, "positions": "rotary", "activation": "silu"},
    "tinygpt": {"activation": "relu", "final_activation": True, "positions": "none", "attention_bias": False},
    "geglu": {"activation": "geglu", "num_layers": 1},
    "no biases": {"positions": "rotary", "tied_head": False, "bias": False},
    "n-grams": {"positions": "rotary", "tied_head": False, "ngram_tables": (7, 11, 19)},
    "n-grams and positions": {"ngram_tables": (5,)},
    "prior": {"positions": "rotary", "tied_head": False, "ngram_prior": 3},
    "prior and a tied head": {"ngram_prior": 2, "bias": False, "normalization": "rms_norm"},
}
COUNTED = [[3, 1, 12, 0, 5, 5, 7], [3, 1, 12, 5, 5], [0, 3, 1, 2, 0, 5, 5, 7, 3, 1], [9, 3, 1, 12, 0, 4]]
WORDS = ["get_name", "set_name", "is_path", "has_size", "get_size", "set_path"] * 3


def model_of(kind: str) -> GPT:
    with random.use_generator(random.Generator(5)):
        model = GPT(GPTConfig(**(SIZES | KINDS[kind])))
        for _, parameter in model.named_parameters():  # so that nothing is as small as at a beginning
            parameter.assign(parameter + Tensor.normal(parameter.shape, std=0.3))
    if model.config.ngram_prior:
        model.ngram_prior.count(COUNTED)
    return model


def probabilities_by_counting(
    model: CountingModel, context: Sequence[int], left_out: int | None = None
) -> Any:
    """Interpolated Kneser-Ney by its definition, from all n-grams that were counted: what `CountingModel`
    says in doubles, with one n-gram's occurrence (`left_out` after the context) taken away first.
    """
    size, top = model.vocab_size, min(model.context_length, len(context))
    context = list(context[len(context) - top :])
    counted: list[Counter[tuple[int, ...]]] = [Counter() for _ in range(top + 1)]
    for length, (keys, counts) in enumerate(model.counts()[: top + 1]):
        for key, count in zip(keys, counts, strict=True):
            digits = [key // size**place % size for place in range(length + 1)]
            counted[length][tuple(reversed(digits))] = count
    if left_out is not None:
        for length in range(top + 1):
            ngram = (*context[top - length :], left_out)
            counted[length][ngram] -= 1
            assert counted[length][ngram] >= 0, "of a text that was counted"
            counted[length] += Counter()  # without those at zero
    p = np.full(size, 1.0 / size)
    for length in range(top + 1):
        if length == top:
            level, discount = counted[top], model.top_discounts[top]
        else:
            level, discount = Counter(ngram[1:] for ngram in counted[length + 1]), model.discounts[length]
        after = np.array([level[(*context[top - length :], token)] for token in range(size)])
        if after.sum():
            lent = discount * (after > 0).sum() / after.sum()
            p = np.maximum(after - discount, 0.0) / after.sum() + lent * p
    return p


@pytest.fixture
def microscope() -> Microscope:
    return Microscope({"documents": str(RUNS / "documents" / "run"), "bpe": str(RUNS / "bpe" / "run")})


@pytest.mark.parametrize(
    "options",
    [{"logit_soft_cap": 2.0, "sliding_window": 3}, {"num_experts": 3}, {"value_embeddings": 1}],
    ids=" ".join,
)
def test_a_model_with_options_that_the_page_does_not_show_is_refused(
    options: dict[str, Any], tmp_path: Path
) -> None:
    """By the names of those; tables of n-grams are shown."""
    model = GPT(GPTConfig(**SIZES, ngram_tables=(5,), **options))
    save_pretrained(model, tmp_path / "run", "native", CharTokenizer("abcdefghijklm"))
    with pytest.raises(ProtocolError, match=f"has {', '.join(options)}, which is not shown"):
        Microscope({"mine": str(tmp_path / "run")})


def ask(microscope: Microscope, method: str, **params: Any) -> dict[str, Any]:
    answer = json.loads(microscope.answer_text(json.dumps({"method": method, "params": params})))
    assert "error" not in answer, answer
    return answer["result"]


# ---------------------------------------------------------------- a forward pass


class Reference:
    """A forward pass in NumPy's doubles, of the default architecture, by a textbook's formulas."""

    def __init__(self, model: GPT, weights: dict[str, Any] | None = None) -> None:
        self.config = model.config
        self.counting = model.ngram_prior.counting if model.config.ngram_prior else None
        self.weights = weights or {
            name: np.array(tensor.to_python(), dtype=np.float64) for name, tensor in model.named_parameters()
        }

    def norm(self, x: Any, name: str) -> Any:
        mean = x.mean(-1, keepdims=True)
        y = (x - mean) / np.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + self.config.eps)
        return y * self.weights[f"{name}.weights"] + self.weights[f"{name}.bias"]

    def linear(self, x: Any, name: str) -> Any:
        return x @ self.weights[f"{name}.weights"] + self.weights.get(f"{name}.bias", 0.0)

    def turned(self, x: Any) -> Any:  # (T, D)
        half = x.shape[1] // 2
        angles = np.arange(len(x))[:, None] * 10000.0 ** (-np.arange(half) / half)
        a, b = x[:, :half], x[:, half:]
        return np.concatenate(
            [a * np.cos(angles) - b * np.sin(angles), b * np.cos(angles) + a * np.sin(angles)], 1
        )

    def __call__(
        self,
        ids: list[int],
        off: tuple[tuple[int, int], ...] = (),
        following: Sequence[int | None] = (None,) * 64,
    ) -> dict[str, Any]:
        """`following`: what came next in a text that was counted, which is left out of the counts."""
        heads, size = self.config.num_heads, self.config.head_dim
        views: dict[str, Any] = {"embedding": self.weights["embedding_layer.embeddings"][ids]}
        x = views["stream"] = views["embedding"]
        for layer in range(self.config.num_layers):
            own, path = f"blocks.{layer}", f"transformer_blocks.{layer}"
            views[f"{own}.ln_1"] = self.norm(x, f"{path}.ln_1")
            packed = self.linear(views[f"{own}.ln_1"], f"{path}.attn.query_key_value")
            q, k, v = (part.reshape(-1, heads, size).transpose(1, 0, 2) for part in np.split(packed, 3, 1))
            views |= {f"{own}.query": q, f"{own}.key": k, f"{own}.value": v}
            q, k = (np.stack([self.turned(head) for head in part]) for part in (q, k))
            views |= {f"{own}.turned_query": q, f"{own}.turned_key": k}
            scores = views[f"{own}.scores"] = q @ k.transpose(0, 2, 1) / math.sqrt(size)
            shares = np.exp(np.where(np.tril(np.ones(scores.shape[1:])) == 1, scores, -np.inf))
            shares = views[f"{own}.attention"] = shares / shares.sum(-1, keepdims=True)
            values = shares @ v
            for of, head in off:
                values[head] *= of != layer
            views[f"{own}.values"] = values
            attn = self.linear(values.transpose(1, 0, 2).reshape(len(ids), -1), f"{path}.attn.out")
            views |= {f"{own}.attn": attn, f"{own}.middle": x + attn}
            views[f"{own}.ln_2"] = self.norm(x + attn, f"{path}.ln_2")
            hidden = views[f"{own}.hidden"] = self.linear(views[f"{own}.ln_2"], f"{path}.mlp.layers.0")
            inner = math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)
            views[f"{own}.activated"] = hidden / 2 * (1 + np.tanh(inner))
            mlp = views[f"{own}.mlp"] = self.linear(views[f"{own}.activated"], f"{path}.mlp.layers.1")
            x = views[f"{own}.stream"] = x + attn + mlp
        views["norm"] = self.norm(x, "layer_norm")
        logits = views["norm"] @ self.weights["head.weights"]
        if self.config.ngram_prior:
            rows = [
                probabilities_by_counting(self.counting, ids[: place + 1], following[place])
                for place in range(len(ids))
            ]
            trust = self.linear(views["norm"], "ngram_prior.confidence")
            views |= {"network": logits, "counting": np.log(np.array(rows)), "confidence": trust}
            logits = logits + trust * views["counting"]
        views["logits"] = logits
        views["probabilities"] = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        return views

    def loss(self, batch: Any) -> float:
        rows, length = batch.shape
        total = 0.0
        for row in range(rows):
            ids = list(batch.inputs[row * length : (row + 1) * length])
            targets = batch.targets[row * length : (row + 1) * length]
            following = [None if target < 0 else target for target in targets]
            shares = self(ids, following=following)["probabilities"]
            for place, target in enumerate(targets):
                total -= math.log(shares[place, target]) if target >= 0 else 0.0
        return total / batch.num_targets


@pytest.mark.parametrize("off", [(), ((0, 1),), ((0, 0), (1, 1))], ids=["all on", "one head off", "two off"])
@pytest.mark.parametrize("kind", ["default", "prior"])
def test_every_view_is_what_numpy_computes(off, kind):
    model = model_of(kind)
    found = trace(model, IDS, Switches(heads=frozenset(off)))
    expected = Reference(model)(IDS, off)
    assert set(found.views) == set(expected)
    for name, view in found.views.items():
        values = np.array(view.matrices if len(view.axes) == 3 else view.matrices[0])
        assert values.shape == expected[name].shape == tuple(view.shape), name
        np.testing.assert_allclose(values, expected[name], rtol=2e-5, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_the_trace_is_the_models_own_pass(kind):
    model = model_of(kind)
    model.train()
    found = trace(model, IDS)
    assert model.training, "the mode is as it was"
    model.eval()
    assert found.matrix("logits") == model(Tensor([IDS])).to_python()[0], "to the bit"
    assert type(model.transformer_blocks[0].attn).__name__ == "CausalSelfAttention", "no hook stays"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("switches", [Switches(), Switches(frozenset({(0, 1)}), frozenset({(0, "mlp")}))])
def test_every_cell_is_what_its_formula_gives(kind, switches):
    found = trace(model_of(kind), IDS, switches)
    seen = 0
    for name, view in found.views.items():
        for head, matrix in enumerate(view.matrices):
            for row in (0, 3, len(IDS) - 1):
                for column in sorted({0, min(1, len(matrix[0]) - 1), len(matrix[0]) - 1}):
                    cell = explain_cell(found, name, row, column, head)
                    assert cell["value"] == matrix[row][column]
                    assert cell["computed"] == pytest.approx(cell["value"], rel=1e-5, abs=2e-6), (name, cell)
                    products = math.fsum(term[4] for term in cell["terms"]) + cell["other_sum"]
                    sizes = [abs(term[4]) for term in cell["terms"]]
                    assert sizes == sorted(sizes, reverse=True), "the largest first"
                    assert all(term[4] == term[1] * term[3] for term in cell["terms"])
                    if cell["terms"] and not cell["steps"]:
                        assert products == pytest.approx(cell["computed"], rel=1e-9, abs=1e-12)
                    seen += 1
    assert seen > 100


@pytest.mark.parametrize("kind", ["prior", "prior and a tied head"])
def test_logits_are_what_the_network_adds_to_what_counting_says(kind):
    model = model_of(kind)
    found = trace(model, IDS)
    assert found.views["logits"].inputs == ("network", "confidence", "counting")
    network, trust, counted, logits = (
        np.array(found.matrix(name)) for name in ("network", "confidence", "counting", "logits")
    )
    assert np.ptp(trust) > 1e-3, "the trust is of its position"
    np.testing.assert_allclose(network + trust * counted, logits, rtol=1e-5, atol=1e-5)
    for place in range(len(IDS)):
        expected = probabilities_by_counting(model.ngram_prior.counting, IDS[: place + 1])
        np.testing.assert_allclose(np.exp(counted[place]), expected, rtol=1e-5)
        cell = explain_cell(found, "counting", place, 5)
        assert cell["steps"][-2][1] == pytest.approx(expected[5], rel=1e-9), "level by level"
        products = math.fsum(term[4] for term in cell["terms"]) + cell["other_sum"]
        assert products == pytest.approx(expected[5], rel=1e-9), "and as a sum"


@pytest.mark.parametrize("kind", ["default", "gpt2", "n-grams", "n-grams and positions"])
def test_the_stream_is_the_sum_of_the_parts_that_are_named(kind):
    model = model_of(kind)
    found = trace(model, IDS)
    weights = {name: np.array(tensor.to_python()) for name, tensor in model.named_parameters()}
    parts = {"embedding": weights["embedding_layer.embeddings"][IDS]}
    if model.config.positions == "learned":
        parts["positions"] = weights["position_embedding_layer.embeddings"][: len(IDS)]
    if model.config.ngram_tables:
        parts["ngrams"] = np.zeros_like(parts["embedding"])
        for place in range(len(IDS)):
            for table, size in enumerate(model.config.ngram_tables):
                row = hashed(IDS[: place + 1], table + 2, size)
                parts["ngrams"][place] += 8 * weights[f"ngram_embedding_layer.tables.{table}.embeddings"][row]
    assert found.views["stream"].inputs == tuple(parts)
    for name, values in parts.items():
        np.testing.assert_allclose(found.matrix(name), values, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.matrix("stream"), sum(parts.values()), rtol=1e-5, atol=1e-5)


def hashed(ids: list[int], count: int, size: int) -> int:
    """The row of a table for the last `count` tokens, as the formula in `kernels.ngrams` says."""
    h = 0
    for back in range(count):
        token = ids[-1 - back] if back < len(ids) else -1
        y = ((h ^ (token + 1)) * 2654435769) % 2**32
        h = y ^ (y >> 15)
    return h * size >> 32


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_of_attention_adds_up(kind):
    model = model_of(kind)
    found = trace(model, IDS)
    for layer in range(model.config.num_layers):
        for head in range(model.config.num_heads):
            row = explain_attention(found, layer, head, 4)
            weights = np.array([entry["weight"] for entry in row["keys"]])
            products = np.array([np.dot(row["query"], entry["key"]) for entry in row["keys"]])
            np.testing.assert_allclose(
                [entry["product"] for entry in row["keys"]], products, rtol=1e-9, atol=1e-12
            )
            scaled = products[:5] / math.sqrt(model.config.head_dim)
            np.testing.assert_allclose(weights[:5], np.exp(scaled) / np.exp(scaled).sum(), rtol=1e-9)
            assert [entry["masked"] for entry in row["keys"]] == [False] * 5 + [True] * 2 and not weights[
                5:
            ].any()
            summed = sum(np.array(entry["weighted"]) for entry in row["keys"])
            np.testing.assert_allclose(row["output"], summed, rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(
                row["output"], found.matrix(f"blocks.{layer}.values", head)[4], rtol=1e-5, atol=1e-6
            )


def test_what_is_switched_off_adds_nothing():
    model = model_of("gpt2")
    everything = [(layer, part) for layer in range(2) for part in ("attention", "mlp")]
    found = trace(model, IDS, Switches(parts=frozenset(everything)))
    assert found.matrix("blocks.1.stream") == found.matrix("stream")
    heads = Switches(heads=frozenset((layer, head) for layer in range(2) for head in range(2)))
    bias = model.transformer_blocks[0].attn.out.bias.to_python()
    np.testing.assert_allclose(trace(model, IDS, heads).matrix("blocks.0.attn"), [bias] * len(IDS), rtol=1e-6)


@pytest.mark.parametrize(
    "switches",
    [
        Switches(heads=frozenset({(2, 0)})),
        Switches(heads=frozenset({(0, 2)})),
        Switches(parts=frozenset({(0, "x")})),
    ],
)
def test_what_is_not_there_cannot_be_switched_off(switches):
    with pytest.raises(ValueError, match=r"there is no|has no part"):
        trace(model_of("gpt2"), IDS, switches)


# ---------------------------------------------------------------- what comes next


def test_the_distribution_is_reshaped(microscope):
    logits = np.array(ask(microscope, "view", text="get_", view="logits")["matrices"][0][-1])
    plain = np.exp(logits) / np.exp(logits).sum()
    found = ask(microscope, "distribution", text="get_", temperature=0.5, top_k=6, top_p=0.8)
    for entry in found["tokens"]:
        assert entry["probability"] == pytest.approx(plain[entry["id"]], rel=1e-9)
    sharp = np.exp(logits / 0.5) / np.exp(logits / 0.5).sum()
    order = np.argsort(-sharp, kind="stable")[:6]
    shares = sharp[order] / sharp[order].sum()
    count = int(np.searchsorted(np.cumsum(shares), 0.8 - 1e-12)) + 1
    expected = dict(
        zip(order[:count].tolist(), (shares[:count] / shares[:count].sum()).tolist(), strict=True)
    )
    assert found["kept"] == count
    for entry in found["tokens"]:
        assert entry["share"] == pytest.approx(expected.get(entry["id"], 0.0), rel=1e-9)
    assert found["entropy"] == pytest.approx(-(plain * np.log(plain)).sum(), rel=1e-9)


def test_what_a_head_changes_is_said(microscope):
    on = ask(microscope, "distribution", text="get_")["tokens"]
    off = ask(microscope, "distribution", text="get_", heads=[[0, 1]])
    before = {entry["id"]: entry["probability"] for entry in on}
    assert all(entry["baseline"] == pytest.approx(before[entry["id"]], rel=1e-12) for entry in off["tokens"])
    assert off["divergence"] > 0 and ask(microscope, "distribution", text="get_")["divergence"] is None


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_draws_are_those_of_generate(microscope, seed):
    boundary = microscope.boundary
    expected = list(
        generate_ids(
            microscope.model,
            [boundary, *microscope.tokenizer.encode("ge")],
            tokens=8,
            temperature=0.8,
            top_k=9,
            generator=random.Generator(seed),
            stop_id=boundary,
        )
    )
    text, drawn = "ge", []
    for number in range(8):
        step = ask(microscope, "draw", text=text, seed=seed, draw=number, temperature=0.8, top_k=9)
        chosen = next(entry for entry in step["candidates"] if entry["id"] == step["id"])
        assert chosen["until"] - chosen["share"] <= step["number"] <= chosen["until"] + 1e-12
        if step["is_end"]:
            break
        drawn.append(step["id"])
        text = step["text"]
    assert drawn == expected


def test_what_is_all_on_is_computed_once_for_a_text(microscope, monkeypatch):
    from tinygpt_core.live import protocol

    passes = []
    monkeypatch.setattr(
        protocol, "trace", lambda *arguments: passes.append(arguments[2:]) or trace(*arguments)
    )
    for position in range(4):
        ask(microscope, "distribution", text="get_", heads=[[0, 1]], position=position)
    assert len(passes) == 2, "one with the head off, one with all on"


def test_the_loss_of_what_has_no_share_left_is_a_number(microscope):
    weights = dict(microscope.model.named_parameters())["head.weights"]
    weights.assign(weights * 1000.0)
    losses = [entry["loss"] for entry in ask(microscope, "forward", text="get_zzz")["predictions"][:-1]]
    assert all(isinstance(loss, float) and loss >= 0 for loss in losses) and max(losses) > 800


def test_temperature_zero_draws_the_most_probable(microscope):
    step = ask(microscope, "draw", text="ge", temperature=0)
    best = ask(microscope, "distribution", text="ge", temperature=0)["tokens"][0]
    assert step["id"] == best["id"] and step["number"] is None and best["share"] == 1.0


# ---------------------------------------------------------------- training


def session_of(tied: bool = False, **changes: Any) -> TrainingSession:
    config = replace(
        PRESETS["debug"].config,
        corpus="text",
        steps=40,
        batch_size=3,
        context_length=12,
        num_layers=2,
        tied_head=tied,
        gradient_clip=0.7,
        weight_decay=0.1,
        backend="python",
        **changes,
    )
    return TrainingSession(config, Corpus("words", WORDS, None))


def test_a_recorded_step_is_the_step_of_any_run():
    watched, plain = session_of(), session_of()
    for number in range(3):
        event = watched.step() if number == 1 else watched.run(1, 0.0)[0]
        assert event["loss"] == plain.run(1, 0.0)[0]["loss"]
    for (name, a), (_, b) in zip(
        watched.trainer.model.named_parameters(), plain.trainer.model.named_parameters(), strict=True
    ):
        assert a.to_python() == b.to_python(), name


WEIGHTS = [
    ("embedding_layer.embeddings", 0), ("transformer_blocks.0.ln_1.weights", 3),
    ("transformer_blocks.1.ln_2.bias", 2), ("transformer_blocks.0.attn.query_key_value.weights", 40),
    ("transformer_blocks.1.attn.out.bias", 1), ("transformer_blocks.1.mlp.layers.0.weights", 17),
    ("transformer_blocks.0.mlp.layers.1.bias", 5), ("layer_norm.weights", 7), ("head.weights", 11),
]  # fmt: skip


@pytest.fixture(scope="module", params=[0, 3], ids=["alone", "from counting"])
def stepped(request: pytest.FixtureRequest) -> TrainingSession:
    session = session_of(ngram_prior=request.param)
    session.run(4, 1e9)
    session.step()
    return session


def gradient_by_differences(session: TrainingSession, name: str, index: list[int]) -> float:
    """dL/dw of the recorded step, from the loss that NumPy computes at both sides of the weight."""
    recorded = session.recorded
    weights = {
        each: np.array(buffer.to_python(), dtype=np.float64) for each, buffer in recorded.before.items()
    }
    reference = Reference(session.trainer.model, weights)
    h = 1e-4
    losses = []
    for sign in (1, -1):
        weights[name][tuple(index)] += sign * h
        losses.append(reference.loss(recorded.batch))
        weights[name][tuple(index)] -= sign * h
    return (losses[0] - losses[1]) / (2 * h)


@pytest.mark.parametrize(("name", "place"), WEIGHTS, ids=[name for name, _ in WEIGHTS])
def test_why_a_weight_moved(stepped, name, place):
    recorded = stepped.recorded
    shape = recorded.before[name].shape
    if name == "embedding_layer.embeddings":  # of a token that is in the batch
        index = [recorded.batch.inputs[1], 2]
    else:
        index = [place] if len(shape) == 1 else [place // shape[1], place % shape[1]]
    why = recorded.explain_weight(name, index)

    by_differences = gradient_by_differences(stepped, name, index)
    assert why["gradient"] == pytest.approx(by_differences, rel=2e-3, abs=2e-6)
    assert why["gradient"] != 0.0
    assert why["other_sum"] + math.fsum(term["value"] for term in why["terms"]) == pytest.approx(
        why["gradient"]
    )
    for term in why["terms"]:
        product = term["output_gradient"] * (1.0 if term["input"] is None else term["input"])
        assert term["value"] == pytest.approx(product)

    factor = min(1.0, 0.7 / why["norm"])
    assert why["factor"] == pytest.approx(factor)
    assert why["clipped"] == pytest.approx(why["gradient"] * factor, rel=1e-4, abs=1e-9)
    g, t = why["clipped"], 5
    m = 0.9 * why["m_before"] + 0.1 * g
    v = 0.99 * why["v_before"] + 0.01 * g * g
    assert why["m"] == pytest.approx(m, rel=1e-4, abs=1e-9) and why["v"] == pytest.approx(
        v, rel=1e-4, abs=1e-12
    )
    decay = 0.1 if len(shape) == 2 else 0.0
    rate = why["learning_rate"]
    moved = rate * (m / (1 - 0.9**t)) / (math.sqrt(v / (1 - 0.99**t)) + 1e-8) + rate * decay * why["before"]
    assert why["after"] == pytest.approx(why["before"] - moved, rel=1e-5, abs=1e-7)
    assert why["computed"] == pytest.approx(why["after"], rel=1e-6, abs=1e-7)
    after = dict(stepped.trainer.model.named_parameters())[name].to_python()
    assert why["after"] == (after[index[0]] if len(index) == 1 else after[index[0]][index[1]])


@pytest.mark.parametrize(("name", "index"), [("weights", [2, 0]), ("bias", [0])])
def test_why_the_trust_in_counting_moved(name, index):
    session = session_of(ngram_prior=3)
    session.run(4, 1e9)
    session.step()
    recorded, model = session.recorded, session.trainer.model
    why = recorded.explain_weight(f"ngram_prior.confidence.{name}", index)
    by_differences = gradient_by_differences(session, f"ngram_prior.confidence.{name}", index)
    assert why["gradient"] == pytest.approx(by_differences, rel=2e-3, abs=2e-6)
    assert why["gradient"] != 0.0 and "sum over the tokens" in why["note"]
    assert recorded.explain_weight("head.weights", [2, 0])["note"] is None
    of_logits = np.array(recorded.calls[""][1].grad.to_python())
    length = recorded.batch.shape[1]
    for term in why["terms"]:  # dL/dc is the sum over the tokens of dL/dlogit log p
        start, place = term["row"] * length, term["position"]
        ids = list(recorded.batch.inputs[start : start + place + 1])
        target = recorded.batch.targets[start + place]
        if target < 0:
            assert term["output_gradient"] == 0.0
            continue
        p = probabilities_by_counting(model.ngram_prior.counting, ids, target)
        expected = (of_logits[term["row"], place] * np.log(p)).sum()
        assert term["output_gradient"] == pytest.approx(expected, rel=1e-4, abs=1e-7)


def test_another_text_is_counted_in_place_of_the_one_before(default_run):
    microscope = Microscope({"run": str(default_run)})
    before = microscope.model.ngram_prior.counting.num_ngrams
    ask(microscope, "train_new", own_text="\n".join(WORDS), by_line=True, continue_run=True)
    counting = microscope.session.trainer.model.ngram_prior.counting
    data = microscope.session.trainer.data
    assert counting.counts() == CountingModel(64, 7).fit(counted_sequences(data.training_batches)).counts()
    assert microscope.model.ngram_prior.counting.num_ngrams == before, "the run itself stays"
    step = ask(microscope, "train_step")
    mover = step["movers"][0]
    along = ask(microscope, "weight_loss", parameter=mover["parameter"], index=mover["index"])["points"]
    assert along[3]["scale"] == 0.0 and along[3]["loss"] == pytest.approx(step["loss"], rel=1e-6)


def test_the_batch_is_reconciled_with_its_losses(stepped):
    recorded = stepped.recorded
    losses = [entry["loss"] for row in recorded.texts() for entry in row if entry["loss"] is not None]
    assert len(losses) == recorded.batch.num_targets
    assert math.fsum(losses) / len(losses) == pytest.approx(recorded.event["loss"], rel=1e-5)


def test_the_loss_where_only_one_weight_moves(stepped):
    recorded = stepped.recorded
    name, index = "head.weights", [1, 11]
    before = {each: tensor.to_python() for each, tensor in stepped.trainer.model.named_parameters()}
    points = recorded.loss_along(name, index, scales=(0.0, 1.0, 300.0))["points"]
    after = {each: tensor.to_python() for each, tensor in stepped.trainer.model.named_parameters()}
    assert before == after, "the model is as it was"
    weights = {
        each: np.array(buffer.to_python(), dtype=np.float64) for each, buffer in recorded.before.items()
    }
    for point in points:
        weights[name][tuple(index)] = point["value"]
        assert point["loss"] == pytest.approx(
            Reference(stepped.trainer.model, weights).loss(recorded.batch), rel=1e-5
        ), "as in the step: each place is left out of the counts"
    assert points[0]["loss"] == pytest.approx(recorded.event["loss"], rel=1e-6)
    assert points[1]["value"] == pytest.approx(recorded.explain_weight(name, index)["after"])


def test_a_tied_weight_is_used_twice():
    session = session_of(tied=True)
    session.run(2, 1e9)
    session.step()
    recorded = session.recorded
    why = recorded.explain_weight("embedding_layer.embeddings", [recorded.batch.inputs[1], 2])
    assert {term["use"] for term in why["terms"]} == {"looked up", "as the head's weight"}
    assert why["clipped"] == pytest.approx(why["gradient"] * why["factor"], rel=1e-4, abs=1e-9)


def test_a_row_of_a_table_of_n_grams_says_why_it_moved():
    session = session_of(ngram_tables=(64, 128))
    session.run(2, 1e9)
    session.step()
    recorded = session.recorded
    name = "ngram_embedding_layer.tables.1.embeddings"
    row = recorded.rows[name][0]
    why = recorded.explain_weight(name, [row, 3])
    length = recorded.batch.shape[1]
    places = {
        (i, place)
        for i in range(recorded.batch.shape[0])
        for place in range(length)
        if hashed(list(recorded.batch.inputs[i * length : i * length + place + 1]), 3, 128) == row
    }
    assert {(term["row"], term["position"]) for term in why["terms"]} == places
    assert why["clipped"] == pytest.approx(why["gradient"] * why["factor"], rel=1e-4, abs=1e-9)
    assert why["computed"] == pytest.approx(why["after"], rel=1e-5, abs=1e-8)
    table = dict(session.trainer.model.named_parameters())[name].to_python()
    assert why["after"] == table[row][3] and why["shape"] == [128, 8]
    still = next(row for row in range(128) if row not in recorded.rows[name])
    with pytest.raises(ValueError, match="did not move"):
        recorded.explain_weight(name, [still, 0])
    points = recorded.loss_along(name, [row, 3], scales=(0.0, 1.0))["points"]
    assert points[0]["loss"] == pytest.approx(recorded.event["loss"], rel=1e-6)
    assert dict(session.trainer.model.named_parameters())[name].to_python() == table, "as it was"


@pytest.fixture(scope="module")
def default_run(tmp_path_factory) -> Path:
    """Two steps of `tinygpt train` as it is."""
    directory = tmp_path_factory.mktemp("default") / "run"
    config = replace(PRESETS["identifiers"].config, steps=2, backend="python")
    for _ in Trainer.start(config, str(directory)).run():
        pass
    return directory


def test_the_default_model_can_be_looked_into_and_trained_on(default_run):
    microscope = Microscope({"run": str(default_run)})
    views = [view["name"] for view in ask(microscope, "forward", text="get_value")["views"]]
    assert views[-5:] == ["network", "counting", "confidence", "logits", "probabilities"]
    cell = ask(microscope, "cell", text="get_value", view="counting", row=5, column=2)
    assert cell["computed"] == pytest.approx(cell["value"], rel=1e-5, abs=1e-9)
    found = ask(microscope, "distribution", text="get_value", position=5)
    counted = ask(microscope, "view", text="get_value", view="counting")["matrices"][0][5]
    assert found["trust"] == ask(microscope, "view", text="get_value", view="confidence")["matrices"][0][5][0]
    for entry in found["tokens"]:
        assert entry["counted"] == pytest.approx(math.exp(counted[entry["id"]]), rel=1e-12)
    before = ask(microscope, "train_new", corpus="identifiers", continue_run=True)["step"]
    step = ask(microscope, "train_step")
    assert step["step"] == before + 1 and step["movers"]
    for name in ("ngram_prior.confidence.weights", "head.weights"):
        why = ask(microscope, "weight", parameter=name, index=[1, 0])
        assert why["computed"] == pytest.approx(why["after"], rel=1e-5, abs=1e-8)
        assert why["clipped"] == pytest.approx(why["gradient"] * why["factor"], rel=1e-4, abs=1e-9)
    mover = step["movers"][0]
    along = ask(microscope, "weight_loss", parameter=mover["parameter"], index=mover["index"])["points"]
    assert along[3]["scale"] == 0.0 and along[3]["loss"] == pytest.approx(step["loss"], rel=1e-6)


def test_a_model_with_large_tables_can_be_looked_into_and_trained_on(tmp_path):
    tables = (65_536, 65_536)
    config = replace(
        PRESETS["identifiers"].config, steps=2, backend="python", ngram_prior=0, ngram_tables=tables
    )
    for _ in Trainer.start(config, str(tmp_path / "run")).run():
        pass
    microscope = Microscope({"run": str(tmp_path / "run")})
    assert ask(microscope, "about")["parameters"] > MOST_PARAMETERS, "with its tables"
    views = [view["name"] for view in ask(microscope, "forward", text="get_value")["views"]]
    assert views[:3] == ["embedding", "ngrams", "stream"]
    cell = ask(microscope, "cell", text="get_value", view="ngrams", row=5, column=2)
    assert cell["computed"] == pytest.approx(cell["value"], rel=1e-5, abs=1e-9)
    assert len(cell["steps"]) == len(tables) + 2
    assert ask(microscope, "distribution", text="get_value")["trust"] is None
    ask(microscope, "train_new", corpus="identifiers", continue_run=True)
    ask(microscope, "train_step")
    for name, rows in microscope.session.recorded.rows.items():
        why = ask(microscope, "weight", parameter=name, index=[rows[0], 1])
        assert why["computed"] == pytest.approx(why["after"], rel=1e-5, abs=1e-8)
        assert why["clipped"] == pytest.approx(why["gradient"] * why["factor"], rel=1e-4, abs=1e-9)
        assert len(ask(microscope, "train_weights", parameter=name)["rows"]) == MOST_ROWS


def test_a_run_of_one_text_goes_on_with_lines(microscope):
    ask(microscope, "open", run="bpe")
    own = "\n".join(WORDS * 20)
    for by_line in (True, False):
        state = ask(microscope, "train_new", own_text=own, by_line=by_line, continue_run=True)
        assert ask(microscope, "train_run", steps=1)["steps"][0]["step"] == state["step"] + 1


def test_learned_positions_have_a_gradient():
    session = session_of(positions="learned")
    session.step()
    why = session.recorded.explain_weight("position_embedding_layer.embeddings", [2, 1])
    assert why["clipped"] == pytest.approx(why["gradient"] * why["factor"], rel=1e-4, abs=1e-9)
    assert {term["position"] for term in why["terms"]} == {2}


def test_the_largest_movers_moved_most(stepped):
    recorded = stepped.recorded
    movers = recorded.movers(5)
    sizes = [abs(mover["after"] - mover["before"]) for mover in movers]
    everything = [
        np.abs(
            np.array(recorded.after[name].to_python()) - np.array(recorded.before[name].to_python())
        ).ravel()
        for name in recorded.before
    ]
    assert sizes == pytest.approx(sorted(np.concatenate(everything), reverse=True)[:5])


def test_a_training_by_the_protocol(microscope):
    state = ask(
        microscope, "train_new", own_text="\n".join(WORDS), by_line=True, width=8, steps=30, show=True
    )
    assert state["step"] == 0 and ask(microscope, "about")["shows_training"]
    first = ask(microscope, "forward", text="get_")
    done = ask(microscope, "train_run", steps=25, milliseconds=2000)["steps"]
    assert done and done[0]["step"] == 1
    assert ask(microscope, "forward", text="get_")["predictions"] != first["predictions"], "it has learned"
    step = ask(microscope, "train_step")
    mover = step["movers"][0]
    why = ask(microscope, "weight", parameter=mover["parameter"], index=mover["index"])
    assert why["before"] == mover["before"] and why["after"] == mover["after"]
    assert (
        len(ask(microscope, "weight_loss", parameter=mover["parameter"], index=mover["index"])["points"]) == 7
    )
    assert len(ask(microscope, "train_sample", count=2)["texts"]) == 2
    assert ask(microscope, "train_weights", parameter="head.weights")["shape"] == [8, state["vocabulary"]]
    assert ask(microscope, "train_show", show=False)["run"] == "documents"


def test_a_run_can_be_gone_on_with(microscope, tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("\n".join(WORDS))
    microscope.corpora["words"] = str(words)
    before = json.dumps(ask(microscope, "forward", text="ge")["predictions"])
    state = ask(microscope, "train_new", corpus="words", continue_run=True)
    assert (
        state["step"] > 0 and ask(microscope, "train_run", steps=1)["steps"][0]["step"] == state["step"] + 1
    )
    assert json.dumps(ask(microscope, "forward", text="ge")["predictions"]) == before, "the run itself stays"


# ---------------------------------------------------------------- requests that make no sense

HOSTILE = [
    "</script>",
    "<img src=x onerror=alert(1)>",
    "\u2028\u2029",
    "\u202eabc\u202c",
    "\ud800",
    "\0\x1b[31m",
]


@pytest.mark.parametrize("run", ["documents", "bpe"])
@pytest.mark.parametrize("text", [*HOSTILE, "x" * MOST_CHARACTERS])
def test_any_text_is_read_or_refused_in_one_line(microscope, run, text):
    ask(microscope, "open", run=run)
    answer = microscope.answer_text(json.dumps({"method": "forward", "params": {"text": text}}))
    assert answer.isascii()
    found = json.loads(answer)
    assert ("result" in found) != ("error" in found)
    assert "error" not in found or "\n" not in found["error"]
    if run == "bpe":
        assert "result" in found, "bytes can be any text"


@pytest.mark.parametrize(
    "request_text",
    [
        "", "[]", "null", "{", '{"method": 1}', '{"method": "__init__"}', '{"method": "answer_text"}',
        '{"method": "open", "params": {"run": "../../etc"}}', '{"method": "forward", "params": []}',
        '{"method": "forward", "params": {"text": 3}}', '{"method": "forward", "params": {}}',
        '{"method": "forward", "params": {"text": "a", "heads": [[0, 99]]}}',
        '{"method": "forward", "params": {"text": "a", "heads": "all"}}',
        '{"method": "forward", "params": {"text": "a", "parts": [[0, "soul"]]}}',
        '{"method": "view", "params": {"text": "a", "view": "nothing"}}',
        '{"method": "cell", "params": {"text": "a", "view": "stream", "row": 99, "column": 0}}',
        '{"method": "cell", "params": {"text": "a", "view": "stream", "row": -1, "column": 0}}',
        '{"method": "cell", "params": {"text": "a", "view": "stream", "row": 1e400, "column": 0}}',
        '{"method": "cell", "params": {"text": "a", "view": "stream", "row": true, "column": 0}}',
        '{"method": "cell", "params": {"text": "a", "view": "blocks.7.query", "row": 0, "column": 0}}',
        '{"method": "attention", "params": {"text": "a", "layer": 5, "head": 0, "row": 0}}',
        '{"method": "distribution", "params": {"text": "a", "temperature": -1}}',
        '{"method": "distribution", "params": {"text": "a", "temperature": NaN}}',
        '{"method": "distribution", "params": {"text": "a", "top_p": 0}}',
        '{"method": "draw", "params": {"text": "a", "seed": -1}}',
        '{"method": "train_step"}', '{"method": "weight"}', '{"method": "train_weights"}',
        '{"method": "train_new", "params": {"corpus": "/etc/passwd"}}',
        '{"method": "train_new", "params": {"own_text": ""}}',
        '{"method": "train_new", "params": {"own_text": "abc", "layers": 99}}',
        '{"method": "train_new", "params": {"own_text": "ab"}}',
        "[" * 100_000,
    ],
)  # fmt: skip
def test_nonsense_is_refused_in_one_line(microscope, request_text):
    answer = json.loads(microscope.answer_text(request_text))
    assert set(answer) == {"error"} and answer["error"] and "\n" not in answer["error"]


def test_the_longest_text_to_train_on_is_no_request_too_long(microscope):
    request = json.dumps(
        {"method": "train_new", "params": {"own_text": "𝒳" * MOST_CORPUS}}, ensure_ascii=False
    )
    assert len(request.encode()) <= LONGEST_REQUEST


@pytest.mark.parametrize("problem", [RuntimeError, RecursionError, MemoryError, KeyError])
def test_what_goes_wrong_inside_is_an_answer(microscope, monkeypatch, problem):
    def fails(text: str, *_: Any) -> None:
        raise problem("so")

    monkeypatch.setattr(microscope, "_ids", fails)
    assert "so" in microscope.answer({"method": "forward", "params": {"text": "a"}})["error"]


def test_nothing_but_the_methods_can_be_asked_for(microscope):
    public = {
        name for name in vars(Microscope) if not name.startswith("_") and callable(getattr(microscope, name))
    }
    assert public - set(METHODS) == {"answer", "answer_text"}
    for name in METHODS:
        assert set(microscope.answer({"method": name, "params": {"text": 1.5}})) <= {"result", "error"}


def test_runs_have_names_of_their_own(tmp_path):
    for folder in ("a/run", "b/run"):
        (tmp_path / folder).mkdir(parents=True)
    named = runs_of([str(tmp_path / "a/run"), str(tmp_path / "b/run")])
    assert list(named) == ["run", "run'"]


def test_importing_the_core_loads_no_microscope():
    code = "import tinygpt_core, sys; print([n for n in sys.modules if 'live' in n or n == 'http.server'])"
    command = [sys.executable, "-S", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=RUNS.parents[2])
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("kind", ACTIVATION_FUNCTIONS)
def test_every_activation_of_a_number_is_that_of_a_tensor(kind: str) -> None:
    numbers = [-30.0, -2.0, -0.5, 0.0, 0.25, 1.0, 4.0, 30.0]
    expected = ACTIVATION_FUNCTIONS[kind](Tensor(numbers, dtype=DType.float64)).to_python()
    assert [activated(kind, x) for x in numbers] == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_a_run_of_muon_is_not_continued_on_the_page(tmp_path: Path) -> None:
    """It shows AdamW's steps, and would make moments of AdamW for it."""
    (tmp_path / "words.txt").write_text("get_size\nset_name\n" * 8)
    config = replace(
        PRESETS["debug"].config, corpus="names", data_file=str(tmp_path / "words.txt"), optimizer="muon"
    )
    Trainer.start(config, str(tmp_path / "run"))
    microscope = Microscope({"run": str(tmp_path / "run")})
    request = {"method": "train_new", "params": {"corpus": "identifiers", "continue_run": True}}
    assert "trained by muon" in microscope.answer(request)["error"]
