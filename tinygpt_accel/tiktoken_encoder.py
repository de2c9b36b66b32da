"""The entry point `tinygpt.encoders: tiktoken`: where tiktoken is installed, it encodes for a BPETokenizer,
with the same ids.

What makes the ids the same:

- Chunks. tiktoken gets the split pattern with its Unicode classes spelled out, so that both split by this
  Python's Unicode, not by tiktoken's newer one. Only the patterns of `RegexPatterns` are handed over; another
  one may mean something else in Rust than in Python.
- Merges. tiktoken merges any two neighbours whose bytes together are a token, lowest id first. A tokenizer
  made by `from_tiktoken` does the same. One with a list of merges does so too if its own merges turn the
  bytes of every token into that token: were two neighbours merged that are no pair of its list, then the
  merges before, which all lie within their bytes, would be those of these bytes alone, and would end before
  the token is made. So that is checked, for each token.
- Texts that tiktoken cannot take (half a surrogate pair; white space so long that its regular expressions
  give up) are encoded in Python.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

from tinygpt_core.tokenizer import BPETokenizer
from tinygpt_core.tokenizer.bpe import merge_lowest
from tinygpt_core.tokenizer.patterns import RegexPatterns, spell_out

PATTERNS = {RegexPatterns.GPT2, RegexPatterns.GPT4, RegexPatterns.CL100K}
LONG_SPACE = re.compile(r"\s{64,}")
LONGEST_SPACE = 100_000  # tiktoken 0.14 ends the process's thread with a panic at 1,000,000


def tiktoken_encoder(tokenizer: Any) -> Callable[[str], list[int]] | None:
    """Returns a function from ordinary text to ids, or None where tiktoken is missing or its ids might
    differ.
    """
    try:
        import tiktoken
    except ImportError:
        return None
    if not isinstance(tokenizer, BPETokenizer) or tokenizer.pattern not in PATTERNS or not _agrees(tokenizer):
        return None
    ranks = {token: idx for idx, token in tokenizer.vocab.items()}
    encoding = tiktoken.Encoding(
        "tinygpt", pat_str=spell_out(tokenizer.pattern), mergeable_ranks=ranks, special_tokens={}
    )
    in_python = partial(tokenizer.encode, allowed_special="none")

    def encode(text: str) -> list[int]:
        has_half_pair = not text.isascii() and re.search("[\ud800-\udfff]", text)
        longest_space = max((len(found[0]) for found in LONG_SPACE.finditer(text)), default=0)
        if has_half_pair or longest_space >= LONGEST_SPACE:
            return in_python(text)
        ids: list[int] = encoding.encode_ordinary(text)
        return ids

    return encode


def _agrees(tokenizer: BPETokenizer) -> bool:
    """Whether merging by bytes is merging by the tokenizer's own list."""
    if not tokenizer.merges:
        return True
    ids = {token: idx for idx, token in tokenizer.vocab.items()}
    if len(ids) != len(tokenizer.vocab):  # one token has two ids
        return False
    for token, idx in ids.items():
        bytes_of_token = [ids[bytes([byte])] for byte in token]
        if merge_lowest(bytes_of_token, tokenizer.merged_id) != [idx]:
            return False
    return True
