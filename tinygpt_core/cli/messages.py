"""What commands say: errors in one line with an exit code, and how this command is called."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ..backends import BackendUnavailable
from ..printable import escape_unprintable
from ..shape_errors import without_pictures
from ..training.communicator import HEAD_START, CommunicationError, launched

FAILED = 1  # exit codes
WRONG_INPUT = 2
# What the system says of a path that was given wrongly. Whatever else it says is a failure: a full disk, say.
WRONG_PATH = {
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


class Stopped(KeyboardInterrupt):
    """A signal that asks the process to end, where it is taken as Ctrl-C is.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


# Those that ask a process to end, by what a person calls them; Windows lacks the last
STOP_SIGNALS = {
    getattr(signal, name): name if name != "SIGINT" else "Ctrl-C"
    for name in ("SIGINT", "SIGTERM", "SIGHUP")
    if hasattr(signal, name)
}


@contextmanager
def stop_signals(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Takes SIGINT, SIGTERM and SIGHUP to a handler inside a `with`; yields nothing.

    Those that are ignored, as nohup has it, stay so.
    """
    previous = {}
    if threading.current_thread() is threading.main_thread():  # another cannot set handlers
        for number in STOP_SIGNALS:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                previous[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in previous.items():
            signal.signal(number, old)


def raise_stopped(number: int, frame: object) -> None:
    """Handles a signal by raising Stopped, which ends what is going on; for `stop_signals`."""
    raise Stopped(number)


def stopped_by(number: int) -> tuple[str, int]:
    """Returns what to say of a process that a signal has ended, and the exit code, as shells have it."""
    return f"stopped by {STOP_SIGNALS[number]}", 128 + number


class UsageError(ValueError):
    """The command line makes no sense; the message says why."""


def one_line(message: object) -> str:
    """Returns a message as one printable line, whatever it holds."""
    return escape_unprintable(" ".join(without_pictures(str(message)).split()))


def command_name() -> str:
    """Returns how this process was called, for messages that say what to type next."""
    return "python3 -m tinygpt_core" if sys.argv[0].endswith("__main__.py") else "tinygpt"


def find_run(path: str) -> str:
    """Returns the directory that `path` means: itself, or the one that a link leads to.

    Raises:
        UsageError: there is no such run.
    """
    if not os.path.isdir(path):
        raise UsageError(f"there is no run in {path}: `{command_name()} train` makes one")
    if os.path.islink(path):
        return os.path.relpath(os.path.realpath(path))
    return os.path.normpath(path)


def give_way() -> None:
    """Lets the first of several processes speak first, whose end is the end of all: they often fail alike."""
    launch = launched()
    if launch is not None and launch.rank:
        time.sleep(HEAD_START)


def complain(message: str, code: int) -> int:
    """Prints an error in one line and returns the exit code."""
    with suppress(OSError):  # the terminal may be gone
        print("tinygpt: error:", one_line(message), file=sys.stderr, flush=True)
    return code


def describe_error(problem: Exception) -> tuple[str, int]:
    """Returns what to say about an exception, and the exit code."""
    if isinstance(problem, OSError):
        reason = problem.strerror or str(problem) or type(problem).__name__
        message = f"{problem.filename}: {reason}" if problem.filename else reason
        return message, WRONG_INPUT if problem.errno in WRONG_PATH else FAILED
    if isinstance(problem, BackendUnavailable):
        return str(problem), WRONG_INPUT
    if isinstance(problem, UnicodeEncodeError):
        name = problem.object[:100].encode("unicode_escape").decode()
        return f"{name} cannot be written in {problem.encoding}: set PYTHONUTF8=1", WRONG_INPUT
    if isinstance(problem, ValueError):
        cause = problem.__cause__
        if isinstance(cause, OSError) and describe_error(cause)[1] == FAILED:
            return str(problem), FAILED  # a full disk, in other words
        return str(problem), WRONG_INPUT
    if isinstance(problem, MemoryError):
        return str(problem) or "not enough memory: a smaller model or batch would need less", FAILED
    if isinstance(problem, (ArithmeticError, CommunicationError)) or type(problem) is RuntimeError:
        return str(problem), FAILED  # said by us, of something other than the input
    return f"{type(problem).__name__}: {problem} (this is a bug; TINYGPT_DEBUG=1 shows where)", FAILED
