"""The reference backend's convolution and max-pooling: im2col as one overlapping view, then products over
rows of Python floats.

The windows of padded images are a view of them in which an element stands in several places: shape (B,
groups, C / groups, kh, kw, H', W') with the strides of the images, those of the kernel times its dilation and
those of the result times its stride. Reading that view is a few slices for each row, and its rows of H' W'
are the rows of the matrix of columns.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from itertools import chain
from math import prod
from typing import Any

from ...buffer.python import PythonBuffer, Row, chunks, product, product_transposed
from ...dtype import DType
from ..base import Gradient
from ..convolution import Conv2d, MaxPool2d, Pair


def _columns(
    padded: Any, groups: int, kernel: Pair, out: Pair, stride: Pair, dilation: Pair, start: Pair = (0, 0)
) -> Iterator[list[Row]]:
    """Yields the rows of the matrix of columns for each image and group; the first window stands at `start`."""
    images, channels, height, width = padded.shape
    plane, depth = height * width, channels // groups
    shape = (groups, depth, *kernel, *out)
    step = (depth * plane, plane, dilation[0] * width, dilation[1], stride[0] * width, stride[1])
    for image in range(images):  # one at a time: a batch's columns as Python floats would fill the memory
        view = padded.as_strided(
            shape, step, padded.offset + image * channels * plane + start[0] * width + start[1]
        )
        yield from chunks(chunks(view.values(), out[0] * out[1]), depth * kernel[0] * kernel[1])


def _contiguous(x: Any) -> Any:
    return x if x.is_contiguous() else x.copy()


class PythonConv2d(Conv2d):
    """Three products over rows: of weights and columns, of gradients and columns, and of turned weights and
    columns of gradients.
    """

    @staticmethod
    def forward(
        x: Any,
        weight: Any,
        bias: Any = None,
        *,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> tuple[Any, Any]:
        windows = Conv2d.check(x, weight, bias, stride, padding, dilation, groups)
        if not x.numel or not weight.numel:
            return Conv2d.forward(
                x, weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups
            )
        single, shape = x.dtype is DType.float32, (x.shape[0], weight.shape[0], *windows.out)
        parts = chunks(weight.reshape((weight.shape[0], -1)).rows(), weight.shape[0] // groups)
        columns = _columns(
            _contiguous(windows.pad(x)), groups, windows.kernel, windows.out, windows.stride, windows.dilation
        )
        y = [row for i, matrix in enumerate(columns) for row in product(parts[i % groups], matrix, single)]
        if bias is not None:
            y = [[v + b for v in row] for row, b in zip(y, bias.values() * x.shape[0], strict=True)]
        return PythonBuffer.of_rows(y, shape, x.dtype), (x, weight, windows, groups)

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        x, weight, windows, groups = saved
        if not x.numel or not weight.numel:
            return Conv2d.backward(saved, grad)
        single, (out, depth), kernel = x.dtype is DType.float32, weight.shape[:2], windows.kernel
        part, positions = out // groups, windows.out[0] * windows.out[1]

        def of_input() -> PythonBuffer:
            # A convolution of the gradient, spread by the stride on a canvas with room for the kernel all
            # round, with the kernel turned.
            room = [d * (k - 1) for k, d in zip(kernel, windows.dilation, strict=True)]
            canvas = PythonBuffer.full(
                (x.shape[0], out, *(r + p for r, p in zip(room, windows.padded[2:], strict=True))),
                0.0,
                x.dtype,
            )
            spans = zip(room, windows.out, windows.stride, strict=True)
            canvas[(..., *(slice(r, r + (size - 1) * s + 1, s) for r, size, s in spans))] = grad
            turned = weight.reshape((groups, part, depth, *kernel))[..., ::-1, ::-1].permute((0, 2, 1, 3, 4))
            parts = chunks(turned.reshape((groups * depth, part * kernel[0] * kernel[1])).rows(), depth)
            columns = _columns(canvas, groups, kernel, x.shape[2:], (1, 1), windows.dilation, windows.padding)
            rows = (product(parts[i % groups], matrix, single) for i, matrix in enumerate(columns))
            return PythonBuffer.of_rows(chain.from_iterable(rows), x.shape, x.dtype)

        def of_weight() -> PythonBuffer:
            totals: list[Any] = [None] * groups
            gradients = chunks(chunks(grad.values(), positions), part)
            columns = _columns(
                _contiguous(windows.pad(x)), groups, kernel, windows.out, windows.stride, windows.dilation
            )
            for i, (g, matrix) in enumerate(zip(gradients, columns, strict=True)):
                flat = list(chain.from_iterable(product_transposed(g, matrix, single)))
                total = totals[i % groups]
                totals[i % groups] = flat if total is None else list(map(operator.add, total, flat))
            return PythonBuffer.of_rows(totals, weight.shape, x.dtype)

        def of_bias() -> PythonBuffer:
            sums = list(map(sum, chunks(grad.values(), positions)))
            return PythonBuffer.of([sum(sums[o::out]) for o in range(out)], (out,), x.dtype)

        return of_input, of_weight, of_bias


class PythonMaxPool2d(MaxPool2d):
    """`max` over the rows of what lies under each element of the kernel; the gradient is added at known
    places.
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
        offsets = [i * width + j for i in range(windows.kernel[0]) for j in range(windows.kernel[1])]
        rows = range(0, windows.out[0] * windows.stride[0], windows.stride[0])
        columns = range(0, windows.out[1] * windows.stride[1], windows.stride[1])
        planes = range(0, len(total), height * width)
        starts = (start + width * row + column for start in planes for row in rows for column in columns)
        for start, at, g in zip(starts, first.values(), grad.values(), strict=True):
            total[start + offsets[at]] += g
        return (PythonBuffer.of(total, windows.padded, grad.dtype)[windows.inside],)
