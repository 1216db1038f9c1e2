"""A Gaussian process whose values are divided among processes says what one process says that has them all."""

import copy
import itertools

import numpy as np
import pytest
from random_problems import STATED_ERRORS

from pipeline.errors import ConfigError
from pipeline.hmatrix import GaussianProcess, kernels
from pipeline.runtime.communicator import Serial, run_in_threads

N, NEW = 601, 307
KERNEL = kernels.Matern(nu=1.5, length_scale=0.2)


@pytest.fixture(scope="module")
def data():
    """Places, values drawn from the model about a plane, and new places."""
    generator = np.random.default_rng(0)
    points, new = generator.random((N, 2)), generator.random((NEW, 2))
    covariance = KERNEL(points, points) + 0.05 * np.eye(N)
    values = np.linalg.cholesky(covariance) @ generator.standard_normal(N) + points @ [1.0, -2.0]
    return points, values, new


def dense(points, values, new, kernel, nugget):
    """Return mean and standard deviation by dense algebra, with a linear trend, and each value's left out."""
    A = kernel(points, points) + nugget * np.eye(len(points))
    H, Hn = (np.column_stack([np.ones(len(x)), x]) for x in (points, new))
    solve = np.linalg.inv(A)
    gram = H.T @ solve @ H
    P = solve - solve @ H @ np.linalg.solve(gram, H.T @ solve)
    cross = kernel(points, new)
    beta = np.linalg.solve(gram, H.T @ solve @ values)
    mean = Hn @ beta + cross.T @ solve @ (values - H @ beta)
    missed = Hn.T - H.T @ solve @ cross
    variance = kernel.diagonal(new) - (cross * (solve @ cross)).sum(0)
    variance = variance + (missed * np.linalg.solve(gram, missed)).sum(0)
    return mean, np.sqrt(variance), values - P @ values / np.diag(P), 1 / np.sqrt(np.diag(P))


def shares(n, size, kind):
    """Return each process's rows: ranges of unequal length, or every so-manieth row."""
    if kind == "dealt":
        return [np.arange(rank, n, size) for rank in range(size)]
    edges = np.linspace(0, 1, size + 1) ** 2 * n
    return [np.arange(n)[int(low) : int(high)] for low, high in itertools.pairwise(edges)]


