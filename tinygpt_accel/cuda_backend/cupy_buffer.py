"""The CuPy backend: Buffers on a CUDA device, kernels through NVRTC, products through cuBLAS."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import cache
from math import copysign
from typing import Any, ClassVar
from weakref import WeakSet

import cupy
import cupyx
import numpy
from cupy.cuda import device, runtime
from cupy_backends.cuda import libs  # libs.cublas loads the library where it is first asked for

from tinygpt_core.dtype import DType

from . import sources
from .buffer import CudaBuffer, format_of, subclass_for_device

GRAPH_VARIABLE = "TINYGPT_CUDA_GRAPH"
OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation, which CuPy's runtime has no name for

_TYPE = {
    "float32": runtime.CUDA_R_32F,
    "float64": runtime.CUDA_R_64F,
    "bfloat16": runtime.CUDA_R_16BF,
    "float16": runtime.CUDA_R_16F,
}
_ONE = {"float32": numpy.ones((), "float32"), "float64": numpy.ones((), "float64")}
_ZERO = {"float32": numpy.zeros((), "float32"), "float64": numpy.zeros((), "float64")}


@cache
def _module(file: str, device_id: int) -> Any:
    """Returns a source compiled for a device. CuPy keeps the result on disk, so only the first process waits
    for NVRTC.
    """
    options = ("--std=c++17",)
    return cupy.RawModule(code=sources.text(file), options=options, name_expressions=sources.names(file))


@cache
def _kernel(name: str, formats: str, device_id: int) -> Any:
    """Returns the instance of a kernel for arrays of formats, separated by commas."""
    types = ", ".join(sources.TYPES[fmt] for fmt in formats.split(",")) if formats else ""
    return _module(sources.file_of(name), device_id).get_function(f"{name}<{types}>" if types else name)


class GraphCapture:
    """A stream and a pool of memory for a step that is recorded: a graph writes where it did when it was
    recorded, so nobody else may.
    """

    def __init__(self) -> None:
        self.stream = cupy.cuda.Stream(non_blocking=True)
        self.pool = cupy.cuda.MemoryPool(self._from_device)
        self.is_recording = False
        _captures.add(self)

    def __enter__(self) -> None:
        self.outer = cupy.cuda.get_current_stream()
        self.stream.wait_event(self.outer.record())
        self.inside = ExitStack()
        self.inside.enter_context(cupy.cuda.using_allocator(self.pool.malloc))
        self.inside.enter_context(self.stream)

    def _from_device(self, size: int) -> Any:
        """Returns what the pool lacks, if need be after the pool for everything else has given back what it
        only keeps.

        A pool that gets nothing gives back what it keeps itself and asks again; while a graph is recorded,
        that is memory in which the graph will write, so the recording ends instead.
        """
        try:
            return cupy.cuda.MemoryPointer(cupy.cuda.Memory(size), 0)
        except runtime.CUDARuntimeError as problem:
            if problem.status != OUT_OF_MEMORY:
                raise
        cupy.get_default_memory_pool().free_all_blocks()
        try:
            return cupy.cuda.MemoryPointer(cupy.cuda.Memory(size), 0)
        except runtime.CUDARuntimeError as problem:
            if self.is_recording and problem.status == OUT_OF_MEMORY:
                raise RuntimeError(f"no memory is left for another {size:,} bytes") from problem
            raise

    def __exit__(self, *problem: object) -> None:
        self.inside.close()
        self.outer.wait_event(self.stream.record())

    def record(self, work: Callable[[], Any]) -> tuple[Any, Any]:
        """Returns what `work` launches as a graph, and what it returns. Nothing runs yet."""
        self.stream.begin_capture(runtime.streamCaptureModeRelaxed)
        self.is_recording = True
        try:
            result = work()
        except BaseException:
            with suppress(runtime.CUDARuntimeError):  # a recording that went wrong has no graph
                self.stream.end_capture()
            raise
        finally:
            self.is_recording = False
        return self.stream.end_capture(), result


_captures: WeakSet[GraphCapture] = WeakSet()


class CupyBuffer(CudaBuffer):
    """A Buffer over a `cupy.ndarray` on the first device; `on_device` makes the classes of the others."""

    __slots__ = ()

    backend = "cupy"
    xp: ClassVar[Any] = cupy
    dtypes: ClassVar[dict[DType, Any]] = {
        dtype: numpy.dtype("bool" if dtype.kind == "b" else dtype.typecode) for dtype in DType.all
    }
    has_cudnn: ClassVar[bool] = True

    @staticmethod
    def address_of(array: Any) -> int:
        return int(array.data.ptr)

    @classmethod
    def _full(cls, shape: Any, value: Any, dtype: DType) -> Any:
        made = super()._full(shape, value, dtype)
        # CuPy fills with zero bytes where value == 0, and so loses the sign of -0.0.
        is_negative_zero = value == 0 and dtype.kind == "f" and copysign(1.0, value) < 0.0
        return made.neg() if is_negative_zero else made

    @classmethod
    def to_host(cls, result: Any) -> Any:
        return cupy.asnumpy(result)

    graph_errors: ClassVar[tuple[type[Exception], ...]] = (RuntimeError,)  # CuPy's are subclasses of it

    @classmethod
    def why_no_graph(cls) -> str:
        return f"${GRAPH_VARIABLE} is 0" if os.environ.get(GRAPH_VARIABLE) == "0" else ""

    @classmethod
    def new_graph_capture(cls) -> Any:
        return GraphCapture()

    @classmethod
    def upload(cls, array: Any, host: Any) -> None:
        array.set(host)

    @classmethod
    def memory(cls) -> tuple[int, int]:
        free, total = runtime.memGetInfo()
        # What the pool keeps for later is free for us
        return int(free + cupy.get_default_memory_pool().free_bytes()), int(total)

    @classmethod
    def peak_memory(cls) -> int:
        """Returns the most bytes that the pools have taken: they give nothing back to the device by
        themselves.
        """
        of_captures = sum(capture.pool.total_bytes() for capture in _captures)
        return int(cupy.get_default_memory_pool().total_bytes() + of_captures)

    @classmethod
    def stream_address(cls) -> int:
        return int(cupy.cuda.get_current_stream().ptr)

    @classmethod
    def launch(cls, name: str, formats: str, grid: tuple[int, ...], *arguments: Any, block: int = 0) -> None:
        values = tuple(_as_argument(argument) for argument in arguments)
        _kernel(name, formats, cls.device_id)(grid, (block or cls.threads,), values)

    @classmethod
    def product(cls, a: Any, b: Any, out: Any, fast: bool = False) -> None:
        m, n = out.shape
        k = a.shape[1]
        if not (m and n):
            return
        if not k:
            out[...] = 0
            return
        a, a_transposed, lda = _as_operand(a)
        b, b_transposed, ldb = _as_operand(b)
        scalar = "float64" if format_of(a) == "float64" else "float32"
        # cuBLAS counts down columns, so this is out^T = b^T a^T for matrices that lie as they are.
        libs.cublas.gemmEx(
            device.get_cublas_handle(),
            b_transposed,
            a_transposed,
            n,
            m,
            k,
            _ONE[scalar].ctypes.data,
            b.data.ptr,
            _TYPE[format_of(b)],
            ldb,
            a.data.ptr,
            _TYPE[format_of(a)],
            lda,
            _ZERO[scalar].ctypes.data,
            out.data.ptr,
            _TYPE[format_of(out)],
            out.strides[0] // out.itemsize if m > 1 else max(n, 1),
            _compute(format_of(a), fast),
            libs.cublas.CUBLAS_GEMM_DEFAULT,
        )

    @classmethod
    def batched_product(cls, a: Any, b: Any, out: Any, fast: bool = False, scale: float = 1.0) -> None:
        count, m, n = out.shape
        k = a.shape[2]
        if not out.size:
            return
        if not k:
            out[...] = 0
            return
        a, a_transposed, lda = _as_operand(a)
        b, b_transposed, ldb = _as_operand(b)
        scalar = "float64" if format_of(a) == "float64" else "float32"
        factor = numpy.array(scale, scalar)
        libs.cublas.gemmStridedBatchedEx(
            device.get_cublas_handle(),
            b_transposed,
            a_transposed,
            n,
            m,
            k,
            factor.ctypes.data,
            b.data.ptr,
            _TYPE[format_of(b)],
            ldb,
            b.strides[0] // b.itemsize,
            a.data.ptr,
            _TYPE[format_of(a)],
            lda,
            a.strides[0] // a.itemsize,
            _ZERO[scalar].ctypes.data,
            out.data.ptr,
            _TYPE[format_of(out)],
            out.strides[1] // out.itemsize,
            out.strides[0] // out.itemsize,
            count,
            _compute(format_of(a), fast),
            libs.cublas.CUBLAS_GEMM_DEFAULT,
        )

    @classmethod
    def _add_at(cls, total: Any, indices: Any, values: Any) -> None:
        if total.dtype.kind == "b":
            counts = total.astype("int32")
            cupyx.scatter_add(counts, indices, values.astype("int32"))
            total[...] = counts != 0
        elif total.dtype.itemsize == 8:
            # Atomics add unsigned words, which in two's complement is the same sum.
            cupyx.scatter_add(total.view("uint64"), indices, values.view("uint64"))
        else:
            cupyx.scatter_add(total, indices, values)


def _as_argument(argument: Any) -> Any:
    """Returns an argument as a kernel takes it: floats as double, ints as 64 bits, None as a null pointer."""
    if isinstance(argument, float):
        return numpy.float64(argument)
    if isinstance(argument, int):
        return numpy.int64(argument)
    return numpy.int64(0) if argument is None else argument


def _as_operand(x: Any) -> tuple[Any, int, int]:
    """Returns matrices, whether cuBLAS is to transpose them, and the distance of their rows or columns;
    copies what is strided otherwise.
    """
    rows, columns = x.shape[-2:]
    down = x.strides[-2] // x.itemsize
    along = x.strides[-1] // x.itemsize
    if (along == 1 or columns == 1) and (down >= columns or rows == 1):
        return x, libs.cublas.CUBLAS_OP_N, max(down if rows > 1 else columns, 1)
    if (down == 1 or rows == 1) and (along >= rows or columns == 1):
        return x, libs.cublas.CUBLAS_OP_T, max(along if columns > 1 else rows, 1)
    return cupy.ascontiguousarray(x), libs.cublas.CUBLAS_OP_N, max(columns, 1)


def _compute(fmt: str, fast: bool) -> int:
    """Returns cuBLAS's number for how products of a format are added up."""
    if fmt == "float64":
        return int(libs.cublas.CUBLAS_COMPUTE_64F)
    if fmt == "float32" and fast:
        return int(libs.cublas.CUBLAS_COMPUTE_32F_FAST_TF32)
    return int(libs.cublas.CUBLAS_COMPUTE_32F)


@cache
def on_device(number: int) -> type[CupyBuffer]:
    """Returns the Buffer class of a device."""
    if number == 0:
        return CupyBuffer
    kind: Any = subclass_for_device(CupyBuffer, f"cupy:{number}", number, lambda: device.Device(number))
    return kind
