"""Images to learn from: files in the IDX format, and MNIST, which is published in it.

An IDX file is, all big-endian: two zero bytes, a byte for the type of the elements, a byte for the number of
axes, the size of each axis in four bytes, and the elements in C order. It may be compressed with gzip,
whatever its name.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import os
import sys
import zlib
from array import array
from typing import IO, Any

from ..buffer.base import Buffer
from ..dtype import DType
from ..files.atomic import Path
from ..shape import Shape
from ..tensor import Tensor
from .corpora import CorpusError, Download, downloaded

TYPECODES = {0x08: "B", 0x09: "b", 0x0B: "h", 0x0C: "i", 0x0D: "f", 0x0E: "d"}
MAXIMUM_ELEMENTS = 1 << 30  # bytes; what a few megabytes of gzip could fill otherwise
DEFLATE_RATIO = 1032  # at most; a header that promises more than the file could hold is wrong
_MIRROR = "https://storage.googleapis.com/cvdf-datasets/mnist/"
MNIST: dict[str, tuple[Download, str]] = {
    "train-images-idx3-ubyte": (
        Download(
            f"{_MIRROR}train-images-idx3-ubyte.gz",
            9_912_422,
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        ),
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ),
    "train-labels-idx1-ubyte": (
        Download(
            f"{_MIRROR}train-labels-idx1-ubyte.gz",
            28_881,
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        ),
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ),
    "t10k-images-idx3-ubyte": (
        Download(
            f"{_MIRROR}t10k-images-idx3-ubyte.gz",
            1_648_877,
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        ),
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    ),
    "t10k-labels-idx1-ubyte": (
        Download(
            f"{_MIRROR}t10k-labels-idx1-ubyte.gz",
            4_542,
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
}
"""For each file of MNIST, its compressed form as published, and the SHA-256 of the IDX file in it, however it
is compressed.
"""


def read_idx(path: Path, sha256: str | None = None) -> tuple[Shape, array[Any]]:
    """Reads an IDX file, plain or compressed with gzip.

    Args:
        path: the file.
        sha256: what the hash of the uncompressed file must be, if that is known.

    Returns:
        The shape, and the elements in C order.

    Raises:
        CorpusError: the file cannot be read, is no IDX file, ends too early, goes on too long, or is another
            than expected. No more memory is taken than the file can fill.

    Source: http://yann.lecun.com/exdb/mnist/, "The IDX file format".
    """
    path = os.fspath(path)
    try:
        with open(path, "rb") as file:
            return _parse(file, path, os.fstat(file.fileno()).st_size, sha256)
    except OSError as error:
        raise CorpusError(f"cannot read {path}: {error.strerror or error}") from error


def _parse(file: IO[bytes], path: str, size: int, sha256: str | None) -> tuple[Shape, array[Any]]:
    """Returns what an open file of `size` bytes holds, which errors call `path`."""
    compressed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    stream: Any = gzip.GzipFile(fileobj=file) if compressed else file
    largest = min(size * DEFLATE_RATIO if compressed else size, MAXIMUM_ELEMENTS)
    try:
        start = stream.read(4)
        if len(start) < 4 or start[:2] != b"\0\0" or start[2] not in TYPECODES:
            raise CorpusError(
                f"{path} is no IDX file: it starts with {start.hex(' ') or 'nothing'}, "
                f"not with 00 00, a type and a number of axes"
            )
        values = array(TYPECODES[start[2]])
        axes = start[3]
        sizes = stream.read(4 * axes)
        shape = tuple(int.from_bytes(sizes[i : i + 4], "big") for i in range(0, len(sizes), 4))
        needed = math.prod(shape) * values.itemsize
        if len(sizes) < 4 * axes or needed > largest:
            raise CorpusError(
                f"{path} is truncated or no IDX file: elements of shape {shape} take {needed:,} bytes, "
                f"but the file can hold {largest:,}"
            )
        data = stream.read(needed + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise CorpusError(f"{path} is damaged: {error}") from error
    if len(data) < needed:
        raise CorpusError(
            f"{path} is truncated: shape {shape} takes {needed:,} bytes, but only {len(data):,} follow"
        )
    if len(data) > needed:
        raise CorpusError(f"{path} is too long: shape {shape} takes {needed:,} bytes, but more follow")
    if sha256 is not None:
        found = hashlib.sha256(start + sizes + data).hexdigest()
        if found != sha256:
            raise CorpusError(
                f"{path} is not the published file: its content has SHA-256 {found}, not {sha256}"
            )
    values.frombytes(data)
    if sys.byteorder == "little":
        values.byteswap()
    return shape, values


def load_mnist(
    part: str = "train", folder: Path | None = None, limit: int | None = None, verify: bool = True
) -> tuple[Tensor, Tensor]:
    """Returns images and labels of MNIST, handwritten digits.

    Args:
        part: "train" (60,000 images) or "test" (10,000).
        folder: where the two IDX files of the part lie, under their published names, with or without `.gz`;
            by default they are fetched once, verified and kept in the cache.
        limit: only so many, from the front.
        verify: whether files in the folder must be MNIST's, to the bit. Pass False for other data in the same
            form.

    Returns:
        float32 images (N, 1, height, width) with values from 0 to 1, and int32 labels (N,).

    Raises:
        CorpusError: a file is missing, damaged or not MNIST's, or images and labels do not belong together.

    Source: LeCun, Cortes, Burges, "The MNIST database of handwritten digits", 1998.
    """
    names = {"train": "train", "test": "t10k"}
    if part not in names:
        raise CorpusError(f"MNIST has the parts 'train' and 'test', not {part!r}")
    shape, pixels = _part(f"{names[part]}-images-idx3-ubyte", folder, verify)
    labels_shape, labels = _part(f"{names[part]}-labels-idx1-ubyte", folder, verify)
    are_bytes = pixels.typecode == labels.typecode == "B"
    if len(shape) != 3 or labels_shape != shape[:1] or not are_bytes:
        raise CorpusError(
            f"images of shape {shape} and labels of shape {labels_shape} do not belong together: "
            f"expected bytes (N, H, W) and (N,)"
        )
    count, height, width = shape
    kept = count if limit is None else min(count, limit)
    shades = [value / 255.0 for value in range(256)]
    flat = array("f", map(shades.__getitem__, pixels[: kept * height * width]))
    classes = array(DType.int32.typecode, labels[:kept])
    return (
        Tensor(Buffer.from_array(flat, (kept, 1, height, width), DType.float32)),
        Tensor(Buffer.from_array(classes, (kept,), DType.int32)),
    )


def _part(name: str, folder: Path | None, verify: bool) -> tuple[Shape, array[Any]]:
    """Returns the contents of one of MNIST's files, which lies in a folder or is fetched."""
    download, sha256 = MNIST[name]
    if folder is None:
        advice = "pass the folder of the IDX files, if you have them"
        data = downloaded(name, download, os.path.join("mnist", f"{name}.gz"), advice)
        return _parse(io.BytesIO(data), name, len(data), sha256)
    paths = [os.path.join(folder, name + suffix) for suffix in ("", ".gz")]
    path = next(filter(os.path.isfile, paths), None)
    if path is None:
        raise CorpusError(
            f"there is neither {paths[0]} nor {paths[1]}: MNIST's files keep their published names"
        )
    return read_idx(path, sha256 if verify else None)
