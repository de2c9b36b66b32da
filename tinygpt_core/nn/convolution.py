"""Layers of images: convolution, pooling, batch normalization, and Flatten, which leads from them to linear
layers.

Images are (B, C, H, W): batch, channels, height, width. Where a size, stride, padding or dilation stands, an
int means both directions and a pair is (vertical, horizontal).
"""

from __future__ import annotations

import math
from typing import Any

from .. import operations, shape_errors
from ..kernels.windows import pair
from ..module import Module
from ..shape import ShapeError
from ..tensor import Tensor, apply_op, no_grad
from .arguments import check_size


class Conv2d(Module):
    """Convolution (cross-correlation, as everywhere in deep learning), with stride s and dilation d:

    `y[b, o, p, q] = bias[o] + sum over c, i, j of weights[o, c, i, j] x[b, c, p s + i d, q s + j d]`, of x
    padded by zeros, in one group. See `kernels.Conv2d` for several.

    Args:
        in_channels, out_channels: C of the input and of the output.
        kernel_size, stride, padding, dilation: ints or pairs; padding is with zeros.
        groups: in how many parts input and output channels come that see each other only.
        bias: whether a number for each output channel is added.

    Shape:
        (B, in_channels, H, W) -> (B, out_channels, H', W') with H' = floor((H + 2 padding - dilation
        (kernel_size - 1) - 1) / stride) + 1; `weights` is (out_channels, in_channels / groups, kernel
        height, kernel width), `bias` (out_channels,). Both are initialised uniformly between ±sqrt(1 /
        fan_in), fan_in = in_channels / groups × kernel height × kernel width, as in PyTorch.

    Raises:
        ValueError: groups divide the channels of neither or only one side; when called, the input has other
            channels or is smaller than the kernel.
        TypeError: a size that is neither an int nor a pair of ints.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        check_size("in_channels", in_channels)
        check_size("out_channels", out_channels)
        check_size("groups", groups)
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"groups={groups} must divide in_channels={in_channels} and out_channels={out_channels}"
            )
        self.kernel_size = pair("kernel_size", kernel_size)
        self.stride = pair("stride", stride)
        self.padding = pair("padding", padding, 0)
        self.dilation = pair("dilation", dilation)
        self.groups = groups
        shape = (out_channels, in_channels // groups, *self.kernel_size)
        fan_in = math.prod(shape[1:])
        limit = 1.0 / math.sqrt(fan_in)
        self.weights = Tensor.uniform(shape, low=-limit, high=limit, requires_grad=True)
        if bias:
            self.bias = Tensor.uniform((out_channels,), low=-limit, high=limit, requires_grad=True)

    def __call__(self, x: Tensor) -> Tensor:
        return apply_op(
            operations.Conv2d,
            x,
            self.weights,
            getattr(self, "bias", None),
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
        )

    def _extra_repr(self) -> str:
        out_channels, channels_of_a_group = self.weights.shape[:2]
        return (
            f"{channels_of_a_group * self.groups}, {out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding}, dilation={self.dilation}, "
            f"groups={self.groups}, bias={'bias' in self}"
        )


class _Pool2d(Module):
    """What the pooling layers share: the sizes of their windows."""

    operation: type[operations.Operation]

    def __init__(self, kernel_size: Any, stride: Any = None, padding: Any = 0) -> None:
        super().__init__()
        self.kernel_size = pair("kernel_size", kernel_size)
        self.padding = pair("padding", padding, 0)
        self.stride = self.kernel_size if stride is None else pair("stride", stride)

    def __call__(self, x: Tensor) -> Tensor:
        return apply_op(
            self.operation, x, kernel_size=self.kernel_size, stride=self.stride, padding=self.padding
        )

    def _extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class MaxPool2d(_Pool2d):
    """The largest element of each window: `y[b, c, p, q] = max over i, j of x[b, c, p s + i, q s + j]`,
    where s is the stride.

    See `kernels.MaxPool2d`.

    Args:
        kernel_size, stride, padding: ints or pairs; the stride is the kernel's size unless given, padding is
            never the largest.

    Shape:
        (B, C, H, W) -> (B, C, H', W') with H' = floor((H + 2 padding - kernel_size) / stride) + 1.

    Raises:
        TypeError: an option that is neither an int nor a pair of ints.
        ValueError: one that is too small.
    """

    operation = operations.MaxPool2d


class AvgPool2d(_Pool2d):
    """The mean of each window: `y[b, c, p, q] = mean over i, j of x[b, c, p s + i, q s + j]`, where s is
    the stride.

    See `kernels.AvgPool2d`.

    Args:
        kernel_size, stride, padding: ints or pairs; the stride is the kernel's size unless given, padding
            counts as zeros.

    Shape and errors: as for `MaxPool2d`.
    """

    operation = operations.AvgPool2d


class Flatten(Module):
    """All axes from `start_axis` on as one: `y = x.reshape((*x.shape[:start_axis], -1))`, so (B, C, H, W)
    -> (B, C H W).

    Raises:
        ShapeError: the input has no such axis.
    """

    def __init__(self, start_axis: int = 1) -> None:
        super().__init__()
        self.start_axis = start_axis

    def __call__(self, x: Tensor) -> Tensor:
        if not 0 <= self.start_axis < x.ndim:
            raise ShapeError(
                f"Flatten(start_axis={self.start_axis}) has no such axis in an input of shape {x.shape}"
            )
        return x.reshape((*x.shape[: self.start_axis], math.prod(x.shape[self.start_axis :])))

    def _extra_repr(self) -> str:
        return f"start_axis={self.start_axis}"


class BatchNorm2d(Module):
    """Batch normalization of images: `y = (x - mean) / sqrt(var + eps) * weights + bias`, for each channel.

    In training, mean and (biased) variance are those of the batch, over its images, rows and columns, and the
    running ones move towards them: `running = (1 - momentum) running + momentum batch`, with the unbiased
    variance, as in PyTorch. Outside training mode the running ones are used. They are kept with the weights,
    but never trained.

    Args:
        num_features: channels.
        eps: keeps the square root away from zero.
        momentum: how far the running mean and variance move in one step, in [0, 1].
        affine: whether there are `weights` and `bias`, of shape (num_features,).

    Shape:
        (B, num_features, H, W) -> the same.

    Raises:
        TypeError: num_features is no int.
        ValueError: num_features below 1, or a momentum outside [0, 1].

    Source: Ioffe, Szegedy 2015, https://arxiv.org/abs/1502.03167
    """

    statistics = ("running_mean", "running_var")

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True
    ) -> None:
        super().__init__()
        shape = (check_size("num_features", num_features),)
        if not 0.0 <= momentum <= 1.0:
            raise ValueError(f"momentum must lie in [0, 1], but got {momentum}")
        self.eps = eps
        self.momentum = momentum
        if affine:
            self.weights = Tensor.ones(shape, requires_grad=True)
            self.bias = Tensor.zeros(shape, requires_grad=True)
        self.running_mean = Tensor.zeros(shape)
        self.running_var = Tensor.ones(shape)

    def __call__(self, x: Tensor) -> Tensor:
        """Returns the normalized images.

        Raises:
            ValueError: other axes or channels than expected, or (in training) only one number a channel,
                which has no variance.
        """
        channels = self.running_mean.shape[0]
        if x.ndim != 4 or x.shape[1] != channels:
            expected = ("batch", channels, "height", "width")
            raise ShapeError(shape_errors.wrong_shape("BatchNorm2d", "input", x.shape, expected=expected))
        per_channel = (channels, 1, 1)  # the shape that broadcasts over images, rows and columns
        if self.training:
            count = x.numel // channels
            if count < 2:
                raise ShapeError(
                    "BatchNorm2d in training needs more than one number for each channel, "
                    f"but got an input of shape {x.shape}"
                )
            mean = x.mean((0, 2, 3), keepdim=True)
            centred = x - mean
            var = (centred * centred).mean((0, 2, 3), keepdim=True)
            with no_grad():
                unbiased_var = var * (count / (count - 1))
                self._move_towards(self.running_mean, mean)
                self._move_towards(self.running_var, unbiased_var)
        else:
            centred = x - self.running_mean.reshape(per_channel)
            var = self.running_var.reshape(per_channel)
        scale = (var + self.eps) ** -0.5
        if "weights" not in self:
            return centred * scale
        return centred * (scale * self.weights.reshape(per_channel)) + self.bias.reshape(per_channel)

    def _move_towards(self, running: Tensor, of_batch: Tensor) -> None:
        """Assigns (1 - momentum) running + momentum of_batch to a running statistic."""
        of_batch = of_batch.reshape(running.shape)
        running.assign(running * (1.0 - self.momentum) + of_batch * self.momentum)

    def _extra_repr(self) -> str:
        num_features = self.running_mean.shape[0]
        return f"{num_features}, eps={self.eps}, momentum={self.momentum}, affine={'weights' in self}"
