"""Adapters (LoRA) alone, as the `peft` library keeps them, without the model that they are for.

    adapter_config.json          rank, alpha, which layers, and where the base model is
    adapter_model.safetensors    A (R, in) and B (out, R) of each layer, named after the base's own layers:
                                 base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight

Where the base is of a known family, names and order are the family's, so `peft` loads what is written here,
and the other way about. Else they are our own. A folder is hostile: names and shapes are compared with the
base before a tensor is read. What a setting would change that is not known here is refused by its name.

Source: https://github.com/huggingface/peft (docs/source/developer_guides/checkpoint.md); Hu et al. 2021,
https://arxiv.org/abs/2106.09685
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from ..buffer.base import Buffer
from ..files.atomic import Path
from ..files.json_objects import write_json
from ..files.safetensors import save_safetensors
from ..module import matching
from ..nn.gpt import GPT
from ..nn.linear import FullyConnectedLayer
from ..nn.lora import (
    LoRAConfig,
    Place,
    adapters_by_place,
    chosen_places,
    lora_config,
    places_in,
    put_adapters,
    require_rank,
)
from ..tensor import uninitialized
from .base import FormatError, Piece, as_format_error, listed, pieces_of, shortened
from .families import FAMILIES
from .saving import refuse_existing
from .sources import ADAPTER_CONFIG, ADAPTER_MODEL, Source
from .tensors import FLOATING, Tensors

PREFIX = "base_model.model."
LEAVES = ("lora_A", "lora_B")
NAME = re.compile(re.escape(PREFIX) + r"(.+)\.(lora_A|lora_B)\.weight")
CHANGES_NOTHING = {
    "auto_mapping",
    "base_model_name_or_path",
    "exclude_modules",
    "fan_in_fan_out",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "lora_dropout",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
}
"""Settings that change nothing of what loaded adapters compute: which these are, their tensors say."""
PLAIN_BEGINNINGS = (True, False, "gaussian", "eva", "orthogonal")
"""For `init_lora_weights`: beginnings that leave the base as it is."""


class Part(NamedTuple):
    """Where an adapter may stand, and what of the family's matrix it is."""

    place: Place
    piece: Piece


def parts_of(model: GPT, format: str) -> list[Part]:
    """Returns where adapters may stand in a model, by the names that its layers have in a format."""
    family = None if format == "tinygpt" else FAMILIES.get(format)
    found = []
    inputs = _input_sizes(model)
    for own in places_in(model):
        name = f"{own.layer}.weights"
        shape = (inputs[own.layer], own.stop)
        pieces = (
            [Piece(name, shape, 0, own.stop, 0, False, 1.0, 0.0, 0)]
            if family is None
            else pieces_of(family, model.config, name, shape)
        )
        for piece in pieces:
            place = Place(piece.name.rpartition(".")[0], own.layer, piece.start, piece.stop)
            found.append(Part(place, piece._replace(offset=0.0)))
    return found


def _input_sizes(model: GPT) -> dict[str, int]:
    """Returns the input size of each linear layer of a model, by its name."""
    return {
        name: module.weights.shape[0]
        for name, module in model.named_modules()
        if isinstance(module, FullyConnectedLayer)
    }


def plan_adapters(
    model: GPT,
    format: str,
    rank: int,
    *,
    alpha: float | None = None,
    dropout: float = 0.0,
    targets: Collection[str] = (),
    base: str | None = None,
) -> LoRAConfig:
    """Returns which adapters a model would get from `nn.lora.add_lora`, by the names of its format.

    Args:
        model: which stays as it is.
        format: that of the checkpoint it comes from, one of `FORMATS`.
        rank, alpha, dropout, targets: as for `add_lora`.
        base: where the checkpoint is.

    Raises:
        ValueError: a target that no layer is called, or a rank above what a layer's matrix can have.
    """
    places = chosen_places([part.place for part in parts_of(model, format)], targets)
    config = LoRAConfig(rank, float(rank if alpha is None else alpha), dropout, places, format, base)
    require_rank(model, config)
    return config


# ---------------------------------------------------------------- writing


