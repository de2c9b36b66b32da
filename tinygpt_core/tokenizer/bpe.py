"""Byte-pair encoding: the textbook's algorithm, a fast one that gives the same, and the tokenizer made of it.

A text is a row of bytes. The most frequent pair of neighbours becomes a new token, again and again, so that
common words end up as one number and nothing is unknown. The next four functions are all of that; they are
slow, and easy to believe:

    get_stats         counts the pairs of neighbours
    merge             replaces one pair by a new id
    train_textbook    counts all pairs, merges the most frequent one, and begins again
    encode_textbook   merges the pair that was learned first, and begins again

`learn_merges` and `merge_lowest`, which `BPETokenizer` uses, give the very same merges and ids, and are
hundreds of times as fast on a large text; tests/test_tokenizer.py holds them equal.

Sources: Sennrich, Haddow, Birch, "Neural Machine Translation of Rare Words with Subword Units", 2016; Radford
et al., "Language Models are Unsupervised Multitask Learners", 2019 (bytes as the base, a pattern that keeps
merges within words); Karpathy, https://github.com/karpathy/minbpe (names and form of the textbook's part).
"""

from __future__ import annotations

import heapq
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from ..files.atomic import Path, atomic_write
from ..printable import replace_control_characters
from .base import Pair, Tokenizer, TokenizerError, joined_surrogates, read_text_file, render_token
from .patterns import MAXIMUM_PATTERN, VERBOSE, RegexPatterns, compile_pattern
from .vocabularies import Vocabulary, parse_fields, read_gpt2, read_ranks

# ---------------------------------------------------------------- the textbook


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
    i = 0
    last = len(ids) - 1
    while i <= last:
        if i < last and ids[i] == first and ids[i + 1] == second:
            result.append(idx)
            i += 2
        else:
            result.append(ids[i])
            i += 1
    return result


def train_textbook(chunks: Iterable[bytes], vocab_size: int) -> dict[Pair, int]:
    """Returns the merges that give `vocab_size` tokens (or fewer, where no pair is left), in their order: the
    id that each pair becomes.

    Args:
        chunks: the text, cut into pieces; merges never cross from one to the next.
        vocab_size: the 256 bytes and the merges.
    """
    words = [list(chunk) for chunk in chunks]
    merges: dict[Pair, int] = {}
    for idx in range(256, vocab_size):
        counts: dict[Pair, int] = {}
        for word in words:
            get_stats(word, counts)
        if not counts:
            break
        pair = max(counts, key=counts.__getitem__)  # of equally frequent ones, the pair met first
        words = [merge(word, pair, idx) for word in words]
        merges[pair] = idx
    return merges


def encode_textbook(chunk: bytes, merges: Mapping[Pair, int]) -> list[int]:
    """Returns the ids of one piece of a text: of its pairs the one that was learned first is merged, until
    there is none that was learned.
    """
    ids = list(chunk)
    while learned := [pair for pair in pairwise(ids) if pair in merges]:
        pair = min(learned, key=merges.__getitem__)
        ids = merge(ids, pair, merges[pair])
    return ids


# ---------------------------------------------------------------- learning, fast

Place = tuple[int, int]  # the number of a word, and a byte in it, which merges elsewhere do not move


