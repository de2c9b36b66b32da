"""The elementwise chains of the NumPy kernels as compiled loops, for where Numba is installed: one pass over
memory instead of a dozen.

Each function does what its namesake in `chains` does, on contiguous float32 arrays, to rounding; those for
ReLU and for pooling by windows of two by two have none, because the hooks do as well there. None holds the
interpreter's lock, so threads can each take a range. Numba compiles a function when it is first called (a
second or so) and keeps the result on disk.
"""

from __future__ import annotations

from typing import Any

from numba import njit
from numpy import float32, inf, int32, int64, log, sqrt, uint32, uint64, zeros

from tinygpt_core.random import PHILOX_MULTIPLIERS

# Sums may be reordered to run in vector registers, products and sums may be one instruction; NaN and
# infinities keep their meaning.
_row = njit(inline="always")
_loop = njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract", "arcp", "nsz"})
# Not reordered, because `exp` rounds by adding and subtracting a constant. LLVM puts these functions into the
# loops that call them.
_exactly = njit(cache=True, error_model="numpy", fastmath={"contract"})

F = float32
N = int32
LOG2_E = F(1.44269504)
LN2_HIGH = F(0.693359375)
LN2_LOW = F(-2.12194440e-4)
# 1.5 * 2^23: adding it to a number below 2^22 rounds that to an integer, in the low bits of the sum
ROUND = F(12582912.0)

ROWS = 64  # that are added up in float32; what they come to is added in doubles
LONG = 1 << 14  # elements of a row, likewise

# Of Philox4x32: the halves of a 64-bit number, and the two multipliers
LOW_32 = uint64(0xFFFFFFFF)
SHIFT_32 = uint64(32)
MULTIPLIER_0 = uint64(PHILOX_MULTIPLIERS[0])
MULTIPLIER_1 = uint64(PHILOX_MULTIPLIERS[1])


@_exactly
def exp(x: Any) -> Any:
    """Returns e^x, to 1e-7 relative; 0 below -87, infinity above 88.3, NaN for NaN: 2^n e^r with
    n = round(x / ln 2), e^r by a polynomial.

    The scheme and the coefficients are those of expf in Moshier's Cephes library.
    """
    small = x < F(-87.0)
    x = F(-87.0) if small else x
    x = F(89.0) if x > F(89.0) else x
    shifted = F(x * LOG2_E + ROUND)
    n = shifted - ROUND
    r = x - n * LN2_HIGH - n * LN2_LOW
    p = F(1.9875691500e-4)
    p = p * r + F(1.3981999507e-3)
    p = p * r + F(8.3334519073e-3)
    p = p * r + F(4.1665795894e-2)
    p = p * r + F(1.6666665459e-1)
    p = p * r + F(5.0000001201e-1)
    p = p * r * r + r + F(1.0)
    power = (shifted.view(N) + N(127 - 0x4B400000)) << N(23)
    return F(0.0) if small else p * N(power).view(F)


@_exactly
def _difference(a: Any, b: Any) -> Any:
    """Returns a - b, before anything is added to it."""
    return a - b


@_loop
def gelu(x: Any, y: Any, slope: Any, linear: Any, cubic: Any) -> None:
    """Computes y = x h and slope = dy/dx, with h = 1 / (1 + e^(-2 x (linear + cubic x^2))), which is
    (1 + tanh(x (linear + cubic x^2))) / 2.

    Source: Hendrycks, Gimpel, "Gaussian Error Linear Units (GELUs)", 2016.
    """
    for i in range(x.size):
        v = x[i]
        square = v * v
        h = F(1.0) / (F(1.0) + exp(F(-2.0) * v * (linear + cubic * square)))
        out = v * h
        y[i] = out
        slope[i] = h + out * (F(1.0) - h) * (F(2.0) * linear + F(6.0) * cubic * square)


