"""The only module that uses MPI."""

import mmap
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from mpi4py import MPI
from torch import Tensor

from pipeline.errors import ConfigError, ProcessLostError
from pipeline.runtime.communicator import require_ranks
from pipeline.runtime.letters import head, lengths_of, pack, unpack

_PIECE = 2**30  # bytes of one message: MPI counts them in 32 bits
_MEMORY = "/dev/shm"  # a file system in memory; without it, pages of a temporary file are used


@contextmanager
def _together() -> Iterator[None]:
    """Re-raise MPI's errors as "MPI has lost the other processes: REASON", in one line."""
    try:
        yield
    except MPI.Exception as error:
        reason = str(error).splitlines()[0].removesuffix(", error stack:")
        raise ProcessLostError(
            f"MPI has lost the other processes: {reason}; one of them has ended, or the communicator was freed"
        ) from error


@dataclass(frozen=True)
class MpiCommunicator:
    """The processes that `mpiexec` or `srun` started together. Tensors live on the CPU."""

    comm: MPI.Intracomm = field(default_factory=lambda: MPI.COMM_WORLD)

    @classmethod
    def of(cls, processes: int | None) -> "MpiCommunicator":
        """Return the processes that were started together; ConfigError unless there are as many as were asked for."""
        found = cls()
        if processes is not None and found.size != processes:
            raise ConfigError(
                f"{processes} processes were asked for and MPI sees {found.size}: the launcher does not match this "
                "environment's MPI; choose another in resources.mpi"
            )
        return found

    @property
    def rank(self) -> int:
        return self.comm.Get_rank()

    @property
    def size(self) -> int:
        return self.comm.Get_size()

    @cached_property
    def node(self) -> MPI.Comm:
        """The processes of this node."""
        return self.comm.Split_type(MPI.COMM_TYPE_SHARED)

    @property
    def local_rank(self) -> int:
        """This process's number among those of its node; it decides which of the node's GPUs is its own."""
        return self.node.Get_rank()

    @property
    def local_size(self) -> int:
        return self.node.Get_size()

    @_together()
    def all_reduce(self, tensor: Tensor) -> None:
        # One process sums and all receive it: MPI does not promise bit-equal results of Allreduce.
        self.comm.Reduce(MPI.IN_PLACE if self.rank == 0 else tensor.numpy(), tensor.numpy(), root=0)
        self.broadcast(tensor, source=0)

    @_together()
    def reduce(self, tensor: Tensor, destination: int) -> None:
        self.comm.Reduce(
            MPI.IN_PLACE if self.rank == destination else tensor.numpy(), tensor.numpy(), root=destination
        )

    @_together()
    def broadcast(self, tensor: Tensor, source: int) -> None:
        self.comm.Bcast(tensor.numpy(), root=source)

    @_together()
    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        part = np.ascontiguousarray(tensor.numpy())
        lengths = lengths_of(self.comm.allgather(head(tensor)))
        row = part.size // len(part) if len(part) else int(np.prod(part.shape[1:]))
        whole = np.empty((sum(lengths), *part.shape[1:]), part.dtype)
        self.comm.Allgatherv(part, (whole, [length * row for length in lengths]))
        return list(torch.split(torch.from_numpy(whole), lengths))

    @_together()
    def exchange(self, sent: Mapping[int, Tensor]) -> dict[int, Tensor]:
        require_ranks(sent, self.size)
        letters = {destination: pack(tensor).numpy() for destination, tensor in sent.items()}
        leaving, coming = np.zeros(self.size, np.int64), np.empty(self.size, np.int64)
        for destination, letter in letters.items():
            leaving[destination] = len(letter)
        self.comm.Alltoall(leaving, coming)
        arrived = {source: np.empty(coming[source], np.uint8) for source in np.flatnonzero(coming).tolist()}
        requests = [
            move(piece, rank)
            for move, messages in ((self.comm.Irecv, arrived), (self.comm.Isend, letters))
            for rank, letter in messages.items()
            for piece in np.split(letter, range(_PIECE, len(letter), _PIECE))
        ]
        MPI.Request.Waitall(requests)
        return {source: unpack(torch.from_numpy(letter)) for source, letter in arrived.items()}

    @_together()
    def broadcast_text(self, text: str, source: int) -> str:
        return str(self.comm.bcast(text, root=source))

    @_together()
    def all_gather_text(self, text: str) -> list[str]:
        return [str(one) for one in self.comm.allgather(text)]

    @_together()
    def barrier(self) -> None:
        self.comm.Barrier()


class NodeMemory:
    """Memory that all processes of one node read and write, with meetings between writing and reading.

    All processes must open it together; if one cannot, all raise OSError. Once open, it has no name, so nothing is left
    of it however the processes end; MPI's own windows do not promise this. Each process has one of the `pieces`, which
    have equally many bytes.
    """

    def __init__(self, mpi: MpiCommunicator, n_bytes: int) -> None:
        self._comm = MPI.Intracomm(mpi.node)
        whole = torch.frombuffer(_map_shared(self._comm, n_bytes * mpi.local_size), dtype=torch.uint8)
        self.pieces = list(torch.split(whole, n_bytes))

    def arrive(self) -> Callable[[], bool]:
        """Announce that this process has arrived; return a function that tells, without waiting, whether all have.

        Everything that they wrote before arriving can then be read.
        """
        request = self._comm.Ibarrier()
        return lambda: bool(request.Test())


def _map_shared(comm: MPI.Intracomm, n_bytes: int) -> mmap.mmap:
    name = failure = ""
    if comm.rank == 0:
        try:
            descriptor, name = tempfile.mkstemp(
                prefix="parsimony-", dir=_MEMORY if os.path.isdir(_MEMORY) else None
            )
            with open(descriptor, "wb") as file:
                file.write(bytes(n_bytes))  # otherwise a full file system would cause a bus error later
        except OSError as error:
            failure = str(error)
    name, failure = comm.bcast((name, failure))
    mapped = None
    if not failure:
        try:
            with open(name, "r+b") as file:
                mapped = mmap.mmap(file.fileno(), n_bytes)
        except OSError as error:
            failure = str(error)
    failures = [one for one in comm.allgather(failure) if one]
    if comm.rank == 0 and name:
        os.unlink(name)
    if mapped is None or failures:
        raise OSError(failures[0])
    return mapped
