"""Llama 1 to 3 and SmolLM, as transformers' `LlamaForCausalLM` keeps them, and Mistral and Qwen, which
differ in a few settings.

Matrices are (out, in); heads are rotated by halves, as ours.

    llama     grouped queries, rotary positions (scaled in Llama 3.1), RMSNorm, SwiGLU
    mistral   a head size of its own, a sliding window
    qwen2     biases for query, key and value; a window in some layers
    qwen3     queries and keys normalized, a head size of its own

Source: https://github.com/huggingface/transformers (models/llama, mistral, qwen2, qwen3)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .base import BLOCK, Share, shortened
from .configs import ConfigTable, Field, family, rotary, window_everywhere, windows_by_layer

LAYER = "model.layers.{}."
MODULES: dict[str, tuple[str | Share, ...]] = {
    "embedding_layer": ("model.embed_tokens",),
    BLOCK + "ln_1": (LAYER + "input_layernorm",),
    BLOCK + "attn.query_key_value": (
        LAYER + "self_attn.q_proj",
        LAYER + "self_attn.k_proj",
        LAYER + "self_attn.v_proj",
    ),
    BLOCK + "attn.out": (LAYER + "self_attn.o_proj",),
    BLOCK + "ln_2": (LAYER + "post_attention_layernorm",),
    BLOCK + "mlp.gate": (LAYER + "mlp.gate_proj",),
    BLOCK + "mlp.up": (LAYER + "mlp.up_proj",),
    BLOCK + "mlp.down": (LAYER + "mlp.down_proj",),
    "layer_norm": ("model.norm",),
    "head": ("lm_head",),
}
QUERY_KEY_NORM: dict[str, tuple[str | Share, ...]] = {
    BLOCK + "attn.query_norm": (LAYER + "self_attn.q_norm",),
    BLOCK + "attn.key_norm": (LAYER + "self_attn.k_norm",),
}
TRANSPOSED = frozenset(
    {
        BLOCK + "attn.query_key_value",
        BLOCK + "attn.out",
        BLOCK + "mlp.gate",
        BLOCK + "mlp.up",
        BLOCK + "mlp.down",
        "head",
    }
)
SIZES = {
    "vocab_size": Field("vocab_size"),
    "max_position_embeddings": Field("context_length"),
    "hidden_size": Field("embedding_dim"),
    "intermediate_size": Field("hidden_dim"),
    "num_hidden_layers": Field("num_layers"),
    "num_attention_heads": Field("num_heads"),
}
SHARED = {
    **SIZES,
    "num_key_value_heads": Field("num_key_value_heads", None),
    "rms_norm_eps": Field("eps", 1e-6),
    "tie_word_embeddings": Field("tied_head", False),
}
HEAD_DIM = {"head_dim": Field("attention_head_dim", None)}
BIAS = {"attention_bias": Field("attention_bias", False)}
FIXED: dict[str, Any] = {"normalization": "rms_norm", "positions": "rotary", "activation": "swiglu"}
NO_BIAS = {"bias": False, "attention_bias": False}

LLAMA = family(
    ConfigTable(
        "llama",
        "LlamaForCausalLM",
        {**SHARED, **HEAD_DIM, **BIAS, "mlp_bias": Field("bias", False)},
        FIXED,
        {"hidden_act": "silu", "pretraining_tp": 1},
        (rotary(),),
    ),
    MODULES,
    TRANSPOSED,
)
MISTRAL = family(
    ConfigTable(
        "mistral",
        "MistralForCausalLM",
        {**SHARED, **HEAD_DIM, "num_key_value_heads": Field("num_key_value_heads", 8)},
        {**FIXED, **NO_BIAS},
        {"hidden_act": "silu"},
        (rotary(), window_everywhere(4096)),
    ),
    MODULES,
    TRANSPOSED,
)


def _is_above_window_layers(layer: int, values: Mapping[str, Any]) -> bool:
    """Whether Qwen's layers have a window from this one on: `max_window_layers` have none."""
    first = values.get("max_window_layers", 28)
    if type(first) is not int:
        raise TypeError(f"max_window_layers is {shortened(first)}, not a number of layers")
    return layer >= first


QWEN_WINDOWS = windows_by_layer(4096, _is_above_window_layers, ("use_sliding_window", "max_window_layers"))
QWEN2 = family(
    ConfigTable(
        "qwen2",
        "Qwen2ForCausalLM",
        {**SHARED, "num_key_value_heads": Field("num_key_value_heads", 32)},
        {**FIXED, "bias": False, "attention_bias": True, "attention_output_bias": False},
        {"hidden_act": "silu"},
        (rotary(), QWEN_WINDOWS),
    ),
    MODULES,
    TRANSPOSED,
)
QWEN3 = family(
    ConfigTable(
        "qwen3",
        "Qwen3ForCausalLM",
        {
            **SHARED,
            **BIAS,
            "num_key_value_heads": Field("num_key_value_heads", 32),
            "head_dim": Field("attention_head_dim", 128),
        },
        {**FIXED, "bias": False, "query_key_norm": True},
        {"hidden_act": "silu"},
        (rotary(), QWEN_WINDOWS),
    ),
    {**MODULES, **QUERY_KEY_NORM},
    TRANSPOSED,
)
