"""Texts to train on: three that every CPython carries, two that are fetched once, and any file or folder of
yours.

    identifiers  public function and class names of the standard library, as documents
    docs         the language reference, as one text
    stdlib       the source files of the standard library, as documents
    shakespeare  1.1 million characters of Shakespeare's plays, as one text (fetched, verified, cached)
    names        32,033 first names, as documents (fetched, verified, cached)
    text         the file that is given with it, or the files of a folder as documents

In this file: `load_corpus`, which everyone calls; then what it finds, by where it lies: files and folders of
yours (`read_text`, `read_folder`), published files (`downloaded`), and the standard library.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import warnings
from collections import Counter
from typing import NamedTuple

from ..files.atomic import Path, atomic_write
from ..files.reading import FileTooLargeError, read_limited

CORPORA = {
    "identifiers": "public function and class names of Python's standard library, one a document",
    "docs": "Python's language reference, one text",
    "stdlib": "the source files of Python's standard library, one a document",
    "shakespeare": "Shakespeare's plays, one text of 1.1 MB (fetched once)",
    "names": "32,033 first names, one a document (fetched once)",
    "text": "any UTF-8 text file, or folder of them, given with --data FILE",
}


class CorpusError(ValueError):
    """A corpus that is unknown, unreadable, empty or out of reach; the message says what would work."""


class Corpus(NamedTuple):
    """A text to train on: either separate `documents` or one long `text`; the other one is None."""

    name: str
    documents: list[str] | None
    text: str | None

    def describe(self) -> str:
        """Returns one line of counts: "names: 32,033 documents, 196,113 characters (26 different)"."""
        texts = [self.text or ""] if self.documents is None else self.documents
        kind = "one text" if self.documents is None else f"{len(self.documents):,} documents"
        length = sum(map(len, texts))
        different = len(set().union(*texts))
        return f"{self.name}: {kind}, {length:,} characters ({different:,} different)"


def load_corpus(name: str, data_file: Path | None = None, documents_by_line: bool | None = None) -> Corpus:
    """Returns the corpus `name`, or the text of `data_file` in its place.

    Args:
        name: one of `CORPORA`.
        data_file: a UTF-8 text file to read instead of what the name stands for (needed for `"text"`), or a
            folder, each text file in it a document.
        documents_by_line: whether each line of `data_file` is a document by itself, rather than the file one
            long text; default: only for `names`.

    Raises:
        CorpusError: the name is unknown, the file is missing, not UTF-8 or empty, the folder holds no text,
            the network is out of reach, or this Python was installed without its sources.
    """
    if name not in CORPORA:
        raise CorpusError(
            f"there is no corpus {name!r}: choose one of {', '.join(CORPORA)}, or pass a text with --data"
        )
    if data_file is not None and os.path.isdir(data_file):
        return Corpus(name, [_normalized(text) for text in read_folder(data_file)], None)
    if data_file is not None:
        text = read_text(data_file)
        by_line = name == "names" if documents_by_line is None else documents_by_line
        return Corpus(name, _lines(text), None) if by_line else Corpus(name, None, text)
    if name == "identifiers":
        return Corpus(name, _identifiers(), None)
    if name == "docs":
        return Corpus(name, None, _language_reference())
    if name == "stdlib":
        sources = [_normalized(read_bytes(path).decode("utf-8", "replace")) for path in _stdlib_files()]
        return Corpus(name, [source for source in sources if source.strip()], None)
    if name == "text":
        raise CorpusError("the corpus 'text' is a file of yours: pass it with --data FILE")
    text = downloaded(name, DOWNLOADS[name], f"{name}.txt").decode("utf-8")
    return Corpus(name, _lines(text), None) if name == "names" else Corpus(name, None, text)


def _normalized(text: str) -> str:
    """Returns a text without a byte-order mark, with line ends as Python has them."""
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def _lines(text: str) -> list[str]:
    """Returns the lines that are not empty, without the space around them."""
    return [line.strip() for line in text.split("\n") if line.strip()]


# ---------------------------------------------------------------- files and folders of yours

MAXIMUM_DOCUMENT = 10_000_000  # bytes; a larger file in a folder is data, not a text that someone wrote
MAXIMUM_FOLDER = 1_000_000_000  # bytes, of a folder's texts in all, or of one text
_A_PART = "pass a part of it, or a folder of token ids (train.bin)"


def read_text(path: Path) -> str:
    """Returns the text of a UTF-8 file; a byte-order mark is dropped, line ends become `"\\n"`.

    Raises:
        CorpusError: the file is missing, a directory, unreadable, too large, empty, or not UTF-8 (with the
            offset of the bad byte).
    """
    try:
        data = read_bytes(path)
    except OSError as error:
        raise CorpusError(
            f"cannot read {path} ({error.strerror}): pass a text file with --data FILE"
        ) from error
    try:
        text = _normalized(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{path} is not UTF-8 text: byte 0x{data[error.start]:02x} at offset {error.start} "
            f"({error.reason}); save it as UTF-8 first"
        ) from None
    if not text.strip():
        raise CorpusError(f"{path} is empty: a corpus needs some text")
    return text


def read_bytes(path: Path) -> bytes:
    """Returns the bytes of a file, which may be a pipe.

    Raises:
        CorpusError: there are more than `MAXIMUM_FOLDER`; a regular file of that size is not read at all.
        OSError: it cannot be read.
    """
    try:
        return read_limited(path, MAXIMUM_FOLDER, pipes=True)
    except FileTooLargeError:
        raise CorpusError(f"{os.fspath(path)} has more than {MAXIMUM_FOLDER:,} bytes: {_A_PART}") from None


def read_folder(path: Path) -> list[str]:
    """Returns the texts of all UTF-8 files in a folder and the folders in it, in the order of their paths.

    Names that begin with a dot and `__pycache__` are passed over, and so are links, devices and pipes. Files
    that are binary (a zero byte, or not UTF-8), too large or unreadable are skipped, with one warning that
    counts them.

    Raises:
        CorpusError: no text is found, or more than is sensible to keep in memory.
        OSError: the folder itself cannot be read.
    """
    name = os.fspath(path)
    skipped: Counter[str] = Counter()  # how many files, by why
    texts = []
    total = 0
    for file in _files(name, skipped):
        try:
            data = read_limited(file, MAXIMUM_DOCUMENT)
            text = data.decode("utf-8")
        except OSError:
            skipped["unreadable"] += 1
            continue
        except FileTooLargeError:
            skipped[f"larger than {MAXIMUM_DOCUMENT:,} bytes"] += 1
            continue
        except UnicodeDecodeError:
            skipped["not UTF-8 text"] += 1
            continue
        if "\0" in text:
            skipped["not UTF-8 text"] += 1
        elif text.strip():
            texts.append(text)
            total += len(data)
            if total > MAXIMUM_FOLDER:
                raise CorpusError(f"{name} holds more than {MAXIMUM_FOLDER:,} bytes of text: {_A_PART}")
    counts = ", ".join(f"{count:,} {reason}" for reason, count in sorted(skipped.items()))
    if not texts:
        raise CorpusError(
            f"{name} is a directory without a UTF-8 text file ({counts or 'it is empty'}): "
            f"pass a text or a folder of them"
        )
    if skipped:
        warnings.warn(f"{name}: {len(texts):,} files read, skipped: {counts}", RuntimeWarning, stacklevel=2)
    return texts


def _files(root: str, skipped: Counter[str]) -> list[str]:
    """Returns the regular files below `root`, sorted; no link is followed, so there is no loop."""
    files = []
    folders = [root]
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


# ---------------------------------------------------------------- published files


class Download(NamedTuple):
    """Where a published file lies and what it must be, to the bit; `size` is in bytes."""

    url: str
    size: int
    sha256: str


DOWNLOADS = {
    "shakespeare": Download(
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        1_115_394,
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    ),
    "names": Download(
        "https://raw.githubusercontent.com/karpathy/makemore/988aa59/names.txt",
        228_145,
        "0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d",
    ),
}


def cache_directory() -> str:
    """Returns where fetched corpora are kept: `$XDG_CACHE_HOME/tinygpt`, else `~/.cache/tinygpt`."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG base directory specification says to ignore relative paths.
    return os.path.join(base if os.path.isabs(base) else os.path.expanduser("~/.cache"), "tinygpt")


