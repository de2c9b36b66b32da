"""Activation functions as modules, beside those in `layers`: parts for a `Sequential`."""

from __future__ import annotations

from ..module import Module
from ..shape import ShapeError
from ..tensor import Tensor
from .layers import ACTIVATION_FUNCTIONS, GATED_ACTIVATIONS, SiLU

Swish = SiLU


class Sigmoid(Module):
    """Logistic function: ``y = 1 / (1 + exp(-x))`` of each element."""

    def __call__(self, x: Tensor) -> Tensor:
        return x.sigmoid()


class Tanh(Module):
    """Hyperbolic tangent: ``y = (exp(x) - exp(-x)) / (exp(x) + exp(-x))`` of each element."""

    def __call__(self, x: Tensor) -> Tensor:
        return x.tanh()


class Softmax(Module):
    """Probabilities: ``y = exp(x) / sum exp(x)`` along an axis."""

    def __init__(self, axis: int = -1) -> None:
        super().__init__()
        self.axis = axis

    def __call__(self, x: Tensor) -> Tensor:
        return x.softmax(self.axis)

    def _extra_repr(self) -> str:
        return f"axis={self.axis}"


class GLU(Module):
    """Gated linear unit: ``y = a f(b)``, where a and b are the halves of the last axis. Dauphin et al. 2017; Shazeer 2020.

    Args:
        gate: "glu" (f is the sigmoid), "reglu", "geglu" or "swiglu".

    Shape:
        (..., 2 C) -> (..., C).

    Raises:
        ValueError: another gate.
        ShapeError: the size of the last axis of the input is odd.
    """

    def __init__(self, gate: str = "glu") -> None:
        super().__init__()
        if gate not in GATED_ACTIVATIONS:
            raise ValueError(f"unknown gated unit {gate!r}; expected one of {', '.join(GATED_ACTIVATIONS)}")
        self.gate = gate

    def __call__(self, x: Tensor) -> Tensor:
        if not x.ndim or x.shape[-1] % 2:
            raise ShapeError(f"{type(self).__name__} needs a last axis of even size, but the input has the shape {x.shape}")
        half = x.shape[-1] // 2
        return x[..., :half] * ACTIVATION_FUNCTIONS[GATED_ACTIVATIONS[self.gate]](x[..., half:])

    def _extra_repr(self) -> str:
        return f"gate={self.gate!r}"


class SwiGLU(GLU):
    """``y = a silu(b)``, where a and b are the halves of the last axis: `GLU` with that gate."""

    def __init__(self) -> None:
        super().__init__("swiglu")
