"""Floor 10: `tinygpt explain`, the microscope: one self-contained HTML page that shows a training step, or a
generation, from inside.

    tinygpt explain runs/latest                    # the next training step of a run, recorded and not kept
    tinygpt explain runs/latest --prompt "get_"    # its model, reading the prompt and what it wrote after it
    tinygpt explain script.py                      # a script, up to the end of its first backward()
    loss.explain("page.html")                      # the graph behind any Tensor

Reading order: `recorder` (what is written down while operations run), `tape` (what a Tensor tells that nobody
watched), `values`, `sources`, `text` and `history` (what is shown of each), `subjects` (what can be
explained), `page` (the file). The page's own scripts and style are in the folder `page`.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

from ..files.atomic import Path
from ..tensor import Tensor
from . import page, subjects
from .recorder import Recorder, RecordingError

__all__ = ["Recorder", "RecordingError", "add_command", "explain", "explain_tensor", "run_explain"]


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
    """Writes the page for the graph behind `tensor`, of any shape; returns its size in bytes. See
    `Tensor.explain`.
    """
    return page.write(out, subjects.explain_tensor(tensor))


def add_command(commands: Any) -> None:
    """Adds `explain` to the subcommands of the command line."""
    about = "Write one HTML page that shows a training step from inside: the graph, its values, attention, tokens, and training over time."
    parser = commands.add_parser(
        "explain", help="look into a training step", allow_abbrev=False, description=about
    )
    parser.set_defaults(command=run_explain)
    option = parser.add_argument
    option(
        "subject",
        metavar="RUN_OR_SCRIPT",
        help="directory of a run, or a Python script, which is run up to its first backward()",
    )
    option(
        "--prompt",
        metavar="TEXT",
        help="show the model continuing TEXT (default: the run's next training step)",
    )
    option("--out", default="explain.html", metavar="FILE", help="the page (default: explain.html)")
    option("--backend", metavar="NAME", help="see `tinygpt backends` (default: the run's)")


def run_explain(arguments: argparse.Namespace) -> int:
    """`tinygpt explain`: writes the page and says where it is."""
    size = explain(arguments.subject, arguments.out, arguments.prompt, arguments.backend)
    print(f"{arguments.out}: {size:,} bytes; open it in a browser")
    return 0
