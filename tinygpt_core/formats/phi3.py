"""Phi-3, as transformers' `Phi3ForCausalLM` keeps it: Llama with query, key and value in one matrix, as ours,
and gate and up of the MLP in another.

Source: https://github.com/huggingface/transformers (models/phi3); Abdin et al. 2024,
https://arxiv.org/abs/2404.14219
"""

from __future__ import annotations

from .base import BLOCK, Share
from .configs import ConfigTable, Field, family, rotary, window_everywhere
from .llama import FIXED, LAYER, MODULES, NO_BIAS, SHARED, TRANSPOSED

PHI3 = family(
    ConfigTable(
        "phi3",
        "Phi3ForCausalLM",
        {**SHARED, "rms_norm_eps": Field("eps", 1e-5)},
        {**FIXED, **NO_BIAS},
        {"hidden_act": "silu"},
        (rotary(share_key="partial_rotary_factor"), window_everywhere(None)),
    ),
    {
        **MODULES,
        BLOCK + "attn.query_key_value": (LAYER + "self_attn.qkv_proj",),
        BLOCK + "mlp.gate": (Share(LAYER + "mlp.gate_up_proj", 0, 2),),
        BLOCK + "mlp.up": (Share(LAYER + "mlp.gate_up_proj", 1, 2),),
    },
    TRANSPOSED,
)
