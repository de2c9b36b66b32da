"""The Buffer contract: what an array means. Written once, for every backend.

A public method here validates its operands, infers the shape and dtype of the result, and calls a hook: the
method of the same name with a leading underscore. A hook may trust what it is given. A backend is a subclass
that provides the hooks; it decides where elements live, never what an operation means.

Hooks a backend MUST provide:
    creation        _from_array _to_array _full _arange _cast _copy
    layout          _reshape _permute _expand _slice _assign _concatenate
    one operand     _neg _exp _log _sqrt _tanh _sin _cos
    two operands    _add _sub _mul _div _pow _maximum _equal _less, and _where
    reductions      _sum _max _argmax
    products        _matmul
    by index        _take _scatter_add

Hooks it MAY override, because a default stands here:
    _divmod _argsort _cumsum _erf _erfc _check_indices _check_writable _random_uniform _random_normal
    _sum_of_squares _accumulate _from_memory _from_foreign

Nobody but Buffer calls a hook. What kernels, operations and optimizers need beyond arithmetic has public
names: see "For kernels" in the class.
"""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, chain
from typing import Any, ClassVar, TypeVar

from .. import backends, random, shape_errors
from ..dtype import DType, as_number, check_dtype, promote, promote_scalar
from ..random import Generator
from ..shape import (
    Shape,
    check_broadcast,
    check_shape,
    concatenated_shape,
    exchanged,
    is_contiguous,
    matmul_shape,
    normalize_axes,
    normalize_axis,
    normalize_index,
    numel,
    permutation,
    reduced_shape,
    refuse_empty,
    reshaped,
)
from ..shape_errors import ShapeError
from .text import array_text

B = TypeVar("B", bound="Buffer")
Scalar = bool | int | float
Real = float  # the class below has a method called `float`, which hides the type from annotations in it
# Format of a memoryview -> kind of a dtype
_KINDS = {"?": "b", "i": "i", "l": "i", "q": "i", "f": "f", "d": "f"}


def _flatten(data: Any) -> tuple[Shape, list[Any]]:
    """Returns shape and flat elements of nested lists or tuples; raises ValueError for ragged ones."""
    shape: list[int] = []
    level = [data]
    while level and isinstance(level[0], (list, tuple)):
        size = len(level[0])
        for position, item in enumerate(level):
            is_list = isinstance(item, (list, tuple))
            if not is_list or len(item) != size:
                found = len(item) if is_list else f"a bare {item!r}"
                raise ValueError(
                    f"ragged data: dimension {len(shape)} has {size} elements at first "
                    f"but {found} at {position}"
                )
        shape.append(size)
        level = list(chain.from_iterable(level))
    return tuple(shape), level


def _pack(values: list[Any], dtype: DType) -> array[Any]:
    """Returns flat Python numbers as the dtype stores them.

    Raises:
        TypeError: something among them is no number of the dtype. OverflowError: a number out of range.
    """
    try:
        return dtype.pack(values if dtype.kind == "f" else list(map(dtype.convert, values)))
    except OverflowError:  # `struct` says so of a float that is none, too
        bad = next((value for value in values if not isinstance(value, (bool, int, float))), None)
        if bad is None:
            raise
        raise TypeError(f"cannot make a {dtype.name} Buffer of a {type(bad).__name__} ({bad!r})") from None
    except (TypeError, ValueError) as problem:
        raise TypeError(f"cannot make a {dtype.name} Buffer of this data: {problem}") from None


def _deduce(values: list[Any], dimension: int) -> tuple[DType, list[Any]]:
    """Returns the dtype of flat elements that are all of one Python type, and these elements.

    Scalars of NumPy's become Python's numbers. Raises TypeError where types mix.
    """
    kinds = set(map(type, values))
    if not kinds <= {bool, int, float}:
        numbers = [as_number(value) for value in values]
        if None not in numbers:
            kinds, values = set(map(type, numbers)), numbers
    if len(kinds) > 1:
        names = " and ".join(sorted(kind.__name__ for kind in kinds))
        raise TypeError(
            f"mixed data: dimension {max(dimension - 1, 0)} holds {names}; pass a dtype to convert them"
        )
    if kinds == {int} and not -(2**31) <= min(values) <= max(values) < 2**31:
        return DType.int64, values
    return DType.deduce_dtype(values[0]) if values else DType.float32, values


