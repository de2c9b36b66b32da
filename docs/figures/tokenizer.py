"""The pictures of chapter 5: the bits of UTF-8, the merges that encode a word, and tokens against merges.

python docs/figures/tokenizer.py
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import drawing
from drawing import BLUE, FAINT, FILLS, ORANGE, Drawing, chapter, line_chart

from tinygpt_core.tokenizer import merge

CELL = 46


def utf8() -> str:
    """The bits of four characters: those that say how long it is, and those of the code point."""
    sheet = Drawing(
        760,
        250,
        "Four characters in UTF-8: leading bits of each byte say how many bytes belong together, "
        "the others are the code point",
    )
    bit = 15
    for number, (character, name) in enumerate((("A", "A"), ("é", "é"), ("€", "€"), ("\U0001f600", "emoji"))):
        y = 24 + 44 * number
        sheet.text(60, y + 20, name, size=16, bold=True)
        sheet.text(150, y + 20, f"{ord(character):,}", FAINT)
        data = character.encode()
        for place, byte in enumerate(data):
            marks = 2 if place else (1 if len(data) == 1 else len(data) + 1)
            for i, digit in enumerate(f"{byte:08b}"):
                x = 210 + place * (8 * bit + 12) + i * bit
                sheet.rect(x, y, bit, 28, FILLS[1] if i < marks else FILLS[0], FAINT, 0)
                sheet.text(x + bit / 2, y + 19, digit, ORANGE if i < marks else BLUE, 13)
    sheet.text(60, 226, "character", FAINT, 12)
    sheet.text(150, 226, "code point", FAINT, 12)
    sheet.text(
        210, 226, "orange: what kind of byte it is; blue: the code point in binary", FAINT, 12, "start"
    )
    return sheet.svg()


def merging(names: dict[str, Any]) -> str:
    """The merges of one word, one line each."""
    merges = names["merges"]
    vocab = {idx: token.decode() for idx, token in names["vocab"].items() if token.isascii()}
    ids = list(b"lowest")
    steps = [("letters", [vocab[idx] for idx in ids])]
    while learned := [pair for pair in pairwise(ids) if pair in merges]:
        pair = min(learned, key=merges.__getitem__)
        first, second = pair
        ids = merge(ids, pair, merges[pair])
        steps.append(
            (f"merge {merges[pair] - 255}: {vocab[first]} + {vocab[second]}", [vocab[idx] for idx in ids])
        )
    sheet = Drawing(
        640,
        30 + 46 * len(steps),
        "The word lowest, merged in the order of learning: e s, es t, l o, lo w; two pieces are left",
    )
    before: list[str] = []
    for number, (what, row) in enumerate(steps):
        y, x = 20 + 46 * number, 260.0
        sheet.text(220, y + 21, what, FAINT if number == 0 else BLUE, anchor="end")
        for piece in row:
            width = CELL * len(piece)
            new = number > 0 and piece not in before
            sheet.rect(
                x + 2,
                y,
                width - 4,
                32,
                FILLS[1] if new else FILLS[0] if len(piece) > 1 else "white",
                ORANGE if new else FAINT,
            )
            sheet.text(x + width / 2, y + 21, piece)
            x += width
        before = row
    return sheet.svg()


def vocabulary(names: dict[str, Any]) -> str:
    """How many tokens two texts have, against the number of merges learned from one of them."""
    counts = range(0, 201, 10)
    found = [names["tokens_after"](count) for count in counts]
    lines = {
        "lines not seen": [(float(count), rest) for count, (_, rest) in zip(counts, found, strict=True)],
        "lines learned from": [
            (float(count), first) for count, (first, _) in zip(counts, found, strict=True)
        ],
    }
    sheet = Drawing(
        720,
        310,
        "Tokens of two texts against the number of merges: "
        "the one learned from falls on, the other soon stays where it is",
    )
    line_chart(
        sheet,
        (70, 40, 460, 200),
        lines,
        ("merges", "tokens"),
        {float(x): str(x) for x in range(0, 201, 50)},
        {float(y): str(y) for y in range(0, 501, 100)},
    )
    return sheet.svg()


def pictures() -> dict[str, str]:
    """The pictures by name."""
    names = chapter("05-a-tokenizer")
    return {
        "tokenizer-utf8": utf8(),
        "tokenizer-merges": merging(names),
        "tokenizer-vocabulary": vocabulary(names),
    }


if __name__ == "__main__":
    drawing.write(pictures())
