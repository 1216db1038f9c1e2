import subprocess
import sys

import pytest

SCRIPT = """
import torch
from pipeline.hmatrix import H2Matrix, kernels
from pipeline.hmatrix.distributed import distributed_product, distributed_solve
from pipeline.runtime.mpi import MpiCommunicator

torch.set_num_threads(1)
communicator = MpiCommunicator()
assert communicator.size == 2
generator = torch.Generator().manual_seed(1)
points = torch.rand(600, 3, dtype=torch.float64, generator=generator)
matrix = H2Matrix.from_kernel(points, kernels.Matern(length_scale=0.3), diagonal=0.1, tolerance=1e-6)
x = torch.randn(600, 2, dtype=torch.float64, generator=generator)
b = distributed_product(matrix, x, communicator)
torch.testing.assert_close(b, matrix @ x)
found, info = distributed_solve(matrix, matrix.factorize(1e-3), b, communicator, tolerance=1e-10)
torch.testing.assert_close(found, x, rtol=1e-5, atol=1e-5)
if communicator.rank == 0:
    print("solved in", info.iterations)
"""


@pytest.mark.mpi
def test_two_processes_multiply_and_solve_with_one_matrix(tmp_path):
    script = tmp_path / "solve.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        ["mpiexec", "-n", "2", sys.executable, "-m", "mpi4py", str(script)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "solved in" in done.stdout
