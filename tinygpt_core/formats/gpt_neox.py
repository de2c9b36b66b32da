"""GPT-NeoX and Pythia, as transformers' `GPTNeoXForCausalLM` keeps them: attention and MLP side by side,
rotary positions in a part of each head, and query, key and value lying head by head.

Source: https://github.com/huggingface/transformers (models/gpt_neox); Black et al. 2022,
https://arxiv.org/abs/2204.06745
"""

from __future__ import annotations

from .base import BLOCK
from .configs import ConfigTable, Field, family, rotary
from .llama import SIZES

LAYER = "gpt_neox.layers.{}."

GPT_NEOX = family(
    ConfigTable(
        "gpt_neox",
        "GPTNeoXForCausalLM",
        {
            **SIZES,
            "layer_norm_eps": Field("eps", 1e-5),
            "tie_word_embeddings": Field("tied_head", False),
            "attention_bias": Field("attention_bias", True),
            "use_parallel_residual": Field("parallel_residual", True),
        },
        {
            "normalization": "layer_norm",
            "positions": "rotary",
            "activation": "gelu_exact",
            "bias": True,
            "num_key_value_heads": None,
        },
        {"hidden_act": "gelu"},
        (rotary(theta_key="rotary_emb_base", share_key="rotary_pct", share=0.25),),
    ),
    {
        "embedding_layer": ("gpt_neox.embed_in",),
        BLOCK + "ln_1": (LAYER + "input_layernorm",),
        BLOCK + "attn.query_key_value": (LAYER + "attention.query_key_value",),
        BLOCK + "attn.out": (LAYER + "attention.dense",),
        BLOCK + "ln_2": (LAYER + "post_attention_layernorm",),
        BLOCK + "mlp.layers.0": (LAYER + "mlp.dense_h_to_4h",),
        BLOCK + "mlp.layers.1": (LAYER + "mlp.dense_4h_to_h",),
        "layer_norm": ("gpt_neox.final_layer_norm",),
        "head": ("embed_out",),
    },
    frozenset(
        {
            BLOCK + "attn.query_key_value",
            BLOCK + "attn.out",
            BLOCK + "mlp.layers.0",
            BLOCK + "mlp.layers.1",
            "head",
        }
    ),
    prefix="gpt_neox.",
    ignored=r"gpt_neox\.layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)",
    by_head=frozenset({BLOCK + "attn.query_key_value"}),
)
