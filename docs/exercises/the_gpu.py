"""Solutions of the exercises of chapter 13, the GPU. `python -m pytest tests/test_book.py -k the_gpu`
checks them.
"""

import math
import random
import struct

from tinygpt_core.random import Key, uniforms32

# 13.1 Each warp adds up its values; lane 0 of each writes the sum to a place in shared memory; behind the
# barrier every thread adds up those places in the same order, so all get the same bits.
#
# Hint: `run_warp(warp_sum, …)` takes 32 values and gives 32 equal sums; every thread adds up one of each warp


# Given
def warp_sum(value):
    for distance in (16, 8, 4, 2, 1):
        value += yield value, distance
    return value


# Given
def run_warp(program, values):
    threads, received = [program(value) for value in values], [None] * len(values)
    while True:
        offered, results = [], []
        for thread, value in zip(threads, received, strict=True):
            try:
                offered.append(thread.send(value))
            except StopIteration as end:
                results.append(end.value)
        if results:
            return results
        received = [offered[lane ^ distance][0] for lane, (_, distance) in enumerate(offered)]


def block_sum(values):
    """The sums that the threads have in the end, as a list; each thread has a value, and a warp has 32."""
    room = [run_warp(warp_sum, values[start : start + 32])[0] for start in range(0, len(values), 32)]
    result = []
    for _ in values:  # behind the barrier, every thread
        total = 0.0
        for part in room:
            total += part
        result.append(total)
    return result


def test_13_1_a_sum_across_a_block():
    assert block_sum([float(i) for i in range(128)]) == [8128.0] * 128
    chance = random.Random(0)
    values = [chance.uniform(-1, 1) for _ in range(128)]
    sums = block_sum(values)
    assert len(set(sums)) == 1 and math.isclose(sums[0], math.fsum(values), rel_tol=1e-12)


# 13.2 2 n k k operations and 2 (2 n k + k k) bytes: the intensity is n k / (2 n + k), which is the ridge r
# where n = r k / (k - 2 r). With r = 989/4.8 = 206 on the H200 that is n = 445, with r = 312/2.04 = 153 on
# the A100 n = 255. In float32 there are twice the bytes, so n k / (4 n + 2 k), and n = 2 r k / (k - 4 r):
# with r = 67/4.8 = 14, n = 31.
#
# Hint: write down operations and bytes as functions of n, and compare their quotient with that of the
# machine


def rows_needed(ridge, k=768, bytes_each=2):
    """The smallest n for which the arithmetic of (n, k) times (k, k) takes at least as long as moving its
    numbers; `ridge` is peak / bandwidth.
    """
    half = bytes_each / 2
    return math.ceil(half * ridge * k / (k - 2 * half * ridge))


def test_13_2_when_a_product_is_bound_by_arithmetic():
    for peak, bandwidth, size in ((989e12, 4.8e12, 2), (312e12, 2.04e12, 2), (67e12, 4.8e12, 4)):
        n = rows_needed(peak / bandwidth, bytes_each=size)

        def computing_takes_longer(rows, peak=peak, bandwidth=bandwidth, size=size):
            return 2 * rows * 768**2 / peak >= size * (2 * rows * 768 + 768**2) / bandwidth

        assert computing_takes_longer(n) and not computing_takes_longer(n - 1)
    assert [rows_needed(989 / 4.8), rows_needed(312 / 2.04), rows_needed(67 / 4.8, bytes_each=4)] == [
        445,
        255,
        31,
    ]


# 13.3 Keeping it: 2 + 2 + 1 bytes forward and 2 + 1 + 2 backward, 10 for each element. Drawing it again: 4 +
# 4. A fifth is saved, and a byte of memory for each element between forward and backward. The arithmetic of
# Philox is free where memory is what limits.
#
# Hint: the forward reads x and writes y, the backward reads g and writes the gradient of x; who touches the
# mask?


def bytes_of_dropout(keeps_mask):
    """For each element, in forward and backward together."""
    return 2 * (2 + 2 + (1 if keeps_mask else 0))


# Given
def mask(seed, stream, block, count, probability):
    return [number >= probability for number in uniforms32(Key(seed, stream, block), count)]


def test_13_3_a_mask_drawn_twice():
    assert (bytes_of_dropout(True), bytes_of_dropout(False)) == (10, 8)
    forward = mask(7, 0, 100, 1000, 0.25)
    assert mask(7, 0, 100, 1000, 0.25) == forward
    assert 0.7 < sum(forward) / 1000 < 0.8
    # Any part of it alone: a block has four numbers
    assert mask(7, 0, 100 + 25, 100, 0.25) == forward[100:200]


# 13.4 Both sums are brought to the larger maximum. Up to rounding the order does not matter (max and the sum
# of the same terms are associative and commutative), so a block's threads can merge by the butterfly. An
# empty half has the maximum -inf and the sum 0; two of them must not ask for -inf - (-inf).
#
# Hint: bring both sums to the larger of the two maxima, then add


# Given
def online(scores):
    largest, total = -math.inf, 0.0
    for score in scores:
        if score > largest:
            total, largest = total * math.exp(largest - score), score
        total += math.exp(score - largest)
    return largest, total


