"""The core's counter-based random numbers (`tinygpt_core.random`), many at a time: the same function, the
same bits.

Every step is one that IEEE 754 or integer arithmetic fixes exactly, in the order of the scalar code, so
results are equal bit for bit.

Source: Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", 2011 (Philox4x32-10).
"""

from __future__ import annotations

from typing import Any

from tinygpt_core.random import _MULTIPLIERS, _WEYL, CENTRE, FAR_TAIL, LN2, LOG_SERIES, TAIL, Key


def round_keys(xp: Any, seed: int) -> Any:
    """Returns the two key words of each of the ten rounds, uint64 of shape (2, 10)."""
    halves = zip((seed, seed >> 32), _WEYL, strict=True)
    return xp.asarray(
        [[(half + i * weyl) & 0xFFFFFFFF for i in range(10)] for half, weyl in halves], xp.uint64
    )


def words(xp: Any, key: Key, count: int) -> Any:
    """Returns `count` words (uint32, as uint64) of the stream at `key`; see `tinygpt_core.random.words`
    (Salmon et al. 2011).
    """
    return scrambled(xp, key.block, key.stream, round_keys(xp, key.seed), count)


def scrambled(xp: Any, start: int, stream: int, keys: Any, count: int) -> Any:
    """Returns the words of the blocks from `start` on: ten rounds over the counter (block, stream)."""
    low32, shift = xp.uint64(0xFFFFFFFF), xp.uint64(32)
    blocks = xp.arange((count + 3) // 4, dtype=xp.uint64) + xp.uint64(start)
    c0, c1 = blocks & low32, blocks >> shift
    c2, c3 = xp.full_like(c0, stream & 0xFFFFFFFF), xp.full_like(c0, stream >> 32 & 0xFFFFFFFF)
    m0, m1 = (xp.uint64(m) for m in _MULTIPLIERS)
    for k0, k1 in keys.T:
        p0, p1 = m0 * c0, m1 * c2
        c0, c1, c2, c3 = (p1 >> shift) ^ c1 ^ k0, p1 & low32, (p0 >> shift) ^ c3 ^ k1, p0 & low32
    return xp.stack([c0, c1, c2, c3], axis=1).reshape(-1)[:count]


def uniforms(xp: Any, key: Key, count: int, double: bool) -> Any:
    """Returns float64 numbers uniform in [0, 1): on a grid of 2^-53 from two words each, or of 2^-24 from
    one.
    """
    if not double:
        return (words(xp, key, count) >> xp.uint64(8)).astype(xp.float64) * 2.0**-24
    drawn = words(xp, key, 2 * count)
    high, low = drawn[::2] >> xp.uint64(5), drawn[1::2] >> xp.uint64(6)
    return (high.astype(xp.float64) * 67108864.0 + low.astype(xp.float64)) * 2.0**-53


def normals(xp: Any, key: Key, count: int) -> Any:
    """Returns float64 standard normal numbers, z = Phi^-1((word + 1/2) / 2^32)."""
    return normal_quantile(xp, (words(xp, key, count).astype(xp.float64) + 0.5) * 2.0**-32)


def _horner(coefficients: Any, x: Any) -> Any:
    total = x * 0.0
    for coefficient in coefficients:
        total = total * x
        total += coefficient
    return total


def natural_log(xp: Any, x: Any) -> Any:
    """Returns ln x, as `tinygpt_core.random.natural_log` rounds it."""
    m, e = xp.frexp(x)
    small = m < 0.7071067811865476
    m, e = xp.where(small, m * 2.0, m), e - small
    s = (m - 1.0) / (m + 1.0)
    return e * LN2 + s * _horner(LOG_SERIES, s * s)


def normal_quantile(xp: Any, p: Any) -> Any:
    """Returns z with Phi(z) = p, as `tinygpt_core.random.normal_quantile` rounds it (Wichura's AS 241, 1988)."""
    q = p - 0.5
    r = 0.180625 - q * q
    z = q * _horner(CENTRE[0], r) / _horner(CENTRE[1], r)
    outside = xp.nonzero(xp.abs(q) > 0.425)[0]
    if outside.size:
        p, q = p[outside], q[outside]
        r = xp.sqrt(-natural_log(xp, xp.where(q < 0.0, p, 1.0 - p)))
        near, far = r - 1.6, r - 5.0
        tail = _horner(TAIL[0], near) / _horner(TAIL[1], near)
        tail = xp.where(r <= 5.0, tail, _horner(FAR_TAIL[0], far) / _horner(FAR_TAIL[1], far))
        z[outside] = xp.where(q < 0.0, -tail, tail)
    return z
