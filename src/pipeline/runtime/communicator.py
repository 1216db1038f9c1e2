"""How processes talk: four collective operations on tensors, with two implementations that need no launcher.

Distributed science is serial science plus a partition; what it asks of the outside is a `Communicator`. `Serial` is one
process; `run_in_threads` gives any number of processes inside one, for tests. The real ones are in `mpi.py` and
`torch_group.py`.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Communicator(Protocol):
    """A group of processes; every method is collective and called by all of them in the same order."""

    @property
    def rank(self) -> int:
        """This process's number, from 0."""

    @property
    def size(self) -> int:
        """How many processes there are."""

    def all_reduce(self, tensor: Tensor) -> None:
        """Replace a contiguous tensor by its sum over the processes, bit-equal on all of them."""

    def broadcast(self, tensor: Tensor, source: int) -> None:
        """Replace a contiguous tensor by that of process `source`."""

    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        """Return every process's tensor, in order; the first dimensions may differ."""

    def barrier(self) -> None:
        """Wait for all processes."""


class Serial:
    """The group of one process."""

    rank = 0
    size = 1

    def all_reduce(self, tensor: Tensor) -> None:
        """Leave the tensor as it is."""

    def broadcast(self, tensor: Tensor, source: int) -> None:
        """Leave the tensor as it is."""

    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        """Return the one tensor."""
        return [tensor]

    def barrier(self) -> None:
        """Return at once."""


@dataclass
class _Meeting:
    """What the threads of one group share: a table with a place for each and a barrier around it."""

    size: int
    places: list[Tensor | None] = field(init=False)
    barrier: threading.Barrier = field(init=False)

    def __post_init__(self) -> None:
        self.places = [None] * self.size
        self.barrier = threading.Barrier(self.size)


@dataclass(frozen=True)
class Threads:
    """One of several threads that behave as processes."""

    rank: int
    meeting: _Meeting

    @property
    def size(self) -> int:
        return self.meeting.size

    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        self.meeting.places[self.rank] = tensor.clone()
        self.meeting.barrier.wait()
        gathered = [place.clone() for place in self.meeting.places if place is not None]
        self.meeting.barrier.wait()
        return gathered

    def all_reduce(self, tensor: Tensor) -> None:
        tensor.copy_(torch.stack(self.all_gather(tensor)).sum(dim=0))

    def broadcast(self, tensor: Tensor, source: int) -> None:
        tensor.copy_(self.all_gather(tensor)[source])

    def barrier(self) -> None:
        self.meeting.barrier.wait()


def run_in_threads(n_processes: int, work: Callable[[Communicator], T]) -> list[T]:
    """Call `work` once per process, each in a thread of its own, and return the results in rank order.

    A failure in one thread breaks the barrier of the others and is raised here.
    """
    meeting = _Meeting(n_processes)
    results: dict[int, T] = {}
    failures: list[BaseException] = []

    def run(rank: int) -> None:
        try:
            results[rank] = work(Threads(rank, meeting))
        except threading.BrokenBarrierError:
            pass
        except BaseException as failure:
            failures.append(failure)
            meeting.barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(n_processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return [results[rank] for rank in range(n_processes)]
