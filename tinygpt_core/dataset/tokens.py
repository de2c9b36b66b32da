"""A long row of token ids, in memory or in a file.

Ids are kept as the smallest unsigned integers that hold the vocabulary, in 1, 2 or 4 bytes each, not as a
list of ints.
"""

from __future__ import annotations

import os
import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any

from ..files.atomic import Path, atomic_write
from ..files.reading import open_file

# Typecode -> the largest vocabulary that it holds (batches are int32, hence 2**31)
VOCABULARY_LIMITS = {"B": 2**8, "H": 2**16, "I": 2**31}
PIECE = 1 << 20  # ids looked at together


class FileIds(Sequence[int]):
    """Ids in a file, of which only what is asked for is read, each time anew.

    They could be mapped into memory instead; but where a mapped file is cut the system ends the process
    without a word, and here there is an error that says so.

    Args:
        file: open for reading bytes, little-endian.
        format: the `array` typecode of the ids.
        start, stop: which of the file's ids these are.
    """

    def __init__(self, file: Any, format: str, start: int, stop: int) -> None:
        self.file = file
        self.format = format
        self.itemsize = array(format).itemsize
        self.start = start
        self.stop = stop

    def __len__(self) -> int:
        return self.stop - self.start

    def part(self, start: int, stop: int) -> FileIds:
        """Returns `self[start:stop]` without reading anything."""
        first, last, _ = slice(start, stop).indices(len(self))
        return FileIds(self.file, self.format, self.start + first, self.start + max(first, last))

    def __getitem__(self, index: int | slice) -> Any:
        if not isinstance(index, slice):
            place = range(len(self))[index]
            return self._read(place, place + 1)[0]
        start, stop, step = index.indices(len(self))
        if step != 1:
            return memoryview(array(self.format, [self[place] for place in range(start, stop, step)]))
        return self._read(start, max(start, stop))

    def __iter__(self) -> Iterator[int]:
        for start in range(0, len(self), PIECE):
            yield from self[start : start + PIECE]

    def _read(self, start: int, stop: int) -> memoryview:
        """Returns ids as they stand in the file now.

        Raises:
            ValueError: the file has become shorter.
        """
        size = (stop - start) * self.itemsize
        offset = (self.start + start) * self.itemsize
        data = b""
        while len(data) < size:  # the system gives at most 2 GiB at once
            piece = self._read_bytes(offset + len(data), size - len(data))
            if not piece:
                break
            data = data + piece if data else piece
        if len(data) < size:
            raise ValueError(f"{self.file.name} was cut while it was in use: {size - len(data):,} bytes lack")
        if sys.byteorder == "big":
            ids = array(self.format, data)
            ids.byteswap()
            return memoryview(ids)
        return memoryview(data).cast(self.format)  # type: ignore[call-overload]

    def _read_bytes(self, offset: int, size: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self.file.fileno(), size, offset)
        self.file.seek(offset)  # on Windows
        return bytes(self.file.read(size))


