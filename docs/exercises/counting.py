"""Solutions of the exercises of chapter 4, counting. `python -m pytest tests/test_book.py -k counting` checks
them.
"""

import math
from collections import Counter, defaultdict

from tinygpt_core.random import Generator

ALPHABET = ".CDILMVX"


def roman(number):
    values = [("CM", 900), ("D", 500), ("CD", 400), ("C", 100), ("XC", 90), ("L", 50), ("XL", 40)]
    text = ""
    for letters, value in [*values, ("X", 10), ("IX", 9), ("V", 5), ("IV", 4), ("I", 1)]:
        text += letters * (number // value)
        number %= value
    return text


NUMERALS = [roman(number) for number in range(1, 1000)]


def split(words, count):
    """Some words, drawn at random, and the others."""
    order = Generator(0).permutation(len(words))
    return [words[i] for i in order[:count]], [words[i] for i in order[count:]]


def count(words, back):
    """The chapter's tables: what followed each context of 0, 1, … `back` letters."""
    tables = [defaultdict(Counter) for _ in range(back + 1)]
    for word in words:
        text = "." + word + "."
        for i in range(1, len(text)):
            for n in range(min(back, i) + 1):
                tables[n][text[i - n : i]][text[i]] += 1
    return tables


def probability(tables, before, letter, s):
    """The chapter's interpolation."""
    p = 1 / len(ALPHABET)
    for n, table in enumerate(tables[: len(before) + 1]):
        seen = table.get(before[len(before) - n :], Counter())
        p = (seen[letter] + s * p) / (seen.total() + s)
    return p


def places(words):
    """Each place of some words, as the text before it and the letter that comes."""
    return [(text[:i], text[i]) for text in (f".{word}." for word in words) for i in range(1, len(text))]


# 4.1 After b came: the end in ab; b and the end in abb; the end in b. One b in four.
#
# Hint: list all pairs of neighbours with the boundaries, and look at those that begin with b


def bigram(words, first, second):
    followers = [b for word in words for a, b in zip("." + word, word + ".", strict=True) if a == first]
    return followers.count(second) / len(followers)


def test_4_1_hand_made():
    words = ["ab", "abb", "b"]
    assert bigram(words, "b", "b") == 1 / 4
    assert bigram(words, ".", "a") == 2 / 3 and bigram(words, "a", "b") == 1.0
    for first in "X.I":
        assert math.isclose(sum(bigram(NUMERALS, first, letter) for letter in ALPHABET), 1.0)


# 4.2 The loss of probabilities q is -sum p ln q. Its excess over -sum p ln p is sum p ln(p / q), which is at
# least 0 because ln x <= x - 1.
#
# Hint: the text has count / length of each letter; the mean of -ln p is a sum over letters


def entropy(text):
    shares = [count / len(text) for count in Counter(text).values()]
    return -sum(share * math.log(share) for share in shares)


def test_4_2_the_entropy_of_one_letter():
    assert math.isclose(entropy("abab"), math.log(2)) and abs(entropy("aaaa")) < 1e-12
    text = "".join(word + "." for word in NUMERALS)
    shares = {letter: number / len(text) for letter, number in Counter(text).items()}
    generator = Generator(1)
    for size in (0.0, 0.01, 1.0):
        q = {letter: share * (1 + size * generator.integer(0, 100) / 100) for letter, share in shares.items()}
        loss = -sum(math.log(q[letter] / sum(q.values())) for letter in text) / len(text)
        assert loss >= entropy(text) - 1e-12


# 4.3 A letter that never came after any context gets s/(n + s) of what the shorter context gives it, at every
# length. A small s makes that tiny again and again: surprises become dear.
#
# Hint: go over all places of all words and keep the largest -ln p


def never_certain(tables, words, s):
    return max(-math.log(probability(tables, before, letter, s)) for before, letter in places(words))


def test_4_3_unseen_words():
    hidden, training = split(NUMERALS, 200)
    tables = count(training, 7)
    weak, strong = (never_certain(tables, hidden, s) for s in (0.1, 10.0))
    assert weak > 2 * strong > 0
    assert never_certain(count(NUMERALS, 0), ["I"], 1e-9) < 10


# 4.4 Count the words that are left, and judge each pair by the words that were held out.
#
# Hint: count once with the longest context; a shorter one is the first tables of the list


def choose(words, held_out):
    tables = count(words, 7)

    def loss(pair):
        s, back = pair
        return -sum(math.log(probability(tables[: back + 1], before, letter, s)) for before, letter in held)

    held = places(held_out)
    return min(((s, back) for s in (0.1, 1.0, 10.0, 100.0) for back in range(8)), key=loss)


def test_4_4_which_s():
    _, training = split(NUMERALS, 200)
    held_out, counted = split(training, 100)
    s, back = choose(counted, held_out)
    assert back == 3 and s in (10.0, 100.0)


# 4.5 The letters that never come after a context are most of the eight; together they get far too much.
#
# Hint: one formula, with a context that was never seen as total 0


def laplace(table, context, letter):
    """p of a letter after a context, where the table has all contexts of that length."""
    seen = table.get(context, Counter())
    return (seen[letter] + 1) / (seen.total() + len(ALPHABET))


def test_4_5_add_one():
    hidden, training = split(NUMERALS, 200)
    tables = count(training, 3)
    assert math.isclose(sum(laplace(tables[3], "XXX", letter) for letter in ALPHABET), 1.0)
    held = [(before, letter) for before, letter in places(hidden) if len(before) >= 3]
    added = -sum(math.log(laplace(tables[3], before[-3:], letter)) for before, letter in held)
    mixed = -sum(math.log(probability(tables, before, letter, 1.0)) for before, letter in held)
    assert added > mixed
