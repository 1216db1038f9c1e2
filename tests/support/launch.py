"""Scripts for real MPI processes."""

import os
import subprocess
import sys
from pathlib import Path

from warm_starts import folder_of_programs

SUPPORT = Path(__file__).parent


def launched(
    n_processes: int, script: str, folder: Path, *arguments: object, timeout: float = 200, warm: bool = True
) -> subprocess.CompletedProcess:
    """Run a script's text on so many processes, which find the modules of this folder too; return their result.

    Processes that start warm share the hashes of texts; others, like a user's, iterate over sets in different orders.
    """
    path = folder / "script.py"
    path.write_text(script)
    python = f"{folder_of_programs()}/python" if warm else sys.executable
    return subprocess.run(
        ["mpiexec", "-n", str(n_processes), python, "-m", "mpi4py", str(path), *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(SUPPORT)},
        capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip


# Stages that the processes of one launch run one after another, by their arguments: most of a launch is imports.
STAGES = """
import json
import sys

from pipeline.__main__ import main

for arguments in json.loads(sys.argv[1]):
    assert main(arguments) == 0, arguments
"""