def save_adapters(model: GPT, path: Path) -> None:
    """Writes the adapters of a model, and nothing else of it, to a directory as the `peft` library does.

    Args:
        model: with adapters, as `load_model` of a run and `add_lora` leave it.
        path: the directory, new or empty.

    Raises:
        FormatError: the model has no adapters, or not those that its format has, or the directory is in use.
        OSError: it cannot be written.
    """
    config = lora_config(model)
    if config is None:
        raise FormatError("the model has no adapters: `train --lora` makes some")
    path = os.fspath(path)
    refuse_existing(path)
    try:
        parts = parts_of(model, config.format)
        by_place = {part.place: part.piece for part in parts}
        pieces = {place: by_place[place] for place in config.places}
    except (KeyError, ValueError):
        raise FormatError(
            f"the adapters are said to be for a model of the format {shortened(config.format)}, whose layers "
            "are others than this model's"
        ) from None
    tensors: dict[str, Buffer] = {}
    columns: dict[str, list[tuple[int, Buffer]]] = {}  # of B^T, by name, with the first of each part
    for place, adapter in adapters_by_place(model):
        piece = pieces[place]._replace(start=0, stop=place.stop - place.start)
        tensors[f"{PREFIX}{place.name}.lora_A.weight"] = adapter.lora_A.buffer
        ours = adapter.lora_B.buffer.transpose(0, 1)
        columns.setdefault(place.name, []).append((piece.first, piece.to_theirs(ours)))
    for name, found in columns.items():
        found.sort(key=lambda part: part[0])
        whole = type(found[0][1]).concatenate([part for _, part in found], axis=1)
        tensors[f"{PREFIX}{name}.lora_B.weight"] = whole.transpose(0, 1)
    os.makedirs(path, exist_ok=True)
    save_safetensors(os.path.join(path, ADAPTER_MODEL), tensors, {"format": "pt"})
    about = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": config.base,
        "r": config.rank,
        "lora_alpha": int(config.alpha) if config.alpha == int(config.alpha) else config.alpha,
        "lora_dropout": config.dropout,
        "target_modules": _targets(config.places, [part.place for part in parts]),
        "bias": "none",
        "fan_in_fan_out": not any(pieces[place].is_transposed for place in config.places),
        "inference_mode": True,
        "init_lora_weights": True,
    }
    write_json(os.path.join(path, ADAPTER_CONFIG), about)


def _targets(chosen: Collection[Place], places: Collection[Place]) -> list[str]:
    """Returns targets that mean the chosen ones of some places and no others, as short as can be."""
    short = sorted({place.name.rpartition(".")[2] for place in chosen})
    if set(chosen_places(places, short)) == set(chosen):
        return short
    return sorted({place.name for place in chosen})


# ---------------------------------------------------------------- reading


def base_of(source: Source, base: str | None = None) -> str:
    """Returns where the model is that the adapters in a folder are for.

    Args:
        source: the folder, as `find_source` finds it.
        base: where it is, if not where the folder says.

    Raises:
        FormatError: it is not there.
    """
    said = source.config.get("base_model_name_or_path") if base is None else base
    if isinstance(said, str) and said and os.path.exists(said):
        return said
    what = f"{shortened(said)}, which is not there" if said else "which it does not name"
    raise FormatError(
        f"{source.directory} holds adapters alone, for a model in {what}: give the folder of that model, "
        "with --base (base=… in code)"
    )


def read_adapters(model: GPT, format: str, source: Source, base: str | None = None) -> None:
    """Puts the adapters in a folder onto the model that they are for.

    Args:
        model: without adapters.
        format: that of the checkpoint it comes from.
        source: the folder, as `find_source` finds it.
        base: where the model was.

    Raises:
        FormatError: a file is damaged, asks for what is not known here, or does not fit the model.
        OSError: it cannot be read.
    """
    with as_format_error():
        _read_adapters(model, format, source, base)


