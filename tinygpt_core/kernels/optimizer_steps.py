"""What optimizers do to parameters, in place: the steps of AdamW and SGD.

    SGD      d = g + wd p,  u = momentum u + d,  p = p - lr u
    AdamW    m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2
             p = p - lr wd p - lr m' / (sqrt v' + eps)    with m' = m / (1 - b1^t), v' = v / (1 - b2^t)

for each element of a parameter p with gradient g, at a learning rate lr and with a weight decay wd. The
velocity u and the moments m and v are kept from step to step, t counts the steps from 1.

For tables of which few rows are looked up, an optimizer takes those rows that have a gradient out of the
table and its moments (`NonzeroRows`), makes a step with them as with any parameter, and puts them back
(`PutRows`).
"""

from __future__ import annotations

import math
from array import array

from ..buffer.base import Buffer
from ..dtype import DType
from .base import Kernel


def moving_mean(mean: Buffer, new: Buffer, beta: float) -> Buffer:
    """Returns beta mean + (1 - beta) new, of the shape of both.

    As mean + (1 - beta) (new - mean): the coefficient is small, and a beta near 1 is never rounded to a dtype
    in which 1 less it has other digits.
    """
    if beta < 0.5:
        return mean * beta + new * (1.0 - beta)
    return mean + (new - mean) * (1.0 - beta)


NEWTON_SCHULZ_STEPS = 5
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # a, b, c of Jordan et al.: steep at 0, and about 1 on (0, 1]


def orthogonalized(x: Buffer, steps: int = NEWTON_SCHULZ_STEPS) -> Buffer:
    """Returns a matrix with the singular vectors of x and with singular values near 1, from 0.7 to 1.2 where
    those of x are not far below its norm: y = U f(S) V^T of x = U S V^T.

    x is divided by its norm, so that no singular value is above 1, and then `x = a x + b (x x^T) x + c (x
    x^T)^2 x` is done a few times, which makes of each singular value s the value a s + b s^3 + c s^5 and
    leaves the vectors alone. A matrix of zeros stays.

    Args:
        x: floats (m, n).
        steps: how many times.

    Returns:
        Floats (m, n), of the dtype of x.

    Source: Björck, Bowie, "An iterative algorithm for computing the best estimate of an orthogonal matrix",
    1971; Jordan et al., "Muon", 2024, https://kellerjordan.github.io/posts/muon/
    """
    if not x.numel:
        return x
    a, b, c = NEWTON_SCHULZ
    is_tall = x.shape[0] > x.shape[1]  # x x^T is to be the smaller square of the two
    y = x.transpose(0, 1) if is_tall else x
    # The largest element first, so that no square overflows or vanishes
    largest = y.maximum(-y).max()
    y = y / (largest + (largest == 0.0).cast(x.dtype))
    norm = (y * y).sum().sqrt()
    y = y / (norm + (norm == 0.0).cast(x.dtype))
    for _ in range(steps):
        square = y @ y.transpose(0, 1)
        y = y * a + (square * b + square @ square.transpose(0, 1) * c) @ y
    return y.transpose(0, 1) if is_tall else y


class AdamWStep(Kernel):
    """One step of Adam with decoupled weight decay, in place.

    Over lists of parameters p, with gradients g and moments m and v of the same shapes, at step t >= 1:
    m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g^2, p = p - lr wd p - lr (m / (1 - b1^t)) / (sqrt(v / (1 -
    b2^t)) + eps). Sources: Kingma, Ba, "Adam", 2015; Loshchilov, Hutter, "Decoupled Weight Decay
    Regularization", 2019.
    """

    @staticmethod
    def forward(
        parameters: list[Buffer],
        grads: list[Buffer],
        first_moments: list[Buffer],
        second_moments: list[Buffer],
        *,
        learning_rate: float,
        betas: tuple[float, float],
        eps: float,
        weight_decays: list[float],
        step: int,
    ) -> tuple[None, None]:
        beta1, beta2 = betas
        rate = learning_rate / (1.0 - beta1**step)
        correction = 1.0 / math.sqrt(1.0 - beta2**step)
        lists = zip(parameters, grads, first_moments, second_moments, weight_decays, strict=True)
        for p, g, m, v, decay in lists:
            m.assign(moving_mean(m, g, beta1))
            v.assign(moving_mean(v, g * g, beta2))
            p.assign(p * (1.0 - learning_rate * decay) - m * rate / (v.sqrt() * correction + eps))
        return None, None


class SGDStep(Kernel):
    """One step of stochastic gradient descent, in place.

    Over lists of parameters p, with gradients g and velocities u of the same shapes: d = g + wd p. With
    momentum u = d at the first step and then u = momentum u + (1 - dampening) d, and d becomes u, or
    d + momentum u with Nesterov's. Last p = p - lr d. Source: Sutskever et al., 2013, in the form that
    PyTorch uses.
    """

    @staticmethod
    def forward(
        parameters: list[Buffer],
        grads: list[Buffer],
        velocities: list[Buffer] | None,
        *,
        learning_rate: float,
        momentum: float,
        dampening: float,
        nesterov: bool,
        weight_decays: list[float],
        step: int,
    ) -> tuple[None, None]:
        for i, (p, g, decay) in enumerate(zip(parameters, grads, weight_decays, strict=True)):
            d = g + p * decay if decay else g
            if velocities is not None:
                u = velocities[i]
                u.assign(d if step == 1 else u * momentum + d * (1.0 - dampening))
                d = d + u * momentum if nesterov else u
            p.assign(p - d * learning_rate)
        return None, None


class NonzeroRows(Kernel):
    """y = the positions, ascending integers (k,), of the rows of x (n, ...) with an element that is not 0.

    NaN is not 0.
    """

    @staticmethod
    def forward(x: Buffer) -> tuple[Buffer, None]:
        count = x.shape[0]
        elements = x.reshape((count, x.numel // max(1, count)))
        found = [position for position, row in enumerate(elements.to_python()) if any(row)]
        return type(x).from_array(array("i", found), (len(found),), DType.int32), None


class PutRows(Kernel):
    """table[rows[k]] = values[k] for each k, in place; rows are integers (n,) and values (n, ...).

    Raises:
        IndexError: a row that the table does not have.
    """

    @staticmethod
    def forward(table: Buffer, rows: Buffer, values: Buffer) -> tuple[None, None]:
        rows.check_indices(table.shape[0])
        for k, row in enumerate(rows.to_array()):
            table[row] = values[k]
        return None, None
