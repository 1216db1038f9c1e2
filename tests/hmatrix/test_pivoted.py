"""Randomly pivoted Cholesky and the solves that it preconditions, against dense algebra."""

import numpy as np
import pytest
import torch

from pipeline.errors import ConfigError, ConvergenceError
from pipeline.hmatrix import kernels
from pipeline.hmatrix.pivoted import PivotedCholesky, StreamedMatrix, solve

N, DIMENSIONS = 601, 48


@pytest.fixture(scope="module")
def points():
    """Ten clouds of eight dimensions each, in a space of many more."""
    generator = np.random.default_rng(0)
    flat = generator.standard_normal((N, 8)) + 3 * generator.standard_normal((10, 8))[np.arange(N) % 10]
    return flat @ generator.standard_normal((8, DIMENSIONS)) / 8


@pytest.fixture(scope="module")
def kernel(points):
    distances = np.linalg.norm(points[::7, None] - points[::7], axis=2)
    return kernels.SquaredExponential(length_scale=float(np.median(distances)), variance=2.0)


def test_the_remainder_is_positive_with_the_trace_that_is_told(points, kernel):
    K = kernel(points, points)
    found = PivotedCholesky.of(points, kernel, rank=150, generator=np.random.default_rng(0))
    left = K - found.factor @ found.factor.T
    assert found.rank == 150
    assert len(np.unique(found.pivots)) == 150
    assert np.trace(left) == pytest.approx(found.trace, rel=1e-6)
    assert np.linalg.eigvalsh(left)[0] > -1e-10 * np.trace(K)
    np.testing.assert_allclose(left[found.pivots], 0, atol=1e-9)


def test_what_is_left_is_as_near_the_least_that_can_be_as_the_theorem_says(points, kernel):
    eigenvalues = np.maximum(np.sort(np.linalg.eigvalsh(kernel(points, points)))[::-1], 0)
    least = np.cumsum(eigenvalues[::-1])[::-1]  # trace that the best approximation of each rank leaves
    for rank in (50, 100, 200):
        # Theorem 1.1 of arXiv 2207.06503 with epsilon = 1: twice the least of rank r, in the mean, where
        # r + r log(trace / least) columns were taken.
        ranks = np.arange(1, rank)
        reached = ranks[ranks * (1 + np.log(least[0] / least[ranks])) <= rank].max()
        left = [
            PivotedCholesky.of(points, kernel, rank=rank, generator=np.random.default_rng(seed)).trace
            for seed in range(5)
        ]
        assert np.mean(left) < 2 * least[reached]


def test_all_columns_are_all_of_the_matrix_and_equal_points_cost_one(kernel):
    points = np.random.default_rng(2).random((40, 3))
    twice = np.concatenate([points, points])
    found = PivotedCholesky.of(twice, kernel, rank=80, generator=np.random.default_rng(0))
    assert found.rank <= 40
    np.testing.assert_allclose(found.factor @ found.factor.T, kernel(twice, twice), atol=1e-6)


@pytest.mark.parametrize("diagonal", [1.0, 1e-2, "unlike"])
def test_solves_are_those_of_dense_algebra(points, kernel, diagonal):
    term = np.linspace(0.1, 10, N) if diagonal == "unlike" else diagonal
    b = np.random.default_rng(3).standard_normal((N, 3))
    x, info = solve(points, kernel, b, diagonal=term, tolerance=1e-8, rank=400)
    A = kernel(points, points) + np.diag(np.broadcast_to(term, N))
    assert np.linalg.norm(A @ x - b) < 1e-7 * np.linalg.norm(b)
    np.testing.assert_allclose(x, np.linalg.solve(A, b), atol=1e-6 * np.abs(x).max())
    assert info.iterations < 25
    assert "columns" in info.notes[0]
    same, _ = solve(
        torch.from_numpy(points), kernel, torch.from_numpy(b[:, 0]), diagonal=term, tolerance=1e-8
    )
    np.testing.assert_allclose(same.numpy(), x[:, 0], atol=1e-5 * np.abs(x).max())


def test_it_ends_when_what_is_left_is_below_the_diagonal(points, kernel):
    loose, tight = (solve(points, kernel, points[:, 0], diagonal=d, rank=N)[1].notes[0] for d in (10.0, 1e-3))
    assert int(loose.split()[2]) < int(tight.split()[2]) < N


@pytest.mark.parametrize("kept", [0, 10**6])
def test_streamed_products_are_those_of_the_dense_matrix(points, kernel, kept, monkeypatch):
    monkeypatch.setattr("pipeline.hmatrix.pivoted._ENTRIES", 1000)
    monkeypatch.setattr("pipeline.hmatrix.pivoted._KEPT", kept)
    x = np.random.default_rng(4).standard_normal((N - 1, 2))
    A = StreamedMatrix(points[:7], points[1:], kernel)
    np.testing.assert_allclose(A @ x, kernel(points[:7], points[1:]) @ x)
    assert (A @ x[:, 0]).shape == (7,)


def test_what_cannot_be_solved_is_said(points, kernel):
    b = points[:, 0]
    with pytest.raises(ConfigError, match="diagonal must be one positive number or"):
        solve(points, kernel, b, diagonal=0.0)
    with pytest.raises(ConfigError, match="kernel must be a covariance"):
        solve(points, kernels.LaplaceSingleLayer(), b, diagonal=1.0)
    with pytest.raises(ConvergenceError):
        solve(points, kernel, b, diagonal=1e-6, rank=5, max_iterations=5)
