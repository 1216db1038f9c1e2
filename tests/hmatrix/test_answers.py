"""No silent wrong number: what once was one, and random matrices, against dense algebra."""

import logging

import numpy as np
import pytest
import torch

from pipeline.errors import ConfigError, ConvergenceError
from pipeline.hmatrix import H2Matrix, kernels

N = 2500  # more than have all their rows evaluated by `measure` in trust.py


def relative(found, wanted):
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def dense(points, kernel, diagonal):
    return kernel(points, points) + np.diag(np.broadcast_to(diagonal, len(points)))


def test_a_few_huge_diagonal_entries_do_not_own_the_tolerance():
    generator = np.random.default_rng(0)
    points, kernel = generator.random((N, 2)), kernels.Matern(length_scale=0.1)
    huge = generator.choice(N, 60, replace=False)
    ordinary = np.setdiff1d(np.arange(N), huge)
    diagonal = np.full(N, 1e-2)
    diagonal[huge] = 1e6
    A, matrix = H2Matrix.from_kernel(points, kernel, diagonal=diagonal), dense(points, kernel, diagonal)
    b = generator.standard_normal(N)
    assert relative((A @ b)[ordinary], (matrix @ b)[ordinary]) <= 1e-6
    exact = np.linalg.solve(matrix, b)
    # A relative change of 1e-6 |K| ~ 1e-6 * 500 / sqrt(n) beside eigenvalues of at least 1e-2.
    assert relative(A.solve(b)[0], exact) <= 1e-3
    assert relative(A.factorize().solve(b), exact) <= 1e-3


@pytest.mark.parametrize("pairs", [1, 50])
def test_points_that_nearly_coincide_do_not_own_the_tolerance(pairs):
    generator = np.random.default_rng(0)
    points, kernel = generator.random((N, 3)), kernels.LaplaceSingleLayer()
    points[:pairs] = points[-pairs:] + 1e-9 * generator.standard_normal((pairs, 3))
    A, matrix = H2Matrix.from_kernel(points, kernel, diagonal=50.0), dense(points, kernel, 50.0)
    x, others = generator.standard_normal(N), slice(pairs, -pairs)
    assert relative((A @ x)[others], (matrix @ x)[others]) <= 1e-6


def test_the_error_estimate_sees_rows_that_a_few_others_outweigh():
    generator = np.random.default_rng(0)
    points, kernel = generator.random((3000, 2)), kernels.Matern(length_scale=0.1)
    A = H2Matrix.from_kernel(points, kernel, tolerance=1e-2)
    loose = A.error_estimate()
    diagonal = np.zeros(3000)
    diagonal[::60] = 1e6  # of 50 rows
    heavy = A.add_diagonal(diagonal)
    x = generator.standard_normal(3000)
    assert relative(heavy @ x, dense(points, kernel, diagonal) @ x) < 1e-5
    assert 0.5 * loose <= heavy.error_estimate() <= 2 * loose


KINK = kernels.Matern(length_scale=0.3, nu=1.5)


def test_solve_compresses_anew_where_the_nugget_is_below_the_tolerance(caplog):
    points = np.random.default_rng(0).random((2500, 2))
    A, matrix = H2Matrix.from_kernel(points, KINK, diagonal=1e-4, tolerance=1e-4), dense(points, KINK, 1e-4)
    b = np.random.default_rng(1).standard_normal(2500)
    with caplog.at_level(logging.WARNING):
        x, info = A.solve(b)
    assert "compressed anew at tolerance 1e-06" in info.notes[0]
    assert relative(matrix @ x, b) <= 3 * info.exact_residual <= 0.15
    assert info.relative_residual <= 1e-8


def test_a_residual_on_exact_rows_is_told_beside_that_of_the_compressed_matrix(caplog):
    points = np.random.default_rng(0).random((2500, 2))
    b = np.random.default_rng(1).standard_normal((2500, 2))
    matrix = dense(points, KINK, 1e-2)
    for tolerance, differ in ((1e-4, True), (1e-9, False)):
        caplog.clear()
        x, info = H2Matrix.from_kernel(points, KINK, diagonal=1e-2, tolerance=tolerance).solve(b, 1e-6)
        worst = max(relative(matrix @ x[:, k], b[:, k]) for k in range(2))
        assert worst / 3 <= info.exact_residual <= 3 * worst
        assert any("on exact rows" in note for note in info.notes) == differ
        assert any("on exact rows" in record.message for record in caplog.records) == differ


def test_a_solution_that_means_nothing_is_refused():
    points = np.random.default_rng(0).random((2000, 2))
    A = H2Matrix.from_kernel(points, kernels.SquaredExponential(length_scale=0.3))
    with pytest.raises(ConvergenceError):
        A.solve(np.random.default_rng(1).standard_normal(2000))


@pytest.mark.parametrize("where", ["far", "near"])
def test_a_kernel_of_nan_is_told_as_such_at_any_size(where):
    def spoiled(x, y):
        r = kernels.distances(x, y)
        return torch.where((r > 1.3) if where == "far" else (r < 1e-3), torch.nan, torch.exp(-r))

    points = np.random.default_rng(0).random((5000, 2))
    with pytest.raises(ConvergenceError, match="the kernel's entries are NaN or infinite"):
        H2Matrix.from_kernel(points, kernels.Custom(spoiled))


def test_a_singular_kernel_that_is_not_zero_between_equal_points_is_refused():
    kernel = kernels.Custom(lambda x, y: 1 / kernels.distances(x, y).clamp(min=1e-9), singular=True)
    with pytest.raises(ValueError, match=r"gives 1e\+09 between equal points"):
        H2Matrix.from_kernel(np.random.default_rng(0).random((100, 2)), kernel)


def test_a_rectangular_solve_is_refused_by_its_own_name():
    points = np.random.default_rng(0).random((100, 2))
    with pytest.raises(ValueError, match="solve needs a square matrix"):
        H2Matrix.from_kernel(points, kernels.Matern(), sources=points[:40]).solve(np.ones(100))


def test_a_solve_can_be_asked_for_the_residual_of_the_exact_matrix():
    """Eigenvalues below tolerance times norm: a solution for the compressed matrix says little of the exact one."""
    points = np.random.default_rng(0).random((1500, 2))
    kernel = kernels.Matern(length_scale=0.3, nu=1.5)
    matrix = kernel(points, points) + 1e-4 * np.eye(1500)
    A = H2Matrix.from_kernel(points, kernel, diagonal=1e-4, tolerance=1e-4)
    b = np.random.default_rng(3).standard_normal(1500)
    x, info = A.solve(b, 1e-6, exact=True)
    # Sampled rows tell the residual of all to a factor of two or so.
    assert info.exact_residual <= 1e-6
    assert relative(matrix @ x, b) <= 3e-6
    assert any("compressed anew" in note for note in info.notes)
    with pytest.raises(ConfigError, match="exact: this matrix was not built from a kernel"):
        (A @ A).solve(b, exact=True)
