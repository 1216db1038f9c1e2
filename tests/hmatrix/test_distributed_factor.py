from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.errors import ConfigError, ConvergenceError
from pipeline.hmatrix import DistributedH2Matrix, H2Matrix, kernels
from pipeline.hmatrix.distributed.factor import factorize
from pipeline.hmatrix.distributed.problem import divided_problem
from pipeline.runtime.communicator import run_in_threads

COVARIANCE = kernels.Matern(nu=0.5, length_scale=0.3)
SKEWED = kernels.Custom(lambda x, y: COVARIANCE(x, y) * (1 + 0.1 * x[..., :1]))
CASES = {
    "cholesky": (2, COVARIANCE, 0.1, "cholesky"),
    "ldlt": (2, COVARIANCE, 0.1, "ldlt"),
    "lu": (2, SKEWED, 0.5, "lu"),
    "complex": (3, kernels.Helmholtz(wavenumber=3.0), 30.0, "ldlt"),
    "complex diagonal": (2, COVARIANCE, 0.1 + 1.0j, "ldlt"),
}


@pytest.fixture(autouse=True)
def _several_levels(monkeypatch):
    monkeypatch.setattr("pipeline.hmatrix.distributed.factor._DENSE_END", 60)


def dense(points, kernel, diagonal):
    x = torch.from_numpy(points)
    return kernel(x, x).numpy() + diagonal * np.eye(len(points))


def with_matrix(points, kernel, diagonal, n_processes, work, **options):
    """Call work(matrix, own rows) on processes that share the points unequally, and return its results."""
    edges = np.concatenate(
        [[0], np.sort(np.random.default_rng(7).integers(0, len(points) + 1, n_processes - 1)), [len(points)]]
    )

    def run(comm):
        own = slice(edges[comm.rank], edges[comm.rank + 1])
        A = DistributedH2Matrix.from_kernel(
            points[own], kernel, comm, diagonal=diagonal, leaf_size=16, **({"tolerance": 1e-9} | options)
        )
        return work(A, own)

    return run_in_threads(n_processes, run)


# Kinds and types go through the same exchanges whatever the number of processes.
@pytest.mark.parametrize(
    ("name", "n_processes"), [*((name, 5) for name in CASES), ("cholesky", 1), ("lu", 2)]
)
def test_solve_and_determinant_match_the_dense_ones(name, n_processes):
    dimension, kernel, diagonal, kind = CASES[name]
    rng = np.random.default_rng(0)
    points, b = rng.random((300, dimension)), rng.standard_normal((300, 2))
    matrix = dense(points, kernel, diagonal)

    def work(A, own):
        F = A.factorize(kind=kind)
        return F.solve(b[own]), F.slogdet(), F.residual

    found = with_matrix(points, kernel, diagonal, n_processes, work)
    x = np.concatenate([part for part, _, _ in found])
    assert np.linalg.norm(matrix @ x - b) <= 1e-5 * np.linalg.norm(b)
    sign, size = np.linalg.slogdet(matrix)
    for _, (found_sign, found_size), residual in found:
        np.testing.assert_allclose(found_sign, sign, atol=1e-6)
        np.testing.assert_allclose(found_size, size, rtol=1e-6)
        assert residual <= 1e-3


def test_factors_depend_on_the_number_of_parts_alone():
    """Of one point set on one process or on three, as far as the tree's order of points inside leaves is the same."""
    rng = np.random.default_rng(0)
    points = rng.random((500, 2))
    sizes = with_matrix(points, COVARIANCE, 0.1, 3, lambda A, _: A.factorize(parts=3).logdet())
    assert len(set(sizes)) == 1
    serial = H2Matrix.from_kernel(points, COVARIANCE, diagonal=0.1, tolerance=1e-9, leaf_size=16)
    np.testing.assert_allclose(sizes[0], serial.factorize().logdet(), rtol=1e-7)


def test_any_number_of_processes_does_the_same_to_the_last_bit(monkeypatch):
    """Samples begin small, so that boxes of several processes meet points that have not been fetched."""
    monkeypatch.setattr("pipeline.hmatrix.parts.elimination._AHEAD", 1)
    rng = np.random.default_rng(0)
    points, b = rng.random((1600, 2)), rng.standard_normal(1600)
    calls = []

    def counted(A, *arguments):
        problem = divided_problem(A, *arguments)

        def fetch(wanted):
            calls.append(A.division.cuts.size - 1)
            return problem.fetch(wanted)

        return replace(problem, fetch=problem.fetch and fetch)

    monkeypatch.setattr("pipeline.hmatrix.distributed.factor.divided_problem", counted)

    def work(A, own):
        F = A.factorize(parts=6)
        return F.logdet(), F.solve(b[own])

    one, *others = (with_matrix(points, COVARIANCE, 0.1, n, work) for n in (1, 2, 3))
    for found in others:
        assert found[0][0] == one[0][0]
        np.testing.assert_array_equal(np.concatenate([x for _, x in found]), one[0][1])
    assert calls.count(1) == 0  # all points are the process's own
    assert calls.count(3) > calls.count(2) > 0


