"""The processes of a job. They know each other, so that they can tell which one has died."""

import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from pipeline.errors import ProcessLostError
from pipeline.runtime.mpi import MpiCommunicator


@dataclass(frozen=True)
class Member:
    rank: int
    host: str
    pid: int

    def __str__(self) -> str:
        return f"process {self.rank} (pid {self.pid} on {self.host})"

    def is_gone(self) -> bool:
        """Whether it has ended; False for processes on other nodes, of which nothing is known."""
        if self.host != socket.gethostname():
            return False
        try:
            return bool(psutil.Process(self.pid).status() == psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return True


def members_of(mpi: MpiCommunicator) -> tuple[Member, ...]:
    """Return all processes of a launch; collective."""
    told = [text.split() for text in mpi.all_gather_text(f"{os.getpid()} {socket.gethostname()}")]
    return tuple(Member(rank, host, int(pid)) for rank, (pid, host) in enumerate(told))


def gone_of(members: Sequence[Member]) -> list[Member]:
    return [member for member in members if member.is_gone()]


def soon_gone(members: Sequence[Member]) -> list[Member]:
    """Look a few times for members that have ended: a connection may break before its process is seen to end."""
    for _ in range(20):
        gone = gone_of(members)
        if gone:
            return gone
        time.sleep(0.01)
    return []


def lost(members: Sequence[Member], gone: Sequence[Member]) -> ProcessLostError:
    """Return the error that a process of a broken group raises; the first process left does so at once, others later.

    The first one's line then ends the job before the others print theirs.
    """
    others = [member for member in members if member not in gone]
    if (others[0].pid, others[0].host) != (os.getpid(), socket.gethostname()):
        time.sleep(2)
    n, here = len(members), socket.gethostname()
    elsewhere = dict.fromkeys(member.host for member in members if member.host != here)
    if gone:
        what = f"{', '.join(map(str, gone))}, of {n} processes, {'has' if len(gone) == 1 else 'have'} died"
    elif not elsewhere:
        what = f"the connection between the {n} processes on {here} has broken, though all of them live"
    else:
        what = (
            f"{here} has lost its connection to another process of this job; all of its own live, so one on "
            f"{' or '.join(elsewhere)} has died, or the network between has failed"
        )
    return ProcessLostError(
        f"{what}; nothing was published and the last checkpoint is kept: start the same job again"
    )
