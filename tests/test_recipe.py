"""The recipe of today as settings of a run: each trains, is resumed to the bit, and says what is wrong."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_runs import config_of_words

from tinygpt_core import backends, cli
from tinygpt_core.files.safetensors import load_safetensors
from tinygpt_core.losses import CrossEntropyLoss
from tinygpt_core.nn import recorded_routing
from tinygpt_core.optimizers import AdamW, Muon
from tinygpt_core.tensor import no_grad
from tinygpt_core.training import StepEvent, Trainer, TrainingConfig, ValidationEvent, load_model
from tinygpt_core.training.averaging import TRAINED
from tinygpt_core.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from tinygpt_core.training.loop import learning_rate_schedule, timed_learning_rate
from tinygpt_core.training.step import as_tensors

RECIPES: dict[str, dict[str, Any]] = {
    "muon": {"optimizer": "muon", "weight_decay": 0.1},
    "wsd": {"schedule": "wsd", "decay_fraction": 0.5},
    "ema": {"ema_decay": 0.9},
    "losses": {"label_smoothing": 0.1, "z_loss": 1e-3},
    "model": {
        "activation": "relu2",
        "query_key_norm": True,
        "attention_soft_cap": 20.0,
        "logit_soft_cap": 15.0,
        "sliding_window": 4,
        "value_embeddings": 1,
    },
    "experts": {"num_experts": 4, "experts_per_token": 3, "balance_loss": 0.1, "router_z_loss": 1e-3},
}
RECIPES["all"] = {name: value for recipe in list(RECIPES.values()) for name, value in recipe.items()}


@pytest.fixture
def config(tmp_path: Path) -> TrainingConfig:
    changes = {"steps": 8, "eval_every": 4, "checkpoint_every": 4, "dropout": 0.1}
    return config_of_words(tmp_path, backend=backends.active().backend, **changes)


def seen(trainer: Trainer) -> list[tuple[Any, ...]]:
    """What a run says of its steps and validations."""
    return [
        (event.step, event.loss, event.learning_rate)
        if isinstance(event, StepEvent)
        else (event.step, event.val_loss)
        for event in trainer.run()
        if isinstance(event, (StepEvent, ValidationEvent))
    ]


@pytest.mark.parametrize("name", RECIPES)
def test_a_run_that_was_stopped_goes_on_to_the_bit(config: TrainingConfig, tmp_path: Path, name: str) -> None:
    config = replace(config, **RECIPES[name])
    whole = seen(Trainer.start(config, str(tmp_path / "whole")))
    first = Trainer.start(config, str(tmp_path / "stopped"))
    stopped = []
    for event in first.run():
        stopped.append(event)
        first.stop_requested = first.step == 5
    assert first.step == 5
    resumed = seen(Trainer.resume(str(tmp_path / "stopped")))
    assert resumed == [each for each in whole if each[0] > 5]
    for file in ("model.safetensors", "optimizer.safetensors"):
        assert (tmp_path / "stopped" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    kept = json.loads((tmp_path / "whole" / "config.json").read_text())["training"]
    assert {setting: kept[setting] for setting in RECIPES[name]} == RECIPES[name]


def test_the_optimizer_is_the_one_that_was_asked_for(config: TrainingConfig, tmp_path: Path) -> None:
    muon = Trainer.start(replace(config, optimizer="muon", weight_decay=0.25), str(tmp_path / "muon"))
    assert isinstance(muon.optimizer, Muon) and muon.optimizer.weight_decay == 0.25
    assert muon.optimizer.betas == (config.beta1, config.beta2)
    assert isinstance(Trainer.start(config, str(tmp_path / "adamw")).optimizer, AdamW)


def test_muon_learns(config: TrainingConfig, tmp_path: Path) -> None:
    losses = [
        event.loss
        for event in Trainer.start(
            replace(config, optimizer="muon", steps=40, eval_every=0, dropout=0.0), str(tmp_path / "run")
        ).run()
        if isinstance(event, StepEvent)
    ]
    assert losses[-1] < losses[0] - 0.3


# ---- schedules


def test_the_rate_of_wsd_by_steps_and_by_the_clock(config: TrainingConfig) -> None:
    config = replace(
        config,
        schedule="wsd",
        decay_fraction=0.25,
        steps=20,
        warmup_steps=0,
        learning_rate=0.5,
        minimum_learning_rate=0.1,
    )
    by_steps = learning_rate_schedule(config)
    assert {by_steps(step) for step in range(16)} == {0.5}
    assert by_steps(16) == pytest.approx(0.1 + 0.4 * (1 - math.sqrt(0.2))) and by_steps(20) == 0.1
    timed = replace(config, time_budget=20.0)
    for seconds in range(22):
        assert timed_learning_rate(timed, 3, float(seconds)) == pytest.approx(by_steps(seconds))


def test_a_longer_run_of_wsd_is_not_another_one(
    config: TrainingConfig, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """Until the rate falls, more steps change nothing, and nothing is said; in the fall it is."""
    config = replace(config, schedule="wsd", decay_fraction=0.25, eval_every=0)
    run = str(tmp_path / "run")
    trainer = Trainer.start(config, run)
    for _ in trainer.run():
        trainer.stop_requested = trainer.step == 4
    Trainer.resume(run, steps=9)
    assert not [each for each in recwarn if "stretch" in str(each.message)]
    list(Trainer.resume(run).run())
    with pytest.warns(UserWarning, match="12 steps in place of 8 stretch the schedule"):
        Trainer.resume(run, steps=12)


# ---- the average of the weights


def test_the_average_is_what_it_says(config: TrainingConfig, tmp_path: Path) -> None:
    """By a reference in doubles from the weights of each step; it is validated, kept and loaded."""
    config = replace(config, ema_decay=0.7, eval_every=8, checkpoint_every=0)
    trainer = Trainer.start(config, str(tmp_path / "run"))
    plain = Trainer.start(replace(config, ema_decay=0.0), str(tmp_path / "plain"))

    def weights(model: Any) -> dict[str, list[float]]:
        return {name: list(tensor.buffer.to_array()) for name, tensor in model.named_parameters()}

    average = weights(trainer.model)
    for number in range(1, 9):
        assert trainer.train_step().loss == plain.train_step().loss  # training itself is the same
        decay = min(0.7, number / (9 + number))
        for name, values in weights(trainer.model).items():
            average[name] = [decay * a + (1 - decay) * p for a, p in zip(average[name], values, strict=True)]
    assert weights(trainer.model) == weights(plain.model)
    for name, values in weights(trainer.evaluated_model).items():
        assert values == pytest.approx(average[name], rel=1e-5, abs=1e-7)
    trainer.save()
    model, _, _ = load_model(str(tmp_path / "run"))
    assert weights(model) == weights(trainer.evaluated_model) != weights(trainer.model)
    assert trainer.validate() != plain.validate()
    trained = load_safetensors(str(tmp_path / "run" / "optimizer.safetensors"))
    assert {name for name in trained if name.startswith(TRAINED)} == {TRAINED + name for name in average}


def test_an_average_and_weights_that_do_not_go_together_are_refused(
    config: TrainingConfig, tmp_path: Path
) -> None:
    directory = str(tmp_path / "run")
    Trainer.start(replace(config, ema_decay=0.9), directory)
    saved = load_checkpoint(directory)

    def keep(**changes: Any) -> None:
        values = {**saved._asdict(), **changes}
        save_checkpoint(directory, **values)

    keep(
        optimizer_tensors={
            name: value for name, value in saved.optimizer_tensors.items() if TRAINED not in name
        }
    )
    with pytest.raises(CheckpointError, match=r"lacks weights in training, and ema_decay is 0\.9"):
        Trainer.resume(directory)
    training = {name: value for name, value in saved.config["training"].items() if name != "ema_decay"}
    keep(config={**saved.config, "training": training})
    with pytest.raises(CheckpointError, match="has weights in training, and ema_decay is 0"):
        Trainer.resume(directory)
    first = TRAINED + next(iter(saved.model_tensors))
    keep(optimizer_tensors={name: value for name, value in saved.optimizer_tensors.items() if name != first})
    with pytest.raises(ValueError, match=first.removeprefix(TRAINED)):
        Trainer.resume(directory)


# ---- losses


def test_validation_is_the_plain_cross_entropy(config: TrainingConfig, tmp_path: Path) -> None:
    config = replace(config, label_smoothing=0.3, z_loss=0.1)
    trainer = Trainer.start(config, str(tmp_path / "run"))
    batch = trainer.data.validation_batches[0]
    trainer.data = trainer.data._replace(validation_batches=[batch])
    inputs, targets = as_tensors(batch)
    trainer.model.eval()
    with no_grad():
        logits = trainer.model(inputs)
        plain = CrossEntropyLoss()(logits, targets).sum().item()
        changed = CrossEntropyLoss(label_smoothing=0.3, z_loss=0.1)(logits, targets).sum().item()
        assert trainer.validate() * batch.num_targets == pytest.approx(plain)
        assert trainer.total_loss(batch).item() == pytest.approx(changed)
    assert changed > plain + 1e-3


# ---- experts


def test_losses_of_routers_are_added_in_training_alone(config: TrainingConfig, tmp_path: Path) -> None:
    """By definition, over the tokens that have a target: of a batch with padding these are not all."""
    settings = {"num_experts": 4, "balance_loss": 0.3, "router_z_loss": 0.2, "num_layers": 2, "dropout": 0.0}
    trainer = Trainer.start(replace(config, eval_batches=12, **settings), str(tmp_path / "run"))
    has_padding = (each for each in trainer.data.validation_batches if -1 in each.targets)
    batch = next(has_padding)
    inputs, targets = as_tensors(batch)
    counted = [target != -1 for row in targets.to_python() for target in row]
    assert batch.num_targets == sum(counted) < len(counted)
    with no_grad(), recorded_routing() as routings:
        plain = CrossEntropyLoss()(trainer.model(inputs), targets).sum().item()
    assert len(routings) == 2
    added = 0.0
    for routing in routings:
        rows = [row for row, counts in zip(routing.logits.to_python(), counted, strict=True) if counts]
        chosen = [row for row, counts in zip(routing.experts.to_python(), counted, strict=True) if counts]
        for row in rows:
            total = sum(map(math.exp, row))
            added += 0.2 * math.log(total) ** 2
            for expert in range(4):
                share = sum(each.count(expert) for each in chosen) / (2 * len(chosen))
                added += 0.3 * 4 * share * math.exp(row[expert]) / total
    assert trainer.total_loss(batch).item() == pytest.approx(plain + added, rel=1e-5)
    trainer.data = trainer.data._replace(validation_batches=[batch])
    assert trainer.validate() * batch.num_targets == pytest.approx(plain)


# ---- the command line


def test_every_part_is_an_option(
    config: TrainingConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(tmp_path / "run")
    options = ["names", "--data", str(config.data_file), "--preset", "debug", "--steps", "2", "--quiet"]
    options += ["--backend", "python", "--out", run]
    recipe = "--optimizer muon --schedule wsd --decay-fraction 0.5 --ema-decay 0.9 --label-smoothing 0.1"
    recipe += " --z-loss 1e-4 --activation relu2 --query-key-norm --logit-soft-cap 15 --attention-soft-cap 30"
    recipe += " --sliding-window 4 --experts 3 --experts-per-token 1 --balance-loss 0.02 --router-z-loss 1e-3"
    recipe += " --value-embeddings 1"
    assert cli.main(["train", *options, *recipe.split()]) == 0
    kept = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (kept["training"]["optimizer"], kept["training"]["schedule"]) == ("muon", "wsd")
    assert (kept["model"]["query_key_norm"], kept["model"]["sliding_window"]) == (True, 4)
    assert (kept["model"]["logit_soft_cap"], kept["model"]["attention_soft_cap"]) == (15.0, 30.0)
    assert (kept["model"]["num_experts"], kept["model"]["experts_per_token"]) == (3, 1)
    assert (kept["training"]["balance_loss"], kept["training"]["router_z_loss"]) == (0.02, 1e-3)
    capsys.readouterr()
    assert cli.main(["generate", run, "--tokens", "3"]) == 0
    assert cli.main(["train", "--resume", run, "--show-config"]) == 0
    shown = capsys.readouterr().out
    for line in (
        'optimizer = "muon"',
        "ema-decay = 0.9",
        "logit-soft-cap = 15.0",
        "sliding-window = 4",
        "experts = 3",
    ):
        assert line in shown
    for wrong, said in (
        (["--optimizer", "sgd"], "--optimizer must be one of adamw, muon"),
        (["--schedule", "line"], "--schedule must be one of cosine, wsd"),
        (["--decay-fraction", "0"], "--decay-fraction must be above 0"),
        (["--ema-decay", "1"], "--ema-decay must be at least 0 and below 1"),
        (["--label-smoothing", "1"], "--label-smoothing must be"),
        (["--z-loss", "-1"], "--z-loss must be"),
        (["--logit-soft-cap", "0"], "--logit-soft-cap must be above 0"),
        (["--sliding-window", "0"], "--sliding-window must be from 1"),
        (["--experts", "0"], "--experts must be from 1"),
        (["--experts", "1"], "--experts-per-token (2) must be at most --experts (1)"),
        (["--experts", "2", "--experts-per-token", "0"], "--experts-per-token must be from 1"),
        (["--balance-loss", "-1"], "--balance-loss must be"),
        (["--experts-per-token", "3"], "--experts-per-token needs --experts, the number of experts"),
        (["--balance-loss", "0.1"], "--balance-loss needs --experts"),
        (["--router-z-loss", "0.1"], "--router-z-loss needs --experts"),
        (["--value-embeddings", "-1"], "--value-embeddings must be from 0"),
        (["--value-embeddings", "2"], "--value-embeddings (2) must be at most --layers (1)"),
    ):
        assert cli.main(["train", *options[:-1], str(tmp_path / "other"), *wrong]) == 2
        told = capsys.readouterr().err
        assert said in told and told.count("\n") == 1, told
