"""The fully connected layer."""

from __future__ import annotations

import math

from .. import operations
from ..module import Module
from ..tensor import Tensor, apply_op
from .arguments import check_size


class FullyConnectedLayer(Module):
    """A linear (dense) layer: `y = x W + b`.

    Args:
        input_dims: size of the last axis of the input.
        output_dims: size of the last axis of the output.
        bias: whether b is added.
        std: initialises W from a normal distribution with this standard deviation and b with zeros, instead
            of both uniformly between ±sqrt(1 / input_dims); with 0 both are zeros, and nothing is drawn.

    Shape:
        (..., input_dims) -> (..., output_dims); `weights` is (input_dims, output_dims), `bias`
        (output_dims,).

    Raises:
        TypeError: a size that is no int.
        ValueError: a size below 1.
    """

    def __init__(
        self, input_dims: int, output_dims: int, bias: bool = True, *, std: float | None = None
    ) -> None:
        super().__init__()
        check_size("input_dims", input_dims)
        check_size("output_dims", output_dims)
        if std is None:
            limit = math.sqrt(1.0 / input_dims)
            self.weights = Tensor.uniform(
                (input_dims, output_dims), low=-limit, high=limit, requires_grad=True
            )
            if bias:
                self.bias = Tensor.uniform((output_dims,), low=-limit, high=limit, requires_grad=True)
        else:
            shape = (input_dims, output_dims)
            if std == 0.0:
                self.weights = Tensor.zeros(shape, requires_grad=True)
            else:
                self.weights = Tensor.normal(shape, mean=0.0, std=std, requires_grad=True)
            if bias:
                self.bias = Tensor.zeros((output_dims,), requires_grad=True)

    def __call__(self, x: Tensor) -> Tensor:
        return apply_op(operations.Linear, x, self.weights, getattr(self, "bias", None))

    def _extra_repr(self) -> str:
        input_dims, output_dims = self.weights.shape
        return f"input_dims={input_dims}, output_dims={output_dims}, bias={'bias' in self}"


Linear = FullyConnectedLayer
