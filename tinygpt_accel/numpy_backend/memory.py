"""Memory that stays: what a training step frees is what the next one asks for.

The GNU C library hands large freed blocks back to the system, and the next step pays for a page fault every 4
KB: a third of a small step's time. So the process is asked, once, to keep them. That changes where freed
memory waits, not how much is used at most.
"""

from __future__ import annotations

import ctypes
import os
import sys

VARIABLE = "TINYGPT_KEEP_MEMORY"

# Parameters of mallopt(3)
_TRIM_THRESHOLD = -1
_TOP_PAD = -2
_MMAP_THRESHOLD = -3


def keep_freed_memory() -> bool:
    """Asks the C library to keep freed memory for the next allocation, unless $TINYGPT_KEEP_MEMORY is 0;
    returns whether it agreed.
    """
    if os.environ.get(VARIABLE) == "0" or not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl and others have none
    if mallopt is None:
        return False
    settings = {
        _MMAP_THRESHOLD: 1 << 25,  # blocks come from the system one by one from 32 MB on, the most it accepts
        _TRIM_THRESHOLD: (1 << 31) - 1,  # nothing goes back to the system
        _TOP_PAD: 1 << 26,  # and 64 MB more than needed are asked for
    }
    return all(mallopt(parameter, value) for parameter, value in settings.items())
