"""A training step on a CUDA device that asks the device for nothing but the loss, and from the third time on
is one CUDA graph.

The gradient's norm, the factor that clips it and whether it is finite stay on the device, where AdamW reads
them. What differs from step to step (ids, learning rate, how far the random stream has moved) lies in arrays
of which a recorded graph knows the addresses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy

from tinygpt_core import random
from tinygpt_core.optimizers import Adam, Optimizer
from tinygpt_core.tensor import Tensor, no_grad
from tinygpt_core.training.step import TrainingStep, as_tensors

from .buffer import CudaBuffer
from .kernels import adamw, adamw_numbers, forget_tables, gradient_norm

# Steps of one shape before they are recorded: the pool then holds what a step needs, and every kernel is
# compiled
WARM_UP = 2


class _Ready(NamedTuple):
    """A batch that is on the device."""

    tensors: tuple[Tensor, Tensor]
    num_targets: int


class Recording(NamedTuple):
    """A recorded step and the arrays that feed it.

    `fixed` is what the graph took for granted, `position` is where the random stream stood, `drawn` by how
    much it moves a step.
    """

    graph: Any
    ids: list[Any]
    numbers: Any
    moved: Any
    loss: Any
    fixed: list[Any]
    position: int
    drawn: int


class CudaTrainingStep(TrainingStep):
    """TrainingStep for CUDA devices.

    Attributes:
        reason: why steps are not replayed from a graph, or "" while they are or may be.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        kind: Any = type(self.model.named_parameters()[0][1].buffer)
        self.kind, self.reason = kind, self._why_no_graph(kind)
        self.shape: Any = None
        self.seen = 0
        self.recording: Recording | None = None
        self.room: Any = None if self.reason else kind.make_room()

    def _why_no_graph(self, kind: Any) -> str:
        if self.scaler is not None:
            return "float16: whether a step counts is known only after it"
        if not isinstance(getattr(getattr(self.model, "config", None), "vocab_size", None), int):
            return "the model has no config.vocab_size, by which ids are checked before a replay"
        return str(kind.why_no_graph())

    def __call__(self, batches: Sequence[Any]) -> float:
        """Makes the update and returns the loss, the only number that comes back.

        Raises:
            MemoryError: the device is full; the message says what would need less.
            IndexError: an id that is not in the vocabulary.
        """
        with self.kind.device_context():
            return self._step(batches)

    def _step(self, batches: Sequence[Any]) -> float:
        optimizer = self.optimizer
        if not isinstance(optimizer, Adam) or type(optimizer).apply_single is not Optimizer.apply_single:
            return super().__call__(batches)
        shape = [(batch.shape, batch.num_targets) for batch in batches]
        if shape != self.shape:
            self.shape, self.seen, self.recording = shape, 0, None
        self.seen += 1
        try:
            if self.reason:
                return self._finish(self._launch(batches))
            with self.room:
                return self._with_graph(batches)
        except MemoryError as problem:
            raise MemoryError(self._advice(batches, problem)) from problem

    # ---------------------------------------------------------------- one step, launched piece by piece

    def _launch(self, batches: Sequence[Any], numbers: Any = None) -> tuple[Any, Any]:
        """Launches a whole step and returns, on the device, its loss and what `gradient_norm` gives. Waits
        for nothing.
        """
        kind, optimizer, xp = self.kind, self.optimizer, self.kind.xp
        assert isinstance(optimizer, Adam)
        num_targets = sum(batch.num_targets for batch in batches)
        scale = 1.0 if self.scaler is None else self.scaler.scale
        optimizer.zero_grad()
        loss = xp.zeros((), "float32")
        for batch in batches:
            part = self.total_loss(batch) / num_targets
            (part if scale == 1.0 else part * scale).backward()
            result: Any = part.buffer
            loss += result.array.reshape(())
        named = [
            (name, p) for name, p in self.model.named_parameters(trainable_only=True) if p.grad is not None
        ]
        grads: list[Any] = [p.grad.buffer for _, p in named if p.grad is not None]
        norm = gradient_norm(kind, [grad.array for grad in grads], self.gradient_clip, 1.0 / scale)
        with no_grad():
            buffers = [
                [p.buffer for _, p in named],
                grads,
                *(optimizer.slot_buffers(slot, named) for slot in optimizer.slots),
            ]
            if numbers is None:
                numbers = xp.asarray(self._numbers(optimizer.step + 1))
            decays = [optimizer.weight_decay if p.ndim >= 2 else 0.0 for _, p in named]
            adamw(kind, buffers, decays, numbers, norm, skip=self.scaler is not None)
        optimizer.step += 1
        return loss, norm

    def _numbers(self, step: int) -> Any:
        optimizer: Any = self.optimizer
        return numpy.array(adamw_numbers(optimizer.learning_rate, optimizer.betas, optimizer.eps, step))

    def _finish(self, launched: tuple[Any, Any]) -> float:
        loss, norm = launched
        value = float(self.kind._to_host(loss))
        if self.scaler is not None:
            finite = bool(self.kind._to_host(norm)[2])
            self.scaler.update(finite)
            self.optimizer.step -= not finite
        return value

    # ---------------------------------------------------------------- one step, replayed

    def _with_graph(self, batches: Sequence[Any]) -> float:
        if self.recording is not None and self.recording.fixed != self._fixed():
            # Somebody put other arrays in the parameters' place, or set another weight decay
            self.recording, self.seen = None, 1
        if self.recording is None:
            if self.seen <= WARM_UP:
                return self._finish(self._launch(batches))
            self._record(batches)
        if self.recording is None:
            return self._finish(self._launch(batches))
        return self._replay(self.recording, batches)

    def _record(self, batches: Sequence[Any]) -> None:
        """Records a step without running it. What recording changed on the host is taken back, for `_replay`
        to do.
        """
        kind: Any = self.kind
        generator, optimizer = random.default_generator(), self.optimizer
        position, step = generator.position, optimizer.step
        ready = [self._ready(batch) for batch in batches]
        numbers, moved = kind.xp.zeros(5, "float64"), kind.xp.zeros(1, "int64")
        kind.moved, kind.late_tables = moved, []
        try:
            graph, (loss, _) = self.room.record(lambda: self._launch(ready, numbers))
            for device, host in kind.late_tables:
                if host is not None:
                    kind.upload(device, host)
            held: list[Any] = [tensor.buffer for batch in ready for tensor in batch.tensors]
            ids = [buffer.array for buffer in held]
            tables = [device for device, _ in kind.late_tables]
            # The graph reads the tables and its own memory, so they live as long as it does.
            self.recording = Recording(
                (graph, tables),
                ids,
                numbers,
                moved,
                loss,
                self._fixed(),
                position,
                generator.position - position,
            )
        except BaseException as problem:
            self._forget_what_never_ran()
            if not isinstance(problem, kind.graph_errors):
                raise
            self.reason = f"the step cannot be recorded: {problem}"
        finally:
            kind.moved = kind.late_tables = None
            generator.position, optimizer.step = position, step
            optimizer.zero_grad()

    def _replay(self, recording: Recording, batches: Sequence[Any]) -> float:
        generator, optimizer = random.default_generator(), self.optimizer
        for i, batch in enumerate(batches):
            self._check_ids(batch)
            for j, host in enumerate((batch.inputs, batch.targets)):
                self.kind.upload(
                    recording.ids[2 * i + j], numpy.array(host, numpy.int32).reshape(batch.shape)
                )
        optimizer.step += 1
        self.kind.upload(recording.numbers, self._numbers(optimizer.step))
        self.kind.upload(recording.moved, numpy.array([generator.position - recording.position], numpy.int64))
        recording.graph[0].launch()
        generator.position += recording.drawn
        named = self.model.named_parameters(trainable_only=True)
        for _, parameter in named:  # their 16-bit copies are old now
            parameter.buffer.version[0] += 1
        return float(self.kind._to_host(recording.loss))

    def _ready(self, batch: Any) -> _Ready:
        """Returns a batch on the device. Ids are checked on the host, here and before every replay, so the
        step need not ask for them.
        """
        self._check_ids(batch)
        tensors = as_tensors(batch)
        return _Ready(tensors, batch.num_targets)

    def _check_ids(self, batch: Any) -> None:
        vocab_size = self.model.config.vocab_size  # type: ignore[attr-defined]
        for what, host, least in (("input", batch.inputs, 0), ("target", batch.targets, -1)):
            low, high = int(numpy.min(host)), int(numpy.max(host))
            if low < least or high >= vocab_size:
                raise IndexError(
                    f"an {what} id lies in [{low}, {high}], outside of the vocabulary of {vocab_size}"
                )

    def _fixed(self) -> list[Any]:
        """Returns what a recorded step took for granted: where its numbers lie, and the settings that are no
        numbers in its arrays.

        Of a parameter that does not learn the graph reads the 16-bit copy that was there, so that one's
        version counts, too.
        """
        optimizer: Any = self.optimizer
        fixed: list[Any] = [self.gradient_clip, optimizer.weight_decay, self.model.training]
        for _, parameter in self.model.named_parameters():
            buffer: Any = parameter.buffer
            fixed.append((self.kind._address(buffer._held), parameter.requires_grad or buffer.version[0]))
        moments: list[Any] = [
            moment.buffer for remembered in optimizer.state.values() for moment in remembered.values()
        ]
        return fixed + [self.kind._address(buffer._held) for buffer in moments]

    def _forget_what_never_ran(self) -> None:
        """Makes old what a recording that failed left in caches: copies in 16 bits and angles, which were
        recorded and never computed.
        """
        for _, parameter in self.model.named_parameters():
            parameter.buffer.version[0] += 1
        forget_tables()

    # ---------------------------------------------------------------- memory

    def _advice(self, batches: Sequence[Any], problem: MemoryError) -> str:
        free, total = self.kind.memory()
        (rows, length), count = batches[0].shape, len(batches)
        return (
            f"the GPU is out of memory: {problem}; {_gigabytes(free)} of its {_gigabytes(total)} are free. "
            f"A --batch-size of {rows // 2 or 1} with an --accumulation of {2 * count} trains alike in about half the memory "
            f"(now {rows} and {count}), and a --context-length below {length} takes less, too"
        )


def _gigabytes(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


CudaBuffer.training_step = CudaTrainingStep
