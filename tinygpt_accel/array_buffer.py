"""What NumPy and CuPy have in common: a Buffer that holds an `ndarray` of some namespace.

An ndarray *is* a strided array, so no second account of strides is kept: views are the library's own views.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar

from tinygpt_core.buffer.base import Buffer, Scalar, no_dtype_holds
from tinygpt_core.dtype import DType
from tinygpt_core.random import Key
from tinygpt_core.shape import Index, Shape, expand_strides, reshape_strides

from . import philox

A = TypeVar("A", bound="ArrayBuffer")


class ArrayBuffer(Buffer):
    """A Buffer over an ndarray; a subclass binds `xp`, the namespace (`numpy` or `cupy`), and its dtypes.

    Attributes:
        array: the ndarray, with this Buffer's shape and dtype.
    """

    __slots__ = ("array",)

    xp: ClassVar[Any]
    dtypes: ClassVar[dict[DType, Any]]
    # Random numbers that are drawn at a time, so that the temporaries stay in the cache; a multiple of 4
    chunk: ClassVar[int] = 1 << 16
    is_fast: ClassVar[bool] = True  # by which `training.presets` chooses how large a default run is

    array: Any

    @classmethod
    def wrap(cls: type[A], result: Any, dtype: DType) -> A:
        """Returns an ndarray that nothing else writes to as a Buffer."""
        self = object.__new__(cls)
        if type(result) is not cls.xp.ndarray:
            result = cls.xp.asarray(result)  # a NumPy function of arrays without axes returns a scalar
        self.array = result
        self.shape = result.shape
        self.dtype = dtype
        self.version = [0]
        return self

    def _view(self: A, result: Any) -> A:
        """Returns an ndarray that shares elements with this Buffer as a view of it."""
        view = object.__new__(type(self))
        view.array = result
        view.shape = result.shape
        view.dtype = self.dtype
        view.version = self.version
        return view

    def _storage(self) -> Any:
        """Returns the ndarray that owns the elements, flat, in the order in which they lie."""
        root = base = self.array
        while base is not None:
            # as_strided puts an object of its own between a view and its array
            if type(base) is self.xp.ndarray and base.dtype == self.array.dtype:
                root = base
            base = getattr(base, "base", None)
        if not root.size:
            return root.reshape(-1)
        # From the lowest address to the highest: someone else's array may have gaps or run backwards.
        lowest = root[(*(-1 if step < 0 else 0 for step in root.strides), ...)]
        span = sum((size - 1) * abs(step) for size, step in zip(root.shape, root.strides, strict=True))
        return self.xp.lib.stride_tricks.as_strided(lowest, (1 + span // root.itemsize,), (root.itemsize,))

    @property
    def data(self) -> Any:
        """The flat storage, an ndarray; it has the buffer protocol where it lies in the host's memory."""
        return self._storage()

    @property
    def stride(self) -> Shape:  # type: ignore[override]
        """Strides in elements."""
        return tuple(step // self.dtype.itemsize for step in self.array.strides)

    @property
    def offset(self) -> int:  # type: ignore[override]
        """Where in `data` the first element lies."""
        if not self.array.size:
            return 0
        return (self.address_of(self.array) - self.address_of(self._storage())) // self.dtype.itemsize

    def is_contiguous(self) -> bool:
        return bool(self.array.flags.c_contiguous)

    @staticmethod
    def address_of(array: Any) -> int:
        """Returns where in memory the first element of an ndarray lies."""
        return int(array.__array_interface__["data"][0])

    @classmethod
    def to_host(cls, result: Any) -> Any:
        """Returns an ndarray of NumPy's with the elements of one of this namespace."""
        return result

    def _check_writable(self) -> None:
        super()._check_writable()
        if not getattr(self.array.flags, "writeable", True):  # on a device every array can be written to
            raise ValueError("cannot write to a Buffer that shares a read-only array: copy() it first")

    # ---------------------------------------------------------------- other libraries

    @classmethod
    def _from_foreign(cls: type[A], data: Any) -> A | Any:
        """Returns a Buffer that shares an array of this namespace, or what exports DLPack or the buffer
        protocol (copied if it is unaligned).
        """
        try:
            if hasattr(data, "__dlpack__") and not isinstance(data, cls.xp.ndarray):
                data = cls.xp.from_dlpack(data)
            array = cls.xp.asarray(data if isinstance(data, cls.xp.ndarray) else memoryview(data))
        except (BufferError, RuntimeError) as problem:
            raise TypeError(f"cannot share the elements of a {type(data).__name__}: {problem}") from problem
        except (TypeError, ValueError):  # no array at all: the caller says what it takes
            return data
        dtype = next((dtype for dtype, theirs in cls.dtypes.items() if theirs == array.dtype), None)
        if dtype is None:
            raise no_dtype_holds(array.dtype)
        if array.size and any(step % array.itemsize for step in (cls.address_of(array), *array.strides)):
            array = array.copy()
        return cls.wrap(array, dtype)

    def shares_memory(self, data: Any) -> bool:
        return not self.array.size or bool(self.xp.may_share_memory(self.array, self.xp.asarray(data)))

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self, **options: Any) -> Any:
        return self.array.__dlpack_device__()

    # ---------------------------------------------------------------- creation

    @classmethod
    def _from_array(cls: type[A], flat: array[Any], shape: Shape, dtype: DType) -> A:
        host = memoryview(flat) if len(flat) else b""
        return cls.wrap(cls.xp.asarray(cls._frombuffer(host, dtype)).reshape(shape), dtype)

    @classmethod
    def _from_memory(cls: type[A], memory: memoryview, shape: Shape, dtype: DType) -> A:
        return cls.wrap(cls.xp.asarray(cls._frombuffer(memory, dtype)).reshape(shape), dtype)

    @classmethod
    def _frombuffer(cls, host: Any, dtype: DType) -> Any:
        """Returns elements in the host's memory as an ndarray of NumPy's, whatever this namespace is."""
        import numpy

        if not len(host):
            return numpy.empty(0, cls.dtypes[dtype])
        return numpy.frombuffer(host, dtype=cls.dtypes[dtype])

    def _to_array(self) -> array[Any]:
        flat = array(self.dtype.typecode)
        flat.frombytes(self.to_host(self.array).tobytes())
        return flat

    @classmethod
    def _full(cls: type[A], shape: Shape, value: Scalar, dtype: DType) -> A:
        if not shape:  # what a Python number becomes in arithmetic
            if dtype is DType.float32 and not -3e38 < value < 3e38:
                value = array("f", [value])[0]  # an infinity, without NumPy's warning
            return cls.wrap(cls.xp.array(value, cls.dtypes[dtype]), dtype)
        return cls.wrap(cls.xp.full(shape, value, cls.dtypes[dtype]), dtype)

    @classmethod
    def _arange(cls: type[A], start: Scalar, step: Scalar, count: int, dtype: DType) -> A:
        return cls.wrap((start + cls.xp.arange(count) * step).astype(cls.dtypes[dtype], copy=False), dtype)

    def _cast(self: A, dtype: DType) -> A:
        if dtype.kind == "i":
            self._check_fits(dtype)
        return self.wrap(self.array.astype(self.dtypes[dtype]), dtype)

    def _check_fits(self, dtype: DType) -> None:
        """Raises as `DType.convert` and `DType.pack` do where elements do not fit an integer dtype."""
        is_narrower = self.dtype.kind == "i" and self.dtype.itemsize < dtype.itemsize
        if self.dtype.kind == "b" or is_narrower or not self.array.size:
            return
        if self.dtype.kind == "f" and not self.xp.isfinite(self.array).all():
            raise ValueError(f"cannot cast NaN or an infinity to {dtype.name}: it is not a finite number")
        limit = 1 << (8 * dtype.itemsize - 1)
        if self.dtype.kind != "i" or self.dtype.itemsize != dtype.itemsize:
            low = self.array.min()
            high = self.array.max()
            if int(low) < -limit or int(high) >= limit:  # what is cut off cannot be too much
                raise OverflowError(f"a value does not fit {dtype.name}: the elements lie in [{low}, {high}]")

    def _copy(self: A) -> A:
        return self.wrap(self.array.copy(order="C"), self.dtype)

    # ---------------------------------------------------------------- layout

    def _reshape(self: A, shape: Shape) -> A:
        if self.array.flags.c_contiguous or reshape_strides(self.shape, self.stride, shape) is not None:
            return self._view(self.array.reshape(shape))
        return self.wrap(self.array.reshape(shape), self.dtype)

    def _permute(self: A, axes: Shape) -> A:
        return self._view(self.array.transpose(axes))

    def _expand(self: A, shape: Shape) -> A:
        if shape == self.shape:
            return self
        return self._view(self._expanded(self.array, shape))

    @classmethod
    def _expanded(cls, array: Any, shape: Shape) -> Any:
        """Returns a view of an ndarray with its elements repeated along new axes and those of size 1."""
        strides = expand_strides(array.shape, array.strides, shape)
        # Not broadcast_to, whose result is read-only, also where no element is repeated
        return cls.xp.lib.stride_tricks.as_strided(array, shape, strides)

    def _slice(self: A, index: Index) -> A:
        return self._view(self.array[(*index, ...)])

    def _assign(self: A, value: A) -> None:
        self.array[...] = value.array

    def _accumulate(self: A, value: A) -> None:
        self.xp.add(self.array, value.array, out=self.array)

    @classmethod
    def _concatenate(cls: type[A], buffers: Sequence[A], axis: int, shape: Shape, dtype: DType) -> A:
        return cls.wrap(cls.xp.concatenate([buffer.array for buffer in buffers], axis), dtype)

    # ---------------------------------------------------------------- elements

    def _neg(self: A) -> A:
        return self.wrap(self.xp.negative(self.array), self.dtype)

    def _exp(self: A) -> A:
        return self.wrap(self.xp.exp(self.array), self.dtype)

    def _log(self: A) -> A:
        return self.wrap(self.xp.log(self.array), self.dtype)

    def _sqrt(self: A) -> A:
        return self.wrap(self.xp.sqrt(self.array), self.dtype)

    def _tanh(self: A) -> A:
        return self.wrap(self.xp.tanh(self.array), self.dtype)

    def _sin(self: A) -> A:
        return self.wrap(self.xp.sin(self.array), self.dtype)

    def _cos(self: A) -> A:
        return self.wrap(self.xp.cos(self.array), self.dtype)

    def _add(self: A, other: A) -> A:
        return self.wrap(self.xp.add(self.array, other.array), self.dtype)

    def _sub(self: A, other: A) -> A:
        return self.wrap(self.xp.subtract(self.array, other.array), self.dtype)

    def _mul(self: A, other: A) -> A:
        return self.wrap(self.xp.multiply(self.array, other.array), self.dtype)

    def _div(self: A, other: A) -> A:
        return self.wrap(self.xp.divide(self.array, other.array), self.dtype)

    def _pow(self: A, other: A) -> A:
        return self.wrap(self.xp.power(self.array, other.array), self.dtype)

    def _maximum(self: A, other: A) -> A:
        return self.wrap(self.xp.maximum(self.array, other.array), self.dtype)

    def _equal(self: A, other: A) -> A:
        return self.wrap(self.xp.equal(self.array, other.array), DType.bool)

    def _less(self: A, other: A) -> A:
        return self.wrap(self.xp.less(self.array, other.array), DType.bool)

    def _where(self: A, first: A, second: A) -> A:
        return self.wrap(self.xp.where(self.array, first.array, second.array), first.dtype)

    # ---------------------------------------------------------------- reductions, products, indices

    def _sum(self: A, axes: Shape) -> A:
        return self.wrap(self.array.sum(axis=axes, keepdims=True), self.dtype)

    def _max(self: A, axes: Shape) -> A:
        return self.wrap(self.array.max(axis=axes, keepdims=True), self.dtype)

    def _argmax(self: A, axis: int) -> A:
        return self.wrap(self.array.argmax(axis=axis, keepdims=True), DType.int64)

    def _cumsum(self: A, axis: int) -> A:
        if self.dtype is not DType.float32:
            return self.wrap(self.xp.cumsum(self.array, axis), self.dtype)
        # In doubles, as sums are: each total of float32 would be rounded on its way into the next
        wide = self.xp.cumsum(self.array, axis, dtype=self.dtypes[DType.float64])
        return self.wrap(wide.astype(self.dtypes[self.dtype]), self.dtype)

    def _matmul(self: A, other: A, shape: Shape) -> A:
        return self.wrap(self.xp.matmul(self.array, other.array), self.dtype)

    def _take(self: A, indices: A) -> A:
        return self.wrap(self.xp.take(self.array, indices.array, axis=0), self.dtype)

    # ---------------------------------------------------------------- random numbers

    @classmethod
    def _random_uniform(cls: type[A], key: Key, shape: Shape, dtype: DType, low: float, high: float) -> A:
        is_double = dtype is DType.float64
        width = high - low

        def draw(part: Key, count: int) -> Any:
            return low + width * philox.uniforms(cls.xp, part, count, is_double)

        return cls._random(key, shape, dtype, 2 if is_double else 1, draw)

    @classmethod
    def _random_normal(cls: type[A], key: Key, shape: Shape, dtype: DType, mean: float, std: float) -> A:
        def draw(part: Key, count: int) -> Any:
            return mean + std * philox.normals(cls.xp, part, count)

        return cls._random(key, shape, dtype, 1, draw)

    @classmethod
    def _random(
        cls: type[A], key: Key, shape: Shape, dtype: DType, words: int, draw: Callable[[Key, int], Any]
    ) -> A:
        """Returns a Buffer that is drawn chunk by chunk; `words` is how many words of the stream a number
        takes.
        """
        flat = cls.xp.empty(math.prod(shape), cls.dtypes[dtype])
        for start in range(0, flat.size, cls.chunk):
            part = flat[start : start + cls.chunk]
            part[...] = draw(key._replace(block=key.block + start * words // 4), part.size)
        return cls.wrap(flat.reshape(shape), dtype)

    def _sum_of_squares(self) -> float:
        if self.dtype.kind == "f":
            flat = self.array.reshape(-1)
            step = 1 << 16  # elements of a sum in float32, so that few roundings add up
            starts = range(0, flat.size, step) if flat.size > step else [0]
            parts = [flat[start : start + step] for start in starts]
            total = sum(float(self.xp.dot(part, part)) for part in parts)
            if 1e-20 < total < math.inf:
                return total
        # Where squares leave float32's range, in doubles
        return super()._sum_of_squares()

    def _check_indices(self, size: int) -> None:
        if self.dtype.kind != "i":
            raise TypeError(f"indices have an integer dtype, not {self.dtype.name}")
        if not self.array.size:
            return
        low = int(self.array.min())
        high = int(self.array.max())
        if low < 0 or high >= size:
            wrong = low if low < 0 else high
            raise IndexError(f"index {wrong} is out of range for an axis of size {size}")
