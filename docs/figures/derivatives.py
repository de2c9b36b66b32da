"""The pictures of chapter 1: slopes, how well they can be measured, and how they are multiplied.

python docs/figures/derivatives.py
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable

import drawing
from drawing import BLUE, FAINT, FILLS, GREEN, ORANGE, RED, Chart, Drawing


def tangent() -> str:
    """x² and its tangent at 3, and the middle of that picture ten times as large."""
    sheet = Drawing(
        640,
        330,
        "The curve x squared with its tangent at 3, and the same ten times enlarged, where the two "
        "nearly agree",
    )
    for left, reach, caption in ((60, 3.0, "x² at x = 3"), (370, 0.3, "ten times enlarged")):
        chart = Chart(sheet, (left, 50, 240, 240), (3 - reach, 3 + reach), (9 - 6 * reach, 9 + 6 * reach))
        chart.ticks(
            [(x, f"{x:g}") for x in (3 - reach, 3, 3 + reach)],
            [(y, f"{round(y, 1):g}") for y in (9 - 6 * reach, 9, 9 + 6 * reach)],
        )
        chart.curve([(3 - reach, 9 - 6 * reach), (3 + reach, 9 + 6 * reach)], ORANGE, dashed=True)
        xs = [3 + reach * i / 40 for i in range(-40, 41)]
        chart.curve([(x, x * x) for x in xs if x * x <= 9 + 6 * reach], BLUE)
        sheet.circle(*chart.at(3, 9), 4)
        sheet.text(left + 120, 34, caption, bold=True)
        sheet.text(left + 120, 324, "x", FAINT, 13)
        chart.label(3 + 0.08 * reach, 9 - 0.9 * reach, "slope 6", ORANGE)
    return sheet.svg()


def single(value: float) -> float:
    """A number rounded to float32."""
    return array("f", [value])[0]


def differences() -> str:
    """The error of measured slopes of x³ at 1 by the length of the step. Only sums and products: these round
    alike everywhere.
    """
    sheet = Drawing(
        640,
        360,
        "The error of measured slopes first falls with the step and then rises again; central "
        "differences reach 1e-10",
    )
    chart = Chart(sheet, (80, 40, 520, 260), (1e-15, 1e-1), (1e-13, 1.0), log_x=True, log_y=True)
    chart.ticks(
        [(10.0**e, f"1e{e}") for e in range(-14, 0, 2)], [(10.0**e, f"1e{e}") for e in range(-12, 1, 2)]
    )

    def curve(measure: Callable[[float], float], smallest: int) -> list[tuple[float, float]]:
        # The largest error of four neighbouring steps: a single one may vanish by chance.
        digits = ("7.1", "6.1", "5.3", "4.7", "3.9", "3.1", "2.7", "2.3", "1.9", "1.7", "1.3", "1.1")
        grid = [
            [float(f"{d}e-{e}") for d in digits[k : k + 4]] for e in range(2, smallest) for k in (0, 4, 8)
        ]
        return [(steps[0], max(abs(measure(h) - 3.0) for h in steps)) for steps in grid]

    def in_single(h: float) -> float:
        h = single(h)
        above, below = single(1.0 + h), single(1.0 - h)
        rise = single(single(single(above * above) * above) - single(single(below * below) * below))
        return single(rise / single(2.0 * h))

    chart.curve(curve(lambda h: ((1.0 + h) * (1.0 + h) * (1.0 + h) - 1.0) / h, 15), BLUE)
    chart.curve(
        curve(
            lambda h: ((1.0 + h) * (1.0 + h) * (1.0 + h) - (1.0 - h) * (1.0 - h) * (1.0 - h)) / (2.0 * h), 15
        ),
        GREEN,
    )
    chart.curve(curve(in_single, 7), RED)
    chart.label(1e-6, 3e-4, "one-sided", BLUE, "end")
    chart.label(3e-5, 3e-11, "central", GREEN)
    chart.label(3e-6, 2e-1, "central, float32", RED, "start")
    sheet.text(340, 345, "step h", FAINT)
    sheet.text(80, 28, "error of the slope of x³ at 1", FAINT, anchor="start")
    return sheet.svg()


def chain() -> str:
    """exp(sin(x²)) at 1.2."""
    sheet = Drawing(
        640,
        230,
        "A chain of square, sine and exponential, with the values that pass forward and the local "
        "slopes that are multiplied",
    )
    x, total = 1.2, 1.0
    steps = [
        ("x²", lambda v: v * v, lambda v: 2 * v),
        ("sin", math.sin, math.cos),
        ("exp", math.exp, math.exp),
    ]
    sheet.text(32, 67, f"{x:g}", BLUE)
    for i, (name, function, slope) in enumerate(steps):
        left = 110 + 175 * i
        sheet.arrow((left - (62 if i == 0 else 95), 62), (left, 62), BLUE)
        sheet.rect(left, 36, 80, 52, FILLS[0])
        sheet.text(left + 40, 67, name, bold=True)
        local = slope(x)
        x, total = function(x), total * local
        sheet.text(left + 124, 52, f"{x:.3f}", BLUE)
        sheet.line([(left + 40, 88), (left + 40, 120)], FAINT, 1, dashed=True)
        sheet.rect(left - 12, 120, 104, 40, FILLS[1])
        sheet.text(left + 40, 145, f"slope {local:.3f}", ORANGE)
        if i < 2:
            sheet.text(left + 128, 146, "×", ORANGE, 18)
    sheet.arrow((540, 62), (630, 62), BLUE)
    sheet.text(325, 205, f"slope of the chain: {total:.3f}", ORANGE, bold=True)
    return sheet.svg()


def orders() -> str:
    """Three Jacobians, multiplied from either end; sizes to scale, a single row or column drawn a little
    thicker.
    """
    sheet = Drawing(
        640,
        400,
        "Multiplied from the loss, a chain of Jacobians gives rows; multiplied from the input, it gives "
        "matrices",
    )
    scale = 0.22

    def block(x: float, y: float, rows: int, columns: int, fill: str, name: str) -> float:
        width, height = max(8.0, columns * scale), max(8.0, rows * scale)
        sheet.rect(x, y - height / 2, width, height, fill)
        sheet.text(x + width / 2, y + height / 2 + 16, f"{name}{rows} × {columns}", FAINT, 11)
        return x + width

    def chain_of(y: float, blocks: list[tuple[int, int, str, str]]) -> None:
        x = 40.0
        for rows, columns, fill, name in blocks:
            x = block(x, y, rows, columns, fill, name) + 36
            if (rows, columns, fill, name) != blocks[-1]:
                sheet.text(x - 18, y + 5, "·", size=22)

    sheet.text(40, 30, "from the loss: (row · matrix) · matrix", BLUE, anchor="start", bold=True)
    chain_of(80, [(1, 300, FILLS[0], ""), (300, 200, FILLS[7], ""), (200, 1000, FILLS[7], "")])
    chain_of(170, [(1, 200, FILLS[0], ""), (200, 1000, FILLS[7], "")])
    sheet.text(590, 174, "260,000 multiplications", BLUE, 13, "end")
    sheet.text(40, 250, "from the input: row · (matrix · matrix)", RED, anchor="start", bold=True)
    chain_of(310, [(1, 300, FILLS[7], ""), (300, 1000, FILLS[4], "a matrix ")])
    sheet.text(590, 315, "60,300,000 multiplications", RED, 13, "end")
    return sheet.svg()


def softmax() -> str:
    """Probabilities of four scores, and the slopes of the cross-entropy with the second as target."""
    sheet = Drawing(
        640,
        300,
        "Four probabilities and the slopes of the loss: negative for the target, positive for all others",
    )
    scores, target = [2.0, 1.0, -1.0, 0.5], 1
    e = [math.exp(score) for score in scores]
    p = [value / sum(e) for value in e]
    for left, heights, caption in (
        (60, p, "p = softmax(x)"),
        (370, [value - (i == target) for i, value in enumerate(p)], "slope of the loss: p - y"),
    ):
        chart = Chart(sheet, (left, 44, 240, 210), (0, 4), (-1, 1))
        chart.ticks(
            [(i + 0.5, f"x = {score:g}") for i, score in enumerate(scores)], [(-1, "-1"), (0, "0"), (1, "1")]
        )
        sheet.text(left + 120, 30, caption, bold=True)
        chart.curve([(0, 0), (4, 0)], FAINT, 1)
        for i, height in enumerate(heights):
            x0, y0 = chart.at(i + 0.2, max(height, 0))
            x1, y1 = chart.at(i + 0.8, min(height, 0))
            sheet.rect(x0, y0, x1 - x0, y1 - y0, FILLS[2] if i == target else FILLS[0])
            chart.label(
                i + 0.5, height + (0.06 if height > 0 else -0.16), f"{height:.2f}", anchor="middle", size=12
            )
    sheet.text(320, 288, "green: the token that came next", GREEN, 12)
    return sheet.svg()


def pictures() -> dict[str, str]:
    """The pictures by name."""
    return {
        "tangent": tangent(),
        "differences": differences(),
        "chain": chain(),
        "orders": orders(),
        "softmax": softmax(),
    }


if __name__ == "__main__":
    drawing.write(pictures())
