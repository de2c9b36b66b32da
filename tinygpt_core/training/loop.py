"""The training loop: how a model in a directory becomes a better one.

Read it from top to bottom: `step.TrainingStep` is one update of a model, and `Trainer.run` makes them, one
after the other. A run lives in one directory, see `checkpoint` and `runs`. Everything that the next step
depends on is in the checkpoint, so a run that was killed and resumed gives the same losses, bit for bit, as
one that was not. Several processes may train together, see `communicator` and `sharding`.
"""

from __future__ import annotations

import json
import math
import os
import shlex
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

from .. import backends, random, schedules
from ..counting import CountingModel
from ..dataset.batches import IGNORED_TARGET, Batch
from ..files.atomic import lock_directory
from ..files.reading import NotAFileError
from ..kernels.precision import autocast
from ..losses import CrossEntropyLoss
from ..nn.experts import Routing, recorded_routing
from ..nn.gpt import GPT, GPTConfig
from ..nn.lora import lora_config, put_adapters
from ..optimizers import AdamW, Muon
from ..tensor import Tensor, no_grad
from ..tokenizer.chat import Message
from . import statistics
from .averaging import WeightAverage, split_off_trained
from .best import Best
from .budget import Clock, recorded_times
from .checkpoint import (
    OPTIMIZER,
    Checkpoint,
    CheckpointError,
    fingerprint,
    load_checkpoint,
    save_checkpoint,
    tidy,
    truncate_log,
)
from .communicator import ONE_PROCESS, Communicator, require_agreement
from .config import TrainingConfig
from .conversations import Conversations, saved_template
from .counts import counted_sequences, with_countable_prior
from .data import Data, prepare_data
from .events import CheckpointEvent, Event, StepEvent, ValidationEvent
from .log_reading import is_number, read_lines
from .memory import require_memory
from .origin import Origin, OriginError
from .runs import (
    ADAPTERS,
    BEST,
    LOG,
    answer_pieces,
    beginning,
    empty_model,
    sample_pieces,
    saved_adapters,
    saved_settings,
    settings_of_a_beginning,
    usable_backend,
)
from .settings import SettingError
from .step import TrainingStep, as_tensors, logits_of, training_step

# Steps in a row whose gradient is not finite, after which a run has diverged. A loss scale, which begins at
# 2**16, may have to be halved many times before float16 gradients fit.
MOST_SKIPPED = 10
MOST_SKIPPED_WITH_A_SCALE = 50
SAMPLE_STREAMS = 1 << 33  # random stream of the run's seed for the sample after step 0; then the others'
RATES = ("learning_rate", "minimum_learning_rate")


