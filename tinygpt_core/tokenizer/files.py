"""One file for any tokenizer."""

from __future__ import annotations

import json
import os
from typing import Any

from ..files.atomic import Path, write_durably
from .base import Tokenizer, TokenizerError, read_text_file
from .bpe import BPETokenizer
from .characters import CharTokenizer

FORMAT = "tinygpt tokenizer"
FORMAT_VERSION = 2  # of a file that lists its tokens; one that lists merges alone is of version 1


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    """Writes any tokenizer to one JSON file, and waits until it is on the disk."""
    fields = tokenizer._to_json()
    value = {
        "format": FORMAT,
        "version": 1 + ("tokens" in fields),
        "kind": tokenizer.kind,
        "special_tokens": tokenizer.special_tokens,
    }
    write_durably(path, json.dumps({**value, **fields}).encode())


def load_tokenizer(path: Path) -> Tokenizer:
    """Returns the tokenizer in a file of `save_tokenizer`.

    Raises:
        TokenizerError: the file is truncated, changed or of a newer version.
    """
    name = os.fspath(path)
    try:
        value = json.loads(read_text_file(path))
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise TokenizerError(f"not a JSON object with format {FORMAT!r}")
        if value.get("version") not in range(1, FORMAT_VERSION + 1):
            raise TokenizerError(
                f"version {value.get('version')!r:.80}, but this tinygpt reads versions up to {FORMAT_VERSION}"
            )
        classes: dict[Any, type[Tokenizer]] = {kind.kind: kind for kind in (CharTokenizer, BPETokenizer)}
        if not isinstance(value.get("kind"), str) or value["kind"] not in classes:
            raise TokenizerError(f"kind is one of {', '.join(classes)}, not {value.get('kind')!r:.80}")
        tokenizer = classes[value["kind"]]._from_json(value)  # type: ignore[arg-type]
        specials = value.get("special_tokens")
        if not isinstance(specials, dict):
            raise TokenizerError("'special_tokens' maps texts to ids")
        tokenizer.register_special_tokens(specials)
        return tokenizer
    except (ValueError, RecursionError) as problem:
        raise TokenizerError(f"{name} is not a tokenizer file: {problem}") from None
