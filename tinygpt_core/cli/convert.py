"""The subcommand `tinygpt convert`: checkpoints from one format to another."""

from __future__ import annotations

import argparse
import os
import shutil
from typing import Any

from .. import formats
from .options import path


def add_command(commands: Any) -> None:
    """Adds `convert` to the subcommands of a parser."""
    parser = commands.add_parser(
        "convert",
        help="convert weights between formats",
        description=(
            "Convert a checkpoint to another format. SOURCE is a directory with config.json and "
            "model.safetensors (Hugging Face's GPT-2, Llama, Mistral, Qwen, Gemma, Phi-3, GPT-NeoX, "
            "StarCoder2), a run of `tinygpt train`, or a .json file of TinyGPT's weights; what it is, is "
            "found out. A tokenizer that lies beside the weights travels along. Nothing is overwritten."
        ),
        allow_abbrev=False,
    )
    parser.set_defaults(command=run_convert)
    parser.add_argument("source", type=path, metavar="SOURCE", help="the checkpoint to read")
    parser.add_argument(
        "destination", type=path, metavar="DESTINATION", help="the directory to write, new or empty"
    )
    parser.add_argument(
        "--to",
        default="native",
        metavar="FORMAT",
        help=f"native (for `tinygpt generate`), {', '.join(formats.FORMATS[1:])} (default: native)",
    )
    parser.add_argument(
        "--heads",
        type=int,
        metavar="N",
        help=(
            "attention heads of a TinyGPT model, whose files do not tell them "
            "(default: what config.json says)"
        ),
    )


def run_convert(arguments: argparse.Namespace) -> int:
    """Runs `tinygpt convert`: loads a checkpoint, saves it in another format. Returns the exit code.

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
    if arguments.to == "gpt2":
        _copy_gpt2_tokenizer(source.directory, arguments.destination)
    about = (
        "with its tokenizer"
        if tokenizer is not None
        else "without a tokenizer: none that can be read lies beside the weights"
    )
    print(
        f"{source.format} -> {arguments.to}: {model.num_parameters():,} parameters in "
        f"{arguments.destination}, {about}"
    )
    return 0


def _copy_gpt2_tokenizer(source: str, destination: str) -> None:
    """Copies vocab.json and merges.txt, where both are there: others read them rather than our file."""
    originals = [os.path.join(source, name) for name in formats.GPT2_TOKENIZER]
    if all(map(os.path.isfile, originals)):
        for original in originals:
            shutil.copyfile(original, os.path.join(destination, os.path.basename(original)))
