"""The settings of a run, and what each may be."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass, fields
from typing import Any

from ..kernels.precision import NAMES
from ..nn.gpt import GPTConfig


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

    # Or "bpe", or the absolute path of a tokenizer, see tokenizer.files.find_tokenizer
    tokenizer: str = "characters"
    vocab_size: int = 512  # of a bpe tokenizer; characters are counted

    context_length: int = 32
    num_layers: int = 1
    num_heads: int = 2
    embedding_dim: int = 16
    normalization: str = "layer_norm"
    positions: str = "rotary"
    activation: str = "gelu"
    tied_head: bool = False
    # Of matrices; GPT-2's 0.02 suits models that are 768 wide, and is far too little for 16
    initial_std: float = 0.12
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
        kinds = {
            "int": (int,),
            "float": (int, float),
            "bool": (bool,),
            "str": (str,),
            "str | None": (str, type(None)),
        }
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, kinds[str(field.type)]) or isinstance(value, bool) != (
                field.type == "bool"
            ):
                raise TypeError(f"{field.name} must be {field.type}, not {value!r}")
            low, high, text = _RANGES.get(field.name, (None, None, ""))
            if text and not low <= value <= high:
                raise ValueError(f"{field.name} must be {text}, not {value}")
        if self.tokenizer not in ("characters", "bpe") and not os.path.isabs(self.tokenizer):
            raise ValueError(
                f"tokenizer must be 'characters', 'bpe' or the absolute path of one, not {self.tokenizer!r}"
            )
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
        """Read what `to_dict` gave; missing names get their defaults, and unknown ones and wrong values raise
        ValueError.
        """
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
    **dict.fromkeys(
        ("context_length", "num_layers", "num_heads", "embedding_dim"), (1, 2**24, "from 1 to 2**24")
    ),
    **dict.fromkeys(("warmup_steps", "eval_every", "checkpoint_every"), (0, 2**31, "0 or more")),
    **dict.fromkeys(("dropout", "beta1", "beta2"), (0.0, math.nextafter(1.0, 0.0), "at least 0 and below 1")),
    **dict.fromkeys(("minimum_learning_rate", "weight_decay"), (0.0, 1e6, "a finite number, 0 or more")),
    **dict.fromkeys(("learning_rate", "initial_std"), (_POSITIVE, 1e6, "a finite number above 0")),
    "gradient_clip": (_POSITIVE, math.inf, "above 0 (inf: no clipping)"),
    "vocab_size": (257, 2**24, "from 257 (256 bytes and the boundary) to 2**24"),
    "seed": (0, 2**64 - 1, "from 0 to 2**64 - 1"),
}
