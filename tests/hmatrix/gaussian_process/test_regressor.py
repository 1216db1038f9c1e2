"""`GaussianProcess` against scikit-learn's regressor, dense algebra, and what is known of the data."""

import math
import os

import numpy as np
import pandas
import pytest
import torch
from gaussian_values import KERNEL, NUGGET, sample, theirs
from random_problems import STATED_ERRORS
from warm_starts import run_python

from pipeline.errors import ConfigError
from pipeline.hmatrix import GaussianProcess, kernels


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
    with pytest.raises(ValueError, match="noise needs 1500 real numbers"):
        gp.predict(new, return_std=True, include_noise=True, noise=noise)


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


@pytest.mark.parametrize("nugget", [1e-1, 1e-3])
def test_variances_of_many_points_are_exact_to_a_percent(nugget):
    X, y = sample(701, nugget=nugget)
    new = np.random.default_rng(5).random((577, 2))
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
    from sklearn.base import clone
    from sklearn.model_selection import GridSearchCV, cross_val_score

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


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"kernel": kernels.LaplaceSingleLayer()}, "is no covariance"),
        ({"trend": "cubic"}, "trend: 'cubic' is unknown"),
        ({"trend": lambda x: np.ones(3)}, "the function must return"),
        ({"trend": lambda x: np.ones((len(x), 2))}, "linearly dependent"),
        ({"method": "mle"}, "method: 'mle' is unknown"),
        ({"optimizer": "adam"}, "optimizer: 'adam' is unknown"),
        ({"nugget": -1.0}, "nugget must be"),
        ({"optimizer": None}, "needs an optimizer"),
        ({"bounds": {"width": (1, 2)}}, "bounds: there is no parameter 'width'"),
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


def test_neither_scikit_learn_nor_pandas_is_needed(tmp_path):
    """They come with the extra `gaussian-process`, for who uses them beside it."""
    program = (
        "import sys; packages = {'sklearn', 'pandas'}\n"
        "sys.modules.update(dict.fromkeys(packages | {m for m in sys.modules if m.split('.')[0] in packages}))\n"
        "import numpy as np; from pipeline.hmatrix import GaussianProcess, kernels\n"
        "X = np.random.default_rng(0).random((60, 2)); process = GaussianProcess(kernels.Matern(0.3), nugget=0.1)\n"
        "mean, std = process.fit(X, X[:, 0]).predict(X[:5], return_std=True); print(mean.shape, std.shape)"
    )
    (tmp_path / "program.py").write_text(program)
    done = run_python(["program.py"], folder=tmp_path, environment=os.environ)
    assert done.stdout.strip().endswith("(5,) (5,)"), done.stdout
