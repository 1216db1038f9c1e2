"""Where processes meet, at the cluster's address alone, and what carries their messages."""

import os
import socket
import threading
from dataclasses import dataclass
from types import SimpleNamespace

import psutil
import pytest
import torch
import torch.distributed as dist

from pipeline.errors import ConfigError, ProcessLostError
from pipeline.runtime.collectives import MOST_GATHERED
from pipeline.runtime.members import Member
from pipeline.runtime.torch_group import (
    INTERFACE,
    TorchGroup,
    backend_for,
    interface_of,
    local_address,
    open_store,
)


@dataclass
class Launch:
    """Stands in for MPI: what process 0 says reaches the others."""

    rank: int
    size: int
    said: list
    ready: threading.Event

    def broadcast_text(self, text, source):
        if self.rank == source:
            self.said.append(text)
            self.ready.set()
        self.ready.wait(30)
        return self.said[0]


def launch(n):
    said, ready = [], threading.Event()
    return [Launch(rank, n, said, ready) for rank in range(n)]


def listening(port):
    return {
        found.laddr.ip
        for found in psutil.Process().net_connections(kind="inet")
        if found.status == psutil.CONN_LISTEN and found.laddr.port == port
    }


def test_the_store_listens_at_one_address_and_keeps_its_keys_apart_from_those_of_another_job():
    first, second = launch(2)
    store = open_store("127.0.0.1", first)
    host, port, token = first.said[0].split()
    assert listening(int(port)) == {"127.0.0.1"}
    assert len(token) == 32
    store.set("key", "value")
    assert open_store("127.0.0.1", second).get("key") == b"value"
    # A job that took this address for its own finds none of our keys under their names, nor under its token.
    mistaken = dist.TCPStore(host, int(port), 2, is_master=False, wait_for_workers=False)
    assert not mistaken.check(["key"])
    assert not dist.PrefixStore(32 * "0", mistaken).check(["key"])


def test_two_meetings_have_two_tokens():
    tokens = set()
    for _ in range(2):
        (alone,) = launch(1)
        open_store("127.0.0.1", alone)
        tokens.add(alone.said[0].split()[2])
    assert len(tokens) == 2


def test_one_node_meets_where_no_other_machine_reaches():
    assert local_address([]) == "127.0.0.1"
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("203.0.113.1") is None


def test_the_route_to_other_nodes_or_the_users_word_decides(monkeypatch):
    assert local_address(["127.0.0.2"]).startswith("127.")
    monkeypatch.setenv(INTERFACE, "lo")
    assert local_address(["a-node-that-is-not-there"]) == "127.0.0.1"
    monkeypatch.setenv(INTERFACE, "ib7")
    with pytest.raises(ConfigError, match="no interface 'ib7' with an IPv4 address; known: lo"):
        local_address([])


def test_a_node_that_cannot_be_found_is_one_line(monkeypatch):
    def no_route(*_arguments):
        raise OSError("network is unreachable")

    monkeypatch.delenv(INTERFACE, raising=False)
    # Undone at once: what notes the durations of tests connects to a socket, too.
    with monkeypatch.context() as patched:
        patched.setattr(socket.socket, "connect", no_route)
        with pytest.raises(
            ConfigError, match=f"no route .* to far .*name the cluster's interface in {INTERFACE}"
        ):
            local_address(["far"])
    assert INTERFACE not in os.environ


CPU, GPU_0 = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def backend(monkeypatch):
    """What process 0 on a GPU or CPU decides, when all tell of the given places: a node, and a GPU or none."""

    @dataclass
    class Told:
        others: list

        @property
        def size(self):
            return 1 + len(self.others)

        def all_gather_text(self, text):
            return [text, *self.others]

    def decide(gpu, *others):
        monkeypatch.setattr(socket, "gethostname", lambda: "node1")
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: SimpleNamespace(uuid=gpu))
        told = [f"{node} cuda {uuid}" if uuid else f"{node} cpu " for node, uuid in others]
        return backend_for(GPU_0 if gpu else CPU, Told(told))

    return decide


