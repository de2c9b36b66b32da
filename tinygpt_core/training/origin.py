"""The model that a run begins with in place of drawn weights: fine-tuning.

Its sizes and its tokenizer come with it. The schedule, the optimizer and the order of the data begin anew.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from typing import Any

from ..dataset.conversations import is_conversation_file
from ..module import matching
from ..nn.gpt import GPT, GPTConfig
from ..nn.lora import LoRAConfig, put_adapters
from ..tensor import uninitialized
from ..tokenizer.base import TokenizerError
from .config import TrainingConfig
from .conversations import require_tokens, template_of
from .data import BOUNDARY, Data, prepare_data
from .settings import SettingError


class OriginError(ValueError):
    """A run cannot begin with the model that it was to begin with; the message says why."""


@dataclass(frozen=True)
class Origin:
    """A model to begin with.

    Attributes:
        path: where it was, absolute.
        tokenizer_path: where its tokenizer was, absolute.
        model: with its weights, of any shapes that a GPT has.
        tokenizer: whose ids it takes.
        adapters: which it gets, and which alone are trained then; None where all of it is trained.

    Raises:
        OriginError: the tokenizer has more tokens than the model. It may have fewer: ids that are no token
            are never drawn.
    """

    path: str
    tokenizer_path: str
    model: GPT
    tokenizer: Any
    adapters: LoRAConfig | None = None

    def __post_init__(self) -> None:
        expected = self.model.config.vocab_size
        if self.tokenizer.vocab_size > expected:
            raise OriginError(
                f"the tokenizer in {self.tokenizer_path} has {self.tokenizer.vocab_size:,} tokens, "
                f"but the model in {self.path} was made for {expected:,}"
            )

    def settings(self, config: TrainingConfig, given: Collection[str]) -> TrainingConfig:
        """Returns the settings of a run that begins with this model: its sizes, and its tokenizer.

        Args:
            config: the settings of the run.
            given: those of them that somebody has asked for, by name. The others give way. A shorter context
                is no contradiction, and dropout is the run's.

        Raises:
            SettingError: one that was given contradicts the model, or is for experts, which it has not.
        """
        own = {field.name for field in fields(TrainingConfig)}
        sizes = {
            field.name: getattr(self.model.config, field.name)
            for field in fields(GPTConfig)
            if field.name in own and field.name != "vocab_size"
        }
        sizes["tokenizer"] = self.tokenizer_path
        length = sizes["context_length"]
        if "context_length" in given:
            if config.context_length > length:
                raise SettingError(
                    "context_length",
                    f" ({config.context_length}) is more than the {length} of the model in {self.path}",
                )
            sizes["context_length"] = config.context_length
        sizes["dropout"] = config.dropout
        for name, value in sizes.items():
            if name in given and getattr(config, name) != value:
                raise SettingError(
                    name,
                    f" is {getattr(config, name)!r:.80}, but {value!r:.200} for the model in {self.path}",
                )
        if config.lora_rank and self.model.config.ngram_prior:
            raise SettingError(
                "lora_rank",
                f" is for models that are all weights, but the one in {self.path} has counted its text "
                "(ngram_prior), and a run counts its own",
            )
        settings = replace(config, **sizes, init_from=self.path)
        settings.require_experts("balance_loss", "router_z_loss")
        return settings

    def prepare_data(self, config: TrainingConfig) -> Data:
        """Returns the data of a run that begins with this model, in its tokens.

        Raises:
            ChatError: a chat template that does not go with the model, see `conversations`.
            OriginError: the tokenizer lacks a token of the corpus, or what stands between documents.
            ValueError, OSError: see `data.prepare_data`.
        """
        template = None
        if is_conversation_file(config.data_file):
            template = template_of(config, self.tokenizer_path, self.tokenizer)
            require_tokens(template, self.tokenizer, self.tokenizer_path)
        try:
            return prepare_data(config, self.tokenizer, template=template)
        except TokenizerError as problem:
            raise OriginError(f"the tokenizer of {self.path} does not fit the corpus: {problem}") from None
        except KeyError as problem:
            if problem.args != (BOUNDARY,):
                raise
            raise OriginError(
                f"the model in {self.path} has no token {BOUNDARY}, which stands between the documents of "
                f"{config.corpus!r}: give another text, with --data FILE"
            ) from None

    def new_model(self, config: TrainingConfig) -> GPT:
        """Returns a model with these weights and the dropout of the settings, on the backend in use; with
        fresh adapters, where it gets some. What is frozen then is not copied, unless it lies transposed, as
        matrices of most formats do: products of it could round otherwise than those of the run resumed, which
        reads it from its own checkpoint.
        """
        with uninitialized() if self.adapters is not None else nullcontext():
            model = GPT(replace(self.model.config, dropout=config.dropout))
        if self.adapters is None:
            model.load_weights(self.model.named_weights())
            return model
        own = dict(self.model.named_parameters())
        for name, tensor in model.named_parameters():
            if not own[name].buffer.is_contiguous():
                own[name].buffer = own[name].buffer.copy()  # in place of the old one: memory for one is taken
            tensor.buffer = matching(own[name], tensor).buffer
        put_adapters(model, self.adapters)
        return model
