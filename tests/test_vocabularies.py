"""Vocabularies from elsewhere: ids are tiktoken's, files survive a round trip, and damaged ones are refused
by file and line.
"""

from __future__ import annotations

import base64
import json
import sys
import sysconfig
import unicodedata
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygpt_core.tokenizer import BPETokenizer, TokenizerError, load_tokenizer, save_tokenizer, vocabularies
from tinygpt_core.tokenizer.patterns import RegexPatterns
from tinygpt_core.training import checkpoint

GPT2 = Path(__file__).parents[2] / "shared" / "data" / "gpt2"
needs_gpt2 = pytest.mark.skipif(
    not (GPT2 / "vocab.json").is_file(),
    reason="vocab.json and merges.txt of GPT-2 are not beside the project",
)
needs_tiktoken = pytest.mark.skipif(
    __import__("importlib.util").util.find_spec("tiktoken") is None,
    reason="the law compares with tiktoken: pip install tiktoken",
)
END = "<|endoftext|>"

# Characters unassigned in this Python's Unicode may be letters in the newer one of tiktoken: those alone are
# left out.
assigned = st.characters(exclude_categories=["Cn", "Cs"])
pieces = st.one_of(
    st.text(assigned, max_size=30),
    st.text("ab 'sſ\n\r\t1²é\u0301🎭\0", max_size=30),
    st.sampled_from(
        [
            "🏳️‍🌈",
            "👩‍👩‍👧‍👦",
            "e\u0301\u0323",
            "नमस्ते",
            "   \n\n\t ",
            "\r\n\r\n",
            "\0\0",
            "def f(x):\n    return x\n",
            "I'LL we've",
            "...!!!",
        ]
    ),
    st.builds(lambda c, n: c * n, st.sampled_from(" \n\ta1!é\u3000"), st.integers(0, 700)),
)
texts = st.lists(pieces, max_size=6).map("".join)
ordinary = settings(max_examples=300, deadline=None)


@cache
def gpt2() -> BPETokenizer:
    return BPETokenizer.from_gpt2(GPT2 / "vocab.json", GPT2 / "merges.txt")


@cache
def tiktoken_gpt2() -> Any:
    from tiktoken import Encoding
    from tiktoken.load import data_gym_to_mergeable_bpe_ranks
    from tiktoken_ext.openai_public import r50k_pat_str

    ranks = data_gym_to_mergeable_bpe_ranks(str(GPT2 / "merges.txt"), str(GPT2 / "vocab.json"))
    return Encoding("gpt2", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens={END: 50256})


@needs_gpt2
@needs_tiktoken
@ordinary
@given(texts)
def test_ids_are_those_of_tiktoken(text: str) -> None:
    ids = gpt2().encode(text, "none")
    assert ids == tiktoken_gpt2().encode_ordinary(text)
    assert gpt2().decode(ids) == text


@needs_gpt2
@needs_tiktoken
def test_ids_are_those_of_tiktoken_for_every_assigned_character() -> None:
    characters = [
        c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c) not in ("Cn", "Cs", "Co")
    ]
    for start in range(0, len(characters), 10_000):
        text = "".join(f"a{c}1 {c}'{c}\n" for c in characters[start : start + 10_000])
        assert gpt2().encode(text) == tiktoken_gpt2().encode_ordinary(text)


@needs_gpt2
@needs_tiktoken
def test_ids_are_those_of_tiktoken_for_source_code() -> None:
    sources = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[::8]
    assert len(sources) > 10
    for source in sources:
        text = source.read_text(encoding="utf-8")
        assert gpt2().encode(text, "none") == tiktoken_gpt2().encode_ordinary(text)


