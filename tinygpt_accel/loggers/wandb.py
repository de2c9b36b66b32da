"""The entry point `tinygpt.loggers: wandb`: a run's numbers to Weights & Biases, in the project `tinygpt`
($WANDB_PROJECT).

Its own variables hold: $WANDB_MODE=offline keeps everything in the run's directory under `wandb`, for `wandb
sync`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import wandb


class WandbLogger:
    """A logger that sends numbers. A resumed run goes on under the same id, which is made of the directory's
    name and place.
    """

    def __init__(self, directory: str, settings: Mapping[str, Any], step: int) -> None:
        place = os.path.realpath(directory)
        name = os.path.basename(place)
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "tinygpt"),
            name=name,
            id=sha256(place.encode()).hexdigest()[:16],
            dir=place,
            config=dict(settings),
            resume="allow" if step else None,
            settings=wandb.Settings(silent=True),
        )

    def write(self, scalars: Mapping[str, float], step: int) -> None:
        """Adds a point to each curve."""
        self.run.log(dict(scalars), step=step)

    def write_text(self, name: str, text: str, step: int) -> None:
        """Adds a text to the history of the run."""
        self.run.log({name: text}, step=step)

    def close(self) -> None:
        """Writes what is left and waits until it is sent."""
        self.run.finish()