def merge(a, b):
    """One pair from two, each as `online` returns it."""
    largest = max(a[0], b[0])
    if largest == -math.inf:
        return largest, 0.0
    return largest, sum(total * math.exp(top - largest) for top, total in (a, b))


def test_13_4_merge():
    chance = random.Random(0)
    scores = [chance.uniform(-900, 900) for _ in range(60)]
    for cut in (0, 1, 30, 60):
        for pair in ((scores[:cut], scores[cut:]), (scores[cut:], scores[:cut])):
            largest, total = merge(*map(online, pair))
            assert largest == max(scores) and math.isclose(total, online(scores)[1], rel_tol=1e-12)
    assert merge(online([]), online([])) == (-math.inf, 0.0)


# 13.5 With p_j = exp(s_j - L) and o = sum p_j v_j: ds_j = p_j (g·v_j - sum_i p_i g·v_i), and the sum is g·o,
# one number for each query, which is known before the walk begins. dq = scale sum ds_j k_j.
#
# Hint: p_j = exp(score - log sum exp), and the sum of all p_j (g · v_j) is g · result


# Given
def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def gradient_of_query(query, keys, values, result, log_sum, g, tile):
    """A list as long as the query; `tile` keys are taken at a time."""
    scale, mean, gradient = 1 / math.sqrt(len(query)), dot(g, result), [0.0] * len(query)
    for start in range(0, len(keys), tile):
        for key, value in zip(keys[start : start + tile], values[start : start + tile], strict=True):
            slope = math.exp(dot(query, key) * scale - log_sum) * (dot(g, value) - mean) * scale
            gradient = [total + slope * k for total, k in zip(gradient, key, strict=True)]
    return gradient


# Given
def attend(query, keys, values):
    scores = [dot(query, key) / math.sqrt(len(query)) for key in keys]
    log_sum = math.log(sum(map(math.exp, scores)))
    weights = [math.exp(score - log_sum) for score in scores]
    return [dot(weights, column) for column in zip(*values, strict=True)], log_sum


def test_13_5_a_backward_in_tiles():
    chance = random.Random(1)
    query, *rest = ([chance.gauss(0, 1) for _ in range(4)] for _ in range(16))
    keys, values, g = rest[:7], rest[7:14], rest[14]
    result, log_sum = attend(query, keys, values)
    numerical = []
    for i in range(4):
        above, below = ([x + h * (j == i) for j, x in enumerate(query)] for h in (1e-6, -1e-6))
        numerical.append(
            (dot(g, attend(above, keys, values)[0]) - dot(g, attend(below, keys, values)[0])) / 2e-6
        )
    for tile in (1, 3, 7):
        gradient = gradient_of_query(query, keys, values, result, log_sum, g, tile)
        assert all(abs(a - b) < 1e-8 for a, b in zip(gradient, numerical, strict=True))


# 13.6 The second number takes what the first has no place for. Near 1 the first has steps of 2^-7, so the
# second stays below 2^-8 and has steps of 2^-16 at most: an update must be larger than about 2^-17, eight
# millionths, to be seen at all. float32 sees down to 2^-24.
#
# Hint: add the rest first, round, and keep what rounding has left over


# Given
def bf16(x):
    (bits,) = struct.unpack("<I", struct.pack("<f", x))
    bits += 0x7FFF + (bits >> 16 & 1)
    return struct.unpack("<f", struct.pack("<I", bits >> 16 << 16))[0]


def add_to_pair(high, low, update):
    """The new (high, low)."""
    exact = high + (low + update)
    high = bf16(exact)
    return high, bf16(exact - high)


def test_13_6_a_pair_of_bf16():
    high, low, alone = 1.0, 0.0, 1.0
    for _ in range(1000):
        high, low = add_to_pair(high, low, 0.0003)
        alone = bf16(alone + 0.0003)
    assert alone == 1.0 and abs(high + low - 1.3) < 0.02
    stuck = 1.0, 2.0**-8 * 0.99
    assert add_to_pair(*add_to_pair(*stuck, 0.0), 2.0**-19) == add_to_pair(*stuck, 0.0)


# 13.7 The largest gradient times the scale must stay at or below 65,504, float16's largest number; those
# below 2^-25 = 3e-8 become 0.
#
# Hint: the largest must stay below the largest float16; everything below half the smallest becomes 0


# Given
def fp16(x):
    try:
        return struct.unpack("<e", struct.pack("<e", x))[0]
    except OverflowError:
        return math.copysign(math.inf, x)


def best_scale(gradients):
    """The power of two; the gradients are positive sizes."""
    return 2.0 ** math.floor(math.log2(65504 / max(gradients)))


# Given
def share_lost(gradients, scale):
    return sum(fp16(g * scale) == 0.0 for g in gradients) / len(gradients)


def test_13_7_the_best_scale():
    chance = random.Random(2)
    gradients = [10 ** chance.uniform(-11, -2) for _ in range(2000)]
    scale = best_scale(gradients)
    assert math.isfinite(fp16(max(gradients) * scale)) and max(gradients) * scale * 2 > 65504
    assert share_lost(gradients, 1.0) > 0.3 and share_lost(gradients, scale) == 0.0
