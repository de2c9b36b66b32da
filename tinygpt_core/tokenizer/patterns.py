"""The patterns that split a text before its pieces are encoded, read by Python's own `re`.

The patterns of GPT-2 and GPT-4 speak of Unicode letters and numbers (`\\p{L}`, `\\p{N}`), which `re` does not
know, and mean by `\\s` the property White_Space, which in `re` also holds U+001C to U+001F. `compile_pattern`
spells both out as ranges. The classes are those of this Python's `unicodedata` (14.0 in Python 3.11, 15.0 in
3.12, 15.1 in 3.13, 16.0 in 3.14): a tokenizer library that follows a newer Unicode takes some characters for
letters that are unassigned here, and splits texts that contain them elsewhere. tiktoken 0.14 follows 16.0.

Source: Unicode Standard Annex #44, General_Category and White_Space.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from functools import cache, lru_cache
from itertools import groupby
from re import _parser as re_parser  # type: ignore[attr-defined]
from typing import Any, NamedTuple

from .base import TokenizerError, has_surrogates

MAXIMUM_PATTERN = 10_000
MAXIMUM_SPELLED_OUT = 200_000  # characters, with all classes; GPT-4's has 50,000
MAXIMUM_CLASSES = (
    2_000_000  # characters in the bracket expressions of a pattern together; half a second to compile
)
MANY = 16  # a repetition that may be longer counts as one without end
MAXIMUM_REPETITIONS = 3  # without end, one after the other, that a match may go through
MAXIMUM_CHOICES = 10_000  # ways in which a match may go through what is not repeated without end
VERBOSE = "(?x)"  # before a pattern in which white space and comments are for people
WHITE_SPACE = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"


class RegexPatterns:
    """Patterns that split a text into the chunks within which merges happen, in the notation of their
    authors.

    GPT2 is GPT-2's. GPT4 is the one of GPT-4 as first published, which minbpe has too. CL100K is the one that
    tiktoken gives GPT-4 now: the same, but white space at the end of a text stays in one piece, line breaks
    or not. TINYGPT is the one that TinyGPT calls GPT4, without its comments: it takes digits for letters, and
    contractions only where no letter stands before them.
    """

    GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    GPT4 = (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*"
        r"|\s*[\r\n]|\s+(?!\S)|\s+"
    )
    CL100K = (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
        r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
    )
    TINYGPT = r"(?i:[sdmt]|ll|ve|re)|[^\r\n\w\d]?+\w+|[^\s\w\d]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"


@cache
def _categories() -> dict[str, list[tuple[int, int]]]:
    """Returns the ranges of code points of every general category; a tenth of a second, once, where a pattern
    needs it.
    """
    ranges: dict[str, list[tuple[int, int]]] = {}
    start = 0
    for category, members in groupby(map(unicodedata.category, map(chr, range(sys.maxunicode + 1)))):
        stop = start + len(list(members))
        ranges.setdefault(category, []).append((start, stop - 1))
        start = stop
    return ranges


@cache
def unicode_class(name: str) -> str:
    """Returns the inside of a bracket expression that matches the characters of a general category ("Lu") or
    a group of them ("L").

    Raises:
        TokenizerError: there is no such category.
    """
    ranges = sorted(
        found
        for category, ranges_of_it in _categories().items()
        if name in (category, category[0])
        for found in ranges_of_it
    )
    if not ranges:
        raise TokenizerError(
            rf"pattern: \p{{{name:.80}}} is not supported; general categories, such as \p{{L}} and "
            r"\p{Lu}, are"
        )
    joined = ranges[:1]
    for first, last in ranges[1:]:
        if first == joined[-1][1] + 1:  # it goes on where the range before ends
            joined[-1] = (joined[-1][0], last)
        else:
            joined.append((first, last))
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in joined)


def spell_out(pattern: str) -> str:
    """Returns `pattern` with `\\p{..}`, `\\s` and `\\S` written as ranges; one that has no `\\p{..}` is
    Python's own and stays as it is.

    Raises:
        TokenizerError: a class of \\p{..} that is not known, or \\S inside brackets beside one.
    """
    if r"\p{" not in pattern:
        return pattern
    in_brackets = False

    def replace(found: re.Match[str]) -> str:
        nonlocal in_brackets
        text = found.group()
        if text[0] == "[" and in_brackets:
            in_brackets = text[-1] != "]"
            return "\\" + text  # a "[" within brackets is a member; `re` warns of one that is not escaped
        if text[0] == "[":
            in_brackets = True  # also after "[]": right behind the opening, "]" is a member
            return text
        if text == "]":
            in_brackets = False
            return text
        if text == r"\S":
            if in_brackets:
                raise TokenizerError(
                    r"pattern: \S inside brackets is not supported together with \p{..}; [^\s..] is"
                )
            return f"[^{WHITE_SPACE}]"
        if text == r"\s":
            members = WHITE_SPACE
        elif text.startswith(r"\p{"):
            members = unicode_class(text[3:-1])
        else:
            return text  # another escape
        return members if in_brackets else f"[{members}]"

    return re.sub(r"\\p\{\w+\}|\\.|\[\^?\]?|\]", replace, pattern, flags=re.DOTALL)


# Of letters, of numbers, of white space and of all else: an alternative that takes one wherever it stands
TOTAL = (
    r"(?: \?|\[\^[^]]*\\p\{L\}[^]]*\]\?\+?)?\\p\{L\}\+{1,2}",
    r"(?: \?)?\\p\{N\}(?:\+{1,2}|\{1,\d\}\+?)?",
    r"\\s\+{0,2}",
    r"(?: \?)?\[\^\\s\\p\{L\}\\p\{N\}\]\+{1,2}(?:\[[^]^]+\]\*\+?)?",
)


def is_total(pattern: str) -> bool:
    """Whether a pattern can be seen to leave nothing between its matches: it has an alternative each for
    letters, numbers, white space and all else, in a form that the patterns in use have.
    """
    parts = alternatives(pattern)
    return all(any(re.fullmatch(form, part) for part in parts) for form in TOTAL)


def alternatives(pattern: str) -> list[str]:
    """Returns the parts of a pattern between the `|` that stand in no group and in no brackets."""
    parts = [""]
    depth = 0
    for token in re.findall(r"\\.|\[\^?\]?(?:\\.|[^]\\])*\]|.", pattern, flags=re.DOTALL):
        depth += (token == "(") - (token == ")")
        if token == "|" and depth == 0:
            parts.append("")
        else:
            parts[-1] += token
    return parts


OWN_PATTERNS = frozenset(
    {RegexPatterns.GPT2, RegexPatterns.GPT4, RegexPatterns.CL100K, RegexPatterns.TINYGPT}
)


class Backtracking(NamedTuple):
    """How a match may go through a part of a pattern.

    Attributes:
        repetitions: without end, one after the other: a text of n characters is gone through in n to the
            power of these.
        choices: ways through all else.
    """

    repetitions: int
    choices: int


NO_BACKTRACKING = Backtracking(0, 1)


def require_bounded(pattern: str) -> None:
    """Checks that a pattern, whose classes are spelled out, takes little time to compile and cannot take
    exponential time to match.

    `re` tries one way through a pattern after the other. Where a repetition without end stands in another one
    (`(?:a+)+`), or a choice does (`(?:a|a)*`), the number of ways may double with each character.

    Raises:
        TokenizerError: it may; the message says why.
        re.error: it is no pattern.
    """
    if len(pattern) > MAXIMUM_SPELLED_OUT:
        raise TokenizerError(
            f"the pattern has {len(pattern):,} characters when its classes are spelled out; "
            f"at most {MAXIMUM_SPELLED_OUT:,} are compiled"
        )
    parsed = re_parser.parse(pattern)
    if _characters_in_classes(parsed) > MAXIMUM_CLASSES:
        raise TokenizerError(
            f"the classes of the pattern have more than {MAXIMUM_CLASSES:,} characters together"
        )
    _require_few_ways(parsed)


def _require_few_ways(part: Any) -> None:
    """Raises TokenizerError where a match may go through a part of a parsed pattern in too many ways."""
    found = _backtracking(part)
    if found.repetitions > MAXIMUM_REPETITIONS or found.choices > MAXIMUM_CHOICES:
        raise TokenizerError(
            f"the pattern can match in too many ways: at most {MAXIMUM_REPETITIONS} repetitions without end "
            f"stand one after the other; possessive ones (`++`) do not count"
        )


def _backtracking(part: Any) -> Backtracking:
    """Returns how a match may go through a part of a parsed pattern."""
    repetitions = 0
    choices = 1
    for operation, argument in part:
        found = _backtracking_of(str(operation), argument)
        repetitions += found.repetitions
        choices = min(choices * found.choices, MAXIMUM_CHOICES + 1)
    return Backtracking(repetitions, choices)


def _backtracking_of(operation: str, argument: Any) -> Backtracking:
    """Returns how a match may go through one item of a parsed pattern."""
    if operation in ("BRANCH", "GROUPREF_EXISTS"):
        parts = argument[1] if operation == "BRANCH" else argument[1:]
        branches = [_backtracking(branch) for branch in parts if branch is not None]
        repetitions = max(branch.repetitions for branch in branches)
        return Backtracking(repetitions, max(2, sum(branch.choices for branch in branches)))
    if operation == "SUBPATTERN":
        return _backtracking(argument[3])
    # What these have matched is not gone through again
    if operation in ("ASSERT", "ASSERT_NOT"):
        _require_few_ways(argument[1])
    if operation == "ATOMIC_GROUP":
        _require_few_ways(argument)
    if operation == "POSSESSIVE_REPEAT":
        _require_few_ways(argument[2])
    if operation in ("MAX_REPEAT", "MIN_REPEAT"):
        least, most, body = argument
        return _backtracking_of_repetition(int(least), int(most), _backtracking(body))
    return NO_BACKTRACKING


def _backtracking_of_repetition(least: int, most: int, body: Backtracking) -> Backtracking:
    """Returns how a match may go through a repetition, given how it may go through what is repeated."""
    if most > MANY and body != NO_BACKTRACKING:
        raise TokenizerError(
            "the pattern repeats without end what can itself match in several ways, such as (?:a+)+ or "
            "(?:a|b)*: the time to match may double with each character; write [ab]*, or a possessive "
            "repetition (`++`)"
        )
    if most > MANY:
        return NO_BACKTRACKING if least == most else Backtracking(1, 1)
    ways = (most - least + 1) * body.choices ** max(most, 1)
    return Backtracking(body.repetitions * most, min(ways, MAXIMUM_CHOICES + 1))


def _characters_in_classes(part: Any) -> int:
    """Returns how many characters the bracket expressions in a parsed pattern have together, of those up to
    U+FFFF, which are compiled into tables.
    """
    total = 0
    parts = [part]
    while parts:
        item = parts.pop()
        if isinstance(item, tuple) and len(item) == 2 and str(item[0]) == "RANGE":
            first, last = item[1]
            total += max(0, min(last, 0xFFFF) - first + 1)
        elif isinstance(item, (tuple, list, re_parser.SubPattern)):
            parts += list(item)
    return total


@lru_cache(maxsize=64)
def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Returns a split pattern, compiled; one that uses `\\p{..}` is read as the authors of GPT-2's pattern
    would, see `spell_out`.

    Raises:
        TokenizerError: no valid pattern, an unreasonably long one, or one that may take for ever, see
            `require_bounded`.
    """
    if not isinstance(pattern, str) or len(pattern) > MAXIMUM_PATTERN:
        raise TokenizerError(f"a pattern is a string of at most {MAXIMUM_PATTERN:,} characters")
    if has_surrogates(pattern):
        raise TokenizerError("a pattern with half a surrogate pair matches nothing that is read")
    try:
        spelled_out = spell_out(pattern)
        if pattern not in OWN_PATTERNS:
            require_bounded(spelled_out)
        return re.compile(spelled_out)
    except (re.error, RecursionError, OverflowError) as problem:
        raise TokenizerError(f"not a valid pattern: {problem!s:.400}") from None
