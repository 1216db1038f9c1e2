"""The example for MPI programs runs as its first line says."""

import subprocess
from pathlib import Path

import pytest
from warm_starts import folder_of_programs

EXAMPLE = Path(__file__).parents[2] / "examples" / "mpi_preconditioner.py"


@pytest.mark.mpi
def test_a_program_of_ones_own_is_preconditioned_on_four_processes(tmp_path):
    done = subprocess.run(
        ["mpiexec", "-n", "4", f"{folder_of_programs()}/python", str(EXAMPLE)],
        cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("4 processes: ")
