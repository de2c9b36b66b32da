"""The subcommand `tinygpt generate`: texts from a trained model."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

from .. import backends, random
from ..generation import check_sampling
from ..nn.gpt import GPT
from ..nn.quantized import WEIGHT_DTYPES, check_weight_dtype
from ..printable import replace_unprintable
from ..training.checkpoint import CONFIG, STATE
from ..training.runs import SAMPLE_TEMPERATURE, SAMPLE_TOKENS, load_model, sample_pieces
from .messages import UsageError, find_run
from .options import path, text

SAMPLES = 20
SAMPLING = ("tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty")  # options, as in code
MOST_BYTES = 1 << 24  # of a prompt on the standard input


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
    option(
        "directory",
        type=path,
        metavar="DIR",
        help="directory of a run, such as runs/latest, or of a checkpoint that `tinygpt convert` reads",
    )
    option(
        "--prompt",
        type=text,
        default="",
        metavar="TEXT",
        help="the text to continue; - reads it from the standard input (default: none)",
    )
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
        "--min-p",
        type=float,
        metavar="X",
        help="sample among the tokens at least X times as probable as the most probable one (default: all)",
    )
    option(
        "--repetition-penalty",
        type=float,
        default=1.0,
        metavar="X",
        help="above 1: tokens that were there before become less probable (default: 1)",
    )
    option(
        "--stop",
        type=text,
        action="append",
        metavar="TEXT",
        help="end before this text; may be given several times (default: none)",
    )
    option(
        "--special-tokens",
        action="store_true",
        help="the texts of special tokens in the prompt stand for them (default: they are refused)",
    )
    option(
        "--json",
        action="store_true",
        help="print each text as an object of JSON in a line, when it is whole (default: text as it comes)",
    )
    option(
        "--seed",
        type=int,
        metavar="N",
        help="the same seed gives the same text (default: a new one each time)",
    )
    option(
        "--backend",
        metavar="NAME",
        help="see `tinygpt backends` (default: the run's; of a checkpoint: the fastest that can run)",
    )
    option(
        "--dtype",
        default="float32",
        metavar="NAME",
        help=(
            f"in what the weights are kept in memory: {', '.join(WEIGHT_DTYPES)} (default: float32); "
            "bfloat16 takes half of it, and int8, with a scale for each output of a layer, a quarter; both "
            "are faster where a model does not fit the processor's cache"
        ),
    )


def run_generate(arguments: argparse.Namespace) -> int:
    """Runs `tinygpt generate`: texts from a trained model, streamed. Returns the exit code.

    Raises:
        UsageError: a negative count, a seed out of range, no such run, or a prompt that cannot be read.
        ValueError: sampling settings out of range.
    """
    if arguments.count < 0:
        raise UsageError(f"--count must be 0 or more, not {arguments.count}")
    sampling = {name: getattr(arguments, name) for name in SAMPLING}
    check_sampling(**sampling)
    if "" in (arguments.stop or []):
        raise UsageError("--stop takes a text that is not empty")
    seed = arguments.seed if arguments.seed is not None else int.from_bytes(os.urandom(4), "little")
    if not 0 <= seed < 2**64:
        raise UsageError(f"--seed must be from 0 to 2**64 - 1, not {seed}")
    generator = random.Generator(seed)
    check_weight_dtype(arguments.dtype)
    model, tokenizer, data, backend = _load(find_run(arguments.directory), arguments)
    is_documents = data["is_documents"]
    given = _from_standard_input() if arguments.prompt == "-" else arguments.prompt
    prompt = given or data["opening"]
    if arguments.special_tokens:
        tokenizer.encode(prompt, allowed_special="all")  # raises where it cannot be, before it is printed
    elif found := [token for token in tokenizer.special_tokens if token in prompt]:
        raise UsageError(f"the prompt has the special token {found[0]!r}: --special-tokens takes it as such")
    else:
        tokenizer.encode(prompt)
    with backends.use(backend):
        for index in range(arguments.count):
            pieces = sample_pieces(
                model,
                tokenizer,
                prompt,
                is_documents,
                generator,
                stop=arguments.stop or (),
                special_tokens=arguments.special_tokens,
                **sampling,
            )
            if arguments.json:
                print(json.dumps({"prompt": given, "text": "".join(pieces)}), flush=True)
                continue
            if index > 0 and not is_documents:
                print("---")
            write_text(given)
            for piece in pieces:
                write_text(piece)
            print(flush=True)
    return 0


def _load(directory: str, arguments: argparse.Namespace) -> tuple[GPT, Any, dict[str, Any], str]:
    """Returns the model of a run, or of a checkpoint of another library; its tokenizer, what a run keeps of
    its corpus, and the backend on which the model lives.

    Raises:
        ValueError: neither can be read, or the checkpoint has no tokenizer.
    """
    is_run = os.path.exists(os.path.join(directory, STATE))
    if is_run or not os.path.exists(os.path.join(directory, CONFIG)):
        model, tokenizer, config = load_model(directory, arguments.backend, arguments.dtype)
        return model, tokenizer, config["data"], config["training"]["backend"]
    from .. import formats  # most texts are of runs

    backend = arguments.backend or os.environ.get(backends.ENVIRONMENT_VARIABLE) or backends.fastest()
    tokenizer = formats.find_tokenizer(directory)
    if tokenizer is None:
        raise UsageError(f"{directory} has no tokenizer that can be read beside its weights")
    with backends.use(backend):
        model = formats.load_pretrained(directory, dtype=arguments.dtype)
    return model, tokenizer, formats.data_of(tokenizer), backend


def _from_standard_input() -> str:
    """Returns the prompt that the standard input holds, without the line break at its end.

    Raises:
        UsageError: it is longer than a prompt may be, or no UTF-8.
    """
    data = sys.stdin.buffer.read(MOST_BYTES + 1) if sys.stdin is not None else b""
    if len(data) > MOST_BYTES:
        raise UsageError(f"the prompt on the standard input has more than {MOST_BYTES:,} bytes")
    try:
        return data.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise UsageError("the prompt on the standard input must be UTF-8") from None


def write_text(piece: str) -> None:
    """Prints sampled text as it comes; on a terminal without the control characters that could act on it."""
    if sys.stdout.isatty():
        piece = replace_unprintable(piece, keep="\n\t")
    print(piece, end="", flush=True)
