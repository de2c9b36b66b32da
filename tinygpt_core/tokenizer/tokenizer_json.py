"""The tokenizer that a `tokenizer.json` describes, as the `tokenizers` library reads it.

A text goes through five steps, each a list of what the file says:

    added tokens    cut out of the text, or of what the normalizer made of it
    normalizer      changes each part between them: Unicode forms, "▁" for a space
    pre-tokenizer   splits each part into pieces; no token goes from one into the next
    model           byte-pair encoding of each piece: its characters, then merges in the order of the file.
                    A character that is no token is its bytes (`byte_fallback`), the unknown token, or nothing
    decoder         what tokens are as text

Byte-level BPE (GPT-2, Llama 3, Qwen, SmolLM) has a character for each byte, into which the pre-tokenizer puts
a piece. BPE as in SentencePiece (Llama 2, Gemma) does not split, and has "▁" for a space.

What is asked for and not done here is refused by name: ids would be others than those that the model was
trained on.

Source: https://github.com/huggingface/tokenizers; Kudo, Richardson 2018, https://arxiv.org/abs/1808.06226
(SentencePiece)
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, NamedTuple, NoReturn

from ..files.atomic import Path
from ..files.json_objects import SerializationError, read_json_object
from .base import Pair, Tokenizer, TokenizerError, has_surrogates
from .bpe import merge_lowest
from .patterns import RegexPatterns, compile_pattern
from .vocabularies import byte_characters

MAXIMUM_BYTES = 64_000_000  # of a tokenizer.json; Gemma's has half
LONGEST_CACHED = 100  # characters of a piece whose ids are remembered
CACHE_SIZE = 200_000  # pieces
LONGEST_TEXT = 100  # characters that a step puts somewhere
SPACES = "".join(
    map(chr, (*range(9, 14), 32, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029))
) + ("\u202f\u205f\u3000")
"""White space, as Unicode has it."""
MOST_STEPS = 50  # of a normalizer or pre-tokenizer
NORMAL_FORMS = ("NFC", "NFD", "NFKC", "NFKD")
BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")

Normalizer = Callable[[str], str]


class PieceOfText(NamedTuple):
    """A part of a text on its way through the pre-tokenizer."""

    text: str
    is_first: bool  # whether the text begins with it


Splitter = Callable[[PieceOfText], Iterable[PieceOfText]]


class AddedToken(NamedTuple):
    """A text that is one token wherever it stands."""

    text: str
    idx: int
    is_special: bool
    is_normalized: bool  # whether it is looked for in normalized text
    eats_left: bool  # white space before it
    eats_right: bool  # and behind it


class JSONTokenizer(Tokenizer):
    """The tokenizer that a `tokenizer.json` describes; `encode` gives the ids of the `tokenizers` library's
    `encode(text, add_special_tokens=False)`.

    Args:
        description: the JSON object in the file.

    Attributes:
        description: the same.
        vocab: the id of each token of the model.

    Raises:
        TokenizerError: it asks for something that is not done here, or is damaged.
    """

    kind = "tokenizer.json"

    def __init__(self, description: Mapping[str, Any]) -> None:
        super().__init__()
        self.description = dict(description)
        model = _object(description.get("model"), "model")
        self.vocab, self._unknown_id = _read_model(model)
        self._base = max(self.vocab.values()) + 1  # above it, ranks of merges stand for what they make
        self._ranks, self._made = _read_merges(model, self.vocab)
        self._fuse_unknown = _switch(model, "fuse_unk")
        self._ignore_merges = _switch(model, "ignore_merges")
        self._byte_ids = _byte_fallback_ids(model, self.vocab)
        self._normalize = _normalizer(description.get("normalizer"))
        self._split = _pre_tokenizer(description.get("pre_tokenizer"))
        self._cache: dict[str, list[int]] = {}
        self._added = _added_tokens(description, self.vocab)
        self._token_bytes = self._decoded(description.get("decoder"))
        self.special_tokens = {token.text: token.idx for token in self._added if token.is_special}

    @property
    def vocab_size(self) -> int:
        """One more than the highest id."""
        return max(chain(self.vocab.values(), (token.idx for token in self._added))) + 1

    def _ordinary_ids(self) -> Collection[int]:
        special = set(self.special_tokens.values())
        others = {token.idx for token in self._added if not token.is_special}
        return ({*self.vocab.values()} - special) | others

    # ---------------------------------------------------------------- encoding

    def _encode_with(self, text: str, special: Mapping[str, int]) -> list[int]:
        wanted = [token for token in self._added if not token.is_special or token.text in special]
        plain = [token for token in wanted if not token.is_normalized]
        normalized = [
            token._replace(text=self._normalize(token.text)) for token in wanted if token.is_normalized
        ]
        ids: list[int] = []
        for number, (part, found) in enumerate(_cut(text, plain)):
            if found is not None:
                ids.append(found.idx)
            elif part:
                for piece, inner in _cut(self._normalize(part), normalized):
                    if inner is not None:
                        ids.append(inner.idx)
                    elif piece:
                        ids += self._encode_part(PieceOfText(piece, number == 0 and not ids))
        return ids

    def _encode_part(self, part: PieceOfText) -> Iterator[int]:
        for piece in self._split(part):
            if not piece.text:
                continue
            found = self._cache.get(piece.text)
            if found is None:
                found = self._encode_piece(piece.text)
                if len(piece.text) <= LONGEST_CACHED:
                    if len(self._cache) >= CACHE_SIZE:
                        self._cache.clear()
                    self._cache[piece.text] = found
            yield from found

    def _encode_piece(self, piece: str) -> list[int]:
        """Returns the ids of a piece: those of its characters after all merges."""
        if self._ignore_merges and piece in self.vocab:
            return [self.vocab[piece]]
        ids: list[int] = []
        is_unknown = False
        for character in piece:
            idx = self.vocab.get(character)
            was_unknown, is_unknown = is_unknown, False
            if idx is not None:
                ids.append(idx)
            elif self._byte_ids is not None:
                ids += [self._byte_ids[byte] for byte in character.encode("utf-8")]
            elif self._unknown_id is not None:
                is_unknown = True
                if not (was_unknown and self._fuse_unknown):
                    ids.append(self._unknown_id)
        merged = merge_lowest(ids, self._merged)
        return [idx if idx < self._base else self._made[idx - self._base] for idx in merged]

    def _merged(self, pair: Pair) -> int | None:
        """Returns what a pair becomes: a number that grows with the rank of its merge; None where it stays
        two.
        """
        first, second = (idx if idx < self._base else self._made[idx - self._base] for idx in pair)
        rank = self._ranks.get((first, second))
        return None if rank is None else self._base + rank

    # ---------------------------------------------------------------- decoding

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Returns the bytes of the tokens, one after the other.

        Raises:
            TokenizerError: an id that is not in the vocabulary.
        """
        parts = []
        for idx in ids:
            part = self._token_bytes.get(idx)
            if part is None:
                raise TokenizerError(f"id {idx} is not in the vocabulary of {self.vocab_size} tokens")
            parts.append(part)
        return b"".join(parts)

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of `ids`, without the space that the normalizer put before it; bytes that are not
        valid UTF-8 become U+FFFD.

        Raises:
            TokenizerError: an id that is not in the vocabulary.
        """
        text = super().decode(ids)
        return text[1:] if self._puts_space_first and text.startswith(" ") else text

    def _decoded(self, decoder: Any) -> dict[int, bytes]:
        """Returns the bytes that each id stands for in a text."""
        kinds, spaces, self._puts_space_first = _read_decoder(decoder)
        characters = byte_characters()
        found: dict[int, bytes] = {}
        for text, idx in self.vocab.items():
            byte = BYTE_TOKEN.fullmatch(text) if "ByteFallback" in kinds else None
            if byte is not None:
                found[idx] = bytes([int(byte[1], 16)])
            elif "ByteLevel" in kinds and all(character in characters for character in text):
                found[idx] = bytes(characters[character] for character in text)
            else:
                found[idx] = text.translate(spaces).encode("utf-8")
        for token in self._added:
            text = self._normalize(token.text) if token.is_normalized else token.text
            found[token.idx] = text.translate(spaces).encode("utf-8")
        return found

    # ---------------------------------------------------------------- files of `save_tokenizer`

    def _to_json(self) -> dict[str, Any]:
        return {"tokenizer_json": self.description}

    @classmethod
    def _from_json(cls, value: dict[str, Any]) -> JSONTokenizer:
        return cls(_object(value.get("tokenizer_json"), "tokenizer_json"))


def read_tokenizer_json(path: Path) -> JSONTokenizer:
    """Returns the tokenizer that a `tokenizer.json` describes.

    Raises:
        TokenizerError: it asks for something that is not done here, or is damaged; the message names the
            file.
        OSError: it cannot be read.
    """
    try:
        return JSONTokenizer(read_json_object(path, MAXIMUM_BYTES))
    except (SerializationError, TokenizerError) as problem:
        text = str(problem)
        name = os.fspath(path)
        raise TokenizerError(text if name in text else f"{name}: {text}") from None


# ---------------------------------------------------------------- added tokens


def _added_tokens(description: Mapping[str, Any], vocab: Mapping[str, int]) -> list[AddedToken]:
    """Returns the tokens that were added; raises TokenizerError where one cannot be."""
    added = description.get("added_tokens") or []
    if not isinstance(added, list):
        _refuse("added_tokens is no list")
    taken = {idx: text for text, idx in vocab.items()}
    found: list[AddedToken] = []
    for value in added:
        token = _object(value, "an added token")
        text, idx = token.get("content"), token.get("id")
        if not isinstance(text, str) or not text or has_surrogates(text):
            _refuse(f"an added token has the content {_quoted(text)}")
        if type(idx) is not int or not 0 <= idx < 1 << 31 or taken.get(idx, text) != text:
            _refuse(f"the added token {_quoted(text)} needs an id of its own, not {_quoted(idx)}")
        if taken.setdefault(idx, text) != text or any(text == other.text for other in found):
            _refuse(f"the added token {_quoted(text)} stands there twice")
        if _switch(token, "single_word"):
            _refuse(f"the added token {_quoted(text)} is looked for as a single word")
        is_special = _switch(token, "special")
        flags = (
            _switch(token, "normalized", not is_special),
            _switch(token, "lstrip"),
            _switch(token, "rstrip"),
        )
        found.append(AddedToken(text, idx, is_special, *flags))
    return found


def _cut(text: str, tokens: list[AddedToken]) -> Iterator[tuple[str, AddedToken | None]]:
    """Yields the parts of a text, and the token that each is: the leftmost, of several the longest."""
    by_text = {token.text: token for token in tokens if token.text}
    if not by_text:
        yield text, None
        return
    longest_first = sorted(by_text, key=len, reverse=True)
    start = 0
    for match in re.finditer("|".join(map(re.escape, longest_first)), text):
        token = by_text[match.group()]
        left, right = match.span()  # where a token before it has eaten, it is found all the same
        if token.eats_left:
            left = start + len(text[start:left].rstrip(SPACES))
        while token.eats_right and right < len(text) and text[right] in SPACES:
            right += 1
        yield text[start:left], None
        yield text[left:right], token
        start = right
    yield text[start:], None


# ---------------------------------------------------------------- normalizers


def _normalizer(value: Any) -> Normalizer:
    """Returns what a normalizer does."""
    functions = [_normalizing_step(step) for step in _steps(value, "normalizers", "normalizer")]

    def normalize(text: str) -> str:
        for function in functions:
            text = function(text)
        return text

    return normalize


def _normalizing_step(step: Mapping[str, Any]) -> Normalizer:
    kind = step.get("type")
    if kind in NORMAL_FORMS:
        form: Any = kind
        return lambda text: unicodedata.normalize(form, text)
    if kind == "Lowercase":
        return str.lower
    if kind == "Prepend":
        before = _text(step, "prepend")
        return lambda text: before + text if text else text
    if kind == "Replace":
        old, new = _string_pattern(step), _text(step, "content")
        if len(new) > len(old):
            _refuse(f"a Replace makes a text longer: {_quoted(new)} for {_quoted(old)}")
        return lambda text: text.replace(old, new)
    _refuse(f"the normalizer {_quoted(kind)} changes a text before it is split")


def _string_pattern(step: Mapping[str, Any]) -> str:
    """Returns the text that a Replace looks for."""
    pattern = step.get("pattern")
    text = pattern.get("String") if isinstance(pattern, Mapping) and len(pattern) == 1 else None
    if not isinstance(text, str) or not text:
        _refuse(f"a Replace looks for {_quoted(pattern)}")
    return text


# ---------------------------------------------------------------- pre-tokenizers


def _pre_tokenizer(value: Any) -> Splitter:
    """Returns what a pre-tokenizer does to a part of a text."""
    steps = _steps(value, "pretokenizers", "pre_tokenizer")
    if [step.get("type") for step in steps].count("ByteLevel") > 1:
        _refuse("the pre-tokenizer puts characters for bytes more than once")
    splitters = [_splitting_step(step) for step in steps]

    def split(part: PieceOfText) -> Iterable[PieceOfText]:
        pieces: Iterable[PieceOfText] = [part]
        for splitter in splitters:
            pieces = [new for piece in pieces for new in splitter(piece) if new.text]
        return pieces

    return split


def _splitting_step(step: Mapping[str, Any]) -> Splitter:
    kind = step.get("type")
    if kind == "ByteLevel":
        return _byte_level(step)
    if kind == "Metaspace":
        return _metaspace(step)
    if kind == "Digits":
        is_alone = _switch(step, "individual_digits")
        return _splitter(r"\p{N}", "Isolated" if is_alone else "Contiguous", False)
    if kind == "Split":
        pattern = step.get("pattern")
        said = list(pattern.items()) if isinstance(pattern, Mapping) else []
        behavior = step.get("behavior")
        if len(said) != 1 or said[0][0] not in ("Regex", "String") or not isinstance(said[0][1], str):
            _refuse(f"the pattern of a Split is {_quoted(pattern)}")
        if behavior not in BEHAVIORS:
            _refuse(f"a Split is {_quoted(behavior)}")
        regex = said[0][1] if said[0][0] == "Regex" else re.escape(said[0][1])
        return _splitter(regex, behavior, _switch(step, "invert"))
    _refuse(f"the pre-tokenizer has a step {_quoted(kind)}")


BEHAVIORS = ("Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous")
"""What may become of the matches of a Split."""


def _splitter(pattern: str, behavior: str, invert: bool) -> Splitter:
    """Returns a function that splits at the matches of a pattern, or (inverted) between them."""
    # Oniguruma's end of a text is \z, which Python before 3.14 spells \Z
    compiled = compile_pattern(pattern.replace(r"\z", r"\Z"))
    if compiled.match("") is not None:
        _refuse(f"the pattern {_quoted(pattern)} matches nothing at all")

    def split(piece: PieceOfText) -> Iterable[PieceOfText]:
        spans: list[tuple[int, int, bool]] = []
        end = 0
        for match in compiled.finditer(piece.text):
            start, stop = match.span()
            if spans and start == stop == end:
                continue  # Oniguruma finds nothing right behind a match, where Python finds "" once more
            if start > end:
                spans.append((end, start, invert))
            spans.append((start, stop, not invert))
            end = stop
        if end < len(piece.text):
            spans.append((end, len(piece.text), invert))
        for start, stop in _joined(spans, behavior):
            yield PieceOfText(piece.text[start:stop], piece.is_first and start == 0)

    return split


def _joined(spans: list[tuple[int, int, bool]], behavior: str) -> Iterable[tuple[int, int]]:
    """Returns the pieces, given all spans of a text and whether each is a match."""
    if behavior == "Isolated":
        return [(start, stop) for start, stop, _ in spans]
    if behavior == "Removed":
        return [(start, stop) for start, stop, is_match in spans if not is_match]
    found: list[tuple[int, int]] = []
    was_match: bool | None = None
    is_backwards = behavior == "MergedWithNext"
    for start, stop, is_match in reversed(spans) if is_backwards else spans:
        joins = is_match == was_match if behavior == "Contiguous" else is_match and not was_match
        if joins and found and behavior != "MergedWithNext":
            found[-1] = (found[-1][0], stop)
        elif joins and found:
            found[-1] = (start, found[-1][1])
        else:
            found.append((start, stop))
        was_match = is_match
    return found[::-1] if is_backwards else found


def _byte_level(step: Mapping[str, Any]) -> Splitter:
    """Returns a function that puts a character for each byte, after a split by GPT-2's pattern."""
    adds_space = _switch(step, "add_prefix_space", True)
    split = _splitter(RegexPatterns.GPT2, "Isolated", False) if _switch(step, "use_regex", True) else None
    characters = {byte: character for character, byte in byte_characters().items()}

    def byte_level(piece: PieceOfText) -> Iterable[PieceOfText]:
        text = piece.text
        if adds_space and not text.startswith(" "):
            piece = PieceOfText(" " + text, piece.is_first)
        for part in [piece] if split is None else split(piece):
            written = "".join([characters[byte] for byte in part.text.encode("utf-8")])
            yield PieceOfText(written, part.is_first)

    return byte_level


