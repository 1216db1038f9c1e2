"""Sums, products, inverses and recompressions against dense arithmetic."""

import numpy as np
import pytest
import torch

from pipeline.errors import ConvergenceError
from pipeline.hmatrix import H2Matrix, algebra, kernels

TOLERANCE = 1e-6


def matrix(points, kernel=None, *, diagonal=0.5, **options):
    kernel = kernel or kernels.Matern(length_scale=0.3)
    return H2Matrix.from_kernel(
        points, kernel, diagonal=diagonal, tolerance=TOLERANCE, leaf_size=32, **options
    )


@pytest.fixture(scope="module")
def points():
    return np.random.default_rng(5).random((400, 2))


@pytest.fixture(scope="module")
def A(points):
    return matrix(points)


@pytest.fixture(scope="module")
def B(points):
    """Symmetric, of another kernel over the same points."""
    return matrix(points, kernels.SquaredExponential(length_scale=0.5), diagonal=np.linspace(1, 2, 400))


@pytest.fixture(scope="module")
def N(points):
    """Not symmetric."""
    import torch

    stretched = torch.tensor([1.2, 0.8], dtype=torch.float64)
    return matrix(points, kernels.Custom(lambda x, y: kernels.Matern()(x, stretched * y)))


def assert_close(found, expected, tolerance=TOLERANCE):
    """Compare with at most ten times the tolerance: errors of both operands and of the result add up."""
    assert isinstance(found, H2Matrix)
    error = np.linalg.norm(found.to_dense() - expected)
    assert error <= 10 * tolerance * np.linalg.norm(expected)


def test_a_sum_of_kernel_matrices_is_that_of_the_sum_of_kernels(A, B):
    total = A + B
    assert_close(total, A.to_dense() + B.to_dense())
    assert total.kernel == A.kernel + B.kernel
    b = np.ones(400)
    np.testing.assert_allclose(total @ total.factorize(1e-8).solve(b), b, rtol=1e-3)


def test_numbers_of_any_type_multiply_from_both_sides(A):
    a = A.to_dense()
    for found in (
        2 * A,
        A * 2.0,
        np.float32(2) * A,
        A * np.float64(2),
        np.int64(2) * A,
        A / 0.5,
        A / np.int32(1) * 2,
    ):
        assert isinstance(found, H2Matrix)
        np.testing.assert_allclose(found.to_dense(), 2 * a, rtol=1e-14)
    with pytest.raises(TypeError):
        A * "2"


def test_differences_and_multiples(A, B, N):
    a, b, n = A.to_dense(), B.to_dense(), N.to_dense()
    assert_close(A - B, a - b)
    assert_close(A - N, a - n)
    assert_close(2.0 * A + 3.0 * B, 2 * a + 3 * b)
    assert np.abs((A - A).to_dense()).max() <= 1e-15


def test_products(A, B, N):
    a, b, n = A.to_dense(), B.to_dense(), N.to_dense()
    assert_close(A @ B, a @ b)
    assert_close(A @ N, a @ n)
    assert_close(N @ N, n @ n)
    assert not (A @ B).is_symmetric


def test_a_product_with_a_rectangular_matrix(A, points):
    other = np.random.default_rng(6).random((390, 2))
    R = matrix(points, sources=other, diagonal=0.0)
    assert (A @ R).shape == (400, 390)
    assert_close(A @ R, A.to_dense() @ R.to_dense())
    assert_close(R @ R.T, R.to_dense() @ R.to_dense().T)
    assert (R @ R.T).is_square


def test_results_take_part_in_arithmetic_again(A, B, N):
    a, b, n = A.to_dense(), B.to_dense(), N.to_dense()
    assert_close(A @ B + N, a @ b + n)
    assert_close((A @ B) @ N, a @ b @ n)
    assert_close((A @ B).recompress(tolerance=1e-3), a @ b, 1e-3)


def test_laws_of_arithmetic_hold_on_vectors(A, B, N):
    x = np.random.default_rng(8).standard_normal((400, 3))
    scale = np.linalg.norm(A @ (B @ x))
    assert np.linalg.norm((A @ B) @ x - A @ (B @ x)) <= 10 * TOLERANCE * scale
    assert np.linalg.norm((A @ B).product_transposed(x) - B @ (A @ x)) <= 10 * TOLERANCE * scale
    assert np.linalg.norm((A + B) @ x - (B + A) @ x) <= 10 * TOLERANCE * scale
    assert np.linalg.norm((A @ (B + N)) @ x - (A @ B + A @ N) @ x) <= 20 * TOLERANCE * scale


