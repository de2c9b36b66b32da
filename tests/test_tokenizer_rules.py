"""The rules of tokenizers one by one, at their edges: what is allowed, what is refused, what comes first."""

from __future__ import annotations

import base64
import json
import time
import unicodedata
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tinygpt_core import DType
from tinygpt_core.tokenizer import (
    BPETokenizer,
    CharTokenizer,
    RegexPatterns,
    Tokenizer,
    TokenizerError,
    base,
    bpe,
    find_tokenizer,
    get_stats,
    load_tokenizer,
    merge,
    patterns,
    pipelines,
    save_tokenizer,
    tokenizer_json,
    train_textbook,
    vocabularies,
)
from tinygpt_core.tokenizer.base import read_text_file
from tinygpt_core.tokenizer.bpe import WordIndex, _merge_with_heap, _string_literal, learn_merges, merge_steps
from tinygpt_core.tokenizer.describing import _merges_of_ranks, describe
from tinygpt_core.tokenizer.patterns import compile_pattern, is_total, require_bounded, unicode_class
from tinygpt_core.tokenizer.tokenizer_json import JSONTokenizer
from tinygpt_core.tokenizer.vocabularies import byte_characters, parse_fields

HALVES = ["\ud800", "\udbff", "\udc00", "\udfff"]


def test_how_large_files_and_texts_may_be() -> None:
    """What was read yesterday is read tomorrow."""
    assert base.MAXIMUM_FILE == 256_000_000
    assert vocabularies.MAXIMUM_FILE == tokenizer_json.MAXIMUM_BYTES == pipelines.MAXIMUM_BYTES == 64_000_000
    assert bpe.MAXIMUM_TOKENS == 32_000_000
    assert patterns.MAXIMUM_CLASSES == 2_000_000


# ---- what every tokenizer does


class Sparse(Tokenizer):
    """Three tokens, of which none has the id 0."""

    def _ordinary_ids(self) -> range:
        return range(1, 4)


@pytest.mark.parametrize("idx", [0, 4, 2**31 - 1])
def test_ids_that_a_special_token_may_have(idx: int) -> None:
    tokenizer = Sparse()
    tokenizer.register_special_tokens({"<s>": idx})
    assert tokenizer.special_tokens == {"<s>": idx}


@pytest.mark.parametrize("idx", [-1, 1, 3, 2**31, 2**31 + 1, True, 4.0, "4", None])
def test_ids_that_a_special_token_cannot_have(idx: object) -> None:
    with pytest.raises(TokenizerError, match="needs an id of its own"):
        Sparse().register_special_tokens({"<s>": idx})  # type: ignore[dict-item]


@pytest.mark.parametrize("half", HALVES)
def test_no_special_token_has_half_a_pair(half: str) -> None:
    with pytest.raises(TokenizerError, match="half a surrogate pair"):
        Sparse().register_special_tokens({f"<{half}>": 5})
    Sparse().register_special_tokens({"<\ud7ff\ue000>": 5})


def test_ids_that_are_no_token() -> None:
    tokenizer = CharTokenizer("abc")
    tokenizer.register_special_tokens({"<s>": 5})
    assert tokenizer.unknown_ids(8) == [3, 4, 6, 7]
    assert tokenizer.unknown_ids(4) == [3] and tokenizer.unknown_ids(3) == []


def test_nothing_is_printed_that_was_not_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = BPETokenizer()
    tokenizer.train("abab", 257)
    tokenizer("ab")
    tokenizer.encode("ab")
    assert capsys.readouterr().out == ""
    tokenizer("ab", visualise=True)
    assert capsys.readouterr().out == "ab\n"


def test_the_shape_that_texts_get() -> None:
    tokenizer = CharTokenizer("abc")
    tokenizer.register_special_tokens({"<pad>": 3})
    padded = {"padding_token": "<pad>"}
    assert tokenizer(["a", "bc"], "longest", max_length=5, **padded).to_python() == [[0, 3], [1, 2]]
    assert tokenizer(["a", "bc"], "max_length", max_length=3, **padded).to_python() == [[0, 3, 3], [1, 2, 3]]
    assert tokenizer("abc", truncation=True, max_length=1).to_python() == [[0]]
    assert tokenizer([], "longest", **padded).shape[0] == 0
    with pytest.raises(ValueError, match="'none', 'max_length' or 'longest', not 'short'"):
        tokenizer("a", padding_type="short", **padded)
    for none in (3, None, b"a"):
        with pytest.raises(TypeError, match="a text, or a list of them"):
            tokenizer(none)  # type: ignore[arg-type]
    for texts in (["a"], []):  # also where no element says so
        ids, mask = tokenizer(texts, return_attention_mask=True)
        assert ids.dtype == mask.dtype == DType.int32
    for length in (0, -2):
        with pytest.raises(ValueError, match="max_length is 1 or more"):
            tokenizer("a", max_length=length)
    with pytest.raises(TokenizerError, match=r"texts of 1 to 2 tokens need padding_type="):
        tokenizer(["a", "ab"])
    with pytest.raises(TokenizerError, match=r"texts of 1 to 3 tokens need truncation=True"):
        tokenizer(["a", "abc"], "max_length", max_length=2, **padded)


def test_a_file_that_is_no_utf_8_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "t"
    for data, line in ((b"\xff", 1), (b"\n\xff", 2), (b"a\n\n\xff\n", 3)):
        path.write_bytes(data)
        with pytest.raises(TokenizerError, match=f"line {line}: this is not UTF-8"):
            read_text_file(path)
    path.write_bytes(b"1234")
    assert read_text_file(path, 4) == "1234"
    with pytest.raises(TokenizerError, match="3"):
        read_text_file(path, 3)


# ---- characters


@pytest.mark.parametrize("characters", [["ab"], ["a", "bc"], ["", "a"], [1, 2]])
def test_characters_are_strings_of_length_1(characters: list[Any]) -> None:
    with pytest.raises(TokenizerError, match="characters are strings of length 1"):
        CharTokenizer(characters)


