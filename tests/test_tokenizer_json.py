"""`tokenizer.json` gives the ids of the `tokenizers` library, on drawn text of many scripts; and what is
written here is read there. What is asked for and not done is refused.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygpt_core.formats import save_pretrained
from tinygpt_core.nn import GPT, GPTConfig
from tinygpt_core.tokenizer import (
    BPETokenizer,
    CharTokenizer,
    RegexPatterns,
    TokenizerError,
    find_tokenizer,
    load_tokenizer,
    save_tokenizer,
)
from tinygpt_core.tokenizer.describing import describe
from tinygpt_core.tokenizer.tokenizer_json import JSONTokenizer
from tinygpt_core.tokenizer.vocabularies import byte_characters

CORPUS = [
    "the theme of the thesis is the theory; it's 2023, isn't it? I'll say 1234567.8",
    "def f(x):\n    return x**2  # квадрат числа\n\n\tprint(f'{x!r}')\r\n",
    "Привет, мир! こんにちは世界 你好,世界 مرحبا بالعالم नमस्ते दुनिया 안녕 세계",
    "naïve café 😀😀 👩‍👩‍👧 Ω≈ç√∫ ﬁne   spaces    and\t\ttabs",
] * 3
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_PATTERN = LLAMA3_PATTERN.replace("{1,3}", "")

# ---------------------------------------------------------------- text

WORDS = [
    "the",
    " the",
    "theme",
    "'s",
    "'LL",
    "2023",
    " 7",
    "²",
    "Ⅳ",
    "x**2",
    "мир",
    "世界",
    "नमस्ते",
    "안녕",
    "é",
    "e\u0301",
    "ﬁ",
]
EMOJI = ["😀", "👩‍👩‍👧", "🇩🇪", "👍🏽"]
MARKS = ["<s>", "</s>", "<unk>", "<|end|>", "<tool>", "▁", "▁the", "<0x41>", "Ġ", "Ġthe"]

scripts = st.characters(exclude_categories=["Cs", "Cn", "Co"])
runs = st.builds(
    lambda sign, count: sign * count,
    st.sampled_from([" ", "\n", "\t", "\r\n", "a", "!", "\u3000"]),
    st.integers(1, 9),
)
known = map(st.sampled_from, (WORDS, EMOJI, MARKS))
texts = st.lists(st.one_of(*known, runs, scripts), max_size=12).map("".join)


# ---------------------------------------------------------------- tokenizers trained there


def byte_level(pre_tokenizer: Callable[[Any], Any], normalizer: Any = None, **model: Any) -> Any:
    tokenizers = pytest.importorskip("tokenizers", reason="ids are compared where tokenizers is installed")
    made = tokenizers.Tokenizer(tokenizers.models.BPE(**model))
    made.pre_tokenizer = pre_tokenizer(tokenizers.pre_tokenizers)
    made.decoder = tokenizers.decoders.ByteLevel()
    if normalizer is not None:
        made.normalizer = getattr(tokenizers.normalizers, normalizer)()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=alphabet, special_tokens=["<|end|>", "</s>"], show_progress=False
    )
    made.train_from_iterator(CORPUS, trainer)
    return made


def split_by(pattern: str, behavior: str = "isolated", invert: bool = False) -> Callable[[Any], Any]:
    def build(pre: Any) -> Any:
        from tokenizers import Regex

        split = pre.Split(Regex(pattern), behavior, invert)
        return pre.Sequence([split, pre.ByteLevel(add_prefix_space=False, use_regex=False)])

    return build


def with_tokens(made: Any) -> Any:
    from tokenizers import AddedToken

    made.add_tokens([AddedToken("<tool>", normalized=False), AddedToken("theme", normalized=True)])
    made.add_special_tokens([AddedToken("<s>", rstrip=True), AddedToken("<unk>", lstrip=True)])
    return made


def sentencepiece_like(kind: str) -> Any:
    """As the converted tokenizers of Llama 2, its newer form, and Gemma."""
    tokenizers = pytest.importorskip("tokenizers", reason="ids are compared where tokenizers is installed")
    normalizers, pre, decoders = tokenizers.normalizers, tokenizers.pre_tokenizers, tokenizers.decoders
    replace = normalizers.Replace(" ", "▁")
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.normalizer = replace
    made.pre_tokenizer = pre.Split("▁", "merged_with_next")  # for the training alone
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<unk>"], show_progress=False, limit_alphabet=60
    )
    made.train_from_iterator(CORPUS, trainer)
    model = json.loads(made.to_str())["model"]
    vocab = dict(model["vocab"])
    for byte in range(256):
        vocab[f"<0x{byte:02X}>"] = len(vocab)
    merges = [tuple(pair) for pair in model["merges"]]
    fallback = kind != "unknown"
    made = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=fallback)
    )
    end = [decoders.ByteFallback(), decoders.Fuse()]
    if kind == "metaspace":
        made.pre_tokenizer = pre.Metaspace(prepend_scheme="first", split=False)
        made.decoder = decoders.Metaspace(prepend_scheme="first", split=False)
    elif kind == "gemma":
        made.normalizer = replace
        made.pre_tokenizer = pre.Split(" ", "merged_with_previous")
        made.decoder = decoders.Sequence([decoders.Replace("▁", " "), *end])
    else:
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace])
        made.decoder = decoders.Sequence([decoders.Replace("▁", " "), *end, decoders.Strip(" ", 1, 0)])
    return made


def gpt2_split(pre: Any) -> Any:
    return pre.ByteLevel(add_prefix_space=False)


def smollm_split(pre: Any) -> Any:
    return pre.Sequence([pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False)])


CASES: dict[str, Callable[[], Any]] = {
    "GPT-2": lambda: byte_level(gpt2_split),
    "a space before": lambda: byte_level(lambda pre: pre.ByteLevel(add_prefix_space=True)),
    "SmolLM": lambda: with_tokens(byte_level(smollm_split)),
    "Llama 3": lambda: with_tokens(byte_level(split_by(LLAMA3_PATTERN), ignore_merges=True)),
    "Qwen": lambda: with_tokens(byte_level(split_by(QWEN_PATTERN), normalizer="NFC")),
    "NFKC": lambda: with_tokens(byte_level(gpt2_split, normalizer="NFKC")),
    "removed": lambda: byte_level(split_by(r"\p{N}+", "removed")),
    "merged with previous": lambda: byte_level(split_by(r"[ \n]", "merged_with_previous")),
    "merged with next": lambda: byte_level(split_by(r"[ \n]", "merged_with_next")),
    "contiguous": lambda: byte_level(split_by(r"[ \n]", "contiguous")),
    "inverted": lambda: byte_level(split_by(r"\p{L}+", "removed", True)),
    "matches of nothing": lambda: byte_level(split_by(r"(?=[a-h])|[ \n]", "contiguous")),
    "Llama 2": lambda: with_tokens(sentencepiece_like("llama2")),
    "Llama 2, newer form": lambda: with_tokens(sentencepiece_like("metaspace")),
    "Gemma": lambda: with_tokens(sentencepiece_like("gemma")),
    "unknown characters": lambda: sentencepiece_like("unknown"),
}


@cache
def both(case: str) -> tuple[Any, JSONTokenizer]:
    """A tokenizer of theirs, and ours of its description."""
    theirs = CASES[case]()
    return theirs, JSONTokenizer(json.loads(theirs.to_str()))


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=40, deadline=None)
@given(text=texts)
def test_ids_are_those_of_tokenizers(case: str, text: str) -> None:
    theirs, ours = both(case)
    ids = theirs.encode(text, add_special_tokens=False).ids
    assert ours.encode(text, "all") == ids
    assert ours.vocab_size == theirs.get_vocab_size()
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False)


def test_a_long_piece_and_files_of_our_own(tmp_path: Path) -> None:
    theirs = sentencepiece_like("llama2")
    (tmp_path / "tokenizer.json").write_text(theirs.to_str(), encoding="utf-8")
    ours = find_tokenizer(tmp_path)
    assert isinstance(ours, JSONTokenizer)
    text = "the theme " * 300 + "世界" * 50
    assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids
    save_tokenizer(ours, tmp_path / "tokenizer")
    again = load_tokenizer(tmp_path / "tokenizer")
    assert again.encode(text) == ours.encode(text) and again.decode(again.encode(text)) == text
    assert again.decode(again.encode("  two  \n")) == "  two  \n"


# ---------------------------------------------------------------- without the library


def small(**changes: Any) -> dict[str, Any]:
    """A tokenizer.json with the bytes and a few merges."""
    letters = {byte: character for character, byte in byte_characters().items()}
    vocab = {letters[byte]: byte for byte in range(256)} | {"th": 256, "the": 257, "Ġthe": 258, "20": 259}
    model = {"type": "BPE", "vocab": vocab, "merges": [["t", "h"], ["th", "e"], "Ġ the", "2 0"]}
    base = {
        "version": "1.0",
        "added_tokens": [{"id": 260, "content": "<|end|>", "special": True}],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        "decoder": {"type": "ByteLevel"},
        "model": model,
    }
    return {**base, **changes}


def test_a_small_one_by_hand() -> None:
    tokenizer = JSONTokenizer(small())
    assert tokenizer.encode("the the 2023") == [257, 258, 32, 259, 50, 51]
    assert tokenizer.decode([257, 258, 260]) == "the the<|end|>"
    assert tokenizer.encode("the<|end|>", "all") == [257, 260] and tokenizer.vocab_size == 261
    assert tokenizer.encode("<|", "none") == [60, 124]
    digits = [{"type": "Digits", "individual_digits": True}, small()["pre_tokenizer"]]
    alone = JSONTokenizer(small(pre_tokenizer={"type": "Sequence", "pretokenizers": digits}))
    assert alone.encode("2023") == [50, 48, 50, 51]
    lower = JSONTokenizer(small(normalizer={"type": "Lowercase"}))
    assert lower.encode("THE") == [257]


def test_nothing_is_found_right_behind_a_match() -> None:
    """Where Python finds "" once more, Oniguruma does not: "t" goes together with what follows it."""
    split = {"type": "Split", "pattern": {"Regex": "t*(?=h)"}, "behavior": "MergedWithNext", "invert": False}
    bytes_alone = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    steps = {"type": "Sequence", "pretokenizers": [split, bytes_alone]}
    assert JSONTokenizer(small(pre_tokenizer=steps)).encode("the") == [257]
    split["behavior"] = "Isolated"  # and the search goes on
    assert JSONTokenizer(small(pre_tokenizer=steps)).encode("thethe") == [116, 104, 101] * 2


def test_what_is_saved_is_the_whole_description(tmp_path: Path) -> None:
    tokenizer = JSONTokenizer(small())
    save_tokenizer(tokenizer, tmp_path / "tokenizer")
    again = load_tokenizer(tmp_path / "tokenizer")
    assert isinstance(again, JSONTokenizer) and again.description == tokenizer.description
    assert again.encode("the 2023<|end|>", "all") == tokenizer.encode("the 2023<|end|>", "all")


@pytest.mark.parametrize(
    ("said", "ids", "first"),
    [({}, [0, 1, 0, 1], ""), ({"add_prefix_space": False}, [1, 0, 1], " ")],
    ids=["a space first", "none"],
)
def test_the_decoder_reads_a_metaspace_as_the_splitter_does(
    said: dict[str, Any], ids: list[int], first: str
) -> None:
    """Also with another sign than SentencePiece's, and where the place of the first one is said as of old."""
    step = {"type": "Metaspace", "replacement": "_", **said}
    model = {"type": "BPE", "vocab": {"_": 0, "a": 1}, "merges": []}
    tokenizer = JSONTokenizer({"pre_tokenizer": step, "decoder": step, "model": model})
    assert tokenizer.encode("a a") == ids and tokenizer.decode(ids) == "a a"
    assert tokenizer.decode([0, 1]) == first + "a"


