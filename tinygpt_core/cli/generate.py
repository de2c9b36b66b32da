"""The subcommand `tinygpt generate`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from typing import Any

from .messages import UsageError, find_run
from .options import path

SAMPLES = 20
SAMPLE_TEMPERATURE = 0.7
SAMPLE_TOKENS = 200  # the most for a document


def add_command(commands: Any) -> None:
    """Adds `generate` to the subcommands of a parser."""
    about = "Continue a text with the model of a run, as it is sampled."
    generate = commands.add_parser(
        "generate", help="sample from a trained model", allow_abbrev=False, description=about
    )
    generate.set_defaults(command=run_generate)
    option = generate.add_argument
    option("directory", type=path, metavar="DIR", help="directory of a run, such as runs/latest")
    option("--prompt", default="", metavar="TEXT", help="the text to continue (default: none)")
    option("--count", type=int, default=1, metavar="N", help="how many texts to sample (default: 1)")
    option(
        "--tokens",
        type=int,
        default=SAMPLE_TOKENS,
        metavar="N",
        help=f"most tokens to sample for each (default: {SAMPLE_TOKENS})",
    )
    text = f"0: always the most probable token, 1: as trained (default: {SAMPLE_TEMPERATURE})"
    option("--temperature", type=float, default=SAMPLE_TEMPERATURE, metavar="X", help=text)
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
    """`tinygpt generate`: texts from a trained model, streamed.

    Raises:
        UsageError: a negative count, a seed out of range, or no such run.
        ValueError: sampling settings out of range.
    """
    from .. import backends, random
    from ..generation import check_sampling
    from ..training.loop import load_model

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
    sampling = {name: getattr(arguments, name) for name in ("tokens", "temperature", "top_k", "top_p")}
    with backends.use(config["training"]["backend"]):
        for index in range(arguments.count):
            if index and not is_documents:
                print("---")
            _write_text(arguments.prompt)
            for piece in _pieces(model, tokenizer, prompt, is_documents, generator, **sampling):
                _write_text(piece)
            print(flush=True)
    return 0


def _pieces(
    model: Any,
    tokenizer: Any,
    prompt: str,
    is_documents: bool,
    generator: Any,
    *,
    temperature: float = SAMPLE_TEMPERATURE,
    **sampling: Any,
) -> Iterator[str]:
    from ..generation import generate
    from ..training.data import BOUNDARY

    stop_id = tokenizer.special_tokens[BOUNDARY] if is_documents else None
    return generate(
        model, tokenizer, prompt, temperature=temperature, generator=generator, stop_id=stop_id, **sampling
    )


def _write_text(text: str) -> None:
    """Print sampled text as it comes; on a terminal without the control characters that could act on it."""
    if sys.stdout.isatty():
        text = "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)
    print(text, end="", flush=True)
