"""Solutions of the exercises of chapter 7, attention. `python -m pytest tests/test_book.py -k attention`
checks them.
"""

import math
import random
from operator import mul

from tinygpt_core import Tensor, seed
from tinygpt_core.nn import CausalSelfAttention


def softmax(scores):
    exponentials = [math.exp(score - max(scores)) for score in scores]
    return [e / sum(exponentials) for e in exponentials]


def attend(query, keys, values):
    """The chapter's lookup: the mean of the values, and its weights."""
    weights = softmax([sum(map(mul, query, key)) / math.sqrt(len(query)) for key in keys])
    return [
        sum(w * value[d] for w, value in zip(weights, values, strict=True)) for d in range(len(values[0]))
    ], weights


def vectors(count, size, chance):
    return [[chance.gauss(0, 1) for _ in range(size)] for _ in range(count)]


def close(a, b, tolerance=1e-9):
    return all(math.isclose(x, y, rel_tol=tolerance, abs_tol=tolerance) for x, y in zip(a, b, strict=True))


# 7.1 The softmax of scores times a growing number goes to 1 at the largest and to 0 elsewhere; times 0 it is
# uniform. Keys that match equally well share the weight, however long the query is: the result is the mean of
# their values.
#
# Hint: what is the softmax of scores that are far apart, and of scores that are all 0?


def limits(query, keys, values):
    scores = [sum(map(mul, query, key)) for key in keys]
    best = [value for value, score in zip(values, scores, strict=True) if score == max(scores)]
    return [[sum(column) / len(chosen) for column in zip(*chosen, strict=True)] for chosen in (best, values)]


def test_7_1_a_dictionary():
    keys, values = [[1.0, 0.0], [0.6, 0.8], [-0.6, 0.8]], [[10.0], [20.0], [30.0]]
    for query in ([1.0, 0.1], [0.5, 0.9], [-1.0, 0.2], [0.0, 1.0]):
        far, near = limits(query, keys, values)
        assert close(attend([1e4 * q for q in query], keys, values)[0], far, 1e-6)
        assert close(attend([1e-9 * q for q in query], keys, values)[0], near, 1e-6)
    for query, best in (([1.0, 0.1], 10.0), ([0.5, 0.9], 20.0), ([-1.0, 0.2], 30.0)):
        errors = [
            abs(attend([length * q for q in query], keys, values)[0][0] - best)
            for length in (1, 10, 100, 1000)
        ]
        assert errors == sorted(errors, reverse=True) and errors[-1] < 1e-6
        assert close(attend([1e-9 * q for q in query], keys, values)[0], [20.0], 1e-6)
    assert close(attend([0.0, 1000.0], keys, values)[0], [25.0])


# 7.2 The first lookup writes into each position which letter stood before it. The second looks with the
# letter that stands here for a position where that was the letter before, and copies what stands there. A
# number that grows with the position prefers the later one.
#
# Hint: the first lookup finds the position before, the second the one that has the same letter before it


# Given
def one_hot(index, size, strength=1.0):
    return [strength if i == index else 0.0 for i in range(size)]


def predict(text):
    letters = sorted(set(text))
    hot = [one_hot(letters.index(letter), len(letters), 1.0) for letter in text]
    places = [one_hot(i, len(text), 20.0) for i in range(len(text))]
    stood_before = [[0.0] * len(letters)]
    for i in range(1, len(text)):
        stood_before.append(attend(one_hot(i - 1, len(text), 20.0), places[: i + 1], hot[: i + 1])[0])
    keys = [[100.0 * share for share in before] + [float(i)] for i, before in enumerate(stood_before)]
    copied, _ = attend([10.0 * share for share in hot[-1]] + [10.0], keys, hot)
    return letters[max(range(len(letters)), key=copied.__getitem__)]


def test_7_2_an_induction_head():
    assert predict("a cat and a c") == "a"
    chance = random.Random(1)
    for _ in range(50):
        text = "".join(chance.choice("abcd") for _ in range(12))
        earlier = text[:-1].rfind(text[-1])
        if earlier >= 0:
            assert predict(text) == text[earlier + 1], text


# 7.3 Output i is made of the keys and values up to i, and of its own query. So each position is an example of
# its own, with the text up to there as its input: T examples for the price of one pass.
#
# Hint: run the layer on each beginning of the text, and keep the last position


def one_by_one(layer, text):
    return Tensor.concatenate([layer(text[:, :t])[:, t - 1 :] for t in range(1, text.shape[1] + 1)], axis=1)


def test_7_3_prefixes():
    seed(3)
    layer = CausalSelfAttention(embedding_dim=8, max_seq_length=10, num_heads=2)
    text, other_end = Tensor.normal((1, 7, 8)), Tensor.normal((1, 10, 8))
    whole = layer(text)
    assert one_by_one(layer, text).close_to(whole, atol=1e-6)
    for t in range(1, 8):
        assert layer(text[:, :t]).close_to(whole[:, :t], atol=1e-6)
        continued = Tensor.concatenate([text[:, :t], other_end[:, t:]], axis=1)
        assert layer(continued)[:, :t].close_to(whole[:, :t], atol=1e-6)


