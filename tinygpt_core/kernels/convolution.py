"""Convolution and pooling of images: sums and maxima over windows. The textbook versions, composed from a
Buffer's own operations.

    convolution    y[o, p] = b[o] + sum over c, i of w[o, c, i] x[c, window p at i]
                   dL/dw = sum over p of g x,  dL/dx = sum over o, p of g w,  dL/db = sum over p of g
    max pooling    y[p] = max over i of x[window p at i]     g goes to where the maximum stood
    mean pooling   y[p] = mean over i of x[window p at i]    g goes to all of the window in equal parts

A convolution is one matrix product, once the windows are the columns of a matrix. `windows` says where they
lie. Images are (B, C, H, W): batch, channels, height, width. Notation as in `base`.
"""

from __future__ import annotations

from typing import Any

from .. import shape_errors
from ..buffer.base import Buffer
from ..dtype import DType
from ..shape_errors import ShapeError
from .base import Gradient, Kernel, require_float
from .windows import Windows


class Conv2d(Kernel):
    """y[b, o, p, q] = bias[o] + sum over c, i, j of w[o, c, i, j] x[b, c', p s + i d, q s + j d], with x
    padded by zeros.

    x (B, C, H, W), w (O, C / groups, kh, kw), bias (O) or None, y (B, O, H', W'); s is the stride, d the
    dilation. Output channels and input channels come in `groups` parts that see each other only: c' = c + (C
    / groups) floor(o groups / O).

    As matrices, for each image and group, with the windows as columns X of (C / groups kh kw, H' W'): Y = W X
    + bias, dL/dW = g X^T, dL/dX = W^T g, which is added up where windows overlap, and dL/dbias = sum of g.
    Sources: LeCun et al., "Gradient-Based Learning Applied to Document Recognition", 1998; as matrix
    products: Chellapilla et al., "High Performance Convolutional Neural Networks for Document Processing",
    2006.

    Raises:
        TypeError: operands that are not of one float dtype, or an option that is neither an int nor a pair.
        ShapeError: shapes, groups or windows that do not fit.
    """

    @staticmethod
    def check(
        x: Buffer, weights: Buffer, bias: Buffer | None, stride: Any, padding: Any, dilation: Any, groups: int
    ) -> Windows:
        """Returns the windows; raises TypeError or ValueError unless shapes, dtypes and options fit."""
        require_float("conv2d", x=x, weights=weights, bias=bias)
        if weights.ndim != 4:
            expected = ("out", "in / groups", "kernel height", "kernel width")
            raise ShapeError(shape_errors.wrong_shape("conv2d", "weights", weights.shape, expected=expected))
        windows = Windows.over("conv2d", x, weights.shape[2:], stride, padding, dilation)
        channels, out = x.shape[1], weights.shape[0]
        divides = isinstance(groups, int) and groups > 0 and channels % groups == 0 and out % groups == 0
        if not divides:
            raise ShapeError(
                f"conv2d: {channels} input and {out} output channels do not divide into {groups!r} groups"
            )
        if channels != weights.shape[1] * groups:
            name = f"conv2d of input {x.shape} with groups={groups}"
            wanted = (out, channels // groups, *weights.shape[2:])
            raise ShapeError(shape_errors.wrong_shape(name, "weights", weights.shape, expected=wanted))
        if bias is not None and bias.shape != weights.shape[:1]:
            raise ShapeError(
                shape_errors.wrong_shape(
                    "conv2d", "bias", bias.shape, expected=weights.shape, of="weights", axes=slice(0, 1)
                )
            )
        return windows

    @staticmethod
    def columns(x: Buffer, windows: Windows, groups: int) -> Buffer:
        """Returns the windows as matrices of columns, (B, groups, C / groups kh kw, H' W')."""
        depth = windows.shape[1] // groups * windows.kernel[0] * windows.kernel[1]
        return windows.gather(x).reshape((windows.shape[0], groups, depth, windows.out[0] * windows.out[1]))

    @staticmethod
    def forward(
        x: Buffer,
        weights: Buffer,
        bias: Buffer | None = None,
        *,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> tuple[Buffer, Any]:
        windows = Conv2d.check(x, weights, bias, stride, padding, dilation, groups)
        columns = Conv2d.columns(x, windows, groups)
        rows = weights.reshape((groups, weights.shape[0] // groups, columns.shape[2]))
        y = rows.matmul(columns).reshape((x.shape[0], weights.shape[0], *windows.out))
        if bias is not None:
            y = y + bias.reshape((-1, 1, 1))
        return y, (x, weights, windows, groups)

    @staticmethod
    def backward(saved: Any, grad: Buffer) -> tuple[Gradient, ...]:
        x, weights, windows, groups = saved
        taps = windows.kernel[0] * windows.kernel[1]
        positions = windows.out[0] * windows.out[1]
        g = grad.reshape((x.shape[0], groups, weights.shape[0] // groups, positions))

        def of_input() -> Buffer:
            rows = weights.reshape((groups, weights.shape[0] // groups, weights.shape[1] * taps))
            columns = rows.transpose(1, 2).matmul(g).reshape((*x.shape[:2], taps, *windows.out))
            return windows.scatter([columns[:, :, i] for i in range(taps)])

        def of_weights() -> Buffer:
            columns = Conv2d.columns(x, windows, groups)
            return g.matmul(columns.transpose(2, 3)).sum((0,)).reshape(weights.shape)

        def of_bias() -> Buffer:
            return grad.sum((0, 2, 3)).reshape((grad.shape[1],))

        return of_input, of_weights, of_bias


class MaxPool2d(Kernel):
    """y = the largest x of each window, in each channel: x (B, C, H, W), y (B, C, H', W'); g goes to where it
    stood, the first of equals.

    NaN is larger than anything. Padding is -infinity, and at most half the kernel, so that every window has
    an element of x; it never gets a gradient. The stride is the kernel's size unless given.

    Raises:
        TypeError: x is not floating, or an option is neither an int nor a pair.
        ValueError: windows that do not fit, or too much padding.
    """

    @staticmethod
    def check(name: str, x: Buffer, kernel_size: Any, stride: Any, padding: Any) -> Windows:
        """Returns the windows; raises TypeError or ValueError unless shapes, dtype and options fit."""
        require_float(name, x=x)
        windows = Windows.over(name, x, kernel_size, kernel_size if stride is None else stride, padding)
        if any(2 * p > k for p, k in zip(windows.padding, windows.kernel, strict=True)):
            raise ValueError(
                f"{name}: padding of {windows.padding} is more than half of the kernel {windows.kernel}"
            )
        return windows

    @staticmethod
    def forward(x: Buffer, *, kernel_size: Any, stride: Any = None, padding: Any = 0) -> tuple[Buffer, Any]:
        windows = MaxPool2d.check("max_pool2d", x, kernel_size, stride, padding)
        stacked = windows.gather(x, float("-inf"))
        shape = (*x.shape[:2], *windows.out)
        if not x.numel:
            return type(x).zeros(shape, x.dtype), (type(x).zeros(shape, DType.int64), windows)
        largest = stacked.max((2,))
        if windows.padding == (0, 0):
            return largest.reshape(shape), (stacked.argmax(2).reshape(shape), windows)
        # Of a window of only -infinity, the padding is no element that a gradient could go to.
        is_largest = (stacked == largest).maximum(stacked != stacked)
        is_element = windows.gather(type(x).ones(x.shape, DType.int32)) != 0
        first = (is_largest * is_element).cast(DType.int32).argmax(2)
        return largest.reshape(shape), (first.reshape(shape), windows)

    @staticmethod
    def backward(saved: Any, grad: Buffer) -> tuple[Gradient, ...]:
        first, windows = saved
        taps = windows.kernel[0] * windows.kernel[1]
        return (windows.scatter([Buffer.where(first == i, grad, 0.0) for i in range(taps)]),)


class AvgPool2d(Kernel):
    """y = the mean of x over each window, in each channel: x (B, C, H, W), y (B, C, H', W'); g goes to all of
    a window in equal parts.

    Padding is zeros, which count as elements (PyTorch's `count_include_pad=True`), and at most half the
    kernel. The stride is the kernel's size unless given.

    Raises:
        TypeError: x is not floating, or an option is neither an int nor a pair.
        ValueError: windows that do not fit, or too much padding.
    """

    @staticmethod
    def forward(x: Buffer, *, kernel_size: Any, stride: Any = None, padding: Any = 0) -> tuple[Buffer, Any]:
        windows = MaxPool2d.check("avg_pool2d", x, kernel_size, stride, padding)
        total = windows.gather(x).sum((2,)).reshape((*x.shape[:2], *windows.out))
        return total / (windows.kernel[0] * windows.kernel[1]), windows

    @staticmethod
    def backward(saved: Any, grad: Buffer) -> tuple[Gradient, ...]:
        taps = saved.kernel[0] * saved.kernel[1]
        return (saved.scatter([grad / taps] * taps),)
