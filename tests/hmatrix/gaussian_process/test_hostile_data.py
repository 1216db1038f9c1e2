"""Data as tired users bring them: changed afterwards, in unlike units, without noise, with columns in another order."""

import numpy as np
import pandas
import pytest

from pipeline.errors import ConfigError
from pipeline.hmatrix import GaussianProcess, kernels
from pipeline.hmatrix.gaussian_process.scores import scores

KERNEL = kernels.Matern(nu=1.5, length_scale=0.2)


def drawn(n, kernel=KERNEL, nugget=1e-2, dimension=2):
    generator = np.random.default_rng(0)
    X = generator.random((n, dimension))
    covariance = kernel(X, X) + nugget * np.eye(n)
    return X, np.linalg.cholesky(covariance) @ generator.standard_normal(n)


def test_arrays_that_change_after_a_fit_change_nothing():
    X, y = drawn(100)
    noise = np.ones(100)
    kept = GaussianProcess(KERNEL, nugget=1e-2, optimizer=None).fit(X.copy(), y.copy(), noise=noise.copy())
    process = GaussianProcess(KERNEL, nugget=1e-2, optimizer=None).fit(X, y, noise=noise)
    new = np.random.default_rng(3).random((5, 2))
    for array in (X, y, noise):
        array *= 0
    np.testing.assert_array_equal(process.predict(new, return_std=True), kept.predict(new, return_std=True))
    np.testing.assert_array_equal(process.leave_one_out(), kept.leave_one_out())


def test_columns_keep_their_names_and_their_order():
    X, y = drawn(60)
    frame = pandas.DataFrame(X, columns=["a", "b"])
    process = GaussianProcess(KERNEL, nugget=1e-2, optimizer=None).fit(frame, y)
    assert list(process.feature_names_in_) == ["a", "b"]
    np.testing.assert_array_equal(process.predict(frame[:5]), process.predict(X[:5]))
    with pytest.raises(ValueError, match="X has the columns b, a, and the fit had a, b"):
        process.predict(frame[["b", "a"]])
    assert not hasattr(process.fit(X, y), "feature_names_in_")


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_units_of_coordinates_and_of_noise_do_not_change_the_maximum(scale):
    X, y = drawn(300)
    kernel = kernels.Matern(nu=1.5, length_scale=(0.3, 0.3))
    found = GaussianProcess(kernel).fit(X, y)
    stretched = kernels.Matern(nu=1.5, length_scale=(0.3, 0.3 * scale))
    units = GaussianProcess(stretched).fit(X * [1, scale], y, noise=np.full(300, scale))
    assert units.log_likelihood_ == pytest.approx(found.log_likelihood_, abs=0.1)
    assert units.nugget_ * scale == pytest.approx(found.nugget_, rel=0.05)
    np.testing.assert_allclose(
        np.divide(units.kernel_.length_scale, [1, scale]), found.kernel_.length_scale, rtol=0.05
    )


def test_one_value_of_great_noise_does_not_move_the_bounds_of_the_others():
    X, y = drawn(300)
    noise = np.ones(300)
    noise[5] = 1e8
    found = GaussianProcess(KERNEL).fit(X, y, noise=noise)
    without = GaussianProcess(KERNEL).fit(np.delete(X, 5, axis=0), np.delete(y, 5))
    assert found.nugget_ == pytest.approx(without.nugget_, rel=0.02)
    assert found.kernel_.length_scale == pytest.approx(without.kernel_.length_scale, rel=0.02)


