"""The kernels of a GPT's step on NumPy: the textbook formulas of `tinygpt_core.kernels`, fused.

What makes them fast is the same in all: products go to BLAS as they lie, without a copy for a transpose; a chain of elementwise steps
runs over blocks that stay in the cache, in place, on every core; float32 stays float32; and what the backward needs is kept in the
form in which it needs it (a slope, not the steps that lead to it).

`saved` holds the operands that a backward reads again as Buffers, so that the engine notices when they are changed in place, and
everything else as bare arrays.
"""

from __future__ import annotations

import math
from typing import Any

import numpy

from tinygpt_core.kernels import (
    GELU,
    AdamWStep,
    Attention,
    CrossEntropy,
    Embedding,
    Gradient,
    LayerNorm,
    Linear,
    LogSoftmax,
    RMSNorm,
    SiLU,
    Softmax,
    register,
)
from tinygpt_core.kernels.composed import GELU_CUBIC, SQRT_2_OVER_PI, _normalized
from tinygpt_core.shape import Shape, normalize_axis

from .memory import keep_freed_memory
from .numpy_backend import NumpyBuffer
from .threads import BLOCK, share_out, single_threaded_blas, thread_count, workspace

QUERY_BLOCK = 64  # queries of a block in attention
GRAIN = BLOCK  # elements below which another thread is not worth waking
wrap = NumpyBuffer.wrap
einsum, vecdot, multiply, add, subtract = numpy.einsum, numpy.vecdot, numpy.multiply, numpy.add, numpy.subtract


def _matrix(x: Any, width: int) -> Any:
    """Returns an array as a matrix with rows of `width` elements: a view where the layout allows."""
    return x.reshape(-1, width) if width else x.reshape(math.prod(x.shape[:-1]), 0)


