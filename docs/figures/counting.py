"""The picture of chapter 4: how well counting predicts, by how far it looks back.

python docs/figures/counting.py
"""

from __future__ import annotations

from typing import Any

import drawing
from drawing import BLUE, FAINT, ORANGE, Chart, Drawing, chapter


def by_length(names: dict[str, Any]) -> str:
    """The loss on seen and on hidden words, for two strengths of the shorter context."""
    sheet = Drawing(
        640,
        330,
        "The loss of counting models by how many letters they look back: on the words that were counted it "
        "falls on and on; on hidden words it falls, turns and rises, less so with a strong prior",
        themed=True,
    )
    chart = Chart(sheet, (70, 40, 400, 230), (0, 7), (0.9, 2.1))
    chart.ticks([(n, str(n)) for n in range(8)], [(y / 10, f"{y / 10:.1f}") for y in range(9, 22, 2)])
    chart.curve([(0, names["least"]), (7, names["least"])], FAINT, 1.2, dashed=True)
    places = {
        (0.1, 0): ("seen, s = 0.1", ORANGE, True, 18),
        (0.1, 1): ("hidden, s = 0.1", ORANGE, False, 4),
        (10.0, 1): ("hidden, s = 10", BLUE, False, -6),
    }
    for (s, kind), (name, colour, dashed, below) in places.items():
        points = [(float(n), losses[kind]) for n, losses in enumerate(names["losses"][s])]
        chart.curve(points, colour, 2, dashed)
        for point in points:
            sheet.circle(*chart.at(*point), 2.5, colour)
        x, y = chart.at(*points[-1])
        sheet.text(x + 10, y + below, name, colour, 13, "start")
    x, y = chart.at(7, names["least"])
    sheet.text(x + 10, y + 2, "least possible", FAINT, 12, "start")
    sheet.text(270, 308, "letters back", FAINT)
    sheet.text(70, 26, "loss in nats a letter", FAINT, 13, "start")
    return sheet.svg()


def pictures() -> dict[str, str]:
    """The pictures by name."""
    return {"counting": by_length(chapter("04-counting"))}


if __name__ == "__main__":
    drawing.write(pictures())
