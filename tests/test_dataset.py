"""Laws of datasets, token storage and batches."""

from __future__ import annotations

import json
from array import array
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinygpt_core import random
from tinygpt_core.dataset import (
    Batch,
    Dataset,
    DatasetHandler,
    DocumentBatches,
    DocumentStore,
    StreamBatches,
    TextDataset,
    TokenStream,
    evaluation_batches,
    split_train_validation,
)
from tinygpt_core.dataset.corpora import CorpusError
from tinygpt_core.random import Generator

quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
BOUNDARY = 300
ids = st.integers(0, 299)
token_lists = st.lists(ids, min_size=1, max_size=60)
document_lists = st.lists(st.lists(ids, max_size=9), min_size=1, max_size=12)
sizes = st.integers(1, 7)


class Squares(Dataset):
    def __init__(self, count: int) -> None:
        self.count = count

    def __getitem__(self, index: int) -> tuple[int, int]:
        return index, index * index

    def __len__(self) -> int:
        return self.count


class Letters:
    """A tokenizer of code points, for tests."""

    def encode(self, text: str) -> list[int]:
        return [ord(character) for character in text]


def rows(batch: Batch) -> list[tuple[list[int], list[int]]]:
    count, length = batch.shape
    assert batch.inputs.typecode == batch.targets.typecode == "i"
    assert len(batch.inputs) == len(batch.targets) == count * length
    cuts = [slice(row * length, (row + 1) * length) for row in range(count)]
    return [(batch.inputs[cut].tolist(), batch.targets[cut].tolist()) for cut in cuts]


# Dataset, TextDataset, DatasetHandler


def test_a_dataset_is_iterated_by_index_and_must_be_defined():
    assert list(Squares(3)) == [(0, 0), (1, 1), (2, 4)]
    with pytest.raises(NotImplementedError, match="__len__"):
        len(Dataset())
    with pytest.raises(NotImplementedError, match="__getitem__"):
        Dataset()[0]


@quick
@given(text=st.text("abc \n", min_size=2, max_size=40).filter(str.strip), length=sizes)
def test_text_dataset_gives_every_window_with_its_shifted_self(tmp_path, text, length):
    path = tmp_path / "text.txt"
    path.write_text(text, newline="")
    tokens = Letters().encode(text)
    if len(tokens) <= length:
        with pytest.raises(ValueError, match="--context-length"):
            TextDataset(path, Letters(), length)
        return
    dataset = TextDataset(str(path), Letters(), length)
    assert len(dataset) == len(tokens) - length
    assert list(dataset) == [
        (tokens[i : i + length], tokens[i + 1 : i + length + 1]) for i in range(len(dataset))
    ]
    assert dataset[-1] == dataset[len(dataset) - 1]
    with pytest.raises(IndexError):
        dataset[len(dataset)]


def test_text_dataset_of_a_missing_file(tmp_path):
    with pytest.raises(CorpusError, match=r"missing\.txt"):
        TextDataset(tmp_path / "missing.txt", Letters(), 4)


