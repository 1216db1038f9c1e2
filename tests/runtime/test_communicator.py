import pytest
import torch

from pipeline.runtime.communicator import Counting, Serial, on_level, run_in_threads
from pipeline.runtime.letters import pack, unpack


@pytest.mark.parametrize("n_processes", [1, 2, 5])
def test_collectives_do_what_they_say(n_processes):
    def work(comm):
        total = torch.tensor([float(comm.rank)])
        comm.all_reduce(total)
        first = torch.tensor([comm.rank])
        comm.broadcast(first, source=comm.size - 1)
        parts = comm.all_gather(torch.full((comm.rank, 2), float(comm.rank)))
        comm.barrier()
        return total.item(), first.item(), [len(part) for part in parts]

    expected = (sum(range(n_processes)), n_processes - 1, list(range(n_processes)))
    assert run_in_threads(n_processes, work) == [expected] * n_processes


def some_tensors(source, destination):
    """What a process sends to another in the tests: nothing, or tensors of many types and shapes, empty ones too."""
    dtype = (torch.float64, torch.complex64, torch.int32, torch.bool, torch.bfloat16)[
        (source + 2 * destination) % 5
    ]
    shape = ((), (0, 3), (5,), (2, 3, source + 1))[(source * destination) % 4]
    return None if (source + destination) % 3 == 2 else torch.full(shape, source + destination).to(dtype)


def exchanges_all(comm):
    sent = {to: some_tensors(comm.rank, to) for to in range(comm.size)}
    received = comm.exchange({to: tensor for to, tensor in reversed(sent.items()) if tensor is not None})
    expected = {source: some_tensors(source, comm.rank) for source in range(comm.size)}
    expected = {source: tensor for source, tensor in expected.items() if tensor is not None}
    return list(received) == list(expected) and all(
        received[source].dtype == tensor.dtype and torch.equal(received[source], tensor)
        for source, tensor in expected.items()
    )


@pytest.mark.parametrize("n_processes", [1, 2, 5])
def test_an_exchange_delivers_every_tensor_to_whom_it_was_sent(n_processes):
    assert all(run_in_threads(n_processes, exchanges_all))
    assert all(run_in_threads(n_processes, lambda comm: comm.exchange({}) == {}))


def test_what_was_received_is_the_receivers_own():
    def work(comm):
        sent = torch.zeros(3)
        received = comm.exchange({1 - comm.rank: sent})[1 - comm.rank]
        received += 1
        return sent.tolist()

    assert run_in_threads(2, work) == [[0.0] * 3] * 2


def test_a_destination_that_is_no_process_is_refused():
    with pytest.raises(ValueError, match="no process 1 among 1"):
        Serial().exchange({1: torch.zeros(1)})


def test_bytes_sent_to_others_are_counted():
    def work(comm):
        counting = Counting(comm)
        counting.exchange({to: torch.zeros(3, 2, dtype=torch.float32) for to in range(comm.size)})
        return counting.n_bytes["exchange"], counting.n_calls["exchange"]

    assert run_in_threads(3, work) == [(48, 2)] * 3


@pytest.mark.parametrize("n_processes", [1, 3])
def test_calls_are_counted_by_level_on_every_counter_around_a_communicator(n_processes):
    def work(comm):
        outer = Counting(comm)
        inner = Counting(outer)
        inner.all_reduce(torch.zeros(2))
        with on_level(inner, 4), on_level(inner, 3):
            inner.all_reduce(torch.zeros(5))
        with on_level(comm, 4):
            comm.barrier()
        return [
            (c.level_bytes, c.level_calls, set(c.level_waiting), c.n_calls["all_reduce"])
            for c in (outer, inner)
        ]

    found = ({3: 20}, {3: 1}, {3}, 2) if n_processes > 1 else ({}, {}, set(), 2)
    assert run_in_threads(n_processes, work) == [[found] * 2] * n_processes


@pytest.mark.parametrize("shape", [(), (0, 3), (7,), (2, 1, 3)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64, torch.bool, torch.bfloat16, torch.uint8])
def test_a_letter_is_unpacked_as_it_was_packed(shape, dtype):
    tensor = (
        torch.arange(max(1, int(torch.tensor(shape).prod())))
        .to(dtype)[: int(torch.tensor(shape).prod())]
        .reshape(shape)
    )
    found = unpack(pack(tensor))
    assert found.dtype == dtype
    assert torch.equal(found, tensor)


def test_serial_is_the_group_of_one():
    x = torch.arange(3)
    Serial().all_reduce(x)
    Serial().broadcast(x, source=0)
    Serial().barrier()
    assert [part.tolist() for part in Serial().all_gather(x)] == [[0, 1, 2]]


def test_a_failure_in_one_thread_is_raised_and_frees_the_others():
    def work(comm):
        if comm.rank == 1:
            raise ZeroDivisionError
        comm.barrier()

    with pytest.raises(ZeroDivisionError):
        run_in_threads(3, work)


def test_a_process_that_returns_while_others_wait_for_it_is_an_error():
    def work(comm):
        if comm.rank:
            comm.barrier()

    with pytest.raises(RuntimeError, match="returned while others waited for it"):
        run_in_threads(3, work)
