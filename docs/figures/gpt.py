"""The pictures of chapter 9: the loss of its training, and what temperature, top-k and top-p do to a
distribution.

python docs/figures/gpt.py
"""

from __future__ import annotations

import math
from typing import Any

import drawing
from drawing import BLUE, GREEN, ORANGE, Drawing, bars, chapter, line_chart


def training(names: dict[str, Any]) -> str:
    """The loss of each step with its running mean, between three levels that are known."""
    losses = names["losses"]
    smooth = [losses[0]]
    for loss in losses[1:]:
        smooth.append(0.85 * smooth[-1] + 0.15 * loss)
    sheet = Drawing(
        760,
        340,
        "The loss of each training step with its running mean: below the counting model, towards the "
        "least possible loss",
    )
    levels = {
        "knows nothing: ln 8": math.log(8),
        "counting, one letter back": names["COUNTING"]["one letter back"],
        "counting, two letters back": names["COUNTING"]["two"],
    }
    line_chart(
        sheet,
        (60, 45, 500, 230),
        {"": list(enumerate(losses)), " ": list(enumerate(smooth))},
        ("step", "loss of each batch, in nats a token, and (orange) its running mean"),
        {float(step): str(step) for step in range(0, len(losses) + 1, 40)},
        {y / 10: f"{y / 10:.1f}" for y in range(8, 25, 4)},
        levels | {"knows everything": names["least"]},
    )
    return sheet.svg()


def sampling(names: dict[str, Any]) -> str:
    """The distribution of the letter after C, at three temperatures and cut off in two ways."""
    alphabet, as_trained = names["alphabet"], names["probabilities"](names["after_c"], 1.0)
    ranked = sorted(range(len(as_trained)), key=as_trained.__getitem__, reverse=True)

    def kept(count: int) -> list[float]:
        total = sum(as_trained[i] for i in ranked[:count])
        return [p / total if i in ranked[:count] else 0.0 for i, p in enumerate(as_trained)]

    nucleus = next(count for count in range(1, 9) if sum(as_trained[i] for i in ranked[:count]) >= 0.9)
    sheet = Drawing(
        760,
        380,
        "The probabilities of the letter after C: temperature 0.5, 1 and 2 above; top-k 2 and top-p 0.9 "
        "below",
    )
    for i, temperature in enumerate((0.5, 1.0, 2.0)):
        bars(
            sheet,
            (20 + 250 * i, 25, 220, 110),
            names["probabilities"](names["after_c"], temperature),
            alphabet,
            f"temperature {temperature:g}",
            BLUE,
        )
    for i, (count, caption, colour) in enumerate(((2, "top-k 2", ORANGE), (nucleus, "top-p 0.9", GREEN))):
        bars(
            sheet, (145 + 250 * i, 215, 220, 110), kept(count), alphabet, f"temperature 1, {caption}", colour
        )
    return sheet.svg()


def pictures() -> dict[str, str]:
    """The pictures by name."""
    names = chapter("09-a-gpt-that-writes")
    return {"gpt-loss": training(names), "gpt-sampling": sampling(names)}


if __name__ == "__main__":
    drawing.write(pictures())
