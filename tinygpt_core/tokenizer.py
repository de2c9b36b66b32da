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
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

from .files import Path, write_durably
from .merging import Pair, merge_lowest
from .pretokenize import RegexPatterns, TokenizerError, compile_pattern
from .vocabularies import Vocabulary, parse_fields, read_gpt2, read_ranks

FORMAT = "tinygpt tokenizer"
FORMAT_VERSION = 2  # of a file that lists its tokens; one that lists merges alone is of version 1
MAXIMUM_FILE = 256_000_000
CACHE_SIZE = 200_000


# ---------------------------------------------------------------- the textbook pieces


def get_stats(ids: Iterable[int], counts: dict[Pair, int] | None = None) -> dict[Pair, int]:
    """Returns how often each pair of neighbours is in `ids`, on top of `counts` where given.

    [1, 2, 3, 1, 2] gives {(1, 2): 2, (2, 3): 1, (3, 1): 1}.
    """
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

    # text -> ids; ids -> bytes; () -> the ids that are not special; () -> its JSON fields; JSON fields -> a tokenizer (of the class)
    _encode_ordinary = _decode_bytes = _ordinary_ids = _to_json = _from_json = _missing

    def register_special_tokens(self, special_tokens: Mapping[str, int]) -> None:
        """Sets the special tokens, {text: id}; their ids are not those of ordinary tokens.

        Raises:
            TokenizerError: an empty text, or an id that is taken or negative.
        """
        taken = self._ordinary_ids()
        ids = list(special_tokens.values())
        for text, idx in special_tokens.items():
            if not isinstance(text, str) or not text:
                raise TokenizerError(f"a special token is a string that is not empty, not {text!r}")
            if type(idx) is not int or not 0 <= idx < 1 << 31 or idx in taken or ids.count(idx) > 1:
                raise TokenizerError(f"special token {text!r} needs an id of its own, such as {max(taken) + 1}, not {idx!r}")
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
            TypeError: `text` is no string.
            ValueError: another `allowed_special`.
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
            ValueError: another padding_type, or no max_length where one is needed.
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

    Raises:
        TokenizerError: no characters, or one that is not a string of length 1.
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

    def _ordinary_ids(self) -> range:
        return range(len(self.characters))

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
    """Byte-level byte-pair encoding: ids 0 to 255 are the bytes, id 256 + i is the i-th merge; `from_gpt2` and `from_tiktoken` have others.

    Sennrich, Haddow, Birch 2016, https://arxiv.org/abs/1508.07909; on bytes: Radford et al. 2019 (GPT-2).

    Args:
        regex_pattern: splits a text into chunks; merges never cross from one to the next. See `RegexPatterns`.

    Attributes:
        vocab: the bytes of each id.
        merges: the id that a pair of neighbours becomes, lowest ids first. Empty after `from_tiktoken`: there any two neighbours merge
            whose bytes together are a token.

    Raises:
        TokenizerError: a pattern that is none.
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
        self._bytes: Sequence[int] = range(256)  # the id of each byte
        self._ids: dict[bytes, int] | None = None  # the id of each token, where those are all that is known of the merges
        self._cache: dict[str, list[int]] = {}

    @classmethod
    def from_gpt2(cls, vocab_file: Path, merges_file: Path, special_tokens: Iterable[str] = ("<|endoftext|>",)) -> BPETokenizer:
        """Returns GPT-2's tokenizer, with the very ids of its authors' files `vocab.json` and `merges.txt` (or others of that kind).

        Args:
            special_tokens: entries of the vocabulary that are no merges; those that it does not have are left out.

        Raises:
            TokenizerError: a file is damaged, or the two do not belong together; the message names the file and the token or line.
        """
        tokens, merges, specials = read_gpt2(vocab_file, merges_file, special_tokens)
        return cls._of_tokens(RegexPatterns.GPT2, tokens, merges, specials)

    @classmethod
    def from_tiktoken(cls, rank_file: Path, pattern: str, special_tokens: Mapping[str, int] | None = None) -> BPETokenizer:
        """Returns the tokenizer of a rank file (each line a token in base64 and its id), with the ids that tiktoken gives.

        Args:
            pattern: the split pattern that belongs to it, such as `RegexPatterns.CL100K`.
            special_tokens: {text: id}; their ids lie above all ranks, or where the file leaves one out.

        Raises:
            TokenizerError: the file is damaged, or its ranks have holes; the message names the line.
        """
        specials = dict(special_tokens or {})
        return cls._of_tokens(pattern, read_ranks(rank_file, specials.values()), None, specials)

    @classmethod
    def _of_tokens(cls, pattern: str, tokens: Vocabulary, merges: list[Pair] | None, specials: Mapping[str, int]) -> BPETokenizer:
        """A tokenizer of a checked vocabulary, with its merges in the order of their ids, or (None) all pairs whose bytes are a token."""
        tokenizer = cls(pattern)
        ids = {token: idx for idx, token in enumerate(tokens) if token is not None}
        vocab = tokenizer.vocab = {idx: token for token, idx in ids.items()}
        tokenizer._bytes = [ids[bytes([byte])] for byte in range(256)]
        tokenizer._ids = ids if merges is None else None
        tokenizer.merges = {(a, b): ids[vocab[a] + vocab[b]] for a, b in merges or ()}
        tokenizer.register_special_tokens(specials)
        return tokenizer

    @property
    def vocab_size(self) -> int:
        """The bytes, the merges and the special tokens."""
        return max(next(reversed(self.vocab)), *self.special_tokens.values(), 0) + 1

    def _ordinary_ids(self) -> Mapping[int, bytes]:
        return self.vocab

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

        Raises:
            TokenizerError: vocab_size is below 256.
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
        """Merges the leftmost of the pairs that become the lowest id, until none is left."""
        known, vocab = self._ids, self.vocab
        if known is not None and data in known:
            return [known[data]]
        merged = self.merges.get if known is None else lambda pair, other=None: known.get(vocab[pair[0]] + vocab[pair[1]], other)
        return merge_lowest(list(map(self._bytes.__getitem__, data)), merged, self.vocab_size)

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
        """Writes `prefix.model`, from which `load` reads, and `prefix.vocab`, for people.

        Raises:
            TokenizerError: a vocabulary, pattern or special token that the format cannot hold.
        """
        if self._bytes != range(256):
            raise TokenizerError("a .model file numbers the bytes from 0 to 255, unlike this vocabulary: use save_tokenizer()")
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
        merges = None if self._ids is not None else [list(pair) for pair in self.merges]
        if self._bytes == range(256):
            return {"pattern": self.pattern, "merges": merges}
        tokens = [self.vocab[idx].decode("latin-1") if idx in self.vocab else None for idx in range(next(reversed(self.vocab)) + 1)]
        return {"pattern": self.pattern, "tokens": tokens, "merges": merges}

    @classmethod
    def _from_json(cls, value: dict[str, Any]) -> BPETokenizer:
        tokens, merges = parse_fields(value)
        pattern: str = value.get("pattern")  # type: ignore[assignment]
        if tokens is not None:
            return cls._of_tokens(pattern, tokens, merges, {})
        tokenizer = cls(pattern)
        tokenizer._set_merges(merges or [])
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
            return file.read(size)  # so nothing from a device, which has no size and no end
        except UnicodeDecodeError as problem:
            raise TokenizerError(f"{os.fspath(path)} is not UTF-8: {problem}") from None


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    """Writes any tokenizer to one JSON file, and waits until it is on the disk."""
    fields = tokenizer._to_json()
    value = {"format": FORMAT, "version": 1 + ("tokens" in fields), "kind": tokenizer.kind, "special_tokens": tokenizer.special_tokens}
    write_durably(path, json.dumps({**value, **fields}).encode())


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
        if value.get("version") not in range(1, FORMAT_VERSION + 1):
            raise TokenizerError(f"version {value.get('version')!r}, but this tinygpt reads versions up to {FORMAT_VERSION}")
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
