"""A torch process group among processes that MPI started.

MPI is the launcher on laptop and cluster alike; torch's wheels carry gloo and nccl, not MPI. So process 0 listens at an
address of the network that reaches the other nodes and at no other, MPI tells the rest, and torch opens its group
there. Who can reach that address is all that keeps strangers out: torch's store asks nobody who he is. Every key in
it begins with a token of this meeting, told by MPI, which keeps jobs apart that mistake each other's address; it is
no secret, since whoever connects may list the keys.
"""

import os
import secrets
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import psutil
import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.runtime.communicator import Communicator, Serial, require_ranks
from pipeline.runtime.letters import pack, unpack
from pipeline.runtime.members import Member, lost, members_of, soon_gone
from pipeline.runtime.mpi import MpiCommunicator

# Bytes that one process may receive of a sum; of more, what adding up on the way saves outweighs the waking.
MOST_GATHERED = 2_000_000


@dataclass(frozen=True)
class TorchGroup:
    """The default torch process group, over gloo (CPU) or nccl (GPU).

    Small sums over gloo are taken by every process for itself, in the same order: they are bit-equal on all as far as
    the processors add equally, which a job on nodes of different kinds cannot rely on.

    Attributes:
        members: All processes, in order.
        backend: gloo or nccl.
    """

    members: tuple[Member, ...]
    backend: str

    @property
    def rank(self) -> int:
        return dist.get_rank()

    @property
    def size(self) -> int:
        return dist.get_world_size()

    @torch.no_grad()
    def all_reduce(self, tensor: Tensor) -> None:
        if not self._is_cheaper_gathered(tensor):
            with self._together():
                dist.all_reduce(tensor)
            return
        parts = tensor.new_empty(self.size, *tensor.shape)
        with self._together():
            dist.all_gather_single(parts.view(-1), tensor.view(-1))
        torch.sum(parts, dim=0, dtype=tensor.dtype, out=tensor)

    @torch.no_grad()
    def reduce(self, tensor: Tensor, destination: int) -> None:
        if not self._is_cheaper_gathered(tensor):
            with self._together():
                dist.reduce(tensor, destination)
            return
        parts = tensor.new_empty(self.size, *tensor.shape) if self.rank == destination else None
        with self._together():
            dist.gather(tensor, None if parts is None else list(parts), destination)
        if parts is not None:
            torch.sum(parts, dim=0, dtype=tensor.dtype, out=tensor)

    def broadcast(self, tensor: Tensor, source: int) -> None:
        with self._together():
            dist.broadcast(tensor, source)

    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        # gloo fails on uneven parts, so all travel padded to the longest.
        length = torch.tensor([len(tensor)], device=tensor.device)
        lengths = [torch.empty_like(length) for _ in range(self.size)]
        with self._together():
            dist.all_gather(lengths, length)
        longest = int(max(int(part) for part in lengths))
        padded = tensor.new_zeros((longest, *tensor.shape[1:]))
        padded[: len(tensor)] = tensor
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        with self._together():
            dist.all_gather(parts, padded)
        return [part[: int(n)] for part, n in zip(parts, lengths, strict=True)]

    def exchange(self, sent: Mapping[int, Tensor]) -> dict[int, Tensor]:
        require_ranks(sent, self.size)
        device = torch.device("cuda" if self.backend == "nccl" else "cpu")
        letters = {destination: pack(tensor).to(device) for destination, tensor in sent.items()}
        leaving = torch.zeros(self.size, dtype=torch.int64, device=device)
        for destination, letter in letters.items():
            leaving[destination] = len(letter)
        coming = torch.empty_like(leaving)
        with self._together():
            dist.all_to_all_single(coming, leaving)
        arrived = {
            source: torch.empty(length, dtype=torch.uint8, device=device)
            for source, length in enumerate(coming.tolist())
            if length
        }
        moves = [
            dist.P2POp(move, letter, rank)
            for move, messages in ((dist.irecv, arrived), (dist.isend, letters))
            for rank, letter in messages.items()
            if rank != self.rank
        ]
        if self.rank in letters:
            arrived[self.rank] = letters[self.rank]
        with self._together():
            for request in dist.batch_isend_irecv(moves) if moves else []:
                request.wait()
        return {source: unpack(letter) for source, letter in arrived.items()}

    def barrier(self) -> None:
        with self._together():
            dist.barrier()

    def _is_cheaper_gathered(self, tensor: Tensor) -> bool:
        """Whether a sum is better taken by its receivers: gloo adds up in many small messages, each of which has to
        wake its receiver, and needs 1.5 ms for a few numbers that it gathers in 0.2."""
        n_bytes = tensor.numel() * tensor.element_size()
        return self.backend == "gloo" and self.size * n_bytes <= MOST_GATHERED

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Say in one line which process is gone when a collective breaks off for that."""
        try:
            yield
        except RuntimeError as error:
            gone = soon_gone(self.members)
            if not gone and "onnection" not in str(error):
                raise
            raise lost(self.members, gone) from None


INTERFACE = "PARSIMONY_INTERFACE"
TIMEOUT = timedelta(minutes=10)


def local_address(other_nodes: Sequence[str]) -> str:
    """The address of this node that other nodes of the job reach it at.

    Args:
        other_nodes: Their names; without any, the address is one that no other machine reaches.

    Raises:
        ConfigError: If the interface that `PARSIMONY_INTERFACE` names has no address, or no route leads to them.
    """
    wanted = os.environ.get(INTERFACE)
    if wanted:
        addresses = [
            entry for entry in psutil.net_if_addrs().get(wanted, []) if entry.family == socket.AF_INET
        ]
        if not addresses:
            known = ", ".join(psutil.net_if_addrs())
            raise ConfigError(f"{INTERFACE}: no interface {wanted!r} with an IPv4 address; known: {known}")
        return str(addresses[0].address)
    if not other_nodes:
        return "127.0.0.1"
    try:
        # Nothing is sent: a datagram's socket learns by connecting which address its packets would carry.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((other_nodes[0], 9))
            return str(probe.getsockname()[0])
    except OSError as error:
        raise ConfigError(
            f"no route from {socket.gethostname()} to {other_nodes[0]} ({error}); name the cluster's interface in "
            f"{INTERFACE}, such as ib0"
        ) from None


def interface_of(address: str) -> str | None:
    """The name of the interface that has an address."""
    for name, entries in psutil.net_if_addrs().items():
        if any(entry.address == address for entry in entries):
            return str(name)
    return None


def open_store(address: str, mpi: MpiCommunicator) -> dist.PrefixStore:  # type: ignore[name-defined]  # torch's stubs leave stores out
    """Meet in a store that process 0 holds, at its address and a free port, under a token of this meeting."""
    listener = None
    told = ""
    if mpi.rank == 0:
        listener = socket.create_server((address, 0), backlog=mpi.size)
        told = f"{address} {listener.getsockname()[1]} {secrets.token_hex(16)}"
    host, port, token = mpi.broadcast_text(told, source=0).split()
    store = dist.TCPStore(  # type: ignore[attr-defined]
        host,
        int(port),
        mpi.size,
        is_master=mpi.rank == 0,
        timeout=TIMEOUT,
        wait_for_workers=False,
        # From here on the store closes it.
        master_listen_fd=listener.detach() if listener is not None else None,
    )
    return dist.PrefixStore(token, store)  # type: ignore[attr-defined]


def backend_for(device: torch.device, mpi: MpiCommunicator) -> str:
    """What carries the messages: nccl if every process has a GPU of its own, else gloo.

    Processes that each see one GPU, bound to them by the launcher, all call it 0: GPUs are told apart by their
    identifiers, and all processes decide by the same list.

    Raises:
        ConfigError: If some processes compute on a GPU and others don't: no backend joins them.
    """
    own = str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else ""
    everybodys = [told.split() for told in mpi.all_gather_text(f"{socket.gethostname()} {device.type} {own}")]
    without = sorted({node for node, kind, *_ in everybodys if kind == "cpu"})
    if not without:
        return "nccl" if len({uuid for _, _, uuid in everybodys}) == mpi.size else "gloo"
    if any(kind != "cpu" for _, kind, *_ in everybodys):
        raise ConfigError(
            f"device: no usable GPU on {', '.join(without)}, while other processes of this job have one; exclude "
            f"{'that node' if len(without) == 1 else 'those nodes'} from the job, or set device: cpu"
        )
    return "gloo"


@contextmanager
def torch_group(device: torch.device, mpi: MpiCommunicator) -> Iterator[Communicator]:
    """Open torch's process group among the processes of this launch, and close it.

    Args:
        device: Of this process.
        mpi: The processes.

    Yields:
        `Serial()` when there is one process, so that a plain `python -m pipeline` needs no network.

    Raises:
        ConfigError: If some processes compute on a GPU and others don't.
    """
    if mpi.size == 1:
        yield Serial()
        return
    backend = backend_for(device, mpi)
    members = members_of(mpi)
    others = [member.host for member in members if member.host != socket.gethostname()]
    address = local_address(others if mpi.local_size < mpi.size else [])
    interface = interface_of(address)
    if interface is not None:
        # The connections between processes take the same network as the store.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", interface)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store = open_store(address, mpi)
    dist.init_process_group(backend, store=store, rank=mpi.rank, world_size=mpi.size, timeout=TIMEOUT)
    try:
        yield TorchGroup(members, backend)
    finally:
        dist.destroy_process_group()
