"""Real processes that fail, dawdle or are killed at random calls: the others end with them, within seconds."""

import numpy as np
import pytest
from launch import launched

SCRIPT = """
import sys
import numpy as np
import disturbed
from pipeline.hmatrix import DistributedH2Matrix, kernels
from pipeline.runtime.mpi import MpiCommunicator

what, who, share = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
mpi = MpiCommunicator()
points = np.random.default_rng(mpi.rank).random((200, 2))

def solved(comm):
    kernel = kernels.Matern(nu=0.5, length_scale=0.3)
    A = DistributedH2Matrix.from_kernel(points, kernel, comm, diagonal=0.1, leaf_size=16)
    return A.factorize(parts=3).solve(points[:, 0])

counted = disturbed.Disturbed(mpi, at=-1, disturb=disturbed.fail)
expected = solved(counted)
at = max(int(share * counted.calls), 1) if mpi.rank == who else -1
found = solved(disturbed.Disturbed(mpi, at=at, disturb=getattr(disturbed, what)))
assert np.array_equal(found, expected)
"""


@pytest.mark.mpi
@pytest.mark.parametrize(("what", "seed"), [("fail", 0), ("die", 1), ("dawdle", 3)])
def test_processes_end_together_whatever_happens_to_one(what, seed, tmp_path):
    rng = np.random.default_rng(seed)
    done = launched(3, SCRIPT, tmp_path, what, rng.integers(3), rng.random(), timeout=240)
    said = done.stdout + done.stderr
    assert (done.returncode == 0) == (what == "dawdle"), said
    if what == "fail":
        assert "Disturbance: disturbed" in said
    if what == "die":
        assert "KILLED BY SIGNAL: 9" in said or "EXIT CODE: 9" in said or "Killed (signal 9)" in said
