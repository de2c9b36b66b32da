"""The record of what happens while operations run: which, in which module, on what, for how long.

On the way back, too:

    with Recorder() as recorder:
        loss = model(x).sum()
        loss.backward()
    recorder.operations, recorder.steps

Nothing in the engine knows of this. While a Recorder is open, the `forward` of every Operation class, the
`__call__` of every Module class and `GradientFunction.apply` are wrapped, see `instrumentation`; afterwards
they are what they were, so that a run nobody looks at pays nothing.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from ..buffer.base import Buffer
from ..instrumentation import Method, WrappedMethod
from ..kernels.attention import Attention as AttentionKernel
from ..kernels.attention import PackedAttention as PackedKernel
from ..module import Module
from ..nn.experts import MixtureOfExperts, Routing, recorded_routing
from ..nn.ngram_prior import NgramPrior
from ..operations import (
    Attention,
    CrossEntropy,
    Operation,
    PackedAttention,
    PartialGradient,
    WindowedAttention,
)
from ..shape import Shape
from ..tape import GradientFunction
from ..tensor import Tensor
from .sources import describe
from .values import summarize

MOST_OPERATIONS = 6_000  # what one page can show
MOST_POSITIONS = 64  # of a sequence, in attention maps and probabilities


class RecordingError(ValueError):
    """What was to be recorded cannot be; the message says why and what would work."""


class Recorder:
    """A record of operations, module calls and the backward pass while it is open.

    Only one can be open at a time.

    Args:
        sequence: which of a batch's sequences attention, logits and targets are kept of.

    Attributes:
        classes: what each Operation class says of itself, see `sources.describe`.
        calls: the module calls: `name`, `kind`, `parent` (an index, or -1) and `parameters`.
        tensors: every value: `shape`, `dtype`, `name`, `kind` ("parameter", "input", "value", "gradient"),
            its `values`, and of some inputs a sentence `about` them.
        operations: `kind`, `call`, `inputs` and `output` (indices of tensors), `seconds`, `bytes` of new
            storage, `kept`.
        steps: in order, ("forward", operation) and ("backward", operation).
        attention: for each operation of attention its place, the `length` of the sequence, and the
            probabilities by head; with a mixture of experts in its block also, for each position, pairs of an
            expert and its weight, as `experts`.
        logits, targets: of the last CrossEntropy operation, at the first of its `num_positions` positions.
        counted: the log-probabilities that an `NgramPrior` gave last, at the same positions.
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
        self.counted: Buffer | None = None
        self.num_positions = 0
        self._by_buffer: dict[int, int] = {}
        self._by_operation: dict[int, int] = {}
        self._kept_alive: list[Any] = []  # so that the ids above stay theirs
        self._open_calls: list[int] = []  # of modules, the innermost last
        self._names: dict[int, str] = {}  # of modules and of parameters' buffers
        self._is_inside_forward = False

    def __enter__(self) -> Recorder:
        if Recorder._open is not None:
            raise RuntimeError("a Recorder is open already: close it before another one records")
        Recorder._open = self
        self._wrapped_methods = ExitStack()
        self._wrapped_methods.enter_context(WrappedMethod(Operation, "forward", self._wrap_forward))
        self._wrapped_methods.enter_context(WrappedMethod(Module, "__call__", self._wrap_call))
        self._routings = self._wrapped_methods.enter_context(recorded_routing())
        self._wrapped_methods.enter_context(WrappedMethod(GradientFunction, "apply", self._wrap_apply))
        self._wrapped_methods.enter_context(
            WrappedMethod(NgramPrior, "log_probabilities", self._wrap_counting)
        )
        return self

    def __exit__(self, *exception: object) -> None:
        self._wrapped_methods.close()
        Recorder._open = None

    # ---- what is wrapped

    def _wrap_forward(self, original: Method) -> Method:
        def forward(operation: Operation, *buffers: Any, **options: Any) -> Any:
            if self._is_inside_forward:  # one operation's forward within another's, or our own arithmetic
                return original(operation, *buffers, **options)
            self._is_inside_forward = True
            try:
                started = time.perf_counter()
                result = original(operation, *buffers, **options)
                seconds = time.perf_counter() - started
                if isinstance(result, Buffer):
                    self._record(operation, buffers, options, result, seconds)
                return result
            finally:
                self._is_inside_forward = False

        return forward

    def _wrap_call(self, original: Method) -> Method:
        def call(module: Module, *inputs: Any, **options: Any) -> Any:
            is_handed_on = self._open_calls and self.calls[self._open_calls[-1]]["id"] == id(module)
            if is_handed_on or self._is_inside_forward:  # by a class to the one it is derived from
                return original(module, *inputs, **options)
            self._open_calls.append(self._new_call(module))
            try:
                return original(module, *inputs, **options)
            finally:
                self._open_calls.pop()
                if isinstance(module, MixtureOfExperts) and self._routings:
                    self._record_routing(self._routings.pop(), inputs[0].shape)

        return call

    def _wrap_apply(self, original: Method) -> Method:
        def apply(record: GradientFunction, grad: Buffer) -> Iterator[Any]:
            number = self._by_operation.get(id(record.operation))
            parts = original(record, grad)
            if number is None:
                yield from parts
                return
            entry = self.operations[number]
            entry["grad"] = self._gradient(grad, entry["output"])
            entry["grads"] = [None] * len(entry["inputs"])
            self.steps.append(("backward", number))
            positions = iter([i for i, parent in enumerate(record.parents) if parent is not None])
            seconds = 0.0
            while True:
                started = time.perf_counter()
                part = next(parts, None)
                seconds += time.perf_counter() - started
                if part is None:
                    break
                parent, values = part
                position = next(i for i in positions if record.parents[i] is parent)
                is_slice = isinstance(values, PartialGradient)
                shown = values.values if is_slice else values
                if shown is grad:
                    entry["grads"][position] = entry["grad"]
                else:
                    entry["grads"][position] = self._gradient(shown, entry["inputs"][position], is_slice)
                yield part
            entry["backward_seconds"] = seconds

        return apply

    def _wrap_counting(self, original: Method) -> Method:
        def log_probabilities(prior: NgramPrior, *inputs: Any, **options: Any) -> Tensor:
            counted: Tensor = original(prior, *inputs, **options)
            self._record_counting(prior, counted.buffer)
            return counted

        return log_probabilities

    # ---- what is written down

    def _new_call(self, module: Module) -> int:
        if id(module) not in self._names:  # the outermost: from here on its parts are known by their names
            for name, part in module.named_modules():
                self._names.setdefault(id(part), name)
                self._kept_alive.append(part)
            for name, tensor in module.named_parameters():
                self._names.setdefault(id(tensor.buffer), name)
                self._kept_alive.append(tensor.buffer)
        parent = self._open_calls[-1] if self._open_calls else -1
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
                f"more than {MOST_OPERATIONS:,} operations ran before a backward() was done, and one page "
                "cannot show them: use a smaller model or fewer steps"
            )
        inputs = [
            None if buffer is None else self.tensor_of(buffer, needs)
            for buffer, needs in _with_needs(operation, buffers)
        ]
        is_view = id(result.version) in {id(buffer.version) for buffer in buffers if buffer is not None}
        output = self.add_tensor("value", result.shape, result.dtype, result)
        self._by_buffer[id(result)] = output
        self._kept_alive.append(result)
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
        if isinstance(operation, (Attention, WindowedAttention)):
            self._record_attention(number, *buffers[:2], **options)
        elif isinstance(operation, PackedAttention):
            self._record_attention(number, *PackedKernel.heads(buffers[0], options["num_heads"])[:2])
        elif isinstance(operation, CrossEntropy):
            logits, targets = buffers[:2]
            self.num_positions = targets.shape[-1] if targets.ndim else 1
            self.logits = one_sequence(logits, 2, self.sequence)
            self.targets = one_sequence(targets, 1, self.sequence)

    def _record_attention(self, number: int, query: Buffer, key: Buffer, **options: Any) -> None:
        self.attention.append(
            {
                "operation": number,
                "length": query.shape[2],
                "heads": attention_maps(query, key, sequence=self.sequence, **options),
            }
        )

    def _record_counting(self, prior: NgramPrior, counted: Buffer) -> None:
        """Names what no operation made: log-probabilities, looked up in counts."""
        name = f"{self._names.get(id(prior), 'ngram_prior')}.log p, counted"
        index = self.add_tensor("input", counted.shape, counted.dtype, counted, name)
        self.tensors[index]["about"] = (
            f"What counting says of each token after the last {prior.context_length}, looked up in the "
            "counts of the text that the model learns from. No gradient flows here. In a step of training "
            "the place itself is left out of the counts, since it has the answer."
        )
        self._by_buffer[id(counted)] = index
        self._kept_alive.append(counted)
        self.counted = one_sequence(counted, 2, self.sequence)

    def _record_routing(self, routing: Routing, shape: Shape) -> None:
        """Adds to the attention of the same block which experts each position of one sequence is sent to."""
        if not self.attention or len(shape) != 3:
            return
        start = min(self.sequence, shape[0] - 1) * shape[1]
        rows = slice(start, start + min(shape[1], MOST_POSITIONS))
        experts, weights = routing.experts[rows].to_python(), routing.weights[rows].to_python()
        self.attention[-1]["experts"] = [
            [list(pair) for pair in zip(*row, strict=True)] for row in zip(experts, weights, strict=True)
        ]

    def add_operation(self, operation: Operation, inputs: list[int | None], output: int, **about: Any) -> int:
        """Appends an operation and its forward step; returns its number."""
        name = type(operation).__name__
        if self.classes.get(name, {}).get("class", type(operation)) is not type(operation):
            name = f"{name} ({type(operation).__module__})"
        if name not in self.classes:
            self.classes[name] = describe(operation) | {"class": type(operation)}
        number = len(self.operations)
        self._by_operation[id(operation)] = number
        self._kept_alive.append(operation)
        self.operations.append(
            {
                "kind": name,
                "call": self._open_calls[-1] if self._open_calls else -1,
                "inputs": inputs,
                "output": output,
                **about,
            }
        )
        self.steps.append(("forward", number))
        return number

    def tensor_of(self, buffer: Buffer, needs_grad: bool) -> int:
        """Returns the index of a value, of any shape, that an operation reads.

        That is what an earlier operation wrote, or something from outside.
        """
        index = self._by_buffer.get(id(buffer))
        if index is None:
            name = self._names.get(id(buffer), "")
            kind = "parameter" if name or needs_grad else "input"
            index = self.add_tensor(kind, buffer.shape, buffer.dtype, buffer, name)
            self._by_buffer[id(buffer)] = index
            self._kept_alive.append(buffer)
        return index

    def add_tensor(
        self, kind: str, shape: Any, dtype: Any, buffer: Buffer | None = None, name: str = ""
    ) -> int:
        """Appends a value, with its Buffer's elements where they are known; returns its index."""
        self.tensors.append({"kind": kind, "name": name, "shape": list(shape), "dtype": dtype.name})
        if buffer is not None:
            self.tensors[-1]["values"] = summarize(buffer)
        return len(self.tensors) - 1

    def _gradient(self, buffer: Buffer, of: int | None, is_part: bool = False) -> int:
        """Appends the gradient of a value; returns its index."""
        index = self.add_tensor("gradient", buffer.shape, buffer.dtype, buffer)
        self.tensors[index] |= {"of": of, "part": is_part}
        return index

    @classmethod
    def current(cls) -> Recorder | None:
        """Returns the Recorder that is open now, if one is."""
        return cls._open

    def recorded_buffers(self) -> list[Buffer]:
        """Returns the Buffers, of any shapes, that operations read or wrote, in the order of first use."""
        return [kept for kept in self._kept_alive if isinstance(kept, Buffer)]

    # ---- afterwards

    def only(self, output: Tensor | None = None) -> Recorder:
        """Returns a recording of only those operations on which `output`, of any shape, depends.

        Args:
            output: what they lead to; without it, what was differentiated first.

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
        needed = {last}
        queue = [last]
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
        """Returns the graph as plain JSON values, with only those tensors and calls that operations name."""
        tensors = _Renumbered(self.tensors)
        calls = _Renumbered(self.calls)

        def call_of(index: int) -> int:
            if index < 0:
                return -1
            if index not in calls.places:
                entry = {key: value for key, value in self.calls[index].items() if key != "id"}
                entry["parent"] = call_of(entry["parent"])
                calls.add(index, entry)
            return calls.places[index]

        operations = []
        for operation in self.operations:
            entry = dict(operation)
            entry["call"] = call_of(operation["call"])
            entry["output"] = tensors.place(operation["output"])
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
        self.source = source
        self.places: dict[int, int] = {}
        self.entries: list[dict[str, Any]] = []

    def add(self, index: int, entry: dict[str, Any]) -> None:
        """Appends an entry for `index`."""
        self.places[index] = len(self.entries)
        self.entries.append(entry)

    def place(self, index: int | None) -> int | None:
        """Returns the new number of an old one."""
        if index is None:
            return None
        if index not in self.places:
            self.add(index, dict(self.source[index]))
        return self.places[index]


def _with_needs(operation: Operation, buffers: tuple[Any, ...]) -> list[tuple[Any, bool]]:
    """Returns each input with whether its gradient is wanted."""
    needs = [*operation.needs_input_grad, *[False] * len(buffers)]
    return list(zip(buffers, needs, strict=False))


def kept_bytes(operation: Operation) -> int:
    """Returns how many bytes an operation keeps for its backward, those of its inputs among them.

    Each storage counts once.
    """
    storages: dict[int, int] = {}
    queue = list(vars(operation).values())
    while queue:
        value = queue.pop()
        if isinstance(value, Buffer):
            size = value.numel * value.dtype.itemsize
            storages[id(value.version)] = max(size, storages.get(id(value.version), 0))
        elif type(value) in (tuple, list):
            queue += value
        elif type(getattr(value, "nbytes", None)) is int:
            storages[id(value)] = value.nbytes
    return sum(storages.values())


def one_sequence(x: Buffer, axes: int, sequence: int) -> Buffer:
    """Returns one of a batch: the last `axes` axes of x, at most MOST_POSITIONS of the first of them."""
    while x.ndim > axes:
        x = x[min(sequence, x.shape[0] - 1)]
    return x[:MOST_POSITIONS].copy() if x.ndim else x


def attention_maps(
    query: Buffer,
    key: Buffer,
    *,
    sequence: int = 0,
    causal: bool = True,
    scale: float | None = None,
    window: int | None = None,
    soft_cap: float | None = None,
) -> list[list[list[float]]]:
    """Returns the probabilities of attention of one sequence: one matrix (queries, keys) a head.

    They are softmax(q k^T scale), with the window and the soft cap of `WindowedAttention`. The kernel
    that ran may never have had them all at once, so they are computed here.
    """
    shown = min(query.shape[2], MOST_POSITIONS)
    sequence = min(sequence, query.shape[0] - 1)
    ahead = key.shape[2] - query.shape[2]
    q = query[sequence : sequence + 1, :, :shown]
    k = key[sequence : sequence + 1, :, : shown + ahead]
    scale = AttentionKernel.scale_of(query, scale)
    scores = (q.matmul(k.transpose(2, 3)) * scale).to_python()[0]
    heads = []
    for head in scores:
        rows = []
        for position, row in enumerate(head):
            seen = row[: position + ahead + 1] if causal else row
            if soft_cap is not None:
                seen = [soft_cap * math.tanh(score / soft_cap) for score in seen]
            unseen = 0 if window is None else max(0, len(seen) - window)
            largest = max(seen[unseen:])
            weights = [math.exp(score - largest) for score in seen[unseen:]]
            total = sum(weights)
            rows.append([0.0] * unseen + [weight / total for weight in weights])
        heads.append(rows)
    return heads


def _short(value: Any) -> str:
    """Returns an option of an operation as a text that fits the page."""
    text = getattr(value, "name", None) or repr(value)
    return text if len(text) <= 60 else text[:59] + "…"
