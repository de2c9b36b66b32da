"""Where the limits of tokenizers lie, to the character, and what is said beyond them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tinygpt_core.tokenizer import BPETokenizer, CharTokenizer, TokenizerError, find_tokenizer
from tinygpt_core.tokenizer.patterns import MAXIMUM_CLASSES, compile_pattern
from tinygpt_core.tokenizer.vocabularies import byte_characters


def test_what_needs_a_length_is_named() -> None:
    tokenizer = CharTokenizer("ab")
    with pytest.raises(ValueError, match=r"^truncation=True needs a max_length$"):
        tokenizer("ab", truncation=True)
    with pytest.raises(ValueError, match=r"^padding_type='max_length' needs a max_length$"):
        tokenizer("ab", padding_type="max_length")
    assert tokenizer("abab", truncation=True, max_length=3).shape == (1, 3)


def test_classes_are_counted_up_to_the_last_character_that_has_a_table() -> None:
    """U+FFFF counts, and what lies behind it does not: just as many as may be are compiled, and no more."""
    whole, rest = divmod(MAXIMUM_CLASSES, 65536)
    assert rest, "the limit is no multiple of the characters that have a table"
    full = "[\\x00-\U0010ffff]"
    compile_pattern(full * whole + f"[\\x00-{re.escape(chr(rest - 1))}]")
    with pytest.raises(TokenizerError, match="classes"):
        compile_pattern(full * whole + f"[\\x00-{re.escape(chr(rest))}]")


@pytest.mark.parametrize("half", ["\ud800", "\udbff", "\udc00", "\udfff"])
def test_every_half_of_a_pair_is_no_character(half: str) -> None:
    with pytest.raises(TokenizerError, match="surrogate"):
        CharTokenizer("ab" + half)
    assert CharTokenizer("\ud7ff\ue000").vocab_size >= 2  # the characters beside them


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "vocab.json"])
def test_a_file_that_is_no_json_is_named(name: str, tmp_path: Path) -> None:
    """Of the files that a tokenizer of GPT-2's form is spread over."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    (tmp_path / "vocab.json").write_text(json.dumps(byte_characters()))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    (tmp_path / "tokenizer.json").write_text(
        json.dumps({"pre_tokenizer": byte_level, "model": {"type": "BPE"}})
    )
    (tmp_path / "tokenizer_config.json").write_text("{}")
    assert find_tokenizer(tmp_path) is not None
    for damaged in ("{", "[]", ""):
        (tmp_path / name).write_text(damaged)
        with pytest.raises(TokenizerError, match=name):
            find_tokenizer(tmp_path)


def test_merges_are_told_as_they_are_made(capsys: pytest.CaptureFixture[str]) -> None:
    """Bytes as what they are, and the tokens made of them, from 256 on, by their number."""
    tokenizer = BPETokenizer()
    tokenizer.train("aaaaaaaab", 259, verbose=True)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(",")[0] for line in lines] == [
        "merge 1/3: (97",
        "merge 2/3: (256",
        "merge 3/3: (257",
    ]
    for line, idx, token in zip(lines, (256, 257, 258), ("aa", "<256><256>", "<257><257>"), strict=True):
        assert f"-> {idx} (" in line and token in line and line.endswith("occurrences")
    assert list(tokenizer.merges) == [(97, 97), (256, 256), (257, 257)]


def test_the_first_and_the_last_characters_have_a_category() -> None:
    """Those beside them as well, and of a group each character that one of its categories has."""
    for character, category in (("\0", "Cc"), ("\x1f", "Cc"), (" ", "Zs"), ("\U0010fffd", "Co")):
        assert compile_pattern(rf"\p{{{category}}}").fullmatch(character)
        assert compile_pattern(rf"\p{{{category[0]}}}").fullmatch(character)
    for character in ("\U0010fffe", "\U0010ffff"):  # which stand for nothing
        assert compile_pattern(r"\p{Cn}").fullmatch(character) and not compile_pattern(r"\p{Co}").match(
            character
        )


def test_a_message_does_not_repeat_a_long_class() -> None:
    with pytest.raises(TokenizerError, match="general categories") as problem:
        compile_pattern(r"\p{L" + "9" * 5000 + "}+")
    assert len(str(problem.value)) < 300
