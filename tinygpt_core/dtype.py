"""Floor 1: the types that an element of a Buffer can have, and to which type two of them promote.

There are five, and promotion follows NumPy: `bool` and an integer give the integer, `int32` and `int64` give
`int64`, `float32` and `float64` give `float64`, and an `int32` or `int64` with a `float32` gives `float64`,
the smallest float that holds both.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import starmap
from struct import Struct, error
from typing import Any, ClassVar


@lru_cache(maxsize=256)
def _packer(format: str) -> Struct:
    return Struct(format)


class DType:
    """The type of a Buffer's elements.

    The instances are `DType.float32`, `float64`, `int32`, `int64` and `bool`; compare them with `is`.

    Attributes:
        name: how the type prints and how files spell it, for example "float32".
        typecode: its code in the standard library's `array` and `struct`.
        itemsize: bytes an element.
        kind: "f" (IEEE 754 binary floating point), "i" (two's complement) or "b".
        rank: the order in which promotion climbs.
    """

    __slots__ = ("itemsize", "kind", "name", "rank", "typecode")

    float32: ClassVar[DType]
    float64: ClassVar[DType]
    int32: ClassVar[DType]
    int64: ClassVar[DType]
    bool: ClassVar[DType]
    all: ClassVar[tuple[DType, ...]]

    name: str
    typecode: str
    itemsize: int
    kind: str
    rank: int

    def __init__(self, name: str, typecode: str, kind: str, rank: int) -> None:
        self.name = name
        self.typecode = typecode
        self.kind = kind
        self.rank = rank
        self.itemsize = array(typecode).itemsize

    def __repr__(self) -> str:
        return f"DType.{self.name}"

    def __str__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[Any, ...]:
        return DType.from_name, (self.name,)  # a copy of a dtype is the dtype itself, so `is` keeps working

    @property
    def is_floating(self) -> Any:
        """Whether elements are floating point numbers: only these can require gradients."""
        return self.kind == "f"

    @staticmethod
    def from_name(name: str) -> DType:
        """Returns the dtype called `name`; raises ValueError with the names there are."""
        for dtype in DType.all:
            if dtype.name == name:
                return dtype
        raise ValueError(
            f"unknown dtype {name!r}: expected one of {', '.join(dtype.name for dtype in DType.all)}"
        )

    @staticmethod
    def deduce_dtype(value: Any) -> DType:
        """Returns the dtype of a bare scalar: bool, int32 (int64 where it needs more bits) or float32.

        Raises:
            TypeError: `value` is no bool, int or float, and no scalar of NumPy's that is one.
        """
        if not isinstance(value, (bool, int, float)):
            number = as_number(value)
            value = value if number is None else number
        if isinstance(value, bool):
            return DType.bool
        if isinstance(value, int):
            return DType.int32 if -(2**31) <= value < 2**31 else DType.int64
        if isinstance(value, float):
            return DType.float32
        raise TypeError(f"no dtype holds a {type(value).__name__} ({value!r}): expected bool, int or float")

    def cast(self, value: Any) -> Any:
        """Returns `value` as this type stores it: rounded, truncated to an integer, or True if not zero."""
        return self.to_python(self.pack((self.convert(value),)))[0]

    def convert(self, value: Any) -> Any:
        """Returns `value` as a Python number that `pack` takes: a float, an int (truncated) or a bool.

        Raises:
            ValueError: an infinity or NaN for an integer type.
        """
        if self.kind == "f":
            return float(value)
        if self.kind == "b":
            return bool(value)
        try:
            return int(value)
        except (ValueError, OverflowError):
            raise ValueError(f"cannot cast {value!r} to {self.name}: it is not a finite number") from None

    def convert_exactly(self, value: Any) -> Any:
        """Returns what `convert` does, for an operand that must not become another number.

        Raises:
            ValueError: an infinity or NaN for an integer type.
            OverflowError: an integer outside the type's range.
        """
        number = self.convert(value)
        if self.kind == "i" and not -1 <= number >> (8 * self.itemsize - 1) <= 0:
            raise OverflowError(f"{number} does not fit {self.name}")
        return number

    def pack(self, values: Sequence[Any]) -> array[Any]:
        """Returns `values` in an array, each rounded to this type.

        `struct` does this three times faster than `array(typecode, list)`.

        Raises:
            OverflowError: an integer outside the type's range.
        """
        try:
            return array(self.typecode, _packer(f"{len(values)}{self.typecode}").pack(*values))
        except error as problem:
            raise OverflowError(f"a value does not fit {self.name}: {problem}") from None

    def pack_into(self, target: array[Any], start: int, values: Sequence[float]) -> None:
        """Writes floats over elements of an array of this type, from `start` on, each rounded to it."""
        _packer(f"{len(values)}{self.typecode}").pack_into(target, start * self.itemsize, *values)

    def pack_wrapped(self, values: Sequence[Any]) -> array[Any]:
        """Returns `values` as `pack` does, but integers outside the range wrap around (two's complement)."""
        try:
            return self.pack(values)
        except OverflowError:
            if self.kind != "i":
                raise
            return self.pack(list(map(self.wrap, values)))

    def wrap(self, value: int) -> int:
        """Returns the integer of this type that equals `value` modulo 2 to the number of its bits."""
        half = 1 << (8 * self.itemsize - 1)
        return (value + half) % (2 * half) - half

    def pack_rows(self, rows: Iterable[Sequence[float]]) -> array[Any]:
        """Returns rows of floats that are equally long in one array, without making one list of them."""
        rows = list(rows)
        width = len(rows[0]) if rows else 0
        pack_row = _packer(f"{width}{self.typecode}").pack
        return array(self.typecode, b"".join(starmap(pack_row, rows)))

    def unpack_rows(self, values: array[Any], width: int) -> list[tuple[Any, ...]]:
        """Returns the elements of a packed array as rows of `width`, at least 1, of Python numbers.

        `struct` does this a third faster than slicing the list of all.
        """
        return list(_packer(f"{width}{self.typecode}").iter_unpack(values))

    def to_python(self, values: Iterable[Any]) -> list[Any]:
        """Returns the elements of a packed array as Python numbers (bools for `bool`)."""
        if self.kind == "b":
            return list(map(bool, values))
        return values.tolist() if isinstance(values, array) else list(values)


DType.bool = DType("bool", "B", "b", 0)
DType.int32 = DType("int32", "i", "i", 1)
DType.int64 = DType("int64", "q", "i", 2)
DType.float32 = DType("float32", "f", "f", 3)
DType.float64 = DType("float64", "d", "f", 4)
DType.all = (DType.bool, DType.int32, DType.int64, DType.float32, DType.float64)


def as_number(value: Any) -> Any:
    """Returns a Python number, or a scalar or 0-d array of NumPy's as one; None for what is neither.

    So NumPy's scalars are weak, as Python's numbers are: float32 times `numpy.float64(2)` stays float32.
    """
    if isinstance(value, (bool, int, float)):
        return value
    try:
        is_scalar = memoryview(value).ndim == 0
    except (TypeError, ValueError, BufferError):  # ValueError: a type that the protocol has no format for
        return None
    number = value.item() if is_scalar and hasattr(value, "item") else None
    return number if isinstance(number, (bool, int, float)) else None


def check_dtype(dtype: Any) -> DType:
    """Returns `dtype`; raises TypeError for what is none, such as "float32" or another library's type."""
    if not isinstance(dtype, DType):
        raise TypeError(f"a dtype is one of {', '.join(map(repr, DType.all))}, not {dtype!r}")
    return dtype


def promote(first: DType, second: DType) -> DType:
    """Returns the dtype of the result of two arrays, by NumPy's promotion table."""
    low, high = (first, second) if first.rank <= second.rank else (second, first)
    return DType.float64 if high is DType.float32 and low.kind == "i" else high


def promote_scalar(dtype: DType, value: Any) -> DType:
    """Returns the dtype of the result of an array of `dtype` and a Python scalar.

    A scalar is weak: it climbs only to a higher kind (bool < int < float), never to more bits of the same
    kind. Source: NumPy Enhancement Proposal 50.
    """
    if isinstance(value, bool) or dtype.kind == "f":
        return dtype
    if isinstance(value, int):
        return dtype if dtype.kind == "i" else DType.int64
    return DType.float64