class Buffer:
    """A multidimensional array of one dtype, on some backend: the data structure under every Tensor.

    It knows nothing of gradients.

    `Buffer(data, dtype=None)` makes one on the active backend from nested lists or tuples, a scalar, another
    Buffer, or an array of someone else's (anything a `memoryview` opens, such as an ndarray): a copy on the
    python backend, shared on one that can. Without a dtype, Python's bools, ints and floats become `bool`,
    `int32` and `float32`. `numpy.asarray(buffer)` shares the storage, too.

    Arithmetic follows NumPy: operands broadcast, dtypes promote (`dtype.promote`), comparisons give `bool`.
    Integers wrap around as in two's complement where a result (of +, -, *, **, `sum`, `matmul` and
    `scatter_add`) leaves their range. What is converted (`cast`, a Python number, nested lists, `arange`)
    must fit, or raises OverflowError.
    Basic slicing, `permute`, `expand` and, where strides allow, `reshape` return views that share storage.
    Reductions keep their axes, with size 1.

    For kernels, operations and optimizers, beside the arithmetic:
        check_backend, check_indices, check_writable: refuse what does not fit, with the error that says so.
        as_dtype, as_floating, scalar: bring operands to one dtype, without a copy where they have it.
        full, from_array, from_memory: make a Buffer of elements.
        uniform_at, normal_at: random numbers at a place of a stream, the same on every backend.
        add_in_place, sum_of_squares: what gradients are added up and measured with.

    Attributes:
        data: the flat storage; supports Python's buffer protocol, so `memoryview(buffer.data)` reads it
            without a copy.
        dtype, shape, stride, offset: how the storage is seen, strides and offset in elements.
        version: a list that all views of a storage share. Its first number increases with every write, except
            what another library writes into a storage that it shares: nobody can see that. It has a second
            one since a view was made that repeats elements.
        backend: the name of the backend (of the class).

    Raises:
        ValueError: ragged data.
        TypeError: elements of mixed types without a dtype, or of a type no dtype holds.
    """

    __array_ufunc__ = None  # ndarray + Buffer is a TypeError: NumPy would otherwise answer, with an ndarray
    __slots__ = (
        "__weakref__",
        "_is_part_of_broadcast",
        "data",
        "dtype",
        "offset",
        "shape",
        "stride",
        "version",
    )

    backend: ClassVar[str] = ""

    data: Any
    dtype: DType
    shape: Shape
    stride: Shape
    offset: int
    version: list[int]
    _is_part_of_broadcast: bool  # there only where it holds

    def __new__(cls: type[B], data: Any = None, dtype: DType | None = None) -> B:
        kind: Any = backends.active() if cls is Buffer else cls
        if not isinstance(data, (list, tuple, bool, int, float, Buffer)):
            data = kind._from_foreign(data)
        if isinstance(data, Buffer):
            there: Any = data.to(kind.backend)
            return there if dtype is None or dtype is there.dtype else there.cast(dtype)
        shape, values = _flatten(data)
        if dtype is None:
            dtype, values = _deduce(values, len(shape))
        check_dtype(dtype)
        return kind._from_array(_pack(values, dtype), shape, dtype)

    # ---------------------------------------------------------------- what it is

    @property
    def ndim(self) -> int:
        """How many axes there are."""
        return len(self.shape)

    @property
    def numel(self) -> int:
        """How many elements there are."""
        return numel(self.shape)

    def is_contiguous(self) -> bool:
        """Whether the elements lie one after the other in C order."""
        return is_contiguous(self.shape, self.stride)

    def to_array(self) -> array[Any]:
        """Returns the elements in C order as a new `array.array` of the dtype's typecode."""
        return self._to_array()

    def to_python(self) -> Any:
        """Returns the elements as nested lists of Python numbers; a scalar for no axes."""
        values: list[Any] = self.dtype.to_python(self._to_array())
        if not self.shape:
            return values[0]
        if 0 in self.shape:
            return _empty_lists(self.shape)
        for size in reversed(self.shape[1:]):
            values = [values[i : i + size] for i in range(0, len(values), size)]
        return values

    def item(self) -> Any:
        """Returns the only element as a Python number; raises ValueError where there is not exactly one."""
        if self.numel != 1:
            raise ValueError(f"only a Buffer with one element is a scalar, not one of shape {self.shape}")
        return self.dtype.to_python(self._to_array())[0]

    def __float__(self) -> Real:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __bool__(self) -> bool:
        return bool(self.item())

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a Buffer without axes has no length")
        return self.shape[0]

    def __iter__(self: B) -> Iterator[B]:
        if not self.shape:
            raise TypeError("cannot iterate over a Buffer without axes")
        return (self[i] for i in range(self.shape[0]))

    def __repr__(self) -> str:
        return array_text(self, "Buffer(", f"dtype={self.dtype.name}", f"backend={self.backend!r}") + ")"

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """What `numpy.asarray(buffer)` reads: the elements where they lie, read-only in a broadcast view."""
        data = memoryview(self.data)
        size = self.dtype.itemsize
        byte_order = ">" if sys.byteorder == "big" else "<"
        return {
            "version": 3,
            "typestr": f"{byte_order}{self.dtype.kind}{size}",
            "shape": self.shape,
            "strides": tuple(size * step for step in self.stride),
            "offset": self.offset * size,
            "data": data.toreadonly() if self._is_broadcast() else data,
        }

    def __dlpack__(self, **options: Any) -> Any:
        """Returns the elements for `torch.from_dlpack(buffer)` and its like, without a copy.

        Raises:
            BufferError: the backend cannot.

        Source: the DLPack protocol, https://dmlc.github.io/dlpack/latest/
        """
        raise BufferError(
            f"the {self.backend!r} backend exports no DLPack: "
            "numpy.asarray shares what is in it, or move it: .to('numpy')"
        )

    __dlpack_device__ = __dlpack__

    def shares_memory(self, data: Any) -> bool:
        """Returns whether the elements lie where those of another library's array, of any shape, lie."""
        return False

    # ---------------------------------------------------------------- the array API standard's names

    def __array_namespace__(self, *, api_version: str | None = None) -> Any:
        """Returns `tinygpt_core.array_api`, the standard's functions of Buffers; see there for its version.

        Raises:
            ValueError: another version is asked for.
        """
        from .. import array_api

        if api_version not in (None, array_api.__array_api_version__):
            raise ValueError(
                f"the array API is here in version {array_api.__array_api_version__}, not {api_version!r}"
            )
        return array_api

    @property
    def size(self) -> int:
        """How many elements there are: `numel`."""
        return self.numel

    @property
    def device(self) -> str:
        """Where the elements are: the backend's name."""
        return self.backend

    def to_device(self, device: str, /, *, stream: Any = None) -> Buffer:
        """Returns the elements, in the same shape, on another device, a backend: `to`."""
        return self.to(device)

    @property
    def T(self: B) -> B:
        """A view of a matrix with its two axes exchanged; raises ValueError for another number of axes."""
        if self.ndim != 2:
            raise ShapeError(f"T is the transpose of a matrix, not of shape {self.shape}: use permute")
        return self.permute((1, 0))

    @property
    def mT(self: B) -> B:
        """A view with the last two axes exchanged; raises ValueError for fewer axes."""
        return self.transpose(-2, -1)

    def __index__(self) -> int:
        if self.dtype.kind != "i" or self.shape:
            raise TypeError(
                f"an index is an integer without axes, not {self.dtype.name} of shape {self.shape}"
            )
        return int(self.item())

    def __abs__(self: B) -> B:
        if self.dtype.kind == "b":
            raise TypeError("abs is not defined on bool: cast() to an integer dtype first")
        return self.maximum(-self)

    def __pos__(self: B) -> B:
        return self.copy()

    # ---------------------------------------------------------------- making one

    @classmethod
    def _backend(cls: type[B]) -> type[B]:
        return backends.active() if cls is Buffer else cls

    @classmethod
    def from_array(cls: type[B], flat: array[Any], shape: Any, dtype: DType) -> B:
        """Returns a Buffer of `shape` of the elements in an `array.array`, in C order, which it takes over.

        Raises:
            ValueError: the wrong number of elements.
            TypeError: another typecode than the dtype's.
        """
        shape = check_shape(shape)
        if flat.typecode != dtype.typecode:
            raise TypeError(
                f"a {dtype.name} Buffer is made of an array of typecode {dtype.typecode!r}, "
                f"not {flat.typecode!r}"
            )
        if len(flat) != numel(shape):
            raise ValueError(f"{len(flat)} elements do not fill shape {shape}, which has {numel(shape)}")
        return cls._backend()._from_array(flat, shape, dtype)

    @classmethod
    def full(cls: type[B], shape: Any, value: Scalar, dtype: DType | None = None) -> B:
        """Returns a Buffer of `shape` that holds `value` everywhere.

        Raises:
            TypeError, ValueError: a shape or value that is none.
        """
        dtype = DType.deduce_dtype(value) if dtype is None else check_dtype(dtype)
        return cls._backend()._full(check_shape(shape), dtype.cast(value), dtype)

    @classmethod
    def zeros(cls: type[B], shape: Any, dtype: DType = DType.float32) -> B:
        """Returns a Buffer of `shape` that holds zeros; raises TypeError or ValueError for no shape."""
        return cls._backend()._full(check_shape(shape), check_dtype(dtype).convert(0), dtype)

    @classmethod
    def ones(cls: type[B], shape: Any, dtype: DType = DType.float32) -> B:
        """Returns a Buffer of `shape` that holds ones; raises TypeError or ValueError for no shape."""
        return cls._backend()._full(check_shape(shape), check_dtype(dtype).convert(1), dtype)

    @classmethod
    def arange(
        cls: type[B], start: Scalar, stop: Scalar | None = None, step: Scalar = 1, dtype: DType | None = None
    ) -> B:
        """Returns start, start + step, … up to but without stop, along one axis; `arange(stop)` starts at 0.

        Raises:
            ValueError: step is 0.
            TypeError: `dtype` is none.
            OverflowError: an end of the range does not fit an integer dtype.
        """
        if stop is None:
            start, stop = 0, start
        if step == 0:
            raise ValueError("the step of a range is not zero")
        dtype = DType.deduce_dtype(start + stop + step) if dtype is None else check_dtype(dtype)
        count = max(0, math.ceil((stop - start) / step))
        if dtype.kind == "i" and count:
            dtype.pack((dtype.convert(start), dtype.convert(start + (count - 1) * step)))  # OverflowError
        return cls._backend()._arange(start, step, count, dtype)

    @classmethod
    def uniform(
        cls: type[B],
        shape: Any,
        low: Real = 0.0,
        high: Real = 1.0,
        dtype: DType = DType.float32,
        generator: Generator | None = None,
    ) -> B:
        """Returns random elements, uniform in [low, high): the same for a seed on every backend.

        They are drawn in doubles and rounded to `dtype`, which can make them `high`.

        Raises:
            TypeError: a dtype that is not floating, or a shape that is none.
            ValueError: a shape with negative sizes.
        """
        shape = check_shape(shape)
        words = 2 if _check_floating(dtype, "uniform") is DType.float64 else 1  # for each element
        key = (generator or random.default_generator()).reserve(words * numel(shape))
        return cls.uniform_at(key, shape, low, high, dtype)

    @classmethod
    def normal(
        cls: type[B],
        shape: Any,
        mean: Real = 0.0,
        std: Real = 1.0,
        dtype: DType = DType.float32,
        generator: Generator | None = None,
    ) -> B:
        """Returns random elements, normally distributed: the same for a seed on every backend.

        Raises:
            TypeError: a dtype that is not floating, or a shape that is none.
            ValueError: a shape with negative sizes.
        """
        shape = check_shape(shape)
        _check_floating(dtype, "normal")
        key = (generator or random.default_generator()).reserve(numel(shape))
        return cls.normal_at(key, shape, mean, std, dtype)

    @classmethod
    def concatenate(cls: type[B], buffers: Sequence[B], axis: int = 0) -> B:
        """Returns the buffers joined along `axis`, in their promoted dtype.

        Raises:
            TypeError: buffers on two backends, or an axis that is no int.
            ValueError: no buffers, an axis they do not have, or other axes that differ (ShapeError).
        """
        if not buffers:
            raise ValueError("concatenate needs at least one Buffer")
        first = buffers[0]
        axis = normalize_axis(axis, first.ndim)
        shape = concatenated_shape([buffer.shape for buffer in buffers], axis)
        dtype = first.dtype
        for buffer in buffers:
            first.check_backend(buffer)
            dtype = promote(dtype, buffer.dtype)
        return type(first)._concatenate([buffer.as_dtype(dtype) for buffer in buffers], axis, shape, dtype)

    def to(self, backend: str) -> Buffer:
        """Returns this Buffer, its shape and dtype, on another backend (itself if it is there already)."""
        kind = backends.get(backend)
        return self if type(self) is kind else kind._from_array(self._to_array(), self.shape, self.dtype)

    def __copy__(self: B) -> B:
        return self[...]

    def __deepcopy__(self: B, memo: Any) -> B:
        return self._copy()

    def __reduce__(self) -> tuple[Any, ...]:
        """Returns how pickle makes this Buffer again: its elements in C order, on the backend of its name."""
        return _restored, (self.backend, self._to_array(), self.shape, self.dtype)

    def copy(self: B) -> B:
        """Returns a contiguous copy of the same shape with a storage of its own."""
        return self._copy()

    def cast(self: B, dtype: DType) -> B:
        """Returns a copy of the same shape in another dtype.

        Floats are truncated to integers, and what is not zero becomes True.

        Raises:
            ValueError: NaN or an infinity cast to an integer.
            OverflowError: an integer out of range.
            TypeError: `dtype` is none.
        """
        return self._copy() if check_dtype(dtype) is self.dtype else self._cast(dtype)

    # ---------------------------------------------------------------- how it is seen

    def reshape(self: B, shape: Any = None, *, new_shape: Any = None) -> B:
        """Returns the same elements under another shape, in which one axis may be -1.

        It is a view where strides allow, else a copy. Where strides allow is the backend's affair for what an
        operation has made: NumPy lays out the result of an operation on a transposed Buffer as its operand
        lies. `copy()` is contiguous, and `copy().reshape(shape)` shares nothing with this Buffer.
        """
        shape = shape if new_shape is None else new_shape  # TinyGPT's name
        view = self._reshape(reshaped(self.shape, shape))
        return view if len(self.version) == 1 else self._part(view)

    def permute(self: B, axes: Sequence[int]) -> B:
        """Returns a view whose axis i is this Buffer's axis axes[i]."""
        view = self._permute(permutation(axes, self.ndim))
        return view if len(self.version) == 1 else self._part(view)

    def transpose(self: B, axis1: int, axis2: int) -> B:
        """Returns a view with two axes exchanged."""
        view = self._permute(exchanged(axis1, axis2, self.ndim))
        return view if len(self.version) == 1 else self._part(view)

    def expand(self: B, shape: Any = None, *, new_shape: Any = None) -> B:
        """Returns a view broadcast to `shape`; where that repeats elements, nothing can be written to it, nor
        to any part of it.

        Raises:
            TypeError: a shape that is none.
            ValueError: one that this does not broadcast to.
        """
        shape = shape if new_shape is None else new_shape  # TinyGPT's name
        view = self._expand(check_shape(shape))
        if len(self.version) > 1:
            view = self._part(view)
        if view._is_broadcast():
            view._is_part_of_broadcast = True
            if len(view.version) == 1:
                view.version.append(1)
        return view

    def __getitem__(self: B, index: Any) -> B:
        """Returns a view of what `index` selects.

        Ints choose and drop an axis, slices with any step keep it, `...` stands for the axes not named.
        """
        view = self._slice(normalize_index(index, self.shape))
        return view if len(self.version) == 1 else self._part(view)

    def _part(self: B, view: B) -> B:
        """Returns what was made of this Buffer, marked where it is a view and this one part of a broadcast
        view.

        Its elements stand in other places as well, although that cannot be seen from its strides any more.
        """
        if view.version is self.version and hasattr(self, "_is_part_of_broadcast"):
            view._is_part_of_broadcast = True
        return view

    def __setitem__(self, index: Any, value: Any) -> None:
        """Writes a Buffer, scalar or nested lists, broadcast and cast, into what `index` selects."""
        self[index].assign(value)

    def _is_broadcast(self) -> bool:
        """Whether one element stands in several places, here or in the view of which this is a part."""
        if len(self.version) > 1 and hasattr(self, "_is_part_of_broadcast"):
            return 0 not in self.shape
        stride = self.stride
        if 0 not in stride or 0 in self.shape:
            return False
        return any(step == 0 and size > 1 for size, step in zip(self.shape, stride, strict=True))

    def assign(self: B, value: Any) -> B:
        """Writes `value`, broadcast and cast, into this Buffer's storage, and returns this Buffer.

        Every view of the storage sees it.

        Raises:
            ValueError: this Buffer is a broadcast view or a part of one (one element stands in many places),
                or shapes do not broadcast.
            TypeError: a Buffer on another backend.
        """
        self._check_writable()
        if (number := None if isinstance(value, (Buffer, list, tuple)) else as_number(value)) is not None:
            value = self._full((), self.dtype.convert_exactly(number), self.dtype)
        elif not isinstance(value, Buffer):
            value = type(self)(value, self.dtype)
        self.check_backend(value)
        try:
            self._assign(value.as_dtype(self.dtype)._expand(self.shape))
        except ShapeError:
            raise ShapeError(shape_errors.expand("assign", value.shape, self.shape)) from None
        self.version[0] += 1
        return self

    def tril(self: B, diagonal: int = 0) -> B:
        """Returns a copy with zeros above a diagonal of the last two axes: where column > row + diagonal.

        Raises:
            ValueError: fewer than two axes.
        """
        if self.ndim < 2:
            raise ValueError(f"tril needs at least two axes, not shape {self.shape}")
        kind = type(self)
        rows = kind._arange(0, 1, self.shape[-2], DType.int64)._reshape((self.shape[-2], 1))
        columns = kind._arange(-diagonal, 1, self.shape[-1], DType.int64)
        return self.where(rows._less(columns), kind._full((), self.dtype.cast(0), self.dtype), self)

    # ---------------------------------------------------------------- arithmetic

    def _promoted_pair(self: B, other: Any, name: str) -> tuple[B, B] | None:
        """Returns this Buffer and `other` as operands of a hook; None where `other` is no operand.

        They are on one backend and in one dtype, the promoted one, and their shapes broadcast. An ndarray is
        an error.
        """
        if isinstance(other, Buffer):
            self.check_backend(other)
            if self.shape != other.shape:
                check_broadcast(name, self.shape, other.shape)
            if self.dtype is not other.dtype:
                dtype = promote(self.dtype, other.dtype)
                return self.as_dtype(dtype), other.as_dtype(dtype)  # type: ignore[return-value]
            return self, other  # type: ignore[return-value]
        if not isinstance(other, (bool, int, float)):
            number = as_number(other)
            if number is None:
                if getattr(other, "__array_ufunc__", None) is not None:  # an ndarray: == would be False
                    raise TypeError(f"{name} takes Tensors and numbers, not an ndarray: wrap it in Tensor(…)")
                return None
            other = number
        scalar = self.scalar(other)
        return self.as_dtype(scalar.dtype), scalar

    def _arithmetic(
        self: B, other: Any, hook: Callable[[B, B], B], name: str, swap: bool = False, least: str = ""
    ) -> B:
        pair = self._promoted_pair(other, name)
        if pair is None:
            return NotImplemented
        first, second = pair
        if first.dtype.kind == "b" and least == "i":
            raise TypeError(f"{name} is not defined on bool: cast() to an integer dtype first")
        if least == "f" and first.dtype.kind != "f":
            first, second = first._cast(DType.float64), second._cast(DType.float64)
        return hook(second, first) if swap else hook(first, second)

    def __add__(self: B, other: Any) -> B:
        return self._arithmetic(other, type(self)._add, "+")

    __radd__ = __add__

    def __sub__(self: B, other: Any) -> B:
        return self._arithmetic(other, type(self)._sub, "-", least="i")

    def __rsub__(self: B, other: Any) -> B:
        return self._arithmetic(other, type(self)._sub, "-", swap=True, least="i")

    def __mul__(self: B, other: Any) -> B:
        return self._arithmetic(other, type(self)._mul, "*")

    __rmul__ = __mul__

    def __truediv__(self: B, other: Any) -> B:
        """Returns true quotients: integers give float64, and x / 0 is an infinity or NaN, as in IEEE 754."""
        return self._arithmetic(other, type(self)._div, "/", least="f")

    def __rtruediv__(self: B, other: Any) -> B:
        return self._arithmetic(other, type(self)._div, "/", swap=True, least="f")

    def __pow__(self: B, other: Any) -> B:
        """Returns self ** other; raises ValueError for an integer to a negative power."""
        return self._arithmetic(other, type(self)._checked_pow, "**", least="i")

    def __rpow__(self: B, other: Any) -> B:
        return self._arithmetic(other, type(self)._checked_pow, "**", swap=True, least="i")

    def _checked_pow(self: B, other: B) -> B:
        if other.dtype.kind == "i" and any(value < 0 for value in other._to_array()):
            raise ValueError("an integer to a negative power is no integer: cast() the base to a float dtype")
        return self._pow(other)

    def __floordiv__(self: B, other: Any) -> B:
        """Returns quotients rounded down; raises ZeroDivisionError for an integer by 0."""
        return self._arithmetic(other, lambda a, b: a._checked_divmod(b)[0], "//", least="i")

    def __rfloordiv__(self: B, other: Any) -> B:
        return self._arithmetic(other, lambda a, b: a._checked_divmod(b)[0], "//", swap=True, least="i")

    def __mod__(self: B, other: Any) -> B:
        """Returns what // leaves, with the divisor's sign; raises ZeroDivisionError for an integer by 0."""
        return self._arithmetic(other, lambda a, b: a._checked_divmod(b)[1], "%", least="i")

    def __rmod__(self: B, other: Any) -> B:
        return self._arithmetic(other, lambda a, b: a._checked_divmod(b)[1], "%", swap=True, least="i")

    def _checked_divmod(self: B, other: B) -> tuple[B, B]:
        if other.dtype.kind == "i" and 0 in other._to_array():
            raise ZeroDivisionError("an integer divided by 0 has no value: cast() to a float dtype first")
        return self._divmod(other)

    def maximum(self: B, other: Any) -> B:
        """Returns the larger of two elements, broadcast; NaN where either is NaN. 0 is larger than -0.

        Raises:
            TypeError: an operand that is neither a Buffer nor a number, or on another backend.
            ShapeError: their shapes do not broadcast.
        """
        pair = self._promoted_pair(other, "maximum")
        if pair is None:
            raise TypeError(f"maximum takes Buffers and numbers, not a {type(other).__name__}")
        return type(self)._maximum(*pair)

    def __eq__(self: B, other: Any) -> B:  # type: ignore[override]
        return self._arithmetic(other, type(self)._equal, "==")

    def __ne__(self: B, other: Any) -> B:  # type: ignore[override]
        return self._arithmetic(other, lambda a, b: a._equal(b)._not(), "!=")

    def __lt__(self: B, other: Any) -> B:
        return self._arithmetic(other, type(self)._less, "<")

    def __gt__(self: B, other: Any) -> B:
        return self._arithmetic(other, type(self)._less, ">", swap=True)

    def __le__(self: B, other: Any) -> B:
        # Not "not greater": a NaN is neither less, nor equal, nor greater.
        return self._arithmetic(other, lambda a, b: a._less(b)._maximum(a._equal(b)), "<=")

    def __ge__(self: B, other: Any) -> B:
        return self._arithmetic(other, lambda a, b: b._less(a)._maximum(a._equal(b)), ">=")

    __hash__ = None  # type: ignore[assignment]  # == compares elements

    def _logical(self: B, other: Any, hook: Callable[[B, B], B], name: str) -> B:
        pair = self._promoted_pair(other, name)
        if pair is None:
            return NotImplemented
        if pair[0].dtype.kind != "b":
            raise TypeError(f"{name} combines conditions, of dtype bool, not {pair[0].dtype.name}")
        return hook(*pair)

    def __and__(self: B, other: Any) -> B:
        return self._logical(other, type(self)._mul, "&")

    __rand__ = __and__

    def __or__(self: B, other: Any) -> B:
        return self._logical(other, type(self)._add, "|")

    __ror__ = __or__

    def __xor__(self: B, other: Any) -> B:
        return self._logical(other, lambda a, b: a._equal(b)._not(), "^")

    __rxor__ = __xor__

    def __invert__(self: B) -> B:
        if self.dtype.kind != "b":
            raise TypeError(f"~ turns a condition round, of dtype bool, not {self.dtype.name}")
        return self._not()

    def _not(self: B) -> B:
        return self._equal(self._full((), False, DType.bool))

    def neg(self: B) -> B:
        """Returns -x of each element; raises TypeError for bool."""
        if self.dtype.kind == "b":
            raise TypeError("- is not defined on bool: cast() to an integer dtype first")
        return self._neg()

    __neg__ = neg

    def exp(self: B) -> B:
        """Returns e to the power x, of each element; infinity where that is too large."""
        return self.as_floating()._exp()

    def log(self: B) -> B:
        """Returns the natural logarithm of each element; -infinity at 0, NaN below."""
        return self.as_floating()._log()

    def sqrt(self: B) -> B:
        """Returns the square root of each element; NaN below 0."""
        return self.as_floating()._sqrt()

    def tanh(self: B) -> B:
        """Returns the hyperbolic tangent of each element."""
        return self.as_floating()._tanh()

    def sin(self: B) -> B:
        """Returns the sine of each element, in radians; NaN at infinities."""
        return self.as_floating()._sin()

    def cos(self: B) -> B:
        """Returns the cosine of each element, in radians; NaN at infinities."""
        return self.as_floating()._cos()

    def erf(self: B) -> B:
        """Returns the error function of each element, 2 / sqrt(pi) integral of exp(-t^2) from 0 to x."""
        return self.as_floating()._erf()

    def erfc(self: B) -> B:
        """Returns 1 less the error function of each element, with all digits where that is tiny."""
        return self.as_floating()._erfc()

    def float(self: B) -> B:
        """Returns a copy of the same shape as float32."""
        return self.cast(DType.float32)

    @staticmethod
    def where(condition: B, first: Any, second: Any) -> B:
        """Returns `first` where the (bool) condition holds and `second` elsewhere.

        All three broadcast, and the two promote.

        Raises:
            TypeError: a condition that is not bool, operands that are neither Buffers nor numbers, or on two
                backends.
            ShapeError: shapes that do not broadcast.
        """
        if condition.dtype.kind != "b":
            raise TypeError(f"a condition has dtype bool, not {condition.dtype.name}")
        if not isinstance(first, Buffer) and not isinstance(second, Buffer):
            first = type(condition)(first)
        if isinstance(first, Buffer):
            pair = first._promoted_pair(second, "where")
        else:
            pair = second._promoted_pair(first, "where")
            pair = pair and (pair[1], pair[0])
        if pair is None:
            raise TypeError(
                "where chooses between Buffers or numbers, "
                f"not {type(first).__name__} and {type(second).__name__}"
            )
        condition.check_backend(pair[0])
        check_broadcast("where", condition.shape, pair[0].shape, pair[1].shape)
        return condition._where(*pair)

    # ---------------------------------------------------------------- reductions, products, indices

    def sum(self: B, axes: Any = None) -> B:
        """Returns the sum over `axes` (None: all), which stay with size 1; bool and int32 are added in int64.

        Raises:
            TypeError: an axis that is no int.
            ValueError: an axis that is not there, or one named twice.
        """
        operand = self if self.dtype.kind == "f" else self.as_dtype(DType.int64)
        return operand._sum(normalize_axes(axes, self.ndim))

    def max(self: B, axes: Any = None) -> B:
        """Returns the largest element over `axes` (None: all), which stay with size 1; NaN if there is one.

        Raises:
            ValueError: a reduced axis is empty, not there, or named twice.
            TypeError: an axis that is no int.
        """
        axes = normalize_axes(axes, self.ndim)
        refuse_empty("max", self.shape, axes)
        if self.numel == 0:
            return self._full(reduced_shape(self.shape, axes), self.dtype.cast(0), self.dtype)  # no elements
        return self._max(axes)

    def argmax(self: B, axis: int) -> B:
        """Returns the int64 position of the largest element along `axis`, which stays with size 1.

        Of equals it is the first, and the first NaN where there are any. A result without elements is empty,
        as that of `max` is.

        Raises:
            TypeError: the axis is no int.
            ValueError: the axis is empty, and the result is not; or it is not there.
        """
        axis = normalize_axis(axis, self.ndim)
        refuse_empty("argmax", self.shape, (axis,))
        if self.numel == 0:
            return self._full(reduced_shape(self.shape, (axis,)), 0, DType.int64)  # no elements
        return self._argmax(axis)

    def argsort(self: B, axis: int = -1, descending: bool = False) -> B:
        """Returns the int64 positions along `axis` that put the elements into order, of the same shape.

        Equal elements stay in the order in which they stand, and NaN counts as the largest.

        Raises:
            TypeError: the axis is no int.
            ValueError: the axis is not there.
        """
        axis = normalize_axis(axis, self.ndim)
        if not descending:
            return self._argsort(axis)
        # Ascending from behind, so that equal elements stay in order when all is turned round
        behind = tuple(slice(None, None, -1 if i == axis else 1) for i in range(self.ndim))
        positions = self[behind]._argsort(axis)[behind]
        return self._full((), self.shape[axis] - 1, DType.int64)._sub(positions)

    def cumsum(self: B, axis: int) -> B:
        """Returns, along `axis`, the sum of the elements up to and with each, of the same shape.

        As in `sum`, bool and int32 are added in int64.

        Raises:
            TypeError: the axis is no int.
            ValueError: the axis is not there.
        """
        operand = self if self.dtype.kind == "f" else self.as_dtype(DType.int64)
        return operand._cumsum(normalize_axis(axis, self.ndim))

    def matmul(self: B, other: B) -> B:
        """Returns the matrix product over the last two axes; the axes before them broadcast.

        Raises:
            ValueError: fewer than two axes, or inner sizes that differ.
            TypeError: the other is no Buffer, or on another backend.
        """
        if not isinstance(other, Buffer):
            raise TypeError(f"a matrix product needs two Buffers, not a {type(other).__name__}")
        self.check_backend(other)
        shape = matmul_shape(self.shape, other.shape)
        dtype = promote(self.dtype, other.dtype)
        return self.as_dtype(dtype)._matmul(other.as_dtype(dtype), shape)

    __matmul__ = matmul

    def take(self: B, indices: B, axis: int = 0) -> B:
        """Returns the slices along `axis` that integer `indices` name; their axes stand where `axis` stood.

        Raises:
            TypeError: indices that are no integers.
            IndexError: an index outside [0, size).
            ValueError: an axis that is not there.
        """
        axis = normalize_axis(axis, self.ndim)
        self.check_backend(indices)
        indices._check_indices(self.shape[axis])
        if axis == 0:
            return self._take(indices)
        others = [other for other in range(self.ndim) if other != axis]
        taken = self._permute((axis, *others))._take(indices)  # the axes of the indices come first
        count = indices.ndim
        before = range(count, count + axis)
        after = range(count + axis, taken.ndim)
        return taken._permute((*before, *range(count), *after))

    def scatter_add(self: B, indices: B, values: B) -> B:
        """Adds values[i] to self[indices[i]] for every i, in place, and returns this Buffer.

        Indices are along axis 0. Where one repeats, all its values are added.

        Raises:
            TypeError: indices that are no integers.
            IndexError: an index outside [0, size).
            ValueError: shapes that do not fit.
        """
        self.check_backend(indices)
        self.check_backend(values)
        indices._check_indices(self.shape[0] if self.shape else 0)
        self._check_writable()
        wanted = indices.shape + self.shape[1:]
        if values.shape != wanted:
            name = f"scatter_add into {self.shape}"
            raise ShapeError(shape_errors.wrong_shape(name, "values", values.shape, expected=wanted))
        self._scatter_add(indices, values.as_dtype(self.dtype))
        self.version[0] += 1
        return self

    # ---------------------------------------------------------------- for kernels

    def check_backend(self, other: Buffer) -> None:
        """Raises TypeError unless `other`, of any shape, is on the same backend as this Buffer."""
        if type(self) is not type(other):
            raise TypeError(
                f"operands are on two backends, {self.backend!r} and {other.backend!r}: "
                f"move one with .to({self.backend!r})"
            )

    def check_indices(self, size: int) -> None:
        """Raises TypeError unless the elements are integers, and IndexError unless all lie in [0, size)."""
        self._check_indices(size)

    def check_writable(self) -> None:
        """Raises ValueError where this Buffer cannot be written to: a broadcast view, for example."""
        self._check_writable()

    def as_dtype(self: B, dtype: DType) -> B:
        """Returns this Buffer in `dtype`: itself where it has that dtype, else a `cast` copy of its shape.

        Raises:
            ValueError: NaN or an infinity cast to an integer.
            OverflowError: an integer out of range.
            TypeError: `dtype` is none.
        """
        return self if dtype is self.dtype else self._cast(check_dtype(dtype))

    def as_floating(self: B) -> B:
        """Returns this Buffer in a float dtype: itself where it has one, else a float64 copy of its shape."""
        return self if self.dtype.kind == "f" else self._cast(DType.float64)

    def scalar(self: B, value: Scalar) -> B:
        """Returns a number as a Buffer of shape () beside this one: same backend, their promoted dtype.

        Raises:
            OverflowError: an integer that this dtype has no room for.
        """
        dtype = promote_scalar(self.dtype, value)
        return self._full((), dtype.convert_exactly(value), dtype)

    def add_in_place(self: B, value: B) -> B:
        """Adds a Buffer, broadcast and cast, to the elements of this one, in place, and returns this Buffer.

        Raises:
            ValueError: this Buffer cannot be written to, or the value does not broadcast to its shape.
            TypeError: the value is on another backend.
        """
        self.check_backend(value)
        self._check_writable()
        value = value.as_dtype(self.dtype)
        self._accumulate(value if value.shape == self.shape else value._expand(self.shape))
        self.version[0] += 1
        return self

    def sum_of_squares(self) -> Real:
        """Returns the sum of the squares of all elements as a Python number, added up in doubles."""
        return self._sum_of_squares()

    @classmethod
    def uniform_at(
        cls: type[B],
        key: random.Key,
        shape: Any,
        low: Real = 0.0,
        high: Real = 1.0,
        dtype: DType = DType.float32,
    ) -> B:
        """Returns what `uniform` gives from a generator that stands at `key`; nothing is reserved.

        Raises:
            TypeError: a dtype that is not floating, or a shape that is none.
            ValueError: a shape with negative sizes.
        """
        _check_floating(dtype, "uniform")
        return cls._backend()._random_uniform(key, check_shape(shape), dtype, float(low), float(high))

    @classmethod
    def normal_at(
        cls: type[B],
        key: random.Key,
        shape: Any,
        mean: Real = 0.0,
        std: Real = 1.0,
        dtype: DType = DType.float32,
    ) -> B:
        """Returns what `normal` gives from a generator that stands at `key`; nothing is reserved.

        Raises:
            TypeError: a dtype that is not floating, or a shape that is none.
            ValueError: a shape with negative sizes.
        """
        _check_floating(dtype, "normal")
        return cls._backend()._random_normal(key, check_shape(shape), dtype, float(mean), float(std))

    @classmethod
    def from_memory(cls: type[B], memory: memoryview, shape: Any, dtype: DType) -> B:
        """Returns a Buffer of `shape` over elements in C order that lie aligned in `memory`.

        It may go on using that memory, a mapped file for example, and write to it, so nobody else should.

        Raises:
            ValueError: the memory has not as many bytes as the elements need.
            TypeError: a shape or dtype that is none.
        """
        shape = check_shape(shape)
        needed = numel(shape) * check_dtype(dtype).itemsize
        if memory.nbytes != needed:
            raise ValueError(
                f"{dtype.name} elements of shape {shape} need {needed} bytes, not {memory.nbytes}"
            )
        return cls._backend()._from_memory(memory, shape, dtype)

    # ---------------------------------------------------------------- hooks with a default

    @classmethod
    def _from_foreign(cls: type[B], data: Any) -> B | Any:
        """Returns a Buffer of what supports the buffer protocol, here a copy; else `data` itself."""
        try:
            view = memoryview(data)
        except (TypeError, ValueError, BufferError):  # ValueError: an array whose elements have no format
            return data
        kind = _KINDS.get(view.format)
        fitting = (dtype for dtype in DType.all if (dtype.kind, dtype.itemsize) == (kind, view.itemsize))
        dtype = next(fitting, None)
        if dtype is None:
            raise no_dtype_holds(getattr(data, "dtype", f"format {view.format!r}"))
        flat = array(dtype.typecode, view.tobytes())
        if kind == "b":  # any byte but 0 is True
            flat = array("B", map(bool, flat))
        return cls._from_array(flat, view.shape or (), dtype)

    def _check_writable(self) -> None:
        if self._is_broadcast():
            if 0 in self.stride:
                what = f"a broadcast view of shape {self.shape}"
            else:
                what = f"a part, of shape {self.shape}, of a broadcast view"
            raise ValueError(f"cannot write to {what}: many positions share an element; copy() it first")

    def _check_indices(self, size: int) -> None:
        """Raises as `check_indices` says. A backend far from the host may check in another way."""
        if self.dtype.kind != "i":
            raise TypeError(f"indices have an integer dtype, not {self.dtype.name}")
        flat = self._to_array()
        low, high = min(flat, default=0), max(flat, default=-1)
        if low < 0 or high >= size:
            raise IndexError(f"index {low if low < 0 else high} is out of range for an axis of size {size}")

    def _divmod(self: B, other: B) -> tuple[B, B]:
        """Returns quotients rounded down, and what they leave, of the divisor's sign: Python's divmod.

        The operands are of one dtype, not bool, with shapes that broadcast, and no integer is divided by 0.
        Floats by 0 give x / 0 and NaN.
        """
        shape = check_broadcast("//", self.shape, other.shape)
        exact = divmod if self.dtype.kind == "i" else _float_divmod
        pairs = map(exact, self._expand(shape)._to_array(), other._expand(shape)._to_array())
        columns = list(zip(*pairs, strict=True)) or [(), ()]
        first, second = (self._from_array(self.dtype.pack_wrapped(c), shape, self.dtype) for c in columns)
        return first, second

    def _rows_along(self, axis: int) -> list[array[Any]]:
        """Returns the elements along an axis, one row for each place on the other axes."""
        flat = self._permute((*(i for i in range(self.ndim) if i != axis), axis))._to_array()
        return [flat[i : i + self.shape[axis]] for i in range(0, len(flat), self.shape[axis] or 1)]

    def _of_rows_along(self: B, axis: int, rows: Sequence[Sequence[Any]], dtype: DType) -> B:
        """Returns rows, as `_rows_along` gives them, as a Buffer of this shape."""
        others = [i for i in range(self.ndim) if i != axis]
        shape = (*(self.shape[i] for i in others), self.shape[axis])
        flat = dtype.pack_wrapped(list(chain.from_iterable(rows)))
        return self._from_array(flat, shape, dtype)._permute(
            (*range(axis), self.ndim - 1, *range(axis, self.ndim - 1))
        )

    def _argsort(self: B, axis: int) -> B:
        """Returns the int64 positions that sort along an axis: stable, NaN last."""
        rows = [_stable_order(row, self.dtype.kind == "f") for row in self._rows_along(axis)]
        return self._of_rows_along(axis, rows, DType.int64)

    def _cumsum(self: B, axis: int) -> B:
        """Returns running sums along an axis, of floats or int64 (which wrap around)."""
        return self._of_rows_along(axis, [list(accumulate(r)) for r in self._rows_along(axis)], self.dtype)

    def _erf(self: B) -> B:
        return self._from_array(
            self.dtype.pack(list(map(math.erf, self._to_array()))), self.shape, self.dtype
        )

    def _erfc(self: B) -> B:
        return self._from_array(
            self.dtype.pack(list(map(math.erfc, self._to_array()))), self.shape, self.dtype
        )

    def _accumulate(self: B, value: B) -> None:
        """Adds elements of the same shape and dtype to these."""
        self._assign(self._add(value))

    def _sum_of_squares(self) -> Real:
        doubles = self.as_dtype(DType.float64)
        return (doubles * doubles).sum().item()

    @classmethod
    def _random_uniform(
        cls: type[B], key: random.Key, shape: Shape, dtype: DType, low: Real, high: Real
    ) -> B:
        draw = random.uniforms64 if dtype is DType.float64 else random.uniforms32
        width = high - low
        return cls._from_array(dtype.pack([low + width * u for u in draw(key, numel(shape))]), shape, dtype)

    @classmethod
    def _random_normal(cls: type[B], key: random.Key, shape: Shape, dtype: DType, mean: Real, std: Real) -> B:
        return cls._from_array(
            dtype.pack([mean + std * z for z in random.normals(key, numel(shape))]), shape, dtype
        )

    @classmethod
    def _from_memory(cls: type[B], memory: memoryview, shape: Shape, dtype: DType) -> B:
        """Returns elements in C order that lie aligned in `memory`, which it may go on using and write to."""
        flat = array(dtype.typecode)
        flat.frombytes(memory)
        return cls._from_array(flat, shape, dtype)

    # ---------------------------------------------------------------- hooks every backend provides

    def _missing(self, *arguments: Any) -> Any:
        raise NotImplementedError(
            f"the {self.backend!r} backend lacks a hook: buffer/base.py lists those it must provide"
        )

    @classmethod
    def _from_array(cls: type[B], flat: array[Any], shape: Shape, dtype: DType) -> B:
        """Returns a Buffer of the elements in `flat`, in C order."""
        raise NotImplementedError

    @classmethod
    def _full(cls: type[B], shape: Shape, value: Scalar, dtype: DType) -> B:
        """Returns a Buffer that holds `value`, already a Python number of the dtype, everywhere."""
        raise NotImplementedError

    @classmethod
    def _arange(cls: type[B], start: Scalar, step: Scalar, count: int, dtype: DType) -> B:
        """Returns start + i * step for i < count."""
        raise NotImplementedError

    @classmethod
    def _concatenate(cls: type[B], buffers: Sequence[B], axis: int, shape: Shape, dtype: DType) -> B:
        """Returns Buffers of one dtype joined to `shape`."""
        raise NotImplementedError

    # () -> array.array: the elements in C order, in a new array of the dtype's typecode
    _to_array = _missing
    # (dtype), (): copies in C order
    _cast = _copy = _missing
    # (shape): the same elements under a shape with as many; a view where strides allow
    _reshape = _missing
    # (axes), (shape), (index): views. _expand raises the error of `shape.expand_strides`; an index has one
    # int or slice for each axis
    _permute = _expand = _slice = _missing
    # (value): writes elements of the same shape and dtype, which may overlap these
    _assign = _missing
    # (): of a float dtype, except _neg
    _neg = _exp = _log = _sqrt = _tanh = _sin = _cos = _missing
    # (other): of the same dtype, with a shape that broadcasts; _div of a float dtype; on bool, _add and
    # _maximum mean or, _mul means and; on integers, these and the sums and products below wrap around
    _add = _sub = _mul = _div = _pow = _maximum = _equal = _less = _missing
    # (first, second): on a bool Buffer, two of one dtype; all three broadcast
    _where = _missing
    # (axes), (axes), (axis): reduced axes stay with size 1
    _sum = _max = _argmax = _missing
    # (other, shape): the product of `shape`, of operands with at least two axes
    _matmul = _missing
    # (indices): the slices along axis 0; (indices, values): adds `values` to them, in place. Indices are
    # valid
    _take = _scatter_add = _missing


