"""Tokens on their way into a model: datasets, compact token storage, and batches that can be resumed exactly.

Two ways to cut text into training rows of at most L = `context_length` tokens, each token's target being the
next one:

    one long text  `StreamBatches`    row = tokens[s : s + L], targets = tokens[s + 1 : s + L + 1], s drawn at random
    documents      `DocumentBatches`  row = boundary, d0, d1, ...; targets = d0, d1, ..., boundary; padded with -1

Tokens are kept as the smallest unsigned integers that hold the vocabulary: 1, 2 or 4 bytes each, not a list
of ints.
"""

from __future__ import annotations

import os
import sys
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from ..files.atomic import atomic_write
from ..random import Generator, default_generator
from .corpora import read_text

IGNORED_TARGET = -1  # "no target here": the loss of such a position does not count
# Typecode -> vocabulary it holds (batches are int32, hence 2**31)
_LIMITS = {"B": 2**8, "H": 2**16, "I": 2**31}
PIECE = 1 << 20  # ids looked at together


def first_outside(ids: memoryview, vocab_size: int) -> int | None:
    """Returns the place of the first id that is not below `vocab_size`, or None; takes some megabytes of
    memory whatever the length.

    Of uint16 ids `translate` marks the upper bytes (0: below the limit's own, 1: equal, 2: above) and the
    lower ones (2: below, 3: not); an id is outside where the two marks have a bit in common, and one `&` of
    two long integers finds that for a million ids: three to five times as fast as `max`.

    Args:
        ids: of format "B", "H" or "I".
    """
    upper, lower = divmod(vocab_size, 256)
    upper_marks = bytes((byte >= upper) + (byte > upper) for byte in range(256))
    lower_marks = bytes(2 + (byte >= lower) for byte in range(256))
    little = sys.byteorder == "little"
    for start in range(0, len(ids), PIECE):
        piece = ids[start : start + PIECE]
        if ids.format == "H":
            data = piece.tobytes()
            high, low = data[little::2].translate(upper_marks), data[not little :: 2].translate(lower_marks)
            common = int.from_bytes(high, "little") & int.from_bytes(low, "little")
            if common:
                return start + ((common & -common).bit_length() - 1) // 8
        elif max(piece) >= vocab_size:
            return start + next(i for i, idx in enumerate(piece) if idx >= vocab_size)
    return None


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
    """All windows of a text file: sample i is ``(ids[i : i + L], ids[i + 1 : i + L + 1])`` with L =
    `max_seq_length`.

    Args:
        data_file_path: a UTF-8 text file.
        tokenizer: anything with ``encode(text) -> list[int]``.
        max_seq_length: tokens a sample.

    Raises:
        ValueError: the file cannot be read, or has fewer than L + 1 tokens.
        TypeError: max_seq_length is no int.
    """

    def __init__(self, data_file_path: str | os.PathLike[str], tokenizer: Any, max_seq_length: int) -> None:
        self.max_seq_length = _count("max_seq_length", max_seq_length)
        self.tokens = TokenStream(tokenizer.encode(read_text(data_file_path)))
        _require_window(self.tokens, max_seq_length, os.fspath(data_file_path))

    def __len__(self) -> int:
        return len(self.tokens) - self.max_seq_length

    def __getitem__(self, index: int) -> tuple[list[int], list[int]]:
        start = range(len(self))[index]
        window = self.tokens[start : start + self.max_seq_length + 1].tolist()
        return window[:-1], window[1:]


