"""`GaussianProcess` against scikit-learn's regressor, dense algebra, and what is known of the data."""

import math
import re
import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pandas
import pytest
import torch
from random_problems import STATED_ERRORS
from sklearn.base import clone
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process import kernels as sk
from sklearn.model_selection import GridSearchCV, cross_val_score

from pipeline.errors import ConfigError
from pipeline.hmatrix import FitWarning, GaussianProcess, kernels
from pipeline.hmatrix.gaussian_process import search
from pipeline.hmatrix.gaussian_process.likelihood import Likelihood
from pipeline.hmatrix.gaussian_process.maximize import Optimum, by_scoring

KERNEL = kernels.Matern(nu=1.5, length_scale=0.2, variance=2.0)
NUGGET = 0.05


def sample(n, kernel=KERNEL, nugget=NUGGET, seed=0, dimension=2):
    generator = np.random.default_rng(seed)
    points = generator.random((n, dimension))
    root = np.linalg.cholesky(kernel(points, points) + nugget * np.eye(n))
    return points, root @ generator.standard_normal(n)


@pytest.fixture(scope="module")
def data():
    return sample(701)


@pytest.fixture(scope="module")
def fitted(data):
    return GaussianProcess(KERNEL).fit(*data)


def theirs():
    kernel = sk.ConstantKernel(2.0) * sk.Matern(0.2, nu=1.5) + sk.WhiteKernel(NUGGET)
    return GaussianProcessRegressor(kernel, optimizer=None)


def test_without_a_fit_all_answers_are_those_of_scikit_learn(data):
    X, y = data
    new = np.random.default_rng(1).random((37, 2))
    ours = GaussianProcess(KERNEL, nugget=NUGGET, trend=None, optimizer=None, tolerance=1e-8).fit(X, y)
    other = theirs().fit(X, y)
    mean, std = ours.predict(new, return_std=True)
    expected, noisy = other.predict(new, return_std=True)
    np.testing.assert_allclose(mean, expected, atol=1e-5)
    np.testing.assert_allclose(std, np.sqrt(noisy**2 - NUGGET), rtol=1e-4)
    np.testing.assert_allclose(ours.predict(new, return_std=True, include_noise=True)[1], noisy, rtol=1e-4)
    assert ours.log_likelihood_ == pytest.approx(other.log_marginal_likelihood_value_, abs=0.01)
    assert ours.score(X, y) == pytest.approx(other.score(X, y), abs=1e-6)


def test_the_gradient_is_that_of_scikit_learn(data):
    X, y = data
    ours = GaussianProcess(KERNEL, nugget=NUGGET, trend=None, optimizer=None).fit(X, y)
    assert ours.log_likelihood() == ours.log_likelihood_
    model = GaussianProcess(KERNEL, trend=None).fit(X, y)
    assert model.parameter_names_ == ("length_scale", "variance", "nugget")
    _, gradient = model.log_likelihood(np.log([0.2, 2.0, NUGGET]), gradient=True)
    _, expected = theirs().fit(X, y).log_marginal_likelihood(np.log([2.0, 0.2, NUGGET]), eval_gradient=True)
    np.testing.assert_allclose(gradient, expected[[1, 0, 2]], rtol=0.01, atol=0.5)


def test_the_fit_is_the_maximum_that_scikit_learn_finds(data):
    X, y = data
    ours = GaussianProcess(KERNEL, trend=None).fit(X, y)
    kernel = sk.ConstantKernel(2.0) * sk.Matern(0.2, nu=1.5) + sk.WhiteKernel(NUGGET)
    other = GaussianProcessRegressor(kernel).fit(X, y)
    assert ours.log_likelihood_ == pytest.approx(other.log_marginal_likelihood_value_, abs=0.05)
    expected = other.kernel_.theta[[1, 0, 2]]
    deviations = np.array(list(ours.standard_errors_.values()))
    assert (np.abs(ours.theta_ - expected) < 0.3 * deviations).all()


def test_lbfgs_finds_the_same_maximum(data, fitted):
    other = GaussianProcess(KERNEL, optimizer="lbfgs").fit(*data)
    assert other.log_likelihood_ == pytest.approx(fitted.log_likelihood_, abs=0.05)


def test_equal_data_give_equal_fits(data, fitted):
    again = GaussianProcess(KERNEL).fit(*data)
    np.testing.assert_array_equal(again.theta_, fitted.theta_)
    assert again.log_likelihood_ == fitted.log_likelihood_


