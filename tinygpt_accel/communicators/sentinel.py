"""A process beside the ranks of a machine that says which rank has died.

Where a rank is killed, MPICH's launcher kills the others before they can say a word, and names a process
number but no rank. So the first rank of each machine starts this: it waits until one of them ends, and says
so in one line, unless it was told to stop before. It holds nobody up: it ends when they have.

Which rank ended first is seen at pipes, not at the processes: a process ends only after all its files are
closed, the launcher's socket among them, and by then the others may be dead as well. Linux closes the files
of a dying process from the highest number down, so a pipe with a high number is closed before that socket is,
and before the launcher can know of the death.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

HIGH = 1000  # a file's number above those of MPI's sockets; a process may have 1,024 files or more

# What the process runs: it must not import anything large.
PROGRAM = """
import json, os, select, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.SIG_IGN)
ranks, size, host = json.loads(sys.argv[1])
wait = select.epoll()  # unlike poll, it gives what has ended in the order in which it has
files, ended = {}, []
for rank, (pid, number) in ranks.items():
    try:
        file = os.open(f"/proc/{pid}/fd/{number}", os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        ended.append(rank)
    else:
        files[file] = rank
        wait.register(file, select.EPOLLIN)
os.write(1, b"!")  # it watches
ended = ended or [files[file] for file, _ in wait.poll()]
print(f"tinygpt: error: rank {ended[0]} of {size} (on {host}) has died without a word, as one that was "
      "killed; all end, and `train --resume DIR` goes on from the last checkpoint", file=sys.stderr)
"""


class Lifeline(NamedTuple):
    """A pipe that nobody writes to: it is closed when the process that holds it ends.

    Attributes:
        pid: the number of the process.
        file: the number of the pipe's end in that process; -1 where a sentinel cannot look at it.
    """

    pid: int
    file: int


def lifeline() -> Lifeline:
    """Opens a pipe that stays open as long as this process lives, and that its children do not get.

    Returns:
        The number of this process and of the pipe's end in it, which is -1 where there is no such file to
        look at: elsewhere than on Linux, or where a process may have no more files.
    """
    if sys.platform != "linux":
        return Lifeline(os.getpid(), -1)
    import fcntl
    import resource

    reading, writing = os.pipe()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    number = HIGH if most == resource.RLIM_INFINITY else min(HIGH, most - 1)
    try:
        file = fcntl.fcntl(writing, fcntl.F_DUPFD_CLOEXEC, number)
    except OSError:  # the last numbers are taken
        return Lifeline(os.getpid(), -1)
    finally:
        os.close(reading)
        os.close(writing)
    return Lifeline(os.getpid(), file)


def start(ranks: Mapping[int, Lifeline], size: int, host: str) -> int:
    """Starts a sentinel over processes of this machine, and waits until it watches.

    Args:
        ranks: the lifeline of each rank here.
        size: how many ranks there are, on all machines.
        host: the name of this machine.

    Returns:
        Its process number; 0 where the system has no such files (all but Linux), or no process to spare.
    """
    if any(line.file < 0 for line in ranks.values()):
        return 0
    try:
        process = subprocess.Popen(
            [sys.executable, "-S", "-E", "-c", PROGRAM, json.dumps([dict(ranks), size, host])],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError:
        return 0
    assert process.stdout is not None
    with process.stdout as said:
        said.read(1)
    return process.pid


def stop(pid: int | None) -> None:
    """Ends a sentinel before it speaks; any rank of its machine may."""
    if pid:
        with suppress(OSError):
            os.kill(pid, signal.SIGTERM)
