import subprocess
import sys

import pytest

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
    script = tmp_path / "collectives.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        ["mpiexec", "-n", str(n_processes), sys.executable, "-m", "mpi4py", str(script), str(n_processes)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "agreed" in done.stdout


@pytest.mark.mpi
def test_one_failing_process_ends_the_others(tmp_path):
    script = tmp_path / "fail.py"
    script.write_text(
        "from mpi4py import MPI\n"
        "if MPI.COMM_WORLD.rank == 1:\n    raise SystemExit(2)\n"
        "MPI.COMM_WORLD.Barrier()\n"
    )
    done = subprocess.run(
        ["mpiexec", "-n", "2", sys.executable, "-m", "mpi4py", str(script)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode != 0