class Trainer:
    """A model, its optimizer, its data, and the directory they are kept in.

    Make one with `Trainer.start` (a new run) or `Trainer.resume` (an old one), then iterate over `run()`.

    Attributes:
        config: the settings.
        directory: of the run.
        data: the batches, and the tokenizer that made them.
        model, optimizer: what is trained, and by what.
        average: of the model's weights, which is validated, sampled from and kept; None without `ema_decay`.
        generator: where the first weights and the dropout come from; nobody else draws from it.
        schedule: gives the learning rate by the number of updates made before.
        update: makes one update of the model when called with batches, see `TrainingStep`.
        communicator: the processes that train together. Only the first of them writes anything.
        step: how many updates were made, or would have been.
        skipped_steps: how many of them changed nothing, since their gradient was not finite.
        saved_step: how many were when the newest checkpoint was written.
        best: its best validation so far, where `looks_for_the_best`.
        stop_requested: may be set at any time; `run` then ends after the step that is going on.

    Raises:
        CommunicationError: processes that differ, or that are more than there are shards.
        SettingError: a budget of time for several processes.
        TokenizerError: a prompt that the tokenizer does not know.
        CheckpointError: the state is not one of a run with these settings.
    """

    def __init__(
        self,
        config: TrainingConfig,
        directory: str,
        data: Data,
        state: Checkpoint | None = None,
        communicator: Communicator = ONE_PROCESS,
        shard_optimizer: bool = False,
        origin: Origin | None = None,
    ) -> None:
        self.communicator = communicator
        self.config = config
        self.directory = directory
        self.data = data
        self.step = 0
        self.skipped_steps = 0
        self.skipped_in_a_row = 0
        self.saved_step = 0
        self.validated: ValidationEvent | None = None  # what `run` has found last
        self.rungs: dict[str, float] | None = None  # of the ladder, once it was asked for
        self.fingerprint: tuple[int, ...] | None = None  # of the checkpoint that this run wrote or read last
        self.best = Best()
        self.has_another_rate = False  # than its checkpoint
        self.stop_requested = False
        if config.time_budget and communicator.size > 1:
            raise SettingError(
                "time_budget", " is for one process: the clocks of several differ; give ", "steps", " instead"
            )
        if config.sample_every:
            # Complains of what it does not know, before the first step
            if data.conversations is None:
                data.tokenizer.encode(config.prompt)
            else:
                data.conversations.require_room(config.prompt, data.tokenizer, config.context_length)
        self.clock = Clock(config.time_budget)
        self.criterion = CrossEntropyLoss(label_smoothing=config.label_smoothing, z_loss=config.z_loss)
        self.validation_criterion = CrossEntropyLoss()
        self.generator = random.Generator(config.seed)
        with self.context():
            if origin is not None:
                self.model = origin.new_model(config)
            elif state is not None:
                self.model = GPT(_model_config(config, state))
                if (adapters := saved_adapters(state)) is not None:
                    put_adapters(self.model, adapters)
            else:
                self.model = _initial_model(config, data.tokenizer.vocab_size)
            if state is None and self.model.config.ngram_prior:
                self.model.ngram_prior.count(counted_sequences(data.training_batches))
            self.optimizer = optimizer_of(self.model, config)
            self.average = WeightAverage(self.model, config.ema_decay) if config.ema_decay else None
            self.schedule = learning_rate_schedule(config)
            self.update = self._update(shard_optimizer)
        if state is not None:
            self.restore(state)
        require_agreement(communicator, self._facts())
        if communicator.size > 1:
            self.directory = os.fsdecode(communicator.broadcast(os.fsencode(directory)))

    def _update(self, shard_optimizer: bool) -> TrainingStep:
        """Returns what makes an update: the backend's step, or one in shards."""
        arguments = (
            self.model,
            self.optimizer,
            lambda batch: self.total_loss(batch),  # looked up at each call, since one may replace it
            self.config.gradient_clip,
            self.config.dtype,
        )
        if not self.is_sharded:
            return training_step(*arguments)
        from .sharding import ShardedStep  # rarely needed

        config = self.config
        return ShardedStep(arguments, self.communicator, config.shards, config.seed, shard_optimizer)

    @property
    def is_sharded(self) -> bool:
        """Whether batches are cut into shards, which several processes may compute."""
        return self.config.shards > 1 or self.communicator.size > 1

    def _facts(self) -> dict[str, Any]:
        """Returns what all processes of a run must agree on."""
        if self.communicator.size == 1:
            return {}
        import platform
        import sys

        kind = backends.get(self.config.backend)
        arithmetic = getattr(kind, "arithmetic", dict)
        with self.context():
            squares = [tensor.buffer.sum_of_squares() for _, tensor in self.model.named_parameters()]
        return {
            "number of processes": self.communicator.size,
            "setting": self.config.to_dict(),
            "version of": {
                "Python": f"{platform.python_implementation()} {platform.python_version()}",
                "tinygpt": sys.modules["tinygpt_core"].__version__,
                **arithmetic(),
            },
            "SHA-256 of the data": self.data.sha256,
            "step": self.step,
            "sum of squared weights": math.fsum(squares),
        }

    @classmethod
    def start(
        cls,
        config: TrainingConfig,
        directory: str,
        *,
        must_be_new: bool = False,
        communicator: Communicator = ONE_PROCESS,
        shard_optimizer: bool = False,
        origin: Origin | None = None,
    ) -> Trainer:
        """Returns a new run in a directory that is new or empty, with its first checkpoint (step 0) kept.

        The directory is made and locked before anything else is done: of several processes that want one
        directory, one gets it and the others are told.

        Args:
            config: the settings.
            directory: of the run; that of the first process counts.
            must_be_new: whether a directory that is empty is refused, too.
            communicator: the processes that train together, each of which calls this.
            shard_optimizer: whether each of them keeps only a part of the optimizer's memory.
            origin: the model that `config.init_from` names, which it begins with; `config` is what the
                origin's `settings` gave. Schedule, optimizer and data begin anew.

        Raises:
            CommunicationError: the processes differ in something, or are more than there are shards.
            OriginError: `config.init_from` is set without an origin, or the corpus does not go with it.
            ValueError: the settings do not fit the corpus or the memory, or the directory already holds
                something.
            DirectoryExistsError: the directory exists, and `must_be_new` is set.
            BlockingIOError: another process is beginning a run there.
            OSError: the directory cannot be written.
        """
        backends.get(config.backend)  # before the corpus is read, which may take minutes
        if (origin is None) != (config.init_from is None):
            raise OriginError("a run that begins with a model (init_from) is started with that model")
        require_memory(config)
        is_first = communicator.is_first
        with beginning(directory, config, must_be_new=must_be_new) if is_first else nullcontext():
            data = prepare_data(config) if origin is None else origin.prepare_data(config)
            require_memory(config, data.tokenizer.vocab_size)
            config = with_countable_prior(config, data)
            trainer = cls(config, directory, data, None, communicator, shard_optimizer, origin)
            trainer.save()
        return trainer

    @classmethod
    def resume(
        cls,
        directory: str,
        *,
        communicator: Communicator = ONE_PROCESS,
        shard_optimizer: bool = False,
        **changes: Any,
    ) -> Trainer:
        """Returns the run in `directory` as its newest checkpoint left it.

        Args:
            directory: of an earlier run.
            communicator, shard_optimizer: as for `start`. A run of several processes goes on with as many or
                fewer, to the same bits.
            changes: settings that may differ without changing what was computed: steps, decay_steps,
                time_budget, eval_every, checkpoint_every, keep_best, patience, sample_every, prompt, the
                learning rate (with which its minimum changes in proportion); and the backend and the dtype,
                which change roundings. Without a backend the run keeps its own, or goes on with python (and a
                warning) where that cannot run. Another number of steps stretches the cosine of the learning
                rate, and a warning says so, unless decay_steps says where it ends. What is chosen is kept
                with the next checkpoint; another learning rate is kept at once.

        Raises:
            ValueError: the checkpoint is damaged, or the corpus is no longer the same.
            SettingError: a change that does not work.
        """
        config = settings_of_a_beginning(directory)
        if config is not None and config.init_from is not None:
            raise OriginError(
                f"the run in {directory} ended before its first checkpoint: nothing of it is lost if you "
                f"begin it again, with --init-from {shlex.quote(config.init_from)}"
            )
        if config is not None:
            warnings.warn(
                f"the run in {directory} ended before its first checkpoint: it begins again, from step 0",
                stacklevel=2,
            )
            changes["backend"] = changes.get("backend") or usable_backend(config.backend)
            config = config.going_on_with(**changes)
            return cls.start(config, directory, communicator=communicator, shard_optimizer=shard_optimizer)
        load_checkpoint(directory, optimizer=False)  # complains of a directory that is none, and has no lock
        if not communicator.is_first:
            return cls._resumed(directory, changes, communicator, shard_optimizer)
        with lock_directory(directory):
            trainer = cls._resumed(directory, changes, communicator, shard_optimizer)
            tidy(directory)
            log = os.path.join(directory, LOG)
            if trainer.config.time_budget:
                known = trainer.clock.recorded
                trainer.clock.recorded = known | recorded_times(log, trainer.step)
                if trainer.clock.recorded.keys() != known.keys():
                    trainer.save()  # before the log loses them: this process may be killed, too
            truncate_log(log, trainer.step)
            trainer.fingerprint = fingerprint(directory)
        return trainer

    @classmethod
    def _resumed(
        cls, directory: str, changes: dict[str, Any], communicator: Communicator, shard_optimizer: bool
    ) -> Trainer:
        saved = load_checkpoint(directory)
        try:
            config = saved_settings(saved, directory)
            steps_made = saved.state["step"]
            _check_step(steps_made, config, directory)
            if not changes.get("backend"):
                changes["backend"] = usable_backend(config.backend)
            before = config
            config = config.going_on_with(**changes)
            if config.steps < steps_made:
                raise SettingError(
                    "steps", f" cannot be {config.steps}: the run in {directory} has {steps_made} behind it"
                )
            empty_model(_model_config(config, saved), saved, directory)
            require_memory(config, saved.tokenizer.vocab_size)
            sha256 = saved.config["data"]["sha256"]
            data = prepare_data(config, saved.tokenizer, sha256, saved_template(saved.config))
            trainer = cls(config, directory, data, saved, communicator, shard_optimizer)
            trainer.has_another_rate = any(getattr(before, name) != getattr(config, name) for name in RATES)
            if "decay_steps" not in changes and not config.time_budget:
                _warn_of_another_schedule(before, config, steps_made)
            return trainer
        except (KeyError, TypeError) as problem:
            raise CheckpointError(
                f"the checkpoint in {directory} lacks what a run keeps: {problem}"
            ) from problem

    def run(self) -> Iterator[Event]:
        """Trains until `config.steps` updates are made or `stop_requested` is set, yielding what happens.

        Each event is in the log (and the log flushed) before it is yielded. The last event is a checkpoint.

        Raises:
            BlockingIOError: another process trains in the same directory.
            CheckpointError: another process has trained there since this run was begun or resumed.
            ArithmeticError: see `train_step`.
        """
        config = self.config
        with ExitStack() as stack:
            log = self._open_log(stack) if self.communicator.is_first else None
            if self.has_another_rate:
                self.save()  # at once, or a run that is killed would go back to the old rate
                self.has_another_rate = False
            self.clock.start()
            stack.callback(self.clock.stop)
            is_last = self.is_finished
            if is_last and self._lacks_its_last_validation():
                self.validated = ValidationEvent(self.step, self.validate(), self._rungs())
                yield self._logged(log, self.validated)
            while not is_last and not self._must_stop():
                yield self._logged(log, self.train_step())
                is_last = self.is_finished
                # Before the validation and the ladder, which may take long, unless it is to know of them
                if is_last and not self.looks_for_the_best:
                    self.save()
                if config.eval_every and (is_last or self.step % config.eval_every == 0):
                    val_loss = self.validate()
                    is_better = self.looks_for_the_best and self.best.note(self.step, val_loss)
                    is_last = is_last or self.has_lost_patience
                    self.validated = ValidationEvent(self.step, val_loss, self._rungs() if is_last else None)
                    if self.looks_for_the_best:
                        self.validated = self.validated._replace(
                            best_step=self.best.step, waited=self.best.waited
                        )
                    self._logged(log, self.validated)
                    if is_better and config.keep_best:
                        self.save(os.path.join(self.directory, BEST))
                        self.save()  # at once: a checkpoint of before would not know of it
                    yield self.validated
                if is_last or (config.checkpoint_every and self.step % config.checkpoint_every == 0):
                    if self.saved_step != self.step:
                        self.save()
                    yield CheckpointEvent(self.step, self.directory)
            if self.saved_step != self.step:
                self.save()
                yield CheckpointEvent(self.step, self.directory)

    def _lacks_its_last_validation(self) -> bool:
        """Whether a run that has made all its steps was killed after its last checkpoint, but before the
        validation behind it was in the log.
        """
        if not self.config.eval_every or not self.step or self.looks_for_the_best:
            return False
        path = os.path.join(self.directory, LOG)
        lacks = self.communicator.is_first and not any(
            line.values and line.values.get("step") == self.step and "val_loss" in line.values
            for line in read_lines(path)
        )
        return self.communicator.any(lacks)

    def _rungs(self) -> dict[str, float] | None:
        """Returns the ladder where there is one, in the process that writes the log."""
        return self.ladder() or None if self.communicator.is_first else None

    def _open_log(self, stack: ExitStack) -> _Log:
        """Returns the log of the run, whose directory is locked until the stack is left.

        Raises:
            BlockingIOError, CheckpointError: see `run`.
        """
        stack.enter_context(lock_directory(self.directory))
        log = stack.enter_context(_Log(os.path.join(self.directory, LOG)))
        if fingerprint(self.directory) != self.fingerprint:
            raise CheckpointError(
                f"another process has trained in {self.directory} meanwhile: "
                "resume the run to go on from where that one ended"
            )
        return log

    def _must_stop(self) -> bool:
        """Whether `stop_requested` is set, in any process of the run: all stop after the same step."""
        self.stop_requested = self.communicator.any(self.stop_requested)
        return self.stop_requested

    def _logged(self, log: _Log | None, event: Any) -> Any:
        """Returns an event that is now in the log, which only the first process keeps.

        Raises:
            CheckpointError: the directory of the run was removed; a checkpoint is in a new one of its name.
        """
        if log is None:
            return event
        values = {name: value for name, value in event._asdict().items() if value is not None}
        try:
            log.write(json.dumps(values))
        except FileNotFoundError:
            self.save()
            raise CheckpointError(
                f"{self.directory} was removed while the run went on, and its log with it; "
                f"step {self.step} was written to a new one: resume from it"
            ) from None
        return event

    def train_step(self) -> StepEvent:
        """Makes one update, of the mean loss over all target tokens of `accumulation` batches.

        Returns:
            What happened.

        Raises:
            ArithmeticError: the loss is not finite, or the gradient was not for many steps in a row.
        """
        started = time.perf_counter()
        config = self.config
        elapsed = self.clock.read(self.step + 1)
        if elapsed is None:
            keeps_statistics = statistics.are_due(self.step + 1, config.steps)
            learning_rate = self.schedule(self.step)
        else:
            keeps_statistics = self.clock.has_passed_a_share(statistics.TIMES)
            learning_rate = timed_learning_rate(config, self.step, elapsed)
        batches = [self._next_batch(keeps_statistics) for _ in range(config.accumulation)]
        with self.context():
            before = statistics.copies(self.model) if keeps_statistics else None
            self.model.train()
            self.optimizer.learning_rate = learning_rate
            loss = self.update(batches)
            self.step += 1
            if self.average is not None and not self.update.is_skipped:
                self.average.update(self.optimizer.step)
            parameters = statistics.statistics(self.model, before) if keeps_statistics else None
        if not math.isfinite(loss):
            raise ArithmeticError(
                f"the loss became {loss} at step {self.step}: {self._advice_to_learn_slower()}"
            )
        self._count_skipped()
        seconds = time.perf_counter() - started
        is_due = config.sample_every and self.step % config.sample_every == 0
        return StepEvent(
            step=self.step,
            loss=loss,
            learning_rate=learning_rate,
            tokens=sum(batch.num_targets for batch in batches),
            seconds=seconds,
            gradient_norm=self.update.gradient_norm,
            parameters=parameters,
            skipped=True if self.update.is_skipped else None,
            elapsed=elapsed,
            sample=self.sample() if is_due and self.communicator.is_first else None,
        )

    def sample(self) -> str:
        """Returns a text that the model writes now, beginning with the prompt of the settings. Each step has
        random numbers of its own for it, so training goes on as it would have.
        """
        data = self.data
        prompt = self.config.prompt
        generator = random.Generator(self.config.seed, SAMPLE_STREAMS + self.step)
        if data.conversations is not None:
            return self._sample_of_a_chat(prompt, data.conversations, generator)
        pieces = sample_pieces(
            self.evaluated_model, data.tokenizer, prompt or data.opening, data.is_documents, generator
        )
        with self.context():
            return prompt + "".join(pieces)

    def _sample_of_a_chat(
        self, prompt: str, conversations: Conversations, generator: random.Generator
    ) -> str:
        """Returns a question and the answer: the prompt, or a question that is validated on."""
        question = [Message("user", prompt or self.data.opening)]
        if not prompt:
            question = next(iter(conversations.questions(1)), question)
        with self.context():
            answer = "".join(
                answer_pieces(
                    self.evaluated_model, self.data.tokenizer, conversations.template, question, generator
                )
            )
        return f"{question[-1].content}\n{answer}"

    @property
    def is_finished(self) -> bool:
        """Whether all steps are made, or the time for them or the patience is over."""
        return self.step >= self.config.steps or self.clock.is_over or self.has_lost_patience

    @property
    def looks_for_the_best(self) -> bool:
        """Whether the best validation is looked for: to keep its checkpoint, or to end after it."""
        return self.config.keep_best or self.config.patience > 0

    @property
    def has_lost_patience(self) -> bool:
        """Whether as many validations in a row as `patience` says were not better than the best before."""
        return 0 < self.config.patience <= self.best.waited

    def _next_batch(self, keeps_gradients: bool) -> Any:
        """Returns the next batch, or this process's shards of it, for `update`.

        Args:
            keeps_gradients: whether the gradients of all parameters are wanted after the update.
        """
        if not self.is_sharded:
            return self.data.training_batches.next_batch()
        update: Any = self.update
        update.number = self.step
        update.keeps_gradients = keeps_gradients
        return self.data.training_batches.next_shards(self.config.shards, update.mine)

    def _count_skipped(self) -> None:
        """Counts a step that changed nothing; raises ArithmeticError after too many of them in a row."""
        if not self.update.is_skipped:
            self.skipped_in_a_row = 0
            return
        self.skipped_steps += 1
        self.skipped_in_a_row += 1
        most = MOST_SKIPPED if self.update.scaler is None else MOST_SKIPPED_WITH_A_SCALE
        if self.skipped_in_a_row >= most:
            raise ArithmeticError(
                f"the gradient was not finite for {most} steps in a row, up to step {self.step}: "
                f"{self._advice_to_learn_slower()}, or begin anew with another seed"
            )

    def _advice_to_learn_slower(self) -> str:
        """Returns what to do about a run that has diverged: the last checkpoint is from before."""
        rate = self.config.learning_rate
        return (
            f"try a learning rate below {rate:g}: `train --resume {shlex.quote(self.directory)} "
            f"--learning-rate {rate / 10:.3g}` goes on from step {self.saved_step}"
        )

    def total_loss(self, batch: Batch) -> Tensor:
        """Returns the sum of the losses in training, a scalar in nats, of all targets (B, T) but the padding:
        the cross-entropies, as label smoothing and z-loss change them, and what a mixture of experts adds.
        """
        with recorded_routing() as routings:
            total = self._total_loss(self.model, self.criterion, batch)
        return total + self._routing_loss(routings, batch) if routings else total

    def _routing_loss(self, routings: Sequence[Routing], batch: Batch) -> Tensor:
        """Returns the sum of the routers' losses, a scalar, as often as the batch has targets that count."""
        _, targets = as_tensors(batch)
        has_padding = batch.num_targets < targets.numel
        is_counted = targets.reshape((targets.numel,)) != IGNORED_TARGET if has_padding else None
        losses = [routing.balance_loss(is_counted) * self.config.balance_loss for routing in routings]
        if self.config.router_z_loss:
            losses += [routing.z_loss(is_counted) * self.config.router_z_loss for routing in routings]
        return Tensor.concatenate([loss.reshape((1,)) for loss in losses]).sum() * float(batch.num_targets)

    def _total_loss(self, model: GPT, criterion: CrossEntropyLoss, batch: Batch) -> Tensor:
        inputs, targets = as_tensors(batch)
        with autocast(self.config.dtype):
            return criterion(logits=logits_of(model, batch, inputs, targets), labels=targets).sum()

    @property
    def evaluated_model(self) -> GPT:
        """The model that is validated, sampled from and kept: that in training, or the average of it."""
        return self.model if self.average is None else self.average.model

    def validate(self) -> float:
        """Returns the mean cross-entropy a target token over the validation batches, which are the same each
        time.
        """
        model = self.evaluated_model
        model.eval()
        batches = self.data.validation_batches
        communicator = self.communicator
        losses = [0.0] * len(batches)
        with self.context(), no_grad():
            for number in range(communicator.rank, len(batches), communicator.size):
                losses[number] = self._total_loss(model, self.validation_criterion, batches[number]).item()
        if communicator.size > 1:  # each loss is a number from one process, and zeros from the others
            losses = communicator.all_reduce(losses)
        total = 0.0
        for loss in losses:  # in the order of the batches, whoever has computed them
            total += loss
        return total / sum(batch.num_targets for batch in batches)

    def ladder(self) -> dict[str, float]:
        """Returns what guessing and counting need on the validation batches, in nats a token, by their names
        (see `ladder.ladder`); nothing for conversations.
        """
        from .ladder import ladder  # here, because only the end of a run needs it

        if self.rungs is None:
            # Counting what follows what has no meaning where only answers count
            is_text = self.data.conversations is None
            self.rungs = ladder(self.data, self._counting()) if is_text else {}
        return self.rungs

    def _counting(self) -> CountingModel | None:
        """Returns the model that has counted the text, where the model in training starts from one."""
        return self.model.ngram_prior.counting if self.model.config.ngram_prior else None

    def save(self, directory: str | None = None) -> None:
        """Writes a checkpoint: the weights, the optimizer and everything random.

        With it, `resume` continues bit for bit.

        Args:
            directory: where to write a copy; default: the run's own, whose checkpoint it then is.

        Raises:
            ArithmeticError: a weight is not finite; the checkpoint of before stays.
            CheckpointError: the directory cannot be written.
        """
        self._require_finite_weights()
        data = self.data
        update: Any = self.update
        optimizer_tensors = update.optimizer_state() if self.is_sharded else self.optimizer.state_dict()
        if self.average is not None:
            optimizer_tensors |= self.average.tensors()
        if not self.communicator.is_first:
            self.saved_step = self.step if directory is None else self.saved_step
            return
        state = {
            "step": self.step,
            "skipped_steps": self.skipped_steps,
            "skipped_in_a_row": self.skipped_in_a_row,
            "data_order": data.training_batches.get_state(),
            "random": self.generator.get_state(),
        }
        if self.config.time_budget:
            self.clock.advance()
            state["elapsed"] = self.clock.elapsed
            if self.clock.recorded:
                state["times_ahead"] = self.clock.times_ahead()
        if self.looks_for_the_best:
            state["best"] = self.best.get_state()
        if self.update.scaler is not None:
            state["loss_scale"] = self.update.scaler.get_state()
        config: dict[str, Any] = {
            "training": self.config.to_dict(),
            "model": self.model.config.to_dict(),
            "data": data.facts(),
        }
        if (adapters := lora_config(self.model)) is not None:
            config[ADAPTERS] = adapters.to_dict()
        save_checkpoint(
            directory or self.directory,
            config=config,
            tokenizer=data.tokenizer,
            model_tensors=self.evaluated_model.named_weights(),
            optimizer_tensors=optimizer_tensors,
            state=state,
        )
        if directory is None:
            self.saved_step = self.step
            self.fingerprint = fingerprint(self.directory)

    def _require_finite_weights(self) -> None:
        """Raises ArithmeticError where a weight is not finite: such a model cannot be trained any further."""
        for name, tensor in self.model.named_parameters():
            if not math.isfinite(tensor.buffer.sum_of_squares()):
                raise ArithmeticError(
                    f"{name} is not finite at step {self.step}, which is not kept; "
                    f"the checkpoint of step {self.saved_step} is: {self._advice_to_learn_slower()}"
                )

    def restore(self, saved: Checkpoint) -> None:
        """Goes to where a checkpoint of this run was written.

        Raises:
            ValueError: a part of it is not what a run keeps, or does not belong to the others.
        """
        try:
            self._restore(saved)
        except (KeyError, TypeError) as problem:
            raise CheckpointError(
                f"the checkpoint in {self.directory} lacks what a run keeps: {problem}"
            ) from problem

    def _restore(self, saved: Checkpoint) -> None:
        self.step = saved.state["step"]
        self.saved_step = self.step
        for name in ("skipped_steps", "skipped_in_a_row"):
            count = saved.state.get(name, 0)  # runs of earlier versions lack them
            if type(count) is not int or not 0 <= count <= self.step:
                raise CheckpointError(
                    f"the checkpoint in {self.directory} is damaged: "
                    f"its {name} must be an integer from 0 to {self.step}, not {count!r:.80}"
                )
            setattr(self, name, count)
        with self.context():
            of_optimizer, trained = split_off_trained(saved.optimizer_tensors)
            if (self.average is None) != (not trained):
                raise CheckpointError(
                    f"the checkpoint in {self.directory} is damaged: "
                    f"its {OPTIMIZER} {'has' if trained else 'lacks'} weights in training, "
                    f"and ema_decay is {self.config.ema_decay:g}"
                )
            self.evaluated_model.load_weights(list(saved.model_tensors.items()))
            if self.average is not None:
                self.average.load_trained(trained)
            optimizer: Any = self.update if self.is_sharded else self.optimizer
            optimizer.load_state(list(of_optimizer.items()))
        if "best" in saved.state:
            try:
                self.best.set_state(saved.state["best"])
            except ValueError as problem:
                raise CheckpointError(f"the checkpoint in {self.directory} is damaged: {problem}") from None
        self.clock.elapsed = _elapsed(saved.state.get("elapsed", 0.0), self.directory)
        ahead = saved.state.get("times_ahead", [])
        if not isinstance(ahead, list):
            raise CheckpointError(
                f"the checkpoint in {self.directory} is damaged: its times_ahead must be a list of seconds"
            )
        if self.config.time_budget:
            times = (_elapsed(value, self.directory) for value in ahead)
            self.clock.recorded = dict(enumerate(times, self.step + 1))
        self._require_step_of_the_optimizer("skipped_steps" in saved.state)
        self.data.training_batches.set_state(saved.state["data_order"])
        self.generator.set_state(saved.state["random"])
        if self.update.scaler is not None and "loss_scale" in saved.state:
            self.update.scaler.set_state(saved.state["loss_scale"])

    def _require_step_of_the_optimizer(self, is_exact: bool) -> None:
        """Raises CheckpointError where the optimizer has made another number of updates than the run.

        Args:
            is_exact: whether it is known how many steps were skipped; earlier versions did not keep that of
                runs in float16.
        """
        expected = self.step - self.skipped_steps
        found = self.optimizer.step
        if found != expected and (is_exact or self.update.scaler is None or found > expected):
            raise CheckpointError(
                f"the checkpoint in {self.directory} is damaged: its optimizer has made {found} updates, "
                f"which does not go with its step, {self.step}"
            )

    @contextmanager
    def context(self) -> Iterator[None]:
        """Returns a context manager: inside it, everything uses the run's backend and its random numbers.

        No method of the trainer leaves it open for its caller, whose own stay what they were: two trainers,
        or one and a thread that samples, do not disturb each other.
        """
        with backends.use(self.config.backend), random.use_generator(self.generator), self._arithmetic():
            yield

    def _arithmetic(self) -> AbstractContextManager[Any]:
        """Returns a context manager: inside it, numbers do not depend on how many threads a process has.

        Only a run in shards needs that, where a shard may be computed by a process with more threads or
        fewer. A backend whose sums depend on the number of threads has a class method
        `reproducible_arithmetic`, which returns such a context manager.
        """
        own = getattr(backends.active(), "reproducible_arithmetic", None) if self.is_sharded else None
        return nullcontext() if own is None else own()


