"""Attention on NumPy: a few heads at a time, so that their scores stay in a core's cache.

The scores of a head, with T queries down and S keys across, are computed in blocks of queries. Each block is
multiplied with the keys that it may see and no others, which leaves out nearly the half where attention is
causal:

                keys
             +-------+ . . . . . . . .       QueryBlock(start=0, stop=64, keys=64)
             |       |     masked    .
    queries  +-------+-------+ . . . .       QueryBlock(start=64, stop=128, keys=128)
             |               |       .
             +---------------+-------+       QueryBlock(start=128, stop=192, keys=192)
             |                       |
             +-----------------------+

A task is a few heads of the batch, all their blocks, and tasks are shared out among threads. No copy is made
for a transpose: BLAS reads the heads where they lie in the packed product, and the result lies as
(B, T, H, D), which is how the next product reads it.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy

from tinygpt_core.kernels.attention import Attention, PackedAttention
from tinygpt_core.kernels.base import Gradient

from .. import threads
from ..buffer import NumpyBuffer, without_warnings
from ..loops import loops_for
from .layout import as_rows

QUERY_BLOCK = 64  # queries of a block; 1 where keys or values are not finite
TASK = 1 << 20  # scores of a task


class QueryBlock(NamedTuple):
    """Queries `start` to `stop`, which see the first `keys` keys."""

    start: int
    stop: int
    keys: int


class NumpyAttention(Attention):
    """Attention, y = softmax(scale q k^T) v.

    Fast: few heads at a time and few queries of them, so that scores stay in the cache and most of what a
    causal mask hides is never computed; every core has heads of its own.

    Source: Vaswani et al., "Attention Is All You Need", 2017.
    """

    @staticmethod
    @without_warnings
    def forward(
        query: Any, key: Any, value: Any, *, causal: bool = True, scale: float | None = None
    ) -> tuple[Any, Any]:
        Attention.check(query, key, value, causal)
        if not query.numel or not key.numel:
            y, saved = Attention.forward(query, key, value, causal=causal, scale=scale)
            return y, (None, saved)
        q = query.array
        k = key.array
        v = value.array
        batch, heads, length, _ = q.shape
        total = k.shape[2]
        factor = q.dtype.type(Attention.scale_of(query, scale))
        softmax = loops_for(q.dtype).softmax
        y = _empty_like_heads(q)
        is_finite = bool(numpy.isfinite(k).all() and numpy.isfinite(v).all())
        blocks = _query_blocks(length, total, causal, QUERY_BLOCK if is_finite else 1)
        probabilities = [
            numpy.empty((batch, heads, block.stop - block.start, block.keys), q.dtype) for block in blocks
        ]
        tasks = _tasks(batch, heads, length * total)

        def work(start: int, stop: int) -> None:
            for task in tasks[start:stop]:
                for (i, j, seen), of_block in zip(blocks, probabilities, strict=True):
                    p = of_block[task]
                    scores = threads.workspace(2, p.size, p.dtype).reshape(p.shape)
                    numpy.matmul(q[task][..., i:j, :], k[task][..., :seen, :].swapaxes(-1, -2), out=scores)
                    softmax(scores.reshape(-1, j - i, seen), p.reshape(-1, j - i, seen), factor, causal)
                    numpy.matmul(p, v[task][..., :seen, :], out=y[task][..., i:j, :])

        _run_tasks(work, tasks, sum(p.size for p in probabilities))
        result = NumpyBuffer.wrap(y, query.dtype)
        return result, (query, key, value, result, probabilities, blocks, factor, tasks)

    @staticmethod
    @without_warnings
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        if saved[0] is None:
            return Attention.backward(saved[1], grad)
        gradients = [_empty_like_heads(x.array) for x in saved[:3]]
        _attention_gradients(saved, grad.array, *gradients)
        return tuple(NumpyBuffer.wrap(x, grad.dtype) for x in gradients)


class NumpyPackedAttention(PackedAttention):
    """Causal attention on query, key and value that lie side by side, as one product made them.

    Fast: their gradients are written side by side, where the backward of that product reads them.
    """

    @staticmethod
    @without_warnings
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        x, _, of_heads, (batch, heads, length, size) = saved
        if of_heads[0] is None:
            return PackedAttention.backward(saved, grad)
        packed = numpy.empty((batch, length, 3, heads, size), grad.array.dtype)
        g = grad.array.reshape(batch, length, heads, size).transpose(0, 2, 1, 3)
        _attention_gradients(of_heads, g, *packed.transpose(2, 0, 3, 1, 4))
        return (NumpyBuffer.wrap(packed.reshape(x.shape), grad.dtype),)


def _attention_gradients(saved: Any, g: Any, dq: Any, dk: Any, dv: Any) -> None:
    """Writes the gradients of query, key and value, given that of the result, to arrays (B, H, T, D) of any
    layout.

    With p the probabilities and dp = g v^T: ds = scale p (dp - sum dp p), dq = ds k, dk = ds^T q, dv = p^T g.
    """
    query, key, value, result, probabilities, blocks, factor, tasks = saved
    q = query.array
    k = key.array
    v = value.array
    y = result.array
    softmax_gradient = loops_for(q.dtype).softmax_gradient

    def work(start: int, stop: int) -> None:
        for task in tasks[start:stop]:
            means = numpy.vecdot(g[task], y[task])  # sum dp p of each query, which is also sum g y
            # The last block first: its queries see every key, so what it writes need not be added to zeros.
            for block in reversed(range(len(blocks))):
                is_first = block == len(blocks) - 1
                i, j, seen = blocks[block]
                p = probabilities[block][task]
                ds = threads.workspace(2, p.size, p.dtype).reshape(p.shape)
                numpy.matmul(g[task][..., i:j, :], v[task][..., :seen, :].swapaxes(-1, -2), out=ds)
                mean = as_rows(means[..., i:j], j - i)
                softmax_gradient(ds.reshape(-1, j - i, seen), p.reshape(-1, j - i, seen), mean, factor)
                numpy.matmul(ds, k[task][..., :seen, :], out=dq[task][..., i:j, :])
                _add_product(dk[task][..., :seen, :], ds, q[task][..., i:j, :], is_first)
                _add_product(dv[task][..., :seen, :], p, g[task][..., i:j, :], is_first)

    _run_tasks(work, tasks, sum(p.size for p in probabilities))


def _add_product(total: Any, left: Any, rows: Any, is_first: bool) -> None:
    """Adds left^T rows to `total`, or writes it there where it is the first."""
    transposed = left.swapaxes(-1, -2)
    if is_first:
        numpy.matmul(transposed, rows, out=total)
    else:
        product = threads.workspace(3, total.size, total.dtype).reshape(total.shape)
        numpy.add(total, numpy.matmul(transposed, rows, out=product), out=total)


def _empty_like_heads(x: Any) -> Any:
    """Returns an empty array of x's shape (B, H, T, D) that lies as (B, T, H, D)."""
    batch, heads, length, size = x.shape
    return numpy.empty((batch, length, heads, size), x.dtype).transpose(0, 2, 1, 3)


