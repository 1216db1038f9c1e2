"""Random problems: arithmetic, samples, exact solves and Gaussian processes keep their promise, or fail."""

import copy
import functools

import numpy as np
import pytest
import scipy.linalg
from random_problems import STATED_ERRORS, N, random_problem, relative

from pipeline.errors import ConfigError, ConvergenceError
from pipeline.hmatrix import GaussianProcess, H2Matrix, kernels
from pipeline.hmatrix.gaussian_process import conditional

Q = 300  # new points
SEEDS = range(5)


@functools.cache
def made(seed):
    """Return what :func:`compressed` returns, made once for all tests."""
    points, kernel, diagonal, tolerance, generator = random_problem(seed)
    exact = points.astype(np.float64)
    dense = kernel(exact, exact) + np.diag(np.broadcast_to(diagonal, N))
    rounding = 1e-6 if points.dtype == np.float32 else 1e-13
    try:
        A = H2Matrix.from_kernel(points, kernel, diagonal=diagonal, tolerance=tolerance, leaf_size=32)
    except (ConvergenceError, ConfigError):
        return None
    return A, dense, tolerance, rounding, generator


def compressed(seed):
    """Return a random problem with its matrix, exact and compressed; None where it is refused."""
    problem = made(seed)
    return problem and (*problem[:-1], copy.deepcopy(problem[-1]))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_changed_diagonal_costs_no_accuracy(seed):
    problem = compressed(seed)
    if problem is None:
        return
    A, dense, tolerance, rounding, generator = problem
    b = generator.standard_normal((N, 2))
    added = np.abs(np.diag(dense)).max() * 10.0 ** generator.uniform(-6, 6, N) * generator.choice([-1, 1], N)
    found, wanted = A.add_diagonal(added) @ b, dense @ b + added[:, None] * b
    # The term is stored exactly, and rounded where it is added.
    lost = rounding * np.linalg.norm(added[:, None] * b)
    assert np.linalg.norm(found - wanted) <= (3 * tolerance + rounding) * np.linalg.norm(dense @ b) + lost


@pytest.mark.parametrize("seed", SEEDS)
def test_the_estimated_error_is_that_of_products(seed):
    problem = compressed(seed)
    if problem is None:
        return
    A, dense, tolerance, rounding, generator = problem
    b = generator.standard_normal((N, 64))
    true = relative(A @ b, dense @ b)
    assert true <= 2 * A.error_estimate() + rounding
    assert A.error_estimate() <= 3 * tolerance + rounding


@pytest.mark.parametrize("seed", SEEDS)
def test_a_product_of_matrices_is_as_accurate_as_its_factors(seed):
    problem = compressed(seed)
    if problem is None:
        return
    A, dense, tolerance, rounding, generator = problem
    length = float(np.ptp(A.rows.points, axis=0).max())
    try:
        B = H2Matrix.from_kernel(
            A.rows.points[np.argsort(A.rows.permutation)], kernels.Matern(length, nu=1.5),
            diagonal=0.1, tolerance=tolerance, leaf_size=32,
        )  # fmt: skip
        product = A @ B
    except ConvergenceError:
        return
    points = A.rows.points[np.argsort(A.rows.permutation)].astype(np.float64)
    other = kernels.Matern(length, nu=1.5)(points, points) + 0.1 * np.eye(N)
    b = generator.standard_normal((N, 16))
    assert relative(product @ b, dense @ (other @ b)) <= 3 * tolerance + 4 * rounding
    assert relative(product.product_transposed(b), other @ (dense @ b)) <= 3 * tolerance + 4 * rounding


@pytest.mark.parametrize("seed", [*range(8), 57, 79])
def test_an_inverse_has_its_tolerance_or_fails(seed):
    problem = compressed(seed)
    if problem is None:
        return
    A, dense, tolerance, rounding, generator = problem
    try:
        inverse = A.inverse()
    except ConvergenceError:
        return
    b = generator.standard_normal((N, 16))
    condition = np.linalg.cond(dense)
    wanted = np.linalg.solve(dense, b)
    assert relative(inverse @ b, wanted) <= 3 * tolerance + 4 * rounding * condition


