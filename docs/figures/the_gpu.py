"""The pictures of chapter 13: the butterfly, the roofline, attention in tiles, formats of numbers, and who
waits for whom.

python docs/figures/the_gpu.py
"""

from __future__ import annotations

import drawing
from drawing import BLUE, FAINT, FILLS, GREEN, INK, ORANGE, PURPLE, Chart, Drawing

CHAPTER = "13-the-gpu"


def butterfly() -> str:
    """Eight threads that add up their numbers in three steps."""
    sheet = Drawing(
        640,
        366,
        "Eight threads exchange their sums with partners 4, 2 and 1 places away; after three steps each "
        "has the sum of all",
    )
    values = [3, 1, 4, 1, 5, 9, 2, 6]
    left, step, cell = 130, 60, 34
    for row, distance in enumerate((None, 4, 2, 1)):
        y = 40 + row * 90
        if distance:
            before, values = values, [value + values[lane ^ distance] for lane, value in enumerate(values)]
            for lane in range(len(before)):
                sheet.line([(left + lane * step, y - 90 + cell), (left + lane * step, y)], INK, 1.2)
                sheet.line(
                    [(left + (lane ^ distance) * step, y - 90 + cell), (left + lane * step, y)], BLUE, 1.2
                )
            sheet.text(left - 34, y - 24, f"distance {distance}", BLUE, 12, "end")
        for lane, value in enumerate(values):
            sheet.rect(left + lane * step - cell / 2, y, cell, cell, FILLS[2] if distance == 1 else FILLS[0])
            sheet.text(left + lane * step, y + 22, str(value))
    for lane in range(8):
        sheet.text(left + lane * step, 28, f"thread {lane}" if lane == 0 else str(lane), FAINT, 12)
    return sheet.svg()


def roofline() -> str:
    """What an H200 can do at most in a second, by arithmetic intensity, with the operations of the chapter on
    it.
    """
    names = drawing.chapter(CHAPTER)
    bandwidth, products, others = names["BANDWIDTH"], names["PRODUCTS"], names["ELSE"]
    sheet = Drawing(
        700,
        420,
        "The roofline of an H200 by its data sheet: operations per second at most, by operations per "
        "byte, both axes logarithmic",
    )
    chart = Chart(sheet, (80, 36, 580, 310), (0.05, 2000.0), (1e11, 3e15), log_x=True, log_y=True)
    chart.ticks(
        [(0.1, "0.1"), (1, "1"), (10, "10"), (100, "100"), (1000, "1,000")],
        [(1e11, "0.1"), (1e12, "1"), (1e13, "10"), (1e14, "100"), (1e15, "1,000")],
    )
    sheet.text(370, 392, "operations for each byte moved")
    sheet.text(72, 24, "10¹² operations a second", anchor="start")
    chart.curve([(0.05, 0.05 * bandwidth), (products / bandwidth, products), (2000, products)], INK)
    chart.curve([(others / bandwidth, others), (2000, others)], PURPLE, 1.5, dashed=True)
    chart.label(1900, products * 1.7, "bf16 products, 989", INK, "end", 12)
    chart.label(1900, others * 1.25, "float32 outside of products, 67", PURPLE, "end", 12)
    chart.label(6.0, 2e12, "the slope: memory, 4.8 · 10¹² bytes a second", INK, "start", 12)
    above = ("attention, tiled, causal", "cross-entropy", "product, one token", "AdamW")
    for name, ((operations, moved), is_product) in names["WORK"].items():
        intensity = operations / moved
        x, y = chart.at(intensity, min(intensity * bandwidth, products if is_product else others))
        sheet.circle(x, y, 5, ORANGE if is_product else GREEN)
        if intensity > 100 and name not in above:
            sheet.text(x - 12, y + 22, name, size=12)
        elif name in above:
            sheet.text(x - 9, y - 4, name, size=12, anchor="end")
        else:
            sheet.text(x + 9, y + 12, name, size=12, anchor="start")
    return sheet.svg()


