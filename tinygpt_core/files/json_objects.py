"""JSON objects in files that may come from anywhere: of limited size, no key twice, only plain values."""

from __future__ import annotations

import json
import os
from typing import Any

from .atomic import Path, Written, atomic_write
from .reading import FileTooLargeError, NotAFileError, read_limited


class SerializationError(ValueError):
    """A file that is not what it should be; the message names the file and what is wrong with it."""


def write_json(path: Path, value: Any, *, replace_anything: bool = False) -> Written:
    """Writes a value as readable JSON, as `atomic_write` does; returns the file's size and SHA-256.

    Floats keep every bit; infinities and NaN are allowed.
    """
    return atomic_write(path, json_bytes(value), replace_anything=replace_anything)


def json_bytes(value: Any) -> bytes:
    """Returns a value as readable JSON in UTF-8.

    A file name whose bytes are no UTF-8 has surrogates in it, which UTF-8 cannot hold: then everything that
    is not ASCII is escaped, and reading gives the same strings.
    """
    try:
        return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:
        return (json.dumps(value, indent=2) + "\n").encode()


def parse_json_object(text: bytes | str, what: str) -> dict[str, Any]:
    """Returns the JSON object that `text` is.

    Args:
        what: how an error calls the text.

    Raises:
        SerializationError: it is anything else, or a key is repeated in it.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            seen: set[str] = set()
            for name, _ in pairs:
                if name in seen:
                    raise SerializationError(f"{what}: the key {name!r:.80} stands twice")
                seen.add(name)
        return found

    try:
        value = json.loads(text if isinstance(text, str) else text.decode("utf-8"), object_pairs_hook=unique)
    except SerializationError:
        raise
    except (ValueError, RecursionError) as problem:
        raise SerializationError(f"{what} is not valid JSON: {problem!s:.200}") from None
    if not isinstance(value, dict):
        raise SerializationError(f"{what} is a JSON {type(value).__name__}, not an object")
    return value


def read_json_object(path: Path, maximum_bytes: int = 50_000_000) -> dict[str, Any]:
    """Returns the JSON object in a file of at most `maximum_bytes`.

    Raises:
        SerializationError: the file is larger, or holds no JSON object.
        OSError: it cannot be read.
    """
    try:
        text = read_limited(path, maximum_bytes)
    except (FileTooLargeError, NotAFileError) as problem:
        raise SerializationError(str(problem)) from None
    return parse_json_object(text, os.fspath(path))
