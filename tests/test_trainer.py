"""What a trainer does in which order, what it hands to whom, and what it begins with: in a few small steps,
and without processes.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import itertools
import json
import math
import os
import time
import tracemalloc
import warnings
from array import array
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_runs import COLOURS, SMALLEST

from tinygpt_core import Tensor, backends, random
from tinygpt_core.dataset.batches import IGNORED_TARGET, Batch
from tinygpt_core.formats import load_pretrained
from tinygpt_core.formats.adapters import plan_adapters
from tinygpt_core.kernels.precision import LossScaler
from tinygpt_core.losses import CrossEntropyLoss
from tinygpt_core.nn import GPT
from tinygpt_core.nn.experts import Routing
from tinygpt_core.nn.lora import lora_config
from tinygpt_core.optimizers import AdamW, Muon
from tinygpt_core.tensor import no_grad
from tinygpt_core.tokenizer.chat import Message
from tinygpt_core.training import Trainer, TrainingConfig, loop
from tinygpt_core.training.checkpoint import CheckpointError, load_checkpoint
from tinygpt_core.training.communicator import Communicator
from tinygpt_core.training.events import CheckpointEvent, StepEvent, ValidationEvent
from tinygpt_core.training.loop import _initial_model, _Log, learning_rate_schedule, optimizer_of
from tinygpt_core.training.origin import Origin, OriginError
from tinygpt_core.training.runs import DirectoryExistsError, answer_pieces, sample_pieces
from tinygpt_core.training.settings import SettingError

CONFIG = replace(SMALLEST, steps=4, batch_size=2, eval_batches=1)


@pytest.fixture
def run(tmp_path: Path) -> str:
    return str(tmp_path / "run")


# ---- the order of a run


def order(trainer: Trainer, losses: Iterator[float] | None = None) -> list[str]:
    """What a run does and says, in short: "s2" is step 2, "v2" the validation after it, "k" a checkpoint that
    is kept, "b" a copy of the best, "e2" the event of a checkpoint.
    """
    done: list[str] = []
    save, validate = trainer.save, trainer.validate

    def noted_save(directory: str | None = None) -> None:
        done.append("k" if directory is None else "b")
        save(directory)

    def noted_validate() -> float:
        done.append(f"v{trainer.step}")
        return validate() if losses is None else next(losses)

    trainer.save = noted_save  # type: ignore[method-assign]
    trainer.validate = noted_validate  # type: ignore[method-assign]
    for event in trainer.run():
        match event:
            case StepEvent():
                done.append(f"s{event.step}")
            case CheckpointEvent():
                assert event.directory == trainer.directory
                done.append(f"e{event.step}")
            case ValidationEvent():
                is_last = trainer.is_finished
                assert event == trainer.validated and (event.ladder is not None) == is_last
                assert (event.best_step is not None) == (event.waited is not None)
                assert (event.waited is not None) == trainer.looks_for_the_best
    return done


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "s1 s2 s3 s4 k e4"),
        ({"checkpoint_every": 2}, "s1 s2 k e2 s3 s4 k e4"),
        ({"checkpoint_every": 3}, "s1 s2 s3 k e3 s4 k e4"),
        ({"eval_every": 2}, "s1 s2 v2 s3 s4 k v4 e4"),
        ({"eval_every": 3, "checkpoint_every": 2}, "s1 s2 k e2 s3 v3 s4 k v4 e4"),
        ({"eval_every": 9}, "s1 s2 s3 s4 k v4 e4"),
    ],
    ids=lambda value: str(value),
)
def test_steps_validations_and_checkpoints(run: str, changes: dict[str, Any], expected: str) -> None:
    """The last checkpoint is written before the last validation, which may take long."""
    assert " ".join(order(Trainer.start(replace(CONFIG, **changes), run))) == expected


@pytest.mark.parametrize(
    ("changes", "losses", "expected"),
    [
        ({"keep_best": True}, [3.0, 2.0, 2.5, 1.0], "s1 v1 b k s2 v2 b k s3 v3 s4 v4 b k e4"),
        ({"keep_best": True, "checkpoint_every": 3}, [3, 4, 5, 6], "s1 v1 b k s2 v2 s3 v3 k e3 s4 v4 k e4"),
        ({"patience": 1}, [3.0, 2.0, 2.5, 1.0], "s1 v1 s2 v2 s3 v3 k e3"),
        ({"patience": 2}, [3.0, 3.0, 2.5, 3.0], "s1 v1 s2 v2 s3 v3 s4 v4 k e4"),
        ({"patience": 2}, [1.0, 3.0, 2.5, 3.0], "s1 v1 s2 v2 s3 v3 k e3"),
        ({"patience": 1, "keep_best": True}, [1.0, 1.0], "s1 v1 b k s2 v2 k e2"),
    ],
    ids=lambda value: str(value),
)
def test_the_best_is_kept_and_patience_ends(
    run: str, changes: dict[str, Any], losses: list[float], expected: str
) -> None:
    """A run that looks for its best is kept after the last validation, of which the checkpoint then knows."""
    trainer = Trainer.start(replace(CONFIG, eval_every=1, **changes), run)
    found = order(trainer, iter(losses))
    assert " ".join(found) == expected
    state = load_checkpoint(run).state["best"]
    made = sum(entry.startswith("v") for entry in found)
    best = min(range(made), key=lambda i: losses[i])
    assert state == {"step": best + 1, "val_loss": losses[best], "waited": made - 1 - best}
    again = Trainer.resume(run)
    assert again.is_finished and again.best.get_state() == state
    assert again.has_lost_patience == (0 < trainer.config.patience <= state["waited"])


def test_a_run_killed_before_its_last_validation_makes_that_up(run: str) -> None:
    """It is validated after its last checkpoint, so it has nothing left to do but that."""
    trainer = Trainer.start(replace(CONFIG, eval_every=2), run)
    events = [event for event in trainer.run() if isinstance(event, ValidationEvent)]
    assert [event.step for event in events] == [2, 4] and events[-1].ladder
    path = Path(run, "log.jsonl")
    whole = path.read_text()
    path.write_text("".join(whole.splitlines(keepends=True)[:-1]))
    again = Trainer.resume(run)
    assert list(again.run()) == events[-1:] and again.validated == events[-1]
    assert path.read_text() == whole
    assert list(again.run()) == list(Trainer.resume(run).run()) == [] and path.read_text() == whole
    never = Trainer.start(replace(CONFIG, eval_every=0), f"{run}-never")
    assert not any(isinstance(event, ValidationEvent) for event in [*never.run(), *never.run()])


def test_a_stop_keeps_the_step_once(run: str) -> None:
    trainer = Trainer.start(replace(CONFIG, checkpoint_every=2), run)
    trainer.stop_requested = True
    assert order(trainer) == []
    trainer.stop_requested = False
    events = trainer.run()
    for event in events:
        trainer.stop_requested = event.step == 3
    assert event == CheckpointEvent(3, run) and not trainer.is_finished
    assert load_checkpoint(run).state["step"] == trainer.saved_step == 3
    trainer.stop_requested = False
    assert order(trainer) == ["s4", "k", "e4"]
    assert order(trainer) == []


def test_another_rate_is_kept_once(run: str) -> None:
    """At the beginning of the run, whichever of the two rates it is; and what is as before is not."""
    trainer = Trainer.start(replace(CONFIG, minimum_learning_rate=0.0), run)
    for event in trainer.run():
        trainer.stop_requested = event.step == 1
    assert not Trainer.resume(run, checkpoint_every=9).has_another_rate
    trainer = Trainer.resume(run, learning_rate=0.5)
    assert trainer.has_another_rate
    trainer.stop_requested = True
    assert order(trainer) == ["k"] and not trainer.has_another_rate
    kept = load_checkpoint(run)
    assert kept.config["training"]["learning_rate"] == 0.5 and kept.state["step"] == 1
    trainer.stop_requested = False
    assert order(trainer) == ["s2", "s3", "s4", "k", "e4"]


def test_counting_is_done_once(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer.start(CONFIG, run)
    found = trainer.ladder()
    assert found and all(math.isfinite(value) for value in found.values())
    monkeypatch.setattr("tinygpt_core.training.ladder.ladder", lambda data: pytest.fail("counted again"))
    assert trainer.ladder() is found


def test_a_trainer_that_was_just_made_has_nothing_behind_it(run: str) -> None:
    """Also one that writes nothing, as the search for a learning rate has."""
    config = replace(CONFIG, dtype="float32")
    data = Trainer.start(config, run).data
    trainer = Trainer(config, "", data)
    assert (trainer.step, trainer.skipped_steps, trainer.skipped_in_a_row, trainer.saved_step) == (0,) * 4
    assert not trainer.has_another_rate and not trainer.stop_requested and not trainer.update.is_skipped
    assert trainer.best.step is None and trainer.validated is None and trainer.update.gradient_norm is None
    assert trainer.clock.elapsed == 0.0 and not trainer.is_finished


# ---- one step


def test_what_is_said_of_a_step(run: str) -> None:
    """Its time lies within the time that it took; its norm is that of the gradient before it was clipped."""
    config = replace(CONFIG, gradient_clip=1e-3, accumulation=2)
    trainer = Trainer.start(config, run)
    taken: list[Any] = []
    trainer.update.total_loss = lambda batch: (taken.append(batch), trainer.total_loss(batch))[1]
    begun = time.perf_counter()
    event = trainer.train_step()
    assert 0.0 < event.seconds <= time.perf_counter() - begun
    assert len(taken) == 2 and event.tokens == sum(batch.num_targets for batch in taken)
    again = Trainer.start(replace(config, gradient_clip=1e9), run + "2")
    other = again.train_step()
    squares = [
        float(tensor.compact_grad.sum_of_squares())
        for _, tensor in again.model.named_parameters()
        if tensor.compact_grad is not None
    ]
    assert event.gradient_norm == pytest.approx(math.sqrt(sum(squares)), rel=1e-5)
    assert event.loss == other.loss and event.gradient_norm > 1e-3
    assert event.learning_rate == trainer.optimizer.learning_rate == trainer.schedule(0)


@pytest.mark.parametrize(("has_a_scale", "most"), [(False, 10), (True, 50)])
def test_how_many_steps_in_a_row_may_change_nothing(run: str, has_a_scale: bool, most: int) -> None:
    """More of them where a loss scale may have to be halved first."""
    trainer = Trainer.start(CONFIG, run)
    trainer.update.scaler = LossScaler() if has_a_scale else None
    trainer.update.is_skipped = True
    for number in range(1, most):
        trainer._count_skipped()
        assert trainer.skipped_in_a_row == trainer.skipped_steps == number
    with pytest.raises(ArithmeticError, match=f"not finite for {most} steps in a row"):
        trainer._count_skipped()
    trainer.update.is_skipped = False
    trainer._count_skipped()
    assert (trainer.skipped_in_a_row, trainer.skipped_steps) == (0, most)


def test_the_loss_in_training_and_that_of_a_validation(run: str) -> None:
    """Label smoothing and z-loss are of the former only."""
    trainer = Trainer.start(replace(CONFIG, label_smoothing=0.2, z_loss=0.1), run)
    batch = trainer.data.validation_batches[0]
    inputs, targets = loop.as_tensors(batch)
    with no_grad():
        logits = trainer.model(inputs)
        for criterion, found in (
            (CrossEntropyLoss(label_smoothing=0.2, z_loss=0.1), trainer.total_loss(batch).item()),
            (CrossEntropyLoss(), trainer.validate() * batch.num_targets),
        ):
            assert found == pytest.approx(criterion(logits=logits, labels=targets).sum().item(), rel=1e-6)


@pytest.mark.parametrize("prompt", ["", "get_"])
def test_a_sample_has_random_numbers_of_its_own(run: str, prompt: str) -> None:
    """Those after a step are of stream 2^33 + step of the run's seed, which nothing else draws from."""
    trainer = Trainer.start(replace(CONFIG, sample_every=3, prompt=prompt), run)
    told = {event.step: event.sample for event in trainer.run() if isinstance(event, StepEvent)}
    assert [step for step, sample in told.items() if sample is not None] == [3]
    data = trainer.data
    for step in (0, 2, 4):
        trainer.step = step
        generator = random.Generator(trainer.config.seed, 2**33 + step)
        pieces = sample_pieces(
            trainer.model, data.tokenizer, prompt or data.opening, data.is_documents, generator
        )
        assert trainer.sample() == prompt + "".join(pieces)
    assert len({told[3], trainer.sample()}) == 2