@pytest.mark.parametrize(
    ("length_scale", "nugget"), [(0.3, 1e-6), (0.5, 1e-5), (0.3, 1e-8), (0.3, 1e-10), (0.1, 0.0)]
)
def test_samples_given_values_with_little_noise_scatter_as_dense_algebra_says(length_scale, nugget):
    kernel = kernels.SquaredExponential(length_scale)
    X, y = drawn(200, kernel, max(nugget, 1e-12))
    new = np.random.default_rng(5).random((40, 2))
    process = GaussianProcess(kernel, nugget=nugget, trend=None, optimizer=None, tolerance=1e-10)
    samples = process.fit(X, y).sample_y(new, 400)
    values, vectors = np.linalg.eigh(kernel(X, X))
    half = (vectors.T @ kernel(X, new)) / np.sqrt(np.maximum(values, 0) + max(nugget, 1e-13))[:, None]
    deviation = np.sqrt(np.maximum(1 - (half**2).sum(axis=0), 0.0))
    seen = deviation > 3e-6  # smaller ones are rounding
    ratio = samples.std(axis=1)[seen] / deviation[seen]
    assert np.abs(np.log(ratio)).max() < 0.25
    assert samples.std(axis=1)[~seen].max(initial=0.0) < 1e-4


def test_places_of_values_without_noise_are_known_exactly():
    X, y = drawn(400)
    noise = np.ones(400)
    noise[7] = 0.0
    process = GaussianProcess(KERNEL, nugget=1e-2, optimizer=None).fit(X, y, noise=noise)
    for new in (X[:50], np.concatenate([X[:50], np.random.default_rng(1).random((400, 2))])):
        mean, std = process.predict(new, return_std=True)
        assert mean[7] == pytest.approx(y[7], abs=1e-4)
        assert std[7] < 1e-6
        assert std[8] > 1e-3
        assert process.std_error_ < 0.02


def test_all_places_may_be_those_of_values_without_noise():
    X, y = drawn(300, nugget=0.0)
    process = GaussianProcess(KERNEL, nugget=0.0, optimizer=None).fit(X, y)
    mean, std = process.predict(X, return_std=True)
    np.testing.assert_allclose(mean, y, atol=1e-4)
    assert std.max() < 1e-6


def test_constant_values_score_as_scikit_learn_has_it():
    X, y = drawn(60)
    process = GaussianProcess(KERNEL, nugget=1e-2, optimizer=None).fit(X, y)
    assert process.score(X[:5], np.full(5, 3.0)) == 0.0


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda gp: gp.profile("variance", [0.0]), "profile of variance must be a positive number, not 0"),
        (lambda gp: gp.log_likelihood([0.0]), r"theta needs 3 logarithms \(length_scale, variance, nugget\)"),
        (
            lambda gp: gp.set_params(kernel__length_scale=(0.1, 0.2)),
            "kernel__length_scale must be a positive",
        ),
        (lambda gp: gp.set_params(bounds={"variance": 3.0}).fit(*drawn(60)), "bounds.variance must be two"),
        (lambda gp: gp.set_params(bounds={"variance": "ab"}).fit(*drawn(60)), "bounds.variance must be two"),
        (
            lambda gp: gp.set_params(restarts=-1).fit(*drawn(60)),
            "restarts must be a whole number of at least 0",
        ),
        (
            lambda gp: gp.set_params(fixed=("nugget",)).fit(*drawn(60)),
            "nugget: a fixed nugget is a number",
        ),
    ],
)
def test_what_cannot_be_meant_is_one_clear_line(change, text):
    process = GaussianProcess(KERNEL).fit(*drawn(60))
    with pytest.raises((ConfigError, ValueError), match=text):
        change(process)


def test_values_whose_squares_are_no_numbers_are_refused():
    X, y = drawn(60)
    with pytest.raises(ConfigError, match="give y another unit"):
        GaussianProcess(KERNEL).fit(X, 1e155 * y)
    with pytest.raises(ValueError, match="NaN or infinite"):
        scores(np.array([1.0, np.nan]), np.zeros(2), np.ones(2))


def test_a_function_s_trend_has_to_make_up_the_polynomials_of_a_thin_plate():
    X, y = drawn(60)
    process = GaussianProcess(kernels.ThinPlate(), nugget=1e-2, optimizer=None, method="reml")
    process.trend = lambda x: np.column_stack(
        [x.sum(axis=1), x @ [1.0, -2.0], np.full(len(x), 3.0), x[:, 0] ** 2]
    )
    process.fit(X, y)
    process.trend = lambda x: np.column_stack([np.ones(len(x)), x[:, 0]])
    with pytest.raises(ConfigError, match="let the function return these columns as well"):
        process.fit(X, y)
