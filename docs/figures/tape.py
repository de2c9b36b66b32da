"""The pictures of chapter 2: why paths are too many, what a tape is, and what it keeps.

python docs/figures/tape.py
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import drawing
from drawing import BLUE, FAINT, FILLS, GREEN, ORANGE, Chart, Drawing

from tinygpt_core import Buffer, GradientFunction, Operation, Tensor, apply_op, backends
from tinygpt_core.nn import FullyConnectedLayer


def paths() -> str:
    """z = z + z three times."""
    sheet = Drawing(
        640,
        270,
        "After three doublings eight paths lead down to the first value, but there are only four values "
        "to visit",
    )
    sheet.text(170, 30, "every path", bold=True)
    sheet.text(480, 30, "every value once, newest first", bold=True)
    for level in range(4):
        y, paths_here = 70 + 55 * level, 2**level
        for i in range(paths_here):
            x = 170 + (i + 0.5 - paths_here / 2) * 280 / paths_here
            if level:
                above = 170 + (i // 2 + 0.5 - paths_here / 4) * 560 / paths_here
                sheet.line([(above, y - 55 + 11), (x, y - 11)], FAINT, 1)
            sheet.circle(x, y, 11, FILLS[level], FAINT)
        if level:
            for side in (-9, 9):
                sheet.arrow((480 + side, y - 44), (480 + side, y - 12), ORANGE)
        sheet.circle(480, y, 12, FILLS[level], FAINT)
        sheet.text(480, y + 5, str(3 - level), size=12)
        sheet.text(510, y + 5, f"gradient {paths_here}", ORANGE, 13, "start")
    return sheet.svg()


def records_of(tensor: Tensor) -> list[GradientFunction]:
    """All records that a result depends on, oldest first."""
    found: set[GradientFunction] = set()
    stack: list[Any] = [tensor.grad_fn]
    while stack:
        record = stack.pop()
        if record not in found:
            found.add(record)
            stack += [parent for parent in record.parents if isinstance(parent, GradientFunction)]
    return sorted(found, key=lambda record: record.number)


def tape() -> str:
    """The chapter's loss: forward to the right, backward to the left."""
    sheet = Drawing(
        640,
        300,
        "The records of a loss in the order in which they were made, and the gradients that go back "
        "through them newest first",
    )
    leaves = {"x": Tensor.ones((3, 2), requires_grad=True), "w": Tensor.ones((2, 2), requires_grad=True)}
    leaves["b"] = Tensor.ones((2,), requires_grad=True)
    hidden = (leaves["x"] @ leaves["w"] + leaves["b"]).tanh()
    records = records_of((hidden * hidden).sum())
    places = {id(record): 24 + 104 * i for i, record in enumerate(records)}
    names = {id(leaf): name for name, leaf in leaves.items()}
    sheet.text(24, 34, "forward: each record keeps what it needs", BLUE, anchor="start", bold=True)
    sheet.text(616, 34, "backward: newest first", ORANGE, anchor="end", bold=True)
    for i, record in enumerate(records):
        x = places[id(record)]
        sheet.rect(x, 100, 72, 56, FILLS[0])
        sheet.text(x + 36, 122, record.name, size=13, bold=True)
        sheet.text(x + 36, 143, str(record.result[0]), FAINT, 12)
        sheet.text(x + 36, 90, f"record {i}", BLUE, 12)
        sheet.text(x + 36, 72, f"visit {len(records) - i}", ORANGE, 12)
        leaf_place = 0
        for use, parent in enumerate(record.parents):
            if isinstance(parent, GradientFunction):
                start, offset = (
                    places[id(parent)] + 72,
                    10 * (use if len(record.parents) > 1 and parent in record.parents[:use] else 0),
                )
                sheet.arrow((start, 112 + offset), (x, 112 + offset), BLUE)
                sheet.arrow((x, 148 - offset), (start, 148 - offset), ORANGE)
            else:
                at = x + 8 + 46 * leaf_place
                leaf_place += 1
                sheet.rect(at - 14, 220, 42, 46, FILLS[2])
                sheet.text(at + 7, 239, names[id(parent)], bold=True)
                sheet.text(at + 7, 257, str(parent.shape), FAINT, 11)
                sheet.arrow((at, 220), (at, 156), BLUE)
                sheet.arrow((at + 14, 156), (at + 14, 220), ORANGE)
    sheet.text(260, 248, "leaves: gradients stay here, in .grad", GREEN, 13, "start")
    return sheet.svg()


class Probe(Operation):
    """Passes everything on, and calls a function when the gradient comes by."""

    def forward(self, x: Buffer, notice: Any) -> Buffer:
        self.notice = notice
        return x

    def backward(self, grad: Buffer) -> Buffer:
        self.notice()
        return grad


def memory_curve() -> tuple[list[int], int]:
    """What the records keep besides the parameters after each operation forward and before each backward, and
    the parameters' size.
    """
    layers = [(FullyConnectedLayer(16, 64), FullyConnectedLayer(64, 16)) for _ in range(8)]
    parameters = [p for pair in layers for layer in pair for _, p in layer.named_parameters()]
    owned = {id(p.buffer.version) for p in parameters}
    records: list[GradientFunction] = []
    curve: list[int] = []

    def notice() -> None:
        kept = {id(buffer.version): buffer.numel for record in records for _, buffer, _ in record.kept}
        curve.append(sum(size for key, size in kept.items() if key not in owned))

    x = Tensor.ones((32, 16))
    for first, second in layers:
        for function in (first, Tensor.tanh, second):
            x = function(x)
            assert x.grad_fn is not None
            records.append(x.grad_fn)
            notice()
            x = apply_op(Probe, x, notice=notice)
    x.sum().backward()
    return curve, sum(p.numel for p in parameters)


def memory() -> str:
    """The rise and fall of what is kept."""
    sheet = Drawing(
        640,
        330,
        "What a tape keeps grows with each operation of the forward and shrinks again with each of the "
        "backward",
    )
    with backends.use("python"):
        curve, parameters = memory_curve()
    top = max(curve) * 1.15
    chart = Chart(sheet, (80, 40, 530, 230), (0, len(curve) - 1), (0, top))
    middle = (len(curve) - 1) / 2
    chart.ticks(
        [(0, "start"), (middle, "loss"), (len(curve) - 1, "end")],
        [(value, f"{value:,}") for value in range(0, int(top), 20_000)],
    )
    steps = [point for i, (a, b) in enumerate(pairwise(curve)) for point in ((i, a), (i + 1, a), (i + 1, b))]
    chart.curve(steps, BLUE)
    chart.curve([(0, parameters), (len(curve) - 1, parameters)], FAINT, dashed=True)
    chart.label(0.4, parameters * 1.08, f"all parameters: {parameters:,}", FAINT, size=12)
    chart.curve([(middle, 0), (middle, top)], FAINT, 1)
    chart.label(middle - 1, top * 0.93, "forward", BLUE, "end")
    chart.label(middle + 1, top * 0.93, "backward", ORANGE)
    sheet.text(80, 28, "numbers kept, eight layers 16 → 64 → tanh → 16 on 32 rows", FAINT, 13, "start")
    return sheet.svg()


def pictures() -> dict[str, str]:
    """The pictures by name."""
    return {"paths": paths(), "tape": tape(), "memory": memory()}


if __name__ == "__main__":
    drawing.write(pictures())
