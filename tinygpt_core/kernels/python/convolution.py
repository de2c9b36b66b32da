"""Convolution and max-pooling in pure Python.

What is fast here: the matrix of columns ("im2col") is read from one overlapping view, in slices, and what
follows are products over rows of Python floats. Max-pooling is `max` over rows of what lies under each
element of the kernel.

The windows of padded images are a view of them in which an element stands in several places: shape (B,
groups, C / groups, kh, kw, H', W') with the strides of the images, those of the kernel times its dilation and
those of the result times its stride. Reading that view is a few slices for each row, and its rows of H' W'
are the rows of the matrix of columns.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from math import prod
from typing import Any

from ...buffer.python import PythonBuffer
from ...buffer.rows import Row, chunks, dots, product
from ...dtype import DType
from ..base import Gradient
from ..convolution import Conv2d, MaxPool2d
from ..windows import Pair, Windows


def _columns(
    padded: Any, groups: int, kernel: Pair, out: Pair, stride: Pair, dilation: Pair, start: Pair = (0, 0)
) -> Iterator[list[Row]]:
    """Yields the rows of the matrix of columns of each image and group; the first window is at `start`."""
    images, channels, height, width = padded.shape
    plane = height * width
    depth = channels // groups
    shape = (groups, depth, *kernel, *out)
    step = (depth * plane, plane, dilation[0] * width, dilation[1], stride[0] * width, stride[1])
    first = padded.offset + start[0] * width + start[1]
    for image in range(images):  # one at a time: a batch's columns as Python floats would fill the memory
        view = padded.as_strided(shape, step, first + image * channels * plane)
        rows = view.rows(out[0] * out[1])
        yield from chunks(rows, depth * kernel[0] * kernel[1])


def _contiguous(x: Any) -> Any:
    return x if x.is_contiguous() else x.copy()


def _columns_of_windows(x: Any, windows: Windows, groups: int) -> Iterator[list[Row]]:
    """The columns that a convolution multiplies its weights with."""
    padded = _contiguous(windows.pad(x))
    return _columns(padded, groups, windows.kernel, windows.out, windows.stride, windows.dilation)


class PythonConv2d(Conv2d):
    """`Conv2d` as three products over rows: of weights and columns, of gradients and columns, and of turned
    weights and columns of gradients.
    """

    @staticmethod
    def forward(
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
        if not x.numel or not weights.numel:
            return Conv2d.forward(
                x, weights, bias, stride=stride, padding=padding, dilation=dilation, groups=groups
            )
        single = x.dtype is DType.float32
        out = weights.shape[0]
        rows_of_groups = chunks(weights.reshape((out, -1)).rows(), out // groups)
        y: list[list[float]] = []  # H' W' numbers for each output channel of each image
        for i, columns in enumerate(_columns_of_windows(x, windows, groups)):
            y += product(rows_of_groups[i % groups], columns, single)
        if bias is not None:
            shifts = bias.values() * x.shape[0]
            y = [[v + shift for v in row] for row, shift in zip(y, shifts, strict=True)]
        shape = (x.shape[0], out, *windows.out)
        return PythonBuffer.of_rows(y, shape, x.dtype), (x, weights, windows, groups)

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        x, weights, windows, groups = saved
        if not x.numel or not weights.numel:
            return Conv2d.backward(saved, grad)
        single = x.dtype is DType.float32
        out, depth = weights.shape[:2]
        out_of_group = out // groups
        kernel = windows.kernel
        positions = windows.out[0] * windows.out[1]

        def of_input() -> PythonBuffer:
            canvas = _on_canvas(grad, windows)
            turned = weights.reshape((groups, out_of_group, depth, *kernel))[..., ::-1, ::-1]
            turned = turned.permute((0, 2, 1, 3, 4))
            rows = turned.reshape((groups * depth, out_of_group * kernel[0] * kernel[1])).rows()
            rows_of_groups = chunks(rows, depth)
            result: list[list[float]] = []
            spread = _columns(canvas, groups, kernel, x.shape[2:], (1, 1), windows.dilation, windows.padding)
            for i, columns in enumerate(spread):
                result += product(rows_of_groups[i % groups], columns, single)
            return PythonBuffer.of_rows(result, x.shape, x.dtype)

        def of_weights() -> PythonBuffer:
            totals: list[Any] = [None] * groups
            gradients = chunks(grad.rows(positions), out_of_group)
            columns_of_groups = _columns_of_windows(x, windows, groups)
            for i, (g, columns) in enumerate(zip(gradients, columns_of_groups, strict=True)):
                flat = dots(g, columns, single)
                total = totals[i % groups]
                totals[i % groups] = flat if total is None else list(map(operator.add, total, flat))
            return PythonBuffer.of_rows(totals, weights.shape, x.dtype)

        def of_bias() -> PythonBuffer:
            sums = list(map(sum, grad.rows(positions)))
            return PythonBuffer.of([sum(sums[channel::out]) for channel in range(out)], (out,), x.dtype)

        return of_input, of_weights, of_bias


def _on_canvas(grad: Any, windows: Windows) -> PythonBuffer:
    """The gradient of a convolution's result, spread by the stride over zeros, with room for the kernel all
    round: a convolution of it with the turned kernel is the gradient of the images.
    """
    room = [d * (k - 1) for k, d in zip(windows.kernel, windows.dilation, strict=True)]
    sizes = [r + size for r, size in zip(room, windows.padded[2:], strict=True)]
    canvas = PythonBuffer.zeros((*grad.shape[:2], *sizes), grad.dtype)
    spans = zip(room, windows.out, windows.stride, strict=True)
    canvas[(..., *(slice(r, r + (size - 1) * step + 1, step) for r, size, step in spans))] = grad
    return canvas


class PythonMaxPool2d(MaxPool2d):
    """`MaxPool2d` by `max` over rows of what lies under each element of the kernel; the gradient is added at
    known places.
    """

    @staticmethod
    def forward(x: Any, *, kernel_size: Any, stride: Any = None, padding: Any = 0) -> tuple[Any, Any]:
        windows = MaxPool2d.check("max_pool2d", x, kernel_size, stride, padding)
        # `max` and `index` have no use for NaN
        if not x.numel or not sum(map(abs, x.values())) < float("inf"):
            return MaxPool2d.forward(x, kernel_size=kernel_size, stride=stride, padding=padding)
        padded: Any = windows.pad(x, float("-inf"))
        shape = (*x.shape[:2], *windows.out)
        under = list(zip(*(padded[index].values() for index in windows.offsets()), strict=True))
        largest = list(map(max, under))
        first = list(map(tuple.index, under, largest))
        return PythonBuffer.of(largest, shape, x.dtype), (PythonBuffer.of(first, shape, DType.int64), windows)

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        first, windows = saved
        _, _, height, width = windows.padded
        total = [0.0] * prod(windows.padded)
        # Where the elements of a window lie, from its first; and where the windows begin
        offsets = [i * width + j for i in range(windows.kernel[0]) for j in range(windows.kernel[1])]
        planes = range(0, len(total), height * width)
        rows = range(0, windows.out[0] * windows.stride[0], windows.stride[0])
        columns = range(0, windows.out[1] * windows.stride[1], windows.stride[1])
        starts = (plane + width * row + column for plane in planes for row in rows for column in columns)
        for start, at, g in zip(starts, first.values(), grad.values(), strict=True):
            total[start + offsets[at]] += g
        return (PythonBuffer.of(total, windows.padded, grad.dtype)[windows.inside],)
