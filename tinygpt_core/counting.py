"""Language models that count: what followed the last n tokens before, follows them again.

They are what a neural language model has to be compared with. Nothing is learned by descent: a table holds
how often each token followed each context, and how much to trust a long context is said by a text that was
held out while counting.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from . import random

HELD_OUT = 10  # of so many sequences one chooses the discounts; of a single one, that part of its end
GRID = (0.05, *(tenth / 10 for tenth in range(1, 10)), 0.95)  # the discounts that are tried
MOST_HELD_OUT = 5_000  # ids by which discounts are chosen
Terms = list[tuple[int, int, int]]  # see `CountingModel._terms`


class Level(NamedTuple):
    """Counts after contexts of one length.

    Attributes:
        counts: by context and token, as one integer (see `CountingModel`).
        totals: by context, the sum of its counts.
        kinds: by context, how many different tokens follow it.
    """

    counts: Counter[int]
    totals: Counter[int]
    kinds: Counter[int]

    @classmethod
    def of(cls, counts: Counter[int], vocab_size: int) -> Level:
        """Returns the level of these counts, by context and token as one integer."""
        totals: Counter[int] = Counter()
        kinds: Counter[int] = Counter()
        for key, count in counts.items():
            context = key // vocab_size
            totals[context] += count
            kinds[context] += 1
        return cls(counts, totals, kinds)


class CountingModel:
    """An n-gram model with interpolated Kneser-Ney smoothing.

    With c(h w) how often the token w followed the context h, kinds(h) how many different tokens did, d a
    discount, h' the context h without its oldest token, and V the number of tokens:

        p(w | h) = max(c(h w) - d, 0) / c(h) + d kinds(h) / c(h) p'(w | h')

    What the discount takes from the counts goes to the shorter context. p' is the same formula with other
    counts: not how often w followed h', but after how many different tokens h' w stood. ("Francisco" is
    frequent, but it follows "San" alone, and is no good guess after anything else.) Below the empty context
    stands 1 / V; a context that was never seen is left out, so what has counted nothing guesses evenly. Each
    discount is the one of a grid that gives text held out of the counting (5,000 ids of it at most) the
    highest probability; then that text is counted, too.

    Args:
        vocab_size: V; ids lie in [0, V).
        context_length: how many tokens back it looks at most.

    Attributes:
        discounts: for context lengths 0, 1, ..., of p'.
        top_discounts: the same, of p with a longest context of that length.

    Raises:
        ValueError: a vocab_size below 1, or a context_length below 0.

    Sources: Kneser, Ney, "Improved backing-off for m-gram language modeling", 1995; Chen, Goodman, "An
    Empirical Study of Smoothing Techniques for Language Modeling", 1998
    """

    def __init__(self, vocab_size: int, context_length: int = 4) -> None:
        if vocab_size < 1:
            raise ValueError(f"vocab_size must be 1 or more, not {vocab_size}")
        if context_length < 0:
            raise ValueError(f"context_length must be 0 or more, not {context_length}")
        self.vocab_size = vocab_size
        self.context_length = context_length
        self.discounts = [0.75] * (context_length + 1)
        self.top_discounts = [0.75] * (context_length + 1)
        self._raw = [Counter[int]() for _ in range(context_length + 1)]
        self._levels: list[Level] = []  # of how often a token followed
        self._lower: list[Level] = []  # of after how many different tokens context and token stood
        self._count([])

    # ---------------------------------------------------------------- counting

    def fit(self, sequences: Iterable[Sequence[int]]) -> CountingModel:
        """Counts sequences of ids, chooses the discounts, and returns the model itself.

        The first id of a sequence is given, each other one is counted after those before it.

        Raises:
            ValueError: an id outside [0, V), or nothing to count.
        """
        counted = [list(sequence) for sequence in sequences]
        for sequence in counted:
            self._check(sequence)
        if not any(len(sequence) > 1 for sequence in counted):
            raise ValueError("there is nothing to count: no sequence has two ids")
        if len(counted) >= HELD_OUT:
            held_out = counted[HELD_OUT - 1 :: HELD_OUT]
            rest = [sequence for i, sequence in enumerate(counted) if i % HELD_OUT != HELD_OUT - 1]
        else:
            cuts = [len(sequence) - len(sequence) // HELD_OUT for sequence in counted]
            held_out = [sequence[max(0, cut - 1) :] for sequence, cut in zip(counted, cuts, strict=True)]
            rest = [sequence[:cut] for sequence, cut in zip(counted, cuts, strict=True)]
        self._count(rest)
        self._choose_discounts(held_out)
        self._count(held_out)
        return self

    def _check(self, ids: Sequence[int]) -> None:
        """Raises ValueError where an id lies outside [0, V): its integer would be that of another context."""
        if len(ids) and not 0 <= min(ids) <= max(ids) < self.vocab_size:
            raise ValueError(f"ids must lie in [0, {self.vocab_size})")

    def _count(self, sequences: Iterable[Sequence[int]]) -> None:
        """Adds sequences to the counts.

        Context and token are one integer: with the token w and those before it a, b, ... (the newest first),
        w + V a + V² b + ...
        """
        base = self.vocab_size
        for sequence in sequences:
            keys = list(sequence[1:])
            power = base
            for length, counts in enumerate(self._raw):
                if length:
                    longer = keys[1:] if length > 1 else keys  # those with so many tokens before them
                    keys = [key + power * token for key, token in zip(longer, sequence, strict=False)]
                    power *= base
                counts.update(keys)
        self._levels = [Level.of(counts, base) for counts in self._raw]
        self._lower = []
        for length, counts in enumerate(self._raw[1:]):
            size = base ** (length + 1)
            self._lower.append(Level.of(Counter(key % size for key in counts), base))

    # ---------------------------------------------------------------- probabilities

    def _levels_of(self, context: Sequence[int], top: int) -> Iterator[tuple[Level, float, int]]:
        """Yields what the formula is made of, from the empty context to the longest, of `top` tokens at most:
        counts, discount, and the context as an integer (the key of it and token 0, without the token).
        """
        top = min(top, len(context))
        number = 0
        power = 1
        for length in range(top + 1):
            if length:
                number += power * context[-length]
                power *= self.vocab_size
            if length == top:
                yield self._levels[length], self.top_discounts[length], number
            else:
                yield self._lower[length], self.discounts[length], number

    def log_probabilities(self, context: Sequence[int], context_length: int | None = None) -> list[float]:
        """Returns the natural logarithm of the probability of each token to be the next.

        Args:
            context: the ids before it, of which the last `context_length` count.
            context_length: look less far back than the model could.

        Raises:
            ValueError: a context_length below 0 or above the model's, or an id outside [0, V).
        """
        top = self._top(context_length)
        self._check(context[-top:] if top else [])
        base = self.vocab_size
        probabilities = [1.0 / base] * base
        for level, discount, number in self._levels_of(context, top):
            if total := level.totals[number]:
                counts = [level.counts[number * base + token] for token in range(base)]
                lent = discount * level.kinds[number]
                probabilities = [
                    (max(count - discount, 0.0) + lent * p) / total
                    for count, p in zip(counts, probabilities, strict=True)
                ]
        return list(map(math.log, probabilities))

    def _probability(self, context: Sequence[int], token: int, top: int) -> float:
        """Returns the probability of one token, as `log_probabilities` has it."""
        p = 1.0 / self.vocab_size
        for level, discount, number in self._levels_of(context, top):
            if total := level.totals.get(number):
                count = level.counts.get(number * self.vocab_size + token)
                lent = discount * level.kinds[number] * p
                p = (count - discount + lent) / total if count else lent / total
        return p

    def _top(self, context_length: int | None) -> int:
        if context_length is None:
            return self.context_length
        if not 0 <= context_length <= self.context_length:
            raise ValueError(f"context_length must be from 0 to {self.context_length}, not {context_length}")
        return context_length

    def nats(self, sequences: Iterable[Sequence[int]], context_length: int | None = None) -> float:
        """Returns the mean of -log p over all ids of the sequences but the first of each, which is given.

        Args:
            sequences: of ids.
            context_length: look less far back than the model could.

        Raises:
            ValueError: there is no id to predict, or one outside [0, V).
        """
        top = self._top(context_length)
        losses = []
        for sequence in sequences:
            self._check(sequence)
            for i in range(1, len(sequence)):
                context = sequence[max(0, i - top) : i]
                losses.append(-math.log(self._probability(context, sequence[i], top)))
        if not losses:
            raise ValueError("there is nothing to predict: no sequence has two ids")
        return math.fsum(losses) / len(losses)

    def perplexity(self, sequences: Iterable[Sequence[int]], context_length: int | None = None) -> float:
        """Returns exp of `nats`: among how many equally probable tokens one would be as much in doubt."""
        return math.exp(self.nats(sequences, context_length))

    def generate(
        self,
        prompt_ids: Sequence[int],
        tokens: int,
        generator: random.Generator | None = None,
        stop_id: int | None = None,
    ) -> list[int]:
        """Returns the prompt, continued by ids that are drawn from the model's probabilities.

        Args:
            prompt_ids: may be empty.
            tokens: how many to draw at most.
            generator: where the randomness comes from; default: the process-wide generator.
            stop_id: ends the text and is not returned.
        """
        generator = generator or random.default_generator()
        ids = list(prompt_ids)
        for _ in range(tokens):
            context = ids[-self.context_length :] if self.context_length else []
            drawn = generator.choice([math.exp(value) for value in self.log_probabilities(context)])
            if drawn == stop_id:
                break
            ids.append(drawn)
        return ids

    # ---------------------------------------------------------------- discounts

    def _choose_discounts(self, held_out: Sequence[Sequence[int]]) -> None:
        """Chooses each discount by the probability of a text that was not counted, given the others."""
        terms = list(islice((row for each in held_out for row in self._terms(each)), MOST_HELD_OUT))
        if not terms:
            return
        longest = self.context_length
        for length in range(longest):
            self._choose(self.discounts, length, terms, longest)
        for length in range(longest + 1):
            self._choose(self.top_discounts, length, terms, length)

    def _terms(self, sequence: Sequence[int]) -> Iterator[Terms]:
        """Yields what the probability of each id depends on: for each length of context, the id's count, the
        context's total and its kinds, in the counts of p and in those of p'.
        """
        base = self.vocab_size
        for i in range(1, len(sequence)):
            token = sequence[i]
            number = 0
            power = 1
            row = []
            for length in range(min(i, self.context_length) + 1):
                if length:
                    number += power * sequence[i - length]
                    power *= base
                for levels in (self._levels, self._lower):
                    if length < len(levels):
                        counts, totals, kinds = levels[length]
                        key = number * base + token
                        row.append((counts.get(key, 0), totals.get(number, 0), kinds.get(number, 0)))
                    else:
                        row.append((0, 0, 0))
            yield row

    def _choose(self, discounts: list[float], length: int, terms: Sequence[Terms], top: int) -> None:
        """Puts the discount of GRID into discounts[length] that makes the terms most probable.

        The loss falls to a minimum and rises after it, which halves where that can be at each look.
        """

        known: dict[int, float] = {}

        def loss(place: int) -> float:
            if place not in known:
                discounts[length] = GRID[place]
                known[place] = self._loss_of_terms(terms, top)
            return known[place]

        low = 0
        high = len(GRID) - 1
        while low < high:
            middle = (low + high) // 2
            if loss(middle) <= loss(middle + 1):
                high = middle
            else:
                low = middle + 1
        discounts[length] = GRID[low]

    def _loss_of_terms(self, terms: Sequence[Terms], top: int) -> float:
        """Returns the sum of -log p of the terms with a longest context of `top` tokens."""
        uniform = 1.0 / self.vocab_size
        discounts = self.discounts
        top_discounts = self.top_discounts
        loss = 0.0
        for row in terms:
            last = min(top, len(row) // 2 - 1)
            p = uniform
            for length in range(last + 1):
                if length < last:
                    count, total, kinds = row[2 * length + 1]
                    discount = discounts[length]
                else:
                    count, total, kinds = row[2 * length]
                    discount = top_discounts[length]
                if count:
                    p = (count - discount + discount * kinds * p) / total
                elif total:
                    p = discount * kinds * p / total
            loss -= math.log(p)
        return loss
