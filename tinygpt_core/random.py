"""Floor 2: random numbers from a counter, the same for a seed on every backend.

A counter-based generator is a function, not a machine: word i of a stream is `philox(seed, i)`, a scrambling
of i under a key. So a thousand numbers can be drawn in any order or in parallel, a "state" is one integer,
and two backends that evaluate the same function draw the same numbers.

What is given no generator draws from the default one. There is one for the whole process, and threads that
share it never get the same numbers twice, but which thread gets which depends on who comes first. A thread
that shall draw the same numbers each time takes a generator of its own: `with use_generator(Generator(5)):`.

Source: Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", 2011 (Philox4x32-10).
"""

from __future__ import annotations

from _thread import allocate_lock  # `threading.Lock`, whose module takes a millisecond to import
from array import array
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar
from itertools import accumulate
from math import frexp, sqrt
from typing import Any, NamedTuple

from .contexts import ChoiceBlock

_MASK = 0xFFFFFFFF
_MASK64 = (1 << 64) - 1
PHILOX_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
# The golden ratio and sqrt(3) - 1, of which Weyl sequences are made: what the key grows by each round
PHILOX_WEYL = (0x9E3779B9, 0xBB67AE85)


class Key(NamedTuple):
    """Where in which stream a run of numbers starts: `block` counts in blocks of four 32-bit words."""

    seed: int
    stream: int
    block: int


