"""Smoothness as a free parameter, and random starts: against differences of the dense likelihood."""

import math

import numpy as np
import pytest
import scipy.linalg

from pipeline.hmatrix import GaussianProcess, kernels

N = 67
KERNEL = kernels.Matern(length_scale=0.3, nu=1.2)


@pytest.fixture(scope="module")
def data():
    generator = np.random.default_rng(0)
    points = generator.random((N, 2))
    root = np.linalg.cholesky(KERNEL(points, points) + 0.01 * np.eye(N))
    return points, root @ generator.standard_normal(N)


def dense_value(points, values, theta, names):
    """Return the log-likelihood at logarithms of the parameters, by dense algebra."""
    parameters = dict(zip(names, np.exp(theta), strict=True))
    nugget = parameters.pop("nugget")
    covariance = kernels.Matern(**parameters)(points, points) + nugget * np.eye(N)
    factor = scipy.linalg.cho_factor(covariance, lower=True)
    half = values @ scipy.linalg.cho_solve(factor, values)
    return -0.5 * (half + N * math.log(2 * math.pi)) - np.log(np.diag(factor[0])).sum()


def test_the_gradient_by_smoothness_is_that_of_dense_differences(data):
    process = GaussianProcess(KERNEL, trend=None, smoothness=True, tolerance=1e-9)
    likelihood = process.likelihood(*data)
    assert set(likelihood.names) == {"length_scale", "variance", "nu", "nugget"}
    at = likelihood.at(likelihood.start)
    assert at.value == pytest.approx(dense_value(*data, likelihood.start, likelihood.names), abs=1e-3)
    found = likelihood.derivatives(at)
    i = likelihood.names.index("nu")
    step = np.zeros(len(likelihood.names))
    step[i] = 1e-3
    ends = [dense_value(*data, likelihood.start + sign * step, likelihood.names) for sign in (1, -1)]
    deviation = math.sqrt(found.information[i, i])
    # As in test_likelihood.py: a twentieth of the gradient's standard deviation costs a thousandth of a nat.
    assert found.gradient[i] == pytest.approx((ends[0] - ends[1]) / 2e-3, abs=0.05 * deviation)


def test_random_starts_find_no_less_and_the_same_again(data):
    options = {"trend": None, "random_state": 3}
    once = GaussianProcess(kernels.Matern(0.3, nu=1.5), **options).fit(*data)
    restarted = [
        GaussianProcess(kernels.Matern(0.3, nu=1.5), restarts=2, **options).fit(*data) for _ in range(2)
    ]
    assert restarted[0].log_likelihood_ >= once.log_likelihood_ - once.log_likelihood_error_ - 1e-3
    assert restarted[0].log_likelihood_ == restarted[1].log_likelihood_
    np.testing.assert_array_equal(restarted[0].theta_, restarted[1].theta_)