def learning_rate_schedule(config: TrainingConfig) -> schedules.Schedule:
    """Returns the learning rate by the number of updates made before, as the settings ask for it."""
    end = config.decay_steps or config.steps
    steps: dict[str, int] = {"total_steps": end, "warmup_steps": min(config.warmup_steps, end - 1)}
    minimum = config.minimum_learning_rate
    if config.schedule == "cosine":
        return schedules.cosine_with_warmup(config.learning_rate, minimum=minimum, **steps)
    return schedules.warmup_stable_decay(
        config.learning_rate, minimum=minimum, decay_fraction=config.decay_fraction, **steps
    )


def optimizer_of(model: GPT, config: TrainingConfig) -> AdamW | Muon:
    """Returns the optimizer that the settings ask for, for the parameters of a model."""
    kind: type[AdamW] | type[Muon] = {"adamw": AdamW, "muon": Muon}[config.optimizer]
    return kind(
        model, config.learning_rate, betas=(config.beta1, config.beta2), weight_decay=config.weight_decay
    )


def timed_learning_rate(config: TrainingConfig, step: int, elapsed: float) -> float:
    """Returns the learning rate of a run with a time budget: a warm-up by steps, a fall by time.

        rate = minimum + (learning_rate - minimum) f(r)    with r = elapsed / time_budget <= 1

    where f is half a cosine, (1 + cos(π r)) / 2, or `schedules.stable_then_fall`; and at most learning_rate
    (step + 1) / (warmup_steps + 1).

    Args:
        config: the settings.
        step: the number of updates made before.
        elapsed: the time that training has taken before, in seconds.
    """
    ratio = min(1.0, elapsed / config.time_budget)
    lowest = config.minimum_learning_rate
    if config.schedule == "cosine":
        share = schedules.half_a_cosine(ratio)
    else:
        share = schedules.stable_then_fall(ratio, config.decay_fraction)
    falling = lowest + (config.learning_rate - lowest) * share
    return min(schedules.linear_warmup(config.learning_rate, config.warmup_steps)(step), falling)


