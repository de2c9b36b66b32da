"""Sizes of a model that is not there yet, to be looked at before anything is allocated for it."""

from __future__ import annotations

import math
from collections.abc import Collection

from .gpt import GPTConfig

Shape = tuple[int, ...]
LONGEST_CONTEXT = 2**24  # tokens, as in `TrainingConfig`


def require_room(config: GPTConfig, shapes: Collection[Shape]) -> None:
    """Checks that a model of the config's sizes can lie in tensors of these shapes, before it is built.

    Raises:
        ValueError: it cannot possibly.
    """
    if config.num_layers > len(shapes):
        raise ValueError(f"{config.num_layers:,} layers do not fit a file of {len(shapes):,} tensors")
    if config.num_layers * (config.num_experts or 1) > len(shapes):
        raise ValueError(
            f"{config.num_experts:,} experts in each of {config.num_layers:,} layers do not fit a file of "
            f"{len(shapes):,} tensors"
        )
    elements = sum(map(math.prod, shapes))
    sizes = {
        "vocab_size": config.vocab_size,
        "embedding_dim": config.embedding_dim,
        "hidden_dim": config.mlp_dim,
        "num_heads * head_dim": config.num_heads * config.head_dim,
    }
    if config.positions == "learned":
        sizes["context_length"] = config.context_length
    if config.ngram_tables:
        sizes["ngram_tables"] = sum(config.ngram_tables)
    if config.value_embeddings:
        sizes["value_embeddings * vocab_size"] = config.value_embeddings * config.vocab_size
    for name, size in sizes.items():
        if size > elements:
            raise ValueError(f"{name} {size:,} does not fit a file of {elements:,} elements")
    if config.context_length > LONGEST_CONTEXT:
        raise ValueError(
            f"context_length {config.context_length:,} is more than the {LONGEST_CONTEXT:,} that are possible"
        )
