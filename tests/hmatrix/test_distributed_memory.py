"""No process holds what grows with the points of all: the same points a process take the same bytes, however many."""

import tracemalloc

import numpy as np
import pytest

from pipeline.hmatrix import DistributedH2Matrix, kernels
from pipeline.runtime.communicator import run_in_threads

OWN = 1500  # points of a process


def bytes_a_process(n_processes):
    """Return the most bytes of arrays at one time over the processes, and the mean of what the parts hold at most.

    The points are on a circle, where every process has two neighbors.
    """
    kernel = kernels.Matern(nu=0.5, length_scale=0.3)

    def run(comm):
        angles = 2 * np.pi * (comm.rank + np.random.default_rng(comm.rank).random(OWN)) / n_processes
        points = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        A = DistributedH2Matrix.from_kernel(points, kernel, comm, diagonal=0.1, tolerance=1e-4, leaf_size=16)
        F = A.factorize(parts=n_processes)
        F.solve(points[:, 0])
        A @ points[:, 1]
        return sum(F.steps.peak_bytes.values())

    tracemalloc.start()
    try:
        parts = run_in_threads(n_processes, run, at_once=True)
        return tracemalloc.get_traced_memory()[1] / n_processes, float(np.mean(parts))
    finally:
        tracemalloc.stop()


@pytest.fixture(autouse=True)
def _several_levels(monkeypatch):
    monkeypatch.setattr("pipeline.hmatrix.distributed.factor._DENSE_END", 60)


def test_bytes_a_process_stay_as_points_grow_with_processes():
    few, many = np.array(bytes_a_process(4)), np.array(bytes_a_process(16))
    if (many > 1.15 * few).any():
        # How many threads are at their peaks at one time is up to the scheduler: the least of two runs counts.
        many = np.minimum(many, bytes_a_process(16))
    assert (many <= 1.15 * few).all(), dict(zip(("arrays", "parts"), many / few, strict=True))
