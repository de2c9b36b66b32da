"""The CuPy backend: Buffers on a CUDA device, kernels through NVRTC, products through cuBLASLt."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from typing import Any, ClassVar
from weakref import WeakSet

import cupy
import cupyx
import numpy
from cupy.cuda import device, driver, runtime

from tinygpt_core.dtype import DType

from . import cublaslt, sources
from .buffer import CudaBuffer, Epilogue

GRAPH_VARIABLE = "TINYGPT_CUDA_GRAPH"
OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation, which CuPy's runtime has no name for
FREE_SHARED_MEMORY = 40 << 10  # bytes that a kernel may have beside its own without being told before
# cudaErrorStreamCaptureUnsupported to cudaErrorStreamCaptureWrongThread
CAPTURE_ERRORS = range(900, 909)


@cache
def _module(file: str) -> Any:
    """Returns a source compiled for the device. CuPy keeps the result on disk, so only the first process
    waits for NVRTC.
    """
    options = ("--std=c++17",)
    return cupy.RawModule(code=sources.text(file), options=options, name_expressions=sources.names(file))


@cache
def _kernel(name: str, formats: str) -> Any:
    """Returns the instance of a kernel for arrays of formats, separated by commas."""
    types = ", ".join(sources.TYPES[fmt] for fmt in formats.split(",")) if formats else ""
    return _module(sources.file_of(name)).get_function(f"{name}<{types}>" if types else name)


class OutOfMemoryWhileRecording(RuntimeError):
    """A recording needs more memory than there is."""


class GraphCapture:
    """A stream, a pool of memory and a workspace for a step that is recorded: a graph writes where it did
    when it was recorded, so nobody else may.
    """

    current: ClassVar[GraphCapture | None] = None  # within which work is launched

    def __init__(self) -> None:
        self.stream = cupy.cuda.Stream(non_blocking=True)
        self.pool = cupy.cuda.MemoryPool(self._from_device)
        self.workspace = cupy.empty(cublaslt.WORKSPACE_BYTES, "uint8")
        self.is_recording = False
        _captures.add(self)

    def __enter__(self) -> None:
        self.outer = cupy.cuda.get_current_stream()
        self.stream.wait_event(self.outer.record())
        self.inside = ExitStack()
        self.inside.enter_context(cupy.cuda.using_allocator(self.pool.malloc))
        self.inside.enter_context(self.stream)
        GraphCapture.current = self

    @contextmanager
    def outside(self) -> Iterator[None]:
        """Returns a context within which memory comes from the pool for everything else."""
        with cupy.cuda.using_allocator(cupy.get_default_memory_pool().malloc):
            yield

    def free(self) -> None:
        """Gives back to the device what nobody uses."""
        self.stream.synchronize()
        self.pool.free_all_blocks()

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
                said = f"no memory is left for another {size:,} bytes"
                raise OutOfMemoryWhileRecording(said) from problem
            raise

    def __exit__(self, *problem: object) -> None:
        GraphCapture.current = None
        self.inside.close()
        self.outer.wait_event(self.stream.record())

    def record(self, work: Callable[[], Any]) -> tuple[Any, Any]:
        """Returns what `work` launches as a graph, and what it returns. Nothing runs yet.

        Raises:
            OutOfMemoryWhileRecording: there is none for the graph itself.
        """
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
        try:
            return self.stream.end_capture(), result
        except runtime.CUDARuntimeError as problem:
            if problem.status != OUT_OF_MEMORY:
                raise
            raise OutOfMemoryWhileRecording("no memory is left for the graph itself") from problem


_captures: WeakSet[GraphCapture] = WeakSet()
_told: dict[tuple[str, str], int] = {}  # how much shared memory instances of kernels were told they may have


class CupyBuffer(CudaBuffer):
    """A Buffer over a `cupy.ndarray` on the first device that CUDA_VISIBLE_DEVICES shows."""

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
    def to_host(cls, result: Any) -> Any:
        return cupy.asnumpy(result)

    @classmethod
    def why_not_recorded(cls, problem: BaseException) -> str:
        # CuPy launches kernels through the driver, whose errors are another class with the same numbers
        errors = runtime.CUDARuntimeError, driver.CUDADriverError
        is_refused = isinstance(problem, errors) and problem.status in CAPTURE_ERRORS
        # What CuPy raises by itself, as from its own calls of cuBLAS
        is_refused |= isinstance(problem, NotImplementedError) and "stream capture" in str(problem)
        return str(problem) if is_refused or isinstance(problem, OutOfMemoryWhileRecording) else ""

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
    def launch(
        cls, name: str, formats: str, grid: tuple[int, ...], *arguments: Any, block: int = 0, shared: int = 0
    ) -> None:
        kernel = _kernel(name, formats)
        if shared > _told.get((name, formats), FREE_SHARED_MEMORY):
            kernel.max_dynamic_shared_size_bytes = _told[name, formats] = shared
        values = tuple(_as_argument(argument) for argument in arguments)
        kernel(grid, (block or cls.threads,), values, shared_mem=shared)

    @classmethod
    def product(
        cls, a: Any, b: Any, out: Any, fast: bool = False, epilogue: Epilogue | None = None, add: bool = False
    ) -> bool:
        if not out.size:
            return epilogue is None
        if not a.shape[-1]:
            if epilogue is None and not add:
                out.fill(0)
            return epilogue is None
        a, b = (x if cublaslt.is_operand(x) else cupy.ascontiguousarray(x) for x in (a, b))
        return cublaslt.load().matmul(cls, a, b, out, _workspace(), fast, 1.0, epilogue, add)

    @classmethod
    def batched_product(cls, a: Any, b: Any, out: Any, fast: bool = False, scale: float = 1.0) -> None:
        if not out.size or not a.shape[-1]:
            out.fill(0)
            return
        a, b = (x if cublaslt.is_operand(x) else cupy.ascontiguousarray(x) for x in (a, b))
        cublaslt.load().matmul(cls, a, b, out, _workspace(), fast, scale)

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


@cache
def _eager_workspace() -> Any:
    return cupy.empty(cublaslt.WORKSPACE_BYTES, "uint8")


def _workspace() -> Any:
    """Returns room for cuBLASLt's scratch, which nothing uses at the same time: one for each stream."""
    return _eager_workspace() if GraphCapture.current is None else GraphCapture.current.workspace


def prepare() -> None:
    """Asks the device how much shared memory a block may have."""
    # Less some for what kernels name themselves
    CupyBuffer.shared_memory = int(device.Device().attributes["MaxSharedMemoryPerBlockOptin"]) - 1024
