"""A process beside the ranks of a machine that says which rank has died.

Where a rank is killed, MPICH's launcher kills the others before they can say a word, and names a process
number but no rank. So the first rank of each machine starts this: it waits until one of them ends, and says
so in one line, unless it was told to stop before. It holds nobody up: it ends when they have.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress

# What the process runs: it must not import anything large.
PROGRAM = """
import json, os, select, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.SIG_IGN)
ranks, size, host = json.loads(sys.argv[1])
files = {os.pidfd_open(pid): rank for rank, pid in ranks.items()}
sys.stdin.close()
wait = select.epoll()  # unlike poll, it gives what has ended in the order in which it has
for file in files:
    wait.register(file, select.EPOLLIN)
ended = [files[file] for file, _ in wait.poll()]
print(f"tinygpt: error: rank {ended[0]} of {size} (on {host}) has died without a word, as one that was "
      "killed; all end, and `train --resume DIR` goes on from the last checkpoint", file=sys.stderr)
"""


def start(pids: Mapping[int, int], size: int, host: str) -> int:
    """Starts a sentinel over processes of this machine.

    Args:
        pids: the process number of each rank here.
        size: how many ranks there are, on all machines.
        host: the name of this machine.

    Returns:
        Its process number; 0 where the system cannot wait for a process that is no child (all but Linux).
    """
    if not hasattr(os, "pidfd_open"):
        return 0
    try:
        process = subprocess.Popen(
            [sys.executable, "-S", "-E", "-c", PROGRAM, json.dumps([dict(pids), size, host])],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError:
        return 0
    return process.pid


def stop(pid: int | None) -> None:
    """Ends a sentinel before it speaks; any rank of its machine may."""
    if pid:
        with suppress(OSError):
            os.kill(pid, signal.SIGTERM)
