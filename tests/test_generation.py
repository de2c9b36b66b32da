"""Sampling: which index may be drawn, when generation stops, and that text comes out whole."""

from __future__ import annotations

import functools
import math
import operator
from types import SimpleNamespace
from typing import Any

import pytest

from tinygpt_core import backends, random
from tinygpt_core.generation import (
    check_sampling,
    continue_ids,
    generate,
    generate_ids,
    most_probable,
    penalized,
    sample_index,
    sampling_candidates,
)
from tinygpt_core.module import Module
from tinygpt_core.nn.gpt import GPT, GPTConfig
from tinygpt_core.tensor import Tensor
from tinygpt_core.tokenizer import BPETokenizer, CharTokenizer, RegexPatterns


@pytest.fixture(scope="module")
def model() -> GPT:
    random.seed(5)
    return GPT(
        GPTConfig(vocab_size=11, context_length=6, num_layers=2, num_heads=2, embedding_dim=8, dropout=0.5)
    )


def draws(logits: list[float], count: int = 300, **options: float) -> list[int]:
    settings: Any = {"generator": random.Generator(1), **options}
    return [sample_index(logits, **settings) for _ in range(count)]


# ---- sample_index


def test_greedy_takes_the_first_of_the_largest() -> None:
    assert sample_index([0.0, 3.0, 3.0, 1.0], temperature=0) == 1


def test_draws_follow_the_probabilities() -> None:
    counts = [draws([math.log(1), math.log(2), math.log(7)], 4000).count(index) / 4000 for index in range(3)]
    assert counts == pytest.approx([0.1, 0.2, 0.7], abs=0.03)


def test_temperature_sharpens_and_flattens() -> None:
    logits = [0.0, 1.0]
    assert (
        draws(logits, temperature=0.1).count(1)
        > draws(logits).count(1)
        > draws(logits, temperature=50).count(1)
    )


def test_top_k_and_top_p_limit_the_candidates() -> None:
    logits = [math.log(p) for p in (0.1, 0.4, 0.2, 0.3)]
    assert set(draws(logits, top_k=1)) == {1}
    assert set(draws(logits, top_k=2)) == {1, 3}
    assert set(draws(logits, top_k=99)) == {0, 1, 2, 3}
    assert set(draws(logits, top_p=0.39)) == {1}
    assert set(draws(logits, top_p=0.69)) == {1, 3}
    assert set(draws(logits, top_p=1.0)) == {0, 1, 2, 3}
    assert set(draws(logits, top_k=3, top_p=0.99)) == {1, 2, 3}


def test_huge_and_impossible_logits() -> None:
    assert sample_index([-math.inf, 1e300, -1e300], generator=random.Generator(1)) == 1


@pytest.mark.parametrize("logits", [[], [math.nan, 0.0], [math.inf, 0.0], [-math.inf, -math.inf]])
def test_logits_that_mean_nothing_are_refused(logits: list[float]) -> None:
    with pytest.raises(ValueError, match=r"empty|not finite"):
        sample_index(logits)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -1.0),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_k", 0),
        ("top_p", 0.0),
        ("top_p", 1.1),
    ],
)
def test_settings_out_of_range_are_refused(model: GPT, name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        sample_index([0.0], **{name: value})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=name):
        list(generate_ids(model, [1], tokens=1, **{name: value}))  # type: ignore[arg-type]


# ---- generate_ids


def greedy_without_a_cache(model: GPT, prompt_ids: list[int], tokens: int, keep: int) -> list[int]:
    """Runs the whole window anew for every token; a full one goes on with its last `keep` positions."""
    history = list(prompt_ids)
    window = list(prompt_ids)
    model.eval()
    for _ in range(tokens):
        if len(window) > model.config.context_length:
            window = history[-keep:]
        row = model(Tensor([window])).to_python()[0][-1]
        history.append(row.index(max(row)))
        window.append(history[-1])
    return history[len(prompt_ids) :]


