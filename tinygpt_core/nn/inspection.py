"""Looking into a model while it runs: forward hooks, a record of all calls, and a summary.

    with inspect(model) as calls:
        model(x)
    for call in calls:
        print(call.name, call.output.shape)

Modules are called directly, without a base class in between, and a model that nobody looks into pays nothing:
a hook gives its module another class, derived from its own, whose `__call__` runs the hooks; with the last
hook gone the module has its own class again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import TracebackType
from typing import Any, NamedTuple

from ..module import Module
from ..module_text import module_text
from ..tensor import Tensor, no_grad
from ..tree import tree_flatten

Hook = Callable[[Module, tuple[Any, ...], Any], Any]


class Call(NamedTuple):
    """One call of a module: its dotted name ("" for the model itself), the module, its positional arguments,
    and what it returned.
    """

    name: str
    module: Module
    inputs: tuple[Any, ...]
    output: Any


@cache
def _observed(kind: type[Module]) -> type[Module]:
    """A class like `kind` whose calls run the hooks of the module."""

    def call(self: Any, *inputs: Any, **options: Any) -> Any:
        output = kind.__call__(self, *inputs, **options)
        for hook in tuple(self._forward_hooks):
            changed = hook.function(self, inputs, output)
            output = output if changed is None else changed
        return output

    names = {"__call__": call, "__doc__": kind.__doc__, "__module__": kind.__module__, "_own_class": kind}
    return type(kind.__name__, (kind,), names)


class ForwardHook:
    """A function that is called after each call of a module, until `remove`; also a context manager that
    removes it.

    Args:
        module: whose calls to observe.
        function: called as ``function(module, inputs, output)``; what it returns, unless None, takes the
            output's place.
    """

    def __init__(self, module: Module, function: Hook) -> None:
        self.module, self.function = module, function
        if not hasattr(module, "_own_class"):
            module.__class__ = _observed(type(module))  # type: ignore[arg-type]
            vars(module)["_forward_hooks"] = []
        vars(module)["_forward_hooks"].append(self)

    def remove(self) -> None:
        """Stop observing; does nothing a second time."""
        hooks = vars(self.module).get("_forward_hooks", [])
        if self in hooks:
            hooks.remove(self)
            if not hooks:
                del vars(self.module)["_forward_hooks"]
                self.module.__class__ = type(self.module)._own_class  # type: ignore[attr-defined]

    def __enter__(self) -> ForwardHook:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


@contextmanager
def inspect(model: Module) -> Iterator[list[Call]]:
    """Records every call of the model and of the modules in it, in the order in which they return: parts
    before the whole.
    """
    calls: list[Call] = []

    def record(name: str) -> Hook:
        return lambda module, inputs, output: calls.append(Call(name, module, inputs, output))

    # A module that several names lead to is observed once, under the first
    hooks: dict[int, ForwardHook] = {}
    for name, module in model.named_modules():
        if id(module) not in hooks:
            hooks[id(module)] = ForwardHook(module, record(name))
    try:
        yield calls
    finally:
        for hook in hooks.values():
            hook.remove()


def _shape_of(output: Any) -> str:
    return ", ".join(str(tensor.shape) for _, tensor in tree_flatten(output) if isinstance(tensor, Tensor))


def summary(model: Module, *inputs: Any) -> str:
    """Returns the tree of a model as `print(model)` shows it, with the shapes of the modules' outputs.

    Args:
        model: any Module.
        inputs: what to call it with (once, in evaluation mode and without gradients) to learn the shapes;
            without them no shapes are shown.

    Returns:
        The tree that `print(model)` shows, with the shapes of the outputs, then the total.
    """
    shapes: dict[str, str] = {}
    if inputs:
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        try:
            with no_grad(), inspect(model) as calls:
                model(*inputs)
        finally:
            for module, mode in modes:
                module.training = mode
        shapes = {call.name: _shape_of(call.output) for call in calls}
    lines = [
        module_text(model, shapes, ("module", "output or parameter" if inputs else "parameter", "parameters"))
    ]
    total = model.num_parameters()
    size = sum(tensor.numel * tensor.dtype.itemsize for _, tensor in model.named_parameters())
    lines.append(
        f"{total:,} parameters, {model.num_parameters(trainable_only=True):,} of them trainable, {size:,} bytes"
    )
    return "\n".join(lines)
