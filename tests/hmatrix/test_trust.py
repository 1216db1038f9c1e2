"""What a factorization says of itself, against dense algebra: right within what it states, or refused with advice."""

import re

import numpy as np
import pytest
import torch

from pipeline.errors import ConvergenceError
from pipeline.hmatrix import H2Matrix, kernels
from pipeline.hmatrix.trust import measure

N = 1000


def gaussian(x, y):
    return torch.exp(-kernels.squared_distances(x, y) / (2 * 0.3**2))


SMOOTH = kernels.SquaredExponential(length_scale=0.5)
KINK = kernels.Matern(length_scale=0.3, nu=1.5)
CUSTOM = kernels.Custom(gaussian)

# Kernel, nugget, tolerance, kind: eigenvalues of all but the last lie below tolerance times norm.
CASES = {
    "smooth ldlt": (SMOOTH, 1e-6, 1e-4, "ldlt"),
    "smooth cholesky": (SMOOTH, 1e-6, 1e-4, "auto"),
    "smooth, hopeless": (SMOOTH, 1e-10, 1e-4, "ldlt"),
    "custom without a nugget": (CUSTOM, 0.0, 1e-6, "auto"),
    "custom": (CUSTOM, 1e-8, 1e-2, "auto"),
    "kink": (KINK, 1e-4, 1e-4, "auto"),
    "kink lu": (KINK, 1e-4, 1e-2, "lu"),
    "harmless": (kernels.Matern(length_scale=0.3), 0.1, 1e-6, "auto"),
}


@pytest.fixture(scope="module")
def points():
    return np.random.default_rng(0).random((N, 2))


def dense(points, kernel, diagonal):
    return kernel(points, points) + np.diag(np.broadcast_to(diagonal, len(points)))


def relative(found, wanted):
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize(("kernel", "nugget", "tolerance", "kind"), CASES.values(), ids=CASES)
def test_solve_sign_and_logdet_are_within_what_is_stated_or_refused_with_advice_that_helps(
    points, kernel, nugget, tolerance, kind
):
    A = H2Matrix.from_kernel(points, kernel, diagonal=nugget, tolerance=tolerance)
    matrix = dense(points, kernel, nugget)
    try:
        F = A.factorize(tolerance, kind)
    except ConvergenceError as error:
        nugget = float(re.search(r"add a nugget of (\S+) or more", str(error))[1])
        A, matrix = A.add_diagonal(nugget), matrix + nugget * np.eye(N)
        F = A.factorize(tolerance, kind)
    b = np.random.default_rng(3).standard_normal((N, 2))
    # Of two random right-hand sides each, of which one residual is rarely twice the other.
    assert relative(matrix @ F.solve(b), b) <= 3 * F.trust.residual + 1e-12
    assert F.trust.residual <= max(np.sqrt(tolerance), 1e-2)
    b = matrix @ np.ones(N)
    assert relative(matrix @ F.solve(b), b) <= F.trust.residual
    sign, size = np.linalg.slogdet(matrix)
    try:
        found = F.slogdet()
    except ConvergenceError as error:
        found = A.factorize(float(re.search(r"factorize at tolerance (\S+)", str(error))[1]), kind).slogdet()
    assert found[0] == sign
    assert abs(found[1] - size) <= F.trust.logdet_error


def test_what_is_stated_of_larger_matrices_holds_as_well():
    points = np.random.default_rng(1).random((2500, 2))
    A = H2Matrix.from_kernel(points, KINK, diagonal=1e-2, tolerance=1e-5)
    F = A.factorize()
    matrix = dense(points, KINK, 1e-2)
    b = np.random.default_rng(3).standard_normal((2500, 2))
    assert relative(matrix @ F.solve(b), b) <= 3 * F.trust.residual
    assert abs(F.logdet() - np.linalg.slogdet(matrix)[1]) <= F.trust.logdet_error <= 10


def test_the_estimates_are_those_of_a_known_perturbation(points):
    """With F = A - E and a random diagonal E all three numbers have closed forms."""
    kernel = kernels.Matern(length_scale=0.05)
    A = H2Matrix.from_kernel(points[:700], kernel, diagonal=1.0, tolerance=1e-9)
    matrix = dense(points[:700], kernel, 1.0)
    E = np.diag(np.random.default_rng(2).uniform(-1e-3, 2e-3, 700))
    lost = E @ np.linalg.inv(matrix - E)
    trust = measure(A.form, lambda b: np.linalg.solve(matrix - E, b))
    change = np.linalg.norm(lost)
    assert trust.change == pytest.approx(change, rel=0.3)
    assert trust.residual == pytest.approx(change / np.sqrt(700), rel=0.3)
    off = np.linalg.slogdet(matrix)[1] - np.linalg.slogdet(matrix - E)[1]
    # Three deviations of the trace's estimate, on either side of it, and the estimate's own.
    assert abs(off) <= trust.logdet_error <= abs(off) + 7 * np.sqrt(2) * change


def test_a_solve_that_fails_in_one_place_is_noticed():
    points = np.random.default_rng(1).random((5000, 2))
    A = H2Matrix.from_kernel(points, kernels.Matern(length_scale=0.05), diagonal=1.0, tolerance=1e-6)
    F = A.factorize()

    def spoiled(b):
        x = F.solve(b)
        x[4321] = 1e6
        return x

    assert measure(A.form, F.solve).residual < 1e-4
    assert measure(A.form, spoiled).residual > 1
    assert measure(A.form, lambda b: np.nan * b).residual == np.inf


def test_matrices_without_kernel_and_complex_ones_are_measured_too(points):
    A = H2Matrix.from_kernel(points[:900], kernels.Matern(length_scale=0.2), diagonal=0.1, tolerance=1e-7)
    square = A @ A
    F = square.factorize(1e-9)
    b = np.random.default_rng(3).standard_normal(900)
    assert relative(square @ F.solve(b), b) <= 3 * F.trust.residual <= 3e-2
    wave = kernels.Helmholtz(wavenumber=3.0)
    W = H2Matrix.from_kernel(np.pad(points[:900], ((0, 0), (0, 1))), wave, diagonal=30.0, tolerance=1e-6)
    F = W.factorize()
    dense_wave = dense(np.pad(points[:900], ((0, 0), (0, 1))), wave, 30.0)
    assert relative(dense_wave @ F.solve(b), b.astype(complex)) <= 3 * F.trust.residual
    phase, size = np.linalg.slogdet(dense_wave)
    assert abs(F.slogdet()[1] - size) <= F.trust.logdet_error
    assert abs(F.slogdet()[0] - phase) <= F.trust.logdet_error


def test_an_empty_matrix_is_trusted_and_an_unchecked_one_says_nothing():
    empty = H2Matrix.from_kernel(np.zeros((0, 2)), kernels.Matern()).factorize()
    assert empty.trust.residual == 0
    A = H2Matrix.from_kernel(np.random.default_rng(0).random((50, 2)), kernels.Matern(), diagonal=1.0)
    assert A.factorize(checked=False).trust is None
