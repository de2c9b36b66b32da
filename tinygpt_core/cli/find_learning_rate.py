"""The subcommand `tinygpt find-learning-rate`: a short run whose rate rises until the loss does, too.

The rate of step i of n is

    rate_i = lowest (highest / lowest)^(i / (n - 1))

and what is suggested is where the loss, smoothed, falls fastest along the logarithm of the rate.

Source: Smith, "Cyclical Learning Rates for Training Neural Networks", 2015, https://arxiv.org/abs/1506.01186,
section 3.3
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from ..files.atomic import atomic_write
from ..training.config import TrainingConfig, plural
from ..training.data import prepare_data
from ..training.loop import Trainer
from ..training.memory import require_memory
from ..training.origin import Origin
from .messages import UsageError, command_name
from .options import add_settings
from .plotting.curves import Point, smoothed
from .plotting.svg_chart import rates_svg
from .train import are_given, settings_and_origin

LOWEST = 1e-6
HIGHEST = 1.0
STEPS = 100
DIVERGED = 2.0  # times the lowest loss so far, at which a search ends
ROWS = 12  # of the table


def add_command(commands: Any) -> None:
    """Adds `find-learning-rate` to the subcommands of a parser."""
    parser = commands.add_parser(
        "find-learning-rate",
        help="try rising learning rates for a hundred steps",
        description=(
            "Train for a few steps with a learning rate that rises from step to step, until the loss rises, "
            "too, and say where it fell fastest: a learning rate to begin with. Nothing is kept but the "
            "curve. The settings are those of `train`; those of the rate's schedule, of validation, of "
            "checkpoints and of samples have no effect."
        ),
        allow_abbrev=False,
    )
    parser.set_defaults(command=run_find_learning_rate)
    parser.add_argument(
        "--lowest",
        type=float,
        default=LOWEST,
        metavar="X",
        help=f"rate of the first step (default: {LOWEST:g})",
    )
    parser.add_argument(
        "--highest",
        type=float,
        default=HIGHEST,
        metavar="X",
        help=f"rate of the last step (default: {HIGHEST:g})",
    )
    parser.add_argument(
        "--out",
        metavar="FILE.svg",
        help="write the curve as a drawing; an old one is replaced (default: a table only)",
    )
    add_settings(parser)


def run_find_learning_rate(arguments: argparse.Namespace) -> int:
    """Runs `tinygpt find-learning-rate`: a table of rates and losses, and what they suggest. Returns the exit
    code.

    Raises:
        UsageError: rates or settings that do not work, or all rates were too high.
        OSError: the drawing cannot be written.
    """
    lowest = arguments.lowest
    highest = arguments.highest
    if not 0.0 < lowest < highest < math.inf:
        raise UsageError(f"--lowest ({lowest:g}) must be above 0, and --highest ({highest:g}) above it")
    if arguments.out is not None and not arguments.out.lower().endswith(".svg"):
        raise UsageError(f"--out writes SVG, so its name must end in .svg: {arguments.out!r} does not")
    config, origin = settings_and_origin(arguments, 1)
    steps = STEPS if arguments.steps is None else arguments.steps
    if steps < 2:
        raise UsageError(f"--steps must be at least 2 here, not {steps}")
    config = replace(config, steps=steps, time_budget=0.0, sample_every=0)
    losses = list(losses_by_rate(config, origin, lowest, highest))
    if len(losses) < 3:
        raise UsageError(
            f"the loss rose at once: try a --lowest below {lowest:g}, or more than {plural(steps, 'step')}"
        )
    smooth = smoothed(losses)
    best = steepest(smooth)
    print("learning rate      loss  smoothed")
    for place in sorted({round(row * (len(losses) - 1) / (ROWS - 1)) for row in range(ROWS)}):
        print(f"{losses[place][0]:13.3g}  {losses[place][1]:8.4f}  {smooth[place][1]:8.4f}")
    if arguments.out is not None:
        written = atomic_write(arguments.out, rates_svg(losses, smooth, best).encode())
        print(f"{arguments.out}: {plural(len(losses), 'step')}, {written.size:,} bytes")
    low = min(smooth, key=lambda point: point[1])[0]
    print(f"\nthe loss falls fastest at {best:.2g}, and is lowest at {low:.2g}")
    others = " and the other options that were given here" if are_given(arguments) else ""
    print(f"try: {command_name()} train --learning-rate {best:.2g}{others}")
    return 0


def losses_by_rate(
    config: TrainingConfig, origin: Origin | None, lowest: float, highest: float
) -> Iterator[Point]:
    """Yields the rate and the loss of each step, until the loss has risen or is no number any more.

    Args:
        config: the settings; its `steps` is how many there are at most, at least 2.
        origin: the model to begin with, where it is not drawn.
        lowest, highest: the first rate and the last.

    Raises:
        SettingError: the model does not fit the memory.
    """
    require_memory(config)
    data = prepare_data(config) if origin is None else origin.prepare_data(config)
    trainer = Trainer(config, "", data, origin=origin)
    trainer.schedule = lambda step: lowest * (highest / lowest) ** (step / (config.steps - 1))
    least = math.inf
    found: list[Point] = []
    for _ in range(config.steps):
        try:
            event = trainer.train_step()
        except ArithmeticError:
            return
        found.append((event.learning_rate, event.loss))
        yield found[-1]
        loss = smoothed(found)[-1][1]
        least = min(least, loss)
        if loss > DIVERGED * least:
            return


def steepest(points: Sequence[Point]) -> float:
    """Returns the rate at which the loss falls fastest along the logarithm of the rate, before it is lowest.

    Args:
        points: rates and smoothed losses, at least two, the rates rising by equal factors.
    """
    lowest = min(range(len(points)), key=lambda place: points[place][1])
    slopes = {
        place: points[min(place + 1, len(points) - 1)][1] - points[place - 1][1]
        for place in range(1, max(2, lowest))
    }
    return points[min(slopes, key=slopes.__getitem__)][0]
