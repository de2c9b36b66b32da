"""A command on a pseudo-terminal: what several tests look at."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path


def pieces_on_terminal(
    command: list[str], cwd: Path, environment: Mapping[str, str], columns: int = 80, rows: int = 24
) -> Iterator[bytes]:
    """Yields what a command writes to a terminal of that size, as it comes; it must end with 0, and write
    something at least once a minute.
    """
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    process = subprocess.Popen(command, cwd=cwd, env=environment, stdin=child, stdout=child, stderr=child)
    os.close(child)
    written = b""
    while select.select([parent], [], [], 60)[0]:
        try:
            piece = os.read(parent, 65536)
        except OSError:  # Linux's way to say that the other side was closed
            break
        written += piece
        yield piece
    os.close(parent)
    assert process.wait(60) == 0, written


def run_on_terminal(
    command: list[str], cwd: Path, environment: Mapping[str, str], columns: int = 80, rows: int = 24
) -> bytes:
    """Returns all that `pieces_on_terminal` yields."""
    return b"".join(pieces_on_terminal(command, cwd, environment, columns, rows))


def type_on_terminal(
    command: list[str], cwd: Path, environment: Mapping[str, str], prompt: bytes, lines: Sequence[bytes]
) -> bytes:
    """Returns what a command writes to a terminal on which somebody types a line each time it asks."""
    parent, child = pty.openpty()
    process = subprocess.Popen(command, cwd=cwd, env=environment, stdin=child, stdout=child, stderr=child)
    os.close(child)
    written = b""
    asked = 0
    while select.select([parent], [], [], 60)[0]:
        try:
            written += os.read(parent, 65536)
        except OSError:  # Linux's way to say that the other side was closed
            break
        while asked < min(written.count(prompt), len(lines)):
            os.write(parent, lines[asked])
            asked += 1
    os.close(parent)
    assert process.wait(60) == 0, written
    return written
