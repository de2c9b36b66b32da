"""The subcommand `tinygpt plot`: loss curves of runs, in the terminal or as a file of SVG."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from typing import Any

from ..files.atomic import atomic_write
from ..training.config import plural
from .plotting.curves import Run, read_run, table
from .plotting.svg_chart import svg
from .plotting.terminal_chart import abilities, chart, keys


def add_command(commands: Any) -> None:
    """Adds `plot` to the subcommands of a parser."""
    parser = commands.add_parser(
        "plot",
        help="draw and compare loss curves",
        description=(
            "Draw the loss curves of runs: training loss smoothed (and raw, in a file) and the validations "
            "as points. A run that is going on can be drawn too. With several runs they are compared. Into "
            "a pipe goes a plain table of every step."
        ),
        allow_abbrev=False,
    )
    parser.set_defaults(command=run_plot)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="directory of a run, or a log.jsonl")
    parser.add_argument(
        "--out",
        metavar="FILE.svg",
        help="write an SVG drawing; an old one is replaced (default: draw in the terminal)",
    )
    parser.add_argument(
        "--log-steps",
        action="store_true",
        help="a logarithmic axis of steps, which shows the beginning (default: linear)",
    )


def run_plot(arguments: argparse.Namespace) -> int:
    """Runs `tinygpt plot`: reads the logs, then draws. Returns the exit code.

    Raises:
        ValueError: a log is damaged or has no loss in it, or --out has no name for SVG.
        OSError: a file cannot be read or written.
    """
    if arguments.out is not None and not arguments.out.lower().endswith(".svg"):
        raise ValueError(f"--out writes SVG, so its name must end in .svg: {arguments.out!r} does not")
    # One run may come under two names: `runs/*` has the link `latest`, too.
    paths = {os.path.realpath(path): os.path.normpath(path) for path in reversed(arguments.runs)}
    runs = [read_run(path) for path in reversed(paths.values())]
    if arguments.out is not None:
        written = atomic_write(arguments.out, svg(runs, log_steps=arguments.log_steps).encode())
        print(f"{arguments.out}: {plural(len(runs), 'run')}, {written.size:,} bytes")
    elif sys.stdout.isatty():
        _draw(runs, arguments.log_steps)
    else:
        sys.stdout.writelines(f"{line}\n" for line in table(runs))
    return 0


def _draw(runs: list[Run], log_steps: bool) -> None:
    """Prints a chart as large as the terminal has room for, and which run is which."""
    terminal = shutil.get_terminal_size()
    columns = max(24, min(terminal.columns - 1, 120))
    rows = max(6, min(terminal.lines - len(runs) - 2, 20))
    can_show = abilities(sys.stdout)
    lines = chart(runs, columns, rows, **can_show, log_steps=log_steps) + keys(runs, **can_show)
    print("\n".join(lines))
