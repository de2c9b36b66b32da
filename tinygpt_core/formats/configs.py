"""config.json as a table: which of their settings is which of ours, and what there may be besides.

Nothing is guessed: a setting that no table knows is refused by name and value, unless it is off (null or
false) or is known to change no logits. So a checkpoint that computes something else than this GPT is never
loaded as if it did not.

Sources: huggingface/transformers (`configuration_*.py`; `modeling_rope_utils.py` for what scales rotary
frequencies).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from ..nn.gpt import FULL_ATTENTION, SLIDING_ATTENTION, GPTConfig
from ..nn.rotary import RotaryScaling
from .base import HUGGING_FACE_LEAVES, Family, Share, meaning, other_values, require_values, shortened

NEEDED: Any = object()
"""The default of a setting that a config.json must have."""
MOST_LAYERS = 100_000  # for which it is worked out what each sees
CHANGES_NOTHING = re.compile(
    r"_(?!sliding_window_pattern).*|summary_.*|output_.*|.*_token_id|.*(dropout|_pdrop)|use_cache|"
    r"architectures|auto_map|torch_dtype|dtype|transformers_version|transformers\.js_config|model_type|"
    r"tokenizer_class|task_specific_params|finetuning_task|problem_type|id2label|label2id|return_dict|"
    r"router_aux_loss_coef|router_jitter_noise|initializer_range|initializer_factor|chunk_size_feed_forward|"
    r"original_max_position_embeddings|cache_implementation|is_llama_config|"
    r"is_decoder|gradient_checkpointing|attn_implementation|use_flash_attn|reorder_and_upcast_attn|"
    r"(max|min)_length|do_sample|num_beams|num_beam_groups|temperature|top_[kp]|typical_p|"
    r"repetition_penalty|length_penalty|diversity_penalty|num_return_sequences|pruned_heads"
)
"""Settings that have nothing to do with logits: of training, of how to generate, of how to print."""

CAUSAL = {"is_causal": True}
"""A setting that any family may have, and that means the most when it is off."""


class Field(NamedTuple):
    """The field of ours that a setting of theirs is, and the value that it has where a file lacks it."""

    ours: str
    default: Any = NEEDED


SCALING_KEYS: dict[str, dict[str, str]] = {
    "default": {},
    "linear": {"factor": "factor"},
    "llama3": {
        "factor": "factor",
        "low_freq_factor": "low_turns",
        "high_freq_factor": "high_turns",
        "original_max_position_embeddings": "original_context_length",
    },
    "yarn": {"factor": "factor", "original_max_position_embeddings": "original_context_length"},
}
"""For each rope_type that is known, what it has to say, and which field of `RotaryScaling` that is."""
YARN_OPTIONS = {
    "beta_slow": Field("low_turns", 1.0),
    "beta_fast": Field("high_turns", 32.0),
    "attention_factor": Field("attention_factor", None),
    "truncate": Field("truncated", True),
}
"""What a rope_type "yarn" may say besides."""
YARN_SCALES = ("mscale", "mscale_all_dim")  # which together say what attention_factor is


class Part(NamedTuple):
    """Several settings that only together say what some fields of ours are.

    Attributes:
        keys: the settings.
        fields: of ours.
        read: returns the fields, given a config.json; raises ValueError or TypeError where it has no
            counterpart here.
        write: returns the settings, given a config of ours.
    """

    keys: tuple[str, ...]
    fields: tuple[str, ...]
    read: Callable[[Mapping[str, Any]], dict[str, Any]]
    write: Callable[[GPTConfig], dict[str, Any]]


class ConfigTable(NamedTuple):
    """What a family's config.json says.

    Attributes:
        model_type, architecture: its names.
        fields: for each setting of theirs the field of ours.
        fixed: fields of ours that have one value in this family.
        required: settings of theirs that have one value here; those that are lacking have it.
        parts: settings that belong together.
        more_obstacles: returns what else keeps a model from being written, in words.
    """

    model_type: str
    architecture: str
    fields: dict[str, Field]
    fixed: dict[str, Any]
    required: dict[str, Any]
    parts: tuple[Part, ...] = ()
    more_obstacles: Callable[[GPTConfig], list[str]] = lambda config: []


def family(
    table: ConfigTable,
    modules: dict[str, tuple[str | Share, ...]],
    transposed: frozenset[str],
    prefix: str = "model.",
    ignored: str = r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq",
    **more: Any,
) -> Family:
    """Returns the format of a family of transformers, given its two tables: settings and tensors.

    Args:
        ignored: a regular expression for the names of tensors that are no weights.
        more: other attributes of a `Family`.
    """
    return Family(
        modules=modules,
        leaves=HUGGING_FACE_LEAVES,
        transposed=transposed,
        prefix=prefix,
        ignored=re.compile(ignored),
        read_config=partial(read_config, table),
        write_config=partial(write_config, table),
        obstacles=partial(obstacles, table),
        **more,
    )


def read_config(table: ConfigTable, values: Mapping[str, Any]) -> GPTConfig:
    """Returns our config for a config.json.

    Raises:
        KeyError: a size is missing.
        TypeError, ValueError: it describes a model that our GPT has no counterpart for.
    """
    known = {*table.fields, *table.required, *(key for part in table.parts for key in part.keys)}
    refuse_unknown(values, known)
    require_values(values, table.required)
    fields = dict(table.fixed)
    for name, field in table.fields.items():
        fields[field.ours] = values[name] if field.default is NEEDED else values.get(name, field.default)
    for part in table.parts:
        fields |= part.read(values)
    return GPTConfig(**fields)


def write_config(table: ConfigTable, config: GPTConfig) -> dict[str, Any]:
    """Returns the config.json for a config of ours."""
    said = {
        **meaning(config),
        "attention_head_dim": config.head_dim,
        "num_key_value_heads": config.key_value_heads,
    }
    written = {"architectures": [table.architecture], "model_type": table.model_type, **table.required}
    written |= {name: said[field.ours] for name, field in table.fields.items()}
    for part in table.parts:
        written |= part.write(config)
    return written | {
        "attention_dropout": 0.0,
        "torch_dtype": "float32",
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }


def obstacles(table: ConfigTable, config: GPTConfig) -> list[str]:
    """Returns what keeps a model of such a config from being written in this format."""
    possible = {field.ours for field in table.fields.values()}
    possible |= {name for part in table.parts for name in part.fields}
    required = {**table.fixed, "final_activation": False}
    return other_values(config, required, possible) + table.more_obstacles(config)


def refuse_unknown(values: Mapping[str, Any], known: set[str]) -> None:
    """Raises ValueError where a config.json has a setting that is not among those known, is on, and may
    change logits.
    """
    require_values(values, CAUSAL)
    for name, value in values.items():
        is_off = value is None or value is False
        if name in known or name in CAUSAL or is_off or CHANGES_NOTHING.fullmatch(name):
            continue
        raise ValueError(
            f"{name[:80]} is {shortened(value)}, which is not known here, so what it changes would be "
            f"missed; take it out of the file if that is nothing"
        )


# ---------------------------------------------------------------- rotary positions


def rotary(
    theta: float = 10000.0, *, theta_key: str = "rope_theta", share_key: str = "", share: float = 1.0
) -> Part:
    """Returns what settings say of rotary positions: of transformers 5, `rope_parameters`; before that, the
    base, and `rope_scaling` beside it.

    Args:
        theta: the base where none is said.
        theta_key: what the base is called.
        share_key: what the share of a head that is rotated is called; "" where all of it is.
        share: the share where none is said.

    Raises:
        ValueError: nothing, but what it returns does, where a file scales in a way that is not known here.
    """

    def read(values: Mapping[str, Any]) -> dict[str, Any]:
        name, rope = _rope_of(values)
        base, scaling, part = _read_rope(
            name, rope, values.get(theta_key, theta), values.get(share_key, share)
        )
        found: dict[str, Any] = {"rotary_base": base, "rotary_scaling": scaling}
        if not share_key:
            _require_whole_heads(name, rope, part)
        elif part != 1.0:
            found["rotary_dim"] = _rotary_dim(part, values)
        return found

    def write(config: GPTConfig) -> dict[str, Any]:
        said: dict[str, Any] = {theta_key: config.rotary_base}
        if config.rotary_scaling is not None:
            said["rope_scaling"] = _write_scaling(config.rotary_scaling)
        if share_key:
            rotated = config.head_dim if config.rotary_dim is None else config.rotary_dim
            said[share_key] = rotated / config.head_dim
        return said

    keys = ("rope_parameters", "rope_scaling", theta_key, *([share_key] if share_key else []))
    fields = ("rotary_base", "rotary_scaling", *(["rotary_dim"] if share_key else []))
    return Part(keys, fields, read, write)


def local_rotary(theta: float, local_theta: float) -> Part:
    """Returns what settings say of rotary positions that are others in layers with a window (Gemma 3).

    Raises:
        ValueError: nothing, but what it returns does, where a file scales in a way that is not known here.
    """

    def read(values: Mapping[str, Any]) -> dict[str, Any]:
        name, rope = _rope_of(values)
        local_base = values.get("rope_local_base_freq", local_theta)
        if FULL_ATTENTION in rope or SLIDING_ATTENTION in rope:
            full, local = rope.get(FULL_ATTENTION) or {}, rope.get(SLIDING_ATTENTION) or {}
            if set(rope) - {FULL_ATTENTION, SLIDING_ATTENTION}:
                raise ValueError(f"{name} is {shortened(rope)}, which is not known here")
            local_base, scaling, part = _read_rope(f"{SLIDING_ATTENTION} of {name}", local, local_base, 1.0)
            _require_whole_heads(f"{SLIDING_ATTENTION} of {name}", local, part)
            if scaling is not None:
                raise ValueError(
                    f"{SLIDING_ATTENTION} of {name} is {shortened(local)}; it is not scaled here"
                )
            rope = full
        base, scaling, part = _read_rope(name, rope, values.get("rope_theta", theta), 1.0)
        _require_whole_heads(name, rope, part)
        return {"rotary_base": base, "rotary_scaling": scaling, "local_rotary_base": local_base}

    def write(config: GPTConfig) -> dict[str, Any]:
        local = config.rotary_base if config.local_rotary_base is None else config.local_rotary_base
        said: dict[str, Any] = {"rope_theta": config.rotary_base, "rope_local_base_freq": local}
        if config.rotary_scaling is not None:
            said["rope_scaling"] = _write_scaling(config.rotary_scaling)
        return said

    keys = ("rope_parameters", "rope_scaling", "rope_theta", "rope_local_base_freq")
    return Part(keys, ("rotary_base", "rotary_scaling", "local_rotary_base"), read, write)


def _rope_of(values: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Returns the setting that describes rotary positions, and what it says; empty where there is none."""
    said = {name: values.get(name) or {} for name in ("rope_parameters", "rope_scaling")}
    for name, rope in said.items():
        if not isinstance(rope, Mapping):
            raise ValueError(f"{name} is {shortened(rope)}, not an object with a rope_type")
    name = "rope_parameters" if said["rope_parameters"] else "rope_scaling"
    if said["rope_scaling"] not in ({}, said[name]):
        raise ValueError("rope_parameters and rope_scaling are both there, and differ")
    return name, said[name]


