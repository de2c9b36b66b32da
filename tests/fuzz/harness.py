"""One damaged input, and what is demanded of its reader."""

from __future__ import annotations

import gc
import time
import tracemalloc
import warnings
from pathlib import Path

from .mutations import Mutation, mutated
from .targets import Target

MOST_SECONDS = 2.0  # of this thread, for one input, while memory is not measured
MOST_SECONDS_MEASURED = 20.0  # measuring makes Python up to thirteen times as slow
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
            measure_memory: whether memory is measured, and the time only roughly; what is read twice would be
                found in a cache.

        Raises:
            AssertionError: an error that is not documented, or too much time or memory.
        """
        name = self.target.damaged[file % len(self.target.damaged)]
        data = mutated(self.valid[name], mutations)
        path = self.folder / name
        path.write_bytes(data)
        if measure_memory:
            tracemalloc.start()
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
            peak = tracemalloc.get_traced_memory()[1]  # 0 where it is not measured
            tracemalloc.stop()
            path.write_bytes(self.valid[name])
        self.count += 1
        most = MOST_SECONDS_MEASURED if measure_memory else MOST_SECONDS
        assert seconds <= most, f"{name}: {seconds:.1f} seconds"
        size = len(data) + sum(map(len, self.valid.values()))
        assert peak <= MOST_BYTES + size, f"{name}: {peak:,} bytes of memory for {size:,} of the files"

    def _read(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.target.read(self.folder)
        if self.count % 1000 == 0:
            gc.collect()