@needs_gpt2
@needs_tiktoken
@pytest.mark.parametrize(
    "text", ["a" * 100_000, "abcdefghij" * 10_000, " " * 300_000, "\n" * 100_000 + "x", "é" * 50_000]
)
def test_long_words_are_encoded_in_little_more_than_linear_time(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted, not timed: a pair is looked up a few times for each of its merges."""
    asked = 0
    tokenizer = BPETokenizer.from_gpt2(GPT2 / "vocab.json", GPT2 / "merges.txt")

    class Counting(dict[Any, Any]):
        def get(self, key: Any, default: Any = None) -> Any:
            nonlocal asked
            asked += 1
            return super().get(key, default)

    tokenizer.merges = Counting(tokenizer.merges)
    assert tokenizer.encode(text) == tiktoken_gpt2().encode_ordinary(text)
    assert 0 < asked < 6 * len(text.encode())


@needs_gpt2
def test_special_tokens_of_gpt2() -> None:
    tokenizer = gpt2()
    assert tokenizer.special_tokens == {END: 50256} and tokenizer.vocab_size == 50257
    assert tokenizer.encode(f"Hello world{END}", "all") == [15496, 995, 50256]
    assert tokenizer.decode([15496, 995, 50256]) == f"Hello world{END}"
    assert (
        50256 not in tokenizer.encode(END, "none") and tokenizer.decode(tokenizer.encode(END, "none")) == END
    )
    with pytest.raises(TokenizerError, match="allowed_special"):
        tokenizer.encode(END)
    with pytest.raises(TokenizerError, match="50257"):
        tokenizer.decode([50257])


@needs_gpt2
def test_gpt2_survives_our_own_file_and_a_checkpoint(tmp_path: Path) -> None:
    save_tokenizer(gpt2(), tmp_path / "t")
    loaded = load_tokenizer(tmp_path / "t")
    assert isinstance(loaded, BPETokenizer)
    same = ("vocab", "merges", "special_tokens", "pattern")
    assert [getattr(loaded, name) for name in same] == [getattr(gpt2(), name) for name in same]
    state = {"config": {}, "model_tensors": {}, "optimizer_tensors": {}, "state": {}}
    checkpoint.save_checkpoint(tmp_path / "run", tokenizer=gpt2(), **state)
    kept = checkpoint.load_checkpoint(tmp_path / "run").tokenizer
    text = (Path(__file__)).read_text(encoding="utf-8") + "é🎭"
    assert kept.encode(text, "none") == loaded.encode(text, "none") == gpt2().encode(text, "none")
    with pytest.raises(TokenizerError, match="save_tokenizer"):
        gpt2().save(str(tmp_path / "t"))


# ---- rank files


def write_ranks(path: Path, ranks: dict[bytes, int]) -> Path:
    path.write_text("".join(f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items()))
    return path


@needs_tiktoken
@settings(max_examples=150, deadline=None)
@given(data=st.data(), order=st.permutations(range(30)), text=st.text("abc ", max_size=400) | texts)
def test_any_rank_file_gives_the_ids_of_tiktoken(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, order: list[int], text: str
) -> None:
    """Also where a part has a higher rank than the whole, or no merges lead to a token: only trained
    vocabularies are orderly.
    """
    from tiktoken import Encoding

    words = st.text("abc ", min_size=2, max_size=6).map(str.encode)
    extra = data.draw(st.lists(words, min_size=30, max_size=30, unique=True))
    shuffled = data.draw(st.sampled_from([list(range(256)), [*range(255, -1, -1)]]))
    ranks = {bytes([byte]): rank for rank, byte in enumerate(shuffled)} | {
        extra[i]: 256 + n for n, i in enumerate(order)
    }
    pattern = data.draw(st.sampled_from([RegexPatterns.CL100K, RegexPatterns.GPT4, RegexPatterns.GPT2]))
    path = write_ranks(tmp_path_factory.mktemp("ranks") / "r.tiktoken", ranks)
    tokenizer = BPETokenizer.from_tiktoken(path, pattern, {END: 300})
    expected = Encoding("any", pat_str=pattern, mergeable_ranks=ranks, special_tokens={END: 300})
    assert tokenizer.encode(text, "none") == expected.encode_ordinary(text)
    assert tokenizer.encode(text + END, "all") == expected.encode(text + END, allowed_special="all")
    assert tokenizer.decode(tokenizer.encode(text, "none")) == text and tokenizer.vocab_size == 301


@settings(max_examples=30, deadline=None)
@given(st.text("ab c", min_size=20, max_size=200), texts)
def test_a_trained_tokenizer_written_as_ranks_or_as_gpt2_files_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, training: str, text: str
) -> None:
    trained = BPETokenizer(RegexPatterns.GPT2)
    trained.train(training, 290)
    folder = tmp_path_factory.mktemp("same")
    ranked = BPETokenizer.from_tiktoken(
        write_ranks(folder / "r", {token: i for i, token in trained.vocab.items()}), trained.pattern
    )
    written = {byte: character for character, byte in vocabularies.byte_characters().items()}
    names = {idx: "".join(written[byte] for byte in token) for idx, token in trained.vocab.items()}
    (folder / "vocab.json").write_text(
        json.dumps({name: idx for idx, name in names.items()} | {END: len(names)})
    )
    lines = ["#version: 0.2", *(f"{names[a]} {names[b]}" for a, b in trained.merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    paired = BPETokenizer.from_gpt2(folder / "vocab.json", folder / "merges.txt")
    assert trained.encode(text, "none") == ranked.encode(text, "none") == paired.encode(text, "none")
    assert paired.special_tokens == {END: len(names)} and paired.merges == trained.merges


def test_a_special_token_may_fill_a_hole_of_the_ranks(tmp_path: Path) -> None:
    path = write_ranks(tmp_path / "r", {bytes([i]): i for i in range(256)} | {b"ab": 257})
    tokenizer = BPETokenizer.from_tiktoken(path, RegexPatterns.GPT2, {END: 256})
    assert (
        tokenizer.encode(f"ab{END}a", "all") == [257, 256, 97] and tokenizer.decode([257, 256]) == f"ab{END}"
    )
    assert tokenizer.vocab_size == 258
    save_tokenizer(tokenizer, path)
    assert load_tokenizer(path).encode(f"ab{END}a", "all") == [257, 256, 97]
    with pytest.raises(TokenizerError, match="no line has the rank 256"):
        BPETokenizer.from_tiktoken(
            write_ranks(path, {bytes([i]): i for i in range(256)} | {b"ab": 257}),
            RegexPatterns.GPT2,
            {END: 258},
        )


# ---- damaged files

BASE = {character: idx for idx, character in enumerate(vocabularies.byte_characters())}
SOUND = {**BASE, "ab": 256, "abc": 257}
MERGES = "#version: 0.2\na b\nab c\n"


def test_the_files_that_are_damaged_below_are_sound(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text(json.dumps(SOUND))
    (tmp_path / "merges.txt").write_text(MERGES)
    tokenizer = BPETokenizer.from_gpt2(tmp_path / "vocab.json", tmp_path / "merges.txt")
    assert tokenizer.encode("abcab") == [257, 256] and tokenizer.encode("!") == [0]


DAMAGED: dict[str, tuple[str, str, str]] = {
    "not JSON": ('{"a": 0,\n"b"', MERGES, r"vocab\.json, line 2: this is not JSON"),
    "empty": ("", MERGES, r"vocab\.json, line 1: this is not JSON"),
    "a list": ("[1]", MERGES, r"vocab\.json: a vocabulary is a JSON object"),
    "nested": ("[" * 200_000, MERGES, r"vocab\.json: its JSON is nested too deeply"),
    "a token twice": (
        json.dumps(SOUND)[:-1] + ', "ab": 258}',
        MERGES,
        r"vocab\.json: the token 'ab' stands there twice",
    ),
    "an id twice": (
        json.dumps(SOUND | {"ab": 257}),
        MERGES,
        r"vocab\.json: the tokens 'ab' and 'abc' have the same id 257",
    ),
    "a hole": (
        json.dumps(SOUND | {"abc": 258}),
        MERGES,
        r"vocab\.json: token 'abc' has the id 258.*without holes",
    ),
    "a huge id": (json.dumps(SOUND | {"abc": 10**30}), MERGES, r"vocab\.json: token 'abc' has the id 10"),
    "a gigantic id": ('{"a": 1' + "0" * 5000 + "}", MERGES, r"vocab\.json: Exceeds the limit"),
    "a negative id": (json.dumps(SOUND | {"abc": -1}), MERGES, r"vocab\.json: token 'abc' has the id -1"),
    "a float": (json.dumps(SOUND | {"abc": 257.0}), MERGES, r"vocab\.json: token 'abc' has 257\.0 for an id"),
    "a boolean": (json.dumps(SOUND | {"abc": True}), MERGES, r"vocab\.json: token 'abc' has True for an id"),
    "text for an id": (
        json.dumps(SOUND | {"abc": "257"}),
        MERGES,
        r"vocab\.json: token 'abc' has '257' for an id",
    ),
    "an empty token": (json.dumps(SOUND | {"": 258}), MERGES, r"vocab\.json: token '' has 258"),
    "a character of no byte": (
        json.dumps(SOUND | {"a b": 258}),
        MERGES,
        r"vocab\.json: token 'a b' \(id 258\) has the character ' '",
    ),
    "a byte missing": (
        json.dumps({k: v for k, v in SOUND.items() if v != 255} | {"xy": 255}),
        MERGES,
        r"no token 'Ń' for the byte 173",
    ),
    "a token that nothing makes": (
        json.dumps(SOUND | {"xyz": 258}),
        MERGES,
        r"no line of .*merges\.txt makes token 'xyz' \(id 258\)",
    ),
    "an unknown part": (
        json.dumps(SOUND),
        MERGES + "ab é!\n",
        r"merges\.txt, line 4: the vocabulary has no token 'é!'",
    ),
    "an unknown result": (
        json.dumps(SOUND),
        MERGES + "ab d\n",
        r"merges\.txt, line 4: the vocabulary has no token 'abd'",
    ),
    "three parts": (
        json.dumps(SOUND),
        "#version: 0.2\na b c\n",
        r"merges\.txt, line 2: a merge is two tokens, not 'a b c'",
    ),
    "a merge twice": (
        json.dumps(SOUND),
        MERGES + "a b\n",
        r"merges\.txt, line 4: 'a' and 'b' were merged before",
    ),
    "another order": (
        json.dumps(SOUND | {"ab": 257, "abc": 256}),
        MERGES,
        r"merges\.txt, line 3: 'abc' has the id 256.*order",
    ),
    "no merges": (json.dumps(SOUND), "", r"makes token 'ab'"),
}


@pytest.mark.parametrize(("vocab", "merges", "message"), DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_gpt2_files_are_refused(vocab: str, merges: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text(vocab, encoding="utf-8")
    (tmp_path / "merges.txt").write_text(merges, encoding="utf-8")
    with pytest.raises(TokenizerError, match=message):
        BPETokenizer.from_gpt2(tmp_path / "vocab.json", tmp_path / "merges.txt")


RANKS = "".join(f"{base64.b64encode(bytes([i])).decode()} {i}\n" for i in range(256))
BAD_RANKS = {
    "no base64": ("!!!! 256\n", r"r, line 257: '!!!!' is not base64"),
    "cut base64": ("YWI 256\n", r"r, line 257: 'YWI' is not base64"),
    "one part": ("\nYWI=\n", r"r, line 258: this is not a token"),
    "three parts": ("YWI= 256 1\n", r"r, line 257: this is not a token"),
    "a negative rank": ("YWI= -1\n", r"r, line 257: this is not a token"),
    "a float": ("YWI= 256.0\n", r"r, line 257: this is not a token"),
    "other digits": ("YWI= ２５６\n", r"r, line 257: this is not a token"),
    "a huge rank": ("YWI= 2" + "5" * 5000 + "\n", r"r, line 257: this is not a token"),
    "a rank far away": ("YWI= 999999999\n", r"r, line 257: rank 999999999 is too high for 257 tokens"),
    "a rank twice": ("YWI= 255\n", r"r, line 257: token b'ab' with rank 255"),
    "a token twice": ("YQ== 256\n", r"r, line 257: token b'a' with rank 256"),
    "no token": (" 256\n", r"r, line 257: this is not a token"),
}


@pytest.mark.parametrize(("lines", "message"), BAD_RANKS.values(), ids=BAD_RANKS.keys())
def test_damaged_rank_files_are_refused(lines: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "r").write_text(RANKS + lines, encoding="utf-8")
    with pytest.raises(TokenizerError, match=message):
        BPETokenizer.from_tiktoken(tmp_path / "r", RegexPatterns.GPT2)


def read_both(path: Path) -> list[Callable[[], object]]:
    return [
        lambda: BPETokenizer.from_gpt2(path, path),
        lambda: BPETokenizer.from_tiktoken(path, RegexPatterns.GPT2),
    ]


def test_foreign_missing_and_giant_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r"
    for read in read_both(path):
        with pytest.raises(FileNotFoundError):
            read()
    path.write_bytes(b"\n\n\xff\xfe")
    for read in read_both(path):
        with pytest.raises(TokenizerError, match="r, line 3: this is not UTF-8"):
            read()
    path.write_text("\n".join(RANKS.splitlines()[1:]))
    with pytest.raises(TokenizerError, match="no token for the byte 0"):
        BPETokenizer.from_tiktoken(path, RegexPatterns.GPT2)
    monkeypatch.setattr(vocabularies, "MAXIMUM_FILE", 100)
    for read in read_both(path):
        with pytest.raises(TokenizerError, match="more than 100 bytes"):
            read()


HOSTILE = {
    "no list": {"tokens": {"a": 1}},
    "no texts": {"tokens": [1, 2]},
    "no bytes": {"tokens": ["中"]},
    "too few": {"tokens": ["a"]},
    "a token twice": {"tokens": [*map(chr, range(256)), "ab", "ab"]},
    "an empty one": {"tokens": [*map(chr, range(256)), ""]},
    "merges of no tokens": {"merges": [[97, 98], [256, 300]]},
    "merges that make no token": {"merges": [[97, 98], [97, 97]]},
    "merges out of order": {"merges": [[256, 99], [97, 98]]},
    "no merges": {"merges": "ab"},
    "special tokens that are taken": {"special_tokens": {END: 256}},
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_files_of_our_own_format_are_refused(change: dict[str, object], tmp_path: Path) -> None:
    sound = {
        "format": "tinygpt tokenizer",
        "version": 2,
        "kind": "bpe",
        "special_tokens": {END: 258},
        "pattern": RegexPatterns.GPT2,
    }
    sound |= {"tokens": [*map(chr, range(256)), "ab", "abc"], "merges": [[97, 98], [256, 99]]}
    (tmp_path / "t").write_text(json.dumps(sound))
    assert load_tokenizer(tmp_path / "t").encode("abc") == [257]
    (tmp_path / "t").write_text(json.dumps(sound | change))
    with pytest.raises(TokenizerError, match="is not a tokenizer file"):
        load_tokenizer(tmp_path / "t")