def _elapsed(value: Any, directory: str) -> float:
    """Returns the time that a checkpoint has behind it; raises CheckpointError where that is none."""
    if not is_number(value) or value < 0:
        raise CheckpointError(
            f"the checkpoint in {directory} is damaged: its elapsed must be seconds, not {value!r:.80}"
        )
    return float(value)


def _warn_of_another_schedule(before: TrainingConfig, after: TrainingConfig, step: int) -> None:
    """Says that a run goes on with another learning rate than it would have, and how to prevent that."""
    rates = {name: getattr(before, name) for name in RATES}
    old = learning_rate_schedule(before)(step)
    new = learning_rate_schedule(replace(after, **rates))(step)  # others were asked for
    if step < after.steps and old != new:
        warnings.warn(
            f"{after.steps} steps in place of {before.steps} stretch the "
            f"{'cosine' if after.schedule == 'cosine' else 'schedule'} of the learning rate: "
            f"it goes on at {new:.3g}, and not at {old:.3g}; "
            f"to keep its end where it was, resume with --decay-steps {before.steps}",
            stacklevel=5,
        )


def _initial_model(config: TrainingConfig, vocab_size: int) -> GPT:
    """Returns a model whose matrices have the standard deviation that the settings ask for."""
    model = GPT(config.model_config(vocab_size))
    with no_grad():
        for _, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                parameter.assign(parameter * (config.initial_std / 0.02))  # which GPT-2's, and ours, have
    return model


