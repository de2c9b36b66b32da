"""Files that may come from anywhere, read up to a limit: a hostile one cannot fill the memory."""

from __future__ import annotations

import os
from typing import Any

from .atomic import Path

PIECE = 1 << 20  # bytes read at once where the size is not known


class FileTooLargeError(ValueError):
    """A file that has more bytes than its reader takes; the message names the file and the limit."""


class NotAFileError(ValueError):
    """A pipe, a device or a directory where a file is read; the message names it."""


def open_file(path: Path) -> Any:
    """Returns a regular file, or what a link leads to, open for reading bytes.

    A pipe would make its reader wait, and a device may have no end: neither is opened.

    Raises:
        NotAFileError: it is no regular file.
        OSError: it cannot be read.
    """
    if os.path.exists(path) and not os.path.isdir(path) and not os.path.isfile(path):
        raise NotAFileError(f"{os.fspath(path)} is a pipe or a device, not a file")
    return open(path, "rb")


def read_limited(path: Path, maximum_bytes: int, pipes: bool = False) -> bytes:
    """Returns the bytes of a file, if there are at most `maximum_bytes`; a larger one is not read at all.

    Args:
        pipes: whether a pipe or a device is read too. Its size is not known before, and it may have no end:
            reading stops soon after the limit. Otherwise nothing is read of it.

    Raises:
        FileTooLargeError: there are more.
        OSError: it cannot be read.
    """
    too_large = FileTooLargeError(
        f"{os.fspath(path)} has more than {maximum_bytes:,} bytes; at most that many are read"
    )
    with open(path, "rb") if pipes else open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > maximum_bytes:
            raise too_large
        if not pipes:
            return bytes(file.read(size))
        pieces = []
        total = 0
        while piece := file.read(PIECE):
            pieces.append(piece)
            total += len(piece)
            if total > maximum_bytes:
                raise too_large
        return b"".join(pieces)
