import pytest
from launch import launched

SCRIPT = """
import sys
from pathlib import Path
import numpy as np
from pipeline.errors import ProcessLostError
from pipeline.hmatrix import DistributedH2Matrix, H2Matrix, kernels
from pipeline.runtime.mpi import MpiCommunicator

comm = MpiCommunicator()
points, x = np.random.default_rng(0).random((900, 2)), np.random.default_rng(1).standard_normal((900, 2))
kernel = kernels.Matern(nu=0.5, length_scale=0.3)
own = slice(0, 0) if comm.rank == 1 else slice(0, 500) if comm.rank == 0 else slice(500, 900)
A = DistributedH2Matrix.from_kernel(points[own], kernel, comm, diagonal=0.1, tolerance=float(sys.argv[1]))
found = A @ x[own]
expected = (H2Matrix.from_kernel(points, kernel, diagonal=0.1) @ x)[own]
assert found.shape == expected.shape
assert np.linalg.norm(found - expected) <= 2e-6 * np.linalg.norm(expected)
try:
    A @ np.ones(7)
except ValueError as error:
    # One file a process: launchers mix the lines of unbuffered processes.
    Path(sys.argv[2], f"refused.{comm.rank}").write_text(str(error))
freed = MpiCommunicator(comm.comm.Dup())
B = DistributedH2Matrix.from_kernel(points[own][:50], kernel, freed, diagonal=0.1)
freed.comm.Free()
try:
    B @ np.ones(B.n_own_rows)
except ProcessLostError as error:
    Path(sys.argv[2], f"lost.{comm.rank}").write_text(str(error))
"""


@pytest.mark.mpi
def test_real_processes_divide_a_matrix_and_fail_together(tmp_path):
    done = launched(3, SCRIPT, tmp_path, 1e-6, tmp_path)
    assert done.returncode == 0, done.stderr
    refusals = [(tmp_path / f"refused.{rank}").read_text() for rank in range(3)]
    assert all("the product needs shape (500,) or (500, m), not (7,)" in refusal for refusal in refusals)
    lost = [(tmp_path / f"lost.{rank}").read_text() for rank in range(3)]
    assert all(line.startswith("MPI has lost the other processes: ") and "\n" not in line for line in lost)
