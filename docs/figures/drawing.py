"""A sheet to draw on, as SVG text: what the scripts beside this one share.

A figure script defines `pictures()`, which returns {name: SVG text}, and ends with

    if __name__ == "__main__":
        drawing.write(pictures())

so that `python docs/figures/NAME.py` writes docs/pictures/*.svg. A test draws all of them again and compares
them with those files. A picture that shows what a chapter computes takes it from `chapter`, which runs that
chapter's blocks.
"""

from __future__ import annotations

import contextlib
import functools
import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent.parent
INK, FAINT, PAPER = "#1a202c", "#718096", "#f7fafc"
BLUE, ORANGE, GREEN, RED, PURPLE = "#2b6cb0", "#c05621", "#2f855a", "#c53030", "#6b46c1"
FILLS = ("#bee3f8", "#feebc8", "#c6f6d5", "#e9d8fd", "#fed7d7", "#b2f5ea", "#fefcbf", "#e2e8f0")

# What a themed picture has instead of each colour where the reader's screen is dark. The light ones stand in
# the elements, so that a viewer without style sheets shows something too.
DARK = {
    INK: "#e2e8f0",
    FAINT: "#a0aec0",
    PAPER: "#1a202c",
    "white": "#2d3748",
    BLUE: "#90cdf4",
    ORANGE: "#f6ad55",
    GREEN: "#9ae6b4",
    RED: "#feb2b2",
    PURPLE: "#d6bcfa",
} | dict(
    zip(
        FILLS,
        ("#2a4365", "#7b341e", "#22543d", "#44337a", "#742a2a", "#234e52", "#744210", "#4a5568"),
        strict=True,
    )
)

Point = tuple[float, float]


def number(value: float) -> str:
    """A coordinate with at most two decimals, so that a rounding error in the last bit changes no file."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def shade(colour: str, share: float) -> str:
    """A mix of a colour "#rrggbb" with white: 0 is white, 1 the colour itself."""
    share = min(1.0, max(0.0, share))
    return "#" + "".join(f"{round(255 + (int(colour[i : i + 2], 16) - 255) * share):02x}" for i in (1, 3, 5))


def dark_style() -> str:
    """The style sheet that exchanges the colours of a picture on a dark page."""
    rules = "".join(
        f'[fill="{light}"]{{fill:{dark}}}[stroke="{light}"]{{stroke:{dark}}}' for light, dark in DARK.items()
    )
    return f"<style>@media (prefers-color-scheme: dark){{{rules}}}</style>"


class Drawing:
    """A sheet of `width` by `height`; `title` says in a sentence what it shows, for those who cannot see it.
    A `themed` one has no paper of its own, and colours for light and for dark pages; any other is light.
    """

    def __init__(self, width: int, height: int, title: str, themed: bool = False) -> None:
        self.width, self.height = width, height
        paper = f'<rect width="{width}" height="{height}" rx="8" fill="{PAPER}"/>'
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" role="img" '
            f'font-family="system-ui, sans-serif" font-size="14" fill="{INK}">',
            f"<title>{escape(title)}</title>",
            dark_style() if themed else paper,
        ]

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What is drawn inside it can be found by that name, as an element with the attribute data-part."""
        self.parts.append(f'<g data-part="{escape(name)}">')
        yield
        self.parts.append("</g>")

    def rect(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        fill: str = "none",
        stroke: str = INK,
        radius: float = 3,
    ) -> None:
        """A box with its top left corner at (x, y)."""
        at = f'x="{number(x)}" y="{number(y)}" width="{number(width)}" height="{number(height)}"'
        self.parts.append(f'<rect {at} rx="{number(radius)}" fill="{fill}" stroke="{stroke}"/>')

    def text(
        self,
        x: float,
        y: float,
        text: str,
        colour: str = INK,
        size: float = 14,
        anchor: str = "middle",
        bold: bool = False,
    ) -> None:
        """One line of text whose baseline goes through (x, y); `anchor` is start, middle or end."""
        weight = ' font-weight="bold"' if bold else ""
        self.parts.append(
            f'<text x="{number(x)}" y="{number(y)}" fill="{colour}" font-size="{number(size)}" '
            f'text-anchor="{anchor}"{weight}>'
            f"{escape(text)}</text>"
        )

    def line(
        self, points: Iterable[Point], colour: str = INK, width: float = 1.5, dashed: bool = False
    ) -> None:
        """A line through points."""
        path = " ".join(f"{number(x)},{number(y)}" for x, y in points)
        dashes = ' stroke-dasharray="5 4"' if dashed else ""
        self.parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" '
            f'stroke-width="{number(width)}"{dashes}/>'
        )

    def arrow(
        self,
        start: Point,
        end: Point,
        colour: str = INK,
        width: float = 1.5,
        dashed: bool = False,
        head: float = 8,
    ) -> None:
        """A straight arrow, whose head is that long, and as wide."""
        (x0, y0), (x1, y1) = start, end
        length = math.hypot(x1 - x0, y1 - y0) or 1.0
        ux, uy = (x1 - x0) / length, (y1 - y0) / length
        base, side = (x1 - head * ux, y1 - head * uy), head / 2
        self.line([start, base], colour, width, dashed)
        corners = [
            (x1, y1),
            (base[0] - side * uy, base[1] + side * ux),
            (base[0] + side * uy, base[1] - side * ux),
        ]
        self.parts.append(
            f'<polygon points="{" ".join(f"{number(x)},{number(y)}" for x, y in corners)}" fill="{colour}"/>'
        )

    def circle(self, x: float, y: float, radius: float, fill: str = INK, stroke: str = "none") -> None:
        """A disc around (x, y)."""
        self.parts.append(
            f'<circle cx="{number(x)}" cy="{number(y)}" r="{number(radius)}" fill="{fill}" '
            f'stroke="{stroke}"/>'
        )

    def row(self, x: float, y: float, texts: Sequence[str], fills: Sequence[str], size: float = 34) -> None:
        """Square cells side by side, each with a text in it."""
        for i, (text, fill) in enumerate(zip(texts, fills, strict=True)):
            self.rect(x + i * size, y, size, size, fill)
            self.text(x + (i + 0.5) * size, y + size / 2 + 5, text)

    def svg(self) -> str:
        """The whole file."""
        return "\n".join([*self.parts, "</svg>\n"])


