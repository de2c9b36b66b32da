"""The formats that are known, by name. A new one is a module like `gpt2`, and a line here."""

from __future__ import annotations

from .base import Family
from .gpt2 import GPT2
from .llama import LLAMA
from .tinygpt import TINYGPT

FAMILIES: dict[str, Family] = {"gpt2": GPT2, "llama": LLAMA, "tinygpt": TINYGPT}
FORMATS = ("native", *FAMILIES)
"""The names of all formats: runs of our own, and those of others."""
