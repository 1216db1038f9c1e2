import numpy as np
import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.hmatrix import H2Matrix, kernels

N = 1050


@pytest.fixture(scope="module")
def case():
    """A symmetric matrix, and symmetric corrections of entries between close points."""
    points = np.random.default_rng(0).random((N, 2))
    A = H2Matrix.from_kernel(
        points, kernels.Matern(nu=0.5, length_scale=0.2), diagonal=1.0, tolerance=1e-9, leaf_size=32
    )
    distances = np.sqrt(((points[:, None] - points) ** 2).sum(axis=2))
    i, j = np.nonzero(distances < 0.02)
    near = A.is_near(i, j)
    return points, A, i[near], j[near], 0.1 * np.cos(i * j)[near]


def added(A, i, j, values):
    matrix = A.to_dense()
    np.add.at(matrix, (i, j), values)
    return matrix


def test_touching_points_are_near(case):
    _, A, i, j, _ = case
    assert A.is_near(np.arange(N), np.arange(N)).all()
    assert len(i) > 2 * N
    assert not A.is_near(np.repeat(np.arange(N), 20), np.tile(np.arange(20), N)).all()
    assert len(j) == len(i)


def test_products_rows_and_factorizations_see_the_correction(case, tmp_path):
    _, A, i, j, values = case
    B = A.add_sparse(i, j, values)
    matrix = added(A, i, j, values)
    np.testing.assert_allclose(B.to_dense(), matrix, atol=1e-8)
    assert B.error_estimate() <= 2e-9
    b = np.random.default_rng(1).standard_normal(N)
    for kind in ("ldlt", "lu"):
        np.testing.assert_allclose(B.factorize(1e-10, kind).solve(b), np.linalg.solve(matrix, b), atol=1e-6)
    B.save(tmp_path)
    np.testing.assert_allclose(
        H2Matrix.load(tmp_path).factorize(1e-10).solve(b), np.linalg.solve(matrix, b), atol=1e-6
    )
    np.testing.assert_allclose(
        (2.0 * B).add_sparse(i, j, values).to_dense(), added(2.0 * B, i, j, values), atol=1e-8
    )


def test_a_nonsymmetric_matrix_takes_any_correction(case):
    points, A, i, j, _ = case
    kernel = kernels.Custom(lambda x, y: torch.exp(-torch.cdist(x, y)) * (1 + x[..., :1]))
    A = H2Matrix.from_kernel(points, kernel, diagonal=5.0, tolerance=1e-7, leaf_size=32)
    values = np.random.default_rng(2).random(len(i))
    B = A.add_sparse(i, j, values)
    matrix = added(A, i, j, values)
    np.testing.assert_allclose(B.T.to_dense(), matrix.T, atol=1e-8)
    b = np.ones(N)
    np.testing.assert_allclose(matrix @ B.factorize(1e-9).solve(b), b, atol=1e-4)


def test_far_and_asymmetric_corrections_are_refused(case):
    points, A, i, j, values = case
    apart = np.array([points.sum(axis=1).argmin()]), np.array([points.sum(axis=1).argmax()])
    with pytest.raises(ValueError, match="far block"):
        A.add_sparse(*apart, np.ones(1))
    one = np.flatnonzero(i != j)[:1]
    with pytest.raises(ValueError, match="symmetric"):
        A.add_sparse(i[one], j[one], np.ones(1))
    with pytest.raises(ValueError, match="real"):
        A.add_sparse(i, j, 1j * values)


def test_arithmetic_keeps_corrections(case):
    _, A, i, j, values = case
    B = A.add_sparse(i, j, values)
    matrix = added(A, i, j, values)
    np.testing.assert_allclose(B.recompress(tolerance=1e-7).to_dense(), matrix, atol=1e-5)
    total = (B + B).to_dense()
    assert np.linalg.norm(total - 2 * matrix) <= 1e-8 * np.linalg.norm(matrix)


def test_a_complex_diagonal_keeps_the_correction_of_a_real_kernel(case):
    _, A, i, j, values = case
    B = A.add_sparse(i, j, values).add_diagonal(1j)
    matrix = added(A, i, j, values) + 1j * np.eye(N)
    b = np.random.default_rng(1).standard_normal(N)
    np.testing.assert_allclose(B.factorize(1e-10).solve(b), np.linalg.solve(matrix, b), atol=1e-6)


@pytest.mark.parametrize("n", [0, 1, 30])
def test_no_correction_changes_nothing(n):
    A = H2Matrix.from_kernel(np.random.default_rng(0).random((n, 2)), kernels.Matern(), diagonal=1.0)
    none = np.zeros(0, np.int64)
    np.testing.assert_array_equal(A.add_sparse(none, none, np.zeros(0)).to_dense(), A.to_dense())


def test_a_correction_that_is_nan_is_refused(case):
    _, A, *_ = case
    with pytest.raises(ConfigError, match="NaN"):
        A.add_sparse(np.zeros(1, np.int64), np.zeros(1, np.int64), np.array([np.nan]))
