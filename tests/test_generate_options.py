"""What ends a text and what is drawn: stop texts, min-p, a repetition penalty; and the command `generate`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_runs import TINY_WITHOUT_COUNTING as TINY
from small_runs import WORDS
from test_cli import assert_refused, tinygpt

from tinygpt_core import Tensor
from tinygpt_core.generation import generate_ids, penalized, sampling_candidates, until, without
from tinygpt_core.tokenizer import CharTokenizer, TokenizerError
from tinygpt_core.tokenizer.describing import describe
from tinygpt_core.tokenizer.tokenizer_json import JSONTokenizer

SHORT = st.text("ab", max_size=4)


# ---- laws


@given(pieces=st.lists(SHORT, max_size=8), stop=st.lists(st.text("ab", min_size=1, max_size=3), max_size=3))
def test_a_text_ends_before_the_first_stop_however_it_is_cut(pieces: list[str], stop: list[str]) -> None:
    text = "".join(pieces)
    ends = [end for end in range(len(text) + 1) if text[:end].endswith(tuple(stop))] if stop else []
    expected = text
    if ends:
        longest = max(len(each) for each in stop if text[: ends[0]].endswith(each))
        expected = text[: ends[0] - longest]
    found = list(until(pieces, stop))
    assert "".join(found) == expected and "" not in found


@given(pieces=st.lists(SHORT, max_size=8), stop=st.text("ab", min_size=1, max_size=3))
def test_nothing_is_kept_back_that_cannot_be_a_beginning(pieces: list[str], stop: str) -> None:
    """After each piece all is yielded but the longest end that begins the stop text."""
    seen: list[str] = []

    def watched():  # type: ignore[no-untyped-def]
        for piece in pieces:
            text = "".join(pieces[: len(seen_pieces)])
            if stop not in text:
                lengths = [n for n in range(len(stop)) if text.endswith(stop[:n])]
                assert "".join(seen) == text[: len(text) - max(lengths)]
            seen_pieces.append(piece)
            yield piece

    seen_pieces: list[str] = []
    for piece in until(watched(), [stop]):
        seen.append(piece)


def test_an_empty_stop_text_is_refused() -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        list(until(["a"], [""]))


LOGITS = st.lists(st.floats(-20, 20), min_size=1, max_size=8)


@given(logits=LOGITS, min_p=st.floats(0.001, 1.0), temperature=st.floats(0.2, 3.0))
def test_min_p_keeps_what_is_probable_enough(logits: list[float], min_p: float, temperature: float) -> None:
    candidates, weights = sampling_candidates(logits, temperature=temperature, min_p=min_p)
    shares = [math.exp(logit / temperature) for logit in logits]
    sure = [i for i, share in enumerate(shares) if share > min_p * max(shares) * (1 + 1e-9)]
    possible = [i for i, share in enumerate(shares) if share >= min_p * max(shares) * (1 - 1e-9)]
    assert set(sure) <= set(candidates) <= set(possible) and candidates
    assert weights == sorted(weights, reverse=True) and weights[0] == 1.0


@given(logits=LOGITS, penalty=st.floats(1.0, 10.0), data=st.data())
def test_a_penalty_makes_what_was_there_less_probable_and_nothing_else(
    logits: list[float], penalty: float, data: st.DataObject
) -> None:
    seen = data.draw(st.lists(st.integers(0, len(logits) - 1)))
    found = penalized(logits, seen, penalty)
    for i, (before, after) in enumerate(zip(logits, found, strict=True)):
        assert after <= before if i in seen else after == before
    assert penalized(logits, seen, 1.0) == logits
    back = penalized(found, seen, 1.0 / penalty)
    assert back == pytest.approx(logits, rel=1e-12, abs=1e-300)


class Constant:
    """A model to which every token is as probable as it always is."""

    config = SimpleNamespace(context_length=64)

    def new_cache(self, batch_size: int) -> SimpleNamespace:
        return SimpleNamespace(length=0)

    def __call__(self, ids: Tensor, cache: object) -> Tensor:
        return Tensor([[[5.0, 4.0, 3.0, 2.0, 1.0]] * ids.shape[1]])


def test_the_penalty_is_for_the_prompt_and_for_what_was_drawn() -> None:
    def drawn(penalty: float) -> list[int]:
        settings = {"temperature": 0.0, "repetition_penalty": penalty}
        return list(generate_ids(Constant(), [1], tokens=6, **settings))  # type: ignore[arg-type]

    assert drawn(1.0) == [0, 0, 0, 0, 0, 0]
    assert drawn(10.0) == [0, 2, 3, 4, 0, 0]  # when all were there, the most probable one


@given(
    logits=LOGITS,
    temperature=st.floats(0.2, 3.0),
    top_k=st.integers(1, 8) | st.none(),
    top_p=st.floats(0.1, 1.0) | st.none(),
    data=st.data(),
)
def test_what_is_excluded_is_never_drawn_and_the_rest_is_as_if_it_were_not_there(
    logits: list[float], temperature: float, top_k: int | None, top_p: float | None, data: st.DataObject
) -> None:
    excluded = data.draw(st.sets(st.integers(0, len(logits) - 1), max_size=len(logits) - 1))
    left = [i for i in range(len(logits)) if i not in excluded]
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    found = dict(zip(*sampling_candidates(without(logits, excluded), **options), strict=True))
    expected = zip(*sampling_candidates([logits[i] for i in left], **options), strict=True)
    assert {i: weight for i, weight in found.items() if weight > 0.0} == {
        left[i]: weight for i, weight in expected if weight > 0.0
    }


@given(
    penalty=st.sampled_from([0.5, 1.0, 10.0]),
    temperature=st.sampled_from([0.0, 1.0, 5.0]),
    excluded=st.sets(st.integers(0, 4), max_size=4),
)
def test_no_excluded_token_comes_with_any_setting(
    penalty: float, temperature: float, excluded: set[int]
) -> None:
    settings = {"temperature": temperature, "repetition_penalty": penalty}
    chosen: dict[str, Any] = {**settings, "excluded": sorted(excluded)}
    ids = generate_ids(Constant(), [1], tokens=20, **chosen)
    assert not excluded & {*ids}


@given(
    characters=st.sets(st.characters(codec="utf-8"), min_size=1, max_size=5),
    special=st.sets(st.integers(0, 12), max_size=3),
)
def test_the_ids_that_are_no_token_are_those_that_cannot_be_decoded(
    characters: set[str], special: set[int]
) -> None:
    tokenizer = CharTokenizer("".join(sorted(characters)))
    free = sorted(special - {*range(len(characters))})
    tokenizer.register_special_tokens({f"<|{idx}|>": idx for idx in free})
    for each in (tokenizer, JSONTokenizer(describe(tokenizer) or {})):
        assert each.vocab_size <= 13
        for idx in range(13):
            if idx in each.unknown_ids(13):
                with pytest.raises(TokenizerError, match="not in the vocabulary"):
                    each.decode_bytes([idx])
            else:
                each.decode_bytes([idx])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_p": 0.0}, "min_p must be above 0 and at most 1"),
        ({"min_p": 1.5}, "min_p must be above 0 and at most 1"),
        ({"min_p": math.nan}, "min_p must be above 0 and at most 1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be a finite number above 0"),
        ({"repetition_penalty": math.inf}, "repetition_penalty must be a finite number above 0"),
    ],
)
def test_settings_without_a_meaning_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        next(generate_ids(None, [0], tokens=1, **settings))  # type: ignore[arg-type]


# ---- as real processes


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("place")
    (place / "words.txt").write_text(WORDS)
    options = [*TINY, "--backend", "python", "--quiet", "--out", "run"]
    done = tinygpt("train", "names", "--data", "words.txt", *options, cwd=place)
    assert done.returncode == 0, done.stderr
    return place


GENERATE = ("generate", "run", "--seed", "3", "--tokens", "12")


def test_a_text_ends_before_a_stop_text(place: Path) -> None:
    whole = tinygpt(*GENERATE, "--prompt", "get", cwd=place).stdout.rstrip("\n")
    stop = whole[6:8]
    assert len(stop) == 2
    ended = tinygpt(*GENERATE, "--prompt", "get", "--stop", "zzz", "--stop", stop, cwd=place)
    assert ended.stdout == "get" + whole[3 : 3 + whole[3:].index(stop)] + "\n"


def test_a_prompt_from_standard_input_and_json(place: Path) -> None:
    plain = tinygpt(*GENERATE, "--prompt", "get", "--count", "2", cwd=place)
    done = tinygpt(*GENERATE, "--prompt", "-", "--count", "2", "--json", cwd=place, input="get\n")
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [set(each) for each in found] == [{"prompt", "text"}] * 2
    assert [each["prompt"] + each["text"] for each in found] == plain.stdout.splitlines()


def test_a_special_token_is_taken_as_one_on_request_only(place: Path) -> None:
    special = "<|endoftext|>"
    assert_refused(tinygpt(*GENERATE, "--prompt", special, cwd=place), special, "--special-tokens")
    done = tinygpt(*GENERATE, "--prompt", special, "--special-tokens", cwd=place)
    assert done.returncode == 0 and done.stdout.startswith(special), done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--min-p", "0"], ["min_p"]),
        (["--repetition-penalty", "-1"], ["repetition_penalty"]),
        (["--stop", ""], ["--stop", "not empty"]),
    ],
)
def test_bad_options_get_one_clear_line(place: Path, options: list[str], words: list[str]) -> None:
    assert_refused(tinygpt(*GENERATE, *options, cwd=place), *words)


def test_a_prompt_that_is_no_text_is_refused(place: Path) -> None:
    (place / "binary").write_bytes(b"\xff\xfe")
    with open(place / "binary") as file:
        assert_refused(tinygpt(*GENERATE, "--prompt", "-", cwd=place, stdin=file), "UTF-8")
