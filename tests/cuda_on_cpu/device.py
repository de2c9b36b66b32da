"""A device's memory and its graphs, imitated: arrays in an arena that is shared out by CuPy's policy, and
recordings of work that does not run until they are launched.

Every piece of work on these arrays, be it a kernel of ours, a product or one of NumPy's functions that stands
in for CuPy's, goes through `Device.do`. Outside of a recording it runs at once. Within one it is kept, as
`(name, function, addresses)`, and nothing runs; a replay does that work again at those addresses, and calls
no Python of the step. So what a real graph gets wrong goes wrong here: memory that others were given
meanwhile, a copy that was not recorded because it was there already, a number that the host has changed
since.

What a capture refuses is refused: reading a result on the host, and copying something from the host.

The pool follows CuPy 14.2, `cupy/cuda/memory.pyx`: sizes are rounded up to 512 bytes; the smallest free chunk
that is large enough is split; a freed chunk is merged with free neighbours; only where there is none is
memory asked of the device, and freed chunks are not given back.
"""

from __future__ import annotations

import mmap
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple

import numpy

UNIT = 512  # bytes, to multiples of which sizes are rounded up


# ---------------------------------------------------------------- memory


class Chunk:
    """A part of what the device gave at once, between its neighbours."""

    __slots__ = ("address", "following", "is_free", "previous", "size")

    def __init__(self, address: int, size: int) -> None:
        self.address = address
        self.size = size
        self.is_free = False
        self.previous: Chunk | None = None
        self.following: Chunk | None = None


class Block:
    """Memory that somebody has; it goes back to its pool when nobody has it any more."""

    def __init__(self, pool: Pool, chunk: Chunk, size: int) -> None:
        self.pool = pool
        self.chunk = chunk
        self.__array_interface__ = {
            "shape": (size,),
            "typestr": "|u1",
            "data": (chunk.address, False),
            "version": 3,
        }

    def __del__(self) -> None:
        self.pool.free(self.chunk)