class Chart:
    """A rectangle of a Drawing with axes: maps data to the sheet, on linear or logarithmic scales."""

    def __init__(
        self,
        sheet: Drawing,
        box: tuple[float, float, float, float],
        x: Point,
        y: Point,
        log_x: bool = False,
        log_y: bool = False,
    ) -> None:
        self.sheet, self.box, self.log_x, self.log_y = sheet, box, log_x, log_y
        self.x, self.y = (
            (math.log10(a), math.log10(b)) if log else (a, b) for log, (a, b) in ((log_x, x), (log_y, y))
        )
        sheet.rect(*box, fill="white", stroke=FAINT, radius=0)

    def at(self, x: float, y: float) -> Point:
        """Where a point of the data lies on the sheet."""
        left, top, width, height = self.box
        x, y = math.log10(x) if self.log_x else x, math.log10(y) if self.log_y else y
        return (
            left + width * (x - self.x[0]) / (self.x[1] - self.x[0]),
            top + height * (1.0 - (y - self.y[0]) / (self.y[1] - self.y[0])),
        )

    def curve(
        self, points: Iterable[Point], colour: str = BLUE, width: float = 2, dashed: bool = False
    ) -> None:
        """A line through points of the data."""
        self.sheet.line([self.at(x, y) for x, y in points], colour, width, dashed)

    def label(
        self, x: float, y: float, text: str, colour: str = INK, anchor: str = "start", size: float = 14
    ) -> None:
        """A text at a point of the data."""
        self.sheet.text(*self.at(x, y), text, colour, size, anchor)

    def ticks(self, xs: Sequence[tuple[float, str]] = (), ys: Sequence[tuple[float, str]] = ()) -> None:
        """Numbers below and at the left of the axes."""
        left, top, _width, height = self.box
        for value, text in xs:
            position = self.at(value, 10 ** self.y[0] if self.log_y else self.y[0])[0]
            self.sheet.line([(position, top + height), (position, top + height + 4)], FAINT, 1)
            self.sheet.text(position, top + height + 18, text, FAINT, 12)
        for value, text in ys:
            position = self.at(10 ** self.x[0] if self.log_x else self.x[0], value)[1]
            self.sheet.line([(left - 4, position), (left, position)], FAINT, 1)
            self.sheet.text(left - 8, position + 4, text, FAINT, 12, "end")


