"""Writing down what happens while operations run: which, in which module, on what, for how long; then the
same for the way back.

    with Recorder() as recorder:
        loss = model(x).sum()
        loss.backward()
    recorder.operations, recorder.steps

Nothing in the engine knows of this. While a Recorder is open, the `forward` of every Operation class, the
`__call__` of every Module class and `GradientFunction.apply` are wrapped; afterwards they are what they were,
so that a run nobody looks at pays nothing.
"""

from __future__ import annotations

import copy
import functools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

from ..buffer.base import Buffer
from ..kernels.attention import PackedAttention as PackedKernel
from ..module import Module
from ..operations import Attention, CrossEntropy, Operation, PackedAttention, PartialGradient
from ..tape import GradientFunction
from ..tensor import Tensor
from .sources import describe
from .values import summarize

MOST_OPERATIONS = 6_000  # what one page can show
MOST_POSITIONS = 64  # of a sequence, in attention maps and probabilities


class RecordingError(ValueError):
    """What was to be recorded cannot be; the message says why and what would work."""


def _every_subclass(base: type) -> list[type]:
    found: list[Any] = [base]
    queue: list[Any] = [base]
    while queue:
        for kind in queue.pop().__subclasses__():
            if kind not in found:
                found.append(kind)
                queue.append(kind)
    return found


class _Observed:
    """Wraps a method in all classes derived from `base`, also those made meanwhile, until `restore`."""

    def __init__(self, base: Any, method: str, wrap: Callable[[Any], Any]) -> None:
        self.base, self.method, self.wrap = base, method, wrap
        self.originals: list[tuple[type, Any]] = []
        for kind in _every_subclass(base):
            self._replace(kind)
        self.had_hook = "__init_subclass__" in vars(base)
        if not self.had_hook:

            def hook(kind: Any, **options: Any) -> None:
                super(base, kind).__init_subclass__(**options)
                self._replace(kind)

            base.__init_subclass__ = classmethod(cast(Any, hook))

    def _replace(self, kind: type) -> None:
        original = vars(kind).get(self.method)
        if callable(original):
            self.originals.append((kind, original))
            setattr(kind, self.method, functools.wraps(original)(self.wrap(original)))

    def restore(self) -> None:
        """Puts the methods back."""
        for kind, original in self.originals:
            setattr(kind, self.method, original)
        if not self.had_hook:
            del self.base.__init_subclass__


