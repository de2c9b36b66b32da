"""The subcommand `tinygpt convert`: checkpoints from one format to another."""

from __future__ import annotations

import argparse
import os
import shutil
from typing import Any, NamedTuple

from .. import backends, formats
from ..nn.lora import LoRAConfig
from ..training.conversations import template_in
from ..training.runs import ADAPTERS, load_model
from .options import path


def add_command(commands: Any) -> None:
    """Adds `convert` to the subcommands of a parser."""
    parser = commands.add_parser(
        "convert",
        help="convert weights between formats",
        description=(
            "Convert a checkpoint to another format. SOURCE is a directory with config.json and "
            "model.safetensors (Hugging Face's GPT-2, Llama, Mistral, Qwen, Gemma, Phi-3, GPT-NeoX, "
            "StarCoder2, Mixtral, OLMoE), a run of `tinygpt train`, a directory of adapters as the peft "
            "library keeps them, or a .json file of TinyGPT's weights; what it is, is found out. A tokenizer "
            "that lies beside the weights travels along, with its chat template. Nothing is overwritten."
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
        metavar="FORMAT",
        help=(
            f"native (for `tinygpt generate`), {', '.join(formats.FORMATS[1:])}, or of a run with adapters "
            f"{formats.ADAPTERS}: these alone; with --merge that of the base is meant (default: native)"
        ),
    )
    parser.add_argument(
        "--merge",
        action="store_true",
        help="write one whole model of adapters (LoRA) and the model that they are for (default: refused)",
    )
    parser.add_argument(
        "--base",
        type=path,
        metavar="DIR",
        help="the model that a directory of adapters is for (default: what its adapter_config.json says)",
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
        ValueError: a format there is none of, a destination that exists, a checkpoint that cannot be read, or
            adapters without --merge, or --merge without adapters.
    """
    known = (*formats.FORMATS, formats.ADAPTERS)
    if arguments.to not in (None, *known):
        raise ValueError(f"--to must be one of {', '.join(known)}, not {arguments.to!r}")
    formats.refuse_existing(arguments.destination)
    source = formats.find_source(arguments.source)
    base = _base_of_adapters(source, arguments)
    if arguments.to == formats.ADAPTERS:
        model = load_model(source.directory, backends.active().backend)[0]
        formats.save_adapters(model, arguments.destination)
        print(
            f"{source.format} -> {arguments.to}: {model.num_parameters(trainable_only=True):,} parameters of "
            f"adapters in {arguments.destination}"
        )
        return 0
    to = arguments.to or (base.format if base is not None else "native")
    model = formats.load_pretrained(arguments.source, num_heads=arguments.heads, base=arguments.base)
    home = source.directory
    tokenizer = formats.find_tokenizer(home)
    if tokenizer is None and source.format == formats.ADAPTERS and base is not None:
        home = base.directory or home
        tokenizer = formats.find_tokenizer(home)
    data = source.config.get("data") if source.format == "native" else None
    template = None if tokenizer is None else template_in(home, tokenizer)
    formats.save_pretrained(model, arguments.destination, to, tokenizer, data, template)
    if to == "gpt2":
        _copy_gpt2_tokenizer(home, arguments.destination)
    about = (
        "with its tokenizer"
        if tokenizer is not None
        else "without a tokenizer: none that can be read lies beside the weights"
    )
    print(
        f"{source.format} -> {to}: {model.num_parameters():,} parameters in {arguments.destination}, {about}"
    )
    return 0


class _Base(NamedTuple):
    """The model that adapters are for: its format and, where it is known, its directory."""

    format: str
    directory: str | None


def _base_of_adapters(source: formats.Source, arguments: argparse.Namespace) -> _Base | None:
    """Returns the model that the adapters in a checkpoint are for; None where there are none.

    Raises:
        ValueError: the options do not go with what the checkpoint holds.
    """
    in_run = source.config.get(ADAPTERS) if source.format == "native" else None
    is_alone = source.format == formats.ADAPTERS
    wants_them_alone = arguments.to == formats.ADAPTERS
    if arguments.base is not None and not is_alone:
        raise ValueError(f"--base is for a directory of adapters, and {source.directory} is none")
    if in_run is None and not is_alone:
        if arguments.merge or wants_them_alone:
            option = "--merge" if arguments.merge else f"--to {arguments.to}"
            raise ValueError(f"{option} is for adapters (LoRA), and {source.directory} has none")
        return None
    if wants_them_alone and (arguments.merge or is_alone):
        raise ValueError(f"--to {arguments.to} takes a run with adapters, and no --merge beside it")
    if not arguments.merge and not wants_them_alone:
        alone = "" if is_alone else f", or --to {formats.ADAPTERS} the adapters alone"
        raise ValueError(
            f"{source.directory} has adapters (LoRA): --merge writes one whole model of them and their "
            f"base{alone}"
        )
    if is_alone:
        base = formats.find_source(formats.base_of(source, arguments.base))
        return _Base(base.format, base.directory)
    with formats.as_format_error():
        config = LoRAConfig.from_dict(in_run)
    return _Base(config.format if config.format in formats.FORMATS else "native", config.base)


def _copy_gpt2_tokenizer(source: str, destination: str) -> None:
    """Copies vocab.json and merges.txt, where both are there: others read them rather than our file."""
    originals = [os.path.join(source, name) for name in formats.GPT2_TOKENIZER]
    if all(map(os.path.isfile, originals)):
        for original in originals:
            shutil.copyfile(original, os.path.join(destination, os.path.basename(original)))