def test_a_folder_whose_tokenizer_json_splits_otherwise_is_not_split_as_gpt2s(tmp_path: Path) -> None:
    """ "2023" is single digits, whatever vocab.json and merges.txt beside it would make of it."""
    digits = [{"type": "Digits", "individual_digits": True}, small()["pre_tokenizer"]]
    described = small(pre_tokenizer={"type": "Sequence", "pretokenizers": digits})
    vocab = {**described["model"]["vocab"], "<|end|>": 260}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (tmp_path / "merges.txt").write_text("t h\nth e\nĠ the\n2 0\n", encoding="utf-8")
    (tmp_path / "tokenizer.json").write_text(json.dumps(described), encoding="utf-8")
    found = find_tokenizer(tmp_path)
    assert found is not None and found.encode("2023") == [50, 48, 50, 51]


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no model": ({"model": None}, "model is None, not an object"),
    "another model": ({"model": {"type": "Unigram", "vocab": []}}, "the model is 'Unigram'"),
    "no tokens": ({"model": {"type": "BPE", "vocab": {}, "merges": []}}, "no tokens"),
    "an id of text": ({"model": {"vocab": {"a": "0"}, "merges": []}}, "token 'a' has '0' for an id"),
    "an id twice": ({"model": {"vocab": {"a": 0, "b": 0}, "merges": []}}, "the same id 0"),
    "merges of nothing": ({"model": {"vocab": {"a": 0}, "merges": ["a b"]}}, "no token 'b'"),
    "merges of three": ({"model": {"vocab": {"a": 0}, "merges": [["a", "a", "a"]]}}, "not two tokens"),
    "merges of numbers": ({"model": {"vocab": {"a": 0}, "merges": 7}}, "merges of the model is no list"),
    "dropout": ({"model": {"vocab": {"a": 0}, "merges": [], "dropout": 0.1}}, "dropout of the model is 0.1"),
    "no bytes": ({"model": {"vocab": {"a": 0}, "merges": [], "byte_fallback": True}}, "no <0x00>"),
    "a strange normalizer": ({"normalizer": {"type": "Precompiled"}}, "the normalizer 'Precompiled'"),
    "a strange splitter": ({"pre_tokenizer": {"type": "UnicodeScripts"}}, "a step 'UnicodeScripts'"),
    "a strange decoder": ({"decoder": {"type": "WordPiece"}}, "the decoder has a step 'WordPiece'"),
    "another text decoded": (
        {"decoder": {"type": "Replace", "pattern": {"String": "▁"}, "content": "_"}},
        "the decoder puts '_' for '▁'",
    ),
    "more stripped": (
        {"decoder": {"type": "Strip", "content": " ", "start": 2, "stop": 0}},
        "the decoder strips something else",
    ),
    "no behaviour": ({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "a"}, "behavior": "X"}}, "'X'"),
    "a pattern that explodes": (
        {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a+)+b"}, "behavior": "Isolated"}},
        "double with each character",
    ),
    "a pattern of nothing": (
        {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "a*"}, "behavior": "Isolated"}},
        "matches nothing at all",
    ),
    "steps without end": (
        {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}] * 51}},
        "more than 50 steps",
    ),
    "an added token without text": ({"added_tokens": [{"id": 3, "content": ""}]}, "has the content ''"),
    "an added token's id taken": ({"added_tokens": [{"id": 3, "content": "x<"}]}, "an id of its own, not 3"),
    "a single word": ({"added_tokens": [{"id": 261, "content": "x<", "single_word": True}]}, "single word"),
    "a switch of text": ({"added_tokens": [{"id": 261, "content": "x<", "lstrip": "no"}]}, "lstrip is 'no'"),
}