def test_ids_of_characters() -> None:
    tokenizer = CharTokenizer("abc")
    with pytest.raises(TokenizerError, match="such as 3, not 2"):
        tokenizer.register_special_tokens({"<s>": 2})
    for idx in (-1, 3):
        with pytest.raises(TokenizerError, match=f"id {idx} is not in the vocabulary of 3"):
            tokenizer.decode([idx])


def test_of_many_characters_a_hundred_are_told() -> None:
    characters = "".join(map(chr, range(0x4E00, 0x4E00 + 150)))
    with pytest.raises(TokenizerError) as refused:
        CharTokenizer(characters).encode("z")
    assert str(refused.value).endswith(f": {characters[:100]}")


@pytest.mark.parametrize("characters", ["ba", "aa", "", 5, None, ["a", "b"]])
def test_characters_in_a_file_are_in_order(characters: object, tmp_path: Path) -> None:
    save_tokenizer(CharTokenizer("ab"), tmp_path / "t")
    value = json.loads((tmp_path / "t").read_text())
    (tmp_path / "t").write_text(json.dumps({**value, "characters": characters}))
    with pytest.raises(TokenizerError, match="is not a tokenizer file"):
        load_tokenizer(tmp_path / "t")


# ---- files


def ranked(path: Path, *more: bytes, without: int | None = None, **options: Any) -> BPETokenizer:
    """A tokenizer of a rank file with the bytes and some tokens."""
    tokens = [*(bytes([byte]) for byte in range(256) if byte != without), *more]
    lines = [f"{base64.b64encode(token).decode()} {rank}" for rank, token in enumerate(tokens)]
    path.write_text("\n".join(lines))
    return BPETokenizer.from_tiktoken(path, RegexPatterns.GPT2, **options)


def test_a_file_is_of_the_first_version_that_can_hold_it(tmp_path: Path) -> None:
    """So that earlier versions read what they can."""
    swapped = vocabularies.byte_characters()
    names = {**{text: idx + 1 for text, idx in swapped.items()}, "ab": 0}
    (tmp_path / "vocab.json").write_text(json.dumps(names))
    (tmp_path / "merges.txt").write_text("a b\n")
    other = BPETokenizer.from_gpt2(tmp_path / "vocab.json", tmp_path / "merges.txt")
    for tokenizer, version in ((CharTokenizer("ab"), 1), (BPETokenizer(), 1), (other, 2)):
        save_tokenizer(tokenizer, tmp_path / "t")
        value = json.loads((tmp_path / "t").read_text())
        assert value["version"] == version
        assert load_tokenizer(tmp_path / "t").encode("ab") == tokenizer.encode("ab")
        for wrong in (0, 3, "1", None):
            (tmp_path / "t").write_text(json.dumps({**value, "version": wrong}))
            with pytest.raises(TokenizerError, match="reads versions up to 2"):
                load_tokenizer(tmp_path / "t")


def test_half_of_a_pair_of_files_is_none(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text(json.dumps(byte_characters()))
    assert find_tokenizer(tmp_path) is None
    (tmp_path / "tokenizer.json").write_text(json.dumps(described()))
    found = find_tokenizer(tmp_path)
    assert isinstance(found, JSONTokenizer)
    (tmp_path / "vocab.json").rename(tmp_path / "merges.txt")
    assert isinstance(find_tokenizer(tmp_path), JSONTokenizer)


def test_an_added_token_with_another_id_than_in_the_vocabulary(tmp_path: Path) -> None:
    """Of the two files the tokenizer is refused, and the description alone decides, or is refused as well."""
    names = {**byte_characters(), "<|endoftext|>": 256}
    (tmp_path / "vocab.json").write_text(json.dumps(names))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    byte_level = {"type": "ByteLevel", "add_prefix_space": False}
    value = {"pre_tokenizer": byte_level, "model": {"type": "BPE"}}
    for idx, is_read in ((256, True), (300, False)):
        added = [{"id": idx, "content": "<|endoftext|>", "special": True}]
        (tmp_path / "tokenizer.json").write_text(json.dumps({**value, "added_tokens": added}))
        if is_read:
            found = find_tokenizer(tmp_path)
            assert found is not None and found.special_tokens == {"<|endoftext|>": 256}
        else:
            with pytest.raises(TokenizerError, match=r"has the id 256, but another in tokenizer\.json"):
                find_tokenizer(tmp_path)


# ---- byte-pair encoding

words = st.lists(st.text("abc", min_size=1, max_size=9), max_size=9)


@settings(max_examples=60, deadline=None)
@given(words, st.integers(0, 12))
@example(
    ["bc", "bc", "bc", "abc", "ab", "ab"], 3
)  # a word that has lost its pair comes before one that has it
@example(["bab"], 2)
@example(["ba", "ab"], 2)
@example(["xabdabc", "abd", "zabc"], 4)  # of equally frequent new pairs the one that is met first
def test_counts_and_order_of_what_is_learnt(text: list[str], count: int) -> None:
    """Each pair with the number of its occurrences, as counting everything anew gives them."""
    frequencies: dict[str, int] = {}
    for word in text:
        frequencies[word] = frequencies.get(word, 0) + 1
    expected = []
    pieces = [list(word.encode()) for word in text]
    for pair, idx in train_textbook([word.encode() for word in text], 256 + count).items():
        counts: dict[Any, int] = {}
        for piece in pieces:
            get_stats(piece, counts)
        expected.append((pair, counts[pair]))
        pieces = [merge(piece, pair, idx) for piece in pieces]
    assert list(learn_merges(frequencies, 256 + count)) == expected


def test_places_in_a_word_are_those_of_bytes() -> None:
    """Whatever was merged before them."""
    index = WordIndex({"zz": 1, "xaabcd": 2, "aab": 1})
    a, b, c, d = b"abcd"
    assert index.first_place((a, a)) == (1, 1) and index.first_place((c, d)) == (1, 4)
    index.merge((a, a), 256)
    assert index.first_place((b, c)) == (1, 3) and index.first_place((256, b)) == (1, 1)
    index.merge((256, b), 257)
    assert index.first_place((257, c)) == (1, 1) and index.first_place((c, d)) == (1, 4)
    assert index.stands_at((c, d), (1, 4)) and not index.stands_at((c, d), (1, 3))
    with pytest.raises(ValueError, match="no pair"):
        index.first_place((b, c))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=40), st.permutations(range(16)), st.integers(0, 16))