class WordIndex:
    """The different words of a text, and for each pair of neighbours how often it occurs and in which words.

    A text has few different words. Each is kept once, with its frequency, and a merge visits only the words
    that hold its pair.

    Args:
        frequencies: how often each word occurs, in the order in which the words are met first.

    Attributes:
        counts: how often each pair occurs in the text as it is merged so far.
        words_with: for each pair the numbers of the words that have it, or had it before a merge.
    """

    def __init__(self, frequencies: Mapping[str, int]) -> None:
        self.counts: dict[Pair, int] = {}
        self.words_with: dict[Pair, set[int]] = {}
        self._words = [list(word.encode("utf-8")) for word in frequencies]
        self._frequencies = list(frequencies.values())
        self._bytes_of = dict.fromkeys(range(256), 1)  # how many bytes a token stands for
        for number, word in enumerate(self._words):
            frequency = self._frequencies[number]
            for pair in pairwise(word):
                self.counts[pair] = self.counts.get(pair, 0) + frequency
                self.words_with.setdefault(pair, set()).add(number)

    def merge(self, pair: Pair, idx: int) -> Iterable[Pair]:
        """Replaces `pair` by `idx` in every word; returns the pairs that there were not before."""
        counts = self.counts
        words_with_new: dict[Pair, set[int]] = {}
        for number in self.words_with.pop(pair):
            before = self._words[number]
            after = merge(before, pair, idx)
            if len(after) == len(before):
                continue  # another merge has taken the pair apart
            self._words[number] = after
            frequency = self._frequencies[number]
            for old in pairwise(before):
                counts[old] -= frequency
            for new in pairwise(after):
                counts[new] = counts.get(new, 0) + frequency
                if idx in new:
                    words_with_new.setdefault(new, set()).add(number)
        self.words_with.update(words_with_new)
        self._bytes_of[idx] = self._bytes_of[pair[0]] + self._bytes_of[pair[1]]
        return words_with_new

    def first_place(self, pair: Pair) -> Place:
        """Returns where the text has `pair` first.

        Raises:
            ValueError: it has none.
        """
        for number in sorted(self.words_with[pair]):
            for offset, found in self._pairs(number):
                if found == pair:
                    return number, offset
        raise ValueError(f"the text has no pair {pair}")

    def stands_at(self, pair: Pair, place: Place) -> bool:
        """Whether `pair` is at this place."""
        number, offset = place
        return (offset, pair) in self._pairs(number)

    def _pairs(self, number: int) -> Iterator[tuple[int, Pair]]:
        """Yields the pairs of a word, each with the byte at which it begins."""
        offset = 0
        for pair in pairwise(self._words[number]):
            yield offset, pair
            offset += self._bytes_of[pair[0]]


class PairHeap:
    """The pairs of a `WordIndex`, best first: the most frequent, and of equals the one met first.

    An entry is a count, a place and a pair. It may be out of date, but then it is too good, never too bad:
    the count of a pair only falls and its first place only moves back, because all pairs that a merge adds
    are new ones, and these get entries of their own. So an entry that has come to the top and is still true
    is the best of all.
    """

    def __init__(self, index: WordIndex) -> None:
        self._index = index
        self._entries = [(-count, (0, 0), pair) for pair, count in index.counts.items()]
        heapq.heapify(self._entries)

    def push(self, pair: Pair) -> None:
        """Adds a pair that there was not before."""
        heapq.heappush(self._entries, (-self._index.counts[pair], (0, 0), pair))  # no place is before (0, 0)

    def pop(self) -> Pair | None:
        """Takes out the best pair and returns it; None where no pair is left."""
        index = self._index
        entries = self._entries
        while entries:
            negative_count, place, pair = entries[0]
            count = index.counts[pair]
            if count == 0:
                heapq.heappop(entries)
            elif count < -negative_count:
                heapq.heapreplace(entries, (-count, place, pair))
            elif not index.stands_at(pair, place):
                heapq.heapreplace(entries, (-count, index.first_place(pair), pair))
            else:
                heapq.heappop(entries)
                return pair
        return None


def learn_merges(frequencies: Mapping[str, int], vocab_size: int) -> Iterator[tuple[Pair, int]]:
    """Yields the pairs that `train_textbook` merges, in its order, and how often each occurs.

    Args:
        frequencies: how often each piece of the text occurs, in the order in which they are met first.
        vocab_size: the 256 bytes and the merges; there are fewer where no pair is left.
    """
    index = WordIndex(frequencies)
    heap = PairHeap(index)
    for idx in range(256, vocab_size):
        pair = heap.pop()
        if pair is None:
            break
        yield pair, index.counts[pair]
        for new in index.merge(pair, idx):
            heap.push(new)


# ---------------------------------------------------------------- encoding, fast

LONG_CHUNK = 256  # tokens; from here on the heap is quicker
NO_MERGE = sys.maxsize  # above all ids: what stands for "these two stay two"


def merge_lowest(ids: list[int], merged_id: Callable[[Pair], int | None]) -> list[int]:
    """Returns the ids of one piece of a text after all merges, which are those of `encode_textbook`.

    Args:
        ids: of its bytes; the list itself may change.
        merged_id: the id that a pair becomes, or None.
    """
    if len(ids) >= LONG_CHUNK:
        return _merge_with_heap(ids, merged_id)
    for _ in merge_steps(ids, merged_id):
        pass
    return ids