@pytest.mark.parametrize(
    ("n", "seed", "nu", "noise", "trend"),
    [
        (300, 1, 0.5, 0.0, None),
        (300, 4, 0.5, 0.0, "constant"),
        (12, 2, 1.5, 0.05, None),
        (8, 2, 1.5, None, None),
    ],
)
def test_a_parameter_that_hardly_matters_does_not_end_the_search_for_the_others(n, seed, nu, noise, trend):
    """Without noise the nugget's logarithm goes a long way and changes nothing; L-BFGS has no such steps."""
    kernel, generator = kernels.Matern(nu=nu, length_scale=0.2), np.random.default_rng(seed)
    X = generator.random((n, 2))
    y = generator.standard_normal(n)
    if noise is not None:
        y = np.linalg.cholesky(kernel(X, X) + (noise + 1e-13) * np.eye(n)) @ y
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        found, other = (
            GaussianProcess(kernel, trend=trend, optimizer=name).fit(X, y) for name in ("scoring", "lbfgs")
        )
    assert found.log_likelihood_ > other.log_likelihood_ - 0.05


def test_observations_have_the_noise_that_is_said_of_them():
    """Intervals of observations with unlike noise cover what they say, each kind for itself."""
    generator = np.random.default_rng(5)
    X, new = generator.random((400, 2)), generator.random((1500, 2))
    joint = np.concatenate([X, new])
    field = np.linalg.cholesky(KERNEL(joint, joint) + 1e-10 * np.eye(1900)) @ generator.standard_normal(1900)
    noise = np.where(np.arange(1900) % 2, 0.04, 1.0)
    observed = field + np.sqrt(noise) * generator.standard_normal(1900)
    gp = GaussianProcess(KERNEL, nugget=1.0, trend=None, optimizer=None).fit(
        X, observed[:400], noise=noise[:400]
    )
    mean, std = gp.predict(new, return_std=True, include_noise=True, noise=noise[400:])
    covered = np.abs(observed[400:] - mean) < 1.96 * std
    for kind in (0, 1):
        # Of 750 draws, the share covered scatters by .008; neighbors' errors are alike, so that five times that pass.
        assert covered[kind::2].mean() == pytest.approx(0.95, abs=0.04)
    scores = gp.scores(new, observed[400:], noise=noise[400:])
    assert scores["coverage_95"] == pytest.approx(covered.mean(), abs=0.01)
    plain = gp.predict(new, return_std=True)[1]
    np.testing.assert_allclose(std**2 - plain**2, noise[400:], rtol=1e-6)
    with pytest.raises(ValueError, match="noise wants 1500 real numbers"):
        gp.predict(new, return_std=True, include_noise=True, noise=noise)


def test_a_gradient_that_errs_a_little_ends_the_search_where_no_step_raises_the_likelihood(
    data, fitted, monkeypatch
):
    """The trace for the nugget is estimated with random signs: a promise of hundredths of a nat may be its error."""
    exact, at, calls = Likelihood.derivatives, Likelihood.at, []

    def erring(likelihood, at):
        calls.append(at.value)
        found = exact(likelihood, at)
        off = 0.2 * np.sqrt(np.diag(found.information)) * [1, -1, 1]
        return replace(found, gradient=found.gradient + off)

    monkeypatch.setattr(Likelihood, "derivatives", erring)
    # Values that are not known better let short steps pass that raise nothing.
    monkeypatch.setattr(
        Likelihood, "at", lambda *given, **options: replace(at(*given, **options), error=0.01)
    )
    found = GaussianProcess(KERNEL).fit(*data)
    assert len(calls) <= 6
    assert found.log_likelihood_ > fitted.log_likelihood_ - 0.2