def test_dropout_is_for_training_alone(run: str) -> None:
    """A validation is the same each time, and the next step drops out again."""
    trainer = Trainer.start(replace(CONFIG, dropout=0.5), run)
    losses = {trainer.validate() for _ in range(2)}
    assert len(losses) == 1 and not trainer.model.training
    batch = trainer.data.validation_batches[0]
    with trainer.context(), no_grad():
        trainer.model.train()
        assert trainer.total_loss(batch).item() / batch.num_targets not in losses
        trainer.model.eval()
        assert trainer.total_loss(batch).item() / batch.num_targets == pytest.approx(*losses)
    trainer.train_step()
    assert trainer.model.training


@pytest.mark.parametrize("is_skipped", [False, True])
def test_an_average_takes_note_of_steps_that_change_something(run: str, is_skipped: bool) -> None:
    trainer = Trainer.start(replace(CONFIG, ema_decay=0.5), run)
    update: Any = trainer.update
    if is_skipped:
        update.total_loss = lambda batch: trainer.total_loss(batch) * math.inf
    before = {name: t.to_python() for name, t in trainer.evaluated_model.named_parameters()}
    with pytest.raises(ArithmeticError) if is_skipped else contextlib.nullcontext():
        trainer.train_step()
    after = {name: t.to_python() for name, t in trainer.evaluated_model.named_parameters()}
    assert update.is_skipped == is_skipped and (after == before) == is_skipped


