"""A backend called `cuda-on-cpu`: the CUDA plug-in's Buffer and kernels, with an arena in the host's memory
for the device's, NumPy's functions for CuPy's, and g++ for NVRTC.

Everything between the laws and the device's own libraries is the code that runs on a GPU: the launches
(grids, arguments, layouts), the kernels' sources, the 16-bit forms, and what a recorded step keeps and reuses
(see `device`). What it cannot show: CuPy's arrays, cuBLAS, cuDNN, streams, and how fast it is.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy

from tinygpt_accel.cuda_backend import kernels as kernels  # registers them
from tinygpt_accel.cuda_backend import step as step  # makes it the Buffer class's
from tinygpt_accel.cuda_backend.buffer import FORMAT_OF, CudaBuffer
from tinygpt_accel.numpy_backend.sums import sum_over
from tinygpt_core.dtype import DType

from . import emulation
from .device import Arrays, Capture, CaptureRefused, Device, DeviceArray, compute


class EmulatedBuffer(CudaBuffer):
    """A CudaBuffer over a `DeviceArray`."""

    __slots__ = ()

    backend = "cuda-on-cpu"
    xp: ClassVar[Any] = Arrays()
    dtypes: ClassVar[dict[DType, Any]] = {
        dtype: numpy.dtype("bool" if dtype.kind == "b" else dtype.typecode) for dtype in DType.all
    }
    threads: ClassVar[int] = 64
    blocks: ClassVar[int] = 2  # so that threads walk on
    ids_chunk: ClassVar[int] = 50  # and ids go on from chunk to chunk, and from piece to piece
    rows_piece: ClassVar[int] = 16
    refused_epilogues: ClassVar[tuple[str, ...]] = ()  # of which the library is said to know no way

    @classmethod
    def launch(
        cls, name: str, formats: str, grid: tuple[int, ...], *arguments: Any, block: int = 0, shared: int = 0
    ) -> None:
        where = [i for i, argument in enumerate(arguments) if isinstance(argument, DeviceArray)]
        scalars = [None if i in where else argument for i, argument in enumerate(arguments)]
        types = emulation.types_of(formats)
        threads = min(block or cls.threads, cls.threads)
        emulation.check_launch(name, grid, block or cls.threads)
        if shared > cls.shared_memory:
            raise ValueError(f"{name}: {shared} bytes of shared memory, of {cls.shared_memory}")

        def run(*arrays: Any) -> None:
            given = list(scalars)
            for i, array in zip(where, arrays, strict=True):
                given[i] = array
            emulation.launch(name, types, grid, threads, tuple(given))

        Device.do(name, run, tuple(arguments[i] for i in where), (formats, grid, tuple(scalars)))

    @classmethod
    def product(
        cls, a: Any, b: Any, out: Any, fast: bool = False, epilogue: Any = None, add: bool = False
    ) -> bool:
        if epilogue is None:
            Device.do("product", lambda a, b, out: multiply(a, b, out, add=add), (a, b, out), add)
            return True
        name = epilogue.name
        if name in cls.refused_epilogues:
            return False
        arrays = (a, b, out, epilogue.vector, epilogue.auxiliary)
        Device.do(f"product with {name}", lambda *given: multiply_with(name, *given), arrays)
        return True

    @classmethod
    def batched_product(cls, a: Any, b: Any, out: Any, fast: bool = False, scale: float = 1.0) -> None:
        Device.do("batched_product", lambda a, b, out: multiply(a, b, out, scale), (a, b, out))

    @classmethod
    def upload(cls, array: Any, host: Any) -> None:
        if (array.shape, array.dtype) != (host.shape, host.dtype):  # CuPy's `set` converts nothing
            raise TypeError(f"{host.dtype} {host.shape} is not written to {array.dtype} {array.shape}")
        Device.write(array, host)

    @classmethod
    def to_host(cls, result: Any) -> Any:
        return Device.read(result)

    @classmethod
    def why_no_graph(cls) -> str:
        return ""

    @classmethod
    def why_not_recorded(cls, problem: BaseException) -> str:
        return str(problem) if isinstance(problem, CaptureRefused) else ""

    @classmethod
    def new_graph_capture(cls) -> Any:
        return Capture()

    def _sum(self, axes: Any) -> Any:
        # CuPy adds up in a tree, NumPy does not
        shape = tuple(1 if axis in axes else size for axis, size in enumerate(self.shape))
        return self.wrap(compute("sum", sum_over, (self.array, axes), {}, shape), self.dtype)

    def _maximum(self, other: Any) -> Any:
        # Of 0 and -0 a GPU takes 0, NumPy either
        def larger(a: Any, b: Any) -> Any:
            result = numpy.maximum(a, b)
            return numpy.where((a == 0) & (b == 0), a + b, result) if result.dtype.kind == "f" else result

        return self.wrap(compute("maximum", larger, (self.array, other.array), {}), self.dtype)

    @classmethod
    def _add_at(cls, total: Any, indices: Any, values: Any) -> None:
        Device.do("add_at", numpy.add.at, (total, indices, values))


def multiply(a: Any, b: Any, out: Any, scale: float = 1.0, add: bool = False) -> None:
    """Writes out = scale a b, or adds that to it."""
    result = numpy.matmul(widened(a), widened(b))
    result = result * result.dtype.type(scale)
    narrow(result + widened(out) if add else result, out)


def multiply_with(name: str, a: Any, b: Any, out: Any, vector: Any, auxiliary: Any) -> None:
    """Writes out = a b with what an epilogue of cuBLASLt's does to it; GELU reads what it has rounded."""
    result = numpy.matmul(widened(a), widened(b))
    if name == "column_sums":
        narrow(widened(b).sum(0), vector)
    elif name == "gelu_gradient":
        x = widened(auxiliary)
        s, cubic = tanh_share(x)
        result = result * (s + 2 * x * s * (1 - s) * numpy.float32(math.sqrt(2 / math.pi)) * cubic)
    elif vector is not None:
        result = result + widened(vector)
    if name == "gelu":
        narrow(result, auxiliary)
        x = widened(auxiliary)
        result = x * tanh_share(x)[0]
    narrow(result, out)


def tanh_share(x: Any) -> tuple[Any, Any]:
    """Returns (1 + tanh u) / 2 of GELU's tanh form, and the derivative of u but for a factor."""
    factor = numpy.float32(2 * math.sqrt(2 / math.pi))
    cubic = numpy.float32(0.044715)
    return 1 / (1 + numpy.exp(-factor * (x + cubic * x**3))), 1 + 3 * cubic * x * x


def form_of(x: Any) -> str:
    """Returns the format of an array's elements."""
    return FORMAT_OF[x.dtype.name]


def widened(x: Any) -> Any:
    """Returns an array's numbers as float32, or float64 where they are that."""
    if form_of(x) == "bfloat16":
        return (x.astype(numpy.uint32) << 16).view(numpy.float32)
    return x if form_of(x) == "float64" else x.astype(numpy.float32)


def narrow(result: Any, out: Any) -> None:
    """Rounds a product to the form of `out`, to the nearest and ties to even."""
    if form_of(out) == "bfloat16":
        bits = numpy.ascontiguousarray(result, numpy.float32).view(numpy.uint32)
        rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(numpy.uint16)
        result = numpy.where(numpy.isnan(result), numpy.uint16(0x7FC0), rounded)
    out[...] = result
