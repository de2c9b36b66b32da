"""The picture of a GPT that the book, the README, the site and the page of `tinygpt explain` share: what
becomes of a text, with the shape of everything that passes, and one block opened up.

python docs/figures/whole.py
"""

from __future__ import annotations

import drawing
from drawing import BLUE, FAINT, FILLS, GREEN, INK, ORANGE, PURPLE, Drawing

SKY, PEACH, MINT, LILAC, ROSE, TEAL, LEMON, GREY = FILLS
TEXT = "get_n"
IN_THE_PAGE = drawing.DOCS.parent / "tinygpt_core" / "explain" / "page" / "gpt.svg"


def box(
    sheet: Drawing, x: float, y: float, width: float, height: float, title: str, below: str, fill: str
) -> None:
    """A part of the model: its name, and a line that says what it does."""
    middle = y + height / 2
    with sheet.part(title):
        sheet.rect(x, y, width, height, fill, FAINT, 6)
        sheet.text(x + width / 2, middle - 3 if below else middle + 5, title, bold=True)
        if below:
            sheet.text(x + width / 2, middle + 15, below, size=12)


def cells(sheet: Drawing, x: float, y: float, texts: list[str], fill: str) -> None:
    """One small box for each position."""
    for i, text in enumerate(texts):
        sheet.rect(x + 44 * i, y, 40, 28, fill, FAINT)
        sheet.text(x + 44 * i + 20, y + 19, text)


def outside(sheet: Drawing) -> None:
    """The left column: from the text to the probabilities of the next token."""
    left, width, middle = 20, 216, 128
    cells(sheet, left, 46, list(TEXT), GREY)
    sheet.text(left, 34, "text", FAINT, 13, "start")
    sheet.text(left + width, 34, "T characters", FAINT, 13, "end")
    box(sheet, left, 94, width, 30, "tokenizer", "", TEAL)
    cells(sheet, left, 146, ["44", "42", "57", "37", "51"], GREY)  # those of `train`, on CPython 3.11
    box(sheet, left, 200, width, 46, "embedding", "row i of a table (V, C)", SKY)
    with sheet.part("block"):
        for depth in (12, 6, 0):
            sheet.rect(left + depth, 290 - depth, width, 56, PEACH, FAINT, 6)
        sheet.text(middle, 315, "block", bold=True)
        sheet.text(middle, 333, "L of them, one after the other", size=12)
    box(sheet, left, 390, width, 30, "LayerNorm", "", MINT)
    box(sheet, left, 442, width, 46, "head", "dot products with a table (V, C)", SKY)
    box(sheet, left, 606, width, 30, "softmax", "", LILAC)
    for start, end, shape in (
        (74, 94, ""),
        (124, 146, ""),
        (174, 200, "ids (T)"),
        (246, 278, "x (T, C)"),
        (346, 390, "x (T, C)"),
        (420, 442, ""),
        (488, 606, ""),
        (636, 658, ""),
    ):
        sheet.arrow((middle, start), (middle, end))
        if shape:
            sheet.text(middle + 12, (start + end) / 2 + 5, shape, BLUE, 13, "start")
    sheet.text(middle + 12, 512, "z (T, V)", BLUE, 13, "start")
    sheet.text(middle + 12, 600, "logits (T, V)", BLUE, 13, "start")
    sheet.text(middle + 12, 652, "(T, V)", BLUE, 13, "start")
    for i, (letter, share) in enumerate(zip("aeio_", (0.9, 0.45, 0.2, 0.3, 0.1), strict=True)):
        x = left + 44 * i
        sheet.rect(x + 6, 706 - 40 * share, 28, 40 * share, PURPLE, "none", 0)
        sheet.text(x + 20, 722, letter)
    sheet.line([(left, 706), (left + width, 706)], FAINT, 1)
    sheet.text(middle, 744, f"what comes after “{TEXT}”?", FAINT, 13)


def counting(sheet: Drawing) -> None:
    """What a model may build on: it reads the ids, and joins at the logits."""
    plus = (128, 562)
    with sheet.part("counting, its way"):
        sheet.line([(236, 160), (258, 160), (258, 530), (344, 530)], FAINT, dashed=True)
        sheet.arrow((344, 530), (344, 539), FAINT)
        sheet.arrow((294, 562), (plus[0] + 12, 562), FAINT, dashed=True)
        sheet.text(172, 555, "log p (T, V)", BLUE, 13, "start")
        sheet.circle(*plus, 12, LEMON, INK)
        sheet.text(plus[0], plus[1] + 6, "+", size=18, bold=True)
        sheet.text(522, 559, "not in every GPT: the network adds", FAINT, 12, "start")
        sheet.text(522, 577, "to it what counting does not know", FAINT, 12, "start")
    box(sheet, 294, 539, 216, 46, "counting", "what followed the last tokens?", LILAC)