def test_the_loss_of_a_step_is_the_mean_before_it(run: str) -> None:
    """Over the targets of all batches that are taken together."""
    trainer = Trainer.start(replace(CONFIG, accumulation=2), run)
    taken: list[tuple[float, int]] = []

    def noted(batch: Any) -> Tensor:
        total = trainer.total_loss(batch)
        taken.append((total.item(), batch.num_targets))
        return total

    trainer.update.total_loss = noted
    event = trainer.train_step()
    assert event.loss == pytest.approx(sum(t for t, _ in taken) / sum(n for _, n in taken))
    assert len(taken) == 2


def test_documents_that_share_a_row_are_told_to_the_model(run: str) -> None:
    trainer = Trainer.start(CONFIG, run)
    ids = Tensor([[1, 2, 3, 4], [4, 3, 2, 1]])
    documents = array("i", [0, 0, 1, 1, 0, 1, 1, 1])
    batch = SimpleNamespace(shape=(2, 4), documents=documents)
    found = loop.logits_of(trainer.model, batch, ids)
    expected = trainer.model(ids, documents=Tensor([[0, 0, 1, 1], [0, 1, 1, 1]]))
    assert found.to_python() == expected.to_python() != trainer.model(ids).to_python()
    batch.documents = None
    assert loop.logits_of(trainer.model, batch, ids).to_python() == trainer.model(ids).to_python()


