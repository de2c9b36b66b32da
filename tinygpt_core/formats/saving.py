"""A model written as another library keeps it, or as a run of our own."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from .. import backends
from ..buffer.base import Buffer
from ..files.atomic import Path
from ..files.json_objects import write_json
from ..files.safetensors import save_safetensors
from ..nn.gpt import GPT
from ..tokenizer.base import Tokenizer
from ..tokenizer.bpe import BPETokenizer
from ..tokenizer.chat import ChatTemplate
from ..tokenizer.describing import describe
from ..tokenizer.files import save_tokenizer
from ..tokenizer.patterns import TokenizerError
from ..tokenizer.pipelines import TOKENIZER as TOKENIZER_JSON
from ..tokenizer.pipelines import TOKENIZER_CONFIG
from ..training import checkpoint
from ..training.conversations import CHAT_TEMPLATE
from ..training.data import BOUNDARY
from . import tinygpt
from .base import Family, FormatError, Piece, pieces_of
from .families import FAMILIES, FORMATS
from .sources import CONFIG, MODEL, TINYGPT_MODEL


def save_pretrained(
    model: GPT,
    path: Path,
    format: str = "gpt2",
    tokenizer: Tokenizer | None = None,
    data: Mapping[str, Any] | None = None,
    chat_template: ChatTemplate | None = None,
) -> None:
    """Writes a model to a directory, for the library whose format it is (or for `tinygpt generate`).

    Args:
        path: the directory, new or empty.
        format: one of `FORMATS`, such as "gpt2", "llama" or "native".
        tokenizer: is written beside the weights, also as the `tokenizer.json` that other libraries read, if
            that can hold it (else there is a RuntimeWarning); "native" needs one.
        data: for "native", what a run keeps of its corpus (`is_documents` and `opening`); deduced from the
            tokenizer by default.
        chat_template: of a model that was taught to chat; is written with the tokenizer.

    Raises:
        FormatError: the format cannot hold the model (the message names each field that differs), as no
            format holds one with quantized layers, or the directory is in use.
        OSError: it cannot be written.
    """
    path = os.fspath(path)
    if format not in FORMATS:
        raise FormatError(f"there is no format {format!r}: expected one of {', '.join(FORMATS)}")
    refuse_existing(path)
    try:
        model.require_savable()
    except ValueError as problem:
        raise FormatError(str(problem)) from None
    if format == "native":
        _save_native(model, path, tokenizer, data, chat_template)
        return
    family = FAMILIES[format]
    if obstacles := family.obstacles(model.config):
        raise FormatError(f"the {format} format cannot hold this model: {'; '.join(obstacles)}")
    tensors = _their_tensors(model, family)
    os.makedirs(path, exist_ok=True)
    if format == "tinygpt":
        tinygpt.save_weights(model, tensors, os.path.join(path, TINYGPT_MODEL))
    else:
        save_safetensors(os.path.join(path, MODEL), tensors, {"format": "pt"})
    config = family.write_config(model.config)
    ends = _ends_of_answers(tokenizer, chat_template)
    if ends and "eos_token_id" in config:
        config["eos_token_id"] = list(ends.values()) if len(ends) > 1 else next(iter(ends.values()))
    write_json(os.path.join(path, CONFIG), config)
    if tokenizer is not None:
        _save_tokenizer(tokenizer, os.path.join(path, checkpoint.TOKENIZER), format, chat_template)


def _their_tensors(model: GPT, family: Family) -> dict[str, Buffer]:
    """Returns the tensors of theirs by name, each made of the pieces that lie side by side in it."""
    parts: dict[str, list[tuple[Piece, Buffer]]] = {}
    for name, tensor in model.named_parameters():
        for piece in pieces_of(family, model.config, name, tensor.shape):
            parts.setdefault(piece.name, []).append((piece, piece.to_theirs(tensor.buffer)))
    tensors: dict[str, Buffer] = {}
    for name, found in parts.items():
        found.sort(key=lambda part: part[0].first)
        columns = [part for _, part in found]
        whole = columns[0]
        if len(columns) > 1:
            whole = type(whole).concatenate(columns, axis=whole.ndim - 1)
        tensors[name] = whole.transpose(0, 1) if found[0][0].is_transposed else whole
    return tensors


def refuse_existing(path: str) -> None:
    """Raises FormatError where `path` is anything but a new or empty directory."""
    if not os.path.lexists(path):
        return
    is_empty_directory = os.path.isdir(path) and not os.listdir(path)
    if not is_empty_directory:
        raise FormatError(f"{path} already exists and nothing is overwritten: choose another directory")


def _ends_of_answers(tokenizer: Tokenizer | None, chat_template: ChatTemplate | None) -> dict[str, int]:
    """Returns the special tokens that end an answer, and their ids; none of a model that was not taught to
    chat, or whose answers end with ordinary tokens.
    """
    if tokenizer is None or chat_template is None:
        return {}
    special = tokenizer.special_tokens
    return {text: special[text] for text in chat_template.stops if text in special}


def _save_tokenizer(tokenizer: Tokenizer, path: str, format: str, chat_template: ChatTemplate | None) -> None:
    """Writes a tokenizer beside the weights: for TinyGPT in its own form, if that can hold the vocabulary;
    for others also as `tokenizer.json`, which they read.
    """
    if format == "tinygpt" and isinstance(tokenizer, BPETokenizer):
        with suppress(TokenizerError):
            tokenizer.save(path)
            return
    save_tokenizer(tokenizer, path)
    if format == "tinygpt":
        return
    description = describe(tokenizer)
    if description is None:
        warnings.warn(
            f"no {TOKENIZER_JSON} is written: the tokenizer splits by a pattern that means something else to "
            f"other libraries; the file {os.path.basename(path)} is for tinygpt alone",
            RuntimeWarning,
            stacklevel=3,
        )
        return
    directory = os.path.dirname(path)
    write_json(os.path.join(directory, TOKENIZER_JSON), description)
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    if chat_template is not None:
        if ends := list(_ends_of_answers(tokenizer, chat_template)):
            about["eos_token"] = ends[0]
        about |= {"chat_template": chat_template.jinja(), **chat_template.variables}
    write_json(os.path.join(directory, TOKENIZER_CONFIG), about)


# ---------------------------------------------------------------- runs of our own


def _save_native(
    model: GPT,
    path: str,
    tokenizer: Tokenizer | None,
    data: Mapping[str, Any] | None,
    chat_template: ChatTemplate | None,
) -> None:
    """Writes a run that has made no step yet."""
    if tokenizer is None:
        raise FormatError(
            "a native run needs a tokenizer: the checkpoint has none that can be read beside it"
        )
    if tokenizer.vocab_size > model.config.vocab_size:
        raise FormatError(
            f"the tokenizer has {tokenizer.vocab_size:,} tokens, "
            f"but the model knows {model.config.vocab_size:,}"
        )
    if data is None:
        data = data_of(tokenizer)
    if chat_template is not None:
        data = {**data, CHAT_TEMPLATE: chat_template.to_json()}
    checkpoint.save_checkpoint(
        path,
        config={
            "training": {"backend": backends.fastest()},  # nothing was trained here: what `generate` takes
            "model": model.config.to_dict(),
            "data": dict(data),
        },
        tokenizer=tokenizer,
        model_tensors=model.named_weights(),
        optimizer_tensors={},
        state={"step": 0},
    )


def data_of(tokenizer: Tokenizer) -> dict[str, Any]:
    """Returns what a run keeps of its corpus (`is_documents`, `opening`), as far as a tokenizer tells it."""
    is_documents = BOUNDARY in tokenizer.special_tokens
    return {"is_documents": is_documents, "opening": "" if is_documents else _opening(tokenizer)}


def _opening(tokenizer: Tokenizer) -> str:
    """Returns a text from which generating can start where nothing is said: the first that can be encoded."""
    for text in ("\n", " ", *getattr(tokenizer, "characters", "")):
        with suppress(ValueError):
            if tokenizer.encode(text):
                return text
    return ""
