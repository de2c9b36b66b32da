"""Normalization over the last axes: LayerNorm and RMSNorm.

    layer norm    n = (x - mean x) / sqrt(var x + eps)    y = n w + b
    RMSNorm       n = x / sqrt(mean x^2 + eps)            y = n w

Each row of x (its last `num_axes` axes) gets mean 0 and deviation 1, or length 1 on average; then w and b
scale and shift each element. Notation as in `base`.
"""

from __future__ import annotations

import math
from typing import Any

from .. import shape_errors
from ..buffer.base import Buffer
from ..shape import Shape
from ..shape_errors import ShapeError
from .base import Gradient, Kernel, require_float, sum_to


def normalized_shape(
    x: Buffer, weights: Buffer | None, bias: Buffer | None, num_axes: int, name: str
) -> Shape:
    """Returns the last `num_axes` axes of x.

    Raises:
        TypeError: operands that are not of one float dtype.
        ShapeError: x has fewer axes, or a parameter does not have exactly that shape.
    """
    require_float(name, x=x, weights=weights, bias=bias)
    if not 1 <= num_axes <= x.ndim:
        raise ShapeError(f"{name}: cannot normalize over {num_axes} axes of an input of shape {x.shape}")
    axes = slice(x.ndim - num_axes, None)
    for what, parameter in (("weights", weights), ("bias", bias)):
        if parameter is not None and parameter.shape != x.shape[axes]:
            raise ShapeError(
                shape_errors.wrong_shape(name, what, parameter.shape, expected=x.shape, of="input", axes=axes)
            )
    return x.shape[axes]


class LayerNorm(Kernel):
    """y = n w + b with n = (x - mean x) / sqrt(var x + eps), over the last `num_axes` axes; w and b may be
    None.

    With h = g w and r = 1 / sqrt(var x + eps): dL/dx = r (h - mean h - n mean(h n)), dL/dw = sum g n, dL/db =
    sum g. Source: Ba, Kiros, Hinton, "Layer Normalization", 2016.

    Raises:
        TypeError: operands that are not of one float dtype.
        ShapeError: w or b does not have the shape of the last `num_axes` axes of x.
    """

    @staticmethod
    def forward(
        x: Buffer,
        weights: Buffer | None = None,
        bias: Buffer | None = None,
        *,
        eps: float = 1e-5,
        num_axes: int = 1,
    ) -> tuple[Buffer, Any]:
        size = math.prod(normalized_shape(x, weights, bias, num_axes, "layer_norm"))
        axes = tuple(range(x.ndim - num_axes, x.ndim))
        centred = x - x.sum(axes) / size
        scale = 1.0 / ((centred * centred).sum(axes) / size + eps).sqrt()
        n = centred * scale
        y = n if weights is None else n * weights
        if bias is not None:
            y = y + bias
        return y, (n, scale, weights, axes)

    @staticmethod
    def backward(saved: Any, grad: Buffer) -> tuple[Gradient, ...]:
        n, scale, weights, axes = saved
        shape = n.shape[axes[0] :]
        size = math.prod(shape)

        def of_input() -> Buffer:
            h = grad if weights is None else grad * weights
            return scale * (h - h.sum(axes) / size - n * ((h * n).sum(axes) / size))

        return of_input, lambda: sum_to(grad * n, shape), lambda: sum_to(grad, shape)


class RMSNorm(Kernel):
    """y = n w with n = x / sqrt(mean x^2 + eps), over the last `num_axes` axes; w may be None.

    With h = g w and r = 1 / sqrt(mean x^2 + eps): dL/dx = r (h - n mean(h n)), dL/dw = sum g n.
    Source: Zhang, Sennrich, "Root Mean Square Layer Normalization", 2019.

    Raises:
        TypeError: operands that are not of one float dtype.
        ShapeError: w does not have the shape of the last `num_axes` axes of x.
    """

    @staticmethod
    def forward(
        x: Buffer, weights: Buffer | None = None, *, eps: float = 1e-5, num_axes: int = 1
    ) -> tuple[Buffer, Any]:
        size = math.prod(normalized_shape(x, weights, None, num_axes, "rms_norm"))
        axes = tuple(range(x.ndim - num_axes, x.ndim))
        scale = 1.0 / ((x * x).sum(axes) / size + eps).sqrt()
        n = x * scale
        return (n if weights is None else n * weights), (n, scale, weights, axes)

    @staticmethod
    def backward(saved: Any, grad: Buffer) -> tuple[Gradient, ...]:
        n, scale, weights, axes = saved
        shape = n.shape[axes[0] :]
        size = math.prod(shape)

        def of_input() -> Buffer:
            h = grad if weights is None else grad * weights
            return scale * (h - n * ((h * n).sum(axes) / size))

        return of_input, lambda: sum_to(grad * n, shape)
