"""A Tensor in a few hundred bytes: its statistics, and a small heat map of elements that are really in it."""

from __future__ import annotations

import base64
import math
from typing import Any

from ..buffer.base import Buffer
from ..dtype import DType

ROWS, COLUMNS = 16, 24  # the most cells of a heat map


def summarize(buffer: Buffer) -> dict[str, Any]:
    """Returns what the page shows of a Buffer's values.

    The statistics are over all elements. The heat map shows the Buffer as a matrix (its last axis across, all
    others down) and takes evenly spaced rows and columns of it (`spacing`): elements as they are, never
    averages, which would hide how they spread.

    Returns:
        `min`, `max`, `mean` (None where undefined), `zeros` and `nans` (shares from 0 to 1), `matrix` (rows
        and columns of the whole), `grid` (rows and columns shown), `every` (how far apart these stand),
        `scale` (the largest finite magnitude shown), `cells` (base64, one byte each: 127 is 0, 254 the scale,
        0 minus the scale, 255 not a finite number).
    """
    count = buffer.numel
    columns = buffer.shape[-1] if buffer.ndim else 1
    rows = count // columns if columns else 0
    stats: dict[str, Any] = {
        "matrix": [rows, columns],
        "min": None,
        "max": None,
        "mean": None,
        "zeros": 0.0,
        "nans": 0.0,
    }
    if not count:
        return stats | {"grid": [0, 0], "every": [1, 1], "scale": 0.0, "cells": ""}
    x = buffer.as_floating()
    nans = int((x != x).cast(DType.int64).sum().item())
    stats["nans"] = nans / count
    stats["zeros"] = int((x == 0).cast(DType.int64).sum().item()) / count
    if not nans:
        values = {"min": -(-x).max().item(), "max": x.max().item(), "mean": x.sum().item() / count}
        stats |= {name: _rounded(value) for name, value in values.items()}
    matrix = x.reshape((rows, columns))
    down = spacing(rows, ROWS, buffer.shape[-2] if buffer.ndim > 1 else 1)
    across = spacing(columns, COLUMNS, columns)
    picked = matrix[::down, ::across].to_python()
    flat = [value for row in picked for value in row]
    scale = max((abs(value) for value in flat if math.isfinite(value)), default=0.0)
    cells = bytes(
        255 if not math.isfinite(v) else 127 + round(127 * (v / scale if scale else 0.0)) for v in flat
    )
    return stats | {
        "grid": [len(picked), len(picked[0])],
        "every": [down, across],
        "scale": _rounded(scale),
        "cells": base64.b64encode(cells).decode("ascii"),
    }


def spacing(size: int, most: int, period: int) -> int:
    """Returns the distance at which at most `most` of `size` lines are picked.

    It has no factor in common with the period in which the lines repeat. Every 17th row of heads of 17
    positions would be the first position of each, and say nothing of the others.
    """
    distance = max(1, math.ceil(size / most))
    while distance > 1 and math.gcd(distance, period) > 1:
        distance += 1
    return distance


def _rounded(value: float) -> float | None:
    """Returns four significant digits, which is what is shown; None for what JSON cannot say."""
    return float(f"{value:.4g}") if math.isfinite(value) else None
