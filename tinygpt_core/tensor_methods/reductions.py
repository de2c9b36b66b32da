"""Reductions beside sum, mean and max, and running sums."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Self

from ..buffer import functions
from ..buffer.base import Buffer
from ..dtype import as_number
from ..operations import Operation, Reshape, shared_equally
from ..shape import normalize_axes, normalize_axis, reduced_shape, without_axes
from .base import TensorMethods
from .elementwise import times_sign


class Min(Operation):
    """y = min of x over `axes` (None: all), which stay with size 1; g goes to the smallest.

    Where several are smallest, each gets an equal part.

    Raises:
        TypeError: an axis that is no int.
        ValueError: an axis that x does not have, or one named twice.
    """

    def forward(self, x: Buffer, axes: Any = None) -> Buffer:
        self.x, self.axes = x, normalize_axes(axes, x.ndim)
        self.y = functions.min_over(x, axes)
        return self.y

    def backward(self, grad: Buffer) -> Any:
        return shared_equally(self.x == self.y, grad, self.axes)


class Prod(Operation):
    """y = product of x over `axes` (None: all), which stay with size 1; dL/dx = g times the other elements.

    Pairs are multiplied, then pairs of products, and so on: n elements in log2(n) steps. The way back splits
    each product's gradient, and divides by nothing, so that zeros are no exception.

    Raises:
        TypeError: an axis that is no int.
        ValueError: an axis that x does not have, or one named twice.
    """

    def forward(self, x: Buffer, axes: Any = None) -> Buffer:
        self.shape, self.axes = x.shape, normalize_axes(axes, x.ndim)
        if x.dtype.kind != "f":
            return functions.prod(x, axes)
        self.levels = functions.prod_levels(functions.merge_axes(x, self.axes))
        return self.levels[-1].reshape(reduced_shape(x.shape, self.axes))

    def backward(self, grad: Buffer) -> Any:
        if 0 in self.shape:
            return type(grad).zeros(self.shape, grad.dtype)
        total = grad.reshape(self.levels[-1].shape)
        for level in reversed(self.levels[:-1]):
            odd = level.shape[0] % 2
            first, second = level[odd::2], level[odd + 1 :: 2]
            part = total[odd:]
            split = type(grad).zeros(level.shape, grad.dtype)
            split[:odd] = total[:odd]
            split[odd::2] = part * second
            split[odd + 1 :: 2] = part * first
            total = split
        return functions.split_axes(total, self.axes, self.shape)


class Var(Operation):
    """y = sum (x - mean x)^2 / (n - c) over `axes`, which stay with size 1.

    dL/dx = 2 g (x - mean x) / (n - c). c is the correction: 1 estimates the variance of what x is a sample
    of, 0 is the variance of x.
    """

    def forward(self, x: Buffer, axes: Any = None, correction: float = 1) -> Buffer:
        y, self.distance, self.free = functions.variance(x, axes, correction)
        return y

    def backward(self, grad: Buffer) -> Any:
        return self.distance * (grad * (2.0 / self.free))


class Std(Operation):
    """y = sqrt var x over `axes`, which stay with size 1; dL/dx = g (x - mean x) / (y (n - c)).

    Where y is 0, so is dL/dx.
    """

    def forward(self, x: Buffer, axes: Any = None, correction: float = 1) -> Buffer:
        variance, self.distance, self.free = functions.variance(x, axes, correction)
        self.y = variance.sqrt()
        return self.y

    def backward(self, grad: Buffer) -> Any:
        slope = Buffer.where(self.y == 0.0, 0.0, grad / Buffer.where(self.y == 0.0, 1.0, self.y))
        return self.distance * (slope / float(self.free))


class LogSumExp(Operation):
    """y = ln sum e^x over `axes`, which stay with size 1; dL/dx = g e^(x - y).

    It is computed as m + ln sum e^(x - m), with m the largest element: nothing overflows.
    """

    def forward(self, x: Buffer, axes: Any = None) -> Buffer:
        self.x = x.as_floating()
        if x.numel == 0:
            return self.x.sum(axes).log()  # of nothing, -infinity
        largest = self.x.max(axes)
        self.offset = Buffer.where(functions.isfinite(largest), largest, 0.0)
        self.total = (self.x - self.offset).exp().sum(axes)
        return self.total.log() + self.offset

    def backward(self, grad: Buffer) -> Any:
        x = self.x
        if x.numel == 0:
            return type(grad).zeros(x.shape, grad.dtype)
        share = (x - self.offset).exp() / self.total
        # Infinities divided are NaN; infinity is all of a sum, and -infinity has no part in any, also not in
        # an infinite gradient
        return Buffer.where(x == -math.inf, 0.0, Buffer.where(x == math.inf, 1.0, share) * grad)


class Norm(Operation):
    """y = (sum |x|^p)^(1/p) over `axes`, which stay with size 1; dL/dx = g sign(x) (|x| / y)^(p - 1).

    With p infinite it is the largest |x|, with -infinity the smallest, and those that are it share g. With
    p = 0 it is how many are not 0, and dL/dx = 0. Where y is 0, so is dL/dx.

    Raises:
        TypeError: an axis that is no int.
        ValueError: an axis that x does not have, or one named twice.
    """

    def forward(self, x: Buffer, p: float = 2.0, axes: Any = None) -> Buffer:
        self.axes = normalize_axes(axes, x.ndim)
        self.x, self.p = x, p
        self.y = functions.vector_norm(x, p, axes)
        return self.y

    def backward(self, grad: Buffer) -> Any:
        p = self.p
        x, y = self.x, self.y
        if p == 0:
            return type(grad).zeros(x.shape, grad.dtype)
        if math.isinf(p):
            return times_sign(x, shared_equally(x.maximum(-x) == y, grad, self.axes))
        signed = times_sign(x, grad)
        if p == 1:
            return signed
        magnitude = x.maximum(-x)
        ratio = magnitude / Buffer.where(y == 0.0, 1.0, y)
        slope = ratio if p == 2 else ratio ** (p - 1.0)
        return Buffer.where((y == 0.0) | (x == 0.0), 0.0, signed * slope)


class CumSum(Operation):
    """y_i = x_0 + … + x_i along an axis; dL/dx_i = g_i + … + g_n, the running sum from behind.

    Raises:
        TypeError: the axis is no int.
        ValueError: x does not have it.
    """

    def forward(self, x: Buffer, axis: int) -> Buffer:
        self.axis = normalize_axis(axis, x.ndim)
        return x.cumsum(axis)

    def backward(self, grad: Buffer) -> Any:
        behind = (*(slice(None),) * self.axis, slice(None, None, -1))
        return grad[behind].cumsum(self.axis)[behind]


class Reductions(TensorMethods):
    """The methods of Tensor that reduce, beside sum, mean and max.

    `axes` is an int, a tuple, or None for all, and `keepdim` leaves them with size 1.
    """

    __slots__ = ()

    def _without_axes(self, axes: Any, keepdim: bool) -> Self:
        """Returns this result of a reduction over `axes`, which have size 1 here, without them unless
        `keepdim`.
        """
        return self if keepdim else self._operate(Reshape, shape=without_axes(self.shape, axes))

    def min(self, axes: Any = None, keepdim: bool = False) -> Self:
        """Returns the smallest element over `axes`; equal ones share the gradient.

        Raises:
            TypeError: an axis that is no int.
            ValueError: an axis that is not there, empty, or named twice.
        """
        return self._operate(Min, axes=axes)._without_axes(axes, keepdim)

    def argmin(self, axis: int | None = None, keepdim: bool = False) -> Self:
        """Returns the int64 position of the smallest element along `axis`, the first of equals.

        Without an axis: the position in the flattened Tensor.

        Raises:
            TypeError: the axis is no int.
            ValueError: the axis is not there, or empty, and the result is not.
        """
        return self._position(functions.argmin, axis, keepdim)

    def argmax(self, axis: int | None = None, keepdim: bool = False) -> Self:
        """Returns the int64 position of the largest element along `axis`, the first of equals.

        Without an axis: the position in the flattened Tensor.

        Raises:
            TypeError: the axis is no int.
            ValueError: the axis is not there, or empty, and the result is not.
        """
        return self._position(Buffer.argmax, axis, keepdim)

    def _position(self, find: Callable[[Buffer, int], Buffer], axis: int | None, keepdim: bool) -> Self:
        """Returns the positions that `find` finds along an axis, or in the flattened Tensor for None."""
        if axis is None:
            found = find(self.buffer.reshape((self.numel,)), 0).reshape((1,) * self.ndim)
        else:
            found = find(self.buffer, axis)
        return self._without_record(found)._without_axes(axis, keepdim)

    def prod(self, axes: Any = None, keepdim: bool = False) -> Self:
        """Returns the product over `axes`; bool and int32 multiply in int64, and of nothing it is 1.

        Raises:
            TypeError: an axis that is no int.
            ValueError: an axis that is not there, or named twice.
        """
        return self._operate(Prod, axes=axes)._without_axes(axes, keepdim)

    def var(self, axes: Any = None, correction: float = 1, keepdim: bool = False) -> Self:
        """Returns the sum of (x - mean)² over `axes`, divided by their number of elements less `correction`.

        1 estimates the variance of what the elements are a sample of, 0 is the variance of the elements.

        Raises:
            TypeError: an axis that is no int, or a correction that is no number.
            ValueError: an axis that is not there, or named twice; no more elements than the correction.
        """
        correction = _number("correction", correction)
        return self._operate(Var, axes=axes, correction=correction)._without_axes(axes, keepdim)

    def std(self, axes: Any = None, correction: float = 1, keepdim: bool = False) -> Self:
        """Returns the square root of `var` over `axes`; where it is 0, so is the gradient.

        Raises:
            TypeError: an axis that is no int, or a correction that is no number.
            ValueError: an axis that is not there, or named twice; no more elements than the correction.
        """
        correction = _number("correction", correction)
        return self._operate(Std, axes=axes, correction=correction)._without_axes(axes, keepdim)

    def logsumexp(self, axes: Any = None, keepdim: bool = False) -> Self:
        """Returns the logarithm of the sum of exp(x) over `axes`, without overflow; -infinity of nothing.

        Raises:
            TypeError: an axis that is no int.
            ValueError: an axis that is not there, or named twice.
        """
        return self._operate(LogSumExp, axes=axes)._without_axes(axes, keepdim)

    def norm(self, p: float = 2.0, axes: Any = None, keepdim: bool = False) -> Self:
        """Returns the p-norm over `axes`: (sum |x|^p)^(1/p), or the largest |x| for infinity.

        Raises:
            TypeError: an axis that is no int, or a p that is no number.
            ValueError: an axis that is not there, or named twice; no elements, and p is infinite or negative.
        """
        return self._operate(Norm, p=_number("p", p), axes=axes)._without_axes(axes, keepdim)

    def any(self, axes: Any = None, keepdim: bool = False) -> Self:
        """Returns whether any element over `axes` is not 0, as bool; False of nothing.

        Raises:
            TypeError: an axis that is no int.
            ValueError: an axis that is not there, or named twice.
        """
        return self._without_record(functions.any_over(self.buffer, axes))._without_axes(axes, keepdim)

    def all(self, axes: Any = None, keepdim: bool = False) -> Self:
        """Returns whether all elements over `axes` are not 0, as bool; True of nothing.

        Raises:
            TypeError: an axis that is no int.
            ValueError: an axis that is not there, or named twice.
        """
        return self._without_record(functions.all_over(self.buffer, axes))._without_axes(axes, keepdim)

    def cumsum(self, axis: int) -> Self:
        """Returns, along `axis`, the sum of the elements up to and with each, of the same shape.

        Raises:
            TypeError: the axis is no int.
            ValueError: the axis is not there.
        """
        return self._operate(CumSum, axis=axis)


def _number(name: str, value: Any) -> Any:
    number = as_number(value)
    if number is None or number != number:
        raise TypeError(f"{name} is a number, not {value!r}")
    return number
