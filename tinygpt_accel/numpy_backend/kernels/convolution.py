"""Convolution and max-pooling on NumPy: the kernels of `tinygpt_accel.convolution`, cut into pieces that stay
in a core's cache and are shared out among threads. How many threads there are changes no result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy

from tinygpt_core.kernels.base import Gradient
from tinygpt_core.kernels.windows import Windows

from ...convolution import ArrayAvgPool2d, ArrayConv2d, ArrayMaxPool2d
from .. import threads
from ..buffer import without_warnings
from ..loops import loops_for

# Elements of the planes that are pooled at a time: 256 KB of float32, of which a few fit a core's
# second-level cache
BLOCK = 1 << 16


class NumpyConv2d(ArrayConv2d):
    """Convolution, y = W * x + b, as matrix products.

    Fast: each thread gathers the columns of a few images and multiplies them while they are in its cache.
    """

    column_bytes: ClassVar[int] = 1 << 20

    @staticmethod
    def parallel_for(work: Callable[[int, int], None], count: int) -> None:
        with threads.single_threaded_blas(), numpy.errstate(all="ignore"):
            threads.parallel_for(work, count)


class NumpyMaxPool2d(ArrayMaxPool2d):
    """Max-pooling, y = the largest x of each window.

    Fast: block by block of planes; windows of two by two, side by side, in one compiled loop.
    """

    @staticmethod
    def parallel_for(work: Callable[[int, int], None], count: int, size: int) -> None:
        step = max(1, BLOCK // max(size, 1))

        def blocks(start: int, stop: int) -> None:
            for first in range(start, stop, step):
                work(first, min(first + step, stop))

        threads.parallel_for(blocks, count, step)

    @classmethod
    def pool(cls, xp: Any, x: Any, y: Any, offsets: list[Any], windows: Windows) -> None:
        if loops := _loops_of_two_by_two(x, windows):
            loops.largest_of_four(x, y)
        else:
            super().pool(xp, x, y, offsets, windows)

    @classmethod
    def pool_gradient(
        cls, xp: Any, x: Any, y: Any, g: Any, total: Any, offsets: list[Any], windows: Windows, disjoint: bool
    ) -> None:
        if loops := _loops_of_two_by_two(x, windows):
            loops.spread_to_four(x, y, g, total)
        else:
            super().pool_gradient(xp, x, y, g, total, offsets, windows, disjoint)


class NumpyAvgPool2d(ArrayAvgPool2d):
    """Average pooling, y = the mean x of each window, of which NumPy warns nobody where infinities meet."""

    @classmethod
    @without_warnings
    def forward(cls, x: Any, *, kernel_size: Any, stride: Any = None, padding: Any = 0) -> tuple[Any, Any]:
        return super().forward(x, kernel_size=kernel_size, stride=stride, padding=padding)

    @classmethod
    @without_warnings
    def backward(cls, saved: Any, grad: Any) -> tuple[Gradient, ...]:
        return super().backward(saved, grad)


def _loops_of_two_by_two(x: Any, windows: Windows) -> Any:
    """Returns the compiled loops, if there are any and windows tile dense planes two by two, else None."""
    loops = loops_for(x.dtype)
    is_two_by_two = windows.kernel == windows.stride == (2, 2)
    return loops if is_two_by_two and x.flags.c_contiguous and hasattr(loops, "largest_of_four") else None
