"""A smooth covariance of points in many dimensions as F F' + D, divided among processes, against dense algebra."""

import numpy as np
import pytest
import torch

from pipeline.errors import ArtifactError, ConfigError, ConvergenceError
from pipeline.hmatrix import kernels
from pipeline.hmatrix.distributed import DistributedLowRank
from pipeline.runtime.communicator import Serial, run_in_threads

N, DIMENSIONS, NUGGET = 601, 48, 0.5
KERNEL = kernels.SquaredExponential(length_scale=40.0, variance=2.0)


@pytest.fixture(scope="module")
def points():
    return np.random.default_rng(0).standard_normal((N, DIMENSIONS)) * 0.6 ** np.arange(DIMENSIONS) * 10


@pytest.fixture(scope="module")
def dense(points):
    return KERNEL(points, points) + NUGGET * np.eye(N)


def edges(size):
    return [0, *sorted(np.random.default_rng(size).integers(0, N, size - 1).tolist()), N]


def divided(size, work):
    """Return the rows that all processes give, of unequal shares."""
    limits = edges(size)

    def own(communicator):
        return work(communicator, slice(*limits[communicator.rank : communicator.rank + 2]))

    return np.concatenate(run_in_threads(size, own))


@pytest.mark.parametrize("size", [1, 2, 5])
def test_products_solves_and_determinant_are_those_of_the_dense_matrix(points, dense, size):
    b = np.random.default_rng(1).standard_normal((N, 3))
    found = {}

    def work(communicator, rows):
        A = DistributedLowRank.from_kernel(
            points[rows], KERNEL, communicator, diagonal=NUGGET, tolerance=1e-6
        )
        F = A.factorize()
        found[communicator.rank] = (A.shape, A.rank, A.error_estimate(), F.logdet())
        return np.column_stack([A @ b[rows], F.solve(b[rows])])

    product, solution = np.split(divided(size, work), 2, axis=1)
    shape, rank, error, logdet = found[0]
    assert all(told == found[0] for told in found.values())
    assert shape == (N, N)
    assert rank < N / 4
    # Rows sampled evenly tell the error of all to a factor of two.
    off_diagonal = (dense - np.diag(np.diag(dense))) @ b
    assert np.linalg.norm(product - dense @ b) <= 2 * error * np.linalg.norm(off_diagonal)
    assert error <= 1e-6
    # Eigenvalues are at least the nugget, and the norm is at most the trace.
    change = 2 * error * np.trace(dense) / NUGGET
    expected = np.linalg.solve(dense, b)
    assert np.linalg.norm(solution - expected) <= change * np.linalg.norm(expected)
    assert logdet == pytest.approx(np.linalg.slogdet(dense)[1], abs=N * change)


@pytest.mark.parametrize("nugget", [1e-1, 1e-3, 1e-6])
def test_the_rounding_of_a_solve_grows_as_the_norm_of_the_matrix_over_the_nugget(points, nugget):
    b = np.random.default_rng(3).standard_normal(N)
    A = DistributedLowRank.from_kernel(points, KERNEL, Serial(), diagonal=nugget, tolerance=1e-6)
    residual = b - A @ A.factorize().solve(b)
    growth = np.linalg.norm(KERNEL(points, points), 2) / nugget
    assert np.linalg.norm(residual) <= np.finfo(float).eps * growth * np.linalg.norm(b)


def test_the_diagonal_is_exact_whatever_the_tolerance(points, dense):
    A = DistributedLowRank.from_kernel(points, KERNEL, Serial(), diagonal=NUGGET, tolerance=0.1)
    np.testing.assert_allclose((A.factor**2).sum(axis=1) + A.diagonal, np.diag(dense), rtol=1e-12)
    assert A.n_bytes < 8 * N * (A.rank + 2)


@pytest.mark.parametrize(("saved", "read"), [(1, 3), (3, 1), (3, 2)])
def test_other_processes_read_what_some_have_saved(points, tmp_path, saved, read):
    b = np.random.default_rng(2).standard_normal(N)

    def save(communicator, rows):
        A = DistributedLowRank.from_kernel(
            points[rows], KERNEL, communicator, diagonal=NUGGET, tolerance=1e-5
        )
        A.save(tmp_path)
        return A @ torch.from_numpy(b[rows])

    def load(communicator, rows):
        A = DistributedLowRank.load(tmp_path, communicator, n_own_rows=rows.stop - rows.start)
        return A @ b[rows]

    expected = divided(saved, save)
    np.testing.assert_allclose(divided(read, load), expected, rtol=1e-10)


