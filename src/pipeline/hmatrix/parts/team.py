"""Parts at work: dealt to processes, and inside a process to threads.

Work goes in supersteps: every part does its share (`Team.each`), then messages between parts are exchanged
(`Team.exchange`). A part is worked on by one thread at a time and messages arrive in the senders' order, so that
results depend on the number of parts alone, not on that of threads or processes.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.errors import ConvergenceError
from pipeline.hmatrix import _native
from pipeline.hmatrix.threads import n_threads
from pipeline.runtime.communicator import Communicator, Counting, Serial, on_level

T = TypeVar("T")
Message = tuple[NDArray[Any], ...]
Sent = Mapping[tuple[int, int], Message]  # by source and destination part
Received = dict[int, list[tuple[int, Message]]]  # by destination: source and message, sources in order


@dataclass(eq=False)
class Tally:
    """Counts of operations and messages.

    Attributes:
        n_bytes: Bytes sent from each part to others: by (what, level, part).
        n_messages: Number of messages, likewise.
        flops: Operations by (what, level, phase), then part.
    """

    n_bytes: Counter[tuple[str, int, int]] = field(default_factory=Counter)
    n_messages: Counter[tuple[str, int, int]] = field(default_factory=Counter)
    flops: defaultdict[tuple[str, int, int], defaultdict[int, float]] = field(
        default_factory=lambda: defaultdict(partial(defaultdict, float))
    )


@dataclass(eq=False)
class Team:
    """Parts, and the processes and threads that work on them.

    Attributes:
        n_parts: Number of parts, over all processes.
        n_threads: Largest number of threads of this process that work at once; by default torch's number.
        communicator: The processes; parts are dealt to them in contiguous runs.
        shares: Shape (parts,), relative work that each part should own; equal if left out.
        devices: Devices on which parts of this process eliminate in batches, by part; other parts eliminate natively.
        counts: Shape (processes,), number of parts of each process; about equal numbers if left out.
        tally: Counts of what has been done.
        failed: The process whose pivot has failed.
    """

    n_parts: int
    n_threads: int | None = None
    communicator: Communicator = field(default_factory=Serial)
    shares: NDArray[np.float64] | None = None
    devices: Mapping[int, torch.device] = field(default_factory=dict)
    counts: NDArray[np.int64] | None = None
    tally: Tally = field(default_factory=Tally)
    failed: int | None = None
    _pool: ThreadPoolExecutor | None = field(default=None, repr=False)

    @cached_property
    def place(self) -> NDArray[np.int64]:
        """The process of each part."""
        if self.counts is not None:
            return np.repeat(np.arange(len(self.counts)), self.counts)
        return np.arange(self.n_parts) * self.communicator.size // self.n_parts

    @property
    def speeds(self) -> NDArray[np.float64]:
        """Relative work that each part should own, shape (parts,)."""
        return np.ones(self.n_parts) if self.shares is None else self.shares

    @cached_property
    def own(self) -> list[int]:
        """The parts of this process."""
        return [int(part) for part in np.flatnonzero(self.place == self.communicator.rank)]

    def sent_on(self, level: int) -> dict[str, Any]:
        """Return this process's messages, bytes and waiting time for a level, as far as they are counted."""
        counting = self.communicator if isinstance(self.communicator, Counting) else Counting(Serial())
        return {
            "messages": counting.level_calls[level],
            "sent_bytes": counting.level_bytes[level],
            "waiting_seconds": counting.level_waiting[level],
        }

    @contextmanager
    def at_work(self, *, alone: bool = False) -> Iterator[None]:
        """Keep threads for the supersteps inside; with `alone`, the caller's thread works through all parts."""
        helpers = 0 if alone else min(self.n_threads or n_threads(), len(self.own)) - 1
        if helpers < 1:
            yield
            return
        with ThreadPoolExecutor(helpers) as pool:
            self._pool = pool
            try:
                yield
            finally:
                self._pool = None

    def each(
        self,
        parts: Iterable[int],
        work: Callable[[int, bool], T],
        *,
        watch: _native.Watch | None = None,
    ) -> dict[int, T]:
        """Call work(part, watching) for parts of this process, in several threads; return the results by part.

        `watching` is true only in the caller's thread, which may call back into Python. An exception of any part is
        raised once all threads have stopped; `watch` makes them stop at their next box.
        """
        waiting = list(parts)[::-1]
        results: dict[int, T] = {}

        def run(watching: bool) -> None:
            try:
                while True:
                    try:
                        part = waiting.pop()
                    except IndexError:
                        return
                    results[part] = work(part, watching)
            except BaseException:
                waiting.clear()
                if watch is not None:
                    watch.stop()
                raise

        helpers = min(self.n_threads or n_threads(), len(waiting)) - 1
        futures = [] if self._pool is None else [self._pool.submit(run, False) for _ in range(helpers)]
        failures: list[BaseException] = []
        steps: list[Callable[[], None]] = [lambda: run(True), *(future.result for future in futures)]
        for step in steps:
            try:
                step()
            except BaseException as failure:  # raised below, when no thread works on
                waiting.clear()
                if watch is not None:
                    watch.stop()
                failures.append(failure)
        wait(futures)  # where waiting for one was interrupted
        if failures:
            raise next((f for f in failures if not isinstance(f, _native.Stopped)), failures[0])
        return {part: results[part] for part in sorted(results)}

    def exchange(self, what: str, level: int, sent: Sent) -> Received:
        """Deliver messages between parts; collective."""
        for (source, destination), message in sent.items():
            if source != destination:
                self.tally.n_bytes[what, level, source] += sum(array.nbytes for array in message)
                self.tally.n_messages[what, level, source] += 1
        arrived = [(source, destination, message) for (source, destination), message in sent.items()]
        if self.communicator.size > 1:
            leaving: defaultdict[int, list[tuple[int, int, Message]]] = defaultdict(list)
            for source, destination, message in arrived:
                leaving[int(self.place[destination])].append((source, destination, message))
            arrived = leaving.pop(self.communicator.rank, [])
            letters = {rank: torch.from_numpy(_pack(messages)) for rank, messages in leaving.items()}
            with on_level(self.communicator, level):
                letters = self.communicator.exchange(letters)
            for letter in letters.values():
                arrived += _unpack(letter.numpy())
        received: Received = defaultdict(list)
        for source, destination, message in sorted(arrived, key=lambda item: item[:2]):
            received[destination].append((source, message))
        return received

    def gather(self, values: dict[int, NDArray[np.float64]], width: int) -> NDArray[np.float64]:
        """Return one row of numbers per part, shape (parts, width), on all processes; collective.

        A part without a row has zeros.
        """
        rows = np.zeros((self.n_parts, width))
        for part, row in values.items():
            rows[part] = row
        if self.communicator.size > 1:
            own = torch.from_numpy(rows[self.own].reshape(len(self.own), width))
            rows = np.concatenate([tensor.numpy() for tensor in self.communicator.all_gather(own)])
        return rows

    @contextmanager
    def together(self, level: int) -> Iterator[None]:
        """Let all processes end here if one fails inside, with an error that names it and the level; collective.

        What interrupts a process, such as Ctrl-C, is raised there as it is.
        """
        failure: BaseException | None = None
        try:
            yield
        except BaseException as caught:
            failure = caught
        if self.communicator.size > 1:
            text = "" if failure is None else f"{type(failure).__name__}: {failure}".removesuffix(": ")
            told = torch.from_numpy(np.frombuffer(text.encode(), np.uint8).copy())
            with on_level(self.communicator, level):
                everybodys = self.communicator.all_gather(told)
            told_by = {
                rank: other.numpy().tobytes().decode() for rank, other in enumerate(everybodys) if len(other)
            }
            if told_by and (failure is None or isinstance(failure, Exception)):
                rank, reason = next(iter(told_by.items()))
                raise ConvergenceError(f"process {rank} failed on level {level}: {reason}") from failure
        if failure is not None:
            raise failure


