"""A sheet to draw on, as SVG text: what the scripts beside this one share.

A figure script defines `pictures()`, which returns {name: SVG text}, and ends with

    if __name__ == "__main__":
        drawing.write(pictures())

so that `python docs/figures/NAME.py` writes docs/pictures/*.svg. A test draws all of them again and compares them with those files.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

INK, FAINT, PAPER = "#1a202c", "#718096", "#f7fafc"
BLUE, ORANGE, GREEN, RED, PURPLE = "#2b6cb0", "#c05621", "#2f855a", "#c53030", "#6b46c1"
FILLS = ("#bee3f8", "#feebc8", "#c6f6d5", "#e9d8fd", "#fed7d7", "#b2f5ea", "#fefcbf", "#e2e8f0")

Point = tuple[float, float]


def number(value: float) -> str:
    """A coordinate with at most two decimals, so that a rounding error in the last bit changes no file."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


class Drawing:
    """A light sheet of `width` by `height`; `title` says in a sentence what it shows, for those who cannot see it."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.width, self.height = width, height
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
            f'font-family="system-ui, sans-serif" font-size="14" fill="{INK}">',
            f"<title>{escape(title)}</title>",
            f'<rect width="{width}" height="{height}" rx="8" fill="{PAPER}"/>',
        ]

    def rect(self, x: float, y: float, width: float, height: float, fill: str = "none", stroke: str = INK, radius: float = 3) -> None:
        """A box with its top left corner at (x, y)."""
        at = f'x="{number(x)}" y="{number(y)}" width="{number(width)}" height="{number(height)}"'
        self.parts.append(f'<rect {at} rx="{number(radius)}" fill="{fill}" stroke="{stroke}"/>')

    def text(self, x: float, y: float, text: str, colour: str = INK, size: float = 14, anchor: str = "middle", bold: bool = False) -> None:
        """One line of text whose baseline goes through (x, y); `anchor` is start, middle or end."""
        weight = ' font-weight="bold"' if bold else ""
        self.parts.append(
            f'<text x="{number(x)}" y="{number(y)}" fill="{colour}" font-size="{number(size)}" text-anchor="{anchor}"{weight}>'
            f"{escape(text)}</text>"
        )

    def line(self, points: Iterable[Point], colour: str = INK, width: float = 1.5, dashed: bool = False) -> None:
        """A line through points."""
        path = " ".join(f"{number(x)},{number(y)}" for x, y in points)
        dashes = ' stroke-dasharray="5 4"' if dashed else ""
        self.parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{number(width)}"{dashes}/>')

    def arrow(self, start: Point, end: Point, colour: str = INK, width: float = 1.5, dashed: bool = False) -> None:
        """A straight arrow."""
        (x0, y0), (x1, y1) = start, end
        length = math.hypot(x1 - x0, y1 - y0) or 1.0
        ux, uy = (x1 - x0) / length, (y1 - y0) / length
        base = (x1 - 8 * ux, y1 - 8 * uy)
        self.line([start, base], colour, width, dashed)
        corners = [(x1, y1), (base[0] - 4 * uy, base[1] + 4 * ux), (base[0] + 4 * uy, base[1] - 4 * ux)]
        self.parts.append(f'<polygon points="{" ".join(f"{number(x)},{number(y)}" for x, y in corners)}" fill="{colour}"/>')

    def circle(self, x: float, y: float, radius: float, fill: str = INK, stroke: str = "none") -> None:
        """A disc around (x, y)."""
        self.parts.append(f'<circle cx="{number(x)}" cy="{number(y)}" r="{number(radius)}" fill="{fill}" stroke="{stroke}"/>')

    def row(self, x: float, y: float, texts: Sequence[str], fills: Sequence[str], size: float = 34) -> None:
        """Square cells side by side, each with a text in it."""
        for i, (text, fill) in enumerate(zip(texts, fills, strict=True)):
            self.rect(x + i * size, y, size, size, fill)
            self.text(x + (i + 0.5) * size, y + size / 2 + 5, text)

    def svg(self) -> str:
        """The whole file."""
        return "\n".join([*self.parts, "</svg>\n"])


class Chart:
    """A rectangle of a Drawing with axes: maps data to the sheet, on scales that are linear or logarithmic."""

    def __init__(
        self, sheet: Drawing, box: tuple[float, float, float, float], x: Point, y: Point, log_x: bool = False, log_y: bool = False
    ) -> None:
        self.sheet, self.box, self.log_x, self.log_y = sheet, box, log_x, log_y
        self.x, self.y = ((math.log10(a), math.log10(b)) if log else (a, b) for log, (a, b) in ((log_x, x), (log_y, y)))
        sheet.rect(*box, fill="white", stroke=FAINT, radius=0)

    def at(self, x: float, y: float) -> Point:
        """Where a point of the data lies on the sheet."""
        left, top, width, height = self.box
        x, y = math.log10(x) if self.log_x else x, math.log10(y) if self.log_y else y
        return (left + width * (x - self.x[0]) / (self.x[1] - self.x[0]), top + height * (1.0 - (y - self.y[0]) / (self.y[1] - self.y[0])))

    def curve(self, points: Iterable[Point], colour: str = BLUE, width: float = 2, dashed: bool = False) -> None:
        """A line through points of the data."""
        self.sheet.line([self.at(x, y) for x, y in points], colour, width, dashed)

    def label(self, x: float, y: float, text: str, colour: str = INK, anchor: str = "start", size: float = 14) -> None:
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


def write(pictures: dict[str, str]) -> None:
    """Writes each picture to docs/pictures/NAME.svg."""
    folder = Path(__file__).resolve().parent.parent / "pictures"
    folder.mkdir(exist_ok=True)
    for name, svg in pictures.items():
        (folder / f"{name}.svg").write_text(svg, encoding="utf-8")
