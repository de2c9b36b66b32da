"""Folders of token ids, as nanoGPT's `prepare.py` writes them.

    train.bin    ids as little-endian integers, one after the other
    val.bin      the same, to validate on; without it the tail of train.bin is taken
    tokenizer    what made the ids, in any form of `find_tokenizer`; nanoGPT keeps none beside them
    meta.json    {"dtype": "uint32"}: how wide an id is, if that is to be stated

How wide an id is cannot be seen in such a file. Where meta.json does not say, it is what the writers of these
folders do: uint16 (nanoGPT), and uint32 for a vocabulary that uint16 cannot number. Ids of 4 or 8 bytes that
are read as uint16 become twice or four times as many, every second of them 0: a file that looks like that is
refused, unless meta.json says what it is.

The ids stay in the files: only the windows that batches are made of are ever read, except for two passes at
the start, a piece at a time: one that checks every id against the vocabulary, and one for the SHA-256
by which a resumed run knows its data.
"""

from __future__ import annotations

import os
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

    def counts(self) -> Counter[int]:
        """Returns how often ids occur: all of them, or `SAMPLE` of a longer stream in pieces that lie evenly
        in it.
        """
        stream = self.training
        if len(stream) <= SAMPLE:
            return Counter(stream)
        piece = SAMPLE // 64
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
    if os.path.isfile(os.path.join(path, VALIDATION)):
        raise ValueError(
            f"{os.fspath(path)} has a {VALIDATION}, but no {TRAINING}: there is nothing to train on"
        )
    return False


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
    meta = os.path.join(os.path.dirname(path), META)
    advice = f'if they have another width, state it in {meta}, such as {{"dtype": "uint32"}}'
    if not is_stated:
        advice = f"nothing states the dtype of the ids, so they were read as {dtype}; " + advice
    try:
        stream = TokenStream.open(path, TYPECODES[dtype], vocab_size)
    except ValueError as problem:
        raise ValueError(f"{problem}; {advice}") from None
    if not is_stated and _looks_wider(stream):
        raise ValueError(f"{path}: every second id is 0, as when wide ids are read as narrow ones; {advice}")
    return stream


def _looks_wider(stream: TokenStream) -> bool:
    """Whether every second id is 0, from the second one on, and the others are not all 0."""
    is_any = False
    for start in range(0, len(stream), PIECE):
        piece = stream[start : start + PIECE]  # PIECE is even, so a piece begins as the file does
        if piece[1::2].tobytes().strip(b"\0"):
            return False
        is_any = is_any or bool(piece[0::2].tobytes().strip(b"\0"))
    return is_any and len(stream) % 2 == 0
