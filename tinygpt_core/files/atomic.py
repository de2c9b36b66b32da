"""Files that are whole or not there, and directories that one process at a time writes to."""

from __future__ import annotations

import errno
import os
import stat
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
        path: overwritten if it exists; never written through a symbolic link.
        chunks: bytes, or an iterable of bytes-like pieces, which are written and forgotten one by one.

    Returns:
        The file's size and SHA-256.
    """
    with _errors_that_name(os.fspath(path)), open(path, "wb", opener=_without_links) as file:
        return _write_pieces(file, chunks)


def _write_pieces(file: Any, chunks: bytes | Iterable[Any], *, durably: bool = True) -> Written:
    """Writes to an open file; returns its size and SHA-256."""
    import hashlib  # 3 ms to import, which `import tinygpt_core` shall not take

    pieces: Iterable[Any] = (chunks,) if isinstance(chunks, bytes) else chunks
    digest = hashlib.sha256()
    size = 0
    for piece in pieces:
        digest.update(piece)
        size += file.write(piece)
    file.flush()
    if durably:
        os.fsync(file.fileno())
    return Written(size, digest.hexdigest())


@contextmanager
def _errors_that_name(path: str, temporary: str | None = None) -> Iterator[None]:
    """Inside it an OSError names `path`: of a full disk the system does not say which file did not fit, and
    of a temporary file nobody has heard.
    """
    try:
        yield
    except OSError as problem:
        if problem.errno is not None and problem.filename in (None, temporary):
            problem.filename = path
            problem.filename2 = None
        raise


def _without_links(path: str, flags: int) -> int:
    """Opens a file for `open`, but not what a symbolic link leads to."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _as_a_new_file(path: str, flags: int) -> int:
    """Opens a file for `open` that must not be there yet."""
    return os.open(path, flags | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o666)


def sync_directory(path: Path) -> None:
    """Waits, where the system can, until the names in a directory (renames, that is) are on the disk."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return
    with suppress(OSError):
        os.fsync(descriptor)
    os.close(descriptor)


def atomic_write(path: Path, chunks: bytes | Iterable[Any], *, replace_anything: bool = False) -> Written:
    """Writes a file so that at any moment either the old one is there or the new one, whole.

    It is written under a temporary name beside its place, one that nobody can foresee, flushed to the disk,
    and renamed. A failure leaves the old file alone. A symbolic link stays: the file that it leads to is
    replaced. A pipe or a device stays as well: nothing can be renamed over it without destroying it, so the
    bytes are written into it.

    Args:
        path: overwritten if it exists.
        chunks: as in `write_durably`.
        replace_anything: whether a link, a pipe or a device is itself replaced, as it must be where others
            may have put it there, such as in the directory of a run.

    Returns:
        The file's size and SHA-256.

    Raises:
        OSError: it cannot be written.
    """
    path = os.fspath(path)
    if os.path.islink(path) and not replace_anything:
        path = os.path.realpath(path)
        if os.path.islink(path):  # it leads to itself
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
    if _is_pipe_or_device(path) and not replace_anything:
        with _errors_that_name(path), open(path, "wb") as file:
            return _write_pieces(file, chunks, durably=False)
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name}.{os.urandom(8).hex()}.tmp")
    try:
        with _errors_that_name(path, temporary):
            with open(temporary, "wb", opener=_as_a_new_file) as file:
                written = _write_pieces(file, chunks)
            os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    sync_directory(folder or ".")
    return written


def _is_pipe_or_device(path: str) -> bool:
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def remove_temporary_files(directory: Path, names: Iterable[str]) -> None:
    """Removes what writers that were killed have left of the files with these names.

    Only for who knows that nobody is writing there, as within `lock_directory`.
    """
    starts = tuple(f".{name}." for name in names)
    for found in os.listdir(directory):
        if found.startswith(starts) and found.endswith(".tmp"):
            with suppress(OSError):
                os.unlink(os.path.join(directory, found))


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
