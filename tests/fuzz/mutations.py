"""How a file is damaged: a list of small steps, which Hypothesis can draw and make shorter."""

from __future__ import annotations

import json
import random
import re
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

# The last one changes a value inside of JSON, so that what is damaged is still JSON
KINDS = ("byte", "bit", "cut", "drop", "repeat", "swap", "insert", "number", "word", "splice", "value")
WORDS = (
    b"null",
    b"true",
    b"-1",
    b"0",
    b"1e999",
    b"NaN",
    b"-Infinity",
    b"[]",
    b"{}",
    b'""',
    b'"\\ud800"',
    b"\xff",
    b"\0",
    b"\r",
    b"\n",
    b"\xe2\x80\xa8",
    b"\\",
    b'"',
    b"'",
    b"[" * 2000,
    b"{" * 50,
    b"9" * 5000,
    b"1.5",
    b"(?:a+)+",
    b"\\p{L}",
    b"(",
    b"__metadata__",
    b"..",
    b"/",
    b"\x1b[2J",
    b"4294967296",
    b"9223372036854775808",
    b" ",
    b'{"a": 1, "a": 2}',
    b"[[1.0], 2]",
    b"True",
    b"F4",
    b"1" + b"0" * 400,
)
NUMBERS = (0, 1, -1, 2, 255, 256, 65_535, 65_536, 2**31 - 1, 2**31, 2**32, 2**63, 2**64, 10**30)
VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        3,
        5,
        0.5,
        -0.5,
        1e308,
        1e-320,
        2**24,
        2**31,
        2**53,
        2**63,
        2**64,
        10**400,
    ),
    *(
        "",
        "a",
        "0",
        "1e3",
        "/",
        "..",
        "\ud800",
        "\0",
        "\x1b[2J",
        "é" * 300,
        "(?:a+)+",
        "python",
        "numpy",
        "bpe",
    ),
    *([], {}, [[]], [0] * 500, {"a": 1}, [None], [1.5], [True], ["a"], {"": {}}, [[1, 2], [3]]),
    *(float("inf"), float("nan")),
)
LARGEST = 200_000  # bytes that a damaged file may grow to


class Mutation(NamedTuple):
    """One step: what is done, where (a share of the file's length), and with what."""

    kind: str
    place: float
    value: int


def random_mutation(rng: random.Random) -> Mutation:
    """Returns a step drawn by a generator."""
    return Mutation(rng.choice(KINDS), rng.random(), rng.getrandbits(32))


def mutated(data: bytes, mutations: list[Mutation]) -> bytes:
    """Returns the bytes after all steps, one after the other."""
    for mutation in mutations:
        data = _step(data, mutation)[:LARGEST]
    return data


def _step(data: bytes, mutation: Mutation) -> bytes:
    kind, share, value = mutation
    place = min(int(share * len(data)), max(len(data) - 1, 0))
    length = 1 + value % 64
    head, tail = data[:place], data[place:]
    if kind == "byte":
        return head + bytes([value % 256]) + tail[1:]
    if kind == "bit":
        return head + bytes([tail[0] ^ (1 << value % 8)]) + tail[1:] if tail else data
    if kind == "cut":
        return head
    if kind == "drop":
        return head + tail[length:]
    if kind == "repeat":
        return head + tail[:length] * (1 + value % 7) + tail
    if kind == "swap":
        return head + tail[length : 2 * length] + tail[:length] + tail[2 * length :]
    if kind == "insert":
        return head + WORDS[value % len(WORDS)] + tail
    if kind == "value":
        return _with_other_value(data, share, value)
    if kind == "splice":  # something of the file itself, elsewhere
        start = value % (len(data) + 1)
        return head + data[start : start + length] + tail[length:]
    pattern = rb"-?\d+" if kind == "number" else rb'"[^"]*"|[\w.+-]+'
    found = re.search(pattern, tail)
    if found is None:
        return data
    new = str(NUMBERS[value % len(NUMBERS)]).encode() if kind == "number" else WORDS[value % len(WORDS)]
    return head + tail[: found.start()] + new + tail[found.end() :]


def _with_other_value(data: bytes, share: float, value: int) -> bytes:
    """Returns JSON (or a safetensors file, of which the header is JSON) with one value, or key, replaced."""
    length = struct.unpack("<Q", data[:8])[0] if len(data) >= 8 else 0
    is_header = 0 < length <= len(data) - 8
    text = data[8 : 8 + length] if is_header else data
    try:
        root = json.loads(text)
    except (ValueError, RecursionError):
        return data
    places = list(_places(root))
    if not places:
        return data
    container, key = places[min(int(share * len(places)), len(places) - 1)]
    new = VALUES[value % len(VALUES)]
    if value >> 16 & 7 == 0:  # it goes
        del container[key]
    elif value >> 16 & 7 == 1 and isinstance(container, dict):  # it is called something else
        container[str(new)[:100]] = container.pop(key)
    elif value >> 16 & 7 == 2:  # another value of the same file
        other, its_key = places[(value >> 20) % len(places)]
        container[key] = json.loads(json.dumps(other[its_key]))
    else:
        container[key] = new
    text = json.dumps(root).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :] if is_header else text


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yields where each value inside of JSON stands: the object or list, and the key or index."""
    pending = [value]
    while pending:
        container = pending.pop()
        if not isinstance(container, (dict, list)):
            continue
        for key, inner in list(container.items() if isinstance(container, dict) else enumerate(container)):
            yield container, key
            pending.append(inner)