def words(key: Key, count: int) -> list[int]:
    """Returns `count` 32-bit words of Philox4x32-10, from the start of block `key.block`.

    Each of ten rounds multiplies two of the four words, (h0, l0) = M0 c0 and (h1, l1) = M1 c2, and mixes:

        (c0, c1, c2, c3) <- (h1 ^ c1 ^ k0, l1, h0 ^ c3 ^ k1, l0),    (k0, k1) <- (k0 + W0, k1 + W1)

    The counter is (block, stream), 64 bits each, low word first; the key is the 64-bit seed.

    Source: Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", 2011.
    """
    seed, stream, start = key
    m0, m1 = PHILOX_MULTIPLIERS
    mask = _MASK
    keys = [
        ((seed + i * PHILOX_WEYL[0]) & mask, ((seed >> 32) + i * PHILOX_WEYL[1]) & mask) for i in range(10)
    ]
    low = stream & mask
    high = stream >> 32 & mask
    result: list[int] = []
    for block in range(start, start + (count + 3) // 4):
        c0, c1, c2, c3 = block & mask, block >> 32 & mask, low, high
        for k0, k1 in keys:
            p0, p1 = m0 * c0, m1 * c2
            c0, c1, c2, c3 = p1 >> 32 ^ c1 ^ k0, p1 & mask, p0 >> 32 ^ c3 ^ k1, p0 & mask
        result += (c0, c1, c2, c3)
    del result[count:]
    return result


def uniforms32(key: Key, count: int) -> list[float]:
    """Returns numbers uniform in [0, 1) on a grid of 2^-24, which float32 holds exactly; one word each."""
    return [(word >> 8) * 2.0**-24 for word in words(key, count)]


def uniforms64(key: Key, count: int) -> list[float]:
    """Returns numbers uniform in [0, 1) on a grid of 2^-53; two words each."""
    drawn = words(key, 2 * count)
    return [
        ((a >> 5) * 67108864.0 + (b >> 6)) * 2.0**-53 for a, b in zip(drawn[::2], drawn[1::2], strict=True)
    ]


def normals(key: Key, count: int) -> list[float]:
    """Returns standard normal numbers, z = Phi^-1((word + 1/2) / 2^32); one word each, so |z| < 6.34."""
    return [normal_quantile((word + 0.5) * 2.0**-32) for word in words(key, count)]


# Coefficients of Wichura's rational approximations, highest power first: (numerator, denominator) for the
# centre and the two tails.
CENTRE = (
    (
        2509.0809287301226727,
        33430.575583588128105,
        67265.770927008700853,
        45921.953931549871457,
        13731.693765509461125,
        1971.5909503065514427,
        133.14166789178437745,
        3.3871328727963666080,
    ),
    (
        5226.4952788528545610,
        28729.085735721942674,
        39307.895800092710610,
        21213.794301586595867,
        5394.1960214247511077,
        687.18700749205790830,
        42.313330701600911252,
        1.0,
    ),
)
TAIL = (
    (
        7.74545014278341407640e-4,
        0.0227238449892691845833,
        0.241780725177450611770,
        1.27045825245236838258,
        3.64784832476320460504,
        5.76949722146069140550,
        4.63033784615654529590,
        1.42343711074968357734,
    ),
    (
        1.05075007164441684324e-9,
        5.47593808499534494600e-4,
        0.0151986665636164571966,
        0.148103976427480074590,
        0.689767334985100004550,
        1.67638483018380384940,
        2.05319162663775882187,
        1.0,
    ),
)
FAR_TAIL = (
    (
        2.01033439929228813265e-7,
        2.71155556874348757815e-5,
        0.00124266094738807843860,
        0.0265321895265761230930,
        0.296560571828504891230,
        1.78482653991729133580,
        5.46378491116411436990,
        6.65790464350110377720,
    ),
    (
        2.04426310338993978564e-15,
        1.42151175831644588870e-7,
        1.84631831751005468180e-5,
        7.86869131145613259100e-4,
        0.0148753612908506148525,
        0.136929880922735805310,
        0.599832206555887937690,
        1.0,
    ),
)
LN2 = 0.6931471805599453
LOG_SERIES = tuple(2.0 / (2 * k + 1) for k in reversed(range(13)))


def _horner(coefficients: Iterable[float], x: float) -> float:
    total = 0.0
    for coefficient in coefficients:
        total = total * x + coefficient
    return total


def natural_log(x: float) -> float:
    """Returns ln x for x > 0, the same on every IEEE machine: by additions, multiplications and divisions.

    With x = m 2^e, m in [sqrt 1/2, sqrt 2), and s = (m - 1) / (m + 1): ln x = e ln 2 + 2 (s + s^3 / 3 + s^5 /
    5 + …).
    """
    m, e = frexp(x)
    if m < 0.7071067811865476:
        m *= 2.0
        e -= 1
    s = (m - 1.0) / (m + 1.0)
    return e * LN2 + s * _horner(LOG_SERIES, s * s)


def normal_quantile(p: float) -> float:
    """Returns z with Phi(z) = p for 0 < p < 1, to about 1e-16 relative.

    Phi is the standard normal distribution function.

    Source: Wichura, "Algorithm AS 241: The Percentage Points of the Normal Distribution", 1988 (PPND16).
    """
    q = p - 0.5
    if abs(q) <= 0.425:
        r = 0.180625 - q * q
        return q * _horner(CENTRE[0], r) / _horner(CENTRE[1], r)
    r = sqrt(-natural_log(p if q < 0.0 else 1.0 - p))
    if r <= 5.0:
        numerator, denominator = TAIL
        r -= 1.6
    else:
        numerator, denominator = FAR_TAIL
        r -= 5.0
    z = _horner(numerator, r) / _horner(denominator, r)
    return -z if q < 0.0 else z


# Held while any generator moves on: three lines, so one lock does for all, and a generator that is copied
# or pickled has none
_moving = allocate_lock()


class Generator:
    """A place in a stream of random numbers, which moves on as numbers are drawn.

    Threads may share one: no two of them get the same numbers.

    Args:
        seed: any integer; its low 64 bits are the key.
        stream: another 64 bits, for independent streams from one seed.

    Attributes:
        position: how many blocks of four words were drawn. This, the seed and the stream are all the state
            there is.

    Raises:
        TypeError: a seed or stream that is no int.
    """

    __slots__ = ("position", "seed", "stream")

    def __init__(self, seed: int = 0, stream: int = 0) -> None:
        for name, value in (("seed", seed), ("stream", stream)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"a {name} is an int, not {value!r}")
        self.seed = seed & _MASK64
        self.stream = stream & _MASK64
        self.position = 0

    def __repr__(self) -> str:
        return f"Generator(seed={self.seed}, stream={self.stream}) at block {self.position}"

    def reserve(self, count: int) -> Key:
        """Moves on by `count` words, in whole blocks, and returns where they start.

        Raises:
            ValueError: a negative count.
        """
        if count < 0:
            raise ValueError(f"cannot draw {count} random words")
        with _moving:
            key = Key(self.seed, self.stream, self.position)
            self.position += (count + 3) // 4
        return key

    def uniform(self) -> float:
        """Returns a number uniform in [0, 1)."""
        return uniforms64(self.reserve(2), 1)[0]

    def integer(self, low: int, high: int) -> int:
        """Returns an integer uniform in [low, high), without bias.

        Words beyond the last whole multiple of the span are drawn again.

        Raises:
            ValueError: no integer lies there, or more than 2^64.
        """
        span = high - low
        if span <= 0:
            raise ValueError(f"there is no integer in [{low}, {high})")
        if span > 1 << 64:
            raise ValueError(f"a span of at most 2^64 can be drawn from, not {span}")
        limit = (1 << 64) // span * span
        while True:
            a, b = words(self.reserve(2), 2)
            drawn = a | b << 32
            if drawn < limit:
                return low + drawn % span

    def permutation(self, count: int) -> array[int]:
        """Returns the integers below `count` in random order (Fisher and Yates).

        Raises:
            ValueError: a negative count.
        """
        if count < 0:
            raise ValueError(f"there is no permutation of {count} things")
        order = array("q", range(count))
        drawn = words(self.reserve(2 * max(count - 1, 0)), 2 * max(count - 1, 0))
        for i in range(count - 1, 0, -1):
            # 64 bits over a span below 2^32: the bias of the remainder is below 2^-32, too small to see.
            j = (drawn[2 * i - 2] | drawn[2 * i - 1] << 32) % (i + 1)
            order[i], order[j] = order[j], order[i]
        return order

    def choice(self, weights: Sequence[float]) -> int:
        """Returns an index, drawn in proportion to its weight.

        Raises:
            ValueError: no weights, a negative or not finite one, or all zero.
        """
        if any(not 0.0 <= weight < float("inf") for weight in weights):
            raise ValueError("weights are finite and not negative")
        sums = list(accumulate(weights))
        if not sums or sums[-1] <= 0.0:
            raise ValueError("at least one weight must be positive")
        target = self.uniform() * sums[-1]
        last = max(i for i, weight in enumerate(weights) if weight > 0.0)
        return next((i for i, total in enumerate(sums) if target < total), last)

    def get_state(self) -> dict[str, int]:
        """Returns the state as a dict of integers, for JSON."""
        with _moving:
            return {"seed": self.seed, "stream": self.stream, "position": self.position}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes to a state of `get_state`; raises ValueError where it is none."""
        values = (
            [state.get(name) for name in ("seed", "stream", "position")] if isinstance(state, Mapping) else []
        )
        if len(values) != 3 or any(
            isinstance(v, bool) or not isinstance(v, int) or not 0 <= v < 1 << 64 for v in values
        ):
            raise ValueError(
                f"a generator's state has integers seed, stream and position in [0, 2^64), but got {state!r}"
            )
        with _moving:
            self.seed, self.stream, self.position = values  # type: ignore[assignment]


_process_generator = Generator(0)
_chosen: ContextVar[Generator | None] = ContextVar("chosen generator", default=None)
_chosen_before: ContextVar[tuple[Generator | None, ...]] = ContextVar("generators before", default=())


def default_generator() -> Generator:
    """Returns the generator that everything draws from unless it is given another.

    It is the one of this thread's innermost `use_generator`, else the process's, which all threads share.
    """
    return _chosen.get() or _process_generator


class use_generator(ChoiceBlock):
    """Makes a generator the default one, for a `with` block, which it gives, or a decorated function; for the
    calling thread only.

    Args:
        generator: it.
    """

    chosen = _chosen
    before = _chosen_before

    def __init__(self, generator: Generator) -> None:
        super().__init__(generator)


def seed(value: int) -> None:
    """Starts the default generator anew, at the beginning of the stream of `value`.

    That is the process's generator, or inside `use_generator` the one that was given.
    """
    default_generator().set_state(Generator(value).get_state())
