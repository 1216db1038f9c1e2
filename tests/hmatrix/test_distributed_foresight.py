import numpy as np
import pytest
import torch

from pipeline.hmatrix import DistributedH2Matrix, kernels
from pipeline.hmatrix.distributed import factor, foresight
from pipeline.runtime.communicator import run_in_threads

KERNEL = kernels.Matern(nu=0.5, length_scale=0.1)
NUGGET = 1e-2
POINTS = np.random.default_rng(0).random((2000, 2))


def with_matrix(n_processes, work, nugget=NUGGET):
    def run(comm):
        own = np.array_split(np.arange(len(POINTS)), n_processes)[comm.rank]
        A = DistributedH2Matrix.from_kernel(
            POINTS[own], KERNEL, comm, diagonal=nugget, tolerance=1e-6, leaf_size=32
        )
        return work(A, own)

    return run_in_threads(n_processes, run)


def smallest(A, _):
    return foresight.smallest_eigenvalue(A.form, A.form.diagonal_term, A.communicator)


@pytest.mark.parametrize("n_processes", [1, 3])
def test_the_smallest_eigenvalue_of_blocks_is_close_above_that_of_the_matrix(n_processes):
    x = torch.from_numpy(POINTS)
    exact = np.linalg.eigvalsh(KERNEL(x, x).numpy() + NUGGET * np.eye(len(POINTS)))[0]
    found = with_matrix(n_processes, smallest)
    assert len(set(found)) == 1
    assert (1 - 1e-6) * exact <= found[0] <= 2 * exact


def test_it_does_not_depend_on_the_number_of_processes():
    assert len({with_matrix(n_processes, smallest)[0] for n_processes in (1, 2, 4)}) == 1


def test_processes_without_points_ask_along():
    def run(comm):
        own = POINTS[:40] if comm.rank == 1 else POINTS[:0]
        A = DistributedH2Matrix.from_kernel(own, KERNEL, comm, diagonal=NUGGET, leaf_size=8)
        return smallest(A, own)

    found = run_in_threads(3, run)
    assert len(set(found)) == 1
    assert NUGGET <= found[0] < 1


def start(tolerance, tightest=1e-12):
    def ask(A, _):
        return foresight.foreseen_start(
            A.form, A.form.diagonal_term, tolerance,
            share=0.18, tightest=tightest, communicator=A.communicator,
        )  # fmt: skip

    return ask


def test_a_tolerance_that_the_smallest_eigenvalue_bears_stays():
    assert with_matrix(2, start(1e-4), nugget=10.0) == 2 * [foresight.Start(1e-4)]


def test_a_looser_one_is_lowered_to_the_same_and_the_diagonal_is_shifted():
    found = [with_matrix(2, start(tolerance), nugget=1e-4)[0] for tolerance in (1.0, 3.0)]
    assert found[0].tolerance < 1.0
    np.testing.assert_allclose(found[0].tolerance, found[1].tolerance, rtol=1e-12)
    assert found[0].shift == found[1].shift == 15 * with_matrix(2, smallest, nugget=1e-4)[0]


def test_nothing_is_predicted_where_even_the_tightest_is_too_loose():
    assert with_matrix(2, start(1.0, tightest=0.99), nugget=1e-4) == 2 * [foresight.Start(1.0)]


def test_a_preconditioner_begins_where_it_goes_through(monkeypatch):
    """Large matrices look ahead; they factorize once, and the iteration converges to the solution."""
    monkeypatch.setattr(factor, "MANY", 1000)
    monkeypatch.setattr(factor, "_DENSE_END", 60)
    monkeypatch.setattr(foresight, "_BORNE", 0.5)  # tightens although there are few points
    b = np.random.default_rng(1).standard_normal(len(POINTS))

    def work(A, own):
        F = factor.factorize(A.form, A.communicator, tolerance=1e-3, checked=False, shifted=True)
        x, info = A.solve(b[own], tolerance=1e-8, factorization=F)
        return F.used_tolerance, F.notes, x, info.relative_residual

    found = with_matrix(2, work)
    assert found[0][0] < 1e-3
    assert found[0][1] == ()
    assert found[0][3] <= 1e-8
    x = torch.from_numpy(POINTS)
    matrix = KERNEL(x, x).numpy() + NUGGET * np.eye(len(POINTS))
    solution = np.concatenate([rows[2] for rows in found])
    assert np.linalg.norm(matrix @ solution - b) <= 1e-4 * np.linalg.norm(b)
