"""Solutions of the exercises of chapter 9, a GPT that writes. `python -m pytest tests/test_book.py -k
a_gpt_that_writes` checks them.
"""

import math
import random
from collections import Counter
from itertools import pairwise

from tinygpt_core import Tensor, no_grad, seed
from tinygpt_core.generation import sample_index
from tinygpt_core.losses import CrossEntropyLoss
from tinygpt_core.nn import GPT, GPTConfig
from tinygpt_core.optimizers import AdamW
from tinygpt_core.random import Generator

VALUES = {
    "CM": 900,
    "D": 500,
    "CD": 400,
    "C": 100,
    "XC": 90,
    "L": 50,
    "XL": 40,
    "X": 10,
    "IX": 9,
    "V": 5,
    "IV": 4,
    "I": 1,
}
ALPHABET = ".CDILMVX"
IDS = {letter: i for i, letter in enumerate(ALPHABET)}


def roman(number):
    text = ""
    for letters, value in VALUES.items():
        text += letters * (number // value)
        number %= value
    return text


NUMERALS = [roman(number) for number in range(1, 1000)]


def small_model(**changes):
    seed(2)
    settings = {
        "vocab_size": 8,
        "context_length": 13,
        "num_layers": 2,
        "num_heads": 2,
        "embedding_dim": 16,
        "tied_head": False,
    }
    return GPT(GPTConfig(**{**settings, **changes}))


def batch(words, filling=0):
    width = max(map(len, words)) + 1
    inputs = [[IDS[letter] for letter in "." + word] + [filling] * (width - 1 - len(word)) for word in words]
    targets = [[IDS[letter] for letter in word + "."] + [-1] * (width - 1 - len(word)) for word in words]
    return Tensor(inputs), Tensor(targets)


def loss_of(model, words, filling=0):
    inputs, targets = batch(words, filling)
    return CrossEntropyLoss(reduction="mean")(logits=model(inputs), labels=targets)


# 9.1 Embeddings V C, head V C, last norm C; a block has two norms 2 C, queries, keys, values and out 4 C^2,
# and the MLP 3 C M.
#
# Hint: go through the block part by part; RMSNorm has C, the MLP 3 C M


def count_parameters(V, C, L, M):
    return 2 * V * C + C + L * (2 * C + 4 * C * C + 3 * C * M)


def test_9_1_counting_parameters():
    llama = {"normalization": "rms_norm", "activation": "swiglu", "bias": False, "positions": "rotary"}
    for V, C, L, M in ((8, 16, 2, 40), (11, 8, 1, 24), (30, 24, 3, 64)):
        model = small_model(vocab_size=V, embedding_dim=C, num_layers=L, hidden_dim=M, **llama)
        assert model.num_parameters() == count_parameters(V, C, L, M)


# 9.2 The share of the numerals that begin so and go on so. Over a whole word the fractions cancel: what is
# left is 1 / 999. Its logarithm is paid once a word, wherever the choices are.
#
# Hint: count the numerals that begin with the text, and of those the ones that go on with the letter


def true_probability(beginning, following):
    words = [word + "." for word in NUMERALS if (word + ".").startswith(beginning)]
    return sum(word.startswith(beginning + following) for word in words) / len(words)


def test_9_2_a_perfect_model():
    begins = Counter((word + ".")[:i] for word in NUMERALS for i in range(len(word) + 2))
    assert true_probability("X", "I") == begins["XI"] / begins["X"]
    logarithms = [
        math.log(begins[(word + ".")[: i + 1]] / begins[word[:i]])
        for word in NUMERALS
        for i in range(len(word) + 1)
    ]
    mean_length = len(logarithms) / len(NUMERALS)
    assert math.isclose(-math.fsum(logarithms) / len(logarithms), math.log(999) / mean_length)


# 9.3 With equal probabilities it keeps the share p of all tokens, rounded up; where one has 0.95, top-p 0.9
# keeps that one alone.
#
# Hint: sort, add up, and stop as soon as p is reached, that token included


def nucleus(logits, p):
    weights = [math.exp(logit - max(logits)) for logit in logits]
    kept, reached = set(), 0.0
    for i in sorted(range(len(logits)), key=lambda i: -weights[i]):
        if reached < p * sum(weights):
            kept.add(i)
            reached += weights[i]
    return kept


def test_9_3_top_p_by_hand():
    chance = random.Random(3)
    for p in (0.1, 0.5, 0.8, 1.0):
        logits = [chance.gauss(0, 1) for _ in range(6)]
        generator = Generator(4)
        drawn = {sample_index(logits, top_p=p, generator=generator) for _ in range(1000)}
        assert drawn == nucleus(logits, p)
    assert len(nucleus([0.0] * 8, 0.5)) == 4
    assert nucleus([0.0, math.log(0.95 / 0.05)], 0.9) == {1}


# 9.4 Their positions come after all that count, and no position looks forward. Their own logits have no loss.
#
# Hint: targets of -1 are not counted; what do the inputs there matter for the other positions?


def filled(rows, filling):
    width = max(map(len, rows)) - 1
    inputs = [row[:-1] + [filling] * (width - len(row) + 1) for row in rows]
    targets = [row[1:] + [-1] * (width - len(row) + 1) for row in rows]
    return inputs, targets


def test_9_4_padding():
    rows, model = [[IDS[letter] for letter in f".{word}."] for word in ("XIV", "C", "DCC")], small_model()
    inputs, targets = filled(rows, 5)
    assert inputs == [[0, 7, 3, 6], [0, 1, 5, 5], [0, 2, 1, 1]]
    assert targets == [[7, 3, 6, 0], [1, 0, -1, -1], [2, 1, 1, 0]]
    found = []
    for filling in (0, 5):
        inputs, targets = map(Tensor, filled(rows, filling))
        loss = CrossEntropyLoss(reduction="mean")(logits=model(inputs), labels=targets)
        model.zero_grad()
        loss.backward()
        found.append(
            (loss.item(), {name: parameter.grad.to_python() for name, parameter in model.named_parameters()})
        )
    assert found[0][0] == found[1][0]
    for name, gradient in found[0][1].items():
        assert Tensor(gradient).close_to(found[1][1][name], atol=1e-7), name


# 9.5 All from then on: the changed token's keys and values are those of the old one, in every layer, and in
# layers above the first those of all later positions too. What stands before the change is still right, so
# set `length` back to it and run the rest again.
#
# Hint: what stands before the first difference is still right


def still_right(old, new):
    same = 0
    while same < min(len(old), len(new)) and old[same] == new[same]:
        same += 1
    return same


def test_9_5_break_the_cache():
    model = small_model()
    with no_grad():
        for _, parameter in model.named_parameters():
            parameter.assign(parameter * 8.0)
        old, new = (Tensor([[IDS[letter] for letter in text]]) for text in (".DXXV", ".DCXV"))
        cache = model.new_cache()
        model(old[:, :4], cache)
        wrong = model(new[:, 4:], cache)
        right = model(new)
        assert not wrong.close_to(right[:, 4:], rtol=1e-4, atol=1e-4)
        cache.length = still_right(old[0].to_python(), new[0].to_python())
        assert cache.length == 2 and still_right([1, 2], [1, 2, 3]) == 2 and still_right([5], [6]) == 0
        assert model(new[:, 2:], cache).close_to(right[:, 2:], rtol=1e-4, atol=1e-5)


# 9.6 At 0 the k largest share all: ln k. At infinity all are equal: ln V.
#
# Hint: subtract the largest logit before you divide; p ln p goes to 0 with p, so leave out a p that is 0


def entropy(logits, temperature):
    weights = [math.exp((logit - max(logits)) / temperature) for logit in logits]
    shares = [weight / sum(weights) for weight in weights]
    return -math.fsum(share * math.log(share) for share in shares if share)


def test_9_6_temperature():
    chance = random.Random(6)
    for _ in range(50):
        logits = [chance.gauss(0, 3) for _ in range(7)]
        logits += [max(logits)] * chance.randrange(3)
        found = [entropy(logits, 1.2**exponent) for exponent in range(-40, 60)]
        assert all(low <= high + 1e-12 for low, high in pairwise(found))
        assert math.isclose(entropy(logits, 1e-4), math.log(logits.count(max(logits))), abs_tol=1e-9)
        assert math.isclose(entropy(logits, 1e6), math.log(len(logits)), rel_tol=1e-6)


# 9.7 The eight words have no more to give than ln 8 a word. The model goes on making them likelier, and all
# other words less likely.
#
# Hint: which of the eight it is, is all that a word says; add up the letters that this is spread over


def least_loss(words):
    return len(words) * math.log(len(words)) / sum(len(word) + 1 for word in words)


def test_9_7_by_heart():
    order = Generator(1).permutation(999)
    known, hidden = [NUMERALS[i] for i in order[:8]], [NUMERALS[i] for i in order[8:40]]
    model = small_model(num_layers=1)
    optimizer = AdamW(model, learning_rate=0.02, betas=(0.9, 0.99))
    of_known, of_hidden = [], []
    for step in range(81):
        optimizer.zero_grad()
        loss = loss_of(model, known)
        loss.backward()
        optimizer.update()
        of_known.append(loss.item())
        if step % 10 == 0:
            with no_grad():
                of_hidden.append(loss_of(model, hidden).item())
    least = least_loss(known)
    assert least < of_known[-1] < least + 0.1
    assert of_hidden[-1] > min(of_hidden) + 0.5
