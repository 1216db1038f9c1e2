"""Unlike processes own boxes in proportion to speeds that are given or measured, and solve the dense system."""

import itertools
from functools import cache

import numpy as np
import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.hmatrix import DistributedH2Matrix, kernels
from pipeline.hmatrix.distributed.factor import KINDS
from pipeline.hmatrix.distributed.speeds import boxes_per_second, measured_speeds, shares_of
from pipeline.hmatrix.skeleton import FarSampling
from pipeline.runtime.communicator import run_in_threads

COVARIANCE = kernels.Matern(nu=0.5, length_scale=0.2)
N = 2100
POINTS = np.random.default_rng(0).random((N, 2))
B = np.random.default_rng(1).standard_normal(N)


def on_processes(n_processes, work):
    """Return work(matrix, own rows) of each process."""

    def run(communicator):
        rank, size = communicator.rank, communicator.size
        own = slice(N * rank // size, N * (rank + 1) // size)
        A = DistributedH2Matrix.from_kernel(
            POINTS[own], COVARIANCE, communicator, diagonal=0.1, tolerance=1e-8, leaf_size=16
        )
        return work(A, own)

    return run_in_threads(n_processes, run)


@cache
def system():
    points = torch.from_numpy(POINTS)
    return COVARIANCE(points, points).numpy() + 0.1 * np.eye(N)


def residual(parts):
    x = np.concatenate(parts)
    return np.linalg.norm(system() @ x - B) / np.linalg.norm(B)


@pytest.mark.parametrize("speeds", [[3.0, 1.0], [1.0, 7.0], [1.0, 1.0, 2.0]])
def test_processes_own_boxes_in_proportion_to_given_speeds(speeds):
    def work(A, own):
        F = A.factorize(parts=len(speeds), speeds=speeds)
        first, last = F.steps.own_range
        return last - first, F.solve(B[own])

    found = on_processes(len(speeds), work)
    shares = np.array([count for count, _ in found]) / N
    wanted = np.array(speeds) / sum(speeds)
    # Seams are work as well, which the few leaves of a slow process have more of beside their own.
    assert np.abs(shares - wanted).max() <= wanted.min() / 2
    assert residual([x for _, x in found]) <= 1e-5


def test_measured_processes_one_of_them_batched_solve_the_system_and_tell_their_speeds():
    def work(A, own):
        batched = torch.device("cpu") if A.communicator.rank == 1 else None
        F = A.factorize(speeds="measured", device=batched)
        return F.speeds, F.solve(B[own])

    found = on_processes(3, work)
    speeds = found[0][0]
    assert all(other == speeds for other, _ in found)
    assert [speed.device for speed in speeds] == ["native", "cpu", "native"]
    assert all(speed.boxes_per_second > 0 for speed in speeds)
    assert {row["process"] for speed in speeds for row in speed.rows()} == {0, 1, 2}
    assert residual([x for _, x in found]) <= 1e-5


def test_a_process_that_is_slowed_by_a_known_factor_is_found_that_much_slower():
    """Its clock runs four times as fast, and each reading of a clock is a tick."""

    def work(A, _):
        communicator = A.communicator
        ticks = itertools.count(step=4.0 if communicator.rank == 1 else 1.0)
        speeds = measured_speeds(
            A.form, np.full(A.form.n_own, 0.1), communicator,
            kind=KINDS["cholesky"], types=(np.dtype(float), np.dtype(float)),
            sampling=FarSampling.for_tolerance(1e-9, A.form.norm, A.form.division.whole.n_boxes),
            device=None, threads=1, clock=lambda: next(ticks),
        )  # fmt: skip
        return [speed.boxes_per_second for speed in speeds]

    for found in on_processes(2, work):
        assert found[0] == pytest.approx(4 * found[1])


def test_seconds_of_levels_count_as_often_as_the_tree_has_boxes_there():
    # 64 leaves at 1 s, 16 boxes at 2 s, and 4 and 1 above, which take what the last measured level takes.
    assert boxes_per_second([1.0, 2.0], [64, 16, 4, 1], threads=1) == pytest.approx(85 / (64 + 2 * 21))
    assert boxes_per_second([1.0], [64, 16], threads=3) == pytest.approx(3.0)


def test_parts_of_a_process_share_its_speed():
    np.testing.assert_allclose(shares_of([6.0, 1.0], np.array([2, 1])), [3.0, 3.0, 1.0])


@pytest.mark.parametrize("speeds", ["fast", [1.0], [1.0, 0.0], [1.0, float("nan")]])
def test_speeds_that_are_none_are_refused_on_all_processes(speeds):
    def work(A, _):
        with pytest.raises(ConfigError, match="speeds must be"):
            A.factorize(parts=2, speeds=speeds)

    on_processes(2, work)
