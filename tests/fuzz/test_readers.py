"""Whatever a file holds, a reader reads it or raises what it documents, soon and in little memory."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .harness import Fuzzed
from .mutations import KINDS, Mutation, mutated, random_mutation
from .targets import TARGETS

MEASURED_EVERY = 16  # inputs of the long fuzzing
mutations = st.lists(
    st.builds(
        Mutation, st.sampled_from(KINDS), st.floats(0.0, 1.0, exclude_max=True), st.integers(0, 2**32 - 1)
    ),
    min_size=1,
    max_size=6,
)


@pytest.mark.parametrize("name", TARGETS)
@settings(
    max_examples=2 * settings().max_examples,  # of the profile; continuous integration looks longer below
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(file=st.integers(0, 9), steps=mutations)
def test_a_damaged_file(
    name: str, file: int, steps: list[Mutation], tmp_path_factory: pytest.TempPathFactory
) -> None:
    if name not in _fuzzed:
        _fuzzed[name] = Fuzzed(TARGETS[name], tmp_path_factory.mktemp("fuzz"))
    _fuzzed[name].check(file, steps)


_fuzzed: dict[str, Fuzzed] = {}


@pytest.mark.parametrize("name", TARGETS)
def test_many_damaged_files(name: str, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """Does as the test above does, by a plain generator, for as long as `--fuzz-seconds` says."""
    seconds = pytestconfig.getoption("--fuzz-seconds") / len(TARGETS)
    if not seconds:
        pytest.skip("--fuzz-seconds N fuzzes for N seconds")
    seed = pytestconfig.getoption("--fuzz-seed")
    rng = random.Random(f"{seed} {name}")
    fuzzed = Fuzzed(TARGETS[name], tmp_path)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        file = rng.randrange(10)
        steps = [random_mutation(rng) for _ in range(1 + rng.getrandbits(2))]
        try:
            fuzzed.check(file, steps, measure_memory=fuzzed.count % MEASURED_EVERY == 0)
        except AssertionError as problem:
            raise AssertionError(
                f"{problem}\nafter {fuzzed.count:,} inputs, file {file}: {steps}"
            ) from problem
    print(f"{name}: {fuzzed.count:,} inputs clean in {seconds:.0f} s")


def test_mutations_of_nothing_are_something_or_nothing() -> None:
    for kind in KINDS:
        for value in (0, 1, 2**32 - 1):
            assert isinstance(mutated(b"", [Mutation(kind, 0.5, value)]), bytes)