def _read_adapters(model: GPT, format: str, source: Source, base: str | None) -> None:
    path = os.path.join(source.directory, ADAPTER_CONFIG)
    rank, scale, dropout = _read_config(source.config, path)
    where = source.weights[0]
    tensors = Tensors([where])
    names = _names_of(tensors, where)
    parts = [part for part in parts_of(model, format) if part.place.name in names]
    if unknown := names - {part.place.name for part in parts}:
        raise FormatError(
            f"{where}: the base has no linear layers for {len(unknown):,} of {len(names):,} adapters: "
            f"{listed(unknown)}"
        )
    widths: dict[str, int] = {}  # of theirs
    for part in parts:
        theirs = part.piece.shape[0] if part.piece.is_transposed else part.piece.shape[-1]
        widths[part.place.name] = theirs
    inputs = _input_sizes(model)
    for part in parts:
        name = part.place.name
        shapes = ((rank, inputs[part.place.layer]), (widths[name], rank))
        for leaf, shape in zip(LEAVES, shapes, strict=True):
            entry = tensors.entries[f"{PREFIX}{name}.{leaf}.weight"]
            if entry.shape != shape:
                raise FormatError(
                    f"{where}: {leaf} of {shortened(name)} has shape {entry.shape}, but the base and rank "
                    f"{rank} ask for {shape}"
                )
    places = tuple(part.place for part in parts)
    with uninitialized():
        put_adapters(model, LoRAConfig(rank, scale * rank, dropout, places, format, base))
    pieces = {part.place: part.piece for part in parts}
    for place, adapter in adapters_by_place(model):
        piece = pieces[place]._replace(is_transposed=False)
        theirs_a = tensors.read(f"{PREFIX}{place.name}.lora_A.weight")
        theirs_b = tensors.read(f"{PREFIX}{place.name}.lora_B.weight")
        ours_b = piece.to_ours(theirs_b.transpose(0, 1)).transpose(0, 1)
        adapter.lora_A.buffer = matching(theirs_a, adapter.lora_A).buffer.copy()
        adapter.lora_B.buffer = matching(ours_b, adapter.lora_B).buffer.copy()


def _names_of(tensors: Tensors, where: str) -> set[str]:
    """Returns the layers that have adapters in a file, each both matrices.

    Raises:
        FormatError: there is something else, or one of the two is missing.
    """
    found: dict[str, set[str]] = {}
    others = []
    for name, entry in tensors.entries.items():
        match = NAME.fullmatch(name)
        if match is None:
            others.append(name)
            continue
        if entry.dtype_name not in FLOATING:
            raise FormatError(
                f"{where}: tensor {shortened(name)} has dtype {entry.dtype_name}; "
                f"adapters are {', '.join(FLOATING)}"
            )
        found.setdefault(match[1], set()).add(match[2])
    if others:
        raise FormatError(
            f"{where}: {len(others):,} tensors are no adapters of linear layers, which are called "
            f"{PREFIX}….lora_A.weight and lora_B: {listed(others)}"
        )
    if halves := [name for name, leaves in found.items() if len(leaves) == 1]:
        raise FormatError(f"{where}: one of lora_A and lora_B is missing for {listed(halves)}")
    if not found:
        raise FormatError(f"{where} holds no adapters")
    return set(found)


def _read_config(values: Mapping[str, Any], path: str) -> tuple[int, float, float]:
    """Returns the rank, what is added is multiplied by, and the dropout, given an adapter_config.json.

    Raises:
        FormatError: it is of other adapters, or has a setting that is not understood.
    """

    def wrong(name: str, wanted: str) -> FormatError:
        return FormatError(f"{path}: {name[:80]} is {shortened(values.get(name))}, not {wanted}")

    if values.get("peft_type") != "LORA":
        raise wrong("peft_type", "'LORA', the only adapters that are read")
    rank = values.get("r", 8)
    if type(rank) is not int or not 0 < rank <= 2**24:
        raise wrong("r", "a rank from 1 to 2**24")
    alpha = values.get("lora_alpha", 8)
    if type(alpha) not in (int, float) or not -1e30 < alpha < 1e30:
        raise wrong("lora_alpha", "a number")
    dropout = values.get("lora_dropout", 0.0)
    if type(dropout) not in (int, float) or not 0.0 <= dropout < 1.0:
        raise wrong("lora_dropout", "a number from 0 to below 1")
    if values.get("bias", "none") != "none":
        raise wrong("bias", "'none': biases of the base that were trained are not read")
    beginning = values.get("init_lora_weights", True)
    if beginning is not None and beginning not in PLAIN_BEGINNINGS:
        raise wrong("init_lora_weights", "one that leaves the base as it is")
    known = {"peft_type", "r", "lora_alpha", "bias", "init_lora_weights", "use_rslora", *CHANGES_NOTHING}
    for name, value in values.items():
        if name not in known and value not in (None, False, 0, "", {}, []):
            raise FormatError(
                f"{path}: {name[:80]} is {shortened(value)}, which is not known here, so what it changes "
                "would be missed"
            )
    # The root: Kalajdzievski 2023, https://arxiv.org/abs/2312.03732
    return rank, alpha / (math.sqrt(rank) if values.get("use_rslora") else rank), dropout
