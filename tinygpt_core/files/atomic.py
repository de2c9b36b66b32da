"""Files that are whole or not there, and directories that one process at a time writes to."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

Path = str | os.PathLike[str]


class Written(NamedTuple):
    """How large a written file is and the SHA-256 of its bytes."""

    size: int
    sha256: str


def write_durably(path: Path, chunks: bytes | Iterable[Any]) -> Written:
    """Writes a file and waits until it is on the disk. Not atomic: `atomic_write` is.

    Args:
        path: overwritten if it exists.
        chunks: bytes, or an iterable of bytes-like pieces, which are written and forgotten one by one.

    Returns:
        The file's size and SHA-256.
    """
    import hashlib  # 3 ms to import, which `import tinygpt_core` shall not take

    pieces: Iterable[Any] = (chunks,) if isinstance(chunks, bytes) else chunks
    digest = hashlib.sha256()
    size = 0
    with open(path, "wb") as file:
        for piece in pieces:
            digest.update(piece)
            size += file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    return Written(size, digest.hexdigest())


def sync_directory(path: Path) -> None:
    """Waits, where the system can, until the names in a directory (renames, that is) are on the disk."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return
    with suppress(OSError):
        os.fsync(descriptor)
    os.close(descriptor)


def atomic_write(path: Path, chunks: bytes | Iterable[Any]) -> Written:
    """Writes a file so that at any moment either the old one is there or the new one, whole.

    It is written under a temporary name beside its place, flushed to the disk, and renamed. A failure leaves
    the old file alone.

    Args:
        path: overwritten if it exists.
        chunks: as in `write_durably`.

    Returns:
        The file's size and SHA-256.

    Raises:
        OSError: it cannot be written.
    """
    path = os.fspath(path)
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name}.{os.getpid()}.tmp")
    try:
        written = write_durably(temporary, chunks)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    sync_directory(folder or ".")
    return written


@contextmanager
def lock_directory(directory: Path) -> Iterator[None]:
    """Locks a directory in a `with`, so that no other process can, where the system has such locks; yields
    nothing.

    The lock is released when the process ends, however it ends.

    Raises:
        BlockingIOError: another process has locked it.
    """
    try:
        import fcntl
    except ImportError:  # on Windows
        yield
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(
                f"the run in {os.fspath(directory)} is going on in another process: wait for it, or stop it"
            ) from None
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(descriptor)
