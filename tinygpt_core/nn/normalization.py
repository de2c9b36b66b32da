"""Normalization layers: LayerNorm and RMSNorm, and either by its name."""

from __future__ import annotations

from .. import operations, shape_errors
from ..module import Module
from ..shape import ShapeError
from ..tensor import Tensor, apply_op

NORMALIZATIONS = ("layer_norm", "rms_norm")
"""The names that `normalization_layer` knows."""


class _Normalization(Module):
    """What LayerNorm and RMSNorm share: the normalized shape, its checks, and the scale `weights`."""

    def __init__(self, normalized_shape: int | tuple[int, ...], eps: float, elementwise_affine: bool) -> None:
        super().__init__()
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else normalized_shape
        if not isinstance(shape, tuple):
            raise TypeError(
                f"normalized_shape must be an int or a tuple of ints, but got {normalized_shape!r}"
            )
        if not shape:
            raise ValueError("normalized_shape must have at least one axis, but got ()")
        if any(size < 1 for size in shape):
            raise ValueError(f"normalized_shape must hold positive sizes, but got {shape}")
        self.normalized_shape = shape
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        if elementwise_affine:
            self.weights = Tensor.ones(shape, requires_grad=True)

    def _check_input(self, x: Tensor) -> None:
        if x.shape[-len(self.normalized_shape) :] != self.normalized_shape:
            raise ShapeError(
                shape_errors.wrong_shape(
                    type(self).__name__, "input", x.shape, expected=("...", *self.normalized_shape)
                )
            )

    def _extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class LayerNorm(_Normalization):
    """Layer normalization over the trailing axes: `y = (x - mean(x)) / sqrt(var(x) + eps) * weights + bias`.

    The variance is the biased one (divided by the number of elements).

    Args:
        normalized_shape: shape of the trailing axes over which to normalize, or the size of the last one.
        eps: keeps the square root away from zero.
        elementwise_affine: whether there are `weights` and `bias`, of shape normalized_shape.
        bias: whether there is a `bias`.

    Shape:
        (..., *normalized_shape) -> the same.

    Raises:
        TypeError: normalized_shape is neither an int nor a tuple.
        ValueError: it is empty or holds a size below 1.
        ShapeError: the input's trailing axes have another shape.

    Source: Ba, Kiros, Hinton 2016, https://arxiv.org/abs/1607.06450
    """

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
    ) -> None:
        super().__init__(normalized_shape, eps, elementwise_affine)
        if elementwise_affine and bias:
            self.bias = Tensor.zeros(self.normalized_shape, requires_grad=True)

    def __call__(self, x: Tensor) -> Tensor:
        self._check_input(x)
        weights = getattr(self, "weights", None)
        bias = getattr(self, "bias", None)
        num_axes = len(self.normalized_shape)
        return apply_op(operations.LayerNorm, x, weights, bias, eps=self.eps, num_axes=num_axes)


class RMSNorm(_Normalization):
    """Root-mean-square normalization over the trailing axes: `y = x / sqrt(mean(x ** 2) + eps) * weights`.

    Args, shape and errors (TypeError, ValueError, ShapeError): as for `LayerNorm`; there is no bias.

    Source: Zhang, Sennrich 2019, https://arxiv.org/abs/1910.07467
    """

    def __init__(
        self, normalized_shape: int | tuple[int, ...], eps: float = 1e-5, elementwise_affine: bool = True
    ) -> None:
        super().__init__(normalized_shape, eps, elementwise_affine)

    def __call__(self, x: Tensor) -> Tensor:
        self._check_input(x)
        weights = getattr(self, "weights", None)
        return apply_op(operations.RMSNorm, x, weights, eps=self.eps, num_axes=len(self.normalized_shape))


def normalization_layer(name: str, size: int, eps: float, bias: bool) -> LayerNorm | RMSNorm:
    """Returns a new normalization layer over a last axis of the given size.

    Args:
        name: "layer_norm" or "rms_norm".
        bias: whether a LayerNorm has one; an RMSNorm has none.

    Raises:
        ValueError: another name.
    """
    if name == "layer_norm":
        return LayerNorm(size, eps, bias=bias)
    if name == "rms_norm":
        return RMSNorm(size, eps)
    raise ValueError(f"unknown normalization {name!r}; expected 'layer_norm' or 'rms_norm'")