def test_the_default_way_to_solve_reaches_its_tolerance():
    rng = np.random.default_rng(0)
    points, b = rng.random((500, 2)), torch.from_numpy(rng.standard_normal(500))

    def work(A, own):
        x, info = A.solve(b[own], tolerance=1e-8)
        assert info.iterations > 0
        return x

    x = torch.cat(with_matrix(points, COVARIANCE, 0.1, 3, work)).numpy()
    residual = dense(points, COVARIANCE, 0.1) @ x - b.numpy()
    assert np.linalg.norm(residual) <= 1e-7 * np.linalg.norm(b.numpy())


@pytest.mark.parametrize(("tolerance", "differ"), [(1e-4, True), (1e-9, False)])
def test_a_solve_tells_the_residual_on_exact_rows_and_warns_where_it_is_another(tolerance, differ, caplog):
    rng = np.random.default_rng(0)
    points, b = rng.random((700, 2)), rng.standard_normal((700, 2))
    kernel = kernels.Matern(nu=1.5, length_scale=0.3)
    matrix = dense(points, kernel, 1e-2)
    with caplog.at_level("WARNING"):
        found = with_matrix(
            points, kernel, 1e-2, 3, lambda A, own: A.solve(b[own], tolerance=1e-6), tolerance=tolerance
        )
    x = np.concatenate([part for part, _ in found])
    worst = max(np.linalg.norm(matrix @ x[:, k] - b[:, k]) / np.linalg.norm(b[:, k]) for k in range(2))
    for _, info in found:
        assert worst / 3 <= info.exact_residual <= 3 * worst
        assert any("on exact rows" in note for note in info.notes) == differ
    assert sum("on exact rows" in record.message for record in caplog.records) == differ


def test_a_solution_that_means_nothing_on_exact_rows_is_refused_on_all_processes():
    points = np.random.default_rng(0).random((400, 2))
    b = np.random.default_rng(1).standard_normal(400)
    kernel = kernels.Matern(nu=2.5, length_scale=0.3)

    def work(A, own):
        F = factorize(A.form, A.communicator, tolerance=1e-6, kind="ldlt", checked=False)
        with pytest.raises(ConvergenceError, match="on exact rows; compress it at a smaller tolerance"):
            A.solve(b[own], tolerance=1e-6, factorization=F)

    with_matrix(points, kernel, 1e-4, 2, work, tolerance=1e-4)


def test_a_nonsymmetric_system_is_solved_by_gmres():
    rng = np.random.default_rng(0)
    points, b = rng.random((300, 2)), rng.standard_normal((300, 2))
    x = np.concatenate(with_matrix(points, SKEWED, 0.5, 2, lambda A, own: A.solve(b[own])[0]))
    assert np.linalg.norm(dense(points, SKEWED, 0.5) @ x - b) <= 1e-7 * np.linalg.norm(b)


def test_samples_have_the_covariance():
    """Of 20,000 draws, entries of the covariance scatter by 1 / sqrt(20,000)."""
    points = np.random.default_rng(0).random((60, 2))

    def work(A, _):
        return A.factorize().sample(np.random.default_rng(3), 20_000)

    draws = np.concatenate(with_matrix(points, COVARIANCE, 0.1, 2, work))
    wanted = dense(points, COVARIANCE, 0.1)
    assert np.abs(draws @ draws.T / 20_000 - wanted).max() <= 6 * 1.1 / np.sqrt(20_000)


def test_squares_of_the_transposed_root_are_those_of_the_matrix():
    rng = np.random.default_rng(0)
    points, x = rng.random((400, 2)), rng.standard_normal((400, 2))
    roots = with_matrix(
        points, COVARIANCE, 0.1, 3, lambda A, own: A.factorize().multiply_root_transposed(x[own])
    )
    squares = (np.concatenate(roots) ** 2).sum(axis=0)
    wanted = (x * (dense(points, COVARIANCE, 0.1) @ x)).sum(axis=0)
    np.testing.assert_allclose(squares, wanted, rtol=1e-5)


def test_a_matrix_that_is_not_definite_fails_alike_on_all_processes():
    points = np.random.default_rng(0).random((200, 2))

    def work(A, _):
        with pytest.raises(
            ConvergenceError, match=r"process \d: cholesky met the pivot .* at point \d+ on level \d"
        ) as failure:
            A.factorize(kind="cholesky")
        return str(failure.value)

    lines = with_matrix(points, kernels.LaplaceSingleLayer(), -1.0, 3, work)
    assert len(set(lines)) == 1
    assert "\n" not in lines[0]


def test_unlike_arguments_are_refused_on_all_processes():
    points = np.random.default_rng(0).random((90, 2))

    def work(A, _):
        with pytest.raises(ConfigError, match=r"kind: 'qr' is unknown"):
            A.factorize(kind="qr" if A.communicator.rank == 1 else "auto")
        with pytest.raises(ConfigError, match=r"parts: process 0 passes 1 and process 1 2"):
            A.factorize(parts=1 + A.communicator.rank)
        with pytest.raises(ValueError, match=r"solve needs shape"):
            A.factorize().solve(np.ones(1000))

    with_matrix(points, COVARIANCE, 0.1, 2, work)
