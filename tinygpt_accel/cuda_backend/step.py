"""A training step on a CUDA device that asks the device for nothing but the loss and whether the gradient was
finite, once it has done everything, and from the third time on is one CUDA graph.

Within it work may wait for the kernel that comes next (see `buffer`), and what gradient each loss gets is
known beforehand. The 16-bit copies of the weights belong to the step: AdamW writes them with the weights.

The gradient's norm, the factor that clips it and whether it is finite stay on the device, where AdamW reads
them. What differs from step to step (ids, learning rate, how far the random stream has moved on) lies in
arrays of which a recorded graph knows the addresses.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy

from tinygpt_core import random
from tinygpt_core.dtype import DType
from tinygpt_core.module import Module
from tinygpt_core.optimizers import Adam, Optimizer
from tinygpt_core.tensor import Tensor, no_grad
from tinygpt_core.training.step import TrainingStep, as_tensors

from .buffer import ARRAY_DTYPE, CudaBuffer, GraphTables
from .kernels.optimizer_steps import adamw, adamw_scalars, gradient_norm
from .sources import SIXTEEN_BIT

LOGITS_VARIABLE = "TINYGPT_CUDA_LOGIT_ROWS"
# Steps of one shape before they are recorded: the pool then holds what a step needs, and every kernel is
# compiled
WARM_UP = 2


class _BatchOnDevice(NamedTuple):
    """A batch that is on the device."""

    tensors: tuple[Tensor, Tensor]
    num_targets: int


class Parameters:
    """The parameters of a model, found by one walk over it, and whether another would find the same: a look
    at each place where that walk has been costs a sixth of it.

    Attributes:
        named: pairs of name and Tensor, as of `Module.named_parameters`.
    """

    def __init__(self, model: Module) -> None:
        self.named = model.named_parameters()
        self._places: list[tuple[Any, Any, Any]] = []  # what holds something, under which key, and that
        self._holders: list[tuple[Any, int]] = []  # how many things each holds
        self._note(vars(model))

    def _note(self, holder: Any) -> None:
        self._holders.append((holder, len(holder)))
        for key, value in holder.items() if isinstance(holder, dict) else enumerate(holder):
            self._places.append((holder, key, value))  # whatever it is: a None may become a Tensor
            if isinstance(value, Module):
                self._note(vars(value))
            elif isinstance(value, (dict, list, tuple)):
                self._note(value)

    def are_current(self) -> bool:
        """Whether everything is where it was."""
        if any(len(holder) != count for holder, count in self._holders):
            return False
        try:
            return all(holder[key] is value for holder, key, value in self._places)
        except KeyError:
            return False


class Recording(NamedTuple):
    """A recorded step and the arrays through which the host speaks to it.

    Attributes:
        graph: what is launched to run the step again.
        tables: arrays that the graph reads, kept as long as it.
        ids: the arrays of each batch's inputs and targets, one after the other.
        scalars: those of `adamw_scalars`, float64.
        random_offset: how many blocks the random stream has moved on since the recording, int64.
        loss: the loss that the graph writes.
        norm: what `gradient_norm` gives, which the graph writes.
        assumptions: what the graph took for granted, see `CudaTrainingStep._assumptions`.
        random_position: where the random stream stood at the recording.
        random_blocks: by how many blocks a step moves it on.
        written: the Buffers of the parameters that it writes, each with its 16-bit copy, which is written,
            too.
    """

    graph: Any
    tables: list[Any]
    ids: list[Any]
    scalars: Any
    random_offset: Any
    loss: Any
    norm: Any
    assumptions: list[Any]
    random_position: int
    random_blocks: int
    written: list[tuple[Any, Any]]


class CudaTrainingStep(TrainingStep):
    """TrainingStep for CUDA devices.

    Attributes:
        reason: why the last step was not replayed from a graph, or "" while steps are or may be.
        why_no_graph: why no step of these settings can be recorded, or "".
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._found = Parameters(self.model)
        kind: Any = type(self.parameters[0][1].buffer)
        self.kind = kind
        self.why_no_graph = self._why_no_graph(kind)
        self.reason = self.why_no_graph
        self.logit_rows = logit_rows(os.environ.get(LOGITS_VARIABLE, ""))
        self.shape: Any = None  # of the batches of the last step
        self.steps_of_shape = 0  # made in a row
        self.recording: Recording | None = None
        self.capture: Any = None if self.why_no_graph else kind.new_graph_capture()
        # By a parameter's name its 16-bit copy, which lies where it does as long as the step is there
        self.copies: dict[str, Any] = {}

    @property
    def parameters(self) -> list[tuple[str, Tensor]]:
        """Pairs of name and parameter."""
        return self._found.named

    def _why_no_graph(self, kind: Any) -> str:
        if self.scaler is not None:
            return "float16: whether a step counts is known only after it"
        if getattr(self.model, "ngram_prior", None) is not None:
            return "the model has an ngram_prior, which looks at the ids on the host"
        if not isinstance(getattr(getattr(self.model, "config", None), "vocab_size", None), int):
            return "the model has no config.vocab_size, by which ids are checked before a replay"
        for name, module in self.model.named_modules():
            if getattr(module, "shapes_follow_values", False):
                return f"{name} is a {type(module).__name__}, whose shapes follow what it reads"
        return str(kind.why_no_graph())

    def _why_textbook(self) -> str:
        """Returns why this step is made as on every backend, or ""."""
        optimizer = self.optimizer
        if not isinstance(optimizer, Adam) or type(optimizer).apply_single is not Optimizer.apply_single:
            return f"the step on the device is Adam's, and the optimizer is {type(optimizer).__name__}"
        for name, parameter in self.parameters:
            if parameter.dtype is not DType.float32:
                return f"the step on the device is for float32, and {name} is {parameter.dtype.name}"
            if parameter.sparse_grad:
                return f"{name} has a sparse gradient, whose number of rows differs from step to step"
        return ""

    def __call__(self, batches: Sequence[Any]) -> float:
        """Makes the update and returns the loss.

        Raises:
            MemoryError: the device is full; the message says what would need less.
            IndexError: an id that is not in the vocabulary.
        """
        if not self._found.are_current():
            self._found = Parameters(self.model)
        why_textbook = self._why_textbook()
        self.reason = why_textbook or self.why_no_graph
        if why_textbook:
            return super().__call__(batches)
        shape = [(batch.shape, batch.num_targets) for batch in batches]
        if shape != self.shape:
            self.shape = shape
            self.steps_of_shape = 0
            self.recording = None
        self.steps_of_shape += 1
        try:
            self._refresh_copies()
            if any(getattr(batch, "documents", None) is not None for batch in batches):
                # A graph would repeat the documents that it was recorded with
                self.reason = "rows have several documents, which differ from step to step"
                self.steps_of_shape = 0
                return self._finish(self._launch(batches))
            if self.capture is None:
                return self._finish(self._launch(batches))
            with self.capture:  # also after a recording that failed: the pool holds what a step needs
                return self._with_graph(batches)
        except MemoryError as problem:
            raise MemoryError(self._advice(batches, problem)) from problem

    # ---------------------------------------------------------------- one step, launched piece by piece

    def _launch(self, batches: Sequence[Any], scalars: Any = None) -> tuple[Any, Any]:
        """Launches a whole step and returns, on the device, its loss and what `gradient_norm` gives. Waits
        for nothing.
        """
        kind = self.kind
        xp = kind.xp
        optimizer = self.optimizer
        assert isinstance(optimizer, Adam)
        num_targets = sum(batch.num_targets for batch in batches)
        scale = 1.0 if self.scaler is None else self.scaler.scale
        optimizer.zero_grad()
        parts: list[Any] = []
        kind.may_wait = True
        kind.loss_scale = scale / num_targets if num_targets else None
        kind.logit_rows = self.logit_rows
        try:
            for batch in batches:
                part = self.total_loss(batch) / num_targets
                (part if scale == 1.0 else part * scale).backward()
                parts.append(part.buffer)
            named = [(name, p) for name, p in self.parameters if p.requires_grad and p.grad is not None]
            grads: list[Any] = [p.grad.buffer for _, p in named if p.grad is not None]
            arrays = [grad.array for grad in grads]
        finally:
            kind.may_wait = False
            kind.loss_scale = None
            kind.logit_rows = 0
        loss, *more = (part.array.reshape(()) for part in parts)
        for part in more:
            loss = loss + part
        norm = gradient_norm(kind, arrays, self.gradient_clip, 1.0 / scale)
        with no_grad():
            parameters = [p.buffer for _, p in named]
            moments = [optimizer.slot_buffers(slot, named) for slot in optimizer.slots]
            decays = [optimizer.weight_decay if p.ndim >= 2 else 0.0 for _, p in named]
            if scalars is None:
                scalars = xp.asarray(self._scalars(optimizer.step + 1))
            copies = [self.copies.get(name) for name, _ in named]
            adamw(kind, [parameters, grads, *moments], decays, scalars, norm, skip=True, copies=copies)
        optimizer.step += 1
        return loss, norm

    def _refresh_copies(self) -> None:
        """Makes sure that every weight's 16-bit copy is of what the weight holds now, and lies where it did:
        somebody may have written to the weight, or had it converted.
        """
        kind = self.kind
        if self.dtype not in SIXTEEN_BIT:
            return
        for name, parameter in self.parameters:
            if not parameter.requires_grad:
                continue
            buffer: Any = parameter.buffer
            copy = self.copies.get(name)
            if copy is None or copy.shape != buffer.shape:
                if not buffer.is_contiguous():  # a copy lies as its weight does, for AdamW to write both
                    continue
                self.copies[name] = copy = kind.xp.empty(buffer.shape, ARRAY_DTYPE[self.dtype])
            if not buffer.has_conversion(copy):
                buffer.convert_into(copy)

    def _scalars(self, step: int) -> Any:
        """Returns what `adamw` reads at a step, on the host."""
        optimizer: Any = self.optimizer
        return numpy.array(adamw_scalars(optimizer.learning_rate, optimizer.betas, optimizer.eps, step))

    def _finish(self, launched: tuple[Any, Any]) -> float:
        """Waits for a step that was launched, and returns its loss; where the gradient was not finite, it
        does not count.
        """
        loss, norm = launched
        value = float(self.kind.to_host(loss))
        is_finite = bool(self.kind.to_host(norm)[2])
        if self.scaler is not None:
            self.scaler.update(is_finite)
        if not is_finite:
            self.optimizer.step -= 1
        self.is_skipped = not is_finite
        return value

    # ---------------------------------------------------------------- one step, replayed

    def _with_graph(self, batches: Sequence[Any]) -> float:
        """Makes a step: launched while the shape is new, then recorded, and from then on replayed."""
        if self.recording is not None and self.recording.assumptions != self._assumptions():
            # Somebody put other arrays in the parameters' place, or set another weight decay
            self.recording = None
            self.steps_of_shape = 1
        if self.recording is None:
            if self.steps_of_shape <= WARM_UP or self.why_no_graph:
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
        generator = random.default_generator()
        optimizer = self.optimizer
        position = generator.position
        step = optimizer.step
        with self.capture.outside():
            on_device = [self._to_device(batch) for batch in batches]
            scalars = kind.xp.zeros(5, "float64")
            kind.random_offset = kind.xp.zeros(1, "int64")
        self._forget_conversions()
        kind.graph_tables = tables = GraphTables(self.capture.outside)
        try:
            graph, (loss, norm) = self.capture.record(lambda: self._launch(on_device, scalars))
            tables.fill(kind)
            buffers: list[Any] = [tensor.buffer for batch in on_device for tensor in batch.tensors]
            self.recording = Recording(
                graph=graph,
                tables=tables.kept,
                ids=[buffer.array for buffer in buffers],
                scalars=scalars,
                random_offset=kind.random_offset,
                loss=loss,
                norm=norm,
                assumptions=self._assumptions(),
                random_position=position,
                random_blocks=generator.position - position,
                written=[
                    (parameter.buffer, self.copies.get(name))
                    for name, parameter in self.parameters
                    if parameter.requires_grad
                ],
            )
        except BaseException as problem:
            refused = kind.why_not_recorded(problem)
            if not refused:
                raise
            self.why_no_graph = self.reason = f"the step cannot be recorded: {refused}"
        finally:
            kind.random_offset = None
            kind.graph_tables = None
            generator.position = position
            optimizer.step = step
            optimizer.zero_grad()
            # Copies that were recorded and have never been computed
            self._forget_conversions()
            if self.recording is None:
                self.capture.free()

    def _forget_conversions(self) -> None:
        """Has no parameter know a copy of itself but those that the step keeps: a recording that finds one
        made would not record how it is made.
        """
        for name, parameter in self.parameters:
            buffer: Any = parameter.buffer
            buffer.forget_conversions()
            copy = self.copies.get(name)
            if copy is not None:
                buffer.keep_conversion(copy)

    def _replay(self, recording: Recording, batches: Sequence[Any]) -> float:
        """Uploads what differs from step to step, launches the graph, and returns the loss."""
        generator = random.default_generator()
        optimizer = self.optimizer
        kind = self.kind
        for i, batch in enumerate(batches):
            self._check_ids(batch)
            inputs, targets = recording.ids[2 * i : 2 * i + 2]
            kind.upload(inputs, numpy.array(batch.inputs, numpy.int32).reshape(batch.shape))
            kind.upload(targets, numpy.array(batch.targets, numpy.int32).reshape(batch.shape))
        optimizer.step += 1
        kind.upload(recording.scalars, self._scalars(optimizer.step))
        offset = generator.position - recording.random_position
        kind.upload(recording.random_offset, numpy.array([offset], numpy.int64))
        recording.graph.launch()
        generator.position += recording.random_blocks
        for buffer, copy in recording.written:
            buffer.version[0] += 1
            if copy is not None:
                buffer.keep_conversion(copy)
        return self._finish((recording.loss, recording.norm))

    def _to_device(self, batch: Any) -> _BatchOnDevice:
        """Returns a batch on the device. Ids are checked on the host, here and before every replay, so the
        step need not ask for them.
        """
        self._check_ids(batch)
        tensors = as_tensors(batch)
        return _BatchOnDevice(tensors, batch.num_targets)

    def _check_ids(self, batch: Any) -> None:
        """Raises IndexError where an id is not in the vocabulary; a target of -1 is one to be ignored."""
        vocab_size = self.model.config.vocab_size  # type: ignore[attr-defined]
        for what, host, least in (("input", batch.inputs, 0), ("target", batch.targets, -1)):
            low = int(numpy.min(host))
            high = int(numpy.max(host))
            if low < least or high >= vocab_size:
                raise IndexError(
                    f"an {what} id lies in [{low}, {high}], outside of the vocabulary of {vocab_size}"
                )

    def _assumptions(self) -> list[Any]:
        """Returns what a recorded step takes for granted: where its numbers lie, and the settings that are no
        numbers in its arrays.

        Of a parameter that does not learn the graph may read a 16-bit copy that it does not make again, so
        that one's version counts, too.
        """
        optimizer: Any = self.optimizer
        kind = self.kind
        found: list[Any] = [self.gradient_clip, optimizer.weight_decay, self.model.training]
        for _, parameter in self.parameters:
            buffer: Any = parameter.buffer
            found.append((kind.address_of(buffer.stored), parameter.requires_grad or buffer.version[0]))
            found.append(parameter.shape)
        for moments in optimizer.state.values():
            found += [kind.address_of(moment.buffer.stored) for moment in moments.values()]
        return found

    # ---------------------------------------------------------------- memory

    def _advice(self, batches: Sequence[Any], problem: MemoryError) -> str:
        """Returns what to say where the device is full: how much there is, and which options take less."""
        free, total = self.kind.memory()
        rows, length = batches[0].shape
        count = len(batches)
        return (
            f"the GPU is out of memory: {problem}; {_gigabytes(free)} of its {_gigabytes(total)} are free. "
            f"A --batch-size of {rows // 2 or 1} with an --accumulation of {2 * count} trains alike "
            f"in about half the memory (now {rows} and {count}), "
            f"and a --context-length below {length} takes less, too"
        )


def logit_rows(text: str) -> int:
    """Returns how many rows of logits a step has in memory at a time, as a text says it; 0, all, for an empty
    one.

    Raises:
        ValueError: the text is no whole number from 0 on.
    """
    if text and not (text.isascii() and text.isdigit()):
        raise ValueError(
            f"${LOGITS_VARIABLE} is a number of rows, such as 2048, or 0 for all; not {text!r:.80}"
        )
    return int(text or 0)


def _gigabytes(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


CudaBuffer.training_step = CudaTrainingStep
