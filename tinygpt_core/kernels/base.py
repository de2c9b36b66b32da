"""What a kernel is, and how the one for a backend is found.

Notation in all kernels: x is the input and y the result, L the loss, and g = dL/dy the gradient that comes
back. A sum runs over the axis that the formula names; w and b are weights and bias.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias, TypeVar

from ..buffer.base import Buffer
from ..shape import Shape

Gradient: TypeAlias = "Buffer | Callable[[], Buffer] | None"
K = TypeVar("K", bound="Kernel")
_registered: dict[tuple[type[Kernel], type[Buffer]], type[Kernel]] = {}
_found: dict[tuple[type[Kernel], type[Buffer]], type[Kernel]] = {}


class Kernel:
    """A pair of static methods. A kernel that updates in place (an optimizer's step) has a forward only.

    `forward(*buffers, **options) -> (out, saved)`: the result, and whatever the backward of the same class
    wants to find again. `backward(saved, grad) -> gradients`: one for each input, in order; a Buffer, a
    function without arguments that computes it (called only where it is needed), or None for an input without
    one.

    `saved` may share elements with the inputs and the result: whatever it keeps, the tape refuses a backward
    after one of them was changed in place.
    """

    __slots__ = ()

    @staticmethod
    def forward(*buffers: Any, **options: Any) -> tuple[Any, Any]:
        """Returns the result and what the backward needs."""
        raise NotImplementedError

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        """Returns the gradients of the inputs, given the gradient of the result."""
        raise NotImplementedError


# ---------------------------------------------------------------- which one a backend uses


def register(kernel: type[K], buffer_class: type[Buffer], implementation: type[K]) -> None:
    """Makes `implementation`, a subclass of `kernel`, the one that Buffers of `buffer_class` and its
    subclasses use.

    Raises:
        TypeError: `implementation` is no subclass of `kernel`.
    """
    if not issubclass(implementation, kernel):
        raise TypeError(
            f"{implementation.__name__} must be a subclass of the kernel it implements, {kernel.__name__}"
        )
    _registered[kernel, buffer_class] = implementation
    _found.clear()


def registered(buffer_class: type[Buffer]) -> Iterator[tuple[type[Kernel], type[Kernel]]]:
    """Yields each kernel for which something is registered that a Buffer class would use, and that
    implementation.
    """
    for kernel in dict.fromkeys(kernel for kernel, base in _registered if issubclass(buffer_class, base)):
        yield kernel, lookup(kernel, buffer_class)


def lookup(kernel: type[K], buffer_class: type[Buffer]) -> type[K]:
    """Returns the implementation of `kernel` for a Buffer class: the nearest registered along its bases, else
    the textbook one.
    """
    found = _found.get((kernel, buffer_class))
    if found is None:
        bases = buffer_class.__mro__
        found = next((_registered[kernel, base] for base in bases if (kernel, base) in _registered), kernel)
        _found[kernel, buffer_class] = found
    return found  # type: ignore[return-value]


# ---------------------------------------------------------------- what kernels have in common


def require_float(name: str, **operands: Buffer | None) -> None:
    """Raises TypeError unless all operands that are there have one float dtype."""
    dtypes = {x.dtype for x in operands.values() if x is not None}
    if len(dtypes) != 1 or next(iter(dtypes)).kind != "f":
        found = ", ".join(f"{what} {x.dtype.name}" for what, x in operands.items() if x is not None)
        raise TypeError(f"{name} needs operands of one float dtype, not {found}")


def rows_of(x: Buffer) -> Buffer:
    """Returns x as a matrix: its last axis, and all others as one."""
    return x.reshape((math.prod(x.shape[:-1]), x.shape[-1]))


def sum_to(grad: Buffer, shape: Shape) -> Buffer:
    """Returns `grad` summed over the axes along which `shape` was broadcast: the derivative of broadcasting
    is summing back.
    """
    if grad.shape == shape:
        return grad
    extra = grad.ndim - len(shape)
    stretched = tuple(
        i for i in range(grad.ndim) if i < extra or (shape[i - extra] == 1 and grad.shape[i] != 1)
    )
    return grad.sum(stretched).reshape(shape)