@pytest.mark.parametrize(("size", "kind"), [(2, "dealt"), (3, "ranges")])
def test_mean_deviation_and_values_left_out_are_those_of_dense_algebra(data, size, kind):
    points, values, new = data
    rows, places = shares(N, size, kind), shares(NEW, size, kind)
    expected_mean, expected_std, expected_left_out, expected_left_out_std = dense(*data, KERNEL, 0.05)

    def work(communicator):
        own, there = rows[communicator.rank], places[communicator.rank]
        process = GaussianProcess(
            KERNEL, nugget=0.05, trend="linear", optimizer=None, tolerance=1e-8, communicator=communicator
        ).fit(points[own], values[own])
        few = there[: NEW // 20]
        return (
            process.predict(new[there], return_std=True),
            process.predict(new[few], return_std=True)[1],
            process.leave_one_out(),
            (process.log_likelihood_, process.n_values_, process.std_error_),
            process.score(points[own], values[own]),
            process.scores(points[own], values[own]),
        )

    found = run_in_threads(size, work)
    alone = GaussianProcess(KERNEL, nugget=0.05, trend="linear", optimizer=None, tolerance=1e-8).fit(
        points, values
    )
    for own, there, ((mean, std), few_std, (left_out, left_out_std), told, score, scores) in zip(
        rows, places, found, strict=True
    ):
        np.testing.assert_allclose(mean, expected_mean[there], atol=1e-4)
        # 32 fields tell the correction of a variance to a quarter of itself, and the error of all is told.
        few = there[: NEW // 20]
        np.testing.assert_allclose(few_std, expected_std[few], rtol=1e-5)
        assert np.sqrt(np.mean((std / expected_std[there] - 1) ** 2)) < 0.01
        np.testing.assert_allclose(left_out, expected_left_out[own], atol=0.02 * np.std(values))
        np.testing.assert_allclose(left_out_std, expected_left_out_std[own], rtol=0.02)
        assert told[:2] == (pytest.approx(alone.log_likelihood_, abs=0.01), N)
        assert score == pytest.approx(alone.score(points, values), abs=1e-6)
        assert scores == pytest.approx(alone.scores(points, values), rel=0.02)


@pytest.mark.parametrize(("optimizer", "n"), [("scoring", 401), ("lbfgs", 101)])
def test_a_fit_finds_the_same_parameters_and_all_processes_agree_on_them(data, optimizer, n):
    points, values = (part[:n] for part in data[:2])
    rows = shares(n, 3, "dealt")

    def fitted(communicator, own):
        process = GaussianProcess(KERNEL, trend="linear", optimizer=optimizer, communicator=communicator)
        return process.fit(points[own], values[own])

    found = run_in_threads(3, lambda communicator: fitted(communicator, rows[communicator.rank]))
    alone = fitted(None, np.arange(n))
    for process in found:
        assert (
            process.log_likelihood_
            == found[0].log_likelihood_
            == pytest.approx(alone.log_likelihood_, abs=0.05)
        )
        assert process.kernel_ == found[0].kernel_
        off = np.abs(process.theta_ - alone.theta_)
        assert (off < 0.2 * np.array(list(alone.standard_errors_.values()))).all()
        assert process.intervals_.keys() == alone.intervals_.keys()


def test_value_gradient_and_information_are_those_of_one_process(data):
    points, values, _ = data
    rows = shares(N, 2, "dealt")
    kernel = kernels.Matern(nu=1.5, length_scale=(0.2, 0.3))
    theta = np.log([0.2, 0.3, 1.0, 0.05])

    def derivatives(communicator, own):
        process = GaussianProcess(
            kernel, trend="linear", method="reml", tolerance=1e-8, communicator=communicator
        )
        likelihood = process.likelihood(points[own], values[own])
        at = likelihood.at(theta)
        return at.value, likelihood.derivatives(at)

    value, alone = derivatives(None, np.arange(N))
    for theirs, found in run_in_threads(2, lambda group: derivatives(group, rows[group.rank])):
        assert theirs == pytest.approx(value, abs=1e-2)
        # Signs are drawn by each process: where they tell a trace, both tell how well.
        np.testing.assert_allclose(
            found.gradient, alone.gradient, atol=0.05 + 5 * (found.error + alone.error).max()
        )
        np.testing.assert_allclose(found.information, alone.information, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("exact", [False, True])
def test_means_and_deviations_err_by_no_more_than_is_said(data, exact):
    """Noise of ten decades, where a compression of 1e-4 alone would lose most."""
    points, values, new = data
    noise = 10.0 ** np.random.default_rng(3).uniform(-9, 1, N)
    rows, places = shares(N, 2, "dealt"), shares(NEW, 2, "ranges")

    def predicted(communicator):
        own = rows[communicator.rank]
        process = GaussianProcess(
            KERNEL, nugget=1.0, trend=None, optimizer=None, tolerance=1e-4, communicator=communicator
        ).fit(points[own], values[own], noise=noise[own])
        mean, std = process.predict(new[places[communicator.rank]], return_std=True, exact=exact)
        return mean, std, process.residual_, process.std_error_

    parts = run_in_threads(2, predicted)
    mean, std = (np.concatenate([part[i] for part in parts]) for i in range(2))
    residual, error = parts[0][2:]
    assert parts[1][2:] == (residual, error)
    weights = np.linalg.solve(KERNEL(points, points) + np.diag(noise), KERNEL(points, new))
    expected = np.sqrt(KERNEL.diagonal(new) - (KERNEL(points, new) * weights).sum(axis=0))
    off = np.sqrt(np.mean((std / expected - 1) ** 2))
    assert 0 < error < 0.05
    assert off <= STATED_ERRORS * error + 1e-5
    moved = residual * np.sqrt(np.mean(np.abs(weights).sum(axis=0) ** 2))
    assert np.sqrt(np.mean((mean - weights.T @ values) ** 2)) <= moved + 2e-5 * np.std(values)


def test_fields_given_the_values_have_their_mean_and_deviation(data):
    points, values, new = data
    rows, places = shares(N, 2, "dealt"), shares(NEW, 2, "ranges")

    def drawn(communicator):
        process = GaussianProcess(
            KERNEL, nugget=0.05, trend="linear", optimizer=None, tolerance=1e-8, communicator=communicator
        ).fit(points[rows[communicator.rank]], values[rows[communicator.rank]])
        return process.sample_y(new[places[communicator.rank]], 200)

    mean, std, *_ = dense(*data, KERNEL, 0.05)
    for there, fields in zip(places, run_in_threads(2, drawn), strict=True):
        assert fields.shape == (len(there), 200)
        # Means of 200 fields, and their deviations: five standard errors of the most outlying of 307.
        assert (np.abs(fields.mean(axis=1) - mean[there]) < 5 * std[there] / np.sqrt(200)).all()
        np.testing.assert_allclose(fields.std(axis=1) / std[there], 1, atol=5 / np.sqrt(2 * 200))


def test_thin_plates_and_processes_without_points_are_served(data):
    points, values, new = data
    rows = [np.arange(N), np.arange(0)]
    plate = {"trend": "linear", "method": "reml", "nugget": 0.05, "optimizer": None}
    alone = GaussianProcess(kernels.ThinPlate(), **plate).fit(points, values)

    def predicted(communicator):
        own = rows[communicator.rank]
        process = GaussianProcess(kernels.ThinPlate(), communicator=communicator, **plate)
        there = new[:40] if communicator.rank else new[:0]
        return process.fit(points[own], values[own]).predict(there, return_std=True)

    (nothing, _), (mean, std) = run_in_threads(2, predicted)
    assert nothing.shape == (0,)
    expected, expected_std = alone.predict(new[:40], return_std=True)
    np.testing.assert_allclose(mean, expected, atol=1e-3)
    np.testing.assert_allclose(std, expected_std, rtol=1e-3)


def test_what_is_wrong_on_one_process_is_refused_on_all(data):
    points, values, _ = data

    def work(communicator):
        bad = values.copy()
        if communicator.rank:
            bad[3] = np.nan
        with pytest.raises(ConfigError, match="value 3 is NaN"):
            GaussianProcess(KERNEL, communicator=communicator).fit(points, bad)
        return True

    assert all(run_in_threads(2, work))


def test_a_group_of_one_is_one_process_and_clones_share_their_communicator(data):
    points, values, _ = data
    communicator = Serial()
    process = GaussianProcess(KERNEL, nugget=0.05, optimizer=None, communicator=communicator)
    assert process.__sklearn_clone__().communicator is communicator
    assert copy.copy(process).get_params()["communicator"] is communicator
    alone = GaussianProcess(KERNEL, nugget=0.05, optimizer=None).fit(points, values)
    assert process.fit(points, values).log_likelihood_ == alone.log_likelihood_
