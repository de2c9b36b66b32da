"""GELU, SiLU and ReLU on NumPy."""

from __future__ import annotations

from typing import Any

import numpy

from tinygpt_core.kernels.activations import GELU, GELU_CUBIC, SQRT_2_OVER_PI, Relu, SiLU
from tinygpt_core.kernels.base import Gradient
from tinygpt_core.shape import inverse_permutation

from .. import threads
from ..buffer import NumpyBuffer, without_warnings
from ..loops import loops_for
from .layout import as_flat


class NumpyGELU(GELU):
    """GELU, y = x Phi(x), where Phi is approximated by tanh.

    Fast: one walk gives the result and the slope dy/dx, while their common parts are at hand, and the
    backward is one product with the slope.

    Source: Hendrycks, Gimpel, "Gaussian Error Linear Units (GELUs)", 2016.
    """

    @staticmethod
    @without_warnings
    def forward(x: Any, *, approximate: str = "tanh") -> tuple[Any, Any]:
        if approximate != "tanh":
            return GELU.forward(x, approximate=approximate)
        GELU.check(x, approximate)
        number = x.array.dtype.type
        linear = number(SQRT_2_OVER_PI)
        cubic = number(SQRT_2_OVER_PI * GELU_CUBIC)
        return _with_slope(x, loops_for(x.array.dtype).gelu, linear, cubic)

    @staticmethod
    @without_warnings
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        if isinstance(saved, tuple):  # by the textbook forward
            return GELU.backward(saved, grad)
        return (_times_slope(grad, saved),)


class NumpySiLU(SiLU):
    """SiLU, y = x / (1 + e^-x).

    Fast: as GELU, the slope is computed in the same walk as the result.

    Source: Elfwing, Uchibe, Doya, "Sigmoid-Weighted Linear Units", 2017.
    """

    @staticmethod
    @without_warnings
    def forward(x: Any) -> tuple[Any, Any]:
        if x.dtype.kind != "f":
            return SiLU.forward(x)  # which raises
        return _with_slope(x, loops_for(x.array.dtype).silu)

    @staticmethod
    @without_warnings
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        return (_times_slope(grad, saved),)


class NumpyRelu(Relu):
    """ReLU, y = max(x, 0).

    Fast: one walk forward and one backward where the loop is compiled; the result lies as its input does,
    which after a convolution is channels first.
    """

    @staticmethod
    @without_warnings
    def forward(x: Any) -> tuple[Any, Any]:
        loops = loops_for(x.array.dtype)
        if not hasattr(loops, "relu"):
            return Relu.forward(x)
        axes, x_array = _in_memory_order(x.array)
        y_array = numpy.empty_like(x_array)
        flat_x = x_array.reshape(-1)
        flat_y = y_array.reshape(-1)

        def work(start: int, stop: int) -> None:
            loops.relu(flat_x[start:stop], flat_y[start:stop])

        threads.parallel_for(work, flat_x.size, threads.STEP_GRAIN)
        result = NumpyBuffer.wrap(y_array.transpose(inverse_permutation(axes)), x.dtype)
        return result, (result,)

    @staticmethod
    @without_warnings
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        loops = loops_for(grad.array.dtype)
        if not hasattr(loops, "relu"):
            return Relu.backward(saved, grad)
        axes, y_array = _in_memory_order(saved[0].array)
        result = numpy.empty_like(y_array)
        flat_y = y_array.reshape(-1)
        flat_grad = as_flat(grad.array.transpose(axes))
        flat_result = result.reshape(-1)

        def work(start: int, stop: int) -> None:
            loops.relu_gradient(flat_y[start:stop], flat_grad[start:stop], flat_result[start:stop])

        threads.parallel_for(work, flat_y.size, threads.STEP_GRAIN)
        return (NumpyBuffer.wrap(result.transpose(inverse_permutation(axes)), grad.dtype),)


def _in_memory_order(x: Any) -> tuple[list[int], Any]:
    """Returns an order of x's axes, and x in it, contiguous: a view where x is contiguous in some order of
    its axes.
    """
    axes = sorted(range(x.ndim), key=lambda axis: -x.strides[axis])
    transposed = x.transpose(axes)
    if transposed.flags.c_contiguous:
        return axes, transposed
    return list(range(x.ndim)), numpy.ascontiguousarray(x).reshape(x.shape)


def _with_slope(x: Any, loop: Any, *constants: Any) -> tuple[Any, Any]:
    """Returns what `loop` makes of each element of x, and the slope, a flat array."""
    flat = as_flat(x.array)
    y = numpy.empty_like(flat)
    slope = numpy.empty_like(flat)

    def work(start: int, stop: int) -> None:
        loop(flat[start:stop], y[start:stop], slope[start:stop], *constants)

    threads.parallel_for(work, flat.size, threads.CHAIN_GRAIN)
    return NumpyBuffer.wrap(y.reshape(x.shape), x.dtype), slope


def _times_slope(grad: Any, slope: Any) -> Any:
    """Returns the product of each element of a gradient and its slope."""
    g = as_flat(grad.array)
    result = numpy.empty_like(slope)

    def work(start: int, stop: int) -> None:
        numpy.multiply(g[start:stop], slope[start:stop], out=result[start:stop])

    threads.parallel_for(work, g.size, threads.STEP_GRAIN)
    return NumpyBuffer.wrap(result.reshape(grad.shape), grad.dtype)
