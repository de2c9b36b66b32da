"""Loss curves in the characters of a terminal: dots of Braille, eight to a character, and marks."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from .axes import limits, step_scale
from .curves import Point, Run, legend_text, rungs_of, smoothed, thinned

ANSI = (36, 33, 32, 35, 34, 31)  # the terminal's own colours, in the order of the runs
NO_RUN = -1  # of a cell in which none is drawn
# Unicode 16.0, chapter 21.1: bits of the dots of a Braille character, by row and column
BRAILLE = 0x2800
_BRAILLE_BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
Dot = tuple[int, int]  # column and row
Cells = dict[tuple[int, int], tuple[str, int]]  # row and column -> character, run


class _Characters(NamedTuple):
    """What a chart is drawn with."""

    marks: str  # of validations
    vertical: str
    corner: str
    horizontal: str


_UNICODE = _Characters("●■◆▲", "│", "└", "─")
_ASCII = _Characters("osdv", "|", "+", "-")


class _Frame(NamedTuple):
    """Where the curves are drawn, and what lies at its edges; two dots across and four down make a cell."""

    columns: int
    rows: int
    along: Callable[[float], float]  # where a step lies along the axis, from x_low to x_high
    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def dot(self, step: float, loss: float) -> Dot:
        """Returns the column and the row of the dot of a point."""
        across = (self.along(step) - self.x_low) / (self.x_high - self.x_low)
        down = (self.y_high - loss) / (self.y_high - self.y_low)
        return round(across * (2 * self.columns - 1)), round(down * (4 * self.rows - 1))


def chart(
    runs: Sequence[Run],
    columns: int,
    rows: int,
    *,
    colour: bool = False,
    unicode: bool = True,
    log_steps: bool = False,
    last_step: int | None = None,
) -> list[str]:
    """Returns loss curves as lines of text: smoothed training losses in dots of Braille, eight to a
    character, validations as marks; rungs of the ladder as lines across, with their names at the right.

    Args:
        runs: at least one with a loss in it.
        columns, rows: of characters, axes included: at least 24 by 4.
        colour: whether to colour each run (ANSI escape sequences).
        unicode: whether Braille can be shown; otherwise stars stand where dots were.
        log_steps: whether the axis of steps is logarithmic.
        last_step: where the axis of steps ends, for a run that is going on.
    """
    along = step_scale(log_steps)
    curves = [(smoothed(run.losses), run.validations) for run in runs]
    points = [point for curve, validations in curves for point in (*curve, *validations)]
    rungs = rungs_of(runs)
    steps = [step for step, _ in points]
    if last_step is not None:
        steps.append(float(last_step))
    x_low, x_high = limits(map(along, steps))
    y_low, y_high = limits([*(loss for _, loss in points), *rungs.values()])
    height = rows - 2
    labels = _loss_labels(y_low, y_high, height)
    label_width = max(map(len, labels.values()))
    width = columns - label_width - 2
    frame = _Frame(width, height, along, x_low, x_high, y_low, y_high)

    characters = _UNICODE if unicode else _ASCII
    cells: Cells = {}
    for name, nats in rungs.items():
        _, y = frame.dot(steps[0], nats)
        for column, character in enumerate(name[-width:].rjust(width, characters.horizontal)):
            cells[y // 4, column] = (character, NO_RUN)
    for place, (curve, validations) in enumerate(curves):
        for cell, bits in _curve_bits(frame, curve).items():
            cells[cell] = (chr(BRAILLE + bits) if unicode else "*", place)
        mark = characters.marks[place % len(characters.marks)]
        for step, loss in validations:
            x, y = frame.dot(step, loss)
            cells[y // 4, x // 2] = (mark, place)

    lines = []
    for row in range(height):
        drawn = [cells.get((row, column), (" ", NO_RUN)) for column in range(width)]
        text = _coloured(drawn) if colour else "".join(character for character, _ in drawn).rstrip()
        lines.append(f"{labels.get(row, ''):>{label_width}} {characters.vertical}{text}")
    margin = " " * label_width
    lines.append(f"{margin} {characters.corner}{characters.horizontal * width}")
    start = f"{min(steps):,.0f}"
    end = f"step {max(steps):,.0f}"
    if len(start) + len(end) >= width:
        start = ""
    lines.append(f"{margin}  {start}{end:>{width - len(start)}}"[:columns])
    return lines


def _loss_labels(y_low: float, y_high: float, height: int) -> dict[int, str]:
    """Returns the losses that are written beside the first and the last row, and between if there is room."""
    losses = {0: y_high, height - 1: y_low}
    if height > 4:
        middle = height // 2
        losses[middle] = y_high - (y_high - y_low) * middle / (height - 1)
    return {row: f"{loss:.3g}" for row, loss in losses.items()}


def _curve_bits(frame: _Frame, curve: Sequence[Point]) -> dict[tuple[int, int], int]:
    """Returns the bits of the Braille characters that make up a curve, by row and column of the cell."""
    bits: dict[tuple[int, int], int] = {}
    previous: Dot | None = None
    for step, loss in thinned(curve, 4 * frame.columns, frame.along):
        dot = frame.dot(step, loss)
        for column, row in _dots_between(previous or dot, dot):
            cell = (row // 4, column // 2)
            bits[cell] = bits.get(cell, 0) | _BRAILLE_BITS[row % 4][column % 2]
        previous = dot
    return bits


def _dots_between(start: Dot, end: Dot) -> list[Dot]:
    """Returns the dots of a line, both ends included."""
    across = end[0] - start[0]
    down = end[1] - start[1]
    count = max(abs(across), abs(down), 1)
    return [
        (start[0] + round(across * i / count), start[1] + round(down * i / count)) for i in range(count + 1)
    ]


def _coloured(cells: Sequence[tuple[str, int]]) -> str:
    """Returns a row of characters with the colour of each run, changed only where the run does."""
    text = ""
    current = NO_RUN
    for character, place in cells:
        if character != " " and place != current:
            text += f"\x1b[{ANSI[place % len(ANSI)]}m"
            current = place
        text += character
    reset = "" if current == NO_RUN else "\x1b[0m"
    return text.rstrip() + reset


def keys(runs: Sequence[Run], *, colour: bool = False, unicode: bool = True) -> list[str]:
    """Returns a line a run for below a chart: its mark, its name and its last losses."""
    marks = (_UNICODE if unicode else _ASCII).marks
    lines = []
    for place, run in enumerate(runs):
        line = f"{marks[place % len(marks)]} {legend_text(run)}"
        if colour:
            line = f"\x1b[{ANSI[place % len(ANSI)]}m{line}\x1b[0m"
        lines.append(line)
    return lines


def abilities(stream: Any) -> dict[str, bool]:
    """Returns whether a stream can show colour and Braille, as arguments of `chart`.

    Colour is for a terminal, unless NO_COLOR is set (https://no-color.org); Braille depends on the encoding.
    """
    try:
        "⣿●".encode(getattr(stream, "encoding", None) or "ascii")
        unicode = True
    except (UnicodeError, LookupError):
        unicode = False
    return {
        "colour": stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb",
        "unicode": unicode,
    }
