"""What the arrays of a CUDA device share, whoever provides them: CuPy on a GPU, or the emulation on a CPU
that the tests run.

A subclass binds a namespace of arrays and four ways to the device (`launch`, `product`, `batched_product`,
`_add_at`). Everything else is here and in `kernels`, so what the tests run without a GPU is what runs on one.
The kernels serve float32; float64 is computed by the core's composed ones.

**Where 16-bit numbers live.** A Buffer's dtype is float32 whatever autocast is in force: it says what an
operation that knows nothing of autocast reads and computes. But a product or a fused kernel under
`autocast("bfloat16")` leaves its result in 16 bits, in `stored`, and the next such kernel reads it there.
Everyone else asks for `array` and gets it widened. So there is no sixth dtype to promote, print and save,
parameters and optimizers are float32 by construction, and activations take half the memory.

How the numbers of an array are stored is its *format*: "float32", "float64", "bfloat16" or "float16". Those
of bfloat16 lie in arrays of uint16, as NumPy has no such dtype.

**Work that waits.** Within a training step a kernel may return a Buffer whose elements are not computed yet:
it keeps the work (`Waiting`), and whoever asks for the elements has it launched; until then they have a shape
and no memory (`Promised`). A kernel that knows how to
do it on its own way through the elements takes it over instead: GELU takes a product over and lets cuBLASLt
apply it, layer norm an addition, and so on. What waits is launched before anything is written to in place.
"""

from __future__ import annotations

import math
from array import array as host_array
from typing import Any, ClassVar, NamedTuple, TypeVar
from weakref import WeakSet

import numpy

from tinygpt_core.buffer.base import no_dtype_holds
from tinygpt_core.dtype import DType
from tinygpt_core.shape import Index, Shape, inverse_permutation, reshape_strides

from ..array_buffer import ArrayBuffer
from .sources import BY_EIGHT

C = TypeVar("C", bound="CudaBuffer")
W = TypeVar("W", bound="Waiting")
# Name of an array's dtype -> format
FORMAT_OF = {"float32": "float32", "float64": "float64", "uint16": "bfloat16", "float16": "float16"}
ARRAY_DTYPE = {fmt: name for name, fmt in FORMAT_OF.items()}
THREADS = 256


def format_of(array: Any) -> str:
    """Returns how the floats of an array are stored: "float32", "float64", "bfloat16" or "float16"."""
    return FORMAT_OF[array.dtype.name]


class Epilogue(NamedTuple):
    """What is done to a product before it is written, see `cublaslt`.

    Attributes:
        name: "bias": out = a b + vector. "gelu": auxiliary = a b (+ vector), out = gelu(auxiliary), in the
            tanh form. "gelu_gradient": out = a b times the slope of gelu at auxiliary. "column_sums":
            vector = the sums down the columns of b, beside out = a b.
        vector: of as many numbers as out has columns, in out's format, or None.
        auxiliary: a matrix of out's shape and format, or None.
    """

    name: str
    vector: Any = None
    auxiliary: Any = None


class Promised(NamedTuple):
    """What is known of an array that is not there yet: all but where it lies.

    Attributes:
        shape, dtype, strides: as of an ndarray.
    """

    shape: Shape
    dtype: Any
    strides: tuple[int, ...]

    @classmethod
    def of(cls, shape: Shape, fmt: str, gap: int = 0) -> Promised:
        """Returns the promise of a dense array, or of one with so many elements between its rows."""
        dtype = numpy.dtype(ARRAY_DTYPE[fmt])
        stored = (*shape[:-1], shape[-1] + gap) if shape else shape
        steps = [dtype.itemsize * math.prod(stored[axis + 1 :]) for axis in range(len(shape))]
        return cls(tuple(shape), dtype, tuple(steps))

    @property
    def is_dense(self) -> bool:
        """Whether nothing lies between its elements."""
        return self == Promised.of(self.shape, FORMAT_OF[self.dtype.name])