def _pack(messages: list[tuple[int, int, Message]]) -> NDArray[np.uint8]:
    """Return messages as one array of bytes: numbers of messages, then heads and contents one after the other."""
    chunks = [np.array([len(messages)], np.int64).view(np.uint8)]
    for source, destination, message in messages:
        head = [source, destination, len(message)]
        for array in message:
            head += [_TYPES.index(array.dtype), array.size]
        chunks.append(np.array(head, np.int64).view(np.uint8))
        chunks += [np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in message]
    return np.concatenate(chunks)


_TYPES = tuple(map(np.dtype, ("int32", "int64", "float32", "float64", "complex64", "complex128")))


def _unpack(letter: NDArray[np.uint8]) -> list[tuple[int, int, Message]]:
    """Return the messages of an array of bytes."""
    at = 0

    def take(dtype: np.dtype[Any], count: int) -> NDArray[Any]:
        nonlocal at
        stop = at + count * dtype.itemsize
        found = letter[at:stop].copy().view(dtype)
        at = stop
        return found

    integer = np.dtype(np.int64)
    messages = []
    for _ in range(int(take(integer, 1)[0])):
        source, destination, n_arrays = take(integer, 3).tolist()
        heads = take(integer, 2 * n_arrays).tolist()
        arrays = tuple(take(_TYPES[kind], size) for kind, size in zip(heads[::2], heads[1::2], strict=True))
        messages.append((source, destination, arrays))
    return messages
