"""Recurrent layers: a state that is carried along the sequence and changed at every position.

Shapes: B batch, T positions, C size of an input vector, H size of the state, L layers.

What the input adds to the gates is one matrix product for all positions of a layer; only the state's part is
a product for each.

A long sequence is learnt in pieces. The state goes from one to the next, its gradient does not (truncated
backpropagation through time):

    state = None
    for piece in pieces:                     # each (B, T, C)
        output, state = lstm(piece, detach_state(state))
        loss(output).backward()              # ends where the piece begins

Equations and the order of the gates are PyTorch's, whose weights are ours transposed.
"""

from __future__ import annotations

import math
from typing import Any

from .. import operations, shape_errors
from ..module import Module
from ..shape import ShapeError
from ..tensor import Tensor, apply_op
from .activations import activation_function
from .arguments import check_size
from .dropout import Dropout

State = tuple[Tensor, ...]


def detach_state(state: Any) -> Any:
    """Returns a state (a Tensor, a tuple of them, or None) with the same values and without its history, so
    that gradients end here.
    """
    if state is None:
        return None
    if isinstance(state, tuple):
        return tuple(detach_state(part) for part in state)
    return state.detach()


class RecurrentWeights(Module):
    """The two linear maps of one layer to the gates, which lie side by side: `of_input = x W_x + b_x` and
    `of_state = h W_h + b_h`.

    W_x is (C, gates H), W_h (H, gates H), b_x and b_h (gates H,). All numbers are drawn uniformly between ±1
    / sqrt(H).
    """

    def __init__(self, input_dims: int, hidden_dims: int, num_gates: int, bias: bool) -> None:
        super().__init__()
        limit = 1.0 / math.sqrt(hidden_dims)
        width = num_gates * hidden_dims
        self.input_weights = Tensor.uniform((input_dims, width), -limit, limit, requires_grad=True)
        self.hidden_weights = Tensor.uniform((hidden_dims, width), -limit, limit, requires_grad=True)
        if bias:
            self.input_bias = Tensor.uniform((width,), -limit, limit, requires_grad=True)
            self.hidden_bias = Tensor.uniform((width,), -limit, limit, requires_grad=True)

    def of_input(self, x: Tensor) -> Tensor:
        """Returns what inputs (..., C) add to the gates."""
        return apply_op(operations.Linear, x, self.input_weights, getattr(self, "input_bias", None))

    def of_state(self, hidden: Tensor) -> Tensor:
        """Returns what a state (B, H) adds to the gates."""
        return apply_op(operations.Linear, hidden, self.hidden_weights, getattr(self, "hidden_bias", None))


