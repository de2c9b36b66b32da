"""A training run in memory, made step by step, of which the last step can be looked into: why a weight moved.

A step is the `Trainer`'s own. Hooks keep what each module read and the gradient at what it wrote. With them,
the gradient of a single weight is a sum over the tokens of the batch, one term for each place where the
weight was used.
"""

from __future__ import annotations

import heapq
import math
import time
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from ..buffer.base import Buffer
from ..dataset.corpora import Corpus
from ..dtype import DType
from ..explain.text import loss_of, token_text
from ..kernels.base import lookup
from ..kernels.optimizer_steps import PutRows
from ..nn.dropout import Dropout
from ..nn.embedding import Embedding
from ..nn.inspection import ForwardHook
from ..nn.linear import FullyConnectedLayer
from ..nn.normalization import LayerNorm, RMSNorm
from ..optimizers import rows_with_gradient
from ..tensor import Tensor, no_grad
from ..training.checkpoint import Checkpoint
from ..training.config import TrainingConfig
from ..training.counts import require_countable
from ..training.data import data_of_corpus
from ..training.loop import Trainer

CURVE = 2000  # points of the loss curve that are kept
MOST_TERMS = 40  # of a gradient that are named; the others are added up
SCALES = (-4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0)  # of the change, at which the loss is measured
MOST_PARAMETERS = 2_000_000  # of a model whose steps are recorded; of tables only a few rows are kept
CONFIDENCE = "ngram_prior.confidence."
TRUST = (
    "What went out is c, one number a position, which multiplies what counting says of all tokens: its "
    "gradient is the sum over the tokens of dL/dlogit · log p."
)
MOMENTS = ("first_moment", "second_moment")


class TrainingSession:
    """A model in training, in memory: nothing is written to a disk.

    Args:
        config: the settings.
        corpus: what it learns from.
        saved: a checkpoint to go on from; default: a new model.

    Attributes:
        trainer: makes the steps.
        losses: of the last steps, as (step, loss).
        recorded: the last step that was recorded, or None.

    Raises:
        ValueError: settings that do not fit the corpus.
    """

    def __init__(self, config: TrainingConfig, corpus: Corpus, saved: Checkpoint | None = None) -> None:
        config = replace(config, accumulation=1)
        data = data_of_corpus(config, corpus, saved.tokenizer if saved else None)
        if config.ngram_prior:
            require_countable(config, data)
        self.trainer = Trainer(config, "", data)
        if saved is not None:
            is_another = data.sha256 != saved.config["data"]["sha256"]
            if is_another:  # and has an order of its own
                order = data.training_batches.get_state()
                saved = saved._replace(state=saved.state | {"data_order": order})
            model = self.trainer.model
            counting = model.ngram_prior.counting if model.config.ngram_prior else None
            self.trainer.restore(saved)
            if counting and is_another:  # counted is what it learns from, and not what the run did
                model.ngram_prior.use(counting)
            if config.steps <= self.trainer.step:
                config = replace(config, steps=self.trainer.step + config.steps)
                self.trainer.config = config
        self.losses: deque[tuple[int, float]] = deque(maxlen=CURVE)
        self.recorded: RecordedStep | None = None

    @property
    def tokenizer(self) -> Any:
        """What made the tokens."""
        return self.trainer.data.tokenizer

    def run(self, steps: int, seconds: float) -> list[dict[str, Any]]:
        """Makes steps, at least one and at most `steps`, until `seconds` are over; returns what happened."""
        stop = time.perf_counter() + seconds
        events = []
        self.recorded = None
        for _ in range(max(1, steps)):
            events.append(self._event(self.trainer.train_step()))
            if time.perf_counter() >= stop:
                break
        return events

    def step(self) -> dict[str, Any]:
        """Makes one step and keeps all that is needed to say why a weight moved; returns what happened.

        Raises:
            ValueError: the model is too large for that.
        """
        parameters = self.trainer.model.named_parameters()
        count = sum(tensor.numel for _, tensor in parameters if not tensor.sparse_grad)
        if count > MOST_PARAMETERS:
            raise ValueError(
                f"the model has {count:,} parameters beside its tables, and steps are recorded of at most "
                f"{MOST_PARAMETERS:,}"
            )
        self.recorded = recorded = RecordedStep(self.trainer)
        with recorded.recording():
            event = self._event(self.trainer.train_step())
        recorded.finish(event)
        return event

    def _event(self, event: Any) -> dict[str, Any]:
        self.losses.append((event.step, event.loss))
        return {
            "step": event.step,
            "loss": event.loss,
            "learning_rate": event.learning_rate,
            "gradient_norm": event.gradient_norm,
            "seconds": event.seconds,
            "tokens": event.tokens,
        }

    def validate(self) -> float:
        """Returns the mean loss a token over the validation batches, in nats."""
        return self.trainer.validate()


