"""Activation functions by name, as modules, and the gated units made of them."""

from __future__ import annotations

from collections.abc import Callable

from ..module import Module
from ..shape import ShapeError
from ..tensor import Tensor

ActivationFunction = Callable[[Tensor], Tensor]
ACTIVATION_FUNCTIONS: dict[str, ActivationFunction] = {
    "linear": lambda tensor: tensor,
    "relu": Tensor.relu,
    "relu2": lambda tensor: tensor.relu() ** 2,
    "gelu": Tensor.gelu,
    "gelu_exact": lambda tensor: tensor.gelu("none"),
    "silu": Tensor.silu,
    "tanh": Tensor.tanh,
    "sigmoid": Tensor.sigmoid,
}
"""Activation functions by name; "gelu" is the tanh form, "gelu_exact" with erf, "relu2" max(x, 0)²."""
GATED_ACTIVATIONS = {"glu": "sigmoid", "reglu": "relu", "geglu": "gelu", "swiglu": "silu"}
"""For each gated unit, the name of the activation function of its gate (Shazeer 2020)."""


def activation_function(name: str) -> ActivationFunction:
    """Returns the activation function of a name.

    Raises:
        ValueError: there is none of that name; the message lists the names.
    """
    if name not in ACTIVATION_FUNCTIONS:
        raise ValueError(
            f"unknown activation function {name!r}; expected one of {', '.join(ACTIVATION_FUNCTIONS)}"
        )
    return ACTIVATION_FUNCTIONS[name]


def gate_function(name: str) -> ActivationFunction:
    """Returns the activation function in the gate of a gated unit.

    Raises:
        ValueError: there is no gated unit of that name; the message lists the names.
    """
    if name not in GATED_ACTIVATIONS:
        raise ValueError(f"unknown gated unit {name!r}; expected one of {', '.join(GATED_ACTIVATIONS)}")
    return ACTIVATION_FUNCTIONS[GATED_ACTIVATIONS[name]]


class ReLU(Module):
    """Rectified linear unit: `y = max(x, 0)` of each element."""

    def __call__(self, x: Tensor) -> Tensor:
        return x.relu()


class ReLUSquared(Module):
    """Squared rectified linear unit, ReLU²: `y = max(x, 0)²` of each element.

    Source: So et al., "Primer: Searching for Efficient Transformers", 2021, https://arxiv.org/abs/2109.08668
    """

    def __call__(self, x: Tensor) -> Tensor:
        return x.relu() ** 2


class GELU(Module):
    """Gaussian error linear unit: `y = x Φ(x)` of each element, Φ the normal distribution function.

    Args:
        approximate: "tanh" for `x/2 (1 + tanh(sqrt(2/π) (x + 0.044715 x³)))`, as in GPT-2; "none" for the
            exact form.

    Source: Hendrycks, Gimpel 2016, https://arxiv.org/abs/1606.08415
    """

    def __init__(self, approximate: str = "tanh") -> None:
        super().__init__()
        self.approximate = approximate

    def __call__(self, x: Tensor) -> Tensor:
        return x.gelu(approximate=self.approximate)

    def _extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"


class SiLU(Module):
    """Sigmoid linear unit, or Swish: `y = x / (1 + exp(-x))` of each element.

    Source: Ramachandran et al. 2017, https://arxiv.org/abs/1710.05941
    """

    def __call__(self, x: Tensor) -> Tensor:
        return x.silu()


Swish = SiLU


class Sigmoid(Module):
    """Logistic function: `y = 1 / (1 + exp(-x))` of each element."""

    def __call__(self, x: Tensor) -> Tensor:
        return x.sigmoid()


class Tanh(Module):
    """Hyperbolic tangent: `y = (exp(x) - exp(-x)) / (exp(x) + exp(-x))` of each element."""

    def __call__(self, x: Tensor) -> Tensor:
        return x.tanh()


class Softmax(Module):
    """Probabilities: `y = exp(x) / sum exp(x)` along an axis."""

    def __init__(self, axis: int = -1) -> None:
        super().__init__()
        self.axis = axis

    def __call__(self, x: Tensor) -> Tensor:
        return x.softmax(self.axis)

    def _extra_repr(self) -> str:
        return f"axis={self.axis}"


class GLU(Module):
    """Gated linear unit: `y = a f(b)`, where a and b are the halves of the last axis.

    Args:
        gate: "glu" (f is the sigmoid), "reglu", "geglu" or "swiglu".

    Shape:
        (..., 2 C) -> (..., C).

    Raises:
        ValueError: another gate.
        ShapeError: the size of the last axis of the input is odd.

    Source: Dauphin et al. 2017, https://arxiv.org/abs/1612.08083; Shazeer 2020,
    https://arxiv.org/abs/2002.05202
    """

    def __init__(self, gate: str = "glu") -> None:
        super().__init__()
        gate_function(gate)  # an unknown name raises here rather than at the first call
        self.gate = gate

    def __call__(self, x: Tensor) -> Tensor:
        if x.ndim == 0 or x.shape[-1] % 2:
            raise ShapeError(
                f"{type(self).__name__} needs a last axis of even size, but the input has the shape {x.shape}"
            )
        half = x.shape[-1] // 2
        f = gate_function(self.gate)
        return x[..., :half] * f(x[..., half:])

    def _extra_repr(self) -> str:
        return f"gate={self.gate!r}"


class SwiGLU(GLU):
    """The gated linear unit `y = a silu(b)`, where a and b are the halves of the last axis: `GLU` with that
    gate.
    """

    def __init__(self) -> None:
        super().__init__("swiglu")
