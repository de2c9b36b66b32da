"""Encoders of plug-ins: tiktoken's ids are the tokenizer's own for every text, and what cannot promise that
is not used.
"""

from __future__ import annotations

import importlib.metadata
import sys
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygpt_core.tokenizer import BPETokenizer, CharTokenizer, Tokenizer, encoders
from tinygpt_core.tokenizer.patterns import RegexPatterns

ROOT = Path(__file__).resolve().parent.parent
GPT2 = ROOT.parent / "shared" / "data" / "gpt2"
PATTERNS = [RegexPatterns.GPT2, RegexPatterns.GPT4, RegexPatterns.CL100K]
# Surrogates and characters that only tiktoken's Unicode knows are not left out here.
texts = st.text(
    st.one_of(st.sampled_from("ab 'sſ\n\r\t1²é🎭\0"), st.characters(exclude_categories=())), max_size=60
)


def tiktoken_encoder(tokenizer: Tokenizer):
    pytest.importorskip("tiktoken", reason="the law compares with tiktoken: pip install tiktoken")
    pytest.importorskip("numpy", reason="tinygpt_accel needs NumPy")
    from tinygpt_accel.tiktoken_encoder import tiktoken_encoder

    return tiktoken_encoder(tokenizer)


@settings(max_examples=60, deadline=None)
@given(st.text("ab cd'\n1é", min_size=5, max_size=300), st.sampled_from(PATTERNS), texts)
def test_ids_are_those_of_the_tokenizer(training: str, pattern: str, text: str) -> None:
    tokenizer = BPETokenizer(pattern)
    tokenizer.train(training, 300)
    tokenizer.register_special_tokens({"<|endoftext|>": 300})
    encode = tiktoken_encoder(tokenizer)
    assert encode is not None
    for part in (training, text, text + training + "<|endoftext|>"):
        assert encode(part) == tokenizer.encode(part, "none")


@pytest.mark.skipif(not GPT2.is_dir(), reason="vocab.json and merges.txt of GPT-2 are not beside the project")
def test_ids_are_those_of_gpt2() -> None:
    tokenizer = BPETokenizer.from_gpt2(GPT2 / "vocab.json", GPT2 / "merges.txt")
    encode = tiktoken_encoder(tokenizer)
    everything = "".join(f"a{chr(code)}1 {chr(code)}" for code in range(0, sys.maxunicode + 1, 11))
    source = Path(__file__).read_text(encoding="utf-8")
    for text in (everything, source, " " * 1_000_000 + "x", "\ud800 half", "<|endoftext|>"):
        assert encode(text) == tokenizer.encode(text, "none")


def test_what_might_differ_is_refused() -> None:
    unlike = BPETokenizer(RegexPatterns.GPT2)
    unlike._set_merges([(98, 99), (97, 98), (257, 99)])  # "abc" is a token, but its bytes become a, bc
    assert unlike.encode("abc") == [97, 256]
    for tokenizer in (unlike, BPETokenizer(r"\w+|\W+"), CharTokenizer("abc")):
        assert tiktoken_encoder(tokenizer) is None


class Point:
    """An entry point of a test's own plug-in."""

    value = "plug.in"

    def __init__(self, loaded: object) -> None:
        self.loaded = loaded

    def load(self) -> object:
        if isinstance(self.loaded, Exception):
            raise self.loaded
        return self.loaded


def test_plug_ins_are_asked_in_turn_and_may_be_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = CharTokenizer("abc")
    points: list[Point] = []
    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda group: points if group == "tinygpt.encoders" else []
    )
    assert encoders.ordinary_encoder(tokenizer)("abc") == [0, 1, 2]
    points += [
        Point(ImportError("no such thing")),
        Point(lambda tokenizer: None),
        Point(lambda tokenizer: lambda text: [7]),
    ]
    with pytest.warns(RuntimeWarning, match=r"plug\.in.*no such thing"):
        assert encoders.ordinary_encoder(tokenizer)("abc") == [7]


def test_the_accel_package_names_its_encoder() -> None:
    project = tomllib.loads((ROOT / "tinygpt_accel" / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["tinygpt.encoders"] == {
        "tiktoken": "tinygpt_accel.tiktoken_encoder:tiktoken_encoder"
    }