def _query_blocks(length: int, total: int, causal: bool, size: int) -> list[QueryBlock]:
    """Returns blocks of about `size` queries: the more there are, the less of the masked half is computed.

    A block of one query has no masked half. There no weight of 0 meets NaN or an infinity, with which the
    product would be NaN: what comes later does not reach what came before.
    """
    if not causal:
        return [QueryBlock(0, length, total)]
    count = max(1, length // size)
    ends = [length * i // count for i in range(count + 1)]
    return [QueryBlock(start, stop, total - length + stop) for start, stop in pairwise(ends)]


def _tasks(batch: int, heads: int, scores: int) -> list[Any]:
    """Returns indices of (B, H, …) arrays that select some heads each: as many as stay near the core, and a
    share for every core.
    """
    share = -(-batch * heads // threads.thread_count())
    heads_per_task = max(1, min(TASK // scores, share))
    if heads_per_task >= heads:
        step = heads_per_task // heads
        return [slice(i, min(i + step, batch)) for i in range(0, batch, step)]
    return [
        (b, slice(i, min(i + heads_per_task, heads)))
        for b in range(batch)
        for i in range(0, heads, heads_per_task)
    ]


def _run_tasks(work: Callable[[int, int], None], tasks: list[Any], scores: int) -> None:
    """Calls `work` on all tasks: on several threads where there are scores enough, else with BLAS's own."""
    if scores < threads.CHAIN_GRAIN or threads.thread_count() == 1:
        work(0, len(tasks))
        return
    with threads.single_threaded_blas():
        threads.parallel_for(work, len(tasks))
