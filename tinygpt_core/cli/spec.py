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
        "--backend",
        metavar="NAME[,NAME...]",
        help="what to test (default: every backend that is installed and can run)",
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
    chosen = ["--backend", arguments.backend] if arguments.backend else []
    options = ["-p", "tinygpt_spec.plugin", "--pyargs", "tinygpt_spec"]
    return int(pytest.main([*options, *chosen, *arguments.pytest_arguments]))