@pytest.mark.parametrize(("changes", "message"), WRONG.values(), ids=WRONG.keys())
def test_what_is_not_done_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(small(**changes)), encoding="utf-8")
    with pytest.raises(TokenizerError, match=message) as caught:
        find_tokenizer(tmp_path)
    assert "tokenizer.json" in str(caught.value) and "\n" not in str(caught.value)


# ---------------------------------------------------------------- out


def trained(pattern: str) -> BPETokenizer:
    made = BPETokenizer(pattern)
    made.train("".join(CORPUS), 420)
    made.register_special_tokens({"<|end|>": 420, "<s>": 421})
    return made


def ranked(path: Path) -> BPETokenizer:
    """A tokenizer of a tiktoken rank file."""
    lines = [
        f"{base64.b64encode(token).decode()} {idx}"
        for idx, token in trained(RegexPatterns.GPT4).vocab.items()
    ]
    path.write_text("\n".join(lines))
    return BPETokenizer.from_tiktoken(path, RegexPatterns.CL100K, {"<|end|>": 420, "<s>": 421})


PATTERNS = {name: getattr(RegexPatterns, name) for name in ("GPT2", "GPT4", "CL100K")} | {
    "Llama 3": LLAMA3_PATTERN
}


@cache
def described(name: str) -> tuple[BPETokenizer, Any]:
    """A tokenizer of ours, and theirs of its description."""
    tokenizers = pytest.importorskip("tokenizers", reason="ids are compared where tokenizers is installed")
    if name == "ranks":
        with TemporaryDirectory() as place:
            ours = ranked(Path(place) / "ranks")
    else:
        ours = trained(PATTERNS[name])
    return ours, tokenizers.Tokenizer.from_str(json.dumps(describe(ours)))


