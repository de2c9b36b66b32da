"""Gemma 1 to 3, as transformers keeps them: Llama's names, and norms whose weights are kept less 1.

    gemma        embeddings times sqrt(hidden_size), GEGLU, a head size of its own
    gemma2       norms also after attention and MLP, soft caps, a window in every other layer
    gemma3_text  queries and keys normalized instead of capped; five layers of six with a window, and a
                 rotary base of their own

Source: https://github.com/huggingface/transformers (models/gemma, gemma2, gemma3); Gemma Team 2024,
https://arxiv.org/abs/2403.08295 and https://arxiv.org/abs/2408.00118; 2025, https://arxiv.org/abs/2503.19786
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..nn.gpt import GPTConfig
from .base import BLOCK, Family, Share, shortened
from .configs import ConfigTable, Field, Part, family, local_rotary, rotary, windows_by_layer
from .llama import BIAS, HEAD_DIM, LAYER, MODULES, QUERY_KEY_NORM, SHARED, TRANSPOSED

FIELDS = {
    **SHARED,
    **HEAD_DIM,
    **BIAS,
    "head_dim": Field("attention_head_dim", 256),
    "tie_word_embeddings": Field("tied_head", True),
}
FIXED: dict[str, Any] = {
    "normalization": "rms_norm",
    "positions": "rotary",
    "activation": "geglu",
    "bias": False,
}
GELU = "gelu_pytorch_tanh"
POST_NORMS: dict[str, tuple[str | Share, ...]] = {
    **MODULES,
    BLOCK + "post_ln_1": (LAYER + "post_attention_layernorm",),
    BLOCK + "ln_2": (LAYER + "pre_feedforward_layernorm",),
    BLOCK + "post_ln_2": (LAYER + "post_feedforward_layernorm",),
}
SOFT_CAPS = ("attn_logit_softcapping", "final_logit_softcapping")


def _read_embedding_scale(values: Mapping[str, Any]) -> dict[str, Any]:
    size = values["hidden_size"]
    if type(size) is not int or not 0 < size < 1 << 60:
        raise ValueError(f"hidden_size is {shortened(size)}, not a size")
    return {"embedding_scale": math.sqrt(size)}


def _other_embedding_scale(config: GPTConfig) -> list[str]:
    """Returns an obstacle where embeddings are not multiplied as Gemma does."""
    wanted = math.sqrt(config.embedding_dim)
    if math.isclose(config.embedding_scale, wanted):
        return []
    return [f"embedding_scale is {config.embedding_scale!r}, not {wanted!r}"]


def _no_local_base(config: GPTConfig) -> list[str]:
    """Returns obstacles of a model whose layers with a window scale their frequencies."""
    found = _other_embedding_scale(config)
    is_scaled = config.rotary_scaling is not None and config.local_rotary_base is None
    if is_scaled and any(map(config.is_local, range(config.num_layers))):
        found.append("rotary_scaling is there, but no local_rotary_base")
    return found


EMBEDDING_SCALE = Part((), ("embedding_scale",), _read_embedding_scale, lambda config: {})


def _read_scale(values: Mapping[str, Any]) -> dict[str, Any]:
    said = values.get("query_pre_attn_scalar", 256)
    if not isinstance(said, (int, float)) or isinstance(said, bool) or not 0.0 < said < 1e18:
        raise ValueError(f"query_pre_attn_scalar is {shortened(said)}, not a number above 0")
    return {"attention_scale": said**-0.5}


def _write_scale(config: GPTConfig) -> dict[str, Any]:
    scale = 1.0 / math.sqrt(config.head_dim) if config.attention_scale is None else config.attention_scale
    said = scale**-2
    whole = round(said)
    return {"query_pre_attn_scalar": whole if math.isclose(said, whole) else said}


ATTENTION_SCALE = Part(("query_pre_attn_scalar",), ("attention_scale",), _read_scale, _write_scale)


def soft_caps(attention: float | None, logits: float | None) -> dict[str, Field]:
    """Returns the settings of the two soft caps, given what they are where a file lacks them."""
    fields = (Field("attention_soft_cap", attention), Field("logit_soft_cap", logits))
    return dict(zip(SOFT_CAPS, fields, strict=True))


def _is_every_other(layer: int, values: Mapping[str, Any]) -> bool:
    return layer % 2 == 0


def _is_not_every_nth(layer: int, values: Mapping[str, Any]) -> bool:
    pattern = values.get("sliding_window_pattern", values.get("_sliding_window_pattern", 6))
    if type(pattern) is not int or pattern < 1:
        raise ValueError(f"sliding_window_pattern is {shortened(pattern)}, not a number of layers")
    return (layer + 1) % pattern != 0


def _minus_one(modules: Mapping[str, Any]) -> frozenset[str]:
    """Returns the norms among some modules of ours."""
    return frozenset(name for name in modules if "ln_" in name or "norm" in name)


def _family(table: ConfigTable, modules: dict[str, tuple[str | Share, ...]]) -> Family:
    return family(table, modules, TRANSPOSED, minus_one=_minus_one(modules))


GEMMA = _family(
    ConfigTable(
        "gemma",
        "GemmaForCausalLM",
        FIELDS,
        FIXED,
        # Early files say "gelu" and mean its tanh form, which hidden_activation then says
        {"hidden_act": GELU, "hidden_activation": GELU},
        (rotary(), EMBEDDING_SCALE),
        _other_embedding_scale,
    ),
    MODULES,
)
GEMMA2 = _family(
    ConfigTable(
        "gemma2",
        "Gemma2ForCausalLM",
        {**FIELDS, **soft_caps(50.0, 30.0)},
        {**FIXED, "post_normalization": True},
        {"hidden_activation": GELU, "hidden_act": GELU},
        (rotary(), EMBEDDING_SCALE, ATTENTION_SCALE, windows_by_layer(4096, _is_every_other)),
        _other_embedding_scale,
    ),
    POST_NORMS,
)
GEMMA3 = _family(
    ConfigTable(
        "gemma3_text",
        "Gemma3ForCausalLM",
        {**FIELDS, **soft_caps(None, None)},
        {**FIXED, "post_normalization": True, "query_key_norm": True},
        {"hidden_activation": GELU, "hidden_act": GELU},
        (
            local_rotary(1_000_000.0, 10_000.0),
            EMBEDDING_SCALE,
            ATTENTION_SCALE,
            windows_by_layer(4096, _is_not_every_nth, ("sliding_window_pattern", "_sliding_window_pattern")),
        ),
        _no_local_base,
    ),
    {**POST_NORMS, **QUERY_KEY_NORM},
)