@quick
@given(count=st.integers(0, 20), batch_size=sizes, drop_last=st.booleans(), shuffle=st.booleans())
def test_a_handler_visits_each_sample_once(count, batch_size, drop_last, shuffle):
    handler = DatasetHandler(Squares(count), batch_size, drop_last=drop_last, shuffle=shuffle)
    for _ in range(2):
        batches = list(handler)
        assert len(batches) == len(handler) == (count // batch_size if drop_last else -(-count // batch_size))
        assert all(len(xs) == len(ys) == batch_size for xs, ys in batches[: count // batch_size])
        seen = [pair for xs, ys in batches for pair in zip(xs, ys, strict=True)]
        assert len(set(seen)) == len(seen) == (count // batch_size * batch_size if drop_last else count)
        assert set(seen) <= set(Squares(count))
        assert [handler[i] for i in range(len(handler))] == batches
        if not shuffle:
            assert seen == list(Squares(count))[: len(seen)]


def test_shuffling_draws_a_new_order_from_the_default_generator():
    handler = DatasetHandler(Squares(50), 50, shuffle=True)
    random.seed(7)
    first, second = list(handler), list(handler)
    random.seed(7)
    assert first != second and list(handler) == first


@pytest.mark.parametrize(
    ("batch_size", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)]
)
def test_bad_batch_sizes(batch_size, error):
    with pytest.raises(error, match="batch_size"):
        DatasetHandler(Squares(3), batch_size)


def test_samples_of_different_lengths_are_refused():
    with pytest.raises(ValueError):
        next(iter(DatasetHandler([(1, 2), (3,)], 2)))


# Token storage


@quick
@given(tokens=st.lists(st.integers(0, 2**31 - 1), max_size=20), cut=st.slices(20))
def test_a_stream_is_its_tokens(tokens, cut):
    stream = TokenStream(tokens)
    assert list(stream) == tokens and len(stream) == len(tokens)
    assert isinstance(stream[cut], array) and stream[cut].tolist() == tokens[cut]
    assert [stream[i] for i in range(len(tokens))] == tokens


@pytest.mark.parametrize(
    ("vocab_size", "typecode"), [(1, "B"), (256, "B"), (257, "H"), (65536, "H"), (65537, "I"), (2**31, "I")]
)
def test_the_smallest_type_that_holds_the_vocabulary(vocab_size, typecode):
    assert TokenStream([vocab_size - 1]).typecode == TokenStream([0], vocab_size).typecode == typecode
    with pytest.raises(ValueError, match=rf"{vocab_size} at position 1"):
        TokenStream([0, vocab_size], vocab_size)


def test_ids_that_no_batch_can_hold_are_refused():
    for bad in ([-1], [2**32], [2**31]):
        with pytest.raises(ValueError, match=r"2\*\*31 - 1"):
            TokenStream(bad)
    with pytest.raises(ValueError, match="vocab_size"):
        TokenStream([], 0)


@quick
@given(tokens=token_lists, context_length=sizes, seed=st.integers(0, 99))
def test_a_mapped_stream_equals_the_one_in_memory(tmp_path, tokens, context_length, seed):
    stream = TokenStream(tokens, 300)
    stream.write(tmp_path / "tokens.bin")
    mapped = TokenStream.open(tmp_path / "tokens.bin", "H", 300)
    assert list(mapped) == tokens and mapped.typecode == stream.typecode and mapped[:] == stream[:]
    assert (tmp_path / "tokens.bin").read_bytes() == b"".join(token.to_bytes(2, "little") for token in tokens)
    if len(tokens) > context_length:
        batches = [
            StreamBatches(each, context_length, 3, Generator(seed)).next_batch() for each in (stream, mapped)
        ]
        assert batches[0] == batches[1]
        assert evaluation_batches(stream, context_length, 3, 2) == evaluation_batches(
            mapped, context_length, 3, 2
        )


def test_bad_token_files(tmp_path):
    path = tmp_path / "tokens.bin"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="0 bytes"):
        TokenStream.open(path)
    path.write_bytes(b"abc")
    with pytest.raises(ValueError, match="3 bytes"):
        TokenStream.open(path)
    path.write_bytes(b"\x01\x00\x05\x00")
    with pytest.raises(ValueError, match="id 5 at position 1 does not fit vocab_size 5"):
        TokenStream.open(path, "H", 5)
    with pytest.raises(ValueError, match="typecode"):
        TokenStream.open(path, "f")
    with pytest.raises(FileNotFoundError):
        TokenStream.open(tmp_path / "missing.bin")


@quick
@given(documents=document_lists)
def test_a_store_is_its_documents(documents):
    store = DocumentStore(documents)
    assert [document.tolist() for document in store] == documents
    assert list(store.joined(BOUNDARY)) == [
        BOUNDARY,
        *(i for document in documents for i in [*document, BOUNDARY]),
    ]
    odd = range(1, len(documents), 2)
    assert [document.tolist() for document in store.select(odd)] == [documents[i] for i in odd]


# Batches


@quick
@given(tokens=token_lists, context_length=sizes, batch_size=sizes, seed=st.integers(0, 99))
def test_stream_batches_are_shifted_windows(tokens, context_length, batch_size, seed):
    if len(tokens) <= context_length:
        advice = (
            f"--context-length {len(tokens) - 1} or less, or more text"
            if len(tokens) > 1
            else ": use more text"
        )
        with pytest.raises(ValueError, match=rf"{len(tokens)} tokens.*{context_length + 1}.*{advice}"):
            StreamBatches(tokens, context_length, batch_size, Generator(seed))
        return
    windows = [tokens[i : i + context_length + 1] for i in range(len(tokens) - context_length)]
    batch = StreamBatches(TokenStream(tokens), context_length, batch_size, Generator(seed)).next_batch()
    assert batch.shape == (batch_size, context_length) and batch.num_targets == batch_size * context_length
    for inputs, targets in rows(batch):
        assert inputs[1:] == targets[:-1] and [*inputs, targets[-1]] in windows


def test_every_window_can_be_drawn():
    batches = StreamBatches(range(6), 2, 100, Generator(3))
    assert {inputs[0] for inputs, _ in rows(batches.next_batch())} == {0, 1, 2, 3}


@quick
@given(documents=document_lists, context_length=sizes, batch_size=sizes, seed=st.integers(0, 99))
def test_document_batches_visit_each_document_once_an_epoch(documents, context_length, batch_size, seed):
    batches = DocumentBatches(documents, context_length, batch_size, Generator(seed), BOUNDARY)
    expected = Counter(tuple([BOUNDARY, *document, BOUNDARY][: context_length + 1]) for document in documents)
    seen = []
    for _ in range(len(documents)):  # batch_size epochs
        batch = batches.next_batch()
        lengths = []
        for inputs, targets in rows(batch):
            length = len(targets) - targets.count(-1)
            assert targets[length:] == [-1] * (len(targets) - length) and set(inputs[length:]) <= {BOUNDARY}
            assert inputs[1:length] == targets[: length - 1]
            lengths.append(length)
            seen.append((*inputs[:length], targets[length - 1]))
        assert batch.shape == (batch_size, max(lengths)) and batch.num_targets == sum(lengths)
    for epoch in range(batch_size):
        assert Counter(seen[epoch * len(documents) : (epoch + 1) * len(documents)]) == expected


def test_epochs_differ_and_depend_on_the_seed_alone():
    def order(seed):
        batches = DocumentBatches([[i] for i in range(40)], 4, 40, Generator(seed), BOUNDARY)
        return [batches.next_batch().targets[::2].tolist() for _ in range(2)]

    first, second = order(5)
    assert first != second and order(5) == [first, second] and order(6) != [first, second]


@quick
@given(
    kind=st.sampled_from(["stream", "documents"]),
    documents=document_lists,
    batch_size=sizes,
    before=st.integers(0, 9),
    seed=st.integers(0, 99),
)
def test_resuming_continues_with_the_same_batches(kind, documents, batch_size, before, seed):
    def begin(seed):
        if kind == "stream":
            return StreamBatches(DocumentStore(documents).joined(BOUNDARY), 1, batch_size, Generator(seed, 1))
        return DocumentBatches(documents, 4, batch_size, Generator(seed, 1), BOUNDARY)

    uninterrupted = begin(seed)
    for _ in range(before):
        uninterrupted.next_batch()
    state = json.loads(json.dumps(uninterrupted.get_state()))
    resumed = begin(seed + 1)
    resumed.next_batch()
    resumed.set_state(state)
    assert resumed.get_state() == state
    assert [resumed.next_batch() for _ in range(5)] == [uninterrupted.next_batch() for _ in range(5)]


def test_states_that_do_not_fit_are_refused_and_change_nothing():
    stream = StreamBatches(range(9), 2, 2, Generator(1))
    documents = DocumentBatches([[1], [2, 3]], 4, 2, Generator(1), BOUNDARY)
    for batches, other in ((stream, documents), (documents, stream)):
        state = batches.get_state()
        bad = [None, {}, other.get_state(), {**state, "more": 1}, {**state, "kind": "x"}]
        bad += [{**state, key: 7} for key in ("tokens", "documents") if key in state]
        bad += [
            {**state, key: value}
            for key in ("seed", "stream", "epoch")
            if key in state
            for value in (-1, 2**64, 1.0, True, "1")
        ]
        bad += [{**state, "position": 3}] if "position" in state else [{**state, "generator": {"seed": 1}}]
        for wrong in bad:
            with pytest.raises(ValueError):
                batches.set_state(wrong)
            assert batches.get_state() == state


@quick
@given(tokens=token_lists, context_length=sizes, batch_size=sizes, count=sizes)
def test_evaluation_windows_are_the_same_each_time_and_do_not_overlap(
    tokens, context_length, batch_size, count
):
    stream = TokenStream(range(len(tokens)))  # each id is its own place
    if len(stream) <= context_length:
        with pytest.raises(ValueError, match="validation part has"):
            evaluation_batches(stream, context_length, batch_size, count)
        return
    batches = evaluation_batches(stream, context_length, batch_size, count)
    assert batches == evaluation_batches(stream, context_length, batch_size, count)
    assert len(batches) <= count and all(batch.shape[0] == batch_size for batch in batches[:-1])
    targets = [target for batch in batches for _, row in rows(batch) for target in row]
    assert (
        len(set(targets))
        == len(targets)
        == context_length * min(count * batch_size, (len(tokens) - 1) // context_length)
    )
    assert all([i + 1 for i in inputs] == row for batch in batches for inputs, row in rows(batch))


@quick
@given(documents=document_lists, batch_size=sizes, count=sizes)
def test_evaluation_documents_are_taken_once(documents, batch_size, count):
    store = DocumentStore([[number] for number in range(len(documents))])
    batches = evaluation_batches(store, 4, batch_size, count, BOUNDARY)
    taken = [row[0] for batch in batches for _, row in rows(batch)]
    assert len(set(taken)) == len(taken) == min(len(store), count * batch_size)
    assert batches == evaluation_batches(store, 4, batch_size, count, BOUNDARY)


def test_empty_corpora_and_missing_boundaries():
    with pytest.raises(ValueError, match="empty"):
        StreamBatches([], 2, 2, Generator(1))
    with pytest.raises(ValueError, match="empty"):
        DocumentBatches([], 2, 2, Generator(1), BOUNDARY)
    with pytest.raises(ValueError, match="empty"):
        evaluation_batches(DocumentStore([]), 2, 2, 1, BOUNDARY)
    with pytest.raises(ValueError, match="boundary_id"):
        evaluation_batches(DocumentStore([[1]]), 2, 2, 1)
    with pytest.raises(ValueError, match="context_length"):
        StreamBatches([1, 2], 0, 2, Generator(1))


# Splitting


@quick
@given(count=st.integers(2, 60), fraction=st.floats(0.01, 0.99), seed=st.integers(0, 9))
def test_a_split_covers_everything_without_overlap(count, fraction, seed):
    stream = TokenStream(range(count))
    training, validation = split_train_validation(stream, fraction)
    assert list(training) + list(validation) == list(stream) and len(training) and len(validation)

    store = DocumentStore([[i] * (i % 3 + 1) for i in range(count)])
    parts = [[document[0] for document in part] for part in split_train_validation(store, fraction, seed)]
    assert sorted(parts[0] + parts[1]) == list(range(count)) and all(
        part == sorted(part) and part for part in parts
    )
    assert parts == [
        [document[0] for document in part] for part in split_train_validation(store, fraction, seed)
    ]
    for part in (validation, parts[1]):
        assert abs(len(part) - count * fraction) <= 1


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0, float("nan")])
def test_bad_fractions_and_too_little_to_split(fraction):
    with pytest.raises(ValueError, match="fraction"):
        split_train_validation(TokenStream([1, 2, 3]), fraction)
    with pytest.raises(ValueError, match="too short"):
        split_train_validation(DocumentStore([[1, 2, 3]]))