@pytest.mark.parametrize("keep", [1, 2, 3, 5, 6])
def test_the_cache_changes_nothing(model: GPT, keep: int) -> None:
    expected = greedy_without_a_cache(model, [3, 1], 20, keep)
    assert list(continue_ids(model, [3, 1], most_probable, tokens=20, keep=keep)) == expected
    if keep == 3:  # half of the context
        assert list(generate_ids(model, [3, 1], tokens=20, temperature=0)) == expected
    if keep == 6:  # all of it
        assert model.generate_greedy(Tensor([[3, 1]]), 20).to_python() == [[3, 1, *expected]]


class Recorded:
    """A model that notes what it sees: for each call, the ids at positions 0, 1, 2, … of its context."""

    def __init__(self, model: GPT) -> None:
        self.model, self.config = model, model.config
        self.seen: list[list[int]] = []
        self.runs: list[int] = []  # how many positions each call computes

    def new_cache(self, batch_size: int) -> Any:
        return self.model.new_cache(batch_size)

    def __call__(self, token_ids: Tensor, cache: Any) -> Tensor:
        ids = token_ids.to_python()[0]
        before = self.seen[-1][: cache.length] if cache.length else []
        assert len(before) == cache.length, "the cache holds positions that no call has filled"
        self.seen.append([*before, *ids])
        self.runs.append(len(ids))
        return self.model(token_ids, cache=cache)


@pytest.mark.parametrize("context_length", [1, 2, 3, 4, 7])
def test_what_the_model_sees_at_each_token(context_length: int) -> None:
    """Ids and positions of every call, for prompts around the length of the context and every `keep`.

    As long as the context has room one position is added; the call that has none begins again with the last
    `keep` ids at positions 0 to keep - 1. What is drawn is what the model without a cache draws from that.
    """
    random.seed(8)
    model = GPT(
        GPTConfig(vocab_size=11, context_length=context_length, num_layers=1, num_heads=2, embedding_dim=8)
    )
    model.eval()
    for length in sorted(
        {1, context_length - 1, context_length, context_length + 1, 2 * context_length} - {0}
    ):
        prompt = [(3 * i + 1) % 11 for i in range(length)]
        for keep in range(1, context_length + 1):
            recorded = Recorded(model)
            new = list(
                continue_ids(recorded, prompt, most_probable, tokens=2 * context_length + 2, keep=keep)
            )
            text, first, runs = [*prompt, *new], max(0, length - context_length), []
            for number, (seen, drawn) in enumerate(zip(recorded.seen, new, strict=True)):
                known = length + number  # ids there are before this one is drawn
                runs.append(known - first if number == 0 else 1)
                if known - first > context_length:
                    first, runs[-1] = known - keep, keep
                note = f"context {context_length}, prompt of {length}, keep {keep}, token {number}"
                assert seen == text[first:known], f"{note}: the model saw {seen}"
                row = model(Tensor([seen])).to_python()[0][-1]
                assert drawn == row.index(max(row)), f"{note}: {drawn} was drawn"
            assert recorded.runs == runs, "positions that a call computes"


@pytest.mark.parametrize("context_length, half", [(1, 1), (2, 1), (3, 1), (4, 2), (7, 3)])
def test_a_full_context_goes_on_with_its_last_half(context_length: int, half: int) -> None:
    random.seed(8)
    model = GPT(
        GPTConfig(vocab_size=11, context_length=context_length, num_layers=1, num_heads=2, embedding_dim=8)
    )
    recorded = Recorded(model)
    list(generate_ids(recorded, [1], tokens=2 * context_length + 1, temperature=0))
    lengths = [len(seen) for seen in recorded.seen]
    again = [*range(half, context_length + 1)] * (context_length + 2)
    assert lengths == [*range(1, context_length + 1), *again][: len(lengths)]


def test_a_prompt_longer_than_the_context_is_cropped(model: GPT) -> None:
    long = [index % 11 for index in range(50)]
    assert list(generate_ids(model, long, tokens=1, temperature=0)) == list(
        generate_ids(model, long[-6:], tokens=1, temperature=0)
    )


def test_generation_stops_at_the_stop_id(model: GPT) -> None:
    free = list(generate_ids(model, [1], tokens=30, generator=random.Generator(2)))
    stopped = list(generate_ids(model, [1], tokens=30, generator=random.Generator(2), stop_id=free[4]))
    assert stopped == free[: free.index(free[4])]


