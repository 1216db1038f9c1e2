"""Matrices without a kernel: their entries as represented, and their factorizations, against dense algebra."""

import numpy as np
import pytest
import torch

from pipeline.hmatrix import H2Matrix, kernels
from pipeline.hmatrix.represented import represented_entries

COVARIANCE = kernels.Matern(nu=0.5, length_scale=0.2)
SKEWED = kernels.Custom(lambda x, y: COVARIANCE(x, y) * (1 + 0.1 * x[..., :1]))
WAVE = kernels.Helmholtz(wavenumber=3.0)


@pytest.fixture
def generator():
    return np.random.default_rng(3)


def compressed(points, kernel, *, diagonal=1.0, tolerance=1e-8, leaf_size=16, **options):
    return H2Matrix.from_kernel(
        points, kernel, diagonal=diagonal, tolerance=tolerance, leaf_size=leaf_size, **options
    )


def entries(A, i, j):
    """The block of the caller's rows i and columns j, by the native routine."""
    return represented_entries(A.form)(
        A.rows.places[i].astype(np.int32), A.columns.places[j].astype(np.int32)
    )


@pytest.mark.parametrize("n", [0, 1, 2, 15, 16, 17, 500])
@pytest.mark.parametrize("kernel", [COVARIANCE, SKEWED, WAVE], ids=["symmetric", "nonsymmetric", "complex"])
def test_entries_are_those_of_the_dense_matrix(n, kernel, generator):
    A = compressed(generator.random((n, 3)), kernel, diagonal=0.0)
    dense = A.to_dense()
    i, j = generator.permutation(n)[: n // 2 + 1], generator.permutation(n)[: n // 3 + 1]
    np.testing.assert_allclose(entries(A, i, j), dense[np.ix_(i, j)], atol=1e-13)
    np.testing.assert_allclose(entries(A.T, j, i), dense[np.ix_(i, j)].T, atol=1e-13)


def test_entries_of_single_precision_and_of_two_point_sets(generator):
    targets, sources = generator.random((300, 2)), generator.random((200, 2))
    narrow = compressed(targets.astype(np.float32), COVARIANCE, diagonal=0.0, tolerance=1e-4)
    wide = compressed(targets, COVARIANCE, diagonal=0.0, sources=sources)
    for A in (narrow, wide):
        i, j = generator.permutation(A.shape[0])[:70], generator.permutation(A.shape[1])[:50]
        np.testing.assert_allclose(entries(A, i, j), A.to_dense()[np.ix_(i, j)], atol=1e-6)


@pytest.mark.parametrize("kind", ["auto", "cholesky", "ldlt", "lu"])
def test_products_are_factorized(kind, generator):
    A = compressed(generator.random((600, 2)), COVARIANCE)
    square = A @ A
    assert square.kernel is None
    F = square.factorize(1e-10, kind)
    dense, b = square.to_dense(), generator.standard_normal((600, 2))
    condition = np.linalg.cond(dense)
    error = np.linalg.norm(F.solve(b) - np.linalg.solve(dense, b))
    assert error <= 1e-10 * condition * np.linalg.norm(np.linalg.solve(dense, b))
    assert abs(F.logdet() - np.linalg.slogdet(dense)[1]) <= 1e-8 * 600


def test_sums_of_unlike_matrices_and_inverses_are_factorized(generator):
    points = generator.random((500, 2))
    A, N = compressed(points, COVARIANCE), compressed(points, SKEWED)
    b = generator.standard_normal(500)
    total = (A @ A) + N
    assert not total.is_symmetric
    for matrix in (total, total.add_diagonal(2.0), A.inverse()):
        F = matrix.factorize(1e-10)
        dense = matrix.to_dense()
        np.testing.assert_allclose(F.solve(b), np.linalg.solve(dense, b), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(F.solve_transposed(b), np.linalg.solve(dense.T, b), rtol=1e-5, atol=1e-6)


def test_an_operator_known_by_its_products_is_solved_with(generator):
    A = compressed(generator.random((400, 2)), COVARIANCE)
    dense = A.to_dense()
    B = H2Matrix.from_operator(A.rows, lambda X: dense @ X, tolerance=1e-8)
    b = torch.from_numpy(generator.standard_normal(400))
    x, info = B.solve(b, 1e-10)
    assert info.relative_residual <= 1e-10
    np.testing.assert_allclose(dense @ x.numpy(), b.numpy(), atol=1e-5)


def test_complex_matrices_without_kernel_are_factorized(generator):
    A = compressed(generator.random((300, 3)), WAVE, diagonal=3.0 + 1.0j)
    product = A @ A
    b = generator.standard_normal(300)
    np.testing.assert_allclose(product @ product.factorize(1e-9).solve(b), b, atol=1e-5)