def test_the_heap_merges_as_one_step_after_the_other(ids: list[int], order: list[int], count: int) -> None:
    """For any table of merges, in which a pair may become any id."""
    table = {divmod(place, 4): 4 + i // 2 for i, place in enumerate(order[:count])}
    table |= {(4 + i, i % 4): 12 + i for i in range(count // 2)} | {(4, 4): 30, (1, 5): 31}
    steps = list(ids)
    for _ in merge_steps(steps, table.get):
        pass
    assert _merge_with_heap(list(ids), table.get) == steps
    assert not any(pair in table for pair in pairwise(steps))


def test_a_long_piece_takes_little_more_than_linear_time() -> None:
    """Thirty thousand letters are merged in a tenth of a second; n² took a hundred times as long."""
    tokenizer = BPETokenizer(r"\w+")
    tokenizer.train("abab" * 8, 260)
    begun = time.thread_time()
    assert tokenizer.decode(tokenizer.encode("ab" * 15_000)) == "ab" * 15_000
    assert time.thread_time() - begun < 3.0


@pytest.mark.parametrize("size", [255, 300.0, None, "300", True])
def test_sizes_that_a_vocabulary_cannot_have(size: Any) -> None:
    with pytest.raises(TokenizerError, match="at least 256"):
        BPETokenizer().train("abab", size)


def test_learning_begins_anew(capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = BPETokenizer()
    tokenizer.train("abab", 257)
    tokenizer.register_special_tokens({"<s>": 300})
    tokenizer.train("bcbcbc bcx", 256)
    assert not tokenizer.merges and not tokenizer.special_tokens and tokenizer.vocab_size == 256
    tokenizer.train("bcbcbc bcx bcx", 257, verbose=True)
    assert tokenizer.merges == {(98, 99): 256}
    assert capsys.readouterr().out == "merge 1/1: (98, 99) -> 256 (bc), 5 occurrences\n"


def test_tokens_together_have_bytes_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the merges; the zero byte is one as any other."""
    merges = [(0, 0), (256, 256)]  # two bytes, and four
    monkeypatch.setattr(bpe, "MAXIMUM_TOKENS", 6)
    tokenizer = BPETokenizer()
    tokenizer._set_merges(merges)
    assert tokenizer.encode("\0\0\0\0\0") == [257, 0]
    monkeypatch.setattr(bpe, "MAXIMUM_TOKENS", 5)
    with pytest.raises(TokenizerError, match="more than 5 bytes in all"):
        tokenizer._set_merges(merges)


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces and their ids, as many as may be, and then anew."""
    monkeypatch.setattr(bpe, "CACHE_SIZE", 3)
    monkeypatch.setattr(tokenizer_json, "CACHE_SIZE", 3)
    monkeypatch.setattr(tokenizer_json, "LONGEST_CACHED", 3)
    ours, read = BPETokenizer(RegexPatterns.GPT2), JSONTokenizer(described())
    for tokenizer in (ours, read):
        tokenizer.encode("a b c")
        assert len(tokenizer._cache) == 3
        tokenizer.encode("a d")
        assert len(tokenizer._cache) == 1
    read.encode(" ee ffff")
    assert [len(piece) for piece in read._cache] == [2, 3]


def test_what_a_model_file_cannot_hold(tmp_path: Path) -> None:
    for pattern, specials in (("a\nb|.", {}), (".", {"<s>": 300, "a\nb": 301})):
        tokenizer = BPETokenizer(pattern)
        tokenizer.register_special_tokens(specials)
        with pytest.raises(TokenizerError, match="line break needs save_tokenizer"):
            tokenizer.save(str(tmp_path / "t"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "lines", ["-1", "1", "2\nx 300", "2\nx 300\nx 301\n1 2", "1\nx 300\n1 2 3", "x\n", "1\nx 300\n1"]
)
def test_lines_that_no_model_file_has(lines: str, tmp_path: Path) -> None:
    (tmp_path / "t.model").write_text(f"tinygpt v1\n.\n{lines}\n")
    with pytest.raises(TokenizerError, match="is not a tokenizer's model file"):
        BPETokenizer().load(tmp_path / "t.model")


def test_a_pattern_as_a_string_may_be_ten_times_as_long() -> None:
    """As long as one of which each character is written as an escape, quotes included."""
    longest = "a" * (10 * patterns.MAXIMUM_PATTERN - 2)
    assert _string_literal(f"'{longest}'") == longest
    with pytest.raises(TokenizerError, match="no pattern as a Python string"):
        _string_literal(f"'{longest}a'")


# ---- patterns


def test_how_long_a_pattern_may_be() -> None:
    assert compile_pattern("a" * 10_000).match("a" * 10_000)
    with pytest.raises(TokenizerError, match="at most 10,000 characters"):
        compile_pattern("a" * 10_001)
    require_bounded("a" * 200_000)
    with pytest.raises(TokenizerError, match="at most 200,000 are compiled"):
        require_bounded("a" * 200_001)


def test_characters_of_classes_are_counted_from_the_first_to_the_last_of_each() -> None:
    """Of those that have a table, of which there are 65,536 in a full class."""
    full = "[\\x00-\U0010ffff]" * 30
    rest = 2_000_000 - 30 * 65_536
    behind = "[\U00010000-\U0010ffff]"
    compile_pattern(f"{full}[\\x01-{chr(rest)}]{behind}{behind}")
    with pytest.raises(TokenizerError, match="classes"):
        compile_pattern(f"{full}[\\x01-{chr(rest + 1)}]")


def alternatives(count: int) -> str:
    """A choice between so many words of different letters, which takes as many ways."""
    return "(?:" + "|".join(f"{chr(0x4E00 + i)}{chr(0x5E00 + i)}" for i in range(count)) + ")"


TEN = "a{0,9}"  # a repetition of ten ways
FEW_WAYS = [
    "a*b*c*",  # three repetitions without end
    "a*b*c*a{0,16}",  # one that ends is a choice
    "a{20}" * 9,  # and one of a certain length is none
    TEN * 4,  # ten thousand choices
    "b*" + TEN * 4,
    "(?:ab?){13}",
    "(?:ab?)?" * 6,
    "(?:ab|cd)" + "a{0,4}" * 4 + "a{0,7}",
    "(a)?(?(1)b)",
    "(a)?(?(1)b*b*b*|c)",
    "(a)?(?(1)c|b*b*b*)",
    "(?:a+)++b",
]
MANY_WAYS = [
    "a*b*c*d*",
    "a*b*c*a{0,17}",
    alternatives(73) + alternatives(137),  # 10,001
    "(?:ab?){14}",
    "(?:ab?)?" * 7,
    "(a)?(?(1)b)" + "a{0,4}" * 5,
    "(a)?(?(1)b*b*b*b*|c)",
    "(a)?(?(1)c|b*b*b*b*)",
    "(?:ab?){0,16}",
    "(?>a*b*c*d*)",
    "(?:a*b*c*d*)++",
]


@pytest.mark.parametrize("pattern", FEW_WAYS)
def test_as_many_ways_as_may_be(pattern: str) -> None:
    require_bounded(pattern)


@pytest.mark.parametrize("pattern", MANY_WAYS)
def test_one_way_too_many(pattern: str) -> None:
    with pytest.raises(TokenizerError, match="in too many ways"):
        require_bounded(pattern)


@pytest.mark.parametrize("pattern", ["(?:ab?){0,17}", "(?:ab?){2,}", "(?:ab|cd)+"])
def test_what_repeats_without_end(pattern: str) -> None:
    with pytest.raises(TokenizerError, match="repeats without end"):
        require_bounded(pattern)


def test_a_class_has_as_few_ranges_as_can_be() -> None:
    """They count for how long a pattern is."""
    categories = list(map(unicodedata.category, map(chr, range(0x110000))))
    for name in ("L", "Lu", "Cn"):
        is_in = [category.startswith(name) for category in categories]
        beginnings = sum(now and not before for before, now in zip([False, *is_in], is_in, strict=False))
        assert unicode_class(name).count("-") == beginnings


def test_escapes_beside_classes() -> None:
    r"""Also \p{..} itself, and \S outside of brackets, which is what White_Space is not."""
    assert compile_pattern("\\\n|\\p{L}").findall("a\nb1") == ["a", "\n", "b"]
    assert compile_pattern(r"\\p|\p{N}").findall(r"\p1") == ["\\p", "1"]
    assert compile_pattern(r"\S|\p{Zs}").findall("a \x1c\n") == ["a", " ", "\x1c"]


# ---- published vocabularies


def test_the_character_of_each_byte() -> None:
    """As GPT-2's encoder.py has it: what is printed stands for itself, the others for U+0100, U+0101 …"""
    characters = {byte: character for character, byte in byte_characters().items()}
    assert sorted(characters) == list(range(256)) and len(set(characters.values())) == 256
    others = [byte for byte in range(256) if characters[byte] != chr(byte)]
    assert others == [*range(33), *range(127, 161), 173]
    assert [characters[byte] for byte in others] == [chr(256 + i) for i in range(68)]
    assert (characters[32], characters[10], characters[173]) == ("Ġ", "Ċ", "Ń")


def paired(folder: Path, names: Any, merges: str) -> BPETokenizer:
    (folder / "vocab.json").write_text(json.dumps(names))
    (folder / "merges.txt").write_text(merges)
    return BPETokenizer.from_gpt2(folder / "vocab.json", folder / "merges.txt")


NAMES = {**byte_characters(), "ab": 256, "bc": 257, "abc": 258}


@pytest.mark.parametrize(
    "merges",
    [
        "a b\nb c\nab c\n",  # no header
        "#version: 0.2\n\na b\n\nb c\nab c",  # blank lines
        "a b\nb c\nab c\na bc\n",  # two merges make one token
    ],
)
def test_lines_that_merges_may_have(merges: str, tmp_path: Path) -> None:
    tokenizer = paired(tmp_path, NAMES, merges)
    assert tokenizer.encode("abc", "none") == [258] and tokenizer.encode("bc") == [257]
    assert len(tokenizer.merges) == len(
        [line for line in merges.split("\n") if " " in line and "#" not in line]
    )


def test_a_header_stands_in_the_first_line(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"line 2: the vocabulary has no token '#version:'"):
        paired(tmp_path, NAMES, "a b\n#version: 0.2\nb c\nab c\n")
    with pytest.raises(TokenizerError, match="a vocabulary is a JSON object"):
        paired(tmp_path, {}, "")
    with pytest.raises(TokenizerError, match=r"line 1: a merge is two tokens"):
        paired(tmp_path, NAMES, "a\n")


def test_ranks_at_their_edges(tmp_path: Path) -> None:
    assert ranked(tmp_path / "r", b"ab").encode("ab") == [256]
    for byte in (0, 255):
        with pytest.raises(TokenizerError, match=f"no token for the byte {byte}$"):
            ranked(tmp_path / "r", b"ab", without=byte)
    sound = "".join(f"{base64.b64encode(bytes([i])).decode()} {i}\n" for i in range(256))
    for line, message in (
        ("YWI= 257", "line 257: rank 257 is too high for 257 tokens"),
        ("YWI= 999999999", "line 257: rank 999999999 is too high"),
        ("YWI= 1234567890", "line 257: this is not a token in base64 and its rank"),
        ("YWI= 0256\n\nYWI= 257", "line 259: token b'ab' with rank 257"),
    ):
        (tmp_path / "r").write_text(f"{sound}{line}\n")
        with pytest.raises(TokenizerError, match=message):
            BPETokenizer.from_tiktoken(tmp_path / "r", RegexPatterns.GPT2)


BYTES = [chr(byte) for byte in range(256)]


@pytest.mark.parametrize(
    ("tokens", "merges"),
    [
        (["ab", *BYTES], [[98, 99]]),  # the first id is one that was made
        ([*BYTES, "\0a", None, "ÿÿ"], [[0, 97], [255, 255]]),
        ([*BYTES, "ab", "bc", "abc"], [[97, 98], [98, 99], [256, 99], [97, 257]]),  # one token made twice
        ([*BYTES, "ab"], None),
    ],
)
def test_fields_that_are_sound(tokens: list[str | None], merges: list[list[int]] | None) -> None:
    fields = {"pattern": ".", "tokens": tokens, "merges": merges}
    found, pairs = parse_fields(fields)
    assert found == [None if token is None else token.encode("latin-1") for token in tokens]
    assert pairs == (None if merges is None else [tuple(pair) for pair in merges])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pattern": None}, "'pattern' is a string"),
        ({"merges": [[97, 98], [1, 2, 3]]}, "a list of pairs of ids"),
        ({"merges": [[97, 98], [1, 2.0]]}, "a list of pairs of ids"),
        ({"merges": [[97, 98], "ab"]}, "a list of pairs of ids"),
        ({"merges": {"a": 1}}, "a list of pairs of ids"),
        ({"tokens": None, "merges": None}, "a list of pairs of ids"),
        ({"tokens": [*BYTES, 5]}, "a list of strings"),
        ({"tokens": [*BYTES, "a中"]}, "a list of strings"),
        ({"tokens": [*BYTES, ""]}, "all 256 bytes, and none twice"),
        ({"tokens": [*BYTES, "a"]}, "all 256 bytes, and none twice"),
        ({"tokens": [*BYTES[1:], "ab"], "merges": None}, "all 256 bytes, and none twice"),
        ({"tokens": [*BYTES[:-1], "ab"], "merges": None}, "all 256 bytes, and none twice"),
        ({"merges": [[97, 257]]}, "not of two tokens"),  # one behind the last
        ({"merges": [[97, 256]]}, "not of two tokens"),  # a hole
        ({"merges": [[-1, 97]]}, "not of two tokens"),
        ({"merges": [[97, 97]]}, "makes none"),
    ],
)
def test_fields_that_are_not(changes: dict[str, Any], message: str) -> None:
    fields = {"pattern": ".", "tokens": [*BYTES, None], "merges": []}
    parse_fields(fields)
    with pytest.raises(TokenizerError, match=message):
        parse_fields({**fields, **changes})


# ---- folders of GPT-2's form

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False}
ISOLATED = {"type": "Split", "pattern": {"Regex": r"\p{N}"}, "behavior": "Isolated"}


def folder_of(place: Path, pre_tokenizer: Any = BYTE_LEVEL, **fields: Any) -> Any:
    (place / "vocab.json").write_text(json.dumps(byte_characters()))
    (place / "merges.txt").write_text("#version: 0.2\n")
    value = {"pre_tokenizer": pre_tokenizer, "model": {"type": "BPE"}, **fields}
    (place / "tokenizer.json").write_text(json.dumps(value))
    return pipelines.read_pipeline(str(place))


def sequence(*steps: Any) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(steps)}


@pytest.mark.parametrize(
    "fields",
    [
        {},  # use_regex is true where nothing is said
        {"pre_tokenizer": {**BYTE_LEVEL, "use_regex": True}},
        {"model": {"type": "BPE", "dropout": 0.0, "byte_fallback": False, "ignore_merges": False}},
        {"model": {"dropout": None, "continuing_subword_prefix": "", "end_of_word_suffix": ""}},
        {"added_tokens": None, "normalizer": None},
        {"pre_tokenizer": sequence(BYTE_LEVEL)},
    ],
)
def test_what_gpt2s_tokenizer_may_say_of_itself(fields: dict[str, Any], tmp_path: Path) -> None:
    assert folder_of(tmp_path, **fields) == (RegexPatterns.GPT2, {})
    (tmp_path / "tokenizer.json").unlink()
    for config in (
        {},
        {"add_prefix_space": False},
        {"tokenizer_class": "GPT2Tokenizer"},
        {"tokenizer_class": "GPT2TokenizerFast"},
    ):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        assert pipelines.read_pipeline(str(tmp_path)) == (RegexPatterns.GPT2, {})


def test_a_split_may_leave_out_that_it_is_not_inverted(tmp_path: Path) -> None:
    rest = {**BYTE_LEVEL, "use_regex": False}
    found = folder_of(
        tmp_path, sequence(ISOLATED, rest), added_tokens=[{"id": 9, "content": "x", "special": True}]
    )
    assert found.pattern.startswith(r"\p{N}|") and found.added_tokens == {"x": 9}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": {"dropout": 1.0}}, "dropout of the model is 1.0"),
        ({"model": {"byte_fallback": True}}, "byte_fallback of the model is True"),
        ({"model": {"byte_fallback": 0}}, "byte_fallback of the model is 0"),
        ({"model": {"continuing_subword_prefix": "##"}}, "continuing_subword_prefix"),
        ({"pre_tokenizer": sequence()}, "does not end with ByteLevel"),
        ({"pre_tokenizer": sequence(ISOLATED, BYTE_LEVEL)}, "splits twice"),
        ({"pre_tokenizer": sequence(ISOLATED, {**BYTE_LEVEL, "use_regex": True})}, "splits twice"),
        ({"added_tokens": [{"id": 9, "content": "x"}]}, "is not special"),
        ({"added_tokens": [{"id": 9, "content": "x", "special": True}] * 2}, "a content of its own"),
        ({"added_tokens": [{"id": True, "content": "x", "special": True}]}, "a content of its own"),
        ({"added_tokens": [{"id": 9, "content": 5, "special": True}]}, "a content of its own"),
        *(
            (
                {
                    "pre_tokenizer": sequence(
                        {**ISOLATED, "pattern": pattern}, {**BYTE_LEVEL, "use_regex": False}
                    )
                },
                m,
            )
            for pattern, m in (
                ("x", "the pattern of a Split"),
                ({"Regex": "a", "String": "b"}, "the pattern of a Split"),
                ({"Regex": 5}, "the pattern of a Split"),
                ({"Other": "a"}, "the pattern of a Split"),
            )
        ),
    ],
)
def test_what_it_may_not(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=message):
        folder_of(tmp_path, **fields)


