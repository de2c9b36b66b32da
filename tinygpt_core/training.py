"""The training loop: from a corpus to a model in a directory.

Read it from top to bottom: the settings, the named sets of them, and `Trainer`, whose `run` is the loop. A run lives in one
directory: `config.json`, `tokenizer`, `model.safetensors`, `optimizer.safetensors`, `state.json` (the newest checkpoint)
and `log.jsonl`. Everything that the next step depends on is in the checkpoint, so a run that was killed and resumed gives
the same losses, bit for bit, as one that was not.
"""

from __future__ import annotations

import json
import math
import os
import time
import warnings
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, NamedTuple

from . import backends, checkpoint, corpora, dataset, encoders, random, schedules, token_folders, tokenizer
from .files import held
from .losses import CrossEntropyLoss
from .nn.gpt import GPT, GPTConfig
from .optimizers import AdamW
from .parameter_statistics import watched
from .precision import NAMES, autocast
from .stepping import as_tensors, training_step
from .tensor import Tensor, no_grad, uninitialized

BOUNDARY = "<|endoftext|>"  # stands before and after every document
LOG = "log.jsonl"
DATA_STREAM = 1  # random stream of the run's seed for the order of the data; stream 0 is for weights and dropout


@dataclass(frozen=True)
class TrainingConfig:
    """All settings of a run. Lengths are in tokens, rates are per step.

    Raises:
        TypeError, ValueError: a setting has the wrong type or is out of range; the message names it.
    """

    corpus: str = "identifiers"
    data_file: str | None = None
    preset: str = "identifiers"
    backend: str = "python"
    seed: int = 1337
    dtype: str = "float32"  # of products, see precision.autocast; parameters and optimizer stay float32

    tokenizer: str = "characters"  # or "bpe", or the absolute path of a tokenizer, see token_folders.find_tokenizer
    vocab_size: int = 512  # of a bpe tokenizer; characters are counted

    context_length: int = 32
    num_layers: int = 1
    num_heads: int = 2
    embedding_dim: int = 16
    normalization: str = "layer_norm"
    positions: str = "rotary"
    activation: str = "gelu"
    tied_head: bool = False
    initial_std: float = 0.12  # of matrices; GPT-2's 0.02 suits models that are 768 wide, and is far too little for 16
    dropout: float = 0.0

    steps: int = 1100
    batch_size: int = 8
    accumulation: int = 1  # batches whose gradients are summed before an update
    learning_rate: float = 0.015
    minimum_learning_rate: float = 0.0007
    warmup_steps: int = 20
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.99
    gradient_clip: float = 1.0

    eval_every: int = 250  # 0: never
    eval_batches: int = 8
    checkpoint_every: int = 250  # 0: only at the end

    def __post_init__(self) -> None:
        kinds = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,), "str | None": (str, type(None))}
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, kinds[str(field.type)]) or isinstance(value, bool) != (field.type == "bool"):
                raise TypeError(f"{field.name} must be {field.type}, not {value!r}")
            low, high, text = _RANGES.get(field.name, (None, None, ""))
            if text and not low <= value <= high:
                raise ValueError(f"{field.name} must be {text}, not {value}")
        if self.tokenizer not in ("characters", "bpe") and not os.path.isabs(self.tokenizer):
            raise ValueError(f"tokenizer must be 'characters', 'bpe' or the absolute path of one, not {self.tokenizer!r}")
        if self.dtype not in NAMES:
            raise ValueError(f"dtype must be one of {', '.join(NAMES)}, not {self.dtype!r}")
        self.model_config(vocab_size=1)  # whose own checks speak of the rest

    def model_config(self, vocab_size: int) -> GPTConfig:
        """Return the configuration of the model, which also depends on the tokenizer."""
        names = {field.name for field in fields(GPTConfig)} & {field.name for field in fields(self)}
        return GPTConfig(**{name: getattr(self, name) for name in names} | {"vocab_size": vocab_size})

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainingConfig:
        """Read what `to_dict` gave; missing names get their defaults, and unknown ones and wrong values raise ValueError."""
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(f"unknown training settings: {', '.join(map(repr, unknown))}")
        try:
            return cls(**values)
        except TypeError as problem:  # from a file, so the value is wrong rather than the program
            raise ValueError(str(problem)) from None


