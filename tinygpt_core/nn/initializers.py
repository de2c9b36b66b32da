"""Initializers: functions that fill a parameter with numbers to start from, in place, and return it.

How large the numbers should be follows from how many are added up. `fan_in` is the number of inputs that
one output sees, `fan_out` the number of outputs that one input reaches: the two sizes of a matrix (in,
out), and for the weights of a convolution (out, in, height, width) those two times height times width.

    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2:
            xavier_uniform(parameter)
"""

from __future__ import annotations

import math
from typing import Any

from ..tensor import Tensor

GAINS = {
    "linear": 1.0,
    "sigmoid": 1.0,
    "tanh": 5.0 / 3.0,
    "relu": math.sqrt(2.0),
    "gelu": math.sqrt(2.0),
    "silu": math.sqrt(2.0),
}
"""By how much to enlarge weights before an activation function that shrinks what passes through it."""


def fans(tensor: Tensor) -> tuple[int, int]:
    """Returns (fan_in, fan_out) = (in, out) of a matrix (in, out), and (in h w, out h w) of the weights (out,
    in, h, w) of a convolution.

    Raises:
        ValueError: a tensor with fewer than two axes, which has none.
    """
    if tensor.ndim < 2:
        raise ValueError(
            "fan_in and fan_out are those of a matrix or a convolution's weights, "
            f"not of shape {tensor.shape}"
        )
    if tensor.ndim == 2:
        return tensor.shape[0], tensor.shape[1]
    window = math.prod(tensor.shape[2:])
    return tensor.shape[1] * window, tensor.shape[0] * window


def gain(activation: str) -> float:
    """Returns the gain = `GAINS[activation]` before an activation function.

    Raises:
        ValueError: no gain is known for it; the message lists the names.
    """
    if activation not in GAINS:
        raise ValueError(f"no gain is known for {activation!r}; expected one of {', '.join(GAINS)}")
    return GAINS[activation]


def constant(tensor: Tensor, value: float) -> Tensor:
    """Fills every element, x = value; returns the tensor."""
    return tensor.assign(value)


def uniform(tensor: Tensor, low: float = 0.0, high: float = 1.0, **options: Any) -> Tensor:
    """Draws each element x ~ U[low, high) and returns the tensor; `generator` in options, else the
    process-wide one.
    """
    return tensor.assign(type(tensor.buffer).uniform(tensor.shape, low, high, tensor.dtype, **options))


def normal(tensor: Tensor, mean: float = 0.0, std: float = 1.0, **options: Any) -> Tensor:
    """Draws each element x ~ N(mean, std^2) and returns the tensor; `generator` in options, else the
    process-wide one.
    """
    return tensor.assign(type(tensor.buffer).normal(tensor.shape, mean, std, tensor.dtype, **options))


def xavier_uniform(tensor: Tensor, activation: str = "linear", **options: Any) -> Tensor:
    """Draws each element x ~ U[-b, b) with b = gain sqrt(6 / (fan_in + fan_out)), whose variance is that of
    `xavier_normal`.

    Returns the tensor; errors are those of `fans` and `gain`.

    Source: Glorot, Bengio 2010, https://proceedings.mlr.press/v9/glorot10a.html
    """
    fan_in, fan_out = fans(tensor)
    limit = gain(activation) * math.sqrt(6.0 / (fan_in + fan_out))
    return uniform(tensor, -limit, limit, **options)


def xavier_normal(tensor: Tensor, activation: str = "linear", **options: Any) -> Tensor:
    """Draws each element x ~ N(0, s^2) with s = gain sqrt(2 / (fan_in + fan_out)).

    Returns the tensor; errors are those of `fans` and `gain`.

    Source: Glorot, Bengio 2010, https://proceedings.mlr.press/v9/glorot10a.html
    """
    fan_in, fan_out = fans(tensor)
    std = gain(activation) * math.sqrt(2.0 / (fan_in + fan_out))
    return normal(tensor, 0.0, std, **options)


def kaiming_uniform(tensor: Tensor, activation: str = "relu", **options: Any) -> Tensor:
    """Draws each element x ~ U[-b, b) with b = gain sqrt(3 / fan_in), whose variance is that of
    `kaiming_normal`.

    Returns the tensor; errors are those of `fans` and `gain`.

    Source: He et al. 2015, https://arxiv.org/abs/1502.01852
    """
    fan_in, _ = fans(tensor)
    limit = gain(activation) * math.sqrt(3.0 / fan_in)
    return uniform(tensor, -limit, limit, **options)


def kaiming_normal(tensor: Tensor, activation: str = "relu", **options: Any) -> Tensor:
    """Draws each element x ~ N(0, s^2) with s = gain / sqrt(fan_in).

    Returns the tensor; errors are those of `fans` and `gain`.

    Source: He et al. 2015, https://arxiv.org/abs/1502.01852
    """
    fan_in, _ = fans(tensor)
    std = gain(activation) / math.sqrt(fan_in)
    return normal(tensor, 0.0, std, **options)


def gpt2_scaled(tensor: Tensor, num_layers: int, std: float = 0.02, **options: Any) -> Tensor:
    """Draws each element x ~ N(0, s^2) with s = std / sqrt(2 num_layers): for the 2 num_layers maps that add
    to GPT-2's residual stream.

    So the sum of what they add is as large as one map with `std` would make it. Returns the tensor.

    Raises:
        ValueError: num_layers below 1.

    Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"
    """
    if num_layers < 1:
        raise ValueError(f"num_layers must be at least 1, but got {num_layers}")
    return normal(tensor, 0.0, std / math.sqrt(2.0 * num_layers), **options)