# ---- tokenizer.json


def described(**changes: Any) -> dict[str, Any]:
    """A tokenizer.json of the bytes, split as GPT-2 does."""
    base_of_all = {
        "pre_tokenizer": BYTE_LEVEL,
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": byte_characters(), "merges": []},
    }
    return {**base_of_all, **changes}


def plain(text: str = "abc", *merges: str, **changes: Any) -> dict[str, Any]:
    """A tokenizer.json of some characters and merges, which says nothing else."""
    vocab = {character: idx for idx, character in enumerate(text)}
    for pair in merges:
        vocab.setdefault(pair.replace(" ", ""), len(vocab))
    model = changes.pop("model", {})
    return {"model": {"vocab": vocab, "merges": [*merges], **model}, **changes}


def ids_of(text: str, description: dict[str, Any]) -> list[int]:
    return JSONTokenizer(description).encode(text, "all")


def test_white_space_is_what_unicode_says() -> None:
    """Python's is that and four separators of information."""
    spaces = {chr(code) for code in range(0x110000) if chr(code).isspace()} - set("\x1c\x1d\x1e\x1f")
    assert set(tokenizer_json.SPACES) == spaces and len(tokenizer_json.SPACES) == len(spaces)


@pytest.mark.parametrize(
    ("text", "description", "ids"),
    [
        ("abab", plain("ab", "a b"), [2, 2]),
        ("ab", plain("ab", "a b", "ab a"), [2]),
        ("aba", plain("ab", "a b", "ab a"), [3]),
        # A token that no merge makes, unless merges are ignored for whole pieces
        ("ab", plain(model={"vocab": {"a": 0, "b": 1, "ab": 2}}), [0, 1]),
        ("ab", plain(model={"vocab": {"a": 0, "b": 1, "ab": 2}, "ignore_merges": True}), [2]),
        ("ba", plain(model={"vocab": {"a": 0, "b": 1, "ab": 2}, "ignore_merges": True}), [1, 0]),
        # Characters that are no tokens: nothing, or the unknown one, once for several or each
        ("?a??", plain(), [0]),
        ("??a?", plain(model={"unk_token": "c", "fuse_unk": True}), [2, 0, 2]),
        ("??a?", plain(model={"unk_token": "c", "fuse_unk": False}), [2, 2, 0, 2]),
        ("??a?", plain(model={"unk_token": "c"}), [2, 2, 0, 2]),
        # The splitters' own defaults
        ("a", described(pre_tokenizer={"type": "ByteLevel"}), [32, 97]),
        ("a20", plain("a20", "2 0", pre_tokenizer={"type": "Digits"}), [0, 3]),
        ("a20", plain("a20", "a 2", pre_tokenizer={"type": "Digits"}), [0, 1, 2]),
        ("a20", plain("a20", "2 0", pre_tokenizer={"type": "Digits", "individual_digits": True}), [0, 1, 2]),
        ("a a", plain("_a", "a _", pre_tokenizer={"type": "Metaspace", "replacement": "_"}), [0, 1, 0, 1]),
        (
            "a a",
            plain("_a", "a _", pre_tokenizer={"type": "Metaspace", "replacement": "_", "split": False}),
            [0, 2, 1],
        ),
        (
            "a.b",  # a String is no regular expression
            plain(
                "ab.",
                "a .",
                pre_tokenizer={"type": "Split", "pattern": {"String": "."}, "behavior": "Isolated"},
            ),
            [0, 2, 1],
        ),
        (
            "aab",
            plain(
                "ab",
                "a a",
                "a b",
                pre_tokenizer={
                    "type": "Split",
                    "pattern": {"Regex": "a"},
                    "behavior": "Isolated",
                    "invert": None,
                },
            ),
            [0, 0, 1],
        ),
        # Only the first piece of a text is its first
        (
            "a b",
            plain(
                "_ab ",
                pre_tokenizer=sequence(
                    {"type": "Split", "pattern": {"String": " "}, "behavior": "Removed"},
                    {"type": "Metaspace", "replacement": "_", "prepend_scheme": "first"},
                ),
            ),
            [0, 1, 2],
        ),
        ("", plain(normalizer={"type": "Prepend", "prepend": "a"}), []),
        ("b", plain(normalizer={"type": "Prepend", "prepend": "a"}), [0, 1]),
        ("b", plain("ab" + "c" * 0, normalizer={"type": "Prepend", "prepend": "a" * 100}), [0] * 100 + [1]),
        ("b", plain(normalizer={"type": "Replace", "pattern": {"String": "b"}, "content": "c"}), [2]),
        ("A", plain(normalizer={"type": "Sequence", "normalizers": [{"type": "Lowercase"}] * 50}), [0]),
        (
            "a",
            plain(model={"dropout": 0.0, "continuing_subword_prefix": "", "end_of_word_suffix": None}),
            [0],
        ),
        ("ab", plain(added_tokens=None), [0, 1]),
    ],
    ids=lambda value: str(value)[:60],
)
def test_ids_by_hand(text: str, description: dict[str, Any], ids: list[int]) -> None:
    assert ids_of(text, description) == ids


