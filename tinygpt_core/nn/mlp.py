"""Multi-layer perceptrons, plain and gated."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from ..module import Module
from ..tensor import Tensor
from .activations import ACTIVATION_FUNCTIONS, GATED_ACTIVATIONS, activation_function
from .linear import FullyConnectedLayer


class MLP(Module):
    """Multi-layer perceptron, ``y = (f(… f(x W_1 + b_1) …)) W_n + b_n``: linear layers with an activation
    function between each two.

    Args:
        input_dims: size of the last axis of the input.
        hidden_dims: output sizes of the layers; the last is that of the output.
        activation_fn: a name of `ACTIVATION_FUNCTIONS`.
        bias: whether the layers have biases.
        final_activation: whether the activation function also follows the last layer.
        std, output_std: as ``std`` of `FullyConnectedLayer`, for all layers but the last, and for the last.

    Shape:
        (..., input_dims) -> (..., hidden_dims[-1]).

    Raises:
        ValueError: a name of no activation function, or a size below 1.
    """

    activation_functions = ACTIVATION_FUNCTIONS

    def __init__(
        self,
        input_dims: int,
        hidden_dims: Sequence[int],
        activation_fn: str,
        bias: bool = True,
        *,
        final_activation: bool = False,
        std: float | None = None,
        output_std: float | None = None,
    ) -> None:
        super().__init__()
        activation_function(activation_fn)  # an unknown name raises here rather than at the first call
        self.activation_fn, self.final_activation = activation_fn, final_activation
        sizes = [input_dims, *hidden_dims]
        stds = [std] * (len(hidden_dims) - 1) + [output_std]
        self.layers = [
            FullyConnectedLayer(*pair, bias, std=s) for pair, s in zip(pairwise(sizes), stds, strict=False)
        ]

    def __call__(self, x: Tensor) -> Tensor:
        activation = ACTIVATION_FUNCTIONS[self.activation_fn]
        for place, layer in enumerate(self.layers):
            x = layer(activation(x) if place else x)
        return activation(x) if self.final_activation else x

    def _extra_repr(self) -> str:
        return f"activation_fn={self.activation_fn!r}"


class GatedMLP(Module):
    """Gated linear unit between two linear maps: ``y = (f(x W_gate) * (x W_up)) W_down``, biases optional.

    Shazeer 2020, https://arxiv.org/abs/2002.05202

    Args:
        input_dims: size of the last axis of the input and of the output.
        hidden_dim: size in between.
        activation: "glu" (f is the sigmoid), "reglu", "geglu" or "swiglu".
        bias: whether the three maps have biases.
        std, output_std: as ``std`` of `FullyConnectedLayer`, for gate and up, and for down.

    Shape:
        (..., input_dims) -> the same.

    Raises:
        ValueError: a name of no gated unit, or a size below 1.
    """

    def __init__(
        self,
        input_dims: int,
        hidden_dim: int,
        activation: str = "swiglu",
        bias: bool = False,
        *,
        std: float | None = None,
        output_std: float | None = None,
    ) -> None:
        super().__init__()
        if activation not in GATED_ACTIVATIONS:
            raise ValueError(
                f"unknown gated unit {activation!r}; expected one of {', '.join(GATED_ACTIVATIONS)}"
            )
        self.activation = activation
        self.gate = FullyConnectedLayer(input_dims, hidden_dim, bias, std=std)
        self.up = FullyConnectedLayer(input_dims, hidden_dim, bias, std=std)
        self.down = FullyConnectedLayer(hidden_dim, input_dims, bias, std=output_std)

    def __call__(self, x: Tensor) -> Tensor:
        activation = ACTIVATION_FUNCTIONS[GATED_ACTIVATIONS[self.activation]]
        return self.down(activation(self.gate(x)) * self.up(x))

    def _extra_repr(self) -> str:
        return f"activation={self.activation!r}"
