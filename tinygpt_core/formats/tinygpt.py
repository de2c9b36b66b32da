"""TinyGPT's own files of weights: texts of tensors in JSON, by the names of its modules.

TinyGPT divides attention scores by sqrt(embedding_dim) rather than by sqrt(head_dim), and puts a ReLU after
an MLP's last layer, too. So that its weights mean here what they mean there, the first goes into the query
weights (and out again when they are saved: to the bit where the number of heads is a power of 4), and the
second is `final_activation` in the config.

Source: https://github.com/isaacperez/tinygpt
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from ..buffer.base import Buffer
from ..module import write_tensors
from ..nn.gpt import GPT, GPTConfig
from ..tensor import Tensor
from .base import BLOCK, Family, FormatError, other_values

SIZES = ("vocab_size", "context_length", "num_layers", "num_heads", "embedding_dim")
"""The fields of our config that its models may differ in."""
REQUIRED: dict[str, Any] = {
    "normalization": "layer_norm",
    "positions": "learned",
    "activation": "relu",
    "final_activation": True,
    "bias": True,
    "attention_bias": False,
    "tied_head": False,
    "eps": 1e-5,
    "num_key_value_heads": None,
}
"""Fields of our config that have one value in this format."""


def read_config(values: Mapping[str, Any]) -> GPTConfig:
    """Returns our config for a config.json of ours, or what `infer_config` found; raises KeyError where a
    size is missing, TypeError or ValueError where one does not work.
    """
    sizes = {name: values[name] for name in SIZES}
    return GPTConfig(**sizes, **REQUIRED)


def infer_config(shapes: Mapping[str, tuple[int, ...]], path: str, num_heads: int | None) -> dict[str, Any]:
    """Returns the sizes that follow from the shapes in a file, and num_heads, which does not.

    Raises:
        FormatError: it holds no model of TinyGPT's, or num_heads is None.
    """
    embeddings = shapes.get("embedding_layer.embeddings", ())
    position_embeddings = shapes.get("position_embedding_layer.embeddings", ())
    if len(embeddings) != 2 or len(position_embeddings) != 2:
        raise FormatError(
            f"{path} holds no TinyGPT model: it has no matrices embedding_layer.embeddings "
            "and position_embedding_layer.embeddings"
        )
    if num_heads is None:
        raise FormatError(
            f"{path} does not tell how many attention heads the model has: say it (num_heads, or --heads N)"
        )
    blocks = {name.split(".")[1] for name in shapes if name.startswith("transformer_blocks.")}
    return {
        "vocab_size": embeddings[0],
        "context_length": position_embeddings[0],
        "num_layers": len(blocks),
        "num_heads": num_heads,
        "embedding_dim": embeddings[1],
    }


def write_config(config: GPTConfig) -> dict[str, Any]:
    """Returns the config.json that we put beside the weights, for a config of ours."""
    return {"model_type": "tinygpt", **{name: getattr(config, name) for name in SIZES}}


def obstacles(config: GPTConfig) -> list[str]:
    """Returns what keeps a model of such a config from being written in this format."""
    return other_values(config, {**REQUIRED, "hidden_dim": 4 * config.embedding_dim})


def query_scale(config: GPTConfig) -> float:
    """Returns sqrt(head_dim) / sqrt(embedding_dim), by which our query weights are smaller than theirs."""
    return 1.0 / math.sqrt(config.num_heads)


def save_weights(model: GPT, tensors: Mapping[str, Buffer], path: str) -> None:
    """Writes weights, of any shapes and by their names there, as TinyGPT does: with the masks of its
    attention, which its strict loading asks for.
    """
    named: dict[str, Tensor] = {name: Tensor(buffer, requires_grad=True) for name, buffer in tensors.items()}
    length = model.config.context_length
    mask = Tensor.ones((1, 1, length, length)).tril()
    value = Tensor(Buffer.where(mask.buffer == 0.0, -math.inf, Buffer.zeros(mask.shape)))
    for number in range(model.config.num_layers):
        named[f"transformer_blocks.{number}.attn.casual_mask"] = mask
        named[f"transformer_blocks.{number}.attn.casual_value"] = value
    write_tensors(path, named)


TINYGPT = Family(
    modules={
        "embedding_layer": ("embedding_layer",),
        "position_embedding_layer": ("position_embedding_layer",),
        BLOCK + "ln_1": (BLOCK + "ln_1",),
        BLOCK + "attn.query_key_value": (BLOCK + "attn.query", BLOCK + "attn.key", BLOCK + "attn.value"),
        BLOCK + "attn.out": (BLOCK + "attn.out",),
        BLOCK + "ln_2": (BLOCK + "ln_2",),
        BLOCK + "mlp.layers.0": (BLOCK + "mlp.layers.0",),
        BLOCK + "mlp.layers.1": (BLOCK + "mlp.layers.1",),
        "layer_norm": ("layer_norm",),
        "head": ("head",),
    },
    leaves={"weights": "weights", "bias": "bias", "embeddings": "embeddings"},
    transposed=frozenset(),
    prefix="",
    ignored=re.compile(r"transformer_blocks\.\d+\.attn\.casual_(mask|value)"),
    read_config=read_config,
    write_config=write_config,
    obstacles=obstacles,
    query_scale=query_scale,
)
