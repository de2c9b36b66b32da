"""GELU and SiLU on a CUDA device."""

from __future__ import annotations

from typing import Any

from tinygpt_core.kernels.activations import GELU, SiLU
from tinygpt_core.kernels.base import Gradient, require_float

from ..buffer import format_of


class CudaGELU(GELU):
    """GELU, y = x Phi(x).

    Fast: it takes over the bias that a product left, and keeps its input only. Source: Hendrycks, Gimpel,
    "Gaussian Error Linear Units (GELUs)", 2016.
    """

    @staticmethod
    def forward(x: Any, *, approximate: str = "tanh") -> tuple[Any, Any]:
        GELU.check(x, approximate)
        kind = type(x)
        stored, bias = x.take_bias() if x.is_contiguous() else (x.stored, None)
        flat = kind.xp.ascontiguousarray(stored)
        y = kind.xp.empty(x.shape, flat.dtype)
        columns = x.shape[-1] if x.ndim else 1
        exact = int(approximate == "none")
        # Writes x + bias back to x, too, for the backward
        kind.launch_elementwise(
            "bias_gelu", format_of(flat), flat.size, flat, bias, y, flat.size, columns, exact
        )
        return kind.wrap(y, x.dtype), (x, exact)

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        x, exact = saved
        return (_elementwise_gradient("gelu_gradient", x, grad, exact),)


class CudaSiLU(SiLU):
    """SiLU, y = x / (1 + e^-x).

    Fast: it keeps its input only. Source: Elfwing, Uchibe, Doya, "Sigmoid-Weighted Linear Units", 2017.
    """

    @staticmethod
    def forward(x: Any) -> tuple[Any, Any]:
        require_float("silu", x=x)
        kind = type(x)
        flat = kind.xp.ascontiguousarray(x.stored)
        y = kind.xp.empty(x.shape, flat.dtype)
        kind.launch_elementwise("silu", format_of(flat), flat.size, flat, y, flat.size)
        return kind.wrap(y, x.dtype), x

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        return (_elementwise_gradient("silu_gradient", saved, grad),)


def _elementwise_gradient(name: str, x: Any, grad: Any, *options: int) -> Any:
    """Returns what an elementwise kernel makes of an input and the gradient of its result, in the input's
    format.
    """
    kind = type(x)
    flat = kind.xp.ascontiguousarray(x.stored)
    fmt = format_of(flat)
    g = kind.xp.ascontiguousarray(grad.in_format(fmt))
    result = kind.xp.empty(x.shape, flat.dtype)
    kind.launch_elementwise(name, fmt, flat.size, flat, g, result, flat.size, *options)
    return kind.wrap(result, grad.dtype)
