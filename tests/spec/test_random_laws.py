"""Laws of random numbers: the same seed gives the same bits on every backend."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygpt_core import random
from tinygpt_core.buffer import Buffer
from tinygpt_core.dtype import DType
from tinygpt_core.random import Generator, Key

from .strategies import FLOATS, read, shapes, supported

# Published known answers of Philox4x32-10 (Random123's kat_vectors): counter, key, words.
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize("counter, key, expected", KNOWN_ANSWERS)
def test_known_answers(counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]) -> None:
    at = Key(key[0] | key[1] << 32, counter[2] | counter[3] << 32, counter[0] | counter[1] << 32)
    assert tuple(random.words(at, 4)) == expected


seeds = st.integers(0, 2**64 - 1)


@given(seed=seeds, stream=seeds, block=st.integers(0, 2**40), count=st.integers(0, 40), cut=st.integers(0, 9))
def test_words_are_a_function_of_their_place(
    seed: int, stream: int, block: int, count: int, cut: int
) -> None:
    """Drawing from a later block gives the tail of drawing from an earlier one."""
    whole = random.words(Key(seed, stream, block), 4 * cut + count)
    assert random.words(Key(seed, stream, block + cut), count) == whole[4 * cut :]
    assert len(whole) == 4 * cut + count and all(0 <= word < 2**32 for word in whole)


@given(data=st.data(), seed=seeds, stream=st.integers(0, 5), skip=st.integers(0, 30))
def test_uniform_bit_for_bit(
    backend: type[Buffer], data: st.DataObject, seed: int, stream: int, skip: int
) -> None:
    """low + (high - low) u in doubles, rounded to the dtype, in C order, with u from the reference."""
    dtype = data.draw(st.sampled_from(supported(backend, FLOATS)))
    shape = data.draw(shapes(max_dims=3))
    low, high = data.draw(st.sampled_from([(0.0, 1.0), (-1.0, 1.0), (-0.3, 0.1)]))
    generator, ours = Generator(seed, stream), Generator(seed, stream)
    generator.reserve(skip)
    ours.reserve(skip)
    count = int(np.prod(shape))
    words = random.words(
        ours.reserve(count * (2 if dtype == "float64" else 1)), count * (2 if dtype == "float64" else 1)
    )
    if dtype == "float64":
        units = [
            ((a >> 5) * 2.0**26 + (b >> 6)) * 2.0**-53 for a, b in zip(words[::2], words[1::2], strict=True)
        ]
    else:
        units = [(word >> 8) * 2.0**-24 for word in words]
    expected = np.array([low + (high - low) * u for u in units]).astype(dtype).reshape(shape)
    buffer = backend.uniform(shape, low, high, DType.from_name(dtype), generator)
    assert type(buffer) is backend and buffer.dtype.name == dtype
    assert read(buffer).tobytes() == expected.tobytes()
    assert generator.position == ours.position


@given(data=st.data(), seed=seeds, stream=st.integers(0, 5))
def test_normal_bit_for_bit(backend: type[Buffer], data: st.DataObject, seed: int, stream: int) -> None:
    """mean + std z in doubles, rounded to the dtype, with z from the reference generator, one word each."""
    dtype = data.draw(st.sampled_from(supported(backend, FLOATS)))
    shape = data.draw(shapes(max_dims=3))
    mean, std = data.draw(st.sampled_from([(0.0, 1.0), (0.0, 0.02), (1.5, 3.0)]))
    count = int(np.prod(shape))
    expected = np.array(
        [mean + std * z for z in random.normals(Generator(seed, stream).reserve(count), count)]
    )
    generator = Generator(seed, stream)
    buffer = backend.normal(shape, mean, std, DType.from_name(dtype), generator)
    assert read(buffer).tobytes() == expected.astype(dtype).reshape(shape).tobytes()
    assert generator.position == (count + 3) // 4


@given(word=st.one_of(st.integers(0, 2**32 - 1), st.integers(0, 1000), st.integers(2**32 - 1000, 2**32 - 1)))
def test_normals_are_the_inverse_of_the_distribution(word: int) -> None:
    """Against the standard library's own quantile function."""
    p = (word + 0.5) * 2.0**-32
    expected = statistics.NormalDist().inv_cdf(p)
    assert abs(random.normal_quantile(p) - expected) <= 1e-13 * max(1.0, abs(expected))


