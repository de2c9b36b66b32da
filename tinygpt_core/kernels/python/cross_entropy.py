"""Cross-entropy in pure Python.

What is fast here: exp runs over a whole row in C, and its results are all that the backward needs, since the
gradient is one scaling of them. The largest logit is only subtracted where exp could overflow without.
"""

from __future__ import annotations

import math
from typing import Any

from ...buffer.python import PythonBuffer
from ...buffer.rows import Row
from ..base import Gradient
from ..cross_entropy import CrossEntropy


class PythonCrossEntropy(CrossEntropy):
    """`CrossEntropy` row by row, of whose exponentials the gradient is one scaling."""

    @staticmethod
    def forward(logits: Any, targets: Any, *, ignore_index: int | None = None) -> tuple[Any, Any]:
        CrossEntropy.check(logits, targets, ignore_index)
        losses: list[float] = []
        saved: list[tuple[list[float], float, int] | None] = []
        for row, target in zip(logits.rows(), targets.values(), strict=True):
            if target == ignore_index:
                losses.append(0.0)
                saved.append(None)
                continue
            top = max(row)
            shift = top if abs(top) > 500.0 else 0.0  # exp must not overflow, nor all of them vanish
            exponentials = list(map(math.exp, [x - shift for x in row] if shift else row))
            total = sum(exponentials)
            losses.append(math.log(total) + shift - row[target])
            saved.append((exponentials, total, target))
        return PythonBuffer.of(losses, targets.shape, logits.dtype), (saved, logits.shape)

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        saved_rows, shape = saved
        rows: list[Row] = []
        for g, saved_row in zip(grad.values(), saved_rows, strict=True):
            if saved_row is None:
                rows.append([0.0] * shape[-1])
                continue
            exponentials, total, target = saved_row
            scale = g / total
            of_row = [x * scale for x in exponentials]
            of_row[target] -= g
            rows.append(of_row)
        return PythonBuffer.of_rows(rows, shape, grad.dtype), None
