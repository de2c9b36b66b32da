"""What several kernels share: arrays as matrices and rows, the format that autocast asks for, sums down
columns, and what is left to the core's composed kernels.

As in `buffer`, `kind` is the Buffer class, which stands for the device.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from tinygpt_core.dtype import DType
from tinygpt_core.kernels.base import Gradient, Kernel
from tinygpt_core.kernels.precision import compute_dtype

from ..buffer import CudaBuffer, format_of, matrix_layout
from ..sources import SIXTEEN_BIT

ROWS = 1 << 16  # the most blocks of a launch with a block for each row
ROW_CHUNK = 512  # rows whose sums are added up by one block


def compute_format(dtype: DType) -> str:
    """Returns the format in which products of a dtype are computed: what autocast says of float32, else the
    dtype itself.
    """
    chosen = compute_dtype()
    return chosen if dtype is DType.float32 and chosen in SIXTEEN_BIT else dtype.name


def as_matrix(array: Any, columns: int) -> Any:
    """Returns an array as a matrix with so many columns: a view where the layout allows."""
    return array.reshape(-1, columns) if columns else array.reshape(math.prod(array.shape[:-1]), 0)


def as_row(kind: type[CudaBuffer], buffer: Any, fmt: str = "float32") -> Any:
    """Returns the elements of a parameter in a row, in a format; None where there is no parameter."""
    return None if buffer is None else kind.xp.ascontiguousarray(buffer.in_format(fmt)).reshape(-1)


def with_dense_rows(kind: type[CudaBuffer], x: Any) -> Any:
    """Returns a matrix whose rows are dense, perhaps with gaps between them: itself or a copy."""
    is_dense_along = x.shape[1] < 2 or x.strides[1] == x.itemsize
    is_apart_down = len(x) < 2 or x.strides[0] >= x.shape[1] * x.itemsize
    return x if is_dense_along and is_apart_down else kind.xp.ascontiguousarray(x)


def column_sums(kind: type[CudaBuffer], x: Any) -> Any:
    """Returns the sums down the columns of a matrix whose rows are dense, in float32, in an order that is
    always the same: those of chunks of rows, then those of these sums, until one is left.
    """
    rows, columns, stride = matrix_layout(x)
    while True:
        chunks = max(-(-rows // ROW_CHUNK), 1)
        partial = kind.xp.empty((chunks, columns), "float32")
        if columns:
            grid = (chunks, -(-columns // 32))
            kind.launch("column_sums", format_of(x), grid, x, partial, rows, columns, stride, ROW_CHUNK)
        if chunks == 1:
            return partial.reshape(columns)
        x = partial
        rows = chunks
        stride = columns


# ---------------------------------------------------------------- what the composed kernels serve


class Composed(NamedTuple):
    """What the core's composed kernel saved, where it computed the forward."""

    saved: Any


def for_float32(kernel: type[Kernel], ours: type[Kernel]) -> type[Kernel]:
    """Returns `ours`, which serves float32 alone, with the core's composed kernel for all else: float64, and
    arrays without elements.
    """

    class Float32(ours):  # type: ignore[misc, valid-type]
        __doc__ = ours.__doc__

        @staticmethod
        def forward(*buffers: Any, **options: Any) -> tuple[Any, Any]:
            floats = [x for x in buffers if isinstance(x, CudaBuffer) and x.dtype.kind == "f"]
            if floats and all(x.dtype is DType.float32 and x.numel for x in floats):
                return ours.forward(*buffers, **options)
            y, saved = kernel.forward(*buffers, **options)
            return y, Composed(saved)

        @staticmethod
        def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
            if isinstance(saved, Composed):
                return kernel.backward(saved.saved, grad)
            return ours.backward(saved, grad)

    Float32.__name__ = ours.__name__
    return Float32