@_loop
def silu(x: Any, y: Any, slope: Any) -> None:
    """Computes y = x h and slope = dy/dx, with h = 1 / (1 + e^-x).

    Source: Elfwing, Uchibe, Doya, "Sigmoid-Weighted Linear Units", 2017.
    """
    for i in range(x.size):
        h = F(1.0) / (F(1.0) + exp(-x[i]))
        out = x[i] * h
        y[i] = out
        slope[i] = h + out * (F(1.0) - h)


@_loop
def relu(x: Any, y: Any) -> None:
    """Computes y = max(x, 0) of each element; NaN stays NaN."""
    for i in range(x.size):
        y[i] = F(0.0) if x[i] <= F(0.0) else x[i]  # a NaN stays one


@_loop
def relu_gradient(y: Any, grad: Any, result: Any) -> None:
    """Computes result = grad where y > 0, else 0."""
    for i in range(y.size):
        result[i] = grad[i] if y[i] > F(0.0) else F(0.0)


@_loop
def largest_of_four(x: Any, y: Any) -> None:
    """Computes y (N, H, W) = the largest of each window of two by two of x (N, 2 H, 2 W), or its NaN."""
    for n in range(y.shape[0]):
        for i in range(y.shape[1]):
            upper = x[n, 2 * i]
            lower = x[n, 2 * i + 1]
            out = y[n, i]
            for j in range(y.shape[2]):
                a = upper[2 * j]
                b = upper[2 * j + 1]
                c = lower[2 * j]
                d = lower[2 * j + 1]
                first = a if (a >= b) | (a != a) else b  # a NaN is the largest
                second = c if (c >= d) | (c != c) else d
                out[j] = first if (first >= second) | (first != first) else second


@_loop
def spread_to_four(x: Any, y: Any, grad: Any, total: Any) -> None:
    """Computes total (N, 2 H, 2 W) = grad (N, H, W) where in its window of x the largest, y, stands first;
    else 0.
    """
    # Without a branch, so that LLVM computes sixteen windows at a time.
    for n in range(y.shape[0]):
        for i in range(y.shape[1]):
            upper = x[n, 2 * i]
            lower = x[n, 2 * i + 1]
            to_upper = total[n, 2 * i]
            to_lower = total[n, 2 * i + 1]
            largest_of_row = y[n, i]
            grad_of_row = grad[n, i]
            for j in range(y.shape[2]):
                largest = largest_of_row[j]
                g = grad_of_row[j]
                a = upper[2 * j]
                b = upper[2 * j + 1]
                c = lower[2 * j]
                is_a = (a == largest) | (a != a)
                is_b = ((b == largest) | (b != b)) & (not is_a)
                is_c = ((c == largest) | (c != c)) & (not (is_a | is_b))
                is_d = not (is_a | is_b | is_c)
                to_upper[2 * j] = g if is_a else F(0.0)
                to_upper[2 * j + 1] = g if is_b else F(0.0)
                to_lower[2 * j] = g if is_c else F(0.0)
                to_lower[2 * j + 1] = g if is_d else F(0.0)


@_loop
def add_to_rows(y: Any, row: Any) -> None:
    """Adds a row to every row of the matrix y."""
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            y[i, j] += row[j]


@_loop
def normalize(
    x: Any, weights: Any, bias: Any, y: Any, normal: Any, scales: Any, eps: Any, centre: Any
) -> None:
    """Computes y = normal weights + bias with normal = (x - mean) scale and scale = 1 / sqrt(mean of
    (x - mean)^2 + eps), for each row of x (R, C).

    Without `centre` the mean that is subtracted is 0. scales is (R,), normal like x; weights and bias are
    (C,).
    """
    columns = x.shape[1]
    for i in range(x.shape[0]):
        mean = F(0.0)
        if centre:
            wide: Any = 0.0
            for first in range(0, columns, LONG):
                part = F(0.0)
                for j in range(first, min(first + LONG, columns)):
                    part += x[i, j]
                wide += part
            mean = F(wide / columns)
        squares: Any = 0.0
        for first in range(0, columns, LONG):
            part = F(0.0)
            for j in range(first, min(first + LONG, columns)):
                part += (x[i, j] - mean) * (x[i, j] - mean)
            squares += part
        scale = F(1.0) / sqrt(F(squares / columns) + eps)
        scales[i] = scale
        for j in range(x.shape[1]):
            normal[i, j] = (x[i, j] - mean) * scale
            y[i, j] = normal[i, j] * weights[j] + bias[j]


