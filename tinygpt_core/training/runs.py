"""The directory of a run: that no run overwrites another, and the model that is kept in one.

config.json, tokenizer, model.safetensors, optimizer.safetensors, state.json    see `checkpoint`
log.jsonl                                                                       one line an event
"""

from __future__ import annotations

import os
import warnings
from typing import Any

from .. import backends
from ..nn.gpt import GPT, GPTConfig
from ..tensor import Tensor, uninitialized
from .checkpoint import Checkpoint, CheckpointError, load_checkpoint
from .config import TrainingConfig
from .data import BOUNDARY

LOG = "log.jsonl"


def refuse_used_directory(directory: str) -> None:
    """Raises ValueError if `directory` holds anything, so that no run overwrites another."""
    if os.path.lexists(directory) and not os.path.isdir(directory):
        raise ValueError(f"{directory} is not a directory")
    if os.path.isdir(directory) and os.listdir(directory):
        raise ValueError(
            f"{directory} is not empty and nothing is overwritten: "
            "choose another directory, or resume the run in it"
        )


def saved_settings(saved: Checkpoint, directory: str) -> TrainingConfig:
    """Returns the settings in the checkpoint of a run.

    Raises:
        CheckpointError: one does not work. It is the file that is wrong, and not what a caller passed.
    """
    try:
        return TrainingConfig.from_dict(saved.config["training"])
    except ValueError as problem:
        raise CheckpointError(f"the settings of the run in {directory} do not work: {problem}") from None


def usable_backend(name: str) -> str:
    """Returns `name` where that backend can run here, else "python", with a warning.

    A run can be continued on any backend.
    """
    problem = backends.why_not(name)
    if not problem:
        return name
    warnings.warn(f"{problem}; going on with the python backend", stacklevel=3)
    return "python"


def load_model(directory: str, backend: str | None = None) -> tuple[GPT, Any, dict[str, Any]]:
    """Returns what a run has learned so far.

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
    saved = load_checkpoint(directory, optimizer=False)
    try:
        settings = saved.config["training"]
        data = saved.config["data"]
        special_tokens = saved.tokenizer.special_tokens
        if type(data["opening"]) is not str or data["is_documents"] not in (
            False,
            BOUNDARY in special_tokens,
        ):
            raise KeyError("what tells how its texts begin and end")
        settings["backend"] = backend or usable_backend(str(settings["backend"]))
        with backends.use(settings["backend"]):
            with uninitialized():  # numbers that are about to be replaced need not be drawn
                model = GPT(GPTConfig.from_dict(saved.config["model"]))
            model.apply(lambda tensor: Tensor(tensor.buffer.copy()))
            model.load_weights(list(saved.model_tensors.items()))
    except (KeyError, TypeError) as problem:
        raise CheckpointError(
            f"the checkpoint in {directory} lacks what a model needs: {problem}"
        ) from problem
    return model, saved.tokenizer, saved.config