def test_a_term_that_does_not_matter_is_told_and_not_its_rounding(data):
    X, y = sample(2500, kernels.Matern(nu=0.5, length_scale=0.1), 0.05)
    kernel = kernels.Matern(nu=0.5, length_scale=0.1) + kernels.SquaredExponential(0.3, variance=1e-5)
    model = GaussianProcess(kernel, trend=None).likelihood(X, y)
    optimum = model.at(model.start, tolerance=1e-5)
    bounds = np.full(len(model.names), -50.0), np.full(len(model.names), 50.0)
    told = Optimum(optimum, model.derivatives(optimum), 1, ()).standard_errors(*bounds)
    tight = model.at(model.start, tolerance=1e-9)
    derivatives = model.derivatives(tight)
    exact = Optimum(tight, derivatives, 1, ()).standard_errors(*bounds)
    weak = [i for i, name in enumerate(model.names) if i not in (0, 1, len(model.names) - 1)]
    strong = [0, 1, len(model.names) - 1]
    assert (exact[weak] > 100).all()
    assert (told[weak] > 100).all()
    # Where the weak term is taken as it is.
    known = np.linalg.inv(derivatives.information[np.ix_(strong, strong)])
    np.testing.assert_allclose(told[strong], np.sqrt(np.diag(known)), rtol=0.1)


def test_a_search_that_begins_with_parts_of_the_values_ends_at_the_maximum_of_all(data, fitted, monkeypatch):
    searched = []

    def recording(likelihood, start, *bounds, **options):
        found = by_scoring(likelihood, start, *bounds, **options)
        searched.append((likelihood.n_values, likelihood.tolerance))
        return found

    monkeypatch.setattr(search, "_WHOLE", 300)
    monkeypatch.setitem(search.OPTIMIZERS, "scoring", recording)
    other = GaussianProcess(KERNEL).fit(*data)
    deviations = np.array(list(fitted.standard_errors_.values()))
    assert (np.abs(other.theta_ - fitted.theta_) < 0.1 * deviations).all()
    assert other.log_likelihood_ == pytest.approx(fitted.log_likelihood_, abs=0.05)
    assert [n for n, _ in searched] == [87, 701]
    # All values never start looser than they were told to.
    assert all(tolerance <= 1e-6 for _, tolerance in searched)


def test_a_fit_keeps_no_blocks_while_it_searches_and_has_them_at_its_end(data, fitted):
    X, _ = data
    model = fitted.likelihood(*data)
    at = model.at(fitted.theta_)
    light = at.light()
    assert light.A.n_bytes < 0.05 * at.A.n_bytes
    # Derivatives, which need none, are the same to the last bit.
    ours, theirs = model.derivatives(light), model.derivatives(at)
    np.testing.assert_array_equal(ours.gradient, theirs.gradient)
    np.testing.assert_array_equal(ours.information, theirs.information)
    x = np.random.default_rng(2).standard_normal(len(X))
    np.testing.assert_array_equal(model.whole(light).A @ x, at.A @ x)
    assert model.whole(at) is at
    for use in (lambda: light.A @ x, lambda: light.A.solve(x), lambda: light.A.save("nowhere")):
        with pytest.raises(ValueError, match="this matrix has no blocks"):
            use()


def test_the_fit_scales_with_points_and_values(data, fitted):
    X, y = data
    other = GaussianProcess(KERNEL).fit(10 * X, 3 * y + 7)
    assert other.kernel_.length_scale == pytest.approx(10 * fitted.kernel_.length_scale, rel=0.02)
    assert other.kernel_.variance == pytest.approx(9 * fitted.kernel_.variance, rel=0.02)
    assert other.nugget_ == pytest.approx(9 * fitted.nugget_, rel=0.02)
    assert other.log_likelihood_ == pytest.approx(fitted.log_likelihood_ - 701 * math.log(3), abs=0.1)


def test_standard_errors_are_those_that_fits_of_many_samples_scatter_by():
    fits = [GaussianProcess(KERNEL).fit(*sample(300, seed=seed)) for seed in range(12)]
    nuggets = np.array([math.log(fit.nugget_) for fit in fits])
    stated = np.mean([fit.standard_errors_["nugget"] for fit in fits])
    # The deviation of 12 samples is itself known to 20 %; three times that is allowed.
    assert 0.4 * stated < nuggets.std(ddof=1) < 1.6 * stated


def test_a_profile_is_below_the_maximum_and_falls_on_both_sides(fitted):
    length, error = fitted.kernel_.length_scale, fitted.standard_errors_["length_scale"]
    found = fitted.profile("length_scale", length * np.exp([-2 * error, 0.0, 2 * error]))
    assert found[1] == pytest.approx(fitted.log_likelihood_, abs=0.02)
    # Two standard errors cost two nats where the likelihood is a parabola.
    assert ((found[1] - found[[0, 2]] > 0.8) & (found[1] - found[[0, 2]] < 4)).all()
    with pytest.raises(ConfigError, match="was not fitted"):
        fitted.profile("nu", [1.0])