def _read_rope(name: str, rope: Any, base: Any, share: Any) -> tuple[Any, RotaryScaling | None, Any]:
    """Returns the base, the scaling and the share of a head that is rotated, where none of the last two means
    None and 1.0.
    """
    if not isinstance(rope, Mapping):
        raise ValueError(f"{name} is {shortened(rope)}, not an object with a rope_type")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if not isinstance(kind, str) or kind not in SCALING_KEYS:
        raise ValueError(
            f"{name} is {shortened(rope)}; this GPT knows the rope_type {', '.join(map(repr, SCALING_KEYS))}"
        )
    wanted = SCALING_KEYS[kind]
    known = {"rope_type", "type", "rope_theta", "partial_rotary_factor", *wanted}
    if kind == "yarn":
        known |= {*YARN_OPTIONS, *YARN_SCALES}
    for key, value in rope.items():
        if key not in known and value is not None and value is not False:
            raise ValueError(
                f"{name} is {shortened(rope)}; a rope_type {kind!r} has no {shortened(key)} here"
            )
    if missing := [key for key in wanted if key not in rope]:
        raise ValueError(f"{name} is {shortened(rope)}; a rope_type {kind!r} has {', '.join(missing)}, too")
    scaling = None
    if kind != "default":
        numbers = {field: rope[key] for key, field in wanted.items()}
        if kind == "yarn":
            numbers |= _yarn_options(name, rope)
        scaling = RotaryScaling(kind, **numbers)
    return rope.get("rope_theta", base), scaling, rope.get("partial_rotary_factor", share)