def added(idx: int, content: str, **flags: Any) -> dict[str, Any]:
    return {"id": idx, "content": content, **flags}


def test_tokens_that_were_added() -> None:
    """Those that are special as they are, the others as the normalizer makes them, unless it is said."""
    lower = {"type": "Lowercase"}
    tokens = [
        added(10, "AB"),
        added(11, "<A>", special=True),
        added(12, "Ca", normalized=False),
        added(13, "Bb", special=True, normalized=True),
    ]
    tokenizer = JSONTokenizer(plain("abc<>", normalizer=lower, added_tokens=tokens))
    assert tokenizer.encode("abAB", "all") == [10, 10]
    assert tokenizer.encode("<A><a>", "all") == [11, 3, 0, 4]
    assert tokenizer.encode("Caca", "all") == [12, 2, 0]
    assert tokenizer.encode("bbBB", "all") == [13, 13] and tokenizer.encode("bb", "none") == [1, 1]
    assert tokenizer.special_tokens == {"<A>": 11, "Bb": 13} and tokenizer.vocab_size == 14
    assert set(tokenizer._ordinary_ids()) == {0, 1, 2, 3, 4, 10, 12}
    assert tokenizer.unknown_ids(16) == [*range(5, 10), 14, 15]
    assert tokenizer.decode([10, 11, 12, 13, 0]) == "ab<A>Cabba"
    with pytest.raises(TokenizerError, match="id 5 is not in the vocabulary of 14"):
        tokenizer.decode([5])