class RecordedStep:
    """One step of training, and what went into it.

    Of a table of which few rows are looked up (`Tensor.sparse_grad`) only the rows are kept that moved.

    Attributes:
        event: what `TrainingSession.step` said of it.
        batch: the inputs and targets.
        rows: of such a table, the rows that are kept, by the parameter's name.
        before, after: copies of the parameters, or of their kept rows, by name.
        gradients: those that the optimizer used, after the clip.
        moments: for each parameter the optimizer's m and v before the step, and after it.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.model: Any = trainer.model
        self.event: dict[str, Any] = {}
        self.batch: Any = None
        self.calls: dict[str, tuple[Any, Any]] = {}
        self.parameters = dict(self.model.named_parameters())
        self.rows: dict[str, list[int]] = {}
        self.before: dict[str, Buffer] = {}
        self.after: dict[str, Buffer] = {}
        self.gradients: dict[str, Buffer] = {}
        self.moments: dict[str, list[tuple[Buffer, ...]]] = {}
        with trainer.context():
            for name, tensor in self.parameters.items():
                if not tensor.sparse_grad:
                    self._keep_before(name)

    def _kept(self, name: str, buffer: Buffer) -> Buffer:
        """Returns a copy of a parameter, or of what has its shape; of a table, of the kept rows."""
        rows = self.rows.get(name)
        return buffer.copy() if rows is None else buffer.take(_integers(rows, buffer))

    def _keep_before(self, name: str) -> None:
        self.before[name] = self._kept(name, self.parameters[name].buffer)
        self.moments[name] = [self._moments(name)]

    def _moments(self, name: str) -> tuple[Buffer, ...]:
        named = [(name, self.parameters[name])]
        found = (self.trainer.optimizer.slot_buffers(slot, named)[0] for slot in MOMENTS)
        return tuple(self._kept(name, buffer) for buffer in found)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Watches the step that is made inside a `with`; yields nothing."""

        def keep(name: str) -> Any:
            def hook(module: Any, inputs: tuple[Any, ...], output: Any) -> None:
                if isinstance(module, Embedding) and module.embeddings.sparse_grad:
                    table = f"{name}.embeddings"
                    self.rows[table] = sorted(set(inputs[0].buffer.to_array()))
                    self._keep_before(table)
                if isinstance(output, Tensor) and output.requires_grad:
                    output.retain_grad()
                    self.calls[name] = (inputs, output)

            return hook

        total_loss = self.trainer.total_loss

        def of_batch(batch: Any) -> Tensor:
            self.batch = batch
            return total_loss(batch)

        vars(self.trainer)["total_loss"] = of_batch
        try:
            with ExitStack() as hooks:
                for name, module in self.model.named_modules():
                    hooks.enter_context(ForwardHook(module, keep(name)))
                yield
        finally:
            del vars(self.trainer)["total_loss"]

    def finish(self, event: dict[str, Any]) -> None:
        """Keeps what the step has left."""
        self.event = event
        with self.trainer.context():
            for name, tensor in self.parameters.items():
                gradient = tensor.compact_grad
                if tensor.sparse_grad and gradient is not None:
                    rows, self.gradients[name] = rows_with_gradient(gradient)
                    self._keep_only(name, rows.to_python())
                elif tensor.grad is not None:
                    self.gradients[name] = tensor.grad.buffer.copy()
                self.after[name] = self._kept(name, tensor.buffer)
                self.moments[name].append(self._moments(name))

    def _keep_only(self, name: str, moved: list[int]) -> None:
        """Forgets the rows of a table that were looked up, but had no gradient and so did not move."""
        places = {row: place for place, row in enumerate(self.rows[name])}
        taken = _integers([places[row] for row in moved], self.before[name])
        self.rows[name] = moved
        self.before[name] = self.before[name].take(taken)
        self.moments[name] = [tuple(slot.take(taken) for slot in self.moments[name][0])]

    # ---- the batch

    def texts(self) -> list[list[dict[str, Any]]]:
        """Returns each row of the batch: tokens with the text of what came next, and of each the loss."""
        logits = self.calls[""][1].to_python()
        rows = []
        batch_rows, length = self.batch.shape
        tokenizer = self.trainer.data.tokenizer
        for row in range(batch_rows):
            entries = []
            for place in range(length):
                index = row * length + place
                target = self.batch.targets[index]
                entries.append(
                    {
                        "token": token_text(tokenizer, self.batch.inputs[index]),
                        "target": None if target < 0 else token_text(tokenizer, target),
                        "loss": None if target < 0 else loss_of(logits[row][place], target),
                    }
                )
            rows.append(entries)
        return rows

    # ---- which weights moved

    def movers(self, count: int = 12, name: str | None = None) -> list[dict[str, Any]]:
        """Returns the weights that this step moved most, of all parameters or of one."""
        found: list[tuple[float, str, int, float, float]] = []
        for each in self.parameters if name is None else [name]:
            pairs = enumerate(zip(_flat(self.before[each]), _flat(self.after[each]), strict=True))
            moved = ((abs(new - old), each, place, old, new) for place, (old, new) in pairs)
            found = heapq.nlargest(count, [*found, *heapq.nlargest(count, moved)])
        return [
            {"parameter": each, "index": self._index(each, place), "before": old, "after": new}
            for _, each, place, old, new in found
        ]

    def explain_weight(self, name: str, index: list[int]) -> dict[str, Any]:
        """Returns why one weight moved.

        Returns:
            `terms`: for tokens of the batch, the largest contribution first, what they add to the gradient,
            as the product of two named numbers; `note`, where the second needs a word more; `other_terms` and
            `other_sum`; `gradient`, their sum; `norm` of the whole gradient, `clip` and `factor`; `clipped`;
            the optimizer's numbers; `before`, `after`, `change`, and `computed`, the value after the step as
            the formula gives it, in doubles.

        Raises:
            ValueError: there is no such parameter, or no such weight in it.
        """
        place = self._place(name, index)
        optimizer: Any = self.trainer.optimizer

        def at(buffer: Buffer) -> float:
            value: float = buffer[place].item()
            return value

        terms = self._terms(name, index)
        terms.sort(key=lambda term: -abs(term["value"]))
        gradient = math.fsum(term["value"] for term in terms)
        norm, clip = self.event["gradient_norm"], self.trainer.config.gradient_clip
        factor = clip / norm if norm is not None and norm > clip else 1.0
        clipped = at(self.gradients[name]) if name in self.gradients else 0.0
        (m_before, v_before), (m, v) = (map(at, moments) for moments in self.moments[name])
        beta1, beta2 = optimizer.betas
        t, rate = optimizer.step, optimizer.learning_rate
        decay = optimizer.weight_decay if len(index) >= 2 else 0.0
        before, after = at(self.before[name]), at(self.after[name])
        m_hat, v_hat = m / (1.0 - beta1**t), v / (1.0 - beta2**t)
        decayed = rate * decay * before
        moved = rate * m_hat / (math.sqrt(v_hat) + optimizer.eps)
        others = [term["value"] for term in terms[MOST_TERMS:]]
        return {
            "parameter": name,
            "index": index,
            "shape": list(self.parameters[name].shape),
            "terms": terms[:MOST_TERMS],
            "other_terms": len(others),
            "other_sum": math.fsum(others),
            "count": len(terms),
            "targets": self.batch.num_targets,
            "gradient": gradient,
            "note": TRUST if name.startswith(CONFIDENCE) else None,
            "norm": norm,
            "clip": None if math.isinf(clip) else clip,
            "factor": factor,
            "clipped": clipped,
            "beta1": beta1,
            "beta2": beta2,
            "m_before": m_before,
            "v_before": v_before,
            "m": m,
            "v": v,
            "t": t,
            "m_hat": m_hat,
            "v_hat": v_hat,
            "eps": optimizer.eps,
            "learning_rate": rate,
            "weight_decay": decay,
            "decayed": decayed,
            "moved": moved,
            "before": before,
            "after": after,
            "change": after - before,
            "computed": before - decayed - moved,
        }

    def loss_along(self, name: str, index: list[int], scales: tuple[float, ...] = SCALES) -> dict[str, Any]:
        """Returns the loss of this batch where only this weight is moved, by multiples of its change.

        Scale 0 is the model before the step and scale 1 has this weight where the step put it; all others
        stay as they were. Nothing is dropped at random: with dropout, the losses are others than the step's.

        Returns:
            `points`: scale, value and loss.

        Raises:
            ValueError: there is no such weight.
        """
        place = self._place(name, index)
        old = self.before[name][place].item()
        change = self.after[name][place].item() - old
        points = []
        buffer = self.parameters[name].buffer
        with self.trainer.context(), no_grad(), self._weights_of_before():
            for scale in scales:
                value = old + scale * change
                buffer[tuple(index)] = value
                loss = self.trainer.total_loss(self.batch).item() / self.batch.num_targets
                points.append({"scale": scale, "value": value, "loss": loss})
        return {"parameter": name, "index": index, "points": points}

    @contextmanager
    def _weights_of_before(self) -> Iterator[None]:
        now = {name: self._kept(name, tensor.buffer) for name, tensor in self.parameters.items()}
        was_training = self.model.training
        self.model.train()  # as in the step, where a model that counted leaves out what it is asked for
        for _, module in self.model.named_modules():
            if isinstance(module, Dropout):
                module.eval()
        try:
            self._put(self.before)
            yield
        finally:
            self._put(now)
            self.model.train(was_training)

    def _put(self, values: dict[str, Buffer]) -> None:
        """Writes kept values into the parameters."""
        for name, value in values.items():
            buffer = self.parameters[name].buffer
            if name not in self.rows:
                buffer.assign(value)
            else:
                lookup(PutRows, type(buffer)).forward(buffer, _integers(self.rows[name], buffer), value)

    def _place(self, name: str, index: list[int]) -> tuple[int, ...]:
        """Returns where a weight stands in what is kept of its parameter."""
        if name not in self.parameters:
            raise ValueError(f"the model has no parameter {name!r}")
        shape = self.parameters[name].shape
        if len(index) != len(shape) or not all(0 <= i < n for i, n in zip(index, shape, strict=True)):
            raise ValueError(f"{name} has the shape {shape}, and no weight at {index}")
        if name not in self.rows:
            return tuple(index)
        if index[0] not in self.rows[name]:
            raise ValueError(
                f"row {index[0]} of {name} did not move: this batch has nothing that looks it up and is "
                "followed by a token; the list of those that moved most has others"
            )
        return (self.rows[name].index(index[0]), *index[1:])

    def _index(self, name: str, place: int) -> list[int]:
        """Returns the index of a weight from its place in the flat order of what is kept."""
        shape = self.parameters[name].shape
        if len(shape) == 1:
            return [place]
        row, column = divmod(place, shape[1])
        return [self.rows[name][row] if name in self.rows else row, column]

    # ---- the gradient as a sum over tokens

    def _terms(self, name: str, index: list[int]) -> list[dict[str, Any]]:
        """Returns what each use of a weight adds to its gradient."""
        path, _, kind = name.rpartition(".")
        module = dict(self.model.named_modules()).get(path)
        if isinstance(module, FullyConnectedLayer):
            inputs, output = self.calls[path]
            if kind == "bias":
                return self._of_output(output, index[-1])
            return self._products(inputs[0], index[0], output, index[1])
        if isinstance(module, (LayerNorm, RMSNorm)):
            inputs, output = self.calls[path]
            if kind == "bias":
                return self._of_output(output, index[-1])
            return self._of_scale(module, inputs[0], output, index[0])
        if isinstance(module, Embedding) and path in self.calls:
            inputs, output = self.calls[path]
            terms = self._of_lookup(inputs[0], index[0], output, index[1], _tokens_hashed(path))
            if self.model.config.tied_head:
                head = self._products(self.calls["layer_norm"][1], index[1], self.calls[""][1], index[0])
                terms = [term | {"use": "looked up"} for term in terms]
                terms += [term | {"use": "as the head's weight"} for term in head]
            return terms
        if path == "position_embedding_layer":
            at_position = self._of_output(self.calls["embedding_layer"][1], index[1])
            return [term for term in at_position if term["position"] == index[0]]
        raise ValueError(f"there is no way here to take apart the gradient of {name}")

    def _places(self, output: Tensor) -> Iterator[tuple[int, int, list[float]]]:
        """Yields row, position and gradient of each output vector that has one."""
        assert output.grad is not None
        for row, vectors in enumerate(output.grad.to_python()):
            for position, vector in enumerate(vectors):
                yield row, position, vector

    def _term(self, row: int, position: int, x: float | None, g: float, tokens: int = 1) -> dict[str, Any]:
        length = self.batch.shape[1]
        tokenizer = self.trainer.data.tokenizer
        start = row * length
        target = self.batch.targets[start + position]
        return {
            "row": row,
            "position": position,
            "token": "".join(
                token_text(tokenizer, self.batch.inputs[start + place])
                for place in range(max(0, position - tokens + 1), position + 1)
            ),
            "target": None if target < 0 else token_text(tokenizer, target),
            "input": x,
            "output_gradient": g,
            "value": g if x is None else x * g,
        }

    def _of_output(self, output: Tensor, column: int) -> list[dict[str, Any]]:
        return [self._term(row, place, None, vector[column]) for row, place, vector in self._places(output)]

    def _of_lookup(
        self, indices: Tensor, wanted: int, output: Tensor, column: int, tokens: int
    ) -> list[dict[str, Any]]:
        """Returns the terms of the places that looked up one row of a table, by so many tokens."""
        rows = indices.to_python()
        return [
            self._term(row, place, None, vector[column], tokens)
            for row, place, vector in self._places(output)
            if rows[row][place] == wanted
        ]

    def _products(self, x: Tensor, i: int, output: Tensor, j: int) -> list[dict[str, Any]]:
        values = x.to_python()
        return [
            self._term(row, place, values[row][place][i], vector[j])
            for row, place, vector in self._places(output)
        ]

    def _of_scale(self, module: Any, x: Tensor, output: Tensor, column: int) -> list[dict[str, Any]]:
        values = x.to_python()
        terms = []
        for row, place, vector in self._places(output):
            numbers = values[row][place]
            mean = 0.0 if isinstance(module, RMSNorm) else math.fsum(numbers) / len(numbers)
            square = math.fsum((number - mean) ** 2 for number in numbers) / len(numbers)
            normalized = (numbers[column] - mean) / math.sqrt(square + module.eps)
            terms.append(self._term(row, place, normalized, vector[column]))
        return terms


def _flat(buffer: Buffer) -> list[float]:
    flat: list[float] = buffer.reshape((buffer.numel,)).to_python()
    return flat


def _integers(values: Sequence[int], like: Buffer) -> Buffer:
    return type(like).from_array(array("i", values), (len(values),), DType.int32)


def _tokens_hashed(path: str) -> int:
    """Returns how many tokens name a row of the table of that name: one, or of n-grams more."""
    before, _, number = path.rpartition(".tables.")
    return int(number) + 2 if before else 1
