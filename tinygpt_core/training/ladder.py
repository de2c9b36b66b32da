"""What a language model has to be compared with: guessing evenly, and counting one to five tokens back.

Each is a rung of a ladder, and says how many nats a token it needs on the very text that the model is
validated on. Counting is done on the text that the model learns from.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from ..dataset.batches import IGNORED_TARGET, Batch, DocumentBatches
from .data import Data

CONTEXTS = 5  # tokens back, at most
MOST_COUNTED = 2**20  # tokens of the training text; of a longer one the beginning is counted


def ladder(data: Data) -> dict[str, float]:
    """Returns nats a token on the validation batches, by what predicts them, the weakest first.

    "uniform" is ln V for V kinds of tokens; "unigram" counts tokens, and "1 back" to "5 back" what followed
    the last tokens (`counting.CountingModel`).
    """
    from ..counting import CountingModel  # here, because only the end of a run needs it

    vocab_size = data.tokenizer.vocab_size
    model = CountingModel(vocab_size, CONTEXTS).fit(_counted(data.training_batches))
    validation = [row for batch in data.validation_batches for row in sequences(batch)]
    rungs = {"uniform": math.log(vocab_size), "unigram": model.nats(validation, 0)}
    for length in range(1, CONTEXTS + 1):
        rungs[f"{length} back"] = model.nats(validation, length)
    return rungs


def sequences(batch: Batch) -> Iterator[list[int]]:
    """Yields the rows of a batch as they are predicted: the first input, then each target that counts."""
    rows, length = batch.shape
    for start in range(0, rows * length, length):
        targets = batch.targets[start : start + length]
        yield [batch.inputs[start], *(target for target in targets if target != IGNORED_TARGET)]


def _counted(batches: Any) -> Iterator[Sequence[int]]:
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
