"""Floor 1: text that moves no cursor.

Names, tokens and messages may hold any character; on a terminal some of them would erase a line, ring a bell
or turn what follows around. Three ways to show such a text, by what it is:

    escape_unprintable          messages: what is not printable is written as Python would write it, `\\x1b`
    replace_unprintable         text of a model, titles of plots: a mark for each character, so widths stay
    replace_control_characters  tokens, as minbpe shows them: only what controls is written as `\\u001b`
"""

from __future__ import annotations

import unicodedata

REPLACEMENT = "\ufffd"  # the character that Unicode gives for "there was one, which cannot be shown"


def escape_unprintable(text: str) -> str:
    """Returns `text` with each character that is not printable written as Python's escape: `\\x1b`."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def replace_unprintable(text: str, keep: str = "") -> str:
    """Returns `text` with each character that is not printable replaced by U+FFFD, except those of `keep`."""
    return "".join(
        character if character.isprintable() or character in keep else REPLACEMENT for character in text
    )


def is_printable(text: str, keep: str = "") -> bool:
    """Whether all characters of `text` are printable or in `keep`."""
    return all(character.isprintable() or character in keep for character in text)


def replace_control_characters(text: str) -> str:
    """Returns `text` with control characters (categories C…) written as `\\u` escapes.

    Source: karpathy/minbpe, `base.py`, whose `.vocab` files look like this.
    """
    return "".join(
        character if unicodedata.category(character)[0] != "C" else f"\\u{ord(character):04x}"
        for character in text
    )
