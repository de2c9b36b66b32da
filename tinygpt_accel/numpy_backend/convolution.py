"""Convolution and max-pooling on NumPy: the kernels of `convolution`, in pieces that stay in a core's cache,
shared out among threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy

from tinygpt_core.kernels import Conv2d, MaxPool2d, register
from tinygpt_core.kernels.convolution import Windows

from ..convolution import ArrayConv2d, ArrayMaxPool2d
from . import threads
from .buffer import NumpyBuffer
from .loops import loops_for

# Elements of the planes that are pooled at a time: 256 KB of float32, of which a few fit a core's
# second-level cache
BLOCK = 1 << 16


class NumpyConv2d(ArrayConv2d):
    """Each thread gathers the columns of a few images and multiplies them while they are in its cache."""

    column_bytes: ClassVar[int] = 1 << 20

    @staticmethod
    def share_out(work: Callable[[int, int], None], count: int) -> None:
        with threads.single_threaded_blas(), numpy.errstate(all="ignore"):
            threads.share_out(work, count)


class NumpyMaxPool2d(ArrayMaxPool2d):
    """Block by block of planes."""

    @staticmethod
    def share_out(work: Callable[[int, int], None], count: int, size: int) -> None:
        step = max(1, BLOCK // max(size, 1))

        def blocks(start: int, stop: int) -> None:
            for first in range(start, stop, step):
                work(first, min(first + step, stop))

        threads.share_out(blocks, count, step)

    @classmethod
    def pool(cls, xp: Any, x: Any, y: Any, offsets: list[Any], windows: Windows) -> None:
        loops = loops_for(x.dtype)
        if (
            windows.kernel == windows.stride == (2, 2)
            and x.flags.c_contiguous
            and hasattr(loops, "largest_of_four")
        ):
            loops.largest_of_four(x, y)
        else:
            super().pool(xp, x, y, offsets, windows)

    @classmethod
    def spread(
        cls, xp: Any, x: Any, y: Any, g: Any, total: Any, offsets: list[Any], windows: Windows, apart: bool
    ) -> None:
        loops = loops_for(x.dtype)
        if (
            windows.kernel == windows.stride == (2, 2)
            and x.flags.c_contiguous
            and hasattr(loops, "spread_to_four")
        ):
            loops.spread_to_four(x, y, g, total)
        else:
            super().spread(xp, x, y, g, total, offsets, windows, apart)


register(Conv2d, NumpyBuffer, NumpyConv2d)
register(MaxPool2d, NumpyBuffer, NumpyMaxPool2d)
