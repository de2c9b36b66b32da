"""Where the limits of tokenizers lie, to the character, and what is said beyond them."""

from __future__ import annotations

import re

import pytest

from tinygpt_core.tokenizer import CharTokenizer, TokenizerError
from tinygpt_core.tokenizer.patterns import MAXIMUM_CLASSES, compile_pattern


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
