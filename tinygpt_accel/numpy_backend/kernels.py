"""The kernels of a GPT's step on NumPy: the textbook formulas of `tinygpt_core.kernels`, fused.

What makes them fast is the same in all: products go to BLAS as they lie, without a copy for a transpose; a
chain of elementwise steps runs once over the data (`loops`), on every core where there is enough of it;
float32 stays float32; and what the backward needs is kept in the form in which it needs it (a slope, not the
steps that lead to it).

`saved` holds the operands that a backward reads again as Buffers, so that the engine notices when they are
changed in place, and everything else as bare arrays.
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
    Dropout,
    Embedding,
    Gradient,
    Kernel,
    LayerNorm,
    Linear,
    LogSoftmax,
    PackedAttention,
    Relu,
    RMSNorm,
    SiLU,
    Softmax,
    register,
)
from tinygpt_core.kernels.activations import GELU_CUBIC, SQRT_2_OVER_PI
from tinygpt_core.kernels.normalization import _normalized
from tinygpt_core.random import Key
from tinygpt_core.shape import Shape, inverse_permutation, normalize_axis

from .. import philox
from .buffer import NumpyBuffer
from .loops import loops_for
from .memory import keep_freed_memory
from .threads import share_out, single_threaded_blas, thread_count, workspace

wrap = NumpyBuffer.wrap

# Elements (of float32) from which a second thread is worth waking, for chains of many steps and for single
# ones.
CHAIN, STEP = 1 << 16, 1 << 19
BLOCK = 1 << 17  # elements of a parameter that are updated at a time
# Elements of the rows whose sums are added up on their own, whatever thread does it: fewer roundings, and one
# order
ROW_BLOCK = 1 << 16
QUERY_BLOCK = 64  # queries of a block in attention
TASK = 1 << 20  # scores of a task in attention


def fused(implementation: type[Kernel]) -> type[Kernel]:
    """Registers a kernel for NumPy and returns it.

    Infinities and NaN are answers that the contract asks for, so NumPy does not warn about them.
    """
    for name in ("forward", "backward"):
        setattr(
            implementation, name, staticmethod(numpy.errstate(all="ignore")(getattr(implementation, name)))
        )
    register(implementation.__bases__[0], NumpyBuffer, implementation)
    return implementation


def _matrix(x: Any, width: int) -> Any:
    """Returns an array as a matrix with rows of `width` elements: a view where the layout allows."""
    return x.reshape(-1, width) if width else x.reshape(math.prod(x.shape[:-1]), 0)


def _rows(x: Any, width: int) -> Any:
    return _matrix(numpy.ascontiguousarray(x), width)


def _flat(x: Any) -> Any:
    return numpy.ascontiguousarray(x).reshape(-1)


@fused
class NumpyLinear(Linear):
    """Matrix products on matrices as they lie; the gradient of a weight gets the weight's own layout."""

    @staticmethod
    def forward(x: Any, weight: Any, bias: Any = None) -> tuple[Any, Any]:
        Linear.check(x, weight, bias)
        inputs, outputs = weight.shape
        y = _matrix(x.array, inputs) @ weight.array
        if bias is not None:
            row, add_to_rows = _flat(bias.array), loops_for(y.dtype).add_to_rows
            share_out(lambda i, j: add_to_rows(y[i:j], row), len(y), STEP // max(outputs, 1))
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
            # A weight that lies transposed, as a tied head does, gets a gradient that does, and adding the
            # two up moves along rows.
            return wrap(
                (g.T @ rows).T if w.flags.f_contiguous and not w.flags.c_contiguous else rows.T @ g, x.dtype
            )

        return of_input, of_weight, lambda: wrap(numpy.ones(len(g), g.dtype) @ g, x.dtype)


@fused
class NumpyGELU(GELU):
    """Keeps the slope, computed while its parts are at hand, so that the backward is one product."""

    @staticmethod
    def forward(x: Any, *, approximate: str = "tanh") -> tuple[Any, Any]:
        if approximate != "tanh":
            return GELU.forward(x, approximate=approximate)
        GELU.check(x, approximate)
        number = x.array.dtype.type
        return _with_slope(
            x, loops_for(x.array.dtype).gelu, number(SQRT_2_OVER_PI), number(SQRT_2_OVER_PI * GELU_CUBIC)
        )

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        return GELU.backward(saved, grad) if isinstance(saved, tuple) else (_times_slope(grad, saved),)


@fused
class NumpySiLU(SiLU):
    """As GELU: the slope is kept."""

    @staticmethod
    def forward(x: Any) -> tuple[Any, Any]:
        return _with_slope(x, loops_for(x.array.dtype).silu) if x.dtype.kind == "f" else SiLU.forward(x)

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        return (_times_slope(grad, saved),)


@fused
class NumpyRelu(Relu):
    """One pass forward and one backward, where the loop is compiled."""

    @staticmethod
    def forward(x: Any) -> tuple[Any, Any]:
        loops = loops_for(x.array.dtype)
        if not hasattr(loops, "relu"):
            return Relu.forward(x)
        # After a convolution x lies channels first, and so shall the result
        axes, rows = _in_memory_order(x.array)
        y = numpy.empty_like(rows)
        flat, out = rows.reshape(-1), y.reshape(-1)
        share_out(lambda i, j: loops.relu(flat[i:j], out[i:j]), flat.size, STEP)
        result = wrap(y.transpose(inverse_permutation(axes)), x.dtype)
        return result, (result,)

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        loops = loops_for(grad.array.dtype)
        if not hasattr(loops, "relu"):
            return Relu.backward(saved, grad)
        axes, rows = _in_memory_order(saved[0].array)
        result = numpy.empty_like(rows)
        y, g, out = rows.reshape(-1), _flat(grad.array.transpose(axes)), result.reshape(-1)
        share_out(lambda i, j: loops.relu_gradient(y[i:j], g[i:j], out[i:j]), g.size, STEP)
        return (wrap(result.transpose(inverse_permutation(axes)), grad.dtype),)


def _in_memory_order(x: Any) -> tuple[list[int], Any]:
    """Returns an order of x's axes, and x in it, contiguous: a view where x is contiguous in some order of
    its axes.
    """
    axes = sorted(range(x.ndim), key=lambda axis: -x.strides[axis])
    lying = x.transpose(axes)
    return (
        (axes, lying)
        if lying.flags.c_contiguous
        else (list(range(x.ndim)), numpy.ascontiguousarray(x).reshape(x.shape))
    )


def _with_slope(x: Any, loop: Any, *constants: Any) -> tuple[Any, Any]:
    flat = _flat(x.array)
    y, slope = numpy.empty_like(flat), numpy.empty_like(flat)
    share_out(lambda i, j: loop(flat[i:j], y[i:j], slope[i:j], *constants), flat.size, CHAIN)
    return wrap(y.reshape(x.shape), x.dtype), slope


def _times_slope(grad: Any, slope: Any) -> Any:
    g, result = _flat(grad.array), numpy.empty_like(slope)
    share_out(lambda i, j: numpy.multiply(g[i:j], slope[i:j], out=result[i:j]), g.size, STEP)
    return wrap(result.reshape(grad.shape), grad.dtype)


def _normalize(x: Any, weight: Any, bias: Any, shape: Shape, eps: float, centre: bool) -> tuple[Any, Any]:
    """Both norms over rows; keeps the normalized rows and the scale of each."""
    size = math.prod(shape)
    rows = _rows(x.array, size)
    dtype, loop = rows.dtype, loops_for(rows.dtype).normalize
    w = numpy.ones(size, dtype) if weight is None else _flat(weight.array)
    b = numpy.zeros(size, dtype) if bias is None else _flat(bias.array)
    y, normal, scales = numpy.empty_like(rows), numpy.empty_like(rows), numpy.empty(len(rows), dtype)
    share_out(
        lambda i, j: loop(rows[i:j], w, b, y[i:j], normal[i:j], scales[i:j], dtype.type(eps), centre),
        len(rows),
        CHAIN // max(size, 1) + 1,
    )
    return wrap(y.reshape(x.shape), x.dtype), (weight, normal, scales, shape, centre)


def _normalize_gradients(saved: Any, grad: Any) -> tuple[Any, Any, Any]:
    """dL/dx, dL/dw and dL/db in one walk."""
    weight, normal, scales, shape, centre = saved
    size = math.prod(shape)
    g = _rows(grad.array, size)
    loop, w = (
        loops_for(g.dtype).normalize_gradients,
        numpy.ones(size, g.dtype) if weight is None else _flat(weight.array),
    )
    step = max(64, ROW_BLOCK // max(size, 1))
    blocks = -(-len(g) // step)
    result, sums = numpy.empty_like(g), numpy.zeros((blocks, 2, size), g.dtype)

    def work(start: int, stop: int) -> None:
        for block in range(start, stop):
            rows = slice(block * step, min(block * step + step, len(g)))
            loop(g[rows], w, normal[rows], scales[rows], result[rows], sums[block], centre)

    share_out(work, blocks, CHAIN // (step * max(size, 1)) + 1)
    of_weight, of_bias = numpy.add.reduce(sums, axis=0).reshape(2, *shape)
    return (
        wrap(result.reshape(grad.shape), grad.dtype),
        wrap(of_weight, grad.dtype),
        wrap(of_bias, grad.dtype),
    )


@fused
class NumpyLayerNorm(LayerNorm):
    """A pass over rows forward, one backward."""

    @staticmethod
    def forward(
        x: Any, weight: Any = None, bias: Any = None, *, eps: float = 1e-5, num_axes: int = 1
    ) -> tuple[Any, Any]:
        return _normalize(
            x, weight, bias, _normalized(x, weight, bias, num_axes, "layer_norm"), eps, centre=True
        )

    backward = staticmethod(_normalize_gradients)


@fused
class NumpyRMSNorm(RMSNorm):
    """A pass over rows forward, one backward."""

    @staticmethod
    def forward(x: Any, weight: Any = None, *, eps: float = 1e-5, num_axes: int = 1) -> tuple[Any, Any]:
        return _normalize(
            x, weight, None, _normalized(x, weight, None, num_axes, "rms_norm"), eps, centre=False
        )

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        return _normalize_gradients(saved, grad)[:2]


def _along_rows(x: Any, axis: int) -> bool:
    return (
        x.dtype.kind == "f" and bool(x.ndim) and bool(x.numel) and normalize_axis(axis, x.ndim) == x.ndim - 1
    )


@fused
class NumpySoftmax(Softmax):
    """Over rows, where the axis is the last."""

    @staticmethod
    def forward(x: Any, *, axis: int = -1) -> tuple[Any, Any]:
        if not _along_rows(x, axis):
            return Softmax.forward(x, axis=axis)
        rows = _rows(x.array, x.shape[-1])[:, None, :]
        y, loop, one = numpy.empty_like(rows), loops_for(rows.dtype).softmax, rows.dtype.type(1)
        share_out(lambda i, j: loop(rows[i:j], y[i:j], one, False), len(rows), CHAIN // x.shape[-1] + 1)
        result = wrap(y.reshape(x.shape), x.dtype)
        return result, (result, x.ndim - 1)

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        result, axis = saved
        if axis != result.ndim - 1 or not result.numel:
            return Softmax.backward(saved, grad)
        y, g = result.array, grad.array
        d = g - numpy.vecdot(g, y)[..., None]
        return (wrap(numpy.multiply(d, y, out=d), grad.dtype),)


@fused
class NumpyLogSoftmax(LogSoftmax):
    """Over rows, where the axis is the last: three temporaries fewer."""

    @staticmethod
    def forward(x: Any, *, axis: int = -1) -> tuple[Any, Any]:
        if not _along_rows(x, axis):
            return LogSoftmax.forward(x, axis=axis)
        y = x.array - numpy.maximum.reduce(x.array, axis=-1, keepdims=True)
        y -= numpy.log(numpy.add.reduce(numpy.exp(y), axis=-1, keepdims=True))
        result = wrap(y, x.dtype)
        return result, (result, x.ndim - 1)


@fused
class NumpyCrossEntropy(CrossEntropy):
    """Keeps the exponentials of each row and the sum of them: no logarithm of a matrix, and one pass
    backward.
    """

    @staticmethod
    def forward(logits: Any, targets: Any, *, ignore_index: int | None = None) -> tuple[Any, Any]:
        chosen: Any = CrossEntropy.check(logits, targets, ignore_index)
        ids = _flat(chosen.array)
        if not logits.shape[-1]:
            return CrossEntropy.forward(logits, targets, ignore_index=ignore_index)
        x = _rows(logits.array, logits.shape[-1])
        count, classes = x.shape
        exponentials, totals, losses = (
            numpy.empty_like(x),
            numpy.empty(count, x.dtype),
            numpy.empty(count, x.dtype),
        )
        loop = loops_for(x.dtype).cross_entropy
        share_out(
            lambda i, j: loop(x[i:j], ids[i:j], exponentials[i:j], totals[i:j], losses[i:j]),
            count,
            CHAIN // classes + 1,
        )
        keep = None if ignore_index is None else targets.array.reshape(-1) != ignore_index
        if keep is not None:
            losses[~keep] = 0.0
        return wrap(losses.reshape(targets.shape), logits.dtype), [
            exponentials,
            totals,
            ids,
            keep,
            logits.shape,
        ]

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        if isinstance(saved, tuple):
            return CrossEntropy.backward(saved, grad)
        exponentials, totals, ids, keep, shape = saved
        g = _flat(grad.array)
        if keep is not None:
            g = numpy.where(keep, g, g.dtype.type(0))
        factors, result, loop = g / totals, numpy.empty_like(exponentials), loops_for(g.dtype).scale_rows
        share_out(
            lambda i, j: loop(exponentials[i:j], factors[i:j], result[i:j]), len(g), STEP // shape[-1] + 1
        )
        result[numpy.arange(len(ids)), ids] -= g
        return wrap(result.reshape(shape), grad.dtype), None


@fused
class NumpyDropout(Dropout):
    """Compares the words of the stream, so that no numbers are made of them: u >= p where word >= 2^32 p, p
    in steps of 2^-24.
    """

    @staticmethod
    def forward(x: Any, *, probability: float, key: Key) -> tuple[Any, Any]:
        if x.dtype.kind != "f" or not 0.0 <= probability < 1.0:
            return Dropout.forward(x, probability=probability, key=key)
        flat = _flat(x.array)
        threshold = math.ceil(float(numpy.float32(probability)) * 2**24) << 8
        keys, mask, result = (
            philox.round_keys(numpy, key.seed),
            numpy.empty(flat.size, bool),
            numpy.empty_like(flat),
        )
        loops, factor = loops_for(flat.dtype), flat.dtype.type(1.0 / (1.0 - probability))

        def work(start: int, stop: int) -> None:
            part = slice(4 * start, min(4 * stop, flat.size))
            loops.keep_mask(
                mask[part],
                numpy.uint64(key.block + start),
                numpy.uint64(key.stream),
                keys,
                numpy.uint64(threshold),
            )
            loops.scale_where(flat[part], mask[part], factor, result[part])

        share_out(work, -(-flat.size // 4), CHAIN // 4)
        return wrap(result.reshape(x.shape), x.dtype), (mask, factor)

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        mask, factor = saved
        g, result, loops = (
            _flat(grad.array),
            numpy.empty(grad.numel, grad.array.dtype),
            loops_for(grad.array.dtype),
        )
        share_out(lambda i, j: loops.scale_where(g[i:j], mask[i:j], factor, result[i:j]), g.size, STEP)
        return (wrap(result.reshape(grad.shape), grad.dtype),)


@fused
class NumpyEmbedding(Embedding):
    """The gradient adds up rows, not elements."""

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        indices, shape, dtype = saved

        def of_weight() -> Any:
            total: Any = numpy.zeros((shape[0], math.prod(shape[1:])), grad.array.dtype)
            loops_for(total.dtype).add_rows(
                total, _flat(indices.array), numpy.ascontiguousarray(grad.array).reshape(indices.numel, -1)
            )
            return wrap(total.reshape(shape), dtype)

        return of_weight if grad.numel else Embedding.backward(saved, grad)[0], None


@fused
class NumpyAttention(Attention):
    """A few heads at a time on each core, so that their scores stay in the cache; queries in blocks, each
    with the keys it may see.

    No copy is made for a transpose: BLAS reads the heads where they lie in the packed product, and the result
    lies as (B, T, H, D).
    """

    @staticmethod
    def forward(
        query: Any, key: Any, value: Any, *, causal: bool = True, scale: float | None = None
    ) -> tuple[Any, Any]:
        Attention.check(query, key, value, causal)
        if not query.numel or not key.numel:
            y, saved = Attention.forward(query, key, value, causal=causal, scale=scale)
            return y, (None, saved)
        q, k, v = query.array, key.array, value.array
        (batch, heads, length, size), total = q.shape, k.shape[2]
        factor = q.dtype.type(1.0 / math.sqrt(size) if scale is None else scale)
        softmax, y = loops_for(q.dtype).softmax, _like_heads(q)
        blocks = [(i, j, total - length + j if causal else total) for i, j in _query_blocks(length, causal)]
        probabilities = [numpy.empty((batch, heads, j - i, seen), q.dtype) for i, j, seen in blocks]
        tasks = _tasks(batch, heads, length * total)

        def work(start: int, stop: int) -> None:
            for task in tasks[start:stop]:
                for (i, j, seen), kept in zip(blocks, probabilities, strict=True):
                    p = kept[task]
                    scores = workspace(2, p.size, p.dtype).reshape(p.shape)
                    numpy.matmul(q[task][..., i:j, :], k[task][..., :seen, :].swapaxes(-1, -2), out=scores)
                    softmax(scores.reshape(-1, j - i, seen), p.reshape(-1, j - i, seen), factor, causal)
                    numpy.matmul(p, v[task][..., :seen, :], out=y[task][..., i:j, :])

        _run(work, tasks, sum(p.size for p in probabilities))
        result = wrap(y, query.dtype)
        return result, (query, key, value, result, probabilities, blocks, factor, tasks)

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        if saved[0] is None:
            return Attention.backward(saved[1], grad)
        gradients = [_like_heads(x.array) for x in saved[:3]]
        _attention_gradients(saved, grad.array, *gradients)
        return tuple(wrap(x, grad.dtype) for x in gradients)


def _attention_gradients(saved: Any, g: Any, dq: Any, dk: Any, dv: Any) -> None:
    """Writes the gradients of query, key and value, given that of the result, to arrays (B, H, T, D) of any
    layout.
    """
    query, key, value, result, probabilities, blocks, factor, tasks = saved
    q, k, v, y = query.array, key.array, value.array, result.array
    softmax_gradient, last = loops_for(q.dtype).softmax_gradient, len(blocks) - 1

    def work(start: int, stop: int) -> None:
        for task in tasks[start:stop]:
            means = numpy.vecdot(g[task], y[task])  # sum(dP P) for each query, by way of the result
            for block in range(last, -1, -1):
                (i, j, seen), p = blocks[block], probabilities[block][task]
                d = workspace(2, p.size, p.dtype).reshape(p.shape)
                numpy.matmul(g[task][..., i:j, :], v[task][..., :seen, :].swapaxes(-1, -2), out=d)
                mean = _rows(means[..., i:j], j - i)
                softmax_gradient(d.reshape(-1, j - i, seen), p.reshape(-1, j - i, seen), mean, factor)
                numpy.matmul(d, k[task][..., :seen, :], out=dq[task][..., i:j, :])
                for whole, left, right in ((dk, d, q), (dv, p, g)):
                    part, rows = whole[task][..., :seen, :], right[task][..., i:j, :]
                    if block == last:  # its queries see every key
                        numpy.matmul(left.swapaxes(-1, -2), rows, out=part)
                    else:
                        more = workspace(3, part.size, part.dtype).reshape(part.shape)
                        numpy.add(part, numpy.matmul(left.swapaxes(-1, -2), rows, out=more), out=part)

    _run(work, tasks, sum(p.size for p in probabilities))


@fused
class NumpyPackedAttention(PackedAttention):
    """The gradients of query, key and value are written side by side."""

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        x, _, of_heads, (batch, heads, length, size) = saved
        if of_heads[0] is None:
            return PackedAttention.backward(saved, grad)
        packed = numpy.empty((batch, length, 3, heads, size), grad.array.dtype)
        g = grad.array.reshape(batch, length, heads, size).transpose(0, 2, 1, 3)
        _attention_gradients(of_heads, g, *packed.transpose(2, 0, 3, 1, 4))
        return (wrap(packed.reshape(x.shape), grad.dtype),)


def _like_heads(x: Any) -> Any:
    """Returns an empty array of x's shape (B, H, T, D) that lies as (B, T, H, D)."""
    batch, heads, length, size = x.shape
    return numpy.empty((batch, length, heads, size), x.dtype).transpose(0, 2, 1, 3)


def _query_blocks(length: int, causal: bool) -> list[tuple[int, int]]:
    """Returns where blocks of queries start and stop: the more there are, the less of the masked half is
    computed.
    """
    count = max(1, length // QUERY_BLOCK) if causal else 1
    return [(length * i // count, length * (i + 1) // count) for i in range(count)]


def _tasks(batch: int, heads: int, scores: int) -> list[Any]:
    """Returns indices of (B, H, …) arrays that select some heads each: as many as stay near the core, and a
    share for every core.
    """
    per_task = max(1, min(TASK // scores, -(-batch * heads // thread_count())))
    if per_task >= heads:
        step = per_task // heads
        return [slice(i, min(i + step, batch)) for i in range(0, batch, step)]
    return [(b, slice(i, min(i + per_task, heads))) for b in range(batch) for i in range(0, heads, per_task)]


def _run(work: Any, tasks: list[Any], scores: int) -> None:
    if scores < CHAIN or thread_count() == 1:
        work(0, len(tasks))
        return
    with single_threaded_blas():
        share_out(work, len(tasks))


@fused
class NumpyAdamWStep(AdamWStep):
    """All parameters in one walk, in blocks."""

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
        root = math.sqrt(1.0 - betas[1] ** step)
        # The corrections, moved out of the loop
        rate, small = learning_rate * root / (1.0 - betas[0] ** step), eps * root
        jobs, copies, constants = [], [], {}
        for p, g, m, v, decay in zip(parameters, grads, first, second, weight_decays, strict=True):
            flat = [_flat(buffer.array) for buffer in (p, m, v, g)]
            for buffer, x in zip((p, m, v), flat, strict=False):
                flags = buffer.array.flags
                if not (flags.c_contiguous and flags.writeable):
                    buffer._check_writable()
                    copies.append((buffer.array, x))
                buffer.version[0] += 1
            dtype = p.array.dtype
            if (dtype, decay) not in constants:
                constants[dtype, decay] = tuple(
                    map(dtype.type, (*betas, rate, small, 1.0 - learning_rate * decay))
                )
            w, a, b, d = flat
            for i in range(0, w.size, BLOCK):
                part = slice(i, i + BLOCK)
                jobs.append((w[part], d[part], a[part], b[part], *constants[dtype, decay]))

        def work(start: int, stop: int) -> None:
            for job in jobs[start:stop]:
                loops_for(job[0].dtype).adamw(*job)

        share_out(work, len(jobs), 8)
        for array, x in copies:
            array[...] = x.reshape(array.shape)
        return None, None


keep_freed_memory()
