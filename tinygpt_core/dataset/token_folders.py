"""Folders of token ids, as nanoGPT's `prepare.py` writes them.

    train.bin    ids as little-endian integers, one after the other
    val.bin      the same, to validate on; without it the tail of train.bin is taken
    tokenizer    what made the ids, in any form of `find_tokenizer`; nanoGPT keeps none beside them
    meta.json    {"dtype": "uint32"}: how wide an id is, if that is to be stated

or, for ids that are too many for one file, train_000.bin, train_001.bin, … and val.bin or val_000.bin, …: the
files of a part are one long row, in the order of their numbers.

How wide an id is cannot be seen in such a file. Where meta.json does not say, it is what the writers of these
folders do: uint16 (nanoGPT), and uint32 for a vocabulary that uint16 cannot number. Ids of 4 or 8 bytes that
are read as uint16 become twice or four times as many, every second of them 0: a file that looks like that is
refused, unless meta.json says what it is.

The ids stay in the files: only the windows that batches are made of are ever read, except for two passes at
the start, a piece at a time: one that checks every id against the vocabulary, and one for the SHA-256
by which a resumed run knows its data. Numbered files may have terabytes, and are not read as a whole: ids are
checked when a window is read, and the SHA-256 is of the files' names and sizes and of 64 pieces that lie
evenly in each.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from hashlib import sha256
from typing import NamedTuple

from ..files.atomic import Path
from ..files.json_objects import SerializationError, read_json_object
from ..tokenizer.base import Tokenizer
from ..tokenizer.files import open_tokenizer
from .batches import split_train_validation
from .tokens import PIECE, VOCABULARY_LIMITS, TokenStream

TRAINING = "train.bin"
VALIDATION = "val.bin"
META = "meta.json"
TYPECODES = {"uint8": "B", "uint16": "H", "uint32": "I"}  # of what meta.json may state
MAXIMUM_META = 1_000_000  # bytes
NUMBERED = re.compile(r"(train|val)_([0-9]+)\.bin")
SAMPLED_PIECES = 64  # of each numbered file, for its SHA-256
SAMPLED_IDS = 2048  # of each of them
SAMPLE = 64 * 65_536  # ids whose frequencies stand for those of a longer stream


class TokenFolder(NamedTuple):
    """A folder of token ids: its parts, which stay in their files, the tokenizer that made them, the
    SHA-256 of the files, and how their ids are written.
    """

    training: TokenStream
    validation: TokenStream
    tokenizer: Tokenizer
    sha256: str
    dtype: str = "uint16"
    is_numbered: bool = False

    def counts(self) -> Counter[int]:
        """Returns how often ids occur: all of them, or `SAMPLE` of a longer stream in pieces that lie evenly
        in it.
        """
        stream = self.training
        if len(stream) <= SAMPLE:
            return Counter(stream)
        piece = SAMPLE // 64 if not self.is_numbered else SAMPLED_IDS
        starts = [number * (len(stream) - piece) // 63 for number in range(64)]
        return Counter(idx for start in starts for idx in stream[start : start + piece])


def is_token_folder(path: Path | None) -> bool:
    """Whether `path` is a folder with a train.bin.

    Raises:
        ValueError: it has a val.bin alone, so that there is nothing to train on.
    """
    if path is None:
        return False
    if os.path.isfile(os.path.join(path, TRAINING)):
        return True
    numbered = numbered_files(path)
    if numbered["train"]:
        return True
    if numbered["val"] or os.path.isfile(os.path.join(path, VALIDATION)):
        name = os.path.basename(numbered["val"][0]) if numbered["val"] else VALIDATION
        raise ValueError(f"{os.fspath(path)} has a {name}, but no {TRAINING}: there is nothing to train on")
    return False


def numbered_files(path: Path) -> dict[str, list[str]]:
    """Returns the numbered files of a folder, for "train" and for "val", in the order of their numbers.

    Raises:
        ValueError: a number is missing between them, or there twice.
    """
    found: dict[str, dict[int, str]] = {"train": {}, "val": {}}
    names = sorted(os.listdir(path)) if os.path.isdir(path) else []
    for name in names:
        match = NUMBERED.fullmatch(name)
        if match is None:
            continue
        numbers = found[match[1]]
        if int(match[2]) in numbers:
            raise ValueError(f"{os.fspath(path)} has {match[1]} file number {int(match[2])} twice: {name}")
        numbers[int(match[2])] = os.path.join(path, name)
    result = {}
    for part, numbers in found.items():
        order = sorted(numbers)
        if order and order != list(range(order[0], order[0] + len(order))):
            lacking = next(n for n in range(order[0], order[-1]) if n not in numbers)
            raise ValueError(f"{os.fspath(path)}: of the {part} files number {lacking} is missing")
        result[part] = [numbers[number] for number in order]
    return result


def open_token_folder(path: Path, tokenizer: Tokenizer | str) -> TokenFolder:
    """Returns the ids of a folder, which stay in its files, and checks them against the vocabulary.

    Args:
        tokenizer: the one that made the ids, or where it is kept; "characters" and "bpe" (to be trained,
            elsewhere) mean the folder's own.

    Raises:
        ValueError: no tokenizer, a file that is no row of ids, an id that is not in the vocabulary, or ids
            that look as if they were wider than they are read.
        OSError: a file cannot be read.
    """
    folder = os.fspath(path)
    if isinstance(tokenizer, str):
        tokenizer = open_tokenizer(folder if tokenizer in ("characters", "bpe") else tokenizer)
    stated = _stated_dtype(folder)
    dtype = stated or ("uint16" if tokenizer.vocab_size <= VOCABULARY_LIMITS["H"] else "uint32")
    if tokenizer.vocab_size > VOCABULARY_LIMITS[TYPECODES[dtype]]:
        raise ValueError(
            f"{os.path.join(folder, META)}: {dtype} cannot number a vocabulary of "
            f"{tokenizer.vocab_size:,} tokens; write the ids as uint32"
        )
    if not os.path.isfile(os.path.join(folder, TRAINING)):
        return _open_numbered(folder, tokenizer, dtype, stated is not None)
    files = [os.path.join(folder, name) for name in (TRAINING, VALIDATION)]
    files = [file for file in files if os.path.isfile(file)]
    streams = [_open_stream(file, dtype, tokenizer.vocab_size, stated is not None) for file in files]
    digest = sha256()
    for file, stream in zip(files, streams, strict=True):
        digest.update(f"{os.path.basename(file)} {len(stream)}\0".encode())
        for start in range(0, len(stream), PIECE):
            digest.update(stream[start : start + PIECE])
    training, validation = streams if len(streams) == 2 else split_train_validation(streams[0])
    return TokenFolder(training, validation, tokenizer, digest.hexdigest(), dtype)


def _open_numbered(folder: str, tokenizer: Tokenizer, dtype: str, is_stated: bool) -> TokenFolder:
    """Returns the ids of a folder of numbered files, of which next to nothing is read."""
    files = numbered_files(folder)
    single = os.path.join(folder, VALIDATION)
    if not files["val"] and os.path.isfile(single):
        files["val"] = [single]
    typecode = TYPECODES[dtype]
    digest = sha256()
    streams = []
    for paths in (files["train"], files["val"]):
        if not paths:
            continue
        opened = [TokenStream.open(path, typecode) for path in paths]
        if not is_stated and _looks_wider(opened[0].view(0, PIECE)):
            raise ValueError(f"{paths[0]}: {_LOOKS_WIDER}; {_advice(folder, dtype, is_stated)}")
        streams.append(TokenStream.joined(opened, tokenizer.vocab_size))
        for path, stream in zip(paths, opened, strict=True):
            digest.update(f"{os.path.basename(path)} {len(stream)}\0".encode())
            last = max(0, len(stream) - SAMPLED_IDS)
            for number in range(SAMPLED_PIECES):
                start = last * number // (SAMPLED_PIECES - 1)
                digest.update(stream[start : start + SAMPLED_IDS])
    training, validation = streams if len(streams) == 2 else split_train_validation(streams[0])
    return TokenFolder(training, validation, tokenizer, digest.hexdigest(), dtype, True)


def _stated_dtype(folder: str) -> str | None:
    """Returns the dtype that meta.json states, or None where it states none.

    Raises:
        ValueError: the file is damaged, or states another dtype than those that are read.
    """
    path = os.path.join(folder, META)
    if not os.path.isfile(path):
        return None
    try:
        dtype = read_json_object(path, MAXIMUM_META).get("dtype")
    except SerializationError as problem:
        raise ValueError(f"the dtype of the ids cannot be read: {problem}") from None
    if dtype is not None and (not isinstance(dtype, str) or dtype not in TYPECODES):
        raise ValueError(f"{path}: dtype is {dtype!r:.80}; those that are read are {', '.join(TYPECODES)}")
    return dtype


def _open_stream(path: str, dtype: str, vocab_size: int, is_stated: bool) -> TokenStream:
    """Returns the ids of one file, checked."""
    advice = _advice(os.path.dirname(path), dtype, is_stated)
    try:
        stream = TokenStream.open(path, TYPECODES[dtype], vocab_size)
    except ValueError as problem:
        raise ValueError(f"{problem}; {advice}") from None
    if not is_stated and _looks_wider(stream):
        raise ValueError(f"{path}: {_LOOKS_WIDER}; {advice}")
    return stream


_LOOKS_WIDER = "every second id is 0, as when wide ids are read as narrow ones"


def _advice(folder: str, dtype: str, is_stated: bool) -> str:
    """Returns what to do about ids that do not fit the vocabulary."""
    meta = os.path.join(folder, META)
    advice = f'if they have another width, state it in {meta}, such as {{"dtype": "uint32"}}'
    if not is_stated:
        advice = f"nothing states the dtype of the ids, so they were read as {dtype}; " + advice
    return advice


def _looks_wider(stream: TokenStream) -> bool:
    """Whether every second id is 0, from the second one on, and the others are not all 0."""
    is_any = False
    for start in range(0, len(stream), PIECE):
        piece = stream[start : start + PIECE]  # PIECE is even, so a piece begins as the file does
        if piece[1::2].tobytes().strip(b"\0"):
            return False
        is_any = is_any or bool(piece[0::2].tobytes().strip(b"\0"))
    return is_any and len(stream) % 2 == 0
