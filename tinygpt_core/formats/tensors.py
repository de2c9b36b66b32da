"""The tensors in one or several safetensors files, memory-mapped where that is possible."""

from __future__ import annotations

import mmap
import sys
from collections.abc import Iterable, Iterator

from .. import backends
from ..buffer.base import Buffer
from ..dtype import DType
from ..files.safetensors import Entry, SafetensorsHeader, load_safetensors, read_safetensors_header
from .base import FormatError, shortened

MAPPABLE = {"F32": DType.float32, "F64": DType.float64}
"""What a backend may use as it lies in a file, by its name there."""
FLOATING = (*MAPPABLE, "F16", "BF16")
"""What weights may be."""
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
        self._maps: dict[str, memoryview] = {}  # for each file that was mapped its bytes
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

    def read(self, name: str) -> Buffer:
        """Returns a tensor, in its shape, on the active backend, over memory-mapped pages where the elements
        lie there as they are needed.

        Raises:
            FormatError: the file has changed since its header was read.
        """
        entry = self.entries[name]
        path = self._files[name]
        dtype = MAPPABLE.get(entry.dtype_name)
        data_start = self.headers[path].data_start
        start = data_start + entry.start
        is_empty = entry.start == entry.stop
        if dtype is None or sys.byteorder == "big" or start % dtype.itemsize or is_empty:
            return load_safetensors(path, [name])[name]
        memory = self._map(path)[start : data_start + entry.stop]
        return backends.active().from_memory(memory, entry.shape, dtype)

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
        with open(self._files[name], "rb") as file:
            file.seek(self.headers[self._files[name]].data_start + entry.start)
            for start in range(entry.start, entry.stop, PIECE):
                yield file.read(min(PIECE, entry.stop - start))

    def _map(self, path: str) -> memoryview:
        """Returns the bytes of a file, mapped; what is written there stays in this process."""
        if path not in self._maps:
            header = self.headers[path]
            size = header.data_start + max((entry.stop for entry in header.entries.values()), default=0)
            with open(path, "rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            if len(mapped) != size:
                raise FormatError(f"{path} was changed while it was read")
            self._maps[path] = memoryview(mapped)
        return self._maps[path]
