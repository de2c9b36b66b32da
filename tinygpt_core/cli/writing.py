"""Sampled text, printed as it comes."""

from __future__ import annotations

import sys

from ..printable import replace_unprintable


def write_text(piece: str) -> None:
    """Prints sampled text as it comes; on a terminal without the control characters that could act on it."""
    if sys.stdout.isatty():
        write_report(piece)
    else:
        print(piece, end="", flush=True)


def write_report(piece: str) -> None:
    """Prints sampled text within a report, wherever that goes, without control characters."""
    print(replace_unprintable(piece, keep="\n\t"), end="", flush=True)
