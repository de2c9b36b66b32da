"""The training loop: from a corpus to a model in a directory.

Read it from top to bottom: the settings, the named sets of them, and `Trainer`, whose `run` is the loop. A
run lives in one directory: `config.json`, `tokenizer`, `model.safetensors`, `optimizer.safetensors`,
`state.json` (the newest checkpoint) and `log.jsonl`. Everything that the next step depends on is in the
checkpoint, so a run that was killed and resumed gives the same losses, bit for bit, as one that was not.
"""

from __future__ import annotations

import json
import math
import os
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from .. import backends, dataset, random, schedules
from ..files.atomic import lock_directory
from ..kernels.precision import autocast
from ..losses import CrossEntropyLoss
from ..nn.gpt import GPT, GPTConfig
from ..optimizers import AdamW
from ..tensor import Tensor, no_grad, uninitialized
from . import checkpoint
from .config import TrainingConfig
from .data import BOUNDARY, Data, prepare_data
from .settings import SettingError
from .statistics import watched
from .step import as_tensors, training_step

LOG = "log.jsonl"


class StepEvent(NamedTuple):
    """One update: its mean loss a target token (nats), how many target tokens it saw and how long it took.

    Where they are known, also the gradient's norm before it was clipped and, now and then, what the update
    did to each parameter (see `parameter_statistics.statistics`).
    """

    step: int
    loss: float
    learning_rate: float
    tokens: int
    seconds: float
    gradient_norm: float | None = None
    parameters: list[dict[str, Any]] | None = None


class ValidationEvent(NamedTuple):
    """The mean loss over the fixed validation batches after `step` updates."""

    step: int
    val_loss: float


class CheckpointEvent(NamedTuple):
    """The state after `step` updates is safe on disk."""

    step: int
    directory: str


Event = StepEvent | ValidationEvent | CheckpointEvent


