"""Numbered samples of any kind, and batches of them.

A `Dataset` is anything that gives its samples by number. Two are here: `TextDataset`, all windows of a text,
and `DocumentStore`, documents in little memory. A `DatasetHandler` makes batches of any of them.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ..files.atomic import Path
from ..random import default_generator
from .corpora import read_text
from .tokens import TokenStream, require_count, require_window, unsigned_ids


class Dataset:
    """Numbered samples. A subclass gives `__getitem__` (a tuple of columns, such as input and target) and
    `__len__`.
    """

    def __getitem__(self, index: int) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must define __getitem__(self, index)")

    def __len__(self) -> int:
        raise NotImplementedError(f"{type(self).__name__} must define __len__(self)")

    def __iter__(self) -> Iterator[Any]:
        return (self[index] for index in range(len(self)))


class TextDataset(Dataset):
    """All windows of a text file: sample i is `(ids[i : i + L], ids[i + 1 : i + L + 1])` with L =
    `max_seq_length`.

    Args:
        data_file_path: a UTF-8 text file.
        tokenizer: anything with `encode(text) -> list[int]`.
        max_seq_length: tokens a sample.

    Raises:
        ValueError: the file cannot be read, or has fewer than L + 1 tokens.
        TypeError: max_seq_length is no int.
    """

    def __init__(self, data_file_path: Path, tokenizer: Any, max_seq_length: int) -> None:
        self.max_seq_length = require_count("max_seq_length", max_seq_length)
        self.tokens = TokenStream(tokenizer.encode(read_text(data_file_path)))
        require_window(self.tokens, max_seq_length, os.fspath(data_file_path))

    def __len__(self) -> int:
        return len(self.tokens) - self.max_seq_length

    def __getitem__(self, index: int) -> tuple[list[int], list[int]]:
        start = range(len(self))[index]
        window = self.tokens[start : start + self.max_seq_length + 1].tolist()
        return window[:-1], window[1:]


class DocumentStore(Dataset):
    """Documents of token ids, one after the other in one `TokenStream`; `store[i]` is the array of document
    i.

    Args:
        documents: the ids of each document; one may be empty.
        vocab_size: ids are below it; default: the largest id + 1.

    Raises:
        ValueError: an id does not fit.
    """

    def __init__(self, documents: Iterable[Iterable[int]], vocab_size: int | None = None) -> None:
        tokens = array("I")
        offsets = array("Q", [0])
        for document in documents:
            tokens.extend(unsigned_ids(document))
            offsets.append(len(tokens))
        self.stream = TokenStream(tokens, vocab_size)
        self._starts = offsets[:-1]
        self._stops = offsets[1:]

    def select(self, indices: Iterable[int]) -> DocumentStore:
        """Returns the documents `indices`, in that order, sharing the stream."""
        chosen = list(indices)
        store = DocumentStore(())
        store.stream = self.stream
        store._starts = array("Q", [self._starts[i] for i in chosen])
        store._stops = array("Q", [self._stops[i] for i in chosen])
        return store

    def joined(self, boundary_id: int) -> TokenStream:
        """Returns all as one stream, `boundary, document, boundary, document, ..., boundary`, for long
        documents.

        Raises:
            ValueError: boundary_id is 2**31 or more.
            OverflowError: it is negative, or 2**32 or more.
        """
        tokens = array("I", [boundary_id])
        for document in self:
            tokens.extend(unsigned_ids(document))
            tokens.append(boundary_id)
        return TokenStream(tokens, max(self.stream.vocab_size, boundary_id + 1))

    def row(self, index: int, context_length: int, boundary_id: int) -> array[int]:
        """Returns `boundary, d0, d1, ..., boundary` as `array("i")`, cut to context_length + 1 ids."""
        start = self._starts[index]
        stop = self._stops[index]
        row = array("i", [boundary_id]) + self.stream.int32(start, min(stop, start + context_length))
        if len(row) <= context_length:
            row.append(boundary_id)
        return row

    def length(self, index: int) -> int:
        """Returns how many tokens a document has."""
        return self._stops[index] - self._starts[index]

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: Any) -> Any:
        return self.stream[self._starts[index] : self._stops[index]]


class DatasetHandler:
    """Batches of a dataset, each a tuple of columns: `for xs, ys in DatasetHandler(dataset, batch_size=2):
    ...`

    Args:
        dataset: anything with `__getitem__` and `__len__` whose samples are tuples.
        batch_size: samples a batch.
        drop_last: leave out the last batch when it is not full.
        shuffle: draw a new order from the default generator whenever an iteration begins; `handler[i]` is
            the i-th batch in the order of the latest iteration.

    Raises:
        TypeError: batch_size is no int.
        ValueError: batch_size is below 1.
    """

    def __init__(self, dataset: Any, batch_size: int, drop_last: bool = False, shuffle: bool = False) -> None:
        self.dataset = dataset
        self.batch_size = require_count("batch_size", batch_size)
        self.drop_last = drop_last
        self.shuffle = shuffle
        self._order: Sequence[int] = range(len(dataset))

    def __len__(self) -> int:
        full, rest = divmod(len(self._order), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def __getitem__(self, index: int) -> tuple[tuple[Any, ...], ...]:
        start = range(len(self))[index] * self.batch_size
        return self._columns(self._order[start : start + self.batch_size])

    def __iter__(self) -> Iterator[tuple[tuple[Any, ...], ...]]:
        count = len(self.dataset)
        order = default_generator().permutation(count) if self.shuffle else range(count)
        self._order = order
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            yield self._columns(order[start : start + self.batch_size])

    def _columns(self, indices: Sequence[int]) -> tuple[tuple[Any, ...], ...]:
        """Returns the samples `indices` as columns: all inputs, all targets, …"""
        return tuple(zip(*(self.dataset[index] for index in indices), strict=True))
