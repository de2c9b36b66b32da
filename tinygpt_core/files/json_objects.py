"""JSON objects in files that may come from anywhere: bounded, no name twice, nothing but plain values."""

from __future__ import annotations

import json
import os
from typing import Any

from .atomic import Path, Written, atomic_write


class SerializationError(ValueError):
    """A file that is not what it should be; the message names the file and what is wrong with it."""


def write_json(path: Path, value: Any) -> Written:
    """Writes a value as readable JSON, atomically. Floats keep every bit; infinities and NaN are allowed.
    Returns its size and SHA-256.
    """
    return atomic_write(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """Returns a value as readable JSON in UTF-8."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def parse_json_object(text: bytes | str, what: str) -> dict[str, Any]:
    """Returns the JSON object that `text` is; raises SerializationError (saying `what`) for anything else, or
    a repeated key.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [name for name, _ in pairs]
            raise SerializationError(
                f"{what}: the key {next(n for n in names if names.count(n) > 1)!r} stands twice"
            )
        return found

    try:
        value = json.loads(text if isinstance(text, str) else text.decode("utf-8"), object_pairs_hook=unique)
    except SerializationError:
        raise
    except (ValueError, RecursionError) as problem:
        raise SerializationError(f"{what} is not valid JSON: {problem}") from None
    if not isinstance(value, dict):
        raise SerializationError(f"{what} is a JSON {type(value).__name__}, not an object")
    return value


def read_json_object(path: Path, maximum_bytes: int = 50_000_000) -> dict[str, Any]:
    """Returns the JSON object in a file of at most `maximum_bytes`; raises SerializationError where it holds
    none.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > maximum_bytes:
            raise SerializationError(
                f"{os.fspath(path)} has {size:,} bytes; at most {maximum_bytes:,} are read"
            )
        return parse_json_object(file.read(size), os.fspath(path))