_POSITIVE = math.ulp(0.0)  # the least number above 0
_RANGES: dict[str, tuple[Any, Any, str]] = {
    **dict.fromkeys(("steps", "batch_size", "accumulation", "eval_batches"), (1, 2**31, "1 or more")),
    **dict.fromkeys(("context_length", "num_layers", "num_heads", "embedding_dim"), (1, 2**24, "from 1 to 2**24")),
    **dict.fromkeys(("warmup_steps", "eval_every", "checkpoint_every"), (0, 2**31, "0 or more")),
    **dict.fromkeys(("dropout", "beta1", "beta2"), (0.0, math.nextafter(1.0, 0.0), "at least 0 and below 1")),
    **dict.fromkeys(("minimum_learning_rate", "weight_decay"), (0.0, 1e6, "a finite number, 0 or more")),
    **dict.fromkeys(("learning_rate", "initial_std"), (_POSITIVE, 1e6, "a finite number above 0")),
    "gradient_clip": (_POSITIVE, math.inf, "above 0 (inf: no clipping)"),
    "vocab_size": (257, 2**24, "from 257 (256 bytes and the boundary) to 2**24"),
    "seed": (0, 2**64 - 1, "from 0 to 2**64 - 1"),
}

_DEFAULT = TrainingConfig()
_WIDER = replace(_DEFAULT, num_heads=4, embedding_dim=32, initial_std=0.1, steps=1000, learning_rate=0.01, minimum_learning_rate=0.0005)
_GPT2 = replace(_DEFAULT, corpus="shakespeare", context_length=64, num_layers=4, num_heads=4, embedding_dim=128, positions="learned",
    tied_head=True, initial_std=0.02, steps=2000, batch_size=12, learning_rate=2e-3, minimum_learning_rate=1e-4,
    warmup_steps=100, weight_decay=0.1)  # fmt: skip
_BABY = replace(_GPT2, context_length=256, num_layers=6, num_heads=6, embedding_dim=384, dropout=0.2, batch_size=64, steps=5000,
                learning_rate=1e-3)  # fmt: skip
_124M = replace(
    _GPT2, corpus="stdlib", tokenizer="bpe", vocab_size=50257, context_length=1024, num_layers=12, num_heads=12, embedding_dim=768,
    accumulation=40, steps=20000, learning_rate=6e-4, minimum_learning_rate=6e-5, warmup_steps=700, beta2=0.95)  # fmt: skip
_TRICYCLE = replace(_BABY, tokenizer="bpe", vocab_size=1024, batch_size=32)
_CODE = replace(_TRICYCLE, corpus="stdlib", vocab_size=32768, context_length=512, num_layers=10, num_heads=8, embedding_dim=512)
_DEBUG = replace(_DEFAULT, embedding_dim=8, steps=20, batch_size=4, warmup_steps=2, eval_every=10, eval_batches=2, checkpoint_every=10)
_PRESETS = {
    "identifiers": ("about a minute in pure Python: names like Python's own, letter by letter", _DEFAULT),
    "names": ("the same on first names", replace(_DEFAULT, corpus="names")),
    "text": ("a few minutes in pure Python: any text file, letter by letter", replace(_WIDER, corpus="text")),
    "shakespeare": ("the same on Shakespeare's plays", replace(_WIDER, corpus="shakespeare")),
    "docs": ("the same on the language reference, in tokens of several letters", replace(_WIDER, corpus="docs", tokenizer="bpe")),
    "stdlib": ("the same on the standard library's source", replace(_WIDER, corpus="stdlib", tokenizer="bpe")),
    "nanogpt-cpu": ("nanoGPT's size and steps for a CPU; wants a fast backend", _GPT2),
    "baby": ("nanoGPT's baby GPT; wants a GPU", _BABY),
    "shakespeare-10m": ("Tricycle's Shakespeare model, in tokens of several letters; wants a GPU", _TRICYCLE),
    "code-49m": ("Tricycle's code model on the standard library's source; wants a GPU", replace(_CODE, batch_size=20, accumulation=4)),
    "gpt2-124m": ("the size and schedule of GPT-2 small; wants a large GPU", _124M),
    "debug": ("seconds: to see that everything works", _DEBUG),
}
PRESETS = {name: (text, replace(config, preset=name)) for name, (text, config) in _PRESETS.items()}  # name -> what it is, settings


