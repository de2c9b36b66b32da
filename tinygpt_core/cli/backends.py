"""The subcommand `tinygpt backends`: what can run here."""

from __future__ import annotations

import argparse
from typing import Any

from .. import backends
from .messages import one_line


def add_command(commands: Any) -> None:
    """Adds `backends` to the subcommands of a parser."""
    parser = commands.add_parser(
        "backends", help="list the backends", description="List what can run here and, for what cannot, why."
    )
    parser.set_defaults(command=run_backends)


def run_backends(arguments: argparse.Namespace) -> int:
    """Runs `tinygpt backends`: one line a backend. Returns the exit code."""
    for status in backends.available():
        about = status.description if status.available else f"not available: {status.reason}"
        print(f"{status.name:<10} {one_line(about)}")
    return 0
