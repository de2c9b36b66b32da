"""Split patterns: Python's own `re` splits as the `regex` module does with the patterns as their authors
wrote them.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
import tracemalloc
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygpt_core.tokenizer import BPETokenizer
from tinygpt_core.tokenizer.patterns import (
    OWN_PATTERNS,
    RegexPatterns,
    TokenizerError,
    compile_pattern,
    require_bounded,
    spell_out,
    unicode_class,
)

# What is unassigned in this Python's Unicode is another character in the newer one of `regex`: those alone
# are left out. Of the 137,468 characters for private use, which are all alike, one in a hundred is enough.
ASSIGNED = [
    chr(code)
    for code in range(sys.maxunicode + 1)
    if (category := unicodedata.category(chr(code))) not in ("Cn", "Cs")
    and (category != "Co" or code % 100 == 0)
]
texts = st.text(
    st.one_of(
        st.sampled_from(
            " \t\n\r\x0b\x1c\x1f\x85\xa0\u180e\u200b\u2028\u3000'sSſtTlLdvVeErRkK1²½١aéßÅ\u0301中🎭_-.,!\0"
        ),
        st.characters(exclude_categories=["Cn", "Cs"]),
    ),
    max_size=40,
)
APOSTROPHES = r"'s|'t|'re|'ve|'m|'ll|'d"
# As published: GPT-2's encoder.py, and tiktoken's first and present cl100k_base.
ORIGINALS = {
    RegexPatterns.GPT2: APOSTROPHES + r"| ?[\p{L}]+| ?[\p{N}]+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    RegexPatterns.GPT4: f"(?i:{APOSTROPHES})"
    r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    RegexPatterns.CL100K: r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
}


def split(pattern: str, text: str) -> list[str]:
    return [found.group() for found in compile_pattern(pattern).finditer(text)]


@settings(max_examples=400, deadline=None)
@given(texts, st.sampled_from(list(ORIGINALS)))
def test_splits_as_the_original_pattern_does(text: str, pattern: str) -> None:
    regex = pytest.importorskip("regex", reason="the law compares with the regex module: pip install regex")
    chunks = split(pattern, text)
    assert chunks == regex.findall(ORIGINALS[pattern], text) and "".join(chunks) == text


@pytest.mark.parametrize("pattern", [RegexPatterns.GPT2, RegexPatterns.CL100K], ids=["GPT2", "CL100K"])
def test_splits_as_the_original_around_every_assigned_character(pattern: str) -> None:
    regex = pytest.importorskip("regex", reason="the law compares with the regex module: pip install regex")
    original = regex.compile(ORIGINALS[pattern])
    for start in range(0, len(ASSIGNED), 10_000):
        text = "".join(f"a{c}1{c}! {c}'{c}\n" for c in ASSIGNED[start : start + 10_000])
        assert split(pattern, text) == original.findall(text)


def test_classes_hold_exactly_their_categories() -> None:
    everything = "".join(map(chr, range(sys.maxunicode + 1)))
    for name in ("L", "N", "Lu", "M"):
        found = set("".join(re.findall(f"[{unicode_class(name)}]", everything)))
        assert found == {c for c in everything if unicodedata.category(c).startswith(name)}


def test_gpt4_pattern_splits_as_its_authors_have_it() -> None:
    chunks = split(RegexPatterns.GPT4, "I'LL see 12345 ²x  \n\n  end!\n?")
    assert chunks == ["I", "'LL", " see", " ", "123", "45", " ", "²", "x", "  \n\n", " ", " end", "!\n", "?"]
    assert split(RegexPatterns.GPT4, "a\n  ") == ["a", "\n", "  "] and split(
        RegexPatterns.CL100K, "a\n  "
    ) == ["a", "\n  "]
    assert split(RegexPatterns.GPT2, "he'S 'ſ") == ["he", "'", "S", " '", "ſ"] and split(
        RegexPatterns.GPT4, "'ſ"
    ) == ["'ſ"]


def test_brackets_are_followed() -> None:
    assert spell_out(r"[\s\S]\s\w") == r"[\s\S]\s\w"  # without \p{..} a pattern is Python's own
    assert split(r"[]\s]|\p{L}", "a] \x1c") == ["a", "]", " "]
    assert split(r"[^]\s]|\p{L}", "a]b \x1c") == ["a", "b", "\x1c"]
    assert split(r"[a[^]\s|\p{N}", "a [ ^\t") == ["a ", "[ ", "^\t"]
    assert split(r"\[\s|\p{N}\S", "[ [\x1c1\x1c") == ["[ ", "1\x1c"]


@pytest.mark.parametrize("pattern", ["(", r"\p{Greek}", r"\p{L", "a" * 20_000, 5, r"[\S\p{L}]"])
def test_bad_patterns(pattern: str) -> None:
    with pytest.raises(TokenizerError, match="pattern"):
        BPETokenizer(pattern)


def test_importing_the_core_builds_no_classes() -> None:
    code = (
        "import tinygpt_core.tokenizer as t, tinygpt_core.tokenizer.patterns as p; "
        "print(p._categories.cache_info().currsize)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "0\n"
    )


# ---- hostile patterns

ENDLESS = [
    r"(?:a+)+b",
    r"(a*)*b",
    r"(?:a|a)*b",
    r"(?:\w|aa)+?b",
    r"(?!a*a*a*a*b)a",
    r"(?:a?a?)+b",
    r"(?:a{1,20}){1,30}b",
    r"(?:(?:a+)?){2,}b",
    r"a*a*a*a*a*b",
    r"(?:a*a*a*a*a*b|c)",
    r"(?:c|a*a*a*a*a*b)",
    r"a?" * 40 + "a" * 40,
    r"(?=(?:a+)+b)a",
    r"(?>(?:a+)+b)",
    r"(?:(?:a+)+b)++",
]


@pytest.mark.parametrize("pattern", ENDLESS)
def test_patterns_that_may_take_for_ever_are_refused(pattern: str) -> None:
    with pytest.raises(TokenizerError, match=r"repeats without end|too many ways"):
        BPETokenizer(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        r"\p{L}" * 1_600,
        r"(?i:\p{L})" * 900,
        "(?i:[\\x00-\\uffff])" * 600,
        "[\\x00-\\U0010ffff]" * 500,
        "(" * 3_000 + ")" * 3_000,
        "(?:" * 2_000 + "a" + ")+" * 2_000,
    ],
)
def test_patterns_that_take_long_to_compile_are_refused(pattern: str) -> None:
    unicode_class("L")  # the tables of Unicode are made once
    start = time.perf_counter()
    tracemalloc.start()
    with pytest.raises(TokenizerError):
        BPETokenizer(pattern)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert time.perf_counter() - start < 3.0 and peak < 60_000_000


@pytest.mark.parametrize(
    "pattern",
    [
        r"(?:ab|cd)?\w+|(?:a+b)?c|(?:a{3})+|[ab]+(?:x|y)",
        r"(?:(?!ab+)(?s:.))+|(?:a+)++b|(?>a+|b)+",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve)?"
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ],
)
def test_patterns_in_use_are_not(pattern: str) -> None:
    list(BPETokenizer(pattern).chunks("a b c" * 10))


@pytest.mark.parametrize("pattern", sorted(OWN_PATTERNS))
def test_own_patterns_would_pass(pattern: str) -> None:
    require_bounded(spell_out(pattern))
