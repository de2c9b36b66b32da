"""What a language model has to be compared with: guessing evenly, and counting one to seven tokens back.

Each is a rung of a ladder, and says how many nats a token it needs on the very text that the model is
validated on. Counting is done on the text that the model learns from.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from ..counting import CountingModel
from ..dataset.batches import IGNORED_TARGET, Batch
from .counts import counted_sequences
from .data import Data

CONTEXTS = 7  # tokens back, at most: on names, looking back further does not help any more


def ladder(data: Data, counting: CountingModel | None = None) -> dict[str, float]:
    """Returns nats a token on the validation batches, by what predicts them, the weakest first.

    "uniform" is ln V for V kinds of tokens; "unigram" counts tokens, and "1 back" to "7 back" what followed
    the last tokens (`counting.CountingModel`).

    Args:
        data: of the run.
        counting: a model that has counted the training text already, for which it is not counted again if it
            looks as far back.
    """
    vocab_size = data.tokenizer.vocab_size
    if counting is None or counting.context_length != CONTEXTS:
        counting = CountingModel(vocab_size, CONTEXTS).fit(counted_sequences(data.training_batches))
    validation = [row for batch in data.validation_batches for row in sequences(batch)]
    rungs = {"uniform": math.log(vocab_size), "unigram": counting.nats(validation, 0)}
    for length in range(1, CONTEXTS + 1):
        rungs[f"{length} back"] = counting.nats(validation, length)
    return rungs


def sequences(batch: Batch) -> Iterator[list[int]]:
    """Yields the rows of a batch as they are predicted: the first input, then each target that counts."""
    rows, length = batch.shape
    for start in range(0, rows * length, length):
        targets = batch.targets[start : start + length]
        yield [batch.inputs[start], *(target for target in targets if target != IGNORED_TARGET)]
