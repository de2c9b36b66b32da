"""Floor 7: tokenizers, between text and the integers a model reads.

A `CharTokenizer` gives every character a number. A `BPETokenizer` starts from the 256 bytes and learns merges: the most frequent pair of
neighbouring tokens becomes a new token, again and again, so that common words end up as one number and nothing is unknown.

Sources: Sennrich, Haddow, Birch, "Neural Machine Translation of Rare Words with Subword Units", 2016; Radford et al., "Language Models are
Unsupervised Multitask Learners", 2019 (bytes as the base, a pattern that keeps merges within words).
"""

from __future__ import annotations

import heapq
import json
import os
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from itertools import pairwise
from typing import Any, ClassVar

from .files import Path, write_durably

Pair = tuple[int, int]

FORMAT = "tinygpt tokenizer"
FORMAT_VERSION = 1
MAXIMUM_FILE = 256_000_000
MAXIMUM_PATTERN = 10_000
CACHE_SIZE = 200_000


class TokenizerError(ValueError):
    """Text, ids or a file that a tokenizer cannot take; the message says what would work."""


class RegexPatterns:
    """Patterns that split a text into the chunks within which merges happen, in the notation of their authors.

    `\\p{L}` and `\\p{N}` (Unicode letters and numbers) are not known to Python's `re`; `compile_pattern` spells them out.
    """

    GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    GPT4 = (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*"
        r"|\s*[\r\n]|\s+(?!\S)|\s+"
    )


WHITE_SPACE = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # the property White_Space; `re`'s \s has more


@cache
def unicode_class(letter: str) -> str:
    """Returns the inside of a bracket expression that matches all characters whose general category begins with `letter`."""
    ranges: list[list[int]] = []
    for code in range(sys.maxunicode + 1):
        if unicodedata.category(chr(code))[0] == letter:
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1][1] = code
            else:
                ranges.append([code, code])
    return "".join(f"\\U{a:08x}" if a == b else f"\\U{a:08x}-\\U{b:08x}" for a, b in ranges)


