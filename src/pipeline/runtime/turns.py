"""Barriers for threads that stand for processes and run in turn, or at once."""

import threading
from collections import deque


class Turns:
    """A barrier of threads of which one runs at a time: who waits hands the turn to the next that may run.

    Every thread waits at a lock of its own, so that a turn wakes one thread and no other. Who arrives last goes on.
    """

    def __init__(self, size: int) -> None:
        self._doors = [threading.Lock() for _ in range(size)]
        for door in self._doors:
            door.acquire()
        self._may_run, self._arrived = deque(range(size)), list[int]()
        self._broken = False

    def begin(self) -> None:
        """Let the first thread run."""
        self._doors[self._may_run.popleft()].release()

    def take(self, rank: int) -> None:
        """Wait for the turn of a thread."""
        self._doors[rank].acquire()

    def give(self) -> None:
        """Hand the turn to the next thread, if there is one that may run."""
        if not self._may_run and self._arrived:
            self.abort()  # the others wait for one that has ended
        if self._may_run:
            self._doors[self._may_run.popleft()].release()

    def wait(self, rank: int) -> None:
        """Wait until all threads have arrived; meanwhile it is the others' turn."""
        if not self._broken:
            self._arrived.append(rank)
            if len(self._arrived) < len(self._doors):
                self.give()
                self.take(rank)
            else:
                self._may_run.extend(self._arrived[:-1])
                self._arrived = []
        if self._broken:
            raise threading.BrokenBarrierError

    def abort(self) -> None:
        """Let all that wait go on, into a BrokenBarrierError."""
        self._broken = True
        self._may_run.extend(self._arrived)
        self._arrived = []


class AtOnce(threading.Barrier):
    """A barrier of threads that all run at the same time."""

    def begin(self) -> None:
        """Do nothing: all threads run."""

    def take(self, rank: int) -> None:
        """Return at once: it is everybody's turn."""

    def give(self) -> None:
        """Do nothing: it is everybody's turn."""

    def wait(self, rank: int) -> None:  # type: ignore[override]
        """Wait until all threads have arrived."""
        super().wait()
