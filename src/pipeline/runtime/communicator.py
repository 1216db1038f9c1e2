"""Communication of processes: six collective operations on tensors, with two implementations that need no launcher.

A distributed computation is the serial one plus a partition; all that it needs from outside is a `Communicator`.
`Serial` is one process; `run_in_threads` runs any number of processes inside one, for tests. The real ones are in
`mpi.py`, `torch_group.py` and, for processes of one node, `node_group.py`.
"""

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from pipeline.runtime.letters import head, lengths_of
from pipeline.runtime.turns import AtOnce, Turns
from pipeline.runtime.words import shown

T = TypeVar("T")

_VERBS = "all_reduce", "reduce", "broadcast", "all_gather", "exchange", "barrier"


class Communicator(Protocol):
    """A group of processes; every method is collective and called by all of them in the same order."""

    @property
    def rank(self) -> int:
        """This process's number, from 0."""

    @property
    def size(self) -> int:
        """The number of processes."""

    def all_reduce(self, tensor: Tensor) -> None:
        """Replace a contiguous tensor by its sum over the processes, bit-equal on all of them."""

    def reduce(self, tensor: Tensor, destination: int) -> None:
        """Replace a contiguous tensor on process `destination` by its sum over the processes; the others' is lost."""

    def broadcast(self, tensor: Tensor, source: int) -> None:
        """Replace a contiguous tensor by the one of process `source`."""

    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        """Return every process's tensor, in order; first dimensions may differ, but different types are a TypeError."""

    def exchange(self, sent: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """Send a tensor to each of some processes, and return the tensors that were sent to this one.

        Tensors may have any types and shapes. Pairs that exchange nothing cost no message.

        Args:
            sent: Tensors by destination, which may be this process itself.

        Returns:
            Tensors by source, in ascending order of the sources, on the CPU or where the senders' tensors were.
        """

    def barrier(self) -> None:
        """Wait for all processes."""


class Serial:
    """The group of one process."""

    rank = 0
    size = 1

    def all_reduce(self, tensor: Tensor) -> None:
        """Leave the tensor as it is."""

    def reduce(self, tensor: Tensor, destination: int) -> None:
        """Leave the tensor as it is."""

    def broadcast(self, tensor: Tensor, source: int) -> None:
        """Leave the tensor as it is."""

    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        """Return the one tensor."""
        return [tensor]

    def exchange(self, sent: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """Return the tensor that this process sent to itself, if any."""
        require_ranks(sent, self.size)
        return {source: tensor.clone() for source, tensor in sent.items()}

    def barrier(self) -> None:
        """Return at once."""


@dataclass(frozen=True)
class Counting:
    """A communicator that counts its messages.

    Attributes:
        n_bytes: Bytes of this process's tensors, by operation.
        n_calls: Calls, by operation.
        waiting: Seconds inside calls, by operation, until the other processes and their tensors have arrived.
        level_bytes, level_calls, level_waiting: The same by level of a tree, for calls inside `on_level`; only with
            several processes, since a single one sends nothing.
    """

    inner: Communicator
    n_bytes: Counter[str] = field(default_factory=Counter)
    n_calls: Counter[str] = field(default_factory=Counter)
    waiting: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    level_bytes: Counter[int] = field(default_factory=Counter)
    level_calls: Counter[int] = field(default_factory=Counter)
    level_waiting: defaultdict[int, float] = field(default_factory=lambda: defaultdict(float))
    _levels: list[int] = field(default_factory=list, repr=False)

    @property
    def rank(self) -> int:
        return self.inner.rank

    @property
    def size(self) -> int:
        return self.inner.size

    @contextmanager
    def _counted(self, operation: str, *tensors: Tensor) -> Iterator[None]:
        passed, n_calls = sum(tensor.numel() * tensor.element_size() for tensor in tensors), len(tensors)
        self.n_bytes[operation] += passed
        self.n_calls[operation] += n_calls
        begun = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - begun
            self.waiting[operation] += seconds
            if self._levels and self.size > 1:
                self.level_bytes[self._levels[-1]] += passed
                self.level_calls[self._levels[-1]] += n_calls
                self.level_waiting[self._levels[-1]] += seconds

    @contextmanager
    def on_level(self, level: int) -> Iterator[None]:
        """Count calls in the block for a level of a tree, too."""
        self._levels.append(level)
        try:
            with on_level(self.inner, level):
                yield
        finally:
            self._levels.pop()

    def all_reduce(self, tensor: Tensor) -> None:
        with self._counted("all_reduce", tensor):
            self.inner.all_reduce(tensor)

    def reduce(self, tensor: Tensor, destination: int) -> None:
        with self._counted("reduce", tensor):
            self.inner.reduce(tensor, destination)

    def broadcast(self, tensor: Tensor, source: int) -> None:
        with self._counted("broadcast", tensor):
            self.inner.broadcast(tensor, source)

    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        with self._counted("all_gather", tensor):
            return self.inner.all_gather(tensor)

    def exchange(self, sent: Mapping[int, Tensor]) -> dict[int, Tensor]:
        leaving = (tensor for destination, tensor in sent.items() if destination != self.rank)
        with self._counted("exchange", *leaving):
            return self.inner.exchange(sent)

    def barrier(self) -> None:
        with self._counted("barrier"):
            self.inner.barrier()


def counting_of(communicator: Communicator) -> Counting:
    """Return a communicator that counts its messages from zero; TypeError if the argument is no communicator."""
    require_communicator(communicator)
    return Counting(communicator)


def require_communicator(communicator: object) -> None:
    """Raise TypeError unless the argument is a communicator."""
    if not all(callable(getattr(communicator, name, None)) for name in _VERBS) or isinstance(
        communicator, type
    ):
        raise TypeError(
            "communicator must be a Communicator, such as Serial() of pipeline.runtime.communicator or "
            f"MpiCommunicator() of pipeline.runtime.mpi, not {shown(communicator)}"
        )


def on_level(communicator: Communicator, level: int) -> AbstractContextManager[None]:
    """Make a counting communicator count for a level of a tree; any other one does nothing."""
    return communicator.on_level(level) if isinstance(communicator, Counting) else nullcontext()


@dataclass
class _Meeting:
    """The shared state of a group's threads: a barrier, and tables with what each shows to the others.

    Calls write to two tables in turn: nobody comes to the call after the next before all have read this one's.
    """

    size: int
    barrier: Turns | AtOnce
    n_calls: list[int] = field(init=False)
    tables: tuple[list[Any], list[Any]] = field(init=False)

    def __post_init__(self) -> None:
        self.n_calls = [0] * self.size
        self.tables = [None] * self.size, [None] * self.size

    def show(self, rank: int, shown: T) -> list[T]:
        """Show something to all others, and return what everybody shows, in rank order."""
        table = self.tables[self.n_calls[rank] % 2]
        self.n_calls[rank] += 1
        table[rank] = shown
        self.barrier.wait(rank)
        return list(table)


@dataclass(frozen=True)
class Threads:
    """One of several threads that behave as processes."""

    rank: int
    meeting: _Meeting

    @property
    def size(self) -> int:
        return self.meeting.size

    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        return [one.clone() for one in self._all_of(tensor)]

    def all_reduce(self, tensor: Tensor) -> None:
        tensor.copy_(torch.stack(self._all_of(tensor)).sum(dim=0))

    def reduce(self, tensor: Tensor, destination: int) -> None:
        self.all_reduce(tensor)

    def broadcast(self, tensor: Tensor, source: int) -> None:
        tensor.copy_(self._all_of(tensor)[source])

    def _all_of(self, tensor: Tensor) -> list[Tensor]:
        """Show a copy of a tensor to all others, and return everybody's."""
        heads, tensors = zip(*self.meeting.show(self.rank, (head(tensor), tensor.clone())), strict=True)
        lengths_of(heads)
        return list(tensors)

    def exchange(self, sent: Mapping[int, Tensor]) -> dict[int, Tensor]:
        require_ranks(sent, self.size)
        letters = self.meeting.show(self.rank, {to: tensor.clone() for to, tensor in sent.items()})
        return {source: own[self.rank] for source, own in enumerate(letters) if self.rank in own}

    def barrier(self) -> None:
        self.meeting.barrier.wait(self.rank)


def require_ranks(sent: Mapping[int, Tensor], size: int) -> None:
    """Raise ValueError unless all destinations are processes of a group."""
    strangers = [rank for rank in sent if not 0 <= rank < size]
    if strangers:
        raise ValueError(f"exchange: there is no process {strangers[0]} among {size}")


def run_in_threads(n_processes: int, work: Callable[[Communicator], T], *, at_once: bool = False) -> list[T]:
    """Call `work` once per process, each in a thread of its own, and return the results in rank order.

    A thread runs until it waits for the others; then another one runs. Threads that run Python at the same time would
    spend more of it on taking turns than on work. A failure in one thread breaks the barrier of the others and is
    raised here.

    Args:
        work: The function that each process calls with its communicator; threads may wait for each other only through
            that communicator.
        at_once: Whether all run at the same time, in an undefined order.
    """
    barrier = AtOnce(n_processes) if at_once else Turns(n_processes)
    meeting = _Meeting(n_processes, barrier)
    results: dict[int, T] = {}
    failures: list[BaseException] = []

    def run(rank: int) -> None:
        barrier.take(rank)
        try:
            results[rank] = work(Threads(rank, meeting))
        except threading.BrokenBarrierError:
            pass
        except BaseException as failure:
            failures.append(failure)
            barrier.abort()
        finally:
            barrier.give()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(n_processes)]
    for thread in threads:
        thread.start()
    barrier.begin()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    if len(results) < n_processes:
        raise RuntimeError(
            "a process has returned while others waited for it; all processes must make the same calls"
        )
    return [results[rank] for rank in range(n_processes)]
