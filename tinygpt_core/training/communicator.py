"""The processes that train one model together, as the training loop sees them.

A run may be several processes (ranks), on one machine or many. All that the loop and `sharding` ask of what
connects them is a `Communicator`; the class here is one process, which has nobody to talk to. MPI and NCCL
come from a plug-in that names a class under the entry-point group `tinygpt.communicators`, loaded only where
a launcher has started several processes, or where it is asked for:

    mpiexec -n 2 python3 -m tinygpt_core train

What a launcher has started is read from the environment (`launched`); nothing here starts processes.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from ..buffer.base import Buffer

ENTRY_POINT_GROUP = "tinygpt.communicators"
COLLECTIVE_TIMEOUT = 600.0  # seconds
HEAD_START = 1.0  # seconds: ranks that fail alike, such as all for want of a file, let rank 0 say so first

# A rank, and the memory that goes to it or comes from it: what `Communicator.memory` has returned
Message = tuple[int, Any]


class CommunicationError(RuntimeError):
    """The processes of a run cannot, or can no longer, work together; the message names who."""


class Launch(NamedTuple):
    """What a launcher has told this process.

    Attributes:
        rank, size: which process of how many this is.
        local_rank, local_size: the same, of those on this machine; None where the launcher does not say.
        launcher: "mpiexec", "srun" or "torchrun".
    """

    rank: int
    size: int
    local_rank: int | None
    local_size: int | None
    launcher: str


# The environment variables of rank and size, among all processes and on this machine, by launcher. Those that
# a launcher inside another one sets come first.
_VARIABLES = (
    (
        "mpiexec",  # Open MPI
        ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
        ("OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ),
    ("mpiexec", ("PMI_RANK", "PMI_SIZE"), ("MPI_LOCALRANKID", "MPI_LOCALNRANKS")),  # MPICH and its kin
    ("srun", ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"), ("SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE")),
    ("torchrun", ("RANK", "WORLD_SIZE"), ("LOCAL_RANK", "LOCAL_WORLD_SIZE")),
)


def launched(environment: Mapping[str, str] | None = None) -> Launch | None:
    """Returns what a launcher has told this process, or None where none has started more than one.

    Args:
        environment: default: that of the process.
    """
    known = os.environ if environment is None else environment
    for launcher, (rank, size), (local_rank, local_size) in _VARIABLES:
        numbers = [_number(known.get(name)) for name in (rank, size, local_rank, local_size)]
        if numbers[0] is not None and numbers[1] is not None and numbers[1] > 1:
            return Launch(numbers[0], numbers[1], numbers[2], numbers[3], launcher)
    return None


def _number(text: str | None) -> int | None:
    """Returns a count in a variable; SLURM writes "4(x2)" for four on each of two machines."""
    digits = (text or "").partition("(")[0]
    return int(digits) if digits.isascii() and digits.isdecimal() else None


class Pending:
    """What `Communicator.exchange` has begun. This one is over already."""

    def test(self) -> bool:
        """Whether all has been sent and received; also lets it go on. Waits for nothing."""
        return True

    def wait(self) -> None:
        """Waits until all has been sent and received.

        Raises:
            CommunicationError: it takes longer than the communicator's `timeout`.
        """


class Communicator:
    """The processes of a run, and this one's place among them. This class is a run of one process.

    A plug-in's subclass takes what `connect` gives it, and overrides `memory`, `exchange`, `all_gather`,
    `abort` and `close`; the others are made of these.

    Attributes:
        rank: of this process, from 0.
        size: how many there are.
        name: of the plug-in, or "".
        hosts: the name of the machine of each rank.
        timeout: the longest that one waits for another, in seconds.
        for_backends: the backends that it is made for; empty means any.
    """

    rank = 0
    size = 1
    name = ""
    hosts: Sequence[str] = ("",)
    timeout = COLLECTIVE_TIMEOUT
    for_backends: tuple[str, ...] = ()

    # ---- what a plug-in overrides

    def memory(self, buffer: Buffer) -> Any:
        """Returns the elements of a Buffer of any shape, which lie one after the other, as what `exchange`
        takes: they are read and written where they lie. It may be used many times.
        """
        return buffer

    def exchange(self, outgoing: Iterable[Message], incoming: Iterable[Message]) -> Pending:
        """Begins to send memory to ranks, and to receive memory from ranks, none of them this one.

        All ranks call it equally often and in the same order; of several messages between two ranks the
        first sent is the first received, and lengths agree. Memory is left alone until `wait`.

        Returns:
            The `Pending` to wait for.
        """
        return Pending()

    def all_gather(self, data: bytes) -> list[bytes]:
        """Returns what each rank gave, by rank; all of the same length. All ranks call it.

        Raises:
            CommunicationError: a rank does not come within `timeout`.
        """
        return [data]

    def abort(self, message: str, code: int = 1) -> NoReturn:
        """Ends all processes at once, after one line on the standard error stream.

        Args:
            message: why.
            code: the exit code.

        Raises:
            CommunicationError: the message, where this is the only process.
        """
        raise CommunicationError(message)

    def close(self) -> None:
        """Ends the work together; all ranks call it."""

    @property
    def library(self) -> str:
        """What carries the messages, with its version, such as "MPICH 5.0.2"."""
        return ""

    # ---- what is made of that

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that prints, writes and logs."""
        return self.rank == 0

    def gather(self, data: bytes) -> list[bytes]:
        """Returns what each rank gave, by rank, of any lengths. All ranks call it."""
        if self.size == 1:
            return [data]
        lengths = [int.from_bytes(length, "little") for length in self.all_gather(_length(data))]
        longest = max(lengths)
        found = self.all_gather(data.ljust(longest, b"\0")) if longest else [b""] * self.size
        return [each[:length] for each, length in zip(found, lengths, strict=True)]

    def broadcast(self, data: bytes) -> bytes:
        """Returns what rank 0 gave; what the others give does not count. All ranks call it."""
        return self.gather(data if self.is_first else b"")[0]

    def all_reduce(self, numbers: Sequence[float]) -> list[float]:
        """Returns the sums over the ranks of equally many numbers, each the exact sum, rounded once.

        So it does not depend on the order of the ranks. All ranks call it.
        """
        form = f"<{len(numbers)}d"
        found = [struct.unpack(form, data) for data in self.all_gather(struct.pack(form, *numbers))]
        return [_exact_sum(column) for column in zip(*found, strict=True)]

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank. All ranks call it, and get the same answer."""
        return flag if self.size == 1 else b"\1" in self.all_gather(b"\1" if flag else b"\0")

    def barrier(self) -> None:
        """Returns when all ranks have called it."""
        self.all_gather(b"\0")

    def describe(self) -> str:
        """Returns how many processes there are, and where, in a few words."""
        if self.size == 1:
            return "1"
        counts: dict[str, int] = {}
        for host in self.hosts:
            counts[host] = counts.get(host, 0) + 1
        places = ", ".join(f"{count} on {host}" for host, count in counts.items())
        library = f", {self.library}" if self.library else ""
        return f"{self.size} ({self.name}{library}): {places}"

    def who(self, rank: int | None = None) -> str:
        """Returns how messages name a rank, such as "rank 2 of 4 (on a)"; default: this one."""
        rank = self.rank if rank is None else rank
        return f"rank {rank} of {self.size} (on {self.hosts[rank]})"


ONE_PROCESS = Communicator()


def _length(data: bytes) -> bytes:
    return len(data).to_bytes(8, "little")


def _exact_sum(numbers: Sequence[float]) -> float:
    return math.fsum(numbers) if all(map(math.isfinite, numbers)) else sum(numbers)


# ---------------------------------------------------------------- which one


def available() -> list[tuple[str, str]]:
    """Returns the communicators that are installed, each with why it cannot be used here, or "".

    Imports neither MPI nor an array library.
    """
    found = []
    for name, point in _installed().items():
        try:
            found.append((name, str(point.load().why_not())))
        except Exception as problem:  # whatever a broken plug-in raises must not break the core
            found.append((name, f"its plug-in cannot be imported: {type(problem).__name__}: {problem}"))
    return found


def _installed() -> dict[str, Any]:
    """Returns the entry points of communicators, by name and in the order of the names."""
    from importlib.metadata import entry_points  # 20 ms to import, so only when someone asks

    points = sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda point: point.name)
    return {point.name: point for point in points}


def _made_for(backend: str, points: Mapping[str, Any]) -> str | None:
    """Returns the name of the communicator that is made for a backend, or else of the first that connects
    processes of any; None where there is neither.
    """
    for_any = None
    for name, point in points.items():
        try:
            made_for = point.load().for_backends
        except Exception:  # a broken plug-in, which `available` speaks of
            continue
        if backend.partition(":")[0] in made_for:
            return name
        if not made_for and for_any is None:
            for_any = name
    return for_any


def connect(
    name: str | None = None, backend: str = "python", timeout: float = COLLECTIVE_TIMEOUT
) -> Communicator:
    """Returns the communicator of this process: of one process unless a launcher has started several.

    Args:
        name: "mpi", "nccl" or another that is installed; "none" for one process, whatever was launched.
            Default: where several were launched, the one that is made for the backend, or else for any.
        backend: that the run is going to use.
        timeout: the longest that one process waits for another, in seconds.

    Raises:
        ValueError: there is no such communicator.
        CommunicationError: several processes were launched, and nothing here can connect them.
    """
    launch = launched()
    if name == "none" or (name is None and launch is None):
        return ONE_PROCESS
    points = _installed()
    chosen = name or _made_for(backend, points)
    if chosen not in points:
        advice = 'they come with: pip install . "./tinygpt_accel[mpi]" in the project\'s folder'
        if name is None and launch is not None:
            raise CommunicationError(f"{_nobody_connects(launch)}: {advice}")
        if points:
            advice = f"known are {', '.join(sorted(points))}, and none"
        raise ValueError(f"there is no communicator {name!r}: {advice}")
    try:
        kind = points[chosen].load()
    except Exception as problem:  # whatever a broken plug-in raises
        raise CommunicationError(
            f"the communicator {chosen!r} cannot be imported: {type(problem).__name__}: {problem}"
        ) from problem
    reason = kind.why_not()
    if reason:
        what = f"the communicator {chosen!r} cannot be used" if launch is None else _nobody_connects(launch)
        raise CommunicationError(f"{what}: {reason}")
    connected: Communicator = kind.connect(launch, backend, timeout)
    return connected


def _nobody_connects(launch: Launch) -> str:
    place = f"{launch.rank} of {launch.size} that {launch.launcher} started"
    return f"this is process {place}, and nothing connects them"


# ---------------------------------------------------------------- agreement


def require_agreement(communicator: Communicator, facts: Mapping[str, Any]) -> None:
    """Checks that all ranks know the same facts; all call it, and get the same answer.

    Args:
        facts: JSON values by what to call them. Of a dict in it, the first entry that differs is named.

    Raises:
        CommunicationError: a rank knows something else than most do; the message names it, and what.
    """
    if communicator.size == 1:
        return
    import json

    found = [json.loads(data) for data in communicator.gather(json.dumps(_flat(facts)).encode())]
    for name in dict.fromkeys(name for each in found for name in each):
        values = [each.get(name, "missing") for each in found]
        usual = max(values, key=values.count)
        for rank, value in enumerate(values):
            if value != usual:
                raise CommunicationError(
                    f"{communicator.who(rank)} differs from the others: "
                    f"its {name} is {value}, theirs is {usual}; "
                    "all processes of a run need the same settings, data and versions"
                )


def _flat(facts: Mapping[str, Any]) -> dict[str, str]:
    """Returns facts as text, with "NAME KEY" for an entry KEY of a dict."""
    flat = {}
    for name, value in facts.items():
        if isinstance(value, Mapping):
            flat.update({f"{name} {key}": str(entry) for key, entry in value.items()})
        else:
            flat[name] = str(value)
    return flat
