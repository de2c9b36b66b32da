"""The pictures of chapter 15: where one storage is exchanged for another, and how a kernel is found.

python docs/figures/backends.py
"""

from __future__ import annotations

import drawing
from drawing import BLUE, FAINT, FILLS, GREEN, INK, ORANGE, Drawing


def box(sheet: Drawing, x: float, y: float, width: float, lines: tuple[str, ...], fill: str) -> None:
    """A box with lines of text, the first of them bold."""
    sheet.rect(x, y, width, 16 + 18 * len(lines), fill, INK, 5)
    for i, line in enumerate(lines):
        sheet.text(x + width / 2, y + 22 + 18 * i, line, INK, 13 if i == 0 else 12, bold=i == 0)


def seam() -> str:
    """The way of an addition from a Tensor down to the storage."""
    sheet = Drawing(
        680,
        400,
        "An addition on its way from Tensors to storage: Tensor, Operation and Buffer are written once, "
        "hooks by each backend",
    )
    box(sheet, 190, 16, 300, ("Tensor", "a + b: records what it did, for the backward"), FILLS[3])
    box(sheet, 190, 92, 300, ("Operation", "Add: forward and backward over Buffers"), FILLS[3])
    box(sheet, 190, 168, 300, ("Buffer", "checks, promotes, works out shape and dtype"), FILLS[0])
    for y in (68, 144):
        sheet.arrow((340, y), (340, y + 24))
    sheet.line([(20, 250), (660, 250)], ORANGE, 1.5, dashed=True)
    sheet.text(24, 242, "written once", ORANGE, 12, "start")
    sheet.text(24, 268, "written by each backend", ORANGE, 12, "start")
    names = (
        ("PythonBuffer._add", "map over lists"),
        ("ArrayBuffer._add", "NumPy, CuPy"),
        ("TheirBuffer._add", "yours"),
    )
    for i, lines in enumerate(names):
        box(sheet, 30 + 215 * i, 300, 190, lines, FILLS[2])
        sheet.arrow((340, 220), (125 + 215 * i, 300), FAINT)
    sheet.text(340, 380, "storage: array.array, ndarray, the memory of a GPU, …", FAINT, 12)
    return sheet.svg()


def lookup() -> str:
    """The tree of Buffer classes with kernels that are registered for them, and one search up the tree."""
    sheet = Drawing(
        700,
        390,
        "The tree of Buffer classes; a kernel for a backend is the nearest that is registered on the "
        "way up, else the textbook one",
    )
    places = {
        "Buffer": (290, 20, ("the textbook kernels:", "LayerNorm, Rotary, …")),
        "PythonBuffer": (40, 140, ("PythonLayerNorm", "PythonConv2d")),
        "ArrayBuffer": (420, 140, ("ArrayConv2d",)),
        "NumpyBuffer": (270, 270, ("NumpyLayerNorm", "NumpyConv2d")),
        "CudaBuffer": (480, 270, ("CudaLayerNorm", "CudaRotary")),
    }
    for child, parent in (
        ("PythonBuffer", "Buffer"),
        ("ArrayBuffer", "Buffer"),
        ("NumpyBuffer", "ArrayBuffer"),
        ("CudaBuffer", "ArrayBuffer"),
    ):
        (x, y, _), (to_x, to_y, lines) = places[child], places[parent]
        sheet.arrow((x + 95, y), (to_x + 95, to_y + 16 + 18 * (len(lines) + 1)), FAINT)
    for name, (x, y, lines) in places.items():
        box(sheet, x, y, 190, (name, *lines), FILLS[0] if name == "Buffer" else FILLS[2])
    sheet.text(16, 262, "Conv2d for CudaBuffer: ArrayConv2d", GREEN, 13, "start")
    sheet.text(16, 284, "Rotary for NumpyBuffer: textbook", BLUE, 13, "start")
    sheet.text(350, 372, "CupyBuffer, on a GPU, is a CudaBuffer and finds what it has", FAINT, 12)
    return sheet.svg()


def pictures() -> dict[str, str]:
    """The pictures by name."""
    return {"backend-seam": seam(), "kernel-lookup": lookup()}


if __name__ == "__main__":
    drawing.write(pictures())