@pytest.mark.parametrize("name", [*PATTERNS, "ranks"])
@settings(max_examples=40, deadline=None)
@given(text=texts)
def test_what_is_written_gives_the_same_ids_there(name: str, text: str) -> None:
    ours, theirs = described(name)
    ids = ours.encode(text, "all")
    assert theirs.encode(text).ids == ids
    assert theirs.decode(ids, skip_special_tokens=False) == ours.decode(ids)


def test_what_is_written_is_read_here() -> None:
    characters = CharTokenizer("abc é")
    characters.register_special_tokens({"<end>": 5})
    for ours, text in ((trained(RegexPatterns.GPT4), "it's the theme 2023"), (characters, "a cab é")):
        description = describe(ours)
        assert description is not None
        again = JSONTokenizer(json.loads(json.dumps(description)))
        assert again.encode(text) == ours.encode(text) and again.decode(again.encode(text)) == text
        assert again.special_tokens == ours.special_tokens and again.vocab_size == ours.vocab_size
    assert describe(BPETokenizer(RegexPatterns.TINYGPT)) is None
    assert describe(BPETokenizer(r"\p{L}+")) is None  # what lies between matches is dropped here


@pytest.mark.parametrize("kind", ["characters", "bpe"])
def test_auto_tokenizer_reads_an_exported_folder(kind: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="compared where transformers is installed")
    pytest.importorskip("torch", reason="transformers needs PyTorch")
    ours = CharTokenizer("abcdefg h") if kind == "characters" else trained(RegexPatterns.GPT4)
    config = GPTConfig(ours.vocab_size, 8, 1, 2, 8)
    model = GPT(config)
    model.eval()
    save_pretrained(model, tmp_path / "out", "gpt2", ours)
    text = "a bad cafe" if kind == "characters" else "it's the theme 2023 <s>世界"
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = ours.encode(text, "all")
    assert theirs(text)["input_ids"] == ids and theirs.decode(ids) == text
    (tmp_path / "out" / "tokenizer").unlink()
    found = find_tokenizer(tmp_path / "out")
    assert found is not None and found.encode(text, "all") == ids
    there = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert there.config.vocab_size == ours.vocab_size
