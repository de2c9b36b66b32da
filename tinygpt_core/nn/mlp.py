"""Multi-layer perceptrons, plain and gated."""

from __future__ import annotations

from collections.abc import Sequence

from ..module import Module
from ..tensor import Tensor
from .activations import ACTIVATION_FUNCTIONS, GATED_ACTIVATIONS, activation_function, gate_function
from .linear import FullyConnectedLayer


class MLP(Module):
    """Multi-layer perceptron, `y = (f(… f(x W_1 + b_1) …)) W_n + b_n`: linear layers with an activation
    function between each two.

    Args:
        input_dims: size of the last axis of the input.
        hidden_dims: output sizes of the layers; the last is that of the output.
        activation_fn: a name of `ACTIVATION_FUNCTIONS`.
        bias: whether the layers have biases.
        final_activation: whether the activation function also follows the last layer.
        std, output_std: as `std` of `FullyConnectedLayer`, for all layers but the last, and for the last.

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
        self.activation_fn = activation_fn
        self.final_activation = final_activation
        self.layers: list[FullyConnectedLayer] = []
        size = input_dims
        for number, next_size in enumerate(hidden_dims, 1):
            is_last = number == len(hidden_dims)
            self.layers.append(FullyConnectedLayer(size, next_size, bias, std=output_std if is_last else std))
            size = next_size

    def __call__(self, x: Tensor) -> Tensor:
        activation = ACTIVATION_FUNCTIONS[self.activation_fn]
        for number, layer in enumerate(self.layers):
            if number > 0:
                x = activation(x)
            x = layer(x)
        return activation(x) if self.final_activation else x

    def _extra_repr(self) -> str:
        return f"activation_fn={self.activation_fn!r}"


class GatedMLP(Module):
    """Gated linear unit between two linear maps: `y = (f(x W_gate) * (x W_up)) W_down`, biases optional.

    Args:
        input_dims: size of the last axis of the input and of the output.
        hidden_dim: size in between.
        activation: "glu" (f is the sigmoid), "reglu", "geglu" or "swiglu".
        bias: whether the three maps have biases.
        std, output_std: as `std` of `FullyConnectedLayer`, for gate and up, and for down.

    Shape:
        (..., input_dims) -> the same.

    Raises:
        ValueError: a name of no gated unit, or a size below 1.

    Source: Shazeer 2020, https://arxiv.org/abs/2002.05202
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
        gate_function(activation)  # an unknown name raises here rather than at the first call
        self.activation = activation
        self.gate = FullyConnectedLayer(input_dims, hidden_dim, bias, std=std)
        self.up = FullyConnectedLayer(input_dims, hidden_dim, bias, std=std)
        self.down = FullyConnectedLayer(hidden_dim, input_dims, bias, std=output_std)

    def __call__(self, x: Tensor) -> Tensor:
        f = gate_function(self.activation)
        return self.down(f(self.gate(x)) * self.up(x))

    def _extra_repr(self) -> str:
        return f"activation={self.activation!r}"


def mlp_layer(
    input_dims: int,
    hidden_dim: int,
    activation: str,
    bias: bool,
    *,
    final_activation: bool = False,
    std: float | None = None,
    output_std: float | None = None,
) -> MLP | GatedMLP:
    """Returns the MLP of one hidden layer that an activation asks for, which keeps the size of its input.

    Args:
        input_dims, hidden_dim, bias, std, output_std: as for `GatedMLP`.
        activation: a name of `ACTIVATION_FUNCTIONS` for an `MLP`, or of `GATED_ACTIVATIONS` for a `GatedMLP`.
        final_activation: as for `MLP`.

    Raises:
        ValueError: another name.
    """
    if activation in GATED_ACTIVATIONS:
        return GatedMLP(input_dims, hidden_dim, activation, bias, std=std, output_std=output_std)
    return MLP(
        input_dims,
        [hidden_dim, input_dims],
        activation,
        bias,
        final_activation=final_activation,
        std=std,
        output_std=output_std,
    )
