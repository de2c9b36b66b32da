"""The pictures of chapter 16: a counterexample that shrinks, and the errors of differences and of sums.

python docs/figures/laws.py
"""

from __future__ import annotations

import math

import drawing
from drawing import BLUE, FAINT, FILLS, ORANGE, Drawing, line_chart

CHAPTER = "16-the-laws"


def shrinking() -> str:
    """The cases that a counterexample passes through while it shrinks."""
    names = drawing.chapter(CHAPTER)
    steps = [names["found"]]
    while smaller := next(
        (case for case in names["simpler"](steps[-1]) if not names["holds"](names["row_sums"], case)), None
    ):
        steps.append(smaller)
    shown = [
        step for i, step in enumerate(steps) if i == 0 or i == len(steps) - 1 or step[:2] != steps[i - 1][:2]
    ]
    sheet = Drawing(
        750, 190, "A counterexample to the sums of rows: a table of 4 by 4 numbers shrinks to one of 2 by 1"
    )
    cell, left = 24, 20
    for i, (rows, columns, numbers, _) in enumerate(shown):
        for place, value in enumerate(numbers):
            x, y = left + place % columns * cell, 40 + place // columns * cell
            sheet.rect(x, y, cell, cell, FILLS[0] if value else "white", FAINT, 0)
            sheet.text(x + cell / 2, y + 17, str(value).replace("-", "−"), size=12)
        sheet.text(left + columns * cell / 2, 26, f"{rows} × {columns}", FAINT, 12)
        left += columns * cell + 18
        if i < len(shown) - 1:
            sheet.arrow((left - 12, 60), (left + 8, 60))
            left += 20
    sheet.text(
        20,
        166,
        f"{len(steps) - 1} steps, of which those that change the size are shown; the layout stays "
        f"“{steps[-1][3]}”",
        FAINT,
        12,
        "start",
    )
    return sheet.svg()


def difference_step() -> str:
    """The error of the central difference of exp at 1, by its step."""
    names = drawing.chapter(CHAPTER)

    def curve(rounded, first, last):
        """The largest error in each twentieth of a decade, from four steps near each other: a single one may
        be right by luck.
        """
        steps = [10 ** (first + i / 5) for i in range(round((last - first) * 5) + 1)]
        return [(h, max(names["error"](h * (1 + j / 40), rounded=rounded) for j in range(4))) for h in steps]

    sheet = Drawing(
        590,
        380,
        "The error of the central difference of exp at 1 by the step h, in float64 and in float32, both "
        "axes logarithmic",
    )
    chart = line_chart(
        sheet,
        (80, 40, 470, 270),
        {},
        ("step h", "error of the difference"),
        {
            10.0**e: text
            for e, text in ((-9, "10⁻⁹"), (-7, "10⁻⁷"), (-5, "10⁻⁵"), (-3, "10⁻³"), (-1, "0.1"), (0, "1"))
        },
        {
            10.0**e: text
            for e, text in ((-12, "10⁻¹²"), (-9, "10⁻⁹"), (-6, "10⁻⁶"), (-3, "10⁻³"), (0, "1"), (1, "10"))
        },
        log_x=True,
        log_y=True,
    )
    chart.curve(curve(lambda x: x, -9, 0), BLUE)
    chart.curve(curve(names["single"], -5, 0), ORANGE)
    best = (3 * 2.0**-53) ** (1 / 3)
    chart.curve([(best, 1e-12), (best, 10.0)], BLUE, 1, dashed=True)
    chart.label(best * 0.8, 2.5, "best for float64", BLUE, "end", 12)
    best = (3 * 2.0**-24) ** (1 / 3)
    chart.curve([(best, 1e-12), (best, 10.0)], ORANGE, 1, dashed=True)
    chart.label(best * 1.2, 3e-12, "best for float32", ORANGE, "start", 12)
    chart.label(2e-9, 1e-9, "float64", BLUE)
    chart.label(1.4e-5, 2e-2, "float32", ORANGE)
    return sheet.svg()


def sum_error() -> str:
    """The error of float32 sums by their length, relative to the sum of sizes: the mean square root of twelve
    trials.
    """
    names = drawing.chapter(CHAPTER)
    single, chance = names["single"], names["random"].Random(5)

    def in_pairs(numbers):
        while len(numbers) > 1:
            numbers = [single(a + b) for a, b in zip(numbers[::2], numbers[1::2], strict=True)]
        return numbers[0]

    ways = {
        "one after the other": names["float32_sum"],
        "in pairs": in_pairs,
        "in doubles, rounded once": lambda x: single(math.fsum(x)),
    }
    lengths, squares = [2**k for k in range(2, 14)], {name: [] for name in ways}
    for length in lengths:
        trials = [[single(chance.random()) for _ in range(length)] for _ in range(12)]
        for name, way in ways.items():
            errors = [(way(numbers) - math.fsum(numbers)) / math.fsum(numbers) for numbers in trials]
            squares[name].append((length, max(math.sqrt(sum(e * e for e in errors) / len(errors)), 1e-9)))
    u = 2.0**-24
    lines = {
        "n u, the bound": [(n, n * u) for n in lengths],
        "√n u": [(n, math.sqrt(n) * u) for n in lengths],
        **squares,
    }
    sheet = Drawing(
        700,
        380,
        "The relative error of float32 sums of n numbers between 0 and 1 by n, for three ways to add, "
        "both axes logarithmic",
    )
    line_chart(
        sheet,
        (80, 40, 420, 270),
        lines,
        ("numbers added, n", "relative error"),
        {4: "4", 16: "16", 64: "64", 256: "256", 1024: "1,024", 8192: "8,192"},
        {1e-8: "10⁻⁸", 1e-7: "10⁻⁷", 1e-6: "10⁻⁶", 1e-5: "10⁻⁵", 1e-4: "10⁻⁴", 1e-3: "10⁻³"},
        log_x=True,
        log_y=True,
    )
    return sheet.svg()


def pictures() -> dict[str, str]:
    """The pictures by name."""
    return {"shrinking": shrinking(), "difference-step": difference_step(), "sum-error": sum_error()}


if __name__ == "__main__":
    drawing.write(pictures())