def _metaspace_settings(step: Mapping[str, Any]) -> tuple[str, str]:
    """Returns the sign for a space, and whether one is put "always" before a text, "first" or "never"."""
    sign = _text(step, "replacement")
    old = "always" if _switch(step, "add_prefix_space", True) else "never"
    scheme = step.get("prepend_scheme", old)
    if scheme not in ("always", "first", "never") or len(sign) != 1:
        _refuse(f"a Metaspace has the prepend_scheme {_quoted(scheme)} and the replacement {_quoted(sign)}")
    return sign, scheme


def _metaspace(step: Mapping[str, Any]) -> Splitter:
    """Returns a function that puts a sign for each space, and one before the text."""
    sign, scheme = _metaspace_settings(step)
    split = _splitter(re.escape(sign), "MergedWithNext", False) if _switch(step, "split", True) else None

    def metaspace(piece: PieceOfText) -> Iterable[PieceOfText]:
        text = piece.text.replace(" ", sign)
        is_wanted = scheme == "always" or (scheme == "first" and piece.is_first)
        if is_wanted and not text.startswith(sign):
            text = sign + text
        replaced = PieceOfText(text, piece.is_first)
        return [replaced] if split is None else split(replaced)

    return metaspace


# ---------------------------------------------------------------- the model