def test_anisotropic_length_scales_are_told_apart():
    truth = kernels.Matern(nu=1.5, length_scale=(0.5, 0.1), variance=1.0)
    X, y = sample(900, truth, 0.02)
    fit = GaussianProcess(kernels.Matern(nu=1.5, length_scale=(0.2, 0.2)), random_state=1).fit(X, y)
    found = np.log(fit.kernel_.length_scale)
    errors = [fit.standard_errors_[f"length_scale[{i}]"] for i in range(2)]
    assert (np.abs(found - np.log([0.5, 0.1])) < 4 * np.array(errors)).all()


def test_noise_that_differs_from_value_to_value_is_weighed():
    generator = np.random.default_rng(2)
    noise = np.where(np.arange(500) % 2, 0.01, 1.0)
    X, clean = sample(500, nugget=1e-8)
    y = clean + np.sqrt(0.3 * noise) * generator.standard_normal(500)
    weighed = GaussianProcess(KERNEL, trend=None).fit(X, y, noise=noise)
    alike = GaussianProcess(KERNEL, trend=None).fit(X, y)
    assert weighed.log_likelihood_ > alike.log_likelihood_ + 50
    assert weighed.nugget_ == pytest.approx(0.3, rel=0.3)
    dense = KERNEL(X, X) + np.diag(0.3 * noise)
    known = GaussianProcess(KERNEL, nugget=0.3, trend=None, optimizer=None, tolerance=1e-8)
    known.fit(X, y, noise=noise)
    expected = KERNEL(X[:9] + 0.01, X) @ np.linalg.solve(dense, y)
    np.testing.assert_allclose(known.predict(X[:9] + 0.01), expected, atol=1e-5)


@pytest.mark.parametrize("method", ["ml", "reml"])
def test_a_linear_trend_is_universal_kriging(method):
    X, y = sample(400, nugget=NUGGET)
    y = y + 3 + 5 * X[:, 0]
    new = np.random.default_rng(4).random((9, 2))
    gp = GaussianProcess(KERNEL, nugget=NUGGET, trend="linear", optimizer=None, method=method).fit(X, y)
    H, h = (np.column_stack([np.ones(len(x)), x]) for x in (X, new))
    A, C = KERNEL(X, X) + NUGGET * np.eye(400), KERNEL(new, X)
    # The system of universal kriging with its Lagrange multipliers.
    system = np.block([[A, H], [H.T, np.zeros((3, 3))]])
    right = np.vstack([C.T, h.T])
    solved = np.linalg.solve(system, right)
    mean, std = gp.predict(new, return_std=True)
    np.testing.assert_allclose(mean, solved[:400].T @ y, atol=1e-4)
    np.testing.assert_allclose(std**2, 2.0 - (right * solved).sum(axis=0), rtol=1e-3)
    own = GaussianProcess(KERNEL, nugget=NUGGET, trend=lambda x: np.column_stack([np.ones(len(x)), x]),
                          optimizer=None, method=method).fit(X, y)  # fmt: skip
    np.testing.assert_allclose(own.predict(new), mean, atol=1e-6)
    assert own.beta_[1] == pytest.approx(gp.beta_[1] / (np.ptp(X[:, 0]) / 2), rel=1e-4)


def test_reml_does_not_count_the_trend_as_known():
    """Twenty values of white noise about a plane: REML's variance is unbiased, that of ML is too small by 3/n."""
    generator = np.random.default_rng(0)
    X = generator.random((21, 2))
    y = generator.standard_normal(21)
    variance = {}
    for method in ("ml", "reml"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FitWarning)
            tiny = kernels.Matern(length_scale=1e-4, variance=1e-4)
            gp = GaussianProcess(tiny, trend="linear", method=method, fixed=["length_scale", "variance"]).fit(
                X, y
            )
        variance[method] = gp.nugget_ + 1e-4
    residual = y - np.column_stack([np.ones(21), X]) @ np.linalg.lstsq(
        np.column_stack([np.ones(21), X]), y, rcond=None)[0]  # fmt: skip
    # A fit ends where a step promises .001 nats: .045 standard errors, which are sqrt(2 / 18) of a variance.
    assert variance["ml"] == pytest.approx((residual**2).sum() / 21, rel=0.02)
    assert variance["reml"] == pytest.approx((residual**2).sum() / 18, rel=0.02)


