"""The training loop as a library: settings, learning, accumulation, and what a run keeps."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tinygpt_core import backends, random
from tinygpt_core.dataset import Batch
from tinygpt_core.generation import generate
from tinygpt_core.nn import GPT
from tinygpt_core.training import (
    BOUNDARY,
    PRESETS,
    CheckpointEvent,
    StepEvent,
    Trainer,
    TrainingConfig,
    TrainingStep,
    ValidationEvent,
    load_model,
    prepare_data,
    unigram_entropy,
)
from tinygpt_core.training.checkpoint import load_checkpoint
from tinygpt_core.training.config import SETTINGS, describe_sizes, plural
from tinygpt_core.training.settings import Range, Setting, SettingError, SettingTypeError

WORDS = "".join(
    f"{a}{b}_{c}\n" for a in ("get", "set", "is", "has") for b in ("name", "size", "path") for c in "abcdef"
)


@pytest.fixture
def config(tmp_path: Path) -> TrainingConfig:
    (tmp_path / "words.txt").write_text(WORDS)
    # $TINYGPT_BACKEND: some tests take a step themselves, outside Trainer.run
    here = backends.active().backend
    return replace(
        PRESETS["debug"][1], corpus="names", data_file=str(tmp_path / "words.txt"), seed=3, backend=here
    )


def losses(trainer: Trainer) -> list[float]:
    return [event.loss for event in trainer.run() if isinstance(event, StepEvent)]


# ---- settings


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name: str) -> None:
    config = PRESETS[name][1]
    assert config.preset == name
    assert TrainingConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


# Two presets as they have always been and that of the default run as it is now, in full, and what all others
# have always been, to the bit.
DEFAULTS = {
    "corpus": "identifiers",
    "data_file": None,
    "preset": "identifiers",
    "backend": "python",
    "seed": 1337,
    "dtype": "float32",
    "tokenizer": "characters",
    "vocab_size": 512,
    "context_length": 32,
    "num_layers": 1,
    "num_heads": 2,
    "embedding_dim": 16,
    "normalization": "layer_norm",
    "positions": "rotary",
    "activation": "gelu",
    "tied_head": False,
    "initial_std": 0.12,
    "ngram_prior": 7,
    "dropout": 0.0,
    "steps": 800,
    "batch_size": 8,
    "accumulation": 1,
    "learning_rate": 0.006,
    "minimum_learning_rate": 0.0002,
    "warmup_steps": 20,
    "weight_decay": 0.0,
    "beta1": 0.9,
    "beta2": 0.99,
    "gradient_clip": 1.0,
    "eval_every": 400,
    "eval_batches": 79,
    "checkpoint_every": 400,
}
CODE_49M = {
    "corpus": "stdlib",
    "data_file": None,
    "preset": "code-49m",
    "backend": "python",
    "seed": 1337,
    "dtype": "float32",
    "tokenizer": "bpe",
    "vocab_size": 32768,
    "context_length": 512,
    "num_layers": 10,
    "num_heads": 8,
    "embedding_dim": 512,
    "normalization": "layer_norm",
    "positions": "learned",
    "activation": "gelu",
    "tied_head": True,
    "initial_std": 0.02,
    "dropout": 0.2,
    "steps": 5000,
    "batch_size": 20,
    "accumulation": 4,
    "learning_rate": 0.001,
    "minimum_learning_rate": 0.0001,
    "warmup_steps": 100,
    "weight_decay": 0.1,
    "beta1": 0.9,
    "beta2": 0.99,
    "gradient_clip": 1.0,
    "eval_every": 250,
    "eval_batches": 8,
    "checkpoint_every": 250,
}
GPT2_124M = {
    "corpus": "stdlib",
    "data_file": None,
    "preset": "gpt2-124m",
    "backend": "python",
    "seed": 1337,
    "dtype": "float32",
    "tokenizer": "bpe",
    "vocab_size": 50257,
    "context_length": 1024,
    "num_layers": 12,
    "num_heads": 12,
    "embedding_dim": 768,
    "normalization": "layer_norm",
    "positions": "learned",
    "activation": "gelu",
    "tied_head": True,
    "initial_std": 0.02,
    "dropout": 0.0,
    "steps": 20000,
    "batch_size": 12,
    "accumulation": 40,
    "learning_rate": 0.0006,
    "minimum_learning_rate": 6e-05,
    "warmup_steps": 700,
    "weight_decay": 0.1,
    "beta1": 0.9,
    "beta2": 0.95,
    "gradient_clip": 1.0,
    "eval_every": 250,
    "eval_batches": 8,
    "checkpoint_every": 250,
}
OTHER_PRESETS = "6f2ab88851664162e542ca678de9d31920d1cc02af1e6aa336aaa58f38f2825c"  # SHA-256 of them as JSON


def test_presets_are_what_they_were() -> None:
    for expected in (DEFAULTS, CODE_49M, GPT2_124M):
        assert PRESETS[str(expected["preset"])].config.to_dict() == expected
    default_runs = ("identifiers", "identifiers-fast", "names")
    others = {name: preset.config.to_dict() for name, preset in PRESETS.items() if name not in default_runs}
    assert hashlib.sha256(json.dumps(others).encode()).hexdigest() == OTHER_PRESETS


def test_a_preset_is_a_pair() -> None:
    """Scripts take it apart by position."""
    about, config = PRESETS["debug"]
    assert (about, config) == (PRESETS["debug"].about, PRESETS["debug"].config)


@pytest.mark.parametrize(
    ("name", "millions"), [("shakespeare-10m", 11), ("code-49m", 49), ("gpt2-124m", 124)]
)
def test_presets_are_as_large_as_their_names_say(name: str, millions: int) -> None:
    """Counted from the architecture, since such models are too large to make here: embeddings, positions,
    blocks, last norm.
    """
    config = PRESETS[name][1].model_config(PRESETS[name][1].vocab_size)
    width = config.embedding_dim
    block = 12 * width * width + 13 * width
    small = replace(config, vocab_size=3, num_layers=1, embedding_dim=8, num_heads=2, context_length=5)
    assert GPT(small).num_parameters() == (3 + 5) * 8 + 12 * 64 + 13 * 8 + 2 * 8
    total = (config.vocab_size + config.context_length) * width + config.num_layers * block + 2 * width
    assert round(total / 1e6) == millions


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("steps", 2**40),
        ("steps", 1.5),
        ("steps", True),
        ("batch_size", -1),
        ("learning_rate", 0.0),
        ("learning_rate", math.nan),
        ("learning_rate", math.inf),
        ("learning_rate", "fast"),
        ("dropout", 1.0),
        ("beta1", 1.0),
        ("gradient_clip", 0.0),
        ("seed", -1),
        ("seed", 2**64),
        ("tokenizer", "words"),
        ("vocab_size", 10),
        ("corpus", None),
        ("num_heads", 3),
        ("eval_every", -1),
    ],
)
def test_settings_out_of_range_are_named(field: str, value: object) -> None:
    with pytest.raises((ValueError, TypeError), match=field):
        TrainingConfig(**{field: value})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=field):
        TrainingConfig.from_dict({field: value})


OF_EXPERTS = ("experts_per_token", "balance_loss", "router_z_loss")
OF_TYPE: dict[str, Any] = {
    "int": int,
    "int | None": int,
    "float": float,
    "float | None": float,
    "tuple[int, ...]": lambda size: (int(size),),
}


def wrong_value(setting: Setting) -> object:
    """A value of the right type that a setting must not have, or one of another type where there is none."""
    if isinstance(setting.allowed, Range):
        return OF_TYPE[setting.type](setting.allowed.low - 1)
    if setting.allowed is not None or setting.name == "tokenizer":
        return "nonsense"
    return 7


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_every_setting_says_in_code_what_it_may_be(setting: Setting) -> None:
    """By the name of its field, and what it may be as it is described there."""
    value = wrong_value(setting)
    with pytest.raises((SettingError, SettingTypeError)) as caught:
        TrainingConfig(**{setting.name: value})  # type: ignore[arg-type]
    message = str(caught.value)
    assert message.startswith(f"{setting.name} must be ") and str(value) in message
    if isinstance(setting.allowed, Range):
        assert setting.allowed.text in message
    elif setting.allowed is not None:
        assert ", ".join(setting.allowed) in message
    with pytest.raises(SettingError) as in_a_file:
        TrainingConfig.from_dict({setting.name: value})
    assert str(in_a_file.value) == message


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_every_setting_has_a_type(setting: Setting) -> None:
    """In code a TypeError, in a file an error of the value."""
    value = object()
    with pytest.raises(SettingTypeError, match=f"{setting.name} must be ") as caught:
        TrainingConfig(**{setting.name: value})  # type: ignore[arg-type]
    assert isinstance(caught.value, TypeError) and not isinstance(caught.value, ValueError)
    with pytest.raises(SettingError, match=f"{setting.name} must be ") as in_a_file:
        TrainingConfig.from_dict({setting.name: value})
    assert isinstance(in_a_file.value, ValueError) and not isinstance(in_a_file.value, TypeError)


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_every_setting_may_be_its_least_and_its_largest(setting: Setting) -> None:
    allowed = setting.allowed
    if setting.name in ("num_heads", "embedding_dim"):
        values = [2, 2**24]  # they depend on each other
        others = [{"embedding_dim": value} for value in values]
    elif setting.name == "shards":
        values = [1, 2**20]
        others = [{}, {"batch_size": 2**20}]  # a shard has a sequence at least
    elif setting.name == "num_experts":
        values = [1, 2**16]
        others = [{"experts_per_token": 1}, {}]  # at most as many
    elif setting.name == "value_embeddings":
        values = [0, 2**24]
        others = [{"num_layers": 2**24}] * 2  # at most as many
    elif isinstance(allowed, Range):
        number = OF_TYPE[setting.type]
        values = [number(allowed.low), number(allowed.high) if allowed.high < math.inf else math.inf]
        others = [{}] * 2
        if setting.name.startswith("lora"):
            others = [{"init_from": "/a", "lora_rank": 1}] * 2  # which those of adapters need
        elif setting.name in OF_EXPERTS:
            others = [{"num_experts": 2**16}] * 2
    elif allowed is not None:
        of_conversations = {"data_file": "/a.jsonl"} if setting.name == "chat_template" else {}
        values, others = list(allowed), [of_conversations for _ in allowed]
    else:
        values, others = [setting.default], [{}]
    for value, other in zip(values, others, strict=True):
        config = TrainingConfig(**{**other, "positions": "learned", setting.name: value})
        assert getattr(config, setting.name) == value


def test_settings_that_do_not_fit_each_other_are_both_named() -> None:
    with pytest.raises(SettingError, match=r"^embedding_dim \(16\) must be divisible by num_heads \(3\)$"):
        TrainingConfig(num_heads=3)
    with pytest.raises(SettingError, match=r"^experts_per_token \(2\) must be at most num_experts \(1\)$"):
        TrainingConfig(num_experts=1)
    for name, value in (("experts_per_token", 3), ("balance_loss", 0.1), ("router_z_loss", 0.1)):
        with pytest.raises(SettingError, match=f"^{name} needs num_experts, the number of experts"):
            TrainingConfig(**{name: value})
        TrainingConfig(**{name: SETTINGS[name].default})  # which may be said
        TrainingConfig(**{name: value}, init_from="/a")  # whose experts are not known here
        TrainingConfig(**{name: value}, num_experts=3)
    with pytest.raises(SettingError, match=r"^positions .* embedding_dim / num_heads is 3$"):
        TrainingConfig(embedding_dim=6, num_heads=2)


def test_an_error_of_settings_in_other_words() -> None:
    """What is said of a setting is never taken for its name."""
    problem = SettingError("warmup_steps", " must be less than ", "steps", ", not steps")
    assert str(problem) == "warmup_steps must be less than steps, not steps"
    assert problem.worded({"steps": "--steps"}) == "warmup_steps must be less than --steps, not steps"


def test_unknown_settings_are_named() -> None:
    with pytest.raises(ValueError, match="'speed'"):
        TrainingConfig.from_dict({"speed": 1})


def test_one_is_no_plural() -> None:
    assert [plural(count, "layer") for count in (0, 1, 2)] == ["0 layers", "1 layer", "2 layers"]
    assert describe_sizes(TrainingConfig()) == "1 layer, 2 heads, 16 wide"
    assert describe_sizes(TrainingConfig(num_heads=1).model_config(9)) == "1 layer, 1 head, 16 wide"


# ---- data


def test_unigram_entropy() -> None:
    assert unigram_entropy({0: 5, 1: 5}) == pytest.approx(math.log(2))
    assert unigram_entropy({0: 7}) == 0
    assert unigram_entropy({0: 1, 1: 2, 2: 1}) == pytest.approx(1.5 * math.log(2))


def test_documents_count_their_boundaries(config: TrainingConfig) -> None:
    data = prepare_data(config)
    assert data.is_documents
    assert data.num_tokens == len(WORDS)  # one boundary for every line break
    frequencies = [WORDS.count(c) / len(WORDS) for c in set(WORDS)]
    assert data.unigram_entropy == pytest.approx(-sum(p * math.log(p) for p in frequencies))
    assert data.tokenizer.vocab_size == len(set(WORDS))


# ---- the loop


def test_it_learns(config: TrainingConfig, tmp_path: Path) -> None:
    trainer = Trainer.start(replace(config, steps=60, learning_rate=2e-2), str(tmp_path / "run"))
    events = list(trainer.run())
    steps = [event for event in events if isinstance(event, StepEvent)]
    # It begins without an opinion
    assert steps[0].loss == pytest.approx(math.log(trainer.data.tokenizer.vocab_size), abs=0.3)
    assert sum(event.loss for event in steps[-5:]) / 5 < trainer.data.unigram_entropy
    assert isinstance(events[-1], CheckpointEvent) and events[-1].step == 60


def test_the_events_are_the_log(config: TrainingConfig, tmp_path: Path) -> None:
    trainer = Trainer.start(config, str(tmp_path / "run"))
    seen = []
    for event in trainer.run():
        lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
        if isinstance(event, (StepEvent, ValidationEvent)):
            seen.append({key: value for key, value in event._asdict().items() if value is not None})
        assert [json.loads(line) for line in lines] == seen
    assert [e["step"] for e in seen if "val_loss" in e] == [10, 20]


def test_every_step_has_the_learning_rate_of_its_number(config: TrainingConfig, tmp_path: Path) -> None:
    """Update number n, counted from 0, is made with schedule(n), as written out here: in the optimizer, in
    the event and in the log, also after the run was resumed.
    """
    config = replace(
        config, steps=12, warmup_steps=3, learning_rate=0.01, minimum_learning_rate=0.001, checkpoint_every=4
    )
    wanted = [0.01 * (n + 1) / 4 for n in range(3)]
    wanted += [0.001 + 0.009 * (1 + math.cos(math.pi * n / 9)) / 2 for n in range(9)]
    used: list[float] = []
    told: list[float] = []

    def part_of_a_run(trainer: Trainer, steps: int) -> None:
        update = trainer.optimizer.update

        def noted() -> None:
            used.append(trainer.optimizer.learning_rate)
            update()

        trainer.optimizer.update = noted  # type: ignore[method-assign]
        for event in trainer.run():
            if isinstance(event, StepEvent):
                told.append(event.learning_rate)
                trainer.stop_requested = event.step == steps

    part_of_a_run(Trainer.start(config, str(tmp_path / "run")), 5)
    part_of_a_run(Trainer.resume(str(tmp_path / "run")), 12)
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    logged = [entry["learning_rate"] for entry in map(json.loads, lines) if "learning_rate" in entry]
    for where, found in (("optimizer", used), ("event", told), ("log", logged)):
        assert found == pytest.approx(wanted, rel=1e-12), f"the learning rates of the {where}"


def test_accumulation_equals_one_large_batch(config: TrainingConfig, tmp_path: Path) -> None:
    large = Trainer.start(replace(config, batch_size=6), str(tmp_path / "large"))
    batch = large.data.training_batches.next_batch()
    small = Trainer.start(replace(config, batch_size=2, accumulation=3), str(tmp_path / "small"))

    class Replay:
        def __init__(self, *batches: Batch) -> None:
            self.batches = iter(batches)

        def next_batch(self) -> Batch:
            return next(self.batches)

    rows, length = batch.shape
    size = rows // 3 * length
    parts = [
        Batch(batch.inputs[start : start + size], batch.targets[start : start + size], (rows // 3, length))
        for start in range(0, rows * length, size)
    ]
    large.data = large.data._replace(training_batches=Replay(batch))
    small.data = small.data._replace(training_batches=Replay(*parts))
    one, other = large.train_step(), small.train_step()
    assert one.tokens == other.tokens
    assert one.loss == pytest.approx(other.loss, rel=1e-6)
    for (name, a), (_, b) in zip(large.model.named_parameters(), small.model.named_parameters(), strict=True):
        assert a.buffer.to_array().tolist() == pytest.approx(b.buffer.to_array().tolist(), abs=2e-4), name


def test_validation_is_the_same_each_time_and_changes_nothing(config: TrainingConfig, tmp_path: Path) -> None:
    trainer = Trainer.start(replace(config, dropout=0.5), str(tmp_path / "run"))
    assert trainer.validate() == trainer.validate()
    plain = losses(Trainer.start(replace(config, eval_every=0), str(tmp_path / "a")))
    often = losses(Trainer.start(replace(config, eval_every=1), str(tmp_path / "b")))
    assert plain == often


def test_an_update_stands_in_one_place_in_this_order() -> None:
    """As in nanoGPT's script, on one screen."""
    source = inspect.getsource(TrainingStep.__call__)
    lines = ["zero_grad()", "total_loss(", "backward()", "clip_gradients(", "optimizer.update()"]
    places = [source.index(line) for line in lines]
    assert places == sorted(places) and source.count("\n") < 30
    rooms = Path(inspect.getfile(TrainingStep)).parent.glob("*.py")
    updating = sorted(room.name for room in rooms if "optimizer.update()" in room.read_text("utf-8"))
    assert updating == ["sharding.py", "step.py"]  # the former for batches that several processes share


