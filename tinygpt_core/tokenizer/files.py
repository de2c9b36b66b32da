"""Where tokenizers are kept: one file for any of them, and folders in which one may lie in several forms."""

from __future__ import annotations

import json
import os
from typing import Any

from ..files.atomic import Path, write_durably
from .base import Tokenizer, TokenizerError, read_text_file
from .bpe import BPETokenizer
from .characters import CharTokenizer
from .pipelines import TOKENIZER, read_pipeline
from .tokenizer_json import JSONTokenizer, read_tokenizer_json

FORMAT = "tinygpt tokenizer"
FORMAT_VERSION = 2  # of a file that lists its tokens; one that lists merges alone is of version 1

# Names in a folder
OWN_TOKENIZER = "tokenizer"  # of `save_tokenizer`
GPT2_TOKENIZER = ("vocab.json", "merges.txt")
TINYGPT_TOKENIZER = "tokenizer.model"  # of `BPETokenizer.save`


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    """Writes any tokenizer to one JSON file, and waits until it is on the disk."""
    fields = tokenizer._to_json()
    header = {
        "format": FORMAT,
        "version": 2 if "tokens" in fields else 1,
        "kind": tokenizer.kind,
        "special_tokens": tokenizer.special_tokens,
    }
    write_durably(path, json.dumps({**header, **fields}).encode())


def load_tokenizer(path: Path) -> Tokenizer:
    """Returns the tokenizer in a file of `save_tokenizer`.

    Raises:
        TokenizerError: the file is truncated, changed or of a newer version.
        OSError: it cannot be read.
    """
    try:
        return _parse(read_text_file(path))
    except (ValueError, RecursionError) as problem:
        raise TokenizerError(f"{os.fspath(path)} is not a tokenizer file: {problem!s:.400}") from None


def _parse(text: str) -> Tokenizer:
    """Returns the tokenizer that the text of a file describes; raises ValueError where it describes none."""
    value = json.loads(text)
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise TokenizerError(f"not a JSON object with format {FORMAT!r}")
    version = value.get("version")
    if version not in range(1, FORMAT_VERSION + 1):
        raise TokenizerError(
            f"version {version!r:.80}, but this tinygpt reads versions up to {FORMAT_VERSION}"
        )
    classes: dict[Any, type[Tokenizer]] = {
        each.kind: each for each in (CharTokenizer, BPETokenizer, JSONTokenizer)
    }
    kind = value.get("kind")
    if not isinstance(kind, str) or kind not in classes:
        raise TokenizerError(f"kind is one of {', '.join(classes)}, not {kind!r:.80}")
    tokenizer = classes[kind]._from_json(value)
    specials = value.get("special_tokens")
    if not isinstance(specials, dict):
        raise TokenizerError("'special_tokens' maps texts to ids")
    tokenizer.register_special_tokens(specials)
    return tokenizer


def find_tokenizer(path: Path) -> Tokenizer | None:
    """Returns the tokenizer in a file of `save_tokenizer` or in a folder, or None where there is none.

    In a folder it is `tokenizer` (such a file), GPT-2's `vocab.json` and `merges.txt`, `tokenizer.json`, or
    TinyGPT's `tokenizer.model`; the first of them that is there. What lies beside `vocab.json` is heeded, see
    `read_pipeline`: where it asks for more than these two files say, `tokenizer.json` is read instead.

    Raises:
        TokenizerError: there is one, but it is damaged.
        OSError: it cannot be read.
    """
    if os.path.isfile(path):
        return load_tokenizer(path)
    own = os.path.join(path, OWN_TOKENIZER)
    if os.path.isfile(own):
        return load_tokenizer(own)
    vocab, merges = (os.path.join(path, name) for name in GPT2_TOKENIZER)
    described = os.path.join(path, TOKENIZER)
    has_description = os.path.isfile(described)
    if os.path.isfile(vocab) and os.path.isfile(merges):
        try:
            return _open_gpt2(os.fspath(path), vocab, merges)
        except TokenizerError as problem:
            if not has_description:
                raise
            try:
                return read_tokenizer_json(described)
            except TokenizerError:
                raise problem from None
    if has_description:
        return read_tokenizer_json(described)
    model = os.path.join(path, TINYGPT_TOKENIZER)
    if os.path.isfile(model) and _is_tinygpt_model(model):
        tokenizer = BPETokenizer()
        tokenizer.load(model)
        return tokenizer
    return None


def _open_gpt2(folder: str, vocab: str, merges: str) -> BPETokenizer:
    """Returns the tokenizer of GPT-2's pair of files, split as the folder says."""
    pipeline = read_pipeline(folder)
    specials = ("<|endoftext|>", *pipeline.added_tokens)
    tokenizer = BPETokenizer.from_gpt2(vocab, merges, specials, pipeline.pattern)
    for text, idx in tokenizer.special_tokens.items():
        if pipeline.added_tokens.get(text, idx) != idx:
            raise TokenizerError(f"{vocab}: {text!r:.80} has the id {idx}, but another in tokenizer.json")
    tokenizer.register_special_tokens({**tokenizer.special_tokens, **pipeline.added_tokens})
    return tokenizer


def _is_tinygpt_model(path: str) -> bool:
    """Whether a `.model` file is TinyGPT's or minbpe's. (Llama's has this name, too, and another format.)"""
    with open(path, "rb") as file:
        start = file.read(10)
    return start.startswith((b"tinygpt v", b"minbpe v", b"'", b'"'))


def open_tokenizer(path: Path) -> Tokenizer:
    """Returns the tokenizer that `find_tokenizer` finds.

    Raises:
        TokenizerError: there is none, or it is damaged.
        OSError: it cannot be read.
    """
    found = find_tokenizer(path)
    if found is None:
        raise TokenizerError(
            f"there is no tokenizer in {os.fspath(path)}: pass --tokenizer with 'characters' or 'bpe' "
            f"(trained on the text), a file of save_tokenizer, or a folder that holds one or GPT-2's "
            f"vocab.json and merges.txt; token ids need the one that made them"
        )
    return found
