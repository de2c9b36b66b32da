"""A backend called `cuda-on-cpu`: the CUDA plug-in's Buffer and kernels, with NumPy's arrays for CuPy's and
g++ for NVRTC.

Everything between the laws and the device's own libraries is the code that runs on a GPU: the launches
(grids, arguments, layouts), the kernels' sources, the 16-bit forms. What it cannot show: CuPy's arrays,
cuBLAS, cuDNN, graphs, streams, memory, and how fast it is.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy

from tinygpt_accel.cuda_backend import kernels as kernels  # registers them
from tinygpt_accel.cuda_backend import step as step  # makes it the Buffer class's
from tinygpt_accel.cuda_backend.buffer import CudaBuffer, format_of
from tinygpt_accel.numpy_backend.buffer import NumpyBuffer
from tinygpt_accel.numpy_backend.sums import sum_over
from tinygpt_core.dtype import DType

from . import emulation


class EmulatedBuffer(CudaBuffer):
    """A CudaBuffer over a `numpy.ndarray`."""

    __slots__ = ()

    backend = "cuda-on-cpu"
    xp: ClassVar[Any] = numpy
    dtypes: ClassVar[dict[DType, Any]] = {
        dtype: numpy.dtype("bool" if dtype.kind == "b" else dtype.typecode) for dtype in DType.all
    }
    threads: ClassVar[int] = 64
    blocks: ClassVar[int] = 2  # so that threads walk on
    ids_chunk: ClassVar[int] = 50  # and ids go on from chunk to chunk, and from piece to piece
    rows_piece: ClassVar[int] = 16

    @classmethod
    def launch(cls, name: str, formats: str, grid: tuple[int, ...], *arguments: Any, block: int = 0) -> None:
        emulation.launch(name, emulation.types_of(formats), grid, block or cls.threads, arguments)

    @classmethod
    @numpy.errstate(all="ignore")
    def product(cls, a: Any, b: Any, out: Any, fast: bool = False) -> None:
        narrow(numpy.matmul(widened(a), widened(b)), out)

    @classmethod
    @numpy.errstate(all="ignore")
    def batched_product(cls, a: Any, b: Any, out: Any, fast: bool = False, scale: float = 1.0) -> None:
        result = numpy.matmul(widened(a), widened(b))
        narrow(result * result.dtype.type(scale), out)

    @classmethod
    def upload(cls, array: Any, host: Any) -> None:
        array[...] = host

    def _sum(self, axes: Any) -> Any:
        return self.wrap(sum_over(self.array, axes), self.dtype)  # CuPy adds up in a tree, NumPy does not

    def _maximum(self, other: Any) -> Any:
        ordered: Any = NumpyBuffer._maximum  # of 0 and -0 a GPU takes 0, NumPy either
        return ordered(self, other)

    @classmethod
    def _add_at(cls, total: Any, indices: Any, values: Any) -> None:
        numpy.add.at(total, indices, values)


def widened(x: Any) -> Any:
    """Returns an array's numbers as float32, or float64 where they are that."""
    if format_of(x) == "bfloat16":
        return (x.astype(numpy.uint32) << 16).view(numpy.float32)
    return x if format_of(x) == "float64" else x.astype(numpy.float32)


def narrow(result: Any, out: Any) -> None:
    """Rounds a product to the form of `out`, to the nearest and ties to even."""
    if format_of(out) == "bfloat16":
        bits = numpy.ascontiguousarray(result, numpy.float32).view(numpy.uint32)
        rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(numpy.uint16)
        result = numpy.where(numpy.isnan(result), numpy.uint16(0x7FC0), rounded)
    out[...] = result


for _name in (
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
    "_sum",
    "_matmul",
    "_cast",
):
    setattr(EmulatedBuffer, _name, numpy.errstate(all="ignore")(getattr(EmulatedBuffer, _name)))
