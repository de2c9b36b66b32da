"""AdamW's step in pure Python, and rows that are taken out of a table for it.

What is fast here: a list comprehension each for both moments and the update, over arrays as they lie, and
each list is rounded straight into the array where it belongs. The two corrections for moments that start at 0
are folded into the learning rate and eps, out of the loops:

    (m / c1) / (sqrt(v / c2) + eps) = m (sqrt c2 / c1) / (sqrt v + eps sqrt c2)    c = 1 - beta^step
"""

from __future__ import annotations

import math
from array import array
from typing import Any

from ...buffer.python import PythonBuffer
from ...buffer.rows import chunks
from ...dtype import DType
from ...shape import is_contiguous, numel
from ..optimizer_steps import AdamWStep, NonzeroRows, PutRows


class PythonAdamWStep(AdamWStep):
    """`AdamWStep` in three list comprehensions over all elements of a parameter."""

    @staticmethod
    def forward(
        parameters: Any,
        grads: Any,
        first_moments: Any,
        second_moments: Any,
        *,
        learning_rate: float,
        betas: Any,
        eps: float,
        weight_decays: Any,
        step: int,
    ) -> tuple[None, None]:
        sqrt = math.sqrt
        beta1, beta2 = betas
        share1, share2 = 1.0 - beta1, 1.0 - beta2  # what a new gradient counts
        root = math.sqrt(1.0 - beta2**step)
        rate = learning_rate * root / (1.0 - beta1**step)
        corrected_eps = eps * root
        lists = zip(parameters, grads, first_moments, second_moments, weight_decays, strict=True)
        for parameter, grad, first, second, decay in lists:
            gradient = grad.flat()
            values = parameter.flat()
            if decay:
                keep = 1.0 - learning_rate * decay
                values = [keep * x for x in values]
            new_first = [beta1 * m + share1 * g for m, g in zip(first.flat(), gradient, strict=True)]
            new_second = [beta2 * v + share2 * g * g for v, g in zip(second.flat(), gradient, strict=True)]
            updated = [
                x - rate * m / (sqrt(v) + corrected_eps)
                for x, m, v in zip(values, new_first, new_second, strict=True)
            ]
            first.write_values(new_first)
            second.write_values(new_second)
            parameter.write_values(updated)
        return None, None


class PythonNonzeroRows(NonzeroRows):
    """y = the positions of the rows with an element that is not 0, by `any`, which looks at a row in C."""

    @staticmethod
    def forward(x: Any) -> tuple[Any, None]:
        if not x.numel:
            return NonzeroRows.forward(x)
        rows = x.rows(x.numel // x.shape[0])
        found = array("i", [position for position, row in enumerate(rows) if any(row)])
        return PythonBuffer.from_array(found, (len(found),), DType.int32), None


class PythonPutRows(PutRows):
    """`PutRows` with a slice for each row."""

    @staticmethod
    def forward(table: Any, rows: Any, values: Any) -> tuple[None, None]:
        if not is_contiguous(table.shape, table.stride) or values.dtype is not table.dtype:
            return PutRows.forward(table, rows, values)
        rows.check_indices(table.shape[0])
        table.check_writable()
        data = table.data
        width = numel(table.shape[1:])
        if not width:  # rows without elements
            return None, None
        for row, new in zip(rows.to_array(), chunks(values.to_array(), width), strict=True):
            start = table.offset + row * width
            data[start : start + width] = new
        table.version[0] += 1
        return None, None
