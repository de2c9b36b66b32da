"""The pictures of chapter 12: where heads lie, how often memory is touched, and which scores are computed.

python docs/figures/fast.py
"""

from __future__ import annotations

import drawing
from drawing import BLUE, FAINT, FILLS, INK, ORANGE, RED, Drawing

CELL = 32


def heads() -> str:
    """Queries, keys and values of two heads side by side, and the rows of one head among them."""
    positions, parts, count, size = 4, 3, 2, 3
    sheet = Drawing(
        640,
        270,
        "A packed row for each position: the rows of one head are numbers side by side, at equal distances",
    )
    left, top, width = 32, 70, parts * count * size * CELL
    for i, name in enumerate(("queries", "keys", "values")):
        sheet.text(left + (i + 0.5) * width / parts, 28, name, bold=True)
        for head in range(count):
            at = left + (i * count + head) * size * CELL
            sheet.text(at + size * CELL / 2, 54, f"head {head}", FAINT, 12)
            for position in range(positions):
                chosen = i == 1 and head == 0
                for k in range(size):
                    sheet.rect(
                        at + k * CELL,
                        top + position * 36,
                        CELL,
                        28,
                        FILLS[0] if chosen else FILLS[7] if head else "white",
                        FAINT,
                        0,
                    )
    start = left + count * size * CELL
    sheet.line(
        [
            (start - 3, top - 3),
            (start + size * CELL + 3, top - 3),
            (start + size * CELL + 3, top + 3 * 36 + 31),
            (start - 3, top + 3 * 36 + 31),
            (start - 3, top - 3),
        ],
        BLUE,
        2.5,
    )
    sheet.arrow((start + 14, top + 14), (start + 14, top + 50), ORANGE, 2)
    sheet.text(
        left,
        240,
        "BLAS reads the keys of head 0 where they lie: 3 numbers side by side, then 15 to skip",
        BLUE,
        13,
        "start",
    )
    sheet.text(
        left, 258, "arrow: one step to the next position, a distance of 18 numbers", ORANGE, 13, "start"
    )
    return sheet.svg()


def passes() -> str:
    """GELU's eight NumPy calls and its fused loop: the arrays that each reads and writes."""
    calls = [
        ("x ** 3", 1),
        ("0.0447 · …", 1),
        ("x + …", 2),
        ("0.798 · …", 1),
        ("tanh", 1),
        ("1 + …", 1),
        ("0.5 · x", 1),
        ("… · …", 2),
    ]
    sheet = Drawing(
        640, 330, "Eight NumPy calls read ten arrays and write eight; one fused loop reads one and writes two"
    )
    unit = 52
    sheet.text(140, 30, "read", BLUE, 13, "start")
    sheet.text(140 + 2 * unit + 12, 30, "written", ORANGE, 13, "start")
    for i, (name, reads) in enumerate(calls):
        y = 44 + 25 * i
        sheet.text(124, y + 15, name, anchor="end", size=13)
        for k in range(reads):
            sheet.rect(140 + k * unit, y, unit - 4, 19, FILLS[0], FAINT)
        sheet.rect(140 + 2 * unit + 12, y, unit - 4, 19, FILLS[1], FAINT)
    sheet.text(
        364, 144, f"{sum(reads for _, reads in calls) + len(calls)} arrays through memory", RED, 14, "start"
    )
    y = 268
    sheet.line([(24, y - 14), (616, y - 14)], FAINT, 1, dashed=True)
    sheet.text(124, y + 15, "fused", anchor="end", size=13, bold=True)
    sheet.rect(140, y, unit - 4, 19, FILLS[0], FAINT)
    sheet.rect(140 + 2 * unit + 12, y, unit - 4, 19, FILLS[1], FAINT)
    sheet.rect(140 + 3 * unit + 12, y, unit - 4, 19, FILLS[1], FAINT)
    sheet.text(340 + 24, y + 15, "3, and the slope is there too", BLUE, 14, "start")
    return sheet.svg()


def query_blocks() -> str:
    """Which part of the square of scores is computed, for three numbers of blocks."""
    sheet = Drawing(
        640, 270, "With more blocks of queries, less of the half that causal attention hides is computed"
    )
    side = 170
    for i, count in enumerate((1, 4, 16)):
        left, top, step = 30 + 205 * i, 56, side / count
        sheet.rect(left, top, side, side, "white", FAINT, 0)
        for block in range(count):
            sheet.rect(left, top + block * step, (block + 1) * step, step, FILLS[1], FAINT, 0)
        shown = [(left, top), (left + side, top + side), (left, top + side)]
        sheet.line([*shown, shown[0]], BLUE, 2)
        sheet.text(left + side / 2, 36, f"{count} block{'s' if count > 1 else ''}", bold=True)
        sheet.text(left + side / 2, 250, f"{(1 + 1 / count) / 2:.0%} computed", ORANGE)
    return sheet.svg()


def processes() -> str:
    """Four shards on two processes: who adds up what, and what travels."""
    sheet = Drawing(
        700,
        400,
        "Two processes have two shards each. Each adds up its own, sends half of the sum to the other, adds "
        "up its own half, and sends the result back",
    )
    width, cell = 140, 26
    halves = (FILLS[0], FILLS[1])

    def row(x: float, y: float, label: str, known: tuple[bool, bool] = (True, True)) -> None:
        """The row of all gradients, in two halves, with what it is."""
        for half in range(2):
            fill = halves[half] if known[half] else "white"
            sheet.rect(x + half * width / 2, y, width / 2, cell, fill, FAINT, 0)
        sheet.text(x + width / 2, y + cell / 2 + 5, label, size=13)

    for rank, (x, first) in enumerate(((40, 0), (360, 2))):
        sheet.text(x + width + 10, 26, f"process {rank}", bold=True)
        for k in range(2):
            row(x + k * (width + 20), 40, f"gradient of shard {first + k}")
        sheet.arrow((x + 70, 66), (x + 135, 108), INK)
        sheet.arrow((x + 230, 66), (x + 165, 108), INK)
        row(x + 80, 110, f"g{first} + g{first + 1}")
        row(x + 80, 230, "(g0+g1) + (g2+g3)", (rank == 0, rank == 1))
        row(x + 80, 340, "(g0+g1) + (g2+g3)")
        sheet.arrow((x + 115 + 70 * rank, 136), (x + 115 + 70 * rank, 228), INK)
        sheet.arrow((x + 115 + 70 * rank, 256), (x + 115 + 70 * rank, 338), INK)
    sheet.arrow((225, 136), (505, 228), ORANGE)
    sheet.arrow((475, 136), (195, 228), BLUE)
    sheet.arrow((155, 256), (475, 338), BLUE)
    sheet.arrow((545, 256), (225, 338), ORANGE)
    sheet.text(350, 152, "half of each sum", FAINT, 12)
    sheet.text(350, 284, "the finished halves", FAINT, 12)
    return sheet.svg()


def pictures() -> dict[str, str]:
    """The pictures by name."""
    return {"heads": heads(), "passes": passes(), "processes": processes(), "query_blocks": query_blocks()}


if __name__ == "__main__":
    drawing.write(pictures())