@lru_cache(maxsize=64)
def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Compiles a split pattern. One that uses `\\p{L}` or `\\p{N}` is read as the `regex` module would: \\s is Unicode's White_Space.

    Raises:
        TokenizerError: no valid pattern, or an unreasonably long one.
    """
    if not isinstance(pattern, str) or len(pattern) > MAXIMUM_PATTERN:
        raise TokenizerError(f"a pattern is a string of at most {MAXIMUM_PATTERN:,} characters")
    inside = False

    def spell_out(found: re.Match[str]) -> str:
        nonlocal inside
        text = found.group()
        if text in "[]":
            inside = text == "["
            return text
        if text.startswith(r"\p{"):
            if text[3:-1] not in ("L", "N"):
                raise TokenizerError(rf"pattern: {text} is not supported; \p{{L}} and \p{{N}} are")
            members = unicode_class(text[3])
        elif text in (r"\s", r"\S"):
            members = WHITE_SPACE
            if text == r"\S" and not inside:
                return f"[^{members}]"
        else:
            return text
        return members if inside else f"[{members}]"

    spelled = re.sub(r"\\p\{\w+\}|\\.|[\[\]]", spell_out, pattern, flags=re.DOTALL) if r"\p{" in pattern else pattern
    try:
        return re.compile(spelled)
    except (re.error, RecursionError, OverflowError) as problem:
        raise TokenizerError(f"not a valid pattern: {problem}") from None


# ---------------------------------------------------------------- the textbook pieces


def get_stats(ids: Iterable[int], counts: dict[Pair, int] | None = None) -> dict[Pair, int]:
    """Counts the pairs of neighbours in `ids`, on top of `counts` where given: [1, 2, 3, 1, 2] gives {(1, 2): 2, (2, 3): 1, (3, 1): 1}."""
    counts = {} if counts is None else counts
    for pair in pairwise(ids):
        counts[pair] = counts.get(pair, 0) + 1
    return counts


def merge(ids: Sequence[int], pair: Pair, idx: int) -> list[int]:
    """Returns `ids` with each occurrence of `pair` replaced by `idx`, from left to right."""
    first, second = pair
    result: list[int] = []
    i, last = 0, len(ids) - 1
    while i <= last:
        if i < last and ids[i] == first and ids[i + 1] == second:
            result.append(idx)
            i += 2
        else:
            result.append(ids[i])
            i += 1
    return result


def replace_control_characters(text: str) -> str:
    """Returns `text` with control characters (categories C…) written as \\u escapes, so that printing it moves no cursor."""
    return "".join(c if unicodedata.category(c)[0] != "C" else f"\\u{ord(c):04x}" for c in text)


def render_token(token: bytes) -> str:
    """Returns the bytes of a token as printable text."""
    return replace_control_characters(token.decode("utf-8", errors="replace"))


# ---------------------------------------------------------------- what all tokenizers do


class Tokenizer:
    """What every tokenizer offers: `encode`, `decode`, `vocab_size`, special tokens, and calling it on texts to get Tensors.

    Attributes:
        special_tokens: texts that stand for one id each and never arise from ordinary text, such as "<|endoftext|>".
    """

    kind: ClassVar[str] = ""

    def __init__(self) -> None:
        self.special_tokens: dict[str, int] = {}

    @property
    def vocab_size(self) -> int:
        """How many ids there are: all ids are below it."""
        raise NotImplementedError

    def _missing(self, *arguments: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} is no complete tokenizer")

    # text -> ids; ids -> bytes; () -> how many ids are not special; () -> its JSON fields; JSON fields -> a tokenizer (of the class)
    _encode_ordinary = _decode_bytes = _ordinary_size = _to_json = _from_json = _missing

    def register_special_tokens(self, special_tokens: Mapping[str, int]) -> None:
        """Sets the special tokens, {text: id}; their ids are not those of ordinary tokens.

        Raises:
            TokenizerError: an empty text, or an id that is taken or negative.
        """
        taken = self._ordinary_size()
        ids = list(special_tokens.values())
        for text, idx in special_tokens.items():
            if not isinstance(text, str) or not text:
                raise TokenizerError(f"a special token is a string that is not empty, not {text!r}")
            if type(idx) is not int or not taken <= idx < 1 << 31 or ids.count(idx) > 1:
                raise TokenizerError(f"special token {text!r} needs an id of its own, {taken} or above, not {idx!r}")
        self.special_tokens = dict(special_tokens)

    def encode(self, text: str, allowed_special: str | set[str] = "none_raise", visualise: bool = False) -> list[int]:
        """Returns the ids of `text`.

        Args:
            text: any string.
            allowed_special: which special tokens to recognise in it: "all", "none" (they are ordinary text), "none_raise" (their
                presence is an error) or a set of them.
            visualise: also prints the text with its tokens set apart by |.

        Raises:
            TokenizerError: a special token with "none_raise", or text that this tokenizer cannot encode.
        """
        if not isinstance(text, str):
            raise TypeError(f"encode takes a string, not a {type(text).__name__}")
        if allowed_special == "all":
            special = self.special_tokens
        elif allowed_special in ("none", "none_raise"):
            special = {}
            if allowed_special == "none_raise":
                found = next((token for token in self.special_tokens if token in text), None)
                if found is not None:
                    raise TokenizerError(
                        f"the text contains the special token {found!r}: pass allowed_special='all' to encode it as one id, "
                        f"or 'none' to encode it as ordinary text"
                    )
        elif isinstance(allowed_special, (set, frozenset)):
            special = {token: idx for token, idx in self.special_tokens.items() if token in allowed_special}
        else:
            raise ValueError(f"allowed_special is 'all', 'none', 'none_raise' or a set, not {allowed_special!r}")
        if not special:
            ids = self._encode_ordinary(text)
        else:
            ids = []
            longest_first = sorted(special, key=len, reverse=True)
            for part in re.split("(" + "|".join(map(re.escape, longest_first)) + ")", text):
                ids.extend((special[part],) if part in special else self._encode_ordinary(part))
        if visualise:
            print("|".join(render_token(self._decode_bytes([idx])) for idx in ids))
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of `ids`; bytes that are not valid UTF-8 become U+FFFD.

        Raises:
            TokenizerError: an id that is not in the vocabulary.
        """
        return self._decode_bytes(ids).decode("utf-8", errors="replace")

    def __call__(
        self,
        texts: str | Sequence[str],
        padding_type: str = "none",
        padding_token: str | None = None,
        max_length: int | None = None,
        truncation: bool = False,
        return_attention_mask: bool = False,
        allowed_special: str | set[str] = "none_raise",
    ) -> Any:
        """Encodes one text or several into int32 Tensors.

        Args:
            texts: a text gives a Tensor (length,); a list gives one Tensor (texts, length).
            padding_type: "none", "max_length" (to `max_length`) or "longest" (to the longest of the texts).
            padding_token: the special token to pad with.
            max_length: the longest allowed. truncation: cut longer texts instead of raising.
            return_attention_mask: also return an int32 Tensor with 1 for tokens and 0 for padding.

        Raises:
            TokenizerError: texts of different lengths without padding, no padding token, or a text too long.
        """
        from .tensor import Tensor  # text and Tensors meet here only

        if padding_type not in ("none", "max_length", "longest"):
            raise ValueError(f"padding_type is 'none', 'max_length' or 'longest', not {padding_type!r}")
        if padding_type == "max_length" and max_length is None:
            raise ValueError("padding_type='max_length' needs a max_length")
        single = isinstance(texts, str)
        rows = [self.encode(text, allowed_special) for text in ([texts] if isinstance(texts, str) else texts)]
        if max_length is not None:
            if not truncation and any(len(row) > max_length for row in rows):
                longest = max(map(len, rows))
                raise TokenizerError(f"a text has {longest} tokens, more than max_length={max_length}: pass truncation=True to cut it")
            rows = [row[:max_length] for row in rows]
        lengths = list(map(len, rows))
        if padding_type != "none":
            if padding_token not in self.special_tokens:
                raise TokenizerError(f"a padding_token is one of the special tokens {list(self.special_tokens)}, not {padding_token!r}")
            width = max_length if padding_type == "max_length" else max(lengths, default=0)
            rows = [row + [self.special_tokens[padding_token]] * (width - len(row)) for row in rows]  # type: ignore[operator]
        elif len(set(lengths)) > 1:
            raise TokenizerError(f"texts of {min(lengths)} to {max(lengths)} tokens need padding_type='longest' or 'max_length'")
        from .dtype import DType

        ids = Tensor(rows[0] if single else rows, dtype=DType.int32)
        if not return_attention_mask:
            return ids
        masks = [[1] * n + [0] * (len(row) - n) for n, row in zip(lengths, rows, strict=True)]
        return ids, Tensor(masks[0] if single else masks, dtype=DType.int32)


