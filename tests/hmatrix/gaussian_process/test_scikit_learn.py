"""What scikit-learn's users do with a regressor: pickle it, scale before it, search in processes."""

import copy
import pickle

import numpy as np
import pytest

from pipeline.hmatrix import GaussianProcess, kernels

KERNEL = kernels.Matern(nu=1.5, length_scale=0.5)


@pytest.fixture(scope="module")
def data():
    generator = np.random.default_rng(0)
    X = generator.random((301, 2)) * [1.0, 1000.0]
    return X, np.sin(5 * X[:, 0]) + np.cos(X[:, 1] / 200) + 0.1 * generator.standard_normal(len(X))


def process():
    return GaussianProcess(KERNEL, nugget=0.01, optimizer=None)


@pytest.mark.parametrize(
    "remake", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))], ids=["copy", "pickle"]
)
@pytest.mark.parametrize("asked_before", [False, True])
def test_a_fitted_model_is_copied_whole(data, remake, asked_before):
    X, y = data
    fitted = process().fit(X[:200], y[:200])
    if asked_before:
        fitted.predict(X[200:], return_std=True, exact=False)
    again = remake(fitted)
    np.testing.assert_array_equal(again.predict(X[200:]), fitted.predict(X[200:]))
    for found, expected in zip(again.leave_one_out(), fitted.leave_one_out(), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert again.log_likelihood_ == fitted.log_likelihood_
    assert repr(again) == repr(fitted)


def test_coordinates_are_scaled_before_it_in_a_pipeline(data):
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    X, y = data
    piped = make_pipeline(StandardScaler(), process()).fit(X, y)
    scaled = (X - X.mean(axis=0)) / X.std(axis=0)
    mean, std = piped.predict(X[:7], return_std=True)
    expected = process().fit(scaled, y).predict(scaled[:7], return_std=True)
    np.testing.assert_allclose(mean, expected[0], rtol=1e-6)
    np.testing.assert_allclose(std, expected[1], rtol=1e-6)
    assert piped.score(X, y) > 0.9


def test_a_search_in_processes_finds_what_one_process_finds(data):
    import pandas
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    frame = pandas.DataFrame(data[0], columns=["east", "north"])
    steps = Pipeline([("scale", StandardScaler()), ("process", process())])
    grid = {"process__kernel__length_scale": [0.01, 0.5], "process__nugget": [0.01, 1.0]}
    alone, beside = (
        GridSearchCV(steps, grid, cv=3, n_jobs=n_jobs).fit(frame, data[1]) for n_jobs in (None, 2)
    )
    assert beside.best_params_ == {"process__kernel__length_scale": 0.5, "process__nugget": 0.01}
    np.testing.assert_allclose(
        beside.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"], rtol=1e-9
    )


def test_values_are_transformed_before_it_and_predicted_across_folds(data):
    from sklearn.compose import TransformedTargetRegressor
    from sklearn.model_selection import cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    X, y = data
    scaled = make_pipeline(StandardScaler(), process())
    model = TransformedTargetRegressor(scaled, transformer=StandardScaler())
    found = cross_val_predict(model, X, y, cv=3)
    assert np.corrcoef(found, y)[0, 1] > 0.95
