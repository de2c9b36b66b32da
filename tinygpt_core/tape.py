"""Floor 5: the tape. Operations leave records behind, and a walk back over these differentiates.

Every operation on Tensors that require gradients leaves a `GradientFunction` behind: the Operation with what
it kept, and where each input came from. `walk_back` goes through these records from a result to the leaves,
newest first, and applies the chain rule at each:

    dL/dx = sum over the uses y of x of  dL/dy * dy/dx

Records are numbered as they are made and an operation's inputs always carry smaller numbers than its result,
so taking the largest number first visits every record after all that used it, exactly once, without
recursion.

`Tensor` stands above this module, which knows of it only what `Differentiable` says.
"""

from __future__ import annotations

import heapq
import weakref
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from itertools import count
from typing import Any, Protocol

from .buffer.base import Buffer
from .contexts import CountedBlock
from .dtype import DType
from .kernels.base import sum_to
from .operations import Operation, PartialGradient, SparseGradient
from .shape import Shape

# ---------------------------------------------------------------- whether operations are recorded

_open_no_grad_blocks = ContextVar("open no_grad blocks", default=0)


class no_grad(CountedBlock):
    """`with no_grad():` operations leave no records. Also decorates functions.

    So their results require no gradients. Holds for the calling thread only: a new thread records.
    """

    open_blocks = _open_no_grad_blocks


def is_recording() -> bool:
    """Returns whether operations leave records here and now: outside of every `no_grad`."""
    return not _open_no_grad_blocks.get()


# ---------------------------------------------------------------- records


class Differentiable(Protocol):
    """What the tape needs of a Tensor."""

    buffer: Buffer

    @property
    def shape(self) -> Shape:
        """The size of each axis."""

    @property
    def dtype(self) -> DType:
        """The type of the elements."""

    @property
    def requires_grad(self) -> bool:
        """Whether gradients flow to or through it."""

    @property
    def grad_fn(self) -> GradientFunction | None:
        """The record of the operation that made it; None for a leaf."""

    @property
    def sparse_grad(self) -> bool:
        """Whether it keeps a gradient of single rows as such."""

    @property
    def compact_grad(self) -> object | None:
        """The gradient that earlier walks have left in it; None where there is none."""

    def accumulate_gradient(self, gradient: Buffer | SparseGradient) -> None:
        """Adds a gradient, of its own shape, to `grad`."""


