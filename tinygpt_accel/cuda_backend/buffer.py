"""What the arrays of a CUDA device share, whoever provides them: CuPy on a GPU, or the emulation on a CPU
that the tests run.

A subclass binds a namespace of arrays and four ways to the device (`launch`, `product`, `batched_product`,
`_add_at`). Everything else is here and in `kernels`, so what the tests run without a GPU is what runs on one.

**Where 16-bit numbers live.** A Buffer's dtype is float32 whatever autocast is in force: it says what an
operation that knows nothing of autocast reads and computes. But a product or a fused kernel under
`autocast("bfloat16")` leaves its result in 16 bits, in `stored`, and the next such kernel reads it there.
Everyone else asks for `array` and gets it widened. So there is no sixth dtype to promote, print and save,
parameters and optimizers are float32 by construction, and activations take half the memory.

How the numbers of an array are stored is its *format*: "float32", "float64", "bfloat16" or "float16". Those
of bfloat16 lie in arrays of uint16, as NumPy has no such dtype.
"""

from __future__ import annotations

import inspect
from array import array as host_array
from collections.abc import Callable
from contextlib import nullcontext
from functools import wraps
from typing import Any, ClassVar, TypeVar

import numpy

from tinygpt_core.buffer.base import no_dtype_holds
from tinygpt_core.dtype import DType
from tinygpt_core.kernels.base import register, registered
from tinygpt_core.shape import Index, Shape, expand_strides, inverse_permutation, reshape_strides

from ..array_buffer import ArrayBuffer
from .sources import BY_EIGHT

C = TypeVar("C", bound="CudaBuffer")
# Name of an array's dtype -> format
FORMAT_OF = {"float32": "float32", "float64": "float64", "uint16": "bfloat16", "float16": "float16"}
ARRAY_DTYPE = {fmt: name for name, fmt in FORMAT_OF.items()}
THREADS = 256


def format_of(array: Any) -> str:
    """Returns how the floats of an array are stored: "float32", "float64", "bfloat16" or "float16"."""
    return FORMAT_OF[array.dtype.name]


