"""Vocabularies that others published: GPT-2's pair of files and tiktoken's rank files.

Both are files from outside, so nothing in them is believed: every id is checked, and what is wrong is named
with its file and line.

Sources: openai/gpt-2 `encoder.py` (how bytes are written as printable characters); openai/tiktoken `load.py`
(rank files).
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Collection, Iterable
from typing import Any, NoReturn

from ..files.atomic import Path
from .base import Pair, TokenizerError, read_text_file

Vocabulary = list[bytes | None]  # the bytes of each id; None: an id that no ordinary token has
MAXIMUM_FILE = 64_000_000  # bytes; the largest vocabularies in use have a tenth of that


def byte_characters() -> dict[str, int]:
    """Returns the character that stands for each byte in GPT-2's files: printable ones for themselves, the
    others from U+0100 up.
    """
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = sorted(set(range(256)) - set(printable))
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def read_gpt2(
    vocab_file: Path, merges_file: Path, special_tokens: Iterable[str]
) -> tuple[Vocabulary, list[Pair], dict[str, int]]:
    """Returns the tokens, the merges in order and the special tokens of a `vocab.json` and its `merges.txt`.

    Raises:
        TokenizerError: a file is too large, not of its format, or does not fit the other.
    """
    name = os.fspath(vocab_file)
    ids = _read_vocabulary(vocab_file)
    specials = {text: ids.pop(text) for text in special_tokens if text in ids}
    characters = byte_characters()
    tokens: Vocabulary = [None] * (len(ids) + len(specials))
    for text, idx in ids.items():
        try:
            tokens[idx] = bytes([characters[character] for character in text])
        except KeyError as problem:
            _refuse(
                name,
                f"token {text!r:.80} (id {idx}) has the character {problem.args[0]!r}, "
                f"which stands for no byte",
            )
    for character in characters:
        if character not in ids:
            _refuse(name, f"there is no token {character!r:.80} for the byte {characters[character]}")
    merges = _read_merges(merges_file, ids)
    made = {ids[a + b] for a, b in merges}
    for text, idx in ids.items():
        if len(text) > 1 and idx not in made:
            _refuse(
                name,
                f"no line of {os.fspath(merges_file)} makes token {text!r:.80} (id {idx}): "
                f"is that file cut short, or the token special?",
            )
    return tokens, [(ids[a], ids[b]) for a, b in merges], specials


def _read_vocabulary(path: Path) -> dict[str, int]:
    """Returns the ids of a `vocab.json`, which are 0, 1, 2, … in some order."""
    name = os.fspath(path)
    seen = set()

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        for text, _ in pairs:
            if text in seen:
                _refuse(name, f"the token {text!r:.80} stands there twice")
            seen.add(text)
        return dict(pairs)

    try:
        ids = json.loads(read_text_file(path, MAXIMUM_FILE), object_pairs_hook=unique)
    except json.JSONDecodeError as problem:
        _refuse(f"{name}, line {problem.lineno}", f"this is not JSON ({problem.msg})")
    except TokenizerError:
        raise
    except ValueError as problem:  # an integer of thousands of digits
        _refuse(name, str(problem))
    except RecursionError:
        _refuse(name, "its JSON is nested too deeply")
    if not isinstance(ids, dict) or not ids:
        _refuse(name, "a vocabulary is a JSON object of tokens and their ids")
    texts: list[str | None] = [None] * len(ids)
    for text, idx in ids.items():
        if type(idx) is not int or not text:
            _refuse(
                name,
                f"token {text!r:.80} has {idx!r:.80} for an id: "
                f"a token is not empty and its id is an integer",
            )
        if not 0 <= idx < len(ids):
            _refuse(
                name,
                f"token {text!r:.80} has the id {idx}, but {len(ids)} tokens "
                f"have the ids 0 to {len(ids) - 1}, without holes",
            )
        if texts[idx] is not None:
            _refuse(name, f"the tokens {texts[idx]!r:.80} and {text!r:.80} have the same id {idx}")
        texts[idx] = text
    return ids


def _read_merges(path: Path, ids: dict[str, int]) -> list[tuple[str, str]]:
    """Returns the pairs of tokens of a `merges.txt` in the order of its lines."""
    merges: dict[tuple[str, str], None] = {}
    highest = -1
    for number, line in enumerate(read_text_file(path, MAXIMUM_FILE).split("\n"), 1):
        parts = line.split()
        place = f"{os.fspath(path)}, line {number}"
        if not parts or (number == 1 and parts[0] == "#version:"):
            continue
        if len(parts) != 2:
            _refuse(place, f"a merge is two tokens, not {line[:80]!r}")
        a, b = parts
        for text in (a, b, a + b):
            if text not in ids:
                _refuse(place, f"the vocabulary has no token {text[:80]!r}")
        if (a, b) in merges:
            _refuse(place, f"{a!r:.80} and {b!r:.80} were merged before")
        if ids[a + b] < highest:
            _refuse(
                place,
                f"{a + b!r:.80} has the id {ids[a + b]}, below one of an earlier line: "
                f"ids must be in the order of the merges",
            )
        highest = ids[a + b]
        merges[a, b] = None
    return list(merges)


def read_ranks(path: Path, reserved: Collection[int]) -> Vocabulary:
    """Returns the tokens of a rank file by rank; ranks that are `reserved` for special tokens may be left
    out.

    Raises:
        TokenizerError: the file is too large, a line is not base64 and a number, a token or rank comes twice,
            a rank or byte is missing.
    """
    name = os.fspath(path)
    ids: dict[bytes, int] = {}
    lines: dict[int, int] = {}
    for number, line in enumerate(read_text_file(path, MAXIMUM_FILE).split("\n"), 1):
        parts = line.split()
        place = f"{name}, line {number}"
        if not parts:
            continue
        if len(parts) != 2 or not (parts[1].isascii() and parts[1].isdigit() and len(parts[1]) < 10):
            _refuse(place, f"this is not a token in base64 and its rank: {line[:80]!r}")
        try:
            token = base64.b64decode(parts[0], validate=True)
        except ValueError as problem:
            _refuse(place, f"{parts[0][:80]!r} is not base64 ({problem})")
        rank = int(parts[1])
        if not token or token in ids or rank in lines:
            _refuse(
                place,
                f"token {token[:80]!r} with rank {rank}: a token is not empty, "
                f"and neither it nor its rank comes twice",
            )
        ids[token] = rank
        lines[rank] = number
    for byte in range(256):
        if bytes([byte]) not in ids:
            _refuse(name, f"there is no token for the byte {byte}")
    last = max(lines)
    if last >= len(lines) + len(reserved):
        _refuse(
            f"{name}, line {lines[last]}",
            f"rank {last} is too high for {len(lines)} tokens: ranks have no holes",
        )
    tokens: Vocabulary = [None] * (last + 1)
    for token, rank in ids.items():
        tokens[rank] = token
    for rank, member in enumerate(tokens):
        if member is None and rank not in reserved:
            _refuse(
                name, f"no line has the rank {rank}: ranks have no holes, unless a special token has that id"
            )
    return tokens


def parse_fields(fields: dict[str, Any]) -> tuple[Vocabulary | None, list[Pair] | None]:
    """Returns the tokens and the merges in the fields of a file of `save_tokenizer`.

    Returns:
        The tokens (None: those that the merges make) and the merges (None: any two neighbours whose bytes
        together are a token).

    Raises:
        TokenizerError: they are no lists of tokens and pairs, or a merge is not of tokens, makes none or is
            out of order.
    """
    tokens = fields.get("tokens")
    merges = fields.get("merges")
    if not isinstance(fields.get("pattern"), str):
        raise TokenizerError(f"'pattern' is a string, not {fields.get('pattern')!r:.80}")
    pairs: list[Pair] | None = None
    if merges is not None or tokens is None:
        if not isinstance(merges, list) or not all(map(_is_pair_of_ids, merges)):
            raise TokenizerError("'merges' is a list of pairs of ids")
        pairs = [(a, b) for a, b in merges]
    if tokens is None:
        return None, pairs
    if not isinstance(tokens, list) or not all(map(_is_token_or_none, tokens)):
        raise TokenizerError(
            "'tokens' is a list of strings, one character a byte, with null where there is none"
        )
    ids = {token: idx for idx, token in enumerate(tokens) if token}
    if len(ids) + tokens.count(None) != len(tokens) or not all(chr(byte) in ids for byte in range(256)):
        raise TokenizerError("'tokens' has all 256 bytes, and none twice")
    highest = -1
    for a, b in pairs or ():
        parts = [tokens[idx] or "" if 0 <= idx < len(tokens) else "" for idx in (a, b)]
        made = ids.get("".join(parts), -1)
        if not all(parts) or made < max(highest, 0):
            raise TokenizerError(
                f"the merge of {a} and {b} is not of two tokens, makes none, "
                f"or one with a lower id than the merge before"
            )
        highest = made
    return [None if token is None else token.encode("latin-1") for token in tokens], pairs


def _is_pair_of_ids(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(part) is int for part in value)


def _is_token_or_none(value: Any) -> bool:
    """Whether a value is null, or a string with one character a byte."""
    return value is None or (isinstance(value, str) and max(value, default="") <= "ÿ")


def _refuse(place: str, problem: str) -> NoReturn:
    """Raises a TokenizerError that names a file, a line where there is one, and what is wrong there."""
    raise TokenizerError(f"{place}: {problem}") from None
