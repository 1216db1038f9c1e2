"""Gaussian processes and kernel ridge regression on compressed covariance matrices.

`GaussianProcess` fits and predicts as scikit-learn's regressors do. Below it are plain functions over `A`, anything
with `A @ x` (x of shape (n,) or (n, m)), and `F`, a factorization of A or of something near it, with `F.solve(b)` and
`F.logdet()`. Tensors in, tensors out; NumPy arrays in, NumPy arrays out.
"""

from pipeline.hmatrix.gaussian_process.classification import one_hot, predict_labels
from pipeline.hmatrix.gaussian_process.groups import MaternFit, fit_matern, median_distance
from pipeline.hmatrix.gaussian_process.kriging import (
    Factorization,
    Operator,
    kriging_weights,
    log_likelihood,
    predict,
    predictive_variance,
)
from pipeline.hmatrix.gaussian_process.regressor import FitWarning, GaussianProcess
from pipeline.hmatrix.gaussian_process.scores import coverage, root_mean_square_error, scores
from pipeline.hmatrix.gaussian_process.variogram import Variogram, variogram

__all__ = [
    "Factorization",
    "FitWarning",
    "GaussianProcess",
    "MaternFit",
    "Operator",
    "Variogram",
    "coverage",
    "fit_matern",
    "kriging_weights",
    "log_likelihood",
    "median_distance",
    "one_hot",
    "predict",
    "predict_labels",
    "predictive_variance",
    "root_mean_square_error",
    "scores",
    "variogram",
]