class CudaBuffer(ArrayBuffer):
    """A Buffer on a CUDA device.

    Attributes:
        stored: the elements as they are stored: in the dtype's own format or, for a float32 Buffer, in 16
            bits.
        array: the elements in the dtype's own format: `stored`, or a copy of it that later writes do not
            change.
    """

    __slots__ = ("_conversions", "_known_range", "_pending_bias", "_stored")

    lacks: ClassVar[dict[str, str]] = {"host_memory": "the elements are on a GPU"}
    compute_dtypes: ClassVar[tuple[str, ...]] = ("float32", "tf32", "bfloat16", "float16")
    threads: ClassVar[int] = THREADS  # of a block; a multiple of 32
    blocks: ClassVar[int] = 1 << 16  # the most of a launch that goes over its elements
    # Ids that one block numbers, at most 1024, and rows that one block adds up
    ids_chunk: ClassVar[int] = 1024
    rows_piece: ClassVar[int] = 64
    has_cudnn: ClassVar[bool] = False  # whether the device is one that cuDNN knows
    device_id: ClassVar[int] = 0
    training_step: ClassVar[Any]  # set by `step`
    # While a graph is recorded: an int64 on the device, how many blocks the random stream has moved on since
    random_offset: ClassVar[Any] = None
    # While a graph is recorded: the tables that it will read, to be kept as long as it, and what to fill each
    # with before it runs (None: nothing)
    graph_tables: ClassVar[list[tuple[Any, Any]] | None] = None
    # Within it, memory is allocated and work launched on this device
    device_context: ClassVar[Callable[[], Any]] = nullcontext
    # Random numbers that are drawn at a time: a launch each for many steps, whatever their number
    chunk: ClassVar[int] = 1 << 22

    _stored: Any
    # A row still to be added to each row of `_stored`: what a product leaves for the kernel that comes next
    _pending_bias: Any
    # Copies in another format, each with the version of which it was made
    _conversions: dict[str, tuple[int, Any]]
    # Version, smallest and largest integer where the host knows them
    _known_range: tuple[int, int, int] | None

    # ---------------------------------------------------------------- the device

    @classmethod
    def launch(cls, name: str, formats: str, grid: tuple[int, ...], *arguments: Any, block: int = 0) -> None:
        """Runs the kernel `name` for arrays of `formats` (separated by commas) on a grid of blocks of `block`
        threads.
        """
        raise NotImplementedError

    @classmethod
    def product(cls, a: Any, b: Any, out: Any, fast: bool = False) -> None:
        """Writes out = a b for matrices of one float format, added up in float32 (float64); `out` may be
        wider. `fast`: float32 by way of TF32.
        """
        raise NotImplementedError

    @classmethod
    def batched_product(cls, a: Any, b: Any, out: Any, fast: bool = False, scale: float = 1.0) -> None:
        """Writes out = scale a b for arrays (n, rows, columns) whose matrices are equally far apart."""
        raise NotImplementedError

    @classmethod
    def _add_at(cls, total: Any, indices: Any, values: Any) -> None:
        """Adds integer values to total[indices]; repeated indices add up."""
        raise NotImplementedError

    @classmethod
    def why_no_graph(cls) -> str:
        """Returns why a step cannot be recorded as a graph, or ""."""
        return "the device records no graphs"

    @classmethod
    def new_graph_capture(cls) -> Any:
        """Returns a context with a stream and memory of its own, whose `record(work)` gives a graph and what
        `work` returned.
        """
        raise NotImplementedError

    # What recording raises where something in a step cannot be recorded
    graph_errors: ClassVar[tuple[type[Exception], ...]] = ()

    @classmethod
    def upload(cls, array: Any, host: Any) -> None:
        """Writes an ndarray of NumPy's into an array of the same shape and dtype."""
        raise NotImplementedError

    @classmethod
    def memory(cls) -> tuple[int, int]:
        """Returns how many bytes of the device are free, and how many there are."""
        return 0, 0

    @classmethod
    def stream_address(cls) -> int:
        """Returns the address of the stream on which work is launched."""
        return 0

    @classmethod
    def launch_elementwise(cls, name: str, formats: str, size: int, *arguments: Any) -> None:
        """Runs an elementwise kernel over `size` elements, with as many threads as are of use."""
        if size:
            elements_per_block = cls.threads * (8 if name in BY_EIGHT else 1)
            blocks = min(-(-size // elements_per_block), cls.blocks)
            cls.launch(name, formats, (blocks,), *arguments)

    # ---------------------------------------------------------------- formats of the elements

    @property
    def array(self) -> Any:
        """The elements in this dtype's own format, converted where they are stored in 16 bits; assigning
        replaces them.
        """
        return self.in_format(self.dtype.name) if self._is_16_bit() else self.stored

    @array.setter
    def array(self, value: Any) -> None:
        self._stored = value
        self._pending_bias = None
        self._conversions = {}
        self._known_range = None

    @property
    def stored(self) -> Any:
        """The elements as they are stored, once a pending bias is added."""
        if self._pending_bias is not None:
            array, bias = self.take_bias()
            rows, columns, stride = matrix_layout(array)
            size = rows * columns
            self.launch_elementwise("add_bias", format_of(array), size, array, bias, rows, columns, stride)
        return self._stored

    def take_bias(self) -> tuple[Any, Any]:
        """Returns the elements and the bias that is still to be added to them (or None), which becomes the
        caller's duty.
        """
        bias = self._pending_bias
        self._pending_bias = None
        return self._stored, bias

    def _is_16_bit(self) -> bool:
        return self._stored.dtype.itemsize == 2

    def in_format(self, fmt: str) -> Any:
        """Returns the elements as an array in a format: `stored`, or a copy, which is kept until the elements
        change.
        """
        stored = self.stored
        if stored.dtype.name == ARRAY_DTYPE[fmt]:
            return stored
        version, copy = self._conversions.get(fmt, (-1, None))
        if version != self.version[0]:
            copy = self.convert(stored, fmt)
            self._conversions[fmt] = self.version[0], copy
        return copy

    @classmethod
    def convert(cls, array: Any, fmt: str) -> Any:
        """Returns an array in another format, laid out as it is where its elements fill their storage."""
        dense, order = _dense(cls.xp, array)
        result = cls.xp.empty(dense.shape, ARRAY_DTYPE[fmt])
        if "float32" not in (format_of(dense), fmt):  # `cast` knows the way by float32 only
            dense = cls.convert(dense, "float32")
        cls.launch_elementwise("cast", f"{format_of(dense)},{fmt}", dense.size, dense, result, dense.size)
        return result.transpose(order)

    @classmethod
    def wrap_stored(cls: type[C], array: Any, dtype: DType, bias: Any = None) -> C:
        """Returns a float Buffer over an array in any format, with a bias that is still to be added."""
        self = cls.wrap(array, dtype)
        self._pending_bias = bias
        return self

    # ---------------------------------------------------------------- integers that the host knows

    def known_range(self) -> tuple[int, int] | None:
        """Returns the smallest and the largest integer, where the host knows them; else None."""
        if self._known_range is None or self._known_range[0] != self.version[0]:
            return None
        _, low, high = self._known_range
        return low, high

    def _set_known_range(self, low: int, high: int) -> None:
        self._known_range = self.version[0], low, high

    @classmethod
    def _from_array(cls: type[C], flat: host_array[Any], shape: Shape, dtype: DType) -> C:
        self = super()._from_array(flat, shape, dtype)
        if dtype.kind == "i" and len(flat):
            known = numpy.frombuffer(flat, dtype.typecode)
            self._set_known_range(int(known.min()), int(known.max()))
        return self

    @classmethod
    def _full(cls: type[C], shape: Shape, value: Any, dtype: DType) -> C:
        # By a kernel whatever the shape: a copy of a number from the host could not be replayed by a graph.
        return cls.wrap(cls.xp.full(shape, value, cls.dtypes[dtype]), dtype)

    @classmethod
    def _arange(cls: type[C], start: Any, step: Any, count: int, dtype: DType) -> C:
        self = super()._arange(start, step, count, dtype)
        if dtype.kind == "i" and count:
            last = start + (count - 1) * step
            self._set_known_range(int(min(start, last)), int(max(start, last)))
        return self

    def _check_indices(self, size: int) -> None:
        """Asks the device only where the host cannot know: waiting for it would cost a step more than its
        arithmetic.
        """
        known = self.known_range()
        if known is None or known[0] < 0 or known[1] >= size:
            super()._check_indices(size)

    # ---------------------------------------------------------------- views, of `stored`

    def _view(self: C, result: Any) -> C:
        view = super()._view(result)
        view._known_range = self._known_range  # that of a part lies within that of the whole
        return view

    @property
    def stride(self) -> Shape:  # type: ignore[override]
        return tuple(step // self._stored.itemsize for step in self._stored.strides)

    def is_contiguous(self) -> bool:
        return bool(self._stored.flags.c_contiguous)

    def _reshape(self: C, shape: Shape) -> C:
        stored = self.stored
        if stored.flags.c_contiguous or reshape_strides(self.shape, self.stride, shape) is not None:
            return self._view(stored.reshape(shape))
        return self.wrap(stored.reshape(shape), self.dtype)

    def _permute(self: C, axes: Shape) -> C:
        return self._view(self.stored.transpose(axes))

    def _expand(self: C, shape: Shape) -> C:
        if shape == self.shape:
            return self
        stored = self.stored
        strides = expand_strides(self.shape, stored.strides, shape)
        return self._view(self.xp.lib.stride_tricks.as_strided(stored, shape, strides))

    def _slice(self: C, index: Index) -> C:
        return self._view(self.stored[(*index, ...)])

    def _copy(self: C) -> C:
        return self.wrap(self.stored.copy(order="C"), self.dtype)

    # ---------------------------------------------------------------- writes, to `stored`

    def _assign(self: C, value: C) -> None:
        stored = self.stored
        source = value.in_format(format_of(stored)) if stored.dtype.kind in "fu" else value.array
        # A device copies in no order, so what shares this storage is read whole first.
        stored[...] = source.copy() if value.version is self.version else source

    def _accumulate(self: C, value: C) -> None:
        if self._is_16_bit() or value._is_16_bit() or value.version is self.version:
            self._assign(self._add(value))
        else:
            super()._accumulate(value)

    def _scatter_add(self: C, indices: C, values: C) -> None:
        total = self.array
        if self.dtype.kind != "f":
            self._add_at(total, indices.array, values.array)
            return
        if not total.size:
            return
        dense = total if total.flags.c_contiguous else total.copy(order="C")
        self.add_rows(dense.reshape(dense.shape[0], -1), indices, values.stored)
        if dense is not self._stored:
            self._assign(self.wrap(dense, self.dtype))

    @classmethod
    def add_rows(cls, total: Any, indices: C, values: Any) -> None:
        """Adds values[i] to total[indices[i]], for a matrix and rows of floats, in an order that is always
        the same; see cu/rows.cu.
        """
        xp = cls.xp
        classes, columns = total.shape
        ids = xp.ascontiguousarray(indices.array).reshape(-1).astype("int64", copy=False)
        if not ids.size or not columns:
            return
        values = xp.ascontiguousarray(values)
        size = ids.size
        chunk = cls.ids_chunk
        chunks = -(-size // chunk)
        # The places sorted by their ids: numbered within chunks, counted, and put where the counts say
        counts = xp.zeros(chunks * classes, "int32")
        totals = xp.empty(classes, "int32")
        starts = xp.empty(classes + 1, "int32")
        ranks = xp.empty(size, "int32")
        ordered = xp.empty(size, "int32")
        cls.launch("rank_ids", "", (chunks,), ids, counts, ranks, size, classes, chunk)
        cls.launch_elementwise("scan_chunks", "", classes, counts, totals, chunks, classes)
        cls.launch("scan_counts", "", (1,), totals, starts, classes)
        cls.launch_elementwise(
            "place_ids", "", size, ids, starts, counts, ranks, ordered, size, classes, chunk
        )
        # The rows in that order: added up in pieces, and the pieces of an id joined
        piece = cls.rows_piece
        pieces = -(-size // piece)
        grid = (pieces, -(-columns // cls.threads))
        partial = xp.empty((pieces, 2, columns), total.dtype)
        cls.launch(
            "add_rows", format_of(values), grid, total, values, ids, ordered, partial, size, columns, piece
        )
        cls.launch(
            "join_rows", format_of(total), grid, total, partial, ids, ordered, starts, size, columns, piece
        )

    # ---------------------------------------------------------------- arithmetic that reads 16 bits

    def _add(self: C, other: C) -> C:
        if self.dtype is not DType.float32 or self.shape != other.shape:
            return super()._add(other)
        if not self._is_16_bit() and not other._is_16_bit():
            return super()._add(other)
        wide, low = (other, self) if self._is_16_bit() else (self, other)
        if wide._is_16_bit() and wide._stored.dtype != low._stored.dtype:
            return super()._add(other)
        if not wide.is_contiguous() or not low.is_contiguous():
            return super()._add(other)
        a = wide.stored
        b, bias = low.take_bias()
        result = self.xp.empty(self.shape, a.dtype)
        formats = f"{format_of(a)},{format_of(b)},{format_of(a)}"
        columns = a.shape[-1] if a.ndim else 1
        self.launch_elementwise("add", formats, a.size, a, b, bias, result, a.size, columns)
        low._pending_bias = bias  # it is in the sum, and `low` itself is as it was
        return self.wrap(result, self.dtype)

    def _sum_of_squares(self) -> float:
        if self.dtype.kind != "f":
            return super()._sum_of_squares()
        return float((self.array.astype("float64") ** 2).sum())

    # ---------------------------------------------------------------- other libraries

    @classmethod
    def _from_foreign(cls: type[C], data: Any) -> C | Any:
        on_host = not hasattr(data, "__dlpack_device__") or data.__dlpack_device__()[0] == 1
        return super()._from_foreign(cls._from_host(data) if on_host else data)

    @classmethod
    def _from_host(cls, data: Any) -> Any:
        """Returns an array on the device with the elements of one in the host's memory; `data` itself where
        it is no array.
        """
        try:
            if hasattr(data, "__array_interface__"):
                host = numpy.asarray(data)
            elif hasattr(data, "__dlpack__"):
                host = numpy.from_dlpack(data)
            else:
                host = numpy.asarray(memoryview(data))
        except (TypeError, ValueError, BufferError, RuntimeError):
            return data
        # Asked here, because CuPy would swap the bytes of a big-endian array without a word, and knows no
        # texts and dates.
        if host.dtype not in cls.dtypes.values():
            raise no_dtype_holds(host.dtype)
        return cls.xp.asarray(host)


def subclass_for_device(
    kind: type[CudaBuffer], name: str, number: int, device: Callable[[], Any]
) -> type[CudaBuffer]:
    """Returns a subclass of a CudaBuffer for device `number`, called `name`: all it does on the device
    happens within `device()`.

    That is every hook of the contract, and the forward and the backward of every kernel, with what a backward
    leaves to be called later.
    """
    # What touches no device, or is called by hooks only
    exempt = ("check_backend", "_backend", "address_of", "_from_host", "_not", "_promoted_pair")
    attributes: dict[str, Any] = {
        "__slots__": (),
        "backend": name,
        "device_id": number,
        "device_context": staticmethod(device),
    }
    for hook in dir(kind):
        found = inspect.getattr_static(kind, hook)
        if isinstance(found, property) and hook in ("array", "stored"):
            attributes[hook] = property(_on_device(device, found.fget), found.fset)
        elif hook.startswith("__") or hook in exempt:
            continue
        elif isinstance(found, classmethod):
            attributes[hook] = classmethod(_on_device(device, found.__func__))
        elif inspect.isfunction(found):
            attributes[hook] = _on_device(device, found)
    made: Any = type(f"{kind.__name__}{number}", (kind,), attributes)
    for kernel, implementation in list(registered(kind)):
        passes = {
            "forward": staticmethod(_on_device(device, implementation.forward)),
            "backward": staticmethod(_on_device(device, implementation.backward)),
        }
        register(kernel, made, type(implementation.__name__, (implementation,), passes))
    return made


def _on_device(device: Callable[[], Any], function: Any) -> Any:
    """Returns a function that does what `function` does within `device()`, and so do functions that it
    returns.
    """

    @wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        with device():
            result = function(*arguments, **options)
        if isinstance(result, tuple) and any(inspect.isfunction(part) for part in result):
            return tuple(_on_device(device, part) if inspect.isfunction(part) else part for part in result)
        return result

    return call


def matrix_layout(array: Any) -> tuple[int, int, int]:
    """Returns rows, columns and the distance of two rows of an array that is a matrix once its leading axes
    are one.
    """
    columns = array.shape[-1]
    rows = array.size // columns if columns else 0
    stride = array.strides[-2] // array.itemsize if array.ndim > 1 and rows > 1 else columns
    return rows, columns, stride


def _dense(xp: Any, array: Any) -> tuple[Any, tuple[int, ...]]:
    """Returns the elements in C order and how to transpose them back, without a copy where some order of axes
    is C order.
    """
    axes = sorted(range(array.ndim), key=lambda axis: -array.strides[axis])
    transposed = array.transpose(axes)
    if not transposed.flags.c_contiguous:
        axes = list(range(array.ndim))
        transposed = xp.ascontiguousarray(array)
    return transposed, inverse_permutation(axes)