class StepEvent(NamedTuple):
    """One update: its mean loss a target token (nats), how many target tokens it saw and how long it took.

    Where they are known, also the gradient's norm before it was clipped and, now and then, what the update did to each parameter
    (see `parameter_statistics.statistics`).
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


class Data(NamedTuple):
    """What a corpus has become: a tokenizer, batches to train on, and fixed ones to validate on."""

    tokenizer: Any
    is_documents: bool
    training_batches: Any
    validation_batches: list[dataset.Batch]
    num_tokens: int
    unigram_entropy: float
    sha256: str
    documents: frozenset[str]  # to tell an invented one from one that was learned by heart
    opening: str  # what a text that nobody began begins with; documents begin after a boundary


def unigram_entropy(counts: dict[int, int]) -> float:
    """The loss, in nats a token, of the best model that ignores context: `-sum_i p_i log p_i` with p_i = count_i / total."""
    total = sum(counts.values())
    return -math.fsum(count / total * math.log(count / total) for count in counts.values() if count)


def prepare_data(config: TrainingConfig, trained_tokenizer: Any = None, sha256: str | None = None) -> Data:
    """Read the corpus, turn it into tokens and split it; nothing here depends on anything but the settings and the text.

    Args:
        config: the settings.
        trained_tokenizer: the tokenizer of the run that is resumed; default: one is trained on the corpus.
        sha256: of the text of the run that is resumed.

    Raises:
        ValueError: the corpus is unknown, empty, too short for the context length, or not the text that was expected.
        OSError: a file cannot be read.
    """
    import hashlib

    if token_folders.is_token_folder(config.data_file):
        return _token_data(config, trained_tokenizer, sha256)
    corpus = corpora.load_corpus(config.corpus, config.data_file)
    texts = [corpus.text or ""] if corpus.documents is None else corpus.documents
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
    _require_same(config, sha256, digest.hexdigest())
    if trained_tokenizer is None:
        trained_tokenizer = _train_tokenizer(config, texts, boundaries=corpus.documents is not None)
    boundary = -1 if corpus.documents is None else trained_tokenizer.special_tokens[BOUNDARY]
    counts: Counter[int] = Counter()
    encode = encoders.ordinary_encoder(trained_tokenizer)

    def encoded() -> Iterator[array[int]]:
        for text in texts:
            ids = array("I", encode(text))
            counts.update(ids)
            yield ids

    generator, shape = random.Generator(config.seed, stream=DATA_STREAM), (config.context_length, config.batch_size)
    batches: dataset.DocumentBatches | dataset.StreamBatches
    is_documents = corpus.documents is not None
    if is_documents:
        store = dataset.DocumentStore(encoded(), trained_tokenizer.vocab_size)
        counts[boundary] = len(store)
        # Rows begin with their document, so of documents longer than the context only the beginning would ever be seen.
        is_documents = sum(counts.values()) <= 2 * config.context_length * len(store)
    if is_documents:
        documents, validation = dataset.split_train_validation(store)
        validating = dataset.evaluation_batches(validation, *shape, config.eval_batches, boundary)
        batches = dataset.DocumentBatches(documents, *shape, generator, boundary)
    else:
        stream = store.joined(boundary) if corpus.documents else dataset.TokenStream(next(encoded()), trained_tokenizer.vocab_size)
        training, tail = dataset.split_train_validation(stream)
        validating = dataset.evaluation_batches(tail, *shape, config.eval_batches)  # the shorter part, whose complaint fits both
        batches = dataset.StreamBatches(training, *shape, generator)
    return Data(
        tokenizer=trained_tokenizer, is_documents=is_documents, training_batches=batches, validation_batches=validating,
        num_tokens=sum(counts.values()), unigram_entropy=unigram_entropy(counts), sha256=digest.hexdigest(),
        documents=frozenset(texts if is_documents else ()), opening="" if is_documents else "\n" if "\n" in texts[0] else texts[0][0],
    )  # fmt: skip


def _require_same(config: TrainingConfig, expected: str | None, found: str) -> None:
    if expected not in (None, found):
        raise ValueError(
            f"the corpus {config.corpus!r} is not the text that the run began with (another file, or another version of Python?): "
            "resume with the same one, or begin a new run"
        )


def _token_data(config: TrainingConfig, trained_tokenizer: Any, sha256: str | None) -> Data:
    """What `prepare_data` does with a folder of token ids: they are one stream, which stays in its files."""
    folder = token_folders.open_token_folder(config.data_file or "", trained_tokenizer or config.tokenizer)
    _require_same(config, sha256, folder.sha256)
    fields = folder.fields(config, random.Generator(config.seed, stream=DATA_STREAM))
    return Data(is_documents=False, documents=frozenset(), unigram_entropy=unigram_entropy(folder.counts()), **fields)


def _train_tokenizer(config: TrainingConfig, texts: list[str], boundaries: bool) -> tokenizer.Tokenizer:
    trained: tokenizer.Tokenizer
    if config.tokenizer == "characters":
        trained = tokenizer.CharTokenizer.train("".join(texts))
    elif config.tokenizer != "bpe":
        trained = token_folders.find_tokenizer(config.tokenizer)
    else:
        trained = tokenizer.BPETokenizer(tokenizer.RegexPatterns.GPT4)
        trained.train("\n".join(texts), config.vocab_size - boundaries)
    if boundaries and BOUNDARY not in trained.special_tokens:  # in one long text it never occurs, but would be sampled now and then
        trained.register_special_tokens({**trained.special_tokens, BOUNDARY: trained.vocab_size})
    return trained


class Trainer:
    """A model, its optimizer, its data, and the directory they are kept in.

    Make one with `Trainer.start` (a new run) or `Trainer.resume` (an old one), then iterate over `run()`.
    """

    def __init__(self, config: TrainingConfig, directory: str, data: Data, state: checkpoint.Checkpoint | None = None) -> None:
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
        self.optimizer = AdamW(self.model, config.learning_rate, betas=(config.beta1, config.beta2), weight_decay=config.weight_decay)
        warmup, minimum = min(config.warmup_steps, config.steps - 1), config.minimum_learning_rate
        self.schedule = schedules.cosine_with_warmup(config.learning_rate, total_steps=config.steps, warmup_steps=warmup, minimum=minimum)
        self.update = training_step(self.model, self.optimizer, lambda batch: self.total_loss(batch), config.gradient_clip, config.dtype)
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
            changes: settings that may differ without changing what was computed: steps, eval_every, checkpoint_every; and the backend,
                which changes roundings. Without it the run keeps its own, or goes on with python (and a warning) where that cannot run.

        Raises:
            ValueError: the checkpoint is damaged, or the corpus is no longer the same.
        """
        saved = checkpoint.load_checkpoint(directory)
        try:
            config = TrainingConfig.from_dict(saved.config["training"])
            config = replace(config, **{"backend": changes.get("backend") or _usable(config.backend), **changes})
            if config.steps < saved.state["step"]:
                raise ValueError(f"the run in {directory} has {saved.state['step']} steps behind it: steps cannot be {config.steps}")
            data = prepare_data(config, saved.tokenizer, saved.config["data"]["sha256"])
            with backends.use(config.backend):
                trainer = cls(config, directory, data, saved)
        except (KeyError, TypeError) as problem:
            raise checkpoint.CheckpointError(f"the checkpoint in {directory} lacks what a run keeps: {problem}") from problem
        with held(directory):
            checkpoint.truncate_log(os.path.join(directory, LOG), trainer.step)
        return trainer

    def run(self) -> Iterator[Event]:
        """Train until `config.steps` updates are done or `stop_requested` is set, yielding what happens.

        Each event is in the log (and the log flushed) before it is yielded. The last event is a checkpoint.

        Raises:
            BlockingIOError: another process trains in the same directory.
        """
        config = self.config
        with held(self.directory), open(os.path.join(self.directory, LOG), "a", encoding="utf-8") as log:
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
        """One update: the gradient of the mean loss over all target tokens of `accumulation` batches, clipped, then AdamW.

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
            raise ArithmeticError(f"the loss became {loss} at step {self.step}: try a learning_rate below {self.config.learning_rate}")
        return StepEvent(self.step, loss, self.optimizer.learning_rate, num_targets, time.perf_counter() - started, **told)

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
        """Write a checkpoint: weights, optimizer and everything random, so that `resume` continues bit for bit."""
        data = self.data
        checkpoint.save_checkpoint(
            self.directory, config={ "training": self.config.to_dict(), "model": self.model.config.to_dict(),
            "data": {"is_documents": data.is_documents, "opening": data.opening, "sha256": data.sha256}, }, tokenizer=data.tokenizer,
            model_tensors={name: tensor.buffer for name, tensor in self.model.named_parameters()},
            optimizer_tensors=self.optimizer.state_dict(),
            state={"step": self.step, "data_order": data.training_batches.get_state(), "random": random.default_generator().get_state(),
            **({"loss_scale": self.update.scaler.get_state()} if self.update.scaler else {})},
        )  # fmt: skip
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
        log.write(json.dumps({name: value for name, value in event._asdict().items() if value is not None}) + "\n")
        log.flush()
        return event


def refuse_used_directory(directory: str) -> None:
    """Raise ValueError if `directory` holds anything, so that no run overwrites another."""
    if os.path.lexists(directory) and not os.path.isdir(directory):
        raise ValueError(f"{directory} is not a directory")
    if os.path.isdir(directory) and os.listdir(directory):
        raise ValueError(f"{directory} is not empty and nothing is overwritten: choose another directory, or resume the run in it")


def _usable(name: str) -> str:
    """`name` where that backend can run here, else "python", with a warning: a run can be continued on any backend."""
    if problem := backends.why_not(name):
        warnings.warn(f"{problem}; going on with the python backend", stacklevel=3)
        return "python"
    return name


def load_model(directory: str, backend: str | None = None) -> tuple[GPT, Any, dict[str, Any]]:
    """Read what a run has learned so far.

    Args:
        directory: of a run.
        backend: where the model shall live; default: the backend it was trained on, or python (and a warning) where that cannot run.

    Returns:
        The model, its tokenizer, and the run's config (`training`, with the backend where the model lives, `model` and `data`).

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
        raise checkpoint.CheckpointError(f"the checkpoint in {directory} lacks what a model needs: {problem}") from problem
    return model, saved.tokenizer, saved.config