def _float_divmod(x: Real, y: Real) -> tuple[Real, Real]:
    """Returns Python's divmod of floats; by 0 it is x / 0, as in IEEE 754, and NaN."""
    if y:
        return divmod(x, y)
    quotient = math.nan if x == 0 or x != x else math.copysign(math.inf, x) * math.copysign(1.0, y)
    return quotient, math.nan


def _stable_order(row: Sequence[Any], has_nan: bool) -> list[int]:
    """Returns the positions that sort a row, NaN last where there may be any."""
    if not has_nan:
        return sorted(range(len(row)), key=row.__getitem__)
    numbers = [i for i, x in enumerate(row) if x == x]
    nans = [i for i, x in enumerate(row) if x != x]
    return sorted(numbers, key=row.__getitem__) + nans


def _restored(backend: str, flat: array[Any], shape: Shape, dtype: DType) -> Buffer:
    """Returns the Buffer of `shape` that was pickled.

    Raises:
        ValueError, BackendUnavailable: its backend is not there; see `backends.get`.
    """
    restored: Buffer = backends.get(backend).from_array(flat, shape, dtype)
    return restored


def no_dtype_holds(elements: Any) -> TypeError:
    """Returns the error that elements of another library have a type that is none of ours."""
    return TypeError(
        f"no dtype holds elements of {elements}: cast them to one of {', '.join(map(str, DType.all))} first"
    )


def _check_floating(dtype: DType, what: str) -> DType:
    if check_dtype(dtype).kind != "f":
        raise TypeError(f"{what} random numbers have a float dtype, not {dtype.name}")
    return dtype


def _empty_lists(shape: Shape) -> list[Any]:
    return [_empty_lists(shape[1:]) for _ in range(shape[0])] if len(shape) > 1 else []