def inside(sheet: Drawing) -> None:
    """The right column: one block, with the residual stream from top to bottom."""
    sheet.rect(276, 46, 464, 478, "none", FAINT, 8)
    sheet.line([(254, 284), (276, 60)], FAINT, 1, dashed=True)
    sheet.line([(248, 346), (276, 516)], FAINT, 1, dashed=True)
    sheet.text(280, 34, "one block", FAINT, 13, "start")
    stream = 318
    sheet.arrow((stream, 50), (stream, 520), ORANGE, 5, head=16)
    sheet.text(stream + 12, 68, "x (T, C)", BLUE, 13, "start")
    sheet.text(stream + 14, 516, "x (T, C): the residual stream", BLUE, 13, "start")
    for top, name, below in (
        (86, "causal self-attention", "each position looks back"),
        (316, "MLP", "each position by itself"),
    ):
        sheet.line([(stream, top), (372, top), (372, top + 12)])
        sheet.arrow((372, top), (372, top + 16))
        box(sheet, 344, top + 16, 176, 30, "LayerNorm", "", MINT)
        sheet.arrow((432, top + 46), (432, top + 70))
        sheet.text(444, top + 62, "(T, C)", BLUE, 13, "start")
        box(sheet, 344, top + 70, 176, 62, name, below, ROSE if top == 86 else LEMON)
        sheet.line([(432, top + 132), (432, top + 172)])
        sheet.arrow((432, top + 172), (stream + 12, top + 172))
        sheet.text(444, top + 156, "(T, C)", BLUE, 13, "start")
        sheet.circle(stream, top + 172, 12, LEMON, INK)
        sheet.text(stream, top + 178, "+", size=18, bold=True)
    _weights(sheet)
    _mlp(sheet)


def _weights(sheet: Drawing) -> None:
    """What attention does: a triangle of weights for each head."""
    x0, y0, size = 592, 112, 20
    for i in range(5):
        for j in range(5):
            seen = j <= i
            strength = (0.85, 0.1, 0.2, 0.35, 0.55)[(i - j) % 5] if seen else 0.0
            sheet.rect(x0 + j * size, y0 + i * size, size, size, GREY if seen else "none", FAINT, 0)
            if seen:
                sheet.circle(x0 + (j + 0.5) * size, y0 + (i + 0.5) * size, 9 * strength**0.5, GREEN)
        sheet.text(x0 - 8, y0 + (i + 0.5) * size + 5, TEXT[i], size=12, anchor="end")
        sheet.text(x0 + (i + 0.5) * size, y0 - 6, TEXT[i], size=12)
    sheet.line([(520, 180), (572, 180)], FAINT, 1, dashed=True)
    sheet.text(642, 232, "H heads: weights (T, T)", size=12)
    sheet.text(642, 250, "who looks at whom", FAINT, 12)


def _mlp(sheet: Drawing) -> None:
    """What the MLP does: wider, bent, and back."""
    sheet.line([(520, 416), (562, 416)], FAINT, 1, dashed=True)
    for top, width, fill, name in ((352, 60, SKY, "C"), (398, 150, LEMON, "4 C"), (444, 60, SKY, "C")):
        sheet.rect(646 - width / 2, top, width, 22, fill, FAINT, 0)
        sheet.text(646, top + 16, name, size=12)
    sheet.arrow((646, 374), (646, 398))
    sheet.arrow((646, 420), (646, 444))
    sheet.text(656, 391, "linear", size=12, anchor="start")
    sheet.text(656, 437, "GELU, linear", size=12, anchor="start")


def pictures() -> dict[str, str]:
    """The pictures by name."""
    sheet = Drawing(
        760,
        760,
        "A GPT. Text becomes T token ids; each picks a row of the embedding table, which gives x of shape "
        "(T, C). L blocks change x; a LayerNorm, the head and a softmax turn it into V probabilities at each "
        "position. In a model that counts, too, what counting says is added to the logits. A block adds to x "
        "twice: what attention found at earlier positions, and what the MLP made of each position by itself; "
        "both read x through a LayerNorm.",
        themed=True,
    )
    outside(sheet)
    counting(sheet)
    inside(sheet)
    rows = (
        "T positions, V tokens in the vocabulary, C numbers in a vector,",
        "L blocks, H heads. GPT-2, with 124 million parameters, has",
        "T up to 1,024, V = 50,257, C = 768, L = 12 and H = 12.",
    )
    for i, row in enumerate(rows):
        sheet.text(294, 644 + 24 * i, row, FAINT, 13, "start")
    return {"gpt": sheet.svg()}


if __name__ == "__main__":
    drawing.write(pictures())
    IN_THE_PAGE.write_text(pictures()["gpt"], encoding="utf-8")
