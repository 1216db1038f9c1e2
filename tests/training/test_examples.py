"""The examples run as a user would run them."""

import os
from pathlib import Path

import pytest
from warm_starts import run_python

EXAMPLES = Path(__file__).parents[2] / "examples"
SINGLE = sorted(path.name for path in EXAMPLES.glob("*.py") if not path.name.startswith(("ddp", "ex", "mpi")))


def run(*arguments):
    """Run Python on an example; return what it printed."""
    done = run_python(arguments, folder=EXAMPLES, environment={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.parametrize("name", SINGLE)
def test_an_example_runs(name):
    assert run(name)


def test_two_processes_of_torchrun_end_with_the_same_bits():
    processes = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    assert "2 processes end with the same bits" in run(*processes, "ddp.py")


def test_examples_are_short():
    assert all(len(path.read_text().splitlines()) <= 60 for path in EXAMPLES.glob("*.py"))
