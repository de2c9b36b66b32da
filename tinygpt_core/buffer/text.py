"""Arrays as they are printed: nested brackets in aligned columns, as NumPy prints them.

Nothing here knows a backend: elements are read through `to_python`, and of a large array only those that are
shown. A Tensor prints as its array does, with more behind it.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator
from typing import Any, Protocol

from ..dtype import DType
from ..shape import Shape

WIDTH = 75  # characters in a line
ELIDE = 1000  # an array of more elements shows only
EDGE = 3  # so many at either end of each axis
FRACTION = 8  # the most digits behind the point
# From here on, below 0.0001, or with a ratio above 1,000: powers of ten
LARGE = {"float32": 1e6, "float64": 1e8}


class Array(Protocol):
    """What printing needs of a Buffer, which stands above this module."""

    @property
    def shape(self) -> Shape:
        """The size of each axis."""

    @property
    def dtype(self) -> DType:
        """The type of the elements."""

    @property
    def ndim(self) -> int:
        """How many axes there are."""

    @property
    def numel(self) -> int:
        """How many elements there are."""

    def to_python(self) -> Any:
        """Returns the elements as nested lists; a scalar for no axes."""

    def __getitem__(self, index: Any) -> Array:
        """Returns the part of the elements that an int or a slice of the first axis names."""


def array_text(buffer: Array, prefix: str = "", *ends: str) -> str:
    """Returns the elements as nested brackets in aligned columns, as NumPy prints them.

    Args:
        buffer: what to print. Of more than `ELIDE` elements, the first and last three of each axis are shown.
        prefix: what stands before the first bracket; later lines are indented by as much.
        ends: what follows, separated by commas, on a new line where the last one has no room.
    """
    elide = buffer.numel > ELIDE
    data = _corners(buffer) if elide else buffer.to_python()
    words = iter(_words(list(_flat(data)), buffer.dtype, buffer.ndim))
    text = prefix + _brackets(data, words, buffer.shape, elide, " " * len(prefix), WIDTH - len(prefix))
    tail = ", ".join(ends)
    if not tail:
        return text
    fits = len(text) - text.rfind("\n") - 1 + 2 + len(tail) <= WIDTH
    return f"{text}, {tail}" if fits else f"{text},\n{' ' * len(prefix)}{tail}"


def array_html(buffer: Array, name: str, *ends: str) -> str:
    """Returns a table with a row a line for an array of one or two axes, and the printed form of any other.

    Args:
        buffer: what to print.
        name: of the class, for the caption.
        ends: what else the caption says.
    """
    from html import escape  # takes a millisecond to import, and only notebooks need it

    if buffer.ndim not in (1, 2) or not buffer.numel:
        return f"<pre>{escape(array_text(buffer, f'{name}(', *ends) + ')')}</pre>"
    elide = buffer.numel > ELIDE
    data = _corners(buffer) if elide else buffer.to_python()
    words = iter(_words(list(_flat(data)), buffer.dtype, buffer.ndim))
    rows = [[next(words) for _ in row] for row in (data if buffer.ndim == 2 else [data])]
    if elide and buffer.shape[-1] > 2 * EDGE:
        rows = [[*row[:EDGE], "…", *row[EDGE:]] for row in rows]
    if elide and buffer.ndim == 2 and buffer.shape[0] > 2 * EDGE:
        rows.insert(EDGE, ["…"] * len(rows[0]))
    caption = escape(", ".join([name, *ends]))
    lines = ["".join(f"<td>{escape(word.strip())}</td>" for word in row) for row in rows]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return (
        f'<table style="font-family:monospace;text-align:right"><caption>{caption}</caption>'
        f"<tbody>{body}</tbody></table>"
    )


def _corners(buffer: Array) -> Any:
    """Returns the elements that are shown of a large array, as nested lists."""
    if not buffer.ndim:
        return buffer.to_python()
    size = buffer.shape[0]
    if buffer.ndim == 1 and size <= 2 * EDGE:
        return buffer.to_python()
    if buffer.ndim == 1:
        return buffer[:EDGE].to_python() + buffer[size - EDGE :].to_python()
    places = range(size) if size <= 2 * EDGE else (*range(EDGE), *range(size - EDGE, size))
    return [_corners(buffer[place]) for place in places]


def _flat(data: Any) -> Iterator[Any]:
    """Yields the elements of nested lists."""
    if isinstance(data, list):
        for part in data:
            yield from _flat(part)
    else:
        yield data


def _words(values: list[Any], dtype: DType, ndim: int) -> list[str]:
    """Returns each element as text, all of one width."""
    words = _float_words(values, dtype) if dtype.kind == "f" else list(map(str, values))
    width = max(map(len, words), default=0)
    if dtype.kind == "b" and ndim:
        width = len("False")
    return [word.rjust(width) for word in words]


def _float_words(values: list[float], dtype: DType) -> list[str]:
    """Returns floats as texts whose points are aligned.

    Each has the fewest digits that distinguish it from its neighbours, and no more than eight decimals.
    """
    sizes = [abs(value) for value in values if value and math.isfinite(value)]
    least = array(dtype.typecode, [0.0001])[0]
    scientific = bool(sizes) and (
        max(sizes) >= LARGE[dtype.name] or min(sizes) < least or max(sizes) / min(sizes) > 1000
    )
    split = _scientific if scientific else _positional
    parts = [split(value, _precision(value, dtype)) if math.isfinite(value) else None for value in values]
    fraction = max((len(part[1]) for part in parts if part), default=0)
    power = max((len(part[2]) for part in parts if part), default=0)
    words = []
    for value, part in zip(values, parts, strict=True):
        if part is None:
            words.append(str(value))
        elif scientific:
            front, _, exponent = f"{value:#.{fraction}e}".partition("e")
            words.append(f"{front}e{exponent[0]}{exponent[1:].rjust(power - 1, '0')}")
        else:
            words.append(f"{part[0]}.{part[1].ljust(fraction)}")
    return words


def _precision(value: float, dtype: DType) -> int:
    """Returns how many digits behind the first distinguish a number from the others of its dtype."""
    return next(
        digits for digits in range(17) if array(dtype.typecode, [float(f"{value:.{digits}e}")])[0] == value
    )


def _positional(value: float, precision: int) -> tuple[str, str, str]:
    """Returns the digits before the point, those behind it, and no exponent."""
    exponent = int(f"{value:.{precision}e}".partition("e")[2])
    decimals = min(max(precision - exponent, 0), FRACTION)
    front, _, behind = f"{value:.{decimals}f}".partition(".")
    return front, behind.rstrip("0"), ""


def _scientific(value: float, precision: int) -> tuple[str, str, str]:
    """Returns the digit before the point, those behind it, and the exponent of ten."""
    mantissa, _, exponent = f"{value:.{min(precision, FRACTION)}e}".partition("e")
    front, _, behind = mantissa.partition(".")
    return front, behind.rstrip("0"), exponent


def _brackets(
    data: Any, words: Iterator[str], shape: tuple[int, ...], elide: bool, indent: str, width: int
) -> str:
    """Returns nested brackets, one row a line.

    Rows that are too long go on in the next line; blocks of rows are set apart by empty lines.
    """
    if not shape:
        return next(words)
    parts = [_brackets(part, words, shape[1:], elide, indent + " ", width - 2) for part in data]
    if elide and shape[0] > 2 * EDGE:
        parts.insert(EDGE, "...")
    if len(shape) > 1:
        empty_lines = "\n" * (len(shape) - 2)
        return "[" + f",\n{empty_lines}{indent} ".join(parts) + "]"
    lines = [""]
    for place, part in enumerate(parts):
        if len(lines[-1]) + 1 + len(part) > width - 1 and lines[-1]:
            lines.append("")
        lines[-1] += part + (", " if place < len(parts) - 1 else "")
    return "[" + f"\n{indent} ".join([*(line.rstrip() for line in lines[:-1]), lines[-1]]) + "]"
