"""The plug-in's communicators without what they are made for: NCCL's logic against a stand-in that matches
and blocks as NCCL does, MPI on the emulated device, and what they say where they cannot run.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy
import pytest
from mpi_runs import log_of
from rank_threads import Meeting, ThreadRank, run_ranks
from test_sharding import SMALL

from tinygpt_accel.communicators import sentinel
from tinygpt_accel.communicators.mpi import (
    DeviceMemory,
    HostMemory,
    MPICommunicator,
    share_cores,
    wait_for_reader,
)
from tinygpt_accel.communicators.nccl import NCCLCommunicator, take_device
from tinygpt_core import Buffer, backends
from tinygpt_core.training import Trainer
from tinygpt_core.training.communicator import (
    ENTRY_POINT_GROUP,
    CommunicationError,
    Communicator,
    Launch,
    connect,
)


class Event:
    """An event on a stream, done when what was launched before it is."""

    def __init__(self) -> None:
        self._done = threading.Event()

    @property
    def done(self) -> bool:
        return self._done.is_set()


class Network:
    """What connects stand-ins: from each rank to each other a row of messages."""

    def __init__(self, size: int) -> None:
        self.rows: dict[tuple[int, int], queue.SimpleQueue[bytes]] = {
            (i, j): queue.SimpleQueue() for i in range(size) for j in range(size)
        }


class Device:
    """NCCL and a stream, without a GPU.

    As with NCCL, a group's sends and receives are launched together and run in the order of launches on a
    stream of their own, beside the host; a receive waits for a send of exactly its length; arrays are read
    and written when their turn comes, not when they are launched.
    """

    library = "stand-in 1.0"

    def __init__(self, network: Network, rank: int) -> None:
        self.network = network
        self.rank = rank
        self.problems: list[str] = []
        self.launched: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self._stream, daemon=True).start()

    def flat(self, buffer: Any) -> Any:
        return buffer.array.reshape(-1).view("uint8")

    def from_bytes(self, data: bytes) -> Any:
        return numpy.frombuffer(data, "uint8").copy()

    def to_bytes(self, array: Any) -> bytes:
        return bytes(array.tobytes())

    def exchange(self, sends: list[Any], receives: list[Any]) -> Event:
        event = Event()
        self.launched.put((sends, receives, event))
        return event

    def _stream(self) -> None:
        while True:
            sends, receives, event = self.launched.get()
            for peer, array in sends:  # a group: none of it waits for the rest
                self.network.rows[self.rank, peer].put(array.tobytes())
            for peer, array in receives:
                data = self.network.rows[peer, self.rank].get()
                if len(data) != array.size:
                    self.problems.append(f"{len(data)} bytes were sent, {array.size} are received")
                    return  # and hangs, as NCCL does
                array[:] = numpy.frombuffer(data, "uint8")
            event._done.set()


@pytest.mark.parametrize("has_control", [True, False])
@pytest.mark.parametrize("shard_optimizer", [False, True])
def test_nccl_gives_the_bits_of_one_process(tmp_path: Path, has_control: bool, shard_optimizer: bool) -> None:
    """With MPI for what is no array, and without."""
    config = replace(SMALL, backend="numpy", shards=3, steps=2)
    for _ in Trainer.start(config, str(tmp_path / "one")).run():
        pass
    network = Network(3)
    meeting = Meeting(3)
    devices = [Device(network, rank) for rank in range(3)]

    def work(threads: Communicator) -> str:
        control = ThreadRank(meeting, threads.rank) if has_control else None
        nccl = NCCLCommunicator(devices[threads.rank], control, threads.rank, 3, timeout=20.0)
        options: Any = {"communicator": nccl, "shard_optimizer": shard_optimizer}
        for _ in Trainer.start(config, str(tmp_path / "three"), **options).run():
            pass
        nccl.close()
        return nccl.describe()

    said = run_ranks(3, work)
    assert said[0].startswith("3 (nccl, stand-in 1.0): 3 on ")
    assert [device.problems for device in devices] == [[], [], []]
    assert log_of(tmp_path / "one") == log_of(tmp_path / "three")
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "three" / name).read_bytes()


def test_nccl_notices_a_rank_that_does_not_come() -> None:
    nccl = NCCLCommunicator(Device(Network(2), 0), ThreadRank(Meeting(2), 0), 0, 2, timeout=0.1)
    memory = nccl.memory(backends.get("numpy").zeros((4,)))
    pending = nccl.exchange([], [(1, memory)])
    assert not pending.test()
    with pytest.raises(CommunicationError, match=r"waited 0\.1 seconds for rank 1 of 2"):
        pending.wait()


class MadeForGPUs(Communicator):
    for_backends = ("cupy", "other")

    @staticmethod
    def why_not() -> str:
        return "GPUs are away"


class MadeForAny(Communicator):
    @staticmethod
    def why_not() -> str:
        return "any is away"


def test_a_run_gets_the_communicator_that_is_made_for_its_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    points = {
        "a-broken": EntryPoint("a-broken", "no_such_library_for_a_communicator", ENTRY_POINT_GROUP),
        "any": EntryPoint("any", f"{__name__}:MadeForAny", ENTRY_POINT_GROUP),
        "gpus": EntryPoint("gpus", f"{__name__}:MadeForGPUs", ENTRY_POINT_GROUP),
    }
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: list(points.values()))
    monkeypatch.setenv("PMI_RANK", "1")
    monkeypatch.setenv("PMI_SIZE", "2")
    for backend, reason in {"cupy": "GPUs", "other:1": "GPUs", "numpy": "any", "python": "any"}.items():
        with pytest.raises(CommunicationError, match=f"{reason} (is|are) away"):
            connect(None, backend)
    del points["any"]
    with pytest.raises(CommunicationError, match="nothing connects them"):
        connect(None, "numpy")


def test_nccl_is_for_gpus() -> None:
    with pytest.raises(CommunicationError, match="NCCL connects GPUs, and the numpy backend has none"):
        NCCLCommunicator.connect(Launch(0, 2, 0, 2, "mpiexec"), "numpy", 1.0)


@pytest.mark.parametrize(
    ("visible", "local_rank", "expected"),
    [("", 1, "1"), ("4,6,7", 2, "7"), ("5", 3, "5"), ("GPU-ab,GPU-cd", 0, "GPU-ab")],
)
def test_each_process_sees_its_own_gpu(visible: str, local_rank: int, expected: str) -> None:
    environment = {"CUDA_VISIBLE_DEVICES": visible} if visible else {}
    take_device(Launch(local_rank, 4, local_rank, 4, "srun"), environment)
    assert environment["CUDA_VISIBLE_DEVICES"] == expected


def test_a_process_without_a_gpu_is_told() -> None:
    with pytest.raises(CommunicationError, match="process 2 on this machine has no GPU"):
        take_device(Launch(2, 3, 2, 3, "srun"), {"CUDA_VISIBLE_DEVICES": "0,1"})
    with pytest.raises(CommunicationError, match="CUDA_VISIBLE_DEVICES is empty"):
        take_device(Launch(0, 2, 0, 2, "srun"), {"CUDA_VISIBLE_DEVICES": ""})


def test_torchruns_variables_connect_no_cpus() -> None:
    with pytest.raises(CommunicationError, match="process 1 of 2: they connect processes with a GPU each"):
        MPICommunicator.connect(Launch(1, 2, 1, 2, "torchrun"), "numpy", 1.0)


@pytest.mark.parametrize("name", ["python", "numpy"])
def test_memory_of_the_host_is_where_the_elements_lie(name: str) -> None:
    with backends.use(name):
        buffer = Buffer([1.0, 2.0, 3.0, 4.0])
        part = buffer[1:3]
        memory = HostMemory(part)
        assert bytes(memory.fetch()) == part.to_array().tobytes()
        memory.bytes[:] = Buffer([7.0, 8.0]).to_array().tobytes()
        memory.deliver()
        assert buffer.to_python() == [1.0, 7.0, 8.0, 4.0]


def test_memory_of_a_device_travels_through_the_host() -> None:
    pytest.importorskip("cuda_on_cpu.backend")
    kind: Any = backends.get("cuda-on-cpu")
    buffer = kind([1.0, 2.0, 3.0])
    memory = DeviceMemory(buffer)
    assert bytes(memory.fetch()) == buffer.to_array().tobytes()
    memory.bytes[:] = numpy.array([4, 5, 6], "float32").tobytes()
    assert buffer.to_python() == [1.0, 2.0, 3.0]
    memory.deliver()
    assert buffer.to_python() == [4.0, 5.0, 6.0]


def test_processes_share_the_cores_unless_the_environment_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import sys

    monkeypatch.delitem(sys.modules, "numpy")
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TINYGPT_THREADS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    # A container with eight of a machine's cores
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    for alone in (None, 1):
        share_cores(alone)
        assert "TINYGPT_THREADS" not in os.environ
    share_cores(4)
    assert (os.environ["OMP_NUM_THREADS"], os.environ["TINYGPT_THREADS"]) == ("3", "2")


def test_the_last_line_is_read_before_all_end() -> None:
    """A launcher that is slow to read gets what was said; where nobody reads, the wait has an end."""
    pytest.importorskip("fcntl", reason="this system has no way to ask what is unread")
    reader, writer = os.pipe()
    read: list[bytes] = []
    try:
        os.write(writer, b"tinygpt: error")
        thread = threading.Timer(0.3, lambda: read.append(os.read(reader, 100)))
        thread.start()
        wait_for_reader(writer)
        assert read == [b"tinygpt: error"]
        os.write(writer, b"again")
        started = time.monotonic()
        wait_for_reader(writer)
        assert time.monotonic() - started >= 2.0
    finally:
        os.close(reader)
        os.close(writer)


RANK = """
import sys, time
from tinygpt_accel.communicators import sentinel
print(*sentinel.lifeline(), flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="lifelines are looked at in /proc")
@pytest.mark.parametrize("killed", [0, 1, 2])
def test_a_sentinel_names_the_first_to_die_though_the_launcher_kills_the_others(
    killed: int, capfd: pytest.CaptureFixture[str]
) -> None:
    def rank() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", RANK], stdout=subprocess.PIPE, bufsize=0)

    with contextlib.ExitStack() as stack:
        ranks = [stack.enter_context(rank()) for _ in range(3)]
        stack.callback(lambda: [each.kill() for each in ranks])
        outputs = [each.stdout for each in ranks if each.stdout is not None]
        lines = [sentinel.Lifeline(*map(int, output.readline().split())) for output in outputs]
        watch = sentinel.start(dict(enumerate(lines)), 3, "here")
        assert watch, "no sentinel was started"
        ranks[killed].kill()
        select.select([outputs[killed]], [], [])  # as a launcher does: when it hears no more of one,
        for each in ranks:
            each.send_signal(signal.SIGKILL)  # at once all others
        os.waitpid(watch, 0)
    assert capfd.readouterr().err.count(f"tinygpt: error: rank {killed} of 3 (on here) has died") == 1


def test_without_files_to_look_at_there_is_no_sentinel() -> None:
    assert sentinel.start({0: sentinel.Lifeline(os.getpid(), -1)}, 1, "here") == 0
