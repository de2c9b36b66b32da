"""What the arrays of a CUDA device share, whoever holds them: CuPy on a GPU, or the emulation on a CPU that
the tests run.

A subclass binds a namespace of arrays and four ways to the device (`launch`, `product`, `batched_product`,
`_add_at`). Everything else is here and in `cuda_kernels`, so what the tests run without a GPU is what runs on
one.

**Where 16-bit numbers live.** A Buffer's dtype is float32 whatever autocast is in force: it says what an
operation that knows nothing of autocast reads and computes. But a product or a fused kernel under
`autocast("bfloat16")` leaves its result in 16 bits, in `held`, and the next such kernel reads it there.
Everyone else asks for `array` and gets it widened. So there is no sixth dtype to promote, print and save,
parameters and optimizers are float32 by construction, and activations take half the memory. bfloat16 lies in
arrays of uint16, as NumPy has no such dtype.
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
from tinygpt_core.kernels.base import _registered, register
from tinygpt_core.shape import Index, Shape, expand_strides, inverse_permutation, reshape_strides

from ..array_buffer import ArrayBuffer
from .sources import BY_EIGHT

C = TypeVar("C", bound="CudaBuffer")
# Name of an array's dtype -> kind
KIND_OF = {"float32": "float32", "float64": "float64", "uint16": "bfloat16", "float16": "float16"}
ARRAY_DTYPE = {kind: name for name, kind in KIND_OF.items()}
THREADS = 256


def kind_of(held: Any) -> str:
    """Returns how the floats of an array lie: "float32", "float64", "bfloat16" or "float16"."""
    return KIND_OF[held.dtype.name]


class CudaBuffer(ArrayBuffer):
    """A Buffer on a CUDA device.

    Attributes:
        held: the elements, in the dtype's own form or, for a float32 Buffer, in 16 bits.
        array: the elements in the dtype's own form: `held`, or a copy of it that later writes do not change.
    """

    __slots__ = ("_bias", "_bounds", "_held", "_others")

    lacks: ClassVar[dict[str, str]] = {"host_memory": "the elements are on a GPU"}
    compute_dtypes: ClassVar[tuple[str, ...]] = ("float32", "tf32", "bfloat16", "float16")
    threads: ClassVar[int] = THREADS  # of a block; a multiple of 32
    blocks: ClassVar[int] = 1 << 16  # the most of a launch that walks over its elements
    # Ids that one block numbers, at most 1024, and rows that one block adds up
    ids_chunk: ClassVar[int] = 1024
    rows_piece: ClassVar[int] = 64
    has_cudnn: ClassVar[bool] = False  # whether the device is one that cuDNN knows
    device_id: ClassVar[int] = 0
    training_step: ClassVar[Any]  # set by `cuda_step`
    # While a graph is recorded: where on the device it stands how far the random stream has moved since
    moved: ClassVar[Any] = None
    # While a graph is recorded: what it will read, to be kept as long as it, and what to fill that with
    # before it runs (None: nothing).
    late_tables: ClassVar[list[tuple[Any, Any]] | None] = None
    # Within it, memory is allocated and work launched on this device
    device_context: ClassVar[Callable[[], Any]] = nullcontext
    # Random numbers that are drawn at a time: a launch each for many steps, whatever their number
    chunk: ClassVar[int] = 1 << 22

    _held: Any
    # A row still to be added to each row of `held`: what a product leaves for the kernel that comes next
    _bias: Any
    _others: dict[str, tuple[int, Any]]  # copies in another form, each with the version it was made of
    _bounds: tuple[int, int, int] | None  # version, smallest and largest integer where the host knows them

    # ---------------------------------------------------------------- the device

    @classmethod
    def launch(cls, name: str, kinds: str, grid: tuple[int, ...], *arguments: Any, block: int = 0) -> None:
        """Runs the kernel `name` for arrays of `kinds` (of TYPES, separated by commas) on a grid of blocks of
        `block` threads.
        """
        raise NotImplementedError

    @classmethod
    def product(cls, a: Any, b: Any, out: Any, fast: bool = False) -> None:
        """out = a b for matrices of one float type, added up in float32 (float64); `out` may be wider.
        `fast`: float32 by way of TF32.
        """
        raise NotImplementedError

    @classmethod
    def batched_product(cls, a: Any, b: Any, out: Any, fast: bool = False, scale: float = 1.0) -> None:
        """out = scale a b for arrays (n, rows, columns) whose matrices are equally far apart."""
        raise NotImplementedError

    @classmethod
    def _add_at(cls, total: Any, indices: Any, values: Any) -> None:
        """total[indices] += values for integers, where repeated indices add up."""
        raise NotImplementedError

    @classmethod
    def why_no_graph(cls) -> str:
        """Returns why a step cannot be recorded as a graph, or ""."""
        return "the device records no graphs"

    @classmethod
    def make_room(cls) -> Any:
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
    def walk(cls, name: str, kinds: str, size: int, *arguments: Any) -> None:
        """Runs an elementwise kernel over `size` elements."""
        if size:
            share = cls.threads * (8 if name in BY_EIGHT else 1)
            cls.launch(name, kinds, (min(-(-size // share), cls.blocks),), *arguments)

    # ---------------------------------------------------------------- forms of the elements

    @property
    def array(self) -> Any:
        """The elements in this dtype's own form, converted where they are held in 16 bits; assigning replaces
        them.
        """
        return self.in_kind(self.dtype.name) if self._is_low() else self.held

    @array.setter
    def array(self, value: Any) -> None:
        self._held, self._bias, self._bounds, self._others = value, None, None, {}

    @property
    def held(self) -> Any:
        """The elements as they lie, a bias that was waiting added."""
        if self._bias is not None:
            bias, self._bias = self._bias, None
            rows, columns, stride = matrix_layout(self._held)
            self.walk(
                "add_bias", kind_of(self._held), rows * columns, self._held, bias, rows, columns, stride
            )
        return self._held

    def take_bias(self) -> tuple[Any, Any]:
        """Returns the elements and the bias that waits to be added to them (or None), which becomes the
        caller's duty.
        """
        bias, self._bias = self._bias, None
        return self._held, bias

    def _is_low(self) -> bool:
        return self._held.dtype.itemsize == 2

    def in_kind(self, kind: str) -> Any:
        """Returns the elements as an array of `kind`: `held`, or a copy, which is kept until the elements
        change.
        """
        held = self.held
        if held.dtype.name == ARRAY_DTYPE[kind]:
            return held
        version, copy = self._others.get(kind, (-1, None))
        if version != self.version[0]:
            copy = self.converted(held, kind)
            self._others[kind] = self.version[0], copy
        return copy

    @classmethod
    def converted(cls, held: Any, kind: str) -> Any:
        """Returns an array in another form, laid out as it is where its elements fill their storage."""
        dense, order = _dense(cls.xp, held)
        result = cls.xp.empty(dense.shape, ARRAY_DTYPE[kind])
        step = dense if "float32" in (kind_of(dense), kind) else cls.converted(dense, "float32")
        cls.walk("cast", f"{kind_of(step)},{kind}", step.size, step, result, step.size)
        return result.transpose(order)

    @classmethod
    def wrap_held(cls: type[C], held: Any, dtype: DType, bias: Any = None) -> C:
        """Returns a float Buffer over an array in any form, with a bias that is still to be added."""
        self = cls.wrap(held, dtype)
        self._bias = bias
        return self

    # ---------------------------------------------------------------- integers that the host knows

    def _with_bounds(self: C, low: int, high: int) -> C:
        self._bounds = self.version[0], low, high
        return self

    @classmethod
    def _from_array(cls: type[C], flat: host_array[Any], shape: Shape, dtype: DType) -> C:
        self = super()._from_array(flat, shape, dtype)
        if dtype.kind == "i" and len(flat):
            known = numpy.frombuffer(flat, dtype.typecode)
            self._with_bounds(int(known.min()), int(known.max()))
        return self

    @classmethod
    def _full(cls: type[C], shape: Shape, value: Any, dtype: DType) -> C:
        # By a kernel whatever the shape: a copy of a number from the host could not be replayed by a graph.
        return cls.wrap(cls.xp.full(shape, value, cls.dtypes[dtype]), dtype)

    @classmethod
    def _arange(cls: type[C], start: Any, step: Any, count: int, dtype: DType) -> C:
        self = super()._arange(start, step, count, dtype)
        last = start + (count - 1) * step
        return (
            self._with_bounds(int(min(start, last)), int(max(start, last)))
            if dtype.kind == "i" and count
            else self
        )

    def _check_indices(self, size: int) -> None:
        """Asks the device only where the host cannot know: waiting for it would cost a step more than its
        arithmetic.
        """
        if (
            self._bounds is not None
            and self._bounds[0] == self.version[0]
            and self._bounds[1] >= 0
            and self._bounds[2] < size
        ):
            return
        super()._check_indices(size)

    # ---------------------------------------------------------------- views, of `held`

    def _view(self: C, result: Any) -> C:
        view = super()._view(result)
        view._bounds = self._bounds  # those of a part lie within those of the whole
        return view

    @property
    def stride(self) -> Shape:  # type: ignore[override]
        return tuple(step // self._held.itemsize for step in self._held.strides)

    def is_contiguous(self) -> bool:
        return bool(self._held.flags.c_contiguous)

    def _reshape(self: C, shape: Shape) -> C:
        held = self.held
        if held.flags.c_contiguous or reshape_strides(self.shape, self.stride, shape) is not None:
            return self._view(held.reshape(shape))
        return self.wrap(held.reshape(shape), self.dtype)

    def _permute(self: C, axes: Shape) -> C:
        return self._view(self.held.transpose(axes))

    def _expand(self: C, shape: Shape) -> C:
        if shape == self.shape:
            return self
        held = self.held
        return self._view(
            self.xp.lib.stride_tricks.as_strided(held, shape, expand_strides(self.shape, held.strides, shape))
        )

    def _slice(self: C, index: Index) -> C:
        return self._view(self.held[(*index, ...)])

    def _copy(self: C) -> C:
        return self.wrap(self.held.copy(order="C"), self.dtype)

    # ---------------------------------------------------------------- writes, to `held`

    def _assign(self: C, value: C) -> None:
        held = self.held
        source = value.in_kind(kind_of(held)) if held.dtype.kind in "fu" else value.array
        # A device copies in no order, so what shares this storage is read whole first.
        held[...] = source.copy() if value.version is self.version else source

    def _accumulate(self: C, value: C) -> None:
        if self._is_low() or value._is_low() or value.version is self.version:
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
        self.add_rows(dense.reshape(dense.shape[0], -1), indices, values.held)
        if dense is not self._held:
            self._assign(self.wrap(dense, self.dtype))

    @classmethod
    def add_rows(cls, total: Any, indices: C, values: Any) -> None:
        """total[indices[i]] += values[i] for a matrix and rows of floats, in an order that is always the
        same; see cuda/rows.cu.
        """
        xp, (classes, columns) = cls.xp, total.shape
        ids = xp.ascontiguousarray(indices.array).reshape(-1).astype("int64", copy=False)
        if not ids.size or not columns:
            return
        values = xp.ascontiguousarray(values)
        size, chunk, piece = ids.size, cls.ids_chunk, cls.rows_piece
        chunks, grid = -(-size // chunk), (-(-size // piece), -(-columns // cls.threads))
        counts, totals, starts = (
            xp.zeros(chunks * classes, "int32"),
            xp.empty(classes, "int32"),
            xp.empty(classes + 1, "int32"),
        )
        ranks, ordered = xp.empty(size, "int32"), xp.empty(size, "int32")
        partial = xp.empty((grid[0], 2, columns), total.dtype)
        cls.launch("rank_ids", "", (chunks,), ids, counts, ranks, size, classes, chunk)
        cls.walk("scan_chunks", "", classes, counts, totals, chunks, classes)
        cls.launch("scan_counts", "", (1,), totals, starts, classes)
        cls.walk("place_ids", "", size, ids, starts, counts, ranks, ordered, size, classes, chunk)
        cls.launch(
            "add_rows", kind_of(values), grid, total, values, ids, ordered, partial, size, columns, piece
        )
        cls.launch(
            "join_rows", kind_of(total), grid, total, partial, ids, ordered, starts, size, columns, piece
        )

    # ---------------------------------------------------------------- arithmetic that reads 16 bits

    def _add(self: C, other: C) -> C:
        if (
            self.dtype is not DType.float32
            or self.shape != other.shape
            or not (self._is_low() or other._is_low())
        ):
            return super()._add(other)
        wide, low = (other, self) if self._is_low() else (self, other)
        if wide._is_low() and wide._held.dtype != low._held.dtype:
            return super()._add(other)
        a, (b, bias) = wide.held, low.take_bias()
        if not (a.flags.c_contiguous and b.flags.c_contiguous):
            low._bias = bias
            return super()._add(other)
        result = self.xp.empty(self.shape, a.dtype)
        kinds = f"{kind_of(a)},{kind_of(b)},{kind_of(a)}"
        self.walk("add", kinds, a.size, a, b, bias, result, a.size, a.shape[-1] if a.ndim else 1)
        low._bias = bias  # `low` itself is as it was
        return self.wrap(result, self.dtype)

    def _sum_of_squares(self) -> float:
        return (
            float((self.array.astype("float64") ** 2).sum())
            if self.dtype.kind == "f"
            else super()._sum_of_squares()
        )

    # ---------------------------------------------------------------- other libraries

    @classmethod
    def _from_foreign(cls: type[C], data: Any) -> C | Any:
        on_host = not hasattr(data, "__dlpack_device__") or data.__dlpack_device__()[0] == 1
        return super()._from_foreign(cls._host_array(data) if on_host else data)

    @classmethod
    def _host_array(cls, data: Any) -> Any:
        try:
            if hasattr(data, "__array_interface__"):
                host = numpy.asarray(data)
            else:
                host = (
                    numpy.from_dlpack(data)
                    if hasattr(data, "__dlpack__")
                    else numpy.asarray(memoryview(data))
                )
        except (TypeError, ValueError, BufferError, RuntimeError):
            return data
        # Asked here, because CuPy would turn the bytes of a big-endian array round without a word, and knows
        # no texts and dates.
        if host.dtype not in cls.dtypes.values():
            raise no_dtype_holds(host.dtype)
        return cls.xp.asarray(host)


def bound(kind: type[CudaBuffer], name: str, number: int, device: Callable[[], Any]) -> type[CudaBuffer]:
    """Returns a subclass of a CudaBuffer for device `number`, called `name`: all it does on the device
    happens within `device()`.

    That is every hook of the contract, and the forward and the backward of every kernel, with what a backward
    leaves to be called later.
    """
    attributes: dict[str, Any] = {
        "__slots__": (),
        "backend": name,
        "device_id": number,
        "device_context": staticmethod(device),
    }
    for hook in dir(kind):
        found = inspect.getattr_static(kind, hook)
        if isinstance(found, property) and hook in ("array", "held"):
            attributes[hook] = property(_within(device, found.fget), found.fset)
        elif hook.startswith("__") or hook in (
            "check_backend",
            "_backend",
            "_address",
            "_host_array",
            "_not",
            "_promoted_pair",
        ):
            continue
        elif isinstance(found, classmethod):
            attributes[hook] = classmethod(_within(device, found.__func__))
        elif inspect.isfunction(found):
            attributes[hook] = _within(device, found)
    made: Any = type(f"{kind.__name__}{number}", (kind,), attributes)
    for (kernel, base), implementation in list(_registered.items()):
        if issubclass(kind, base):
            here = {
                pass_name: staticmethod(_within(device, getattr(implementation, pass_name)))
                for pass_name in ("forward", "backward")
            }
            own: Any = type(implementation.__name__, (implementation,), here)
            register(kernel, made, own)
    return made


def _within(device: Callable[[], Any], function: Any) -> Any:
    @wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        with device():
            result = function(*arguments, **options)
        if isinstance(result, tuple) and any(inspect.isfunction(part) for part in result):
            return tuple(_within(device, part) if inspect.isfunction(part) else part for part in result)
        return result

    return call


def matrix_layout(held: Any) -> tuple[int, int, int]:
    """Returns rows, columns and the distance of two rows of an array that is a matrix once its leading axes
    are one.
    """
    columns = held.shape[-1]
    rows = held.size // columns if columns else 0
    return rows, columns, held.strides[-2] // held.itemsize if held.ndim > 1 and rows > 1 else columns


def _dense(xp: Any, held: Any) -> tuple[Any, tuple[int, ...]]:
    """Returns the elements in C order and how to transpose them back, without a copy where some order of axes
    is C order.
    """
    axes = sorted(range(held.ndim), key=lambda axis: -held.strides[axis])
    turned = held.transpose(axes)
    if not turned.flags.c_contiguous:
        axes, turned = list(range(held.ndim)), xp.ascontiguousarray(held)
    return turned, inverse_permutation(axes)
