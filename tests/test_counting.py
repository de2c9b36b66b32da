"""The counting model against its formula written out with dictionaries, and the ladder it makes."""

from __future__ import annotations

import json
import math
from array import array
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygpt_core import random
from tinygpt_core.counting import GRID, CountingModel
from tinygpt_core.training import Trainer
from tinygpt_core.training.ladder import sequences
from tinygpt_core.training.presets import PRESETS

TEXTS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=12), min_size=1, max_size=25)


def by_the_formula(
    model: CountingModel,
    texts: list[list[int]],
    context: list[int],
    top: int,
    left_out: tuple[int, int] | None = None,
) -> list[float]:
    """p(w | context) of interpolated Kneser-Ney, from tuples that are counted anew for each question.

    left_out: the number of a text and a place in it, whose token is not counted.
    """
    counts: dict[tuple[int, ...], int] = defaultdict(int)
    before: dict[tuple[int, ...], set[tuple[int, ...]]] = defaultdict(set)
    for number, text in enumerate(texts):
        for i in range(1, len(text)):
            if (number, i) == left_out:
                continue
            for length in range(min(i, model.context_length) + 1):
                counts[tuple(text[i - length : i + 1])] += 1
            for length in range(min(i - 1, model.context_length - 1) + 1):
                before[tuple(text[i - length : i + 1])].add((text[i - length - 1],))
    top = min(top, len(context))
    p = [1.0 / model.vocab_size] * model.vocab_size
    for length in range(top + 1):
        h = tuple(context[len(context) - length :])
        if length == top:
            c = [counts.get((*h, w), 0) for w in range(model.vocab_size)]
            d = model.top_discounts[length]
        else:
            c = [len(before.get((*h, w), ())) for w in range(model.vocab_size)]
            d = model.discounts[length]
        if sum(c):
            kinds = sum(x > 0 for x in c)
            p = [(max(x - d, 0.0) + d * kinds * q) / sum(c) for x, q in zip(c, p, strict=True)]
    return p


@settings(deadline=None)
@given(
    texts=TEXTS, context=st.lists(st.integers(0, 3), max_size=5), longest=st.integers(0, 3), data=st.data()
)
def test_probabilities_are_those_of_the_formula(
    texts: list[list[int]], context: list[int], longest: int, data: st.DataObject
) -> None:
    if not any(len(text) > 1 for text in texts):
        return
    model = CountingModel(4, longest).fit(texts)
    top = data.draw(st.integers(0, longest))
    found = [math.exp(value) for value in model.log_probabilities(context, top)]
    assert math.isclose(sum(found), 1.0, rel_tol=1e-9)
    expected = by_the_formula(model, texts, context, top)
    assert all(math.isclose(a, b, rel_tol=1e-9) for a, b in zip(found, expected, strict=True))
    assert {*model.discounts, *model.top_discounts} <= {*GRID, 0.75}


@settings(deadline=None)
@given(texts=TEXTS, longest=st.integers(0, 3))
def test_nats_are_the_mean_of_the_log_probabilities(texts: list[list[int]], longest: int) -> None:
    if not any(len(text) > 1 for text in texts):
        return
    model = CountingModel(4, longest).fit(texts)
    losses = [-model.log_probabilities(text[:i])[text[i]] for text in texts for i in range(1, len(text))]
    assert math.isclose(model.nats(texts), math.fsum(losses) / len(losses), rel_tol=1e-9)
    assert math.isclose(model.perplexity(texts), math.exp(model.nats(texts)), rel_tol=1e-12)


