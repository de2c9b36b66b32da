"""The subcommand `tinygpt generate`: texts from a trained model."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from .. import backends, random
from ..generation import check_sampling, generate_batch, generate_ids
from ..nn.gpt import GPT
from ..nn.quantized import WEIGHT_DTYPES, check_weight_dtype
from ..speculative import SpeculativeDecoding
from ..tokenizer.chat import TEMPLATES
from ..training.checkpoint import CONFIG, STATE, TOKENIZER
from ..training.data import BOUNDARY
from ..training.runs import SAMPLE_TEMPERATURE, SAMPLE_TOKENS, load_model, sample_pieces
from .chat import run_chat
from .messages import UsageError, command_name, find_run
from .options import path, text
from .writing import write_text

SAMPLES = 20
DRAFT_TOKENS = 4
SAMPLING = ("tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty")  # options, as in code
ADAPTER_CONFIG = "adapter_config.json"  # as `formats.sources` has it, which most texts do not need
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
        action="append",
        metavar="TEXT",
        help="the text to continue; - reads it from the standard input; given several times, the texts are "
        "continued at once, as one batch (default: none)",
    )
    option(
        "--chat",
        action="store_true",
        help="answer the messages on the standard input, a line each, as a model does that was trained on "
        "conversations; on a terminal until Ctrl-D (default: continue a text)",
    )
    option("--system", type=text, metavar="TEXT", help="with --chat, what the system says (default: nothing)")
    option(
        "--chat-template",
        choices=tuple(TEMPLATES),
        metavar="NAME",
        help=f"with --chat, the marks around messages: {', '.join(TEMPLATES)} (default: the model's own)",
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
        "--draft",
        type=path,
        metavar="DIR",
        help="a small model with the same tokens, a run or a checkpoint as DIR, which guesses ahead; the "
        "large one checks several guesses at once, so that texts are as likely as without it, and come "
        "sooner (default: none)",
    )
    option(
        "--draft-tokens",
        type=int,
        metavar="K",
        help=f"how many tokens it guesses at a time, at most (default: {DRAFT_TOKENS})",
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
        UsageError: a negative count, a seed out of range, options that contradict each other, no such run, a
            prompt that cannot be read, or a draft that does not fit.
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
    _check_chat_options(arguments)
    given_prompts = arguments.prompt or [""]
    if len(given_prompts) > 1 and arguments.draft is not None:
        raise UsageError("--draft guesses for one --prompt, not for several")
    if given_prompts.count("-") > 1:
        raise UsageError("one --prompt at most can be -, the standard input")
    directory = find_run(arguments.directory)
    model, tokenizer, data, backend = _load(directory, arguments.backend, arguments.dtype)
    sampler = _sampler(arguments, directory, tokenizer, backend)
    if arguments.chat:
        with backends.use(backend):
            run_chat(arguments, model, tokenizer, directory, generator, {**sampling, "sampler": sampler})
        if not arguments.json:
            _say_counts(sampler)
        return 0
    is_documents = data["is_documents"]
    given_prompts = [_from_standard_input() if each == "-" else each for each in given_prompts]
    prompts = [each or data["opening"] for each in given_prompts]
    for prompt in prompts:  # what cannot be is said before anything is printed
        if arguments.special_tokens:
            tokenizer.encode(prompt, allowed_special="all")
        elif found := [token for token in tokenizer.special_tokens if token in prompt]:
            raise UsageError(
                f"the prompt has the special token {found[0]!r}: --special-tokens takes it as such"
            )
        else:
            tokenizer.encode(prompt)
    with backends.use(backend):
        if len(prompts) > 1:
            _write_batch(arguments, model, tokenizer, given_prompts, prompts, is_documents, seed)
            return 0
        given, prompt = given_prompts[0], prompts[0]
        for index in range(arguments.count):
            pieces = sample_pieces(
                model,
                tokenizer,
                prompt,
                is_documents,
                generator,
                stop=arguments.stop or (),
                special_tokens=arguments.special_tokens,
                sampler=sampler,
                **sampling,
            )
            if arguments.json:
                before = _counts(sampler)
                text = "".join(pieces)
                counted = {name: count - before[name] for name, count in _counts(sampler).items()}
                print(json.dumps({"prompt": given, "text": text, **counted}), flush=True)
                continue
            if index > 0 and not is_documents:
                print("---")
            write_text(given)
            for piece in pieces:
                write_text(piece)
            print(flush=True)
    if not arguments.json:
        _say_counts(sampler)
    return 0


def _check_chat_options(arguments: argparse.Namespace) -> None:
    """Raises UsageError where options that are for a chat, or not for one, say otherwise than --chat."""
    if not arguments.chat:
        for name in ("system", "chat_template"):
            if getattr(arguments, name) is not None:
                raise UsageError(f"--{name.replace('_', '-')} is for --chat")
        return
    refused = {
        "--prompt": arguments.prompt is not None,
        "--count": arguments.count != 1,
        "--special-tokens": arguments.special_tokens,
    }
    if found := [name for name, is_given in refused.items() if is_given]:
        raise UsageError(f"{found[0]} is not for --chat, whose messages come on the standard input")


def _write_batch(
    arguments: argparse.Namespace,
    model: Any,
    tokenizer: Any,
    given: Sequence[str],
    prompts: Sequence[str],
    is_documents: bool,
    seed: int,
) -> None:
    """Prints what follows several prompts, --count times each, the first text of all before the second.

    Each text has a random stream of its own, so that it does not depend on the others.
    """
    sampling = {name: getattr(arguments, name) for name in SAMPLING}
    streams = 0
    for _ in range(arguments.count):
        generators = [random.Generator(seed, streams + number) for number in range(len(prompts))]
        streams += len(prompts)
        texts = generate_batch(
            model,
            tokenizer,
            prompts,
            generators=generators,
            stop_id=tokenizer.special_tokens[BOUNDARY] if is_documents else None,
            stop=arguments.stop or (),
            special_tokens=arguments.special_tokens,
            **sampling,
        )
        for number, (before, after) in enumerate(zip(given, texts, strict=True)):
            if arguments.json:
                print(json.dumps({"prompt": before, "text": after}), flush=True)
                continue
            if not is_documents and (number > 0 or streams > len(prompts)):
                print("---")
            write_text(before + after + "\n")


def _counts(sampler: object) -> dict[str, int]:
    """Returns how many guesses of a draft there were, and how many were accepted; nothing without a draft."""
    if not isinstance(sampler, SpeculativeDecoding):
        return {}
    return {"drafted": sampler.drafted, "accepted": sampler.accepted}


def _say_counts(sampler: object) -> None:
    """Says to people how many guesses of a draft were accepted; nothing without a draft."""
    if counts := _counts(sampler):
        accepted, drafted = counts["accepted"], counts["drafted"]
        print(f"{accepted:,} of {drafted:,} guesses of the draft were accepted", file=sys.stderr)


def _sampler(
    arguments: argparse.Namespace, directory: str, tokenizer: Any, backend: str
) -> Callable[..., Iterator[int]]:
    """Returns what draws the ids: with a draft where one was asked for.

    Args:
        arguments: of `generate`.
        directory, tokenizer, backend: of the model that it is to help.

    Raises:
        UsageError: there is no such run, its tokens are others, or it is to guess no token.
    """
    if arguments.draft is None:
        if arguments.draft_tokens is not None:
            raise UsageError("--draft-tokens is for --draft DIR, which is not there")
        return generate_ids
    count = DRAFT_TOKENS if arguments.draft_tokens is None else arguments.draft_tokens
    if count < 1:
        raise UsageError(f"--draft-tokens must be 1 or more, not {count}")
    draft, theirs, _, _ = _load(find_run(arguments.draft), backend, arguments.dtype)
    if not tokenizer.has_the_tokens_of(theirs):
        is_run = os.path.exists(os.path.join(directory, STATE))
        place = os.path.join(arguments.directory, TOKENIZER) if is_run else arguments.directory
        raise UsageError(
            f"the tokens of {arguments.draft} are not those of {arguments.directory}: train the draft with "
            f"--tokenizer {place}"
        )
    return SpeculativeDecoding(draft, count)


def _load(directory: str, backend: str | None, dtype: str) -> tuple[GPT, Any, dict[str, Any], str]:
    """Returns the model of a run, or of a checkpoint of another library; its tokenizer, what a run keeps of
    its corpus, and the backend on which the model lives.

    Args:
        directory: of the run, or of the checkpoint.
        backend: where the model shall live; default: the run's, or the fastest for a checkpoint.
        dtype: in what its weights are kept.

    Raises:
        ValueError: neither can be read, the checkpoint has no tokenizer, or there are adapters alone.
    """
    is_run = os.path.exists(os.path.join(directory, STATE))
    if not is_run and os.path.exists(os.path.join(directory, ADAPTER_CONFIG)):
        raise UsageError(
            f"{directory} holds adapters (LoRA) alone: `{command_name()} convert {directory} DIR --merge` "
            "makes one model of them and their base"
        )
    if is_run or not os.path.exists(os.path.join(directory, CONFIG)):
        model, tokenizer, config = load_model(directory, backend, dtype)
        return model, tokenizer, config["data"], config["training"]["backend"]
    from .. import formats  # most texts are of runs

    backend = backend or os.environ.get(backends.ENVIRONMENT_VARIABLE) or backends.fastest()
    tokenizer = formats.find_tokenizer(directory)
    if tokenizer is None:
        raise UsageError(f"{directory} has no tokenizer that can be read beside its weights")
    with backends.use(backend):
        model = formats.load_pretrained(directory, dtype=dtype)
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
