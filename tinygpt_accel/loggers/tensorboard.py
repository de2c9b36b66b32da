"""The entry point `tinygpt.loggers: tensorboard`: a run's numbers as TensorBoard's event files, in its
directory under `tensorboard`.

tinygpt train --log-to tensorboard
tensorboard --logdir runs
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from tensorboardX import SummaryWriter


class TensorBoardLogger:
    """A logger that writes event files. A resumed run adds a file that takes back the steps which were lost,
    so the curves have no second branch.
    """

    def __init__(self, directory: str, settings: Mapping[str, Any], step: int) -> None:
        # Files are named after the second in which they are begun; the suffix keeps a run that is resumed at
        # once from replacing its own.
        self.writer = SummaryWriter(
            os.path.join(directory, "tensorboard"),
            purge_step=step + 1 if step else None,
            flush_secs=10,
            filename_suffix=f".{step:09}",
        )
        if not step:
            self.writer.add_text("settings", "```json\n" + json.dumps(dict(settings), indent=2) + "\n```")

    def write(self, scalars: Mapping[str, float], step: int) -> None:
        """Adds a point to each curve."""
        for name, value in scalars.items():
            self.writer.add_scalar(name, value, step)

    def write_text(self, name: str, text: str, step: int) -> None:
        """Adds a text, as it is."""
        self.writer.add_text(name, "    " + text.replace("\n", "\n    "), step)  # a block of code in Markdown

    def close(self) -> None:
        """Writes what is left."""
        self.writer.close()
