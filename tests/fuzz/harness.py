"""One damaged input, and what is demanded of its reader."""

from __future__ import annotations

import gc
import os
import signal
import time
import tracemalloc
import warnings
from contextlib import suppress
from pathlib import Path

from .mutations import Mutation, mutated
from .targets import Target

MOST_SECONDS = 2.0  # of this thread, for one input
MEASURING_SECONDS = 60  # by the clock, after which a process that measures memory is ended
MOST_BYTES = 50_000_000  # beyond the size of the files
LONGEST_MESSAGE = 5_000  # characters


class Fuzzed:
    """A reader with its valid files in a folder; `check` damages one of them, reads, and puts it back.

    Args:
        target: the reader.
        folder: an empty one.

    Attributes:
        count: how many inputs were read.
    """

    def __init__(self, target: Target, folder: Path) -> None:
        self.target = target
        self.folder = folder
        self.count = 0
        target.write(folder)
        self.valid = {name: (folder / name).read_bytes() for name in target.damaged}
        self._read()  # what is not damaged is read without an error

    def check(self, file: int, mutations: list[Mutation], measure_memory: bool = True) -> None:
        """Reads the folder with its file number `file` damaged.

        Args:
            measure_memory: whether memory is measured, too. That makes Python up to thirteen times as slow,
                so a forked process does it, before the time is taken here.

        Raises:
            AssertionError: an error that is not documented, or too much time or memory.
        """
        name = self.target.damaged[file % len(self.target.damaged)]
        data = mutated(self.valid[name], mutations)
        path = self.folder / name
        path.write_bytes(data)
        peak = self._peak() if measure_memory else 0
        start = time.thread_time()
        try:
            self._read()
        except (*self.target.errors, OSError) as problem:
            is_foreign = isinstance(problem, (UnicodeError, NotImplementedError))
            assert not is_foreign, f"{name}: {type(problem).__name__}: {problem}"
            assert len(str(problem)) <= LONGEST_MESSAGE, (
                f"{name}: a message of {len(str(problem)):,} characters"
            )
        except Exception as problem:
            raise AssertionError(f"{name}: {type(problem).__name__}: {problem!s:.500}") from problem
        finally:
            seconds = time.thread_time() - start
            path.write_bytes(self.valid[name])
        self.count += 1
        assert seconds <= MOST_SECONDS, f"{name}: {seconds:.1f} seconds"
        size = len(data) + sum(map(len, self.valid.values()))
        assert peak <= MOST_BYTES + size, f"{name}: {peak:,} bytes of memory for {size:,} of the files"

    def _peak(self) -> int:
        """Returns the bytes of memory that reading takes at most, in a process whose caches are as empty as
        those here. What else is wrong is found out here.
        """
        reading, writing = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of threads, which a fork does not take along
            process = os.fork()
        if process == 0:
            try:
                signal.alarm(MEASURING_SECONDS)
                tracemalloc.start()
                with suppress(Exception):
                    self._read()
                os.write(writing, b"%d" % tracemalloc.get_traced_memory()[1])
            finally:
                os._exit(0)
        os.close(writing)
        with open(reading, "rb") as answer:
            found = answer.read()
        os.waitpid(process, 0)
        assert found, f"its memory could not be measured within {MEASURING_SECONDS} seconds"
        return int(found)

    def _read(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.target.read(self.folder)
        if self.count % 1000 == 0:
            gc.collect()