# 7.4 Head 1 puts its weight on the first position and takes the first number of its value, head 2 on the
# second and the second number. One head uses the same weights for all numbers of the result. With values (1,
# 0) and (0, 1) these are w and 1 - w, whose sum is 1, not 2.
#
# Hint: a head needs only a key that tells the two positions apart, and a long query


def two_heads():
    return ([50.0], [[1.0], [-1.0]]), ([50.0], [[-1.0], [1.0]])


def test_7_4_why_several_heads():
    results = [attend(query, keys, [[1.0, 0.0], [0.0, 1.0]])[0] for query, keys in two_heads()]
    assert close([results[0][0], results[1][1]], [1.0, 1.0], 1e-3)
    chance = random.Random(2)
    for _ in range(100):
        (query,), keys = vectors(1, 2, chance), vectors(2, 2, chance)
        result, _ = attend([100 * q for q in query], keys, [[1.0, 0.0], [0.0, 1.0]])
        assert math.isclose(sum(result), 1.0)


# 7.5 With w = 1 a position sees one key, and the softmax of one score is 1. With w >= T nothing is cut off.
# Each layer looks w - 1 positions further back than the one below it, so the fourth sees 4 (w - 1) positions
# back.
#
# Hint: slices of keys and values, and `max(0, …)`


def windowed(queries, keys, values, w):
    return [
        attend(queries[i], keys[max(0, i - w + 1) : i + 1], values[max(0, i - w + 1) : i + 1])[0]
        for i in range(len(queries))
    ]


def test_7_5_a_window():
    chance = random.Random(3)
    queries, keys, values = (vectors(12, 4, chance) for _ in range(3))
    assert windowed(queries, keys, values, 1) == values
    causal = [attend(queries[i], keys[: i + 1], values[: i + 1])[0] for i in range(12)]
    assert windowed(queries, keys, values, 12) == causal == windowed(queries, keys, values, 99)

    def four_layers(x):
        for _ in range(4):
            x = windowed(queries, keys, x, 3)
        return x

    changed = [values[:j] + vectors(1, 4, chance) + values[j + 1 :] for j in range(12)]
    seen = [j for j in range(12) if four_layers(changed[j])[-1] != four_layers(values)[-1]]
    assert seen == list(range(11 - 4 * 2, 12))


# 7.6 Query head h uses key and value head h // 2, so heads 0, 1, 2, 3 of keys are 0, 0, 1, 1 of those that
# are shared.
#
# Hint: query head h uses the shared head h // (heads in a group)


def ungrouped(matrix, num_heads, shared, size):
    """The columns of a grouped layer's packed matrix as an ordinary layer has them."""
    repeats = num_heads // shared
    columns = list(range(num_heads * size))
    for part in range(2):
        start = (num_heads + part * shared) * size
        columns += [start + head // repeats * size + d for head in range(num_heads) for d in range(size)]
    return [[row[column] for column in columns] for row in matrix]


def test_7_6_grouped_queries():
    seed(6)
    grouped = CausalSelfAttention(16, 8, num_heads=4, num_key_value_heads=2)
    ordinary = CausalSelfAttention(16, 8, num_heads=4)
    matrix = Tensor(ungrouped(grouped.query_key_value.weights.to_python(), 4, 2, 4))
    for name, value in (("query_key_value", matrix), ("out", grouped.out.weights)):
        getattr(ordinary, name).weights = Tensor(value.buffer.copy(), requires_grad=True)
    x = Tensor.normal((2, 6, 16))
    assert ordinary(x).close_to(grouped(x), atol=1e-6)


# 7.7 All exponentials so far were taken with the old maximum m; those with a new one m' are smaller by the
# factor exp(m - m').
#
# Hint: when the largest score changes from a to b, everything that was summed has to be multiplied by
# exp(a - b)


def attend_in_one_pass(query, keys, values):
    largest, total, weighted = -math.inf, 0.0, [0.0] * len(values[0])
    for key, value in zip(keys, values, strict=True):
        score = sum(map(mul, query, key)) / math.sqrt(len(query))
        before, largest = largest, max(largest, score)
        shrink, e = math.exp(before - largest), math.exp(score - largest)
        total = total * shrink + e
        weighted = [w * shrink + e * v for w, v in zip(weighted, value, strict=True)]
    return [w / total for w in weighted]


def test_7_7_a_softmax_that_is_never_whole():
    chance = random.Random(7)
    for strength in (0.0, 1.0, 30.0, 1000.0):
        (query,), keys, values = vectors(1, 3, chance), vectors(20, 3, chance), vectors(20, 2, chance)
        query = [strength * q for q in query]
        assert close(attend_in_one_pass(query, keys, values), attend(query, keys, values)[0])
