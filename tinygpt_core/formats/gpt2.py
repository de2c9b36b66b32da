"""GPT-2, as transformers' `GPT2LMHeadModel` keeps it: matrices (in, out), as ours.

Source: https://github.com/huggingface/transformers (models/gpt2)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..nn.gpt import GPTConfig
from .base import BLOCK, HUGGING_FACE_LEAVES, Family, other_values, require_values, shortened
from .configs import refuse_unknown

ACTIVATIONS = {
    "gelu_new": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "gelu": "gelu_exact",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}
"""For their names of activation functions ours; the first of several is the one that is written."""
NO_COUNTERPART = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}
"""Settings of theirs that have one value here."""
SETTINGS = {
    "vocab_size",
    "n_positions",
    "n_ctx",
    "n_layer",
    "n_head",
    "n_embd",
    "n_inner",
    "activation_function",
    "tie_word_embeddings",
    "layer_norm_epsilon",
}
"""Those that `read_config` reads, and that change logits."""
REQUIRED: dict[str, Any] = {
    "normalization": "layer_norm",
    "positions": "learned",
    "bias": True,
    "attention_bias": True,
    "final_activation": False,
    "num_key_value_heads": None,
}
"""Fields of our config that have one value in this format."""


def read_config(values: Mapping[str, Any]) -> GPTConfig:
    """Returns our config for a config.json.

    Raises:
        KeyError: a size is missing.
        TypeError, ValueError: it describes a model that our GPT has no counterpart for.
    """
    refuse_unknown(values, {*SETTINGS, *NO_COUNTERPART})
    require_values(values, NO_COUNTERPART)
    activation = values.get("activation_function", "gelu_new")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise ValueError(
            f"activation_function is {shortened(activation)}; known are {', '.join(ACTIVATIONS)}"
        )
    return GPTConfig(
        vocab_size=values["vocab_size"],
        context_length=values.get("n_positions", values.get("n_ctx")),
        num_layers=values["n_layer"],
        num_heads=values["n_head"],
        embedding_dim=values["n_embd"],
        hidden_dim=values.get("n_inner"),
        activation=ACTIVATIONS[activation],
        tied_head=values.get("tie_word_embeddings", True),
        dropout=values.get("resid_pdrop", 0.1),
        eps=values.get("layer_norm_epsilon", 1e-5),
    )


def write_config(config: GPTConfig) -> dict[str, Any]:
    """Returns the config.json for a config of ours."""
    activation = next(theirs for theirs, ours in ACTIVATIONS.items() if ours == config.activation)
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": activation,
        "vocab_size": config.vocab_size,
        "n_positions": config.context_length,
        "n_ctx": config.context_length,
        "n_embd": config.embedding_dim,
        "n_layer": config.num_layers,
        "n_head": config.num_heads,
        "n_inner": config.hidden_dim,
        "layer_norm_epsilon": config.eps,
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": 0.0,
        "tie_word_embeddings": config.tied_head,
        "torch_dtype": "float32",
        "bos_token_id": None,
        "eos_token_id": None,
    }


def obstacles(config: GPTConfig) -> list[str]:
    """Returns what keeps a model of such a config from being written in this format."""
    found = other_values(config, REQUIRED)
    if config.activation not in ACTIVATIONS.values():
        found.append(f"activation is {config.activation!r}")
    return found


GPT2 = Family(
    modules={
        "embedding_layer": ("transformer.wte",),
        "position_embedding_layer": ("transformer.wpe",),
        BLOCK + "ln_1": ("transformer.h.{}.ln_1",),
        BLOCK + "attn.query_key_value": ("transformer.h.{}.attn.c_attn",),
        BLOCK + "attn.out": ("transformer.h.{}.attn.c_proj",),
        BLOCK + "ln_2": ("transformer.h.{}.ln_2",),
        BLOCK + "mlp.layers.0": ("transformer.h.{}.mlp.c_fc",),
        BLOCK + "mlp.layers.1": ("transformer.h.{}.mlp.c_proj",),
        "layer_norm": ("transformer.ln_f",),
        "head": ("lm_head",),
    },
    leaves=HUGGING_FACE_LEAVES,
    transposed=frozenset({"head"}),
    prefix="transformer.",
    ignored=re.compile(r"transformer\.h\.\d+\.attn\.(bias|masked_bias)"),  # the causal mask
    read_config=read_config,
    write_config=write_config,
    obstacles=obstacles,
)