def merge_steps(ids: list[int], merged_id: Callable[[Pair], int | None]) -> Iterator[tuple[int, int]]:
    """Changes `ids` merge by merge, each time the leftmost of the pairs that become the lowest id.

    Yields:
        The place of each merge in `ids`, and the id that stands there now.
    """

    def rank(i: int) -> int:
        idx = merged_id((ids[i], ids[i + 1]))
        return NO_MERGE if idx is None else idx

    ranks = [rank(i) for i in range(len(ids) - 1)]  # what each pair would become
    while ranks and (lowest := min(ranks)) < NO_MERGE:
        i = ranks.index(lowest)
        ids[i : i + 2] = [lowest]
        del ranks[i]
        if i > 0:
            ranks[i - 1] = rank(i - 1)
        if i < len(ranks):
            ranks[i] = rank(i)
        yield i, lowest


def _merge_with_heap(ids: list[int], merged_id: Callable[[Pair], int | None]) -> list[int]:
    """Does what `merge_steps` does, in n log n instead of n² for n ids.

    Tokens stay at their places, and each knows its neighbours. A heap of (id, place) says what to merge next.
    An entry is out of date once its token is gone or has got another neighbour; then the pair there no longer
    becomes that id.
    """
    gone = -1  # stands for an id that was merged into the one before it
    count = len(ids)
    before = list(range(-1, count - 1))
    after = list(range(1, count + 1))
    heap = [(idx, i) for i, pair in enumerate(pairwise(ids)) if (idx := merged_id(pair)) is not None]
    heapq.heapify(heap)
    while heap:
        idx, i = heapq.heappop(heap)
        j = after[i]
        if ids[i] == gone or j == count or merged_id((ids[i], ids[j])) != idx:
            continue
        ids[i] = idx
        ids[j] = gone
        after[i] = after[j]
        if after[j] < count:
            before[after[j]] = i
        for left, right in ((before[i], i), (i, after[i])):
            if left >= 0 and right < count:
                made = merged_id((ids[left], ids[right]))
                if made is not None:
                    heapq.heappush(heap, (made, left))
    return [idx for idx in ids if idx != gone]


# ---------------------------------------------------------------- the tokenizer

CACHE_SIZE = 200_000  # chunks whose ids are remembered
MAXIMUM_TOKENS = 32_000_000  # bytes of all tokens together; GPT-4's have less than a million


