"""The tensors in one or several safetensors files, each read when it is asked for.

They are read, and not memory-mapped: a mapped file that somebody cuts while the model lives ends the process
with a SIGBUS, which no program can handle, and one that somebody writes to changes the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from ..buffer.base import Buffer
from ..files.reading import open_file
from ..files.safetensors import HALF, Entry, OpenSafetensors, SafetensorsHeader, read_safetensors_header
from .base import FormatError, shortened

FLOATING = ("F32", "F64", *HALF)
"""What weights may be."""
MOST_TENSORS = 1 << 20  # that the tensors of a file may be divided into
PIECE = 1 << 20  # bytes that are compared at once


class Tensors:
    """The tensors of safetensors files by name: the headers are read at once, and a tensor when it is asked
    for.

    Args:
        paths: the files; no name may stand in two of them.

    Attributes:
        entries: for each name what the header says.

    Raises:
        SerializationError: a file breaks a rule of the format.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self.entries: dict[str, Entry] = {}
        self.headers: dict[str, SafetensorsHeader] = {}
        self._files: dict[str, str] = {}  # for each name the file that has it
        for path in paths:
            header = read_safetensors_header(path)
            if twice := self._files.keys() & header.entries.keys():
                name = min(twice)
                raise FormatError(
                    f"tensor {shortened(name)} stands in two files, {self._files[name]} and {path}"
                )
            self.headers[path] = header
            self.entries |= header.entries
            self._files |= dict.fromkeys(header.entries, path)

    def divide(self, name: str, parts: Sequence[str]) -> None:
        """Has matrices that stand in one tensor, (experts, parts * rows, columns), as tensors of their own.

        Args:
            name: of the tensor, which is known no more. One of another shape stays as it is.
            parts: what the matrices of an expert are called, in their order; {} stands for its number.

        Raises:
            FormatError: a name is there already, or there are very many experts.
        """
        entry = self.entries[name]
        if len(entry.shape) != 3 or entry.shape[1] % len(parts) != 0:
            return
        experts, rows, columns = entry.shape
        if len(self.entries) + experts * len(parts) > MOST_TENSORS:
            raise FormatError(f"tensor {shortened(name)} has {experts:,} experts, which are too many")
        shape = (rows // len(parts), columns)
        size = (entry.stop - entry.start) // max(1, experts * len(parts))
        for number in range(experts * len(parts)):
            expert, part = divmod(number, len(parts))
            start = entry.start + number * size
            self._add(parts[part].format(expert), Entry(entry.dtype_name, shape, start, start + size), name)
        del self.entries[name]

    def rename(self, name: str, other: str) -> None:
        """Has a tensor known by another name; raises FormatError where that is there already."""
        self._add(other, self.entries[name], name)
        del self.entries[name]

    def _add(self, name: str, entry: Entry, source: str) -> None:
        """Adds a tensor that lies in the file of another one."""
        if name in self.entries:
            raise FormatError(f"tensor {shortened(name)} stands there by itself, and in {shortened(source)}")
        self.entries[name] = entry
        self._files[name] = self._files[source]

    def read(self, name: str) -> Buffer:
        """Returns a tensor, in its shape, on the active backend, which may keep the bytes that were read.

        Halves become float32 piece by piece: beside what they become, only a piece takes memory.

        Raises:
            SerializationError: the file has changed since its header was read.
        """
        with self._opened(name) as tensors:
            return tensors[name]

    def row_blocks(self, name: str) -> Iterator[Buffer]:
        """Yields a matrix a few rows at a time, as `read` would; its errors are those."""
        with self._opened(name) as tensors:
            yield from tensors.row_blocks(name)

    def _opened(self, name: str) -> OpenSafetensors:
        """Returns the file that has a tensor, opened."""
        path = self._files[name]
        # With the tensors that were divided and renamed, which the file knows by other names
        return OpenSafetensors(path, self.headers[path]._replace(entries=self.entries))

    def are_equal(self, first: str, second: str) -> bool:
        """Whether two tensors have one shape and hold the same numbers.

        Raises:
            SerializationError: a file has changed since its header was read.
        """
        if self.entries[first].shape != self.entries[second].shape:
            return False
        if self.entries[first].dtype_name != self.entries[second].dtype_name:
            return self.read(first).to_array() == self.read(second).to_array()
        return all(a == b for a, b in zip(self._pieces(first), self._pieces(second), strict=True))

    def _pieces(self, name: str) -> Iterator[bytes]:
        """Yields the bytes of a tensor, `PIECE` at a time."""
        entry = self.entries[name]
        with open_file(self._files[name]) as file:
            file.seek(self.headers[self._files[name]].data_start + entry.start)
            for start in range(entry.start, entry.stop, PIECE):
                piece = file.read(min(PIECE, entry.stop - start))
                if len(piece) != min(PIECE, entry.stop - start):
                    raise FormatError(
                        f"{self._files[name]} was cut meanwhile: it ends within tensor {shortened(name)}"
                    )
                yield piece
