"""Convolution and pooling on ndarrays: convolution as matrix products of many images, pooling as comparisons
of shifted views.

Inside, images lie as (channels, batch, height, width): the elements of windows, gathered from several images,
are then the rows of one matrix, the product with the weights lands where the result lies, and nothing is
transposed. Results are views of such arrays with the axes in their usual order, and elementwise operations
keep that layout from one layer to the next.

The classes named `Array…` work in any namespace with NumPy's interface. NumPy's own, in
`numpy_backend.kernels.convolution`, cut the work into pieces that stay in a core's cache and share them out
among threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

from tinygpt_core.kernels.base import Gradient, register
from tinygpt_core.kernels.convolution import AvgPool2d, Conv2d, MaxPool2d
from tinygpt_core.kernels.windows import Windows

from .array_buffer import ArrayBuffer

# Into how many parts, at most, the images of a batch are cut; each has its own sum of the weights' gradient.
PARTS = 8


def _channels_first(array: Any) -> Any:
    """Returns images with their axes of channels and batch exchanged, either way."""
    return array.transpose(1, 0, 2, 3)


class _Columns:
    """The matrix of columns of a few images, made (im2col) and taken apart (col2im) in two passes.

    First come strips: one for each column of the kernel, with what of the padded images lies under it; then
    runs of their rows, which are long. For a kernel of k by k, that is k short-run passes over the images
    instead of k^2.

    Args:
        most: the largest number of images that there is to be room for.
    """

    def __init__(self, xp: Any, windows: Windows, groups: int, most: int, dtype: Any) -> None:
        channels = windows.shape[1]
        height, width = windows.kernel
        rows, columns = windows.out
        self.strips_shape = (channels, width, windows.padded[2], columns)
        self.columns_shape = (channels, height, width, rows, columns)
        self.strips_memory = xp.empty(math.prod(self.strips_shape) * most, dtype)
        self.columns_memory = xp.empty(math.prod(self.columns_shape) * most, dtype)
        self.groups = groups
        self.positions = rows * columns
        # Where the positions of each row of the kernel lie down the images, and of each column across them
        spans = zip(windows.kernel, windows.dilation, windows.out, windows.stride, strict=True)
        self.down, self.across = (
            [slice(i * d, i * d + (n - 1) * s + 1, s) for i in range(k)] for k, d, n, s in spans
        )

    def set_images(self, images: slice) -> None:
        """Gives `strips`, `columns` and `matrix` (groups, depth of a product, columns) the shape for these
        images.
        """
        count = images.stop - images.start
        self.images = images
        self.span = slice(images.start * self.positions, images.stop * self.positions)
        self.strips = _shaped(self.strips_memory, self.strips_shape, count)
        self.columns = _shaped(self.columns_memory, self.columns_shape, count)
        self.matrix = self.columns.reshape(self.groups, -1, count * self.positions)

    def im2col(self, padded: Any) -> Any:
        """Returns the matrix of columns of padded images (channels, batch, height, width)."""
        for j, across in enumerate(self.across):
            self.strips[:, j] = padded[:, self.images, :, across]
        for i, down in enumerate(self.down):
            self.columns[:, i] = self.strips[..., down, :]
        return self.matrix

    def col2im(self, total: Any) -> None:
        """Writes, for these images, what the columns add up to where they were taken from."""
        _add_up(self.strips, self.down, -2, [self.columns[:, i] for i in range(len(self.down))])
        _add_up(total[:, self.images], self.across, -1, [self.strips[:, j] for j in range(len(self.across))])


def _shaped(memory: Any, shape: tuple[int, ...], count: int) -> Any:
    """Returns the start of flat memory under a shape with an axis of `count` images before the last two."""
    return memory[: math.prod(shape) * count].reshape(*shape[:-2], count, *shape[-2:])


def _add_up(total: Any, spans: list[slice], axis: int, parts: list[Any]) -> None:
    """Writes the sum of parts that lie at `spans` of an axis, of which the first starts at 0; zero where none
    lies.
    """
    targets = [total[(..., span, *[slice(None)] * (-1 - axis))] for span in spans]
    if spans[0].step == 1:  # the first part need not be added to zeros
        targets.pop(0)[...] = parts[0]
        total[(..., slice(spans[0].stop, None), *[slice(None)] * (-1 - axis))] = 0
    else:
        total[...] = 0
    for target, part in zip(targets, parts[-len(targets) :] if targets else [], strict=True):
        target += part


class ArrayConv2d(Conv2d):
    """Convolution, y = W * x + b: one matrix product for each chunk of images and each direction."""

    column_bytes: ClassVar[int] = 1 << 28  # how large the matrix of columns of a chunk may be

    @staticmethod
    def parallel_for(work: Callable[[int, int], None], count: int) -> None:
        """Calls `work` on ranges that make up range(count)."""
        work(0, count)

    @classmethod
    def each_chunk(cls, x: Any, windows: Windows, groups: int, use: Callable[[int, _Columns], None]) -> None:
        """Calls `use(part, columns)` for chunks of a batch. Parts may run at the same time; the chunks of a
        part come in order.
        """
        images, channels = windows.shape[:2]
        parts = min(images, PARTS)
        bytes_per_image = channels * math.prod(windows.kernel) * math.prod(windows.out) * x.dtype.itemsize
        most = min(max(1, cls.column_bytes // bytes_per_image), -(-images // parts))

        def work(start: int, stop: int) -> None:
            columns = _Columns(type(x).xp, windows, groups, most, x.array.dtype)
            for part in range(start, stop):
                end = images * (part + 1) // parts
                for first in range(images * part // parts, end, most):
                    columns.set_images(slice(first, min(first + most, end)))
                    use(part, columns)

        cls.parallel_for(work, parts)

    @classmethod
    def forward(
        cls,
        x: Any,
        weights: Any,
        bias: Any = None,
        *,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> tuple[Any, Any]:
        windows = Conv2d.check(x, weights, bias, stride, padding, dilation, groups)
        if not x.array.size or not weights.array.size:
            y, saved = Conv2d.forward(
                x, weights, bias, stride=stride, padding=padding, dilation=dilation, groups=groups
            )
            return y, (*saved, None)
        xp = type(x).xp
        out = weights.shape[0]
        padded = _channels_first(x.array)
        if windows.padding != (0, 0):
            padded = xp.zeros(_padded_shape(windows), x.array.dtype)
            padded[windows.inside] = _channels_first(x.array)
        y = xp.empty((out, x.shape[0], *windows.out), x.array.dtype)
        rows = weights.array.reshape(groups, out // groups, -1)
        result = y.reshape(groups, out // groups, -1)

        def product(part: int, columns: _Columns) -> None:
            xp.matmul(rows, columns.im2col(padded), out=result[:, :, columns.span])
            if bias is not None:
                y[:, columns.images] += bias.array.reshape(out, 1, 1, 1)

        cls.each_chunk(x, windows, groups, product)
        return x.wrap(_channels_first(y), x.dtype), (x, weights, windows, groups, padded)

    @classmethod
    def backward(cls, saved: Any, grad: Any) -> tuple[Gradient, ...]:
        x, weights, windows, groups, padded = saved
        if padded is None:
            return Conv2d.backward(saved[:4], grad)
        xp = type(x).xp
        dtype = x.array.dtype
        out = weights.shape[0]
        depth = weights.array[0].size
        g = xp.ascontiguousarray(_channels_first(grad.array))
        rows = g.reshape(groups, out // groups, -1)

        def of_input() -> Any:
            total = xp.empty(_padded_shape(windows), dtype)
            transposed = weights.array.reshape(groups, out // groups, depth).transpose(0, 2, 1)

            def product(part: int, columns: _Columns) -> None:
                xp.matmul(transposed, rows[:, :, columns.span], out=columns.matrix)
                columns.col2im(total)

            cls.each_chunk(x, windows, groups, product)
            return x.wrap(_channels_first(total)[windows.inside], x.dtype)

        def of_weights() -> Any:
            sums = xp.zeros((min(x.shape[0], PARTS), groups, depth, out // groups), dtype)

            # (X g^T)^T, which BLAS does faster than g X^T where there are few outputs
            def product(part: int, columns: _Columns) -> None:
                sums[part] += xp.matmul(columns.im2col(padded), rows[:, :, columns.span].transpose(0, 2, 1))

            cls.each_chunk(x, windows, groups, product)
            total = xp.ascontiguousarray(sums.sum(0).transpose(0, 2, 1))
            return weights.wrap(total.reshape(weights.shape), x.dtype)

        def of_bias() -> Any:  # along rows, which are added pairwise
            return x.wrap(g.reshape(out, -1).sum(1), x.dtype)

        return of_input, of_weights, of_bias


def _padded_shape(windows: Windows) -> tuple[int, ...]:
    """Returns the shape of padded images, channels first."""
    return (windows.shape[1], windows.shape[0], *windows.padded[2:])


class _Planes:
    """Images as one row of planes (height, width), in the order in which they lie: pooling treats all
    channels of all images alike.
    """

    def __init__(self, x: Any, windows: Windows) -> None:
        self.batch, self.channels = x.shape[:2]
        self.is_channels_first = abs(x.array.strides[1]) > abs(x.array.strides[0])
        self.has_padding = windows.padding != (0, 0)
        self.count = self.batch * self.channels
        self.shape = (self.count, *windows.padded[2:])
        self.size = math.prod(windows.padded[2:])
        self.inside = windows.inside[1:]
        self.offsets = [index[1:] for index in windows.offsets()]

    def from_images(self, array: Any) -> Any:
        """Returns (B, C, H, W) as (planes, H, W); a view where it lies as the input of the pooling does."""
        if self.is_channels_first:
            array = _channels_first(array)
        return array.reshape(self.count, *array.shape[2:])

    def to_images(self, planes: Any) -> Any:
        """Returns (planes, H, W) as (B, C, H, W)."""
        if self.is_channels_first:
            return _channels_first(planes.reshape(self.channels, self.batch, *planes.shape[1:]))
        return planes.reshape(self.batch, self.channels, *planes.shape[1:])

    def padded(self, xp: Any, array: Any, fill: float) -> Any:
        """Returns images (B, C, H, W) as planes with `fill` around them."""
        planes = self.from_images(array)
        if not self.has_padding:
            return planes
        result = xp.full(self.shape, fill, planes.dtype)
        result[self.inside] = planes
        return result


class ArrayMaxPool2d(MaxPool2d):
    """Max-pooling, y = the largest x of each window: the running maximum of the shifted views; the gradient
    goes where a view equals it and none before it did.
    """

    @staticmethod
    def parallel_for(work: Callable[[int, int], None], count: int, size: int) -> None:
        """Calls `work` on ranges that make up range(count), for planes of `size` elements."""
        work(0, count)

    @classmethod
    def forward(cls, x: Any, *, kernel_size: Any, stride: Any = None, padding: Any = 0) -> tuple[Any, Any]:
        windows = MaxPool2d.check("max_pool2d", x, kernel_size, stride, padding)
        xp = type(x).xp
        planes = _Planes(x, windows)
        padded = planes.padded(xp, x.array, -float("inf"))
        largest = xp.empty((planes.shape[0], *windows.out), x.array.dtype)

        def work(start: int, stop: int) -> None:
            cls.pool(xp, padded[start:stop], largest[start:stop], planes.offsets, windows)

        cls.parallel_for(work, planes.count, planes.size)
        if planes.has_padding and bool((largest == -float("inf")).any()):
            # In such a window the padding equals the maximum, too: the textbook form tells them apart
            return MaxPool2d.forward(x, kernel_size=kernel_size, stride=stride, padding=padding)
        return x.wrap(planes.to_images(largest), x.dtype), (x, windows, planes, padded, largest)

    @classmethod
    def backward(cls, saved: Any, grad: Any) -> tuple[Gradient, ...]:
        if len(saved) == 2:  # by the textbook forward
            return MaxPool2d.backward(saved, grad)
        x, windows, planes, padded, largest = saved
        xp = type(x).xp
        g = xp.ascontiguousarray(planes.from_images(grad.array))
        is_disjoint = windows.stride[0] >= windows.kernel[0] and windows.stride[1] >= windows.kernel[1]
        covers_all = windows.stride == windows.kernel and all(
            n * s == p for n, s, p in zip(windows.out, windows.stride, planes.shape[1:], strict=True)
        )
        total = (xp.empty if covers_all else xp.zeros)(planes.shape, g.dtype)

        def work(start: int, stop: int) -> None:
            part = slice(start, stop)
            cls.pool_gradient(
                xp, padded[part], largest[part], g[part], total[part], planes.offsets, windows, is_disjoint
            )

        cls.parallel_for(work, planes.count, planes.size)
        return (x.wrap(planes.to_images(total[planes.inside]), x.dtype),)

    @classmethod
    def pool(cls, xp: Any, x: Any, y: Any, offsets: list[Any], windows: Windows) -> None:
        """Writes the largest element of each window of x to y."""
        views = [x[index] for index in offsets]
        xp.maximum(views[0], views[min(1, len(views) - 1)], out=y)
        for view in views[2:]:
            xp.maximum(y, view, out=y)

    @classmethod
    def pool_gradient(
        cls, xp: Any, x: Any, y: Any, g: Any, total: Any, offsets: list[Any], windows: Windows, disjoint: bool
    ) -> None:
        """Adds g to `total` where the first largest element of each window of x stands; where the windows are
        `disjoint`, so that they share no element, it is set there.
        """
        integer = xp.dtype(f"i{g.dtype.itemsize}")
        bits = g.view(integer)
        has_nan = bool((y != y).any())
        taken = None  # where the gradient has gone already
        for index in offsets:
            view = x[index]
            hit = view == y
            if has_nan:
                hit |= view != view
            first = hit if taken is None else hit > taken  # hit, and not taken
            taken = hit if taken is None else taken | hit
            # Bits times 0 or 1: a choice without a branch, which takes no harm from infinities.
            if disjoint:
                xp.multiply(bits, first, out=total[index].view(integer))
            else:
                target = total[index]
                target += xp.multiply(bits, first).view(g.dtype)


class ArrayAvgPool2d(AvgPool2d):
    """Average pooling, y = the mean x of each window: the sum of the shifted views, divided."""

    @classmethod
    def forward(cls, x: Any, *, kernel_size: Any, stride: Any = None, padding: Any = 0) -> tuple[Any, Any]:
        windows = MaxPool2d.check("avg_pool2d", x, kernel_size, stride, padding)
        planes = _Planes(x, windows)
        padded = planes.padded(type(x).xp, x.array, 0.0)
        total = padded[planes.offsets[0]].copy()
        for index in planes.offsets[1:]:
            total += padded[index]
        total *= 1.0 / (windows.kernel[0] * windows.kernel[1])
        return x.wrap(planes.to_images(total), x.dtype), (windows, planes)

    @classmethod
    def backward(cls, saved: Any, grad: Any) -> tuple[Gradient, ...]:
        windows, planes = saved
        share = planes.from_images(grad.array) * (1.0 / (windows.kernel[0] * windows.kernel[1]))
        total = type(grad).xp.zeros(planes.shape, share.dtype)
        for index in planes.offsets:
            target = total[index]
            target += share
        return (grad.wrap(planes.to_images(total[planes.inside]), grad.dtype),)


register(Conv2d, ArrayBuffer, ArrayConv2d)
register(MaxPool2d, ArrayBuffer, ArrayMaxPool2d)
register(AvgPool2d, ArrayBuffer, ArrayAvgPool2d)