class DatasetHandler:
    """Batches of a dataset, each a tuple of columns: ``for xs, ys in DatasetHandler(dataset, batch_size=2):
    ...``

    Args:
        dataset: anything with `__getitem__` and `__len__` whose samples are tuples.
        batch_size: samples a batch.
        drop_last: leave out the last batch when it is not full.
        shuffle: draw a new order from the default generator whenever an iteration begins; ``handler[i]`` is
            the i-th batch in the order of the latest iteration.

    Raises:
        TypeError: batch_size is no int.
        ValueError: batch_size is below 1.
    """

    def __init__(self, dataset: Any, batch_size: int, drop_last: bool = False, shuffle: bool = False) -> None:
        self.dataset, self.batch_size = dataset, _count("batch_size", batch_size)
        self.drop_last, self.shuffle = drop_last, shuffle
        self._order: Sequence[int] = range(len(dataset))

    def __len__(self) -> int:
        full, rest = divmod(len(self._order), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def __getitem__(self, index: int) -> tuple[tuple[Any, ...], ...]:
        start = range(len(self))[index] * self.batch_size
        return self._columns(self._order[start : start + self.batch_size])

    def __iter__(self) -> Iterator[tuple[tuple[Any, ...], ...]]:
        count = len(self.dataset)
        order = self._order = default_generator().permutation(count) if self.shuffle else range(count)
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            yield self._columns(order[start : start + self.batch_size])

    def _columns(self, indices: Sequence[int]) -> tuple[tuple[Any, ...], ...]:
        return tuple(zip(*(self.dataset[index] for index in indices), strict=True))


class TokenStream(Sequence[int]):
    """A long row of token ids in 1, 2 or 4 bytes each; a slice of it is an `array`.

    Args:
        tokens: ids from 0 up. An `array` of the right typecode is used as it is, not copied.
        vocab_size: ids are below it; default: the largest id + 1.

    Raises:
        ValueError: an id is negative or does not fit `vocab_size`; the message says which.
        TypeError: vocab_size is no int.
    """

    def __init__(self, tokens: Iterable[int], vocab_size: int | None = None) -> None:
        data = tokens if isinstance(tokens, array) and tokens.typecode in _LIMITS else _unsigned(tokens)
        self._data = memoryview(data)
        self.vocab_size = self._checked(max(data, default=0) + 1 if vocab_size is None else vocab_size)
        typecode = next(typecode for typecode, limit in _LIMITS.items() if self.vocab_size <= limit)
        if typecode != data.typecode:
            self._data = memoryview(array(typecode, data))

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], typecode: str = "H", vocab_size: int | None = None
    ) -> TokenStream:
        """Return the ids of a file of little-endian integers, mapped into memory: only what is read is
        loaded, whatever its size.

        Args:
            path: a file that `write` made (or any raw file of uint8, uint16 or uint32).
            typecode: "B", "H" or "I" for 1, 2 or 4 bytes a token.
            vocab_size: if given, every id is checked against it, which reads the whole file once, piece by
                piece.

        Raises:
            ValueError: the file is empty, not a whole number of tokens, or holds an id that does not fit
                `vocab_size`.
            OSError: it cannot be read.
        """
        import mmap

        if typecode not in _LIMITS:
            raise ValueError(f"typecode must be 'B', 'H' or 'I' (1, 2 or 4 bytes a token), not {typecode!r}")
        with open(path, "rb") as file:
            size, itemsize = os.fstat(file.fileno()).st_size, array(typecode).itemsize
            if not size or size % itemsize:
                raise ValueError(
                    f"{os.fspath(path)} has {size} bytes: not a whole number of {itemsize}-byte tokens"
                )
            if sys.byteorder == "little":
                data: Any = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)).cast(typecode)  # type: ignore[call-overload]
            else:  # mapped bytes would be in the wrong order
                data = array(typecode, file.read())
                data.byteswap()
        stream = cls._of(memoryview(data), _LIMITS[typecode])
        if vocab_size is not None:
            stream.vocab_size = stream._checked(vocab_size, f"{os.fspath(path)}: ")
        return stream

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the ids as little-endian integers, for `open` with this `typecode`."""
        data = self[:]
        if sys.byteorder == "big":
            data.byteswap()
        atomic_write(path, data.tobytes())

    @classmethod
    def _of(cls, view: memoryview, vocab_size: int) -> TokenStream:
        stream = cls.__new__(cls)
        stream._data, stream.vocab_size = view, vocab_size
        return stream

    def _checked(self, vocab_size: int, place: str = "") -> int:
        if _count("vocab_size", vocab_size) > 2**31:
            raise ValueError(f"vocab_size {vocab_size} is too large: token ids must be from 0 to 2**31 - 1")
        position = first_outside(self._data, vocab_size)
        if position is not None:
            raise ValueError(
                f"{place}token id {self._data[position]} at position {position} does not fit vocab_size {vocab_size}"
            )
        return vocab_size

    @property
    def typecode(self) -> str:
        """The `array` typecode of the ids: "B", "H" or "I"."""
        return self._data.format

    def view(self, start: int, stop: int) -> TokenStream:
        """Return ``self[start:stop]`` as a stream that shares the storage."""
        return self._of(self._data[start:stop], self.vocab_size)

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return array(self.typecode, self._data[index].tobytes())
        return self._data[index]

    def __iter__(self) -> Iterator[int]:
        return iter(self._data)

    def int32(self, start: int, stop: int) -> array[int]:
        """Return ``self[start:stop]`` as `array("i")`, the type of batches."""
        return array("i", self._data[start:stop])


class DocumentStore(Dataset):
    """Documents of token ids, one after the other in one `TokenStream`; ``store[i]`` is the array of document
    i.

    Args:
        documents: the ids of each document; one may be empty.
        vocab_size: ids are below it; default: the largest id + 1.

    Raises:
        ValueError: an id does not fit.
    """

    def __init__(self, documents: Iterable[Iterable[int]], vocab_size: int | None = None) -> None:
        tokens, offsets = array("I"), array("Q", [0])
        for document in documents:
            tokens.extend(_unsigned(document))
            offsets.append(len(tokens))
        self.stream, self._starts, self._stops = TokenStream(tokens, vocab_size), offsets[:-1], offsets[1:]

    def select(self, indices: Iterable[int]) -> DocumentStore:
        """Return the documents `indices`, in that order, sharing the stream."""
        chosen, store = list(indices), DocumentStore(())
        store.stream = self.stream
        store._starts, store._stops = (
            array("Q", [ends[i] for i in chosen]) for ends in (self._starts, self._stops)
        )
        return store

    def joined(self, boundary_id: int) -> TokenStream:
        """Return all as one stream, ``boundary, document, boundary, document, ..., boundary``, for long
        documents.

        Raises:
            ValueError: boundary_id is 2**31 or more.
            OverflowError: it is negative, or 2**32 or more.
        """
        tokens = array("I", [boundary_id])
        for document in self:
            tokens.extend(_unsigned(document))
            tokens.append(boundary_id)
        return TokenStream(tokens, max(self.stream.vocab_size, boundary_id + 1))

    def row(self, index: int, context_length: int, boundary_id: int) -> array[int]:
        """Return ``boundary, d0, d1, ..., boundary`` as `array("i")`, cut to context_length + 1 ids."""
        start, stop = self._starts[index], self._stops[index]
        row = array("i", [boundary_id]) + self.stream.int32(start, min(stop, start + context_length))
        if len(row) <= context_length:
            row.append(boundary_id)
        return row

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: Any) -> Any:
        return self.stream[self._starts[index] : self._stops[index]]


class Batch(NamedTuple):
    """Token ids and their targets, flat `array("i")` in C order of `shape` (batch, time); targets of -1 do
    not count.
    """

    inputs: array[int]
    targets: array[int]
    shape: tuple[int, int]

    @property
    def num_targets(self) -> int:
        """How many targets count."""
        return len(self.targets) - self.targets.count(IGNORED_TARGET)


class StreamBatches:
    """Batches of windows that begin at random places of one long stream; every window is equally probable.

    Args:
        stream: the tokens.
        context_length: tokens a row.
        batch_size: rows a batch.
        generator: where the random places come from; its state is the state of the batches.

    Raises:
        ValueError: the stream has no window of context_length + 1 tokens.
        TypeError: context_length or batch_size is no int.
    """

    def __init__(
        self, stream: Iterable[int], context_length: int, batch_size: int, generator: Generator
    ) -> None:
        self.stream = stream if isinstance(stream, TokenStream) else TokenStream(stream)
        self.context_length, self.batch_size = (
            _count("context_length", context_length),
            _count("batch_size", batch_size),
        )
        self.generator = generator
        _require_window(self.stream, context_length, "the corpus")

    def next_batch(self) -> Batch:
        """Draw the next batch, of shape (batch_size, context_length)."""
        end = len(self.stream) - self.context_length
        return _windows(
            self.stream, [self.generator.integer(0, end) for _ in range(self.batch_size)], self.context_length
        )

    def get_state(self) -> dict[str, Any]:
        """Return what `set_state` needs to continue with the very same batches, as JSON values."""
        return {"kind": "stream", "tokens": len(self.stream), "generator": self.generator.get_state()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue where `get_state` was called. Raises ValueError if the state is of another corpus or
        malformed.
        """
        _check_state(state, {"kind": "stream", "tokens": len(self.stream)}, ("generator",))
        self.generator.set_state(state["generator"])


