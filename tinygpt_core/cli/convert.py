"""The subcommands `tinygpt convert` and `tinygpt inspect`: checkpoints from one format to another, and what
is in a file of weights.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
from math import prod
from typing import Any, NamedTuple

from .. import formats
from ..files.json_objects import SerializationError, read_json_object
from ..files.safetensors import Entry, read_safetensors_header
from ..module import MAXIMUM_JSON
from .options import path

_TEXT = re.compile(r"Tensor\(data=(.*), requires_grad=(?:True|False)\)", re.DOTALL)


def add_command(commands: Any) -> None:
    """Adds `convert` and `inspect` to the subcommands of a parser."""
    about = (
        "Convert a checkpoint to another format. SOURCE is a directory with config.json and model.safetensors (Hugging Face's GPT-2 or "
        "Llama), a run of `tinygpt train`, or a .json file of TinyGPT's weights; what it is, is found out. A tokenizer that lies beside "
        "the weights travels along. Nothing is overwritten."
    )
    convert = commands.add_parser(
        "convert", help="convert weights between formats", allow_abbrev=False, description=about
    )
    convert.set_defaults(command=run_convert)
    convert.add_argument("source", type=path, metavar="SOURCE", help="the checkpoint to read")
    convert.add_argument(
        "destination", type=path, metavar="DESTINATION", help="the directory to write, new or empty"
    )
    text = "native (for `tinygpt generate`), gpt2, llama or tinygpt (default: native)"
    convert.add_argument("--to", default="native", metavar="FORMAT", help=text)
    text = "attention heads of a TinyGPT model, whose files do not tell them (default: what config.json says)"
    convert.add_argument("--heads", type=int, metavar="N", help=text)

    about = (
        "List the tensors of a .safetensors file, of a directory of a checkpoint, or of a .json file of TinyGPT's weights: names, dtypes, "
        "shapes and sizes. Of safetensors files only the header is read."
    )
    inspect = commands.add_parser(
        "inspect", help="list what is in a file of weights", allow_abbrev=False, description=about
    )
    inspect.set_defaults(command=run_inspect)
    inspect.add_argument("path", type=path, metavar="FILE|DIR", help="what to look into")
    inspect.add_argument(
        "--json", action="store_true", help="one JSON object instead of a table (default: a table)"
    )


def run_convert(arguments: argparse.Namespace) -> int:
    """`tinygpt convert`: load a checkpoint, save it in another format.

    Raises:
        ValueError: a format there is none of, a destination that exists, or a checkpoint that cannot be read.
    """
    if arguments.to not in formats.FORMATS:
        raise ValueError(f"--to must be one of {', '.join(formats.FORMATS)}, not {arguments.to!r}")
    formats.refuse_existing(arguments.destination)
    source = formats.find_source(arguments.source)
    model = formats.load_pretrained(arguments.source, num_heads=arguments.heads)
    tokenizer = formats.find_tokenizer(source.directory)
    data = source.config.get("data") if source.format == "native" else None
    formats.save_pretrained(model, arguments.destination, arguments.to, tokenizer, data)
    originals = [os.path.join(source.directory, name) for name in formats.GPT2_TOKENIZER]
    # For those who read them rather than our file
    if arguments.to == "gpt2" and all(map(os.path.isfile, originals)):
        for path in originals:
            shutil.copyfile(path, os.path.join(arguments.destination, os.path.basename(path)))
    about = (
        "with its tokenizer"
        if tokenizer is not None
        else "without a tokenizer: none that can be read lies beside the weights"
    )
    print(
        f"{source.format} -> {arguments.to}: {model.num_parameters():,} parameters in {arguments.destination}, {about}"
    )
    return 0


class _Listing(NamedTuple):
    """What is in a file: its kind, its tensors, and the free text of a safetensors header."""

    path: str
    kind: str
    entries: dict[str, Entry]
    metadata: dict[str, str]


def run_inspect(arguments: argparse.Namespace) -> int:
    """`tinygpt inspect`: what is in a file of weights, or in each of a directory.

    Raises:
        ValueError: no file of weights there.
        SerializationError: a file that breaks a rule of its format.
    """
    listings = [_look(path) for path in _files(arguments.path)]
    if arguments.json:
        print(
            json.dumps(
                {"path": arguments.path, "files": [_as_json(listing) for listing in listings]}, indent=2
            )
        )
        return 0
    for number, listing in enumerate(listings):
        if number:
            print()
        _print(listing)
    return 0


def _files(path: str) -> list[str]:
    """Returns the files of weights that a path stands for."""
    if not os.path.isdir(path):
        return [path]
    found = sorted(
        name for name in os.listdir(path) if name.endswith(".safetensors") or name == formats.TINYGPT_MODEL
    )
    if not found:
        raise ValueError(f"{path} holds no .safetensors file and no {formats.TINYGPT_MODEL}")
    return [os.path.join(path, name) for name in found]


def _look(path: str) -> _Listing:
    if path.endswith(".json"):
        return _Listing(
            path,
            "JSON",
            {name: _measure(name, text, path) for name, text in read_json_object(path, MAXIMUM_JSON).items()},
            {},
        )
    header = read_safetensors_header(path)
    return _Listing(path, "safetensors", header.entries, header.metadata)


def _measure(name: str, text: Any, path: str) -> Entry:
    """Returns dtype and shape of a tensor that stands as nested brackets, from where the brackets close; no
    number is read.
    """
    found = _TEXT.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise SerializationError(
            f"{path}: {name!r} is not a tensor in TinyGPT's form, Tensor(data=…, requires_grad=…)"
        )
    data = found[1]
    depth = len(data) - len(data.lstrip("["))
    if depth > 64:
        raise SerializationError(f"{path}: {name!r} has {depth:,} axes; tensors have at most 64")
    end, rows = data.find("]"), 1
    sizes = [data.count(",", 0, end) + 1 if end > depth else 0] if depth else []
    # Up to the first "]]" lies one matrix, up to the first "]]]" one stack of them
    for level in range(2, depth + 1):
        inside = data.count("],", 0, data.find("]" * level)) + 1
        sizes.append(inside // rows)
        rows = inside
    is_float = (
        any(mark in data for mark in (".", "e", "inf", "nan")) and "True" not in data and "False" not in data
    )
    dtype = "F32" if is_float or not data.strip("[], ") else "BOOL" if "e" in data else "I32"
    shape = tuple(reversed(sizes))
    return Entry(dtype, shape, 0, prod(shape) * (1 if dtype == "BOOL" else 4))


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
    about = {"path": listing.path, "kind": listing.kind, "file_bytes": os.path.getsize(listing.path)}
    return about | {"metadata": listing.metadata, "totals": _totals(listing), "tensors": tensors}


def _print(listing: _Listing) -> None:
    print(f"{listing.path} ({listing.kind}, {os.path.getsize(listing.path):,} bytes)")
    rows = [
        (
            _printable(name),
            entry.dtype_name,
            " x ".join(map(str, entry.shape)) or "scalar",
            f"{entry.stop - entry.start:,}",
        )
        for name, entry in sorted(listing.entries.items(), key=lambda item: _natural(item[0]))
    ]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(4)]
    for name, dtype, shape, size in rows:
        print(f"  {name:<{widths[0]}}  {dtype:<{widths[1]}}  {shape:<{widths[2]}}  {size:>{widths[3]}} bytes")
    for key, value in sorted(listing.metadata.items()):
        print(f"  metadata {_printable(key)} = {_printable(value)}")
    totals = _totals(listing)
    print(f"{totals['tensors']:,} tensors, {totals['elements']:,} elements, {totals['bytes']:,} bytes")


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that puts block 10 after block 9."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d{1,9})", name)]


def _printable(text: str) -> str:
    """Names come from files, and must not move the cursor."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
