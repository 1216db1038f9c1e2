"""Scripts that real MPI processes run."""

import os
import subprocess
import sys
from pathlib import Path

SUPPORT = Path(__file__).parent


def launched(
    n_processes: int, script: str, folder: Path, *arguments: object, timeout: float = 200
) -> subprocess.CompletedProcess:
    """Run a script's text by so many processes, which find the modules of this folder too; return how they ended."""
    path = folder / "script.py"
    path.write_text(script)
    return subprocess.run(
        ["mpiexec", "-n", str(n_processes), sys.executable, "-m", "mpi4py", str(path), *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(SUPPORT)},
        capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip
