"""The core's counter-based random numbers (`tinygpt_core.random`), many at a time: the same function, the
same bits.

Every step is one that IEEE 754 or integer arithmetic fixes exactly, in the order of the scalar code, so
results are equal bit for bit.

Source: Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", 2011 (Philox4x32-10).
"""

from __future__ import annotations

from typing import Any

from tinygpt_core.random import CENTRE, FAR_TAIL, LN2, LOG_SERIES, PHILOX_MULTIPLIERS, PHILOX_WEYL, TAIL, Key


def round_keys(xp: Any, seed: int) -> Any:
    """Returns the two key words of each of the ten rounds, uint64 of shape (2, 10)."""
    halves = zip((seed, seed >> 32), PHILOX_WEYL, strict=True)
    return xp.asarray(
        [[(half + i * weyl) & 0xFFFFFFFF for i in range(10)] for half, weyl in halves], xp.uint64
    )


def words(xp: Any, key: Key, count: int) -> Any:
    """Returns `count` words (uint32, as uint64) of the stream at `key`; see `tinygpt_core.random.words`
    (Salmon et al. 2011).
    """
    return philox4x32_10(xp, key.block, key.stream, round_keys(xp, key.seed), count)


def philox4x32_10(xp: Any, start: int, stream: int, keys: Any, count: int) -> Any:
    """Returns `count` words (uint32, as uint64) of the blocks from `start` on: ten rounds over the counter
    (block, stream), with the keys of `round_keys`.

    Source: Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", 2011.
    """
    low32 = xp.uint64(0xFFFFFFFF)
    shift = xp.uint64(32)
    multiplier0, multiplier1 = (xp.uint64(multiplier) for multiplier in PHILOX_MULTIPLIERS)
    blocks = xp.arange((count + 3) // 4, dtype=xp.uint64) + xp.uint64(start)
    c0 = blocks & low32
    c1 = blocks >> shift
    c2 = xp.full_like(c0, stream & 0xFFFFFFFF)
    c3 = xp.full_like(c0, stream >> 32 & 0xFFFFFFFF)
    for key0, key1 in keys.T:
        product0 = multiplier0 * c0
        product1 = multiplier1 * c2
        c0 = (product1 >> shift) ^ c1 ^ key0
        c1 = product1 & low32
        c2 = (product0 >> shift) ^ c3 ^ key1
        c3 = product0 & low32
    return xp.stack([c0, c1, c2, c3], axis=1).reshape(-1)[:count]


def uniforms(xp: Any, key: Key, count: int, double: bool) -> Any:
    """Returns float64 numbers uniform in [0, 1): on a grid of 2^-53 from two words each, or of 2^-24 from
    one.
    """
    if not double:
        return (words(xp, key, count) >> xp.uint64(8)).astype(xp.float64) * 2.0**-24
    pairs = words(xp, key, 2 * count)
    high = pairs[::2] >> xp.uint64(5)
    low = pairs[1::2] >> xp.uint64(6)
    return (high.astype(xp.float64) * 67108864.0 + low.astype(xp.float64)) * 2.0**-53


def normals(xp: Any, key: Key, count: int) -> Any:
    """Returns float64 standard normal numbers, z = Phi^-1((word + 1/2) / 2^32)."""
    return normal_quantile(xp, (words(xp, key, count).astype(xp.float64) + 0.5) * 2.0**-32)


def _horner(coefficients: Any, x: Any) -> Any:
    """Returns the value of a polynomial, highest power first, for each element of x."""
    total = x * 0.0
    for coefficient in coefficients:
        total = total * x
        total += coefficient
    return total


def natural_log(xp: Any, x: Any) -> Any:
    """Returns ln x, as `tinygpt_core.random.natural_log` rounds it."""
    m, e = xp.frexp(x)
    small = m < 0.7071067811865476  # sqrt(1/2)
    m = xp.where(small, m * 2.0, m)
    e = e - small
    s = (m - 1.0) / (m + 1.0)
    return e * LN2 + s * _horner(LOG_SERIES, s * s)


def normal_quantile(xp: Any, p: Any) -> Any:
    """Returns z with Phi(z) = p for each element, as `tinygpt_core.random.normal_quantile` rounds it.

    Source: Wichura, "Algorithm AS 241: The Percentage Points of the Normal Distribution", 1988.
    """
    q = p - 0.5
    r = 0.180625 - q * q
    z = q * _horner(CENTRE[0], r) / _horner(CENTRE[1], r)
    outside = xp.nonzero(xp.abs(q) > 0.425)[0]
    if outside.size:
        p = p[outside]
        q = q[outside]
        r = xp.sqrt(-natural_log(xp, xp.where(q < 0.0, p, 1.0 - p)))
        near = _horner(TAIL[0], r - 1.6) / _horner(TAIL[1], r - 1.6)
        far = _horner(FAR_TAIL[0], r - 5.0) / _horner(FAR_TAIL[1], r - 5.0)
        tail = xp.where(r <= 5.0, near, far)
        z[outside] = xp.where(q < 0.0, -tail, tail)
    return z
