"""What can be shown of a Tensor that was made while no Recorder was open.

Its records are the graph, and their derivatives can be run. The records keep shapes, and the values that
derivatives need; other values are gone, and times of the forward were never taken.
"""

from __future__ import annotations

import inspect
from typing import Any

from ..buffer.base import Buffer
from ..tape import GradientFunction, kept_buffers, walk_back
from ..tensor import Tensor
from .recorder import MOST_OPERATIONS, Recorder, RecordingError, kept_bytes
from .values import summarize


def recorded_from_tape(tensor: Tensor) -> Recorder:
    """Returns a recording of the graph behind `tensor`, of any shape.

    Nothing is freed, and no `grad` of a leaf changes.

    Raises:
        RecordingError: there are no records, they were freed by a backward(), or there are too many for one
            page.
    """
    if tensor.grad_fn is None:
        raise RecordingError(
            "explain() needs a Tensor that operations on Tensors with requires_grad=True have made: "
            "this one has no history"
        )
    records = _records(tensor.grad_fn)
    recorder = Recorder()
    places: dict[int, int] = {}
    for record in records:
        places[id(record)] = _add(recorder, record, places)
    output = recorder.operations[-1]["output"]
    recorder.tensors[output]["values"] = summarize(tensor.buffer)
    with recorder:
        differentiate(tensor)
    return recorder


def _records(last: GradientFunction) -> list[GradientFunction]:
    """Returns all records behind `last`, oldest first."""
    found = {id(last): last}
    queue = [last]
    while queue:
        record = queue.pop()
        if record.operation is None:
            raise RecordingError(
                "backward() has freed this graph: call explain() before it, or backward(retain_graph=True)"
            )
        for parent in record.parents:
            if isinstance(parent, GradientFunction) and id(parent) not in found:
                found[id(parent)] = parent
                queue.append(parent)
        if len(found) > MOST_OPERATIONS:
            raise RecordingError(
                f"more than {MOST_OPERATIONS:,} operations made this Tensor, and one page cannot show them: "
                "explain a part"
            )
    return sorted(found.values(), key=lambda record: record.number)


def _add(recorder: Recorder, record: GradientFunction, places: dict[int, int]) -> int:
    """Appends the operation of one record; `places` has those of its parents."""
    operation: Any = record.operation
    inputs: list[int | None] = []
    for parent, about in zip(record.parents, record.inputs, strict=True):
        if isinstance(parent, GradientFunction):
            inputs.append(recorder.operations[places[id(parent)]]["output"])
        elif isinstance(parent, Tensor):
            inputs.append(recorder.tensor_of(parent.buffer, True))
        else:
            inputs.append(None if about is None else recorder.add_tensor("input", about[0], about[1]))
    for name, place in zip(inspect.signature(operation.forward).parameters, inputs, strict=False):
        # By habit an operation keeps its inputs under the names of its forward's parameters.
        kept = getattr(operation, name, None)
        if (
            place is not None
            and isinstance(kept, Buffer)
            and recorder.tensors[place]["shape"] == list(kept.shape)
        ):
            recorder.tensors[place]["values"] = summarize(kept)
    shape, dtype = record.result
    kept_values = [
        [name, recorder.add_tensor("value", buffer.shape, buffer.dtype, buffer)]
        for name, buffer in kept_buffers(operation)
    ]
    return recorder.add_operation(
        operation,
        inputs,
        recorder.add_tensor("value", shape, dtype),
        bytes=None,
        view=False,
        kept=kept_bytes(operation),
        kept_values=kept_values,
        options={},
    )


def differentiate(tensor: Tensor) -> None:
    """Runs the derivatives behind a Tensor of any shape, for a `Recorder` that is open to see.

    Frees nothing, and drops the gradients instead of leaving them in Tensors.
    """
    assert tensor.grad_fn is not None
    ones = type(tensor.buffer).full(tensor.shape, 1.0, tensor.dtype)
    for _ in walk_back(tensor.grad_fn, ones, retain_graph=True):
        pass
