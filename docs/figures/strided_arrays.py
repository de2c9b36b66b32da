"""The pictures of chapter 11: storages and the views on them.

python docs/figures/strided_arrays.py
"""

from __future__ import annotations

import drawing
from drawing import BLUE, FAINT, FILLS, ORANGE, Drawing

from tinygpt_core import Buffer
from tinygpt_core.shape import contiguous_strides, copy_plan

CELL = 40


def table(sheet: Drawing, x: float, y: float, view: Buffer, caption: str) -> None:
    """A view as a table, each element in the colour of its place in the storage, with its strides along its
    sides.
    """
    rows, columns = view.shape
    for i in range(rows):
        for j in range(columns):
            place = view.offset + i * view.stride[0] + j * view.stride[1]
            sheet.rect(x + j * CELL, y + i * CELL, CELL, CELL, FILLS[place])
            sheet.text(x + (j + 0.5) * CELL, y + (i + 0.5) * CELL + 5, str(view.data[place]))
    sheet.text(x + columns * CELL / 2, y - 34, caption, bold=True)
    sheet.arrow((x + 4, y - 10), (x + columns * CELL, y - 10), BLUE)
    sheet.text(x + columns * CELL / 2, y - 15, f"stride {view.stride[1]}", BLUE, 12)
    sheet.arrow((x - 10, y + 4), (x - 10, y + rows * CELL), ORANGE)
    sheet.text(x - 16, y + rows * CELL / 2 + 4, f"stride {view.stride[0]}", ORANGE, 12, "end")


def storage(sheet: Drawing, x: float, y: float, data: list[int]) -> None:
    """The flat storage with the number of each place below it."""
    sheet.text(x - 12, y + CELL / 2 + 5, "storage", FAINT, anchor="end")
    sheet.row(x, y, [str(value) for value in data], FILLS[: len(data)], CELL)
    for place in range(len(data)):
        sheet.text(x + (place + 0.5) * CELL, y + CELL + 16, str(place), FAINT, 12)


def strides() -> str:
    """A table and its transpose."""
    sheet = Drawing(
        640,
        330,
        "One storage of six numbers, seen as a table of two rows with strides 3 and 1, and as its transpose",
    )
    b = Buffer([[10, 11, 12], [20, 21, 22]])
    storage(sheet, 200, 24, b.to_array().tolist())
    table(sheet, 130, 170, b, "shape (2, 3)")
    table(sheet, 440, 170, b.transpose(0, 1), "transposed: shape (3, 2)")
    return sheet.svg()


def broadcast() -> str:
    """A row seen as a table."""
    sheet = Drawing(
        640, 250, "A row of three numbers, seen as a table of two equal rows: a step down has stride 0"
    )
    row = Buffer([100, 200, 300])
    storage(sheet, 260, 24, row.to_array().tolist())
    table(sheet, 260, 150, row.expand((2, 3)), "expanded to shape (2, 3)")
    return sheet.svg()


def runs() -> str:
    """The runs of two views of one table of six rows and eight columns."""
    size, rows, columns = 26, 6, 8
    sheet = Drawing(
        640,
        260,
        "The elements of a slice lie in a few runs with equal steps, and each run is one slice of the "
        "storage",
    )
    b = Buffer.arange(rows * columns).reshape((rows, columns))
    for x, view, caption in (
        (60, b[1:4, 1:7], "b[1:4, 1:7]"),
        (370, b[:, 2:4].transpose(0, 1), "b[:, 2:4] transposed"),
    ):
        length, step, _, starts = copy_plan(view.shape, view.stride, contiguous_strides(view.shape))
        chosen = {
            view.offset + start + k * step: i for i, (start, _) in enumerate(starts) for k in range(length)
        }
        sheet.text(x + columns * size / 2, 30, caption, bold=True)
        for place in range(rows * columns):
            left, top = x + place % columns * size, 46 + place // columns * size
            sheet.rect(left, top, size, size, FILLS[chosen[place]] if place in chosen else "white", FAINT, 0)
            sheet.text(left + size / 2, top + size / 2 + 4, str(place), size=11)
        sheet.text(x + columns * size / 2, 228, f"{len(starts)} runs of {length} elements, {step} apart")
    return sheet.svg()


def pictures() -> dict[str, str]:
    """The pictures by name."""
    return {"strides": strides(), "broadcast": broadcast(), "runs": runs()}


if __name__ == "__main__":
    drawing.write(pictures())
