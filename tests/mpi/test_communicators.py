import pytest
from launch import launched

SCRIPT = """
import sys
import torch
from pipeline.runtime.mpi import MpiCommunicator
from pipeline.runtime.node_group import process_group
from pipeline.runtime.torch_group import torch_group

def check(comm, *dtypes):
    total = torch.tensor([float(comm.rank)])
    comm.all_reduce(total)
    assert total.item() == sum(range(comm.size))
    for n in (1, 500_000):  # small messages and large ones may take other ways
        for dtype in (torch.float64, torch.int64, *dtypes):
            ranks = torch.full((n,), comm.rank, dtype=dtype)
            comm.all_reduce(ranks)
            assert (ranks == sum(range(comm.size))).all()
            ranks = torch.full((n,), comm.rank, dtype=dtype)
            comm.reduce(ranks, comm.size - 1)
            assert comm.rank != comm.size - 1 or (ranks == sum(range(comm.size))).all()
    last = torch.tensor([comm.rank])
    comm.broadcast(last, source=comm.size - 1)
    assert last.item() == comm.size - 1
    parts = comm.all_gather(torch.full((comm.rank, 2), float(comm.rank), dtype=torch.float64))
    assert [len(part) for part in parts] == list(range(comm.size))
    assert all((part == i).all() for i, part in enumerate(parts))
    if comm.size > 1:
        try:
            comm.all_gather(torch.zeros(2, dtype=torch.float64 if comm.rank else torch.int64))
        except TypeError as error:
            assert "process 1 passes a tensor of torch.float64" in str(error)
        else:
            raise AssertionError("other types")
    for n in (0, 3, 700_000):
        received = comm.exchange({
            to: torch.full((n, 2), comm.rank * 10 + to, dtype=torch.float64)
            for to in range(comm.size) if (comm.rank + to) % 3 != 2
        })
        assert list(received) == [source for source in range(comm.size) if (source + comm.rank) % 3 != 2]
        for source, tensor in received.items():
            assert tensor.shape == (n, 2) and (tensor == source * 10 + comm.rank).all()
    assert comm.exchange({comm.rank: torch.tensor(True)})[comm.rank].item() is True
    comm.barrier()

assert MpiCommunicator().size == int(sys.argv[1])
check(MpiCommunicator())
for opened in (torch_group, process_group):
    with opened(torch.device("cpu"), MpiCommunicator()) as group:
        check(group, torch.bfloat16)
        for n in (1, 500_000):
            trained = torch.ones(n, requires_grad=True)
            group.all_reduce(trained)
            group.reduce(trained, 0)
            assert group.rank > 0 or (trained == group.size**2).all()
            assert trained.is_leaf and trained.requires_grad
        assert group.size == int(sys.argv[1])
if MpiCommunicator().rank == 0:
    print("agreed")
"""


@pytest.mark.mpi
@pytest.mark.parametrize("n_processes", [1, 3])
def test_all_groups_of_real_processes_do_the_same_collectives(n_processes, tmp_path):
    done = launched(n_processes, SCRIPT, tmp_path, n_processes)
    assert done.returncode == 0, done.stderr
    assert "agreed" in done.stdout


WITHOUT_MEMORY = """
import errno
import sys
from pathlib import Path

import torch
from pipeline.runtime import mpi, node_group

def full(*args, **options):
    raise OSError(errno.ENOSPC, "No space left on device")

comm = mpi.MpiCommunicator()
with node_group.process_group(torch.device("cpu"), comm) as group:
    assert type(group).__name__ == "NodeGroup"
    if sys.platform == "linux":
        lines = Path("/proc/self/maps").read_text().splitlines()
        mapped = [line for line in lines if line.rpartition("/")[2].startswith("parsimony-")]
        assert mapped and all(line.endswith("(deleted)") for line in mapped), mapped
    group.barrier()
if comm.rank == 0:
    mpi.tempfile.mkstemp = full
with node_group.process_group(torch.device("cpu"), comm) as group:
    assert type(group).__name__ != "NodeGroup"
    total = torch.ones(3)
    group.all_reduce(total)
    assert total.tolist() == [2.0] * 3
"""


@pytest.mark.mpi
def test_shared_memory_leaves_nothing_behind_and_is_done_without_where_there_is_none(tmp_path):
    done = launched(2, WITHOUT_MEMORY, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("No space left on device") == 1


@pytest.mark.mpi
def test_one_failing_process_ends_the_others(tmp_path):
    script = (
        "from mpi4py import MPI\n"
        "if MPI.COMM_WORLD.rank == 1:\n    raise SystemExit(2)\n"
        "MPI.COMM_WORLD.Barrier()\n"
    )
    done = launched(2, script, tmp_path, timeout=60)
    assert done.returncode != 0