def heat_map(
    sheet: Drawing,
    corner: Point,
    table: Sequence[Sequence[float]],
    rows: Sequence[str],
    columns: Sequence[str],
    cell: float = 22,
    colour: str = BLUE,
    caption: str = "",
) -> None:
    """A table of numbers from -1 to 1 as shades (orange below 0), with a label for each row and column; its
    first cell is at `corner`.
    """
    x, y = corner
    for i, numbers in enumerate(table):
        sheet.text(x - 8, y + (i + 0.5) * cell + 4, rows[i], size=12, anchor="end")
        for j, value in enumerate(numbers):
            fill = shade(colour if value >= 0 else ORANGE, abs(value))
            sheet.rect(x + j * cell, y + i * cell, cell, cell, fill, FILLS[-1], 0)
    for j, label in enumerate(columns):
        sheet.text(x + (j + 0.5) * cell, y - 6, label, size=12)
    sheet.text(x + len(columns) * cell / 2, y + len(table) * cell + 22, caption)


def line_chart(
    sheet: Drawing,
    box: tuple[float, float, float, float],
    lines: Mapping[str, Iterable[Point]],
    labels: tuple[str, str],
    x_ticks: Mapping[float, str],
    y_ticks: Mapping[float, str],
    levels: Mapping[str, float] | None = None,
    log_x: bool = False,
    log_y: bool = False,
) -> Chart:
    """Curves with names, on axes that the ticks {value: text} span; each name stands at the right end of its
    curve, or a little lower where it would lie on another.

    `labels` are those of the two axes, and `levels` are dashed horizontal lines by name.
    """
    left, top, width, height = box
    spans = [(min(ticks), max(ticks)) for ticks in (x_ticks, y_ticks)]
    chart = Chart(sheet, box, spans[0], spans[1], log_x, log_y)
    chart.ticks(list(x_ticks.items()), list(y_ticks.items()))
    sheet.text(left + width / 2, top + height + 38, labels[0])
    sheet.text(left - 8, top - 10, labels[1], anchor="start")
    ends = []
    for name, value in (levels or {}).items():
        chart.curve([(spans[0][0], value), (spans[0][1], value)], FAINT, 1.2, dashed=True)
        ends.append((chart.at(spans[0][1], value)[1] + 4, name, FAINT))
    for colour, (name, curve) in zip((BLUE, ORANGE, GREEN, PURPLE, RED), lines.items(), strict=False):
        points = list(curve)
        chart.curve(points, colour)
        ends.append((chart.at(*points[-1])[1] + 4, name, colour))
    lowest = 0.0
    for y, name, colour in sorted(end for end in ends if end[1].strip()):
        lowest = max(y, lowest + 14)
        sheet.text(left + width + 8, lowest, name, colour, 12, "start")
    return chart


def bars(
    sheet: Drawing,
    box: tuple[float, float, float, float],
    values: Sequence[float],
    labels: Sequence[str],
    caption: str,
    colour: str = BLUE,
) -> None:
    """A bar for each number from 0 to 1, with the number above it and its label below."""
    left, top, width, height = box
    step = width / len(values)
    for i, (value, label) in enumerate(zip(values, labels, strict=True)):
        sheet.rect(
            left + i * step + 2, top + height * (1 - value), step - 4, height * value, colour, "none", 0
        )
        sheet.text(left + (i + 0.5) * step, top + height + 16, label, size=12)
        if value >= 0.005:
            sheet.text(
                left + (i + 0.5) * step, top + height * (1 - value) - 4, f"{value:.2f}".lstrip("0"), size=11
            )
    sheet.line([(left, top + height), (left + width, top + height)])
    sheet.text(left + width / 2, top + height + 38, caption)


@functools.cache
def chapter(name: str) -> dict[str, Any]:
    """Runs the Python blocks of a chapter, and returns the names that they define: look, but do not change
    what they hold.
    """
    namespace: dict[str, Any] = {"__name__": "figure"}
    text = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    with contextlib.redirect_stdout(io.StringIO()):
        for code in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            exec(compile(code, name, "exec"), namespace)
    return namespace


def write(pictures: dict[str, str]) -> None:
    """Writes each picture to docs/pictures/NAME.svg."""
    folder = DOCS / "pictures"
    folder.mkdir(exist_ok=True)
    for name, svg in pictures.items():
        (folder / f"{name}.svg").write_text(svg, encoding="utf-8")