@_loop
def normalize_gradients(
    grad: Any, weights: Any, normal: Any, scales: Any, result: Any, sums: Any, centre: Any
) -> None:
    """Computes result = scale (h - mean h - normal mean(h normal)) with h = grad weights, for each row;
    without `centre` there is no mean h.

    sums (2, C), in doubles, grows by the sums over rows of grad normal, which is the gradient of the weights,
    and of grad, which is that of the bias.
    """
    partial = zeros((2, grad.shape[1]), F)
    for first in range(0, grad.shape[0], ROWS):
        last = min(first + ROWS, grad.shape[0])
        part = (grad[first:last], weights, normal[first:last], scales[first:last], result[first:last])
        _normalize_gradients_of_few(*part, partial, centre)
        _move_row(sums[0], partial[0])
        _move_row(sums[1], partial[1])


@_loop
def _normalize_gradients_of_few(
    grad: Any, weights: Any, normal: Any, scales: Any, result: Any, sums: Any, centre: Any
) -> None:
    """Computes as `normalize_gradients`, with sums in float32.

    A loop of its own, since LLVM looks once then, and not once a row, whether arrays overlap.
    """
    size = F(grad.shape[1])
    for i in range(grad.shape[0]):
        mean = F(0.0)
        mean_product = F(0.0)
        for j in range(grad.shape[1]):
            h = grad[i, j] * weights[j]
            mean += h
            mean_product += h * normal[i, j]
            sums[0, j] += grad[i, j] * normal[i, j]
            sums[1, j] += grad[i, j]
        mean = mean / size if centre else F(0.0)
        mean_product /= size
        for j in range(grad.shape[1]):
            result[i, j] = scales[i] * (grad[i, j] * weights[j] - mean - normal[i, j] * mean_product)


@_row
def _softmax_row(row: Any, seen: Any, scale: Any, out: Any) -> Any:
    """Writes e^(x scale) of what a row sees to `out`, less the largest where that is needed; returns their
    sum and what was subtracted.
    """
    wide: Any = 0.0
    shift = F(0.0)
    for first in range(0, seen, LONG):
        part = F(0.0)
        for j in range(first, min(first + LONG, seen)):
            out[j] = exp(row[j] * scale)
            part += out[j]
        wide += part
    total = F(wide)
    if not (total > F(1e-20) and total < F(1e30)):
        shift = F(-inf)
        for j in range(seen):
            if not row[j] * scale <= shift:  # takes a NaN, too
                shift = row[j] * scale
        wide = 0.0
        for first in range(0, seen, LONG):
            part = F(0.0)
            for j in range(first, min(first + LONG, seen)):
                out[j] = exp(row[j] * scale - shift)  # an infinity less itself is NaN, as it should be
                part += out[j]
            wide += part
        total = F(wide)
    return total, shift


@_loop
def softmax(x: Any, y: Any, scale: Any, causal: Any) -> None:
    """Computes y = e^(x scale) / sum of e^(x scale), for each row of x (N, T, S).

    Causal: row i sees columns j <= i + S - T, and y is 0 behind them.
    """
    for n in range(x.shape[0]):
        for i in range(x.shape[1]):
            seen = x.shape[2] - (x.shape[1] - 1 - i if causal else 0)
            total, _ = _softmax_row(x[n, i], seen, scale, y[n, i])
            factor = F(1.0) / total
            for j in range(seen):
                y[n, i, j] *= factor
            for j in range(seen, x.shape[2]):
                y[n, i, j] = F(0.0)


