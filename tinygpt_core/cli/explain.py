"""`tinygpt explain`: one HTML page that shows a training step, or a generation, from inside."""

from __future__ import annotations

import argparse
from typing import Any

from ..explain.writing import explain
from .options import text


def add_command(commands: Any) -> None:
    """Adds `explain` to the subcommands of the command line."""
    about = (
        "Write one HTML page that shows a training step from inside: the graph, its values, attention, "
        "tokens, and training over time."
    )
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
        type=text,
        metavar="TEXT",
        help="show the model continuing TEXT (default: the run's next training step)",
    )
    option("--out", default="explain.html", metavar="FILE", help="the page (default: explain.html)")
    option("--backend", metavar="NAME", help="see `tinygpt backends` (default: the run's)")


def run_explain(arguments: argparse.Namespace) -> int:
    """Writes the page for `tinygpt explain` and says where it is; returns the exit code."""
    size = explain(arguments.subject, arguments.out, arguments.prompt, arguments.backend)
    print(f"{arguments.out}: {size:,} bytes; open it in a browser")
    return 0