def flash_tiles() -> str:
    """One block of queries, the tiles of keys that pass by, and what is kept."""
    sheet = Drawing(
        660, 360, "Causal attention in tiles: the square of scores is computed tile by tile and never stored"
    )
    left, top, cell, count = 190, 70, 46, 5
    sheet.text(left + cell * count / 2, 30, "keys and values, a tile at a time", FAINT, 13)
    for j in range(count):
        sheet.rect(left + j * cell, 42, cell - 4, 18, FILLS[1])
    for i in range(count):
        sheet.rect(left - 30, top + i * cell, 18, cell - 4, FILLS[0])
        for j in range(count):
            active = i == 3
            fill = (
                "white"
                if j > i
                else FILLS[2]
                if active and j < 2
                else FILLS[6]
                if active and j == 2
                else FILLS[7]
            )
            sheet.rect(
                left + j * cell, top + i * cell, cell - 4, cell - 4, fill, FAINT if j <= i else FILLS[7]
            )
    sheet.text(left - 40, top + 3 * cell + 26, "queries of one block", BLUE, 12, "end")
    row = top + 3 * cell + 21
    sheet.text(left + 0.5 * cell - 2, row + 4, "done", size=11)
    sheet.text(left + 1.5 * cell - 2, row + 4, "done", size=11)
    sheet.text(left + 2.5 * cell - 2, row + 4, "now", size=11)
    sheet.text(
        left + count * cell + 12, top + 0.5 * cell, "white: not seen, not computed", FAINT, 12, "start"
    )
    x = left + count * cell + 26
    sheet.arrow((left + count * cell, row), (x, row), INK)
    for k, text in enumerate(("largest score m", "sum l", "result so far")):
        sheet.rect(x + 4, row - 44 + k * 32, 130, 26, FILLS[2])
        sheet.text(x + 69, row - 27 + k * 32, text, size=12)
    sheet.text(x + 69, row - 56, "kept for each query:", FAINT, 12)
    sheet.text(
        330, 335, "l′ = l · exp(m − m′) + the new weights; the result is mended by the same factor", INK, 13
    )
    return sheet.svg()


def float_formats() -> str:
    """The bits of four formats."""
    sheet = Drawing(
        660,
        230,
        "The bits of float32, TF32, bfloat16 and float16: all have a sign; they differ in the bits of "
        "exponent and fraction",
    )
    cell, left = 15, 120
    rows = (("float32", 8, 23), ("TF32", 8, 10), ("bfloat16", 8, 7), ("float16", 5, 10))
    for i, (name, exponent, fraction) in enumerate(rows):
        y = 40 + i * 44
        sheet.text(left - 12, y + 17, name, anchor="end")
        for bit in range(1 + exponent + fraction):
            fill = FILLS[4] if bit == 0 else FILLS[0] if bit <= exponent else FILLS[2]
            sheet.rect(left + bit * cell, y, cell, 24, fill, FAINT, 0)
        sheet.text(
            left + (1 + exponent + fraction) * cell + 10,
            y + 17,
            f"{exponent} + {fraction}",
            FAINT,
            12,
            "start",
        )
    sheet.text(left + 7, 28, "sign", size=12)
    sheet.text(left + 5 * cell, 28, "exponent", BLUE, 12)
    sheet.text(left + 20 * cell, 28, "fraction", GREEN, 12)
    return sheet.svg()


def launches() -> str:
    """Who waits for whom: kernels launched one by one, with a look at every result, and as one graph."""
    sheet = Drawing(
        680,
        420,
        "Timelines of five kernels: large ones, small ones, with a look at each result, and recorded as "
        "one graph",
    )
    unit, left, launch = 15, 150, 2.0

    def timeline(y: float, title: str, duration: float, look: float = 0.0, graph: bool = False) -> None:
        host = device = 0.0
        orders, work = [], []
        for i in range(5):
            if i == 0 or not graph:
                orders.append((host, launch))
                host += launch
            device = max(device, host)
            work.append((device, duration))
            device += duration
            host = device + look if look else host
        sheet.text(20, y - 10, title, anchor="start", size=13, bold=True)
        for name, offset, spans, fill in (
            ("CPU gives orders", 0, orders, FILLS[1]),
            ("GPU works", 28, work, FILLS[0]),
        ):
            sheet.text(left - 10, y + offset + 16, name, FAINT, 12, "end")
            for start, length in spans:
                sheet.rect(left + start * unit, y + offset, length * unit, 22, fill)

    timeline(36, "large kernels: the CPU is ahead and costs nothing", 5.0)
    timeline(134, "small kernels: the GPU waits for orders", 1.0)
    timeline(232, "looking at every result: both wait", 1.0, look=1.5)
    timeline(330, "a graph of small kernels: one order for all", 1.0, graph=True)
    return sheet.svg()


def pictures() -> dict[str, str]:
    """The pictures by name."""
    return {
        "butterfly": butterfly(),
        "roofline": roofline(),
        "flash-tiles": flash_tiles(),
        "float-formats": float_formats(),
        "launches": launches(),
    }


if __name__ == "__main__":
    drawing.write(pictures())