class CharTokenizer(Tokenizer):
    """One id for each character, in the order of their code points.

    Args:
        characters: the characters that can be encoded; repeats are ignored.
    """

    kind = "characters"

    def __init__(self, characters: Iterable[str]) -> None:
        super().__init__()
        self.characters: list[str] = sorted(set(characters))
        if any(not isinstance(c, str) or len(c) != 1 for c in self.characters):
            raise TokenizerError("characters are strings of length 1")
        if not self.characters:
            raise TokenizerError("a CharTokenizer needs at least one character: the text is empty")
        self._ids = {character: idx for idx, character in enumerate(self.characters)}

    @classmethod
    def train(cls, text: str) -> CharTokenizer:
        """Returns a tokenizer for the characters of `text`."""
        return cls(text)

    @property
    def vocab_size(self) -> int:
        """The characters and the special tokens."""
        return max([len(self.characters) - 1, *self.special_tokens.values()]) + 1

    def _ordinary_size(self) -> int:
        return len(self.characters)

    def _encode_ordinary(self, text: str) -> list[int]:
        try:
            return list(map(self._ids.__getitem__, text))
        except KeyError as problem:
            known = replace_control_characters("".join(self.characters[:100]))
            raise TokenizerError(f"the character {problem.args[0]!r} is not among those learned: {known}") from None

    def _decode_bytes(self, ids: Iterable[int]) -> bytes:
        texts = {idx: text for text, idx in self.special_tokens.items()}
        result = []
        for idx in ids:
            if 0 <= idx < len(self.characters):
                result.append(self.characters[idx])
            elif idx in texts:
                result.append(texts[idx])
            else:
                raise TokenizerError(f"id {idx} is not in the vocabulary of {self.vocab_size} tokens")
        return "".join(result).encode("utf-8", errors="surrogatepass")

    def _to_json(self) -> dict[str, Any]:
        return {"characters": "".join(self.characters)}

    @classmethod
    def _from_json(cls, value: dict[str, Any]) -> CharTokenizer:
        characters = value.get("characters")
        if not isinstance(characters, str) or list(characters) != sorted(set(characters)):
            raise TokenizerError("'characters' is a string of different characters in order")
        return cls(characters)


