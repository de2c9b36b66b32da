"""AdamW's step on NumPy, and rows that are taken out of a table for it."""

from __future__ import annotations

import math
from typing import Any

import numpy

from tinygpt_core.dtype import DType
from tinygpt_core.kernels.optimizer_steps import AdamWStep, NonzeroRows, PutRows

from .. import threads
from ..buffer import NumpyBuffer, without_warnings
from ..loops import loops_for
from .layout import as_flat

BLOCK = 1 << 17  # elements of a parameter that are updated at a time


class NumpyAdamWStep(AdamWStep):
    """AdamW, m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g^2, p = p - rate (m / (sqrt v + eps) + decay p).

    Fast: one walk updates a parameter and both moments; the blocks of all parameters are shared out together,
    so that small ones do not wait for large ones.

    Source: Loshchilov, Hutter, "Decoupled Weight Decay Regularization", 2019.
    """

    @staticmethod
    @without_warnings
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
        # The corrections for the number of the step, moved out of the walk
        root = math.sqrt(1.0 - betas[1] ** step)
        rate = learning_rate * root / (1.0 - betas[0] ** step)
        epsilon = eps * root
        # What a new gradient counts, 1 - beta, is rounded once: in float32, 1 - 0.9999 keeps four digits.
        shares = (1.0 - betas[0], 1.0 - betas[1])
        constants: dict[Any, tuple[Any, ...]] = {}  # by dtype and weight decay
        jobs: list[Any] = []  # the arguments of a call of `adamw`, for each block
        copies: list[tuple[Any, Any]] = []
        for p, g, m, v, decay in zip(parameters, grads, first, second, weight_decays, strict=True):
            dtype = p.array.dtype
            if (dtype, decay) not in constants:
                numbers = (*betas, *shares, rate, epsilon, 1.0 - learning_rate * decay)
                constants[dtype, decay] = tuple(map(dtype.type, numbers))
            flat_p = _flat_to_write(p, copies)
            flat_m = _flat_to_write(m, copies)
            flat_v = _flat_to_write(v, copies)
            flat_g = as_flat(g.array)
            for start in range(0, flat_p.size, BLOCK):
                part = slice(start, start + BLOCK)
                arrays = (flat_p[part], flat_g[part], flat_m[part], flat_v[part])
                jobs.append((*arrays, *constants[dtype, decay]))

        def work(start: int, stop: int) -> None:
            for job in jobs[start:stop]:
                loops_for(job[0].dtype).adamw(*job)

        threads.parallel_for(work, len(jobs), 8)
        for array, flat in copies:
            array[...] = flat.reshape(array.shape)
        return None, None


def _flat_to_write(buffer: Any, copies: list[tuple[Any, Any]]) -> Any:
    """Returns a Buffer's elements as a flat array to write to. Where that is a copy, the Buffer's array and
    the copy join `copies`, for what is written to be carried back.
    """
    flat = as_flat(buffer.array)
    flags = buffer.array.flags
    if not (flags.c_contiguous and flags.writeable):
        buffer.check_writable()
        copies.append((buffer.array, flat))
    buffer.version[0] += 1
    return flat


class NumpyNonzeroRows(NonzeroRows):
    """y = the positions of the rows with an element that is not 0, with one look at each element."""

    @staticmethod
    def forward(x: Any) -> tuple[Any, None]:
        is_nonzero = (x.array != 0).any(axis=tuple(range(1, x.ndim)))
        found = numpy.flatnonzero(is_nonzero).astype(numpy.int32)
        return NumpyBuffer.wrap(found, DType.int32), None


class NumpyPutRows(PutRows):
    """`PutRows` as one assignment."""

    @staticmethod
    def forward(table: Any, rows: Any, values: Any) -> tuple[None, None]:
        rows.check_indices(table.shape[0])
        table.check_writable()
        table.array[rows.array] = values.array
        table.version[0] += 1
        return None, None
