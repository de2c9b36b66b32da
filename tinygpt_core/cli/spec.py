"""The subcommand `tinygpt spec`: the laws that every backend must keep, on a backend of one's choice."""

from __future__ import annotations

import argparse
from typing import Any


def add_command(commands: Any) -> None:
    """Adds `spec` to the subcommands of a parser."""
    about = "Run the laws that every backend must keep (needs pytest and hypothesis)."
    parser = commands.add_parser(
        "spec", help="run the specification on a backend", allow_abbrev=False, description=about
    )
    parser.set_defaults(command=run_spec)
    parser.add_argument(
        "--backend", default="python", metavar="NAME[,NAME...]", help="what to test (default: python)"
    )
    parser.add_argument(
        "pytest_arguments", nargs="*", metavar="ARGUMENT", help="for pytest, after `--` (default: none)"
    )


def run_spec(arguments: argparse.Namespace) -> int:
    """Runs `tinygpt spec`: the specification, through pytest; returns pytest's exit code.

    Raises:
        RuntimeError: pytest or the specification is not installed.
    """
    try:
        import pytest
        import tinygpt_spec  # noqa: F401
    except ImportError as problem:
        raise RuntimeError(
            f'the specification needs {problem.name}: pip install ".[spec]" in the project\'s folder'
        ) from None
    chosen = ["--pyargs", "tinygpt_spec", "--backend", arguments.backend, *arguments.pytest_arguments]
    return int(pytest.main(["-p", "tinygpt_spec.plugin", *chosen]))
