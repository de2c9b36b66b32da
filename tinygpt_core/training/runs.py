"""The directory of a run: that no run overwrites another, and the model that is kept in one.

config.json, tokenizer, model.safetensors, optimizer.safetensors, state.json    see `checkpoint`
log.jsonl                                                                       one line an event
beginning.json                                    the settings, only until the first checkpoint is there
best/                                             with --keep-best: the checkpoint of the best validation
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import takewhile
from typing import Any

from .. import backends, random
from ..buffer.base import Buffer
from ..files.atomic import lock_directory, remove_temporary_files
from ..files.json_objects import read_json_object, write_json
from ..files.safetensors import OpenSafetensors
from ..generation import generate, generate_ids, pieces_of, until
from ..nn.gpt import GPT, GPTConfig
from ..nn.lora import LoRAConfig, LoRALinear, merge_lora, put_adapters
from ..nn.quantized import check_weight_dtype, quantize
from ..nn.sizes import require_room
from ..tensor import Tensor, uninitialized
from ..tokenizer.chat import ChatError, ChatTemplate, Message
from .checkpoint import (
    CONFIG,
    FILES,
    NEXT,
    STATE,
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    remove_unfinished,
)
from .config import TrainingConfig
from .data import BOUNDARY

LOG = "log.jsonl"
BEGINNING = "beginning.json"
BEST = "best"
ADAPTERS = "lora"  # in config.json: which adapters the model has, where it has some
SAMPLE_TOKENS = 200  # the most in a text, unless somebody says otherwise
SAMPLE_TEMPERATURE = 0.7


class DirectoryExistsError(ValueError):
    """A run was to make its directory, and something is already there."""


def refuse_used_directory(directory: str) -> None:
    """Raises ValueError if `directory` holds anything, so that no run overwrites another.

    What a run has left that ended before its first checkpoint does not count: nothing is lost with it.
    """
    if os.path.lexists(directory) and not os.path.isdir(directory):
        raise ValueError(f"{directory} is not a directory")
    if os.path.isdir(directory) and not all(map(_is_of_a_beginning, os.listdir(directory))):
        raise ValueError(
            f"{directory} is not empty and nothing is overwritten: "
            "choose another directory, or resume the run in it"
        )


def _is_of_a_beginning(name: str) -> bool:
    """Whether a run may have a file of this name before its first checkpoint."""
    beside = {file + NEXT for file in FILES}
    temporary = tuple(f".{file}." for file in (STATE, BEGINNING, *beside))
    return name == BEGINNING or name in beside or (name.startswith(temporary) and name.endswith(".tmp"))


@contextmanager
def beginning(directory: str, config: TrainingConfig, *, must_be_new: bool = False) -> Iterator[None]:
    """Makes and locks the directory of a new run, for a `with` in which its first checkpoint is written.

    It yields nothing. No two processes can be in it with one directory. Until there is a checkpoint the
    settings are kept there, so that a run that is killed before it can be begun again. Where the `with`
    fails, everything is as it was before.

    Args:
        directory: new or empty, or that of a run that ended before its first checkpoint.
        config: the settings of the run.
        must_be_new: whether a directory that is empty is refused, too.

    Raises:
        DirectoryExistsError: there is something of that name, and it must be new.
        ValueError: the directory is in use.
        BlockingIOError: another process has locked it.
        OSError: it cannot be made.
    """
    refuse_used_directory(directory)
    parent = os.path.dirname(os.path.abspath(directory))
    made = _make_parents(parent)
    try:
        os.mkdir(directory)
        made.append(directory)
    except FileExistsError:
        if must_be_new:
            raise DirectoryExistsError(f"{directory} already exists") from None
    with lock_directory(directory):
        refuse_used_directory(directory)  # another process may have been here before the lock
        try:
            write_json(os.path.join(directory, BEGINNING), config.to_dict(), replace_anything=True)
            remove_unfinished(directory)
            yield
        finally:
            # With a checkpoint it is not needed any more, and without one the run has failed.
            with suppress(OSError):
                os.unlink(os.path.join(directory, BEGINNING))
                remove_temporary_files(directory, [BEGINNING])
            if not os.path.exists(os.path.join(directory, STATE)):
                with suppress(OSError):
                    remove_unfinished(directory)
                for folder in reversed(made):
                    with suppress(OSError):
                        os.rmdir(folder)


def _make_parents(folder: str) -> list[str]:
    """Makes a folder and those above it; returns those that were not there, the uppermost first."""
    missing = []
    while not os.path.isdir(folder) and os.path.dirname(folder) != folder:
        missing.append(folder)
        folder = os.path.dirname(folder)
    made = []
    for each in reversed(missing):
        with suppress(FileExistsError):  # another process was faster
            os.mkdir(each)
            made.append(each)
    return made


def settings_of_a_beginning(directory: str) -> TrainingConfig | None:
    """Returns the settings of a run that ended before its first checkpoint; None where there is no such run.

    Raises:
        CheckpointError: they do not work.
    """
    path = os.path.join(directory, BEGINNING)
    if os.path.exists(os.path.join(directory, STATE)) or not os.path.isfile(path):
        return None
    try:
        return TrainingConfig.from_dict(read_json_object(path))
    except ValueError as problem:
        raise CheckpointError(f"the settings in {path} do not work: {problem}") from None


def backend_of(directory: str) -> str | None:
    """Returns the name of the backend of the run in a directory, or None where nothing there says it."""
    for name in (CONFIG, BEGINNING):
        with suppress(OSError, ValueError):
            values = read_json_object(os.path.join(directory, name))
            settings = values.get("training", values)
            found = settings.get("backend") if isinstance(settings, dict) else None
            if isinstance(found, str):
                return found
    return None


def saved_settings(saved: Checkpoint, directory: str) -> TrainingConfig:
    """Returns the settings in the checkpoint of a run.

    Raises:
        CheckpointError: one does not work. It is the file that is wrong, and not what a caller passed.
    """
    try:
        return TrainingConfig.from_dict(saved.config["training"])
    except ValueError as problem:
        raise CheckpointError(f"the settings of the run in {directory} do not work: {problem}") from None


def usable_backend(name: str) -> str:
    """Returns `name` where that backend can run here, else "python", with a warning.

    A run can be continued on any backend.
    """
    problem = backends.why_not(name)
    if not problem:
        return name
    warnings.warn(f"{problem}; going on with the python backend", stacklevel=3)
    return "python"


def saved_adapters(saved: Checkpoint) -> LoRAConfig | None:
    """Returns which adapters the model in a checkpoint has, or None where it has none.

    Raises:
        CheckpointError: what describes them does not work.
    """
    values = saved.config.get(ADAPTERS)
    try:
        return None if values is None else LoRAConfig.from_dict(values)
    except (TypeError, ValueError) as problem:
        raise CheckpointError(
            f"what the checkpoint says of its adapters does not work: {str(problem)[:400]}"
        ) from None


def empty_model(config: GPTConfig, saved: Checkpoint, directory: str) -> GPT:
    """Returns a model for the weights of a checkpoint, adapters included, without memory for its own.

    The config is only a file like the others: it is compared with the weights before it is believed.

    Raises:
        CheckpointError: the weights are not of a model with this config.
    """
    tensors = saved.model_tensors
    found = tensors.entries if isinstance(tensors, OpenSafetensors) else tensors
    shapes = {name: each.shape for name, each in found.items()}
    adapters = saved_adapters(saved)
    try:
        require_room(config, shapes.values())
        with uninitialized():  # numbers that are about to be replaced need not be drawn
            model = GPT(config)
            if adapters is not None:
                put_adapters(model, adapters)
    except (ValueError, OverflowError, MemoryError) as problem:
        raise CheckpointError(
            f"the config of the run in {directory} does not go with its weights: {str(problem)[:400]}"
        ) from None
    expected = {name: tensor.shape for name, tensor in model.named_parameters()}
    for name in model.named_extra_tensors():  # of any shape: it is looked at when they are loaded
        expected[name] = shapes.get(name, ())
    for name in sorted(expected.keys() | shapes.keys()):
        if expected.get(name) != shapes.get(name):
            raise CheckpointError(
                f"the config of the run in {directory} does not go with its weights: "
                f"{name} would be {expected.get(name, 'missing')}, and is {shapes.get(name, 'missing')}"
            )
    return model


def load_model(
    directory: str, backend: str | None = None, dtype: str = "float32"
) -> tuple[GPT, Any, dict[str, Any]]:
    """Returns what a run has learned so far.

    Weights are read one after the other: the model is all that takes memory.

    Args:
        directory: of a run.
        backend: where the model shall live; default: the backend it was trained on, or python (and a warning)
            where that cannot run.
        dtype: in what its weights are kept; "bfloat16" and "int8" make a model that only computes, see
            `nn.quantized.quantize`. Adapters are merged first.

    Returns:
        The model, with its adapters where it has some; its tokenizer; and the run's config (`training`, with
        the backend where the model lives, `model` and `data`).

    Raises:
        CheckpointError: there is no checkpoint, or it is damaged.
        ValueError: another dtype.
    """
    check_weight_dtype(dtype)
    saved = load_checkpoint(directory, optimizer=False, opened=True)
    tensors = saved.model_tensors
    assert isinstance(tensors, OpenSafetensors)
    with tensors:
        model = _model_of(saved, tensors, directory, backend, dtype)
    return model, saved.tokenizer, saved.config


def _model_of(
    saved: Checkpoint, tensors: OpenSafetensors, directory: str, backend: str | None, dtype: str
) -> GPT:
    """Returns the model of a checkpoint with these tensors; the other arguments are those of `load_model`."""
    try:
        settings = saved.config["training"]
        data = saved.config["data"]
        special_tokens = saved.tokenizer.special_tokens
        if type(data["opening"]) is not str or data["is_documents"] not in (
            False,
            BOUNDARY in special_tokens,
        ):
            raise KeyError("what tells how its texts begin and end")
        settings["backend"] = backend or usable_backend(str(settings["backend"]))
        with backends.use(settings["backend"]):
            model_config = GPTConfig.from_dict(saved.config["model"])
            model = empty_model(model_config, saved, directory)
            _fill(model, tensors, dtype)
    except (KeyError, TypeError, OverflowError, MemoryError) as problem:
        raise CheckpointError(
            f"the checkpoint in {directory} lacks what a model needs: {str(problem)[:400]}"
        ) from problem
    except CheckpointError:
        raise
    except ValueError as problem:
        if backend:
            backends.get(backend)  # what the caller has passed is no fault of the checkpoint
        raise CheckpointError(
            f"the checkpoint in {directory} is of no model: {str(problem)[:400]}"
        ) from problem
    return model


def _fill(model: GPT, tensors: OpenSafetensors, dtype: str) -> None:
    """Gives a model without memory its weights, in a dtype."""

    def numbers_of(name: str, weights: Tensor) -> Iterator[Buffer]:
        # A linear layer's outputs are columns: it is read whole. A table of tokens is what is large.
        if name.endswith("embeddings"):
            yield from (rows.as_dtype(weights.dtype) for rows in tensors.row_blocks(name))
        else:
            yield tensors[name].as_dtype(weights.dtype).transpose(0, 1)

    has_adapters = any(isinstance(module, LoRALinear) for module in model.modules())
    if dtype != "float32" and not has_adapters:
        quantize(model, dtype, numbers_of)
    for name, tensor in model.named_parameters():
        tensor.buffer = tensors[name].as_dtype(tensor.dtype)
    model.load_named_extra_tensors({name: tensors[name] for name in model.named_extra_tensors()})
    if dtype != "float32" and has_adapters:  # what is quantized is the sum
        merge_lora(model)
        quantize(model, dtype)


def sample_pieces(
    model: GPT,
    tokenizer: Any,
    prompt: str,
    is_documents: bool,
    generator: random.Generator,
    *,
    tokens: int = SAMPLE_TOKENS,
    temperature: float = SAMPLE_TEMPERATURE,
    **options: Any,
) -> Iterator[str]:
    """Returns pieces of a text as they are sampled; where the corpus is of documents, it ends as one does.

    The other arguments and the options are those of `generation.generate`.
    """
    return generate(
        model,
        tokenizer,
        prompt,
        tokens=tokens,
        temperature=temperature,
        generator=generator,
        stop_id=tokenizer.special_tokens[BOUNDARY] if is_documents else None,
        **options,
    )


def answer_pieces(
    model: Any,
    tokenizer: Any,
    template: ChatTemplate,
    messages: Sequence[Message],
    generator: Any,
    *,
    tokens: int = SAMPLE_TOKENS,
    temperature: float = SAMPLE_TEMPERATURE,
    stop: Sequence[str] = (),
    sampler: Callable[..., Iterator[int]] = generate_ids,
    **sampling: Any,
) -> Iterator[str]:
    """Yields pieces of the answer to a conversation, as they are sampled. It ends with the template's token
    or mark for that, or any special token, before one of the texts in `stop`, after `tokens` tokens, or where
    the context is full.

    Args:
        model, tokenizer: of one vocabulary.
        template: asks for the answer.
        messages: from the first to the last, to which an answer is wanted.
        generator: where the randomness comes from.
        sampler: draws the ids: `generate_ids`, or a `SpeculativeDecoding`.
        sampling: further settings, as of `generation.generate_ids`.

    Raises:
        ChatError: see `ChatTemplate.ids`; or the conversation does not fit the context.
        ValueError: a setting is out of range.
    """
    ids = template.ids(tokenizer, messages)
    template.stop_ids(tokenizer)  # raises where nothing would end an answer
    special = frozenset(tokenizer.special_tokens.values())
    room = model.config.context_length - len(ids) + 1  # what is drawn last is not read
    if room < 1:
        raise ChatError(
            f"the conversation has {len(ids):,} tokens, "
            f"and the model's context {model.config.context_length:,}"
        )
    # Special tokens also where their texts are drawn in pieces
    stops = (*stop, *template.marks, *tokenizer.special_tokens)
    drawn = sampler(
        model,
        ids,
        tokens=min(tokens, room),
        temperature=temperature,
        generator=generator,
        excluded=tokenizer.unknown_ids(model.config.vocab_size),
        **sampling,
    )
    pieces = pieces_of(tokenizer, takewhile(lambda idx: idx not in special, drawn))
    yield from until(without_lead(pieces, template.lead), stops)


def without_lead(pieces: Iterable[str], lead: str) -> Iterator[str]:
    """Yields pieces of a text without what it begins with, where it begins with that."""
    kept = ""
    is_open = bool(lead)
    for piece in pieces:
        kept += piece
        if is_open and len(kept) < len(lead) and lead.startswith(kept):
            continue
        yield kept.removeprefix(lead) if is_open else kept
        kept, is_open = "", False
    if kept:
        yield kept