def _read_model(model: Mapping[str, Any]) -> tuple[dict[str, int], int | None]:
    """Returns the ids of a model's tokens, and that of the unknown one."""
    if model.get("type", "BPE") != "BPE":
        _refuse(f"the model is {_quoted(model.get('type'))}; byte-pair encoding ('BPE') is what is read")
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name) not in (None, "", 0.0):
            _refuse(f"{name} of the model is {_quoted(model[name])}")
    vocab = _object(model.get("vocab"), "vocab of the model")
    if not vocab:
        _refuse("the model has no tokens")
    texts: dict[int, str] = {}
    for text, idx in vocab.items():
        if type(idx) is not int or not 0 <= idx < 1 << 31 or has_surrogates(text):
            _refuse(f"token {_quoted(text)} has {_quoted(idx)} for an id")
        if texts.setdefault(idx, text) != text:
            _refuse(f"the tokens {_quoted(texts[idx])} and {_quoted(text)} have the same id {idx}")
    unknown = model.get("unk_token")
    if unknown is not None and (not isinstance(unknown, str) or unknown not in vocab):
        _refuse(f"unk_token is {_quoted(unknown)}, which is no token")
    return dict(vocab), None if unknown is None else vocab[unknown]


def _read_merges(model: Mapping[str, Any], vocab: Mapping[str, int]) -> tuple[dict[Pair, int], list[int]]:
    """Returns the rank of each pair that is merged, and for each rank the id that is made."""
    merges = model.get("merges")
    if not isinstance(merges, list):
        _refuse("merges of the model is no list")
    ranks: dict[Pair, int] = {}
    made: list[int] = []
    for rank, value in enumerate(merges):
        parts = value.split(" ") if isinstance(value, str) else value
        is_pair = isinstance(parts, list) and len(parts) == 2 and all(isinstance(part, str) for part in parts)
        if not is_pair:
            _refuse(f"merge {rank} is {_quoted(value)}, not two tokens")
        first, second = parts
        for text in (first, second, first + second):
            if text not in vocab:
                _refuse(f"merge {rank} of {_quoted(value)}: there is no token {_quoted(text)}")
        ranks[vocab[first], vocab[second]] = rank  # of equal ones the last counts, as in `tokenizers`
        made.append(vocab[first + second])
    return ranks, made


