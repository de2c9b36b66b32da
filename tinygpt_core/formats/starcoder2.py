"""StarCoder2, as transformers' `Starcoder2ForCausalLM` keeps it: Llama's attention between LayerNorms, and an
MLP without a gate.

Source: https://github.com/huggingface/transformers (models/starcoder2)
"""

from __future__ import annotations

from .base import BLOCK
from .configs import ConfigTable, Field, family, rotary, window_everywhere
from .llama import LAYER, MODULES, SIZES, TRANSPOSED

STARCODER2 = family(
    ConfigTable(
        "starcoder2",
        "Starcoder2ForCausalLM",
        {
            **SIZES,
            "num_key_value_heads": Field("num_key_value_heads", 2),
            "norm_epsilon": Field("eps", 1e-5),
            "tie_word_embeddings": Field("tied_head", True),
        },
        {
            "normalization": "layer_norm",
            "positions": "rotary",
            "activation": "gelu",
            "bias": True,
            "attention_bias": True,
        },
        {"hidden_act": "gelu_pytorch_tanh", "use_bias": True},
        (rotary(), window_everywhere(None)),
    ),
    {
        **{ours: theirs for ours, theirs in MODULES.items() if ".mlp." not in ours},
        BLOCK + "mlp.layers.0": (LAYER + "mlp.c_fc",),
        BLOCK + "mlp.layers.1": (LAYER + "mlp.c_proj",),
    },
    TRANSPOSED | {BLOCK + "mlp.layers.0", BLOCK + "mlp.layers.1"},
)
