"""The subcommand `tinygpt generate`: texts from a trained model."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from typing import Any

from .. import backends, random
from ..generation import check_sampling, generate
from ..printable import replace_unprintable
from ..training.data import BOUNDARY
from ..training.runs import load_model
from .messages import UsageError, find_run
from .options import path, text

SAMPLES = 20
SAMPLE_TEMPERATURE = 0.7
SAMPLE_TOKENS = 200  # the most for a document


def add_command(commands: Any) -> None:
    """Adds `generate` to the subcommands of a parser."""
    parser = commands.add_parser(
        "generate",
        help="sample from a trained model",
        description="Continue a text with the model of a run, as it is sampled.",
        allow_abbrev=False,
    )
    parser.set_defaults(command=run_generate)
    option = parser.add_argument
    option("directory", type=path, metavar="DIR", help="directory of a run, such as runs/latest")
    option("--prompt", type=text, default="", metavar="TEXT", help="the text to continue (default: none)")
    option("--count", type=int, default=1, metavar="N", help="how many texts to sample (default: 1)")
    option(
        "--tokens",
        type=int,
        default=SAMPLE_TOKENS,
        metavar="N",
        help=f"most tokens to sample for each (default: {SAMPLE_TOKENS})",
    )
    option(
        "--temperature",
        type=float,
        default=SAMPLE_TEMPERATURE,
        metavar="X",
        help=f"0: always the most probable token, 1: as trained (default: {SAMPLE_TEMPERATURE})",
    )
    option("--top-k", type=int, metavar="N", help="sample among the N most probable tokens (default: all)")
    option(
        "--top-p",
        type=float,
        metavar="X",
        help="sample among the most probable tokens that reach probability X (default: all)",
    )
    option(
        "--seed",
        type=int,
        metavar="N",
        help="the same seed gives the same text (default: a new one each time)",
    )
    option("--backend", metavar="NAME", help="see `tinygpt backends` (default: the run's)")


def run_generate(arguments: argparse.Namespace) -> int:
    """Runs `tinygpt generate`: texts from a trained model, streamed. Returns the exit code.

    Raises:
        UsageError: a negative count, a seed out of range, or no such run.
        ValueError: sampling settings out of range.
    """
    if arguments.count < 0:
        raise UsageError(f"--count must be 0 or more, not {arguments.count}")
    check_sampling(arguments.tokens, arguments.temperature, arguments.top_k, arguments.top_p)
    seed = arguments.seed if arguments.seed is not None else int.from_bytes(os.urandom(4), "little")
    if not 0 <= seed < 2**64:
        raise UsageError(f"--seed must be from 0 to 2**64 - 1, not {seed}")
    generator = random.Generator(seed)
    model, tokenizer, config = load_model(find_run(arguments.directory), arguments.backend)
    is_documents = config["data"]["is_documents"]
    prompt = arguments.prompt or config["data"]["opening"]
    tokenizer.encode(prompt)  # raises where it cannot be, before it is printed
    with backends.use(config["training"]["backend"]):
        for index in range(arguments.count):
            if index > 0 and not is_documents:
                print("---")
            write_text(arguments.prompt)
            pieces = sample_pieces(
                model,
                tokenizer,
                prompt,
                is_documents,
                generator,
                tokens=arguments.tokens,
                temperature=arguments.temperature,
                top_k=arguments.top_k,
                top_p=arguments.top_p,
            )
            for piece in pieces:
                write_text(piece)
            print(flush=True)
    return 0


def sample_pieces(
    model: Any,
    tokenizer: Any,
    prompt: str,
    is_documents: bool,
    generator: Any,
    *,
    tokens: int,
    temperature: float = SAMPLE_TEMPERATURE,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Iterator[str]:
    """Returns pieces of a text as they are sampled; where the corpus is of documents, it ends as one does.

    The other arguments are those of `generation.generate`.
    """
    return generate(
        model,
        tokenizer,
        prompt,
        tokens=tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        generator=generator,
        stop_id=tokenizer.special_tokens[BOUNDARY] if is_documents else None,
    )


def write_text(piece: str) -> None:
    """Prints sampled text as it comes; on a terminal without the control characters that could act on it."""
    if sys.stdout.isatty():
        piece = replace_unprintable(piece, keep="\n\t")
    print(piece, end="", flush=True)
