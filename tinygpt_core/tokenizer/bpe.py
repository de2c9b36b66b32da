"""Floor 7: tokenizers, between text and the integers a model reads.

A `CharTokenizer` gives every character a number. A `BPETokenizer` starts from the 256 bytes and learns
merges: the most frequent pair of neighbouring tokens becomes a new token, again and again, so that common
words end up as one number and nothing is unknown.

Sources: Sennrich, Haddow, Birch, "Neural Machine Translation of Rare Words with Subword Units", 2016; Radford
et al., "Language Models are Unsupervised Multitask Learners", 2019 (bytes as the base, a pattern that keeps
merges within words).
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from ..files.atomic import Path
from ..printable import replace_control_characters
from .base import MAXIMUM_FILE, Pair, Tokenizer, TokenizerError, read_text_file, render_token
from .patterns import RegexPatterns, compile_pattern
from .vocabularies import Vocabulary, parse_fields, read_gpt2, read_ranks


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


LONG_CHUNK = 256  # tokens; from here on the heap is quicker


def merge_lowest(ids: list[int], merged: Callable[[Pair], int | None], never: int) -> list[int]:
    """Returns `ids` after all merges; the list itself may change.

    Args:
        merged: the id that a pair becomes, or None. never: above all ids.
    """
    if len(ids) >= LONG_CHUNK:
        return _merge_with_heap(ids, merged)

    def rank(i: int) -> int:
        idx = merged((ids[i], ids[i + 1]))
        return never if idx is None else idx

    ranks = list(map(rank, range(len(ids) - 1)))
    while ranks and (best := min(ranks)) < never:
        i = ranks.index(best)
        ids[i : i + 2] = (best,)
        del ranks[i]
        if i:
            ranks[i - 1] = rank(i - 1)
        if i < len(ranks):
            ranks[i] = rank(i)
    return ids


def _merge_with_heap(ids: list[int], merged: Callable[[Pair], int | None]) -> list[int]:
    """Keeps a heap of (id, place) over a list in which each token knows its neighbours.

    An entry is out of date once its token is gone or stands before another one; then the pair there no longer
    becomes that id.
    """
    count = len(ids)
    before, after = list(range(-1, count - 1)), list(range(1, count + 1))
    heap = [(idx, i) for i, pair in enumerate(pairwise(ids)) if (idx := merged(pair)) is not None]
    heapq.heapify(heap)
    while heap:
        idx, i = heapq.heappop(heap)
        j = after[i]
        if ids[i] < 0 or j == count or merged((ids[i], ids[j])) != idx:
            continue
        ids[i], ids[j], after[i] = idx, -1, after[j]
        if after[j] < count:
            before[after[j]] = i
        for left, right in ((before[i], i), (i, after[i])):
            if left >= 0 and right < count and (made := merged((ids[left], ids[right]))) is not None:
                heapq.heappush(heap, (made, left))
    return [idx for idx in ids if idx >= 0]


CACHE_SIZE = 200_000


class BPETokenizer(Tokenizer):
    """Byte-level byte-pair encoding: ids 0 to 255 are the bytes, id 256 + i is the i-th merge; `from_gpt2`
    and `from_tiktoken` have others.

    Sennrich, Haddow, Birch 2016, https://arxiv.org/abs/1508.07909; on bytes: Radford et al. 2019 (GPT-2).

    Args:
        regex_pattern: splits a text into chunks; merges never cross from one to the next. See
            `RegexPatterns`.

    Attributes:
        vocab: the bytes of each id.
        merges: the id that a pair of neighbours becomes, lowest ids first. Empty after `from_tiktoken`: there
            any two neighbours merge whose bytes together are a token.

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
                raise TokenizerError(
                    f"merge {idx - 256} of {pair} repeats one or names an id that is not defined before it"
                )
            total += len(self.vocab[pair[0]]) + len(self.vocab[pair[1]])
            # Merges of merges double: sixty lines of a hostile file could ask for 2^60 bytes
            if total > MAXIMUM_FILE:
                raise TokenizerError(f"the tokens have more than {MAXIMUM_FILE:,} bytes in all")
            self.merges[pair] = idx
            self.vocab[idx] = self.vocab[pair[0]] + self.vocab[pair[1]]
        self._bytes: Sequence[int] = range(256)  # the id of each byte
        # The id of each token, where those are all that is known of the merges
        self._ids: dict[bytes, int] | None = None
        self._cache: dict[str, list[int]] = {}

    @classmethod
    def from_gpt2(
        cls, vocab_file: Path, merges_file: Path, special_tokens: Iterable[str] = ("<|endoftext|>",)
    ) -> BPETokenizer:
        """Returns GPT-2's tokenizer, with the very ids of its authors' files `vocab.json` and `merges.txt`
        (or others of that kind).

        Args:
            special_tokens: entries of the vocabulary that are no merges; those that it does not have are left
                out.

        Raises:
            TokenizerError: a file is damaged, or the two do not belong together; the message names the file
                and the token or line.
        """
        tokens, merges, specials = read_gpt2(vocab_file, merges_file, special_tokens)
        return cls._of_tokens(RegexPatterns.GPT2, tokens, merges, specials)

    @classmethod
    def from_tiktoken(
        cls, rank_file: Path, pattern: str, special_tokens: Mapping[str, int] | None = None
    ) -> BPETokenizer:
        """Returns the tokenizer of a rank file (each line a token in base64 and its id), with the ids that
        tiktoken gives.

        Args:
            pattern: the split pattern that belongs to it, such as `RegexPatterns.CL100K`.
            special_tokens: {text: id}; their ids lie above all ranks, or where the file leaves one out.

        Raises:
            TokenizerError: the file is damaged, or its ranks have holes; the message names the line.
        """
        specials = dict(special_tokens or {})
        return cls._of_tokens(pattern, read_ranks(rank_file, specials.values()), None, specials)

    @classmethod
    def _of_tokens(
        cls, pattern: str, tokens: Vocabulary, merges: list[Pair] | None, specials: Mapping[str, int]
    ) -> BPETokenizer:
        """A tokenizer of a checked vocabulary, with its merges in the order of their ids, or (None) all pairs
        whose bytes are a token.
        """
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
        """Learns merges from `text` until there are `vocab_size` tokens (or no pair is left); forgets earlier
        ones.

        Of equally frequent pairs the one that stands first in the text is merged, as in the textbook
        algorithm, which counts all pairs of the whole text anew for every merge. Here each different chunk is
        kept once with its frequency, and a merge recounts only the chunks it occurs in. A heap yields the
        most frequent pair; its entries may be out of date, but only ever too optimistic (counts fall, first
        places move back; what rises is a new pair, which gets a new entry), so an entry that still holds is
        best.

        Args:
            text: what to learn from. vocab_size: at least 256. verbose: print each merge.

        Raises:
            TokenizerError: vocab_size is below 256.
        """
        if type(vocab_size) is not int or vocab_size < 256:
            raise TokenizerError(
                f"vocab_size counts the 256 bytes, so it is at least 256, not {vocab_size!r}"
            )
        frequencies: dict[str, int] = {}
        for chunk in self._chunks(text):
            frequencies[chunk] = frequencies.get(chunk, 0) + 1
        # In the order of their first appearance
        words = [list(chunk.encode("utf-8")) for chunk in frequencies]
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
                print(
                    f"merge {len(merges)}/{vocab_size - 256}: {pair} -> {idx} ({token}), {count} occurrences"
                )
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
        merged = (
            self.merges.get
            if known is None
            else lambda pair, other=None: known.get(vocab[pair[0]] + vocab[pair[1]], other)
        )
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
            raise TokenizerError(
                "a .model file numbers the bytes from 0 to 255, unlike this vocabulary: use save_tokenizer()"
            )
        if "\n" in self.pattern or any("\n" in text for text in self.special_tokens):
            raise TokenizerError(
                "a pattern or special token with a line break needs save_tokenizer(): a .model file has one a line"
            )
        lines = ["tinygpt v1", self.pattern, str(len(self.special_tokens))]
        lines += [f"{text} {idx}" for text, idx in self.special_tokens.items()]
        lines += [f"{a} {b}" for a, b in self.merges]
        with open(prefix + ".model", "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
        parents = {idx: pair for pair, idx in self.merges.items()}
        with open(prefix + ".vocab", "w", encoding="utf-8") as file:
            for idx, token in self.vocab.items():
                a, b = parents.get(idx, (idx, idx))
                made = (
                    f"[{render_token(self.vocab[a])}][{render_token(self.vocab[b])}] -> "
                    if idx in parents
                    else ""
                )
                file.write(f"{made}[{render_token(token)}] {idx}\n")
            file.writelines(
                f"[{replace_control_characters(text)}] {idx}\n" for text, idx in self.special_tokens.items()
            )

    def load(self, model_file: Path) -> None:
        """Reads a `.model` file of this tokenizer or of minbpe; raises TokenizerError, and changes nothing,
        where it is none.
        """
        lines = read_text_file(model_file).splitlines()
        try:
            if lines[0] not in ("tinygpt v1", "minbpe v1"):
                raise TokenizerError(f"the first line is 'tinygpt v1' or 'minbpe v1', not {lines[0][:40]!r}")
            pattern, count = lines[1], int(lines[2])
            if not 0 <= count <= len(lines) - 3:
                raise TokenizerError(f"{count} special tokens do not fit {len(lines)} lines")
            specials = {
                text: int(idx) for text, _, idx in (line.rpartition(" ") for line in lines[3 : 3 + count])
            }
            merges = [(int(a), int(b)) for a, b in (line.split() for line in lines[3 + count :])]
            loaded = BPETokenizer(pattern)
            loaded._set_merges(merges)
            loaded.register_special_tokens(specials)
        except (IndexError, ValueError) as problem:
            raise TokenizerError(
                f"{os.fspath(model_file)} is not a tokenizer's model file: {problem}"
            ) from None
        self.__dict__.update(loaded.__dict__)

    def _to_json(self) -> dict[str, Any]:
        merges = None if self._ids is not None else [list(pair) for pair in self.merges]
        if self._bytes == range(256):
            return {"pattern": self.pattern, "merges": merges}
        tokens = [
            self.vocab[idx].decode("latin-1") if idx in self.vocab else None
            for idx in range(next(reversed(self.vocab)) + 1)
        ]
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
