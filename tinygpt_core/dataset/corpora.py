"""Texts to train on: three that every CPython carries, two that are fetched once, and any file or folder of
yours.

identifiers  public function and class names of the standard library, as documents
docs         the language reference, as one text
stdlib       the source files of the standard library, as documents
shakespeare  1.1 million characters of Shakespeare's plays, as one text (fetched, verified, cached)
names        32,033 first names, as documents (fetched, verified, cached)
text         the file that is given with it, or the files of a folder as documents
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections import Counter
from itertools import islice
from typing import NamedTuple

from ..files.atomic import atomic_write

CORPORA = {
    "identifiers": "public function and class names of Python's standard library, one a document",
    "docs": "Python's language reference, one text",
    "stdlib": "the source files of Python's standard library, one a document",
    "shakespeare": "Shakespeare's plays, one text of 1.1 MB (fetched once)",
    "names": "32,033 first names, one a document (fetched once)",
    "text": "any UTF-8 text file, or folder of them, given with --data FILE",
}
IDENTIFIER_LENGTHS = range(3, 25)  # shorter ones are mostly variables of examples; longer ones are under 2 %
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
        data = (
            b"".join(islice(iter(lambda: file.read(1 << 20), b""), (MAXIMUM_FOLDER >> 20) + 1))
            if fits
            else b""
        )
        if file.read(1):
            raise CorpusError(
                f"{os.fspath(path)} has more than {MAXIMUM_FOLDER:,} bytes: pass a part of it, or a folder of token ids (train.bin)"
            )
    return data


def read_folder(path: str | os.PathLike[str]) -> list[str]:
    """Returns the texts of all UTF-8 files in a folder and the folders in it, in the order of their paths.

    Names that begin with a dot and `__pycache__` are passed over, and so are links, devices and pipes. Files
    that are binary (a zero byte, or not UTF-8), too large or unreadable are skipped, with one warning that
    counts them.

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
        raise CorpusError(
            f"{name} is a directory without a UTF-8 text file ({counts or 'it is empty'}): pass a text or a folder of them"
        )
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


class Corpus(NamedTuple):
    """A text to train on: either separate `documents` or one long `text`; the other one is None."""

    name: str
    documents: list[str] | None
    text: str | None

    def describe(self) -> str:
        """Return one line of counts, such as ``"names: 32,033 documents, 196,113 characters (26
        different)"``.
        """
        texts = [self.text or ""] if self.documents is None else self.documents
        kind = "one text" if self.documents is None else f"{len(self.documents):,} documents"
        return f"{self.name}: {kind}, {sum(map(len, texts)):,} characters ({len(set().union(*texts)):,} different)"


def load_corpus(
    name: str, data_file: str | os.PathLike[str] | None = None, documents_by_line: bool | None = None
) -> Corpus:
    """Return the corpus `name`, or the text of `data_file` in its place.

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


def read_text(path: str | os.PathLike[str]) -> str:
    """Read a UTF-8 text file; a byte-order mark is dropped, line ends become ``"\\n"``.

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
            f"{path} is not UTF-8 text: byte 0x{data[error.start]:02x} at offset {error.start} ({error.reason}); save it as UTF-8 first"
        ) from None
    if not text.strip():
        raise CorpusError(f"{path} is empty: a corpus needs some text")
    return text


def cache_directory() -> str:
    """Return where fetched corpora are kept: ``$XDG_CACHE_HOME/tinygpt``, else ``~/.cache/tinygpt``."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG base directory specification says to ignore relative paths.
    return os.path.join(base if os.path.isabs(base) else os.path.expanduser("~/.cache"), "tinygpt")


def _normalized(text: str) -> str:
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.split("\n") if line.strip()]


_ADVICE = (
    "pass a copy of it with --data FILE, or choose a corpus that needs no network: identifiers, docs, stdlib"
)


def downloaded(name: str, download: Download, file_name: str, advice: str = _ADVICE) -> bytes:
    """Return a published file from the cache, or fetch, verify and keep it; raise CorpusError with the advice
    where that fails.
    """
    path, damage = os.path.join(cache_directory(), file_name), ""
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
        raise CorpusError(
            f"what {download.url} sent is not {name}: expected {download.size} bytes with SHA-256 {download.sha256}, "
            f"got {'more' if len(data) > download.size else len(data)}{damage}; it was not kept: {advice}"
        )
    return data


def _is_genuine(data: bytes, download: Download) -> bool:
    import hashlib

    return len(data) == download.size and hashlib.sha256(data).hexdigest() == download.sha256


# Tests and demonstrations are not what the library offers; `encodings` is mostly tables; `pydoc_data` is in
# `docs`.
_SKIPPED = {
    *(
        "test",
        "tests",
        "idlelib",
        "lib2to3",
        "turtledemo",
        "encodings",
        "pydoc_data",
        "site-packages",
        "__pycache__",
    )
}
# A regular expression reads the library ten times as fast as `ast`, and finds all that `ast` finds, plus the
# names in examples inside docstrings (under 1 %).
_DEFINITION = re.compile(
    rb"^[ \t]*(?:async[ \t]+)?(?:def|class)[ \t]+([A-Za-z]\w*)[ \t]*[(:\[]", re.MULTILINE
)


def _identifiers() -> list[str]:
    names = {name.decode() for path in _stdlib_files() for name in _DEFINITION.findall(read_bytes(path))}
    return sorted(name for name in names if len(name) in IDENTIFIER_LENGTHS)


def _stdlib_files() -> list[str]:
    """Return the paths of the standard library's modules, sorted, without its tests."""
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
            f"this Python keeps no sources of its standard library in {root} (a zipped or minimal installation): "
            "use the corpus docs, shakespeare or names, or pass a text with --data FILE"
        )
    return files


def _language_reference() -> str:
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise CorpusError(
            "this Python was installed without pydoc_data, the language reference: "
            "use the corpus identifiers or stdlib, or pass a text with --data FILE"
        ) from error
    return "\n\n".join(topics[topic].strip() for topic in sorted(topics)) + "\n"