@pytest.mark.parametrize("nugget", [1e-1, 1e-3])
def test_variances_of_many_points_are_exact_to_a_percent(nugget):
    X, y = sample(1201, nugget=nugget)
    new = np.random.default_rng(5).random((977, 2))
    gp = GaussianProcess(KERNEL, nugget=nugget, optimizer=None).fit(X, y)
    exact = gp.predict(new, return_std=True, exact=True)[1]
    assert gp.std_error_ < 1e-4
    found = gp.predict(new, return_std=True)[1]
    error = np.sqrt(np.mean((found / exact - 1) ** 2))
    assert error < 0.01
    assert error < STATED_ERRORS * gp.std_error_ + 1e-4


def test_many_new_points_share_neighbors_without_loss():
    X, y = sample(300)
    new = np.random.default_rng(6).random((6001, 2))
    gp = GaussianProcess(KERNEL, nugget=NUGGET, optimizer=None).fit(X, y)
    found = gp.predict(new, return_std=True)[1]
    exact = gp.predict(new, return_std=True, exact=True)[1]
    assert np.sqrt(np.mean((found / exact - 1) ** 2)) < 0.01


@pytest.mark.parametrize("n", [90, 801])
def test_leave_one_out_is_that_of_fits_without_each_value(n):
    X, y = sample(n)
    gp = GaussianProcess(KERNEL, nugget=NUGGET, trend="linear", optimizer=None).fit(X, y)
    mean, std = gp.leave_one_out()
    for i in (0, 17, n - 1):
        others = np.arange(n) != i
        without = GaussianProcess(KERNEL, nugget=NUGGET, trend="linear", optimizer=None).fit(
            X[others], y[others]
        )
        expected, deviation = without.predict(X[i : i + 1], return_std=True, include_noise=True)
        assert mean[i] == pytest.approx(expected[0], abs=2e-2 * deviation[0])
        assert std[i] == pytest.approx(deviation[0], rel=1e-2)


def test_samples_scatter_about_the_mean_by_the_standard_deviation(data):
    X, y = data
    new = np.random.default_rng(7).random((50, 2))
    gp = GaussianProcess(KERNEL, nugget=NUGGET, optimizer=None).fit(X, y)
    mean, std = gp.predict(new, return_std=True)
    samples = gp.sample_y(new, 400, random_state=1)
    assert samples.shape == (50, 400)
    # The mean of 400 scatters by std / 20, their deviation by std / 28; the largest of 50 stays within 4 times that.
    assert (np.abs(samples.mean(axis=1) - mean) < 4 * std / 20).all()
    assert (np.abs(samples.std(axis=1) / std - 1) < 4 / 28).all()
    np.testing.assert_array_equal(samples, gp.sample_y(new, 400, random_state=1))


def test_intervals_cover_what_they_promise():
    X, y = sample(2000, seed=9)
    gp = GaussianProcess(KERNEL).fit(X[:1000], y[:1000])
    found = gp.scores(X[1000:], y[1000:])
    for level in (50, 80, 90, 95):
        part = level / 100
        assert found[f"coverage_{level}"] == pytest.approx(part, abs=5 * math.sqrt(part * (1 - part) / 1000))
    assert found["mae"] < found["rmse"] < y.std()


def test_arrays_tensors_and_tables_are_taken(data, fitted):
    X, y = data
    frame = pandas.DataFrame(X, columns=["east", "north"])
    from_table = GaussianProcess(KERNEL, nugget=NUGGET, optimizer=None).fit(frame, pandas.Series(y))
    from_tensors = GaussianProcess(KERNEL, nugget=NUGGET, optimizer=None).fit(
        torch.from_numpy(X), torch.from_numpy(y)
    )
    expected = GaussianProcess(KERNEL, nugget=NUGGET, optimizer=None).fit(X, y).predict(X[:5])
    np.testing.assert_array_equal(from_table.predict(frame[:5]), expected)
    tensor = from_tensors.predict(torch.from_numpy(X[:5]))
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_array_equal(tensor.numpy(), expected)


def test_scikit_learn_clones_searches_and_cross_validates(data):
    X, y = data[0][:200], data[1][:200]
    gp = GaussianProcess(KERNEL, nugget=NUGGET, optimizer=None)
    copied = clone(gp)
    assert copied.get_params(deep=False) == gp.get_params(deep=False)
    assert copied is not gp
    search = GridSearchCV(gp, {"kernel__length_scale": [0.001, 0.2], "trend": ["constant", None]}, cv=3).fit(
        X, y
    )
    assert search.best_params_["kernel__length_scale"] == 0.2
    assert gp.kernel == KERNEL
    assert cross_val_score(gp, X, y, cv=3).mean() > 0.5
    with pytest.raises(ValueError, match="no parameter 'width'"):
        gp.set_params(width=3)


