"""Named settings: a table of them."""

from __future__ import annotations

from dataclasses import replace

from .config import TrainingConfig

_DEFAULT = TrainingConfig()
_WIDER = replace(
    _DEFAULT,
    num_heads=4,
    embedding_dim=32,
    initial_std=0.1,
    steps=1000,
    learning_rate=0.01,
    minimum_learning_rate=0.0005,
)
_GPT2 = replace(
    _DEFAULT,
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
_BABY = replace(
    _GPT2,
    context_length=256,
    num_layers=6,
    num_heads=6,
    embedding_dim=384,
    dropout=0.2,
    batch_size=64,
    steps=5000,
    learning_rate=1e-3,
)
_124M = replace(
    _GPT2,
    corpus="stdlib",
    tokenizer="bpe",
    vocab_size=50257,
    context_length=1024,
    num_layers=12,
    num_heads=12,
    embedding_dim=768,
    accumulation=40,
    steps=20000,
    learning_rate=6e-4,
    minimum_learning_rate=6e-5,
    warmup_steps=700,
    beta2=0.95,
)
_TRICYCLE = replace(_BABY, tokenizer="bpe", vocab_size=1024, batch_size=32)
_CODE = replace(
    _TRICYCLE,
    corpus="stdlib",
    vocab_size=32768,
    context_length=512,
    num_layers=10,
    num_heads=8,
    embedding_dim=512,
)
_DEBUG = replace(
    _DEFAULT,
    embedding_dim=8,
    steps=20,
    batch_size=4,
    warmup_steps=2,
    eval_every=10,
    eval_batches=2,
    checkpoint_every=10,
)
_PRESETS = {
    "identifiers": ("about a minute in pure Python: names like Python's own, letter by letter", _DEFAULT),
    "names": ("the same on first names", replace(_DEFAULT, corpus="names")),
    "text": ("a few minutes in pure Python: any text file, letter by letter", replace(_WIDER, corpus="text")),
    "shakespeare": ("the same on Shakespeare's plays", replace(_WIDER, corpus="shakespeare")),
    "docs": (
        "the same on the language reference, in tokens of several letters",
        replace(_WIDER, corpus="docs", tokenizer="bpe"),
    ),
    "stdlib": (
        "the same on the standard library's source",
        replace(_WIDER, corpus="stdlib", tokenizer="bpe"),
    ),
    "nanogpt-cpu": ("nanoGPT's size and steps for a CPU; wants a fast backend", _GPT2),
    "baby": ("nanoGPT's baby GPT; wants a GPU", _BABY),
    "shakespeare-10m": ("Tricycle's Shakespeare model, in tokens of several letters; wants a GPU", _TRICYCLE),
    "code-49m": (
        "Tricycle's code model on the standard library's source; wants a GPU",
        replace(_CODE, batch_size=20, accumulation=4),
    ),
    "gpt2-124m": ("the size and schedule of GPT-2 small; wants a large GPU", _124M),
    "debug": ("seconds: to see that everything works", _DEBUG),
}
# Name -> what it is, settings
PRESETS = {name: (text, replace(config, preset=name)) for name, (text, config) in _PRESETS.items()}
