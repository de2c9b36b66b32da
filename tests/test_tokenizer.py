"""Tokenizers: merges are the textbook's, nothing is lost, and hostile files are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygpt_core.tokenizer import (
    BPETokenizer,
    CharTokenizer,
    RegexPatterns,
    Tokenizer,
    TokenizerError,
    encode_textbook,
    find_tokenizer,
    get_stats,
    load_tokenizer,
    merge,
    open_tokenizer,
    render_token,
    replace_control_characters,
    save_tokenizer,
    train_textbook,
)
from tinygpt_core.tokenizer.bpe import _string_literal, merge_steps
from tinygpt_core.tokenizer.patterns import compile_pattern

few = settings(max_examples=40, deadline=None)
PATTERNS = [RegexPatterns.GPT4, RegexPatterns.GPT2, r"[\s\S]+"]
TEXT = "the cat sat on the mat, the other cat sat on the hat: 1234 cats!\n\n  'tis théâtre 🎭 " * 3
small_texts = st.one_of(
    st.text("ab ", max_size=60),
    st.text("aab\n", max_size=60),
    st.text("hé1 🎭'", max_size=30),
    st.text(max_size=40),
)


def trained(text: str = TEXT, size: int = 300, pattern: str = RegexPatterns.GPT4) -> BPETokenizer:
    tokenizer = BPETokenizer(pattern)
    tokenizer.train(text, size)
    return tokenizer


@few
@given(small_texts, st.integers(0, 25), st.sampled_from(PATTERNS))
def test_merges_are_those_of_the_textbook(text: str, count: int, pattern: str) -> None:
    chunks = [found.group().encode() for found in compile_pattern(pattern).finditer(text)]
    expected = train_textbook(chunks, 256 + count)
    fast = trained(text, 256 + count, pattern).merges
    assert list(fast.items()) == list(expected.items())  # in this order, with these ids


@few
@given(small_texts, small_texts, st.integers(0, 25), st.sampled_from(PATTERNS))
def test_ids_are_those_of_the_textbook(learned_from: str, text: str, count: int, pattern: str) -> None:
    tokenizer = trained(learned_from, 256 + count, pattern)
    for part in (text, learned_from, 100 * "ab a"):  # the last is long enough for the heap
        chunks = [found.group().encode() for found in compile_pattern(pattern).finditer(part)]
        expected = [idx for chunk in chunks for idx in encode_textbook(chunk, tokenizer.merges)]
        assert tokenizer.encode(part) == expected


@few
@given(st.text("ab", max_size=40), st.integers(0, 25))
def test_encoding_gives_the_pieces_that_learning_ended_with(text: str, count: int) -> None:
    """Why the merges are applied in the order in which they were learned."""
    merges = train_textbook([text.encode()], 256 + count)
    ids = list(text.encode())
    for pair, idx in merges.items():
        ids = merge(ids, pair, idx)
    assert encode_textbook(text.encode(), merges) == ids


@few
@given(st.text("ab", max_size=40), st.integers(0, 25))
def test_steps_of_merging_lead_to_the_ids(text: str, count: int) -> None:
    tokenizer = trained("aaab aab ab bab " * 3, 256 + count)
    ids = tokenizer.byte_ids(text)
    shown = list(ids)
    for place, idx in merge_steps(ids, tokenizer.merged_id):
        assert tokenizer.merges[shown[place], shown[place + 1]] == idx
        shown[place : place + 2] = [idx]
        assert shown == ids
    assert shown == tokenizer.encode(text)


def test_the_textbook() -> None:
    merges = train_textbook([b"low"] * 5 + [b"lower"] * 2 + [b"newest"] * 6 + [b"widest"] * 3, 256 + 4)
    es, est, lo, low = merges
    assert (bytes(es), bytes(lo)) == (b"es", b"lo") and (est, low) == ((256, ord("t")), (258, ord("w")))
    assert encode_textbook(b"lowest", merges) == [259, 257]
    assert train_textbook([b"aa", b"b"], 300) == {(97, 97): 256}  # then no pair is left


@few
@given(st.text(max_size=80), st.sampled_from(PATTERNS))
def test_decode_undoes_encode(text: str, pattern: str) -> None:
    tokenizer = trained(pattern=pattern)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert all(0 <= idx < tokenizer.vocab_size for idx in tokenizer.encode(text))


@few
@given(small_texts)
def test_encoding_applies_the_merge_of_lowest_rank_first(text: str) -> None:
    tokenizer = trained("aaab aab ab hé hé " * 3, 275)
    expected: list[int] = []
    for found in compile_pattern(tokenizer.pattern).finditer(text):
        ids = list(found.group().encode())
        for pair, idx in tokenizer.merges.items():  # every merge, in the order of training
            ids = merge(ids, pair, idx)
        expected += ids
    assert tokenizer.encode(text) == expected


def test_statistics_and_merging() -> None:
    assert get_stats([1, 2, 3, 1, 2]) == {(1, 2): 2, (2, 3): 1, (3, 1): 1}
    assert get_stats([1, 2], {(1, 2): 5}) == {(1, 2): 6}
    assert get_stats([7, 7, 7]) == {(7, 7): 2}  # overlapping pairs count
    assert merge([7, 7, 7], (7, 7), 9) == [9, 7]  # merged from left to right
    assert render_token(b"a\n\xff") == "a\\u000a\ufffd"
    assert replace_control_characters("a\tb\x1b") == "a\\u0009b\\u001b"


@few
@given(st.text(min_size=1, max_size=50))
def test_characters(text: str) -> None:
    tokenizer = CharTokenizer.train(text)
    assert tokenizer.vocab_size == len(set(text)) and tokenizer.characters == sorted(set(text))
    if not any(0xD800 <= ord(c) < 0xE000 for c in text):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_unknown_characters_and_empty_texts() -> None:
    with pytest.raises(TokenizerError, match="'z'"):
        CharTokenizer.train("abc").encode("az")
    with pytest.raises(TokenizerError, match="empty"):
        CharTokenizer.train("")
    assert trained("", 300).vocab_size == 256
    with pytest.raises(TokenizerError, match="256"):
        trained("abc", 255)
    with pytest.raises(TokenizerError, match="999"):
        trained().decode([999])
    with pytest.raises(TypeError):
        trained().encode(b"abc")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "tokenizer", [trained(), CharTokenizer(TEXT + "<|endofx>")], ids=["bpe", "characters"]
)
def test_special_tokens(tokenizer: Tokenizer) -> None:
    size = tokenizer.vocab_size
    tokenizer.register_special_tokens({"<|end|>": size, "<|end|><|end|>": size + 5})
    assert tokenizer.vocab_size == size + 6
    with pytest.raises(TokenizerError, match="allowed_special"):
        tokenizer.encode("the<|end|>")
    assert tokenizer.encode("the<|end|>the", "all").count(size) == 1
    assert tokenizer.encode("<|end|><|end|>", "all") == [size + 5]  # the longest first
    assert tokenizer.encode("<|end|><|end|>", {"<|end|>"}) == [size, size]
    assert size not in tokenizer.encode("<|end|>", "none")
    assert tokenizer.decode(tokenizer.encode("the<|end|>cat", "all")) == "the<|end|>cat"
    with pytest.raises(ValueError, match="allowed_special"):
        tokenizer.encode("a", "some")
    for bad in ({"": size}, {"x": 0}, {"x": -1}, {"x": size, "y": size}, {"x": 1.5}, {"x": 2**40}):
        with pytest.raises(TokenizerError):
            tokenizer.register_special_tokens(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("tokenizer", [trained(), CharTokenizer(TEXT)], ids=["bpe", "characters"])
def test_one_file_round_trip(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.register_special_tokens({"<|endoftext|>": tokenizer.vocab_size})
    save_tokenizer(tokenizer, tmp_path / "tokenizer")
    loaded = load_tokenizer(tmp_path / "tokenizer")
    assert type(loaded) is type(tokenizer) and loaded.special_tokens == tokenizer.special_tokens
    assert loaded.encode(TEXT) == tokenizer.encode(TEXT) and loaded.vocab_size == tokenizer.vocab_size
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer"]


def test_model_files(tmp_path: Path) -> None:
    tokenizer = trained()
    tokenizer.register_special_tokens({"<|end|>": 300, "a b": 301})
    tokenizer.save(str(tmp_path / "t"))
    loaded = BPETokenizer(r"\w+")
    loaded.load(tmp_path / "t.model")
    assert (
        loaded.merges == tokenizer.merges
        and loaded.pattern == tokenizer.pattern
        and loaded.special_tokens == tokenizer.special_tokens
    )
    assert (
        "[t][h] -> [th] 25" in (tmp_path / "t.vocab").read_text()
        or "[h][e] -> [he] 25" in (tmp_path / "t.vocab").read_text()
    )
    text = (tmp_path / "t.model").read_text().replace("tinygpt v1", "minbpe v1")
    (tmp_path / "m.model").write_text(text)
    loaded.load(tmp_path / "m.model")  # minbpe's own header
    for cut in range(0, len(text) - 1, 7):
        (tmp_path / "cut.model").write_text(text[:cut])
        before = dict(loaded.merges)
        try:
            # A file cut after a whole line is a smaller tokenizer
            BPETokenizer().load(tmp_path / "cut.model")
        except TokenizerError:
            assert loaded.merges == before


def test_a_tokenizer_is_found_in_a_folder(tmp_path: Path) -> None:
    """By the names that it may have, our own first; a file of `save_tokenizer` may have any name."""
    assert find_tokenizer(tmp_path) is None and find_tokenizer(tmp_path / "missing") is None
    with pytest.raises(TokenizerError, match=r"there is no tokenizer in .*pass --tokenizer"):
        open_tokenizer(tmp_path)
    trained(size=280).save(str(tmp_path / "tokenizer"))  # tokenizer.model and tokenizer.vocab
    assert open_tokenizer(tmp_path).vocab_size == 280
    (tmp_path / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>")  # sentencepiece's
    assert find_tokenizer(tmp_path) is None
    save_tokenizer(CharTokenizer("abc"), tmp_path / "tokenizer")
    assert open_tokenizer(tmp_path).vocab_size == open_tokenizer(tmp_path / "tokenizer").vocab_size == 3
    (tmp_path / "tokenizer").write_bytes(b"{")
    for find in (find_tokenizer, open_tokenizer):
        with pytest.raises(TokenizerError, match="is not a tokenizer file"):
            find(tmp_path)


def test_escapes_in_the_first_line_of_a_model_file() -> None:
    r"""Any character by its number, up to the largest there is; halves of surrogate pairs are none."""
    assert _string_literal(r"'a\ud7ff\ue000\U0010ffff\x41'") == "a\ud7ff\ue000\U0010ffffA"
    for wrong in (r"'\ud800'", r"'\udfff'", r"'\U00110000'"):
        with pytest.raises(TokenizerError, match="no character"):
            _string_literal(wrong)


def test_half_a_tokenizer_says_what_it_lacks() -> None:
    for use in (
        lambda t: t.encode("a"),
        lambda t: t.decode([0]),
        lambda t: t.vocab_size,
        lambda t: t.register_special_tokens({"<end>": 1}),
        lambda t: t._to_json(),
        lambda t: t._from_json({}),
    ):
        with pytest.raises(NotImplementedError, match="Half must define"):
            use(type("Half", (Tokenizer,), {})())


HOSTILE = {
    "another format": {"format": "x"},
    "a newer version": {"version": 99},
    "an unknown kind": {"kind": "pickle"},
    "a kind that is no text": {"kind": ["bpe"]},
    "merges of undefined ids": {"merges": [[500, 1]]},
    "a merge of itself": {"merges": [[256, 256]]},
    "a merge twice": {"merges": [[1, 2], [1, 2]]},
    "negative ids": {"merges": [[-1, 2]]},
    "merges that are no pairs": {"merges": [[1, 2, 3]]},
    "merges of floats": {"merges": [[1.0, 2]]},
    "merges as text": {"merges": "abc"},
    "no merges": {"merges": None},
    "no pattern": {"pattern": None},
    "a pattern in a list": {"pattern": ["a"]},
    "an endless id": {"special_tokens": {"<x>": "1" * 100_000}},
    "an endless version": {"version": "1" * 100_000},
    "a broken pattern": {"pattern": "("},
    "an endless pattern": {"pattern": "a" * 100_000},
    "special tokens of text": {"special_tokens": {"<x>": "1"}},
    "special tokens that are taken": {"special_tokens": {"<x>": 5}},
    "a huge id": {"special_tokens": {"<x>": 10**30}},
    "special tokens in a list": {"special_tokens": [1]},
    "tokens that double sixty times": {"merges": [[97, 97], *([256 + i, 256 + i] for i in range(60))]},
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_files_are_refused(change: dict[str, object], tmp_path: Path) -> None:
    save_tokenizer(trained(), tmp_path / "t")
    value = json.loads((tmp_path / "t").read_text())
    (tmp_path / "t").write_text(json.dumps(value | change))
    with pytest.raises(TokenizerError, match="is not a tokenizer file") as refused:
        load_tokenizer(tmp_path / "t")
    assert len(str(refused.value)) < 500


def test_truncated_and_foreign_files_are_refused(tmp_path: Path) -> None:
    save_tokenizer(trained("abab", 258), tmp_path / "t")
    data = (tmp_path / "t").read_bytes()
    for cut in range(len(data)):
        (tmp_path / "t").write_bytes(data[:cut])
        with pytest.raises(TokenizerError):
            load_tokenizer(tmp_path / "t")
    for foreign in (b"\xff\xfe", b"[]", b"3", b"[" * 100_000):
        (tmp_path / "t").write_bytes(foreign)
        with pytest.raises(TokenizerError):
            load_tokenizer(tmp_path / "t")


def test_calling_gives_tensors() -> None:
    tokenizer = CharTokenizer("abc")
    tokenizer.register_special_tokens({"<pad>": 3})
    assert tokenizer("abc").to_python() == [[0, 1, 2]]
    assert tokenizer(["ab", "bc"]).to_python() == [[0, 1], [1, 2]]
    ids, mask = tokenizer(
        ["a", "abc"], padding_type="longest", padding_token="<pad>", return_attention_mask=True
    )
    assert ids.to_python() == [[0, 3, 3], [0, 1, 2]] and mask.to_python() == [[1, 0, 0], [1, 1, 1]]
    assert tokenizer(["a"], "max_length", "<pad>", max_length=2).to_python() == [[0, 3]]
    assert tokenizer("abc", max_length=2, truncation=True).to_python() == [[0, 1]]
    # TinyGPT's rules: max_length is what to pad or to cut to, and does nothing by itself
    assert tokenizer("abc", max_length=2).to_python() == [[0, 1, 2]]
    assert tokenizer(["abc"], "max_length", "<pad>", max_length=2).to_python() == [[0, 1, 2]]
    assert tokenizer(["a", "abc"], "longest", "<pad>", max_length=2, truncation=True).to_python() == [
        [0, 3],
        [0, 1],
    ]
    assert tokenizer(text="ab<pad>", max_length=-1).to_python() == [[0, 1, 3]]
    assert tokenizer("aaa").shape == (1, 3)
    for wrong in (
        {"text": ["a", "ab"]},
        {"text": ["a"], "padding_type": "longest"},
        {"text": ["a"], "padding_type": "left"},
        {"text": ["a"], "padding_type": "max_length"},
        {"text": "abc", "truncation": True},
        {"text": ["a", "abc"], "padding_type": "max_length", "padding_token": "<pad>", "max_length": 2},
    ):
        with pytest.raises(ValueError):
            tokenizer(**wrong)


def test_visualising_prints_the_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    trained().encode("the cat", visualise=True)
    assert capsys.readouterr().out.replace("|", "").strip() == "the cat"
    trained("abab", 257).train("abab", 257, verbose=True)
    assert "(97, 98) -> 256" in capsys.readouterr().out


# ---- half a surrogate pair


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("\ud83d\ude00!", "😀!"),
        ("\ud83d a", "\ufffd a"),
        ("\ude00\ud83d", "\ufffd\ufffd"),
        ("é\udce9", "é\ufffd"),
    ],
)
def test_halves_of_surrogate_pairs_are_joined_or_replaced(text: str, meant: str, tmp_path: Path) -> None:
    tokenizer = BPETokenizer()
    tokenizer.train((text + " ") * 3, 262)
    other = BPETokenizer()
    other.train((meant + " ") * 3, 262)
    assert tokenizer.merges == other.merges
    assert tokenizer.encode(text) == other.encode(meant) and list(tokenizer.chunks(text)) == [
        *other.chunks(meant)
    ]
    assert [idx for chunk in other.chunks(meant) for idx in other.byte_ids(chunk)] == list(meant.encode())
    characters = CharTokenizer.train(text)
    assert characters.characters == CharTokenizer(meant).characters
    for trained_tokenizer in (tokenizer, characters):
        assert trained_tokenizer.decode(trained_tokenizer.encode(text)) == meant
        save_tokenizer(trained_tokenizer, tmp_path / "t")
        assert load_tokenizer(tmp_path / "t").encode(text) == trained_tokenizer.encode(text)


def test_special_tokens_patterns_and_characters_have_no_half_pairs() -> None:
    tokenizer = BPETokenizer()
    with pytest.raises(TokenizerError, match="half a surrogate pair"):
        tokenizer.register_special_tokens({"<\ud800>": 300})
    with pytest.raises(TokenizerError, match="half a surrogate pair"):
        BPETokenizer("\ud800|.")
    with pytest.raises(TokenizerError, match="half a surrogate pair"):
        CharTokenizer("ab\ud800")
    tokenizer.register_special_tokens({"<😀>": 300})
    assert tokenizer.encode("a<\ud83d\ude00>", "all") == [97, 300]


# ---- .model files


@few
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"), min_size=1))
def test_special_tokens_survive_a_model_file(text: str) -> None:
    import tempfile

    tokenizer = trained(size=260)
    tokenizer.register_special_tokens({text: 700, "<a b>": 701, "<\x85\u2028\r>": 702})
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(folder + "/t")
        again = BPETokenizer()
        again.load(folder + "/t.model")
    assert again.special_tokens == tokenizer.special_tokens and again.merges == tokenizer.merges


def test_a_model_file_with_the_line_ends_of_windows(tmp_path: Path) -> None:
    tokenizer = trained(size=260)
    tokenizer.register_special_tokens({"<end>": 700})
    tokenizer.save(str(tmp_path / "t"))
    path = tmp_path / "t.model"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    again = BPETokenizer()
    again.load(path)
    assert again.pattern == tokenizer.pattern and again.special_tokens == {"<end>": 700}


def test_a_model_file_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = trained(size=260)
    tokenizer.save(str(tmp_path / "t"))
    old = (tmp_path / "t.model").read_bytes()

    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="no space"):
        trained(size=270).save(str(tmp_path / "t"))
    assert (tmp_path / "t.model").read_bytes() == old and len(list(tmp_path.iterdir())) == 2


VERBOSE_PATTERN = "\n  (?i:ll|ve)|   # contractions\n  [^\\w]?\\w+|  # it's a word\n  \\s+\n"


def test_a_model_file_of_tinygpt_loads_and_is_saved_again(tmp_path: Path) -> None:
    text = f"{VERBOSE_PATTERN!r}\n1\n[PAD] 258\n104 101\n256 121\n"
    (tmp_path / "tokenizer.model").write_text(text)
    tokenizer = find_tokenizer(tmp_path)
    assert isinstance(tokenizer, BPETokenizer)
    assert list(tokenizer.chunks("hey they've ")) == ["hey", " they", "'ve", " "]
    assert tokenizer.encode("hey[PAD]", "all") == [257, 258]
    tokenizer.save(str(tmp_path / "again"))
    assert (tmp_path / "again.model").read_text() == text
    save_tokenizer(tokenizer, tmp_path / "t")
    assert load_tokenizer(tmp_path / "t").encode("hey they") == tokenizer.encode("hey they")


@pytest.mark.parametrize(
    "line",
    ["'abc", "'a'b'", "'\\q'", "'\\ud800'", "'\\U00110000'", "'a' 'b'", "'" + "a" * 200_000 + "'", "'('"],
)
def test_a_first_line_that_is_no_string_is_refused(line: str, tmp_path: Path) -> None:
    (tmp_path / "t.model").write_text(f"{line}\n0\n")
    with pytest.raises(TokenizerError, match="not a tokenizer's model file"):
        BPETokenizer().load(tmp_path / "t.model")


def test_tinygpts_own_pattern_and_its_merges() -> None:
    tokenizer = BPETokenizer(RegexPatterns.TINYGPT)
    tokenizer.train("123412561278", 257)
    assert tokenizer.encode("12123") == [256, 256, 51]
    assert list(tokenizer.chunks("12 -1  I'm We've\r2He!")) == [
        "12",
        " ",
        "-1",
        " ",
        " I",
        "'m",
        " We",
        "'ve",
        "\r",
        "2He",
        "!",
    ]


def test_a_merge_that_makes_no_token_is_refused(tmp_path: Path) -> None:
    tokens = [chr(byte) for byte in range(255, -1, -1)]
    value = {"format": "tinygpt tokenizer", "version": 2, "kind": "bpe", "special_tokens": {}, "pattern": "."}
    for merges in ([[0, 1]], [[0, 0], [1, 1]]):
        (tmp_path / "t").write_text(json.dumps(value | {"tokens": tokens, "merges": merges}))
        with pytest.raises(TokenizerError, match="makes none"):
            load_tokenizer(tmp_path / "t")


def test_names_of_arguments_as_in_tinygpt(capsys: pytest.CaptureFixture[str]) -> None:
    tokenizers = [BPETokenizer() for _ in range(3)]
    tokenizers[0].train("abab", 257)
    tokenizers[1].train(text_corpus="abab", vocab_size=257)
    tokenizers[2].train(text="abab", vocab_size=257)
    assert len({tuple(tokenizer.merges) for tokenizer in tokenizers}) == 1
    with pytest.raises(TypeError, match="one text"):
        tokenizers[0].train(vocab_size=257)
    with pytest.raises(TypeError, match="one text"):
        tokenizers[0].train("a", 257, text="b")
    assert tokenizers[0](text="ab").to_python() == tokenizers[0](texts="ab").to_python() == [[256]]
    tokenizers[0]._visualise_tokens([256, 97])
    tokenizers[0].visualise_tokens([256, 97])
    assert capsys.readouterr().out == "ab|a\nab|a\n"
    ids = tokenizers[0]("ab" * 3)
    assert ids.reshape(new_shape=(3,)).shape == ids.buffer.reshape(new_shape=(3,)).shape == (3,)
    assert ids.expand(new_shape=(2, 3)).shape == ids.buffer.expand(new_shape=(2, 3)).shape == (2, 3)


def test_merges_that_double_are_refused_before_they_fill_the_memory(tmp_path: Path) -> None:
    import tracemalloc

    lines = ["97 97", *(f"{idx} {idx}" for idx in range(256, 300))]
    (tmp_path / "t.model").write_text("\n".join(["minbpe v1", ".", "0", *lines]) + "\n")
    tracemalloc.start()
    with pytest.raises(TokenizerError, match="bytes in all"):
        BPETokenizer().load(tmp_path / "t.model")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50_000_000


def test_many_special_tokens_are_registered_in_linear_time() -> None:
    import time

    tokenizer = CharTokenizer("a")
    start = time.perf_counter()
    tokenizer.register_special_tokens({f"s{number}": 1 + number for number in range(60_000)})
    assert time.perf_counter() - start < 5.0  # a hundred times what it takes; n² took half a minute
    with pytest.raises(TokenizerError, match="needs an id of its own"):
        tokenizer.register_special_tokens({"x": 1, "y": 1})
