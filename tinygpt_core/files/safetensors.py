"""Tensors in files: the safetensors format, read and written in pure Python.

A safetensors file is: the header's length as 8 bytes, little-endian; the header, a JSON object that gives
each tensor's dtype, shape and `data_offsets` (begin and end, in bytes, counted behind the header); then the
elements, little-endian, in C order, without holes. A file is hostile until its header has been checked
against its size: nothing is allocated and no tensor read before that.

Source: https://github.com/huggingface/safetensors (the format's README).
"""

from __future__ import annotations

import json
import os
import struct
import sys
from array import array
from collections.abc import Iterable, Iterator, Mapping
from math import prod
from typing import Any, NamedTuple

from .. import backends
from ..buffer.base import Buffer
from ..dtype import DType
from ..kernels.base import lookup
from ..kernels.halves import WidenHalves
from .atomic import Path, Written, atomic_write
from .json_objects import SerializationError, parse_json_object
from .reading import open_file

MAXIMUM_HEADER = 100_000_000
_NAMES = {
    DType.float64: "F64",
    DType.float32: "F32",
    DType.int64: "I64",
    DType.int32: "I32",
    DType.bool: "BOOL",
}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}
HALF = ("F16", "BF16")
"""Dtypes that are read as float32, which holds every value of either."""
_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("BOOL", "I8", "U8", "F8_E4M3", "F8_E5M2"), 8),
    **dict.fromkeys(("F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}  # of an element, of every dtype of the format in 2026; of one that came later, nothing is known
PIECE = 1 << 20  # elements that are read, or bytes that are widened to, at once where it need not be all
MAXIMUM_NAME = 80  # characters of a dtype's name


class Entry(NamedTuple):
    """One tensor of a header: its dtype as the file spells it, its shape, and its bytes [start, stop) behind
    the header.
    """

    dtype_name: str
    shape: tuple[int, ...]
    start: int
    stop: int


class SafetensorsHeader(NamedTuple):
    """What a safetensors file says of itself: the tensors by name, free text, and where in the file the
    elements begin.
    """

    entries: dict[str, Entry]
    metadata: dict[str, str]
    data_start: int


def safetensors_chunks(
    tensors: Mapping[str, Buffer], metadata: Mapping[str, str] | None = None
) -> Iterator[Any]:
    """Yields the bytes of a safetensors file of Buffers of any shape piece by piece: the header, then one
    tensor at a time.

    Args:
        tensors: what to write, by name.
        metadata: free text to put into the header.

    Raises:
        SerializationError: a name the format does not allow.

    Source: https://github.com/huggingface/safetensors (the format's README).
    """
    header: dict[str, Any] = {}
    if metadata:
        header["__metadata__"] = dict(metadata)
    # Wider elements first, so that every tensor begins at a multiple of its element's size.
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    position = 0
    for name in order:
        tensor = tensors[name]
        if not isinstance(name, str) or name == "__metadata__":
            raise SerializationError(
                f"a tensor's name is a string other than '__metadata__', not {name!r:.80}"
            )
        stop = position + tensor.numel * tensor.dtype.itemsize
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [position, stop],
        }
        position = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield struct.pack("<Q", len(text)) + text
    for name in order:
        flat = tensors[name].to_array()
        if sys.byteorder == "big":
            flat.byteswap()
        if flat:
            yield memoryview(flat).cast("B")


def save_safetensors(
    path: Path, tensors: Mapping[str, Buffer], metadata: Mapping[str, str] | None = None
) -> Written:
    """Writes named Buffers of any shape to a safetensors file, atomically, one at a time; returns its size
    and SHA-256.

    See `safetensors_chunks` for the format.

    Raises:
        SerializationError: a name the format does not allow.
        OSError: the file cannot be written.
    """
    return atomic_write(path, safetensors_chunks(tensors, metadata))


def read_safetensors_header(path: Path) -> SafetensorsHeader:
    """Returns a file's header, checked against every rule of the format and the file's size; reads nothing
    else.

    As the official reader does, it takes further fields of an entry, and `null` for no metadata. A dtype that
    is not known here is an error for who reads that tensor, not for the file.

    Raises:
        SerializationError: naming the file, the tensor and the rule that is broken.
        NotAFileError: it is a pipe or a device.
        OSError: the file cannot be read.

    Source: https://github.com/huggingface/safetensors (the format's README).
    """
    with open_file(path) as file:
        return _read_header(file, os.fspath(path))


def _read_header(file: Any, path: str) -> SafetensorsHeader:
    size = os.fstat(file.fileno()).st_size
    if size < 8:
        raise SerializationError(f"{path} has {size} bytes: too short for a safetensors file")
    (length,) = struct.unpack("<Q", file.read(8))
    if length > MAXIMUM_HEADER or 8 + length > size:
        raise SerializationError(
            f"{path} is truncated or no safetensors file: it claims a header of {length:,} bytes, "
            f"but has {size:,} bytes in all (and a header at most {MAXIMUM_HEADER:,})"
        )
    text = file.read(length)
    if text[:1] != b"{":
        raise SerializationError(f"{path}: a safetensors header begins with '{{', not {text[:1]!r}")
    header = parse_json_object(text, f"the header of {path}")
    metadata = header.pop("__metadata__", None)
    if metadata is None:  # as the official reader takes it
        metadata = {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise SerializationError(f"{path}: __metadata__ maps strings to strings")
    entries = {name: _entry(name, fields, path) for name, fields in header.items()}
    _require_no_holes(entries, size - 8 - length, path)
    return SafetensorsHeader(entries, metadata, 8 + length)


def _require_no_holes(entries: Mapping[str, Entry], end: int, path: str) -> None:
    """Checks that the tensors follow each other without a hole or an overlap, from byte 0 to byte `end`."""
    position = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
        if entry.start != position:
            kind = "overlaps what lies before it" if entry.start < position else "leaves a hole before it"
            raise SerializationError(
                f"{path}: tensor {name!r:.80} begins at byte {entry.start}, not {position}: it {kind}"
            )
        position = entry.stop
    if position != end:
        raise SerializationError(
            f"{path}: the tensors fill {position:,} bytes, but {end:,} follow the header: "
            f"truncated or tampered"
        )


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _entry(name: str, fields: Any, path: str) -> Entry:
    """Returns one checked entry of a header."""
    what = f"{path}: tensor {name!r:.80}"
    if not isinstance(fields, dict) or not {"dtype", "shape", "data_offsets"} <= set(fields):
        raise SerializationError(f"{what} lacks one of the fields dtype, shape and data_offsets")
    dtype_name = fields["dtype"]
    shape = fields["shape"]
    offsets = fields["data_offsets"]
    if not isinstance(dtype_name, str) or not 0 < len(dtype_name) <= MAXIMUM_NAME:
        raise SerializationError(f"{what}: a dtype is a name, not {dtype_name!r:.80}")
    if not isinstance(shape, list) or len(shape) > 64 or not all(map(_is_size, shape)):
        raise SerializationError(f"{what}: a shape is a list of sizes, not {str(shape)[:80]}")
    are_sizes = isinstance(offsets, list) and len(offsets) == 2 and all(map(_is_size, offsets))
    if not are_sizes or offsets[0] > offsets[1]:
        raise SerializationError(f"{what}: data_offsets are a begin and an end, not {str(offsets)[:80]}")
    start, stop = offsets
    bits = _BITS.get(dtype_name)
    if bits is not None and prod(shape) * bits != 8 * (stop - start):
        raise SerializationError(
            f"{what} of shape {str(shape)[:80]} and dtype {dtype_name} has {stop - start:,} bytes, "
            f"which is not {bits} bits an element"
        )
    return Entry(dtype_name, tuple(shape), start, stop)


def load_safetensors(path: Path, names: Iterable[str] | None = None) -> dict[str, Buffer]:
    """Returns the tensors of a file, in their shapes, on the active backend; F16 and BF16 become float32.

    See `read_safetensors_header` for the format.

    Args:
        names: which tensors to read; default: all.

    Raises:
        SerializationError: the file breaks a rule of the format, or a tensor has a dtype that no Buffer has.
        KeyError: no tensor has one of the names.
    """
    with OpenSafetensors(path) as tensors:
        chosen = list(tensors if names is None else names)
        for name in chosen:
            tensors.require_dtype(name)
        return {name: tensors[name] for name in chosen}


class OpenSafetensors(Mapping[str, Buffer]):
    """The tensors of a file that stays open, each read when it is asked for, onto the active backend.

    The file may be replaced or removed meanwhile, but not written to. F16 and BF16 become float32.

    Args:
        path: of the file.
        header: what `read_safetensors_header` has found there; default: it is read and checked now.

    Attributes:
        entries: for each name what the header says.

    Raises:
        SerializationError: the file breaks a rule of the format.
        NotAFileError: it is a pipe or a device.
        OSError: the file cannot be read.
    """

    def __init__(self, path: Path, header: SafetensorsHeader | None = None) -> None:
        self._path = os.fspath(path)
        self._file = open_file(path)
        try:
            self._header = header or _read_header(self._file, self._path)
        except BaseException:
            self._file.close()
            raise
        self.entries = self._header.entries

    def __enter__(self) -> OpenSafetensors:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, name: str) -> Buffer:
        """Returns a tensor, in its shape.

        Raises:
            KeyError: there is none of that name.
            SerializationError: it has a dtype that no Buffer has, or the file was cut meanwhile.
        """
        return self._read(name, 0, prod(self.entries[name].shape), self.entries[name].shape)

    def row_blocks(self, name: str) -> Iterator[Buffer]:
        """Yields a tensor of shape (rows, ...) a few rows at a time, so that it need not fit into memory.

        Raises:
            KeyError, SerializationError: as `tensors[name]` does.
        """
        count, *rest = self.entries[name].shape
        width = prod(rest)
        step = max(1, PIECE // max(width, 1))
        for start in range(0, count, step):
            rows = min(step, count - start)
            yield self._read(name, start * width, rows * width, (rows, *rest))

    def require_dtype(self, name: str) -> None:
        """Raises SerializationError unless a Buffer can have the dtype of a tensor."""
        dtype_name = self.entries[name].dtype_name
        if dtype_name not in _DTYPES and dtype_name not in HALF:
            known = ", ".join((*_DTYPES, *HALF))
            raise SerializationError(
                f"{self._path}: tensor {name!r:.80} has dtype {dtype_name}; dtypes read are {known}"
            )

    def _read(self, name: str, first: int, count: int, shape: tuple[int, ...]) -> Buffer:
        """Returns `count` elements of a tensor from the one with number `first` on, in a shape."""
        self.require_dtype(name)
        entry = self.entries[name]
        is_half = entry.dtype_name in HALF
        dtype = DType.float32 if is_half else _DTYPES[entry.dtype_name]
        size = 2 if is_half else dtype.itemsize
        memory = bytearray(count * dtype.itemsize)
        self._file.seek(self._header.data_start + entry.start + first * size)
        if not is_half:
            self._fill(memoryview(memory), name)
        # Halves a piece at a time: beside what they become, only a piece takes memory
        kernel = lookup(WidenHalves, backends.active())
        step = max(4, PIECE // 4 * 4)
        for start in range(0, len(memory) if is_half else 0, step):
            stop = min(start + step, len(memory))
            piece = bytearray((stop - start) // 2)
            self._fill(memoryview(piece), name)
            memory[start:stop] = kernel.forward(bytes(piece), entry.dtype_name)[0]
        if dtype is DType.bool and memory.translate(None, b"\0\1"):
            raise SerializationError(
                f"{self._path}: tensor {name!r:.80} is BOOL but has bytes other than 0 and 1"
            )
        if sys.byteorder == "big" and not is_half:
            flat = array(dtype.typecode)
            flat.frombytes(memory)
            flat.byteswap()
            return Buffer.from_array(flat, shape, dtype)
        return backends.active().from_memory(memoryview(memory), shape, dtype)

    def _fill(self, memory: memoryview, name: str) -> None:
        """Reads the next bytes of the file."""
        if self._file.readinto(memory) != len(memory):
            raise SerializationError(f"{self._path}: the file ends within tensor {name!r:.80}")
