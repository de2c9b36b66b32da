"""AdamW's step on a CUDA device, and the norm of all gradients: each one launch for all parameters, which a
table on the device describes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy

from tinygpt_core.dtype import DType
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
        if any(p.dtype is not DType.float32 for p in parameters):
            return AdamWStep.forward(
                parameters,
                grads,
                first,
                second,
                learning_rate=learning_rate,
                betas=betas,
                eps=eps,
                weight_decays=weight_decays,
                step=step,
            )
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
    copies: list[Any] | None = None,
) -> None:
    """Updates float32 parameters by one launch.

    Args:
        buffers: lists of parameters, gradients, first and second moments.
        decays: the weight decay of each parameter.
        scalars: the numbers of `adamw_scalars`, on the device.
        clip: what `gradient_norm` returned, by whose factor gradients are multiplied.
        skip: whether nothing is updated where the norm is not finite.
        copies: for each parameter an array for its copy in 16 bits, all in one format, or None.
    """
    kind.launch_waiting()
    rows: list[tuple[Any, ...]] = []
    chosen: list[float] = []
    to_write: list[tuple[Any, Any]] = []  # Buffers and what is to be written back to them
    fmt = "bfloat16"
    for i, (tensors, decay) in enumerate(zip(zip(*buffers, strict=True), decays, strict=True)):
        parameter, gradient, *_ = tensors
        copy = copies[i] if copies else None
        if not parameter.numel:
            continue
        row = []
        for buffer in tensors:
            array = buffer.array
            if not array.flags.c_contiguous:  # all in one order of elements
                array = kind.xp.ascontiguousarray(array)
                if buffer is not gradient:
                    to_write.append((buffer, array))
            row.append(array)
        rows.append((*row, copy))
        chosen.append(decay)
        fmt = fmt if copy is None else format_of(copy)
    if rows:
        table, chunks, count = tensor_table(kind, rows, chosen)
        kind.launch("adamw", fmt, (count,), table, chunks, PARAMETER_CHUNK, scalars, clip, int(skip))
    for buffer, array in to_write:
        buffer.array[...] = array
    for buffer in (*buffers[0], *buffers[2], *buffers[3]):
        buffer.version[0] += 1
    if copies:
        for buffer, copy in zip(buffers[0], copies, strict=True):
            if copy is not None:
                buffer.keep_conversion(copy)


def gradient_norm(kind: type[CudaBuffer], grads: list[Any], limit: float, unscale: float = 1.0) -> Any:
    """Returns (norm, factor, finite) of float32 gradients on the device, see `finish_norm` in
    cu/optimizer.cu. Nothing comes to the host.
    """
    rows = [(None, _filling(kind, g), None, None, None) for g in grads if g.size]
    partial, count = None, 0
    if rows:
        table, chunks, count = tensor_table(kind, rows, [0.0] * len(rows))
        partial = kind.xp.empty(count, "float64")
        kind.launch("squares", "", (count,), table, chunks, PARAMETER_CHUNK, partial)
    result = kind.xp.empty(3, "float64")
    kind.launch("finish_norm", "", (1,), partial, count, float(limit), float(unscale), result)
    return result


def tensor_table(
    kind: type[CudaBuffer], rows: list[tuple[Any, ...]], decays: list[float]
) -> tuple[Any, Any, int]:
    """Returns what cu/optimizer.cu calls table and chunks, on the device, and how many chunks there are.

    A row of the table describes a parameter: the addresses of p, g, m and v, its size, the bits of its weight
    decay, and the address of its copy in 16 bits; 0 for an array that is None. A chunk is a parameter and
    where in it a block begins.
    """
    table = numpy.zeros((len(rows), 7), numpy.int64)
    table[:, 5] = numpy.array(decays, numpy.float64).view(numpy.int64)
    chunks: list[tuple[int, int]] = []
    for i, row in enumerate(rows):
        size = row[1].size
        addresses = [0 if array is None else kind.address_of(array) for array in row]
        table[i, :4] = addresses[:4]
        table[i, 4] = size
        table[i, 6] = addresses[4]
        chunks += [(i, start) for start in range(0, size, PARAMETER_CHUNK)]
    both = numpy.concatenate([table.reshape(-1), numpy.array(chunks, numpy.int64).reshape(-1)])
    # A graph that is being recorded cannot copy from the host
    device = kind.xp.asarray(both) if kind.graph_tables is None else kind.graph_tables.add(kind, both)
    return device[: table.size], device[table.size :], len(chunks)


def _filling(kind: type[CudaBuffer], array: Any) -> Any:
    """Returns an array whose elements fill its storage, in C order or the reverse: itself or a copy."""
    flags = array.flags
    return array if flags.c_contiguous or flags.f_contiguous else kind.xp.ascontiguousarray(array)