class Recorder:
    """Records operations, module calls and the backward pass while it is open. Only one can be open at a
    time.

    Args:
        sequence: which of a batch's sequences attention, logits and targets are kept of.

    Attributes:
        classes: what each Operation class says of itself, see `sources.describe`.
        calls: the module calls: ``name``, ``kind``, ``parent`` (an index, or -1) and ``parameters``.
        tensors: every value: ``shape``, ``dtype``, ``name``, ``kind`` ("parameter", "input", "value",
            "gradient") and its ``values``.
        operations: ``kind``, ``call``, ``inputs`` and ``output`` (indices of tensors), ``seconds``, ``bytes``
            of new storage, ``kept``.
        steps: in order, ("forward", operation) and ("backward", operation).
        attention: for each operation of attention its place, the ``length`` of the sequence, and the
            probabilities by head.
        logits, targets: of the last CrossEntropy operation, at the first of its ``num_positions`` positions.
    """

    _open: Recorder | None = None

    def __init__(self, sequence: int = 0) -> None:
        self.sequence = sequence
        self.classes: dict[str, dict[str, Any]] = {}
        self.calls: list[dict[str, Any]] = []
        self.tensors: list[dict[str, Any]] = []
        self.operations: list[dict[str, Any]] = []
        self.steps: list[tuple[str, int]] = []
        self.attention: list[dict[str, Any]] = []
        self.logits: Buffer | None = None
        self.targets: Buffer | None = None
        self.num_positions = 0
        self._by_buffer: dict[int, int] = {}
        self._by_operation: dict[int, int] = {}
        self._held: list[Any] = []  # so that the ids above stay theirs
        self._stack: list[int] = []
        self._names: dict[int, str] = {}  # of modules and of parameters' buffers
        self._busy = False

    def __enter__(self) -> Recorder:
        if Recorder._open is not None:
            raise RuntimeError("a Recorder is open already: close it before another one records")
        Recorder._open = self
        self._apply = GradientFunction.apply
        GradientFunction.apply = self._wrapped_apply()  # type: ignore[method-assign]
        self._observed = [
            _Observed(Operation, "forward", self._wrapped_forward),
            _Observed(Module, "__call__", self._wrapped_call),
        ]
        return self

    def __exit__(self, *exception: object) -> None:
        GradientFunction.apply = self._apply  # type: ignore[method-assign]
        for observed in self._observed:
            observed.restore()
        Recorder._open = None

    # ---- what is wrapped

    def _wrapped_forward(self, original: Any) -> Any:
        def forward(operation: Operation, *buffers: Any, **options: Any) -> Any:
            if self._busy:  # one operation's forward within another's, or our own arithmetic
                return original(operation, *buffers, **options)
            self._busy = True
            try:
                started = time.perf_counter()
                result = original(operation, *buffers, **options)
                seconds = time.perf_counter() - started
                if isinstance(result, Buffer):
                    self._record(operation, buffers, options, result, seconds)
                return result
            finally:
                self._busy = False

        return forward

    def _wrapped_call(self, original: Any) -> Any:
        def call(module: Module, *inputs: Any, **options: Any) -> Any:
            # A call handed on to the class above
            if self._busy or (self._stack and self.calls[self._stack[-1]]["id"] == id(module)):
                return original(module, *inputs, **options)
            self._stack.append(self._new_call(module))
            try:
                return original(module, *inputs, **options)
            finally:
                self._stack.pop()

        return call

    def _wrapped_apply(self) -> Any:
        original = self._apply

        def apply(record: GradientFunction, grad: Buffer) -> Iterator[Any]:
            number = self._by_operation.get(id(record.operation))
            parts = original(record, grad)
            if number is None:
                yield from parts
                return
            entry = self.operations[number]
            entry["grad"], entry["grads"] = (
                self._gradient(grad, entry["output"]),
                [None] * len(entry["inputs"]),
            )
            self.steps.append(("backward", number))
            positions = iter([i for i, parent in enumerate(record.parents) if parent is not None])
            seconds = 0.0
            while True:
                started = time.perf_counter()
                part = next(parts, None)
                seconds += time.perf_counter() - started
                if part is None:
                    break
                values = part[1]
                while (position := next(positions)) is not None and record.parents[position] is not part[0]:
                    pass
                shown = values.values if isinstance(values, PartialGradient) else values
                entry["grads"][position] = (
                    entry["grad"]
                    if shown is grad
                    else self._gradient(shown, entry["inputs"][position], isinstance(values, PartialGradient))
                )
                yield part
            entry["backward_seconds"] = seconds

        return apply

    # ---- what is written down

    def _new_call(self, module: Module) -> int:
        if id(module) not in self._names:  # the outermost: from here on its parts are known by their names
            for name, part in module.named_modules():
                self._names.setdefault(id(part), name)
                self._held.append(part)
            for name, tensor in module.named_parameters():
                self._names.setdefault(id(tensor.buffer), name)
                self._held.append(tensor.buffer)
        parent = self._stack[-1] if self._stack else -1
        self.calls.append(
            {
                "id": id(module),
                "name": self._names[id(module)],
                "kind": type(module).__name__,
                "parent": parent,
                "parameters": module.num_parameters(),
                "about": module._extra_repr(),
            }
        )
        return len(self.calls) - 1

    def _record(
        self,
        operation: Operation,
        buffers: tuple[Any, ...],
        options: dict[str, Any],
        result: Buffer,
        seconds: float,
    ) -> None:
        if len(self.operations) >= MOST_OPERATIONS:
            raise RecordingError(
                f"more than {MOST_OPERATIONS:,} operations ran before a backward() was done, and one page cannot show them: "
                "use a smaller model or fewer steps"
            )
        inputs = [
            None if buffer is None else self.tensor_of(buffer, needs)
            for buffer, needs in _with_needs(operation, buffers)
        ]
        is_view = id(result.version) in {id(buffer.version) for buffer in buffers if buffer is not None}
        output = self.add_tensor("value", result.shape, result.dtype, result)
        self._by_buffer[id(result)] = output
        self._held.append(result)
        number = self.add_operation(
            operation,
            inputs,
            output,
            seconds=seconds,
            bytes=0 if is_view else result.numel * result.dtype.itemsize,
            view=is_view,
            kept=kept_bytes(operation),
            options={key: _short(value) for key, value in options.items()},
        )
        if isinstance(operation, Attention):
            self._attend(number, *buffers[:2], **options)
        elif isinstance(operation, PackedAttention):
            self._attend(number, *PackedKernel.heads(buffers[0], options["num_heads"])[:2])
        elif isinstance(operation, CrossEntropy):
            logits, targets = buffers[:2]
            self.num_positions = targets.shape[-1] if targets.ndim else 1
            self.logits, self.targets = (
                one_sequence(x, axes, self.sequence) for x, axes in ((logits, 2), (targets, 1))
            )

    def _attend(self, number: int, query: Buffer, key: Buffer, **options: Any) -> None:
        self.attention.append(
            {
                "operation": number,
                "length": query.shape[2],
                "heads": attention_maps(query, key, sequence=self.sequence, **options),
            }
        )

    def add_operation(self, operation: Operation, inputs: list[int | None], output: int, **about: Any) -> int:
        """Appends an operation and its forward step; returns its number."""
        name = type(operation).__name__
        if self.classes.get(name, {}).get("class", type(operation)) is not type(operation):
            name = f"{name} ({type(operation).__module__})"
        if name not in self.classes:
            self.classes[name] = describe(operation) | {"class": type(operation)}
        number = len(self.operations)
        self._by_operation[id(operation)] = number
        self._held.append(operation)
        self.operations.append(
            {
                "kind": name,
                "call": self._stack[-1] if self._stack else -1,
                "inputs": inputs,
                "output": output,
                **about,
            }
        )
        self.steps.append(("forward", number))
        return number

    def tensor_of(self, buffer: Buffer, needs_grad: bool) -> int:
        """Returns the index of a value, of any shape, that an operation reads: what an earlier one wrote, or
        something from outside.
        """
        index = self._by_buffer.get(id(buffer))
        if index is None:
            name = self._names.get(id(buffer), "")
            index = self.add_tensor(
                "parameter" if name or needs_grad else "input", buffer.shape, buffer.dtype, buffer, name
            )
            self._by_buffer[id(buffer)] = index
            self._held.append(buffer)
        return index

    def add_tensor(
        self, kind: str, shape: Any, dtype: Any, buffer: Buffer | None = None, name: str = ""
    ) -> int:
        """Appends a value of the given shape, with what its Buffer holds where that is known; returns its
        index.
        """
        self.tensors.append({"kind": kind, "name": name, "shape": list(shape), "dtype": dtype.name})
        if buffer is not None:
            self.tensors[-1]["values"] = summarize(buffer)
        return len(self.tensors) - 1

    def _gradient(self, buffer: Buffer, of: int | None, is_part: bool = False) -> int:
        index = self.add_tensor("gradient", buffer.shape, buffer.dtype, buffer)
        self.tensors[index] |= {"of": of, "part": is_part}
        return index

    @classmethod
    def current(cls) -> Recorder | None:
        """The Recorder that is open now, if one is."""
        return cls._open

    def held_buffers(self) -> list[Buffer]:
        """The Buffers, of any shapes, that operations read or wrote, in the order of their first use."""
        return [held for held in self._held if isinstance(held, Buffer)]

    # ---- afterwards

    def only(self, output: Tensor | None = None) -> Recorder:
        """Returns a recording of the operations that `output` (of any shape), or else what was differentiated
        first, depends on.

        Raises:
            RecordingError: no recorded operation made it.
        """
        made_by = {operation["output"]: number for number, operation in enumerate(self.operations)}
        if output is None:
            last = next((number for phase, number in self.steps if phase == "backward"), None)
        else:
            last = made_by.get(self._by_buffer.get(id(output.buffer), -1))
        if last is None:
            raise RecordingError("no operation that was recorded made this Tensor")
        needed, queue = {last}, [last]
        while queue:
            for index in self.operations[queue.pop()]["inputs"]:
                number = made_by.get(index)
                if number is not None and number not in needed:
                    needed.add(number)
                    queue.append(number)
        order = sorted(needed)
        renumbered = {old: new for new, old in enumerate(order)}
        part = copy.copy(self)
        part.operations = [self.operations[old] for old in order]
        part.steps = [(phase, renumbered[old]) for phase, old in self.steps if old in renumbered]
        part.attention = [
            entry | {"operation": renumbered[entry["operation"]]}
            for entry in self.attention
            if entry["operation"] in needed
        ]
        return part

    def to_dict(self) -> dict[str, Any]:
        """Returns the graph as plain JSON values, with only the tensors and calls that operations refer to."""
        tensors, calls = _Renumbered(self.tensors), _Renumbered(self.calls)

        def call_of(index: int) -> int:
            if index < 0:
                return -1
            if index not in calls.places:
                parent = call_of(self.calls[index]["parent"])
                entry = {key: value for key, value in self.calls[index].items() if key != "id"} | {
                    "parent": parent
                }
                calls.add(index, entry)
            return calls.places[index]

        operations = []
        for operation in self.operations:
            entry = dict(
                operation, call=call_of(operation["call"]), output=tensors.place(operation["output"])
            )
            entry["inputs"] = [tensors.place(index) for index in operation["inputs"]]
            if "kept_values" in operation:
                entry["kept_values"] = [
                    [name, tensors.place(index)] for name, index in operation["kept_values"]
                ]
            if "grad" in operation:
                entry["grad"] = tensors.place(operation["grad"])
                entry["grads"] = [tensors.place(index) for index in operation["grads"]]
            for field in ("seconds", "backward_seconds"):
                if field in entry:
                    entry[field] = float(f"{entry[field]:.3g}")
            operations.append(entry)
        for entry in tensors.entries:
            if "of" in entry:
                entry["of"] = tensors.places.get(entry["of"])
        used = {operation["kind"] for operation in operations}
        classes = {
            name: {key: value for key, value in about.items() if key != "class"}
            for name, about in self.classes.items()
            if name in used
        }
        return {
            "classes": classes,
            "calls": calls.entries,
            "tensors": tensors.entries,
            "operations": operations,
            "steps": self.steps,
        }