class Pool:
    """CuPy's memory pool."""

    def __init__(self) -> None:
        self.bins: dict[int, dict[int, Chunk]] = {}  # free chunks by their sizes and addresses
        self.sizes: list[int] = []  # of the bins that are not empty, in ascending order
        self.is_busy = False
        self.freed_meanwhile: list[Chunk] = []  # by the garbage collector, which may run anywhere
        # Stays mapped, so that a wild address reads and does not crash
        self.from_device: list[mmap.mmap] = []
        self.total_bytes = 0
        self.used_bytes = 0
        self.peak_bytes = 0

    def malloc(self, size: int) -> Block:
        """Returns so much memory: the smallest free chunk that is large enough, else new memory."""
        self.is_busy = True
        try:
            chunk = self._chunk(size)
            self.used_bytes += chunk.size
            self.peak_bytes = max(self.peak_bytes, self.used_bytes)
        finally:
            self.is_busy = False
        while self.freed_meanwhile:
            self.free(self.freed_meanwhile.pop())
        return Block(self, chunk, size)

    def _chunk(self, size: int) -> Chunk:
        rounded = max(-(-size // UNIT), 1) * UNIT
        place = bisect_left(self.sizes, rounded)
        if place < len(self.sizes):
            # CuPy pops one of a set of equal ones: any. Here the one that was freed last
            chunk = self._take(next(reversed(self.bins[self.sizes[place]].values())))
            if chunk.size > rounded:
                self._split(chunk, rounded)
        else:
            memory = Device.map(rounded)
            self.from_device.append(memory)
            address = numpy.frombuffer(memory, numpy.uint8).__array_interface__["data"][0]
            chunk = Chunk(address, rounded)
            self.total_bytes += rounded
        return chunk

    def _split(self, chunk: Chunk, size: int) -> None:
        rest = Chunk(chunk.address + size, chunk.size - size)
        rest.previous, rest.following = chunk, chunk.following
        if rest.following is not None:
            rest.following.previous = rest
        chunk.size, chunk.following = size, rest
        self._keep(rest)

    def _keep(self, chunk: Chunk) -> None:
        """Puts a chunk among the free ones."""
        chunk.is_free = True
        if chunk.size not in self.bins:
            self.bins[chunk.size] = {}
            insort(self.sizes, chunk.size)
        self.bins[chunk.size][chunk.address] = chunk

    def _take(self, chunk: Chunk) -> Chunk:
        """Takes a chunk from among the free ones, and returns it."""
        chunk.is_free = False
        del self.bins[chunk.size][chunk.address]
        if not self.bins[chunk.size]:
            del self.bins[chunk.size]
            self.sizes.remove(chunk.size)
        return chunk

    def free(self, chunk: Chunk) -> None:
        """Takes a chunk back, and makes one of it and of free neighbours."""
        if self.is_busy:
            self.freed_meanwhile.append(chunk)
            return
        self.is_busy = True
        self._free(chunk)
        self.is_busy = False

    def _free(self, chunk: Chunk) -> None:
        self.used_bytes -= chunk.size
        for first, second in ((chunk, chunk.following), (chunk.previous, chunk)):
            if first is None or second is None:
                continue
            other = second if first is chunk else first
            if not other.is_free:
                continue
            self._take(other)
            first.size += second.size
            first.following = second.following
            if first.following is not None:
                first.following.previous = first
            chunk = first
        self._keep(chunk)

    def free_all_blocks(self) -> None:
        """Gives back to the device what is free and whole."""
        for chunk in [chunk for free in self.bins.values() for chunk in free.values()]:
            if chunk.previous is None and chunk.following is None:
                self._take(chunk)
                self.total_bytes -= chunk.size


# ---------------------------------------------------------------- work


class Work(NamedTuple):
    """A piece of recorded work.

    Attributes:
        name: of a kernel, `product`, `memset`, or a function of NumPy's that stands in for CuPy's.
        run: does it.
        arrays: what it reads and writes, as arrays at addresses that hold no memory alive.
        details: what tells it from others of its name.
    """

    name: str
    run: Callable[[], Any]
    arrays: tuple[Any, ...]
    details: Any = None


class CaptureRefused(RuntimeError):
    """What a stream that is recorded does not allow."""


class Recorded:
    """A graph: pieces of work in their order."""

    def __init__(self) -> None:
        self.work: list[Work] = []
        self.launches = 0

    def launch(self) -> None:
        """Does all the work again, where it was recorded."""
        self.launches += 1
        if Device.is_dry:
            return
        with numpy.errstate(all="ignore"):
            for piece in self.work:
                piece.run()

    def names(self) -> list[str]:
        """Returns the names of its work, in order."""
        return [piece.name for piece in self.work]


class Device:
    """The device there is: which pool gives memory, and what becomes of work."""

    default_pool: ClassVar[Pool]
    pool: ClassVar[Pool]
    graph: ClassVar[Recorded | None] = None  # the one that is being recorded
    is_dry: ClassVar[bool] = False  # whether nothing ever runs: for plans of sizes that no CPU computes

    @classmethod
    def map(cls, size: int) -> mmap.mmap:
        """Returns memory that takes room only where it is written to."""
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
        return mmap.mmap(-1, size, flags=flags)

    @classmethod
    def empty(cls, shape: Any, dtype: Any = "float64") -> DeviceArray:
        """Returns an array in new memory, with bytes of 255 in it: NaN in every format, -1 as an integer."""
        dtype = numpy.dtype(dtype)
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        size = dtype.itemsize
        for axis in shape:
            size *= axis
        memory = numpy.asarray(cls.pool.malloc(size))
        if cls.graph is None and not cls.is_dry:
            memory[...] = 255
        return memory.view(dtype).reshape(shape).view(DeviceArray)

    @classmethod
    def do(cls, name: str, run: Callable[..., Any], arrays: tuple[Any, ...], details: Any = None) -> None:
        """Does a piece of work, `run(*arrays at their addresses)`, now or when the recording is launched."""
        raw = tuple(at_address(array) for array in arrays)
        piece = Work(name, lambda: run(*raw), raw, details)
        if cls.graph is not None:
            cls.graph.work.append(piece)
            return
        if not cls.is_dry:
            with numpy.errstate(all="ignore"):
                piece.run()

    @classmethod
    def read(cls, array: Any) -> Any:
        """Returns an array's elements on the host, which waits for all work."""
        if cls.graph is not None:
            raise CaptureRefused("operation not permitted when stream is capturing: a result on the host")
        if cls.is_dry:
            return numpy.zeros(array.shape, array.dtype)
        return numpy.array(at_address(array))

    @classmethod
    def write(cls, array: Any, host: Any) -> None:
        """Copies an array of the host's into one on the device."""
        if cls.graph is not None:
            raise CaptureRefused("operation not permitted when stream is capturing: a copy from the host")
        if not cls.is_dry:
            at_address(array)[...] = host

    @classmethod
    @contextmanager
    def recording(cls) -> Iterator[Recorded]:
        """Within it, work is recorded instead of done."""
        assert cls.graph is None
        cls.graph = Recorded()
        try:
            yield cls.graph
        finally:
            cls.graph = None


Device.default_pool = Device.pool = Pool()


class Capture:
    """What `new_graph_capture` of a Buffer class returns: memory of its own, and recordings."""

    def __init__(self) -> None:
        self.pool = Pool()
        self.recorded: list[Recorded] = []

    def __enter__(self) -> None:
        self.outer = Device.pool
        Device.pool = self.pool

    def __exit__(self, *problem: object) -> None:
        Device.pool = self.outer

    @contextmanager
    def outside(self) -> Iterator[None]:
        """Within it, memory comes from the pool for everything else."""
        Device.pool = self.outer
        try:
            yield
        finally:
            Device.pool = self.pool

    def record(self, work: Callable[[], Any]) -> tuple[Any, Any]:
        """Returns what `work` does as a graph, and what it returns. Nothing runs yet."""
        with Device.recording() as graph:
            result = work()
        self.recorded.append(graph)
        return graph, result

    def free(self) -> None:
        """Gives back the memory that nobody uses."""
        self.pool.free_all_blocks()

    @property
    def launches(self) -> int:
        """How many steps were replayed."""
        return sum(graph.launches for graph in self.recorded)


class Address:
    """Says to NumPy where an array lies, and keeps no memory alive."""

    def __init__(self, array: Any) -> None:
        self.__array_interface__ = {
            "shape": array.shape,
            "strides": array.strides,
            "typestr": array.dtype.str,
            "data": (array.__array_interface__["data"][0], False),
            "version": 3,
        }


def at_address(array: Any) -> Any:
    """Returns a plain ndarray where a DeviceArray lies; anything else as it is."""
    if not isinstance(array, DeviceArray):
        return array
    return numpy.asarray(Address(array)) if array.size else numpy.empty(array.shape, array.dtype)


# ---------------------------------------------------------------- arrays


class DeviceArray(numpy.ndarray):
    """An ndarray in the arena. Views are NumPy's own; whatever computes goes through `Device.do`."""

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        function = getattr(ufunc, method)
        target = out[0] if out else None
        if target is None:
            return compute(f"{ufunc.__name__}.{method}", function, inputs, options)
        Device.do(
            ufunc.__name__, lambda result, *given: function(*given, out=result, **options), (target, *inputs)
        )
        return target

    def __array_function__(self, function: Any, types: Any, arguments: Any, options: Any) -> Any:
        return compute(function.__name__, function, arguments, options)

    def __getitem__(self, index: Any) -> Any:
        parts = index if isinstance(index, tuple) else (index,)
        if any(isinstance(part, (numpy.ndarray, list)) for part in parts):
            return compute("getitem", lambda array, index: array[index], (self, index), {})
        return super().__getitem__(_with_ellipsis(parts))

    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(index, numpy.ndarray):
            Device.do(
                "scatter", lambda target, index, value: _put(target, index, value), (self, index, value)
            )
            return
        target = super().__getitem__(_with_ellipsis(index if isinstance(index, tuple) else (index,)))
        if isinstance(value, numpy.ndarray) and not isinstance(value, DeviceArray):
            Device.write(target, value)
            return
        Device.do("copy", _assign, (target, value))

    def fill(self, value: Any) -> None:
        Device.do("memset", lambda target: target.fill(value), (self,))

    def copy(self, order: Any = "C") -> Any:
        result = Device.empty(self.shape, self.dtype)
        Device.do("copy", _assign, (result, self))
        return result

    def astype(self, dtype: Any, copy: bool = True) -> Any:
        if not copy and self.dtype == numpy.dtype(dtype):
            return self
        return compute("astype", lambda array: array.astype(dtype), (self,), {})

    def reshape(self, *shape: Any, **options: Any) -> Any:
        wanted = shape[0] if len(shape) == 1 else shape
        try:
            return numpy.ndarray.reshape(self, wanted, copy=False)
        except ValueError:  # no view can have that shape; or none at all, which the copy says again
            return numpy.ndarray.reshape(self.copy(), wanted)

    def argmax(self, *arguments: Any, **options: Any) -> Any:
        return compute("argmax", numpy.ndarray.argmax, (self, *arguments), options)

    def set(self, host: Any) -> None:
        Device.write(self, host)

    def get(self) -> Any:
        return Device.read(self)

    def item(self, *index: Any) -> Any:
        return Device.read(self).item(*index)

    def tolist(self) -> Any:
        return Device.read(self).tolist()

    def tobytes(self, order: Any = "C") -> bytes:
        return bytes(Device.read(self).tobytes())

    def __float__(self) -> float:
        return float(Device.read(self))

    def __int__(self) -> int:
        return int(Device.read(self))

    def __bool__(self) -> bool:
        return bool(Device.read(self))


def _with_ellipsis(parts: tuple[Any, ...]) -> tuple[Any, ...]:
    """Returns an index that gives an array of no axes rather than a number."""
    return parts if any(part is Ellipsis for part in parts) else (*parts, ...)


def _assign(target: Any, value: Any) -> None:
    target[...] = value


def _put(target: Any, index: Any, value: Any) -> None:
    target[index] = value


def compute(name: str, function: Any, inputs: Any, options: Any, shape: Any = None) -> Any:
    """Returns a new array with what a function of NumPy's makes of its inputs; how large it is, is found out
    without looking at their elements, unless `shape` says it (and the dtype is that of the first input).
    """
    arrays: list[Any] = []

    def taken_apart(value: Any) -> Any:
        """The same with arrays replaced by their number."""
        if isinstance(value, DeviceArray):
            arrays.append(value)
            return _Number(len(arrays) - 1)
        if isinstance(value, (list, tuple)):
            return type(value)(taken_apart(part) for part in value)
        return value

    def put_together(value: Any, given: Any) -> Any:
        if isinstance(value, _Number):
            return given[value.number]
        if isinstance(value, (list, tuple)):
            return type(value)(put_together(part, given) for part in value)
        return value

    form = taken_apart(tuple(inputs))
    if "out" in options:
        options = {key: value for key, value in options.items() if key != "out"}
    if shape is None:
        samples = [numpy.broadcast_to(numpy.zeros((), array.dtype), array.shape) for array in arrays]
        with numpy.errstate(all="ignore"):
            sample = numpy.asarray(function(*put_together(form, samples), **options))
        result = Device.empty(sample.shape, sample.dtype)
    else:
        result = Device.empty(shape, arrays[0].dtype)

    def run(target: Any, *given: Any) -> None:
        target[...] = function(*put_together(form, given), **options)

    Device.do(name, run, (result, *arrays))
    return result


class _Number(NamedTuple):
    number: int


class _StrideTricks:
    @staticmethod
    def as_strided(array: Any, shape: Any, strides: Any) -> Any:
        return numpy.lib.stride_tricks.as_strided(array, shape, strides, subok=True)


class _Lib:
    stride_tricks = _StrideTricks()


class Arrays:
    """The namespace that stands in for `cupy`."""

    ndarray = DeviceArray
    lib = _Lib()
    empty = staticmethod(Device.empty)

    @staticmethod
    def zeros(shape: Any, dtype: Any = "float64") -> Any:
        array = Device.empty(shape, dtype)
        array.fill(0)
        return array

    @staticmethod
    def full(shape: Any, value: Any, dtype: Any = None) -> Any:
        array = Device.empty(shape, numpy.asarray(value).dtype if dtype is None else dtype)
        Device.do("fill", lambda target: target.fill(value), (array,))
        return array

    @staticmethod
    def asarray(value: Any, dtype: Any = None) -> Any:
        if isinstance(value, DeviceArray):
            return value if dtype is None else value.astype(dtype, copy=False)
        host = numpy.asarray(value, dtype)
        array = Device.empty(host.shape, host.dtype)
        Device.write(array, host)
        return array

    array = asarray

    @staticmethod
    def arange(*arguments: Any, **options: Any) -> Any:
        sample = numpy.arange(*arguments, **options)
        array = Device.empty(sample.shape, sample.dtype)
        Device.do("arange", lambda target: _assign(target, sample), (array,))
        return array

    @staticmethod
    def nonzero(array: Any) -> Any:
        """Waits for the device: nobody knows before how many there are."""
        return tuple(Arrays.asarray(found) for found in numpy.nonzero(Device.read(array)))

    @staticmethod
    def ascontiguousarray(array: Any, dtype: Any = None) -> Any:
        if array.flags.c_contiguous:
            return array if array.ndim else array.reshape(1)
        return array.copy()

    def __getattr__(self, name: str) -> Any:
        return getattr(numpy, name)
