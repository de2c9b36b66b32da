"""Floor 1: instrumentation. Methods are wrapped from outside, so that what runs can be observed although
nothing in it knows of that, and pays nothing while nobody looks.

There are two ways, since one either has the object to observe, or only knows its class:

- `wrap_object` observes one object: it gets a class of its own, derived from the one it had. All others stay
  as they are. `nn.inspection` puts its hooks on modules in this way.
- `WrappedMethod` observes all objects of a class and of those derived from it, also ones that are made
  meanwhile: the method is exchanged in the classes themselves. `explain` records in this way what a script
  does whose models nobody has seen yet.

Both take a `wrap`: a function that is given the method and returns what is called in its place.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

Method = Callable[..., Any]
Wrap = Callable[[Method], Method]


# ---------------------------------------------------------------- one object


@functools.cache
def _wrapped_class(kind: type, method: str, wrap: Wrap) -> type:
    """Returns a class like `kind`, and derived from it, with the method wrapped."""

    def original(self: Any, *arguments: Any, **options: Any) -> Any:
        # Looked up anew each time, since a WrappedMethod may be opened or closed meanwhile
        return getattr(kind, method)(self, *arguments, **options)

    wrapped = functools.wraps(getattr(kind, method))(wrap(original))
    attributes = {method: wrapped, "__doc__": kind.__doc__, "__module__": kind.__module__}
    return type(kind.__name__, (kind,), {**attributes, "_class_before_wrapping": kind})


def wrap_object(target: Any, method: str, wrap: Wrap) -> None:
    """Wraps a method of one object, until `unwrap_object`."""
    target.__class__ = _wrapped_class(cast(Any, type(target)), method, wrap)


def is_wrapped(target: Any) -> bool:
    """Returns whether `wrap_object` has wrapped a method of this object."""
    return hasattr(target, "_class_before_wrapping")


def unwrap_object(target: Any) -> None:
    """Gives an object the class back that it had before `wrap_object`."""
    target.__class__ = target._class_before_wrapping


# ---------------------------------------------------------------- all objects of a class


class WrappedMethod:
    """A method that is wrapped in a class and in all classes derived from it, also those made meanwhile.

    A context manager: inside of it the method is wrapped, afterwards everything is as it was.

    Args:
        base: the class.
        method: the method's name.
        wrap: is called once for each class that defines the method itself.
    """

    def __init__(self, base: Any, method: str, wrap: Wrap) -> None:
        self.base = base
        self.method = method
        self.wrap = wrap

    def __enter__(self) -> WrappedMethod:
        self._originals: list[tuple[type, Method]] = []
        for kind in _with_subclasses(self.base):
            self._wrap_in(kind)
        self._had_hook = "__init_subclass__" in vars(self.base)
        if not self._had_hook:
            base = self.base

            def wrap_in_new_class(kind: Any, /, **options: Any) -> None:
                super(base, kind).__init_subclass__(**options)
                self._wrap_in(kind)

            base.__init_subclass__ = classmethod(wrap_in_new_class)
        return self

    def __exit__(self, *exception: object) -> None:
        for kind, original in self._originals:
            setattr(kind, self.method, original)
        if not self._had_hook:
            del self.base.__init_subclass__

    def _wrap_in(self, kind: type) -> None:
        original = vars(kind).get(self.method)
        if callable(original):
            self._originals.append((kind, original))
            setattr(kind, self.method, functools.wraps(original)(self.wrap(original)))


def _with_subclasses(base: Any) -> list[Any]:
    """Returns a class and all classes derived from it."""
    found = [base]
    for kind in found:  # and `found` grows meanwhile
        for derived in kind.__subclasses__():
            if derived not in found:
                found.append(derived)
    return found