def test_tables_tell_one_level_and_all_processes(points):
    def told(communicator):
        A = DistributedLowRank.from_kernel(
            points[communicator.rank :: 2], KERNEL, communicator, diagonal=NUGGET, tolerance=1e-3
        )
        return A.level_table(), A.statistics(), A.factorize().statistics(), A.rank, A.shown_blocks()

    table, statistics, factorized, rank, (blocks, left_out) = run_in_threads(2, told)[1]
    assert [row["skeletons"] for row in table] == [rank]
    assert table[0]["bytes"] == sum(statistics["n_bytes"]) == 8 * N * (rank + 1)
    assert statistics["rows"] == [301, 300]
    assert [row["process"] for row in factorized] == [0, 1]
    assert len(blocks) == left_out == 0


def test_what_cannot_be_of_low_rank_is_refused(points, tmp_path):
    rough = kernels.Matern(length_scale=0.1)
    with pytest.raises(
        ConvergenceError, match=r"151 columns of 601 leave a relative error of .*a larger tolerance, or"
    ):
        DistributedLowRank.from_kernel(points, rough, Serial(), diagonal=1.0, tolerance=1e-6)
    with pytest.raises(ConfigError, match="diagonal must be a number above 0, found 0"):
        DistributedLowRank.from_kernel(points, KERNEL, Serial(), diagonal=0.0)
    with pytest.raises(ConfigError, match="kernel must be a covariance"):
        DistributedLowRank.from_kernel(points, kernels.LaplaceSingleLayer(), Serial(), diagonal=1.0)
    A = DistributedLowRank.from_kernel(points, KERNEL, Serial(), diagonal=1.0, tolerance=1e-2)
    with pytest.raises(ValueError, match=r"the matrix needs shape \(601,\) or \(601, m\), not \(7,\)"):
        A @ np.ones(7)
    A.save(tmp_path)
    with pytest.raises(ArtifactError, match="holds a matrix of 601 rows, and 602 were asked for"):
        DistributedLowRank.load(tmp_path, Serial(), n_own_rows=602)


def test_misfits_of_one_process_end_all(points, tmp_path):
    def built(communicator, **options):
        options = {"diagonal": NUGGET, "tolerance": 1e-3, "kernel": KERNEL} | options
        return DistributedLowRank.from_kernel(
            points[communicator.rank :: 2], communicator=communicator, **options
        )

    def other(communicator, one, another):
        return another if communicator.rank else one

    run_in_threads(2, lambda communicator: built(communicator).save(tmp_path))
    calls = {
        "seed": lambda c: built(c, seed=c.rank),
        "kernel": lambda c: built(c, kernel=other(c, KERNEL, kernels.Matern(length_scale=3.0))),
        "the matrix needs": lambda c: built(c) @ np.ones(other(c, 301, 7)),
        "columns of x": lambda c: built(c).factorize().solve(np.ones(other(c, (301, 2), (300, 1)))),
        "path": lambda c: built(c).save(tmp_path / str(c.rank)),
        "NoneType": lambda c: DistributedLowRank.load(other(c, tmp_path, None), c, n_own_rows=301 - c.rank),
        "n_own_rows": lambda c: DistributedLowRank.load(tmp_path, c, n_own_rows=other(c, 301, "x")),
        "601 rows, and 351 were asked for": lambda c: DistributedLowRank.load(
            tmp_path, c, n_own_rows=other(c, 301, 50)
        ),
    }

    def refused(communicator, words, call):
        with pytest.raises((ArtifactError, ConfigError, TypeError, ValueError), match=words) as failure:
            call(communicator)
        communicator.barrier()  # none has gone astray
        return str(failure.value)

    for words, call in calls.items():
        assert all(
            "\n" not in line for line in run_in_threads(2, lambda c, w=words, f=call: refused(c, w, f))
        )
