"""The pictures of chapter 7: a lookup, the square root, two heads made by hand, rotary positions, and two
heads of a trained model.

python docs/figures/attention.py
"""

from __future__ import annotations

from typing import Any

import drawing
from drawing import BLUE, FAINT, GREEN, ORANGE, PURPLE, Drawing, chapter, heat_map, line_chart

from tinygpt_core import Tensor, kernels, no_grad


def lookup(names: dict[str, Any]) -> str:
    """One query, the three keys of the chapter's first block, their weights and the mean of the values."""
    sheet = Drawing(
        760, 250, "A query among three keys, the weights it gives them, and the mean of their values"
    )
    x0, y0, unit = 150, 190, 130
    sheet.text(x0, 30, "query and keys", bold=True)
    sheet.line([(30, y0), (310, y0)], FAINT, 0.5)
    query, keys, values = [3.0, 0.9], names["keys"], names["values"]
    for number, (x, y) in enumerate(keys, 1):
        sheet.arrow((x0, y0), (x0 + unit * x, y0 - unit * y), BLUE)
        sheet.text(x0 + unit * x * 1.1, y0 - unit * y * 1.1 + (18 if y == 0 else 4), f"k{number}", BLUE)
    sheet.arrow((x0, y0), (x0 + 0.38 * unit * query[0], y0 - 0.38 * unit * query[1]), ORANGE, 2.5)
    sheet.text(x0 + 0.38 * unit * query[0], y0 - 0.38 * unit * query[1] - 10, "query", ORANGE)
    result, weights = names["attend"](query, keys, values)
    sheet.text(450, 30, "weight", bold=True)
    sheet.text(585, 30, "value", bold=True)
    for number, (weight, value) in enumerate(zip(weights, values, strict=True)):
        y = 55 + 38 * number
        sheet.text(370, y + 16, f"k{number + 1}", BLUE, anchor="end")
        sheet.rect(380, y, 140, 22, "white", FAINT, 0)
        sheet.rect(380, y, 140 * weight, 22, BLUE, "none", 0)
        sheet.text(540, y + 16, f"{weight:.2f}")
        sheet.text(590, y + 16, f"× {value[0]:g}")
        sheet.arrow((618, y + 11), (672, 104), FAINT)
    sheet.text(682, 110, f"{result[0]:.2f}", GREEN, 17, "start", bold=True)
    sheet.text(380, 200, "softmax(query · key / √2), for the query (3, 0.9)", size=13, anchor="start")
    return sheet.svg()


def scale(names: dict[str, Any]) -> str:
    """The mean of the largest of 16 weights against the size of the vectors."""
    sizes = (4, 8, 16, 32, 64, 128, 256)
    lines = {
        text: [(float(size), names["mean_largest_weight"](size, scaled)) for size in sizes]
        for text, scaled in (("divided by √D", True), ("not divided", False))
    }
    sheet = Drawing(
        660,
        310,
        "Without the square root the largest weight goes to 1 as vectors get longer; with it, it stays "
        "where it is",
    )
    line_chart(
        sheet,
        (70, 40, 450, 200),
        lines,
        ("D, the size of query and key", "largest of 16 weights"),
        {float(size): str(size) for size in sizes},
        {0.0: "0", 0.25: "0.25", 0.5: "0.5", 0.75: "0.75", 1.0: "1"},
        log_x=True,
    )
    return sheet.svg()


def by_hand(names: dict[str, Any]) -> str:
    """The weights of the chapter's two heads."""
    text = names["text"].replace(" ", "␣")
    sheet = Drawing(
        760, 410, "Weights of two heads: one looks at equal letters, the other at the letter before"
    )
    for x, rows, caption in (
        (50, names["same_letter"], "earlier places of the same letter"),
        (430, names["previous"], "the letter before"),
    ):
        table = [row + [0.0] * (len(text) - len(row)) for row in rows]
        heat_map(sheet, (x, 40), table, text, text, 20, caption=caption)
    return sheet.svg()


def rotary(names: dict[str, Any]) -> str:
    """How the score of one query and key changes with their distance."""
    with no_grad():
        points = [(float(distance), names["turned_score"](distance, 0)) for distance in range(61)]
    low, high = min(y for _, y in points), max(y for _, y in points)
    sheet = Drawing(
        620,
        300,
        "The score of a query and a key that are turned by their positions, against their distance: a "
        "sum of waves",
    )
    ticks = {float(y): str(y) for y in range(int(low // 1), int(-(-high // 1)) + 1)}
    line_chart(
        sheet,
        (70, 40, 520, 190),
        {"": points},
        ("distance of the two positions", "score"),
        {float(x): str(x) for x in range(0, 61, 10)},
        ticks,
    )
    return sheet.svg()


def trained(names: dict[str, Any]) -> str:
    """The attention weights of chapter 9's model on one numeral."""
    model, text = names["model"], ".DCCCLXXXVIII"
    block, heads = model.transformer_blocks[0], model.config.num_heads
    with no_grad():
        x = block.ln_1(model.embedding_layer(Tensor([[names["ids"][letter] for letter in text]])))
        packed = block.attn.query_key_value(x).buffer
        query, key, value = kernels.PackedAttention.heads(packed, num_heads=heads)
        query, key = (block.attn.rotary(Tensor(part)).buffer for part in (query, key))
        _, saved = kernels.Attention.forward(query, key, value)
    sheet = Drawing(
        760, 370, "Attention weights of the two heads of a trained model, over the letters of DCCCLXXXVIII"
    )
    for number, x0 in ((0, 50), (1, 430)):
        heat_map(
            sheet, (x0, 40), saved[3].to_python()[0][number], text, text, 22, PURPLE, f"head {number + 1}"
        )
    return sheet.svg()


def pictures() -> dict[str, str]:
    """The pictures by name."""
    names = chapter("07-attention")
    return {
        "attention-lookup": lookup(names),
        "attention-scale": scale(names),
        "attention-by-hand": by_hand(names),
        "attention-rotary": rotary(names),
        "attention-trained": trained(chapter("09-a-gpt-that-writes")),
    }


if __name__ == "__main__":
    drawing.write(pictures())
