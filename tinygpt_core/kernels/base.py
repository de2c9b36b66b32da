"""What a kernel is, and how the one for a backend is found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

from ..buffer.base import Buffer

Gradient: TypeAlias = "Buffer | Callable[[], Buffer] | None"
K = TypeVar("K", bound="Kernel")

_registered: dict[tuple[type[Kernel], type[Buffer]], type[Kernel]] = {}
_found: dict[tuple[type[Kernel], type[Buffer]], type[Kernel]] = {}


class Kernel:
    """A pair of static methods. A kernel that updates in place (an optimizer's step) has a forward only.

    `forward(*buffers, **options) -> (out, saved)`: the result, and whatever the backward of the same class wants to find again.
    `backward(saved, grad) -> gradients`: one for each input, in order; a Buffer, a function without arguments that computes it (called
    only where it is needed), or None for an input without one.
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


def register(kernel: type[K], buffer_class: type[Buffer], implementation: type[K]) -> None:
    """Makes `implementation`, a subclass of `kernel`, the one that Buffers of `buffer_class` and its subclasses use.

    Raises:
        TypeError: `implementation` is no subclass of `kernel`.
    """
    if not issubclass(implementation, kernel):
        raise TypeError(f"{implementation.__name__} must be a subclass of the kernel it implements, {kernel.__name__}")
    _registered[kernel, buffer_class] = implementation
    _found.clear()


def lookup(kernel: type[K], buffer_class: type[Buffer]) -> type[K]:
    """Returns the implementation of `kernel` for a Buffer class: the nearest registered along its bases, else the textbook one."""
    found = _found.get((kernel, buffer_class))
    if found is None:
        found = next((_registered[kernel, base] for base in buffer_class.__mro__ if (kernel, base) in _registered), kernel)
        _found[kernel, buffer_class] = found
    return found  # type: ignore[return-value]