class GradientFunction:
    """The record of one operation: what to call on the way back, and where to send the gradients.

    Attributes:
        operation: the Operation, with what it kept for its backward; None once a backward pass has used and
            freed it.
        parents: for each input the leaf Tensor or the GradientFunction it came from, or None where no
            gradient is needed.
        inputs: the shape and dtype of each input; None for an optional one that was not given.
        result: the shape and dtype of the result.
        kept: the name, the Buffer and the Buffer's version then, of all that the operation kept.
        unchanged: of an operation with `needs_unchanged`, for each input that was given and then for the
            result the list `version` and the version then. No Buffer: that would keep all inputs in memory.
        number: records made later have larger numbers.
        output: a weak reference (so that no cycle arises) to the result, where `retain_grad` asked for its
            gradient.
    """

    __slots__ = (
        "__weakref__",
        "inputs",
        "kept",
        "number",
        "operation",
        "output",
        "parents",
        "result",
        "unchanged",
    )

    _numbers = count()

    def __init__(
        self, operation: Operation, tensors: Sequence[Differentiable | None], result: Buffer
    ) -> None:
        parents: list[Differentiable | GradientFunction | None] = []
        inputs: list[tuple[Shape, DType] | None] = []
        unchanged: list[tuple[list[int], int]] = []
        needs_unchanged = operation.needs_unchanged
        for tensor in tensors:
            if tensor is None:
                parents.append(None)
                inputs.append(None)
            else:
                buffer = tensor.buffer
                parents.append((tensor.grad_fn or tensor) if tensor.requires_grad else None)
                inputs.append((buffer.shape, buffer.dtype))
                if needs_unchanged:
                    unchanged.append((buffer.version, buffer.version[0]))
        if needs_unchanged:
            unchanged.append((result.version, result.version[0]))
        self.operation: Operation | None = operation
        self.parents = tuple(parents)
        self.inputs = tuple(inputs)
        self.result = (result.shape, result.dtype)
        self.number = next(self._numbers)
        self.kept = [(name, buffer, buffer.version[0]) for name, buffer in kept_buffers(operation)]
        self.unchanged = unchanged
        self.output: weakref.ref[Any] | None = None

    @property
    def name(self) -> str:
        """The operation's name."""
        return type(self.operation).__name__ if self.operation else "freed"

    def __repr__(self) -> str:
        return (
            f"<GradientFunction {self.name} of {len(self.inputs)} inputs, result of shape {self.result[0]}>"
        )

    def free(self) -> None:
        """Lets go of what the operation kept and of the records before it, which this one needs no more."""
        self.operation = None
        self.parents = ()
        self.kept = []
        self.unchanged = []

    def apply(
        self, grad: Buffer
    ) -> Iterator[tuple[Differentiable | GradientFunction, Buffer | PartialGradient]]:
        """Yields each parent that needs a gradient with that gradient, in the shape and dtype of the input.

        Raises:
            RuntimeError: the record was freed, something it kept has changed since, or a gradient does not
                fit its input.
        """
        operation = self.operation
        if operation is None:
            raise RuntimeError(
                "this graph was freed by an earlier backward(): call that one with retain_graph=True "
                "to go through it again"
            )
        for version, before in self.unchanged:
            if version[0] != before:
                self._refuse_change(version)
        for name, buffer, before in self.kept:
            if buffer.version[0] != before:
                raise _changed_in_place(f"{self.name} needs what it kept as {name!r}", buffer.shape)
        gradients = operation.backward(grad)
        if not isinstance(gradients, tuple):
            gradients = (gradients,)
        if len(gradients) != len(self.parents):
            self._check_count(len(gradients))
        for position, gradient in enumerate(gradients):
            parent = self.parents[position]
            if parent is None or gradient is None:
                continue
            if callable(gradient):
                gradient = gradient()
            if isinstance(gradient, Buffer):
                shape, dtype = self.inputs[position]  # type: ignore[misc]  # there, since there is a parent
                if gradient.shape != shape:
                    gradient = self._sum_back(gradient, shape, position)
                yield parent, gradient if gradient.dtype is dtype else gradient.cast(dtype)
            elif isinstance(gradient, PartialGradient):
                yield parent, gradient
            else:
                raise RuntimeError(
                    f"{self.name}.backward returned a {type(gradient).__name__} for input {position}, "
                    "not a Buffer"
                )

    def _refuse_change(self, version: list[int]) -> None:
        """Raises the error that the input, or else the result, with this `version` was changed in place."""
        given = [position for position, known in enumerate(self.inputs) if known is not None]
        place = next(i for i, (other, _) in enumerate(self.unchanged) if other is version)
        if place < len(given):
            name, known = f"input {given[place]}", self.inputs[given[place]]
        else:
            name, known = "result", self.result
        shape = known[0] if known is not None else ()
        raise _changed_in_place(f"{self.name} needs its {name}", shape)

    def _check_count(self, count: int) -> None:
        """Allows fewer gradients than inputs only where the other inputs need none."""
        if count > len(self.parents) or any(parent is not None for parent in self.parents[count:]):
            raise RuntimeError(
                f"{self.name}.backward returned {count} gradients for {len(self.parents)} inputs"
            )

    def _sum_back(self, gradient: Buffer, shape: Shape, position: int) -> Buffer:
        """Undoes broadcasting, here and nowhere else."""
        extra = gradient.ndim - len(shape)
        if extra < 0 or any(
            size != 1 and size != g for size, g in zip(shape, gradient.shape[extra:], strict=True)
        ):
            raise RuntimeError(
                f"{self.name}.backward returned a gradient of shape {gradient.shape} for input {position} "
                f"of shape {shape}"
            )
        return sum_to(gradient, shape)


def _changed_in_place(what: str, shape: Shape) -> RuntimeError:
    """Returns the error that something a backward needs, of this shape, is not what it was."""
    return RuntimeError(
        f"{what} (shape {shape}) for its backward, but that was changed in place after the forward: "
        "use an operation that makes a new Tensor instead, or change it after backward()"
    )


def kept_buffers(operation: Operation) -> list[tuple[str, Buffer]]:
    """Returns every Buffer that an operation keeps on itself, of any shape, with the attribute's name.

    These are what its backward reads. They stand in attributes, directly or in a tuple. Where it is on them
    alone that the check for changes in place relies, they are looked for in all tuples, lists and dicts: what
    a kernel has saved may be long lists of numbers.
    """
    found: list[tuple[str, Buffer]] = []
    needs_unchanged = operation.needs_unchanged
    for name, value in vars(operation).items():
        if name == "needs_input_grad":
            continue
        if type(value) is tuple and needs_unchanged:
            for item in value:
                if isinstance(item, Buffer):
                    found.append((name, item))
        elif isinstance(value, Buffer):
            found.append((name, value))
        elif not needs_unchanged and isinstance(value, (tuple, list, dict)):
            _collect_buffers(name, value, found)
    return found