@_loop
def softmax_gradient(grad: Any, y: Any, mean: Any, scale: Any) -> None:
    """Computes grad = (grad - mean) y scale in place, for grad and y (N, T, S) and mean (N, T), the sum of
    grad y over each row.
    """
    for n in range(grad.shape[0]):
        for i in range(grad.shape[1]):
            for j in range(grad.shape[2]):
                grad[n, i, j] = (grad[n, i, j] - mean[n, i]) * y[n, i, j] * scale


@_loop
def cross_entropy(x: Any, ids: Any, exponentials: Any, totals: Any, losses: Any) -> None:
    """Computes losses = ln(total) + shift - x[id] for each row of x (R, V), with total = sum of
    e^(x - shift): -ln softmax(x)[id].

    exponentials (R, V) are the e^(x - shift), totals (R,) their sums; shift is 0 unless e^x would be too
    large or too small.
    """
    for i in range(x.shape[0]):
        total, shift = _softmax_row(x[i], x.shape[1], F(1.0), exponentials[i])
        totals[i] = total
        losses[i] = log(total) + _difference(shift, x[i, ids[i]])


@_loop
def scale_rows(x: Any, factors: Any, result: Any) -> None:
    """Computes result = x times its row's factor, for x (R, C) and factors (R,)."""
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            result[i, j] = x[i, j] * factors[i]