class Trainer:
    """A model, its optimizer, its data, and the directory they are kept in.

    Make one with `Trainer.start` (a new run) or `Trainer.resume` (an old one), then iterate over `run()`.
    """

    def __init__(
        self, config: TrainingConfig, directory: str, data: Data, state: checkpoint.Checkpoint | None = None
    ) -> None:
        self.config, self.directory, self.data = config, directory, data
        self.step = self.saved_step = 0
        self.stop_requested = False
        self.criterion = CrossEntropyLoss()
        random.seed(config.seed)
        self.model = GPT(config.model_config(data.tokenizer.vocab_size))
        with no_grad():
            for _, parameter in self.model.named_parameters():
                if parameter.ndim >= 2:
                    parameter.assign(parameter * (config.initial_std / 0.02))
        self.optimizer = AdamW(
            self.model,
            config.learning_rate,
            betas=(config.beta1, config.beta2),
            weight_decay=config.weight_decay,
        )
        warmup, minimum = min(config.warmup_steps, config.steps - 1), config.minimum_learning_rate
        self.schedule = schedules.cosine_with_warmup(
            config.learning_rate, total_steps=config.steps, warmup_steps=warmup, minimum=minimum
        )
        self.update = training_step(
            self.model,
            self.optimizer,
            lambda batch: self.total_loss(batch),
            config.gradient_clip,
            config.dtype,
        )
        if state is not None:
            self._restore(state)

    @classmethod
    def start(cls, config: TrainingConfig, directory: str) -> Trainer:
        """Return a new run in a directory that is new or empty, with its first checkpoint (step 0) kept.

        Raises:
            ValueError: the settings do not fit the corpus, or the directory already holds something.
            OSError: the directory cannot be written.
        """
        refuse_used_directory(directory)
        with backends.use(config.backend):
            trainer = cls(config, directory, prepare_data(config))
            os.makedirs(directory, exist_ok=True)
            trainer.save()
        return trainer

    @classmethod
    def resume(cls, directory: str, **changes: Any) -> Trainer:
        """Return the run in `directory` as its newest checkpoint left it.

        Args:
            directory: of an earlier run.
            changes: settings that may differ without changing what was computed: steps, eval_every,
                checkpoint_every; and the backend, which changes roundings. Without it the run keeps its own,
                or goes on with python (and a warning) where that cannot run.

        Raises:
            ValueError: the checkpoint is damaged, or the corpus is no longer the same.
            SettingError: a change that does not work.
        """
        saved = checkpoint.load_checkpoint(directory)
        try:
            config = _settings_of(saved, directory)
            config = replace(
                config, **{"backend": changes.get("backend") or _usable(config.backend), **changes}
            )
            if config.steps < saved.state["step"]:
                raise SettingError(
                    "steps",
                    f" cannot be {config.steps}: the run in {directory} has {saved.state['step']} behind it",
                )
            data = prepare_data(config, saved.tokenizer, saved.config["data"]["sha256"])
            with backends.use(config.backend):
                trainer = cls(config, directory, data, saved)
        except (KeyError, TypeError) as problem:
            raise checkpoint.CheckpointError(
                f"the checkpoint in {directory} lacks what a run keeps: {problem}"
            ) from problem
        with lock_directory(directory):
            checkpoint.truncate_log(os.path.join(directory, LOG), trainer.step)
        return trainer

    def run(self) -> Iterator[Event]:
        """Train until `config.steps` updates are done or `stop_requested` is set, yielding what happens.

        Each event is in the log (and the log flushed) before it is yielded. The last event is a checkpoint.

        Raises:
            BlockingIOError: another process trains in the same directory.
        """
        config = self.config
        with (
            lock_directory(self.directory),
            open(os.path.join(self.directory, LOG), "a", encoding="utf-8") as log,
        ):
            while self.step < config.steps and not self.stop_requested:
                event = self._on_backend(self.train_step)
                yield self._logged(log, event)
                if config.eval_every and (self.step == config.steps or self.step % config.eval_every == 0):
                    yield self._logged(log, ValidationEvent(self.step, self._on_backend(self.validate)))
                if config.checkpoint_every and self.step % config.checkpoint_every == 0:
                    self.save()
                    yield CheckpointEvent(self.step, self.directory)
            if self.saved_step != self.step:
                self.save()
                yield CheckpointEvent(self.step, self.directory)

    def train_step(self) -> StepEvent:
        """One update: the gradient of the mean loss over all target tokens of `accumulation` batches,
        clipped, then AdamW.

        Raises:
            ArithmeticError: the loss is not finite.
        """
        started = time.perf_counter()
        self.model.train()
        batches = [self.data.training_batches.next_batch() for _ in range(self.config.accumulation)]
        num_targets = sum(batch.num_targets for batch in batches)
        self.optimizer.learning_rate = self.schedule(self.step)
        loss, told = watched(self.update, batches, self.step + 1, self.config.steps)
        self.step += 1
        if not math.isfinite(loss):
            raise ArithmeticError(
                f"the loss became {loss} at step {self.step}: try a learning_rate below {self.config.learning_rate}"
            )
        return StepEvent(
            self.step, loss, self.optimizer.learning_rate, num_targets, time.perf_counter() - started, **told
        )

    def total_loss(self, batch: dataset.Batch) -> Tensor:
        """The sum of the cross-entropies, a scalar in nats, of all targets (B, T) that are not padding."""
        inputs, targets = as_tensors(batch)
        with autocast(self.config.dtype):
            return self.criterion(logits=self.model(inputs), labels=targets).sum()

    def validate(self) -> float:
        """The mean loss a target token over the validation batches, which are the same each time."""
        self.model.eval()
        total, num_targets = 0.0, 0
        with no_grad():
            for batch in self.data.validation_batches:
                total += self.total_loss(batch).item()
                num_targets += batch.num_targets
        return total / num_targets

    def save(self) -> None:
        """Write a checkpoint: weights, optimizer and everything random, so that `resume` continues bit for
        bit.
        """
        data = self.data
        checkpoint.save_checkpoint(
            self.directory,
            config={
                "training": self.config.to_dict(),
                "model": self.model.config.to_dict(),
                "data": {"is_documents": data.is_documents, "opening": data.opening, "sha256": data.sha256},
            },
            tokenizer=data.tokenizer,
            model_tensors={name: tensor.buffer for name, tensor in self.model.named_parameters()},
            optimizer_tensors=self.optimizer.state_dict(),
            state={
                "step": self.step,
                "data_order": data.training_batches.get_state(),
                "random": random.default_generator().get_state(),
                **({"loss_scale": self.update.scaler.get_state()} if self.update.scaler else {}),
            },
        )
        self.saved_step = self.step

    def _restore(self, saved: checkpoint.Checkpoint) -> None:
        self.step = self.saved_step = saved.state["step"]
        self.model.load_weights(list(saved.model_tensors.items()))
        self.optimizer.load_state(list(saved.optimizer_tensors.items()))
        self.data.training_batches.set_state(saved.state["data_order"])
        random.default_generator().set_state(saved.state["random"])
        if self.update.scaler and "loss_scale" in saved.state:
            self.update.scaler.set_state(saved.state["loss_scale"])

    def _on_backend(self, work: Any) -> Any:
        with backends.use(self.config.backend):  # not around `yield`: the caller's backend stays the caller's
            return work()

    @staticmethod
    def _logged(log: Any, event: Any) -> Any:
        log.write(
            json.dumps({name: value for name, value in event._asdict().items() if value is not None}) + "\n"
        )
        log.flush()
        return event


