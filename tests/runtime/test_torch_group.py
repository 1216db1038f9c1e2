"""Where processes meet: at the cluster's address alone, under a token."""

import os
import socket
import threading
from dataclasses import dataclass

import psutil
import pytest
import torch.distributed as dist

from pipeline.errors import ConfigError
from pipeline.runtime.torch_group import INTERFACE, interface_of, local_address, open_store


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


def test_the_store_listens_at_one_address_and_hides_its_keys_behind_a_token():
    first, second = launch(2)
    store = open_store("127.0.0.1", first)
    host, port, token = first.said[0].split()
    assert listening(int(port)) == {"127.0.0.1"}
    assert len(token) == 32
    store.set("key", "value")
    assert open_store("127.0.0.1", second).get("key") == b"value"
    stranger = dist.TCPStore(host, int(port), 2, is_master=False, wait_for_workers=False)
    assert not stranger.check(["key"])


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
    monkeypatch.setattr(socket.socket, "connect", no_route)
    with pytest.raises(
        ConfigError, match=f"no route .* to far .*name the cluster's interface in {INTERFACE}"
    ):
        local_address(["far"])
    assert INTERFACE not in os.environ