@pytest.mark.parametrize("seed", SEEDS)
def test_samples_have_the_covariance_or_fail(seed):
    problem = compressed(seed)
    if problem is None:
        return
    A, dense, _, rounding, _ = problem
    try:
        F = A.factorize(kind="cholesky")
    except ConvergenceError:
        return
    root = np.asarray(F.multiply_root(np.eye(N)), dtype=np.float64)
    assert relative(root @ root.T, dense) <= 3 * F.used_tolerance + 4 * rounding


@pytest.mark.parametrize("seed", SEEDS)
def test_an_exact_solve_has_its_residual_on_all_rows_or_fails(seed):
    problem = compressed(seed)
    if problem is None:
        return
    A, dense, _, rounding, generator = problem
    b = generator.standard_normal((N, 2))
    tolerance = 10.0 ** generator.uniform(-7, -3)
    try:
        x, info = A.solve(b, tolerance, exact=True)
    except ConvergenceError:
        return
    assert relative(dense @ np.asarray(x, np.float64), b) <= 1.01 * tolerance + rounding
    assert info.exact_residual <= tolerance


@pytest.mark.parametrize("seed", [*range(8), 12, 16, 21, 23, 33, 35, 47, 105])
def test_a_gaussian_process_says_what_dense_algebra_does_or_fails(monkeypatch, seed):
    monkeypatch.setattr(conditional, "_DIRECT", 0)
    points, kernel, diagonal, tolerance, generator = random_problem(seed)
    points = points.astype(np.float64)
    nugget, noise = float(np.mean(diagonal)), np.broadcast_to(diagonal / np.mean(diagonal), N)
    dense = kernel(points, points) + np.diag(nugget * noise)
    low, high = points.min(axis=0), points.max(axis=0)
    new = low + (high - low) * generator.random((Q, points.shape[1]))
    values = np.sqrt(kernel.diagonal(points).max()) * (generator.standard_normal(N) + 3)
    process = GaussianProcess(kernel, nugget=nugget, optimizer=None, tolerance=min(tolerance, 1e-4))
    try:
        process.fit(points, values, noise=noise)
        mean, std = process.predict(new, return_std=True, exact=False)
    except (ConvergenceError, ConfigError):
        return
    try:
        factor = scipy.linalg.cho_factor(dense, lower=True)
    except np.linalg.LinAlgError:
        return
    ones, cross = np.ones(N), kernel(new, points)
    solved = scipy.linalg.cho_solve(factor, np.column_stack([values, ones, cross.T]))
    gram = ones @ solved[:, 1]
    beta = ones @ solved[:, 0] / gram
    expected = beta + cross @ (solved[:, 0] - beta * solved[:, 1])
    missed = 1 - cross @ solved[:, 1]
    variance = kernel.diagonal(new) - (cross * solved[:, 2:].T).sum(axis=1) + missed**2 / gram
    deviation = np.sqrt(np.maximum(variance, 0))
    r = values - beta
    truth = -0.5 * (
        2 * np.log(np.diag(factor[0])).sum() + r @ scipy.linalg.cho_solve(factor, r) + N * np.log(2 * np.pi)
    )
    off = np.sqrt(np.mean((mean - expected) ** 2))
    std_off = np.sqrt(np.mean((std / deviation - 1) ** 2))
    # What the weights leave of the values is of like size in all rows, and moves the mean by that times the sum of the
    # absolute weights with which the values enter, at most.
    entering = solved[:, 2:] + np.outer(solved[:, 1], missed / gram)
    moved = process.residual_ * np.sqrt(np.mean(np.abs(entering).sum(axis=0) ** 2))
    # Products with cross-covariances err by 1e-5 of the values' deviation on sampled rows.
    assert off <= 2e-5 * values.std() + moved
    assert std_off <= STATED_ERRORS * process.std_error_ + 1e-7
    # An evaluation may err by .05 nats, or three times what it says; dense algebra rounds the quadratic form too.
    condition = N * kernel.diagonal(points).max() / (nugget * noise).min()
    rounded = np.finfo(float).eps * condition * abs(truth)
    assert abs(process.log_likelihood_ - truth) <= max(0.05, 3 * process.log_likelihood_error_) + rounded
