"""The entry point `tinygpt.communicators: mpi`. mpi4py is imported when a run connects, never before.

Messages are memory that both sides know the length of, so nothing is pickled. Waiting is done by asking again
and again, with pauses that grow, and not inside MPI: so Ctrl-C is heard while a rank waits, ranks that have
no core of their own do not take one from those they wait for, and a rank that does not come is noticed.

MPI reads and writes memory of the host. What lies on a device is copied to the host before it is sent, which
waits for the device's stream, and back after it was received; `nccl` is the communicator for GPUs.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from array import array
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from typing import Any, NoReturn

from tinygpt_core.buffer.base import Buffer
from tinygpt_core.training.communicator import (
    HEAD_START,
    CommunicationError,
    Communicator,
    Launch,
    Message,
    Pending,
)

from . import sentinel

# Looks at what is under way without a pause, which also moves it, as long as this; then with pauses (seconds)
SPIN_SECONDS = 5e-3
SHORTEST_PAUSE = 20e-6
LONGEST_PAUSE = 200e-6
READING = 0.1  # in which a launcher hands on what it has read
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class HostMemory:
    """The elements of a Buffer in the host's memory, as MPI takes them: bytes, where they lie."""

    def __init__(self, buffer: Buffer) -> None:
        size = buffer.numel * buffer.dtype.itemsize
        start = buffer.offset * buffer.dtype.itemsize
        self.bytes: Any = memoryview(buffer.data).cast("B")[start : start + size]

    def fetch(self) -> Any:
        """Returns the bytes to send."""
        return self.bytes

    def deliver(self) -> None:
        """Takes over bytes that were received."""


class DeviceMemory:
    """The elements of a Buffer on a device, and memory of the host that they travel through."""

    def __init__(self, buffer: Any) -> None:
        import numpy

        self.buffer = buffer
        self.host: Any = numpy.empty(buffer.shape, buffer.dtype.name)
        self.bytes: Any = memoryview(self.host.data).cast("B")

    def fetch(self) -> Any:
        """Returns the bytes to send, when the device has computed them."""
        self.host[...] = self.buffer.to_host(self.buffer.array)
        return self.bytes

    def deliver(self) -> None:
        """Copies what was received to the device."""
        self.buffer.upload(self.buffer.array, self.host)


class MPIPending(Pending):
    """Messages of MPI that are under way."""

    def __init__(
        self, communicator: MPICommunicator, requests: list[Any], peers: list[int], arriving: list[Any]
    ) -> None:
        self.communicator = communicator
        self.requests = requests
        self.peers = peers  # of the first requests: those from whom something is received
        self.arriving = arriving

    def test(self) -> bool:
        """Whether all has been sent and received."""
        return bool(self.communicator.all_done(self.requests))

    def wait(self) -> None:
        """Waits until all has been sent and received.

        Raises:
            CommunicationError: it takes longer than the communicator's `timeout`.
        """
        self.communicator.wait_for(self.requests, self.peers)
        for memory in self.arriving:
            memory.deliver()
        self.arriving = []


