"""The benchmark of Gaussian processes works at small sizes, with or without its peers."""

import importlib

import numpy as np
import pytest


@pytest.fixture
def benchmark():
    return importlib.import_module("gaussian_process")


def test_its_truth_is_the_likelihood_that_scikit_learn_gives(benchmark):
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import Matern

    points, values = benchmark.drawn(300)
    theirs = GaussianProcessRegressor(Matern(0.1, nu=1.5), alpha=benchmark.NUGGET, optimizer=None)
    expected = theirs.fit(points, values).log_marginal_likelihood_value_
    assert benchmark.exact(points, values) == pytest.approx(expected, abs=1e-6)
    assert benchmark.dense(points, values)() == pytest.approx(expected, abs=1e-6)
    assert benchmark.ours(points, values).log_likelihood_ == pytest.approx(expected, abs=0.05)


def test_conjugate_gradients_of_the_peer_use_its_preconditioner_and_are_counted(benchmark):
    points, values = benchmark.drawn(300)
    A = benchmark.H2Matrix.from_kernel(points, benchmark.KERNEL, diagonal=benchmark.NUGGET, tolerance=1e-8)
    F = A.factorize(1e-2)
    x, plain = benchmark.conjugate_gradients(A.__matmul__, lambda r: r, values)
    y, preconditioned = benchmark.conjugate_gradients(A.__matmul__, F.solve, values)
    for found in (x, y):
        assert np.linalg.norm(A @ found - values) < 1e-5 * np.linalg.norm(values)
    assert 1 <= preconditioned < plain < 300
