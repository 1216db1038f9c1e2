"""Fits of `GaussianProcess`: the maximum, the search for it, and what is told of it."""

import math
import re
import warnings
from dataclasses import replace

import numpy as np
import pytest
from gaussian_values import KERNEL, NUGGET, sample, theirs

from pipeline.errors import ConfigError
from pipeline.hmatrix import FitWarning, GaussianProcess, kernels
from pipeline.hmatrix.gaussian_process import search
from pipeline.hmatrix.gaussian_process.likelihood import Likelihood
from pipeline.hmatrix.gaussian_process.maximize import Optimum, by_scoring


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
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process import kernels as sk

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
    X, y = sample(1200, kernels.Matern(nu=0.5, length_scale=0.1), 0.05)
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
