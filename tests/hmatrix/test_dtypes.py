"""Every type of matrix through all that can be done with one, against dense matrices in double precision."""

import numpy as np
import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.hmatrix import DistributedH2Matrix, H2Matrix, kernels
from pipeline.runtime.communicator import run_in_threads

N = 160
POINTS = np.random.default_rng(0).random((N, 2))
COVARIANCE, WAVE = kernels.Matern(nu=0.5, length_scale=0.2), kernels.Helmholtz(wavenumber=4.0)
SKEWED = kernels.Custom(lambda x, y: COVARIANCE(x, y) * (1 + 0.3 * x[..., :, None, 0]))
# kernel, diagonal, type of the matrix for points in double precision
CASES = {
    "real": (COVARIANCE, 0.1, "float64"),
    "real, nonsymmetric": (SKEWED, 0.5, "float64"),
    "complex": (WAVE, 30.0, "complex128"),
    "complex diagonal": (COVARIANCE, 0.1 + 1.0j, "complex128"),
    "complex factor": ((1 + 2j) * COVARIANCE, 3.0, "complex128"),
}
SINGLE = {"float64": "float32", "complex128": "complex64"}


def relative(found, wanted):
    return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


@pytest.fixture(params=[np.float64, np.float32], ids=["double", "single"])
def precision(request):
    return request.param


@pytest.fixture
def matrices(case, precision):
    """The matrix, itself when dense, and its tolerance."""
    kernel, diagonal, _ = case
    tolerance = 1e-6 if precision is np.float64 else 1e-4
    A = H2Matrix.from_kernel(
        POINTS.astype(precision), kernel, diagonal=diagonal, tolerance=tolerance, leaf_size=16
    )
    x = torch.from_numpy(POINTS.astype(precision).astype(np.float64))
    return A, kernel(x, x).numpy() + np.diag(np.full(N, diagonal)), tolerance


@pytest.fixture
def vectors(precision):
    """Real ones and complex ones."""
    generator = np.random.default_rng(1)
    real = generator.standard_normal((N, 2)).astype(precision)
    return real, real + 1j * generator.standard_normal((N, 2)).astype(precision)


def test_products_have_the_type_of_the_matrix_and_its_accuracy(matrices, case, precision, vectors):
    A, dense, tolerance = matrices
    assert A.dtype == (case[2] if precision is np.float64 else SINGLE[case[2]])
    for b in vectors:
        assert (A @ b).dtype == np.result_type(A.dtype, b.dtype)
        assert relative(A @ b, dense @ b) <= 2 * tolerance
        assert relative(A.product_transposed(b), dense.T @ b) <= 2 * tolerance


def test_arithmetic_keeps_types_and_accuracy(matrices, vectors):
    A, dense, tolerance = matrices
    for found, wanted in (
        (2j * A, 2j * dense),
        (A - 3.0 * A, -2 * dense),
        (A.recompress(tolerance=1e-3), dense),
        (A @ A, dense @ dense),
        (A.add_diagonal(1j), dense + 1j * np.eye(N)),
        (A.inverse(tolerance=1e-4), np.linalg.inv(dense)),
    ):
        for b in vectors:
            assert relative(found @ b, wanted @ b) <= 10 * max(tolerance, found.tolerance)
        assert found.dtype.kind == "c" or found.dtype == A.dtype


def test_factorizations_and_solves_do_too(matrices, precision, vectors):
    A, dense, tolerance = matrices
    F = A.factorize()
    amplified = tolerance * np.linalg.cond(dense)
    sign, size = np.linalg.slogdet(dense)
    np.testing.assert_allclose(F.slogdet(), (sign, size), atol=N * amplified)
    for b in vectors:
        exact = np.linalg.solve(dense, b)
        assert F.solve(b).dtype == np.result_type(A.dtype, b.dtype)
        assert relative(F.solve(b), exact) <= amplified
        x, _ = A.solve(b, tolerance)
        assert x.dtype == np.result_type(A.dtype, b.dtype)
        assert relative(x, exact) <= 2 * amplified


def test_storage_keeps_every_bit(matrices, case, vectors, tmp_path):
    A, _, _ = matrices
    if isinstance(case[0], kernels.Custom):
        with pytest.raises(ConfigError, match="cannot be stored"):
            A.save(tmp_path / "matrix")
        return
    A.save(tmp_path / "matrix")
    loaded = H2Matrix.load(tmp_path / "matrix")
    assert loaded.dtype == A.dtype
    for b in vectors:
        np.testing.assert_array_equal(loaded @ b, A @ b)


def test_a_right_hand_side_more_precise_than_the_matrix_is_solved_in_its_own_precision():
    points = np.random.default_rng(0).random((2000, 2)).astype(np.float32)
    A = H2Matrix.from_kernel(points, kernels.Matern(nu=0.5, length_scale=0.1), diagonal=1e-2, tolerance=1e-6)
    b = np.random.default_rng(1).standard_normal(2000)
    x, info = A.solve(b, 1e-6)
    assert x.dtype == np.float64
    assert info.converged
    assert A.solve(b.astype(np.float16), 1e-4)[0].dtype == np.float32
    assert A.solve(b.astype(np.float32))[1].converged


@pytest.mark.parametrize("number", [np.float64, np.complex128])
@pytest.mark.parametrize("n_processes", [0, 1, 2])
def test_a_solve_of_single_precision_reaches_its_own_tolerance_for_vectors_of_double(n_processes, number):
    points = np.random.default_rng(0).random((240, 2)).astype(np.float32)
    kernel = kernels.Matern(nu=0.5, length_scale=0.3)
    real, imaginary = np.random.default_rng(1).standard_normal((2, 240))
    b = real + 1j * imaginary if number == np.complex128 else real
    given = {"diagonal": 0.1, "tolerance": 1e-5, "leaf_size": 16}

    def work(comm):
        own = np.array_split(np.arange(240), comm.size)[comm.rank]
        return DistributedH2Matrix.from_kernel(points[own], kernel, comm, **given).solve(b[own])

    found = (
        run_in_threads(n_processes, work)
        if n_processes
        else [H2Matrix.from_kernel(points, kernel, **given).solve(b)]
    )
    x = np.concatenate([part for part, _ in found])
    assert x.dtype == number
    assert all(info.relative_residual <= 1e-8 for _, info in found)
    system = kernel(*[torch.from_numpy(points).double()] * 2).numpy() + 0.1 * np.eye(240)
    # The entries are compressed to 1e-5 of the norm.
    assert np.linalg.norm(system @ x - b) <= 1e-5 * np.linalg.norm(system) * np.linalg.norm(x)


@pytest.mark.parametrize(
    ("b", "error", "sentence"),
    [
        (None, TypeError, "b must be numbers in an array or a tensor, not object"),
        ("a", TypeError, "not <U1"),
        (1.0, ValueError, r"b must have shape \(50,\) or \(50, m\), not \(\)"),
        (np.ones(49), ValueError, r"not \(49,\)"),
        (np.ones((50, 2, 2)), ValueError, r"not \(50, 2, 2\)"),
    ],
)
def test_right_hand_sides_that_are_none_are_refused(b, error, sentence):
    A = H2Matrix.from_kernel(np.random.default_rng(0).random((50, 2)), kernels.Matern(), diagonal=1.0)
    with pytest.raises(error, match=sentence):
        A.solve(b)
