"""Layers: linear maps, embeddings, normalizations, activations, and the multi-layer perceptrons made of them.

Shapes: ``...`` stands for any number of leading axes, usually (batch, position).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from .. import misfit, operations, random
from ..module import Module
from ..shape import ShapeError
from ..tensor import Tensor, apply_op

ActivationFunction = Callable[[Tensor], Tensor]

ACTIVATION_FUNCTIONS: dict[str, ActivationFunction] = {
    "linear": lambda tensor: tensor, "relu": Tensor.relu, "gelu": Tensor.gelu,
    "silu": Tensor.silu, "tanh": Tensor.tanh, "sigmoid": Tensor.sigmoid,
}  # fmt: skip
"""Activation functions by name."""

GATED_ACTIVATIONS = {"glu": "sigmoid", "reglu": "relu", "geglu": "gelu", "swiglu": "silu"}
"""For each gated unit, the name of the activation function of its gate (Shazeer 2020)."""


def check_size(name: str, value: int) -> int:
    """Return a size that is a positive int; raise a TypeError or ValueError that names it otherwise."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, but got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, but got {value}")
    return value


def activation_function(name: str) -> ActivationFunction:
    """Return the activation function of a name; raise a ValueError that lists the names when there is none."""
    if name not in ACTIVATION_FUNCTIONS:
        raise ValueError(f"unknown activation function {name!r}; expected one of {', '.join(ACTIVATION_FUNCTIONS)}")
    return ACTIVATION_FUNCTIONS[name]


class FullyConnectedLayer(Module):
    """A linear (dense) layer: ``y = x W + b``.

    Args:
        input_dims: size of the last axis of the input.
        output_dims: size of the last axis of the output.
        bias: whether b is added.
        std: initialise W from a normal distribution with this standard deviation and b with zeros, instead of both
            uniformly between ±sqrt(1 / input_dims).

    Shape:
        (..., input_dims) -> (..., output_dims); ``weights`` is (input_dims, output_dims), ``bias`` (output_dims,).

    Raises:
        TypeError: a size that is no int.
        ValueError: a size below 1.
    """

    def __init__(self, input_dims: int, output_dims: int, bias: bool = True, *, std: float | None = None) -> None:
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
        return f"input_dims={self.weights.shape[0]}, output_dims={self.weights.shape[1]}, bias={'bias' in self}"


Linear = FullyConnectedLayer


class Embedding(Module):
    """A table of vectors, looked up by index: ``y[..., :] = embeddings[indices[...], :]``.

    Args:
        num_embeddings: rows of the table; indices lie in [0, num_embeddings).
        embedding_dim: size of one vector.
        std: standard deviation of the normal distribution from which the table is initialised.

    Shape:
        int (...) -> (..., embedding_dim).

    Raises:
        TypeError: a size that is no int.
        ValueError: a size below 1.
    """

    def __init__(self, num_embeddings: int, embedding_dim: int, *, std: float = 1.0) -> None:
        super().__init__()
        self.num_embeddings = check_size("num_embeddings", num_embeddings)
        self.embedding_dim = check_size("embedding_dim", embedding_dim)
        self.embeddings = Tensor.normal((num_embeddings, embedding_dim), mean=0.0, std=std, requires_grad=True)

    def __call__(self, indices: Tensor) -> Tensor:
        """Look indices up.

        Raises:
            TypeError: the indices are no Tensor.
            ValueError: their dtype is not an integer one.
            IndexError: one lies outside [0, num_embeddings).
        """
        if not isinstance(indices, Tensor):
            raise TypeError(f"indices must be a Tensor, but got a {type(indices).__name__}")
        if indices.dtype.kind != "i":
            raise ValueError(f"indices must be integers (int32 or int64), but their dtype is {indices.dtype.name}")
        return apply_op(operations.Embedding, self.embeddings, indices)

    def _extra_repr(self) -> str:
        return f"num_embeddings={self.num_embeddings}, embedding_dim={self.embedding_dim}"


