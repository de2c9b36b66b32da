"""The fully connected layer."""

from __future__ import annotations

import math

from .. import operations
from ..module import Module
from ..tensor import Tensor, apply_op


def check_size(name: str, value: int) -> int:
    """Return a size that is a positive int; raise a TypeError or ValueError that names it otherwise."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, but got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, but got {value}")
    return value


class FullyConnectedLayer(Module):
    """A linear (dense) layer: ``y = x W + b``.

    Args:
        input_dims: size of the last axis of the input.
        output_dims: size of the last axis of the output.
        bias: whether b is added.
        std: initialise W from a normal distribution with this standard deviation and b with zeros, instead of
            both uniformly between ±sqrt(1 / input_dims).

    Shape:
        (..., input_dims) -> (..., output_dims); ``weights`` is (input_dims, output_dims), ``bias``
        (output_dims,).

    Raises:
        TypeError: a size that is no int.
        ValueError: a size below 1.
    """

    def __init__(
        self, input_dims: int, output_dims: int, bias: bool = True, *, std: float | None = None
    ) -> None:
        super().__init__()
        shape = (check_size("input_dims", input_dims), check_size("output_dims", output_dims))
        bound = math.sqrt(1.0 / input_dims)
        if std is None:
            self.weights = Tensor.uniform(shape, low=-bound, high=bound, requires_grad=True)
        else:
            self.weights = Tensor.normal(shape, mean=0.0, std=std, requires_grad=True)
        if bias and std is None:
            self.bias = Tensor.uniform(shape[1:], low=-bound, high=bound, requires_grad=True)
        elif bias:
            self.bias = Tensor.zeros(shape[1:], requires_grad=True)

    def __call__(self, x: Tensor) -> Tensor:
        return apply_op(operations.Linear, x, self.weights, getattr(self, "bias", None))

    def _extra_repr(self) -> str:
        return (
            f"input_dims={self.weights.shape[0]}, output_dims={self.weights.shape[1]}, bias={'bias' in self}"
        )


Linear = FullyConnectedLayer