_ADVICE = (
    "pass a copy of it with --data FILE, or choose a corpus that needs no network: identifiers, docs, stdlib"
)


def downloaded(name: str, download: Download, file_name: str, advice: str = _ADVICE) -> bytes:
    """Returns a published file from the cache; one that is not there is fetched, verified and kept.

    Args:
        name: how messages call it.
        download: where it lies, and what it must be.
        file_name: its name in the cache.
        advice: what would work where it cannot be fetched.

    Raises:
        CorpusError: it cannot be fetched, or is another file than expected; the message ends in the advice.
    """
    path = os.path.join(cache_directory(), file_name)
    damage = ""
    try:
        with open(path, "rb") as file:
            data = file.read(download.size + 1)
        if _is_genuine(data, download):
            return data
        damage = f", and the copy in {path} is damaged"
    except OSError:
        pass  # not fetched yet
    data = _fetched(name, download, damage, advice)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        atomic_write(path, data)
    except OSError as error:
        warnings.warn(
            f"{name} was fetched but cannot be kept in {path}: {error}", RuntimeWarning, stacklevel=2
        )
    return data


def _fetched(name: str, download: Download, damage: str, advice: str) -> bytes:
    """Returns a file from the network, if it is the published one."""
    import http.client  # these two take longer to import than the whole of tinygpt_core
    import urllib.request

    try:
        with urllib.request.urlopen(download.url, timeout=30) as response:
            # One byte too many is enough to refuse a longer file
            data: bytes = response.read(download.size + 1)
    except (OSError, http.client.HTTPException) as error:
        raise CorpusError(
            f"{name} cannot be fetched from {download.url} ({error}){damage}: {advice}"
        ) from error
    if not _is_genuine(data, download):
        size = "more" if len(data) > download.size else len(data)
        raise CorpusError(
            f"what {download.url} sent is not {name}: expected {download.size} bytes "
            f"with SHA-256 {download.sha256}, got {size}{damage}; it was not kept: {advice}"
        )
    return data