def test_the_inverse_of_a_symmetric_matrix(A):
    inverse = A.inverse()
    assert inverse.is_symmetric
    assert_close(inverse, np.linalg.inv(A.to_dense()))


def test_a_symmetric_matrix_that_proves_indefinite_is_inverted_and_solved_all_the_same(A):
    shifted = A.add_diagonal(-1.3)
    a = shifted.recompress(tolerance=1e-11).to_dense()  # what the inverse is of: the kernel's own matrix
    assert np.linalg.eigvalsh(a).min() < 0 < np.linalg.eigvalsh(a).max()
    assert_close(shifted.inverse(), np.linalg.inv(a))
    b = np.random.default_rng(0).standard_normal(400)
    x, info = shifted.solve(b, 1e-9)
    assert np.linalg.norm(shifted @ x - b) <= 1e-8 * np.linalg.norm(b)
    assert any("ldlt" in note for note in info.notes)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_products_of_matrices_of_any_scale(scale, points):
    small = H2Matrix.from_kernel(points, scale * kernels.Matern(length_scale=0.3), tolerance=1e-4)
    a = small.to_dense()
    assert np.linalg.norm(
        (small @ small).to_dense() / scale**2 - (a / scale) @ (a / scale)
    ) <= 1e-3 * np.linalg.norm((a / scale) @ (a / scale))


def test_an_ill_conditioned_matrix_is_factorized_tighter_before_it_is_inverted(caplog):
    points = np.random.default_rng(0).random((1500, 2))
    smooth = kernels.Matern(nu=1.5, length_scale=0.2)
    A = H2Matrix.from_kernel(points, smooth, diagonal=1e-5, tolerance=1e-4)
    caplog.set_level("INFO", "pipeline.hmatrix")
    forth, _ = algebra._exact_solves(A.form, 1e-4)
    assert sum("residual" in text for text in caplog.messages) == 2
    exact = A.recompress(tolerance=1e-10).to_dense()
    b = np.random.default_rng(2).standard_normal((1500, 4))
    assert np.linalg.norm(exact @ forth(b) - b) <= 0.1 * 1e-4 * np.linalg.norm(b)


def test_the_inverse_of_a_nonsymmetric_matrix(N):
    N = N.add_diagonal(3.0)
    assert_close(N.inverse(), np.linalg.inv(N.to_dense()))


def test_the_inverse_of_a_complex_matrix(points):
    W = matrix(np.pad(points, ((0, 0), (0, 1))), kernels.Helmholtz(wavenumber=4.0), diagonal=30.0 + 5.0j)
    assert_close(W.inverse(), np.linalg.inv(W.to_dense()))


@pytest.mark.parametrize("nugget", [1e-4, 1e-6])
def test_the_inverse_of_an_ill_conditioned_matrix_keeps_its_tolerance_and_tells_of_the_condition(nugget):
    points = np.random.default_rng(3).random((701, 2))
    kernel = kernels.SquaredExponential(length_scale=0.3)
    a = kernel(points, points) + nugget * np.eye(701)
    A = H2Matrix.from_kernel(points, kernel, diagonal=nugget, tolerance=1e-6)
    inverse = A.inverse(tolerance=1e-6)
    assert np.linalg.norm(inverse.to_dense() - np.linalg.inv(a)) <= 1e-6 * np.linalg.norm(np.linalg.inv(a))
    b = np.random.default_rng(4).standard_normal((701, 8))
    off = np.linalg.norm(a @ (inverse @ b) - b) / np.linalg.norm(b)
    told = float(inverse.notes[0].split("by ")[1].split(" of it")[0])
    assert off / 3 < told < 3 * off


def test_an_inverse_that_cannot_keep_its_tolerance_is_refused_with_one_that_it_keeps():
    points = np.random.default_rng(3).random((701, 2))
    kernel, nugget = kernels.SquaredExponential(length_scale=0.5), 1e-9
    A = H2Matrix.from_kernel(points, kernel, diagonal=nugget, tolerance=1e-6)
    with pytest.raises(ConvergenceError, match="too near singular") as refused:
        A.inverse(tolerance=1e-8)
    advised = float(str(refused.value).split("ask for the tolerance ")[1])
    a = kernel(points, points) + nugget * np.eye(701)
    found = A.inverse(tolerance=advised).to_dense()
    assert np.linalg.norm(found - np.linalg.inv(a)) <= advised * np.linalg.norm(found)