def test_a_fit_at_a_bound_says_so(data):
    with pytest.warns(FitWarning, match="length_scale ended at its upper bound of 0.05"):
        fit = GaussianProcess(KERNEL, bounds={"length_scale": (0.01, 0.05)}).fit(*data)
    assert fit.kernel_.length_scale == pytest.approx(0.05)
    assert math.isnan(fit.standard_errors_["length_scale"])


def test_a_likelihood_without_information_says_so():
    generator = np.random.default_rng(0)
    X, y = generator.random((120, 2)), generator.standard_normal(120)
    with pytest.warns(FitWarning, match="bound|hardly depends"):
        fit = GaussianProcess(KERNEL).fit(X, y)
    assert fit.notes_


def test_constant_values_are_refused():
    X = np.random.default_rng(0).random((50, 2))
    with pytest.raises(ConfigError, match="trend explains the values"):
        GaussianProcess(KERNEL).fit(X, np.full(50, 3.0))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"kernel": kernels.LaplaceSingleLayer()}, "is no covariance"),
        ({"trend": "cubic"}, "trend: no 'cubic'"),
        ({"trend": lambda x: np.ones(3)}, "the function wants to return"),
        ({"trend": lambda x: np.ones((len(x), 2))}, "linearly dependent"),
        ({"method": "mle"}, "method: no 'mle'"),
        ({"optimizer": "adam"}, "optimizer: no 'adam'"),
        ({"nugget": -1.0}, "nugget wants"),
        ({"optimizer": None}, "needs an optimizer"),
        ({"bounds": {"width": (1, 2)}}, "bounds: no 'width'"),
        ({"bounds": {"nugget": (2, 1)}}, "in order"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused(data, arguments, text):
    with pytest.raises(ConfigError, match=text):
        GaussianProcess(**{"kernel": KERNEL} | arguments).fit(*data)


def test_data_that_do_not_fit_are_refused(data, fitted):
    X, y = data
    with pytest.raises(ValueError, match="701 real numbers"):
        GaussianProcess(KERNEL).fit(X, y[:-1])
    with pytest.raises(ConfigError, match="value 3 is NaN"):
        GaussianProcess(KERNEL).fit(X, np.where(np.arange(701) == 3, np.nan, y))
    with pytest.raises(ConfigError, match="noise"):
        GaussianProcess(KERNEL).fit(X, y, noise=-np.ones(701))
    with pytest.raises(ValueError, match="3 coordinates"):
        fitted.predict(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="not fitted"):
        GaussianProcess(KERNEL).predict(X)


def test_neither_scikit_learn_nor_pandas_is_needed():
    """They come with the extra `gaussian-process`, for who uses them beside it."""
    program = (
        "import sys; sys.modules.update(sklearn=None, pandas=None)\n"
        "import numpy as np; from pipeline.hmatrix import GaussianProcess, kernels\n"
        "X = np.random.default_rng(0).random((60, 2)); process = GaussianProcess(kernels.Matern(0.3), nugget=0.1)\n"
        "mean, std = process.fit(X, X[:, 0]).predict(X[:5], return_std=True); print(mean.shape, std.shape)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "(5,) (5,)", done.stderr


def test_every_step_of_a_fit_is_a_line_of_the_log(caplog):
    rng = np.random.default_rng(11)
    points = rng.random((60, 2))
    values = np.sin(6 * points[:, 0]) + 0.1 * rng.standard_normal(60)
    with caplog.at_level("INFO", logger="pipeline.hmatrix"), warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        process = GaussianProcess(kernels.Matern(nu=1.5)).fit(points, values)
    lines = [line for line in caplog.messages if line.startswith("fit to 60 values, step ")]
    steps = [int(re.match(r"fit to 60 values, step (\d+), [\d.]+ s: log-likelihood -?[\d.]+ at length_scale ", line)[1])
             for line in lines]  # fmt: skip
    assert steps[-process.n_iter_ :] == list(range(1, process.n_iter_ + 1))
    assert "fit to 60 values: looking for a start among groups of neighbors" in caplog.messages