def _byte_fallback_ids(model: Mapping[str, Any], vocab: Mapping[str, int]) -> list[int] | None:
    """Returns the ids of the tokens that stand for bytes; None where unknown characters are not their
    bytes.
    """
    if not _switch(model, "byte_fallback"):
        return None
    texts = [f"<0x{byte:02X}>" for byte in range(256)]
    if missing := [text for text in texts if text not in vocab]:
        _refuse(f"byte_fallback needs a token for every byte, but there is no {missing[0]}")
    return [vocab[text] for text in texts]


# ---------------------------------------------------------------- the decoder


def _read_decoder(decoder: Any) -> tuple[set[str], dict[int, str], bool]:
    """Returns the kinds of steps, what becomes a space (for `str.translate`), and whether one at the start
    goes.
    """
    kinds: set[str] = set()
    signs: set[str] = set()
    loses_space = False
    for step in _steps(decoder, "decoders", "decoder"):
        kind = step.get("type")
        if kind == "Metaspace":
            sign, scheme = _metaspace_settings(step)
            signs.add(sign)
            loses_space = loses_space or scheme != "never"
        elif kind == "Replace":
            sign, space = _string_pattern(step), _text(step, "content")
            if len(sign) != 1 or space != " ":
                _refuse(f"the decoder puts {_quoted(space)} for {_quoted(sign)}")
            signs.add(sign)
        elif kind == "Strip":
            if [step.get(name) for name in ("content", "start", "stop")] != [" ", 1, 0]:
                _refuse("the decoder strips something else than one space at the start")
            loses_space = True
        elif kind not in ("ByteLevel", "ByteFallback", "Fuse"):
            _refuse(f"the decoder has a step {_quoted(kind)}")
        kinds.add(kind)
    return kinds, str.maketrans(dict.fromkeys(signs, " ")), loses_space


