"""The NumPy backend: Buffers that hold an ndarray."""

from __future__ import annotations

from typing import Any, ClassVar, final

import numpy

from tinygpt_core.dtype import DType

from ..array_buffer import ArrayBuffer


@final
class NumpyBuffer(ArrayBuffer):
    """A Buffer over a `numpy.ndarray`."""

    __slots__ = ()

    backend = "numpy"
    xp: ClassVar[Any] = numpy
    dtypes: ClassVar[dict[DType, Any]] = {
        dtype: numpy.dtype("bool" if dtype.kind == "b" else dtype.typecode) for dtype in DType.all
    }

    def _where(self, first: NumpyBuffer, second: NumpyBuffer) -> NumpyBuffer:
        kept, mask = first.array, self.array
        is_zero = second.array.ndim == 0 and not second.array and not numpy.signbit(second.array)
        if is_zero and kept.dtype.kind == "f" and kept.shape == mask.shape:
            # numpy.where has a branch for each element, ten times slower on a mask without a pattern; bits
            # times 0 or 1 have none.
            bits = kept.view(f"i{kept.dtype.itemsize}") * mask
            return self.wrap(bits.view(kept.dtype), first.dtype)
        return super()._where(first, second)

    def _assign(self, value: NumpyBuffer) -> None:
        source = value.array
        if (
            self.array.ndim == 1
            and self.array.strides != source.strides
            and numpy.may_share_memory(self.array, source)
        ):
            # NumPy (2.4) takes overlapping rows of different steps for safe, and reads what it has just
            # written
            source = source.copy()
        self.array[...] = source

    def _scatter_add(self, indices: NumpyBuffer, values: NumpyBuffer) -> None:
        numpy.add.at(self.array, indices.array, values.array)


# IEEE 754 answers (infinities, NaN) are what the contract asks for, so NumPy's warnings about them are noise.
_ELEMENTWISE = ("_exp", "_log", "_sqrt", "_sin", "_cos", "_add", "_sub", "_mul", "_div", "_pow", "_cast")
for _name in (*_ELEMENTWISE, "_sum", "_matmul", "_scatter_add", "_accumulate", "_sum_of_squares"):
    setattr(NumpyBuffer, _name, numpy.errstate(all="ignore")(getattr(NumpyBuffer, _name)))
