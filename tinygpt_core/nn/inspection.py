"""Floor 7: looking into a model while it runs: forward hooks, a record of all calls, and a summary.

    with inspect(model) as calls:
        model(x)
    for call in calls:
        print(call.name, call.output.shape)

Modules are called directly, without a base class in between, and a model that nobody looks into pays nothing:
the first hook wraps the module's `__call__`, see `instrumentation`, and with the last hook gone the module
has its own class again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NamedTuple

from ..instrumentation import Method, is_wrapped, unwrap_object, wrap_object
from ..module import Module
from ..module_text import module_text
from ..tape import no_grad
from ..tensor import Tensor
from ..tree import tree_flatten

Hook = Callable[[Module, tuple[Any, ...], Any], Any]


class Call(NamedTuple):
    """One call of a module.

    Attributes:
        name: the module's dotted name; "" for the model itself.
        module: what was called.
        inputs: the positional arguments.
        output: what it returned.
    """

    name: str
    module: Module
    inputs: tuple[Any, ...]
    output: Any


def _run_hooks(original: Method) -> Method:
    """Returns what is called in place of a module's `__call__`."""

    def call(module: Any, *inputs: Any, **options: Any) -> Any:
        output = original(module, *inputs, **options)
        for hook in tuple(module._forward_hooks):
            changed = hook.function(module, inputs, output)
            output = output if changed is None else changed
        return output

    return call


class ForwardHook:
    """A function that is called after each call of a module, until `remove`.

    Also a context manager, which removes it at the end.

    Args:
        module: whose calls to observe.
        function: called as `function(module, inputs, output)`; what it returns, unless None, takes the
            output's place.
    """

    def __init__(self, module: Module, function: Hook) -> None:
        self.module = module
        self.function = function
        if not is_wrapped(module):
            wrap_object(module, "__call__", _run_hooks)
            vars(module)["_forward_hooks"] = []
        vars(module)["_forward_hooks"].append(self)

    def remove(self) -> None:
        """Stops observing; does nothing a second time."""
        hooks = vars(self.module).get("_forward_hooks", [])
        if self in hooks:
            hooks.remove(self)
            if not hooks:
                del vars(self.module)["_forward_hooks"]
                unwrap_object(self.module)

    def __enter__(self) -> ForwardHook:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


@contextmanager
def inspect(model: Module) -> Iterator[list[Call]]:
    """Records every call of the model and of the modules in it, until the block ends; yields the record.

    Calls stand in the order in which they return: parts before the whole.
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
    """Returns the shapes of all Tensors in what a module returned."""
    return ", ".join(str(tensor.shape) for _, tensor in tree_flatten(output) if isinstance(tensor, Tensor))


def summary(model: Module, *inputs: Any) -> str:
    """Returns the tree that `print(model)` shows, with the shapes of the modules' outputs, then the total.

    Args:
        model: any Module.
        inputs: what to call it with (once, in evaluation mode and without gradients) to learn the shapes;
            without them no shapes are shown.
    """
    shapes: dict[str, str] = {}
    if inputs:
        with model.evaluation(), no_grad(), inspect(model) as calls:
            model(*inputs)
        shapes = {call.name: _shape_of(call.output) for call in calls}
    lines = [
        module_text(model, shapes, ("module", "output or parameter" if inputs else "parameter", "parameters"))
    ]
    total = model.num_parameters()
    size = sum(tensor.numel * tensor.dtype.itemsize for _, tensor in model.named_parameters())
    trainable = model.num_parameters(trainable_only=True)
    lines.append(f"{total:,} parameters, {trainable:,} of them trainable, {size:,} bytes")
    return "\n".join(lines)