class JoinedIds(Sequence[int]):
    """Ids in several files, one after the other as if they were in one; what is asked for is read, no more.

    Args:
        parts: the files' ids, all of one format.
        vocab_size: what is read is checked against it, since files of many gigabytes are not read to check
            them; None checks nothing.
    """

    def __init__(self, parts: Sequence[FileIds], vocab_size: int | None = None) -> None:
        self.parts = list(parts)
        self.format = self.parts[0].format
        self.vocab_size = vocab_size
        self._ends = list(accumulate(map(len, self.parts)))

    def __len__(self) -> int:
        return self._ends[-1]

    def part(self, start: int, stop: int) -> JoinedIds:
        """Returns `self[start:stop]` without reading anything."""
        first, last, _ = slice(start, stop).indices(len(self))
        pieces = [part.part(low, high) for part, low, high in self._within(first, last)]
        return JoinedIds(pieces or [self.parts[0].part(0, 0)], self.vocab_size)

    def __getitem__(self, index: int | slice) -> Any:
        if not isinstance(index, slice):
            place = range(len(self))[index]
            return self[place : place + 1][0]
        start, stop, step = index.indices(len(self))
        if step != 1:
            return memoryview(array(self.format, [self[place] for place in range(start, stop, step)]))
        pieces = [part[low:high] for part, low, high in self._within(start, stop)]
        if len(pieces) == 1:
            found = pieces[0]
        else:
            joined = memoryview(b"".join(piece.tobytes() for piece in pieces))
            found = joined.cast(self.format)  # type: ignore[call-overload]
        if self.vocab_size is not None:
            self._check(found, start)
        return found

    def _within(self, start: int, stop: int) -> Iterator[tuple[FileIds, int, int]]:
        """Yields the files of which something lies in a range, each with where it begins and ends there."""
        number = bisect_right(self._ends, start)
        while start < stop:
            first = self._ends[number] - len(self.parts[number])
            end = min(stop, self._ends[number])
            if end > start:
                yield self.parts[number], start - first, end - first
            start = end
            number += 1

    def _check(self, found: memoryview, start: int) -> None:
        """Raises ValueError where an id that was read is not in the vocabulary."""
        if len(found) and max(found) >= (self.vocab_size or 0):
            place = start + next(i for i, idx in enumerate(found) if idx >= (self.vocab_size or 0))
            number = bisect_right(self._ends, place)
            inside = place - (self._ends[number] - len(self.parts[number]))
            raise ValueError(
                f"{self.parts[number].file.name}: token id {found[place - start]} at position {inside} "
                f"does not fit vocab_size {self.vocab_size}"
            )

    def __iter__(self) -> Iterator[int]:
        for start in range(0, len(self), PIECE):
            yield from self[start : start + PIECE]


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
        is_compact = isinstance(tokens, array) and tokens.typecode in VOCABULARY_LIMITS
        data = tokens if isinstance(tokens, array) and is_compact else unsigned_ids(tokens)
        self._data: memoryview | FileIds | JoinedIds = memoryview(data)
        self.vocab_size = self._checked(max(data, default=0) + 1 if vocab_size is None else vocab_size)
        typecode = next(code for code, limit in VOCABULARY_LIMITS.items() if self.vocab_size <= limit)
        if typecode != data.typecode:
            self._data = memoryview(array(typecode, data))

    @classmethod
    def open(cls, path: Path, typecode: str = "H", vocab_size: int | None = None) -> TokenStream:
        """Returns the ids of a file of little-endian integers, which stays open: only what is asked for is
        read, whatever its size.

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
        if typecode not in VOCABULARY_LIMITS:
            raise ValueError(f"typecode must be 'B', 'H' or 'I' (1, 2 or 4 bytes a token), not {typecode!r}")
        itemsize = array(typecode).itemsize
        file = open_file(path)
        size = os.fstat(file.fileno()).st_size
        if not size or size % itemsize:
            file.close()
            raise ValueError(
                f"{os.fspath(path)} has {size} bytes: not a whole number of {itemsize}-byte tokens"
            )
        stream = cls._of(FileIds(file, typecode, 0, size // itemsize), VOCABULARY_LIMITS[typecode])
        if vocab_size is not None:
            stream.vocab_size = stream._checked(vocab_size, f"{os.fspath(path)}: ")
        return stream

    def write(self, path: Path) -> None:
        """Writes the ids as little-endian integers, for `open` with this `typecode`."""
        data = self[:]
        if sys.byteorder == "big":
            data.byteswap()
        atomic_write(path, data.tobytes())

    @classmethod
    def joined(cls, streams: Sequence[TokenStream], vocab_size: int) -> TokenStream:
        """Returns the ids of several files, each opened by `open`, as one stream: nothing is read, whatever
        their size, until it is asked for, and then it is checked against `vocab_size`.
        """
        parts = [stream._data for stream in streams]
        return cls._of(JoinedIds(parts, vocab_size), vocab_size)  # type: ignore[arg-type]

    @classmethod
    def _of(cls, view: memoryview | FileIds | JoinedIds, vocab_size: int) -> TokenStream:
        """Returns a stream over ids that are there already, and are not checked."""
        stream = cls.__new__(cls)
        stream._data = view
        stream.vocab_size = vocab_size
        return stream

    def _checked(self, vocab_size: int, place: str = "") -> int:
        """Returns `vocab_size`, where all ids are below it."""
        if require_count("vocab_size", vocab_size) > 2**31:
            raise ValueError(f"vocab_size {vocab_size} is too large: token ids must be from 0 to 2**31 - 1")
        position = first_outside(self._data, vocab_size)
        if position is not None:
            raise ValueError(
                f"{place}token id {self._data[position]} at position {position} "
                f"does not fit vocab_size {vocab_size}"
            )
        return vocab_size

    @property
    def typecode(self) -> str:
        """The `array` typecode of the ids: "B", "H" or "I"."""
        return self._data.format

    def view(self, start: int, stop: int) -> TokenStream:
        """Returns `self[start:stop]` as a stream that shares the storage."""
        if isinstance(self._data, (FileIds, JoinedIds)):
            return self._of(self._data.part(start, stop), self.vocab_size)
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
        """Returns `self[start:stop]` as `array("i")`, the type of batches."""
        return array("i", self._data[start:stop])


def require_window(stream: TokenStream, context_length: int, name: str) -> None:
    """Checks that a stream, which errors call `name`, is long enough for one row and its targets.

    Raises:
        ValueError: it has fewer than context_length + 1 tokens; the message says what would work.
    """
    if not len(stream):
        raise ValueError(f"{name} is empty: it has no tokens")
    if len(stream) <= context_length:
        shorter = f"use --context-length {len(stream) - 1} or less, or more text"
        raise ValueError(
            f"{name} has {len(stream)} tokens, but a context of {context_length} needs {context_length + 1}: "
            + (shorter if len(stream) > 1 else "use more text")
        )


def require_count(name: str, value: int) -> int:
    """Returns `value`, where it is a number of things.

    Raises:
        TypeError: it is no int; the message says `name`.
        ValueError: it is below 1.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be 1 or more, not {value}")
    return value


def unsigned_ids(tokens: Iterable[int]) -> array[int]:
    """Returns ids as an array of unsigned integers of 4 bytes.

    Raises:
        ValueError: one is negative or too large.
    """
    try:
        return array("I", tokens)
    except OverflowError as error:
        raise ValueError(f"token ids must be from 0 to 2**31 - 1: {error}") from None


def first_outside(ids: memoryview | FileIds | JoinedIds, vocab_size: int) -> int | None:
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
    upper_at = 1 if sys.byteorder == "little" else 0  # which byte of an id is the upper one
    for start in range(0, len(ids), PIECE):
        piece = ids[start : start + PIECE]
        if ids.format == "H":
            data = piece.tobytes()
            high = data[upper_at::2].translate(upper_marks)
            low = data[1 - upper_at :: 2].translate(lower_marks)
            common = int.from_bytes(high, "little") & int.from_bytes(low, "little")
            if common:
                lowest_bit = (common & -common).bit_length() - 1
                return start + lowest_bit // 8
        elif max(piece) >= vocab_size:
            return start + next(i for i, idx in enumerate(piece) if idx >= vocab_size)
    return None
