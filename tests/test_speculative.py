"""Speculative decoding: texts have the very distribution of the target, whatever the draft is;
and the command `generate --draft`.

Exactly: with small vocabularies every way that the draws can go is gone once, and the probabilities of those
that end in the same text are added.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_runs import TINY_WITHOUT_COUNTING as TINY
from small_runs import WORDS
from test_cli import assert_refused, tinygpt

from tinygpt_core import backends, random
from tinygpt_core.formats import save_pretrained
from tinygpt_core.generation import generate, generate_ids
from tinygpt_core.nn import GPT, GPTConfig
from tinygpt_core.nn.cache import KeyValueCache
from tinygpt_core.speculative import SpeculativeDecoding, _checked, _Reader
from tinygpt_core.tensor import Tensor
from tinygpt_core.tokenizer import BPETokenizer, CharTokenizer, load_tokenizer

Texts = dict[tuple[int, ...], float]

# ---- every way that the draws can go


class Way:
    """A generator whose draws are given; beyond them it takes the first that is possible, and notes what else
    is.
    """

    def __init__(self, given: Sequence[int]) -> None:
        self.taken = list(given)
        self.shares: list[list[float]] = []

    def choice(self, weights: Sequence[float]) -> int:
        assert all(weight >= 0.0 for weight in weights)
        number = len(self.shares)
        self.shares.append([weight / sum(weights) for weight in weights])
        if number == len(self.taken):
            self.taken.append(next(i for i, weight in enumerate(weights) if weight > 0.0))
        return self.taken[number]

    @property
    def probability(self) -> float:
        return math.prod(shares[i] for i, shares in zip(self.taken, self.shares, strict=True))

    def following(self) -> list[int] | None:
        """The draws of the next way, in order; None after the last."""
        for place in reversed(range(len(self.taken))):
            later = range(self.taken[place] + 1, len(self.shares[place]))
            for i in later:
                if self.shares[place][i] > 0.0:
                    return [*self.taken[:place], i]
        return None


def distribution(draw: Callable[[Any], Iterator[int]]) -> Texts:
    """The probability of each text that `draw` can give with a generator."""
    found: Texts = {}
    given: list[int] | None = []
    while given is not None:
        way = Way(given)
        ids = tuple(draw(way))
        found[ids] = found.get(ids, 0.0) + way.probability
        given = way.following()
    assert sum(found.values()) == pytest.approx(1.0)
    return found


def assert_same(found: Texts, expected: Texts, tolerance: float) -> None:
    for ids in found.keys() | expected.keys():
        assert found.get(ids, 0.0) == pytest.approx(expected.get(ids, 0.0), abs=tolerance), ids


class Seen:
    """A cache of what a `Table` has seen."""

    def __init__(self) -> None:
        self.ids: list[int] = []

    @property
    def length(self) -> int:
        return len(self.ids)

    def reset(self) -> None:
        self.ids.clear()

    def rewind(self, length: int) -> None:
        assert 0 <= length <= len(self.ids)
        del self.ids[length:]


class Table:
    """A model whose logits are drawn anew for every text that it can see, all of which counts."""

    def __init__(self, vocab_size: int, context_length: int, seed: int, spread: float) -> None:
        self.config = SimpleNamespace(vocab_size=vocab_size, context_length=context_length)
        self.seed, self.spread = seed, spread
        self.read = 0

    def new_cache(self, batch_size: int) -> Seen:
        return Seen()

    def __call__(self, ids: Tensor, cache: Seen) -> Tensor:
        rows = []
        for token in ids.to_python()[0]:
            cache.ids.append(token)
            self.read += 1
            assert len(cache.ids) <= self.config.context_length
            number = self.seed
            for each in cache.ids:
                number = (number * 31 + each + 7) % 2**31
            generator = random.Generator(number)
            rows.append(
                [self.spread * math.log(1e-6 + generator.uniform()) for _ in range(self.config.vocab_size)]
            )
        return Tensor([rows])


def widened(model: GPT, factor: float) -> GPT:
    """The model with larger weights, so that its distributions are no even ones, and none of them 0."""
    model.apply(lambda tensor: tensor * factor + 0.03)
    return model


@st.composite
def options(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "temperature": draw(st.sampled_from([0.0, 0.5, 1.0, 1.7])),
        "top_k": draw(st.sampled_from([None, None, 1, 2])),
        "top_p": draw(st.sampled_from([None, None, 0.5, 0.9])),
        "min_p": draw(st.sampled_from([None, None, 0.3])),
        "repetition_penalty": draw(st.sampled_from([1.0, 1.0, 2.0])),
        "stop_id": draw(st.sampled_from([None, 0])),
        "excluded": draw(st.sampled_from([(), (), (2,)])),
    }


@settings(deadline=None)
@given(
    seeds=st.tuples(st.integers(0, 999), st.integers(0, 999)),
    lengths=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    prompt=st.lists(st.integers(0, 2), min_size=1, max_size=5),
    tokens=st.integers(0, 3),
    draft_tokens=st.integers(1, 3),
    options=options(),
)
def test_texts_are_as_probable_as_the_target_alone_makes_them(
    seeds: tuple[int, int],
    lengths: tuple[int, int],
    prompt: list[int],
    tokens: int,
    draft_tokens: int,
    options: dict[str, Any],
) -> None:
    target, draft = (
        Table(3, length, seed, spread)
        for length, seed, spread in zip(lengths, seeds, (1.0, 1.5), strict=True)
    )
    sampler = SpeculativeDecoding(draft, draft_tokens)
    chosen = {"tokens": tokens, **options}
    found = distribution(lambda way: sampler(target, prompt, generator=way, **chosen))
    expected = distribution(lambda way: generate_ids(target, prompt, generator=way, **chosen))
    assert_same(found, expected, 1e-12)
    assert 0 <= sampler.accepted <= sampler.drafted


@pytest.mark.parametrize(
    "changes",
    [{}, {"ngram_tables": (5, 7)}, {"positions": "rotary", "value_embeddings": 1}, {"ngram_prior": 2}],
)
def test_so_it_is_with_a_gpt_whose_cache_is_taken_back(changes: dict[str, Any]) -> None:
    with random.use_generator(random.Generator(3)):
        target, draft = (
            widened(GPT(GPTConfig(3, length, layers, 1, 4, **changes)), 25.0)
            for length, layers in ((4, 2), (3, 1))
        )
    for model in (target, draft) if "ngram_prior" in changes else ():
        model.ngram_prior.count([[0, 1, 2, 2, 1, 0, 1, 1, 2, 0]])
        model.ngram_prior.confidence.bias.assign(Tensor([2.0]))
    sampler = SpeculativeDecoding(draft, 2)
    found = distribution(lambda way: sampler(target, [1, 0], tokens=3, temperature=0.8, generator=way))
    expected = distribution(
        lambda way: generate_ids(target, [1, 0], tokens=3, temperature=0.8, generator=way)
    )
    assert len(expected) == 27 and max(expected.values()) > 2 * min(expected.values())
    assert_same(found, expected, 1e-5)
    assert 0 < sampler.accepted < sampler.drafted


def test_draws_of_the_generator_follow_the_target() -> None:
    """By Pearson's chi-square over 27 texts: 99.9 % of fair samples lie below 54.05 with 26 degrees."""
    target, draft = Table(3, 8, 1, 1.0), Table(3, 8, 2, 1.5)
    expected = distribution(lambda way: generate_ids(target, [1], tokens=3, generator=way))
    generator, sampler = random.Generator(11), SpeculativeDecoding(draft, 2)
    count = 2000
    drawn = Counter(tuple(sampler(target, [1], tokens=3, generator=generator)) for _ in range(count))
    assert len(expected) == 27 and min(expected.values()) * count > 1
    statistic = sum((drawn[ids] - count * p) ** 2 / (count * p) for ids, p in expected.items())
    assert statistic < 54.05


