"""Language models that count: what followed the last n tokens before, follows them again.

They are what a neural language model has to be compared with. Nothing is learned by descent: a table holds
how often each token followed each context, and how much to trust a long context is said by a text that was
held out while counting.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, islice, pairwise
from typing import NamedTuple

from . import random

HELD_OUT = 10  # of so many sequences one chooses the discounts; of a single one, that part of its end
GRID = (0.05, *(tenth / 10 for tenth in range(1, 10)), 0.95)  # the discounts that are tried
MOST_HELD_OUT = 5_000  # ids by which discounts are chosen
LARGEST_KEY = 2**63 - 1  # that an int64 holds
LARGEST_COUNT = 2**31 - 1
Terms = list[tuple[int, int, int]]  # see `CountingModel._terms`


class Level(NamedTuple):
    """Counts after contexts of one length, in the order of their keys: all of one context stand together.

    Attributes:
        keys: context and token as one integer (see `CountingModel`), ascending.
        sums: of the counts before each key, and of all; so the count at place i is sums[i + 1] - sums[i].
    """

    keys: Sequence[int]
    sums: Sequence[int]

    @classmethod
    def of(cls, counts: Counter[int]) -> Level:
        """Returns the level of these counts, by context and token as one integer."""
        keys = sorted(counts)
        sums = array("q", accumulate(map(counts.__getitem__, keys), initial=0))
        return cls(array("q", keys) if not keys or keys[-1] <= LARGEST_KEY else keys, sums)

    def after(self, first: int, vocab_size: int) -> tuple[int, int]:
        """Returns the place of the first key of a context and the one behind its last, which may be the same.

        Args:
            first: the key of the context and token 0.
            vocab_size: the number of tokens.
        """
        start = bisect_left(self.keys, first)
        return start, bisect_left(self.keys, first + vocab_size, start)

    def count_of(self, key: int, start: int, stop: int) -> int:
        """Returns the count of a key that stands between two places, if anywhere; 0 where it does not."""
        place = bisect_left(self.keys, key, start, stop)
        if place == stop or self.keys[place] != key:
            return 0
        return self.sums[place + 1] - self.sums[place]

    def counts_after(self, first: int, token: int, vocab_size: int) -> tuple[int, int, int]:
        """Returns the count of a token after a context, the sum of all after it, and how many kinds these
        are; other arguments as of `after`.
        """
        start, stop = self.after(first, vocab_size)
        if start == stop:
            return 0, 0, 0
        total = self.sums[stop] - self.sums[start]
        return self.count_of(first + token, start, stop), total, stop - start


class Step(NamedTuple):
    """What contexts of one length make of the probability of a token, see the formula of `CountingModel`.

    Attributes:
        length: of the context, in tokens.
        times: c(h w), or what p' counts in its place.
        total: c(h), the sum of all counts after the context.
        kinds: how many different tokens follow it.
        discount: d.
        probability: p(w | h), from these and the step before.
    """

    length: int
    times: int
    total: int
    kinds: int
    discount: float
    probability: float


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
        self._put_in_order()

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
            held_out = not_yet = counted[HELD_OUT - 1 :: HELD_OUT]
            rest = [sequence for i, sequence in enumerate(counted) if i % HELD_OUT != HELD_OUT - 1]
            begins = [1] * len(held_out)
        else:
            cuts = [len(sequence) - len(sequence) // HELD_OUT for sequence in counted]
            held_out = [sequence[max(0, cut - 1) :] for sequence, cut in zip(counted, cuts, strict=True)]
            rest = [sequence[:cut] for sequence, cut in zip(counted, cuts, strict=True)]
            not_yet, begins = counted, cuts
        self._count(rest, [1] * len(rest))
        self._choose_discounts(held_out)
        self._count(not_yet, begins)
        return self

    def _check(self, ids: Sequence[int]) -> None:
        """Raises ValueError where an id lies outside [0, V): its integer would be that of another context."""
        if len(ids) and not 0 <= min(ids) <= max(ids) < self.vocab_size:
            raise ValueError(f"ids must lie in [0, {self.vocab_size})")

    def _count(self, sequences: Iterable[Sequence[int]], begins: Iterable[int]) -> None:
        """Adds sequences to the counts, each from the place on, 1 or later, where it begins.

        Context and token are one integer: with the token w and those before it a, b, ... (the newest first),
        w + V a + V² b + ...
        """
        base = self.vocab_size
        for sequence, begin in zip(sequences, begins, strict=True):
            keys = list(sequence[1:])
            power = base
            for length, counts in enumerate(self._raw):
                if length:
                    longer = keys[1:] if length > 1 else keys  # those with so many tokens before them
                    keys = [key + power * token for key, token in zip(longer, sequence, strict=False)]
                    power *= base
                counts.update(keys[max(0, begin - max(length, 1)) :])
        self._put_in_order()

    def _put_in_order(self) -> None:
        """Makes the levels of what was counted."""
        self._levels = list(map(Level.of, self._raw))
        self._lower = []
        for length, counts in enumerate(self._raw[1:]):
            size = self.vocab_size ** (length + 1)
            self._lower.append(Level.of(Counter(key % size for key in counts)))

    # ---------------------------------------------------------------- what is kept of it

    @property
    def num_ngrams(self) -> int:
        """How many different contexts with a token after them were counted, of all lengths."""
        return sum(map(len, self._raw))

    def counts(self) -> list[tuple[Sequence[int], Sequence[int]]]:
        """Returns for each length of context its keys, ascending, and how often each was counted."""
        return [
            (level.keys, array("q", (after - before for before, after in pairwise(level.sums))))
            for level in self._levels
        ]

    @classmethod
    def of_counts(
        cls,
        vocab_size: int,
        counts: Sequence[tuple[Sequence[int], Sequence[int]]],
        discounts: Sequence[float],
        top_discounts: Sequence[float],
    ) -> CountingModel:
        """Returns the model that has these `counts()`, `discounts` and `top_discounts`.

        Raises:
            ValueError: no model can have them.
        """
        model = cls(vocab_size, len(counts) - 1)
        for each in (discounts, top_discounts):
            if len(each) != len(counts) or not all(0.0 < discount < 1.0 for discount in each):
                raise ValueError(f"{len(counts)} lengths of context need as many discounts between 0 and 1")
        for length, (keys, numbers) in enumerate(counts):
            if len(keys) != len(numbers):
                raise ValueError(
                    f"{len(keys):,} keys of context length {length} have {len(numbers):,} counts"
                )
            if any(after <= before for before, after in pairwise(keys)):
                raise ValueError(f"the keys of context length {length} do not ascend")
            if len(keys) and not 0 <= keys[0] <= keys[-1] < vocab_size ** (length + 1):
                raise ValueError(f"the keys of context length {length} are not all of {vocab_size:,} tokens")
            if len(numbers) and not 1 <= min(numbers) <= max(numbers) <= LARGEST_COUNT:
                raise ValueError(f"the counts of context length {length} must be from 1 to {LARGEST_COUNT:,}")
            model._raw[length].update(dict(zip(keys, numbers, strict=True)))
        model.discounts = list(discounts)
        model.top_discounts = list(top_discounts)
        model._put_in_order()
        return model

    # ---------------------------------------------------------------- probabilities

    def _first_keys(self, context: Sequence[int], top: int) -> list[int]:
        """Returns the key of the context and token 0, for each length of context up to `top` tokens, and as
        far as the context reaches.
        """
        base = self.vocab_size
        first = 0
        power = base
        found = [0]
        for token in reversed(context[max(0, len(context) - top) :]):
            first += power * token
            power *= base
            found.append(first)
        return found

    def _level(self, length: int, top: int) -> tuple[Level, float]:
        """Returns the counts after contexts of a length, and their discount, where the longest that is looked
        at has `top` tokens.
        """
        if length == top:
            return self._levels[length], self.top_discounts[length]
        return self._lower[length], self.discounts[length]

    def log_probabilities(
        self, context: Sequence[int], context_length: int | None = None, left_out: int | None = None
    ) -> list[float]:
        """Returns the natural logarithm of the probability of each token to be the next.

        Args:
            context: the ids before it, of which the last `context_length` count.
            context_length: look less far back than the model could.
            left_out: the token that followed this context at one place of the counted text: the counts are
                those of the text without that place ("leave one out"). Where it never did, all count.

        Raises:
            ValueError: a context_length below 0 or above the model's, or an id outside [0, V).
        """
        top = self._top(context_length)
        self._check(context[-top:] if top else [])
        base = self.vocab_size
        firsts = self._first_keys(context, top)
        top = len(firsts) - 1
        if left_out is not None and not self._count_at(top, firsts[top] + left_out):
            left_out = None  # it never followed this context
        probabilities = [1.0 / base] * base
        for length, first in enumerate(firsts):
            level, discount = self._level(length, top)
            keys, sums = level
            start, stop = level.after(first, base)
            total = sums[stop] - sums[start]
            kinds = stop - start
            less = -1  # the token whose count is one less
            if left_out is not None and self._is_one_less(left_out, length, firsts):
                less = left_out
                total -= 1
                kinds -= level.count_of(first + left_out, start, stop) == 1
            if not total:
                continue
            lent = discount * kinds / total
            probabilities = [lent * p for p in probabilities]
            for place in range(start, stop):
                token = keys[place] - first
                count = sums[place + 1] - sums[place] - (token == less)
                if count:
                    probabilities[token] += (count - discount) / total
        return list(map(math.log, probabilities))

    def _is_one_less(self, token: int, length: int, firsts: Sequence[int]) -> bool:
        """Whether the count of a token after a context of a length is one less without one occurrence of it
        after the longest of these contexts: that of p always is, that of p' where the longer n-gram occurred
        there alone.
        """
        return length == len(firsts) - 1 or self._count_at(length + 1, firsts[length + 1] + token) == 1

    def _count_at(self, length: int, key: int) -> int:
        """Returns how often a key with so long a context was counted."""
        level = self._levels[length]
        return level.count_of(key, 0, len(level.keys))

    def steps(self, context: Sequence[int], token: int, context_length: int | None = None) -> list[Step]:
        """Returns how the probability of a token comes about: from 1 / V, a step for each length of context
        that was seen, the shortest first. That of the last step is the one of `log_probabilities`.

        Args:
            context: the ids before it, of which the last `context_length` count.
            token: whose probability it is.
            context_length: look less far back than the model could.

        Raises:
            ValueError: a context_length below 0 or above the model's, or an id outside [0, V).
        """
        top = self._top(context_length)
        self._check([*(context[-top:] if top else []), token])
        return list(self._steps(context, token, top))

    def _steps(self, context: Sequence[int], token: int, top: int) -> Iterator[Step]:
        p = 1.0 / self.vocab_size
        firsts = self._first_keys(context, top)
        for length, first in enumerate(firsts):
            level, discount = self._level(length, len(firsts) - 1)
            count, total, kinds = level.counts_after(first, token, self.vocab_size)
            if total:
                lent = discount * kinds * p
                p = (count - discount + lent) / total if count else lent / total
                yield Step(length, count, total, kinds, discount, p)

    def _probability(self, context: Sequence[int], token: int, top: int) -> float:
        """Returns the probability of one token, as `log_probabilities` has it."""
        p = 1.0 / self.vocab_size
        for step in self._steps(context, token, top):
            p = step.probability
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
        longest = self.context_length
        for i in range(1, len(sequence)):
            row = []
            for length, first in enumerate(self._first_keys(sequence[max(0, i - longest) : i], longest)):
                for levels in (self._levels, self._lower):
                    if length < len(levels):
                        row.append(levels[length].counts_after(first, sequence[i], self.vocab_size))
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
