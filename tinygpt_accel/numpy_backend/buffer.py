"""The NumPy backend: Buffers that hold an ndarray."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from typing import Any, ClassVar, final

import numpy

from tinygpt_core.dtype import DType
from tinygpt_core.shape import Shape

from ..array_buffer import ArrayBuffer
from . import threads
from .loops import loops_for
from .sums import AddColumns, sum_over

# A decorator: infinities and NaN are answers that the contract asks for (IEEE 754), so NumPy's warnings about
# them are noise.
without_warnings = numpy.errstate(all="ignore")


@final
class NumpyBuffer(ArrayBuffer):
    """A Buffer over a `numpy.ndarray`."""

    __slots__ = ()

    backend = "numpy"
    xp: ClassVar[Any] = numpy
    dtypes: ClassVar[dict[DType, Any]] = {
        dtype: numpy.dtype("bool" if dtype.kind == "b" else dtype.typecode) for dtype in DType.all
    }

    @classmethod
    def reproducible_arithmetic(cls) -> AbstractContextManager[Any]:
        """Returns a context in which the bits of a result do not depend on the number of threads."""
        return threads.reproducible_blas()

    @classmethod
    def arithmetic(cls) -> dict[str, str]:
        """Returns what computes, by name and version: where these are alike, so are the bits of results."""
        numba = sys.modules.get("numba")
        loops = "NumPy"
        if numba is not None:
            cpu = sys.modules["llvmlite.binding"].get_host_cpu_name()
            loops = f"Numba {numba.__version__} for {cpu}"
        return {"NumPy": numpy.__version__, "BLAS": threads.blas_name(), "loops": loops}

    def _where(self, first: NumpyBuffer, second: NumpyBuffer) -> NumpyBuffer:
        mask = self.array
        chosen = first.array
        is_zero = second.array.ndim == 0 and not second.array and not numpy.signbit(second.array)
        if is_zero and chosen.dtype.kind == "f" and chosen.shape == mask.shape:
            # numpy.where has a branch for each element, ten times slower on a mask without a pattern; bits
            # times 0 or 1 have none.
            bits = chosen.view(f"i{chosen.dtype.itemsize}") * mask
            return self.wrap(bits.view(chosen.dtype), first.dtype)
        return super()._where(first, second)

    def _assign(self, value: NumpyBuffer) -> None:
        source = value.array
        has_other_steps = self.array.ndim == 1 and self.array.strides != source.strides
        if has_other_steps and numpy.may_share_memory(self.array, source):
            # NumPy (2.4) takes overlapping rows of different steps for safe, and reads what it has just
            # written
            source = source.copy()
        self.array[...] = source

    def _maximum(self, other: NumpyBuffer) -> NumpyBuffer:
        result = numpy.asarray(numpy.maximum(self.array, other.array))
        if self.dtype.kind == "f":  # of 0 and -0 NumPy takes either
            if other.array.ndim == 0 and not other.array and not numpy.signbit(other.array):
                numpy.add(result, 0.0, out=result)  # a zero is 0 here
            elif (zeros := result == 0).any():
                are_both = zeros & (self.array == other.array)
                result = numpy.where(are_both, self.array + other.array, result)
        return self.wrap(result, self.dtype)

    def _divmod(self, other: NumpyBuffer) -> tuple[NumpyBuffer, NumpyBuffer]:
        quotient, remainder = numpy.divmod(self.array, other.array)
        return self.wrap(quotient, self.dtype), self.wrap(remainder, self.dtype)

    def _argsort(self, axis: int) -> NumpyBuffer:
        return self.wrap(self.array.argsort(axis, kind="stable"), DType.int64)

    def _sum(self, axes: Shape) -> NumpyBuffer:
        return self.wrap(sum_over(self.array, axes, _add_columns_for), self.dtype)

    def _scatter_add(self, indices: NumpyBuffer, values: NumpyBuffer) -> None:
        if self.dtype.kind != "f":
            numpy.add.at(self.array, indices.array, values.array)
            return
        # What falls on one row is added up in doubles first, and rounded once.
        rows, places = numpy.unique(indices.array, return_inverse=True)
        sums = numpy.zeros((rows.size, *self.shape[1:]))
        numpy.add.at(sums, places.reshape(indices.shape), values.array)
        self.array[rows] += sums.astype(self.array.dtype)


def _add_columns_for(dtype: Any) -> AddColumns:
    add_columns: AddColumns = loops_for(dtype).add_columns
    return add_columns


_ELEMENTWISE = (
    "_exp",
    "_log",
    "_sqrt",
    "_sin",
    "_cos",
    "_add",
    "_sub",
    "_mul",
    "_div",
    "_pow",
    "_maximum",
    "_cast",
)
for _hook in (
    *_ELEMENTWISE,
    "_divmod",
    "_sum",
    "_cumsum",
    "_matmul",
    "_scatter_add",
    "_accumulate",
    "_sum_of_squares",
):
    setattr(NumpyBuffer, _hook, without_warnings(getattr(NumpyBuffer, _hook)))
