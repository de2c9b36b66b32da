"""Types of arguments that several subcommands take."""

from __future__ import annotations

import argparse


def path(text: str) -> str:
    """Returns an argument that names a file or directory, as it is.

    Raises:
        argparse.ArgumentTypeError: it is empty, as a variable of the shell is that was never set.
    """
    if not text:
        raise argparse.ArgumentTypeError("a path is not empty")
    return text
