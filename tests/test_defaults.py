"""What arguments are when nobody gives them. These are the field's usual values, on which published results
and other people's scripts rely, so that a change of one is a change for everybody.
"""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from tinygpt_core import generation, kernels, losses, nn, operations, optimizers, schedules, speculative
from tinygpt_core.kernels.precision import LossScaler

ROTARY = {"rotary": False, "rotary_base": 10000.0}
DEFAULTS: dict[Any, dict[str, Any]] = {
    nn.AvgPool2d: {"padding": 0},
    nn.BatchNorm2d: {"eps": 1e-5, "momentum": 0.1, "affine": True},
    nn.CausalSelfAttention: {
        "bias": False,
        "query_key_norm": False,
        "norm_across_heads": False,
        "value_embedding": False,
        "eps": 1e-5,
        **ROTARY,
    },
    nn.Conv2d: {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, "bias": True},
    nn.Dropout: {"probability": 0.5},
    nn.Embedding: {"std": 1.0},
    nn.GELU: {"approximate": "tanh"},
    nn.GRU: {"num_layers": 1, "bias": True, "dropout": 0.0},
    nn.GatedMLP: {"activation": "swiglu", "bias": False},
    nn.LSTM: {"num_layers": 1, "bias": True, "dropout": 0.0},
    nn.LayerNorm: {"eps": 1e-5, "elementwise_affine": True, "bias": True},
    nn.Linear: {"bias": True},
    nn.MLP: {"bias": True, "final_activation": False},
    nn.MaxPool2d: {"padding": 0},
    nn.MixtureOfExperts: {
        "experts_per_token": 2,
        "activation": "swiglu",
        "bias": False,
        "final_activation": False,
    },
    nn.RMSNorm: {"eps": 1e-5, "elementwise_affine": True},
    nn.RNN: {"num_layers": 1, "bias": True, "activation": "tanh", "dropout": 0.0},
    nn.RotaryEncoding: {"base": 10000.0},
    nn.RotaryScaling: {
        "low_turns": 1.0,
        "high_turns": 4.0,
        "original_context_length": 8192,
        "truncated": True,
    },
    nn.Softmax: {"axis": -1},
    nn.TransformerBlock: {  # and, for its attention, what CausalSelfAttention has
        "activation": "relu",
        "final_activation": False,
        "normalization": "layer_norm",
        "bias": True,
        "attention_bias": False,
        "dropout": 0.0,
        "eps": 1e-5,
        "post_normalization": False,
        "parallel_residual": False,
        "experts_per_token": 2,
    },
    kernels.Attention.forward: {"causal": True},
    kernels.AvgPool2d.forward: {"padding": 0},
    kernels.Conv2d.forward: {"stride": 1, "padding": 0, "dilation": 1, "groups": 1},
    kernels.GELU.forward: {"approximate": "tanh"},
    kernels.LayerNorm.forward: {"eps": 1e-5, "num_axes": 1},
    kernels.LogSoftmax.forward: {"axis": -1},
    kernels.MaxPool2d.forward: {"padding": 0},
    kernels.RMSNorm.forward: {"eps": 1e-5, "num_axes": 1},
    kernels.Rotary.forward: {"positions_start": 0, "base": 10000.0},
    kernels.Softmax.forward: {"axis": -1},
    operations.Tril.forward: {"diagonal": 0},
    optimizers.Adam: {"betas": (0.9, 0.999), "eps": 1e-8},
    optimizers.AdamW: {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01},
    LossScaler: {"scale": 65536.0, "patience": 2000},
    optimizers.Muon: {
        "momentum": 0.95,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0.01,
        "iterations": 5,
        "excluded": ("embeddings", "head"),
    },
    optimizers.SGD: {"momentum": 0.0, "weight_decay": 0.0, "dampening": 0.0, "nesterov": False},
    schedules.cosine_with_warmup: {"warmup_steps": 0, "minimum": 0.0},
    schedules.linear: {"warmup_steps": 0, "minimum": 0.0},
    generation.sample_index: {"temperature": 1.0},
    generation.sampling_candidates: {"temperature": 1.0},
    generation.check_sampling: {"repetition_penalty": 1.0},
    generation.generate_ids: {"temperature": 1.0, "repetition_penalty": 1.0},
    generation.generate: {"temperature": 1.0, "repetition_penalty": 1.0, "special_tokens": False},
    speculative.SpeculativeDecoding: {"draft_tokens": 4},
    speculative.SpeculativeDecoding.__call__: {"temperature": 1.0, "repetition_penalty": 1.0},
    losses.BinaryCrossEntropyLoss: {"reduction": "mean"},
    losses.CrossEntropyLoss: {"ignore_index": -1, "reduction": "none"},
    losses.HuberLoss: {"reduction": "mean", "delta": 1.0},
    losses.MSELoss: {"reduction": "mean"},
}


def defaults(function: Any) -> dict[str, Any]:
    """The arguments of a function or a class that have a default, but for those that are None."""
    parameters = inspect.signature(function).parameters.values()
    given = {p.name: p.default for p in parameters if p.default not in (p.empty, None)}
    # An empty needs_input_grad and the like are no choice that somebody makes.
    return {name: value for name, value in given.items() if value != ()}


@pytest.mark.parametrize("function", DEFAULTS, ids=lambda function: function.__qualname__)
def test_defaults_are_the_usual_ones(function: Any) -> None:
    found, wanted = defaults(function), DEFAULTS[function]
    # More arguments may come; those that are here stay what they are.
    assert {name: found.get(name) for name in wanted} == wanted
