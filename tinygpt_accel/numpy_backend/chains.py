"""The elementwise chains of the NumPy kernels, as NumPy calls in place over blocks that stay in the cache.

Each function works on contiguous arrays of one float dtype that its caller has made; where a formula needs
room, it scribbles on a workspace. `compiled` has the same functions as loops; `loops.loops_for` says which of
the two serves a dtype.
"""

from __future__ import annotations

from typing import Any

import numpy
from numpy import add, divide, einsum, exp, maximum, multiply, negative, sqrt, subtract, vecdot

from ..philox import philox4x32_10
from .sums import BLOCK as ROWS
from .sums import add_blocks, column_sums
from .threads import workspace

BLOCK = 1 << 17  # elements: half a megabyte of float32


def _blocks(count: int, width: int = 1) -> list[slice]:
    """Returns `count` rows of `width` elements as ranges of so many rows that a block stays in the cache."""
    step = max(1, BLOCK // max(width, 1))
    return [slice(i, min(i + step, count)) for i in range(0, count, step)]


def row_sums(x: Any) -> Any:
    """Returns sums over the last axis: einsum's one pass where rows are short, NumPy's pairwise sums where
    rounding would add up.
    """
    if x.shape[-1] <= 4096:
        return einsum("...j->...", x)
    return add.reduce(x, axis=-1)


def _logistic_of_negative(x: Any) -> None:
    """Computes x = 1 / (1 + e^x) in place, with all digits of a tiny result."""
    exp(x, out=x)
    add(x, 1.0, out=x)
    divide(1.0, x, out=x)


def gelu(x: Any, y: Any, slope: Any, linear: Any, cubic: Any) -> None:
    """Computes y = x h and slope = dy/dx, with h = 1 / (1 + e^(-2 x (linear + cubic x^2))), which is
    (1 + tanh(x (linear + cubic x^2))) / 2.

    Source: Hendrycks, Gimpel, "Gaussian Error Linear Units (GELUs)", 2016.
    """
    for block in _blocks(x.size):
        x_block = x[block]
        y_block = y[block]
        slope_block = slope[block]
        square = workspace(0, x_block.size, x_block.dtype)
        h = workspace(1, x_block.size, x_block.dtype)
        multiply(x_block, x_block, out=square)
        multiply(square, cubic, out=h)
        add(h, linear, out=h)
        multiply(h, x_block, out=h)
        multiply(h, -2.0, out=h)
        _logistic_of_negative(h)
        multiply(x_block, h, out=y_block)
        multiply(square, 6.0 * cubic, out=square)
        add(square, 2.0 * linear, out=square)
        multiply(y_block, h, out=slope_block)
        subtract(y_block, slope_block, out=slope_block)
        # x h (1 - h) 2 (linear + 3 cubic x^2)
        multiply(slope_block, square, out=slope_block)
        add(slope_block, h, out=slope_block)


def silu(x: Any, y: Any, slope: Any) -> None:
    """Computes y = x h and slope = dy/dx, with h = 1 / (1 + e^-x).

    Source: Elfwing, Uchibe, Doya, "Sigmoid-Weighted Linear Units", 2017.
    """
    for block in _blocks(x.size):
        x_block = x[block]
        y_block = y[block]
        slope_block = slope[block]
        h = workspace(0, x_block.size, x_block.dtype)
        _logistic_of_negative(negative(x_block, out=h))
        multiply(x_block, h, out=y_block)
        multiply(y_block, h, out=slope_block)
        subtract(y_block, slope_block, out=slope_block)  # x h (1 - h)
        add(slope_block, h, out=slope_block)


def add_to_rows(y: Any, row: Any) -> None:
    """Adds a row to every row of y."""
    for block in _blocks(*y.shape):
        add(y[block], row, out=y[block])


def normalize(
    x: Any, weights: Any, bias: Any, y: Any, normal: Any, scales: Any, eps: Any, centre: bool
) -> None:
    """Computes normal = (x - mean) scale and y = normal weights + bias for each row, with scale = 1 /
    sqrt(mean square + eps). Without `centre` nothing is subtracted.
    """
    for block in _blocks(*x.shape):
        n = normal[block]
        scale = scales[block]
        if centre:
            subtract(x[block], (row_sums(x[block]) / x.dtype.type(x.shape[1]))[:, None], out=n)
        else:
            n[...] = x[block]
        vecdot(n, n, out=scale)
        divide(scale, x.shape[1], out=scale)
        add(scale, eps, out=scale)
        divide(1.0, sqrt(scale, out=scale), out=scale)
        multiply(n, scale[:, None], out=n)
        multiply(n, weights, out=y[block])
        add(y[block], bias, out=y[block])


def normalize_gradients(
    grad: Any, weights: Any, normal: Any, scales: Any, result: Any, sums: Any, centre: bool
) -> None:
    """Computes result = scale (h - mean h - normal mean(h normal)), dL/dx, for each row, with h = grad
    weights. Adds the sums over rows of grad normal, and of grad, to `sums`, in doubles.
    """
    size = grad.dtype.type(grad.shape[1])
    for block in _blocks(*grad.shape):
        g = grad[block]
        n = normal[block]
        h = result[block]
        scratch = workspace(0, g.size, g.dtype).reshape(g.shape)
        multiply(g, n, out=scratch)
        sums[0] += column_sums(scratch)
        sums[1] += column_sums(g)
        multiply(g, weights, out=h)
        multiply(n, (vecdot(h, n) / size)[:, None], out=scratch)
        if centre:
            subtract(h, (row_sums(h) / size)[:, None], out=h)
        subtract(h, scratch, out=h)
        multiply(h, scales[block, None], out=h)


def exponentials(x: Any, out: Any) -> Any:
    """Writes exp(x - max x), over the last axis, to `out`; returns the largest elements."""
    largest = maximum.reduce(x, axis=-1, keepdims=True)
    exp(subtract(x, largest, out=out), out=out)
    return largest


def softmax(x: Any, y: Any, scale: Any, causal: bool) -> None:
    """Computes y = softmax(scale x) over the last axis of (N, R, S); causal: row i sees S - (R - 1 - i)
    columns, and the rest is 0.
    """
    rows, columns = x.shape[1:]
    mask = numpy.triu(numpy.full((rows, rows), -numpy.inf, x.dtype), 1) if causal and rows > 1 else None
    for block in _blocks(len(x), rows * columns):
        p = y[block]
        scores = workspace(0, p.size, p.dtype).reshape(p.shape)
        multiply(x[block], scale, out=scores)
        if mask is not None:  # the last columns are a square, half of which is hidden
            square = scores[:, :, columns - rows :]
            add(square, mask, out=square)
        sums = row_sums(exp(scores, out=p))
        # The largest is subtracted only from rows whose exponentials leave the comfortable range without it,
        # which saves two passes.
        outside = ~((sums > 1e-20) & (sums < 1e30))
        if outside.any():
            exponentials(scores, scores)
            p[outside] = scores[outside]
            sums[outside] = row_sums(scores)[outside]
        multiply(p, divide(1.0, sums)[:, :, None], out=p)


def softmax_gradient(grad: Any, y: Any, mean: Any, scale: Any) -> None:
    """Computes grad = (grad - mean) y scale, in place, over (N, R, S)."""
    for block in _blocks(len(grad), grad.shape[1] * grad.shape[2]):
        g = grad[block]
        subtract(g, mean[block, :, None], out=g)
        multiply(g, y[block], out=g)
        multiply(g, scale, out=g)


def cross_entropy(x: Any, ids: Any, exps: Any, totals: Any, losses: Any) -> None:
    """Computes, for each row, exps = exp(x - max x), totals = their sum, losses = log totals + max x - x[id];
    the shift may be left out.
    """
    for block in _blocks(*x.shape):
        largest = exponentials(x[block], exps[block])
        totals[block] = row_sums(exps[block])
        of_target = numpy.take_along_axis(x[block], ids[block, None], 1)
        losses[block] = numpy.log(totals[block]) + (largest - of_target)[:, 0]


def scale_rows(x: Any, factors: Any, result: Any) -> None:
    """Computes result = x times one factor a row."""
    multiply(x, factors[:, None], out=result)


def keep_mask(mask: Any, start: Any, stream: Any, keys: Any, threshold: Any) -> None:
    """Computes mask = whether a word of the Philox4x32-10 stream from block `start` on is >= `threshold`."""
    for first in range(0, mask.size, BLOCK):
        part = mask[first : first + BLOCK]
        words = philox4x32_10(numpy, int(start) + first // 4, int(stream), keys, part.size)
        part[...] = words >= threshold


def scale_where(x: Any, mask: Any, factor: Any, result: Any) -> None:
    """Computes result = x factor where the mask is set, else 0."""
    multiply(x, factor, out=result)
    # A choice by bits, not a product: an infinity times 0 would be NaN. All of the bits of -1 are set
    size = result.dtype.itemsize
    bits = result.view(f"i{size}")
    numpy.bitwise_and(bits, numpy.negative(mask.view(numpy.int8), dtype=bits.dtype), out=bits)


def add_rows(total: Any, indices: Any, values: Any) -> None:
    """Adds values[i] to total[indices[i]] for every i: equal indices, sorted, are summed at once."""
    if not indices.size or not values.size:
        return
    order = numpy.argsort(indices, kind="stable")
    ordered = indices[order]
    is_start = numpy.concatenate(([True], ordered[1:] != ordered[:-1]))
    starts = numpy.flatnonzero(is_start)
    is_start[::ROWS] = True  # a few rows each are summed in their own dtype, and those sums in doubles
    bounds = numpy.flatnonzero(is_start)
    sums = add.reduceat(values[order], bounds, axis=0)
    if len(bounds) > len(starts):
        sums = add.reduceat(sums, numpy.cumsum(is_start)[starts] - 1, axis=0, dtype=numpy.float64)
    total[ordered[starts]] += sums


def add_columns(total: Any, x: Any) -> None:
    """Adds the sums of x (N, R, C) over its rows to total (N, C), which is in doubles."""
    add_blocks(total, x)


def _move_towards(mean: Any, new: Any, beta: Any, share: Any, scratch: Any) -> None:
    """Computes mean = beta mean + share new in place, where share is 1 - beta.

    mean + share (new - mean) is the same, and does not need a beta that float32 can tell from 1.
    """
    if share <= 0.5:
        subtract(new, mean, out=scratch)
        multiply(scratch, share, out=scratch)
    else:
        multiply(new, share, out=scratch)
        multiply(mean, beta, out=mean)
    add(mean, scratch, out=mean)


def adamw(
    p: Any,
    g: Any,
    m: Any,
    v: Any,
    beta1: Any,
    beta2: Any,
    share1: Any,
    share2: Any,
    rate: Any,
    eps: Any,
    keep: Any,
) -> None:
    """Computes m = beta1 m + share1 g, v = beta2 v + share2 g^2, p = keep p - rate m / (sqrt v + eps), of
    each element, in place; a share is 1 - beta.
    """
    for block in _blocks(p.size):
        p_block = p[block]
        g_block = g[block]
        m_block = m[block]
        v_block = v[block]
        scratch = workspace(0, p_block.size, p.dtype)
        _move_towards(m_block, g_block, beta1, share1, scratch)
        multiply(g_block, g_block, out=scratch)
        _move_towards(v_block, scratch, beta2, share2, scratch)
        add(sqrt(v_block, out=scratch), eps, out=scratch)
        divide(m_block, scratch, out=scratch)
        multiply(scratch, rate, out=scratch)
        multiply(p_block, keep, out=p_block)
        subtract(p_block, scratch, out=p_block)


def _blocks_of_rows(x: Any) -> list[slice]:
    """Returns ranges of rows that stay in the cache, but the last of sixteen rows each or a multiple: BLAS
    takes several at a time, and what is left over in another order.
    """
    step = max(16, BLOCK // max(x.shape[1], 1) // 16 * 16)
    return [slice(i, min(i + step, len(x))) for i in range(0, len(x), step)]


def product_of_bfloat16(rows: Any, x: Any, y: Any) -> None:
    """Computes y = W x: rows has the bits of W, bfloat16, as uint16."""
    for block in _blocks_of_rows(rows):
        wide = workspace(0, rows[block].size, numpy.float32).reshape(rows[block].shape)
        widen_bfloat16(rows[block], wide)
        numpy.dot(wide, x, out=y[block])


def product_of_int8(rows: Any, scales: Any, x: Any, y: Any) -> None:
    """Computes y = s (Q x): rows has Q, int8, and scales a factor for each row."""
    for block in _blocks_of_rows(rows):
        wide = workspace(0, rows[block].size, numpy.float32).reshape(rows[block].shape)
        numpy.copyto(wide, rows[block])
        numpy.dot(wide, x, out=y[block])
    multiply(y, scales, out=y)


def widen_bfloat16(rows: Any, wide: Any) -> None:
    """Computes wide = W in float32: rows has the bits of W, bfloat16, as uint16."""
    bits = wide.view(numpy.uint32)
    numpy.copyto(bits, rows)
    numpy.left_shift(bits, 16, out=bits)


def widen_int8(rows: Any, scales: Any, wide: Any) -> None:
    """Computes wide = s Q: rows has Q, int8, and scales a factor for each row."""
    multiply(rows, scales[:, None], out=wide)
