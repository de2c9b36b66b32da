"""The textbook convolution and pooling, composed from a Buffer's own operations, and the geometry that all
versions share.

Notation as in `composed`. Images are (B, C, H, W): batch, channels, height, width. A pair is (vertical,
horizontal); an int means both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

from .. import shape_errors
from ..buffer.base import Buffer
from ..dtype import DType
from ..shape import Shape
from ..shape_errors import ShapeError
from .base import Gradient, Kernel, require_float

Pair = tuple[int, int]


def pair(name: str, value: Any, least: int = 1) -> Pair:
    """Returns an int as a pair of it, and a pair as it is; raises TypeError or ValueError for anything else,
    or less than `least`.
    """
    both = (
        (value, value) if isinstance(value, int) else tuple(value) if isinstance(value, (tuple, list)) else ()
    )
    if len(both) != 2 or any(not isinstance(size, int) or isinstance(size, bool) for size in both):
        raise TypeError(f"{name} is an int or a pair of ints, not {value!r}")
    if min(both) < least:
        raise ValueError(f"{name} must be at least {least}, but got {value!r}")
    return both


class Windows(NamedTuple):
    """Where a kernel stands: one window of the padded images for each element of the result.

    `shape` is that of the images, `out` is (H', W') of the result: H' = floor((H + 2 padding - dilation
    (kernel - 1) - 1) / stride) + 1.
    """

    shape: Shape
    out: Pair
    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair

    @classmethod
    def over(cls, name: str, x: Buffer, kernel: Any, stride: Any, padding: Any, dilation: Any = 1) -> Windows:
        """Returns the windows of a kernel over x (B, C, H, W); raises TypeError or ValueError, naming the
        parts, where it does not fit.
        """
        if x.ndim != 4:
            raise ShapeError(
                shape_errors.wrong_shape(
                    name, "input", x.shape, expected=("batch", "channels", "height", "width")
                )
            )
        kernel, dilation = pair(f"{name}: kernel_size", kernel), pair(f"{name}: dilation", dilation)
        stride, padding = pair(f"{name}: stride", stride), pair(f"{name}: padding", padding, 0)
        padded = tuple(size + 2 * p for size, p in zip(x.shape[2:], padding, strict=True))
        reach = tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True))
        if reach[0] > padded[0] or reach[1] > padded[1]:
            raise ShapeError(shape_errors.window(name, x.shape, kernel, reach, dilation, padding))
        out = tuple((size - k) // s + 1 for size, k, s in zip(padded, reach, stride, strict=True))
        return cls(x.shape, out, kernel, stride, padding, dilation)

    @property
    def padded(self) -> Shape:
        """The shape of the padded images."""
        return (*self.shape[:2], self.shape[2] + 2 * self.padding[0], self.shape[3] + 2 * self.padding[1])

    @property
    def inside(self) -> tuple[slice, ...]:
        """Where the images lie in the padded images."""
        return (
            slice(None),
            slice(None),
            *(slice(p, p + size) for p, size in zip(self.padding, self.shape[2:], strict=True)),
        )

    def offsets(self) -> Iterator[tuple[slice, ...]]:
        """Yields, for each element of the kernel row by row, the index of what lies under it in all windows
        of the padded images.
        """
        for at in product(*map(range, self.kernel)):
            first = [i * d for i, d in zip(at, self.dilation, strict=True)]
            spans = zip(first, self.out, self.stride, strict=True)
            yield (
                slice(None),
                slice(None),
                *(slice(start, start + (size - 1) * step + 1, step) for start, size, step in spans),
            )

    def pad(self, x: Buffer, fill: float = 0.0) -> Buffer:
        """Returns the padded images, (B, C, H + 2 padding, W + 2 padding)."""
        if self.padding == (0, 0):
            return x
        result = type(x).full(self.padded, fill, x.dtype)
        result[self.inside] = x
        return result

    def gather(self, x: Buffer, fill: float = 0.0) -> Buffer:
        """Returns all windows, as (B, C, kernel elements, H', W')."""
        padded, shape = self.pad(x, fill), (*self.shape[:2], 1, *self.out)
        return type(x).concatenate([padded[index].reshape(shape) for index in self.offsets()], 2)

    def scatter(self, parts: Sequence[Buffer]) -> Buffer:
        """Returns (B, C, H, W): for each element of x, the sum of what goes to the windows it lay in. The
        transpose of `gather`.
        """
        total = type(parts[0]).zeros(self.padded, parts[0].dtype)
        for index, part in zip(self.offsets(), parts, strict=True):
            view = total[index]
            view.assign(view + part)
        return total[self.inside]


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
        x: Buffer, weight: Buffer, bias: Buffer | None, stride: Any, padding: Any, dilation: Any, groups: int
    ) -> Windows:
        """Returns the windows; raises TypeError or ValueError unless shapes, dtypes and options fit."""
        require_float("conv2d", x=x, weight=weight, bias=bias)
        if weight.ndim != 4:
            raise ShapeError(
                shape_errors.wrong_shape(
                    "conv2d",
                    "weight",
                    weight.shape,
                    expected=("out", "in / groups", "kernel height", "kernel width"),
                )
            )
        windows = Windows.over("conv2d", x, weight.shape[2:], stride, padding, dilation)
        channels, out = x.shape[1], weight.shape[0]
        if not isinstance(groups, int) or groups < 1 or channels % groups or out % groups:
            raise ShapeError(
                f"conv2d: {channels} input and {out} output channels do not divide into {groups!r} groups"
            )
        if channels != weight.shape[1] * groups:
            wanted = (out, channels // groups, *weight.shape[2:])
            raise ShapeError(
                shape_errors.wrong_shape(
                    f"conv2d of input {x.shape} with groups={groups}", "weight", weight.shape, expected=wanted
                )
            )
        if bias is not None and bias.shape != weight.shape[:1]:
            raise ShapeError(
                shape_errors.wrong_shape(
                    "conv2d", "bias", bias.shape, expected=weight.shape, of="weight", axes=slice(0, 1)
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
        weight: Buffer,
        bias: Buffer | None = None,
        *,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> tuple[Buffer, Any]:
        windows = Conv2d.check(x, weight, bias, stride, padding, dilation, groups)
        columns = Conv2d.columns(x, windows, groups)
        rows = weight.reshape((groups, weight.shape[0] // groups, columns.shape[2]))
        y = rows.matmul(columns).reshape((x.shape[0], weight.shape[0], *windows.out))
        return (y if bias is None else y + bias.reshape((-1, 1, 1))), (x, weight, windows, groups)

    @staticmethod
    def backward(saved: Any, grad: Buffer) -> tuple[Gradient, ...]:
        x, weight, windows, groups = saved
        taps, positions = windows.kernel[0] * windows.kernel[1], windows.out[0] * windows.out[1]
        g = grad.reshape((x.shape[0], groups, weight.shape[0] // groups, positions))

        def of_input() -> Buffer:
            rows = weight.reshape((groups, weight.shape[0] // groups, weight.shape[1] * taps))
            columns = rows.transpose(1, 2).matmul(g).reshape((*x.shape[:2], taps, *windows.out))
            return windows.scatter([columns[:, :, i] for i in range(taps)])

        def of_weight() -> Buffer:
            return (
                g.matmul(Conv2d.columns(x, windows, groups).transpose(2, 3)).sum((0,)).reshape(weight.shape)
            )

        return of_input, of_weight, lambda: grad.sum((0, 2, 3)).reshape((grad.shape[1],))


class MaxPool2d(Kernel):
    """y = the largest x of each window, in each channel: x (B, C, H, W), y (B, C, H', W'); g goes to where it
    stood, the first of equals.

    NaN is larger than anything. Padding is -infinity, and at most half the kernel, so that every window has
    an element of x. The stride is the kernel's size unless given.

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
        return stacked.max((2,)).reshape(shape), (stacked.argmax(2).reshape(shape), windows)

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
