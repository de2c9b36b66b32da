"""Batches for a language model: rows of token ids and their targets, in an order that can be resumed exactly.

Two ways to cut text into training rows of at most L = `context_length` tokens, each token's target being the
next one:

    one long text, `StreamBatches`: windows that begin at a random place s
        row      tokens[s : s + L]
        targets  tokens[s + 1 : s + L + 1]

    documents, `DocumentBatches`: a document a row
        row      boundary, d0, d1, ...         padded with the boundary
        targets  d0, d1, ..., boundary         padded with -1, which does not count
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from ..random import Generator
from .datasets import DocumentStore
from .tokens import TokenStream, require_count, require_window

IGNORED_TARGET = -1  # "no target here": the loss of such a position does not count
Items = TypeVar("Items", TokenStream, DocumentStore)


class Batch(NamedTuple):
    """Token ids and their targets, flat `array("i")` in C order of `shape` (batch, time); targets of -1 do
    not count. Where a row has several documents, `documents` says which one each token is of, in the same
    order; otherwise it is None.
    """

    inputs: array[int]
    targets: array[int]
    shape: tuple[int, int]
    documents: array[int] | None = None

    @property
    def num_targets(self) -> int:
        """How many targets count."""
        return len(self.targets) - self.targets.count(IGNORED_TARGET)


class Shards(NamedTuple):
    """A batch that is cut into shards, some of which are here: see `next_shards`.

    Attributes:
        batches: those that are here, by their number.
        num_targets: how many targets count, in all shards together.
    """

    batches: dict[int, Batch]
    num_targets: int


def shard_rows(rows: int, count: int, number: int) -> range:
    """Returns which of a batch's rows are in shard `number` of `count`: as even a division as there is.

    Raises:
        ValueError: there are fewer rows than shards.
    """
    if not 0 < count <= rows:
        raise ValueError(f"a batch of {rows} rows cannot be cut into {count} shards: each needs a row")
    return range(rows * number // count, rows * (number + 1) // count)


def _windows(stream: TokenStream, starts: Sequence[int], context_length: int) -> Batch:
    """Returns the batch of the windows that begin at `starts`."""
    inputs = array("i")
    targets = array("i")
    for start in starts:
        window = stream.int32(start, start + context_length + 1)
        inputs += window[:-1]
        targets += window[1:]
    return Batch(inputs, targets, (len(starts), context_length))


def _padded(rows: Sequence[array[int]], padding_id: int) -> Batch:
    """Returns the batch of rows with their last targets, padded to the length of the longest."""
    length = max(map(len, rows))
    inputs = array("i")
    targets = array("i")
    for row in rows:
        padding = length - len(row)
        inputs += row[:-1] + array("i", [padding_id]) * padding
        targets += row[1:] + array("i", [IGNORED_TARGET]) * padding
    return Batch(inputs, targets, (len(rows), length - 1))


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
        self.context_length = require_count("context_length", context_length)
        self.batch_size = require_count("batch_size", batch_size)
        self.generator = generator
        require_window(self.stream, context_length, "the corpus")

    def next_batch(self) -> Batch:
        """Returns the next batch, of shape (batch_size, context_length); its windows are drawn now."""
        return _windows(self.stream, self._draw_starts(), self.context_length)

    def next_shards(self, count: int, wanted: Iterable[int]) -> Shards:
        """Returns some shards of the next batch, whose rows are cut into `count` of them.

        The places of all windows are drawn, so that the stream of random numbers goes on as with
        `next_batch`; only the windows of the wanted shards are read.
        """
        starts = self._draw_starts()
        rows = {number: shard_rows(self.batch_size, count, number) for number in wanted}
        batches = {
            number: _windows(self.stream, starts[each.start : each.stop], self.context_length)
            for number, each in rows.items()
        }
        return Shards(batches, self.batch_size * self.context_length)

    def _draw_starts(self) -> list[int]:
        end = len(self.stream) - self.context_length
        return [self.generator.integer(0, end) for _ in range(self.batch_size)]

    def get_state(self) -> dict[str, Any]:
        """Returns what `set_state` needs to continue with the very same batches, as JSON values."""
        return {"kind": "stream", "tokens": len(self.stream), "generator": self.generator.get_state()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continues where `get_state` was called.

        Raises:
            ValueError: the state is of another corpus or malformed.
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

    Attributes:
        epoch: how many times all documents have been visited.
        position: how many have been visited in this epoch.

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
        self.context_length = require_count("context_length", context_length)
        self.batch_size = require_count("batch_size", batch_size)
        self.boundary_id = boundary_id
        if not len(self.store):
            raise ValueError("the corpus is empty: it has no documents")
        self._seed = generator.seed
        self._stream = generator.stream
        self._go_to(0, 0)

    def next_batch(self) -> Batch:
        """Returns the next `batch_size` documents."""
        return _padded(list(map(self._row, self._next_documents())), self.boundary_id)

    def next_shards(self, count: int, wanted: Iterable[int]) -> Shards:
        """Returns some shards of the next batch, whose rows are cut into `count` of them.

        Each is as long as its own longest document; of the others only the lengths are looked at.
        """
        documents = self._next_documents()
        batches = {}
        for number in wanted:
            chosen = shard_rows(self.batch_size, count, number)
            rows = [self._row(index) for index in documents[chosen.start : chosen.stop]]
            batches[number] = _padded(rows, self.boundary_id)
        longest = self.context_length
        num_targets = sum(min(self.store.length(index) + 1, longest) for index in documents)
        return Shards(batches, num_targets)

    def _next_documents(self) -> list[int]:
        """Returns the numbers of the next `batch_size` documents, and goes on."""
        documents = []
        for _ in range(self.batch_size):
            if self.position == len(self.store):
                self._go_to(self.epoch + 1, 0)
            documents.append(self._order[self.position])
            self.position += 1
        return documents

    def _row(self, index: int) -> array[int]:
        return self.store.row(index, self.context_length, self.boundary_id)

    def get_state(self) -> dict[str, Any]:
        """Returns what `set_state` needs to continue with the very same batches, as JSON values."""
        return {
            "kind": "documents",
            "documents": len(self.store),
            "seed": self._seed,
            "stream": self._stream,
            "epoch": self.epoch,
            "position": self.position,
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continues where `get_state` was called.

        Raises:
            ValueError: the state is of another corpus or malformed.
        """
        limits = {"seed": 2**64, "stream": 2**64, "epoch": 2**24 - 1, "position": len(self.store) + 1}
        _check_state(state, {"kind": "documents", "documents": len(self.store)}, limits)
        for key, limit in limits.items():
            if type(state[key]) is not int or not 0 <= state[key] < limit:
                raise ValueError(
                    f"{key} in the state of the data must be from 0 to {limit - 1}, not {state[key]!r}"
                )
        self._seed = state["seed"]
        self._stream = state["stream"]
        self._go_to(state["epoch"], state["position"])

    def _go_to(self, epoch: int, position: int) -> None:
        """Goes to a place in the data, which is a number of epochs and of documents in the next."""
        generator = Generator(self._seed, self._stream)
        # Each epoch has 2**40 blocks of random words to itself, after those that anyone draws from the
        # beginning.
        generator.set_state({"seed": self._seed, "stream": self._stream, "position": (epoch + 1) << 40})
        self.epoch = epoch
        self.position = position
        self._order = generator.permutation(len(self.store))


