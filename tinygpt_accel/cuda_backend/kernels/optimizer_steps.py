"""AdamW's step on a CUDA device, and the norm of all gradients: each one launch for all parameters, which a
table on the device describes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy

from tinygpt_core.kernels.optimizer_steps import AdamWStep

from ..buffer import CudaBuffer, format_of

PARAMETER_CHUNK = 1 << 14  # elements of a parameter that one block updates


class CudaAdamWStep(AdamWStep):
    """AdamW, m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g^2, p = p - rate (m / (sqrt v + eps) + decay p).

    Fast: one launch updates all parameters. Source: Loshchilov, Hutter, "Decoupled Weight Decay
    Regularization", 2019.
    """

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
        if not parameters:
            return None, None
        for buffer in (*parameters, *first, *second):
            buffer.check_writable()
        kind = type(parameters[0])
        scalars = kind.xp.asarray(adamw_scalars(learning_rate, betas, eps, step), "float64")
        adamw(kind, [parameters, grads, first, second], weight_decays, scalars)
        return None, None


def adamw_scalars(learning_rate: float, betas: tuple[float, float], eps: float, step: int) -> list[float]:
    """Returns the five numbers that `adamw` in cu/optimizer.cu reads: both betas, the rate and eps with the
    corrections for the number of the step, and the learning rate, by which parameters decay.
    """
    root = math.sqrt(1.0 - betas[1] ** step)
    rate = learning_rate * root / (1.0 - betas[0] ** step)
    return [*betas, rate, eps * root, learning_rate]


def adamw(
    kind: type[CudaBuffer],
    buffers: list[list[Any]],
    decays: list[float],
    scalars: Any,
    clip: Any = None,
    skip: bool = False,
) -> None:
    """Updates parameters by one launch for each float dtype.

    Args:
        buffers: lists of parameters, gradients, first and second moments.
        decays: the weight decay of each parameter.
        scalars: the numbers of `adamw_scalars`, on the device.
        clip: what `gradient_norm` returned, by whose factor gradients are multiplied.
        skip: whether nothing is updated where the norm is not finite.
    """
    parameters, grads, first, second = buffers
    for dtype in ("float32", "float64"):
        tensors: list[list[Any]] = [[], [], [], []]
        chosen: list[float] = []
        copies: list[tuple[Any, Any]] = []  # Buffers and what is to be written back to them
        for p, g, m, v, decay in zip(parameters, grads, first, second, decays, strict=True):
            if p.dtype.name != dtype or not p.numel:
                continue
            chosen.append(decay)
            for column, buffer in zip(tensors, (p, g, m, v), strict=True):
                array = buffer.array
                if not array.flags.c_contiguous:  # all four in one order of elements
                    array = kind.xp.ascontiguousarray(array)
                    if buffer is not g:
                        copies.append((buffer, array))
                column.append(array)
        if not chosen:
            continue
        table, chunks, count = tensor_table(kind, tensors, chosen)
        kind.launch("adamw", dtype, (count,), table, chunks, PARAMETER_CHUNK, scalars, clip, int(skip))
        for buffer, array in copies:
            buffer.array[...] = array
    for buffer in (*parameters, *first, *second):
        buffer.version[0] += 1


def gradient_norm(kind: type[CudaBuffer], grads: list[Any], limit: float, unscale: float = 1.0) -> Any:
    """Returns (norm, factor, finite) on the device, see `finish_norm` in cu/optimizer.cu. Nothing comes to
    the host.
    """
    parts = []
    for dtype in ("float32", "float64"):
        arrays = [_filling(kind, g) for g in grads if format_of(g) == dtype and g.size]
        if arrays:
            table, chunks, count = tensor_table(kind, [arrays, arrays], [0.0] * len(arrays))
            parts.append(kind.xp.empty(count, "float64"))
            kind.launch("squares", dtype, (count,), table, chunks, PARAMETER_CHUNK, parts[-1])
    partial = kind.xp.concatenate(parts) if parts else kind.xp.zeros(1, "float64")
    result = kind.xp.empty(3, "float64")
    kind.launch("finish_norm", "", (1,), partial, partial.size, float(limit), float(unscale), result)
    return result


def tensor_table(
    kind: type[CudaBuffer], columns: list[list[Any]], decays: list[float]
) -> tuple[Any, Any, int]:
    """Returns what cu/optimizer.cu calls table and chunks, on the device, and how many chunks there are.

    A row of the table describes a parameter: up to four addresses, of arrays in the lists `columns`, the
    number of elements, and the bits of its weight decay. A chunk is a parameter and where in it a block
    begins.
    """
    table = numpy.zeros((len(decays), 6), numpy.int64)
    table[:, 5] = numpy.array(decays, numpy.float64).view(numpy.int64)
    chunks: list[tuple[int, int]] = []
    for i, row in enumerate(zip(*columns, strict=True)):
        size = row[0].size
        table[i, : len(row)] = [kind.address_of(array) for array in row]
        table[i, 4] = size
        chunks += [(i, start) for start in range(0, size, PARAMETER_CHUNK)]
    both = numpy.concatenate([table.reshape(-1), numpy.array(chunks, numpy.int64).reshape(-1)])
    if kind.graph_tables is None:
        device = kind.xp.asarray(both)
    else:  # a graph is being recorded, and cannot copy from the host
        device = kind.xp.empty(both.shape, both.dtype)
        kind.graph_tables.append((device, both))
    return device[: table.size], device[table.size :], len(chunks)


def _filling(kind: type[CudaBuffer], array: Any) -> Any:
    """Returns an array whose elements fill its storage, in C order or the reverse: itself or a copy."""
    flags = array.flags
    return array if flags.c_contiguous or flags.f_contiguous else kind.xp.ascontiguousarray(array)