def _require_whole_heads(name: str, rope: Any, share: Any) -> None:
    """Raises ValueError where only a share of a head is rotated, of a family that rotates all of it."""
    if share != 1.0:
        raise ValueError(f"{name} is {shortened(rope)}; this family rotates whole heads")


def _yarn_options(name: str, rope: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of a `RotaryScaling` that a rope_type "yarn" need not say."""
    found = {
        field.ours: field.default if rope.get(key) is None else rope[key]
        for key, field in YARN_OPTIONS.items()
    }
    scales: list[Any] = [rope.get(key) for key in YARN_SCALES]
    if found["attention_factor"] is not None or not all(scales):
        return found
    factor = rope["factor"]
    for value in (factor, *scales):
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0.0 < value < 1e9:
            raise ValueError(f"{name} is {shortened(rope)}; {shortened(value)} is no factor")
    numerator, denominator = (0.1 * scale * math.log(max(factor, 1.0)) + 1.0 for scale in scales)
    return found | {"attention_factor": numerator / denominator}


def _write_scaling(scaling: RotaryScaling) -> dict[str, Any]:
    said: dict[str, Any] = {"rope_type": scaling.kind}
    said |= {key: getattr(scaling, field) for key, field in SCALING_KEYS[scaling.kind].items()}
    if scaling.kind == "yarn":
        said |= {key: getattr(scaling, field.ours) for key, field in YARN_OPTIONS.items()}
    return said


def _rotary_dim(share: Any, values: Mapping[str, Any]) -> int:
    """Returns how many numbers of a head are rotated, given the share of them."""
    if not isinstance(share, (int, float)) or isinstance(share, bool) or not 0.0 < share <= 1.0:
        raise ValueError(f"the share of a head that is rotated is {shortened(share)}; it lies in (0, 1]")
    size = values.get("head_dim")
    if size is None:
        heads = values["num_attention_heads"]
        width = values["hidden_size"]
        if type(heads) is not int or type(width) is not int or heads < 1:
            raise ValueError(f"hidden_size / num_attention_heads is {shortened(width)} / {shortened(heads)}")
        size = width // heads
    if type(size) is not int or not 0 < size < 1 << 40:
        raise ValueError(f"a head has {shortened(size)} numbers")
    return int(size * share)


# ---------------------------------------------------------------- windows


def window_everywhere(default: int | None) -> Part:
    """Returns what `sliding_window` says where all layers have it; null means that none has."""

    def read(values: Mapping[str, Any]) -> dict[str, Any]:
        return {"sliding_window": values.get("sliding_window", default)}

    def write(config: GPTConfig) -> dict[str, Any]:
        return {"sliding_window": meaning(config)["sliding_window"]}

    return Part(("sliding_window",), ("sliding_window",), read, write)


def windows_by_layer(
    default: int, is_local: Callable[[int, Mapping[str, Any]], bool], keys: tuple[str, ...] = ()
) -> Part:
    """Returns what settings say of layers with a window and layers without.

    Args:
        default: the window where none is said.
        is_local: whether a layer has one, where `layer_types` does not say so; given its number and the
            config.json.
        keys: the settings that this looks at. Among them, `use_sliding_window` must be true for any window.

    Raises:
        TypeError, ValueError: nothing, but what it returns does, where settings contradict each other.
    """
    has_switch = "use_sliding_window" in keys

    def read(values: Mapping[str, Any]) -> dict[str, Any]:
        window = values.get("sliding_window", default)
        kinds = values.get("layer_types")
        layers = values["num_hidden_layers"]
        is_on = values.get("use_sliding_window", False) if has_switch else window is not None
        if not isinstance(is_on, bool):
            raise TypeError(f"use_sliding_window is {shortened(is_on)}, not true or false")
        if not is_on:
            if kinds is not None and (not isinstance(kinds, list) or set(map(str, kinds)) - {FULL_ATTENTION}):
                raise ValueError(f"layer_types is {shortened(kinds)}, but there is no sliding window")
            return {}
        if kinds is None and type(layers) is int and 0 < layers <= MOST_LAYERS:
            kinds = [SLIDING_ATTENTION if is_local(i, values) else FULL_ATTENTION for i in range(layers)]
        if kinds is None:
            raise ValueError(f"num_hidden_layers is {shortened(layers)}, which is no number of layers")
        return {"sliding_window": window, "layer_types": kinds}

    def write(config: GPTConfig) -> dict[str, Any]:
        kinds = [
            SLIDING_ATTENTION if config.is_local(i) else FULL_ATTENTION for i in range(config.num_layers)
        ]
        said: dict[str, Any] = {"layer_types": kinds}
        if has_switch:
            said |= {"use_sliding_window": SLIDING_ATTENTION in kinds, "sliding_window": default}
        if SLIDING_ATTENTION in kinds:
            said["sliding_window"] = config.sliding_window
        return said

    return Part(("sliding_window", "layer_types", *keys), ("sliding_window", "layer_types"), read, write)
