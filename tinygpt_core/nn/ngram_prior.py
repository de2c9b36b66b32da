"""What counting says of the next token, for a network to start from."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .. import shape_errors
from ..buffer.base import Buffer
from ..counting import LARGEST_KEY, CountingModel
from ..dtype import DType
from ..module import Module
from ..shape import ShapeError
from ..tensor import Tensor
from .arguments import check_size
from .linear import FullyConnectedLayer

MOST_KEPT = 2**17  # log-probabilities of so many contexts are kept, since most come again
MOST_BACK = 32  # tokens, however small the vocabulary
HUNDREDTHS = 100.0  # in which a file has the discounts: they are 0.05, 0.1, ... and 0.75


class NgramPrior(Module):
    """The log-probabilities of an n-gram model, to which a network adds what counting does not know.

        y[b, t, w] = c(x[b, t]) log p(w | the last tokens up to t)    with c(x) = x W + b

    p is interpolated Kneser-Ney, see `counting.CountingModel`; c, the confidence, says how far counting is to
    be trusted at this position, as the network sees it. With a network's logits z added, the model's
    probabilities are p(w)^c exp(z_w), divided by their sum. Where z is 0, c = 0 is guessing evenly, c = 1 is
    the counting, and more is surer than that. c begins as 0; soon it is about 1, and what is learned from
    then on is what counting does not know. The counts are no parameters: they are of the text that `count`
    got, and are kept with the weights (`extra_tensors`).

    A text that was counted has been seen: each of its tokens is among the counts that predict it, and a
    network that learned from these would trust them far too much. With `targets`, each position's own
    occurrence is taken out of the counts first ("leave one out"), so that what is learned holds for other
    texts, too.

    Args:
        vocab_size: number of tokens.
        context_length: how many tokens back the counting looks at most.
        embedding_dim: size of what the network has at a position.

    Shape:
        (B, T, embedding_dim), int (B, T) -> (B, T, vocab_size).

    Raises:
        TypeError: a size that is no int.
        ValueError: a size below 1, or n-grams that do not fit 64 bits.

    Source: Li et al. 2022, "N-gram Is Back: Residual Learning of Neural Text Generation with n-gram Language
    Model", https://arxiv.org/abs/2210.14431 (which has no c)
    """

    def __init__(self, vocab_size: int, context_length: int, embedding_dim: int) -> None:
        super().__init__()
        self.vocab_size = check_size("vocab_size", vocab_size)
        self.context_length = check_size("context_length", context_length)
        check_fits_64_bits("context_length", context_length, vocab_size)
        self.confidence = FullyConnectedLayer(embedding_dim, 1, std=0.0)
        self.use(CountingModel(vocab_size, context_length))

    def use(self, counting: CountingModel) -> None:
        """Takes over what a model of this size has counted."""
        self._counting = counting
        self._rows: dict[tuple[Any, ...], array[float]] = {}

    @property
    def counting(self) -> CountingModel:
        """The model that has counted; what has counted nothing guesses evenly."""
        return self._counting

    def count(self, sequences: Iterable[Sequence[int]]) -> None:
        """Counts sequences of ids in place of whatever was counted before, see `CountingModel.fit`.

        Raises:
            ValueError: an id outside [0, vocab_size), or nothing to count.
        """
        self.use(CountingModel(self.vocab_size, self.context_length).fit(sequences))

    def __call__(
        self,
        x: Tensor,
        token_ids: Tensor,
        past: Tensor | None = None,
        places: Tensor | None = None,
        targets: Tensor | None = None,
    ) -> Tensor:
        """Returns the log-probabilities of what follows each position, as far as they are trusted.

        Args:
            x: floats (B, T, embedding_dim), what the network has there.
            token_ids: int (B, T).
            past: int (B, P), the tokens before them, of which the last few are looked at.
            places: int (B, T), where rows have several documents: at which place of its own each token is.
            targets: int (B, T), the tokens that follow, where the ids are of the text that was counted: this
                occurrence is left out of the counts. Negative ones are none.

        Raises:
            ShapeError: targets of another shape than the ids.
        """
        return self.confidence(x) * self.log_probabilities(token_ids, past, places, targets, dtype=x.dtype)

    def log_probabilities(
        self,
        token_ids: Tensor,
        past: Tensor | None = None,
        places: Tensor | None = None,
        targets: Tensor | None = None,
        dtype: DType = DType.float32,
    ) -> Tensor:
        """Returns what counting says of each position, (B, T, vocab_size), through which no gradient flows;
        arguments and errors as of a call.
        """
        if targets is not None and targets.shape != token_ids.shape:
            raise ShapeError(
                shape_errors.wrong_shape("ngram_prior", "targets", targets.shape, expected=token_ids.shape)
            )
        batch_size, length = token_ids.shape
        before = 0
        seen = token_ids.buffer
        if past is not None:
            kept = past.buffer[:, max(0, past.shape[1] - self.context_length) :]
            before = kept.shape[1]
            seen = type(seen).concatenate([kept, seen.as_dtype(kept.dtype)], 1)
        ids = seen.to_array()
        next_ids = None if targets is None else targets.buffer.to_array()
        at = None if places is None else places.buffer.to_array()
        flat: array[float] = array(dtype.typecode)
        for row in range(batch_size):
            beginning = row * (before + length)
            for place in range(length):
                number = row * length + place
                end = beginning + before + place + 1
                reach = before + place + 1 if at is None else at[number] + 1
                target = None if next_ids is None or next_ids[number] < 0 else next_ids[number]
                flat += self._row(ids[end - min(reach, self.context_length) : end], target, dtype)
        shape = (batch_size, length, self.vocab_size)
        return Tensor(type(seen).from_array(flat, shape, dtype))

    def _row(self, context: Sequence[int], target: int | None, dtype: DType) -> array[float]:
        """Returns the log-probabilities after one context."""
        key = (dtype.typecode, target, *context)
        found = self._rows.get(key)
        if found is None:
            if len(self._rows) >= MOST_KEPT:
                self._rows = {}
            found = array(dtype.typecode, self._counting.log_probabilities(context, left_out=target))
            self._rows[key] = found
        return found

    # ---------------------------------------------------------------- files

    def extra_tensors(self) -> dict[str, Buffer]:
        """Returns the counts: for each length of context n the keys, int64, and how often each was counted,
        int32, as `CountingModel` has them; and the discounts in hundredths, int32 (2, context_length + 1).
        """
        counting = self._counting
        discounts = [round(HUNDREDTHS * d) for d in (*counting.discounts, *counting.top_discounts)]
        shape = (2, self.context_length + 1)
        found = {"discounts": Buffer.from_array(array("i", discounts), shape, DType.int32)}
        for length, (keys, counts) in enumerate(counting.counts()):
            size = (len(keys),)
            found[f"keys.{length}"] = Buffer.from_array(array("q", keys), size, DType.int64)
            found[f"counts.{length}"] = Buffer.from_array(array("i", counts), size, DType.int32)
        return found

    def load_extra_tensors(self, tensors: Mapping[str, Buffer]) -> None:
        """Takes over counts of any number of n-grams, which `extra_tensors` gave.

        Raises:
            ValueError: they are of no counting model of this size.
        """
        lengths = range(self.context_length + 1)
        numbers: dict[str, array[int]] = {}
        kinds = [f"{kind}.{length}" for kind in ("keys", "counts") for length in lengths]
        for name in ("discounts", *kinds):
            tensor = tensors[name]
            if tensor.numel and tensor.dtype.kind != "i":
                raise ValueError(f"{name} of the n-gram prior are integers, not {tensor.dtype.name}")
            if tensor.ndim != (2 if name == "discounts" else 1):
                raise ValueError(f"{name} of the n-gram prior have the shape {tensor.shape}")
            numbers[name] = tensor.as_dtype(DType.int64).to_array()
        discounts = [number / HUNDREDTHS for number in numbers["discounts"]]
        if tensors["discounts"].shape != (2, len(lengths)):
            raise ValueError(
                f"discounts of the n-gram prior have the shape {tensors['discounts'].shape}, not "
                f"{(2, len(lengths))}"
            )
        self.use(
            CountingModel.of_counts(
                self.vocab_size,
                [(numbers[f"keys.{length}"], numbers[f"counts.{length}"]) for length in lengths],
                discounts[: len(lengths)],
                discounts[len(lengths) :],
            )
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_rows": {}}  # they are computed again

    def _extra_repr(self) -> str:
        counted = f"num_ngrams={self._counting.num_ngrams}"
        return f"vocab_size={self.vocab_size}, context_length={self.context_length}, {counted}"


def check_fits_64_bits(name: str, context_length: int, vocab_size: int) -> None:
    """Raises ValueError, with the name of the argument, where n-grams with so long a context do not fit."""
    longest = longest_context(vocab_size)
    if context_length > longest:
        raise ValueError(
            f"{name} must be at most {longest} with a vocabulary of {vocab_size:,} tokens, but got "
            f"{context_length!r:.80}: an n-gram is one number of 64 bits"
        )


def longest_context(vocab_size: int) -> int:
    """Returns how far back n-grams of so many tokens reach at most, as numbers of 64 bits."""
    longest = 0
    while vocab_size ** (longest + 2) - 1 <= LARGEST_KEY and longest < MOST_BACK:
        longest += 1
    return longest