def test_a_backend_may_make_an_update_in_its_own_way(
    config: TrainingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the hook that `training.step` describes: an attribute of its Buffer class."""
    config = replace(config, backend="python", steps=4, accumulation=2, eval_every=0)
    plain = Trainer.start(config, str(tmp_path / "plain"))
    expected = losses(plain)
    calls = []

    class Own(TrainingStep):
        def __call__(self, batches: Sequence[Batch]) -> float:
            calls.append(len(batches))
            return super().__call__(batches)

    monkeypatch.setattr(backends.get("python"), "training_step", Own, raising=False)
    replaced = Trainer.start(config, str(tmp_path / "replaced"))
    assert type(plain.update) is TrainingStep and type(replaced.update) is Own
    assert losses(replaced) == expected and calls == [2, 2, 2, 2]


def test_two_trainers_in_turns_are_what_each_is_alone(config: TrainingConfig, tmp_path: Path) -> None:
    """Each has its own random numbers, for its first weights and for dropout."""
    config = replace(config, dropout=0.3, steps=8, eval_every=3)
    configs = [config, replace(config, seed=4)]
    alone = [losses(Trainer.start(each, str(tmp_path / f"alone{each.seed}"))) for each in configs]
    trainers = [Trainer.start(each, str(tmp_path / f"both{each.seed}")) for each in configs]
    both: list[list[float]] = [[], []]
    for pair in zip(*(trainer.run() for trainer in trainers), strict=True):
        for found, event in zip(both, pair, strict=True):
            if isinstance(event, StepEvent):
                found.append(event.loss)
    assert both == alone and alone[0] != alone[1]
    for trainer in trainers:
        kept = load_checkpoint(trainer.directory).state["random"]
        assert kept == trainer.generator.get_state() and kept["seed"] == trainer.config.seed


def test_the_default_generator_stays_the_callers(config: TrainingConfig, tmp_path: Path) -> None:
    """Neither making a trainer nor training draws from it or seeds it, and what the caller draws from it
    changes no run.
    """
    config = replace(config, dropout=0.3)
    expected = losses(Trainer.start(config, str(tmp_path / "whole")))
    random.seed(99)
    before = random.default_generator().get_state()
    trainer = Trainer.start(config, str(tmp_path / "run"))
    trainer.validate()
    found = []
    for event in trainer.run():
        assert random.default_generator().get_state() == before
        if isinstance(event, StepEvent):
            found.append(event.loss)
        random.default_generator().uniform()
        before = random.default_generator().get_state()
    assert found == expected
    Trainer.resume(trainer.directory)
    assert random.default_generator().get_state() == before


def test_threads_that_sample_change_nothing_in_a_training(config: TrainingConfig, tmp_path: Path) -> None:
    """Dropout, the backend and what records belong to the thread that trains."""
    config = replace(config, dropout=0.3, steps=12, eval_every=4)
    expected = losses(Trainer.start(config, str(tmp_path / "alone")))
    model, tokenizer, _ = load_model(str(tmp_path / "alone"))
    trainer = Trainer.start(config, str(tmp_path / "run"))
    written: list[str] = []
    is_over = threading.Event()

    def sample() -> None:
        with backends.use(config.backend):
            while not is_over.is_set():
                stop = tokenizer.special_tokens[BOUNDARY]
                written.append("".join(generate(model, tokenizer, "", tokens=5, stop_id=stop)))
                random.seed(7)

    threads = [threading.Thread(target=sample) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        found = losses(trainer)
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
    assert found == expected and len(written) > 2


def test_resume_in_the_same_process(config: TrainingConfig, tmp_path: Path) -> None:
    config = replace(config, dropout=0.3, checkpoint_every=7, eval_every=0)
    whole = losses(Trainer.start(config, str(tmp_path / "whole")))
    trainer = Trainer.start(config, str(tmp_path / "half"))
    half = []
    for event in trainer.run():
        if isinstance(event, StepEvent):
            half.append(event.loss)
            if event.step == 9:
                break  # as if it were killed: the newest checkpoint is of step 7
    rest = losses(Trainer.resume(str(tmp_path / "half")))
    assert half[:7] + rest == whole


def test_a_stop_is_a_checkpoint(config: TrainingConfig, tmp_path: Path) -> None:
    trainer = Trainer.start(config, str(tmp_path / "run"))
    for event in trainer.run():
        if event.step == 3:
            trainer.stop_requested = True
    assert event == CheckpointEvent(3, str(tmp_path / "run"))
    assert Trainer.resume(str(tmp_path / "run")).step == 3


def test_a_used_directory_is_refused(config: TrainingConfig, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not empty"):
        Trainer.start(config, str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["words.txt"]


def test_a_model_comes_back_from_its_directory(config: TrainingConfig, tmp_path: Path) -> None:
    trainer = Trainer.start(config, str(tmp_path / "run"))
    list(trainer.run())
    model, tokenizer, saved = load_model(str(tmp_path / "run"))
    assert saved["training"] == config.to_dict()
    assert tokenizer.encode("get_a") == trainer.data.tokenizer.encode("get_a")
    for (name, a), (_, b) in zip(model.named_parameters(), trainer.model.named_parameters(), strict=True):
        assert a.buffer.to_array() == b.buffer.to_array(), name


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_checkpoint(
    config: TrainingConfig, tmp_path: Path
) -> None:
    trainer = Trainer.start(replace(config, checkpoint_every=0), str(tmp_path / "run"))
    finite = trainer.total_loss
    trainer.total_loss = lambda batch: finite(batch) * math.inf  # type: ignore[method-assign]
    with pytest.raises(ArithmeticError, match="learning rate below"):
        list(trainer.run())
    assert Trainer.resume(str(tmp_path / "run")).step == 0
