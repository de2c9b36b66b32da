"""Folders with `vocab.json` and `merges.txt` that split as their `tokenizer.json` says, or are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tinygpt_core.tokenizer import BPETokenizer, TokenizerError, find_tokenizer
from tinygpt_core.tokenizer.bpe import encode_textbook
from tinygpt_core.tokenizer.vocabularies import byte_characters

TEXT = "I'll say: I'LL pay 1234 or 12 345\r\n\n  and we've done.  \n"
QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
REST = {**BYTE_LEVEL, "use_regex": False}


def split(pattern: dict[str, str], **options: Any) -> dict[str, Any]:
    first = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False, **options}
    return {"type": "Sequence", "pretokenizers": [first, REST]}


@pytest.fixture
def trained(tmp_path: Path) -> BPETokenizer:
    """A tokenizer whose merges cross what GPT-2's pattern keeps apart, in files of GPT-2's form."""
    tokenizer = BPETokenizer(r"(?s:.+)")
    tokenizer.train(TEXT * 2, 300)
    letters = {byte: character for character, byte in byte_characters().items()}
    written = {idx: "".join(letters[byte] for byte in token) for idx, token in tokenizer.vocab.items()}
    (tmp_path / "vocab.json").write_text(json.dumps({text: idx for idx, text in written.items()}))
    lines = [f"{written[a]} {written[b]}" for a, b in tokenizer.merges]
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(lines) + "\n")
    return tokenizer


def write(folder: Path, pre_tokenizer: Any, **fields: Any) -> None:
    value = {"normalizer": None, "pre_tokenizer": pre_tokenizer, "model": {"type": "BPE"}, **fields}
    (folder / "tokenizer.json").write_text(json.dumps(value))


@pytest.mark.parametrize(
    ("pre_tokenizer", "pieces"),
    [
        (BYTE_LEVEL, ["I", "'ll", " say", ":", " I", "'", "LL", " pay", " 1234", "\n\n ", " x"]),
        (
            split({"Regex": QWEN}),
            ["I", "'ll", " say", ":", " I", "'LL", " pay", " ", *"1234", "\n\n", " ", " x"],
        ),
        # What lies between the matches of a pattern is a piece as well
        (split({"Regex": r"\p{N}"}), ["I'll say: I'LL pay ", *"1234", "\n\n  x"]),
        (split({"String": "l."}), ["I'll say: I'LL pay 1234\n\n  x"]),
    ],
    ids=["GPT-2", "Qwen", "digits alone", "a string that is not there"],
)
def test_a_folder_splits_as_its_tokenizer_json_says(
    pre_tokenizer: Any, pieces: list[str], tmp_path: Path, trained: BPETokenizer
) -> None:
    write(tmp_path, pre_tokenizer)
    found = find_tokenizer(tmp_path)
    assert isinstance(found, BPETokenizer)
    text = "".join(pieces)
    assert list(found.chunks(text)) == pieces
    expected = [idx for piece in pieces for idx in encode_textbook(piece.encode(), trained.merges)]
    assert found.encode(text) == expected


def test_added_tokens_are_special(tmp_path: Path, trained: BPETokenizer) -> None:
    added = [{"id": trained.vocab_size + 3, "content": "<|im_end|>", "special": True}]
    write(tmp_path, BYTE_LEVEL, added_tokens=added)
    found = find_tokenizer(tmp_path)
    assert found is not None and found.special_tokens == {"<|im_end|>": trained.vocab_size + 3}


@pytest.mark.parametrize(
    ("pre_tokenizer", "fields", "message"),
    [
        ({**BYTE_LEVEL, "add_prefix_space": True}, {}, "a space before"),  # RoBERTa
        ({"type": "ByteLevel"}, {}, "a space before"),  # the default
        (REST, {}, "leaves a text whole"),
        ({"type": "Whitespace"}, {}, "does not end with ByteLevel"),
        (None, {}, "does not end with ByteLevel"),
        ({"type": "Sequence", "pretokenizers": [{"type": "Digits"}, BYTE_LEVEL]}, {}, "several steps"),
        ({"type": "Sequence", "pretokenizers": 3}, {}, "is a list"),
        (split({"Regex": QWEN}, behavior="Removed"), {}, "Isolated"),
        (split({"Regex": QWEN}, invert=True), {}, "Isolated"),
        (split({"Regex": "("}), {}, "not a valid pattern"),
        (split({"Regex": "a*"}), {}, "matches nothing"),
        (split({}), {}, "pattern of a Split"),
        (BYTE_LEVEL, {"normalizer": {"type": "NFC"}}, "normalizer 'NFC'|normalizer NFC"),
        (BYTE_LEVEL, {"model": {"type": "Unigram"}}, "type of the model is 'Unigram'"),
        (BYTE_LEVEL, {"model": {"type": "BPE", "ignore_merges": True}}, "ignore_merges"),
        (BYTE_LEVEL, {"model": {"type": "BPE", "end_of_word_suffix": "</w>"}}, "end_of_word_suffix"),
        (BYTE_LEVEL, {"model": None}, "no model"),
        (BYTE_LEVEL, {"added_tokens": [{"id": 1, "content": "x", "special": False}]}, "not special"),
        (BYTE_LEVEL, {"added_tokens": [7]}, "added token"),
        (BYTE_LEVEL, {"added_tokens": 7}, "is a list"),
    ],
)
def test_what_is_not_done_here_is_refused(
    pre_tokenizer: Any, fields: dict[str, Any], message: str, tmp_path: Path, trained: BPETokenizer
) -> None:
    write(tmp_path, pre_tokenizer, **fields)
    with pytest.raises(TokenizerError, match=rf"tokenizer\.json.*({message})"):
        find_tokenizer(tmp_path)


@pytest.mark.parametrize("config", [{"add_prefix_space": True}, {"tokenizer_class": "RobertaTokenizer"}])
def test_a_config_alone_is_heeded(config: dict[str, Any], tmp_path: Path, trained: BPETokenizer) -> None:
    assert find_tokenizer(tmp_path) is not None
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(TokenizerError, match=r"tokenizer_config\.json"):
        find_tokenizer(tmp_path)