def _settings_of(saved: checkpoint.Checkpoint, directory: str) -> TrainingConfig:
    """Returns the settings in a checkpoint.

    Raises:
        CheckpointError: one does not work: it is the file that is wrong, and not what the caller passed.
    """
    try:
        return TrainingConfig.from_dict(saved.config["training"])
    except ValueError as problem:
        raise checkpoint.CheckpointError(
            f"the settings of the run in {directory} do not work: {problem}"
        ) from None


def refuse_used_directory(directory: str) -> None:
    """Raise ValueError if `directory` holds anything, so that no run overwrites another."""
    if os.path.lexists(directory) and not os.path.isdir(directory):
        raise ValueError(f"{directory} is not a directory")
    if os.path.isdir(directory) and os.listdir(directory):
        raise ValueError(
            f"{directory} is not empty and nothing is overwritten: choose another directory, or resume the run in it"
        )


def _usable(name: str) -> str:
    """`name` where that backend can run here, else "python", with a warning: a run can be continued on any
    backend.
    """
    if problem := backends.why_not(name):
        warnings.warn(f"{problem}; going on with the python backend", stacklevel=3)
        return "python"
    return name


def load_model(directory: str, backend: str | None = None) -> tuple[GPT, Any, dict[str, Any]]:
    """Read what a run has learned so far.

    Args:
        directory: of a run.
        backend: where the model shall live; default: the backend it was trained on, or python (and a warning)
            where that cannot run.

    Returns:
        The model, its tokenizer, and the run's config (`training`, with the backend where the model lives,
        `model` and `data`).

    Raises:
        CheckpointError: there is no checkpoint, or it is damaged.
    """
    saved = checkpoint.load_checkpoint(directory, optimizer=False)
    try:
        settings = saved.config["training"]
        data, specials = saved.config["data"], saved.tokenizer.special_tokens
        if type(data["opening"]) is not str or data["is_documents"] not in (False, BOUNDARY in specials):
            raise KeyError("what tells how its texts begin and end")
        settings["backend"] = backend or _usable(str(settings["backend"]))
        with backends.use(settings["backend"]):
            with uninitialized():  # numbers that are about to be replaced need not be drawn
                model = GPT(GPTConfig.from_dict(saved.config["model"]))
            model.apply(lambda tensor: Tensor(tensor.buffer.copy()))
            model.load_weights(list(saved.model_tensors.items()))
    except (KeyError, TypeError) as problem:
        raise checkpoint.CheckpointError(
            f"the checkpoint in {directory} lacks what a model needs: {problem}"
        ) from problem
    return model, saved.tokenizer, saved.config