def _is_genuine(data: bytes, download: Download) -> bool:
    """Whether these are the bytes that were published."""
    return len(data) == download.size and hashlib.sha256(data).hexdigest() == download.sha256


# ---------------------------------------------------------------- the standard library

IDENTIFIER_LENGTHS = range(3, 25)  # shorter ones are mostly variables of examples; longer ones are under 2 %
# Tests and demonstrations are not what the library offers; `encodings` is mostly tables; `pydoc_data` is in
# `docs`.
_SKIPPED = {
    "__pycache__",
    "encodings",
    "idlelib",
    "lib2to3",
    "pydoc_data",
    "site-packages",
    "test",
    "tests",
    "turtledemo",
}
# A regular expression reads the library ten times as fast as `ast`, and finds all that `ast` finds, plus the
# names in examples inside docstrings (under 1 %).
_DEFINITION = re.compile(
    rb"^[ \t]*(?:async[ \t]+)?(?:def|class)[ \t]+([A-Za-z]\w*)[ \t]*[(:\[]", re.MULTILINE
)


def _identifiers() -> list[str]:
    """Returns the public names that the standard library defines, sorted."""
    names = {name.decode() for path in _stdlib_files() for name in _DEFINITION.findall(read_bytes(path))}
    return sorted(name for name in names if len(name) in IDENTIFIER_LENGTHS)


def _stdlib_files() -> list[str]:
    """Returns the paths of the standard library's modules, sorted, without its tests."""
    import sysconfig

    root = sysconfig.get_path("stdlib")
    files = []
    for name in sorted(sys.stdlib_module_names - _SKIPPED):
        path = os.path.join(root, name)
        if os.path.isfile(path + ".py"):
            files.append(path + ".py")
        for directory, directories, entries in os.walk(path):
            directories[:] = sorted(set(directories) - _SKIPPED)
            files += [os.path.join(directory, entry) for entry in sorted(entries) if entry.endswith(".py")]
    if not files:
        raise CorpusError(
            f"this Python keeps no sources of its standard library in {root} "
            "(a zipped or minimal installation): "
            "use the corpus docs, shakespeare or names, or pass a text with --data FILE"
        )
    return files


def _language_reference() -> str:
    """Returns all topics of the language reference, which `help()` shows, as one text."""
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise CorpusError(
            "this Python was installed without pydoc_data, the language reference: "
            "use the corpus identifiers or stdlib, or pass a text with --data FILE"
        ) from error
    return "\n\n".join(topics[topic].strip() for topic in sorted(topics)) + "\n"