def test_the_mode_of_the_model_is_put_back(model: GPT) -> None:
    for mode in (True, False):
        model.train(mode)
        list(generate_ids(model, [1], tokens=2))
        assert model.training is mode


def test_no_tokens_and_no_start(model: GPT) -> None:
    assert list(generate_ids(model, [1], tokens=0)) == []
    with pytest.raises(ValueError, match="at least one token"):
        list(generate_ids(model, [], tokens=1))
    with pytest.raises(ValueError, match="tokens"):
        list(generate_ids(model, [1], tokens=-1))


# ---- generate


class Scripted(Module):
    """A model that gives the ids of a script, whatever it is shown."""

    def __init__(self, script: list[int], vocab_size: int) -> None:
        super().__init__()
        self.config = SimpleNamespace(context_length=1000, vocab_size=vocab_size)
        self.script, self.vocab_size, self.calls = script, vocab_size, 0

    def new_cache(self, batch_size: int) -> object:
        return type("Cache", (), {"length": 0})()

    def __call__(self, token_ids: Tensor, cache: object) -> Tensor:
        logits = [0.0] * self.vocab_size
        logits[self.script[self.calls]] = 1.0
        self.calls += 1
        return Tensor([[logits] * token_ids.shape[1]])


@pytest.mark.parametrize("text", ["naïve 日本語 🙂 é", "plain", "🙂"])
def test_characters_of_several_tokens_come_whole(text: str) -> None:
    tokenizer = BPETokenizer(RegexPatterns.GPT4)
    tokenizer.train("plain text", 256)  # bytes: every character beyond ASCII takes several tokens
    script = tokenizer.encode(text)
    pieces = list(generate(Scripted(script, 256), tokenizer, "x", tokens=len(script), temperature=0))
    assert "".join(pieces) == text
    assert all("\ufffd" not in piece for piece in pieces)


def test_bytes_that_are_no_text_become_replacement_characters() -> None:
    tokenizer = BPETokenizer(RegexPatterns.GPT4)
    tokenizer.train("plain text", 256)
    broken = [0xFF, 0xC3, 0xC3, 0xA9, 0x41, 0xE6, 0x97]
    script = [tokenizer.encode("\0")[0] + byte if tokenizer.encode("\0") == [0] else byte for byte in broken]
    pieces = list(generate(Scripted(script, 256), tokenizer, "x", tokens=len(script), temperature=0))
    assert "".join(pieces) == bytes(broken).decode("utf-8", "replace")


def test_a_document_begins_after_the_boundary_and_ends_at_it() -> None:
    tokenizer = CharTokenizer.train("abc")
    tokenizer.register_special_tokens({"<|endoftext|>": tokenizer.vocab_size})
    boundary = tokenizer.special_tokens["<|endoftext|>"]
    script = [*tokenizer.encode("cab"), boundary, *tokenizer.encode("aaa")]
    model = Scripted(script, tokenizer.vocab_size)
    assert "".join(generate(model, tokenizer, "", tokens=7, temperature=0, stop_id=boundary)) == "cab"


@pytest.mark.parametrize("place", ["python", "numpy"])
def test_a_model_is_sampled_on_its_own_backend(place):
    """Whichever backend is in use: in another thread, for example, that is the default one."""
    if reason := backends.why_not(place):
        pytest.skip(f"needs the {place} backend: {reason}")
    config = GPTConfig(vocab_size=9, context_length=4, num_layers=1, num_heads=1, embedding_dim=4)
    with backends.use(place):
        model = GPT(config)
        expected = list(generate_ids(model, [1, 2], tokens=6, temperature=0.0))
    for other in ("python", "numpy"):
        if not backends.why_not(other):
            with backends.use(other):
                assert list(generate_ids(model, [1, 2], tokens=6, temperature=0.0)) == expected


# ---- settings


class Fixed(Module):
    """A model that gives the same logits whatever it has seen."""

    logits = (0.3, 2.0, -1.0, 1.5, 0.9)

    class config:
        context_length = 4
        vocab_size = 5

    def new_cache(self, batch_size: int) -> Any:
        class Cache:
            length = 0

            def reset(self) -> None:
                self.length = 0

        return Cache()

    def __call__(self, ids: Tensor, cache: Any) -> Tensor:
        cache.length += ids.shape[1]
        return Tensor([[list(self.logits)] * ids.shape[1]])


