"""The examples run as a user would run them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from warm_starts import run_python

EXAMPLES = Path(__file__).parents[2] / "examples"
SINGLE = sorted(path.name for path in EXAMPLES.glob("*.py") if not path.name.startswith(("ddp", "ex", "mpi")))


def run(*command):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("name", SINGLE)
def test_an_example_runs(name):
    done = run_python(
        [str(EXAMPLES / name)], folder=EXAMPLES, environment={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout


def test_two_processes_of_torchrun_end_with_the_same_bits():
    command = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        str(EXAMPLES / "ddp.py"),
    ]
    assert "2 processes end with the same bits" in run(sys.executable, *command)


def test_examples_are_short():
    assert all(len(path.read_text().splitlines()) <= 60 for path in EXAMPLES.glob("*.py"))
