"""The pictures of chapter 14: windows of a picture, the gradient of a convolution, what a network learned,
gradients by distance.

python docs/figures/convolution_and_recurrence.py
"""

from __future__ import annotations

import drawing
from drawing import BLUE, FAINT, FILLS, GREEN, INK, ORANGE, Drawing, line_chart

from tinygpt_core import no_grad

CHAPTER = "14-convolution-and-recurrence"


def windows_as_columns() -> str:
    """A picture of 4 by 4 and its nine windows of 2 by 2 as columns, with one pixel and one window marked."""
    sheet = Drawing(
        640, 260, "A picture of 4 by 4 pixels, and the matrix whose nine columns are its windows of 2 by 2"
    )
    sheet.text(94, 40, "picture", bold=True)
    for place in range(16):
        left, top = 34 + place % 4 * 30, 60 + place // 4 * 30
        sheet.rect(left, top, 30, 30, FILLS[1] if place == 5 else "white", FAINT, 0)
        sheet.text(left + 15, top + 20, str(place), size=12)
    sheet.rect(34, 60, 60, 60, "none", BLUE)
    sheet.text(64, 210, "the first window", BLUE, 12)
    sheet.arrow((180, 130), (222, 130), INK)
    found = drawing.chapter(CHAPTER)["found"]
    sheet.text(455, 40, "one column for each window", bold=True)
    for index, place in enumerate(found):
        left, top = 320 + index % 9 * 30, 70 + index // 9 * 30
        sheet.rect(left, top, 30, 30, FILLS[1] if place == 5 else "white", FAINT, 0)
        sheet.text(left + 15, top + 20, str(place), size=12)
    for tap in range(4):
        sheet.text(312, 90 + 30 * tap, f"under w[{tap // 2}][{tap % 2}]", FAINT, 12, "end")
    sheet.rect(320, 70, 30, 120, "none", BLUE)
    sheet.text(455, 214, "pixel 5 lies under each of the four weights once", ORANGE, 12)
    return sheet.svg()


def window_options() -> str:
    """Which of seven numbers each place of a window of three weights sees."""
    cases = [("padding 0", 0, 1, 1), ("padding 1", 1, 1, 1), ("stride 2", 0, 2, 1), ("dilation 2", 0, 1, 2)]
    sheet = Drawing(
        720,
        320,
        "Seven numbers under a window of three weights: with padding, a stride and a dilation, and the "
        "places that result",
    )
    for number, (name, padding, stride, dilation) in enumerate(cases):
        left, top = 30 + number % 2 * 350, 40 + number // 2 * 150
        sheet.text(left, top - 12, name, size=14, anchor="start", bold=True)
        for i in range(-padding, 7 + padding):
            sheet.rect(left + 34 * (i + 1), top + 70, 28, 24, "white" if 0 <= i < 7 else FILLS[7], FAINT)
            sheet.text(left + 34 * (i + 1) + 14, top + 87, "x" if 0 <= i < 7 else "0", FAINT, 12)
        count = (7 + 2 * padding - dilation * 2 - 1) // stride + 1
        for place in range(count):
            first = place * stride - padding
            centre = left + 34 * (first + dilation + 1) + 14
            colour = (BLUE, ORANGE, GREEN)[place % 3]
            for tap in range(3):
                sheet.line(
                    [(centre, top + 24), (left + 34 * (first + tap * dilation + 1) + 14, top + 70)],
                    colour,
                    1.2,
                )
            sheet.rect(centre - 14, top, 28, 24, FILLS[0], colour)
            sheet.text(centre, top + 17, "y", size=12)
    return sheet.svg()


