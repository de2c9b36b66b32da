"""Families whose blocks have a mixture of experts in the MLP's place, as transformers keeps them.

    mixtral    Mistral's attention; the weights of a token's experts add up to 1
    olmoe      queries normalized over all heads together, and keys; weights as the softmax gives them
    qwen3_moe  Qwen3's attention

In a file each expert has its own three matrices, also where transformers 5 has written it, which puts those
of all experts into one tensor in memory. It may write these (`save_original_format=False`): they are read,
too.

Source: https://github.com/huggingface/transformers (models/mixtral, olmoe, qwen3_moe; conversion_mapping.py
for the names in files); Jiang et al. 2024, https://arxiv.org/abs/2401.04088 (Mixtral); Muennighoff et al.
2024, https://arxiv.org/abs/2409.02060 (OLMoE)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..nn.gpt import GPTConfig
from .base import BLOCK, EXPERT, Share, meaning, shortened
from .configs import ConfigTable, Field, Part, family, rotary, window_everywhere
from .llama import BIAS, FIXED, HEAD_DIM, LAYER, MODULES, NO_BIAS, QUERY_KEY_NORM, SHARED, TRANSPOSED

ATTENTION = {ours: theirs for ours, theirs in MODULES.items() if ".mlp." not in ours}
ROUTED = TRANSPOSED | {BLOCK + "mlp.router", EXPERT + "gate", EXPERT + "up", EXPERT + "down"}


def expert_modules(place: str, gate: str, up: str, down: str) -> dict[str, tuple[str | Share, ...]]:
    """Returns where a router and the maps of each expert lie, given what the mixture and the maps are
    called.
    """
    expert = f"{LAYER}{place}.experts.{{}}."
    return {
        BLOCK + "mlp.router": (f"{LAYER}{place}.gate",),
        EXPERT + "gate": (expert + gate,),
        EXPERT + "up": (expert + up,),
        EXPERT + "down": (expert + down,),
    }


def fused_experts(modules: Mapping[str, tuple[str | Share, ...]]) -> dict[str, tuple[str, ...]]:
    """Returns the layout of transformers' memory, as `Family.fused`, given `expert_modules`."""
    names = {ours: f"{theirs[0]}.weight" for ours, theirs in modules.items()}
    layout = {
        f"{LAYER}mlp.gate.weight": (names[BLOCK + "mlp.router"],),
        f"{LAYER}mlp.experts.gate_up_proj": (names[EXPERT + "gate"], names[EXPERT + "up"]),
        f"{LAYER}mlp.experts.down_proj": (names[EXPERT + "down"],),
    }
    return {other: parts for other, parts in layout.items() if parts != (other,)}


def number_of_experts(key: str, other: str, default: int) -> Part:
    """Returns what says how many experts there are.

    Args:
        key, other: what that is called when it is written, and what it may be called, too.
        default: how many where nothing is said.

    Raises:
        ValueError: nothing, but what it returns does, where both are said and differ.
    """

    def read(values: Mapping[str, Any]) -> dict[str, Any]:
        said = [values[name] for name in (key, other) if name in values]
        if len(said) == 2 and said[0] != said[1]:
            raise ValueError(f"{key} is {shortened(said[0])}, but {other} is {shortened(said[1])}")
        if None in said:
            raise ValueError(f"{key} is None, which is no number of experts")
        return {"num_experts": said[0] if said else default}

    def write(config: GPTConfig) -> dict[str, Any]:
        return {key: config.num_experts}

    return Part((key, other), ("num_experts",), read, write)


def _no_plain_mlp(config: GPTConfig) -> list[str]:
    """Returns what keeps a model without experts from being written."""
    return ["num_experts is None, not a number"] if config.num_experts is None else []


def _read_window(values: Mapping[str, Any]) -> dict[str, Any]:
    is_on = values.get("use_sliding_window", False)
    if not isinstance(is_on, bool):
        raise TypeError(f"use_sliding_window is {shortened(is_on)}, not true or false")
    return {"sliding_window": values.get("sliding_window", 4096) if is_on else None}


def _write_window(config: GPTConfig) -> dict[str, Any]:
    window = meaning(config)["sliding_window"]
    return {"use_sliding_window": window is not None, "sliding_window": window}


def _write_dense_size(config: GPTConfig) -> dict[str, Any]:
    return {"intermediate_size": config.mlp_dim}


WINDOW_WITH_SWITCH = Part(
    ("use_sliding_window", "sliding_window", "max_window_layers"),
    ("sliding_window",),
    _read_window,
    _write_window,
)
# The size of MLPs in layers without experts, of which there are none
DENSE_SIZE = Part(("intermediate_size",), (), lambda values: {}, _write_dense_size)
MIXTRALS_NAMES = expert_modules("block_sparse_moe", "w1", "w3", "w2")
SEPARATE_NAMES = expert_modules("mlp", "gate_proj", "up_proj", "down_proj")

MIXTRAL = family(
    ConfigTable(
        "mixtral",
        "MixtralForCausalLM",
        {
            **SHARED,
            **HEAD_DIM,
            "num_key_value_heads": Field("num_key_value_heads", 8),
            "rms_norm_eps": Field("eps", 1e-5),
            "num_experts_per_tok": Field("experts_per_token", 2),
        },
        {**FIXED, **NO_BIAS, "normalized_expert_weights": True},
        {"hidden_act": "silu"},
        (rotary(1e6), window_everywhere(None), number_of_experts("num_local_experts", "num_experts", 8)),
        _no_plain_mlp,
    ),
    {**ATTENTION, **MIXTRALS_NAMES},
    ROUTED,
    fused=fused_experts(MIXTRALS_NAMES),
)
OLMOE = family(
    ConfigTable(
        "olmoe",
        "OlmoeForCausalLM",
        {
            **SHARED,
            **BIAS,
            "rms_norm_eps": Field("eps", 1e-5),
            "num_experts_per_tok": Field("experts_per_token", 8),
            "norm_topk_prob": Field("normalized_expert_weights", False),
        },
        {**FIXED, "bias": False, "query_key_norm": True, "norm_across_heads": True},
        {"hidden_act": "silu"},
        (rotary(), number_of_experts("num_experts", "num_local_experts", 64)),
        _no_plain_mlp,
    ),
    {**ATTENTION, **QUERY_KEY_NORM, **SEPARATE_NAMES},
    ROUTED,
    fused=fused_experts(SEPARATE_NAMES),
)
QWEN3_MOE = family(
    ConfigTable(
        "qwen3_moe",
        "Qwen3MoeForCausalLM",
        {
            **{theirs: field for theirs, field in SHARED.items() if theirs != "intermediate_size"},
            **HEAD_DIM,
            **BIAS,
            "num_key_value_heads": Field("num_key_value_heads", 4),
            "moe_intermediate_size": Field("hidden_dim", 768),
            "num_experts_per_tok": Field("experts_per_token", 8),
            "norm_topk_prob": Field("normalized_expert_weights", False),
        },
        {**FIXED, "bias": False, "query_key_norm": True},
        {"hidden_act": "silu", "decoder_sparse_step": 1, "mlp_only_layers": []},
        (
            rotary(),
            WINDOW_WITH_SWITCH,
            DENSE_SIZE,
            number_of_experts("num_experts", "num_local_experts", 128),
        ),
        _no_plain_mlp,
    ),
    {**ATTENTION, **QUERY_KEY_NORM, **SEPARATE_NAMES},
    ROUTED,
    fused=fused_experts(SEPARATE_NAMES),
)