def _check_state(state: Mapping[str, Any], fixed: Mapping[str, Any], others: Iterable[str]) -> None:
    """Checks that a state has the keys of both and no more, and the values of `fixed`."""
    keys = [*fixed, *others]
    if not isinstance(state, Mapping) or set(state) != set(keys):
        raise ValueError(f"the state of the data must have exactly the keys {', '.join(keys)}, not {state!r}")
    for key, value in fixed.items():
        if state[key] != value:
            raise ValueError(
                f"the state of the data is of another corpus: {key} is {state[key]!r} there, {value!r} here"
            )


def evaluation_batches(
    items: TokenStream | DocumentStore,
    context_length: int,
    batch_size: int,
    count: int,
    boundary_id: int | None = None,
) -> list[Batch]:
    """Returns at most `count` batches, always the same ones, of windows (or documents) spread evenly over
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
    wanted = require_count("count", count) * require_count("batch_size", batch_size)
    require_count("context_length", context_length)
    if isinstance(items, DocumentStore):
        if boundary_id is None:
            raise ValueError("documents need the id of the boundary token: pass boundary_id")
        if not len(items):
            raise ValueError("the validation part is empty: it has no documents")
        total = min(wanted, len(items))
        numbers = [i * len(items) // total for i in range(total)]
        rows = [items.row(number, context_length, boundary_id) for number in numbers]
        return [_padded(rows[i : i + batch_size], boundary_id) for i in range(0, total, batch_size)]
    require_window(items, context_length, "the validation part")
    total = min(wanted, (len(items) - 1) // context_length)
    last = len(items) - 1 - context_length
    starts = [i * last // max(1, total - 1) for i in range(total)]
    return [_windows(items, starts[i : i + batch_size], context_length) for i in range(0, total, batch_size)]


def split_train_validation(items: Items, fraction: float = 0.1, seed: int = 0) -> tuple[Items, Items]:
    """Returns `items` split into a part to train on and one to validate on, both of the type of `items` and
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
            "the corpus is too short to keep a part for validation: "
            f"it has {count} of the 2 tokens or documents that are needed"
        )
    cut = count - min(count - 1, max(1, round(count * fraction)))
    whole: Any = items  # each branch returns the type it was given
    if isinstance(items, TokenStream):
        return whole.view(0, cut), whole.view(cut, count)
    order = Generator(seed).permutation(count)
    return whole.select(sorted(order[:cut])), whole.select(sorted(order[cut:]))
