"""Element by element: signs and limits, rounding and remainders, logarithms near 1, and conditions.

What rounds has steps, and its derivative is 0 wherever it has one; so is the gradient here, everywhere.
"""

from __future__ import annotations

from typing import Any, Self

from ..buffer import functions
from ..buffer.base import Buffer
from ..operations import Operation
from ..shape import check_int
from .base import TensorMethods

# ---------------------------------------------------------------- signs and limits


class Abs(Operation):
    """y = |x| of each element; dL/dx = g sign(x), which is 0 at 0."""

    def forward(self, x: Buffer) -> Buffer:
        self.x = x
        return functions.absolute(x)

    def backward(self, grad: Buffer) -> Any:
        return times_sign(self.x, grad)


def times_sign(x: Buffer, grad: Buffer) -> Buffer:
    """Returns g, -g or 0 where x is above, below or at 0, of their common shape."""
    # A choice, not a product: an infinite gradient times 0 would be NaN
    return Buffer.where(x > 0.0, grad, Buffer.where(x < 0.0, -grad, 0.0))


class Minimum(Operation):
    """y = min(a, b) of each element, broadcast; g goes to the smaller, and half of it to each of equals."""

    def forward(self, a: Buffer, b: Buffer) -> Buffer:
        self.a, self.b = a, b
        return functions.minimum(a, b)

    def backward(self, grad: Buffer) -> Any:
        def share(one: Buffer, other: Buffer) -> Buffer:
            # A choice, not a product: an infinite gradient times 0 would be NaN
            return Buffer.where(one < other, grad, Buffer.where(one == other, grad * 0.5, 0.0))

        return lambda: share(self.a, self.b), lambda: share(self.b, self.a)


class Clamp(Operation):
    """y = min(max(x, low), high) of each element, broadcast; g goes to x within the limits, and on them.

    Beyond a limit g goes to that limit; where low > high, y is high. A limit may be missing.
    """

    def forward(self, x: Buffer, low: Buffer | None = None, high: Buffer | None = None) -> Buffer:
        self.limits = low, high
        self.x = x
        y = x if low is None else x.maximum(low)
        return y.copy() if high is None and low is None else y if high is None else functions.minimum(y, high)

    def backward(self, grad: Buffer) -> Any:
        low, high = self.limits
        x = self.x
        above = None if high is None else high < (x if low is None else x.maximum(low))
        below = None if low is None else x < low
        if above is not None and below is not None:
            below = below & ~above

        def where(chosen: Buffer | None) -> Buffer | None:
            return None if chosen is None else Buffer.where(chosen, grad, 0.0)

        def within() -> Buffer:
            inside = grad
            for outside in (below, above):
                inside = inside if outside is None else Buffer.where(outside, 0.0, inside)
            return inside

        return within, lambda: where(below), lambda: where(above)


class _Step(Operation):
    """y = a function with steps, of each element; dL/dx = 0."""

    def backward(self, grad: Buffer) -> Any:
        return lambda: type(grad).zeros(grad.shape, grad.dtype)


class Sign(_Step):
    """y = -1, 0 or 1, the sign of each element, NaN of NaN; dL/dx = 0 g."""

    def forward(self, x: Buffer) -> Buffer:
        return functions.sign(x)


# ---------------------------------------------------------------- rounding


class Floor(_Step):
    """y = the largest integer <= x, of each element; dL/dx = 0 g."""

    def forward(self, x: Buffer) -> Buffer:
        return functions.floor(x)


class Ceil(_Step):
    """y = the smallest integer >= x, of each element; dL/dx = 0 g."""

    def forward(self, x: Buffer) -> Buffer:
        return functions.ceil(x)


class Round(_Step):
    """y = the integer nearest to x, or the number of so many decimals, the even one of two; dL/dx = 0 g."""

    def forward(self, x: Buffer, decimals: int = 0) -> Buffer:
        return functions.round_to_decimals(x, decimals)


class Trunc(_Step):
    """y = x without its fraction, of each element; dL/dx = 0 g."""

    def forward(self, x: Buffer) -> Buffer:
        return functions.trunc(x)


class FloorDivide(Operation):
    """y = a / b rounded down, broadcast; dL/da = 0 g, dL/db = 0 g."""

    def forward(self, a: Buffer, b: Buffer) -> Buffer:
        return a // b

    def backward(self, grad: Buffer) -> Any:
        def nothing() -> Buffer:
            return type(grad).zeros(grad.shape, grad.dtype)

        return nothing, nothing


