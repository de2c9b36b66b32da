"""Draws the default run as it looks on a terminal: the curve while it is trained, and how it ends.

    python benchmarks/run_picture.py [--steps N] [--out docs/pictures/run.svg]

Needs pyte, a terminal in Python (in the extra `test`). `tinygpt train` runs in a process of its own on a real
pseudo-terminal, and what it writes goes to pyte; the picture is what pyte's screen shows at ten steps of the
run and at its end, with most of the samples left out. In a browser the screens follow each other once, in
five seconds, and the last one stays; who has asked for less motion sees only that.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from terminal import pieces_on_terminal  # noqa: E402

COLUMNS, ROWS = 112, 100  # of the terminal; rows that stay empty are not drawn
WIDTH, HEIGHT, FONT = 8, 16, 13.3  # of a cell and its letters, in pixels
MARGIN = 16
SCREENS = (4, 10, 20, 40, 80, 150, 300, 450, 600, 800)  # steps
SECONDS = 0.5  # that a screen is shown
SAMPLES = 6  # that are drawn
PAPER, INK, COLOURS = "#1a202c", "#e2e8f0", {"cyan": "#76e4f7"}
DOTS = ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (0, 3), (1, 3))  # column and row of a braille dot
BRAILLE = 0x2800  # the character without any dot
LINES = {"─": "h8", "│": "m4 -8v16", "└": "m4 -8v8h4"}  # from the middle of a cell's left side


class Cell(NamedTuple):
    """A character of a screen and its colour."""

    character: str
    colour: str


Screen = list[list[Cell]]


def screens(pieces: Iterator[bytes]) -> list[Screen]:
    """Returns what a terminal shows at each step of SCREENS, as far as a run gets, and at the end."""
    import pyte  # rarely installed

    terminal = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.ByteStream(terminal)
    steps = list(SCREENS)
    found: list[Screen] = []
    for piece in pieces:
        stream.feed(piece)
        shown = re.search(r"^step (\d+)/", "\n".join(terminal.display), re.MULTILINE)
        if shown and steps and int(shown[1]) >= steps[0]:
            found.append(cells(terminal))
            while steps and int(shown[1]) >= steps[0]:
                steps.pop(0)
    return [*found, cells(terminal)]


def cells(terminal: Any) -> Screen:
    """Returns the rows of a terminal, without those that are empty at the end and most of the samples."""
    rows = [
        [
            Cell(terminal.buffer[row][column].data, COLOURS.get(terminal.buffer[row][column].fg, INK))
            for column in range(COLUMNS)
        ]
        for row in range(ROWS)
    ]
    texts = ["".join(cell.character for cell in row).rstrip() for row in rows]
    rows = rows[: 1 + max((row for row, text in enumerate(texts) if text), default=0)]
    for row, text in enumerate(texts):
        if re.match(r"\d+ samples at", text):
            left_out = [Cell(character, INK) for character in "  …"]
            return [*rows[: row + 1 + SAMPLES], left_out, *rows[texts.index("", row) :]]
    return rows


def kind_of(cell: Cell) -> tuple[str, str]:
    """Returns how a cell is drawn, and in which colour: letters as text, and as paths what must join or be in
    its place whatever the font is.
    """
    if BRAILLE <= ord(cell.character) < BRAILLE + 256:
        return "dots", cell.colour
    return ("lines" if cell.character in LINES else "text"), cell.colour


def row_svg(row: list[Cell], y: int) -> str:
    """Returns a row whose upper side is at y."""
    parts = []
    for (kind, colour), group in groupby(enumerate(row), lambda pair: kind_of(pair[1])):
        first, *others = group
        x = WIDTH * first[0]
        characters = [cell.character for _, cell in (first, *others)]
        text = "".join(characters).rstrip()
        if kind == "text":
            x += WIDTH * (len(text) - len(text.lstrip()))
            text = text.lstrip()
            if text:
                length = f' textLength="{WIDTH * len(text)}"'
                parts.append(f'<text x="{x}" y="{y + 12}"{length} fill="{colour}">{escape(text)}</text>')
            continue
        if kind == "lines":
            path = "".join(f"M{x + WIDTH * i} {y + 8}{LINES[each]}" for i, each in enumerate(characters))
            path = re.sub(r"(?:h8M\d+ \d+)+h8", lambda found: f"h{WIDTH * found[0].count('h')}", path)
        else:
            path = "".join(
                f"M{x + WIDTH * i + 2 + 4 * column} {y + 2 + 4 * line}h0"
                for i, each in enumerate(characters)
                for bit, (column, line) in enumerate(DOTS)
                if (ord(each) - BRAILLE) >> bit & 1
            )
        parts.append(f'<path class="{kind}" stroke="{colour}" d="{path}"/>')
    return "".join(parts)


def picture(found: list[Screen], command: str) -> str:
    """Returns screens that follow each other, as SVG, below the command that was typed."""
    typed = [[Cell(character, INK) for character in f"$ {command}"]]
    count = 0  # of the rows at the top that are the same on all screens
    for rows in zip(*found, strict=False):
        if any(row != rows[0] for row in rows):
            break
        count += 1
    height = 2 * MARGIN + HEIGHT * (1 + max(map(len, found)))
    width = 2 * MARGIN + WIDTH * COLUMNS
    at_first = typed + found[-1][:count]

    def rows_svg(rows: Screen, start: int) -> str:
        return "".join(row_svg(row, HEIGHT * (start + i)) for i, row in enumerate(rows))

    last = len(found) - 1
    screens = "".join(
        f'<g class="screen{" last" if i == last else ""}" style="animation-delay:{SECONDS * i:g}s">'
        f"{rows_svg(screen[count:], 1 + count)}</g>"
        for i, screen in enumerate(found)
    )
    style = (
        f"text{{font:{FONT}px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;"
        "white-space:pre}path{fill:none}.dots{stroke-width:2.6;stroke-linecap:round}"
        ".screen{visibility:hidden}.last{visibility:visible}"
        "@keyframes shown{from,to{visibility:visible}}@keyframes hidden{from,to{visibility:hidden}}"
        "@media (prefers-reduced-motion:no-preference){"
        f".screen{{animation:shown {SECONDS:g}s step-end}}"
        f".last{{animation:hidden {SECONDS * last:g}s step-end;animation-delay:0s!important}}}}"
    )
    title = (
        "A terminal: while the default run goes on, the curve of its loss falls; then names that the model "
        "invents, and the ladder"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img"><title>{title}</title><style>{style}</style>'
        f'<rect width="{width}" height="{height}" rx="8" fill="{PAPER}"/>'
        f'<g transform="translate({MARGIN} {MARGIN})">{rows_svg(at_first, 0)}{screens}</g></svg>\n'
    )


def main() -> None:
    """Trains, and writes the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, help="of the run (default: the preset's)")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "docs" / "pictures" / "run.svg", help="(default: %(default)s)"
    )
    arguments = parser.parse_args()
    command = ["-m", "tinygpt_core", "train"]
    if arguments.steps is not None:
        command += ["--steps", str(arguments.steps)]
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    environment = kept | {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", "TERM": "xterm-256color"}
    alone = [sys.executable, "-S", *command]  # -S: nothing is installed
    with tempfile.TemporaryDirectory() as directory:
        found = screens(pieces_on_terminal(alone, Path(directory), environment, COLUMNS, ROWS))
    arguments.out.write_text(picture(found, " ".join(["python3", *command])), encoding="utf-8")
    print(f"{arguments.out}: {len(found)} screens, {arguments.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