def test_the_longest_of_added_tokens_and_what_they_eat() -> None:
    """White space on their sides, also where another token begins in it."""
    tokens = [
        added(10, "<a", special=True),
        added(11, "<a>", special=True),
        added(12, "<b>", special=True, rstrip=True),
        added(13, "<c>", special=True, lstrip=True),
        added(14, " b", special=True),
    ]
    tokenizer = JSONTokenizer(plain("abc <>", added_tokens=tokens))
    for text, ids in (
        ("<a><a", [11, 10]),
        ("a<b>\u2003 \nc", [0, 12, 2]),
        ("a <b>", [0, 3, 12]),
        ("a \t<c> ", [0, 13, 3]),
        ("<b> <c>a", [12, 13, 0]),
        ("<b> b<b>a", [12, 14, 12, 0]),
        ("<b><b>", [12, 12]),
    ):
        assert tokenizer.encode(text, "all") == ids


def test_decoding_by_hand() -> None:
    no_decoder = JSONTokenizer(plain("é<", model={"vocab": {"é": 0, "<0x41>": 1}}))
    assert no_decoder.decode([0, 1]) == "é<0x41>"
    fallback = JSONTokenizer(plain(model={"vocab": {"é": 0, "<0x41>": 1}}, decoder={"type": "ByteFallback"}))
    assert fallback.decode([0, 1]) == "éA"
    mixed = described(model={"vocab": {**byte_characters(), "中a": 256}, "merges": []})
    assert JSONTokenizer(mixed).decode([256, 0xC3, 0xA9]) == "中aé"


