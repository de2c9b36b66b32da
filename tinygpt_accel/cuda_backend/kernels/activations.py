"""GELU and SiLU on a CUDA device."""

from __future__ import annotations

from typing import Any

from tinygpt_core.kernels.activations import GELU, SiLU
from tinygpt_core.kernels.base import Gradient, require_float

from ..buffer import format_of
from .products import WaitingProduct


class CudaGELU(GELU):
    """GELU, y = x Phi(x).

    Fast: in 16 bits and in the tanh form, the product that comes before it applies it, and the product that
    its gradient comes from applies its slope. Source: Hendrycks, Gimpel, "Gaussian Error Linear Units
    (GELUs)", 2016.
    """

    @staticmethod
    def forward(x: Any, *, approximate: str = "tanh") -> tuple[Any, Any]:
        GELU.check(x, approximate)
        kind = type(x)
        exact = int(approximate == "none")
        product = _product_to_take(x, exact)
        if product is not None:
            y = kind.xp.empty(x.shape, product.out.dtype)
            if product.launch_gelu(y):
                return kind.wrap(y, x.dtype), (x, exact)
        flat = kind.xp.ascontiguousarray(x.stored)
        y = kind.xp.empty(x.shape, flat.dtype)
        kind.launch_elementwise("gelu", format_of(flat), flat.size, flat, y, flat.size, exact)
        return kind.wrap(y, x.dtype), (x, exact)

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        x, exact = saved
        product = _product_to_take(grad, exact)
        # The auxiliary output of the product that made x is read as it was written: without gaps
        if product is not None and x.is_contiguous() and x._stored.dtype == product.out.dtype:
            kind = type(x)
            result = kind.xp.empty(x.shape, product.out.dtype)
            if product.launch_gelu_gradient(x.stored, result):
                return (kind.wrap(result, grad.dtype),)
        return (_elementwise_gradient("gelu_gradient", x, grad, exact),)


def _product_to_take(x: Any, exact: int) -> WaitingProduct | None:
    """Returns the product that x waits for, where cuBLASLt may apply GELU to it: its tanh is not that of
    float32.
    """
    product = x.waiting_for(WaitingProduct)
    return product if product and not exact and x._is_16_bit() and x.is_contiguous() else None


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
