"""Processes that pass tensors through memory: sums that are right and bit-equal, and one that dies is named."""

import os
import socket
import threading
from dataclasses import dataclass
from datetime import timedelta

import pytest
import torch

from pipeline.errors import ProcessLostError
from pipeline.runtime import node_group
from pipeline.runtime.members import Member
from pipeline.runtime.node_group import MOST_AT_ONCE, NodeGroup

HERE = socket.gethostname()


@dataclass
class Memory:
    """Stands in for MPI's: pieces that threads share, and counts of who has come to each meeting."""

    pieces: list
    arrivals: list
    lock: threading.Lock
    n_meetings: int = 0

    def arrive(self):
        meeting, self.n_meetings = self.n_meetings, self.n_meetings + 1
        with self.lock:
            if meeting == len(self.arrivals):
                self.arrivals.append(0)
            self.arrivals[meeting] += 1
        return lambda: self.arrivals[meeting] == len(self.pieces)


def groups(n):
    pieces = [torch.zeros(2 * MOST_AT_ONCE, dtype=torch.uint8) for _ in range(n)]
    arrivals, lock = [], threading.Lock()
    members = tuple(Member(rank, HERE, os.getpid()) for rank in range(n))
    return [NodeGroup(Memory(pieces, arrivals, lock), members, rank) for rank in range(n)]


def at_once(n, work):
    """Call `work` with each of `n` groups, all at once, and return the results in order."""
    results = {}
    threads = [
        threading.Thread(target=lambda group=group: results.update({group.rank: work(group)}))
        for group in groups(n)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [results[rank] for rank in range(n)]


def own(rank, n, dtype):
    rng = torch.Generator().manual_seed(rank)
    return torch.randint(-50, 50, (n,), generator=rng).to(dtype)


N_AT_ONCE = MOST_AT_ONCE // 8
SIZES = [0, 1, 2, 17, N_AT_ONCE - 1, N_AT_ONCE, N_AT_ONCE + 1, 2 * N_AT_ONCE + 3]


@pytest.mark.parametrize("n_processes", [1, 2, 3, 5])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.int64], ids=str)
def test_sums_of_any_length_are_those_of_all_processes_again_and_again(n_processes, dtype):
    def work(group):
        found = []
        for n in [*SIZES, *SIZES[::-1]]:
            summed, reduced = own(group.rank, n, dtype), own(group.rank, n, dtype)
            group.all_reduce(summed)
            group.reduce(reduced, n % group.size)
            found.append((summed, reduced))
        return found

    everywhere = at_once(n_processes, work)
    for i, n in enumerate([*SIZES, *SIZES[::-1]]):
        expected = sum(own(rank, n, dtype) for rank in range(n_processes))
        assert all(torch.equal(found[i][0], expected) for found in everywhere)
        assert torch.equal(everywhere[n % n_processes][i][1], expected)


def test_sums_that_round_are_bit_equal_on_all_processes():
    def work(group):
        part = torch.randn(1001, generator=torch.Generator().manual_seed(group.rank))
        group.all_reduce(part)
        return part

    first, *others = at_once(5, work)
    assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize("source", [0, 2])
def test_a_broadcast_reaches_all_and_parts_of_unequal_length_are_gathered(source):
    def work(group):
        message = own(group.rank, N_AT_ONCE + 1, torch.float64)
        group.broadcast(message, source)
        group.barrier()
        return message, group.all_gather(torch.full((group.rank, 2), float(group.rank)))

    for message, gathered in at_once(3, work):
        assert torch.equal(message, own(source, N_AT_ONCE + 1, torch.float64))
        assert [part.shape for part in gathered] == [(0, 2), (1, 2), (2, 2)]
        assert all((part == rank).all() for rank, part in enumerate(gathered))


def test_a_trained_tensor_keeps_its_place_in_autograd():
    trained = torch.ones(3, requires_grad=True)
    groups(1)[0].all_reduce(trained)
    assert trained.is_leaf
    assert trained.requires_grad


COLLECTIVES = {
    "all_reduce": lambda group: group.all_reduce(torch.zeros(1)),
    "reduce": lambda group: group.reduce(torch.zeros(1), 1),
    "broadcast": lambda group: group.broadcast(torch.zeros(1), 0),
    "all_gather": lambda group: group.all_gather(torch.zeros(1)),
    "barrier": lambda group: group.barrier(),
}


@pytest.mark.parametrize("collective", COLLECTIVES)
def test_who_waits_for_a_dead_process_tells_its_name(collective):
    group = groups(2)[0]
    group.members = (group.members[0], Member(1, HERE, 2**22))
    with pytest.raises(
        ProcessLostError, match=rf"process 1 \(pid 4194304 on {HERE}\), of 2 processes, has died; nothing"
    ):
        COLLECTIVES[collective](group)


def test_who_waits_too_long_for_a_living_process_gives_up(monkeypatch):
    monkeypatch.setattr(node_group, "TIMEOUT", timedelta(seconds=0.05))
    with pytest.raises(
        ProcessLostError, match=r"process 0 has waited 0:00:00.05\d* for the other 1, which still run"
    ):
        groups(2)[0].barrier()