class BPETokenizer(Tokenizer):
    """Byte-level byte-pair encoding: ids 0 to 255 are the bytes, id 256 + i is the i-th merge.

    Args:
        regex_pattern: splits a text into chunks; merges never cross from one to the next. See `RegexPatterns`.
    """

    kind = "bpe"

    def __init__(self, regex_pattern: str = RegexPatterns.GPT4) -> None:
        super().__init__()
        self.pattern = regex_pattern
        self._split = compile_pattern(regex_pattern)
        self._set_merges([])

    def _set_merges(self, merges: Sequence[Pair]) -> None:
        self.merges: dict[Pair, int] = {}
        self.vocab: dict[int, bytes] = {idx: bytes([idx]) for idx in range(256)}
        total = 0
        for pair in merges:
            idx = 256 + len(self.merges)
            if pair in self.merges or not all(0 <= part < idx for part in pair):
                raise TokenizerError(f"merge {idx - 256} of {pair} repeats one or names an id that is not defined before it")
            total += len(self.vocab[pair[0]]) + len(self.vocab[pair[1]])
            if total > MAXIMUM_FILE:  # merges of merges double: sixty lines of a hostile file could ask for 2^60 bytes
                raise TokenizerError(f"the tokens have more than {MAXIMUM_FILE:,} bytes in all")
            self.merges[pair] = idx
            self.vocab[idx] = self.vocab[pair[0]] + self.vocab[pair[1]]
        self._cache: dict[str, list[int]] = {}

    @property
    def vocab_size(self) -> int:
        """The bytes, the merges and the special tokens."""
        return max([len(self.vocab) - 1, *self.special_tokens.values()]) + 1

    def _ordinary_size(self) -> int:
        return len(self.vocab)

    def _chunks(self, text: str) -> Iterator[str]:
        # group(), not findall: a pattern of the user's may have groups of its own
        return (found.group() for found in self._split.finditer(text))

    def train(self, text: str, vocab_size: int, verbose: bool = False) -> None:
        """Learns merges from `text` until there are `vocab_size` tokens (or no pair is left); forgets earlier ones.

        Of equally frequent pairs the one that stands first in the text is merged, as in the textbook algorithm, which counts all pairs
        of the whole text anew for every merge. Here each different chunk is kept once with its frequency, and a merge recounts only
        the chunks it occurs in. A heap yields the most frequent pair; its entries may be out of date, but only ever too optimistic
        (counts fall, first places move back; what rises is a new pair, which gets a new entry), so an entry that still holds is best.

        Args:
            text: what to learn from. vocab_size: at least 256. verbose: print each merge.
        """
        if type(vocab_size) is not int or vocab_size < 256:
            raise TokenizerError(f"vocab_size counts the 256 bytes, so it is at least 256, not {vocab_size!r}")
        frequencies: dict[str, int] = {}
        for chunk in self._chunks(text):
            frequencies[chunk] = frequencies.get(chunk, 0) + 1
        words = [list(chunk.encode("utf-8")) for chunk in frequencies]  # in the order of their first appearance
        weights = list(frequencies.values())
        size = dict.fromkeys(range(256), 1)  # of each token, in bytes
        counts: dict[Pair, int] = {}
        where: dict[Pair, set[int]] = {}  # the words that hold a pair, or held it once
        for number, word in enumerate(words):
            for pair in pairwise(word):
                counts[pair] = counts.get(pair, 0) + weights[number]
                where.setdefault(pair, set()).add(number)

        def place(pair: Pair) -> tuple[int, int]:
            """Where the pair stands first: the word, and the byte in it, which merges elsewhere do not move."""
            for number in sorted(where[pair]):
                offset, word = 0, words[number]
                for a, b in pairwise(word):
                    if (a, b) == pair:
                        return number, offset
                    offset += size[a]
            return len(words), 0

        heap = [(-count, -1, 0, pair) for pair, count in counts.items()]
        heapq.heapify(heap)
        merges: list[Pair] = []
        while len(merges) < vocab_size - 256 and heap:
            negative, number, offset, pair = heap[0]
            count = counts.get(pair, 0)
            if count <= 0:
                heapq.heappop(heap)
                continue
            if -negative != count or number < 0 or not _stands_at(words[number], offset, pair, size):
                heapq.heapreplace(heap, (-count, *(place(pair) if -negative == count else (-1, 0)), pair))
                continue
            heapq.heappop(heap)
            idx = 256 + len(merges)
            merges.append(pair)
            size[idx] = size[pair[0]] + size[pair[1]]
            created: set[Pair] = set()
            for number in where.pop(pair):
                old, weight = words[number], weights[number]
                new = merge(old, pair, idx)
                if len(new) == len(old):
                    continue
                words[number] = new
                for a in pairwise(old):
                    counts[a] -= weight
                for b in pairwise(new):
                    counts[b] = counts.get(b, 0) + weight
                    if idx in b:
                        where.setdefault(b, set()).add(number)
                        created.add(b)
            for b in created:
                heapq.heappush(heap, (-counts[b], -1, 0, b))
            if verbose:
                token = render_token(b"".join(bytes([p]) if p < 256 else b"<%d>" % p for p in pair))
                print(f"merge {len(merges)}/{vocab_size - 256}: {pair} -> {idx} ({token}), {count} occurrences")
        self._set_merges(merges)
        self.special_tokens = {}

    def _encode_ordinary(self, text: str) -> list[int]:
        cache, ids = self._cache, []
        for chunk in self._chunks(text):
            found = cache.get(chunk)
            if found is None:
                found = self._encode_chunk(chunk.encode("utf-8", errors="surrogatepass"))
                if len(cache) >= CACHE_SIZE:
                    cache.clear()
                cache[chunk] = found
            ids += found
        return ids

    def _encode_chunk(self, data: bytes) -> list[int]:
        """Merges the pair of lowest rank, everywhere, until none is left."""
        ids, rank, never = list(data), self.merges.get, len(self.vocab)
        while len(ids) > 1:
            best = min(pairwise(ids), key=lambda pair: rank(pair, never))
            idx = rank(best)
            if idx is None:
                break
            ids = merge(ids, best, idx)
        return ids

    def _decode_bytes(self, ids: Iterable[int]) -> bytes:
        texts = {idx: text.encode("utf-8") for text, idx in self.special_tokens.items()}
        vocab, parts = self.vocab, []
        for idx in ids:
            part = vocab.get(idx) or texts.get(idx)
            if part is None:
                raise TokenizerError(f"id {idx} is not in the vocabulary of {self.vocab_size} tokens")
            parts.append(part)
        return b"".join(parts)

    # ---------------------------------------------------------------- TinyGPT's files

    def save(self, prefix: str) -> None:
        """Writes `prefix.model`, from which `load` reads, and `prefix.vocab`, for people."""
        if "\n" in self.pattern or any("\n" in text for text in self.special_tokens):
            raise TokenizerError("a pattern or special token with a line break needs save_tokenizer(): a .model file has one a line")
        lines = ["tinygpt v1", self.pattern, str(len(self.special_tokens))]
        lines += [f"{text} {idx}" for text, idx in self.special_tokens.items()]
        lines += [f"{a} {b}" for a, b in self.merges]
        with open(prefix + ".model", "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
        parents = {idx: pair for pair, idx in self.merges.items()}
        with open(prefix + ".vocab", "w", encoding="utf-8") as file:
            for idx, token in self.vocab.items():
                a, b = parents.get(idx, (idx, idx))
                made = f"[{render_token(self.vocab[a])}][{render_token(self.vocab[b])}] -> " if idx in parents else ""
                file.write(f"{made}[{render_token(token)}] {idx}\n")
            file.writelines(f"[{replace_control_characters(text)}] {idx}\n" for text, idx in self.special_tokens.items())

    def load(self, model_file: Path) -> None:
        """Reads a `.model` file of this tokenizer or of minbpe; raises TokenizerError, and changes nothing, where it is none."""
        lines = _read_text(model_file).splitlines()
        try:
            if lines[0] not in ("tinygpt v1", "minbpe v1"):
                raise TokenizerError(f"the first line is 'tinygpt v1' or 'minbpe v1', not {lines[0][:40]!r}")
            pattern, count = lines[1], int(lines[2])
            if not 0 <= count <= len(lines) - 3:
                raise TokenizerError(f"{count} special tokens do not fit {len(lines)} lines")
            specials = {text: int(idx) for text, _, idx in (line.rpartition(" ") for line in lines[3 : 3 + count])}
            merges = [(int(a), int(b)) for a, b in (line.split() for line in lines[3 + count :])]
            loaded = BPETokenizer(pattern)
            loaded._set_merges(merges)
            loaded.register_special_tokens(specials)
        except (IndexError, ValueError) as problem:
            raise TokenizerError(f"{os.fspath(model_file)} is not a tokenizer's model file: {problem}") from None
        self.__dict__.update(loaded.__dict__)

    def _to_json(self) -> dict[str, Any]:
        return {"pattern": self.pattern, "merges": [list(pair) for pair in self.merges]}

    @classmethod
    def _from_json(cls, value: dict[str, Any]) -> BPETokenizer:
        merges = value.get("merges")
        if not isinstance(merges, list) or not all(
            isinstance(pair, list) and len(pair) == 2 and all(type(part) is int for part in pair) for pair in merges
        ):
            raise TokenizerError("'merges' is a list of pairs of ids")
        tokenizer = cls(value.get("pattern"))  # type: ignore[arg-type]
        tokenizer._set_merges([(a, b) for a, b in merges])
        return tokenizer


def _stands_at(word: Sequence[int], offset: int, pair: Pair, size: Mapping[int, int]) -> bool:
    """Whether `pair` stands at a byte offset of a word."""
    position = 0
    for a, b in pairwise(word):
        if position >= offset:
            return position == offset and (a, b) == pair
        position += size[a]
    return False


# ---------------------------------------------------------------- one file for any tokenizer


def _read_text(path: Path) -> str:
    size = os.path.getsize(path)
    if size > MAXIMUM_FILE:
        raise TokenizerError(f"{os.fspath(path)} has {size:,} bytes; a tokenizer has at most {MAXIMUM_FILE:,}")
    with open(path, encoding="utf-8") as file:
        try:
            return file.read()
        except UnicodeDecodeError as problem:
            raise TokenizerError(f"{os.fspath(path)} is not UTF-8: {problem}") from None


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    """Writes any tokenizer to one JSON file, and waits until it is on the disk."""
    value = {"format": FORMAT, "version": FORMAT_VERSION, "kind": tokenizer.kind, "special_tokens": tokenizer.special_tokens}
    write_durably(path, json.dumps({**value, **tokenizer._to_json()}).encode())


def load_tokenizer(path: Path) -> Tokenizer:
    """Returns the tokenizer in a file of `save_tokenizer`.

    Raises:
        TokenizerError: the file is truncated, changed or of a newer version.
    """
    name = os.fspath(path)
    try:
        value = json.loads(_read_text(path))
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise TokenizerError(f"not a JSON object with format {FORMAT!r}")
        if value.get("version") != FORMAT_VERSION:
            raise TokenizerError(f"version {value.get('version')!r}, but this tinygpt reads version {FORMAT_VERSION}")
        classes: dict[Any, type[Tokenizer]] = {kind.kind: kind for kind in (CharTokenizer, BPETokenizer)}
        if not isinstance(value.get("kind"), str) or value["kind"] not in classes:
            raise TokenizerError(f"kind is one of {', '.join(classes)}, not {value.get('kind')!r}")
        tokenizer = classes[value["kind"]]._from_json(value)  # type: ignore[arg-type]
        specials = value.get("special_tokens")
        if not isinstance(specials, dict):
            raise TokenizerError("'special_tokens' maps texts to ids")
        tokenizer.register_special_tokens(specials)
        return tokenizer
    except (ValueError, RecursionError) as problem:
        raise TokenizerError(f"{name} is not a tokenizer file: {problem}") from None
