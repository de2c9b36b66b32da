"""Documents that share a row do not see each other: packed equals separate, in logits and gradients."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygpt_core import Tensor
from tinygpt_core.buffer import Buffer
from tinygpt_core.dtype import DType
from tinygpt_core.losses import CrossEntropyLoss
from tinygpt_core.nn import GPT, GPTConfig
from tinygpt_core.nn.documents import document_attention, positions_in

from .test_decoder_laws import configs, made

LENGTH = 7
cuts = st.sets(st.integers(1, LENGTH - 1), max_size=3).map(lambda found: [0, *sorted(found), LENGTH])
rows = st.lists(cuts, min_size=1, max_size=2)


def ids_of(count: int, seed: int) -> list[list[int]]:
    return np.random.default_rng(seed).integers(0, 7, (count, LENGTH)).tolist()


def documents_of(rows: list[list[int]]) -> list[list[int]]:
    return [
        [number for number, (start, end) in enumerate(pairwise(row)) for _ in range(start, end)]
        for row in rows
    ]


def separate(model: GPT, ids: list[list[int]], rows: list[list[int]]) -> Any:
    """Returns the logits of each document by itself, where it lies in the packed rows."""
    parts = [
        Tensor.concatenate([model(Tensor([each[start:end]])) for start, end in pairwise(row)], 1)
        for each, row in zip(ids, rows, strict=True)
    ]
    return Tensor.concatenate(parts, 0)


any_configs = st.builds(
    lambda config, learned: replace(config, positions="learned") if learned else config,
    configs(),
    st.booleans(),
)


@given(config=any_configs, seed=st.integers(0, 99), rows=rows)
def test_packed_logits_are_those_of_each_document_alone(
    backend: type[Buffer], config: GPTConfig, seed: int, rows: list[list[int]]
) -> None:
    model, _ = made(config, seed, DType.float32)
    ids = ids_of(len(rows), seed)
    packed = np.array(model(Tensor(ids), documents=Tensor(documents_of(rows))).to_python())
    alone = np.array(separate(model, ids, rows).to_python())
    assert np.abs(packed - alone).max() <= 2e-5 * max(1.0, np.abs(alone).max())


@given(config=any_configs, tables=st.sampled_from([(), (5,), (7, 5, 3)]), seed=st.integers(0, 99), rows=rows)
def test_packed_gradients_are_the_sums_of_each_documents(
    backend: type[Buffer], config: GPTConfig, tables: tuple[int, ...], seed: int, rows: list[list[int]]
) -> None:
    """With tables of n-grams, too, which do not reach into the document before."""
    model, _ = made(replace(config, ngram_tables=tables), seed, DType.float64)
    ids = ids_of(len(rows), seed)
    targets = Tensor(ids_of(len(rows), seed + 1))
    found = []
    for logits in (
        lambda: model(Tensor(ids), documents=Tensor(documents_of(rows))),
        lambda: separate(model, ids, rows),
    ):
        model.zero_grad()
        CrossEntropyLoss()(logits=logits(), labels=targets).sum().backward()
        found.append({name: tensor.grad.to_python() for name, tensor in model.named_parameters()})
    for name in found[0]:
        packed, alone = (np.array(each[name]) for each in found)
        assert np.abs(packed - alone).max() <= 1e-9 * max(1.0, np.abs(alone).max()), name


@given(
    seed=st.integers(0, 99),
    row=cuts,
    window=st.integers(1, 8) | st.none(),
    soft_cap=st.sampled_from([None, 2.0]),
    scale=st.sampled_from([None, 0.3]),
)
def test_attention_between_documents_is_nothing(
    backend: type[Buffer],
    seed: int,
    row: list[int],
    window: int | None,
    soft_cap: float | None,
    scale: float | None,
) -> None:
    """Against loops in NumPy."""
    rng = np.random.default_rng(seed)
    query, key, value = (rng.normal(size=(1, 2, LENGTH, 4)) for _ in range(3))
    numbers = documents_of([row])[0]
    expected = np.zeros(query.shape)
    for head in range(2):
        for i in range(LENGTH):
            first = 0 if window is None else i - window + 1
            seen = [j for j in range(max(0, first), i + 1) if numbers[j] == numbers[i]]
            scores = np.array([query[0, head, i] @ key[0, head, j] for j in seen])
            scores = scores * (0.5 if scale is None else scale)
            if soft_cap is not None:
                scores = soft_cap * np.tanh(scores / soft_cap)
            weights = np.exp(scores - scores.max())
            expected[0, head, i] = (weights / weights.sum()) @ value[0, head, seen]
    tensors = [Tensor(each.tolist(), dtype=DType.float64) for each in (query, key, value)]
    options = {"window": window, "soft_cap": soft_cap, "scale": scale}
    found = document_attention(*tensors, Tensor([numbers]), **options)
    assert np.abs(np.array(found.to_python()) - expected).max() <= 1e-12


@given(rows=rows)
def test_positions_begin_anew_with_each_document(backend: type[Buffer], rows: list[list[int]]) -> None:
    expected = [[place for start, end in pairwise(row) for place in range(end - start)] for row in rows]
    assert positions_in(Tensor(documents_of(rows))).to_python() == expected


def test_documents_that_do_not_fit_are_refused(backend: type[Buffer]) -> None:
    sizes = {"context_length": 8, "num_layers": 1, "num_heads": 2, "embedding_dim": 4}
    model = GPT(GPTConfig(vocab_size=11, **sizes))
    ids = Tensor([[1, 2, 3]])
    with pytest.raises(ValueError, match="do not fit"):
        model(ids, documents=Tensor([[0, 1]]))
    with pytest.raises(TypeError, match="documents are integers"):
        model(ids, documents=Tensor([[0.0, 1.0, 1.0]]))
    with pytest.raises(ValueError, match="without a cache"):
        model(ids, cache=model.new_cache(), documents=Tensor([[0, 0, 1]]))
