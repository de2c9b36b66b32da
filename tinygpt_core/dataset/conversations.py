"""Conversations to learn to answer from: a file with one in each line, and batches of them.

    {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi there."}]}

A chat template makes one text of a conversation, whose tokens become a row. Only the tokens of answers, up to
the one that ends each, are targets: what the user says is read, and not learned.

    inputs   <|user|>  Hello   <|end|>  <|assistant|>  Hi  there  .
    targets     -1      -1       -1          Hi       there  .   <|end|>

Rows are as long as the longest conversation of a batch. Packed rows have several conversations, one after the
other, and `documents` says which position is of which: attention sees its own only, see
`nn.attention.document_attention`, and a model gives the logits that it gives for each alone.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

from ..files.atomic import Path
from ..files.json_objects import SerializationError, parse_json_object
from ..random import Generator
from ..tokenizer.base import Tokenizer, TokenizerError
from ..tokenizer.chat import ROLES, ChatError, ChatTemplate, Message
from .batches import IGNORED_TARGET, Batch, DocumentBatches, Shards, shard_rows
from .corpora import CorpusError, read_bytes
from .datasets import DocumentStore

SUFFIX = ".jsonl"
MOST_MESSAGES = 10_000  # of a conversation
LONGEST_LINE = 10_000_000  # bytes


class Conversation(NamedTuple):
    """What was said, and in which line of the file it stands."""

    messages: list[Message]
    line: int


def is_conversation_file(path: Path | None) -> bool:
    """Whether a path names a file of conversations: its name ends in `.jsonl`."""
    return path is not None and os.fspath(path).endswith(SUFFIX) and not os.path.isdir(path)


def read_conversations(path: Path) -> list[Conversation]:
    """Returns the conversations of a file in JSON lines. Empty lines are passed over, and so is what stands
    beside `messages` in an object.

    Raises:
        CorpusError: the file cannot be read, is too large, or has no conversation, or one that cannot be
            learned from; the message names the line.
    """
    try:
        data = read_bytes(path)
    except OSError as problem:
        raise CorpusError(f"cannot read {os.fspath(path)}: {problem.strerror}") from problem
    found = []
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if line.strip():
            where = f"{os.fspath(path)}, line {number}"
            found.append(Conversation(_messages(line, where), number))
    if not found:
        raise CorpusError(f"{os.fspath(path)} has no conversation in it")
    return found


def _messages(line: bytes, where: str) -> list[Message]:
    """Returns the messages of a line; raises CorpusError where they are none."""
    if len(line) > LONGEST_LINE:
        raise CorpusError(f"{where} has {len(line):,} bytes; a conversation has at most {LONGEST_LINE:,}")
    try:
        value = parse_json_object(line, where)
    except SerializationError as problem:
        raise CorpusError(str(problem)) from None
    listed = value.get("messages")
    if not isinstance(listed, list) or not 0 < len(listed) <= MOST_MESSAGES:
        raise CorpusError(
            f'{where}: "messages" must be a list of 1 to {MOST_MESSAGES:,} messages, each with a role and '
            f"a content; name a file .txt whose lines are to be learned as text"
        )
    if value.get("tools"):
        raise CorpusError(f'{where} has "tools", which conversations here cannot have')
    messages = []
    for number, each in enumerate(listed, 1):
        found = each if isinstance(each, dict) else {}
        role, content = found.get("role"), found.get("content")
        if role not in ROLES:
            known = ", ".join(ROLES)
            raise CorpusError(f"{where}: the role of message {number} is {role!r:.80}, not one of {known}")
        if not isinstance(content, str):
            raise CorpusError(f"{where}: the content of message {number} is {content!r:.80}, not a text")
        if more := sorted(key for key, other in found.items() if key not in ("role", "content") and other):
            raise CorpusError(f"{where}: message {number} has {more[0]!r:.80}, which is not understood here")
        messages.append(Message(role, content))
    if all(message.role != "assistant" for message in messages):
        raise CorpusError(f"{where}: nothing is to be learned, as no message is the assistant's")
    return messages


def conversations_digest(conversations: Iterable[Conversation]) -> str:
    """Returns the SHA-256 of what was said, by which a run that is resumed knows its conversations."""
    digest = sha256()
    for conversation in conversations:
        for message in conversation.messages:
            for text in message:
                data = text.encode("utf-8", "surrogatepass")
                digest.update(len(data).to_bytes(8, "little") + data)
        digest.update(b"\xff" * 8)  # no text is that long
    return digest.hexdigest()


# ---------------------------------------------------------------- tokens


@dataclass(frozen=True)
class ConversationTokens:
    """The tokens of conversations.

    Attributes:
        ids: a document each, cut to a row and its last target.
        counted: for each of these tokens 1 where it is of an answer, or ends one, and 0 elsewhere.
        numbers: which of the file's conversations each is.
        num_cut: how many were longer than a row.
        num_left_out: how many have no answer that begins within a row; they are not among the others.
    """

    ids: DocumentStore
    counted: DocumentStore
    numbers: tuple[int, ...]
    num_cut: int = 0
    num_left_out: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, indices: Iterable[int]) -> ConversationTokens:
        """Returns some of them, in that order."""
        chosen = list(indices)
        numbers = tuple(self.numbers[index] for index in chosen)
        return ConversationTokens(self.ids.select(chosen), self.counted.select(chosen), numbers)

    def num_targets(self, index: int) -> int:
        """Returns how many targets of a conversation count."""
        return sum(self.counted[index][1:])

    def row(self, index: int) -> tuple[array[int], array[int]]:
        """Returns the inputs and the targets of a conversation."""
        ids = array("i", self.ids[index])
        counted = self.counted[index]
        targets = [idx if counts else IGNORED_TARGET for idx, counts in zip(ids, counted, strict=True)]
        return ids[:-1], array("i", targets[1:])


def conversation_tokens(
    conversations: Sequence[Conversation],
    tokenizer: Tokenizer,
    template: ChatTemplate,
    context_length: int,
    path: str,
) -> ConversationTokens:
    """Returns the tokens of conversations, those of answers marked.

    Args:
        tokenizer, template: make ids of them.
        context_length: inputs of a row; what is behind it of a longer conversation is cut off.
        path: of the file, for messages.

    Raises:
        CorpusError: a conversation has no place in the template, or characters that the tokenizer does not
            know, or none of them has an answer within a row; the message names the line.
    """
    stops = frozenset(template.stop_ids(tokenizer))
    ids = []
    counted = []
    numbers = []
    num_cut = num_left_out = 0
    for number, conversation in enumerate(conversations):
        try:
            whole, marks = _marked(conversation.messages, tokenizer, template, stops, context_length + 1)
        except (ChatError, TokenizerError) as problem:
            raise CorpusError(f"{path}, line {conversation.line}: {problem}") from None
        num_cut += len(whole) > context_length + 1
        if not any(marks[1 : context_length + 1]):
            num_left_out += 1
            continue
        numbers.append(number)
        ids.append(whole[: context_length + 1])
        counted.append(marks[: context_length + 1])
    if not ids:
        raise CorpusError(
            f"{path}: no conversation has an answer within the context of {context_length} tokens: "
            "a longer context (--context-length) is needed"
        )
    stores = DocumentStore(ids, tokenizer.vocab_size), DocumentStore(counted, 2)
    return ConversationTokens(*stores, tuple(numbers), num_cut, num_left_out)


def _marked(
    messages: Sequence[Message],
    tokenizer: Tokenizer,
    template: ChatTemplate,
    stops: frozenset[int],
    needed: int,
) -> tuple[list[int], list[int]]:
    """Returns the ids of a conversation, and 1 for each that is of an answer; the first `needed` marks are
    right.

    An answer's tokens are those that are not among the ids of all before it and the prompt, and end with the
    first that ends an answer, or with which a mark of the template is whole that does: just what a model
    draws that answers this prompt. A token at the border that was merged of both counts as the answer's.
    """
    whole = template.ids(tokenizer, messages, prompt=False)
    marks = [0] * len(whole)
    ends = [mark.encode() for mark in template.marks]
    longest = max(map(len, ends), default=0)
    for number, message in enumerate(messages):
        if message.role != "assistant":
            continue
        before = template.encoded(tokenizer, messages[:number], prompt=True)
        start = next(
            (place for place, (a, b) in enumerate(zip(whole, before, strict=False)) if a != b), len(before)
        )
        if start >= needed:
            break
        asked = len(tokenizer.decode_bytes(before[start:]))  # of the prompt's text, in the answer's tokens
        tail = b""  # of the answer's text
        for place in range(start, len(whole)):
            marks[place] = 1
            if whole[place] in stops:
                break
            if ends:
                piece = tokenizer.decode_bytes([whole[place]])
                tail = tail[-longest:] + piece[asked:]
                asked = max(0, asked - len(piece))
                if any(end in tail for end in ends):
                    break
    return whole, marks


# ---------------------------------------------------------------- batches


class ConversationBatches(DocumentBatches):
    """Batches of conversations, in an order that is drawn anew for each epoch, as of `DocumentBatches`.

    Args:
        tokens: the conversations.
        context_length: inputs of a row at most.
        batch_size: rows of a batch.
        generator: gives seed and stream; nothing is drawn from it.
        is_packed: whether a row takes conversations as long as the next one fits.

    Raises:
        ValueError: there is no conversation.
        TypeError: context_length or batch_size is no int.
    """

    def __init__(
        self,
        tokens: ConversationTokens,
        context_length: int,
        batch_size: int,
        generator: Generator,
        is_packed: bool = False,
    ) -> None:
        super().__init__(tokens.ids, context_length, batch_size, generator, boundary_id=0)
        self.tokens = tokens
        self.is_packed = is_packed

    def next_batch(self) -> Batch:
        """Returns the next conversations, in `batch_size` rows."""
        return batch_of_rows(self.tokens, self._next_rows(), self.is_packed)

    def next_shards(self, count: int, wanted: Iterable[int]) -> Shards:
        """Returns some shards of the next batch, whose rows are cut into `count` of them."""
        rows = self._next_rows()
        batches = {}
        for number in wanted:
            chosen = shard_rows(self.batch_size, count, number)
            batches[number] = batch_of_rows(self.tokens, rows[chosen.start : chosen.stop], self.is_packed)
        num_targets = sum(self.tokens.num_targets(index) for row in rows for index in row)
        return Shards(batches, num_targets)

    def _next_rows(self) -> list[list[int]]:
        """Returns the numbers of the conversations of the next rows, and goes on."""
        if not self.is_packed:
            return [[index] for index in self._next_documents()]
        rows: list[list[int]] = []
        while len(rows) < self.batch_size:
            row: list[int] = []
            length = 0
            while True:
                if self.position == len(self.store):
                    self._go_to(self.epoch + 1, 0)
                index = self._order[self.position]
                length += self.store.length(index) - 1
                if row and length > self.context_length:
                    break
                row.append(index)
                self.position += 1
            rows.append(row)
        return rows


def packed_rows(tokens: ConversationTokens, indices: Iterable[int], context_length: int) -> list[list[int]]:
    """Returns conversations in rows, each of which takes them as long as the next one fits."""
    rows: list[list[int]] = []
    left = 0
    for index in indices:
        length = tokens.ids.length(index) - 1
        if length > left or not rows:
            rows.append([])
            left = context_length
        rows[-1].append(index)
        left -= length
    return rows


def batch_of_rows(tokens: ConversationTokens, rows: Sequence[Sequence[int]], is_packed: bool) -> Batch:
    """Returns a batch whose rows have these conversations one after the other, padded to the longest row."""
    inputs = array("i")
    targets = array("i")
    documents = array("i")
    found = [[tokens.row(index) for index in row] for row in rows]
    length = max(sum(len(ids) for ids, _ in row) for row in found)
    for row in found:
        padding = length
        for number, (ids, wanted) in enumerate(row):
            inputs += ids
            targets += wanted
            documents += array("i", [number]) * len(ids)
            padding -= len(ids)
        inputs += array("i", [0]) * padding
        targets += array("i", [IGNORED_TARGET]) * padding
        documents += array("i", [len(row)]) * padding
    return Batch(inputs, targets, (len(rows), length), documents if is_packed else None)


def conversation_evaluation_batches(
    tokens: ConversationTokens, context_length: int, batch_size: int, count: int, is_packed: bool
) -> list[Batch]:
    """Returns at most `count` batches of conversations spread evenly over all, always the same ones."""
    rows = [[index] for index in range(len(tokens))]
    if is_packed:
        rows = packed_rows(tokens, range(len(tokens)), context_length)
    total = min(count * batch_size, len(rows))
    chosen = [rows[number * len(rows) // total] for number in range(total)]
    return [
        batch_of_rows(tokens, chosen[start : start + batch_size], is_packed)
        for start in range(0, total, batch_size)
    ]
