"""Files that may come from anywhere, read up to a limit: a hostile one cannot fill the memory."""

from __future__ import annotations

import os

from .atomic import Path

PIECE = 1 << 20  # bytes read at once where the size is not known


class FileTooLargeError(ValueError):
    """A file that has more bytes than its reader takes; the message names the file and the limit."""


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
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > maximum_bytes:
            raise too_large
        if not pipes:
            return file.read(size)
        pieces = []
        total = 0
        while piece := file.read(PIECE):
            pieces.append(piece)
            total += len(piece)
            if total > maximum_bytes:
                raise too_large
        return b"".join(pieces)