class Remainder(Operation):
    """y = a - b q with q = a / b rounded down, broadcast: of the sign of b; dL/da = g, dL/db = -g q."""

    def forward(self, a: Buffer, b: Buffer) -> Buffer:
        self.a, self.b = a, b
        return a % b

    def backward(self, grad: Buffer) -> Any:
        return grad, lambda: -grad * (self.a // self.b)


# ---------------------------------------------------------------- logarithms


class Log1p(Operation):
    """y = ln(1 + x) of each element, with all digits near 0; dL/dx = g / (1 + x)."""

    def forward(self, x: Buffer) -> Buffer:
        self.x = x
        return functions.log1p(x)

    def backward(self, grad: Buffer) -> Any:
        return grad / (self.x + 1.0)


class Expm1(Operation):
    """y = e^x - 1 of each element, with all digits near 0; dL/dx = g (y + 1)."""

    def forward(self, x: Buffer) -> Buffer:
        self.y = functions.expm1(x)
        return self.y

    def backward(self, grad: Buffer) -> Any:
        return grad * (self.y + 1.0)


class Elementwise(TensorMethods):
    """The methods of Tensor that go element by element, beside arithmetic and activations."""

    __slots__ = ()

    def abs(self) -> Self:
        """Returns |x| of each element; raises TypeError for bool."""
        return self._operate(Abs)

    __abs__ = abs

    def sign(self) -> Self:
        """Returns -1, 0 or 1 of each element, and NaN of NaN; raises TypeError for bool."""
        return self._operate(Sign)

    def minimum(self, other: Any) -> Self:
        """Returns the smaller of two elements, broadcast; where they are equal, each gets half the gradient.

        Raises:
            TypeError: the other is neither a Tensor nor a number.
        """
        return self._operate(Minimum, self._beside(other, "minimum"))

    def clamp(self, min: Any = None, max: Any = None) -> Self:
        """Returns each element, or the limit that it lies beyond: numbers or Tensors, which broadcast.

        Raises:
            TypeError: no limit at all, or one that is neither a Tensor nor a number.
        """
        if min is None and max is None:
            raise TypeError("clamp needs min, max or both")
        limits = [None if limit is None else self._beside(limit, "clamp") for limit in (min, max)]
        return self._operate(Clamp, *limits)

    clip = clamp

    def floor(self) -> Self:
        """Returns the largest integer that is not larger than each element, in the same dtype."""
        return self._operate(Floor)

    def ceil(self) -> Self:
        """Returns the smallest integer that is not smaller than each element, in the same dtype."""
        return self._operate(Ceil)

    def round(self, decimals: int = 0) -> Self:
        """Returns each element rounded to `decimals` places, to the even neighbour of two.

        As in NumPy, x is multiplied by a power of ten, rounded and divided again, for negative decimals the
        other way round. What has no digit there stays as it is.

        Raises:
            TypeError: `decimals` is no int.
            ValueError: `decimals` is negative, and the elements are integers.
        """
        decimals = check_int("decimals", decimals)
        if decimals < 0 and self.dtype.kind != "f":
            raise ValueError(f"integers are rounded to {decimals} decimals as floats: cast() them first")
        return self._operate(Round, decimals=decimals)

    def __round__(self, decimals: int = 0) -> Self:
        return self.round(decimals)

    def trunc(self) -> Self:
        """Returns each element without its fraction, in the same dtype."""
        return self._operate(Trunc)

    def __floordiv__(self, other: Any) -> Self:
        return self._apply(FloorDivide, other)

    def __rfloordiv__(self, other: Any) -> Self:
        return self._apply(FloorDivide, other, swap=True)

    def __mod__(self, other: Any) -> Self:
        return self._apply(Remainder, other)

    def __rmod__(self, other: Any) -> Self:
        return self._apply(Remainder, other, swap=True)

    def log1p(self) -> Self:
        """Returns the natural logarithm of 1 + x of each element, without losing a small x to the 1."""
        return self._operate(Log1p)

    def expm1(self) -> Self:
        """Returns e to the power x, less 1, of each element, without losing the digits of a small x."""
        return self._operate(Expm1)

    # ---------------------------------------------------------------- conditions

    def isnan(self) -> Self:
        """Returns whether each element is NaN, as bool."""
        return self._without_record(functions.isnan(self.buffer))

    def isinf(self) -> Self:
        """Returns whether each element is an infinity, as bool."""
        return self._without_record(functions.isinf(self.buffer))

    def isfinite(self) -> Self:
        """Returns whether each element is neither NaN nor an infinity, as bool."""
        return self._without_record(functions.isfinite(self.buffer))

    def __and__(self, other: Any) -> Self:
        return self._compare(other, "__and__")

    __rand__ = __and__

    def __or__(self, other: Any) -> Self:
        return self._compare(other, "__or__")

    __ror__ = __or__

    def __xor__(self, other: Any) -> Self:
        return self._compare(other, "__xor__")

    __rxor__ = __xor__

    def __invert__(self) -> Self:
        return self._without_record(~self.buffer)