REFUSED: list[tuple[dict[str, Any], str]] = [
    (described(added_tokens=7), "added_tokens is no list"),
    (described(added_tokens=[7]), "an added token is 7"),
    (described(added_tokens=[added(256, "\ud800")]), "has the content"),
    (described(added_tokens=[added(256, 5)]), "has the content 5"),  # type: ignore[arg-type]
    (described(added_tokens=[added(256, "x<"), added(257, "x<")]), "stands there twice"),
    (described(added_tokens=[added(256, "x<"), added(256, "y<")]), "an id of its own, not 256"),
    *(
        (described(added_tokens=[added(idx, "x<")]), "an id of its own")
        for idx in (-1, 2**31, 2**31 + 1, True, None)
    ),
    *(
        (
            described(pre_tokenizer={"type": "Split", "pattern": pattern, "behavior": "Isolated"}),
            "pattern of a Split",
        )
        for pattern in ({}, {"Regex": "a", "String": "b"}, {"Other": "a"}, {"Regex": 5}, "a", None)
    ),
    (described(pre_tokenizer=sequence(BYTE_LEVEL, BYTE_LEVEL)), "more than once"),
    *(
        (described(normalizer={"type": "Replace", "pattern": pattern, "content": "b"}), "a Replace looks for")
        for pattern in (
            {"String": ""},
            {"String": 5},
            {"Regex": "a"},
            {"String": "a", "Regex": "a"},
            "a",
            None,
        )
    ),
    (
        described(normalizer={"type": "Replace", "pattern": {"String": "a"}, "content": "bb"}),
        "makes a text longer",
    ),
    *(
        (described(normalizer={"type": "Prepend", "prepend": text}), "prepend is")
        for text in ("a" * 101, "\ud800", 5, None)
    ),
    (described(normalizer={"type": "Sequence", "normalizers": 5}), "no list of normalizers"),
    (
        described(
            normalizer={"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": []}] * 60}
        ),
        "more than 50 steps",
    ),
    (described(pre_tokenizer={"type": "Metaspace", "replacement": "__"}), "the replacement '__'"),
    (
        described(pre_tokenizer={"type": "Metaspace", "replacement": "_", "prepend_scheme": "x"}),
        "prepend_scheme 'x'",
    ),
    (
        described(decoder={"type": "Replace", "pattern": {"String": "__"}, "content": " "}),
        "the decoder puts ' ' for '__'",
    ),
    (plain(model={"dropout": 1.0}), "dropout of the model is 1.0"),
    (plain(model={"unk_token": "z"}), "unk_token is 'z'"),
    (plain(model={"unk_token": 5}), "unk_token is 5"),
    (plain(model={"merges": ["a b c"]}), "not two tokens"),
    (plain(model={"merges": [["a", 5]]}), "not two tokens"),
    (plain(model={"merges": ["a b"]}), "there is no token 'ab'"),
    *(
        (plain(model={"vocab": {"a": 0, text: idx}}), f"has {idx} for an id")
        for text, idx in (("b", -1), ("b", 2**31), ("b", 2**31 + 1), ("b", True), ("\ud800", 1))
    ),
    (
        plain(model={"vocab": {f"<0x{byte:02X}>": byte for byte in range(255)}, "byte_fallback": True}),
        "there is no <0xFF>",
    ),
]


