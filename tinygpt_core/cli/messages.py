"""What commands say: errors in one line, how this command is called, and texts that must not move the cursor."""

from __future__ import annotations

import os
import sys


class UsageError(ValueError):
    """The command line makes no sense; the message says why."""


def one_line(message: object) -> str:
    """A message as one printable line, whatever it holds."""
    from ..shape_errors import without_pictures

    words = " ".join(without_pictures(str(message)).split())
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in words)


def command_name() -> str:
    """How this process was called, for messages that say what to type next."""
    return "python3 -m tinygpt_core" if sys.argv[0].endswith("__main__.py") else "tinygpt"


def find_run(path: str) -> str:
    """The directory that `path` means: itself, or the one that a link leads to.

    Raises:
        UsageError: there is no such run.
    """
    if not os.path.isdir(path):
        raise UsageError(f"there is no run in {path}: `{command_name()} train` makes one")
    return os.path.normpath(path) if not os.path.islink(path) else os.path.relpath(os.path.realpath(path))


def complain(message: str, code: int) -> int:
    """Prints an error in one line and returns the exit code."""
    print("tinygpt: error:", one_line(message), file=sys.stderr, flush=True)
    return code