def _collect_buffers(
    name: str, container: tuple[Any, ...] | list[Any] | dict[Any, Any], found: list[tuple[str, Buffer]]
) -> None:
    """Adds the Buffers in a container, at any depth, to those found."""
    for item in container.values() if isinstance(container, dict) else container:
        if isinstance(item, Buffer):
            found.append((name, item))
        elif isinstance(item, (tuple, list, dict)):
            _collect_buffers(name, item, found)


# ---------------------------------------------------------------- the walk


def walk_back(
    last: GradientFunction, gradient: Buffer, retain_graph: bool = False
) -> Iterator[tuple[Differentiable, Buffer | SparseGradient]]:
    """Yields every Tensor that shall keep a gradient, with that gradient, of its shape.

    These are the leaves, once for each use, and what `retain_grad` was called on.

    Args:
        last: the record to begin with.
        gradient: of its result, and of the result's shape.
        retain_graph: keep the records, so that they can be walked again; else each is freed once it is used.

    Raises:
        RuntimeError: a record was freed already, or cannot be used, see `GradientFunction.apply`.
    """
    pending = PendingGradients()
    pending.add(last, gradient)
    for record, total in pending.newest_first():
        if record.output is not None and (tensor := record.output()) is not None:
            yield tensor, total.copy()
        for parent, part in record.apply(total):
            if isinstance(parent, GradientFunction):
                pending.add(parent, part)
            else:
                yield parent, pending.to_keep(parent, part)
        if not retain_graph:
            record.free()


class PendingGradients:
    """The gradients of the records that a walk has yet to come to, each the sum of its parts so far.

    **When may a gradient be written into, and when must it be copied?** Nobody owns what a backward returns:
    `Add` hands the very gradient it was given to both its inputs, `Reshape` a view of it, and a leaf may have
    kept it already. So nothing that came from a backward is written into. What can be written into is what
    this class has made itself, which nobody else knows: the new Buffer of a sum, a copy, or fresh zeros.
    Slices (`PartialGradient`) are added to such a total in place, and a hundred of them need one Buffer.

    A leaf keeps its gradient when the walk is over, and may be written into then. So a leaf gets a copy where
    the storage already is another one's gradient: that of the record itself, or of another of its inputs.
    """

    __slots__ = ("_own", "_queue", "_storages", "_totals")

    def __init__(self) -> None:
        self._totals: dict[GradientFunction, Buffer] = {}
        self._own: set[GradientFunction] = set()  # those whose total was made here
        self._queue: list[tuple[int, GradientFunction]] = []  # a heap, the largest number first
        self._storages: set[int] = set()  # what is someone's gradient, in the step of the current record

    def newest_first(self) -> Iterator[tuple[GradientFunction, Buffer]]:
        """Yields each record with its whole gradient, of its result's shape, until no record is left.

        More may be added meanwhile.
        """
        while self._queue:
            _, record = heapq.heappop(self._queue)
            total = self._totals.pop(record)
            self._own.discard(record)
            self._storages = {id(total.version)}
            yield record, total

    def add(self, record: GradientFunction, part: Buffer | PartialGradient) -> None:
        """Adds a part, of the shape of the record's result, to the record's gradient."""
        total = self._totals.get(record)
        if total is None:
            heapq.heappush(self._queue, (-record.number, record))
        if isinstance(part, PartialGradient):
            if total is not None and record not in self._own:
                total = total.copy()
            self._totals[record] = part.add_to(total)
            self._own.add(record)
            return
        self._storages.add(id(part.version))
        if total is None:
            self._totals[record] = part
        else:
            self._totals[record] = total + part
            self._own.add(record)

    def to_keep(self, leaf: Differentiable, part: Buffer | PartialGradient) -> Buffer | SparseGradient:
        """Returns a part of a leaf's gradient, of the leaf's shape, as the leaf can keep it."""
        if isinstance(part, SparseGradient) and leaf.sparse_grad:
            return part
        if isinstance(part, PartialGradient):
            return part.add_to(None)
        storage = id(part.version)
        is_shared = storage in self._storages
        self._storages.add(storage)
        # What is added to an earlier gradient is not kept itself
        return part.copy() if is_shared and leaf.compact_grad is None else part
