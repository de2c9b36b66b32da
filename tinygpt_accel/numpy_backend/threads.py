"""Two threads for long elementwise chains: NumPy releases the interpreter's lock inside each call, BLAS has
threads of its own.

A chain of NumPy calls over a large array is limited by one core, and each call by memory. So a fused kernel
walks over blocks that stay in the cache, and the blocks are shared out among the cores. How many threads
there are never changes a result: every block is computed as it would be alone.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from queue import SimpleQueue
from typing import Any

import numpy

try:
    from threadpoolctl import ThreadpoolController

    _controller = ThreadpoolController()
except ImportError:  # then small products may wake BLAS's threads, which costs time and nothing else
    _controller = None

VARIABLE = "TINYGPT_THREADS"

# Elements (of float32) from which a second thread is worth waking: of a chain of many elementwise steps, and
# of a single step
CHAIN_GRAIN = 1 << 16
STEP_GRAIN = 1 << 19

Work = Callable[[int, int], None]
_queues: list[SimpleQueue[Any]] = []
_local = threading.local()


def thread_count() -> int:
    """Returns how many threads share out work: $TINYGPT_THREADS, else the cores this process may use, at most
    8.
    """
    return _count


def _read_thread_count() -> int:
    wanted = os.environ.get(VARIABLE, "")
    if wanted and not (wanted.isdecimal() and 1 <= int(wanted) <= 256):
        raise ValueError(f"${VARIABLE} is a number of threads from 1 to 256, not {wanted!r}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(wanted) if wanted else min(cores, 8)


_count = _read_thread_count()


def parallel_for(work: Work, count: int, grain: int = 1) -> None:
    """Calls `work(start, stop)` for ranges that make up range(count), on several threads where each gets at
    least `grain`.

    Args:
        work: must not depend on how the range is cut.
        count: how much there is to do.
        grain: the least that is worth waking a thread for, which takes about 20 microseconds.
    """
    parts = min(_count, count // max(grain, 1))
    if parts < 2:
        work(0, count)
        return
    ends = [count * i // parts for i in range(parts + 1)]
    while len(_queues) < parts - 1:
        _queues.append(_start_thread())
    done: SimpleQueue[BaseException | None] = SimpleQueue()
    for i in range(1, parts):
        _queues[i - 1].put((work, ends[i], ends[i + 1], done))
    try:
        work(0, ends[1])
    finally:
        problems = [done.get() for _ in range(1, parts)]
    for problem in problems:
        if problem is not None:
            raise problem


def _start_thread() -> SimpleQueue[Any]:
    """Starts a thread that does what is put into the queue, which is returned."""
    inbox: SimpleQueue[Any] = SimpleQueue()

    def loop() -> None:
        numpy.seterr(all="ignore")  # a thread has its own settings
        while True:
            work, start, stop, done = inbox.get()
            try:
                work(start, stop)
            except BaseException as problem:
                done.put(problem)
            else:
                done.put(None)
            del work, done  # the arrays that the closure refers to must not live until the next call

    threading.Thread(target=loop, name="tinygpt-accel", daemon=True).start()
    return inbox


if hasattr(os, "register_at_fork"):  # threads do not survive a fork, so the child starts its own
    os.register_at_fork(after_in_child=_queues.clear)


def workspace(slot: int, size: int, dtype: Any) -> Any:
    """Returns a flat array of `size` elements to scribble on, the same memory for a slot on each call of a
    thread.
    """
    arrays: dict[Any, Any] = _local.__dict__
    found = arrays.get((slot, dtype))
    if found is None or found.size < size:
        found = arrays[slot, dtype] = numpy.empty(size, dtype)
    return found[:size]


class _SingleThreadedBlas:
    """The context that `single_threaded_blas` returns: one for the whole process, since BLAS has one setting.

    So threads that are inside at once must not each put back what they found: the second would find what the
    first had set, and BLAS would keep to one thread for ever. The first sets it, and the last puts it back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._limit: Any = None

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0 and _controller is not None:
                self._limit = _controller.limit(limits=1, user_api="blas")
            self._inside += 1

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._limit.restore_original_limits()

    def forget(self) -> None:
        """Starts anew in a forked child, where the threads that were inside do not exist."""
        if self._inside:
            self._limit.restore_original_limits()
        self.__init__()  # type: ignore[misc]


_single_threaded_blas = _SingleThreadedBlas()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_single_threaded_blas.forget)


def reproducible_blas() -> AbstractContextManager[Any]:
    """Returns a context in which a product has the same bits however many threads the process has, which it
    does not have by itself: BLAS cuts sums by the number of its threads.

    Raises:
        RuntimeError: BLAS has several threads, and threadpoolctl is not there to set it to one.
    """
    if _controller is not None:
        return _single_threaded_blas
    if any(os.environ.get(name) == "1" for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")):
        return nullcontext()
    raise RuntimeError(
        "a batch in shards has the same bits on any number of processes only if BLAS keeps to one thread: "
        "pip install threadpoolctl, or set OPENBLAS_NUM_THREADS=1"
    )


def blas_name() -> str:
    """Returns which BLAS computes products, with its version and the kind of processor it computes for; two
    that differ in any of these may round differently.
    """
    if _controller is None:
        return "unknown"
    found = [library for library in _controller.info() if library.get("user_api") == "blas"]
    names = ("internal_api", "version", "architecture")
    return ", ".join(" ".join(str(library.get(name, "")) for name in names) for library in found)


def single_threaded_blas() -> AbstractContextManager[Any]:
    """Returns a context in which BLAS keeps to the calling thread: for many small products on threads of our
    own. It holds for the whole process, until the last thread has left it.
    """
    if _controller is None or _count == 1:
        return nullcontext()
    return _single_threaded_blas
