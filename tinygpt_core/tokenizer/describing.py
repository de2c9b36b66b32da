"""Tokenizers of ours as a `tokenizer.json`, so that other libraries read them.

Source: https://github.com/huggingface/tokenizers
"""

from __future__ import annotations

import re
from typing import Any

from .base import Tokenizer
from .bpe import BPETokenizer
from .characters import CharTokenizer
from .patterns import RegexPatterns, is_total
from .tokenizer_json import JSONTokenizer
from .vocabularies import byte_characters

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
READ_OTHERWISE = (r"\w", r"\W", r"\d", r"\D", r"\b", r"\B", "(?x", "(?P", "^", "$")
POSSESSIVE_COUNT = re.compile(r"\{\d+(,\d*)?\}\+")
"""What Oniguruma, which reads patterns there, takes for something else than Python does."""


def describe(tokenizer: Tokenizer) -> dict[str, Any] | None:
    """Returns the JSON object of a `tokenizer.json` that gives the same ids; None where none can: a split
    pattern that means something else there.
    """
    if isinstance(tokenizer, JSONTokenizer):
        return tokenizer.description
    if isinstance(tokenizer, CharTokenizer):
        vocab = {character: idx for idx, character in enumerate(tokenizer.characters)}
        return _description(tokenizer, None, {"type": "Fuse"}, vocab, [])
    if not isinstance(tokenizer, BPETokenizer):
        return None
    pre_tokenizer = _pre_tokenizer(tokenizer.pattern)
    if pre_tokenizer is None:
        return None
    letters = {byte: character for character, byte in byte_characters().items()}
    texts = {idx: "".join(letters[byte] for byte in token) for idx, token in tokenizer.vocab.items()}
    vocab = {text: idx for idx, text in texts.items()}
    merges = [[texts[first], texts[second]] for first, second in tokenizer.merges]
    if not tokenizer.has_merges:
        merges = _merges_of_ranks(vocab)
    decoder = {**BYTE_LEVEL, "use_regex": True}
    return _description(tokenizer, pre_tokenizer, decoder, vocab, merges, not tokenizer.has_merges)


def _description(
    tokenizer: Tokenizer,
    pre_tokenizer: dict[str, Any] | None,
    decoder: dict[str, Any],
    vocab: dict[str, int],
    merges: list[list[str]],
    ignore_merges: bool = False,
) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": idx, "content": text, **flags, "special": True}
            for text, idx in sorted(tokenizer.special_tokens.items(), key=lambda token: token[1])
        ],
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": decoder,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": ignore_merges,
            "vocab": vocab,
            "merges": merges,
        },
    }


def _pre_tokenizer(pattern: str) -> dict[str, Any] | None:
    """Returns what splits there as a pattern does here; None where nothing does."""
    if pattern == RegexPatterns.GPT2:
        return {**BYTE_LEVEL, "use_regex": True}
    if pattern == RegexPatterns.CL100K:
        # Its $ comes after possessive white space, so it is the end of the text; and what ends an alternative
        # need not be possessive, which {1,3}+ is not there
        pattern = pattern.replace("$", r"\z").replace("{1,3}+", "{1,3}")
    said = pattern.replace("[^", "")  # a ^ there is no beginning
    is_other = any(part in said for part in READ_OTHERWISE) or POSSESSIVE_COUNT.search(pattern) is not None
    if is_other or not is_total(pattern):
        return None
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, {**BYTE_LEVEL, "use_regex": False}]}


def _merges_of_ranks(vocab: dict[str, int]) -> list[list[str]]:
    """Returns the pairs of tokens whose joined text is a token, in the order of what they make."""
    merges: list[list[str]] = []
    for text in sorted(vocab, key=vocab.__getitem__):
        parts = [(text[:cut], text[cut:]) for cut in range(1, len(text))]
        pairs = [(vocab[first], first, last) for first, last in parts if first in vocab and last in vocab]
        merges += [[first, last] for _, first, last in sorted(pairs)]
    return merges