class _Normalization(Module):
    """What LayerNorm and RMSNorm share: the normalized shape, its checks, and the scale ``weights``."""

    def __init__(self, normalized_shape: int | tuple[int, ...], eps: float, elementwise_affine: bool) -> None:
        super().__init__()
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else normalized_shape
        if not isinstance(shape, tuple):
            raise TypeError(f"normalized_shape must be an int or a tuple of ints, but got {normalized_shape!r}")
        if not shape:
            raise ValueError("normalized_shape must have at least one axis, but got ()")
        if any(size < 1 for size in shape):
            raise ValueError(f"normalized_shape must hold positive sizes, but got {shape}")
        self.normalized_shape = shape
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        if elementwise_affine:
            self.weights = Tensor.ones(shape, requires_grad=True)

    def _check(self, x: Tensor) -> None:
        if x.shape[-len(self.normalized_shape) :] != self.normalized_shape:
            raise ShapeError(misfit.unlike(type(self).__name__, "input", x.shape, ("...", *self.normalized_shape)))

    def _extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class LayerNorm(_Normalization):
    """Layer normalization: ``y = (x - mean(x)) / sqrt(var(x) + eps) * weights + bias``, over the trailing axes.

    The variance is the biased one (divided by the number of elements). Ba, Kiros, Hinton 2016,
    https://arxiv.org/abs/1607.06450

    Args:
        normalized_shape: shape of the trailing axes over which to normalize, or the size of the last one.
        eps: keeps the square root away from zero.
        elementwise_affine: whether there are ``weights`` and ``bias``, of shape normalized_shape.
        bias: whether there is a ``bias``.

    Shape:
        (..., *normalized_shape) -> the same.

    Raises:
        TypeError: normalized_shape is neither an int nor a tuple.
        ValueError: it is empty or holds a size below 1.
        ShapeError: the input's trailing axes have another shape.
    """

    def __init__(
        self, normalized_shape: int | tuple[int, ...], eps: float = 1e-5, elementwise_affine: bool = True, bias: bool = True
    ) -> None:
        super().__init__(normalized_shape, eps, elementwise_affine)
        if elementwise_affine and bias:
            self.bias = Tensor.zeros(self.normalized_shape, requires_grad=True)

    def __call__(self, x: Tensor) -> Tensor:
        self._check(x)
        weights, bias = getattr(self, "weights", None), getattr(self, "bias", None)
        return apply_op(operations.LayerNorm, x, weights, bias, eps=self.eps, num_axes=len(self.normalized_shape))


class RMSNorm(_Normalization):
    """Root-mean-square normalization: ``y = x / sqrt(mean(x ** 2) + eps) * weights``, over the trailing axes.

    Zhang, Sennrich 2019, https://arxiv.org/abs/1910.07467

    Args, shape and errors (TypeError, ValueError, ShapeError): as for `LayerNorm`; there is no bias.
    """

    def __init__(self, normalized_shape: int | tuple[int, ...], eps: float = 1e-5, elementwise_affine: bool = True) -> None:
        super().__init__(normalized_shape, eps, elementwise_affine)

    def __call__(self, x: Tensor) -> Tensor:
        self._check(x)
        weights = getattr(self, "weights", None)
        return apply_op(operations.RMSNorm, x, weights, eps=self.eps, num_axes=len(self.normalized_shape))


class Dropout(Module):
    """In training ``y = x m / (1 - probability)``, where m is 0 with that probability and else 1, drawn for each element.

    Outside training mode ``y = x``. Which elements are dropped is drawn from `random.default_generator()`,
    so a restored generator state repeats them. Srivastava et al. 2014, https://jmlr.org/papers/v15/srivastava14a.html

    Args:
        probability: of an element to be dropped, in [0, 1).

    Raises:
        ValueError: a probability outside [0, 1).
    """

    def __init__(self, probability: float = 0.5) -> None:
        super().__init__()
        if not 0.0 <= probability < 1.0:
            raise ValueError(f"the dropout probability must lie in [0, 1), but got {probability}")
        self.probability = probability

    def __call__(self, x: Tensor) -> Tensor:
        if self.probability == 0.0 or not self.training:
            return x
        key = random.default_generator().reserve(x.numel)
        return apply_op(operations.Dropout, x, probability=self.probability, key=key)

    def _extra_repr(self) -> str:
        return f"probability={self.probability}"


class ReLU(Module):
    """Rectified linear unit: ``y = max(x, 0)`` of each element."""

    def __call__(self, x: Tensor) -> Tensor:
        return x.relu()


class GELU(Module):
    """Gaussian error linear unit: ``y = x Φ(x)`` of each element, Φ the normal distribution function.

    Hendrycks, Gimpel 2016, https://arxiv.org/abs/1606.08415

    Args:
        approximate: "tanh" for ``x/2 (1 + tanh(sqrt(2/π) (x + 0.044715 x³)))``, as in GPT-2; "none" for the exact form.
    """

    def __init__(self, approximate: str = "tanh") -> None:
        super().__init__()
        self.approximate = approximate

    def __call__(self, x: Tensor) -> Tensor:
        return x.gelu(approximate=self.approximate)

    def _extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"


