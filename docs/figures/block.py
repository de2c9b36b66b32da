"""The pictures of chapters 6 and 8: the letters where training has put them, and ReLU beside GELU.

python docs/figures/block.py
"""

from __future__ import annotations

import math
from typing import Any

import drawing
from drawing import BLUE, FAINT, ORANGE, Chart, Drawing, chapter


def gelu() -> str:
    """Two activation functions and their slopes."""
    sheet = Drawing(
        680,
        270,
        "Left, ReLU and GELU: a corner at 0, and a curve that dips below 0 and then follows the line. Right, "
        "their slopes: a jump from 0 to 1, and a smooth rise",
        themed=True,
    )
    xs = [i / 20 for i in range(-60, 61)]

    def share(x: float) -> float:
        return 0.5 * (1.0 + math.erf(x / math.sqrt(2.0)))

    def slope(x: float) -> float:
        return share(x) + x * math.exp(-x * x / 2.0) / math.sqrt(2.0 * math.pi)

    left = Chart(sheet, (50, 40, 260, 180), (-3, 3), (-0.5, 3))
    left.ticks([(x, str(x)) for x in (-3, 0, 3)], [(y, str(y)) for y in (0, 1, 2, 3)])
    left.curve([(-3, 0), (0, 0), (3, 3)], ORANGE)
    left.curve([(x, x * share(x)) for x in xs], BLUE)
    right = Chart(sheet, (370, 40, 260, 180), (-3, 3), (-0.25, 1.25))
    right.ticks([(x, str(x)) for x in (-3, 0, 3)], [(y, f"{y:g}") for y in (0, 0.5, 1)])
    right.curve([(-3, 0), (0, 0), (0, 1), (3, 1)], ORANGE)
    right.curve([(x, slope(x)) for x in xs], BLUE)
    for x, text in ((180, "the functions"), (500, "their slopes")):
        sheet.text(x, 26, text, FAINT, 13)
        sheet.text(x, 258, "x", FAINT, 13)
    sheet.text(80, 70, "ReLU", ORANGE, 13, "start")
    sheet.text(80, 90, "GELU", BLUE, 13, "start")
    return sheet.svg()


def letters(names: dict[str, Any]) -> str:
    """The rows of the trained table, as points."""
    places = names["places"]
    sheet = Drawing(
        460,
        400,
        "The eight letters of the Roman numerals as points in a plane, where training has put them",
        themed=True,
    )
    reach = 1.15 * max(abs(value) for place in places.values() for value in place)
    chart = Chart(sheet, (40, 20, 380, 340), (-reach, reach), (-reach, reach))
    chart.curve([(-reach, 0), (reach, 0)], FAINT, 0.7, dashed=True)
    chart.curve([(0, -reach), (0, reach)], FAINT, 0.7, dashed=True)
    beside = {
        ".": (-10, 5, "end"),
        "M": (0, -9, "middle"),
        "D": (2, 19, "middle"),
    }  # where they would collide
    for letter, (x, y) in places.items():
        sheet.circle(*chart.at(x, y), 4, BLUE)
        right, below, anchor = beside.get(letter, (12, 5, "start"))
        at = chart.at(x, y)
        name = "boundary" if letter == "." else letter
        sheet.text(at[0] + right, at[1] + below, name, size=15, anchor=anchor)
    sheet.text(230, 384, "the two numbers of each row of the table", FAINT, 13)
    return sheet.svg()


def pictures() -> dict[str, str]:
    """The pictures by name."""
    return {"gelu": gelu(), "embeddings": letters(chapter("06-embeddings"))}


if __name__ == "__main__":
    drawing.write(pictures())
