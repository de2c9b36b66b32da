"""The subcommand `tinygpt backends`: what can run here and, for what cannot, why."""

from __future__ import annotations

import argparse
from typing import Any

from ..backends import available
from .messages import one_line


def add_command(commands: Any) -> None:
    """Adds `backends` to the subcommands of a parser."""
    about = "List what can run here and, for what cannot, why."
    parser = commands.add_parser("backends", help="list the backends", description=about)
    parser.set_defaults(command=run_backends)


def run_backends(arguments: argparse.Namespace) -> int:
    """Runs `tinygpt backends`: prints one line a backend; returns the exit code."""
    for status in available():
        text = status.description if status.available else f"not available: {status.reason}"
        print(f"{status.name:<10} {one_line(text)}")
    return 0