class _Renumbered:
    """Entries of a list that are referred to, numbered in the order of the first reference."""

    def __init__(self, source: list[dict[str, Any]]) -> None:
        self.source, self.places = source, dict[int, int]()
        self.entries: list[dict[str, Any]] = []

    def add(self, index: int, entry: dict[str, Any]) -> None:
        """Appends an entry for `index`."""
        self.places[index] = len(self.entries)
        self.entries.append(entry)

    def place(self, index: int | None) -> int | None:
        """The new number of an old one."""
        if index is None:
            return None
        if index not in self.places:
            self.add(index, dict(self.source[index]))
        return self.places[index]


def _with_needs(operation: Operation, buffers: tuple[Any, ...]) -> list[tuple[Any, bool]]:
    needs = [*operation.needs_input_grad, *[False] * len(buffers)]
    return list(zip(buffers, needs, strict=False))


def kept_bytes(operation: Operation) -> int:
    """How many bytes an operation keeps for its backward, each storage once; what it shares with its inputs
    counts too.
    """
    storages: dict[int, int] = {}
    queue = list(vars(operation).values())
    while queue:
        value = queue.pop()
        if isinstance(value, Buffer):
            storages[id(value.version)] = max(
                storages.get(id(value.version), 0), value.numel * value.dtype.itemsize
            )
        elif type(value) in (tuple, list):
            queue += value
        elif type(getattr(value, "nbytes", None)) is int:
            storages[id(value)] = value.nbytes
    return sum(storages.values())


