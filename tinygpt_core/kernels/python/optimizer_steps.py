"""AdamW's step in pure Python.

What is fast here: one loop over the elements of a parameter computes both moments and the update, and the two
corrections for moments that start at 0 are folded into the learning rate and eps, out of the loop:

    (m / c1) / (sqrt(v / c2) + eps) = m (sqrt c2 / c1) / (sqrt v + eps sqrt c2)    c = 1 - beta^step
"""

from __future__ import annotations

import math
from typing import Any

from ...buffer.python import PythonBuffer
from ..optimizer_steps import AdamWStep


class PythonAdamWStep(AdamWStep):
    """`AdamWStep` in one loop over all elements of a parameter."""

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
        beta1, beta2 = betas
        share1, share2 = 1.0 - beta1, 1.0 - beta2  # what a new gradient counts
        root = math.sqrt(1.0 - beta2**step)
        rate = learning_rate * root / (1.0 - beta1**step)
        corrected_eps = eps * root
        sqrt = math.sqrt
        lists = zip(parameters, grads, first_moments, second_moments, weight_decays, strict=True)
        for parameter, grad, first, second, decay in lists:
            values = parameter.values()
            if decay:
                keep = 1.0 - learning_rate * decay
                values = [keep * x for x in values]
            new_first: list[float] = []
            new_second: list[float] = []
            updated: list[float] = []
            for m, v, x, g in zip(first.values(), second.values(), values, grad.values(), strict=True):
                m = beta1 * m + share1 * g
                v = beta2 * v + share2 * g * g
                new_first.append(m)
                new_second.append(v)
                updated.append(x - rate * m / (sqrt(v) + corrected_eps))
            for buffer, new in ((first, new_first), (second, new_second), (parameter, updated)):
                buffer.assign(PythonBuffer.of(new, buffer.shape, buffer.dtype))
        return None, None