@_loop
def keep_mask(mask: Any, start: Any, stream: Any, keys: Any, threshold: Any) -> None:
    """Computes mask[i] = word i >= threshold, of the Philox4x32-10 words of `stream` from block `start` on;
    keys (2, 10) are `philox.round_keys`.

    See `tinygpt_core.random.words`.
    """
    for block in range((mask.size + 3) // 4):
        counter = start + uint64(block)
        c0 = counter & LOW_32
        c1 = counter >> SHIFT_32
        c2 = stream & LOW_32
        c3 = stream >> SHIFT_32
        for i in range(10):
            product0 = MULTIPLIER_0 * c0
            product1 = MULTIPLIER_1 * c2
            c0 = (product1 >> SHIFT_32) ^ c1 ^ keys[0, i]
            c1 = product1 & LOW_32
            c2 = (product0 >> SHIFT_32) ^ c3 ^ keys[1, i]
            c3 = product0 & LOW_32
        at = 4 * block
        mask[at] = c0 >= threshold
        if at + 3 < mask.size:
            mask[at + 1] = c1 >= threshold
            mask[at + 2] = c2 >= threshold
            mask[at + 3] = c3 >= threshold
        else:
            if at + 1 < mask.size:
                mask[at + 1] = c1 >= threshold
            if at + 2 < mask.size:
                mask[at + 2] = c2 >= threshold


@_loop
def scale_where(x: Any, mask: Any, factor: Any, result: Any) -> None:
    """Computes result = x factor where the mask is True, else 0."""
    for i in range(x.size):
        result[i] = x[i] * factor if mask[i] else F(0.0)


@_row
def _add_row(total: Any, row: Any) -> None:
    for j in range(row.size):
        total[j] += row[j]


@_row
def _move_row(total: Any, row: Any) -> None:
    """Adds a row to a total in doubles, and makes it 0."""
    for j in range(row.size):
        total[j] += row[j]
        row[j] = F(0.0)


@_loop
def add_rows(total: Any, indices: Any, values: Any) -> None:
    """Adds values[i] to total[indices[i]] for each row i of values; rows that are named twice grow twice.

    A row that is named more than `ROWS` times goes on in doubles after each `ROWS` of them.
    """
    uses = zeros(total.shape[0], N)
    often = 0
    for i in range(indices.size):
        uses[indices[i]] += N(1)
        often += uses[indices[i]] == N(ROWS + 1)
    if often == 0:
        for i in range(indices.size):
            _add_row(total[indices[i]], values[i])
        return
    wide = zeros((often, total.shape[1]))
    place = zeros(often, int64)
    count = zeros(often, int64)
    often = 0
    for i in range(indices.size):
        k = indices[i]
        if uses[k] > N(ROWS):
            uses[k] = N(-1 - often)
            place[often] = k
            often += 1
        _add_row(total[k], values[i])
        if uses[k] < N(0):
            at = -1 - uses[k]
            count[at] += 1
            if count[at] % ROWS == 0:
                _move_row(wide[at], total[k])
    for at in range(often):
        row = total[place[at]]
        _move_row(wide[at], row)
        for j in range(row.size):
            row[j] = wide[at, j]


@_loop
def _add_few_rows(total: Any, x: Any) -> None:
    """Adds the rows of x (R, C) to total (C,), four at a time."""
    fours = x.shape[0] // 4 * 4
    for i in range(0, fours, 4):
        for j in range(x.shape[1]):
            total[j] += (x[i, j] + x[i + 1, j]) + (x[i + 2, j] + x[i + 3, j])
    for i in range(fours, x.shape[0]):
        for j in range(x.shape[1]):
            total[j] += x[i, j]


@_loop
def add_columns(total: Any, x: Any) -> None:
    """Adds the sums of x (N, R, C) over its rows to total (N, C), which is in doubles."""
    partial = zeros(x.shape[2], F)
    for n in range(x.shape[0]):
        for first in range(0, x.shape[1], ROWS):
            _add_few_rows(partial, x[n, first : min(first + ROWS, x.shape[1])])
            _move_row(total[n], partial)


@_loop
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
    """Computes m = beta1 m + share1 g, v = beta2 v + share2 g^2, p = keep p - rate m / (sqrt(v) + eps), of
    each element, in place.

    A share is 1 - beta. Where it is small, m + share1 (g - m) is the same, and does not need a beta that
    float32 can tell from 1; where it is large, g - beta1 (g - m) is.
    keep is 1 less the decay; rate and eps contain the corrections for the number of the step
    (`kernels.optimizer_steps`).
    """
    for i in range(p.size):
        square = g[i] * g[i]
        step1 = _difference(g[i], m[i])
        step2 = _difference(square, v[i])
        m[i] = m[i] + share1 * step1 if share1 <= F(0.5) else g[i] - beta1 * step1
        v[i] = v[i] + share2 * step2 if share2 <= F(0.5) else square - beta2 * step2
        p[i] = keep * p[i] - rate * m[i] / (sqrt(v[i]) + eps)


@_loop
def product_of_bfloat16(rows: Any, x: Any, y: Any) -> None:
    """Computes y = W x: rows has the bits of W, bfloat16, as uint16."""
    for i in range(y.size):
        row = rows[i]
        total = F(0.0)
        for k in range(x.size):
            total += x[k] * uint32(uint32(row[k]) << uint32(16)).view(F)
        y[i] = total


@_loop
def product_of_int8(rows: Any, scales: Any, x: Any, y: Any) -> None:
    """Computes y = s (Q x): rows has Q, int8, and scales a factor for each row."""
    for i in range(y.size):
        row = rows[i]
        total = F(0.0)
        for k in range(x.size):
            total += x[k] * F(row[k])
        y[i] = scales[i] * total


@_loop
def widen_bfloat16(rows: Any, wide: Any) -> None:
    """Computes wide = W in float32: rows has the bits of W, bfloat16, as uint16."""
    for i in range(rows.shape[0]):
        row = rows[i]
        out = wide[i]
        for k in range(row.size):
            out[k] = uint32(uint32(row[k]) << uint32(16)).view(F)


@_loop
def widen_int8(rows: Any, scales: Any, wide: Any) -> None:
    """Computes wide = s Q: rows has Q, int8, and scales a factor for each row."""
    for i in range(rows.shape[0]):
        row = rows[i]
        out = wide[i]
        scale = scales[i]
        for k in range(row.size):
            out[k] = scale * F(row[k])
