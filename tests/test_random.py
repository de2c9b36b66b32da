"""Philox, its uniform and normal numbers, and the generator that hands them out."""

from __future__ import annotations

import math
from statistics import NormalDist, fmean, pstdev

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygpt_core import random
from tinygpt_core.random import (
    Generator,
    Key,
    natural_log,
    normal_quantile,
    normals,
    uniforms32,
    uniforms64,
    words,
)

few = settings(max_examples=40, deadline=None)
keys = st.builds(Key, *[st.integers(0, 2**64 - 1)] * 3)

# From the known-answer file of Random123 (Salmon et al., 2011): counter words, key words, result.
ALL = 2**64 - 1
KNOWN = [
    (Key(0, 0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    (Key(ALL, ALL, ALL), "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (Key(0x299F31D0A4093822, 0x0370734413198A2E, 0x85A308D3243F6A88), "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


@pytest.mark.parametrize(("key", "expected"), KNOWN)
def test_known_answers(key: Key, expected: str) -> None:
    assert " ".join(f"{word:08x}" for word in words(key, 4)) == expected


@few
@given(keys, st.integers(0, 30), st.integers(0, 30))
def test_a_run_of_words_begins_with_every_shorter_one(key: Key, count: int, more: int) -> None:
    assert words(key, count + more)[:count] == words(key, count)
    assert len(words(key, count)) == count and all(0 <= word < 2**32 for word in words(key, count))


@few
@given(st.integers(), st.lists(st.integers(0, 9), max_size=6))
def test_reservations_follow_one_another(seed: int, counts: list[int]) -> None:
    generator, drawn, blocks = Generator(seed), [], 0
    for count in counts:
        key = generator.reserve(count)
        assert key.block == blocks
        drawn.append(key)
        blocks += (count + 3) // 4
    assert generator.position == blocks and len({key.block for key in drawn if key}) <= len(counts)


def test_streams_and_seeds_differ() -> None:
    runs = [tuple(words(Key(seed, stream, 0), 8)) for seed in range(4) for stream in range(4)]
    assert len(set(runs)) == len(runs)
    assert Generator(-1).seed == 2**64 - 1


@few
@given(keys)
def test_uniform_numbers_lie_on_their_grid_below_one(key: Key) -> None:
    assert all(0.0 <= u < 1.0 and (u * 2**24).is_integer() for u in uniforms32(key, 9))
    assert all(0.0 <= u < 1.0 and (u * 2**53).is_integer() for u in uniforms64(key, 9))


@few
@given(st.floats(2.0**-33, 1.0 - 2.0**-33))
def test_quantiles_are_those_of_the_standard_library(p: float) -> None:
    assert normal_quantile(p) == pytest.approx(NormalDist().inv_cdf(p), rel=2e-15, abs=1e-300)


@few
@given(st.floats(1e-300, 1e300))
def test_the_logarithm(x: float) -> None:
    assert natural_log(x) == pytest.approx(math.log(x), rel=4e-16, abs=3e-16)


def test_moments() -> None:
    u, z = uniforms32(Key(7, 0, 0), 20_000), normals(Key(7, 1, 0), 20_000)
    assert fmean(u) == pytest.approx(0.5, abs=0.01) and pstdev(u) == pytest.approx(12**-0.5, abs=0.005)
    assert fmean(z) == pytest.approx(0.0, abs=0.03) and pstdev(z) == pytest.approx(1.0, abs=0.02)
    assert fmean(x**4 for x in z) == pytest.approx(3.0, abs=0.25)


@few
@given(st.integers(0, 200), st.integers(0, 2**64 - 1))
def test_permutations(count: int, seed: int) -> None:
    order = Generator(seed).permutation(count)
    assert sorted(order) == list(range(count)) and order.typecode == "q"


@few
@given(st.integers(-(10**6), 10**6), st.integers(1, 10**6), st.integers(0, 99))
def test_integers_stay_in_bounds(low: int, span: int, seed: int) -> None:
    assert low <= Generator(seed).integer(low, low + span) < low + span


def test_integers_are_uniform() -> None:
    generator = Generator(3)
    counts = [0] * 5
    for _ in range(5000):
        counts[generator.integer(0, 5)] += 1
    assert all(abs(count - 1000) < 130 for count in counts)


def test_choice_follows_the_weights() -> None:
    generator, counts = Generator(5), [0, 0, 0]
    for _ in range(3000):
        counts[generator.choice([1.0, 0.0, 3.0])] += 1
    assert counts[1] == 0 and abs(counts[0] - 750) < 110
    for weights in ([], [0.0], [-1.0, 2.0], [math.nan], [math.inf]):
        with pytest.raises(ValueError):
            generator.choice(weights)


def test_state_goes_round() -> None:
    generator = Generator(11, 4)
    generator.uniform()
    state = generator.get_state()
    expected = [generator.uniform() for _ in range(3)]
    other = Generator()
    other.set_state(state)
    assert [other.uniform() for _ in range(3)] == expected
    for bad in (
        {},
        {"seed": 1, "stream": 0},
        {**state, "position": -1},
        {**state, "seed": True},
        {**state, "seed": 1.0},
        None,
        [1, 2, 3],
    ):
        with pytest.raises(ValueError):
            other.set_state(bad)  # type: ignore[arg-type]


def test_bad_input() -> None:
    for seed in (1.5, "1", True, None):
        with pytest.raises(TypeError):
            Generator(seed)  # type: ignore[arg-type]
    for call in (
        lambda g: g.integer(3, 3),
        lambda g: g.integer(0, 2**65),
        lambda g: g.reserve(-1),
        lambda g: g.permutation(-1),
    ):
        with pytest.raises(ValueError):
            call(Generator())


def test_the_process_wide_generator() -> None:
    random.seed(9)
    first = random.default_generator().uniform()
    random.seed(9)
    assert random.default_generator().uniform() == first == Generator(9).uniform()
