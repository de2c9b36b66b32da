"""The picture of chapter 10: a network that learns its forty words, and not the language.

python docs/figures/well.py
"""

from __future__ import annotations

from typing import Any

import drawing
from drawing import FAINT, Drawing, chapter, line_chart


def overfitting(names: dict[str, Any]) -> str:
    """The two losses by step."""
    sheet = Drawing(
        700,
        340,
        "The loss of a network on the forty words that it trains on falls on and on; on hidden words it "
        "falls, turns, and rises",
        themed=True,
    )
    curve = names["curve"]
    line_chart(
        sheet,
        (60, 40, 440, 230),
        {
            "the forty words": [(float(step), seen) for step, seen, _ in curve],
            "hidden words": [(float(step), min(hidden, 2.4)) for step, _, hidden in curve],
        },
        ("step", ""),
        {float(step): str(step) for step in range(0, 201, 50)},
        {y / 10: f"{y / 10:.1f}" for y in range(6, 25, 3)},
    )
    sheet.text(60, 28, "loss in nats a letter", FAINT, 13, "start")
    return sheet.svg()


def pictures() -> dict[str, str]:
    """The pictures by name."""
    return {"overfitting": overfitting(chapter("10-training-it-well"))}


if __name__ == "__main__":
    drawing.write(pictures())
