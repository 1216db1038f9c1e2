"""What users of NumPy, SciPy and torch expect of a matrix and a factorization: it works, or is refused by name."""

import copy
import pickle

import numpy as np
import pytest
import scipy.sparse
import torch
from scipy.sparse.linalg import aslinearoperator, cg

from pipeline.hmatrix import GaussianProcess, H2Matrix, Strong, Weak, kernels

N = 300


@pytest.fixture(scope="module")
def points():
    return np.random.default_rng(0).random((N, 2))


@pytest.fixture(scope="module")
def A(points):
    return H2Matrix.from_kernel(points, kernels.Matern(length_scale=0.3), diagonal=0.5, leaf_size=16)


@pytest.fixture(scope="module")
def skewed(points):
    def function(x, y):
        return kernels.Matern()(x, y) * (1 + 0.3j * x[..., :, None, 0])

    kernel = kernels.Custom(function, is_complex=True)
    return H2Matrix.from_kernel(points, kernel, diagonal=20.0, leaf_size=16, tolerance=1e-9)


def test_vectors_multiply_from_the_left(A, skewed):
    x = np.random.default_rng(1).standard_normal((3, N))
    for matrix in (A, skewed):
        dense = matrix.to_dense()
        np.testing.assert_allclose(x @ matrix, x @ dense, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(x[0] @ matrix, x[0] @ dense, rtol=1e-10, atol=1e-10)
    found = torch.from_numpy(x) @ A
    assert isinstance(found, torch.Tensor)
    np.testing.assert_allclose(found, x @ A)


def test_scipys_linear_operator_is_made_of_a_matrix(A, skewed):
    x = np.random.default_rng(1).standard_normal((N, 2))
    for matrix in (A, skewed):
        operator, dense = aslinearoperator(matrix), matrix.to_dense()
        assert (operator.shape, operator.dtype) == (matrix.shape, matrix.dtype)
        np.testing.assert_allclose(operator @ x, dense @ x, atol=1e-10)
        np.testing.assert_allclose(operator.H @ x, dense.conj().T @ x, atol=1e-10)
        np.testing.assert_allclose(operator.matvec(x[:, :1]), dense @ x[:, :1], atol=1e-10)
        np.testing.assert_allclose(operator.rmatvec(x[:, 0]), dense.conj().T @ x[:, 0], atol=1e-10)
    solution, failed = cg(A, x[:, 0], rtol=1e-10)
    assert not failed
    np.testing.assert_allclose(A @ solution, x[:, 0], atol=1e-7)


def test_sparse_matrices_are_added_to_the_near_field(A):
    diagonal = scipy.sparse.diags_array(np.arange(1.0, N + 1))
    dense = A.to_dense()
    for sparse in (diagonal.tocsr(), diagonal.tocoo(), scipy.sparse.csc_matrix(diagonal)):
        for found in (A + sparse, sparse + A):
            np.testing.assert_allclose(found.to_dense(), dense + sparse.toarray(), atol=1e-5)
        np.testing.assert_allclose((A - sparse).to_dense(), dense - sparse.toarray(), atol=1e-5)
        np.testing.assert_allclose((sparse - A).to_dense(), sparse.toarray() - dense, atol=1e-5)
    with pytest.raises(ValueError, match="cannot be added"):
        A + scipy.sparse.eye_array(N - 1)
    with pytest.raises(TypeError):
        A + 1
    with pytest.raises(TypeError):
        1 + A
    np.testing.assert_allclose(sum([A]).to_dense(), dense)


def test_products_and_solves_have_gradients_of_their_vectors(A, skewed):
    for matrix in (A, skewed):
        F, dense = matrix.factorize(1e-10), torch.from_numpy(matrix.to_dense())
        inverse = torch.linalg.inv(dense)
        x = torch.from_numpy(np.random.default_rng(1).standard_normal((N, 2)))
        x = x.to(dense.dtype) * (1 + 1j if dense.is_complex() else 1)
        weights = torch.linspace(-1, 1, N, dtype=torch.float64)[:, None]
        for ours, exact in (
            (lambda v, m=matrix: m @ v, lambda v, d=dense: d @ v),
            (lambda v, m=matrix: m.product_transposed(v), lambda v, d=dense: d.T @ v),
            (F.solve, lambda v, i=inverse: i @ v),
            (F.solve_transposed, lambda v, i=inverse: i.T @ v),
        ):
            gradients = []
            for action in (ours, exact):
                v = x.clone().requires_grad_()
                (weights * action(v).abs() ** 2).sum().backward()
                gradients.append(v.grad)
            torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


def test_gradients_that_would_be_lost_are_refused(A, points):
    wanted = torch.ones(N, dtype=torch.float64, requires_grad=True)
    for action in (
        lambda: A.solve(wanted),
        lambda: A.factorize().multiply_root(wanted),
        lambda: A.add_diagonal(wanted),
        lambda: H2Matrix.from_kernel(torch.from_numpy(points).requires_grad_(), kernels.Matern()),
    ):
        with pytest.raises(TypeError, match=r"pass x\.detach\(\)"):
            action()
    with torch.no_grad():
        assert not (A @ wanted).requires_grad
        A.solve(wanted)


def test_masked_arrays_are_refused(A, points):
    masked = np.ma.masked_greater(points, 0.5)
    for action in (
        lambda: H2Matrix.from_kernel(masked, kernels.Matern()),
        lambda: A @ masked[:, 0],
        lambda: A.solve(masked[:, 0]),
        lambda: A.factorize().solve(masked[:, 0]),
        lambda: A.add_diagonal(masked[:, 0]),
    ):
        with pytest.raises(TypeError, match="a masked array has entries without a value"):
            action()


@pytest.mark.parametrize(
    "remake", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))], ids=["copy", "pickle"]
)
def test_matrices_and_factorizations_are_copied_and_sent_to_other_processes(A, remake):
    x = np.random.default_rng(1).standard_normal((N, 2))
    for kind, parts in (("cholesky", 1), ("ldlt", 1), ("lu", 3)):
        F = A.factorize(1e-8, kind, parts=parts)
        expected = A @ x, F.solve(x), F.slogdet()  # made before, so that native views are there
        matrix, G = remake(A), remake(F)
        np.testing.assert_array_equal(matrix @ x, expected[0])
        np.testing.assert_array_equal(G.solve(x), expected[1])
        assert (G.slogdet(), G.kind, G.trust) == (expected[2], F.kind, F.trust)
    assert matrix.is_square
    assert matrix.form.row_basis is matrix.form.column_basis
    np.testing.assert_allclose(matrix.factorize().solve(x), A.factorize().solve(x))


@pytest.mark.parametrize(
    "remake", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))], ids=["copy", "pickle"]
)
def test_a_fitted_gaussian_process_and_what_a_matrix_gives_are_copied_and_sent(A, points, remake):
    y = np.sin(6 * points[:, 0])
    gp = GaussianProcess(kernels.Matern(nu=1.5, length_scale=0.2), nugget=1e-2).fit(points, y)
    new = points[:7] + 0.01
    for found, expected in zip(
        remake(gp).predict(new, return_std=True), gp.predict(new, return_std=True), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    x = np.random.default_rng(1).standard_normal(N)
    for matrix in (A.T, A @ A, A.inverse(), A.part(0, 2), A.as_linear_operator()):
        np.testing.assert_array_equal(remake(matrix) @ x, matrix @ x)
    for value in (A.solve(x)[1], Strong(), Weak(), kernels.Matern() + 2 * kernels.Yukawa()):
        assert remake(value) == value
