"""The key/value cache: it hands out what was stored, whatever room it has made for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygpt_core import Tensor
from tinygpt_core.buffer import Buffer
from tinygpt_core.nn import GPT, GPTConfig, KeyValueCache, cache

LENGTH = 11  # of the context


def lengths() -> st.SearchStrategy[list[int]]:
    """How many positions come at once, one time after the other."""
    return st.lists(st.integers(1, 4), min_size=1, max_size=LENGTH).filter(lambda each: sum(each) <= LENGTH)


@pytest.fixture(autouse=True)
def little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "FIRST_CAPACITY", 1)


@given(first=lengths(), second=lengths(), seed=st.integers(0, 99))
def test_it_hands_out_all_that_was_stored_since_the_last_reset(
    backend: type[Buffer], first: list[int], second: list[int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    stored = KeyValueCache(2, 3, 2, LENGTH, 2, Tensor.zeros((1,)).buffer)
    for parts in (first, second):
        expected = rng.normal(size=(2, 2, 3, 2, sum(parts), 2)).astype("float32")  # layer, key or value, ...
        for length in parts:
            end = stored.length + length
            for layer in range(2):
                new = [Tensor(each[:, :, stored.length : end].tolist()) for each in expected[layer]]
                for found, each in zip(stored.store(layer, *new), expected[layer], strict=True):
                    assert np.array_equal(np.array(found.to_python(), "float32"), each[:, :, :end])
            stored.length = end
        rooms = {each.shape[2] for each in stored.keys + stored.values}
        assert len(rooms) == 1 and stored.length <= max(rooms) <= LENGTH
        stored.reset()


@given(data=st.data(), seed=st.integers(0, 99))
def test_what_is_taken_back_was_never_there(backend: type[Buffer], data: st.DataObject, seed: int) -> None:
    """Positions come, and are forgotten down to any of them; a list does the same."""
    numbers = iter(np.random.default_rng(seed).normal(size=1000).astype("float32").tolist())
    stored = KeyValueCache(1, 1, 1, LENGTH, 1, Tensor.zeros((1,)).buffer)
    expected: list[float] = []
    for _ in range(data.draw(st.integers(1, 6))):
        new = [next(numbers) for _ in range(data.draw(st.integers(0, LENGTH - len(expected))))]
        expected += new
        if new:
            key = Tensor(new).reshape((1, 1, len(new), 1))
            for found in stored.store(0, key, key):
                assert found.reshape((len(expected),)).to_python() == expected
        stored.length = len(expected)
        for wrong in (-1, len(expected) + 1):
            with pytest.raises(
                ValueError, match=f"of {len(expected)} positions cannot be taken back to {wrong}"
            ):
                stored.rewind(wrong)
        assert stored.length == len(expected)
        keep = data.draw(st.integers(0, len(expected)))
        stored.rewind(keep)
        del expected[keep:]
        assert stored.length == keep


@given(parts=lengths(), positions=st.sampled_from(["learned", "rotary"]), seed=st.integers(0, 99))
def test_room_that_grows_changes_no_bit_of_the_logits(
    backend: type[Buffer], parts: list[int], positions: str, seed: int
) -> None:
    model = GPT(GPTConfig(7, LENGTH, 2, 4, 16, positions=positions, num_key_value_heads=2))
    rng = np.random.default_rng(seed)
    for _, tensor in model.named_parameters():
        tensor.buffer = type(tensor.buffer)(rng.normal(0.0, 0.5, tensor.shape).tolist())
    ids = rng.integers(0, 7, (2, sum(parts))).tolist()

    def logits(room: int) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cache, "FIRST_CAPACITY", room)
            kept = model.new_cache(2)
        found = []
        for length in parts:
            new = Tensor([row[kept.length : kept.length + length] for row in ids])
            found.append(model(new, kept).to_python())
        return found

    assert logits(1) == logits(LENGTH)


def test_memory_is_taken_as_positions_come(backend: type[Buffer]) -> None:
    stored = KeyValueCache(1, 1, 1, 1000, 2, Tensor.zeros((1,)).buffer)
    new = Tensor.zeros((1, 1, 1, 2))
    for room in (1, 2, 4, 4, 8, 8, 8, 8, 16):  # twice as much, once it is full
        stored.store(0, new, new)
        stored.length += 1
        assert stored.keys[0].shape == stored.values[0].shape == (1, 1, room, 2)