def test_what_it_has_counted_it_writes() -> None:
    model = CountingModel(5, 3).fit([[0, 1, 2, 3, 4]] * 40)
    assert model.nats([[0, 1, 2, 3, 4]]) < 0.05
    written = model.generate([0], 10, random.Generator(1), stop_id=4)
    assert written == [0, 1, 2, 3]
    assert model.generate([], 3, random.Generator(1)) == model.generate([], 3, random.Generator(1))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: CountingModel(0), "vocab_size"),
        (lambda: CountingModel(3, -1), "context_length"),
        (lambda: CountingModel(3).fit([[0, 3]]), r"\[0, 3\)"),
        (lambda: CountingModel(3).fit([[0], []]), "nothing to count"),
        (lambda: CountingModel(3).fit([[0, 1]]).nats([[1]]), "nothing to predict"),
        (lambda: CountingModel(3).fit([[0, 1]]).log_probabilities([0], 9), "from 0 to 4"),
    ],
)
def test_errors_say_what_is_wrong(call: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()


def test_what_has_counted_nothing_guesses_evenly() -> None:
    model = CountingModel(4, 2)
    assert model.nats([[0, 1, 2, 3]]) == pytest.approx(math.log(4))
    assert model.log_probabilities([3, 1]) == pytest.approx([-math.log(4)] * 4)
    assert len(model.generate([], 5, random.Generator(1))) == 5


@pytest.mark.parametrize("wrong", [-1, 4, 6])
def test_an_id_that_is_none_is_not_taken_for_another_context(wrong: int) -> None:
    """With V = 4, the token 6 after 1 would have the integer of the token 2 after 2."""
    model = CountingModel(4, 2).fit([[0, 1, 2, 3, 2, 2, 1]])
    for call in (
        lambda: model.nats([[1, wrong]]),
        lambda: model.nats([[wrong, 1]]),
        lambda: model.log_probabilities([wrong]),
        lambda: model.generate([1, wrong], 2, random.Generator(1)),
    ):
        with pytest.raises(ValueError, match=r"ids must lie in \[0, 4\)"):
            call()
    assert model.log_probabilities([wrong, 1, 2]) == model.log_probabilities([1, 2])  # too far back to count


def test_a_run_ends_with_a_ladder_on_its_validation_text(tmp_path: Path) -> None:
    text = tmp_path / "words.txt"
    text.write_text(
        "\n".join(f"{a}{b}an{c}" for a in "bcd" for b in "aeiou" for c in "xyzvw"), encoding="utf-8"
    )
    config = replace(
        PRESETS["debug"].config,
        context_length=16,
        corpus="text",
        data_file=str(text),
        steps=4,
        embedding_dim=4,
        batch_size=2,
    )
    trainer = Trainer.start(config, str(tmp_path / "run"))
    events = list(trainer.run())
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    ladder = log[-1]["ladder"]
    assert [entry for entry in log if "ladder" in entry] == [log[-1]] and log[-1]["step"] == 4
    assert list(ladder) == ["uniform", "unigram", *(f"{n} back" for n in range(1, 8))]
    assert ladder["uniform"] == math.log(trainer.data.tokenizer.vocab_size)
    assert trainer.ladder() == ladder and events
    rows = [row for batch in trainer.data.validation_batches for row in sequences(batch)]
    assert sum(len(row) - 1 for row in rows) == sum(b.num_targets for b in trainer.data.validation_batches)
    assert ladder["2 back"] < ladder["unigram"] < ladder["uniform"]


@pytest.mark.parametrize(("count", "longest"), [(40, 2), (25, 0), (3, 1), (1, 2), (10, 1)])
def test_each_discount_is_the_one_that_the_held_out_text_is_most_probable_with(
    count: int, longest: int
) -> None:
    """The others being as they are then: those of p' first, the shortest context before the longer ones."""
    generator = random.Generator(count)
    texts = [
        [
            generator.integer(0, 3) * generator.integer(0, 2)
            for _ in range(generator.integer(2, 9) + 30 // count)
        ]
        for _ in range(count)
    ]
    if count >= 10:
        held_out = texts[9::10]
        rest = [text for i, text in enumerate(texts) if i % 10 != 9]
    else:
        held_out = [text[len(text) - len(text) // 10 - 1 :] for text in texts]
        rest = [text[: len(text) - len(text) // 10] for text in texts]
    model = CountingModel(3, longest)

    def loss(top: int) -> float:
        return -sum(
            math.log(by_the_formula(model, rest, text[:i], top)[text[i]])
            for text in held_out
            for i in range(1, len(text))
        )

    found = CountingModel(3, longest).fit(texts)
    places = [(model.discounts, length, longest) for length in range(longest)]
    places += [(model.top_discounts, length, length) for length in range(longest + 1)]
    for discounts, length, top in places:
        chosen = (found.discounts if discounts is model.discounts else found.top_discounts)[length]
        losses = {}
        for value in GRID:
            discounts[length] = value
            losses[value] = loss(top)
        assert losses[chosen] == pytest.approx(min(losses.values()), rel=1e-12)
        discounts[length] = chosen
    assert found.discounts == model.discounts and found.top_discounts == model.top_discounts
    assert math.isclose(found.nats(texts), _mean_loss(model, texts, longest), rel_tol=1e-9)


def _mean_loss(model: CountingModel, texts: list[list[int]], top: int) -> float:
    """In nats, of texts that are counted themselves."""
    losses = [
        -math.log(by_the_formula(model, texts, text[:i], top)[text[i]])
        for text in texts
        for i in range(1, len(text))
    ]
    return sum(losses) / len(losses)


def test_integers_of_any_size_stand_for_contexts() -> None:
    many, few = CountingModel(2**40, 3), CountingModel(5, 3)
    text = [0, 1, 2, 3, 4, 1, 2, 4, 4, 0, 1, 2, 3]
    many.fit([[2**40 - 5 + token for token in text]])
    few.fit([text])
    assert many.num_ngrams == few.num_ngrams and many.discounts == few.discounts
    assert many.counts()[0] == (array("q", range(2**40 - 5, 2**40)), few.counts()[0][1])
    assert [list(counts) for _, counts in many.counts()] == [list(counts) for _, counts in few.counts()]
    assert max(many.counts()[3][0]) < 2**160 and many.counts()[3][0] == sorted(many.counts()[3][0])
