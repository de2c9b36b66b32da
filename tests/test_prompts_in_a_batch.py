"""Several prompts are continued at once, and become what each becomes alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_runs import TINY_WITHOUT_COUNTING as TINY
from small_runs import WORDS
from test_cli import assert_refused, tinygpt

from tinygpt_core import Tensor, backends, random
from tinygpt_core.generation import continue_batch, generate, generate_batch, generate_ids, most_probable
from tinygpt_core.nn import GPT, GPTConfig
from tinygpt_core.tokenizer import CharTokenizer

USABLE = [each.name for each in backends.available() if each.available and each.name in ("python", "numpy")]
SIZES = {"vocab_size": 5, "context_length": 6, "num_layers": 2, "num_heads": 2, "embedding_dim": 8}
KINDS: dict[str, dict[str, Any]] = {
    "learned": {},
    "rotary, grouped": {"positions": "rotary", "num_key_value_heads": 1},
    "window": {"positions": "rotary", "sliding_window": 2},
    "tables": {"positions": "rotary", "ngram_tables": (16, 16)},
}
prompts = st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=9), min_size=1, max_size=4)


def model_of(kind: str, seed: int) -> GPT:
    with random.use_generator(random.Generator(seed)):
        model = GPT(GPTConfig(**SIZES, **KINDS[kind]))
        model.apply(lambda tensor: Tensor.normal(tensor.shape, std=0.8))
    model.eval()
    return model


@pytest.mark.parametrize("on", USABLE)
@given(
    kind=st.sampled_from(list(KINDS)),
    seed=st.integers(0, 20),
    prompts=prompts,
    tokens=st.integers(0, 10),
    stop_id=st.none() | st.integers(0, 4),
    greedy=st.booleans(),
)
def test_a_batch_is_one_by_one(
    on: str, kind: str, seed: int, prompts: list[list[int]], tokens: int, stop_id: int | None, greedy: bool
) -> None:
    """Greedily, and drawn with a generator for each; through contexts that get full, and past the ends of
    others.
    """
    with backends.use(on):
        model = model_of(kind, seed)
        if greedy:
            alone = [
                list(generate_ids(model, prompt, tokens=tokens, temperature=0.0, stop_id=stop_id))
                for prompt in prompts
            ]
            draws = [most_probable] * len(prompts)
            assert continue_batch(model, prompts, draws, tokens=tokens, keep=3, stop_id=stop_id) == alone
            return
        tokenizer = CharTokenizer("abcde")
        texts = ["".join("abcde"[idx] for idx in prompt) for prompt in prompts]
        options: dict[str, Any] = {
            "tokens": tokens,
            "temperature": 0.8,
            "top_k": 3,
            "repetition_penalty": 1.3,
            "stop_id": stop_id,
            "stop": ("bb", "ace"),
        }
        alone = [
            "".join(generate(model, tokenizer, text, generator=random.Generator(seed, n), **options))
            for n, text in enumerate(texts)
        ]
        generators = [random.Generator(seed, n) for n in range(len(texts))]
        assert generate_batch(model, tokenizer, texts, generators=generators, **options) == alone


def test_nothing_and_nothing_to_begin_with() -> None:
    model = model_of("learned", 0)
    assert continue_batch(model, [], [], tokens=3, keep=3) == []
    tokenizer = CharTokenizer("abcde")
    generators = [random.Generator(0), random.Generator(1)]
    with pytest.raises(ValueError, match="at least one token"):
        generate_batch(model, tokenizer, ["a", ""], tokens=3, generators=generators)
    with pytest.raises(ValueError, match="temperature"):
        generate_batch(model, tokenizer, ["a", "b"], tokens=3, generators=generators, temperature=-1)


# ---- as real processes


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("place")
    (place / "words.txt").write_text(WORDS)
    for corpus, out in (("names", "run"), ("text", "prose")):
        options = [*TINY, "--backend", "python", "--quiet", "--out", out]
        done = tinygpt("train", corpus, "--data", "words.txt", *options, cwd=place)
        assert done.returncode == 0, done.stderr
    return place


def test_several_prompts_on_the_command_line(place: Path) -> None:
    greedy = ("--temperature", "0", "--tokens", "12")
    words = ["get", "setname", "i"]
    alone = [tinygpt("generate", "run", "--prompt", word, *greedy, cwd=place).stdout for word in words]
    given = [part for word in words for part in ("--prompt", word)]
    done = tinygpt("generate", "run", *given, *greedy, cwd=place)
    assert (done.returncode, done.stdout) == (0, "".join(alone)), done.stderr
    as_json = tinygpt("generate", "run", *given, *greedy, "--json", "--count", "2", cwd=place).stdout
    found = [json.loads(line) for line in as_json.splitlines()]
    assert [each["prompt"] + each["text"] + "\n" for each in found] == alone * 2


def test_texts_of_one_long_text_are_set_apart(place: Path) -> None:
    options = ("--prompt", "get", "--prompt", "-", "--tokens", "3", "--seed", "4")
    done = tinygpt("generate", "prose", *options, cwd=place, input="set\n")
    lines = done.stdout.split("---\n")
    assert done.returncode == 0 and len(lines) == 2, done.stderr
    assert lines[0].startswith("get") and lines[1].startswith("set")
    again = tinygpt("generate", "prose", "--prompt", "get", *options[4:], cwd=place)
    assert again.stdout == lines[0]


def test_what_cannot_be_is_refused(place: Path) -> None:
    done = tinygpt("generate", "run", "--prompt", "-", "--prompt", "-", cwd=place, input="a")
    assert_refused(done, "one --prompt at most can be -")
    done = tinygpt("generate", "run", "--prompt", "get", "--prompt", "<|endoftext|>", cwd=place)
    assert_refused(done, "--special-tokens")
    assert_refused(tinygpt("generate", "run", "--prompt", "get", "--prompt", "!", cwd=place), "'!'")
