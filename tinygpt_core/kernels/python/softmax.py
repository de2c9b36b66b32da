"""Cross-entropy in pure Python, row by row."""

from __future__ import annotations

import math
from typing import Any

from ...buffer.python import PythonBuffer, Row
from ..base import Gradient
from ..softmax import CrossEntropy


class PythonCrossEntropy(CrossEntropy):
    """Keeps the exponentials of each row and their sum; the gradient is one scaling of them."""

    @staticmethod
    def forward(logits: Any, targets: Any, *, ignore_index: int | None = None) -> tuple[Any, Any]:
        CrossEntropy.check(logits, targets, ignore_index)
        losses: list[float] = []
        kept: list[tuple[list[float], float, int] | None] = []
        for row, target in zip(logits.rows(), targets.values(), strict=True):
            if target == ignore_index:
                losses.append(0.0)
                kept.append(None)
                continue
            top = max(row)
            shift = top if abs(top) > 500.0 else 0.0  # exp must not overflow, nor all of them vanish
            e = list(map(math.exp, [x - shift for x in row] if shift else row))
            total = sum(e)
            losses.append(math.log(total) + shift - row[target])
            kept.append((e, total, target))
        return PythonBuffer.of(losses, targets.shape, logits.dtype), (kept, logits.shape)

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        kept, shape = saved
        rows: list[Row] = []
        for g, row in zip(grad.values(), kept, strict=True):
            if row is None:
                rows.append([0.0] * shape[-1])
                continue
            e, total, target = row
            scale = g / total
            d = [x * scale for x in e]
            d[target] -= g
            rows.append(d)
        return PythonBuffer.of_rows(rows, shape, grad.dtype), None