# ---- what is saved, and what is not


@pytest.fixture(scope="module")
def models() -> tuple[GPT, GPT]:
    with random.use_generator(random.Generator(8)):
        large = GPT(GPTConfig(11, 12, 2, 2, 8, positions="rotary"))
        small = GPT(GPTConfig(11, 7, 1, 1, 4, ngram_tables=(16,)))
    return widened(large, 10.0), widened(small, 10.0)


@pytest.mark.parametrize("draft_tokens", [1, 2, 5, 30])
def test_greedy_gives_the_text_that_it_gives_without_a_draft(
    models: tuple[GPT, GPT], draft_tokens: int
) -> None:
    large, _ = models
    chosen = {"tokens": 40, "temperature": 0.0, "repetition_penalty": 1.1}
    expected = list(generate_ids(large, [3, 1], **chosen))  # type: ignore[arg-type]
    assert len(set(expected)) > 2
    for draft in models:
        sampler = SpeculativeDecoding(draft, draft_tokens)
        assert list(sampler(large, [3, 1], **chosen)) == expected  # type: ignore[arg-type]


def test_a_draft_that_is_the_target_is_always_right() -> None:
    model = Table(5, 64, 4, 1.0)
    for draft_tokens in (1, 3, 4):
        sampler = SpeculativeDecoding(Table(5, 64, 4, 1.0), draft_tokens)
        ids = list(sampler(model, [1], tokens=20, generator=random.Generator(1)))
        assert len(ids) == 20 and sampler.accepted == sampler.drafted == 20 - sampler.runs
        assert sampler.runs == math.ceil(20 / (draft_tokens + 1))


