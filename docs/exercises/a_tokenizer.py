"""Solutions of the exercises of chapter 5, a tokenizer. `python -m pytest tests/test_book.py -k a_tokenizer`
checks them.
"""

import math
import random
from collections import Counter
from itertools import pairwise

from tinygpt_core.tokenizer import BPETokenizer, encode_textbook, get_stats, merge, train_textbook

TEXT = (
    "a tall tale to tell: a little tale, a tale of a total of ten tall tellers, "
    "told in a hall as tall as all of the tales are"
)


# 5.1 Below 128 the byte is the code point. Else the low bits come last, six to a byte, and the first byte has
# the rest below its marks.
#
# Hint: the last byte takes the lowest six bits, `code & 63`, and is marked with 128; go on from there


def to_utf8(code_point):
    if code_point < 0x80:
        return bytes([code_point])
    following = 1 if code_point < 0x800 else 2 if code_point < 0x10000 else 3
    rest = [0b1000_0000 | code_point >> 6 * i & 0b11_1111 for i in reversed(range(following))]
    marks = 0xFF << (6 - following) & 0xFF  # following + 1 ones and a zero
    return bytes([marks & ~(1 << (6 - following)) | code_point >> 6 * following, *rest])


def test_5_1_utf8_by_hand():
    for code_point in [
        *range(0x3000),
        *range(0xE000, 0x110000, 997),
        0x7FF,
        0x800,
        0xFFFF,
        0x10000,
        0x10FFFF,
    ]:
        assert to_utf8(code_point) == chr(code_point).encode(), hex(code_point)


# 5.2 Go back over bytes that begin with 10, at most three, to the first byte of the character, which says how
# many there should be.
#
# Hint: walk back over bytes that begin with 10 to a first byte, and ask how many it has announced


def incomplete(data):
    for count in range(1, min(4, len(data)) + 1):
        byte = data[-count]
        if byte < 0b1000_0000:
            return 0
        if byte >= 0b1100_0000:
            length = 2 if byte < 0b1110_0000 else 3 if byte < 0b1111_0000 else 4
            return count if count < length else 0
    return 0


def test_5_2_where_a_character_begins():
    data = "aé€😀zé".encode()
    for cut in range(len(data) + 1):
        rest = incomplete(data[:cut])
        assert rest <= 3
        data[: cut - rest].decode()  # whole characters, or this raises
        kept = data[:cut].decode(errors="ignore").encode()
        assert len(kept) == cut - rest


# 5.3 A pair that is learned later cannot be merged before one that was learned earlier has been, in learning
# or in encoding, so both make the same merges in the same order. From the left, "aab" with the merges ab,
# then aa, gives aa b; by the order, a ab.
#
# Hint: keep all words as rows of ids while learning; at the end look what became of them

WORDS = [word.encode() for word in TEXT.split()]


def when_learning_ended(word, merges):
    ids = list(word)
    for pair, idx in merges.items():
        ids = merge(ids, pair, idx)
    return ids


def encode_from_the_left(word, merges):
    ids = list(word)
    while learned := [i for i, pair in enumerate(pairwise(ids)) if pair in merges]:
        i = learned[0]
        ids[i : i + 2] = [merges[ids[i], ids[i + 1]]]
    return ids


def test_5_3_learning_and_encoding_agree():
    for count in (0, 3, 10, 30):
        merges = train_textbook(WORDS, 256 + count)
        assert all(encode_textbook(word, merges) == when_learning_ended(word, merges) for word in WORDS)
    a, b = b"ab"
    merges = {(a, b): 256, (a, a): 257}
    assert encode_textbook(b"aab", merges) == [a, 256] and encode_from_the_left(b"aab", merges) == [257, b]


# 5.4 The fewest tokens of the first i letters are one more than those of the first j, for the best j where
# the piece in between is a token.
#
# Hint: the best way to cut the first n bytes ends in some token, and begins with a best way for the rest


def fewest(word, vocabulary):
    """The tokens of a word, both of type bytes, as a tuple; the vocabulary is a set of tokens."""
    best = [()]
    for i in range(1, len(word) + 1):
        best.append(min((best[j] + (word[j:i],) for j in range(i) if word[j:i] in vocabulary), key=len))
    return best[-1]