def _rows_at_a_time(width: int) -> int:
    return max(1, BLOCK // max(width, 1))


def _row_sums(x: Any) -> Any:
    """Returns sums over the last axis: einsum's one pass where rows are short, NumPy's pairwise sums where rounding would add up."""
    return einsum("...j->...", x) if x.shape[-1] <= 4096 else add.reduce(x, axis=-1)


def _column_sums(x: Any) -> Any:
    return numpy.ones(len(x), x.dtype) @ x


class NumpyLinear(Linear):
    """Matrix products on matrices as they lie; the gradient of a weight gets the weight's own layout."""

    @staticmethod
    def forward(x: Any, weight: Any, bias: Any = None) -> tuple[Any, Any]:
        Linear.check(x, weight, bias)
        inputs, outputs = weight.shape
        y = _matrix(x.array, inputs) @ weight.array
        if bias is not None:
            _add_to_rows(y, bias.array)
        return wrap(y.reshape(*x.shape[:-1], outputs), x.dtype), (x, weight)

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        x, weight = saved
        inputs, outputs = weight.shape
        g, w = _matrix(grad.array, outputs), weight.array

        def of_input() -> Any:
            return wrap((g @ w.T).reshape(x.shape), x.dtype)

        def of_weight() -> Any:
            rows = _matrix(x.array, inputs)
            # A weight that lies transposed, as a tied head does, gets a gradient that does, and adding the two up moves along rows.
            return wrap((g.T @ rows).T if w.flags.f_contiguous and not w.flags.c_contiguous else rows.T @ g, x.dtype)

        return of_input, of_weight, lambda: wrap(_column_sums(g), x.dtype)


def _add_to_rows(y: Any, row: Any) -> None:
    step = _rows_at_a_time(y.shape[1])

    def work(start: int, stop: int) -> None:
        for i in range(start, stop, step):
            block = y[i : min(i + step, stop)]
            add(block, row, out=block)

    share_out(work, len(y), GRAIN // max(y.shape[1], 1) + 1)


class NumpyGELU(GELU):
    """Keeps the slope, computed while its parts are in the cache, so that the backward is one product."""

    @staticmethod
    def forward(x: Any, *, approximate: str = "tanh") -> tuple[Any, Any]:
        if approximate != "tanh":
            return GELU.forward(x, approximate=approximate)
        GELU.check(x, approximate)
        flat = x.array.reshape(-1)
        y, slope = numpy.empty_like(flat), numpy.empty_like(flat)
        cubic = SQRT_2_OVER_PI * GELU_CUBIC

        def work(start: int, stop: int) -> None:
            for i in range(start, stop, BLOCK):
                j = min(i + BLOCK, stop)
                a, out, s = flat[i:j], y[i:j], slope[i:j]
                square, h = workspace(0, j - i, a.dtype), workspace(1, j - i, a.dtype)
                multiply(a, a, out=square)
                multiply(square, cubic, out=h)
                add(h, SQRT_2_OVER_PI, out=h)
                multiply(h, a, out=h)
                numpy.tanh(h, out=h)
                add(h, 1.0, out=h)
                multiply(h, 0.5, out=h)  # h = (1 + t) / 2, so that 1 - t^2 = 4 h (1 - h)
                multiply(a, h, out=out)
                multiply(square, 6.0 * cubic, out=square)
                add(square, 2.0 * SQRT_2_OVER_PI, out=square)
                multiply(out, h, out=s)
                subtract(out, s, out=s)
                multiply(s, square, out=s)  # x h (1 - h) 2 sqrt(2 / pi) (1 + 3 * 0.044715 x^2)
                add(s, h, out=s)

        share_out(work, flat.size, GRAIN)
        return wrap(y.reshape(x.shape), x.dtype), slope

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        if isinstance(saved, tuple):
            return GELU.backward(saved, grad)
        return (_scaled(grad, saved),)


class NumpySiLU(SiLU):
    """As GELU: the slope is kept."""

    @staticmethod
    def forward(x: Any) -> tuple[Any, Any]:
        if x.dtype.kind != "f":
            return SiLU.forward(x)
        flat = x.array.reshape(-1)
        y, slope = numpy.empty_like(flat), numpy.empty_like(flat)

        def work(start: int, stop: int) -> None:
            for i in range(start, stop, BLOCK):
                j = min(i + BLOCK, stop)
                a, out, s, h = flat[i:j], y[i:j], slope[i:j], workspace(0, j - i, flat.dtype)
                multiply(a, 0.5, out=h)
                numpy.tanh(h, out=h)
                add(h, 1.0, out=h)
                multiply(h, 0.5, out=h)
                multiply(a, h, out=out)
                multiply(out, h, out=s)
                subtract(out, s, out=s)  # x s (1 - s)
                add(s, h, out=s)

        share_out(work, flat.size, GRAIN)
        return wrap(y.reshape(x.shape), x.dtype), slope

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        return (_scaled(grad, saved),)


def _scaled(grad: Any, slope: Any) -> Any:
    """Returns g times a flat array, element by element."""
    g = grad.array.reshape(-1)
    result = numpy.empty_like(slope)
    share_out(lambda i, j: multiply(g[i:j], slope[i:j], out=result[i:j]), g.size, 2 * GRAIN)
    return wrap(result.reshape(grad.shape), grad.dtype)


def _normalize(x: Any, weight: Any, bias: Any, shape: Shape, eps: float, centre: bool) -> tuple[Any, Any]:
    """Both norms over rows; keeps the normalized rows n and the scale of each."""
    size = math.prod(shape)
    rows = _matrix(x.array, size)
    w = None if weight is None else weight.array.reshape(-1)
    b = None if bias is None else bias.array.reshape(-1)
    normal, scales, y = numpy.empty(rows.shape, rows.dtype), numpy.empty((len(rows), 1), rows.dtype), numpy.empty(rows.shape, rows.dtype)
    step = _rows_at_a_time(size)

    def work(start: int, stop: int) -> None:
        for i in range(start, stop, step):
            j = min(i + step, stop)
            n, scale, out = normal[i:j], scales[i:j], y[i:j]
            if centre:
                mean = _row_sums(rows[i:j])
                mean /= size
                subtract(rows[i:j], mean[:, None], out=n)
            else:
                n[...] = rows[i:j]
            scale[:, 0] = vecdot(n, n)
            scale /= size
            scale += eps
            numpy.sqrt(scale, out=scale)
            numpy.divide(1.0, scale, out=scale)
            multiply(n, scale, out=n)
            if w is not None:
                multiply(n, w, out=out)
            else:
                out[...] = n
            if b is not None:
                add(out, b, out=out)

    share_out(work, len(rows), GRAIN // max(size, 1) + 1)
    return wrap(y.reshape(x.shape), x.dtype), (weight, normal, scales, shape, centre)


def _normalize_gradients(saved: Any, grad: Any) -> tuple[Any, Any, Any]:
    """dL/dx, dL/dw, dL/db in one walk over blocks; the sums over rows are added up in the order of the blocks."""
    weight, normal, scales, shape, centre = saved
    size = math.prod(shape)
    g, w = _matrix(grad.array, size), None if weight is None else weight.array.reshape(-1)
    step = _rows_at_a_time(size)
    blocks = -(-len(g) // step)
    result, sums = numpy.empty(normal.shape, g.dtype), numpy.empty((2, blocks, size), g.dtype)

    def work(start: int, stop: int) -> None:
        for block in range(start, stop):
            rows = slice(block * step, min(block * step + step, len(g)))
            part, n, h = g[rows], normal[rows], result[rows]
            product = workspace(0, part.size, g.dtype).reshape(part.shape)
            multiply(part, n, out=product)
            add.reduce(product, axis=0, out=sums[0, block])
            add.reduce(part, axis=0, out=sums[1, block])
            if w is None:
                h[...] = part
            else:
                multiply(part, w, out=h)
            along = vecdot(h, n)
            along /= size
            multiply(n, along[:, None], out=product)
            if centre:
                mean = _row_sums(h)
                mean /= size
                subtract(h, mean[:, None], out=h)
            subtract(h, product, out=h)
            multiply(h, scales[rows], out=h)

    share_out(work, blocks, GRAIN // (step * max(size, 1)) + 1)
    of_weight, of_bias = add.reduce(sums, axis=1).reshape(2, *shape)
    return wrap(result.reshape(grad.shape), grad.dtype), wrap(of_weight, grad.dtype), wrap(of_bias, grad.dtype)


class NumpyLayerNorm(LayerNorm):
    """Block of rows by block of rows."""

    @staticmethod
    def forward(x: Any, weight: Any = None, bias: Any = None, *, eps: float = 1e-5, num_axes: int = 1) -> tuple[Any, Any]:
        return _normalize(x, weight, bias, _normalized(x, weight, bias, num_axes, "layer_norm"), eps, centre=True)

    backward = staticmethod(_normalize_gradients)


class NumpyRMSNorm(RMSNorm):
    """Block of rows by block of rows."""

    @staticmethod
    def forward(x: Any, weight: Any = None, *, eps: float = 1e-5, num_axes: int = 1) -> tuple[Any, Any]:
        return _normalize(x, weight, None, _normalized(x, weight, None, num_axes, "rms_norm"), eps, centre=False)

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        return _normalize_gradients(saved, grad)[:2]


class NumpySoftmax(Softmax):
    """Over rows in place, where the axis is the last."""

    @staticmethod
    def forward(x: Any, *, axis: int = -1) -> tuple[Any, Any]:
        if x.dtype.kind != "f" or not x.ndim or not x.numel or normalize_axis(axis, x.ndim) != x.ndim - 1:
            return Softmax.forward(x, axis=axis)
        rows = _matrix(x.array, x.shape[-1])
        y, step = numpy.empty(rows.shape, rows.dtype), _rows_at_a_time(x.shape[-1])

        def work(start: int, stop: int) -> None:
            for i in range(start, stop, step):
                out = y[i : min(i + step, stop)]
                _exponentials(rows[i : min(i + step, stop)], out)
                numpy.divide(out, _row_sums(out)[:, None], out=out)

        share_out(work, len(rows), GRAIN // x.shape[-1] + 1)
        result = wrap(y.reshape(x.shape), x.dtype)
        return result, (result, x.ndim - 1)

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        result, axis = saved
        if axis != result.ndim - 1 or not result.numel:
            return Softmax.backward(saved, grad)
        y, g = _matrix(result.array, result.shape[-1]), _matrix(grad.array, result.shape[-1])
        d = g - vecdot(g, y)[:, None]
        multiply(d, y, out=d)
        return (wrap(d.reshape(grad.shape), grad.dtype),)


def _exponentials(x: Any, out: Any) -> Any:
    """Writes exp(x - max x), over the last axis, to `out`; returns the largest elements."""
    top = numpy.maximum.reduce(x, axis=-1, keepdims=True)
    subtract(x, top, out=out)
    numpy.exp(out, out=out)
    return top


class NumpyLogSoftmax(LogSoftmax):
    """Over rows in place, where the axis is the last."""

    @staticmethod
    def forward(x: Any, *, axis: int = -1) -> tuple[Any, Any]:
        if x.dtype.kind != "f" or not x.ndim or not x.numel or normalize_axis(axis, x.ndim) != x.ndim - 1:
            return LogSoftmax.forward(x, axis=axis)
        y = numpy.empty(x.shape, x.array.dtype)
        top = _exponentials(x.array, y)
        total = numpy.log(_row_sums(y))
        subtract(x.array, top, out=y)
        subtract(y, total[..., None], out=y)
        result = wrap(y, x.dtype)
        return result, (result, x.ndim - 1)


class NumpyCrossEntropy(CrossEntropy):
    """Keeps the exponentials of each row and the sum of them: no logarithm of a matrix, and one pass backward."""

    @staticmethod
    def forward(logits: Any, targets: Any, *, ignore_index: int | None = None) -> tuple[Any, Any]:
        ids = CrossEntropy.check(logits, targets, ignore_index).array.reshape(-1)
        if not logits.shape[-1]:
            raise ValueError(f"cross_entropy: logits of shape {logits.shape} have no classes")
        x = _matrix(logits.array, logits.shape[-1])
        count, classes = x.shape
        e, totals = numpy.empty(x.shape, x.dtype), numpy.empty(count, x.dtype)
        losses, step = numpy.empty(count, x.dtype), _rows_at_a_time(classes)

        def work(start: int, stop: int) -> None:
            for i in range(start, stop, step):
                rows = slice(i, min(i + step, stop))
                top = _exponentials(x[rows], e[rows])
                totals[rows] = _row_sums(e[rows])
                chosen = numpy.take_along_axis(x[rows], ids[rows, None], 1)
                losses[rows] = numpy.log(totals[rows]) + (top - chosen)[:, 0]

        share_out(work, count, GRAIN // classes + 1)
        keep = None if ignore_index is None else targets.array.reshape(-1) != ignore_index
        if keep is not None:
            losses[~keep] = 0.0
        return wrap(losses.reshape(targets.shape), logits.dtype), (e, totals, ids, keep, logits.shape)

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        e, totals, ids, keep, shape = saved
        g = grad.array.reshape(-1)
        if keep is not None:
            g = numpy.where(keep, g, 0.0)
        scale = (g / totals)[:, None]
        result, step = numpy.empty(e.shape, e.dtype), _rows_at_a_time(e.shape[1])

        def work(start: int, stop: int) -> None:
            for i in range(start, stop, step):
                rows = slice(i, min(i + step, stop))
                multiply(e[rows], scale[rows], out=result[rows])

        share_out(work, len(e), GRAIN // e.shape[1] + 1)
        result[numpy.arange(len(ids)), ids] -= g
        return wrap(result.reshape(shape), grad.dtype), None


class NumpyEmbedding(Embedding):
    """The gradient adds up runs of equal indices, sorted, instead of one row after another."""

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        indices, shape, dtype = saved

        def of_weight() -> Any:
            total = numpy.zeros(shape, grad.array.dtype)
            add_rows(total, indices.array.reshape(-1), grad.array.reshape(indices.numel, *shape[1:]))
            return wrap(total, dtype)

        return of_weight, None


def add_rows(total: Any, indices: Any, values: Any) -> None:
    """Adds values[i] to total[indices[i]] for every i."""
    if not indices.size or not values.size:
        return
    order = numpy.argsort(indices, kind="stable")
    ordered = indices[order]
    starts = numpy.flatnonzero(numpy.concatenate(([True], ordered[1:] != ordered[:-1])))
    total[ordered[starts]] += add.reduceat(values[order], starts, axis=0)


class NumpyAttention(Attention):
    """A few heads at a time on each core, so that their scores stay in the cache; queries in blocks, each with the keys it may see.

    No copy is made for a transpose: BLAS reads the heads where they lie in the packed product, and the result lies as (B, T, H, D).
    """

    @staticmethod
    def forward(query: Any, key: Any, value: Any, *, causal: bool = True, scale: float | None = None) -> tuple[Any, Any]:
        Attention.check(query, key, value, causal)
        if not query.numel or not key.numel:
            y, saved = Attention.forward(query, key, value, causal=causal, scale=scale)
            return y, (None, saved)
        q, k, v = query.array, key.array, value.array
        (batch, heads, length, size), total = q.shape, k.shape[2]
        scale = 1.0 / math.sqrt(size) if scale is None else scale
        y = _like_heads(q)
        blocks = [(i, j, total - length + j if causal else total) for i, j in _query_blocks(length, causal)]
        probabilities = [numpy.empty((batch, heads, j - i, seen), q.dtype) for i, j, seen in blocks]
        masks = {j - i: numpy.triu(numpy.full((j - i, j - i), -numpy.inf, q.dtype), 1) for i, j, _ in blocks} if causal else {}
        tasks = _tasks(batch, heads, length * total)

        def work(start: int, stop: int) -> None:
            for task in tasks[start:stop]:
                for (i, j, seen), kept in zip(blocks, probabilities, strict=True):
                    p, operands = kept[task], (q[task][..., i:j, :], k[task][..., :seen, :], scale, masks.get(j - i))
                    _scores(*operands, p)
                    numpy.exp(p, out=p)
                    sums = _row_sums(p)
                    # The largest score is subtracted only from rows whose exponentials leave the comfortable range without it: that
                    # saves two passes over all others.
                    outside = ~((sums > 1e-20) & (sums < 1e30))
                    if outside.any():
                        again = _scores(*operands, numpy.empty_like(p))
                        _exponentials(again, again)
                        p[outside] = again[outside]
                        sums[outside] = _row_sums(again)[outside]
                    multiply(p, numpy.divide(1.0, sums)[..., None], out=p)
                    numpy.matmul(p, v[task][..., :seen, :], out=y[task][..., i:j, :])

        _run(work, tasks, sum(p.size for p in probabilities))
        result = wrap(y, query.dtype)
        return result, (query, key, value, result, probabilities, blocks, scale, tasks)

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        if saved[0] is None:
            return Attention.backward(saved[1], grad)
        query, key, value, result, probabilities, blocks, scale, tasks = saved
        q, k, v, y, g = query.array, key.array, value.array, result.array, grad.array
        dq, dk, dv = (_like_heads(x) for x in (q, k, v))
        largest = max(p.shape[2] * p.shape[3] for p in probabilities)

        def work(start: int, stop: int) -> None:
            for task in tasks[start:stop]:
                mean = vecdot(g[task], y[task])[..., None]  # sum(dP P), by way of the result
                lead = mean.shape[:-2]
                space, sums = workspace(0, math.prod(lead) * largest, q.dtype), workspace(1, math.prod(dk[task].shape), q.dtype)
                last = len(blocks) - 1
                for block in range(last, -1, -1):
                    (i, j, seen), p = blocks[block], probabilities[block][task]
                    d = space[: p.size].reshape(p.shape)
                    numpy.matmul(g[task][..., i:j, :], v[task][..., :seen, :].swapaxes(-1, -2), out=d)
                    subtract(d, mean[..., i:j, :], out=d)
                    multiply(d, p, out=d)
                    multiply(d, scale, out=d)
                    numpy.matmul(d, k[task][..., :seen, :], out=dq[task][..., i:j, :])
                    for total, left, right in ((dk, d, q), (dv, p, g)):
                        part, rows = total[task][..., :seen, :], right[task][..., i:j, :]
                        if block == last:  # its queries see every key
                            numpy.matmul(left.swapaxes(-1, -2), rows, out=part)
                        else:
                            more = sums[: math.prod(part.shape)].reshape(part.shape)
                            add(part, numpy.matmul(left.swapaxes(-1, -2), rows, out=more), out=part)

        _run(work, tasks, sum(p.size for p in probabilities))
        return wrap(dq, grad.dtype), wrap(dk, grad.dtype), wrap(dv, grad.dtype)


def _scores(q: Any, k: Any, scale: float, mask: Any, out: Any) -> Any:
    """Writes q k^T scale, with minus infinity where the mask has it in the last columns, to `out`, and returns it."""
    numpy.matmul(q, k.swapaxes(-1, -2), out=out)
    multiply(out, scale, out=out)
    if mask is not None:
        diagonal = out[..., out.shape[-1] - len(mask) :]
        add(diagonal, mask, out=diagonal)
    return out


def _like_heads(x: Any) -> Any:
    """Returns an empty array of x's shape (B, H, T, D) that lies as (B, T, H, D)."""
    batch, heads, length, size = x.shape
    return numpy.empty((batch, length, heads, size), x.dtype).transpose(0, 2, 1, 3)


def _query_blocks(length: int, causal: bool) -> list[tuple[int, int]]:
    """Returns where blocks of queries start and stop: the more there are, the less of the masked half is computed."""
    count = max(1, length // QUERY_BLOCK) if causal else 1
    return [(length * i // count, length * (i + 1) // count) for i in range(count)]


def _tasks(batch: int, heads: int, scores: int) -> list[Any]:
    """Returns indices of (B, H, …) arrays that select a few heads each, so that their scores fill the cache, and give every core work."""
    per_task = max(1, min(16 * BLOCK // scores, -(-batch * heads // thread_count())))
    if per_task >= heads:
        step = per_task // heads
        return [slice(i, min(i + step, batch)) for i in range(0, batch, step)]
    return [(b, slice(i, min(i + per_task, heads))) for b in range(batch) for i in range(0, heads, per_task)]


def _run(work: Any, tasks: list[Any], scores: int) -> None:
    if scores < 2 * GRAIN or thread_count() == 1:
        work(0, len(tasks))
        return
    with single_threaded_blas():
        share_out(work, len(tasks))


class NumpyAdamWStep(AdamWStep):
    """All parameters in one walk: blocks of large ones, the small ones side by side in one."""

    @staticmethod
    def forward(
        parameters: Any, grads: Any, first: Any, second: Any, *, learning_rate: float, betas: Any, eps: float, weight_decays: Any, step: int
    ) -> tuple[None, None]:
        beta1, beta2 = betas
        root = math.sqrt(1.0 - beta2**step)
        rate, small = learning_rate * root / (1.0 - beta1**step), eps * root  # the corrections, moved out of the loop

        def update(p: Any, g: Any, m: Any, v: Any, keep: float) -> None:
            a = workspace(0, p.size, p.dtype)
            multiply(m, beta1, out=m)
            multiply(g, 1.0 - beta1, out=a)
            add(m, a, out=m)
            multiply(v, beta2, out=v)
            multiply(g, g, out=a)
            multiply(a, 1.0 - beta2, out=a)
            add(v, a, out=v)
            numpy.sqrt(v, out=a)
            add(a, small, out=a)
            numpy.divide(m, a, out=a)
            multiply(a, rate, out=a)
            if keep != 1.0:
                multiply(p, keep, out=p)
            subtract(p, a, out=p)

        jobs: list[tuple[Any, Any, Any, Any, float]] = []
        gathered: dict[Any, list[tuple[Any, Any, Any, Any]]] = {}
        for p, g, m, v, decay in zip(parameters, grads, first, second, weight_decays, strict=True):
            keep = 1.0 - learning_rate * decay
            arrays = p.array, g.array, m.array, v.array
            for buffer in (p, m, v):
                buffer._check_writable()
                buffer.version[0] += 1
            if all(x.flags.c_contiguous for x in arrays):
                flat = tuple(x.reshape(-1) for x in arrays)
                if p.array.size > BLOCK // 4:
                    jobs += [(*(x[i : i + BLOCK] for x in flat), keep) for i in range(0, p.array.size, BLOCK)]
                    continue
            else:
                flat = tuple(x.reshape(-1) for x in arrays)  # copies, some of them: written back below
            gathered.setdefault((keep, p.dtype), []).append((arrays, flat))
        back = []
        for (keep, _), members in gathered.items():
            whole = [numpy.concatenate([flat[part] for _, flat in members]) for part in range(4)]
            jobs.append((*whole, keep))
            back.append((whole, members))

        def work(start: int, stop: int) -> None:
            for job in jobs[start:stop]:
                update(*job)

        share_out(work, len(jobs), 2)
        for (p, _, m, v), members in back:
            start = 0
            for (to_p, _, to_m, to_v), _ in members:
                part = slice(start, start + to_p.size)
                for target, source in ((to_p, p), (to_m, m), (to_v, v)):
                    target[...] = source[part].reshape(target.shape)
                start = part.stop
        return None, None


for _kernel in (Linear, GELU, SiLU, LayerNorm, RMSNorm, Softmax, LogSoftmax, CrossEntropy, Embedding, Attention, AdamWStep):
    _fused = globals()[f"Numpy{_kernel.__name__}"]
    for _method in ("forward", "backward"):
        setattr(_fused, _method, staticmethod(numpy.errstate(all="ignore")(getattr(_fused, _method))))
    register(_kernel, NumpyBuffer, _fused)

keep_freed_memory()
