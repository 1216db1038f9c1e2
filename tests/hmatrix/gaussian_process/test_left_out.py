"""Values left out one by one, against fits without them and dense algebra."""

import numpy as np
import pytest

from pipeline.hmatrix import GaussianProcess, kernels
from pipeline.hmatrix.gaussian_process import left_out


def dense(kernel, X, y, nugget, H):
    """Return means and standard deviations of all values from the others."""
    inverse = np.linalg.inv(kernel(X, X) + nugget * np.eye(len(X)))
    W = inverse @ H
    P = inverse - W @ np.linalg.solve(H.T @ W, W.T)
    return y - P @ y / np.diag(P), 1 / np.sqrt(np.diag(P))


@pytest.mark.parametrize("n", [300, 1100])
def test_in_five_dimensions_the_stated_error_is_the_true_one(n, monkeypatch):
    """Near values tell little there: a few values get a solve, and the error of the others is told."""
    monkeypatch.setattr(left_out, "SOLVED_FOR", 100)
    generator = np.random.default_rng(0)
    X = generator.random((n, 5))
    y = np.sin(X.sum(axis=1)) + 0.01 * generator.standard_normal(n)
    kernel, nugget = kernels.Matern(nu=2.5, length_scale=1.0), 1e-4
    process = GaussianProcess(kernel, nugget=nugget, optimizer=None, tolerance=1e-8).fit(X, y)
    mean, std = process.leave_one_out()
    wanted, deviation = dense(kernel, X, y, nugget, np.ones((n, 1)))
    error = np.sqrt(np.mean((std / deviation - 1) ** 2))
    if n <= left_out.EXACT:
        assert error < max(2 * process.leave_one_out_error_, 1e-6) < 1e-4
    else:
        assert 0 < error < 2 * process.leave_one_out_error_ < 0.5
    # A mean moves by twice the relative change of the deviation times what is left of the value.
    off = np.abs(mean - wanted) / np.abs(y - wanted)
    assert np.median(off) < 4 * error + 1e-4


def test_a_value_that_alone_decides_on_a_coefficient_is_predicted_by_no_other():
    X = np.random.default_rng(0).random((50, 2))
    y = np.random.default_rng(1).standard_normal(50)
    process = GaussianProcess(
        kernels.Matern(length_scale=0.3), nugget=0.1, optimizer=None,
        trend=lambda x: np.column_stack([np.ones(len(x)), (x == X[49]).all(axis=1).astype(float)]),
    ).fit(X, y)  # fmt: skip
    mean, std = process.leave_one_out()
    assert np.isinf(std[49])
    assert np.isnan(mean[49])
    wanted, deviation = dense(kernels.Matern(length_scale=0.3), X[:49], y[:49], 0.1, np.ones((49, 1)))
    np.testing.assert_allclose(mean[:49], wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(std[:49], deviation, rtol=1e-4)
