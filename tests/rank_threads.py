"""Several ranks in one process, each a thread: a stand-in for what connects real processes.

It is stricter than MPI: what is received is there after `wait` only, and a message of another length, or one
that nobody has sent, is an error.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from queue import Empty, SimpleQueue
from typing import Any, NoReturn

from tinygpt_core.buffer.base import Buffer
from tinygpt_core.training.communicator import CommunicationError, Communicator, Message, Pending


class Meeting:
    """What the threads of a run share."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.barrier = threading.Barrier(size)
        self.said: list[bytes] = [b""] * size
        self.mail: dict[tuple[int, int], SimpleQueue[Any]] = {
            (sender, receiver): SimpleQueue() for sender in range(size) for receiver in range(size)
        }


class _Arriving(Pending):
    def __init__(self, rank: ThreadRank, incoming: list[Message]) -> None:
        self.rank = rank
        self.incoming = incoming

    def test(self) -> bool:
        return not self.incoming

    def wait(self) -> None:
        for sender, memory in self.incoming:
            try:
                value = self.rank.meeting.mail[sender, self.rank.rank].get(timeout=self.rank.timeout)
            except Empty:
                raise CommunicationError(f"nothing came from {self.rank.who(sender)}") from None
            if value.shape != memory.shape or value.dtype is not memory.dtype:
                raise CommunicationError(f"{value.shape} was sent, {memory.shape} is received")
            memory.assign(value)
        self.incoming = []


class ThreadRank(Communicator):
    """One of the ranks."""

    name = "threads"
    timeout = 20.0

    def __init__(self, meeting: Meeting, rank: int) -> None:
        self.meeting = meeting
        self.rank = rank
        self.size = meeting.size
        self.hosts = ["here"] * meeting.size

    def memory(self, buffer: Buffer) -> Any:
        assert buffer.ndim == 1 and buffer.is_contiguous()
        return buffer

    def exchange(self, outgoing: Iterable[Message], incoming: Iterable[Message]) -> Pending:
        for receiver, memory in outgoing:
            assert receiver != self.rank
            self.meeting.mail[self.rank, receiver].put(memory.copy())
        return _Arriving(self, list(incoming))

    def all_gather(self, data: bytes) -> list[bytes]:
        self.meeting.said[self.rank] = data
        self.meeting.barrier.wait(self.timeout)
        found = list(self.meeting.said)
        self.meeting.barrier.wait(self.timeout)
        assert len({len(each) for each in found}) == 1, "all_gather is given equally long data"
        return found

    def abort(self, message: str, code: int = 1) -> NoReturn:
        self.meeting.barrier.abort()
        raise CommunicationError(message)


def run_ranks(size: int, work: Callable[[Communicator], Any]) -> list[Any]:
    """Calls `work` in `size` threads, each with its rank; returns what it returned, by rank.

    Raises:
        Exception: what a rank raised; of several, the first one that is no consequence of another.
    """
    meeting = Meeting(size)
    results: list[Any] = [None] * size
    problems: list[BaseException] = []
    broken: list[int] = []

    def run(rank: int) -> None:
        try:
            results[rank] = work(ThreadRank(meeting, rank))
        except threading.BrokenBarrierError:
            broken.append(rank)  # another rank has failed, or did not come
        except BaseException as problem:
            problems.append(problem)
            meeting.barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise problems[0]
    if broken:
        raise CommunicationError(f"ranks {broken} waited for another in vain")
    return results
