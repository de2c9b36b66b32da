"""The command `tinygpt` (also `python3 -m tinygpt_core`), of which each subcommand is a module of its own.

Exit codes: 0 done, 1 something failed (a full disk, say), 2 the input was wrong, 130 stopped by Ctrl-C (and
143 by SIGTERM, 129 by SIGHUP). An error is one line on the standard error stream; set TINYGPT_DEBUG=1 to see
the traceback too. Without a command there is help, with the exit code 2, since nothing was asked for.
"""

from __future__ import annotations

import argparse
import difflib
import os
import signal
import sys
import traceback
import warnings
from typing import Any, NoReturn

from .. import __version__
from . import (
    backends,
    compare,
    convert,
    exercise,
    explain,
    find_learning_rate,
    generate,
    inspect,
    live,
    plot,
    spec,
    train,
)
from .messages import (
    FAILED,
    WRONG_INPUT,
    Stopped,
    UsageError,
    command_name,
    complain,
    describe_error,
    give_way,
    one_line,
    raise_stopped,
    stop_signals,
    stopped_by,
)

COMMANDS: tuple[Any, ...] = (
    train,
    find_learning_rate,
    generate,
    convert,
    inspect,
    explain,
    live,
    plot,
    compare,
    backends,
    spec,
    exercise,
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see `{self.prog} --help`)")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        arguments, unknown = self.parse_known_args(args, namespace)
        if unknown:
            parser = getattr(arguments, "parser", self)
            hints = [hint for option in unknown for hint in _similar_options(parser, option)]
            hint = f"; did you mean {' or '.join(hints)}?" if hints else ""
            parser.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        return arguments

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as problem:
            close = difflib.get_close_matches(str(value), map(str, action.choices or ()), 1, 0.6)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise argparse.ArgumentError(action, f"{problem.message}{hint}") from None


def _similar_options(parser: argparse.ArgumentParser, option: str) -> list[str]:
    """Returns the options of a parser that somebody may have meant who typed this one."""
    if not option.startswith("--"):
        return []
    known = [name for action in parser._actions for name in action.option_strings]
    name = option.partition("=")[0]
    return [each for each in known if each.startswith(name)] or difflib.get_close_matches(name, known, 1, 0.7)


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the whole command line.

    Each module of `COMMANDS` adds its own subcommand by `add_command`, and sets `command` to the function
    that runs it.
    """
    parser = _Parser(
        prog=command_name(),
        description="Train a GPT from scratch and sample from it, in pure Python.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"tinygpt {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in COMMANDS:
        module.add_command(commands)
    for subparser in commands.choices.values():
        subparser.set_defaults(parser=subparser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code.

    Args:
        argv: the arguments after the command's name; default: those of the process.
    """
    _prepare_streams()
    warnings.formatwarning = _note
    try:
        parser = build_parser()
        if not (sys.argv[1:] if argv is None else argv):
            parser.print_help()
            return WRONG_INPUT
        arguments = parser.parse_args(argv)
        with stop_signals(raise_stopped):
            code: int = arguments.command(arguments)
        sys.stdout.flush()
        return code
    except SystemExit as finished:  # argparse, after --help and --version
        return int(finished.code or 0)
    except Stopped as stop:
        return complain(*stopped_by(stop.number))
    except KeyboardInterrupt:
        return complain(*stopped_by(signal.SIGINT))
    except BrokenPipeError:
        # The reader of a pipe has left: say nothing, also not when Python flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as problem:
        if os.environ.get("TINYGPT_DEBUG"):
            traceback.print_exc()
        give_way()
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
