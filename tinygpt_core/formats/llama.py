"""Llama, as transformers' `LlamaForCausalLM` keeps it: matrices (out, in); heads rotated by halves, as ours.

Source: https://github.com/huggingface/transformers (models/llama)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..nn.gpt import GPTConfig
from .base import BLOCK, HUGGING_FACE_LEAVES, Family, other_values, require_values, shortened

REQUIRED: dict[str, Any] = {"normalization": "rms_norm", "positions": "rotary", "activation": "swiglu"}
"""Fields of our config that have one value in this format."""


def read_config(values: Mapping[str, Any]) -> GPTConfig:
    """Returns our config for a config.json.

    Raises:
        KeyError: a size is missing.
        TypeError, ValueError: it describes a model that our GPT has no counterpart for.
    """
    require_values(
        values, {"hidden_act": "silu", "rope_scaling": None, "pretraining_tp": 1, "sliding_window": None}
    )
    rope = values.get("rope_parameters") or {}  # transformers 5; before that, rope_theta stood by itself
    if not isinstance(rope, Mapping) or rope.get("rope_type", "default") != "default":
        raise ValueError(
            f"rope_parameters is {shortened(rope)}; this GPT is built for the rope_type 'default'"
        )
    config = GPTConfig(
        vocab_size=values["vocab_size"],
        context_length=values["max_position_embeddings"],
        num_layers=values["num_hidden_layers"],
        num_heads=values["num_attention_heads"],
        embedding_dim=values["hidden_size"],
        hidden_dim=values["intermediate_size"],
        normalization="rms_norm",
        positions="rotary",
        activation="swiglu",
        bias=values.get("mlp_bias", False),
        attention_bias=values.get("attention_bias", False),
        tied_head=values.get("tie_word_embeddings", False),
        eps=values.get("rms_norm_eps", 1e-6),
        num_key_value_heads=values.get("num_key_value_heads"),
        rotary_base=rope.get("rope_theta", values.get("rope_theta", 10000.0)),
    )
    if values.get("head_dim") not in (None, config.head_dim):
        raise ValueError(
            f"head_dim is {shortened(values['head_dim'])}; this GPT is built for "
            f"hidden_size / num_attention_heads = {config.head_dim}"
        )
    return config


def write_config(config: GPTConfig) -> dict[str, Any]:
    """Returns the config.json for a config of ours."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "hidden_size": config.embedding_dim,
        "intermediate_size": config.mlp_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.key_value_heads,
        "head_dim": config.head_dim,
        "rms_norm_eps": config.eps,
        "rope_theta": config.rotary_base,
        "attention_bias": config.has_attention_bias,
        "mlp_bias": config.bias,
        "attention_dropout": 0.0,
        "tie_word_embeddings": config.tied_head,
        "torch_dtype": "float32",
        "bos_token_id": None,
        "eos_token_id": None,
    }


def obstacles(config: GPTConfig) -> list[str]:
    """Returns what keeps a model of such a config from being written in this format."""
    return other_values(config, REQUIRED)


LLAMA = Family(
    modules={
        "embedding_layer": ("model.embed_tokens",),
        BLOCK + "ln_1": ("model.layers.{}.input_layernorm",),
        BLOCK + "attn.query_key_value": (
            "model.layers.{}.self_attn.q_proj",
            "model.layers.{}.self_attn.k_proj",
            "model.layers.{}.self_attn.v_proj",
        ),
        BLOCK + "attn.out": ("model.layers.{}.self_attn.o_proj",),
        BLOCK + "ln_2": ("model.layers.{}.post_attention_layernorm",),
        BLOCK + "mlp.gate": ("model.layers.{}.mlp.gate_proj",),
        BLOCK + "mlp.up": ("model.layers.{}.mlp.up_proj",),
        BLOCK + "mlp.down": ("model.layers.{}.mlp.down_proj",),
        "layer_norm": ("model.norm",),
        "head": ("lm_head",),
    },
    leaves=HUGGING_FACE_LEAVES,
    transposed=frozenset(
        {
            BLOCK + "attn.query_key_value",
            BLOCK + "attn.out",
            BLOCK + "mlp.gate",
            BLOCK + "mlp.up",
            BLOCK + "mlp.down",
            "head",
        }
    ),
    prefix="model.",
    ignored=re.compile(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq"),
    read_config=read_config,
    write_config=write_config,
    obstacles=obstacles,
)
