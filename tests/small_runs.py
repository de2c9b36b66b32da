"""Runs small enough for tests: the words and answers that they learn from, and their settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tinygpt_core.training import PRESETS, TrainingConfig

WORDS = "".join(
    f"{a}{b}_{c}\n" for a in ("get", "set", "is", "has") for b in ("name", "size", "path") for c in "abcdef"
)
COLOURS = {"sky": "blue", "grass": "green", "snow": "white", "coal": "black", "blood": "red"}
"""What conversations ask for, and what is answered."""
TINY = [
    "--steps",
    "6",
    "--layers",
    "1",
    "--heads",
    "2",
    "--embedding-dim",
    "8",
    "--context-length",
    "8",
    "--batch-size",
    "2",
    "--eval-every",
    "3",
    "--eval-batches",
    "1",
    "--checkpoint-every",
    "3",
]
TINY_WITHOUT_COUNTING = [*TINY, "--ngram-prior", "0"]  # of the names, for speed
SMALLEST = TrainingConfig(
    corpus="identifiers",
    context_length=8,
    num_layers=1,
    num_heads=1,
    embedding_dim=8,
    checkpoint_every=0,
    eval_every=0,
    backend="python",
)


def config_of_words(folder: Path, **changes: Any) -> TrainingConfig:
    """Returns the preset `debug` on WORDS, which are written to a file in a folder, with changes."""
    (folder / "words.txt").write_text(WORDS)
    data = {"corpus": "names", "data_file": str(folder / "words.txt")}
    return replace(PRESETS["debug"].config, **data, **changes)