def one_sequence(x: Buffer, axes: int, sequence: int) -> Buffer:
    """One of a batch: x with only its last `axes` axes, and of the first of those at most MOST_POSITIONS."""
    while x.ndim > axes:
        x = x[min(sequence, x.shape[0] - 1)]
    return x[:MOST_POSITIONS].copy() if x.ndim else x


def attention_maps(
    query: Buffer, key: Buffer, *, sequence: int = 0, causal: bool = True, scale: float | None = None
) -> list[list[list[float]]]:
    """The probabilities of attention, softmax(q k^T scale), of one sequence: one matrix (queries, keys) a
    head.

    The kernel that ran may never have held them all at once, so they are computed here.
    """
    shown, sequence = min(query.shape[2], MOST_POSITIONS), min(sequence, query.shape[0] - 1)
    ahead = key.shape[2] - query.shape[2]
    q, k = query[sequence : sequence + 1, :, :shown], key[sequence : sequence + 1, :, : shown + ahead]
    scores = (
        q.matmul(k.transpose(2, 3)) * (1.0 / math.sqrt(query.shape[3]) if scale is None else scale)
    ).to_python()[0]
    heads = []
    for head in scores:
        rows = []
        for position, row in enumerate(head):
            seen = row[: position + ahead + 1] if causal else row
            largest = max(seen)
            weights = [math.exp(score - largest) for score in seen]
            total = sum(weights)
            rows.append([weight / total for weight in weights])
        heads.append(rows)
    return heads


def _short(value: Any) -> str:
    text = getattr(value, "name", None) or repr(value)
    return text if len(text) <= 60 else text[:59] + "…"