class SiLU(Module):
    """Sigmoid linear unit, or Swish: ``y = x / (1 + exp(-x))`` of each element.

    Ramachandran et al. 2017, https://arxiv.org/abs/1710.05941
    """

    def __call__(self, x: Tensor) -> Tensor:
        return x.silu()


class Sequential(Module):
    """Layers, one after the other: ``Sequential(f, g, h)(x) = h(g(f(x)))``.

    Args:
        layers: Modules, or any functions of a Tensor.

    Shape:
        what the first layer takes -> what the last one gives.
    """

    def __init__(self, *layers: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layers = list(layers)

    def __call__(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[Callable[[Tensor], Tensor]]:
        return iter(self.layers)

    def __getitem__(self, place: int) -> Callable[[Tensor], Tensor]:
        return self.layers[place]


class MLP(Module):
    """Multi-layer perceptron, ``y = (f(… f(x W_1 + b_1) …)) W_n + b_n``: linear layers with an activation function between each two.

    Args:
        input_dims: size of the last axis of the input.
        hidden_dims: output sizes of the layers; the last is that of the output.
        activation_fn: a name of `ACTIVATION_FUNCTIONS`.
        bias: whether the layers have biases.
        final_activation: whether the activation function also follows the last layer.
        std, output_std: as ``std`` of `FullyConnectedLayer`, for all layers but the last, and for the last.

    Shape:
        (..., input_dims) -> (..., hidden_dims[-1]).

    Raises:
        ValueError: a name of no activation function, or a size below 1.
    """

    activation_functions = ACTIVATION_FUNCTIONS

    def __init__(
        self, input_dims: int, hidden_dims: Sequence[int], activation_fn: str, bias: bool = True, *, final_activation: bool = False,
        std: float | None = None, output_std: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        activation_function(activation_fn)  # an unknown name raises here rather than at the first call
        self.activation_fn, self.final_activation = activation_fn, final_activation
        sizes = [input_dims, *hidden_dims]
        stds = [std] * (len(hidden_dims) - 1) + [output_std]
        self.layers = [FullyConnectedLayer(*pair, bias, std=s) for pair, s in zip(pairwise(sizes), stds, strict=False)]

    def __call__(self, x: Tensor) -> Tensor:
        activation = ACTIVATION_FUNCTIONS[self.activation_fn]
        for place, layer in enumerate(self.layers):
            x = layer(activation(x) if place else x)
        return activation(x) if self.final_activation else x

    def _extra_repr(self) -> str:
        return f"activation_fn={self.activation_fn!r}"


class GatedMLP(Module):
    """Gated linear unit between two linear maps: ``y = (f(x W_gate) * (x W_up)) W_down``, biases optional.

    Shazeer 2020, https://arxiv.org/abs/2002.05202

    Args:
        input_dims: size of the last axis of the input and of the output.
        hidden_dim: size in between.
        activation: "glu" (f is the sigmoid), "reglu", "geglu" or "swiglu".
        bias: whether the three maps have biases.
        std, output_std: as ``std`` of `FullyConnectedLayer`, for gate and up, and for down.

    Shape:
        (..., input_dims) -> the same.

    Raises:
        ValueError: a name of no gated unit, or a size below 1.
    """

    def __init__(
        self, input_dims: int, hidden_dim: int, activation: str = "swiglu", bias: bool = False, *, std: float | None = None,
        output_std: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if activation not in GATED_ACTIVATIONS:
            raise ValueError(f"unknown gated unit {activation!r}; expected one of {', '.join(GATED_ACTIVATIONS)}")
        self.activation = activation
        self.gate = FullyConnectedLayer(input_dims, hidden_dim, bias, std=std)
        self.up = FullyConnectedLayer(input_dims, hidden_dim, bias, std=std)
        self.down = FullyConnectedLayer(hidden_dim, input_dims, bias, std=output_std)

    def __call__(self, x: Tensor) -> Tensor:
        activation = ACTIVATION_FUNCTIONS[GATED_ACTIVATIONS[self.activation]]
        return self.down(activation(self.gate(x)) * self.up(x))

    def _extra_repr(self) -> str:
        return f"activation={self.activation!r}"
