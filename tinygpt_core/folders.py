"""Floor 7: a folder of text or source files as documents."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from itertools import islice

MAXIMUM_DOCUMENT = 10_000_000  # bytes; a larger file is data, not a text that someone wrote
MAXIMUM_FOLDER = 1_000_000_000


class CorpusError(ValueError):
    """A corpus that is unknown, unreadable, empty or out of reach; the message says what would work."""


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Returns the bytes of a file, which may be a pipe.

    Raises:
        CorpusError: there are more than `MAXIMUM_FOLDER`; a regular file of that size is not read at all.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        fits = os.fstat(file.fileno()).st_size <= MAXIMUM_FOLDER
        data = b"".join(islice(iter(lambda: file.read(1 << 20), b""), (MAXIMUM_FOLDER >> 20) + 1)) if fits else b""
        if file.read(1):
            raise CorpusError(
                f"{os.fspath(path)} has more than {MAXIMUM_FOLDER:,} bytes: pass a part of it, or a folder of token ids (train.bin)"
            )
    return data


def read_folder(path: str | os.PathLike[str]) -> list[str]:
    """Returns the texts of all UTF-8 files in a folder and the folders in it, in the order of their paths.

    Names that begin with a dot and `__pycache__` are passed over, and so are links, devices and pipes. Files that are binary (a zero byte,
    or not UTF-8), too large or unreadable are skipped, with one warning that counts them.

    Raises:
        CorpusError: no text is found, or more than is sensible to keep in memory.
        OSError: the folder itself cannot be read.
    """
    name = os.fspath(path)
    skipped: Counter[str] = Counter()
    texts, total = [], 0
    for file in _files(name, skipped):
        try:
            with open(file, "rb") as opened:
                data = opened.read(MAXIMUM_DOCUMENT + 1)
            text = "" if b"\0" in data else data.decode("utf-8")
        except OSError:
            skipped["unreadable"] += 1
            continue
        except UnicodeDecodeError:
            text = "" if len(data) <= MAXIMUM_DOCUMENT else " "  # the cut may have gone through a character
        if len(data) > MAXIMUM_DOCUMENT:
            skipped[f"larger than {MAXIMUM_DOCUMENT:,} bytes"] += 1
        elif data and not text:
            skipped["not UTF-8 text"] += 1
        elif text.strip():
            texts.append(text)
            total += len(data)
            if total > MAXIMUM_FOLDER:
                raise CorpusError(
                    f"{name} holds more than {MAXIMUM_FOLDER:,} bytes of text: pass a part of it, or a folder of token ids (train.bin)"
                )
    counts = ", ".join(f"{count:,} {reason}" for reason, count in sorted(skipped.items()))
    if not texts:
        raise CorpusError(f"{name} is a directory without a UTF-8 text file ({counts or 'it is empty'}): pass a text or a folder of them")
    if skipped:
        warnings.warn(f"{name}: {len(texts):,} files read, skipped: {counts}", RuntimeWarning, stacklevel=2)
    return texts


def _files(root: str, skipped: Counter[str]) -> list[str]:
    """The regular files below `root`, sorted; no link is followed, so there is no loop."""
    files, folders = [], [root]
    while folders:
        folder = folders.pop()
        try:
            entries = list(os.scandir(folder))
        except OSError:
            if folder == root:
                raise
            skipped["unreadable"] += 1
            continue
        for entry in entries:
            if entry.name.startswith(".") or entry.name == "__pycache__":
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.path)
            elif entry.is_file(follow_symlinks=False):
                files.append(entry.path)
            else:
                skipped["links or special files"] += 1
    return sorted(files, key=lambda file: file.split(os.sep))