def test_no_position_is_read_twice_by_the_target() -> None:
    """But those that were guessed wrongly: each run reads the last token and the guesses."""
    model, draft = Table(4, 64, 1, 1.0), Table(4, 64, 2, 1.0)
    sampler = SpeculativeDecoding(draft, 3)
    ids = list(sampler(model, [1, 2], tokens=30, generator=random.Generator(1)))
    assert model.read == 2 + len(ids) - 1 + sampler.drafted - sampler.accepted
    assert 0 < sampler.accepted < sampler.drafted and sampler.accepted + sampler.runs == len(ids)


class Remembering(Table):
    """A table that keeps every text it has read, up to the token that it read last."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.texts: list[tuple[int, ...]] = []

    def __call__(self, ids: Tensor, cache: Seen) -> Tensor:
        found = super().__call__(ids, cache)
        count = len(ids.to_python()[0])
        ends = range(cache.length - count + 1, cache.length + 1)
        self.texts += [tuple(cache.ids[:end]) for end in ends]
        return found


@pytest.mark.parametrize("draft_tokens", [1, 2, 5])
def test_neither_of_the_models_reads_a_text_twice(draft_tokens: int) -> None:
    """What was not taken back is in its cache."""
    models = Remembering(4, 64, 1, 1.0), Remembering(4, 64, 2, 1.0)
    sampler = SpeculativeDecoding(models[1], draft_tokens)
    list(sampler(models[0], [1, 2], tokens=30, generator=random.Generator(1)))
    assert 0 < sampler.accepted < sampler.drafted
    for model in models:
        assert len(set(model.texts)) == len(model.texts) > 20


def test_a_reader_that_is_taken_back_sees_what_fits() -> None:
    """All of a text that is short enough, or else the half that a full context is filled anew with."""
    for length, start, read in ((7, 6, 1), (6, 4, 0), (5, 3, 0), (3, 1, 0), (2, 0, 0), (1, 0, 0)):
        reader = _Reader(Table(3, 4, 1, 1.0), [0])
        ids = [0, 1, 2, 0, 1, 2, 0, 1]
        reader.logits(ids, 1)
        assert (reader.start, reader.cache.length) == (6, 2)
        reader.take_back(length)
        assert (reader.start, reader.cache.length) == (start, read)


@pytest.mark.parametrize(
    ("p", "q", "token", "draws"),
    [
        ({0: 0.25, 1: 0.5, 2: 0.25}, {0: 0.25, 1: 0.25, 2: 0.5}, 1, 1),  # 1 alone was offered too seldom
        ({0: 0.5, 1: 0.25, 2: 0.25}, {0: 0.25, 2: 0.75}, 0, 2),  # 0 and 1, equally
        ({0: 0.5, 2: 0.5}, {0: 0.5, 2: 0.5 + 1e-16}, 0, 2),  # p is q but for rounding, and p is drawn from
        ({1: 1.0}, {2: 1.0}, 1, 0),  # what the target never says is no matter of chance
    ],
    ids=str,
)
def test_what_is_drawn_where_a_guess_is_refused(
    p: dict[int, float], q: dict[int, float], token: int, draws: int
) -> None:
    """From what the target wants more than the draft has offered; of one token nothing is drawn."""
    way: Any = Way([1, 0][:draws])
    assert _checked(p, q, 2, way) == (token, False)
    assert len(way.shares) == draws


@pytest.mark.parametrize(
    "wrong",
    [
        {"tokens": -1},
        {"temperature": -1.0},
        {"top_k": 0},
        {"top_p": 0.0},
        {"min_p": 2.0},
        {"repetition_penalty": 0.0},
    ],
    ids=str,
)
def test_settings_are_checked_as_they_are_without_a_draft(
    models: tuple[GPT, GPT], wrong: dict[str, Any]
) -> None:
    """Before anything is drawn, or nothing."""
    chosen = {"tokens": 0, **wrong}
    with pytest.raises(ValueError) as plain:
        next(generate_ids(models[0], [1], **chosen))
    with pytest.raises(ValueError) as drafted:
        next(SpeculativeDecoding(models[1])(models[0], [1], **chosen))
    assert str(drafted.value) == str(plain.value)


def test_what_cannot_help_is_refused(models: tuple[GPT, GPT]) -> None:
    large, small = models
    with pytest.raises(ValueError, match="draft_tokens must be 1 or more, not 0"):
        SpeculativeDecoding(small, 0)
    other = SpeculativeDecoding(GPT(GPTConfig(12, 7, 1, 1, 4)))
    with pytest.raises(ValueError, match="has 12 tokens, and the model 11"):
        next(other(large, [1], tokens=1))
    sampler = SpeculativeDecoding(small)
    with pytest.raises(ValueError, match="at least one token"):
        next(sampler(large, [], tokens=1))
    with pytest.raises(ValueError, match="top_k must be 1 or more"):
        next(sampler(large, [1], tokens=1, top_k=0))


def test_texts_of_generate_with_a_draft(models: tuple[GPT, GPT]) -> None:
    large, small = models
    tokenizer = CharTokenizer("abcdefghijk")
    plain = "".join(generate(large, tokenizer, "ab", tokens=20, temperature=0.0))
    sampler = SpeculativeDecoding(small)
    assert "".join(generate(large, tokenizer, "ab", tokens=20, temperature=0.0, sampler=sampler)) == plain
    assert sampler.runs > 0


def test_a_cache_goes_back_to_a_position_that_it_has() -> None:
    cache = KeyValueCache(1, 1, 1, 4, 2, like=Tensor.zeros((1,)).buffer)
    cache.length = 3
    cache.rewind(3)
    cache.rewind(1)
    assert cache.length == 1
    for length in (2, -1):
        with pytest.raises(ValueError, match=f"a cache of 1 positions cannot be taken back to {length}"):
            cache.rewind(length)


def test_tokens_are_the_same_where_they_mean_the_same() -> None:
    letters = CharTokenizer("abc")
    assert letters.has_the_tokens_of(CharTokenizer("abc"))
    pairs = BPETokenizer()
    pairs.train("abab", 257)
    for other in (CharTokenizer("abd"), CharTokenizer("abcd"), pairs):
        assert not letters.has_the_tokens_of(other) and not other.has_the_tokens_of(letters)
    special = CharTokenizer("abc")
    special.register_special_tokens({"<|end|>": 3})
    assert not letters.has_the_tokens_of(special) and not special.has_the_tokens_of(letters)


# ---- as real processes


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("place")
    (place / "words.txt").write_text(WORDS)
    (place / "other.txt").write_text(WORDS.replace("a", "z"))
    for name, data, more in (
        ("large", "words.txt", ["--layers", "2"]),
        ("small", "words.txt", ["--embedding-dim", "4", "--context-length", "6"]),
        ("other", "other.txt", []),
    ):
        options = [*TINY, *more, "--backend", "python", "--quiet", "--out", name]
        done = tinygpt("train", "names", "--data", data, *options, cwd=place)
        assert done.returncode == 0, done.stderr
    return place


GREEDY = ("generate", "large", "--temperature", "0", "--tokens", "12", "--prompt", "get", "--count", "2")


def test_a_run_is_the_draft_of_another(place: Path) -> None:
    plain = tinygpt(*GREEDY, cwd=place)
    drafted = tinygpt(*GREEDY, "--draft", "small", "--draft-tokens", "3", cwd=place)
    assert drafted.returncode == 0 and drafted.stdout == plain.stdout, drafted.stderr
    words = drafted.stderr.split()
    assert words[3:5] == ["guesses", "of"] and int(words[0]) <= int(words[2])
    done = tinygpt(*GREEDY, "--draft", "large", "--json", cwd=place)
    for line in done.stdout.splitlines():
        found = json.loads(line)
        assert found["drafted"] >= found["accepted"] > 0 and done.stderr == ""


@pytest.fixture(scope="module")
def beside_a_folder(place: Path) -> Path:
    """The place with `folder`, a model in the format of Llama that has the tokens of `large`."""
    tokenizer = load_tokenizer(place / "large" / "tokenizer")
    kind = {"normalization": "rms_norm", "positions": "rotary", "activation": "swiglu", "bias": False}
    with backends.use("python"):
        model = GPT(GPTConfig(tokenizer.vocab_size, 12, 1, 2, 8, **kind))
        save_pretrained(model, place / "folder", "llama", tokenizer)
    return place


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_a_folder_of_another_format_is_a_draft_and_has_one(beside_a_folder: Path, dtype: str) -> None:
    place = beside_a_folder
    for names in (("large", "folder"), ("folder", "small")):
        options = ("--temperature", "0", "--tokens", "8", "--dtype", dtype, "--backend", "python")
        plain = tinygpt("generate", names[0], *options, "--prompt", "get", cwd=place)
        drafted = tinygpt("generate", names[0], *options, "--prompt", "get", "--draft", names[1], cwd=place)
        assert drafted.returncode == 0 and drafted.stdout == plain.stdout, drafted.stderr
        assert "guesses of the draft" in drafted.stderr


def test_a_draft_with_other_tokens_than_a_folder_is_refused(beside_a_folder: Path) -> None:
    refused = tinygpt("generate", "folder", "--draft", "other", cwd=beside_a_folder)
    assert_refused(refused, "the tokens of other are not those of folder", "--tokenizer folder")
    assert "--tokenizer folder/tokenizer" not in refused.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--draft", "other"], ["the tokens of other are not those of large", "--tokenizer"]),
        (["--draft", "nowhere"], ["nowhere"]),
        (["--draft", "small", "--draft-tokens", "0"], ["--draft-tokens must be 1 or more"]),
        (["--draft-tokens", "3"], ["--draft-tokens is for --draft"]),
    ],
)
def test_a_draft_that_does_not_fit_is_refused(place: Path, options: list[str], words: list[str]) -> None:
    assert_refused(tinygpt(*GREEDY, *options, cwd=place), *words)
