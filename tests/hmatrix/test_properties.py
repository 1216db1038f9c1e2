"""Random kernels, scales, diagonals, tolerances and precisions: every verb keeps its promise, or fails."""

import math

import numpy as np
import pytest
from random_problems import N, random_problem, relative

from pipeline.errors import ConfigError, ConvergenceError
from pipeline.hmatrix import H2Matrix


@pytest.mark.parametrize("seed", range(20))
def test_every_verb_keeps_its_promise_or_fails(seed):
    points, kernel, diagonal, tolerance, generator = random_problem(seed)
    exact = points.astype(np.float64)
    matrix = kernel(exact, exact) + np.diag(np.broadcast_to(diagonal, N))
    b = generator.standard_normal((N, 2))
    rounding = 1e-6 if points.dtype == np.float32 else 1e-13

    def residual_allowed(x, stated):
        """Return whether b - A x is as small as stated, but for the rounding of the product itself.

        Entries of A x err by up to about sqrt(n) u |A| |x| (Higham and Mary, SISC 2019).
        """
        of_product = math.sqrt(N) * np.finfo(np.float64).eps / 2 * np.abs(matrix) @ np.abs(x)
        return np.linalg.norm(matrix @ x - b) <= stated * np.linalg.norm(b) + np.linalg.norm(of_product)

    try:
        A = H2Matrix.from_kernel(points, kernel, diagonal=diagonal, tolerance=tolerance, leaf_size=32)
    except (ConvergenceError, ConfigError):
        return
    # Checked to the tolerance on other random vectors, and told in the notes where it is missed by up to two.
    assert relative(A @ b, matrix @ b) <= 3 * tolerance + rounding
    assert relative(A.product_transposed(b), matrix.T @ b) <= 3 * tolerance + rounding
    np.testing.assert_allclose(A.diagonal(), np.diag(matrix), rtol=1e-6)
    wanted = np.linalg.slogdet(matrix)
    # LAPACK's own rounding, which moves each entry by about sqrt(n) u.
    of_lapack = math.sqrt(N) * np.finfo(np.float64).eps / 2 * np.linalg.norm(np.linalg.inv(matrix) * matrix)
    for kind in ("auto", "ldlt", "lu"):
        try:
            F = A.factorize(kind=kind)
        except ConvergenceError:
            continue
        assert residual_allowed(F.solve(b), 4 * F.trust.residual + rounding)
        try:
            sign, size = F.slogdet()
        except ConvergenceError:
            continue
        assert sign == wanted[0]
        assert abs(size - wanted[1]) <= F.trust.logdet_error + N * rounding + of_lapack
    try:
        x, info = A.solve(b)
    except ConvergenceError:
        return
    assert residual_allowed(x, 4 * info.exact_residual + rounding)
