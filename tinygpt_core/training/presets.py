"""Named settings: a table in which each entry says what it is, what it builds on and what it changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from .. import backends
from .config import TrainingConfig


class Preset(NamedTuple):
    """A named set of settings."""

    about: str
    config: TrainingConfig


PRESETS: dict[str, Preset] = {}


def _preset(name: str, about: str, *, like: str | None = None, **changes: Any) -> None:
    """Adds a preset: the settings of the preset `like`, or the defaults, with changes."""
    base = TrainingConfig() if like is None else PRESETS[like].config
    PRESETS[name] = Preset(about, replace(base, **changes, preset=name))


# ---- for pure Python

_preset(
    "identifiers",
    "a minute or two in pure Python: names like Python's own, letter by letter",
    ngram_prior=7,  # where looking back further does not help any more, as the ladder shows
    learning_rate=0.006,
    minimum_learning_rate=0.0002,
    steps=800,
    eval_every=400,
    eval_batches=79,  # all names that are not learned from
    checkpoint_every=400,
)
_preset("names", "the same on first names", like="identifiers", corpus="names")
_preset(
    "text",
    "a few minutes in pure Python: any text file, letter by letter",
    corpus="text",
    num_heads=4,
    embedding_dim=32,
    initial_std=0.1,
    steps=1000,
    learning_rate=0.01,
    minimum_learning_rate=0.0005,
)
_preset("shakespeare", "the same on Shakespeare's plays", like="text", corpus="shakespeare")
_preset(
    "docs",
    "the same on the language reference, in tokens of several letters",
    like="text",
    corpus="docs",
    tokenizer="bpe",
)
_preset("stdlib", "the same on the standard library's source", like="docs", corpus="stdlib")

# ---- for a fast backend, and for GPUs

_preset(
    "identifiers-fast",
    "a minute on a fast backend: the same names, and a larger model",
    like="identifiers",
    num_layers=2,
    num_heads=4,
    embedding_dim=64,
    initial_std=0.08,
    dropout=0.2,
    optimizer="muon",
    steps=1500,
    batch_size=32,
    learning_rate=0.004,
    minimum_learning_rate=0.0001,
    weight_decay=0.1,
    beta2=0.95,
    warmup_steps=50,
    eval_every=100,
    eval_batches=20,
    checkpoint_every=100,
)

_preset(
    "nanogpt-cpu",
    "nanoGPT's size and steps for a CPU; wants a fast backend",
    corpus="shakespeare",
    context_length=64,
    num_layers=4,
    num_heads=4,
    embedding_dim=128,
    positions="learned",
    tied_head=True,
    initial_std=0.02,
    steps=2000,
    batch_size=12,
    learning_rate=2e-3,
    minimum_learning_rate=1e-4,
    warmup_steps=100,
    weight_decay=0.1,
)
_preset(
    "shakespeare-cpu",
    "its size and time with the recipe of today, and a better model",
    like="nanogpt-cpu",
    positions="rotary",
    activation="relu2",
    query_key_norm=True,
    value_embeddings=2,
    optimizer="muon",
    schedule="wsd",
    decay_fraction=0.5,
    steps=900,  # in the time that nanogpt-cpu takes
    learning_rate=4e-3,
    minimum_learning_rate=0.0,
)
_preset(
    "baby",
    "nanoGPT's baby GPT; wants a GPU",
    like="nanogpt-cpu",
    context_length=256,
    num_layers=6,
    num_heads=6,
    embedding_dim=384,
    dropout=0.2,
    steps=5000,
    batch_size=64,
    learning_rate=1e-3,
)
_preset(
    "shakespeare-10m",
    "Tricycle's Shakespeare model, in tokens of several letters; wants a GPU",
    like="baby",
    tokenizer="bpe",
    vocab_size=1024,
    batch_size=32,
)
_preset(
    "code-49m",
    "Tricycle's code model on the standard library's source; wants a GPU",
    like="shakespeare-10m",
    corpus="stdlib",
    vocab_size=32768,
    context_length=512,
    num_layers=10,
    num_heads=8,
    embedding_dim=512,
    batch_size=20,
    accumulation=4,
)
_preset(
    "gpt2-124m",
    "the size and schedule of GPT-2 small; wants a large GPU",
    like="nanogpt-cpu",
    corpus="stdlib",
    tokenizer="bpe",
    vocab_size=50257,
    context_length=1024,
    num_layers=12,
    num_heads=12,
    embedding_dim=768,
    steps=20000,
    accumulation=40,
    learning_rate=6e-4,
    minimum_learning_rate=6e-5,
    warmup_steps=700,
    beta2=0.95,
)

# ---- for tests

_preset(
    "debug",
    "seconds: to see that everything works",
    embedding_dim=8,
    steps=20,
    batch_size=4,
    warmup_steps=2,
    eval_every=10,
    eval_batches=2,
    checkpoint_every=10,
)


def default_preset(backend: str) -> str:
    """Returns the preset of a run that names none, by the backend that it runs on: a minute or two in pure
    Python, less on a faster backend.

    Raises:
        BackendUnavailable: the backend cannot run here.
    """
    is_fast = getattr(backends.get(backend), "is_fast", False)
    return "identifiers-fast" if is_fast else "identifiers"