class _Recurrence(Module):
    """What the three networks share: layers on top of each other, the way along the positions, the checks.

    Attributes:
        num_gates: how many times H numbers a layer's maps give.
        num_states: how many Tensors make up a state; the first is the output.
    """

    num_gates = 1
    num_states = 1

    def __init__(
        self,
        input_dims: int,
        hidden_dims: int,
        num_layers: int = 1,
        bias: bool = True,
        *,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.input_dims = check_size("input_dims", input_dims)
        self.hidden_dims = check_size("hidden_dims", hidden_dims)
        check_size("num_layers", num_layers)
        self.layers: list[RecurrentWeights] = []
        size = input_dims
        for _ in range(num_layers):
            self.layers.append(RecurrentWeights(size, hidden_dims, self.num_gates, bias))
            size = hidden_dims
        self.dropout = Dropout(dropout)

    def step(self, of_input: Tensor, of_state: Tensor, state: State) -> State:
        """Returns the next state, given what input and state add to the gates (each (B, gates H)) and the
        state (each (B, H)).
        """
        raise NotImplementedError

    def __call__(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Returns what the layers make of the input, position after position.

        Args:
            x: (B, T, C), T >= 1.
            state: what an earlier call returned, or None for zeros.

        Returns:
            The last layer's outputs (B, T, H), and the state behind the last position.

        Raises:
            ShapeError: the input or the state has another shape.
        """
        if x.ndim != 3 or x.shape[2] != self.input_dims or x.shape[1] == 0:
            expected = ("batch", "positions >= 1", self.input_dims)
            raise ShapeError(
                shape_errors.wrong_shape(type(self).__name__, "input", x.shape, expected=expected)
            )
        batch_size, length, _ = x.shape
        parts = self._state_parts(state, (len(self.layers), batch_size, self.hidden_dims), x)
        final_states: list[State] = []  # of each layer
        for number, layer in enumerate(self.layers):
            if number > 0:
                x = self.dropout(x)
            gates = layer.of_input(x)
            current = tuple(part[number] for part in parts)
            outputs = []
            for position in range(length):
                current = self.step(gates[:, position], layer.of_state(current[0]), current)
                outputs.append(current[0].reshape((batch_size, 1, self.hidden_dims)))
            x = Tensor.concatenate(outputs, axis=1)
            final_states.append(current)
        # From a tuple of parts for each layer to a Tensor (L, B, H) for each part.
        last_state = tuple(
            Tensor.concatenate([part.reshape((1, *part.shape)) for part in part_of_layers])
            for part_of_layers in zip(*final_states, strict=True)
        )
        return x, last_state if self.num_states > 1 else last_state[0]

    def _state_parts(self, state: Any, shape: tuple[int, ...], x: Tensor) -> State:
        """Returns the Tensors of a state, each of the shape (L, B, H); zeros like x where it is None."""
        if state is None:
            zeros = Tensor(type(x.buffer).zeros(shape, x.dtype))
            return (zeros,) * self.num_states
        parts = state if isinstance(state, tuple) else (state,)
        found = [getattr(part, "shape", type(part).__name__) for part in parts]
        if found != [shape] * self.num_states:
            said = (
                f"{type(self).__name__}: expected a state of {self.num_states} x {shape}, "
                f"but got {', '.join(map(str, found))}"
            )
            wrong = next((each for each in found if isinstance(each, tuple) and each != shape), shape)
            raise ShapeError(shape_errors.wrong_shape("", "state", wrong, expected=shape, title=said))
        return parts

    def _extra_repr(self) -> str:
        return f"input_dims={self.input_dims}, hidden_dims={self.hidden_dims}, num_layers={len(self.layers)}"


class RNN(_Recurrence):
    """A simple recurrent network: `h_t = f(x_t W_x + b_x + h_{t-1} W_h + b_h)`.

    Args:
        input_dims: C. hidden_dims: H. num_layers: L; each takes the outputs of the one below.
        bias: whether there are b_x and b_h.
        activation: f, "tanh" or "relu".
        dropout: probability of dropping an element between two layers, in training.

    Shape:
        (B, T, C) and a state (L, B, H) -> (B, T, H) and the next state.

    Raises:
        TypeError: a size that is no int.
        ValueError: a size below 1, or another activation.

    Source: Elman, "Finding Structure in Time", 1990
    """

    def __init__(
        self,
        input_dims: int,
        hidden_dims: int,
        num_layers: int = 1,
        bias: bool = True,
        *,
        activation: str = "tanh",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(input_dims, hidden_dims, num_layers, bias, dropout=dropout)
        if activation not in ("tanh", "relu"):
            raise ValueError(f"the activation of an RNN is 'tanh' or 'relu', not {activation!r}")
        self.activation = activation

    def step(self, of_input: Tensor, of_state: Tensor, state: State) -> State:
        """Returns h' = f(of_input + of_state)."""
        f = activation_function(self.activation)
        return (f(of_input + of_state),)


class LSTM(_Recurrence):
    """Long short-term memory: a second state c, to which gates add and from which they take.

    With i, f, g, o the four parts of `x_t W_x + b_x + h_{t-1} W_h + b_h`:
    `c_t = σ(f) c_{t-1} + σ(i) tanh(g)` and `h_t = σ(o) tanh(c_t)`.

    Args and shape: as for `RNN`, without an activation; the state is the pair (h, c), each (L, B, H).

    Source: Hochreiter, Schmidhuber, "Long Short-Term Memory", 1997; forget gate: Gers et al. 2000
    """

    num_gates = 4
    num_states = 2

    def step(self, of_input: Tensor, of_state: Tensor, state: State) -> State:
        """Returns (h', c') of the equations above."""
        _, cell = state
        size = self.hidden_dims
        gates = of_input + of_state
        input_and_forget = gates[:, : 2 * size].sigmoid()
        kept = input_and_forget[:, size:] * cell
        added = input_and_forget[:, :size] * gates[:, 2 * size : 3 * size].tanh()
        cell = kept + added
        hidden = gates[:, 3 * size :].sigmoid() * cell.tanh()
        return hidden, cell


class GRU(_Recurrence):
    """Gated recurrent unit: a state that is partly kept and partly replaced.

    With (x_r, x_z, x_n) the parts of `x_t W_x + b_x` and (h_r, h_z, h_n) those of `h_{t-1} W_h + b_h`:
    `r = σ(x_r + h_r)`, `z = σ(x_z + h_z)`, `n = tanh(x_n + r h_n)`, `h_t = (1 - z) n + z h_{t-1}`.

    Args and shape: as for `RNN`, without an activation.

    Source: Cho et al. 2014, https://arxiv.org/abs/1406.1078
    """

    num_gates = 3

    def step(self, of_input: Tensor, of_state: Tensor, state: State) -> State:
        """Returns h' of the equations above."""
        (hidden,) = state
        size = self.hidden_dims
        reset_and_update = (of_input[:, : 2 * size] + of_state[:, : 2 * size]).sigmoid()
        reset = reset_and_update[:, :size]
        update = reset_and_update[:, size:]
        new = (of_input[:, 2 * size :] + reset * of_state[:, 2 * size :]).tanh()
        return (new + update * (hidden - new),)