@pytest.mark.parametrize("has_padding", [False, True])
def test_a_router_is_told_which_tokens_count(
    run: str, has_padding: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing where all do: the mean is then one of all of them."""
    trainer = Trainer.start(replace(CONFIG, num_experts=2, balance_loss=0.5), run)
    told: list[Any] = []
    monkeypatch.setattr(
        Routing, "balance_loss", lambda self, counted: (told.append(counted), Tensor([1.0]).sum())[1]
    )
    targets = [1, 2, IGNORED_TARGET, 3] if has_padding else [1, 2, 3, 4]
    batch = Batch(array("i", [5, 6, 7, 8]), array("i", targets), (1, 4))
    assert batch.num_targets == 4 - has_padding
    trainer.total_loss(batch)
    assert len(told) == trainer.config.num_layers
    for counted in told:
        if has_padding:
            assert counted.to_python() == [True, True, False, True]
        else:
            assert counted is None


@pytest.fixture
def chats(tmp_path: Path) -> TrainingConfig:
    """Settings of a run that learns from conversations, some of which are validated on."""
    path = tmp_path / "colours.jsonl"
    with path.open("w") as file:
        for thing, colour in itertools.product(COLOURS, COLOURS.values()):
            asked, answer = {"role": "user", "content": thing}, {"role": "assistant", "content": colour}
            file.write(json.dumps({"messages": [asked, answer]}) + "\n")
    return replace(CONFIG, corpus="text", data_file=str(path), context_length=24)


@pytest.mark.parametrize("prompt", ["", "sky"])
def test_a_sample_of_a_chat_is_a_question_and_its_answer(
    run: str, chats: TrainingConfig, prompt: str
) -> None:
    """The question is the prompt, or the first that is validated on, or what any text begins with."""
    trainer = Trainer.start(replace(chats, sample_every=3, prompt=prompt), run)
    told = {event.step: event.sample for event in trainer.run() if isinstance(event, StepEvent)}
    assert [step for step, sample in told.items() if sample is not None] == [3]
    data, asked = trainer.data, trainer.data.conversations
    assert asked is not None and data.opening
    for questions in (asked.questions(1), []):
        asked = SimpleNamespace(template=asked.template, questions={1: questions}.__getitem__)
        trainer.data = data._replace(conversations=asked)  # type: ignore[arg-type]
        question = [Message("user", prompt or data.opening)] if prompt or not questions else questions[0]
        generator = random.Generator(trainer.config.seed, 2**33 + 4)
        with trainer.context():
            pieces = answer_pieces(trainer.model, data.tokenizer, asked.template, question, generator)
            assert trainer.sample() == f"{question[-1].content}\n{''.join(pieces)}"


def test_a_prompt_that_cannot_be_answered_is_refused_where_samples_are_asked_for(
    run: str, chats: TrainingConfig
) -> None:
    too_long = replace(chats, prompt="sky" * 9)
    with pytest.raises(SettingError, match="prompt"):
        Trainer.start(replace(too_long, sample_every=1), run)
    assert not Path(run).exists()
    trainer = Trainer.start(too_long, run)
    assert order(trainer) == ["s1", "s2", "s3", "s4", "k", "e4"]
    assert trainer.ladder() == {}, "what follows what is not counted where only answers count"


# ---- what it begins with


@given(
    st.sampled_from(["cosine", "wsd"]),
    st.integers(1, 12),
    st.integers(0, 12),
    st.integers(0, 14),
    st.floats(0.1, 1.0),
    st.floats(0.0, 1.0),
)
def test_the_rate_by_the_step(
    schedule: str, steps: int, decay_steps: int, warmup_steps: int, fraction: float, share: float
) -> None:
    """It ends with the steps, or where `decay_steps` says; a warm-up is shorter than that."""
    lowest = 0.4 * share
    config = replace(
        CONFIG,
        schedule=schedule,
        steps=steps,
        decay_steps=decay_steps,
        warmup_steps=warmup_steps,
        learning_rate=0.4,
        minimum_learning_rate=lowest,
        decay_fraction=fraction,
    )
    end = decay_steps if decay_steps else steps
    rise = warmup_steps if warmup_steps < end else end - 1
    rate = learning_rate_schedule(config)
    for step in range(end + 3):
        passed = min(1.0, (step - rise) / (end - rise)) if step >= rise else 0.0
        if schedule == "cosine":
            height = math.cos(math.pi * passed / 2.0) ** 2
        else:
            height = 1.0 - math.sqrt(max(0.0, 1.0 - (1.0 - passed) / fraction))
        expected = 0.4 * (step + 1) / (rise + 1) if step < rise else lowest + (0.4 - lowest) * height
        assert rate(step) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("name", "kind"), [("adamw", AdamW), ("muon", Muon)])
def test_the_optimizer_of_a_run(run: str, name: str, kind: type) -> None:
    config = replace(CONFIG, optimizer=name, learning_rate=0.3, beta1=0.7, beta2=0.8, weight_decay=0.25)
    trainer = Trainer.start(config, run)
    optimizer = trainer.optimizer
    assert type(optimizer) is kind and type(optimizer_of(trainer.model, config)) is kind
    found = (optimizer.learning_rate, optimizer.betas, optimizer.weight_decay)  # type: ignore[attr-defined]
    assert found == (0.3, (0.7, 0.8), 0.25)


def test_the_first_weights_have_the_deviation_that_was_asked_for() -> None:
    """Those with two axes and more; scales and biases are what they are in every GPT."""
    config = replace(CONFIG, initial_std=0.3, embedding_dim=24, num_layers=1)
    with backends.use("python"):
        model = _initial_model(config, 200)
        plain = GPT(config.model_config(200))
    tensors = dict(model.named_parameters())
    table = max((tensor for tensor in tensors.values() if tensor.ndim == 2), key=lambda x: x.buffer.numel)
    assert math.sqrt(table.buffer.sum_of_squares() / table.buffer.numel) == pytest.approx(0.3, rel=0.05)
    vectors = [(name, tensor) for name, tensor in plain.named_parameters() if tensor.ndim == 1]
    assert vectors
    for name, tensor in vectors:
        assert tensors[name].to_python() == tensor.to_python()


@pytest.mark.parametrize("function", [Trainer.__init__, Trainer.start, Trainer.resume])
def test_what_a_run_is_when_nothing_is_said(function: Any) -> None:
    """One process, which keeps all of the optimizer's memory, in a directory that may be there."""
    usual = {"must_be_new": False, "shard_optimizer": False, "state": None, "origin": None}
    for name, parameter in inspect.signature(function).parameters.items():
        if name in usual:
            assert parameter.default is usual[name]


def test_what_cannot_be_is_said_before_the_corpus_is_read(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read = loop.prepare_data
    monkeypatch.setattr(loop, "prepare_data", lambda *arguments: pytest.fail("the corpus was read"))
    with pytest.raises(ValueError, match="nowhere"):
        Trainer.start(replace(CONFIG, backend="nowhere"), run)
    with pytest.raises(SettingError, match="memory"):
        Trainer.start(replace(CONFIG, batch_size=999_999_999), run)
    assert not Path(run).exists()
    asked: list[Any] = []
    monkeypatch.setattr(loop, "prepare_data", lambda *given: (asked.append("read"), read(*given))[1])
    monkeypatch.setattr(loop, "require_memory", lambda config, *size: asked.append(size))
    trainer = Trainer.start(CONFIG, run)
    size = trainer.data.tokenizer.vocab_size
    assert asked == [(), "read", (size,)]
    asked.clear()
    Trainer.resume(run)
    assert asked == [(size,), "read"]


# ---- a model to begin with


def test_a_run_begins_with_the_model_that_its_settings_name(tmp_path: Path) -> None:
    """And goes on without it: sizes that no setting has are in the checkpoint."""
    first = Trainer.start(CONFIG, str(tmp_path / "first"))
    with backends.use("python"):
        sizes = replace(first.model.config, num_key_value_heads=1, hidden_dim=5, dropout=0.0)
        model = GPT(sizes)
    origin = Origin("/there", "bpe", model, first.data.tokenizer)
    config = replace(origin.settings(CONFIG, ()), tokenizer="characters")
    for wrong, given_one in ((config, None), (CONFIG, origin)):
        with pytest.raises(OriginError, match="is started with that model"):
            Trainer.start(wrong, str(tmp_path / "wrong"), origin=given_one)
    run = str(tmp_path / "run")
    trainer = Trainer.start(config, run, origin=origin)
    for (name, tensor), (_, other) in zip(
        trainer.model.named_parameters(), model.named_parameters(), strict=True
    ):
        assert tensor.to_python() == other.to_python() and tensor is not other, name
    for event in trainer.run():
        trainer.stop_requested = event.step == 2
    again = Trainer.resume(run)
    assert again.model.config == sizes and again.step == 2
    change(run, "config.json", lambda value: value["model"].update(num_heads="two"))
    with pytest.raises(CheckpointError, match="model's config in the checkpoint does not work"):
        Trainer.resume(run)


def test_a_run_with_adapters_goes_on_with_them(tmp_path: Path) -> None:
    """They are in the settings of its model, and in its weights; of the optimizer there are no others."""
    first = Trainer.start(CONFIG, str(tmp_path / "first"))
    place = str(tmp_path / "first")
    adapters = plan_adapters(first.model, "native", 2, base=place)
    with backends.use("python"):
        origin = Origin(place, place, load_pretrained(place), first.data.tokenizer, adapters)
    run = str(tmp_path / "run")
    config = origin.settings(replace(CONFIG, init_from=place, lora_rank=2), ())
    trainer = Trainer.start(config, run, origin=origin)
    for event in trainer.run():
        trainer.stop_requested = event.step == 2
    again = Trainer.resume(run)
    kept = lora_config(again.model)
    assert kept is not None and kept == lora_config(trainer.model)
    found, expected = (dict(each.model.named_parameters()) for each in (again, trainer))
    assert {name: t.to_python() for name, t in found.items()} == {
        n: t.to_python() for n, t in expected.items()
    }
    assert again.optimizer.state_dict().keys() == trainer.optimizer.state_dict().keys()
    assert len(found) > len(dict(first.model.named_parameters()))


def test_a_run_that_died_before_its_first_checkpoint(tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    killed.mkdir()
    beginning = killed / "beginning.json"
    beginning.write_text(json.dumps(replace(CONFIG, init_from="/some where").to_dict()))
    with pytest.raises(OriginError, match=r"begin it again, with --init-from '/some where'"):
        Trainer.resume(str(killed))
    beginning.write_text(json.dumps(replace(CONFIG, seed=5).to_dict()))
    with pytest.warns(UserWarning, match="ended before its first checkpoint: it begins again"):
        trainer = Trainer.resume(str(killed), steps=3)
    assert trainer.step == 0 and trainer.config == replace(CONFIG, seed=5, steps=3)
    assert load_checkpoint(killed).state["step"] == 0
    if backends.why_not("numpy") is None:
        for wanted in ("numpy", "python"):
            other = tmp_path / wanted
            other.mkdir()
            (other / "beginning.json").write_text(json.dumps(CONFIG.to_dict()))
            with pytest.warns(UserWarning, match="begins again"):
                assert Trainer.resume(str(other), backend=wanted).config.backend == wanted


# ---- a checkpoint to go on with


def change(run: str | Path, name: str, how: Any) -> None:
    """Changes a file of a run, and mends the digests."""
    path = Path(run)
    whole = json.loads((path / "state.json").read_text())
    if name == "state.json":
        how(whole["state"])
        text = json.dumps(whole["state"], sort_keys=True, separators=(",", ":"))
        whole["state_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    else:
        value = json.loads((path / name).read_text())
        how(value)
        (path / name).write_text(json.dumps(value))
        data = (path / name).read_bytes()
        whole["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (path / "state.json").write_text(json.dumps(whole))


@pytest.mark.parametrize("name", ["step", "data_order", "random"])
def test_what_a_checkpoint_lacks_is_said(run: str, name: str) -> None:
    Trainer.start(CONFIG, run)
    change(run, "state.json", lambda state: state.pop(name))
    with pytest.raises(CheckpointError, match=f"lacks what a run keeps: '{name}'"):
        Trainer.resume(run)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("step", (-5, 5, 2.0, True, "2", None)),
        ("skipped_steps", (-1, 3, 1.0, True, "1", None)),
        ("skipped_in_a_row", (-1, 3, 1.0, True, "1", None)),
        ("elapsed", (-0.5, "1", True, None)),
    ],
)
def test_a_number_that_cannot_be_is_refused(run: str, name: str, values: tuple[Any, ...]) -> None:
    """Of a run of four steps that has made two."""
    trainer = Trainer.start(CONFIG, run)
    for event in trainer.run():
        trainer.stop_requested = event.step == 2
    for value in values:
        change(run, "state.json", lambda state, value=value: state.update({name: value}))
        with pytest.raises(CheckpointError, match=f"its {name} must be"):
            Trainer.resume(run)


def test_what_runs_of_earlier_versions_lack(run: str) -> None:
    """They had no clock, and did not count what they skipped: none, as far as is known."""
    trainer = Trainer.start(CONFIG, run)
    for event in trainer.run():
        trainer.stop_requested = event.step == 2
    change(
        run, "state.json", lambda state: [state.pop(name) for name in ("skipped_steps", "skipped_in_a_row")]
    )
    again = Trainer.resume(run)
    assert (again.step, again.skipped_steps, again.skipped_in_a_row) == (2, 0, 0)
    assert again.clock.elapsed == 0.0


def test_all_steps_may_have_been_skipped(run: str) -> None:
    trainer = Trainer.start(CONFIG, run)
    trainer.step = trainer.skipped_steps = trainer.skipped_in_a_row = 3
    trainer.save()
    again = Trainer.resume(run)
    assert (again.step, again.skipped_steps, again.skipped_in_a_row) == (3, 3, 3)


def test_weights_in_training_go_with_an_average(run: str, tmp_path: Path) -> None:
    """With it both are kept, and without it there are none."""
    averaged = str(tmp_path / "averaged")
    for directory, decay in ((run, 0.0), (averaged, 0.5)):
        trainer = Trainer.start(replace(CONFIG, ema_decay=decay), directory)
        for event in trainer.run():
            trainer.stop_requested = event.step == 2
        again = Trainer.resume(directory)
        for old, new in ((trainer.model, again.model), (trainer.evaluated_model, again.evaluated_model)):
            for (name, a), (_, b) in zip(old.named_parameters(), new.named_parameters(), strict=True):
                assert a.to_python() == b.to_python(), name
        assert (again.evaluated_model is again.model) == (not decay)
        change(directory, "config.json", lambda value, d=decay: value["training"].update(ema_decay=0.5 - d))
        with pytest.raises(CheckpointError, match="weights in training"):
            Trainer.resume(directory)


@pytest.mark.parametrize("has_a_scale", [False, True])
@pytest.mark.parametrize("is_exact", [False, True])
def test_the_steps_of_the_optimizer_are_those_of_the_run(run: str, has_a_scale: bool, is_exact: bool) -> None:
    """But for those that changed nothing, which earlier versions did not count in float16."""
    trainer = Trainer.start(CONFIG, run)
    trainer.step, trainer.skipped_steps = 9, 2
    trainer.update.scaler = LossScaler() if has_a_scale else None
    for made in range(12):
        trainer.optimizer.step = made
        if made == 7 or (made < 7 and has_a_scale and not is_exact):
            trainer._require_step_of_the_optimizer(is_exact)
        else:
            with pytest.raises(CheckpointError, match=f"made {made} updates"):
                trainer._require_step_of_the_optimizer(is_exact)


def test_a_loss_scale_goes_on(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a run in float16, on a backend that computes in it."""
    monkeypatch.setattr(backends.get("python"), "compute_dtypes", ("float32", "float16"), raising=False)
    monkeypatch.setattr(loop, "autocast", lambda dtype: contextlib.nullcontext())
    trainer = Trainer.start(replace(CONFIG, dtype="float16"), run)
    assert trainer.update.scaler is not None
    trainer.update.scaler.set_state({"scale": 4.0, "good_steps": 3})
    trainer.save()
    again = Trainer.resume(run)
    assert again.update.scaler is not None
    assert again.update.scaler.get_state() == {"scale": 4.0, "good_steps": 3}
    fresh = LossScaler().get_state()
    change(run, "state.json", lambda state: state.pop("loss_scale"))
    assert Trainer.resume(run).update.scaler.get_state() == fresh  # type: ignore[union-attr]


def test_fewer_steps_than_were_made_are_refused(run: str) -> None:
    trainer = Trainer.start(CONFIG, run)
    for event in trainer.run():
        trainer.stop_requested = event.step == 3
    with pytest.raises(SettingError, match=r"steps cannot be 2: the run in .* has 3 behind it"):
        Trainer.resume(run, steps=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what is finished is not stretched
        assert Trainer.resume(run, steps=3).is_finished


def test_another_end_is_told_unless_it_was_chosen(run: str, tmp_path: Path) -> None:
    """By where the decay is to end; and a run by the clock has no end in steps."""
    timed = str(tmp_path / "timed")
    for directory, seconds in ((run, 0.0), (timed, 1e6)):
        trainer = Trainer.start(replace(CONFIG, time_budget=seconds), directory)
        for event in trainer.run():
            trainer.stop_requested = event.step == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Trainer.resume(run, steps=9, decay_steps=7)
        Trainer.resume(timed, steps=9)
    with pytest.warns(UserWarning, match="9 steps in place of 4 stretch"):
        Trainer.resume(run, steps=9)


def test_sizes_are_compared_with_the_weights_before_they_are_made(run: str) -> None:
    """On resuming, too, in little memory."""
    Trainer.start(CONFIG, run)
    change(run, "config.json", lambda value: value["training"].update(num_layers=2000))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="run"):
            Trainer.resume(run)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_what_a_death_has_left_is_tidied_up(run: str) -> None:
    Trainer.start(CONFIG, run)
    before = sorted(os.listdir(run))
    for name in (".state.json.0123456789abcdef.tmp", ".log.jsonl.0123456789abcdef.tmp"):
        Path(run, name).write_text("half")
    Trainer.resume(run)
    assert sorted(os.listdir(run)) == before


# ---- several processes


class Second(Communicator):
    """One that is not the first, alone."""

    rank = 1


def test_only_the_first_process_writes(run: str, tmp_path: Path) -> None:
    """The others take note that it has."""
    trainer = Trainer.start(CONFIG, run)
    trainer.train_step()
    before = {path.name: path.read_bytes() for path in Path(run).iterdir()}
    trainer.communicator = Second()
    trainer.save(str(tmp_path / "copy"))
    assert trainer.saved_step == 0 and not (tmp_path / "copy").exists()
    trainer.save()
    assert trainer.saved_step == 1
    assert {path.name: path.read_bytes() for path in Path(run).iterdir()} == before
    trainer.communicator = Communicator()
    trainer.save(str(tmp_path / "copy"))
    assert load_checkpoint(tmp_path / "copy").state["step"] == 1
    assert load_checkpoint(run).state["step"] == 0


class Two(Communicator):
    """The first of two, of which the other does as it does."""

    size = 2

    def all_gather(self, data: bytes) -> list[bytes]:
        return [data, data]


@pytest.mark.parametrize(("shards", "kind"), [(1, Communicator), (2, Communicator), (2, Two)])
def test_batches_are_cut_for_shards_and_for_processes(
    run: str, shards: int, kind: type[Communicator]
) -> None:
    trainer = Trainer.start(replace(CONFIG, shards=shards), run)
    assert trainer.is_sharded == (shards > 1)
    trainer.communicator = kind()
    trainer.config = CONFIG
    assert trainer.is_sharded == (kind is Two)


def test_processes_agree_before_they_begin(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the number of them, the settings, the versions, the data, the step and the weights; and all keep
    the run where the first says.
    """
    told: list[Any] = []
    monkeypatch.setattr(loop, "require_agreement", lambda *given: told.append(given))
    config = replace(CONFIG, shards=2)
    alone = Trainer.start(config, run)
    assert told == [(alone.communicator, {})] and alone.directory == run
    communicator = Two()
    monkeypatch.setattr(communicator, "broadcast", lambda data: data + b" of the first", raising=False)
    trainer = Trainer(config, run, alone.data, communicator=communicator)
    assert trainer.directory == f"{run} of the first"
    found, facts = told[1]
    assert found is communicator and facts["number of processes"] == 2 and facts["step"] == 0
    assert facts["setting"] == config.to_dict() and facts["SHA-256 of the data"] == alone.data.sha256
    assert "Python" in facts["version of"] and "tinygpt" in facts["version of"]
    squares = sum(tensor.buffer.sum_of_squares() for _, tensor in trainer.model.named_parameters())
    assert facts["sum of squared weights"] == pytest.approx(squares) and squares > 0.0


def test_processes_share_the_validation(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes every second batch, if there are two, and the losses are added up as if one had all."""
    trainer = Trainer.start(CONFIG, run)
    batches = [*trainer.data.validation_batches] * 3
    trainer.data = trainer.data._replace(validation_batches=batches)
    monkeypatch.setattr(Communicator, "all_reduce", lambda *given: pytest.fail("there is nobody to ask"))
    alone = trainer.validate()
    total = alone * batches[0].num_targets
    for rank, own in ((0, [total, 0.0, total]), (1, [0.0, total, 0.0])):
        told: list[Any] = []
        monkeypatch.setattr(Two, "rank", rank)
        monkeypatch.setattr(
            Two, "all_reduce", lambda self, losses, told=told: (told.append(losses), [1.0, 2.0, 4.0])[1]
        )
        trainer.communicator = Two()
        assert trainer.validate() == 7.0 / sum(batch.num_targets for batch in batches)
        assert told == [pytest.approx(own)]


def test_all_processes_stop_where_one_is_to(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer.start(CONFIG, run)
    monkeypatch.setattr(trainer.communicator, "any", lambda flag: trainer.step >= 2, raising=False)
    assert order(trainer) == ["s1", "s2", "k", "e2"] and trainer.stop_requested


def test_a_step_in_shards_is_told_its_number_and_what_is_looked_at(run: str) -> None:
    """From which its dropout follows; and whether gradients are wanted for the log."""
    trainer = Trainer.start(replace(CONFIG, shards=2, steps=80), run)
    update: Any = trainer.update
    for step in range(1, 6):
        event = trainer.train_step()
        assert update.number == step - 1
        assert update.keeps_gradients == (event.parameters is not None) == (step in (1, 4))


def test_a_run_begins_again_with_those_who_were_to_begin_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The processes, and what each of them keeps; and so it goes on."""
    asked: list[bool] = []
    update = Trainer._update
    monkeypatch.setattr(Trainer, "_update", lambda self, parts: (asked.append(parts), update(self, parts))[1])
    mine = Communicator()
    (tmp_path / "beginning.json").write_text(json.dumps(CONFIG.to_dict()))
    with pytest.warns(UserWarning, match="begins again"):
        trainer = Trainer.resume(str(tmp_path), communicator=mine, shard_optimizer=True)
    again = Trainer.resume(str(tmp_path), communicator=mine, shard_optimizer=True)
    assert trainer.communicator is again.communicator is mine and asked == [True, True]


def test_a_directory_that_must_be_new(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DirectoryExistsError):
        Trainer.start(CONFIG, str(tmp_path / "empty"), must_be_new=True)
    assert Trainer.start(CONFIG, str(tmp_path / "new"), must_be_new=True).step == 0
    assert Trainer.start(CONFIG, str(tmp_path / "empty")).step == 0


def test_a_budget_of_time_is_for_one_process(run: str) -> None:
    data = Trainer.start(CONFIG, run).data
    with pytest.raises(SettingError, match="time_budget is for one process"):
        Trainer(replace(CONFIG, time_budget=5.0), run, data, communicator=Two())


def test_only_a_run_in_shards_asks_for_reproducible_arithmetic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered: list[bool] = []

    @contextlib.contextmanager
    def arithmetic() -> Iterator[None]:
        entered.append(True)
        yield

    for shards in (1, 2):
        config: TrainingConfig = replace(CONFIG, shards=shards)
        trainer = Trainer.start(config, str(tmp_path / str(shards)))
        with trainer.context():
            assert not entered  # this backend has none
        with monkeypatch.context() as patch:
            patch.setattr(backends.get("python"), "reproducible_arithmetic", arithmetic, raising=False)
            with trainer.context():
                assert entered == [True] * (shards - 1)


# ---- its log


def test_a_log_is_closed_with_its_run(tmp_path: Path) -> None:
    """Also the one that was taken away meanwhile."""
    path = tmp_path / "log.jsonl"
    with _Log(str(path)) as log:
        log.write("1")
        assert path.read_text() == "1\n" and not log.is_gone()
        first = log.file
        path.unlink()
        assert log.is_gone()
        with pytest.warns(UserWarning, match="was removed or replaced"):
            log.write("2")
        assert path.read_text() == "2\n" and first.closed and not log.is_gone()
    assert log.file.closed


def test_ready_tensors_of_a_batch_are_taken_as_they_are(run: str) -> None:
    batch = Trainer.start(CONFIG, run).data.validation_batches[0]
    inputs, targets = loop.as_tensors(batch)
    assert inputs.shape == targets.shape == batch.shape
    assert inputs.buffer.to_array().tolist() == list(batch.inputs[:])
    assert targets.buffer.to_array().tolist() == list(batch.targets[:])

    class OnDevice:
        tensors = (Tensor([[1]]), Tensor([[2]]))

    assert loop.as_tensors(OnDevice()) is OnDevice.tensors