def test_an_inverse_that_single_precision_refuses_is_found_in_double():
    points = np.random.default_rng(3).random((701, 2)).astype(np.float32)
    kernel, nugget = kernels.SquaredExponential(length_scale=0.3), 1e-2
    A = H2Matrix.from_kernel(points, kernel, diagonal=nugget, tolerance=1e-5)
    with pytest.raises(ConvergenceError, match="near singular; give points in double precision, add to its"):
        A.inverse()
    points = points.astype(np.float64)
    found = H2Matrix.from_kernel(points, kernel, diagonal=nugget, tolerance=1e-5).inverse().to_dense()
    expected = np.linalg.inv(kernel(points, points) + nugget * np.eye(701))
    assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)


def test_the_inverse_times_the_matrix_is_the_identity(A):
    # The error of the inverse is multiplied by the norm of A.
    bound = 10 * TOLERANCE * np.linalg.norm(A.inverse().to_dense()) * np.linalg.norm(A.to_dense(), 2)
    assert np.linalg.norm(A.to_dense() @ A.inverse().to_dense() - np.eye(400)) <= bound


@pytest.mark.parametrize("n", [0, 1, 2, 33])
def test_small_matrices(n):
    A = matrix(np.random.default_rng(1).random((n, 2)))
    a = A.to_dense()
    for found, expected in (
        (A + A, 2 * a),
        (A @ A, a @ a),
        (A.inverse(), np.linalg.inv(a)),
        (A.recompress(), a),
    ):
        np.testing.assert_allclose(found.to_dense(), expected, atol=1e-5)


def test_recompression_saves_bytes(A, B):
    product = A @ B
    for fine in (A, product):
        coarse = fine.recompress(tolerance=1e-2)
        assert coarse.tolerance == 1e-2
        assert coarse.far.n_bytes + coarse.row_basis.n_bytes < 0.8 * (
            fine.far.n_bytes + fine.row_basis.n_bytes
        )


def test_single_precision_stays(points):
    A = matrix(points.astype(np.float32))
    assert (A + A).dtype == np.float32


def test_shapes_that_do_not_fit_are_refused(A):
    other = matrix(np.random.default_rng(1).random((7, 2)))
    with pytest.raises(ValueError, match="cannot be added"):
        A + other
    with pytest.raises(ValueError, match="cannot be multiplied"):
        A @ other
    with pytest.raises(TypeError):
        A + 1.0


def test_a_tolerance_may_be_asked_for(A, B):
    loose = H2Matrix(algebra.multiply(A.form, B.form, tolerance=1e-2))
    assert loose.tolerance == 1e-2
    assert_close(loose, A.to_dense() @ B.to_dense(), 1e-2)


def test_the_square_of_a_symmetric_matrix_is_symmetric_and_other_products_are_not():
    points = np.random.default_rng(12).random((500, 2))
    A = H2Matrix.from_kernel(points, kernels.Matern(nu=0.5, length_scale=0.3), diagonal=0.1, tolerance=1e-5)
    B = H2Matrix.from_kernel(points, kernels.Matern(nu=1.5, length_scale=0.3), diagonal=0.1, tolerance=1e-5)
    assert (A @ A).is_symmetric
    assert not (A @ B).is_symmetric


def test_diagonals_stay_where_they_are_if_another_kernel_makes_another_tree():
    points = np.random.default_rng(0).random((300, 2))
    skewed = kernels.Custom(lambda x, y: torch.exp(-torch.cdist(x, y)) * (1 + x[..., :, None, 0]))
    kernel = skewed + kernels.Matern(nu=1.5, length_scale=(1.0, 0.05))
    A = H2Matrix.from_kernel(points, kernel, diagonal=np.linspace(0, 100, 300), leaf_size=16)
    recompressed = A.T.recompress(tolerance=1e-4)  # a transposed kernel has no length scales
    wanted = A.to_dense().T
    assert np.linalg.norm(recompressed.to_dense() - wanted) <= 1e-3 * np.linalg.norm(wanted)
