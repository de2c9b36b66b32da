"""The subcommand `tinygpt inspect`: what is in a file of weights."""

from __future__ import annotations

import argparse
import json
import os
import re
from math import prod
from typing import Any, NamedTuple

from .. import formats
from ..files.json_objects import SerializationError, read_json_object
from ..files.safetensors import Entry, read_safetensors_header
from ..module import MAXIMUM_JSON
from ..printable import escape_unprintable
from .options import path

MAXIMUM_AXES = 64
_SERIALIZED_TENSOR = re.compile(r"Tensor\(data=(.*), requires_grad=(?:True|False)\)", re.DOTALL)


class _Listing(NamedTuple):
    """What is in a file: its kind, its tensors, and the free text of a safetensors header."""

    path: str
    kind: str
    entries: dict[str, Entry]
    metadata: dict[str, str]


def add_command(commands: Any) -> None:
    """Adds `inspect` to the subcommands of a parser."""
    parser = commands.add_parser(
        "inspect",
        help="list what is in a file of weights",
        description=(
            "List the tensors of a .safetensors file, of a directory of a checkpoint, or of a .json file of "
            "TinyGPT's weights: names, dtypes, shapes and sizes. Of safetensors files only the header is "
            "read."
        ),
        allow_abbrev=False,
    )
    parser.set_defaults(command=run_inspect)
    parser.add_argument("path", type=path, metavar="FILE|DIR", help="what to look into")
    parser.add_argument(
        "--json", action="store_true", help="one JSON object instead of a table (default: a table)"
    )


def run_inspect(arguments: argparse.Namespace) -> int:
    """Runs `tinygpt inspect`: lists a file of weights, or each of a directory. Returns the exit code.

    Raises:
        ValueError: no file of weights there.
        SerializationError: a file that breaks a rule of its format.
    """
    listings = [_list_file(name) for name in _files_of_weights(arguments.path)]
    if arguments.json:
        files = [_as_json(listing) for listing in listings]
        print(json.dumps({"path": arguments.path, "files": files}, indent=2))
        return 0
    for number, listing in enumerate(listings):
        if number > 0:
            print()
        _print(listing)
    return 0


# ---------------------------------------------------------------- reading


def _files_of_weights(path: str) -> list[str]:
    """Returns the files of weights that a path stands for."""
    if not os.path.isdir(path):
        return [path]
    found = sorted(
        name for name in os.listdir(path) if name.endswith(".safetensors") or name == formats.TINYGPT_MODEL
    )
    if not found:
        raise ValueError(f"{path} holds no .safetensors file and no {formats.TINYGPT_MODEL}")
    return [os.path.join(path, name) for name in found]


def _list_file(path: str) -> _Listing:
    if path.endswith(".json"):
        texts = read_json_object(path, MAXIMUM_JSON)
        entries = {name: _entry_of_text(name, text, path) for name, text in texts.items()}
        return _Listing(path, "JSON", entries, {})
    header = read_safetensors_header(path)
    return _Listing(path, "safetensors", header.entries, header.metadata)


def _entry_of_text(name: str, text: Any, path: str) -> Entry:
    """Returns dtype and shape of a tensor that stands as nested brackets, from where the brackets close; no
    number is read.
    """
    found = _SERIALIZED_TENSOR.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise SerializationError(
            f"{path}: {name!r:.80} is not a tensor in TinyGPT's form, Tensor(data=…, requires_grad=…)"
        )
    data = found[1]
    depth = len(data) - len(data.lstrip("["))
    if depth > MAXIMUM_AXES:
        raise SerializationError(
            f"{path}: {name!r:.80} has {depth:,} axes; tensors have at most {MAXIMUM_AXES}"
        )
    shape = _shape_of_text(data, depth)
    dtype = _dtype_of_text(data)
    return Entry(dtype, shape, 0, prod(shape) * (1 if dtype == "BOOL" else 4))


def _shape_of_text(data: str, depth: int) -> tuple[int, ...]:
    """Returns the shape of nested brackets of this depth: what each level of the first ones holds."""
    if depth == 0:
        return ()
    first_row_end = data.find("]")
    is_empty = first_row_end <= depth
    sizes = [0 if is_empty else data.count(",", 0, first_row_end) + 1]  # the last axis first
    # Up to the first "]]" lies one matrix, up to the first "]]]" one stack of them, and so on; in each stand
    # one more row than there are "],".
    rows_before = 1
    for level in range(2, depth + 1):
        rows = data.count("],", 0, data.find("]" * level)) + 1
        sizes.append(rows // rows_before)
        rows_before = rows
    return tuple(reversed(sizes))


def _dtype_of_text(data: str) -> str:
    """Returns the dtype that numbers written like this are read as: floats have a point, an exponent or a
    name, and nothing at all is of floats, too.
    """
    if not data.strip("[], "):
        return "F32"
    if "True" in data or "False" in data:
        return "BOOL"
    is_float = any(mark in data for mark in (".", "e", "inf", "nan"))
    return "F32" if is_float else "I32"


# ---------------------------------------------------------------- printing


def _totals(listing: _Listing) -> dict[str, int]:
    entries = listing.entries.values()
    return {
        "tensors": len(entries),
        "elements": sum(prod(entry.shape) for entry in entries),
        "bytes": sum(entry.stop - entry.start for entry in entries),
    }


def _as_json(listing: _Listing) -> dict[str, Any]:
    tensors = [
        {
            "name": name,
            "dtype": entry.dtype_name,
            "shape": list(entry.shape),
            "bytes": entry.stop - entry.start,
        }
        for name, entry in listing.entries.items()
    ]
    return {
        "path": listing.path,
        "kind": listing.kind,
        "file_bytes": os.path.getsize(listing.path),
        "metadata": listing.metadata,
        "totals": _totals(listing),
        "tensors": tensors,
    }


def _print(listing: _Listing) -> None:
    print(f"{escape_unprintable(listing.path)} ({listing.kind}, {os.path.getsize(listing.path):,} bytes)")
    rows = [
        (
            escape_unprintable(name),  # names come from files, and must not move the cursor
            escape_unprintable(listing.entries[name].dtype_name),
            " x ".join(map(str, listing.entries[name].shape)) or "scalar",
            f"{listing.entries[name].stop - listing.entries[name].start:,}",
        )
        for name in sorted(listing.entries, key=_natural_order)
    ]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(4)]
    for name, dtype, shape, size in rows:
        print(f"  {name:<{widths[0]}}  {dtype:<{widths[1]}}  {shape:<{widths[2]}}  {size:>{widths[3]}} bytes")
    for key, value in sorted(listing.metadata.items()):
        print(f"  metadata {escape_unprintable(key)} = {escape_unprintable(value)}")
    totals = _totals(listing)
    print(f"{totals['tensors']:,} tensors, {totals['elements']:,} elements, {totals['bytes']:,} bytes")


def _natural_order(name: str) -> list[tuple[int, str]]:
    """Returns a key of sorting that puts block 10 after block 9."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d{1,9})", name)]