def convolution_gradient() -> str:
    """The gradient of the input of the chapter's small convolution, as a window over the padded gradient of
    the result.
    """
    names = drawing.chapter(CHAPTER)
    sheet = Drawing(
        640,
        290,
        "The gradient of each input is a sum over the padded gradient of the result, with the weights "
        "turned round",
    )
    cell, left = 56, 150
    padded = ["0", "0", *(f"{value:g}" for value in names["g"]), "0", "0"]
    sheet.text(left - 14, 55, "g, padded", FAINT, anchor="end")
    sheet.row(left, 22, padded, [FILLS[7]] * 2 + [FILLS[1]] * 3 + [FILLS[7]] * 2, cell)
    turned = [f"{value:g}" for value in names["w"][::-1]]
    sheet.text(left - 14, 145, "w, turned round", FAINT, anchor="end")
    sheet.row(left + cell, 112, turned, [FILLS[0]] * 3, cell)
    for tap in range(3):
        sheet.line([(left + (tap + 1.5) * cell, 78), (left + (tap + 1.5) * cell, 112)], BLUE)
        sheet.line([(left + (tap + 1.5) * cell, 168), (left + 2.5 * cell, 202)], BLUE)
    sheet.text(left - 14, 235, "gradient of x", FAINT, anchor="end")
    sheet.row(
        left + cell,
        202,
        [f"{value:g}" for value in names["of_x"]],
        ["white", FILLS[2], "white", "white", "white"],
        cell,
    )
    sheet.text(left + 3.5 * cell, 280, "0 · 2 + 1 · (−1) + 10 · 0.5 = 4", INK, 13)
    return sheet.svg()


def image(sheet: Drawing, x: float, y: float, table: list[list[float]], cell: float, caption: str) -> None:
    """A table of numbers as an image: blue above 0, orange below, relative to the largest of them, in eight
    shades.
    """
    largest = max(abs(value) for row in table for value in row) or 1.0
    for i, row in enumerate(table):
        for j, value in enumerate(row):
            fill = drawing.shade(BLUE if value >= 0 else ORANGE, round(8 * abs(value) / largest) / 8)
            sheet.rect(x + j * cell, y + i * cell, cell, cell, fill, "none", 0)
    sheet.rect(x, y, cell * len(table[0]), cell * len(table), "none", FAINT, 0)
    sheet.text(x + cell * len(table[0]) / 2, y + cell * len(table) + 18, caption, FAINT, 12)


def learnt_windows() -> str:
    """The first layer's windows and their answers to a cross."""
    names = drawing.chapter(CHAPTER)
    names["random"].seed(3)
    model = names["learn"](names["Convolutional"]())
    cross = names["pictures"]([(5, 4)], names["random"].Generator(5))[0][:1]
    with no_grad():
        answers = model.first(cross).relu().to_python()[0]
    weights = model.first.weights.to_python()
    sheet = Drawing(
        640,
        270,
        "A cross with noise, the four windows of three by three weights that the first layer has "
        "learned, and their answers",
    )
    image(sheet, 20, 66, cross.to_python()[0][0], 9, "a cross")
    for number in range(4):
        left = 165 + 120 * number
        image(sheet, left + 28, 16, weights[number][0], 14, "weights")
        image(sheet, left, 112, answers[number], 10, "answer")
    sheet.text(320, 258, "blue: above 0; orange: below 0", FAINT, 12)
    return sheet.svg()


def gradient_by_distance() -> str:
    """The length of the gradient of the last state, by distance, for five networks."""
    names = drawing.chapter(CHAPTER)
    norms = names["gradient_norms"]
    networks = {
        "tanh RNN, factor 0.7": (names["with_factor"](0.7), 0.1),
        "tanh RNN, factor 1": (names["with_factor"](1.0), 0.1),
        "factor 1.3, tiny inputs": (names["with_factor"](1.3), 1e-6),
        "LSTM, forget bias 0": (names["with_forget_bias"](0.0), 0.1),
        "LSTM, forget bias 1": (names["with_forget_bias"](1.0), 0.1),
    }
    lines = {name: list(enumerate(norms(network, 51, std))) for name, (network, std) in networks.items()}
    sheet = Drawing(
        680,
        380,
        "The length of the gradient by the distance to the input: it vanishes, explodes, or stays, by "
        "network",
    )
    line_chart(
        sheet,
        (70, 40, 440, 270),
        lines,
        ("distance in positions", "length of the gradient"),
        {0: "0", 10: "10", 20: "20", 30: "30", 40: "40", 50: "50"},
        {1e-10: "10⁻¹⁰", 1e-5: "10⁻⁵", 1.0: "1", 1e5: "10⁵", 1e10: "10¹⁰"},
        log_y=True,
    )
    return sheet.svg()


def pictures() -> dict[str, str]:
    """The pictures by name."""
    return {
        "windows-as-columns": windows_as_columns(),
        "window-options": window_options(),
        "convolution-gradient": convolution_gradient(),
        "learnt-windows": learnt_windows(),
        "gradient-by-distance": gradient_by_distance(),
    }


if __name__ == "__main__":
    drawing.write(pictures())