def _model_config(config: TrainingConfig, saved: Checkpoint) -> GPTConfig:
    """Returns the config of the model in a checkpoint: what the settings say, or, of a run that began with
    another model, which may be of any kind, what stands there.

    Raises:
        CheckpointError: it stands there, and does not work.
    """
    if config.init_from is None:
        return config.model_config(saved.tokenizer.vocab_size)
    try:
        return GPTConfig.from_dict(saved.config["model"])
    except (TypeError, ValueError) as problem:
        raise CheckpointError(f"the model's config in the checkpoint does not work: {problem}") from None


def _check_step(step: Any, config: TrainingConfig, directory: str) -> None:
    """Checks that the step in a checkpoint can be one of a run with these settings.

    Raises:
        CheckpointError: it cannot.
    """
    if type(step) is not int or not 0 <= step <= config.steps:
        raise CheckpointError(
            f"the checkpoint in {directory} is damaged: "
            f"its step must be an integer from 0 to {config.steps}, not {step!r:.80}"
        )


class _Log:
    """A file of lines that is appended to; it notices when somebody takes it away.

    Raises:
        NotAFileError: a pipe or a device has its name.
        OSError: it cannot be written.
    """

    def __init__(self, path: str) -> None:
        if os.path.lexists(path) and not os.path.isfile(path):
            raise NotAFileError(f"{path} is a pipe, a device or a directory, not a file")
        self.path = path
        self.file = open(path, "a", encoding="utf-8")  # noqa: SIM115

    def __enter__(self) -> _Log:
        return self

    def __exit__(self, *problem: object) -> None:
        self.file.close()

    def write(self, line: str) -> None:
        """Adds a line, which is then in the file.

        Where the file is not there any more, or another one is, a warning says so, and the line goes to the
        one that is there now.
        """
        if self.is_gone():
            self.file.close()
            self.file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115
            warnings.warn(
                f"{self.path} was removed or replaced while the run went on: what stood there is lost",
                stacklevel=3,
            )
        self.file.write(line + "\n")
        self.file.flush()

    def is_gone(self) -> bool:
        """Whether its path does not lead to it any more."""
        try:
            return not os.path.samestat(os.stat(self.path), os.fstat(self.file.fileno()))
        except FileNotFoundError:
            return True
