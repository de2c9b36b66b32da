"""From a file of conversations to batches: the chat template of a run, and what its rows are made of."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from typing import Any

from ..dataset.batches import IGNORED_TARGET, Batch, split_train_validation
from ..dataset.conversations import ConversationBatches, ConversationTokens, conversation_evaluation_batches
from ..files.json_objects import read_json_object
from ..random import Generator
from ..tokenizer.base import Tokenizer, TokenizerError
from ..tokenizer.chat import (
    TEMPLATES,
    ChatError,
    ChatTemplate,
    Message,
    find_chat_template,
    named_template,
    template_of_json,
)
from .checkpoint import CONFIG, STATE
from .config import TrainingConfig, plural
from .settings import SettingError

CHAT_TEMPLATE = "chat_template"  # in what a run's config says of its data
DEFAULT_TEMPLATE = "plain"  # where the tokenizer has its special tokens, or gets them
TEXT_TEMPLATE = "text"  # where it has none of any template
# Random stream of the run's seed for the order of the data; stream 0 is for weights and dropout
DATA_STREAM = 1


def saved_template(config: Mapping[str, Any]) -> ChatTemplate | None:
    """Returns the chat template that the config of a run has; None where it has none.

    Raises:
        ChatError: it is none.
    """
    data = config.get("data")
    value = data.get(CHAT_TEMPLATE) if isinstance(data, dict) else None
    return None if value is None else template_of_json(value)


def template_in(folder: str, tokenizer: Tokenizer) -> ChatTemplate | None:
    """Returns the chat template of a model that lies in a folder, a run or one of Hugging Face's; None where
    it has none.

    Raises:
        ChatError: it is damaged.
        OSError: a file cannot be read.
    """
    if os.path.isfile(os.path.join(folder, STATE)):
        return saved_template(read_json_object(os.path.join(folder, CONFIG)))
    return find_chat_template(folder, tokenizer)


def template_of(config: TrainingConfig, folder: str | None, tokenizer: Any) -> ChatTemplate:
    """Returns the chat template of a new run: the one that its settings name, or that of the model it begins
    with. Where neither says anything it is `plain`; but `text` for a model whose tokenizer has the special
    tokens of no template.

    Args:
        config: the settings.
        folder: of that model; None where weights are drawn.
        tokenizer: of that model.

    Raises:
        ChatError: there is none of that name, or the tokenizer has the special tokens of others than `plain`,
            which one does not guess; or see `template_in`.
    """
    if config.chat_template is not None:
        return named_template(config.chat_template)
    if folder is None:
        return named_template(DEFAULT_TEMPLATE)
    if (found := template_in(folder, tokenizer)) is not None:
        return found
    usable = [
        template.name
        for template in TEMPLATES.values()
        if template.needed_tokens() and not missing_tokens(template, tokenizer)
    ]
    if DEFAULT_TEMPLATE in usable:
        return named_template(DEFAULT_TEMPLATE)
    if usable:
        raise ChatError(
            f"the model in {folder} has no chat template, and the special tokens of {', '.join(usable)}: "
            f"choose one of these, or {TEXT_TEMPLATE}, with --chat-template"
        )
    return named_template(TEXT_TEMPLATE)


def missing_tokens(template: ChatTemplate, tokenizer: Tokenizer) -> list[str]:
    """Returns the special tokens of a template that are no tokens of a tokenizer."""

    def is_token(text: str) -> bool:
        try:
            return len(tokenizer.encode(text, allowed_special="all")) == 1
        except TokenizerError:
            return False

    return [text for text in template.needed_tokens() if not is_token(text)]


def missing_characters(template: ChatTemplate, tokenizer: Tokenizer) -> list[str]:
    """Returns the characters in the marks of users and assistants that a tokenizer cannot read and write."""

    def is_known(character: str) -> bool:
        try:
            # As bytes: some tokenizers take the space that a text begins with for one of their own
            ids = tokenizer.encode(character, allowed_special="none")
            return character.encode() in tokenizer.decode_bytes(ids)
        except TokenizerError:
            return False

    said = template.render([Message("user", ""), Message("assistant", "")]) if template.marks else ""
    return [character for character in dict.fromkeys(said) if not is_known(character)]


def require_tokens(template: ChatTemplate, tokenizer: Tokenizer, folder: str) -> None:
    """Checks that a model that is there has what a chat template needs.

    Raises:
        ChatError: a special token of the template is not one token, a character of its marks is not known, or
            the template cannot be used here.
    """
    template.require()
    if tokens := missing_tokens(template, tokenizer):
        raise ChatError(
            f"the tokenizer in {folder} has no token {tokens[0]!r}, which the chat template "
            f"{template.name!r} needs: choose another with --chat-template"
        )
    if characters := missing_characters(template, tokenizer):
        raise ChatError(
            f"the tokenizer in {folder} does not know {', '.join(map(repr, characters))}, which the chat "
            f"template {template.name!r} needs: begin with a model that was trained on a text that has "
            "them, or with `--tokenizer bpe`, which knows every character"
        )


@dataclass(frozen=True)
class Conversations:
    """Conversations as tokens, each a row of a batch or a part of one.

    Attributes:
        tokens: of all.
        messages: what was said, of each conversation of the file.
        template: that made the tokens.
        texts: nothing, as there are no documents.
    """

    tokens: ConversationTokens
    messages: Sequence[Sequence[Message]]
    template: ChatTemplate
    texts: tuple[str, ...] = ()

    @property
    def num_tokens(self) -> int:
        """How many tokens there are, those of questions among them."""
        return sum(map(self.tokens.ids.length, range(len(self.tokens))))

    @cached_property
    def counts(self) -> Counter[int]:
        """How often each token occurs in answers."""
        counts: Counter[int] = Counter()
        for index in range(len(self.tokens)):
            counts.update(self.tokens.row(index)[1])
        del counts[IGNORED_TARGET]
        return counts

    @property
    def opening(self) -> str:
        """A text to begin with where nobody asks."""
        return next((message.content for message in self.messages[0] if message.content), "")

    def split(self) -> tuple[ConversationTokens, ConversationTokens]:
        """Returns the conversations to train on, and those to validate on.

        Raises:
            ValueError: there are fewer than two.
        """
        tokens: Any = self.tokens  # which can be counted and selected, like documents
        training, validation = split_train_validation(tokens)
        return training, validation

    def batches(self, config: TrainingConfig) -> tuple[ConversationBatches, list[Batch]]:
        """Returns the batches to train on, which draw their order, and the fixed ones to validate on.

        Raises:
            ValueError: there are fewer than two conversations.
        """
        training, validation = self.split()
        sizes = (config.context_length, config.batch_size)
        fixed = conversation_evaluation_batches(validation, *sizes, config.eval_batches, config.packing)
        generator = Generator(config.seed, stream=DATA_STREAM)
        return ConversationBatches(training, *sizes, generator, config.packing), fixed

    def questions(self, count: int) -> list[list[Message]]:
        """Returns what may be asked after training: the beginnings of some conversations that are validated
        on, up to their first answer.
        """
        _, validation = self.split()
        total = min(count, len(validation))
        found = []
        for place in range(total):
            messages = self.messages[validation.numbers[place * len(validation) // total]]
            found.append(list(takewhile(lambda message: message.role != "assistant", messages)))
        return [question for question in found if question]

    def require_room(self, prompt: str, tokenizer: Any, context_length: int) -> None:
        """Checks that a message can be answered.

        Raises:
            ChatError, TokenizerError: the message cannot be said.
            SettingError: it has more tokens than the context.
        """
        count = len(self.template.ids(tokenizer, [Message("user", prompt)])) if prompt else 0
        if count > context_length:
            raise SettingError(
                "prompt",
                f" has {count:,} tokens with the marks of a message, ",
                "context_length",
                f" is {context_length:,}",
            )

    def describe(self, is_packed: bool) -> str:
        """Returns a line about them for people."""
        tokens = self.tokens
        answers = self.counts.total()
        words = [
            f"{plural(len(tokens), 'conversation')}, {answers:,} of {self.num_tokens:,} tokens are answers",
            f"template {self.template.name}",
            "packed" if is_packed else "one a row",
        ]
        if tokens.num_cut:
            words.append(f"{tokens.num_cut:,} cut at the context's end")
        if tokens.num_left_out:
            words.append(f"{tokens.num_left_out:,} left out, whose answers begin behind it")
        return "; ".join(words)