class DocumentBatches:
    """Batches with a document a row, as long as the longest document of the batch (at most `context_length`).

    Every epoch visits every document once, in a new order; a batch may begin in one epoch and end in the
    next. The order of epoch e depends on the generator's seed and stream and on e alone, so the place in the
    data is two integers.

    Args:
        documents: a `DocumentStore`, or the token ids of each document.
        context_length: tokens a row; the rest of a longer document is not seen (see `DocumentStore.joined`
            for those).
        batch_size: rows a batch.
        generator: gives seed and stream; nothing is drawn from it.
        boundary_id: the token before and after each document; it pads the inputs too.

    Raises:
        ValueError: there is no document.
        TypeError: context_length or batch_size is no int.
    """

    def __init__(
        self,
        documents: Iterable[Iterable[int]],
        context_length: int,
        batch_size: int,
        generator: Generator,
        boundary_id: int,
    ) -> None:
        self.store = documents if isinstance(documents, DocumentStore) else DocumentStore(documents)
        self.context_length, self.batch_size = (
            _count("context_length", context_length),
            _count("batch_size", batch_size),
        )
        self.boundary_id = boundary_id
        if not len(self.store):
            raise ValueError("the corpus is empty: it has no documents")
        self._seed, self._stream = generator.seed, generator.stream
        self._go_to(0, 0)

    def next_batch(self) -> Batch:
        """Return the next `batch_size` documents."""
        rows = []
        for _ in range(self.batch_size):
            if self.position == len(self.store):
                self._go_to(self.epoch + 1, 0)
            rows.append(self.store.row(self._order[self.position], self.context_length, self.boundary_id))
            self.position += 1
        return _padded(rows, self.boundary_id)

    def get_state(self) -> dict[str, Any]:
        """Return what `set_state` needs to continue with the very same batches, as JSON values."""
        random = {"seed": self._seed, "stream": self._stream}
        return {
            "kind": "documents",
            "documents": len(self.store),
            **random,
            "epoch": self.epoch,
            "position": self.position,
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue where `get_state` was called. Raises ValueError if the state is of another corpus or
        malformed.
        """
        limits = {"seed": 2**64, "stream": 2**64, "epoch": 2**24 - 1, "position": len(self.store) + 1}
        _check_state(state, {"kind": "documents", "documents": len(self.store)}, limits)
        for key, limit in limits.items():
            if type(state[key]) is not int or not 0 <= state[key] < limit:
                raise ValueError(
                    f"{key} in the state of the data must be from 0 to {limit - 1}, not {state[key]!r}"
                )
        self._seed, self._stream = state["seed"], state["stream"]
        self._go_to(state["epoch"], state["position"])

    def _go_to(self, epoch: int, position: int) -> None:
        generator = Generator(self._seed, self._stream)
        # Each epoch has 2**40 blocks of random words to itself, after those that anyone draws from the
        # beginning.
        generator.set_state({"seed": self._seed, "stream": self._stream, "position": (epoch + 1) << 40})
        self.epoch, self.position, self._order = epoch, position, generator.permutation(len(self.store))


def evaluation_batches(
    items: TokenStream | DocumentStore,
    context_length: int,
    batch_size: int,
    count: int,
    boundary_id: int | None = None,
) -> list[Batch]:
    """Return at most `count` batches, always the same ones, of windows (or documents) spread evenly over
    `items`.

    Windows do not overlap and nothing is taken twice: a small validation part gives fewer batches, the last
    one smaller.

    Args:
        items: the validation part.
        context_length: tokens a row.
        batch_size: rows a batch.
        count: batches.
        boundary_id: the token around documents; only for a `DocumentStore`.

    Raises:
        ValueError: there is no document, or no window of context_length + 1 tokens, or no `boundary_id` for
            documents.
        TypeError: a size that is no int.
    """
    wanted = _count("count", count) * _count("batch_size", batch_size)
    _count("context_length", context_length)
    if isinstance(items, DocumentStore):
        if boundary_id is None:
            raise ValueError("documents need the id of the boundary token: pass boundary_id")
        if not len(items):
            raise ValueError("the validation part is empty: it has no documents")
        total = min(wanted, len(items))
        rows = [
            items.row(number * len(items) // total, context_length, boundary_id) for number in range(total)
        ]
        return [
            _padded(rows[start : start + batch_size], boundary_id) for start in range(0, total, batch_size)
        ]
    _require_window(items, context_length, "the validation part")
    total = min(wanted, (len(items) - 1) // context_length)
    last = len(items) - 1 - context_length
    starts = [number * last // max(1, total - 1) for number in range(total)]
    return [_windows(items, starts[i : i + batch_size], context_length) for i in range(0, total, batch_size)]


Items = TypeVar("Items", TokenStream, DocumentStore)


def split_train_validation(items: Items, fraction: float = 0.1, seed: int = 0) -> tuple[Items, Items]:
    """Return `items` split into a part to train on and one to validate on, both of the type of `items` and
    neither empty.

    Of a `TokenStream`, the tail is validation. Of a `DocumentStore`, documents are drawn by `seed`; both
    parts keep their order. Token storage is shared, not copied.

    Args:
        items: tokens or documents.
        fraction: of `items` that is validation, in (0, 1).
        seed: of the draw.

    Raises:
        ValueError: the fraction is not between 0 and 1, or there are fewer than two items.
    """
    if not 0.0 < fraction < 1.0:
        raise ValueError(f"fraction must be above 0 and below 1, not {fraction}")
    count = len(items)
    if count < 2:
        raise ValueError(
            f"the corpus is too short to keep a part for validation: it has {count} items, 2 are needed"
        )
    cut = count - min(count - 1, max(1, round(count * fraction)))
    whole: Any = items  # each branch returns the type it was given
    if isinstance(items, TokenStream):
        return whole.view(0, cut), whole.view(cut, count)
    order = Generator(seed).permutation(count)
    return whole.select(sorted(order[:cut])), whole.select(sorted(order[cut:]))


def _windows(stream: TokenStream, starts: Sequence[int], context_length: int) -> Batch:
    inputs, targets = array("i"), array("i")
    for start in starts:
        window = stream.int32(start, start + context_length + 1)
        inputs += window[:-1]
        targets += window[1:]
    return Batch(inputs, targets, (len(starts), context_length))


def _padded(rows: Sequence[array[int]], padding_id: int) -> Batch:
    length = max(map(len, rows))
    inputs, targets = array("i"), array("i")
    for row in rows:
        padding = length - len(row)
        inputs += row[:-1] + array("i", [padding_id]) * padding
        targets += row[1:] + array("i", [IGNORED_TARGET]) * padding
    return Batch(inputs, targets, (len(rows), length - 1))


def _require_window(stream: TokenStream, context_length: int, name: str) -> None:
    if not len(stream):
        raise ValueError(f"{name} is empty: it has no tokens")
    if len(stream) <= context_length:
        raise ValueError(
            f"{name} has {len(stream)} tokens, but a context of {context_length} needs {context_length + 1}: "
            + (
                f"use --context-length {len(stream) - 1} or less, or more text"
                if len(stream) > 1
                else "use more text"
            )
        )


def _count(name: str, value: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be 1 or more, not {value}")
    return value


def _unsigned(tokens: Iterable[int]) -> array[int]:
    try:
        return array("I", tokens)
    except OverflowError as error:
        raise ValueError(f"token ids must be from 0 to 2**31 - 1: {error}") from None


def _check_state(state: Mapping[str, Any], fixed: Mapping[str, Any], others: Iterable[str]) -> None:
    keys = [*fixed, *others]
    if not isinstance(state, Mapping) or set(state) != set(keys):
        raise ValueError(f"the state of the data must have exactly the keys {', '.join(keys)}, not {state!r}")
    for key, value in fixed.items():
        if state[key] != value:
            raise ValueError(
                f"the state of the data is of another corpus: {key} is {state[key]!r} there, {value!r} here"
            )
