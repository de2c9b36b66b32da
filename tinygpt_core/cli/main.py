"""The command `tinygpt` (also `python3 -m tinygpt_core`), of which each subcommand is a module of its own.

Exit codes: 0 done, 1 something failed (a full disk, say), 2 the input was wrong, 130 stopped by Ctrl-C. An
error is one line on the standard error stream; set TINYGPT_DEBUG=1 to see the traceback too.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
import warnings
from typing import Any, NoReturn

from .. import __version__
from . import backends, compare, convert, explain, generate, inspect, plot, spec, train
from .messages import FAILED, STOPPED, UsageError, complain, describe_error, one_line

COMMANDS: tuple[Any, ...] = (train, generate, convert, inspect, explain, plot, compare, backends, spec)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see `{self.prog} --help`)")


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the whole command line.

    Each module of `COMMANDS` adds its own subcommand by `add_command`, and sets `command` to the function
    that runs it.
    """
    parser = _Parser(
        prog="tinygpt",
        description="Train a GPT from scratch and sample from it, in pure Python.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"tinygpt {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in COMMANDS:
        module.add_command(commands)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code.

    Args:
        argv: the arguments after the command's name; default: those of the process.
    """
    _prepare_streams()
    warnings.formatwarning = _note
    try:
        arguments = build_parser().parse_args(argv)
        code: int = arguments.command(arguments)
        sys.stdout.flush()
        return code
    except SystemExit as finished:  # argparse, after --help and --version
        return int(finished.code or 0)
    except KeyboardInterrupt:
        return complain("stopped by Ctrl-C", STOPPED)
    except BrokenPipeError:
        # The reader of a pipe has left: say nothing, also not when Python flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as problem:
        if os.environ.get("TINYGPT_DEBUG"):
            traceback.print_exc()
        return complain(*describe_error(problem))


def _prepare_streams() -> None:
    """Makes it safe to print: a stream may have been closed, and a terminal may lack characters."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        stream = getattr(sys, name)
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a character that is lacking must not end a run


def _note(message: Warning | str, *_: Any, **__: Any) -> str:
    """Returns a warning as one line."""
    return f"tinygpt: note: {one_line(message)}\n"
