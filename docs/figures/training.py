"""The pictures of chapters 3 and 10: where weights start, how rules descend, how rates change, and what a
network learns.

python docs/figures/training.py
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import groupby, pairwise
from typing import Any

import drawing
from drawing import BLUE, FAINT, GREEN, ORANGE, PURPLE, RED, Chart, Drawing, Point

from tinygpt_core import Module, Tensor, backends, no_grad, seed
from tinygpt_core.dataset.toy_data import two_moons
from tinygpt_core.losses import CrossEntropyLoss
from tinygpt_core.nn import FullyConnectedLayer
from tinygpt_core.optimizers import AdamW
from tinygpt_core.random import Generator
from tinygpt_core.schedules import cosine_with_warmup, linear, step_decay


def depth() -> str:
    """The size of the values after each of ten layers with relu."""
    sheet = Drawing(
        640,
        330,
        "The size of values through ten layers: weights of one over root n shrink it, twice that let it "
        "grow, root 2 keeps it",
    )
    chart = Chart(sheet, (80, 40, 400, 240), (0, 10), (0.01, 100), log_y=True)
    chart.ticks(
        [(i, str(i)) for i in range(0, 11, 2)], [(v, f"{v:g}") for v in (0.01, 0.1, 1.0, 10.0, 100.0)]
    )
    for factor, name, colour in (
        (2.0, "2 / √n", RED),
        (math.sqrt(2.0), "√2 / √n", GREEN),
        (1.0, "1 / √n", BLUE),
    ):
        chart.curve([(0, 1), (10, (factor / math.sqrt(2.0)) ** 10)], FAINT, 1, dashed=True)
        generator = Generator(0)
        with backends.use("python"), no_grad():
            x = Tensor.normal((32, 128), generator=generator)
            points = [(0.0, 1.0)]
            for layer in range(1, 11):
                x = (x @ Tensor.normal((128, 128), std=factor / math.sqrt(128.0), generator=generator)).relu()
                points.append((layer, (x * x).mean().item() ** 0.5))
        chart.curve(points, colour)
        x_end, y_end = chart.at(*points[-1])
        sheet.text(x_end + 10, y_end + 5, f"weights of {name}", colour, anchor="start")
    sheet.text(280, 318, "layer", FAINT)
    sheet.text(80, 28, "root mean square of the values (dashed: by the formula)", FAINT, 13, "start")
    return sheet.svg()


def valley() -> str:
    """Three rules from one start."""
    height, width = 176, 560  # for 12 along, and as many units across as make both scales equal
    across = 12.0 * height / width / 2
    sheet = Drawing(
        640,
        690,
        "Paths of plain descent, momentum and Adam into a valley that is much steeper across than along",
    )
    curvatures = (1.0, 25.0)

    def plain(p: float, g: float, memory: dict[str, float], t: int) -> float:
        return p - 0.075 * g

    def momentum(p: float, g: float, memory: dict[str, float], t: int) -> float:
        memory["u"] = memory.get("u", 0.0) * 0.9 + g
        return p - 0.02 * memory["u"]

    def adam(p: float, g: float, memory: dict[str, float], t: int) -> float:
        m = memory["m"] = 0.9 * memory.get("m", 0.0) + 0.1 * g
        v = memory["v"] = 0.999 * memory.get("v", 0.0) + 0.001 * g * g
        return p - 0.3 * (m / (1 - 0.9**t)) / (math.sqrt(v / (1 - 0.999**t)) + 1e-8)

    rules: list[tuple[str, Callable[[float, float, dict[str, float], int], float], str]] = [
        ("plain descent, η = 0.075", plain, BLUE),
        ("momentum 0.9, η = 0.02", momentum, GREEN),
        ("Adam, η = 0.3", adam, ORANGE),
    ]
    for i, (name, rule, colour) in enumerate(rules):
        chart = Chart(sheet, (40, 40 + 225 * i, width, height), (-9.0, 3.0), (-across, across))
        for level in (1.0, 4.0, 12.0, 30.0, 64.0):
            angles = [2 * math.pi * k / 180 for k in range(181)]
            ellipse = [
                (math.sqrt(2 * level) * math.cos(a), math.sqrt(2 * level / 25) * math.sin(a)) for a in angles
            ]
            for inside, run in groupby(ellipse, lambda at: -9.0 <= at[0] <= 3.0 and abs(at[1]) <= across):
                if inside:
                    chart.curve(run, "#cbd5e0", 1)
        p, memories, path = [-8.0, 1.6], [{}, {}], [(-8.0, 1.6)]
        for t in range(1, 41):
            p = [rule(x, c * x, memory, t) for x, c, memory in zip(p, curvatures, memories, strict=True)]
            path.append((p[0], p[1]))
        chart.curve(path, colour, 1.5)
        for point in path:
            sheet.circle(*chart.at(*point), 2.5, colour)
        sheet.text(40, 30 + 225 * i, f"{name}: 40 steps", colour, anchor="start", bold=True)
    return sheet.svg()


def schedules() -> str:
    """Rates over 150 steps."""
    sheet = Drawing(
        640,
        300,
        "Three learning-rate schedules: warm-up followed by a cosine, warm-up followed by a line, and "
        "halving in steps",
    )
    chart = Chart(sheet, (80, 40, 520, 200), (0, 150), (0.0, 0.055))
    chart.ticks([(i, str(i)) for i in range(0, 151, 30)], [(v, f"{v:g}") for v in (0.0, 0.025, 0.05)])
    cosine = cosine_with_warmup(0.05, total_steps=150, warmup_steps=10, minimum=0.005)
    line = linear(0.05, total_steps=150, warmup_steps=10, minimum=0.005)
    steps = step_decay(0.05, factor=0.5, every=50)
    for schedule, colour, dashed in ((steps, FAINT, True), (line, PURPLE, False), (cosine, BLUE, False)):
        points: list[Point] = [(step, schedule(step)) for step in range(150)]
        if dashed:
            points = [corner for a, b in pairwise(points) for corner in (a, (b[0], a[1]), b)]
        chart.curve(points, colour, 2, dashed)
    chart.label(62, 0.0415, "warm-up and cosine", BLUE)
    chart.label(13, 0.0305, "warm-up and line", PURPLE)
    chart.label(128, 0.0215, "halved every 50", FAINT, "middle")
    sheet.text(340, 286, "step", FAINT)
    sheet.text(72, 28, "learning rate", FAINT, 13, "start")
    return sheet.svg()


class Network(Module):
    """The chapter's network."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.layers = [FullyConnectedLayer(a, b) for a, b in pairwise(sizes)]

    def __call__(self, x: Tensor) -> Tensor:
        *hidden, last = self.layers
        for layer in hidden:
            x = layer(x).tanh()
        return last(x)


