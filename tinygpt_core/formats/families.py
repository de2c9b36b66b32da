"""The formats that are known, by name. A new one is a table in a module like `llama`, and a line here."""

from __future__ import annotations

from dataclasses import replace

from ..nn.gpt import GPTConfig
from .base import Family
from .experts import MIXTRAL, OLMOE, QWEN3_MOE
from .gemma import GEMMA, GEMMA2, GEMMA3
from .gpt2 import GPT2
from .gpt_neox import GPT_NEOX
from .llama import LLAMA, MISTRAL, QWEN2, QWEN3
from .phi3 import PHI3
from .starcoder2 import STARCODER2
from .tinygpt import TINYGPT

FAMILIES: dict[str, Family] = {
    "gpt2": GPT2,
    "llama": LLAMA,
    "mistral": MISTRAL,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "gemma": GEMMA,
    "gemma2": GEMMA2,
    "gemma3_text": GEMMA3,
    "phi3": PHI3,
    "gpt_neox": GPT_NEOX,
    "starcoder2": STARCODER2,
    "mixtral": MIXTRAL,
    "olmoe": OLMOE,
    "qwen3_moe": QWEN3_MOE,
    "tinygpt": TINYGPT,
}
FORMATS = ("native", *FAMILIES)
"""The names of all formats: runs of our own, and those of others."""


def why_not_elsewhere(config: GPTConfig) -> list[str]:
    """Returns why no format of another library can hold models of such a config: what is in the way of the
    one that comes closest, of those with experts for a model that has some. Nothing where one can.
    """

    without_experts = replace(config, num_experts=None)

    def distance(family: Family) -> tuple[bool, int]:
        count = len(family.obstacles(config))
        return len(family.obstacles(without_experts)) < count, count

    return min(FAMILIES.values(), key=distance).obstacles(config)
