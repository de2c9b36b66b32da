"""Normalization over the last axes: LayerNorm and RMSNorm.

Notation as in `dense`.
"""

from __future__ import annotations

import math
from typing import Any

from .. import shape_errors
from ..buffer.base import Buffer
from ..shape import Shape
from ..shape_errors import ShapeError
from .base import Gradient, Kernel, require_float, sum_to


def _normalized(x: Buffer, weight: Buffer | None, bias: Buffer | None, num_axes: int, name: str) -> Shape:
    """Returns the last `num_axes` axes of x; raises where the parameters do not have exactly that shape."""
    require_float(name, x=x, weight=weight, bias=bias)
    if not 1 <= num_axes <= x.ndim:
        raise ShapeError(f"{name}: cannot normalize over {num_axes} axes of an input of shape {x.shape}")
    shape = x.shape[x.ndim - num_axes :]
    for what, parameter in (("weight", weight), ("bias", bias)):
        if parameter is not None and parameter.shape != shape:
            raise ShapeError(
                shape_errors.wrong_shape(
                    name,
                    what,
                    parameter.shape,
                    expected=x.shape,
                    of="input",
                    axes=slice(x.ndim - num_axes, None),
                )
            )
    return shape


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
        weight: Buffer | None = None,
        bias: Buffer | None = None,
        *,
        eps: float = 1e-5,
        num_axes: int = 1,
    ) -> tuple[Buffer, Any]:
        size = math.prod(_normalized(x, weight, bias, num_axes, "layer_norm"))
        axes = tuple(range(x.ndim - num_axes, x.ndim))
        centred = x - x.sum(axes) / size
        scale = 1.0 / ((centred * centred).sum(axes) / size + eps).sqrt()
        n = centred * scale
        y = n if weight is None else n * weight
        return (y if bias is None else y + bias), (n, scale, weight, axes)

    @staticmethod
    def backward(saved: Any, grad: Buffer) -> tuple[Gradient, ...]:
        n, scale, weight, axes = saved
        size, shape = math.prod(n.shape[axes[0] :]), n.shape[axes[0] :]

        def of_input() -> Buffer:
            h = grad if weight is None else grad * weight
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
        x: Buffer, weight: Buffer | None = None, *, eps: float = 1e-5, num_axes: int = 1
    ) -> tuple[Buffer, Any]:
        size = math.prod(_normalized(x, weight, None, num_axes, "rms_norm"))
        axes = tuple(range(x.ndim - num_axes, x.ndim))
        scale = 1.0 / ((x * x).sum(axes) / size + eps).sqrt()
        n = x * scale
        return (n if weight is None else n * weight), (n, scale, weight, axes)

    @staticmethod
    def backward(saved: Any, grad: Buffer) -> tuple[Gradient, ...]:
        n, scale, weight, axes = saved
        size, shape = math.prod(n.shape[axes[0] :]), n.shape[axes[0] :]

        def of_input() -> Buffer:
            h = grad if weight is None else grad * weight
            return scale * (h - n * ((h * n).sum(axes) / size))

        return of_input, lambda: sum_to(grad * n, shape)
