"""The entry point `tinygpt.communicators: nccl`: processes with a GPU each. CuPy is imported when a run
connects, never before.

NCCL sends from device to device and knows no hosts, no names and no end: what is said once in a while (who is
there, whether they agree, an abort) goes another way. With mpiexec and srun that is MPI, which also carries
NCCL's unique id. With torchrun's variables it is NCCL itself, and the id comes from CuPy's store at
MASTER_ADDR and MASTER_PORT.

A training step in shards is launched piece by piece and never recorded as a CUDA graph: the host has to
notice a rank that does not come, and cannot while a graph holds the device.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterable, MutableMapping
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

from .mpi import MPICommunicator, share_cores, wait_until

VISIBLE = "CUDA_VISIBLE_DEVICES"


class NCCLPending(Pending):
    """Messages of NCCL that are under way on a stream; `done` is the event behind them there."""

    def __init__(self, communicator: NCCLCommunicator, done: Any, peers: list[int]) -> None:
        self.communicator = communicator
        self.done = done
        self.peers = peers

    def test(self) -> bool:
        """Whether all has been sent and received."""
        return bool(self.done.done)

    def wait(self) -> None:
        """Waits until all has been sent and received.

        Raises:
            CommunicationError: it takes longer than the communicator's `timeout`.
        """
        wait_until(self.communicator, self.test, lambda: self.peers)


class NCCLCommunicator(Communicator):
    """Processes with a GPU each, connected by NCCL.

    Args:
        device: what sends and receives arrays, see `CupyDevice`.
        control: what carries everything that is no array, such as an `MPICommunicator`; None for NCCL itself.
        rank, size: of this process, where there is no `control`.
        timeout: the longest that one process waits for another, in seconds.
    """

    name = "nccl"
    for_backends = ("cupy",)

    def __init__(
        self, device: Any, control: Communicator | None, rank: int, size: int, timeout: float
    ) -> None:
        self.device = device
        self.control = control
        self.timeout = timeout
        self.rank = rank
        self.size = size
        if control is not None:
            self.hosts = control.hosts
        else:
            self.hosts = [""] * size
            self.hosts = [data.decode() for data in self.gather(socket.gethostname().encode())]

    # ---- how a run gets one

    @staticmethod
    def why_not() -> str:
        """Returns why it cannot be used here, or ""; imports nothing."""
        if find_spec("cupy") is None:
            return (
                'CuPy is not installed: pip install . "./tinygpt_accel[cuda13]", and see `tinygpt backends`'
            )
        return ""

    @classmethod
    def connect(cls, launch: Launch | None, backend: str, timeout: float) -> NCCLCommunicator:
        """Returns the communicator of all processes that were launched, each of which takes a GPU of its own.

        Raises:
            CommunicationError: the run's backend is none for GPUs, or they cannot be connected.
        """
        if backend.partition(":")[0] not in cls.for_backends:
            raise CommunicationError(
                f"NCCL connects GPUs, and the {backend} backend has none: --communicator mpi"
            )
        take_device(launch, os.environ)
        control = None
        if launch is None or launch.launcher != "torchrun":
            control = MPICommunicator.connect(launch, backend, timeout)
        else:
            share_cores(launch.local_size)
        rank = control.rank if control is not None else launch.rank if launch is not None else 0
        size = control.size if control is not None else launch.size if launch is not None else 1
        try:
            device = CupyDevice(rank, size, control)
        except Exception as problem:  # CuPy and NCCL raise many kinds
            message = f"NCCL cannot connect {size} processes: {type(problem).__name__}: {problem}"
            raise CommunicationError(message) from problem
        return cls(device, control, rank, size, timeout)

    # ---- messages

    def memory(self, buffer: Buffer) -> Any:
        return self.device.flat(buffer)

    def exchange(self, outgoing: Iterable[Message], incoming: Iterable[Message]) -> Pending:
        sends, receives = list(outgoing), list(incoming)
        done = self.device.exchange(sends, receives)
        return NCCLPending(self, done, [rank for rank, _ in receives])

    def all_gather(self, data: bytes) -> list[bytes]:
        if self.control is not None:
            return self.control.all_gather(data)
        own = self.device.from_bytes(data)
        found = [self.device.from_bytes(data) for _ in range(self.size)]
        others = [rank for rank in range(self.size) if rank != self.rank]
        if data:
            self.exchange([(rank, own) for rank in others], [(rank, found[rank]) for rank in others]).wait()
        return [self.device.to_bytes(array) for array in found]

    # ---- the end

    def abort(self, message: str, code: int = 1) -> NoReturn:
        if self.control is not None:
            self.control.abort(message, code)
        if self.rank:
            time.sleep(HEAD_START)
        print(f"tinygpt: error: {self.who()}: {message}", file=sys.stderr, flush=True)
        os._exit(code)  # torchrun ends the others

    def close(self) -> None:
        if self.control is not None:
            self.control.close()
        else:
            self.barrier()

    @property
    def library(self) -> str:
        return str(self.device.library)


class CupyDevice:
    """This process's GPU, as `NCCLCommunicator` uses it: NCCL on a stream of its own, beside the one that
    computes.

    Args:
        rank, size: of this process.
        control: what carries the unique id by which NCCL's processes find each other; None for CuPy's store.
    """

    def __init__(self, rank: int, size: int, control: Communicator | None) -> None:
        import cupy
        from cupy.cuda import nccl

        self.xp = cupy
        self.nccl = nccl
        self.stream = cupy.cuda.Stream(non_blocking=True)
        if control is None:
            from cupyx.distributed import init_process_group

            host = os.environ.get("MASTER_ADDR", "127.0.0.1")
            port = int(os.environ.get("MASTER_PORT", "13333"))
            self.group = init_process_group(size, rank, host=host, port=port)
            self.comm = self.group._comm
        else:
            # An id is 128 signed bytes
            unique = bytes(byte % 256 for byte in nccl.get_unique_id()) if rank == 0 else b""
            found = control.broadcast(unique)
            self.comm = nccl.NcclCommunicator(
                size, tuple(byte - 256 if byte > 127 else byte for byte in found), rank
            )
        number = nccl.get_version()
        self.library = f"NCCL {number // 10000}.{number // 100 % 100}.{number % 100}"

    def flat(self, buffer: Any) -> Any:
        """Returns the elements of a Buffer as a flat array of bytes that shares them."""
        return buffer.array.reshape(-1).view("uint8")

    def from_bytes(self, data: bytes) -> Any:
        """Returns bytes as an array on the device."""
        return self.xp.frombuffer(data, "uint8").copy()

    def to_bytes(self, array: Any) -> bytes:
        """Returns an array of bytes on the device as bytes."""
        return bytes(self.xp.asnumpy(array).tobytes())

    def exchange(self, sends: list[Message], receives: list[Message]) -> Any:
        """Launches sends and receives behind what was computed so far, as one group, in which none waits for
        another; what is computed from now on goes on beside them.

        Returns:
            The event behind them.
        """
        self.stream.wait_event(self.xp.cuda.get_current_stream().record())
        address = self.stream.ptr
        self.nccl.groupStart()
        for rank, array in receives:
            self.comm.recv(array.data.ptr, array.size, self.nccl.NCCL_UINT8, rank, address)
        for rank, array in sends:
            self.comm.send(array.data.ptr, array.size, self.nccl.NCCL_UINT8, rank, address)
        self.nccl.groupEnd()
        return self.stream.record()


def take_device(launch: Launch | None, environment: MutableMapping[str, str]) -> None:
    """Lets this process see one GPU only, its own: the one of its number among the processes of the machine.

    It must come before CUDA is used. A launcher may have given it one already.

    Raises:
        CommunicationError: the environment shows no GPU, or fewer than there are processes on this machine.
    """
    if launch is None or launch.local_rank is None:
        return
    if environment.get(VISIBLE) == "":
        raise CommunicationError(f"{VISIBLE} is empty, which hides all GPUs: unset it, or --communicator mpi")
    visible = [name for name in environment.get(VISIBLE, "").split(",") if name]
    if len(visible) == 1:
        return
    if visible and launch.local_rank >= len(visible):
        raise CommunicationError(
            f"process {launch.local_rank} on this machine has no GPU: {VISIBLE} has {len(visible)}, "
            "and each process needs one"
        )
    environment[VISIBLE] = visible[launch.local_rank] if visible else str(launch.local_rank)
