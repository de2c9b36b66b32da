"""Floor 6: the Python array API standard, as a namespace over Buffer.

    from tinygpt_core import array_api as xp

    xp.sum(xp.asarray([1.0, 2.0]))              # a Buffer, on the backend that is in use
    buffer.__array_namespace__() is xp          # what libraries that are written for any array ask for

So what is written for the standard runs on every backend, and the standard's own tests can be run on one.
Here are the standard's names, signatures and defaults; what computes are the methods of Buffer, and those of
Tensor without a record. A reduction drops its axes here, unless `keepdims`; those of Buffer's own methods
stay. A device is a backend's name.

`LEFT_OUT` lists what the standard has and this has not, with reasons.

Source: https://data-apis.org/array-api/2024.12/
"""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable, Sequence
from typing import Any

from . import backends
from .buffer import functions
from .buffer.base import Buffer
from .dtype import DType, as_number, check_dtype, promote, promote_scalar
from .shape import broadcast_shapes, check_int, normalize_axes, normalize_axis, numel, without_axes
from .tensor import Tensor

__array_api_version__ = "2024.12"

LEFT_OUT: dict[str, str] = {
    **dict.fromkeys(
        ("complex64", "complex128", "real", "imag", "conj"), "there are no complex numbers: no GPT needs them"
    ),
    **dict.fromkeys(
        ("int8", "int16", "uint8", "uint16", "uint32", "uint64"),
        "five dtypes: each more multiplies what every kernel of every backend is tested with",
    ),
    **dict.fromkeys(
        ("bitwise_left_shift", "bitwise_right_shift"), "no hook of the backends shifts bits, nor needs to"
    ),
    **dict.fromkeys(
        ("acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "nextafter"),
        "cannot be composed of the backends' hooks without losing digits, and each is a hook more for all",
    ),
    **dict.fromkeys(
        ("unique_all", "unique_counts", "unique_inverse", "unique_values", "isin", "searchsorted"),
        "of data, not of a model: Python's sets and bisect, or NumPy's by numpy.asarray",
    ),
    "cumulative_prod": "no backend has a hook for running products, and nothing here needs them",
    "linalg": "an extension: decompositions and solvers are NumPy's and SciPy's",
    "fft": "an extension: NumPy's and SciPy's",
}

# ---------------------------------------------------------------- constants and dtypes

e, pi = math.e, math.pi
inf, nan = math.inf, math.nan
newaxis = None

bool = DType.bool
int32, int64 = DType.int32, DType.int64
float32, float64 = DType.float32, DType.float64

_KINDS: dict[str, tuple[DType, ...]] = {
    "bool": (bool,),
    "signed integer": (int32, int64),
    "unsigned integer": (),
    "integral": (int32, int64),
    "real floating": (float32, float64),
    "complex floating": (),
    "numeric": (int32, int64, float32, float64),
}


class finfo:
    """What can be said about a float dtype: `bits`, `eps`, `max`, `min`, `smallest_normal` and `dtype`.

    Raises:
        TypeError: the dtype is no float's.
    """

    def __init__(self, type: DType | Buffer, /) -> None:
        dtype = _dtype_of(type)
        if dtype.kind != "f":
            raise TypeError(f"finfo is of a float dtype, not {dtype.name}")
        digits, exponent = (23, 127) if dtype is float32 else (52, 1023)
        self.dtype = dtype
        self.bits = 8 * dtype.itemsize
        self.eps = 2.0**-digits
        self.max = (2.0 - 2.0**-digits) * 2.0**exponent
        self.min = -self.max
        self.smallest_normal = 2.0 ** (1 - exponent)


class iinfo:
    """What can be said about an integer dtype: `bits`, `max`, `min` and `dtype`.

    Raises:
        TypeError: the dtype is no integer's.
    """

    def __init__(self, type: DType | Buffer, /) -> None:
        dtype = _dtype_of(type)
        if dtype.kind != "i":
            raise TypeError(f"iinfo is of an integer dtype, not {dtype.name}")
        self.dtype = dtype
        self.bits = 8 * dtype.itemsize
        self.max = 2 ** (self.bits - 1) - 1
        self.min = -(2 ** (self.bits - 1))


def _dtype_of(value: Any) -> DType:
    return value.dtype if isinstance(value, Buffer) else check_dtype(value)


def astype(x: Buffer, dtype: DType, /, *, copy: builtins.bool = True, device: Any = None) -> Buffer:
    """Returns the elements in another dtype; x itself where it has it and no copy is asked for.

    Raises:
        TypeError: the dtype is none. ValueError: NaN or an infinity becomes an integer, or no such device.
    """
    placed = x if device is None else x.to(_kind(device).backend)
    return placed.cast(dtype) if copy else placed.as_dtype(dtype)


def can_cast(from_: DType | Buffer, to: DType, /) -> builtins.bool:
    """Returns whether promotion leads from one dtype, or that of an array of any shape, to the other.

    Raises:
        TypeError: what is no dtype.
    """
    return promote(_dtype_of(from_), check_dtype(to)) is to


def isdtype(dtype: DType, kind: DType | str | tuple[DType | str, ...]) -> builtins.bool:
    """Returns whether a dtype is one of a kind: a dtype, a name such as "integral", or a tuple of these.

    Raises:
        TypeError: what is no dtype. ValueError: a kind that the standard has not.
    """
    check_dtype(dtype)
    if isinstance(kind, tuple):
        return builtins.any(isdtype(dtype, one) for one in kind)
    if not isinstance(kind, str):
        return dtype is check_dtype(kind)
    if kind not in _KINDS:
        raise ValueError(f"unknown kind of dtype {kind!r}: expected one of {', '.join(_KINDS)}")
    return dtype in _KINDS[kind]


def result_type(*arrays_and_dtypes: Any) -> DType:
    """Returns the dtype to which arrays (of any shape), dtypes and Python numbers promote.

    Raises:
        ValueError: no array and no dtype. TypeError: something that is none of these.
    """
    numbers = [value for value in arrays_and_dtypes if isinstance(value, (builtins.bool, int, float))]
    others = [_dtype_of(v) for v in arrays_and_dtypes if not isinstance(v, (builtins.bool, int, float))]
    if not others:
        raise ValueError("result_type needs at least one array or dtype")
    result = others[0]
    for dtype in others[1:]:
        result = promote(result, dtype)
    for number in numbers:
        result = promote_scalar(result, number)
    return result


# ---------------------------------------------------------------- what the namespace can do


class _Info:
    """What the namespace can do, as the standard wants it said."""

    def capabilities(self) -> dict[str, Any]:
        """Returns whether masks index, whether shapes can depend on data, and how many axes there may be."""
        return {"boolean indexing": False, "data-dependent shapes": True, "max dimensions": None}

    def default_device(self) -> str:
        """Returns the name of the backend that is in use."""
        return str(backends.active().backend)

    def devices(self) -> list[str]:
        """Returns the names of the backends that can run here."""
        return [status.name for status in backends.available() if status.available]

    def default_dtypes(self, *, device: Any = None) -> dict[str, DType]:
        """Returns the dtype that floats, integers and indices get where none is asked for."""
        return {"real floating": float32, "integral": int64, "indexing": int64}

    def dtypes(self, *, device: Any = None, kind: Any = None) -> dict[str, DType]:
        """Returns the dtypes by name, of one kind where it is named."""
        return {dtype.name: dtype for dtype in DType.all if kind is None or isdtype(dtype, kind)}


def __array_namespace_info__() -> _Info:
    """Returns what the namespace can do."""
    return _Info()


# ---------------------------------------------------------------- making one


def _kind(device: Any) -> Any:
    """Returns the Buffer class of a device, a backend's name, or of the backend in use for None."""
    return backends.active() if device is None else backends.get(device)


def asarray(obj: Any, /, *, dtype: Any = None, device: Any = None, copy: Any = None) -> Buffer:
    """Returns nested lists, a number, an array, or what shares its elements as a Buffer.

    Python's ints become int64, its floats, with ints among them or not, float32. Without a device an array of
    ours stays on its own.

    Args:
        copy: None for a copy where elements cannot be shared, as those of lists, of another dtype or another
            device; True for one in any case; False for an error instead of one.

    Raises:
        TypeError, ValueError: as `Buffer(obj)` does; `copy=False`, and only a copy would do.
    """
    if isinstance(obj, Buffer):
        made = obj if device is None else obj.to(_kind(device).backend)
        is_shared = made is obj
    elif hasattr(obj, "shape") and hasattr(obj, "dtype"):
        made = _kind(device)(obj)
        is_shared = made.shares_memory(obj)
    else:
        made = _kind(device)(obj, _default_dtype(obj) if dtype is None else dtype)
        is_shared = False
    wanted = made.dtype if dtype is None else check_dtype(dtype)
    if copy is False and not (is_shared and wanted is made.dtype):
        raise ValueError(
            f"a {type(obj).__name__} becomes an array of {wanted.name} on {made.backend!r} by a copy, and "
            "copy=False forbids it"
        )
    converted = made.as_dtype(wanted)
    return converted.copy() if copy and is_shared and converted is made else converted


def _default_dtype(data: Any) -> DType | None:
    """Returns the standard's dtype of Python's numbers in nested lists; None where Buffer finds it, or an
    error.
    """
    kinds: set[type] = set()
    level = [data]
    while level:
        item = level.pop()
        if isinstance(item, (list, tuple)):
            level.extend(item)
        else:
            kinds.add(type(as_number(item)))
    return int64 if kinds == {int} else float32 if kinds == {int, float} else None


def from_dlpack(x: Any, /, *, device: Any = None, copy: Any = None) -> Buffer:
    """Returns the elements of what exports DLPack, shared where the backend can; raises as `asarray` does."""
    return asarray(x, device=device, copy=copy)


def arange(
    start: float, /, stop: Any = None, step: float = 1, *, dtype: Any = None, device: Any = None
) -> Buffer:
    """Returns start, start + step, … up to but without stop along one axis; from 0 where stop is missing.

    Raises:
        ValueError: step is 0. OverflowError: an integer that does not fit.
    """
    first, last = (0, start) if stop is None else (start, stop)
    is_whole = builtins.all(isinstance(value, int) for value in (first, last, step))
    made: Buffer = _kind(device).arange(first, last, step, dtype or (int64 if is_whole else float32))
    return made


def empty(shape: Any, *, dtype: Any = None, device: Any = None) -> Buffer:
    """Returns an array of `shape`; its elements, which are not to be read, are zeros."""
    return zeros(shape, dtype=dtype, device=device)


def full(shape: Any, fill_value: Any, *, dtype: Any = None, device: Any = None) -> Buffer:
    """Returns an array of `shape` that holds a number everywhere; raises TypeError for what is none."""
    number = as_number(fill_value)
    if number is None:
        raise TypeError(f"full fills with a number, not with a {type(fill_value).__name__}")
    is_int = isinstance(number, int) and not isinstance(number, builtins.bool)
    made: Buffer = _kind(device).full(shape, number, dtype or (int64 if is_int else None))
    return made


def ones(shape: Any, *, dtype: Any = None, device: Any = None) -> Buffer:
    """Returns an array of `shape` that holds ones, float32 where no dtype is asked for."""
    return full(shape, 1, dtype=dtype or float32, device=device)


def zeros(shape: Any, *, dtype: Any = None, device: Any = None) -> Buffer:
    """Returns an array of `shape` that holds zeros, float32 where no dtype is asked for."""
    return full(shape, 0, dtype=dtype or float32, device=device)


def empty_like(x: Buffer, /, *, dtype: Any = None, device: Any = None) -> Buffer:
    """Returns an array of the shape and dtype of x; its elements, which are not to be read, are zeros."""
    return zeros_like(x, dtype=dtype, device=device)


def full_like(x: Buffer, /, fill_value: Any, *, dtype: Any = None, device: Any = None) -> Buffer:
    """Returns an array of the shape and dtype of x that holds a number everywhere."""
    return full(x.shape, fill_value, dtype=dtype or x.dtype, device=device or x.backend)


def ones_like(x: Buffer, /, *, dtype: Any = None, device: Any = None) -> Buffer:
    """Returns an array of the shape and dtype of x that holds ones."""
    return full_like(x, 1, dtype=dtype, device=device)


def zeros_like(x: Buffer, /, *, dtype: Any = None, device: Any = None) -> Buffer:
    """Returns an array of the shape and dtype of x that holds zeros."""
    return full_like(x, 0, dtype=dtype, device=device)


def eye(
    n_rows: int, n_cols: int | None = None, /, *, k: int = 0, dtype: Any = None, device: Any = None
) -> Buffer:
    """Returns a matrix (n_rows, n_cols) with ones where column = row + k."""
    with backends.use(_kind(device).backend):
        return functions.eye(n_rows, n_cols, dtype or float32, k)


def linspace(
    start: float,
    stop: float,
    /,
    num: int,
    *,
    dtype: Any = None,
    device: Any = None,
    endpoint: builtins.bool = True,
) -> Buffer:
    """Returns `num` elements along one axis, equally far apart, from start to stop (without it: `endpoint`).

    Raises:
        ValueError: a negative number. TypeError: a number that is no int.
    """
    with backends.use(_kind(device).backend):
        return functions.linspace(start, stop, num, dtype or float32, endpoint)


def meshgrid(*arrays: Buffer, indexing: str = "xy") -> tuple[Buffer, ...]:
    """Returns the coordinates of a grid: for each array (n,) one of the grid's shape, with its elements.

    "xy" puts the second array's axis first, "ij" keeps the order.

    Raises:
        ValueError: another indexing, or an array with more than one axis.
    """
    if indexing not in ("xy", "ij"):
        raise ValueError(f"meshgrid's indexing is 'xy' or 'ij', not {indexing!r}")
    if builtins.any(x.ndim > 1 for x in arrays):
        raise ValueError(f"meshgrid takes arrays with one axis, not {[x.shape for x in arrays]}")
    count = len(arrays)
    order = [1, 0, *range(2, count)] if indexing == "xy" and count > 1 else list(range(count))
    shape = tuple(arrays[i].numel for i in order)
    lines = [
        x.reshape([x.numel if order[i] == at else 1 for i in range(count)]) for at, x in enumerate(arrays)
    ]
    return tuple(line.expand(shape).copy() for line in lines)


def tril(x: Buffer, /, *, k: int = 0) -> Buffer:
    """Returns a copy with zeros above a diagonal of the last two axes; raises ValueError for fewer axes."""
    return x.tril(k)


def triu(x: Buffer, /, *, k: int = 0) -> Buffer:
    """Returns a copy with zeros below a diagonal of the last two axes; raises ValueError for fewer axes."""
    return functions.triu(x, k)


# ---------------------------------------------------------------- element by element


def _pair(x1: Any, x2: Any) -> tuple[Any, Any]:
    """Returns two operands, of which one may be a Python number."""
    if not isinstance(x1, Buffer) and not isinstance(x2, Buffer):
        raise TypeError(f"one operand is an array, not {type(x1).__name__} and {type(x2).__name__}")
    return (x1 if isinstance(x1, Buffer) else x2.scalar(x1)), x2


def _unary(name: str, compute: Callable[[Buffer], Buffer], meaning: str) -> Callable[[Buffer], Buffer]:
    def function(x: Buffer, /) -> Buffer:
        return compute(x)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"Returns {meaning} of each element, of the shape of x."
    return function


def _binary(
    name: str, compute: Callable[[Any, Any], Buffer], meaning: str
) -> Callable[[Buffer | float, Buffer | float], Buffer]:
    def function(x1: Buffer | float, x2: Buffer | float, /) -> Buffer:
        return compute(*_pair(x1, x2))

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"Returns {meaning}, of two elements; shapes broadcast."
    return function


def _sinh(x: Buffer) -> Buffer:
    """(e^x - e^-x) / 2, by way of e^x - 1 so that a small x keeps its digits, and x / 2 for a large one."""
    m = functions.expm1(functions.absolute(x))
    half = (functions.absolute(x) * 0.5).exp()
    large = half * (half * 0.5)
    value = Buffer.where(m < 1e30, (m + m / (m + 1.0)) * 0.5, large)
    return Buffer.where(x < 0.0, -value, Buffer.where(x == 0.0, x, value))


def _cosh(x: Buffer) -> Buffer:
    half = (functions.absolute(x) * 0.5).exp()
    return half * (half * 0.5) + 0.5 / half / half


def _sign_of_zero_too(x: Buffer) -> Buffer:
    """Whether an element is negative, -0 among them."""
    return (x < 0.0) | ((x == 0.0) & (1.0 / x < 0.0)) if x.dtype.kind == "f" else x < 0


def _copysign(x: Buffer, sign: Any) -> Buffer:
    other = sign if isinstance(sign, Buffer) else x.scalar(float(sign))
    magnitude = functions.absolute(x)
    return Buffer.where(_sign_of_zero_too(other), -magnitude, magnitude)


def _hypot(x: Any, y: Any) -> Buffer:
    a, b = functions.absolute(x), functions.absolute(y if isinstance(y, Buffer) else x.scalar(y))
    large, small = a.maximum(b), functions.minimum(a, b)
    is_usual = (large > 0.0) & (large < inf)
    ratio = small / Buffer.where(is_usual, large, 1.0)
    length = large * (ratio * ratio + 1.0).sqrt()
    return Buffer.where(is_usual, length, Buffer.where((a == inf) | (b == inf), inf, a + b))


def _logaddexp(x: Any, y: Any) -> Buffer:
    large, small = x.maximum(y), functions.minimum(x, y)
    is_usual = functions.isfinite(large)
    distance = Buffer.where(is_usual, small - large, 0.0)
    return Buffer.where(is_usual, large + functions.log1p(distance.exp()), large)


def _reciprocal_log(base: float) -> Callable[[Buffer], Buffer]:
    """The logarithm to a base, exact for what is a power of it and is rounded to one.

    The quotient of two logarithms is right to two units in the last place, so that what lies as near to an
    integer may be one, and nothing farther away.
    """

    def compute(x: Buffer) -> Buffer:
        quotient = x.as_dtype(float64).log() / math.log(base)
        near = functions.round_half_even(quotient)
        is_near = functions.absolute(quotient - near) <= 2.0**-51 * functions.absolute(near)
        return Buffer.where(is_near, near, quotient).as_dtype(x.as_floating().dtype)

    return compute


abs = _unary("abs", functions.absolute, "|x|")
ceil = _unary("ceil", functions.ceil, "the smallest integer >= x")
cos = _unary("cos", lambda x: x.cos(), "cos x, of radians,")
cosh = _unary("cosh", _cosh, "(e^x + e^-x) / 2")
exp = _unary("exp", lambda x: x.exp(), "e^x")
expm1 = _unary("expm1", functions.expm1, "e^x - 1")
floor = _unary("floor", functions.floor, "the largest integer <= x")
isfinite = _unary("isfinite", functions.isfinite, "whether x is neither NaN nor an infinity,")
isinf = _unary("isinf", functions.isinf, "whether x is an infinity,")
isnan = _unary("isnan", functions.isnan, "whether x is NaN,")
log = _unary("log", lambda x: x.log(), "ln x")
log10 = _unary("log10", _reciprocal_log(10.0), "the logarithm of x to base 10")
log1p = _unary("log1p", functions.log1p, "ln(1 + x)")
log2 = _unary("log2", _reciprocal_log(2.0), "the logarithm of x to base 2")
logical_not = bitwise_invert = _unary("logical_not", lambda x: ~x, "not x, of bools,")
negative = _unary("negative", lambda x: -x, "-x")
positive = _unary("positive", lambda x: x.copy(), "x")
reciprocal = _unary("reciprocal", lambda x: 1.0 / x, "1 / x")
round = _unary("round", functions.round_half_even, "the nearest integer, the even one of two,")
sign = _unary("sign", functions.sign, "-1, 0 or 1")
signbit = _unary("signbit", _sign_of_zero_too, "whether x, a zero among them, is negative,")
sin = _unary("sin", lambda x: x.sin(), "sin x, of radians,")
sinh = _unary("sinh", _sinh, "(e^x - e^-x) / 2")
sqrt = _unary("sqrt", lambda x: x.sqrt(), "the square root")
square = _unary("square", lambda x: x * x, "x^2")
tan = _unary("tan", lambda x: x.sin() / x.cos(), "tan x, of radians,")
tanh = _unary("tanh", lambda x: x.tanh(), "the hyperbolic tangent")
trunc = _unary("trunc", functions.trunc, "x without its fraction")

add = _binary("add", lambda x, y: x + y, "x1 + x2")
copysign = _binary("copysign", _copysign, "|x1| with the sign of x2")
divide = _binary("divide", lambda x, y: x / y, "x1 / x2")
equal = _binary("equal", lambda x, y: x == y, "whether x1 = x2")
floor_divide = _binary("floor_divide", lambda x, y: x // y, "x1 / x2 rounded down")
greater = _binary("greater", lambda x, y: x > y, "whether x1 > x2")
greater_equal = _binary("greater_equal", lambda x, y: x >= y, "whether x1 >= x2")
hypot = _binary("hypot", _hypot, "sqrt(x1^2 + x2^2)")
less = _binary("less", lambda x, y: x < y, "whether x1 < x2")
less_equal = _binary("less_equal", lambda x, y: x <= y, "whether x1 <= x2")
logaddexp = _binary("logaddexp", _logaddexp, "ln(e^x1 + e^x2)")
logical_and = bitwise_and = _binary("logical_and", lambda x, y: x & y, "x1 and x2, of bools")
logical_or = bitwise_or = _binary("logical_or", lambda x, y: x | y, "x1 or x2, of bools")
logical_xor = bitwise_xor = _binary("logical_xor", lambda x, y: x ^ y, "x1 or x2 but not both, of bools")
maximum = _binary("maximum", lambda x, y: x.maximum(y), "the larger")
minimum = _binary("minimum", functions.minimum, "the smaller")
multiply = _binary("multiply", lambda x, y: x * y, "x1 x2")
not_equal = _binary("not_equal", lambda x, y: x != y, "whether x1 differs from x2")
pow = _binary("pow", lambda x, y: x**y, "x1 to the power x2")
remainder = _binary("remainder", lambda x, y: x % y, "what x1 / x2 rounded down leaves, of the sign of x2")
subtract = _binary("subtract", lambda x, y: x - y, "x1 - x2")


def clip(x: Buffer, /, min: Any = None, max: Any = None) -> Buffer:
    """Returns each element, or the limit that it lies beyond, in the dtype of x; limits broadcast.

    Raises:
        TypeError: a limit that is neither an array nor a number.
    """
    if min is None and max is None:
        return x.copy()
    limits = [Tensor(limit) if isinstance(limit, Buffer) else limit for limit in (min, max)]
    return Tensor(x).clamp(*limits).buffer.as_dtype(x.dtype)


def where(condition: Buffer, x1: Any, x2: Any, /) -> Buffer:
    """Returns x1 where the bool condition holds and x2 elsewhere; all three broadcast."""
    return Buffer.where(condition, x1, x2)


# ---------------------------------------------------------------- layout


def broadcast_to(x: Buffer, /, shape: Any) -> Buffer:
    """Returns a view broadcast to `shape`; raises ValueError where x does not broadcast to it."""
    return x.expand(shape)


def broadcast_arrays(*arrays: Buffer) -> tuple[Buffer, ...]:
    """Returns views of all arrays in the shape that they broadcast to; raises ValueError where none is."""
    shape = broadcast_shapes(*(x.shape for x in arrays))
    return tuple(x.expand(shape) for x in arrays)


def concat(arrays: Sequence[Buffer], /, *, axis: int | None = 0) -> Buffer:
    """Returns arrays joined along an axis, or flattened where it is None; raises ValueError for none."""
    if axis is None:
        return Buffer.concatenate([x.reshape((x.numel,)) for x in arrays], 0)
    return Buffer.concatenate(list(arrays), axis)


def expand_dims(x: Buffer, /, axis: int) -> Buffer:
    """Returns a view with an axis of size 1 put in.

    Raises:
        IndexError: the result has no such axis. TypeError: the axis is no int.
    """
    if not -x.ndim - 1 <= check_int("axis", axis) <= x.ndim:
        raise IndexError(f"expand_dims: the result has {x.ndim + 1} axes, and no axis {axis}")
    return Tensor(x).unsqueeze(axis).buffer


def flip(x: Buffer, /, *, axis: Any = None) -> Buffer:
    """Returns a view in which the order along an axis, several, or all (None) is turned round."""
    return Tensor(x).flip(axis).buffer


def matrix_transpose(x: Buffer, /) -> Buffer:
    """Returns a view with the last two axes exchanged; raises ValueError for fewer axes."""
    return x.transpose(-2, -1)


def moveaxis(x: Buffer, source: Any, destination: Any, /) -> Buffer:
    """Returns a view with axes moved to other places; the others stay in order.

    Raises:
        TypeError, ValueError: axes that are none, named twice, or not as many as places.
    """
    sources = source if isinstance(source, tuple) else (source,)
    places = destination if isinstance(destination, tuple) else (destination,)
    if len(sources) != len(places):
        raise ValueError(f"moveaxis needs a place for each axis, not {source} and {destination}")
    normalize_axes(sources, x.ndim), normalize_axes(places, x.ndim)  # which refuse what is named twice
    moved = {
        normalize_axis(place, x.ndim): normalize_axis(axis, x.ndim)
        for place, axis in zip(places, sources, strict=True)
    }
    rest = iter(axis for axis in range(x.ndim) if axis not in moved.values())
    return x.permute([moved[place] if place in moved else next(rest) for place in range(x.ndim)])


def permute_dims(x: Buffer, /, axes: tuple[int, ...]) -> Buffer:
    """Returns a view whose axis i is axis axes[i] of x; raises ValueError for what is no permutation."""
    return x.permute(axes)


def repeat(x: Buffer, repeats: Any, /, *, axis: int | None = None) -> Buffer:
    """Returns each element repeated beside itself along an axis, or of the flattened array for None.

    The number is an int, or an array of integers with one for each element along the axis.

    Raises:
        TypeError: an axis that is no int, or numbers that are none.
        ValueError: an axis that is not there, a negative number, or not as many as there are elements.
    """
    if not isinstance(repeats, Buffer) or not repeats.ndim:
        return Tensor(x).repeat_interleave(check_int("a number of repeats", repeats), axis).buffer
    flat, along = (x.reshape((x.numel,)), 0) if axis is None else (x, normalize_axis(axis, x.ndim))
    if repeats.dtype.kind != "i":
        raise TypeError(f"repeat takes integers as numbers of repeats, not {repeats.dtype.name}")
    counts = repeats.expand((flat.shape[along],)).to_array()
    if builtins.min(counts, default=0) < 0:
        raise ValueError(f"repeat repeats at least 0 times, not {builtins.min(counts)}")
    places = [i for i, count in enumerate(counts) for _ in range(count)]
    return flat.take(type(x)(places, int64), along)


def reshape(x: Buffer, /, shape: tuple[int, ...], *, copy: Any = None) -> Buffer:
    """Returns the same elements under another shape, a view where strides allow.

    Raises:
        ValueError: another number of elements; or `copy` is False, and strides do not allow a view.
    """
    result = (x.copy() if copy else x).reshape(shape)
    if copy is False and result.version is not x.version:
        raise ValueError(f"shape {x.shape} becomes {shape} by a copy only, and copy=False forbids it")
    return result


def roll(x: Buffer, /, shift: Any, *, axis: Any = None) -> Buffer:
    """Returns the elements moved on along axes, from the end to the front; flattened for None."""
    if isinstance(axis, tuple) and not isinstance(shift, tuple):
        shift = (shift,) * len(axis)
    return Tensor(x).roll(shift, axis).buffer


def squeeze(x: Buffer, /, axis: Any) -> Buffer:
    """Returns a view without axes of size 1; raises ValueError for an axis of another size."""
    return Tensor(x).squeeze(axis).buffer


def stack(arrays: Sequence[Buffer], /, *, axis: int = 0) -> Buffer:
    """Returns arrays of one shape joined along a new axis; raises ValueError for none, or other shapes."""
    return Tensor.stack([Tensor(x) for x in arrays], axis).buffer


def tile(x: Buffer, repetitions: tuple[int, ...], /) -> Buffer:
    """Returns the whole repeated along each axis; further numbers in front add axes."""
    return Tensor(x).tile(repetitions).buffer


def unstack(x: Buffer, /, *, axis: int = 0) -> tuple[Buffer, ...]:
    """Returns views of the parts along an axis, without it.

    Raises:
        TypeError: an axis that is no int. ValueError: one that is not there.
    """
    before = (slice(None),) * normalize_axis(axis, x.ndim)
    return tuple(x[(*before, i)] for i in range(x.shape[axis]))


# ---------------------------------------------------------------- by index, order


def take(x: Buffer, indices: Buffer, /, *, axis: int | None = None) -> Buffer:
    """Returns the slices along an axis that integers (n,) name; those below 0 count from the end.

    Raises:
        ValueError: no axis, and x has several. IndexError: an index out of range. TypeError: float indices.
    """
    if axis is None and x.ndim != 1:
        raise ValueError(f"take needs an axis for an array of shape {x.shape}")
    along = normalize_axis(0 if axis is None else axis, x.ndim)
    return x.take(functions.counted_from_front(indices, x.shape[along]), along)


def take_along_axis(x: Buffer, indices: Buffer, /, *, axis: int = -1) -> Buffer:
    """Returns an element for each place of the indices, which say where it stands along an axis.

    The other axes of x and of the indices broadcast.

    Raises:
        IndexError: an index out of range. TypeError: floats as indices, or an axis that is no int.
        ValueError: an axis that is not there, or shapes that do not broadcast.
    """
    along = normalize_axis(axis, x.ndim)
    others = broadcast_shapes(
        *[(*y.shape[:along], 1, *y.shape[along + 1 :]) for y in (x, indices)]
    )  # of which the axis has size 1
    whole = x.expand((*others[:along], x.shape[along], *others[along + 1 :]))
    places = indices.expand((*others[:along], indices.shape[along], *others[along + 1 :]))
    return functions.gather(whole, places, along)


def nonzero(x: Buffer, /) -> tuple[Buffer, ...]:
    """Returns where elements are not 0: integers (n,) for each axis; raises ValueError for no axes."""
    return functions.nonzero(x)


def argsort(
    x: Buffer, /, *, axis: int = -1, descending: builtins.bool = False, stable: builtins.bool = True
) -> Buffer:
    """Returns the positions along an axis that sort it; equal elements always stay in order."""
    return x.argsort(axis, descending)


def sort(
    x: Buffer, /, *, axis: int = -1, descending: builtins.bool = False, stable: builtins.bool = True
) -> Buffer:
    """Returns the elements along an axis in order; equal elements always stay in theirs."""
    return functions.gather(x, x.argsort(axis, descending), axis)


# ---------------------------------------------------------------- reductions


def _without(result: Buffer, axis: Any, keepdims: builtins.bool) -> Buffer:
    """Returns a reduction over an axis, several, or all (None), which stay or go."""
    return result if keepdims else result.reshape(without_axes(result.shape, axis))


def _position(name: str) -> Any:
    def function(x: Buffer, /, *, axis: int | None = None, keepdims: builtins.bool = False) -> Buffer:
        found: Buffer = getattr(Tensor(x), name)(axis, keepdims).buffer
        return found

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"Returns the {name[3:]}imum's position along an axis, or in the flattened array."
    return function


def _reduction(name: str, compute: Callable[[Buffer, Any], Buffer], meaning: str) -> Any:
    def function(x: Buffer, /, *, axis: Any = None, keepdims: builtins.bool = False) -> Buffer:
        return _without(compute(x, axis), axis, keepdims)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"Returns {meaning} of the elements over an axis, several, or all (None)."
    return function


def _total(name: str, compute: Callable[[Buffer, Any], Buffer], meaning: str) -> Any:
    def function(
        x: Buffer, /, *, axis: Any = None, dtype: Any = None, keepdims: builtins.bool = False
    ) -> Buffer:
        operand = x if dtype is None else x.as_dtype(dtype)
        result = _without(compute(operand, axis), axis, keepdims)
        return result if dtype is None else result.as_dtype(dtype)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"Returns {meaning} of the elements over an axis, several, or all (None)."
    return function


def _spread(name: str, method: str, meaning: str) -> Any:
    def function(
        x: Buffer, /, *, axis: Any = None, correction: float = 0.0, keepdims: builtins.bool = False
    ) -> Buffer:
        computed: Buffer = getattr(Tensor(x), method)(axis, correction, keepdims).buffer
        return computed

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"Returns {meaning} of the elements over an axis, several, or all (None)."
    return function


argmax = _position("argmax")
argmin = _position("argmin")
all = _reduction("all", functions.all_over, "whether all are not 0,")
any = _reduction("any", functions.any_over, "whether any is not 0,")
count_nonzero = _reduction("count_nonzero", lambda x, axis: (x != 0).sum(axis), "how many are not 0,")
max = _reduction("max", lambda x, axis: x.max(axis), "the largest")
min = _reduction("min", functions.min_over, "the smallest")
prod = _total("prod", functions.prod, "the product")
sum = _total("sum", lambda x, axis: x.sum(axis), "the sum")
std = _spread("std", "std", "the standard deviation")
var = _spread("var", "var", "the variance")


def mean(x: Buffer, /, *, axis: Any = None, keepdims: builtins.bool = False) -> Buffer:
    """Returns the mean over an axis, several, or all (None); raises ValueError over no elements."""
    return Tensor(x).mean(axis, keepdims).buffer


def cumulative_sum(
    x: Buffer, /, *, axis: int | None = None, dtype: Any = None, include_initial: builtins.bool = False
) -> Buffer:
    """Returns the sums up to and with each element along an axis; with a 0 in front for `include_initial`.

    Raises:
        ValueError: no axis, and x has several. TypeError: an axis that is no int.
    """
    if axis is None and x.ndim != 1:
        raise ValueError(f"cumulative_sum needs an axis for an array of shape {x.shape}")
    along = normalize_axis(0 if axis is None else axis, x.ndim)
    sums = (x if dtype is None else x.as_dtype(dtype)).cumsum(along)
    sums = sums if dtype is None else sums.as_dtype(dtype)
    if not include_initial:
        return sums
    front = type(x).zeros((*x.shape[:along], 1, *x.shape[along + 1 :]), sums.dtype)
    return Buffer.concatenate([front, sums], along)


def diff(x: Buffer, /, *, axis: int = -1, n: int = 1, prepend: Any = None, append: Any = None) -> Buffer:
    """Returns the differences of neighbours along an axis, n times.

    Raises:
        ValueError: a negative n, or an axis that is not there. TypeError: an axis that is no int.
    """
    if n < 0:
        raise ValueError(f"diff takes differences at least 0 times, not {n}")
    along = normalize_axis(axis, x.ndim)
    joined = [part for part in (prepend, x, append) if part is not None]
    whole = Buffer.concatenate(joined, along) if len(joined) > 1 else x
    before = (slice(None),) * along
    for _ in range(n):
        later, earlier = whole[(*before, slice(1, None))], whole[(*before, slice(None, -1))]
        whole = later != earlier if whole.dtype is bool else later - earlier
    return whole


# ---------------------------------------------------------------- products


def matmul(x1: Buffer, x2: Buffer, /) -> Buffer:
    """Returns the matrix product over the last axis of x1 and the last but one of x2, or its only one."""
    return Tensor(x1).dot(Tensor(x2)).buffer


def tensordot(x1: Buffer, x2: Buffer, /, *, axes: Any = 2) -> Buffer:
    """Returns the sum of products over the last axes of x1 and the first of x2, or over pairs of axes.

    Raises:
        ValueError: axes that are not there, or sizes that differ. TypeError: axes that are no ints.
    """
    if isinstance(axes, int):
        axes = tuple(range(-axes, 0)), tuple(range(axes))
    first = [normalize_axis(axis, x1.ndim) for axis in axes[0]]
    second = [normalize_axis(axis, x2.ndim) for axis in axes[1]]
    if [x1.shape[axis] for axis in first] != [x2.shape[axis] for axis in second]:
        raise ValueError(f"tensordot: axes {axes} of shapes {x1.shape} and {x2.shape} have other sizes")
    rows = [axis for axis in range(x1.ndim) if axis not in first]
    columns = [axis for axis in range(x2.ndim) if axis not in second]
    inner = numel([x1.shape[axis] for axis in first])
    left, right = [x1.shape[axis] for axis in rows], [x2.shape[axis] for axis in columns]
    a = x1.permute([*rows, *first]).reshape((numel(left), inner))
    b = x2.permute([*second, *columns]).reshape((inner, numel(right)))
    return a.matmul(b).reshape((*left, *right))


def vecdot(x1: Buffer, x2: Buffer, /, *, axis: int = -1) -> Buffer:
    """Returns the sum of products along an axis that both have; the others broadcast.

    Raises:
        ValueError: an axis, counted from the end, that is not there, or sizes that differ.
    """
    if not -builtins.min(x1.ndim, x2.ndim) <= axis < 0:
        raise ValueError(
            f"vecdot's axis counts from the end of both shapes, {x1.shape} and {x2.shape}: not {axis}"
        )
    if x1.shape[axis] != x2.shape[axis]:
        raise ValueError(f"vecdot: axis {axis} of shapes {x1.shape} and {x2.shape} has two sizes")
    product = x1 * x2
    return sum(product, axis=axis, dtype=product.dtype)
