"""Loss curves as a run's log has them, smoothed and thinned to be drawn.

The loss of one batch jumps about, so a curve is drawn twice: as it is, faintly, and smoothed by an
exponential moving average,

    m_t = b m_(t-1) + (1 - b) loss_t,    smoothed_t = m_t / (1 - b^t),    b = 1 - 1 / max(1, steps / 50)

whose division undoes that m begins at 0. Validation losses are points.

Source: Kingma and Ba, "Adam: A Method for Stochastic Optimization", 2014, section 3 (the division)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from ...printable import replace_unprintable
from ...training.log_reading import ladder_of, read_lines

LARGEST_LOSS = 1e30  # beyond it a run has diverged, and its axis would show nothing else
BINS = 800  # a drawn curve has no more columns
Point = tuple[float, float]


class Run(NamedTuple):
    """What a log says: training losses and validation losses, as pairs of step and loss, and at the end of a
    run what others need on the same validation text, by their names (see `training.ladder`).
    """

    name: str
    losses: list[Point]
    validations: list[Point]
    ladder: dict[str, float] = {}  # noqa: RUF012 - nobody writes into it


def read_run(path: str) -> Run:
    """Returns the losses in the log of a run; a step that stands there twice counts as it was last.

    Args:
        path: of the run's directory, or of a log.

    Raises:
        ValueError: a line is no object of JSON with a step and a loss, or no loss is there. The last line may
            be incomplete: a run that is going on has not finished it. Steps whose loss was no number, or
            infinite, are left out.
        OSError: the file cannot be read.
    """
    if os.path.isdir(path):
        directory = path
        file_name = os.path.join(path, "log.jsonl")
    else:
        directory = os.path.dirname(path) or "."
        file_name = path
    name = os.path.basename(os.path.realpath(directory))
    losses: dict[float, float] = {}
    validations: dict[float, float] = {}
    ladder: dict[str, float] = {}
    for line in read_lines(file_name):
        values: dict[str, Any] = line.values or {}
        step: Any = values.get("step")
        is_validation = "loss" not in values
        loss: Any = values.get("val_loss" if is_validation else "loss")
        is_right = type(step) is int and 0 <= step < 2**53 and type(loss) in (int, float)
        if not is_right and line.is_being_written:
            break
        if not is_right:
            raise ValueError(
                f"{file_name}: line {line.number} is no JSON object with a step and its loss or val_loss"
            )
        if abs(loss) <= LARGEST_LOSS:  # false of a NaN, too
            (validations if is_validation else losses)[step] = float(loss)
        ladder = ladder_of(values.get("ladder")) or ladder
    if not losses and not validations:
        raise ValueError(f"{file_name} has no loss in it yet")
    return Run(name or "run", sorted(losses.items()), sorted(validations.items()), ladder)


def smoothed(points: Sequence[Point]) -> list[Point]:
    """Returns the points with the exponential moving average of what they show in place of it."""
    keep = 1 - 1 / max(1.0, len(points) / 50)
    average = 0.0
    weight = 0.0  # 1 - b^t
    result = []
    for step, loss in points:
        average = keep * average + (1 - keep) * loss
        weight = keep * weight + (1 - keep)
        result.append((step, average / weight))
    return result


def thinned(
    points: Sequence[Point], most: int = BINS, along: Callable[[float], float] = float
) -> list[Point]:
    """Returns at most about `most` of the points, so that what is drawn looks the same.

    Args:
        points: in the order of their steps.
        most: the axis has half as many columns, and of each the lowest and the highest point stay; so do the
            first and the last.
        along: where a step lies on the axis.
    """
    if len(points) <= most:
        return list(points)
    low = along(points[0][0])
    high = along(points[-1][0])
    width = (high - low) or 1
    columns = most // 2

    def column_of(point: Point) -> int:
        return int((along(point[0]) - low) / width * columns)

    kept = {points[0], points[-1]}
    for _, group in groupby(points, column_of):
        in_column = list(group)
        kept.add(min(in_column, key=_loss))
        kept.add(max(in_column, key=_loss))
    return sorted(kept)


def _loss(point: Point) -> float:
    return point[1]


def rungs_of(runs: Sequence[Run]) -> dict[str, float]:
    """Returns the rungs to draw beside the curves: those of the first run, where no other run has another
    ladder (then they were validated on other texts).
    """
    ladders = [run.ladder for run in runs if run.ladder]
    if not ladders or any(other != ladders[0] for other in ladders):
        return {}
    return {replace_unprintable(name): nats for name, nats in ladders[0].items() if 0 <= nats <= LARGEST_LOSS}


def legend_text(run: Run) -> str:
    """Returns the name of a run with its last losses."""
    losses = []
    if run.losses:
        losses.append(f"train {smoothed(run.losses)[-1][1]:.4f}")
    if run.validations:
        losses.append(f"validation {run.validations[-1][1]:.4f}")
    return f"{replace_unprintable(run.name)}: {', '.join(losses)}"


def table(runs: Sequence[Run]) -> Iterator[str]:
    """Yields the lines of a table for other programs: a row a step, the training and the validation loss of
    each run, `-` for none.
    """
    headings = []
    columns = []
    for number, run in enumerate(runs, 1):
        prefix = f"run{number}." if len(runs) > 1 else ""
        headings += [f"{prefix}loss", f"{prefix}val_loss"]
        columns += [dict(run.losses), dict(run.validations)]
    widths = [max(10, len(heading)) for heading in headings]

    def row(first: str, cells: Sequence[str]) -> str:
        aligned = (f"  {cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        return f"{first:>8}" + "".join(aligned)

    yield row("step", headings)
    for step in sorted(set().union(*columns)):
        yield row(f"{step:.0f}", [f"{column[step]:.6g}" if step in column else "-" for column in columns])
