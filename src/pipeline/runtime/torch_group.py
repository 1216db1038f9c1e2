"""A torch process group among processes that MPI started.

MPI is the launcher on laptop and cluster alike, but torch's wheels carry only gloo and nccl. So process 0 listens at
one address of the network that reaches the other nodes, MPI tells the address to the rest, and torch opens its group
there. Nothing but access to that address keeps strangers out: torch's store has no authentication. Every key in it
begins with a token of this meeting, told by MPI. The token separates jobs that use each other's address by mistake. It
is no secret, since whoever connects may list the keys.
"""

import os
import secrets
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import psutil
import torch
import torch.distributed as dist

from pipeline.errors import ConfigError
from pipeline.runtime.collectives import Collectives
from pipeline.runtime.communicator import Communicator, Serial
from pipeline.runtime.members import Member, lost, members_of, soon_gone
from pipeline.runtime.mpi import MpiCommunicator


@dataclass(frozen=True)
class TorchGroup(Collectives):
    """The default torch process group, over gloo (CPU) or nccl (GPU), among processes that MPI started."""

    members: tuple[Member, ...]
    backend: str

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Re-raise the failure of a collective as one line that names the process that is gone."""
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
    """Return the address at which other nodes of the job reach this node; without other nodes, only this machine can.

    It is a ConfigError if the interface in `PARSIMONY_INTERFACE` has no address, or no route leads to the nodes.
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
        # Nothing is sent: connecting a datagram socket is enough to learn its own address for these packets.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((other_nodes[0], 9))
            return str(probe.getsockname()[0])
    except OSError as error:
        raise ConfigError(
            f"no route from {socket.gethostname()} to {other_nodes[0]} ({error}); name the cluster's interface in "
            f"{INTERFACE}, such as ib0"
        ) from None


def interface_of(address: str) -> str | None:
    known = psutil.net_if_addrs().items()
    return next((str(name) for name, own in known if any(entry.address == address for entry in own)), None)


def open_store(address: str, mpi: MpiCommunicator) -> dist.PrefixStore:  # type: ignore[name-defined]  # torch's stubs leave stores out
    """Meet in a store of process 0, at its address and a free port, under a token of this meeting."""
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
        # The store closes the listener from here on.
        master_listen_fd=listener.detach() if listener is not None else None,
    )
    return dist.PrefixStore(token, store)  # type: ignore[attr-defined]


def backend_for(device: torch.device, mpi: MpiCommunicator) -> str:
    """Return the backend: nccl if every process has a GPU of its own, else gloo.

    Processes may each see one GPU, bound to them by the launcher, and all call it 0. GPUs are therefore told apart by
    their identifiers, and all processes decide by the same list. No backend joins processes with a GPU and others
    without: this is a ConfigError.
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
    """Open torch's process group among the processes of this launch, and close it; one process needs no network."""
    if mpi.size == 1:
        yield Serial()
        return
    backend = backend_for(device, mpi)
    members = members_of(mpi)
    others = [member.host for member in members if member.host != socket.gethostname()]
    address = local_address(others if mpi.local_size < mpi.size else [])
    interface = interface_of(address)
    if interface is not None:
        # The connections between processes use the same network as the store.
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
