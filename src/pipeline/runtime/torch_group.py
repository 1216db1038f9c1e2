"""A torch process group among processes that MPI started.

MPI is the launcher on laptop and cluster alike; torch's wheels carry gloo and nccl, not MPI. So process 0 binds a port,
MPI tells the others, and torch opens its group there.
"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.runtime.communicator import Communicator, Serial
from pipeline.runtime.mpi import MpiCommunicator


@dataclass(frozen=True)
class TorchGroup:
    """The default torch process group, over gloo (CPU) or nccl (GPU)."""

    @property
    def rank(self) -> int:
        return dist.get_rank()

    @property
    def size(self) -> int:
        return dist.get_world_size()

    def all_reduce(self, tensor: Tensor) -> None:
        dist.all_reduce(tensor)

    def reduce(self, tensor: Tensor, destination: int) -> None:
        dist.reduce(tensor, destination)

    def broadcast(self, tensor: Tensor, source: int) -> None:
        dist.broadcast(tensor, source)

    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        # gloo fails on uneven parts, so all travel padded to the longest.
        length = torch.tensor([len(tensor)], device=tensor.device)
        lengths = [torch.empty_like(length) for _ in range(self.size)]
        dist.all_gather(lengths, length)
        longest = int(max(int(part) for part in lengths))
        padded = tensor.new_zeros((longest, *tensor.shape[1:]))
        padded[: len(tensor)] = tensor
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        return [part[: int(n)] for part, n in zip(parts, lengths, strict=True)]

    def barrier(self) -> None:
        dist.barrier()


def _free_address(one_node: bool) -> str:
    """This node at a port that is free now; by its name where other nodes must find it."""
    host = "127.0.0.1" if one_node else socket.gethostname()
    with socket.socket() as probe:
        probe.bind(("", 0))
        return f"{host}:{probe.getsockname()[1]}"


@contextmanager
def torch_group(device: torch.device, mpi: MpiCommunicator) -> Iterator[Communicator]:
    """Open torch's process group among the processes of this launch, and close it.

    Args:
        device: Of this process. nccl needs a GPU for each process of a node; otherwise gloo carries the messages.
        mpi: The processes.

    Yields:
        `Serial()` when there is one process, so that a plain `python -m pipeline` needs no network.
    """
    if mpi.size == 1:
        yield Serial()
        return
    one_node = mpi.local_size == mpi.size
    address = mpi.broadcast_text(_free_address(one_node) if mpi.rank == 0 else "", source=0)
    backend = "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
        backend = "nccl" if mpi.local_size <= torch.cuda.device_count() else "gloo"
    dist.init_process_group(backend, init_method=f"tcp://{address}", rank=mpi.rank, world_size=mpi.size)
    try:
        yield TorchGroup()
    finally:
        dist.destroy_process_group()
