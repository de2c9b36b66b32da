"""Where the windows of a convolution or a pooling lie: the geometry that all versions share.

A kernel of k elements along an axis, `dilation` apart, reaches over dilation (k - 1) + 1 elements. It stands
at every `stride`-th place of the images, which are padded by `padding` on each side:

    padding 1, kernel 3, stride 2          0 [a  b  c  d  e] 0        one axis of an image, padded
                                           k--k--k                    window 0
                                                 k--k--k              window 1
                                                       k--k--k        window 2

    H' = floor((H + 2 padding - dilation (kernel - 1) - 1) / stride) + 1    windows along an axis

`gather` collects all windows; `scatter`, its derivative, adds up for each element what goes to the windows it
lay in. A pair is (vertical, horizontal); an int means both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

from .. import shape_errors
from ..buffer.base import Buffer
from ..shape import Shape
from ..shape_errors import ShapeError

Pair = tuple[int, int]


def pair(name: str, value: Any, least: int = 1) -> Pair:
    """Returns an int as a pair of it, and a pair as it is; raises TypeError or ValueError for anything else,
    or less than `least`.
    """
    if isinstance(value, int):
        both: tuple[Any, ...] = (value, value)
    else:
        both = tuple(value) if isinstance(value, (tuple, list)) else ()
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
            expected = ("batch", "channels", "height", "width")
            raise ShapeError(shape_errors.wrong_shape(name, "input", x.shape, expected=expected))
        kernel = pair(f"{name}: kernel_size", kernel)
        dilation = pair(f"{name}: dilation", dilation)
        stride = pair(f"{name}: stride", stride)
        padding = pair(f"{name}: padding", padding, least=0)
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
        spans = [slice(p, p + size) for p, size in zip(self.padding, self.shape[2:], strict=True)]
        return (slice(None), slice(None), *spans)

    def offsets(self) -> Iterator[tuple[slice, ...]]:
        """Yields, for each element of the kernel row by row, the index of what lies under it in all windows
        of the padded images.
        """
        for row, column in product(*map(range, self.kernel)):
            starts = (row * self.dilation[0], column * self.dilation[1])
            spans = [
                slice(start, start + (size - 1) * step + 1, step)
                for start, size, step in zip(starts, self.out, self.stride, strict=True)
            ]
            yield (slice(None), slice(None), *spans)

    def pad(self, x: Buffer, fill: float = 0.0) -> Buffer:
        """Returns the padded images, (B, C, H + 2 padding, W + 2 padding)."""
        if self.padding == (0, 0):
            return x
        result = type(x).full(self.padded, fill, x.dtype)
        result[self.inside] = x
        return result

    def gather(self, x: Buffer, fill: float = 0.0) -> Buffer:
        """Returns all windows, as (B, C, kernel elements, H', W')."""
        padded = self.pad(x, fill)
        shape = (*self.shape[:2], 1, *self.out)
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
