"""Folders of token ids, as nanoGPT's `prepare.py` writes them.

    train.bin    ids as little-endian uint16, one after the other
    val.bin      the same, to validate on; without it the tail of train.bin is taken
    tokenizer    what made the ids, in any form of `find_tokenizer`; nanoGPT keeps none beside them

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
from ..tokenizer.base import Tokenizer
from ..tokenizer.files import open_tokenizer
from .batches import split_train_validation
from .tokens import PIECE, TokenStream

TRAINING = "train.bin"
VALIDATION = "val.bin"
SAMPLE = 64 * 65_536  # ids whose frequencies stand for those of a longer stream


class TokenFolder(NamedTuple):
    """A folder of token ids: its parts, which stay in their files, the tokenizer that made them, and the
    SHA-256 of the files.
    """

    training: TokenStream
    validation: TokenStream
    tokenizer: Tokenizer
    sha256: str

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
    """Whether `path` is a folder with a train.bin."""
    return path is not None and os.path.isfile(os.path.join(path, TRAINING))


def open_token_folder(path: Path, tokenizer: Tokenizer | str) -> TokenFolder:
    """Returns the ids of a folder, which stay in its files, and checks them against the vocabulary.

    Args:
        tokenizer: the one that made the ids, or where it is kept; "characters" and "bpe" (to be trained,
            elsewhere) mean the folder's own.

    Raises:
        ValueError: no tokenizer, a file that is no row of ids, or an id that is not in the vocabulary.
        OSError: a file cannot be read.
    """
    folder = os.fspath(path)
    if isinstance(tokenizer, str):
        tokenizer = open_tokenizer(folder if tokenizer in ("characters", "bpe") else tokenizer)
    files = [os.path.join(folder, name) for name in (TRAINING, VALIDATION)]
    files = [file for file in files if os.path.isfile(file)]
    streams = [TokenStream.open(file, "H", tokenizer.vocab_size) for file in files]
    digest = sha256()
    for file, stream in zip(files, streams, strict=True):
        digest.update(f"{os.path.basename(file)} {len(stream)}\0".encode())
        for start in range(0, len(stream), PIECE):
            digest.update(stream[start : start + PIECE])
    training, validation = streams if len(streams) == 2 else split_train_validation(streams[0])
    return TokenFolder(training, validation, tokenizer, digest.hexdigest())
