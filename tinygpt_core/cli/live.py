"""`tinygpt live`: the microscope that answers while one types, in the browser."""

from __future__ import annotations

import argparse
from typing import Any

from .messages import Stopped, UsageError, find_run
from .options import path


def add_command(commands: Any) -> None:
    """Adds `live` to the subcommands of the command line."""
    about = (
        "Open the browser on a model that answers while you type: attention, every number and how it was "
        "made, what comes next, and training step by step. It listens on this machine only, until Ctrl-C."
    )
    parser = commands.add_parser(
        "live", help="look into a model while it runs", allow_abbrev=False, description=about
    )
    parser.set_defaults(command=run_live)
    option = parser.add_argument
    option(
        "directories",
        nargs="*",
        type=path,
        metavar="RUN",
        help="directories of runs; the first is opened (default: runs/latest)",
    )
    option("--port", type=int, default=0, metavar="N", help="where to listen (default: a free port)")
    option("--no-browser", action="store_true", help="only print the address")
    option("--backend", metavar="NAME", help="see `tinygpt backends` (default: the run's)")


def run_live(arguments: argparse.Namespace) -> int:
    """Runs `tinygpt live` until it is stopped; returns the exit code.

    Raises:
        UsageError: there is no such run, or a port that cannot be.
        OSError: the port is taken.
    """
    from ..live.protocol import Microscope, runs_of  # with HTTP, it takes longer to import than all else
    from ..live.server import serve

    if not 0 <= arguments.port < 65536:
        raise UsageError(f"--port must be from 0 to 65535, not {arguments.port}")
    directories = [find_run(directory) for directory in arguments.directories or ["runs/latest"]]
    microscope = Microscope(runs_of(directories), backend=arguments.backend)
    with serve(microscope, arguments.port) as server:
        try:
            print(f"{server.address}\nCtrl-C stops it", flush=True)
            if not arguments.no_browser:
                import webbrowser

                webbrowser.open(server.address)
            server.serve_forever(poll_interval=0.2)
        except (Stopped, KeyboardInterrupt):
            print("\nstopped", flush=True)
    return 0