class MPICommunicator(Communicator):
    """The processes that mpiexec or srun has started, connected by MPI.

    Args:
        mpi: the module `mpi4py.MPI`.
        timeout: the longest that one process waits for another, in seconds.
        watches: whether a sentinel shall say which rank has died, where the launcher does not.

    Attributes:
        on_these_cores: how many processes may use the cores that this one may use, itself included.
    """

    name = "mpi"

    def __init__(self, mpi: Any, timeout: float, watches: bool = False) -> None:
        self._mpi = mpi
        self._world = mpi.COMM_WORLD.Dup()  # messages of others in this process cannot be taken for ours
        self._world.Set_errhandler(mpi.ERRORS_RETURN)
        self.all_done = mpi.Request.Testall
        self.timeout = timeout
        self.rank = self._world.Get_rank()
        self.size = self._world.Get_size()
        self.hosts = [""] * self.size
        self._watch: int | None = None
        self._spin_seconds = 0.0
        cores = ",".join(map(str, usable_cores()))
        about = f"{socket.gethostname()}\0{cores}".encode()
        known = [data.decode().split("\0") for data in self.gather(about)]
        self.hosts = [host for host, _ in known]
        self.on_these_cores = sum((host, its) == (self.hosts[self.rank], cores) for host, its in known)
        if self.on_these_cores <= len(usable_cores()):  # or else it would keep from work those it waits for
            self._spin_seconds = SPIN_SECONDS
        self._watch = self._start_sentinel() if watches else None

    def _start_sentinel(self) -> int | None:
        """Lets the first rank of each machine start a sentinel; all ranks there learn its number."""
        own = " ".join(map(str, sentinel.lifeline()))
        lifelines = [sentinel.Lifeline(*map(int, data.split())) for data in self.gather(own.encode())]
        here = [rank for rank in range(self.size) if self.hosts[rank] == self.hosts[self.rank]]
        started = 0
        if here[0] == self.rank:
            lines = {rank: lifelines[rank] for rank in here}
            started = sentinel.start(lines, self.size, self.hosts[self.rank])
        found = [int(data) for data in self.gather(str(started).encode())]
        return found[here[0]] or None

    # ---- how a run gets one

    @staticmethod
    def why_not() -> str:
        """Returns why it cannot be used here, or ""; imports nothing."""
        if find_spec("mpi4py") is None:
            return 'mpi4py is not installed: pip install . "./tinygpt_accel[mpi]" mpich'
        return ""

    @classmethod
    def connect(cls, launch: Launch | None, backend: str, timeout: float) -> MPICommunicator:
        """Returns the communicator of all processes that MPI knows.

        Raises:
            CommunicationError: MPI cannot be loaded, or does not know the processes that were launched.
        """
        if launch is not None and launch.launcher == "torchrun":
            raise CommunicationError(
                f"torchrun's variables say that this is process {launch.rank} of {launch.size}: they "
                "connect processes with a GPU each (--backend cupy); on CPUs use mpiexec or srun"
            )
        try:
            from mpi4py import MPI
        except (ImportError, RuntimeError) as problem:  # mpi4py without a library of MPI
            raise CommunicationError(
                f"MPI cannot be loaded ({problem}): "
                'pip install . "./tinygpt_accel[mpi]" mpich, or use an MPI of your system'
            ) from problem
        if launch is not None and MPI.COMM_WORLD.Get_size() != launch.size:
            library = MPI.Get_library_version().split("\n")[0]
            raise CommunicationError(
                f"{launch.launcher} has started {launch.size} processes, and MPI ({library.strip()}) knows "
                f"{MPI.COMM_WORLD.Get_size()}: start them with the mpiexec of that MPI"
            )
        is_hydra = "PMI_FD" in os.environ or "PMI_PORT" in os.environ  # MPICH's mpiexec names no rank
        connected = cls(MPI, timeout, watches=is_hydra)
        share_cores(connected.on_these_cores)
        return connected

    # ---- messages

    def memory(self, buffer: Buffer) -> Any:
        return DeviceMemory(buffer) if hasattr(type(buffer), "upload") else HostMemory(buffer)

    def exchange(self, outgoing: Iterable[Message], incoming: Iterable[Message]) -> Pending:
        requests = []
        peers = []
        arriving = []
        for rank, memory in incoming:
            requests.append(self._world.Irecv(memory.bytes, rank, 1))
            peers.append(rank)
            arriving.append(memory)
        for rank, memory in outgoing:
            requests.append(self._world.Isend(memory.fetch(), rank, 1))
        return MPIPending(self, requests, peers, arriving)

    def all_gather(self, data: bytes) -> list[bytes]:
        size = len(data)
        found = bytearray(size * self.size)
        self.wait_for([self._world.Iallgather(data, found)], ())
        return [bytes(found[start : start + size]) for start in range(0, len(found), size or 1)]

    def wait_for(self, requests: list[Any], peers: Sequence[int]) -> None:
        """Waits until requests of MPI are done.

        Args:
            peers: from whom the first of them receive.

        Raises:
            CommunicationError: it takes longer than `timeout`; the message names those who have not sent.
        """
        until = time.monotonic() + self._spin_seconds
        while not self.all_done(requests):
            if time.monotonic() > until:
                break
        else:
            return

        def late() -> list[int]:
            return [rank for rank, request in zip(peers, requests, strict=False) if not request.Test()]

        wait_until(self, lambda: bool(self.all_done(requests)), late)

    # ---- the end

    def abort(self, message: str, code: int = 1) -> NoReturn:
        if self.rank:
            time.sleep(HEAD_START)
        sentinel.stop(self._watch)
        print(f"tinygpt: error: {self.who()}: {message}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        wait_for_reader(sys.stderr.fileno())
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what MPI says of an Abort is not for people
        self._mpi.COMM_WORLD.Abort(code)
        os._exit(code)  # where MPI cannot reach its launcher

    def close(self) -> None:
        self.barrier()
        sentinel.stop(self._watch)
        self.barrier()  # nobody ends before all sentinels have

    @property
    def library(self) -> str:
        words = self._mpi.Get_library_version().replace("Version:", "").replace(",", " ").split()
        number = next((word.strip("v") for word in words if word.strip("v")[:1].isdigit()), "")
        return f"{self._mpi.get_vendor()[0]} {number}".strip()


def wait_until(
    communicator: Communicator, is_done: Callable[[], bool], late: Callable[[], Iterable[int]]
) -> None:
    """Waits until something is done, with pauses that grow.

    Args:
        communicator: whose `timeout` it is.
        is_done: whether it is.
        late: gives the ranks that have not come.

    Raises:
        CommunicationError: it takes longer than the timeout; the message names those who are late.
    """
    deadline = time.monotonic() + communicator.timeout
    pause = SHORTEST_PAUSE
    while not is_done():
        if time.monotonic() > deadline:
            names = ", ".join(map(communicator.who, dict.fromkeys(late()))) or "the others"
            raise CommunicationError(
                f"waited {communicator.timeout:g} seconds for {names}: dead, cut off, or too slow "
                "(--collective-timeout allows more)"
            )
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def wait_for_reader(file: int) -> None:
    """Waits, two seconds at most, until nothing that was written to a pipe is unread, and a moment longer: a
    launcher that is told to end all may end before it has handed on the last line.
    """
    try:
        from fcntl import ioctl
        from termios import FIONREAD
    except ImportError:
        return  # a system without them
    unread = array("i", [1])
    deadline = time.monotonic() + 2.0
    while unread[0] and time.monotonic() < deadline:
        try:
            ioctl(file, FIONREAD, unread)
        except OSError:
            return  # no pipe
        time.sleep(READING)


def usable_cores() -> list[int]:
    """Returns the numbers of the cores that this process may use: all, or those that a launcher or a
    container has left it.
    """
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def share_cores(processes: int | None) -> None:
    """Gives each of the processes that may use the same cores its share of them, unless the environment says
    otherwise.

    It must come before NumPy is imported, whose libraries read it once.

    Args:
        processes: how many they are; None where nobody knows.
    """
    if not processes or processes == 1 or "numpy" in sys.modules:
        return
    share = max(1, len(usable_cores()) // processes)
    for name in (*THREAD_VARIABLES, "TINYGPT_THREADS"):
        os.environ.setdefault(name, str(min(share, 8)))