def test_nccl_joins_processes_that_have_a_gpu_each_whatever_their_numbers(backend):
    # Each sees one GPU, bound to it by the launcher.
    assert backend("a", ("node1", "b"), ("node2", "c"), ("node2", "d")) == "nccl"
    # One GPU for two on another node: the same verdict here as there.
    assert backend("a", ("node2", "c"), ("node2", "c")) == "gloo"
    assert backend(None, ("node1", None), ("node2", None)) == "gloo"


def test_a_node_without_a_usable_gpu_among_others_is_named(backend):
    with pytest.raises(
        ConfigError, match=r"no usable GPU on node2, while .*; exclude that node .*device: cpu"
    ):
        backend("a", ("node1", "b"), ("node2", None), ("node2", None))
    with pytest.raises(ConfigError, match=r"no usable GPU on node1, node3, while .*; exclude those nodes"):
        backend(None, ("node2", "b"), ("node3", None))


HERE = socket.gethostname()


def broken(function, backend, others, monkeypatch):
    """A group of this process and others in which one of torch's collectives, and no other, finds them gone."""

    def breaks(*_arguments, **_named):
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(dist, function, breaks)
    monkeypatch.setattr(dist, "get_rank", lambda _group: 0)
    monkeypatch.setattr(dist, "get_world_size", lambda _group: 1 + len(others))
    return TorchGroup((Member(0, HERE, os.getpid()), *others), backend=backend)


@pytest.mark.parametrize(
    ("members", "text"),
    [
        (
            (Member(1, HERE, 2**22),),
            rf"process 1 \(pid 4194304 on {HERE}\), of 2 processes, has died; nothing",
        ),
        (
            (Member(1, HERE, 2**22), Member(2, HERE, 2**22)),
            rf"process 1 .*, process 2 \(pid 4194304 on {HERE}\), of 3 processes, have died; nothing",
        ),
        (
            (Member(1, "node2", 1), Member(2, "node3", 1), Member(3, "node3", 2)),
            f"{HERE} has lost its connection .* so one on node2 or node3 has died, or the network between has failed",
        ),
        ((Member(1, HERE, os.getpid()),), f"the connection between the 2 processes on {HERE} has broken"),
    ],
)
def test_a_broken_connection_tells_who_is_gone_as_far_as_it_can_be_known(members, text, monkeypatch):
    group = broken("all_reduce", "nccl", members, monkeypatch)
    with pytest.raises(ProcessLostError, match=text):
        group.all_reduce(torch.zeros(1))


@pytest.mark.parametrize(
    ("backend", "breaks", "collective"),
    [
        ("nccl", "all_reduce", lambda group: group.all_reduce(torch.zeros(1))),
        ("gloo", "all_reduce", lambda group: group.all_reduce(torch.zeros(MOST_GATHERED))),
        ("gloo", "all_gather_single", lambda group: group.all_reduce(torch.zeros(1))),
        ("nccl", "reduce", lambda group: group.reduce(torch.zeros(1), 0)),
        ("gloo", "reduce", lambda group: group.reduce(torch.zeros(MOST_GATHERED), 0)),
        ("gloo", "gather", lambda group: group.reduce(torch.zeros(1), 0)),
        ("gloo", "gather", lambda group: group.reduce(torch.zeros(1), 1)),
        ("gloo", "broadcast", lambda group: group.broadcast(torch.zeros(1), 0)),
        ("gloo", "all_gather", lambda group: group.all_gather(torch.zeros(1))),
        ("gloo", "barrier", lambda group: group.barrier()),
    ],
)
def test_every_collective_tells_who_is_gone(backend, breaks, collective, monkeypatch):
    group = broken(breaks, backend, (Member(1, HERE, 2**22),), monkeypatch)
    with pytest.raises(ProcessLostError, match=r"process 1 .*, of 2 processes, has died; nothing"):
        collective(group)
