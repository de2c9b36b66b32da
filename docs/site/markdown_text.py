"""What the site, the notebooks and the tests need to know about the Markdown of these documents: fences,
links and headings.

The documents keep to a plain form, which tests hold: fences start at the margin and name their language, a
`text` block right after a Python block is what that prints, and links stand on one line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

_FENCE = re.compile(
    r"^```(?P<language>\w*)\n(?P<code>.*?)^```\n(?:\n```text\n(?P<shown>.*?)^```\n)?",
    re.DOTALL | re.MULTILINE,
)
_LINK = re.compile(
    r"(?P<picture>!?)\[(?P<label>(?:[^\[\]`]|`[^`]*`|!\[[^\[\]]*\]\([^()\s]+\))*)\]\((?P<target>[^()\s]+)\)"
)  # a label may be a picture


class Block(NamedTuple):
    """A fenced block of a document; `shown` is the `text` block that follows a Python block at once: what it
    prints.
    """

    language: str
    code: str
    shown: str
    line: int


class Link(NamedTuple):
    """A link or picture: `[label](target)`, the target a path, an address, or either with #anchor."""

    is_picture: bool
    label: str
    target: str


def parts(text: str) -> Iterator[str | Block]:
    """The document in order: prose as text, fenced blocks as Blocks."""
    position = 0
    for match in _FENCE.finditer(text):
        if text[position : match.start()].strip():
            yield text[position : match.start()]
        yield Block(
            match["language"], match["code"], match["shown"] or "", text[: match.start()].count("\n") + 1
        )
        position = match.end()
    if text[position:].strip():
        yield text[position:]


def replace_links(prose: str, replacement: Callable[[Link], str | None]) -> str:
    """The prose with every link replaced by what `replacement` makes of it; None leaves it alone."""

    def one(match: re.Match[str]) -> str:
        link = Link(bool(match["picture"]), replace_links(match["label"], replacement), match["target"])
        changed = replacement(link)
        return f"{match['picture']}[{link.label}]({link.target})" if changed is None else changed

    return _LINK.sub(one, prose)


def links(text: str) -> list[Link]:
    """All links and pictures outside of fences."""
    found: list[Link] = []
    for part in parts(text):
        if isinstance(part, str):
            replace_links(part, found.append)
    return found


def slug(title: str) -> str:
    """The anchor that Git hosts and MyST give a heading: small letters, hyphens for blanks, punctuation
    dropped.
    """
    return re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")


def anchors(text: str) -> set[str]:
    """The anchors of all headings of a document."""
    found: set[str] = set()
    for part in parts(text):
        for title in re.findall(r"^#+ +(.+)$", part, re.MULTILINE) if isinstance(part, str) else ():
            base, count = slug(title), 1
            while (name := base if count == 1 else f"{base}-{count - 1}") in found:
                count += 1
            found.add(name)
    return found
