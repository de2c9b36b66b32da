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
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # of mallopt(3)


def keep_freed_memory() -> bool:
    """Asks the C library to keep freed memory for the next allocation, unless $TINYGPT_KEEP_MEMORY is 0;
    returns whether it agreed.
    """
    if os.environ.get(VARIABLE) == "0" or not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl and others have none
    if mallopt is None:
        return False
    # 32 MB is the most that it accepts as the size from which blocks come from the system one by one.
    return all(
        mallopt(*setting)
        for setting in ((_MMAP_THRESHOLD, 1 << 25), (_TRIM_THRESHOLD, (1 << 31) - 1), (_TOP_PAD, 1 << 26))
    )
