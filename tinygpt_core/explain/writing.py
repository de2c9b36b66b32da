"""From what is to be explained to the page's file: a run, a script or a Tensor."""

from __future__ import annotations

import os

from ..files.atomic import Path
from ..tensor import Tensor
from . import page, subjects
from .recorder import RecordingError


def explain(subject: str, out: Path, prompt: str | None = None, backend: str | None = None) -> int:
    """Writes the page for a run's directory or a script to the file `out`; returns its size in bytes.

    Raises:
        RecordingError: a prompt or a backend for a script, or no such run or script, nothing to explain in
            it.
        ValueError, OSError: the run is damaged, or a file cannot be read or written.
    """
    if os.path.isdir(subject):
        return page.write(out, subjects.explain_run(subject, prompt, backend))
    if prompt is not None or backend is not None:
        raise RecordingError(
            "--prompt and --backend are for the directory of a run; a script says itself what it does"
        )
    if not os.path.exists(subject):
        raise RecordingError(f"there is no run or script in {subject}: `tinygpt train` makes a run")
    return page.write(out, subjects.explain_script(subject))


def explain_tensor(tensor: Tensor, out: Path) -> int:
    """Writes the page for the graph behind `tensor`, of any shape, as `Tensor.explain` does.

    Returns:
        The page's size in bytes.
    """
    return page.write(out, subjects.explain_tensor(tensor))
