"""Speculative decoding: a small model guesses the next few tokens, and the large one checks them all in one
run.

A run of a large model over five positions takes hardly longer than over one: what takes time is to read its
weights. So a small model, the draft, draws k tokens one after the other, and the large one, the target, gives
its own distributions at all these places at once. Of the guesses as many are kept as the target could have
drawn itself; so each of its runs gives from 1 to k + 1 tokens.

With the draft's distribution q at a place and the target's distribution p, a guess x that was drawn from q

    is accepted    with probability min(1, p(x) / q(x))
    otherwise      a token is drawn from max(0, p - q), divided by its sum, and the guesses after it are void

and after k accepted ones another token is drawn from p. So each token has exactly the distribution p,
whatever the draft is: x comes with q(x) min(1, p(x) / q(x)) = min(p(x), q(x)) as an accepted guess, and with
what p(x) is above that, as a correction. A bad draft costs time and changes nothing else.

Source: Leviathan, Kalman, Matias, "Fast Inference from Transformers via Speculative Decoding", 2022,
https://arxiv.org/abs/2211.17192
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from . import random
from .dtype import DType
from .generation import backend_of, check_sampling, penalized, sampling_candidates, without
from .module import evaluating
from .tensor import Tensor

Distribution = dict[int, float]
"""Probabilities by token; a token that is not there has none."""


class SpeculativeDecoding:
    """Draws tokens as `generation.generate_ids` does, with the help of a draft: call it in its place.

    Args:
        draft: a GPT with the vocabulary of the models that it is to help.
        draft_tokens: how many tokens it guesses at a time, at most.

    Attributes:
        drafted: how many tokens were guessed so far.
        accepted: how many of them were accepted.
        runs: how often the target ran.

    Raises:
        ValueError: draft_tokens is below 1.
    """

    def __init__(self, draft: Any, draft_tokens: int = 4) -> None:
        if draft_tokens < 1:
            raise ValueError(f"draft_tokens must be 1 or more, not {draft_tokens}")
        self.draft = draft
        self.draft_tokens = draft_tokens
        self.drafted = 0
        self.accepted = 0
        self.runs = 0

    def __call__(
        self,
        model: Any,
        prompt_ids: Sequence[int],
        *,
        tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float = 1.0,
        generator: random.Generator | None = None,
        stop_id: int | None = None,
        excluded: Sequence[int] = (),
    ) -> Iterator[int]:
        """Yields the ids that follow `prompt_ids`. Arguments are as for `generation.generate_ids`, and so is
        what is seen of a text that is longer than the context; all settings hold for both models.

        Raises:
            ValueError: a setting is out of range, there is no token to start from, or the draft has another
                vocabulary.
        """
        check_sampling(tokens, temperature, top_k, top_p, min_p, repetition_penalty)
        if not prompt_ids:
            raise ValueError("generating needs at least one token to start from")
        sizes = (self.draft.config.vocab_size, model.config.vocab_size)
        if sizes[0] != sizes[1]:
            raise ValueError(
                "a draft needs the model's vocabulary, "
                f"but it has {sizes[0]:,} tokens, and the model {sizes[1]:,}"
            )
        generator = generator or random.default_generator()

        def distribution(logits: Sequence[float], before: Sequence[int]) -> Distribution:
            if excluded:
                logits = without(logits, excluded)
            if repetition_penalty != 1.0:
                logits = penalized(logits, before, repetition_penalty)
            candidates, weights = sampling_candidates(
                logits, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p
            )
            total = sum(weights)
            return {token: weight / total for token, weight in zip(candidates, weights, strict=True)}

        ids = list(prompt_ids)
        target, draft = _Reader(model, ids), _Reader(self.draft, ids)
        end = len(ids) + tokens
        while len(ids) < end:
            # The last token is the target's own, and the guesses must fit its context
            count = min(self.draft_tokens, end - len(ids) - 1, target.make_room(ids))
            guessed = list(ids)
            guesses: list[Distribution] = []
            for _ in range(count):
                guesses.append(distribution(draft.logits(guessed, 1)[0], guessed))
                guessed.append(_drawn(guesses[-1], generator))
            rows = target.logits(guessed, count + 1)
            self.runs += 1
            self.drafted += count
            for place, row in enumerate(rows):
                p = distribution(row, ids)
                if place < count:
                    token, is_accepted = _checked(p, guesses[place], guessed[len(ids)], generator)
                    self.accepted += is_accepted
                else:
                    token, is_accepted = _drawn(p, generator), False
                if token == stop_id:
                    return
                ids.append(token)
                yield token
                if not is_accepted:
                    break
            target.take_back(len(ids) - 1)  # the last token was not read by the target
            draft.take_back(len(ids) - 1)


def _drawn(distribution: Distribution, generator: random.Generator) -> int:
    """Returns a token from a distribution; where there is one only, it is not drawn."""
    tokens = list(distribution)
    return tokens[0] if len(tokens) == 1 else tokens[generator.choice(list(distribution.values()))]


def _checked(p: Distribution, q: Distribution, guess: int, generator: random.Generator) -> tuple[int, bool]:
    """Returns the next token, and whether it is the guess.

    Args:
        p, q: the target's distribution and the draft's.
        guess: drawn from q.
        generator: where the randomness comes from.
    """
    wanted, offered = p.get(guess, 0.0), q[guess]
    if wanted >= offered or (wanted > 0.0 and generator.choice([wanted, offered - wanted]) == 0):
        return guess, True
    left = {token: share - q.get(token, 0.0) for token, share in p.items() if share > q.get(token, 0.0)}
    return _drawn(left or p, generator), False  # nothing is left where p is q but for rounding


class _Reader:
    """A model that reads a text that grows, and is taken back now and then, with its key/value cache.

    What it sees of a text that is longer than its context depends on the length of that text alone, as in
    `generation.continue_ids`: a full context is filled anew from its last half.
    """

    def __init__(self, model: Any, ids: Sequence[int]) -> None:
        self.model = model
        self.context_length: int = model.config.context_length
        self.keep = max(1, self.context_length // 2)
        self.cache = model.new_cache(batch_size=1)
        self.start = max(0, len(ids) - self.context_length)  # the first position in sight

    def make_room(self, ids: Sequence[int]) -> int:
        """Moves the context on where it cannot hold the text, and returns how many more positions fit."""
        if len(ids) - self.start > self.context_length:
            self.cache.rewind(0)
            self.start = len(ids) - self.keep
        return self.context_length - (len(ids) - self.start)

    def logits(self, ids: Sequence[int], last: int) -> list[list[float]]:
        """Returns the logits after each of the last few positions of a text, of which the beginning that was
        read before is not read again.
        """
        self.make_room(ids)
        pending = ids[self.start + self.cache.length :]
        tokens = Tensor(backend_of(self.model)([pending], DType.int32))
        with evaluating():
            found = self.model(tokens, cache=self.cache)
        rows: list[list[float]] = found.buffer[0, -last:].to_python()
        return rows

    def take_back(self, length: int) -> None:
        """Forgets what was read beyond a length of the text."""
        if length <= self.start:  # it does not even see what is left
            self.start = max(0, length - self.keep)
            self.cache.rewind(0)
        self.cache.rewind(min(self.cache.length, length - self.start))
