"""AdamW's step in pure Python."""

from __future__ import annotations

import math
from typing import Any

from ...buffer.python import PythonBuffer
from ..optimizer_steps import AdamWStep


class PythonAdamWStep(AdamWStep):
    """One loop over all elements of a parameter."""

    @staticmethod
    def forward(
        parameters: Any,
        grads: Any,
        first: Any,
        second: Any,
        *,
        learning_rate: float,
        betas: Any,
        eps: float,
        weight_decays: Any,
        step: int,
    ) -> tuple[None, None]:
        beta1, beta2 = betas
        new1, new2, sqrt = 1.0 - beta1, 1.0 - beta2, math.sqrt
        root = sqrt(1.0 - beta2**step)
        # The corrections, moved out of the loop
        rate, small = learning_rate * root / (1.0 - beta1**step), eps * root
        for *buffers, gradient, decay in zip(first, second, parameters, grads, weight_decays, strict=True):
            results: tuple[list[float], ...] = ([], [], [])
            new_m, new_v, updated = results
            moments1, moments2, x_values = (buffer.values() for buffer in buffers)
            if decay:
                keep = 1.0 - learning_rate * decay
                x_values = [keep * x for x in x_values]
            for m, v, x, g in zip(moments1, moments2, x_values, gradient.values(), strict=True):
                m = beta1 * m + new1 * g
                v = beta2 * v + new2 * g * g
                new_m.append(m)
                new_v.append(v)
                updated.append(x - rate * m / (sqrt(v) + small))
            for buffer, values in zip(buffers, results, strict=True):
                buffer.assign(PythonBuffer.of(values, buffer.shape, buffer.dtype))
        return None, None