class BPETokenizer(Tokenizer):
    """Byte-level byte-pair encoding: ids 0 to 255 are the bytes, id 256 + i is the i-th merge; `from_gpt2`
    and `from_tiktoken` have others.

    Args:
        regex_pattern: splits a text into chunks; merges never cross from one to the next. See
            `RegexPatterns`.

    Attributes:
        pattern: the split pattern.
        vocab: the bytes of each id.
        merges: the id that a pair of neighbours becomes, lowest ids first. Empty after `from_tiktoken`: there
            any two neighbours merge whose bytes together are a token.

    Raises:
        TokenizerError: a pattern that is none.

    Source: Sennrich, Haddow, Birch 2016, https://arxiv.org/abs/1508.07909; on bytes: Radford et al. 2019
    (GPT-2).
    """

    kind = "bpe"

    def __init__(self, regex_pattern: str = RegexPatterns.GPT4) -> None:
        super().__init__()
        self.pattern = regex_pattern
        self._split = compile_pattern(regex_pattern)
        self._set_merges([])

    def _set_merges(self, merges: Sequence[Pair]) -> None:
        """Makes this the tokenizer whose ids 0 to 255 are the bytes, and id 256 + i the i-th of `merges`."""
        self.merges: dict[Pair, int] = {}
        self.vocab: dict[int, bytes] = {byte: bytes([byte]) for byte in range(256)}
        self._byte_ids: Sequence[int] = range(256)  # the id of each byte
        # The id of each token, where any two neighbours merge whose bytes together are one
        self._token_ids: dict[bytes, int] | None = None
        self._cache: dict[str, list[int]] = {}  # the ids of chunks that were encoded before
        total = 0
        for pair in merges:
            idx = 256 + len(self.merges)
            if pair in self.merges or not all(0 <= part < idx for part in pair):
                raise TokenizerError(
                    f"merge {idx - 256} of {pair} repeats one or names an id that is not defined before it"
                )
            first, second = pair
            total += len(self.vocab[first]) + len(self.vocab[second])
            # Merges of merges double: sixty lines of a hostile file could ask for 2^60 bytes
            if total > MAXIMUM_TOKENS:
                raise TokenizerError(f"the tokens have more than {MAXIMUM_TOKENS:,} bytes in all")
            self.merges[pair] = idx
            self.vocab[idx] = self.vocab[first] + self.vocab[second]

    # ---------------------------------------------------------------- other projects' vocabularies

    @classmethod
    def from_gpt2(
        cls,
        vocab_file: Path,
        merges_file: Path,
        special_tokens: Iterable[str] = ("<|endoftext|>",),
        pattern: str = RegexPatterns.GPT2,
    ) -> BPETokenizer:
        """Returns GPT-2's tokenizer, with the very ids of its authors' files `vocab.json` and `merges.txt`
        (or others of that kind).

        Args:
            special_tokens: entries of the vocabulary that are no merges; those that it does not have are left
                out.
            pattern: the split pattern, where the files are of another tokenizer than GPT-2's.

        Raises:
            TokenizerError: a file is damaged, or the two do not belong together; the message names the file
                and the token or line.
        """
        tokens, merges, specials = read_gpt2(vocab_file, merges_file, special_tokens)
        return cls._of_tokens(pattern, tokens, merges, specials)

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
        """Returns a tokenizer of a checked vocabulary, with its merges in the order of their ids, or (None)
        all pairs whose bytes are a token.
        """
        tokenizer = cls(pattern)
        ids = {token: idx for idx, token in enumerate(tokens) if token is not None}
        vocab = {idx: token for token, idx in ids.items()}
        tokenizer.vocab = vocab
        tokenizer._byte_ids = [ids[bytes([byte])] for byte in range(256)]
        tokenizer._token_ids = ids if merges is None else None
        tokenizer.merges = {(a, b): ids[vocab[a] + vocab[b]] for a, b in merges or ()}
        tokenizer.register_special_tokens(specials)
        return tokenizer

    # ---------------------------------------------------------------- learning

    def train(
        self,
        text_corpus: str | None = None,
        vocab_size: int | None = None,
        verbose: bool = False,
        *,
        text: str | None = None,
    ) -> None:
        """Learns merges from a text until there are `vocab_size` tokens, or no pair is left; forgets earlier
        ones.

        They are those of `train_textbook`: the most frequent pair first, and of equally frequent ones the one
        that the text has first.

        Args:
            text_corpus: what to learn from.
            vocab_size: at least 256.
            verbose: print each merge.
            text: another name for `text_corpus`.

        Raises:
            TokenizerError: vocab_size is below 256.
            TypeError: no text, or two.
        """
        if (text_corpus is None) == (text is None):
            raise TypeError("train takes one text: text_corpus, or text, which is another name for it")
        corpus = text if text_corpus is None else text_corpus
        assert corpus is not None
        if type(vocab_size) is not int or vocab_size < 256:
            raise TokenizerError(
                f"vocab_size counts the 256 bytes, so it is at least 256, not {vocab_size!r}"
            )
        frequencies: dict[str, int] = {}
        for chunk in self.chunks(corpus):
            frequencies[chunk] = frequencies.get(chunk, 0) + 1
        merges: list[Pair] = []
        for pair, count in learn_merges(frequencies, vocab_size):
            merges.append(pair)
            if verbose:
                token = render_token(b"".join(bytes([idx]) if idx < 256 else b"<%d>" % idx for idx in pair))
                print(
                    f"merge {len(merges)}/{vocab_size - 256}: {pair} -> {255 + len(merges)} ({token}), "
                    f"{count} occurrences"
                )
        self._set_merges(merges)
        self.special_tokens = {}

    # ---------------------------------------------------------------- encoding and decoding

    @property
    def vocab_size(self) -> int:
        """The bytes, the merges and the special tokens."""
        return max(next(reversed(self.vocab)), *self.special_tokens.values(), 0) + 1

    @property
    def has_merges(self) -> bool:
        """Whether `merges` say which neighbours merge; else any two whose bytes together are a token do."""
        return self._token_ids is None

    @property
    def merged_id(self) -> Callable[[Pair], int | None]:
        """The function from a pair of neighbours to the id that they become (None: they stay two)."""
        return self.merges.get if self._token_ids is None else self._id_of_joined

    def _id_of_joined(self, pair: Pair) -> int | None:
        """Returns the id of the token that has the bytes of both."""
        assert self._token_ids is not None
        first, second = pair
        return self._token_ids.get(self.vocab[first] + self.vocab[second])

    def chunks(self, text: str) -> Iterator[str]:
        """Yields the pieces into which the pattern splits a text; no token goes from one into the next."""
        # group(), not findall: a pattern of the user's may have groups of its own
        return (found.group() for found in self._split.finditer(joined_surrogates(text)))

    def byte_ids(self, chunk: str) -> list[int]:
        """Returns the id of each byte of a piece of text: what is there before any merge."""
        return [self._byte_ids[byte] for byte in joined_surrogates(chunk).encode("utf-8")]

    def _ordinary_ids(self) -> Mapping[int, bytes]:
        return self.vocab

    def _encode_ordinary(self, text: str) -> list[int]:
        cache = self._cache
        ids: list[int] = []
        for chunk in self.chunks(text):
            found = cache.get(chunk)
            if found is None:
                found = self._encode_chunk(chunk)
                if len(cache) >= CACHE_SIZE:
                    cache.clear()
                cache[chunk] = found
            ids += found
        return ids

    def _encode_chunk(self, chunk: str) -> list[int]:
        if self._token_ids is not None:
            whole = self._token_ids.get(chunk.encode("utf-8"))
            if whole is not None:
                return [whole]
        return merge_lowest(self.byte_ids(chunk), self.merged_id)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Returns the bytes of the tokens, one after the other.

        Raises:
            TokenizerError: an id that is not in the vocabulary.
        """
        special = {idx: text.encode("utf-8") for text, idx in self.special_tokens.items()}
        parts = []
        for idx in ids:
            part = self.vocab.get(idx) or special.get(idx)
            if part is None:
                raise TokenizerError(f"id {idx} is not in the vocabulary of {self.vocab_size} tokens")
            parts.append(part)
        return b"".join(parts)

    # ---------------------------------------------------------------- TinyGPT's files

    def save(self, prefix: str) -> None:
        """Writes `prefix.model`, from which `load` reads, and `prefix.vocab`, for people; an old file stays
        until the new one is whole.

        The format is minbpe's. A pattern with line breaks is written as TinyGPT writes its own: as a Python
        string, for a verbose pattern, which it must be then (it begins with `(?x)`).

        Raises:
            TokenizerError: a vocabulary, pattern or special token that the format cannot hold.
            OSError: a file cannot be written.
        """
        if self._byte_ids != range(256):
            raise TokenizerError(
                "a .model file numbers the bytes from 0 to 255, which this vocabulary does not: "
                "use save_tokenizer()"
            )
        is_verbose = self.pattern.startswith(VERBOSE)
        if ("\n" in self.pattern and not is_verbose) or any("\n" in text for text in self.special_tokens):
            raise TokenizerError(
                "a pattern or special token with a line break needs save_tokenizer(): "
                "a .model file has one a line"
            )
        lines = [repr(self.pattern.removeprefix(VERBOSE))] if is_verbose else ["tinygpt v1", self.pattern]
        lines.append(str(len(self.special_tokens)))
        lines += [f"{text} {idx}" for text, idx in self.special_tokens.items()]
        lines += [f"{a} {b}" for a, b in self.merges]
        atomic_write(prefix + ".model", ("\n".join(lines) + "\n").encode("utf-8"))
        atomic_write(prefix + ".vocab", (f"{line}\n".encode() for line in self._vocabulary_lines()))

    def _vocabulary_lines(self) -> Iterator[str]:
        """Yields a line for each token: the two that it is made of, the token, and its id."""
        parents = {idx: pair for pair, idx in self.merges.items()}
        for idx, token in self.vocab.items():
            line = f"[{render_token(token)}] {idx}"
            if idx in parents:
                first, second = (render_token(self.vocab[part]) for part in parents[idx])
                line = f"[{first}][{second}] -> {line}"
            yield line
        for text, idx in self.special_tokens.items():
            yield f"[{replace_control_characters(text)}] {idx}"

    def load(self, model_file: Path) -> None:
        """Reads a `.model` file of this tokenizer, of minbpe or of TinyGPT.

        Raises:
            TokenizerError: it is none; then nothing has changed.
            OSError: it cannot be read.
        """
        text = read_text_file(model_file)
        first_line = text.partition("\n")[0]
        if first_line.endswith("\r"):  # written where lines end with two characters
            text = text.replace("\r\n", "\n")
        lines = text.removesuffix("\n").split("\n")  # not splitlines: a special token may hold U+2028
        try:
            loaded = BPETokenizer._of_lines(lines)
        except (IndexError, ValueError) as problem:
            raise TokenizerError(
                f"{os.fspath(model_file)} is not a tokenizer's model file: {problem!s:.400}"
            ) from None
        self.__dict__.update(loaded.__dict__)

    @staticmethod
    def _of_lines(lines: list[str]) -> BPETokenizer:
        """Returns the tokenizer of a `.model` file; raises IndexError or ValueError where it is none."""
        if lines[0].startswith(("'", '"')):
            pattern = VERBOSE + _string_literal(lines[0])
            rest = lines[1:]
        elif lines[0] in ("tinygpt v1", "minbpe v1"):
            pattern = lines[1]
            rest = lines[2:]
        else:
            raise TokenizerError(
                "the first line is 'tinygpt v1', 'minbpe v1' or TinyGPT's pattern as a Python string, "
                f"not {lines[0][:40]!r}"
            )
        count = int(rest[0])
        if not 0 <= count < len(rest):
            raise TokenizerError(f"{count} special tokens do not fit {len(lines)} lines")
        specials: dict[str, int] = {}
        for line in rest[1 : 1 + count]:
            text, _, idx = line.rpartition(" ")
            if text in specials:
                raise TokenizerError(f"the special token {text!r:.80} stands there twice")
            specials[text] = int(idx)
        merges: list[Pair] = []
        for line in rest[1 + count :]:
            first, second = line.split()
            merges.append((int(first), int(second)))
        tokenizer = BPETokenizer(pattern)
        tokenizer._set_merges(merges)
        tokenizer.register_special_tokens(specials)
        return tokenizer

    # ---------------------------------------------------------------- files of `save_tokenizer`

    def _to_json(self) -> dict[str, Any]:
        merges = None if self._token_ids is not None else [list(pair) for pair in self.merges]
        if self._byte_ids == range(256):
            return {"pattern": self.pattern, "merges": merges}
        tokens = [
            self.vocab[idx].decode("latin-1") if idx in self.vocab else None
            for idx in range(next(reversed(self.vocab)) + 1)
        ]
        return {"pattern": self.pattern, "tokens": tokens, "merges": merges}

    @classmethod
    def _from_json(cls, value: dict[str, Any]) -> BPETokenizer:
        tokens, merges = parse_fields(value)
        pattern: str = value["pattern"]
        if tokens is not None:
            return cls._of_tokens(pattern, tokens, merges, {})
        tokenizer = cls(pattern)
        tokenizer._set_merges(merges or [])
        return tokenizer


def _string_literal(line: str) -> str:
    """Returns the string that a line in the notation of Python's `repr` stands for.

    Raises:
        TokenizerError: it is none.
    """

    def unescape(found: re.Match[str]) -> str:
        escape = found[0][1:]
        if escape[0] in _ESCAPES:
            return _ESCAPES[escape[0]]
        code = int(escape[1:], 16)
        if code > sys.maxunicode or 0xD800 <= code <= 0xDFFF:
            raise TokenizerError(f"the first line has {found[0]!r}, which is no character")
        return chr(code)

    if len(line) > 10 * MAXIMUM_PATTERN or not _STRING_LITERAL.fullmatch(line):
        raise TokenizerError(f"the first line is no pattern as a Python string: {line[:40]!r}")
    return _ESCAPE.sub(unescape, line[1:-1])


_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", "'": "'", '"': '"'}
_ESCAPE = re.compile(r"""\\(?:[nrt'"\\]|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})""")
_STRING_LITERAL = re.compile(rf"""'(?:[^'\\]|{_ESCAPE.pattern})*+'|"(?:[^"\\]|{_ESCAPE.pattern})*+\"""")