class Waiting:
    """Work that computes the elements of a Buffer and has not been launched yet.

    Attributes:
        out: the array that holds them; until the work is done, what is promised of it. Elements that another
            kernel takes over never have memory.
        is_done: whether the elements are in `out`.
    """

    def __init__(self, kind: type[CudaBuffer], promised: Promised) -> None:
        self.kind = kind
        self.out: Any = promised
        self.is_done = False
        if kind.may_wait:
            kind.all_waiting.add(self)
        else:
            self.run()

    def launch(self) -> Any:
        """Launches the work as it is, and returns the array with the elements."""
        raise NotImplementedError

    def finish(self, out: Any) -> None:
        """Notes that the elements are in `out`: somebody has computed them there."""
        self.out = out
        self.is_done = True

    def run(self) -> Any:
        """Returns the elements, computed now if they were not yet."""
        if not self.is_done:
            self.finish(self.launch())
        return self.out


class CudaBuffer(ArrayBuffer):
    """A Buffer on a CUDA device.

    Attributes:
        stored: the elements as they are stored: in the dtype's own format or, for a float32 Buffer, in 16
            bits.
        array: the elements in the dtype's own format: `stored`, or a copy of it that later writes do not
            change.
    """

    __slots__ = ("_conversions", "_known_range", "_permuted", "_stored", "_waiting")

    lacks: ClassVar[dict[str, str]] = {"host_memory": "the elements are on a GPU"}
    compute_dtypes: ClassVar[tuple[str, ...]] = ("float32", "tf32", "bfloat16", "float16")
    threads: ClassVar[int] = THREADS  # of a block; a multiple of 32
    threads_of_long_rows: ClassVar[int] = 1024  # of a block that has one row of logits to itself
    blocks: ClassVar[int] = 1 << 16  # the most of a launch that goes over its elements
    # Ids that one block numbers, at most 1024, and rows that one block adds up
    ids_chunk: ClassVar[int] = 1024
    rows_piece: ClassVar[int] = 64
    # Rows that a block of the norms' backward adds up, one after the other, at most
    norm_rows: ClassVar[int] = 32
    shared_memory: ClassVar[int] = 48 << 10  # bytes that a block may have
    # Rows of logits that a training step has in memory at a time; 0: all, which is faster
    logit_rows: ClassVar[int] = 0
    has_cudnn: ClassVar[bool] = False  # whether the device is one that cuDNN knows
    training_step: ClassVar[Any]  # set by `step`
    # While a graph is recorded: an int64 on the device, how many blocks the random stream has moved on since
    random_offset: ClassVar[Any] = None
    # Within a training step: whether work may wait, all that does, and the gradient that each loss will get
    may_wait: ClassVar[bool] = False
    all_waiting: ClassVar[WeakSet[Waiting]] = WeakSet()
    loss_scale: ClassVar[float | None] = None
    # While a graph is recorded: what it will read and did not write itself, see `kept_for_graph`
    graph_tables: ClassVar[GraphTables | None] = None
    # Random numbers that are drawn at a time: a launch each for many steps, whatever their number
    chunk: ClassVar[int] = 1 << 22

    _stored: Any
    # What will compute the elements, where that has not been done
    _waiting: Waiting | None
    # The Buffer and the order of its axes of which this one is a view, where it is one of all its elements
    _permuted: tuple[CudaBuffer, Shape] | None
    # Copies in another format, each with the version of which it was made
    _conversions: dict[str, tuple[int, Any]]
    # Version, smallest and largest integer where the host knows them
    _known_range: tuple[int, int, int] | None

    # ---------------------------------------------------------------- the device

    @classmethod
    def launch(
        cls, name: str, formats: str, grid: tuple[int, ...], *arguments: Any, block: int = 0, shared: int = 0
    ) -> None:
        """Runs the kernel `name` for arrays of `formats` (separated by commas) on a grid of blocks of `block`
        threads, with so many bytes of shared memory each beside those that the kernel names itself.
        """
        raise NotImplementedError

    @classmethod
    def product(
        cls, a: Any, b: Any, out: Any, fast: bool = False, epilogue: Epilogue | None = None, add: bool = False
    ) -> bool:
        """Writes out = a b for matrices of one float format, added up in float32 (float64); `out` may be
        wider. `fast`: float32 by way of TF32. `add`: out += a b instead, without an epilogue.

        Returns:
            Whether it could: False where the epilogue is not to be had, and nothing is written.
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
        `work` returned. Within `outside()` memory is that of everybody; `free()` gives back what nobody uses.
        """
        raise NotImplementedError

    @classmethod
    def why_not_recorded(cls, problem: BaseException) -> str:
        """Returns what a recording is known to refuse, where that is what an error says; else ""."""
        return ""

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

    # ---------------------------------------------------------------- work that waits

    @classmethod
    def launch_waiting(cls) -> None:
        """Launches all that waits: something that it reads is about to be written to."""
        for work in list(cls.all_waiting):
            work.run()
        cls.all_waiting.clear()

    def _check_writable(self) -> None:
        super()._check_writable()
        self.launch_waiting()

    def waiting_for(self, which: type[W]) -> W | None:
        """Returns the work that this Buffer's elements wait for, where it is of that class; else None.

        Who does it on the way and has the elements, too, says so by `finish`. Who only needs what comes of
        them leaves it waiting, for others who may ask.
        """
        work = self._waiting
        return work if isinstance(work, which) and not work.is_done else None

    def wait_for(self, work: Waiting) -> None:
        """Has the elements be those that `work` computes; whatever they were is let go."""
        self.array = work.out
        self._waiting = None if work.is_done else work

    @classmethod
    def wrap_waiting(cls: type[C], work: Waiting, dtype: DType = DType.float32) -> C:
        """Returns a Buffer whose elements `work` computes."""
        self = object.__new__(cls)
        self.wait_for(work)
        self.shape = work.out.shape
        self.dtype = dtype
        self.version = [0]
        return self

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
        self._waiting = None
        self._permuted = None
        self._conversions = {}
        self._known_range = None

    @property
    def stored(self) -> Any:
        """The elements as they are stored."""
        if self._waiting is not None:
            self._stored = self._waiting.run()
            self._waiting = None
        return self._stored

    def _is_16_bit(self) -> bool:
        return self._stored.dtype.itemsize == 2

    def in_format(self, fmt: str) -> Any:
        """Returns the elements as an array in a format: `stored`, or a copy, which is kept until the elements
        change.
        """
        if self._stored.dtype.name == ARRAY_DTYPE[fmt]:
            return self.stored
        # Weights that are read as they are and transposed have one copy
        if self._permuted is not None:
            whole, axes = self._permuted
            return whole.in_format(fmt).transpose(axes)
        version, copy = self._conversions.get(fmt, (-1, None))
        if version != self.version[0]:
            copy = self.convert(self.stored, fmt)
            self.keep_conversion(copy)
        return copy

    def keep_conversion(self, copy: Any) -> None:
        """Keeps what somebody has made of the elements in another format, until they change."""
        self._conversions[format_of(copy)] = self.version[0], copy

    def has_conversion(self, copy: Any) -> bool:
        """Whether this very array is known to hold the elements as they are now."""
        version, kept = self._conversions.get(format_of(copy), (-1, None))
        return kept is copy and version == self.version[0]

    def convert_into(self, copy: Any) -> None:
        """Writes the elements into an array of their shape in another format, and keeps it; both dense."""
        formats = f"{format_of(self.stored)},{format_of(copy)}"
        self.launch_elementwise("cast", formats, copy.size, self.stored, copy, copy.size)
        self.keep_conversion(copy)

    def forget_conversions(self) -> None:
        """Has the elements converted again when they are next asked for in another format."""
        self._conversions = {}

    @classmethod
    def convert(cls, array: Any, fmt: str) -> Any:
        """Returns an array in another format, laid out as it is where its elements fill their storage."""
        dense, order = _dense(cls.xp, array)
        result = cls.xp.empty(dense.shape, ARRAY_DTYPE[fmt])
        if "float32" not in (format_of(dense), fmt):  # `cast` knows the way by float32 only
            dense = cls.convert(dense, "float32")
        cls.launch_elementwise("cast", f"{format_of(dense)},{fmt}", dense.size, dense, result, dense.size)
        return result.transpose(order)

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
        return tuple(step // self._stored.dtype.itemsize for step in self._stored.strides)

    def is_contiguous(self) -> bool:
        known = self._stored
        return known.is_dense if isinstance(known, Promised) else bool(known.flags.c_contiguous)

    def _reshape(self: C, shape: Shape) -> C:
        stored = self.stored
        if stored.flags.c_contiguous or reshape_strides(self.shape, self.stride, shape) is not None:
            return self._view(stored.reshape(shape))
        return self.wrap(stored.reshape(shape), self.dtype)

    def _permute(self: C, axes: Shape) -> C:
        view = self._view(self.stored.transpose(axes))
        view._permuted = self, axes
        return view

    def _expand(self: C, shape: Shape) -> C:
        return self if shape == self.shape else self._view(self._expanded(self.stored, shape))

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
        counts = xp.empty(chunks * classes, "int32")
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

    # ---------------------------------------------------------------- products

    def _matmul(self: C, other: C, shape: Shape) -> C:
        """By cuBLASLt, as all products: CuPy's own calls of cuBLAS cannot be recorded."""
        if self.dtype.kind != "f":
            return super()._matmul(other, shape)
        a, b = self.array, other.array
        out = self.xp.empty(shape, a.dtype)
        *outer, rows, columns = shape
        count = math.prod(outer)
        if b.ndim == 2 and a.flags.c_contiguous:  # the rows of all matrices are those of one
            self.product(a.reshape(count * rows, a.shape[-1]), b, out.reshape(count * rows, columns))
        else:
            first, second = (
                self._expanded(x, (*outer, *x.shape[-2:])).reshape(count, *x.shape[-2:]) for x in (a, b)
            )
            self.batched_product(first, second, out.reshape(count, rows, columns))
        return self.wrap(out, self.dtype)

    # ---------------------------------------------------------------- arithmetic that reads 16 bits

    def _add(self: C, other: C) -> C:
        if self.dtype is not DType.float32 or self.shape != other.shape:
            return super()._add(other)
        for one, two in ((self, other), (other, self)):
            term = two.waiting_for(WaitingTerm)
            if term is not None:
                return type(self).wrap_sum(term, one)
        wide, low = (other, self) if self._is_16_bit() else (self, other)
        if not low._is_16_bit() or (wide._is_16_bit() and wide._stored.dtype != low._stored.dtype):
            return super()._add(other)
        if not wide.is_contiguous() or not low.is_contiguous():
            return super()._add(other)
        return self.wrap_waiting(WaitingSum(type(self), wide.stored, low.stored))

    @classmethod
    def wrap_sum(cls: type[C], work: WaitingTerm, other: C) -> C:
        """Returns the sum of a Buffer and of what `work` computes."""
        total, conversions = work.added_to(other)
        result = cls.wrap(total, DType.float32)
        for copy in conversions:
            result.keep_conversion(copy)
        return result

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


class WaitingTerm(Waiting):
    """Work that can add its result to something at little cost."""

    def added_to(self, other: Any) -> tuple[Any, list[Any]]:
        """Launches it and returns the sum of a Buffer of its shape and its result, and copies of that in
        other formats.
        """
        raise NotImplementedError


class WaitingSum(Waiting):
    """out = a + b, in the format of a: the residual stream, and what a product adds to it."""

    def __init__(self, kind: type[CudaBuffer], a: Any, b: Any) -> None:
        self.a = a
        self.b = b
        super().__init__(kind, Promised.of(a.shape, format_of(a)))

    def launch(self) -> Any:
        out = self.kind.xp.empty(self.a.shape, self.a.dtype)
        formats = f"{format_of(self.a)},{format_of(self.b)},{format_of(out)}"
        self.kind.launch_elementwise("add", formats, out.size, self.a, self.b, out, out.size)
        return out


class GraphTables:
    """What a graph reads and does not write itself: tables that the host fills once, before its first launch.

    They must not lie in memory that the graph writes, so they come from outside of its pool, and they are
    kept as long as it.

    Args:
        outside: a context within which memory is that of everybody.
    """

    def __init__(self, outside: Any) -> None:
        self.outside = outside
        self.kept: list[Any] = []
        self.to_fill: list[tuple[Any, Any]] = []
        self.by_name: dict[Any, Any] = {}

    def add(self, kind: type[CudaBuffer], host: Any) -> Any:
        """Returns an array on the device that will hold what an ndarray of the host's holds."""
        with self.outside():
            device = kind.xp.empty(host.shape, host.dtype)
        self.to_fill.append((device, host))
        self.kept.append(device)
        return device

    def named(self, kind: type[CudaBuffer], name: Any, hosts: Any) -> Any:
        """Returns `add` of several ndarrays, the same ones whenever they are asked for by that name."""
        if name not in self.by_name:
            self.by_name[name] = tuple(self.add(kind, host) for host in hosts)
        return self.by_name[name]

    def fill(self, kind: type[CudaBuffer]) -> None:
        """Fills all tables."""
        for device, host in self.to_fill:
            kind.upload(device, host)
        self.to_fill = []


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