SETTINGS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.25},
    {"temperature": 0.0},
    {"top_k": 2},
    {"top_p": 0.5},
    {"temperature": 3.0, "top_k": 4, "top_p": 0.8},
    {"stop_id": 3},
    {"min_p": 0.5},
    {"min_p": 0.2, "temperature": 2.0, "repetition_penalty": 3.0},
    {"repetition_penalty": 0.5},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_settings_reach_every_draw(settings: dict[str, Any]) -> None:
    """Of `generate`, by way of `generate_ids`, which are those of `sample_index`; also which numbers are
    drawn, and how many.
    """
    tokenizer = CharTokenizer("abcde")
    others = ("stop_id", "repetition_penalty")
    of_draws = {name: value for name, value in settings.items() if name not in others}
    stop, penalty = settings.get("stop_id"), settings.get("repetition_penalty", 1.0)
    generator = random.Generator(7)
    wanted: list[int] = []
    for _ in range(40):
        logits = penalized(Tensor(Fixed.logits).to_python(), [1, *wanted], penalty)
        wanted.append(sample_index(logits, **of_draws, generator=generator))
    if stop is not None:
        assert stop in wanted
        wanted = wanted[: wanted.index(stop)]
    found = list(generate_ids(Fixed(), [1], tokens=40, generator=random.Generator(7), **settings))
    assert found == wanted
    text = "".join(generate(Fixed(), tokenizer, "b", tokens=40, generator=random.Generator(7), **settings))
    assert text == tokenizer.decode(wanted)


def test_texts_to_stop_at_and_special_tokens_reach_the_text() -> None:
    tokenizer = CharTokenizer("abcde")
    tokenizer.register_special_tokens({"<|end|>": 5})
    script = tokenizer.encode("abcde")
    for stop, wanted in (((), "abcde"), (("zz", "cd"), "ab")):
        found = generate(Scripted(script, 6), tokenizer, "e", tokens=5, temperature=0, stop=stop)
        assert "".join(found) == wanted
    with pytest.raises(ValueError, match="special"):
        list(generate(Scripted(script, 6), tokenizer, "<|end|>", tokens=5, temperature=0))
    settings: dict[str, Any] = {"tokens": 5, "temperature": 0, "special_tokens": True}
    assert "".join(generate(Scripted(script, 6), tokenizer, "<|end|>", **settings)) == "abcde"


@pytest.mark.parametrize(
    ("tokens", "temperature", "top_k", "top_p", "min_p", "penalty"),
    [(0, 0.0, 1, 1.0, 1.0, 5e-324), (1, 5e-324, None, 5e-324, 5e-324, 1e308)],
)
def test_settings_at_their_limits_are_taken(
    tokens: int, temperature: float, top_k: int | None, top_p: float, min_p: float, penalty: float
) -> None:
    check_sampling(tokens, temperature, top_k, top_p, min_p, penalty)


def test_the_smallest_set_that_reaches_a_share() -> None:
    """No candidate more than it takes, and all where rounding leaves their sum below the whole."""
    assert set(draws([0.0, 0.0, 0.0, 0.0], top_p=0.5)) == {0, 1}
    assert set(draws([0.0, 0.0, 0.0, 0.0], top_p=0.51)) == {0, 1, 2}
    logits = [-0.7, 0.0, -0.3]
    weights = sorted(map(math.exp, logits), reverse=True)
    assert functools.reduce(operator.add, weights) < math.fsum(weights)  # sum() compensates from 3.12 on
    candidates, found = sampling_candidates(logits, top_p=1.0)
    assert candidates == [1, 2, 0] and found == pytest.approx(weights)
    assert sampling_candidates(logits)[1] == pytest.approx(weights)
    assert sampling_candidates(logits, temperature=0.0) == ([1], [1.0])


def test_what_is_exactly_as_probable_as_it_must_be_may_be_drawn() -> None:
    assert sampling_candidates([0.0, 1.0, 1.0], min_p=1.0) == ([1, 2], [1.0, 1.0])
    share = math.exp(-0.5)
    assert sampling_candidates([0.0, -0.5, -0.75], min_p=share) == ([0, 1], [1.0, share])
