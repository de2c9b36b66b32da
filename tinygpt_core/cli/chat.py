"""`tinygpt generate --chat`: messages are read, and answered, one after the other."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from .. import random
from ..tokenizer.base import TokenizerError
from ..tokenizer.chat import ChatError, ChatTemplate, Message, named_template
from ..training.config import plural
from ..training.conversations import require_tokens, template_in
from ..training.runs import answer_pieces
from .messages import UsageError, one_line
from .writing import write_text

PROMPT = "> "
LONGEST_LINE = 1 << 20  # bytes of a message
RESERVED = 4  # the part of the context, 1 / RESERVED, that is kept for an answer


def chat_template_of(arguments: argparse.Namespace, tokenizer: Any, directory: str) -> ChatTemplate:
    """Returns the chat template of --chat-template, or else that of the run or folder.

    Raises:
        UsageError: there is none.
        ChatError: it cannot be used here, or does not go with the tokenizer.
    """
    if arguments.chat_template is not None:
        template: ChatTemplate | None = named_template(arguments.chat_template)
    else:
        template = template_in(directory, tokenizer)
    if template is None:
        raise UsageError(
            f"the model in {arguments.directory} has no chat template: it learns one with "
            "`train --data FILE.jsonl`; where it knows one, --chat-template names it"
        )
    require_tokens(template, tokenizer, arguments.directory)
    return template


def run_chat(
    arguments: argparse.Namespace,
    model: Any,
    tokenizer: Any,
    directory: str,
    generator: random.Generator,
    sampling: dict[str, Any],
) -> None:
    """Reads messages from the standard input and prints the answers, until it ends.

    On a terminal it asks for each message, and says what is wrong with one; elsewhere a line is a message,
    and what is wrong ends it.

    Args:
        arguments: of `generate`.
        model, tokenizer, directory: of the run, or of the folder with a checkpoint.
        generator: where the randomness comes from.
        sampling: how tokens are drawn, and what draws them.

    Raises:
        UsageError: no chat template, or a message that is too long or no UTF-8.
        ChatError, TokenizerError: a message that the model cannot be given.
    """
    template = chat_template_of(arguments, tokenizer, directory)
    is_live = sys.stdin is not None and sys.stdin.isatty()
    history = [] if arguments.system is None else [Message("system", arguments.system)]
    reserved = max(1, min(sampling["tokens"], model.config.context_length // RESERVED))
    if is_live:
        print(f"template {template.name}; an empty line or Ctrl-D ends the chat")
    for text in _typed() if is_live else _lines():
        asked = [*history, Message("user", text)]
        try:
            messages, dropped = fitting(template, tokenizer, asked, model.config.context_length - reserved)
            if dropped:
                _say(f"the context is full: the oldest {plural(dropped, 'message')} dropped")
            pieces = answer_pieces(
                model, tokenizer, template, messages, generator, stop=arguments.stop or (), **sampling
            )
            answer = "".join(_written(pieces, arguments.json))
        except (ChatError, TokenizerError) as problem:
            if not is_live:
                raise
            _say(one_line(problem))
            continue
        if arguments.json:
            print(json.dumps({"prompt": text, "text": answer}), flush=True)
        else:
            print(flush=True)
        history = [*messages, Message("assistant", answer)]


def fitting(
    template: ChatTemplate, tokenizer: Any, messages: Sequence[Message], room: int
) -> tuple[list[Message], int]:
    """Returns a conversation without its oldest turns, so that its tokens fit, and how many messages went.

    What the system says stays, and so does the last message, whether it fits or not. A turn is a message of
    the user's with all that follows up to the next one.

    Args:
        template, tokenizer: make tokens of it.
        messages: from the first to the last.
        room: the most tokens.

    Raises:
        ChatError, TokenizerError: see `ChatTemplate.ids`.
    """
    kept = list(messages)
    first = 1 if kept and kept[0].role == "system" else 0
    while len(template.ids(tokenizer, kept)) > room:
        end = next((n for n in range(first + 1, len(kept)) if kept[n].role == "user"), None)
        if end is None:
            break
        del kept[first:end]
    return kept, len(messages) - len(kept)


def _typed() -> Iterator[str]:
    """Yields what is typed, up to an empty line or the end."""
    while True:
        try:
            text = input(PROMPT)
        except EOFError:
            print()
            return
        except UnicodeDecodeError:
            _say("a message must be UTF-8")
            continue
        if not text.strip():
            return
        yield text


def _lines() -> Iterator[str]:
    """Yields the lines of the standard input that are not empty; raises UsageError as `run_chat`."""
    if sys.stdin is None:
        return
    while line := sys.stdin.buffer.readline(LONGEST_LINE + 1):
        if len(line) > LONGEST_LINE:
            raise UsageError(f"a message on the standard input has more than {LONGEST_LINE:,} bytes")
        try:
            text = line.decode().removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError:
            raise UsageError("a message on the standard input must be UTF-8") from None
        if text.strip():
            yield text


def _written(pieces: Iterator[str], is_quiet: bool) -> Iterator[str]:
    """Yields pieces of an answer, and prints them unless it is to be quiet."""
    for piece in pieces:
        if not is_quiet:
            write_text(piece)
        yield piece


def _say(text: str) -> None:
    print(f"({text})", file=sys.stderr, flush=True)