def train(moments: tuple[int, ...], notice: Callable[[int, Network], Any]) -> None:
    """The chapter's training; calls `notice` after these numbers of steps."""
    points, classes = two_moons(100, noise=0.15, seed=1)
    seed(0)
    model = Network(2, 16, 16, 2)
    loss_function, optimizer = CrossEntropyLoss(reduction="mean"), AdamW(model, learning_rate=0.05)
    for step in range(151):
        if step in moments:
            notice(step, model)
        optimizer.zero_grad()
        loss_function(model(points), classes).backward()
        optimizer.update()


def moons() -> str:
    """What the network believes, in four steps of certainty, after 0, 40 and 150 steps."""
    sheet = Drawing(
        640,
        230,
        "A network's belief over the plane before training, on the way and at the end: the border bends "
        "between two half moons",
    )
    shades = ("#63b3ed", "#bee3f8", "#feebc8", "#f6ad55")
    columns, rows, width, height = 38, 28, 190, 140
    left, right, bottom, top = -1.7, 2.7, -1.3, 1.8
    places = [
        [left + (i + 0.5) * (right - left) / columns, top - (j + 0.5) * (top - bottom) / rows]
        for j in range(rows)
        for i in range(columns)
    ]

    def draw(step: int, model: Network) -> None:
        x0, y0 = 18 + 206 * (0, 40, 150).index(step), 52
        with no_grad():
            second = [pair[1] for pair in model(Tensor(places)).softmax().to_python()]
            right_ones = int((model(points).argmax(-1) == classes).sum().item())
        for j in range(rows):
            start = 0
            for shade, run in groupby(min(3, int(4 * p)) for p in second[j * columns : (j + 1) * columns]):
                count = len(list(run))
                sheet.rect(x0 + 5 * start, y0 + 5 * j, 5 * count, 5, shades[shade], shades[shade], 0)
                start += count
        for (x, y), label in zip(points.to_python(), classes.to_python(), strict=True):
            at = x0 + (x - left) / (right - left) * width, y0 + (top - y) / (top - bottom) * height
            sheet.circle(*at, 2.5, ORANGE if label else BLUE)
        sheet.text(x0 + width / 2, 34, f"after {step} steps" if step else "before training", bold=True)
        sheet.text(x0 + width / 2, 214, f"{right_ones} of 100 right", FAINT, 13)

    with backends.use("python"):
        points, classes = two_moons(100, noise=0.15, seed=1)
        train((0, 40, 150), draw)
    return sheet.svg()


def pictures() -> dict[str, str]:
    """The pictures by name."""
    return {"depth": depth(), "valley": valley(), "schedules": schedules(), "moons": moons()}


if __name__ == "__main__":
    drawing.write(pictures())
