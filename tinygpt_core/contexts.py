"""Floor 1: `with` blocks that hold for the calling thread only, and decorate functions and generators."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ContextDecorator
from contextvars import ContextVar
from functools import wraps
from types import TracebackType
from typing import Any, ClassVar

# Flags of a function's code, as in the standard library's `inspect`, which takes long to import
_CO_GENERATOR = 0x20
_CO_COROUTINE = 0x80
_CO_ASYNC_GENERATOR = 0x200


class Block(ContextDecorator):
    """A `with` block, or a decorated function, during which something is otherwise.

    One object may be entered again while it is open. A decorated generator is inside while it runs, and
    outside while it waits at a `yield`. (A `with` block that holds a `yield` stays open for whoever takes the
    values.)
    """

    def __call__(self, function: Any) -> Any:
        """Returns the function with this block around each of its calls.

        Raises:
            TypeError: a coroutine function, which runs when it is awaited and not when it is called.
        """
        flags = getattr(getattr(function, "__code__", None), "co_flags", 0)
        if flags & (_CO_COROUTINE | _CO_ASYNC_GENERATOR):
            raise TypeError(
                f"{type(self).__name__} does not decorate coroutines: write `with {self!r}:` inside of it"
            )
        if not flags & _CO_GENERATOR:
            return super().__call__(function)

        @wraps(function)
        def generator(*arguments: Any, **options: Any) -> Generator[Any, Any, Any]:
            with self:
                inner = function(*arguments, **options)
            step, value = inner.send, None
            try:
                while True:
                    with self:
                        result = step(value)
                    try:
                        step, value = inner.send, (yield result)
                    except GeneratorExit:
                        raise
                    except BaseException as problem:
                        step, value = inner.throw, problem
            except StopIteration as end:
                return end.value
            finally:
                with self:
                    inner.close()

        return generator

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def __enter__(self) -> Any:
        raise NotImplementedError

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        raise NotImplementedError


class CountedBlock(Block):
    """A block during which something is switched off.

    A context variable counts the blocks that are open, so blocks may stand inside each other, a decorated
    function may call itself, and each thread has a count of its own that begins at 0.
    """

    open_blocks: ClassVar[ContextVar[int]]

    def __enter__(self) -> None:
        self.open_blocks.set(self.open_blocks.get() + 1)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.open_blocks.set(self.open_blocks.get() - 1)


class ChoiceBlock(Block):
    """A block during which a context variable has another value; what it was before comes back.

    Args:
        value: what it is inside.
    """

    chosen: ClassVar[ContextVar[Any]]
    before: ClassVar[ContextVar[tuple[Any, ...]]]
    """The values outside of the blocks that are open, the outermost first."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.value!r})"

    def __enter__(self) -> Any:
        self.before.set((*self.before.get(), self.chosen.get()))
        self.chosen.set(self.value)
        return self.value

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        *outer, last = self.before.get()
        self.before.set(tuple(outer))
        self.chosen.set(last)
