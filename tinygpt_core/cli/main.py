"""The command `tinygpt` (also `python3 -m tinygpt_core`): train, generate, plot, convert, inspect,
compare-backends, backends, spec.

Exit codes: 0 done, 1 something failed (a full disk, say), 2 the input was wrong, 130 stopped by Ctrl-C. An
error is one line on the standard error stream; set TINYGPT_DEBUG=1 to see the traceback too.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
import warnings
from typing import TYPE_CHECKING, NoReturn

from .generate import SAMPLE_TEMPERATURE, SAMPLE_TOKENS, run_generate
from .messages import UsageError, complain, one_line
from .options import BESIDE_RESUME, SETTINGS
from .train import LATEST, RUNS, run_train

if TYPE_CHECKING:
    pass


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see `{self.prog} --help`)")


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        argv: the arguments after the command's name; default: those of the process.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started this
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        if hasattr(stream := getattr(sys, name), "reconfigure"):
            # A terminal that lacks a character must not end a run
            stream.reconfigure(errors="backslashreplace")
    warnings.formatwarning = lambda message, *_, **__: f"tinygpt: note: {one_line(message)}\n"
    try:
        arguments = build_parser().parse_args(argv)
        code: int = arguments.command(arguments)
        sys.stdout.flush()
        return code
    except SystemExit as finished:  # argparse, after --help and --version
        return int(finished.code or 0)
    except KeyboardInterrupt:
        return complain("stopped by Ctrl-C", 130)
    except (
        BrokenPipeError
    ):  # the reader of a pipe has left: say nothing, also not when Python flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as problem:
        if os.environ.get("TINYGPT_DEBUG"):
            import traceback

            traceback.print_exc()
        return complain(*_explain(problem))


def _explain(problem: Exception) -> tuple[str, int]:
    """What to say about an exception, and the exit code."""
    from ..backends import BackendUnavailable

    if isinstance(problem, OSError):
        bad_paths = {
            errno.ENOENT,
            errno.EACCES,
            errno.EPERM,
            errno.EISDIR,
            errno.ENOTDIR,
            errno.EEXIST,
            errno.EROFS,
            errno.ENAMETOOLONG,
            errno.ELOOP,
            errno.EINVAL,
        }
        reason = problem.strerror or str(problem) or type(problem).__name__
        return (
            f"{problem.filename}: {reason}" if problem.filename else reason,
            2 if problem.errno in bad_paths else 1,
        )
    if isinstance(problem, BackendUnavailable):
        return str(problem), 2
    if isinstance(problem, ValueError):
        # A full disk, in other words
        is_failure = isinstance(problem.__cause__, OSError) and _explain(problem.__cause__)[1] == 1
        return str(problem), 1 if is_failure else 2
    if isinstance(problem, MemoryError):
        return str(problem) or "not enough memory: a smaller model or batch would need less", 1
    # Said by us, of something other than the input
    if isinstance(problem, ArithmeticError) or type(problem) is RuntimeError:
        return str(problem), 1
    return f"{type(problem).__name__}: {problem} (this is a bug; TINYGPT_DEBUG=1 shows where)", 1


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; each subcommand sets `command` to the function that runs it."""
    from .. import __version__
    from ..dataset import corpora
    from ..training.config import TrainingConfig
    from ..training.presets import PRESETS
    from . import compare as cli_compare
    from . import convert as cli_convert
    from . import explain as cli_explain
    from . import plot as cli_plot

    parser = _Parser(
        prog="tinygpt",
        description="Train a GPT from scratch and sample from it, in pure Python.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"tinygpt {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    presets = "\n".join(
        f"  {name:<12} {text}\n{'':15}{c.corpus}, {c.num_layers} layers, {c.num_heads} heads, {c.embedding_dim} wide, "
        f"length {c.context_length}, batch {c.batch_size}, {c.steps} steps"
        for name, (text, c) in PRESETS.items()
    )
    about = "Train a GPT on a corpus. With no arguments: about a minute on `identifiers`, the names in Python's own library."
    train = commands.add_parser("train", help="train a model", allow_abbrev=False, description=about)
    train.formatter_class = argparse.RawDescriptionHelpFormatter
    train.epilog = f"presets (options override them):\n{presets}"
    train.set_defaults(command=run_train)
    option = train.add_argument
    path, text = (
        cli_convert.path,
        f"one of {', '.join(corpora.CORPORA)}, or a path as with --data (default: the preset's)",
    )
    option("corpus", nargs="?", type=path, metavar="CORPUS", help=text)
    text = (
        "a text file to train on, or a folder of texts or of train.bin (default: what the corpus stands for)"
    )
    option("--data", type=path, metavar="FILE", help=text)
    option(
        "--preset",
        metavar="NAME",
        help="named settings, see below (default: the corpus's own, or identifiers)",
    )
    default, metavars = TrainingConfig(), {int: "N", float: "X", str: "KIND"}
    for field, name, kind, text in SETTINGS:
        text = f"{text} (default: the preset's; identifiers: {getattr(default, field)})"
        option(name, dest=field, type=kind, metavar=metavars[kind], help=text)
    option(
        "--backend",
        metavar="NAME",
        help="see `tinygpt backends` (default: $TINYGPT_BACKEND, or the fastest that can run)",
    )
    option(
        "--out",
        type=path,
        metavar="DIR",
        help=f"directory of the run, new or empty (default: {RUNS}/CORPUS-DATE-TIME)",
    )
    option(
        "--resume",
        type=path,
        metavar="DIR",
        help=f"continue the run in DIR with its own settings; {BESIDE_RESUME}",
    )
    option(
        "--log-to",
        action="append",
        metavar="NAME",
        help="also to tensorboard or wandb; may be given twice (default: log.jsonl only)",
    )
    option("--quiet", action="store_true", help="no progress, only the result (default: progress)")

    about = "Continue a text with the model of a run, as it is sampled."
    generate = commands.add_parser(
        "generate", help="sample from a trained model", allow_abbrev=False, description=about
    )
    generate.set_defaults(command=run_generate)
    option = generate.add_argument
    option("directory", type=path, metavar="DIR", help=f"directory of a run, such as {RUNS}/{LATEST}")
    option("--prompt", default="", metavar="TEXT", help="the text to continue (default: none)")
    option("--count", type=int, default=1, metavar="N", help="how many texts to sample (default: 1)")
    option(
        "--tokens",
        type=int,
        default=SAMPLE_TOKENS,
        metavar="N",
        help=f"most tokens to sample for each (default: {SAMPLE_TOKENS})",
    )
    text = f"0: always the most probable token, 1: as trained (default: {SAMPLE_TEMPERATURE})"
    option("--temperature", type=float, default=SAMPLE_TEMPERATURE, metavar="X", help=text)
    option("--top-k", type=int, metavar="N", help="sample among the N most probable tokens (default: all)")
    option(
        "--top-p",
        type=float,
        metavar="X",
        help="sample among the most probable tokens that reach probability X (default: all)",
    )
    option(
        "--seed",
        type=int,
        metavar="N",
        help="the same seed gives the same text (default: a new one each time)",
    )
    option("--backend", metavar="NAME", help="see `tinygpt backends` (default: the run's)")

    cli_convert.add_commands(commands)
    cli_explain.add_commands(commands)
    cli_plot.add_command(commands)
    cli_compare.add_commands(commands)
    about = "List what can run here and, for what cannot, why."
    commands.add_parser("backends", help="list the backends", description=about).set_defaults(
        command=run_backends
    )
    about = "Run the laws that every backend must keep (needs pytest and hypothesis)."
    spec = commands.add_parser(
        "spec", help="run the specification on a backend", allow_abbrev=False, description=about
    )
    spec.set_defaults(command=run_spec)
    spec.add_argument(
        "--backend", default="python", metavar="NAME[,NAME...]", help="what to test (default: python)"
    )
    spec.add_argument(
        "pytest_arguments", nargs="*", metavar="ARGUMENT", help="for pytest, after `--` (default: none)"
    )
    return parser


def run_backends(arguments: argparse.Namespace) -> int:
    """`tinygpt backends`: one line a backend."""
    from .. import backends

    for status in backends.available():
        print(
            f"{status.name:<10} {one_line(status.description if status.available else f'not available: {status.reason}')}"
        )
    return 0


def run_spec(arguments: argparse.Namespace) -> int:
    """`tinygpt spec`: the specification, through pytest.

    Raises:
        RuntimeError: pytest or the specification is not installed.
    """
    try:
        import pytest
        import tinygpt_spec  # noqa: F401
    except ImportError as problem:
        raise RuntimeError(
            f'the specification needs {problem.name}: pip install "tinygpt-core[spec]"'
        ) from None
    chosen = ["--pyargs", "tinygpt_spec", "--backend", arguments.backend, *arguments.pytest_arguments]
    return int(pytest.main(["-p", "tinygpt_spec.plugin", *chosen]))
