"""A model made of a checkpoint, after the config and the tensors were found to fit each other."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from .. import backends, shape_errors
from ..buffer.base import Buffer
from ..files.atomic import Path
from ..module import read_tensors
from ..nn.gpt import GPT, GPTConfig
from ..nn.lora import merge_lora
from ..nn.quantized import check_weight_dtype, quantize
from ..nn.sizes import require_room
from ..tensor import Tensor, uninitialized
from ..training.runs import load_model
from .adapters import base_of, read_adapters
from .base import Family, FormatError, as_format_error, listed, pieces_of, shortened
from .families import FAMILIES
from .sources import ADAPTERS, CONFIG, Source, find_source
from .tensors import FLOATING, Tensors
from .tinygpt import infer_config

Shape = tuple[int, ...]


class _Checkpoint(NamedTuple):
    """What is known of a checkpoint before a tensor is read."""

    config_values: Mapping[str, Any]
    config_path: str  # for messages
    weights_path: str  # for messages
    shapes: dict[str, Shape]
    read: Callable[[str], Buffer]
    row_blocks: Callable[[str], Iterable[Buffer]]  # of a matrix, a few rows at a time
    are_equal: Callable[[str, str], bool]  # whether two tensors hold the same numbers


def load_pretrained(
    path: Path, *, num_heads: int | None = None, base: str | None = None, dtype: str = "float32"
) -> GPT:
    """Returns the GPT that a checkpoint describes, with its weights, on the active backend, out of training
    mode.

    Its logits are those of the library that wrote it. Where the config ties the head to the embeddings, but
    the files hold another head, that one is kept, with a RuntimeWarning. Halves (F16, BF16) become float32.
    Weights are read one tensor at a time; the file may be changed or removed as soon as this returns.
    Adapters are merged into the weights, those of a run as well as those in a folder of their own.

    Args:
        path: as for `find_source`.
        num_heads: attention heads, which TinyGPT's own files do not tell.
        base: where the model is that a folder of adapters is for, if not where that says.
        dtype: in what the weights are kept; "bfloat16" and "int8" make a model that only computes, see
            `nn.quantized.quantize`. Then no more than a layer is float32 at a time, unless adapters are
            merged first.

    Raises:
        FormatError: a file is damaged, the config describes no GPT of ours, or the tensors do not fit it:
            names that are missing or unknown, or the tensor, the shape it has and the shape it should have.
        CheckpointError: it is a run of our own, and damaged.
        ValueError: another dtype.
        OSError: a file cannot be read.
    """
    check_weight_dtype(dtype)
    source = find_source(path)
    if source.format == "native":
        model = load_model(source.directory, backends.active().backend, dtype)[0]
    elif source.format == ADAPTERS:
        model = _load_adapted(source, num_heads, base)
    else:
        with as_format_error():
            model = _load_foreign(source, num_heads, dtype)
    merge_lora(model)
    if source.format == ADAPTERS and dtype != "float32":
        quantize(model, dtype)
    model.eval()
    return model


def _load_adapted(source: Source, num_heads: int | None, base: str | None) -> GPT:
    """Returns a model with the adapters in a folder, which is not merged."""
    place = base_of(source, base)
    format = find_source(place).format
    if format == ADAPTERS:
        raise FormatError(
            f"{source.directory} holds adapters for {place}, which holds adapters itself: make that a whole "
            "model with `tinygpt convert --merge` first"
        )
    model = load_pretrained(place, num_heads=num_heads)
    read_adapters(model, format, source, place)
    return model


def _load_foreign(source: Source, num_heads: int | None, dtype: str) -> GPT:
    """Returns the model of a checkpoint of another library."""
    family = FAMILIES[source.format]
    if source.format == "tinygpt":
        checkpoint = _open_tinygpt(source, num_heads)
    else:
        checkpoint = _open_safetensors(source, family)
    model = _build_model(checkpoint, source.format, num_heads)
    _fill(model, family, checkpoint, dtype)
    return model


def _open_tinygpt(source: Source, num_heads: int | None) -> _Checkpoint:
    path = source.weights[0]
    tensors: Mapping[str, Any] = read_tensors(path)
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    values = source.config or infer_config(shapes, path, num_heads)

    def read(name: str) -> Buffer:
        return Tensor(tensors[name]).buffer

    def are_equal(first: str, second: str) -> bool:
        return read(first).to_array() == read(second).to_array()

    return _Checkpoint(values, path, path, shapes, read, lambda name: [read(name)], are_equal)


def _open_safetensors(source: Source, family: Family) -> _Checkpoint:
    tensors = Tensors(source.weights)
    _divide_experts(tensors, family)
    for name, entry in tensors.entries.items():
        is_weight = not family.ignored.fullmatch(family.full_name(name))
        if is_weight and entry.dtype_name not in FLOATING:
            raise FormatError(
                f"tensor {shortened(name)} has dtype {entry.dtype_name}; weights are {', '.join(FLOATING)}"
            )
    shapes = {name: entry.shape for name, entry in tensors.entries.items()}
    config_path = os.path.join(source.directory, CONFIG)
    where = ", ".join(source.weights)
    return _Checkpoint(
        source.config, config_path, where, shapes, tensors.read, tensors.row_blocks, tensors.are_equal
    )


def _divide_experts(tensors: Tensors, family: Family) -> None:
    """Has the experts of the layout that keeps all of them in one tensor stand by themselves."""
    for other, parts in family.fused.items():
        pattern = re.compile(re.escape(other).replace(r"\{\}", r"(\d+)"))
        for name in list(tensors.entries):
            found = pattern.fullmatch(family.full_name(name))
            if found is None:
                continue
            named = [part.replace("{}", found[1], 1) for part in parts]
            if "{}" in named[0]:
                tensors.divide(name, named)
            else:
                tensors.rename(name, *named)


def _build_model(checkpoint: _Checkpoint, format: str, num_heads: int | None) -> GPT:
    """Returns a model of the sizes that the config asks for, without memory for its parameters."""
    try:
        config = FAMILIES[format].read_config(checkpoint.config_values)
        if num_heads not in (None, config.num_heads):
            raise ValueError(f"num_heads is {config.num_heads}, not {num_heads}")
        require_room(config, checkpoint.shapes.values())
        config = _with_own_head(config, FAMILIES[format], checkpoint)
        with uninitialized():
            return GPT(config)
    except FormatError:
        raise
    except KeyError as problem:
        raise FormatError(
            f"{checkpoint.config_path} lacks {problem}, which a {format} checkpoint has"
        ) from None
    except (TypeError, ValueError, OverflowError, MemoryError) as problem:
        raise FormatError(f"{checkpoint.config_path}: {str(problem)[:400]}") from None


def _with_own_head(config: GPTConfig, family: Family, checkpoint: _Checkpoint) -> GPTConfig:
    """Returns the config, untied where it says that the head is the embeddings, but the files hold another
    head: what was trained is in the files.
    """
    if not config.tied_head:
        return config
    names = _names_in_files(family, checkpoint)
    embeddings = names.get(f"{family.modules['embedding_layer'][0]}.{family.leaves['embeddings']}")
    head = names.get(f"{family.head}.{family.leaves['weights']}")
    if embeddings is None or head is None or checkpoint.are_equal(embeddings, head):
        return config
    warnings.warn(
        f"{checkpoint.weights_path}: the config ties the head to the token embeddings, but tensor {head!r} "
        "holds other weights than these: they are kept, and the model is not tied",
        RuntimeWarning,
        stacklevel=5,
    )
    return replace(config, tied_head=False)


def _fill(model: GPT, family: Family, checkpoint: _Checkpoint, dtype: str) -> None:
    """Gives a model that was built without memory its weights, in a dtype; checks every name and shape
    first.
    """
    pieces = {
        name: pieces_of(family, model.config, name, tensor.shape) for name, tensor in model.named_parameters()
    }
    expected = {piece.name: piece.shape for each in pieces.values() for piece in each}
    names = _names_in_files(family, checkpoint)
    _check_names(model.config, family, expected, names, checkpoint.weights_path)
    for full_name, shape in expected.items():
        _check_shape(names[full_name], checkpoint.shapes[names[full_name]], shape, checkpoint.weights_path)

    def whole(name: str, tensor: Tensor) -> Buffer:
        parts = [
            piece.to_ours(checkpoint.read(names[piece.name])).as_dtype(tensor.dtype) for piece in pieces[name]
        ]
        return parts[0] if len(parts) == 1 else type(parts[0]).concatenate(parts, axis=tensor.ndim - 1)

    def numbers_of(name: str, tensor: Tensor) -> Iterator[Buffer]:
        if not name.endswith("embeddings"):
            yield whole(name, tensor).transpose(0, 1)
            return
        (piece,) = pieces[name]
        for rows in checkpoint.row_blocks(names[piece.name]):
            yield piece.to_ours(rows).as_dtype(tensor.dtype)

    if dtype != "float32":
        quantize(model, dtype, numbers_of)
    for name, tensor in model.named_parameters():
        tensor.buffer = whole(name, tensor)


def _names_in_files(family: Family, checkpoint: _Checkpoint) -> dict[str, str]:
    """Returns what each tensor is called in the files, by its name with the prefix."""
    names = {family.full_name(name): name for name in checkpoint.shapes}
    twice = [name for name in checkpoint.shapes if names[family.full_name(name)] != name]
    if twice:
        raise FormatError(
            f"{checkpoint.weights_path}: these tensors stand twice, "
            f"with {family.prefix!r} before the name and without: {listed(twice)}"
        )
    return names


def _check_names(
    config: GPTConfig, family: Family, expected: Mapping[str, Shape], names: Mapping[str, str], where: str
) -> None:
    """Raises FormatError unless the files have the tensors that are expected, and besides them only such as
    are no weights.
    """
    if missing := expected.keys() - names.keys():
        raise FormatError(
            f"{where}: {len(missing):,} of {len(expected):,} tensors that the config asks for are missing: "
            f"{listed(missing)}"
        )
    unknown = [names[name] for name in names.keys() - expected.keys() if not family.ignored.fullmatch(name)]
    if config.tied_head:
        # The embeddings again: `_with_own_head` has compared them
        unknown = [name for name in unknown if name != f"{family.head}.weight"]
    if unknown:
        raise FormatError(
            f"{where}: {len(unknown):,} tensors have no place in the model of the config: {listed(unknown)}"
        )


def _check_shape(name: str, actual: Shape, expected: Shape, where: str) -> None:
    if actual != expected:
        said = f"{where}: tensor {name!r} has shape {actual}, but the config asks for {expected}"
        raise FormatError(
            shape_errors.wrong_shape("", "tensor", actual, expected=expected, of="config", title=said)
        )
