"""The training text, as it is counted: by the ladder, and by a model that starts from counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from ..dataset.batches import DocumentBatches
from ..nn.ngram_prior import longest_context
from .config import TrainingConfig
from .data import Data
from .presets import PRESETS
from .settings import SettingError

MOST_COUNTED = 2**20  # tokens of the training text; of a longer one the beginning is counted


def counted_sequences(batches: Any) -> Iterator[Sequence[int]]:
    """Yields the training text: each document as far as a row of a batch shows it, or the one long stream."""
    if not isinstance(batches, DocumentBatches):
        yield batches.stream.int32(0, min(len(batches.stream), MOST_COUNTED))
        return
    count = 0
    for number in range(len(batches.store)):
        row = batches.store.row(number, batches.context_length, batches.boundary_id)
        count += len(row)
        if count > MOST_COUNTED:
            return
        yield row


def with_countable_prior(config: TrainingConfig, data: Data) -> TrainingConfig:
    """Returns the settings of a run whose text can be counted: an `ngram_prior` that is only the preset's
    gives way to a shorter one, or to none.

    Raises:
        SettingError: it is not the preset's, or that of a model to begin with; see `require_countable`.
    """
    if not config.ngram_prior:
        return config
    of_preset = PRESETS[config.preset].config.ngram_prior if config.preset in PRESETS else None
    if config.init_from is not None or config.ngram_prior != of_preset:
        require_countable(config, data)
        return config
    longest = longest_context(data.tokenizer.vocab_size) if _num_counted(data) <= MOST_COUNTED else 0
    return replace(config, ngram_prior=min(config.ngram_prior, longest))


def require_countable(config: TrainingConfig, data: Data) -> None:
    """Checks that a model can start from counts of its training text, all of which must be counted: what it
    learns from is taken out of the counts, one occurrence after the other.

    Raises:
        SettingError: the text is too long, or the vocabulary too large.
    """
    longest = longest_context(data.tokenizer.vocab_size)
    if config.ngram_prior > longest:
        raise SettingError(
            "ngram_prior",
            f" must be at most {longest} with {data.tokenizer.vocab_size:,} kinds of tokens, not "
            f"{config.ngram_prior}: an n-gram is one number of 64 bits",
        )
    num_tokens = _num_counted(data)
    if num_tokens > MOST_COUNTED:
        raise SettingError(
            "ngram_prior",
            f" is for texts of at most {MOST_COUNTED:,} tokens, all of which are counted; here are "
            f"{num_tokens:,}: give 0",
        )


def _num_counted(data: Data) -> int:
    """Returns how many tokens of the training text there are to be counted."""
    batches = data.training_batches
    if not isinstance(batches, DocumentBatches):
        return len(batches.stream)
    store, longest = batches.store, batches.context_length + 1
    return sum(min(store.length(number) + 2, longest) for number in range(len(store)))