# Given
def vocabulary_of(merges):
    tokens = {byte: bytes([byte]) for byte in range(256)}
    for (first, second), idx in merges.items():
        tokens[idx] = tokens[first] + tokens[second]
    return set(tokens.values())


def test_5_4_fewest_tokens():
    merges = train_textbook(WORDS, 256 + 12)
    vocabulary = vocabulary_of(merges)
    for word in WORDS:
        assert b"".join(fewest(word, vocabulary)) == word
        assert len(fewest(word, vocabulary)) <= len(encode_textbook(word, merges))
    a, b, c, d = b"abcd"
    merges = {(b, c): 256, (a, b): 257, (c, d): 258}
    assert encode_textbook(b"abcd", merges) == [a, 256, d]
    assert fewest(b"abcd", vocabulary_of(merges)) == (b"ab", b"cd")


# 5.5 (x, a), (a, b) and (b, y) lose one each, (x, ab) and (ab, y) gain one each. Where the pair stands twice
# in a row, the neighbours are merged themselves: in abab the middle (b, a) is lost once, not twice, and (ab,
# ab) appears. In aaa only the first two merge.
#
# Hint: x a b y becomes x ab y: which neighbours were there before, and which are there now?


def change_of_one_merge(x, a, b, y):
    """By how much the count of each pair changes, as a dict; tokens are strings, the new one is a + b."""
    return Counter({(x, a): -1, (a, b): -1, (b, y): -1, (x, a + b): 1, (a + b, y): 1})


# Given
def change_of_counts(pieces, a, b):
    change = Counter(get_stats(merge(pieces, (a, b), a + b)))
    change.subtract(get_stats(pieces))
    return {pair: count for pair, count in change.items() if count}


def test_5_5_what_one_merge_changes():
    chance = random.Random(5)
    for _ in range(100):
        left, right = ([chance.choice("cdef") for _ in range(chance.randrange(1, 5))] for _ in range(2))
        expected = change_of_one_merge(left[-1], "a", "b", right[0])
        assert change_of_counts([*left, "a", "b", *right], "a", "b") == dict(expected)
    assert merge("aaa", ("a", "a"), "aa") == ["aa", "a"]
    assert change_of_counts("abab", "a", "b") == {("a", "b"): -2, ("b", "a"): -1, ("ab", "ab"): 1}


# 5.6 ln V / bytes = ln 256 for equal bits per byte: ln 50,257 / ln 256 = 1.95 bytes.
#
# Hint: bits per byte are nats per token, divided by ln 2 and by the bytes in a token; set two of them
# equal


def bytes_to_be_no_worse(V):
    return math.log(V) / math.log(256)


def test_5_6_how_long_a_token_must_be():
    assert round(bytes_to_be_no_worse(50_257), 2) == 1.95
    assert bytes_to_be_no_worse(256) == 1.0 and math.isclose(bytes_to_be_no_worse(65_536), 2.0)


# 5.7 If one special token begins another, the shorter one would be found first and cut the longer one in two.
#
# Hint: an alternation in a regular expression takes the first that fits


def encode_with_special(tokenizer, text, special):
    """The ids of a text; `special` has the id of each special token."""
    if not text:
        return []
    for token in sorted(special, key=len, reverse=True):
        before, found, after = text.partition(token)
        if found:
            ids = encode_with_special(tokenizer, before, special)
            return [*ids, special[token], *encode_with_special(tokenizer, after, special)]
    return tokenizer.encode(text)


def test_5_7_special_tokens_first():
    tokenizer = BPETokenizer()
    tokenizer.train(TEXT, 280)
    special = {"<|end|>": 280, "<|end|>now": 281, "<|user|>": 282}
    plain = BPETokenizer()
    plain.train(TEXT, 280)
    tokenizer.register_special_tokens(special)
    for text in ("", "tall", "<|end|>", "a tale<|end|>now<|user|>told<|end|>", "<|user|><|user|> all <|end"):
        assert encode_with_special(plain, text, special) == tokenizer.encode(text, allowed_special="all")