def test_moments(backend: type[Buffer]) -> None:
    """Mean, variance and a lag-one correlation of 20,000 numbers lie within five standard errors."""
    count = 20_000
    uniform = read(backend.uniform((count,), generator=Generator(7))).astype(float)
    normal = read(backend.normal((count,), generator=Generator(8))).astype(float)
    assert uniform.min() >= 0 and uniform.max() < 1
    error = 5 / np.sqrt(count)
    assert abs(uniform.mean() - 0.5) < error * np.sqrt(1 / 12) and abs(
        uniform.var() - 1 / 12
    ) < error * np.sqrt(1 / 180)
    assert abs(normal.mean()) < error and abs(normal.var() - 1) < error * np.sqrt(2)
    assert abs(np.corrcoef(normal[1:], normal[:-1])[0, 1]) < error and abs(
        (normal**3).mean()
    ) < error * np.sqrt(15)


def test_seed_starts_the_default_generator_anew(backend: type[Buffer]) -> None:
    random.seed(5)
    first, second = backend.uniform((3,)), backend.normal((3,))
    random.seed(5)
    assert backend.uniform((3,)).to_python() == first.to_python() != second.to_python()
    assert backend.normal((3,)).to_python() == second.to_python()
    assert backend.uniform((3,)).to_python() != first.to_python()
    assert first.to_python() == backend.uniform((3,), generator=Generator(5)).to_python()


def test_use_generator_is_what_is_drawn_from(backend: type[Buffer]) -> None:
    """Inside of it, `seed` starts it anew and the process's default generator stays where it is."""
    state = random.default_generator().get_state()
    with random.use_generator(Generator(5)) as own:
        first, second = backend.uniform((3,)), backend.normal((3,))
        random.seed(5)
        assert backend.uniform((3,)).to_python() == first.to_python()
        assert random.default_generator() is own
    assert random.default_generator().get_state() == state
    generator = Generator(5)
    assert backend.uniform((3,), generator=generator).to_python() == first.to_python()
    assert backend.normal((3,), generator=generator).to_python() == second.to_python()


def test_state_there_and_back() -> None:
    generator = Generator(3, 4)
    generator.normal if hasattr(generator, "normal") else generator.uniform()
    state = generator.get_state()
    expected = [generator.uniform(), generator.integer(0, 100), list(generator.permutation(9))]
    other = Generator()
    other.set_state(state)
    assert [other.uniform(), other.integer(0, 100), list(other.permutation(9))] == expected
    for wrong in (
        {},
        {"seed": 1, "stream": 2},
        {"seed": 1, "stream": 2, "position": -1},
        {"seed": 1, "stream": 2, "position": "3"},
        None,
    ):
        with pytest.raises(ValueError):
            other.set_state(wrong)  # type: ignore[arg-type]


@given(seed=seeds, low=st.integers(-50, 50), span=st.integers(1, 60), count=st.integers(0, 40))
def test_integers_permutations_and_choices(seed: int, low: int, span: int, count: int) -> None:
    generator = Generator(seed)
    for _ in range(5):
        drawn = generator.integer(low, low + span)
        assert low <= drawn < low + span, f"{drawn} was drawn from [{low}, {low + span})"
    assert sorted(generator.permutation(count)) == list(range(count))
    assert generator.choice([0.0, 1.0, 0.0]) == 1
    for wrong in (
        lambda: generator.integer(low, low),
        lambda: generator.choice([]),
        lambda: generator.choice([-1.0, 2.0]),
    ):
        with pytest.raises(ValueError):
            wrong()


def test_choices_are_in_proportion() -> None:
    generator, counts = Generator(11), [0, 0, 0]
    for _ in range(6000):
        counts[generator.choice([1.0, 2.0, 3.0])] += 1
    assert [count / 6000 for count in counts] == pytest.approx([1 / 6, 2 / 6, 3 / 6], abs=0.03)


@pytest.mark.parametrize("dtype", [DType.int32, DType.bool], ids=str)
def test_random_numbers_are_floats(backend: type[Buffer], dtype: DType) -> None:
    for draw in (backend.uniform, backend.normal):
        with pytest.raises(TypeError, match=dtype.name):
            draw((2,), dtype=dtype)
