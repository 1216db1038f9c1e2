import pytest
import torch

from pipeline.runtime.communicator import Serial, run_in_threads


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