# ---------------------------------------------------------------- what is in the file


def _steps(value: Any, key: str, what: str) -> list[Mapping[str, Any]]:
    """Returns the steps of a normalizer, pre-tokenizer or decoder, sequences taken apart."""
    found: list[Mapping[str, Any]] = []
    waiting = [] if value is None else [value]
    while waiting:
        step = _object(waiting.pop(0), what)
        if step.get("type") == "Sequence":
            inner = step.get(key)
            if not isinstance(inner, list):
                _refuse(f"a Sequence of the {what} has no list of {key}")
            waiting = [*inner, *waiting]
        else:
            found.append(step)
        if len(found) + len(waiting) > MOST_STEPS:
            _refuse(f"the {what} has more than {MOST_STEPS} steps")
    return found


def _object(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        _refuse(f"{what} is {_quoted(value)}, not an object")
    return value


def _switch(values: Mapping[str, Any], name: str, default: bool = False) -> bool:
    value = values.get(name, default)
    if value is None:
        return default
    if not isinstance(value, bool):
        _refuse(f"{name} is {_quoted(value)}, not true or false")
    return value


def _text(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    if not isinstance(value, str) or has_surrogates(value) or len(value) > LONGEST_TEXT:
        _refuse(f"{name} is {_quoted(value)}, not a text of at most {LONGEST_TEXT} characters")
    return value


def _quoted(value: Any) -> str:
    return f"{value!r:.80}"


def _refuse(reason: str) -> NoReturn:
    raise TokenizerError(f"tokenizer.json: {reason}; this is not done here")