@pytest.mark.parametrize(("description", "message"), REFUSED)
def test_descriptions_that_are_refused(description: dict[str, Any], message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        JSONTokenizer(description)


def test_the_largest_ids() -> None:
    top = 2**31 - 1
    assert JSONTokenizer(plain(model={"vocab": {"a": 0, "b": top}})).vocab_size == 2**31
    assert JSONTokenizer(plain(added_tokens=[added(top, "<s>")])).encode("<s>", "all") == [top]


# ---- and written

FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
SAID = {"version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None}
MODEL = {
    "type": "BPE",
    "dropout": None,
    "unk_token": None,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "fuse_unk": False,
    "byte_fallback": False,
}


def test_what_is_written_is_as_the_library_writes_it(tmp_path: Path) -> None:
    """Field by field, since other programs read it."""
    characters = CharTokenizer("ab")
    characters.register_special_tokens({"<s>": 3, "<e>": 2})
    assert describe(characters) == {
        **SAID,
        "added_tokens": [{"id": 2, "content": "<e>", **FLAGS}, {"id": 3, "content": "<s>", **FLAGS}],
        "pre_tokenizer": None,
        "decoder": {"type": "Fuse"},
        "model": {**MODEL, "ignore_merges": False, "vocab": {"a": 0, "b": 1}, "merges": []},
    }
    trained = BPETokenizer(RegexPatterns.GPT2)
    trained.train("abab", 257)
    names = byte_characters()
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    whole = {**byte_level, "use_regex": True}
    merged = {"vocab": {**names, "ab": 256}, "merges": [["a", "b"]]}
    for tokenizer, ignores in ((trained, False), (ranked(tmp_path / "r", b"ab"), True)):
        assert describe(tokenizer) == {
            **SAID,
            "added_tokens": [],
            "pre_tokenizer": whole,
            "decoder": whole,
            "model": {**MODEL, "ignore_merges": ignores, **merged},
        }
    split = {"behavior": "Isolated", "invert": False, "type": "Split"}
    wanted = {"type": "Sequence", "pretokenizers": [split, {**byte_level, "use_regex": False}]}
    for pattern, written in (
        (RegexPatterns.GPT4, RegexPatterns.GPT4),
        (RegexPatterns.CL100K, RegexPatterns.CL100K.replace("$", r"\z").replace("{1,3}+", "{1,3}")),
    ):
        split["pattern"] = {"Regex": written}  # type: ignore[assignment]
        description = describe(BPETokenizer(pattern))
        assert description is not None and description["pre_tokenizer"] == wanted
        again = JSONTokenizer(description)
        for text in ("it's 12345 \n  of  ", "a  ", " \n", "1234\r\n\n x"):
            assert again.encode(text) == BPETokenizer(pattern).encode(text)


PARTS = [
    *(r"\p{L}+", r" ?\p{L}++", r"[^\r\n\p{L}\p{N}]?+\p{L}+", r"[^x]?+\p{L}+", r"\p{L}", r"(?:\p{L}+)1"),
    *(r"\p{N}", r" ?\p{N}+", r"\p{N}{1,3}+", r"\p{N}{2,3}", r"(?=\p{N})a", r" ?[^\s\p{L}\p{N}]++[\r\n]*"),
    *(r"[^\s\p{L}\p{N}]+", r"[^\s\p{L}\p{N}]+[!]", r"\s+(?!\S)", r"\s+", r"\s", r"\s++$", r"[|]", r"\|"),
]
TOTAL = r"\p{L}+|\p{N}|[^\s\p{L}\p{N}]+|\s+"


def test_patterns_that_mean_something_else_elsewhere_are_not_written() -> None:
    """Nor those that leave something between their matches."""
    assert describe(BPETokenizer(TOTAL)) is not None
    for part in (r"\w", r"\W", r"\d", r"\D", r"\bx", r"\Bx", "(?P<a>x)", "^x", "x$", "a{1,3}+", "a{2}+"):
        assert describe(BPETokenizer(f"{part}|{TOTAL}")) is None, part
    assert describe(BPETokenizer(rf"(?x){TOTAL}")) is None
    for part in (r"\p{L}+|", r"|\p{N}", r"|[^\s\p{L}\p{N}]+", r"|\s+"):
        assert describe(BPETokenizer(TOTAL.replace(part, ""))) is None, part


@pytest.mark.parametrize("pattern", [RegexPatterns.GPT2, RegexPatterns.GPT4, RegexPatterns.CL100K, TOTAL])
def test_what_is_seen_to_leave_nothing_out(pattern: str) -> None:
    assert is_total(pattern) and is_total(f"(?i:'s|'t)|[|]x|\\||{pattern}")
    assert not is_total(f"(?:{pattern})?x") and not is_total(f"[{pattern}]")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(PARTS), min_size=1, max_size=6), st.text("a1!\t\n |", max_size=12))
def test_what_is_seen_to_leave_nothing_out_leaves_nothing(parts: list[str], text: str) -> None:
    pattern = "|".join(parts)
    if is_total(pattern):
        assert "".join(BPETokenizer(pattern).chunks(text)) == text


@pytest.mark.parametrize("missing", [r"\p{L}+|", r"|\p{N}", r"|[^\s\p{L}\p{N}]+", r"|\s+"])
def test_what_a_split_leaves_between_its_matches_is_read_all_the_same(missing: str, tmp_path: Path) -> None:
    """Whatever stands inside of brackets: a Split loses nothing of a text."""
    step = {**ISOLATED, "pattern": {"Regex": TOTAL.replace(missing, "")}}
    folder_of(tmp_path, sequence(step, {**BYTE_LEVEL, "use_regex": False}))
    found = find_tokenizer(tmp_path)
    assert isinstance(found, BPETokenizer)
    assert found.decode(found.encode("a 12!\t b")) == "a 12!\t b"


def test_merges_that_ranks_stand_for() -> None:
    """All pairs that make a token, in the order of what they make, then of their first part."""
    vocab = {"a": 0, "b": 1, "ab": 2, "ba": 3, "aba": 4, "xy": 5, "abx": 6}
    assert _merges_of_ranks(vocab) == [["a", "b"], ["b", "a"], ["a", "ba"], ["ab", "a"]]
