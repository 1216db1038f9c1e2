"""`GaussianProcess`: fit a covariance to all values by maximum likelihood, and predict with its uncertainty."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.hmatrix.gaussian_process.anchored import Anchored
from pipeline.hmatrix.gaussian_process.conditional import Conditional, as_tensor_like
from pipeline.hmatrix.gaussian_process.divided import all_or_none, all_rows, total
from pipeline.hmatrix.gaussian_process.divided_conditional import DividedConditional
from pipeline.hmatrix.gaussian_process.likelihood import Likelihood, LikelihoodEvaluation, on_first
from pipeline.hmatrix.gaussian_process.maximize import by_scoring
from pipeline.hmatrix.gaussian_process.scikit_learn import ScikitLearnHabits, positive
from pipeline.hmatrix.gaussian_process.scores import scores
from pipeline.hmatrix.gaussian_process.search import greatest
from pipeline.hmatrix.gaussian_process.settings import Settings, columns_of, noise_of, points_of, values_of
from pipeline.hmatrix.gaussian_process.start import bounds_of
from pipeline.hmatrix.gaussian_process.trend import Regressors, Trend
from pipeline.hmatrix.inputs import as_array, require_count
from pipeline.hmatrix.kernels import Kernel
from pipeline.hmatrix.streams import Purpose, stream
from pipeline.runtime.communicator import Communicator, require_communicator

Array = NDArray[np.float64]


class FitWarning(UserWarning):
    """A fit ended early or at a bound, or the values do not determine a parameter."""


class NotFittedError(ValueError, AttributeError):
    """`fit` has not been called yet. As in scikit-learn, this is also an AttributeError, so that `hasattr` is False."""


class GaussianProcess(ScikitLearnHabits):
    """Regression with a Gaussian process on all values, in the manner of scikit-learn.

    y = H beta + f + noise, f of covariance `kernel`, noise of variance `nugget`. A fit maximizes the (restricted)
    likelihood by scoring steps; each costs some factorizations in near-linear time. Equal data give equal results.

    Args:
        kernel: The covariance; a fit starts from its parameters. Sums, products and multiples of kernels are possible.
            Conditionally positive definite kernels (`kernels.ThinPlate`) need a linear trend and method="reml".
        nugget: Variance of the noise, or "fit".
        trend: Mean: "constant", "linear", "quadratic", the degree of a polynomial, a function of the points that
            returns regressors of shape (n, p), or None for a mean of zero.
        tolerance: Relative error of compression and factorization. It is tightened if the likelihood would err by more
            than .05 nats for up to 2,000 values, .1 for 8,192, .3 for 65,536, and in proportion to their number beyond.
        optimizer: "scoring", "lbfgs", or None to leave the parameters as they are; `nugget` is then a number. Without
            an optimizer, a fit is only as accurate as predictions need (`prepared.py`); `log_likelihood_` and
            `leave_one_out` evaluate again if they need more.
        method: "ml" or "reml", the restricted likelihood, which does not count the trend's coefficients as known.
        bounds: Lower and upper bound by parameter, such as {"length_scale": (0.01, 10.0)}; see `start.bounds_of`.
        fixed: Names of parameters that keep their values.
        smoothness: Whether to fit `nu` too. Values other than 1/2, 3/2 and 5/2 are some fifty times slower.
        restarts: Random starts beside the given parameters.
        max_iterations: Largest number of steps of the optimizer.
        random_state: Seed of all random numbers.
        communicator: The processes among which values are divided: each passes its own rows to `fit` and its own new
            points to `predict`, and gets the results for these; every method is collective. Matrices, factorizations
            and predictions are divided. Process 0 finds the start of a fit, and holds the data of all for that time.

    Attributes:
        kernel_, nugget_: The fitted kernel and nugget.
        log_likelihood_: The logarithm of the likelihood in nats. `log_likelihood_error_` estimates its error; the true
            one is more than three times that with a probability below 1 %. REML's depends on the regressors' unit.
        beta_: Coefficients of the trend, in the regressors' order. A polynomial's are those of coordinates that are
            shifted and scaled to the points' box (`trend.Regressors`).
        standard_errors_: Standard error of each parameter's logarithm, by name: 0.1 is about 10 %. NaN at a bound.
        notes_: Remarks on the fit, also given as warnings.
        intervals_: Lower end, fitted value and upper end of each parameter, by name: two standard errors either way.
        n_iter_: Steps taken.
        n_values_: Number of values.
        residual_: Root mean square residual of the last prediction's weights on sampled exact rows, in the values'
            unit. Predicted means are those of values changed by this much: the mean at x errs by at most `residual_`
            times the sum of the absolute weights with which the values enter it. Predictions iterate until the residual
            is a hundredth of the noise's standard deviation, or 1e-5 of the values'.
        leave_one_out_error_: Relative error of the standard deviations that `leave_one_out` gave last.
        std_error_: Relative standard error of the last standard deviations that `predict` gave, a root mean square over
            the new points. It includes the chance of 32 random fields, and the errors that solves at 16 of the points
            and exact rows show. By the eighth moment of a mean of 32 squares, the root mean square of the relative
            errors is more than four times that of chance with a probability below 1 %, however the points depend on
            each other.
    """

    def __init__(
        self,
        kernel: Kernel,
        *,
        nugget: float | str = "fit",
        trend: Trend = "constant",
        tolerance: float = 1e-6,
        optimizer: str | None = "scoring",
        method: str = "ml",
        bounds: Mapping[str, tuple[float, float]] | None = None,
        fixed: Sequence[str] = (),
        smoothness: bool = False,
        restarts: int = 0,
        max_iterations: int = 30,
        random_state: int = 0,
        communicator: Communicator | None = None,
    ) -> None:
        self.kernel = kernel
        self.nugget = nugget
        self.trend = trend
        self.tolerance = tolerance
        self.optimizer = optimizer
        self.method = method
        self.bounds = bounds
        self.fixed = fixed
        self.smoothness = smoothness
        self.restarts = restarts
        self.max_iterations = max_iterations
        self.random_state = random_state
        self.communicator = communicator

    @property
    def _group(self) -> Communicator | None:
        """The processes, or None if there is only one."""
        if self.communicator is None:
            return None
        require_communicator(self.communicator)
        return None if self.communicator.size == 1 else self.communicator

    def __repr__(self) -> str:
        fitted = (
            f", fitted: {self.kernel_}, nugget {self.nugget_:.4g}" if self.__sklearn_is_fitted__() else ""
        )
        return f"GaussianProcess({self.kernel}, nugget={self.nugget!r}, trend={self.trend!r}{fitted})"

    def fit(self, X: Any, y: Any, *, noise: Any = None) -> "GaussianProcess":
        """Fit kernel, nugget and trend to values.

        Args:
            X: Points, shape (n, d): an array, a tensor or a DataFrame.
            y: Values, shape (n,).
            noise: Relative variances of the noise, shape (n,), by which the nugget is multiplied: known variances with
                `nugget=1.0`, known up to a factor with "fit". All 1 if left out.

        Raises:
            ConfigError: If data or arguments are not usable.
            ConvergenceError: If the covariance is not positive definite to working accuracy: duplicates need a nugget.
        """
        require_count(self.max_iterations, "max_iterations")
        if not isinstance(self.restarts, int | np.integer) or self.restarts < 0:
            raise ValueError(f"restarts must be a whole number of at least 0, not {self.restarts!r}")
        likelihood = self.likelihood(X, y, noise=noise)
        points = likelihood.points
        self._columns = columns_of(X)
        regressors = Regressors.of(self.trend, points, self._group)
        self.notes_: tuple[str, ...] = ()
        self.standard_errors_: dict[str, float] = {}
        self.n_iter_ = 0
        if likelihood.names and self.optimizer is not None:
            given = self.bounds or {}
            lower, upper = on_first(likelihood, lambda whole: np.stack(bounds_of(whole, given)))
            self._bounds = lower, upper
            found = greatest(
                likelihood, *self._bounds, optimizer=self.optimizer, restarts=self.restarts,
                max_iterations=self.max_iterations, seed=self.random_state,
            )  # fmt: skip
            evaluation = likelihood.whole(found.evaluation)
            errors = found.standard_errors(*self._bounds)
            self.standard_errors_ = dict(zip(likelihood.names, errors.tolist(), strict=True))
            self.notes_, self.n_iter_ = found.notes, found.iterations
            for note in found.notes:
                warnings.warn(note, FitWarning, stacklevel=2)
            # Likelihoods that are compared have to be evaluated at the same tolerance.
            likelihood = replace(likelihood, tolerance=evaluation.tolerance)
        else:
            # Predictions need no determinant: `log_likelihood_` is evaluated accurately on request.
            alone = self._group is None
            evaluation = (likelihood.for_predictions if alone else likelihood.at)(likelihood.start)
        self._model = likelihood
        self.n_values_ = likelihood.n_values
        with np.errstate(over="ignore"):  # upper ends may be infinite
            self.intervals_ = {
                name: tuple(np.exp(theta + np.array([-2.0, 0.0, 2.0]) * self.standard_errors_[name]).tolist())
                for name, theta in zip(likelihood.names, evaluation.theta, strict=True)
                if math.isfinite(self.standard_errors_.get(name, math.nan))
            }
        self._adopt(evaluation, regressors)
        return self

    def likelihood(self, X: Any, y: Any, *, noise: Any = None) -> Likelihood:
        """Return the likelihood that `fit` would maximize, as a function of the logarithms of the parameters."""
        settings = Settings(
            self.kernel, self.nugget, self.trend, self.tolerance, self.optimizer, self.method, self.fixed,
            self.smoothness, self.random_state, self._group,
        )  # fmt: skip
        return settings.likelihood(X, y, noise)

    def _adopt(self, evaluation: LikelihoodEvaluation, regressors: Regressors) -> None:
        model = self._model
        fitted = evaluation.kernel
        self.kernel_, self.nugget_ = (
            fitted.kernel if isinstance(fitted, Anchored) else fitted,
            evaluation.nugget,
        )
        self._judged = (evaluation.value, evaluation.error)
        self._judged_again = self.optimizer is not None and bool(model.names)
        self.beta_ = evaluation.beta
        self.n_features_in_ = model.points.shape[1]
        kind = Conditional if self._group is None else DividedConditional
        self._conditional = kind(
            model.points, model.values, self.nugget_ * model.noise, regressors, evaluation, self.random_state
        )

    def predict(
        self,
        X: Any,
        return_std: bool = False,
        *,
        include_noise: bool = False,
        noise: Any = None,
        exact: bool | None = None,
    ) -> Any:
        """Return the mean at new points, shape (q,), and with `return_std` the standard deviation, shape (q,).

        Args:
            X: Points, shape (q, d).
            return_std: Whether to return standard deviations of the field too; `std_error_` then has their error.
            include_noise: Whether to add the nugget to the variances, which are then those of observations.
            noise: Relative variances of the noise of these observations, shape (q,), by which the nugget is multiplied
                as in `fit`. All 1 if left out.
            exact: Whether each standard deviation takes a solve; by default up to 256 points (`Conditional.predict`).
        """
        points = self._new_points(X)
        with all_or_none(self._group):
            relative = noise_of(noise, len(points))
        mean, variance, error = self._conditional.predict(points, exact=exact, variances=return_std)
        self.residual_ = self._conditional.residual
        if not return_std:
            return as_tensor_like(mean, X)
        self.std_error_ = error
        std = np.sqrt(variance + self.nugget_ * relative * include_noise)
        return as_tensor_like(mean, X), as_tensor_like(std, X)

    def sample_y(self, X: Any, n_samples: int = 1, random_state: int | np.random.Generator = 0) -> Any:
        """Return random fields given the values, shape (q, n_samples), noise not included; see `Conditional.sample`."""
        generator = (
            stream(Purpose.SAMPLES, int(random_state))
            if isinstance(random_state, int | np.integer)
            else np.random.default_rng(random_state)
        )
        return as_tensor_like(self._conditional.sample(self._new_points(X), n_samples, generator), X)

    def score(self, X: Any, y: Any) -> float:
        """Return R², 1 - sum (y - mean)² / sum (y - average of y)², as scikit-learn's regressors do."""
        group = self._group
        with all_or_none(group):
            values = values_of(y, len(X))
        mean = as_array(self.predict(X))
        n, first = total(group, np.array([len(values), values.sum()]))
        left, spread = total(
            group, np.array([((values - mean) ** 2).sum(), ((values - first / n) ** 2).sum()])
        )
        if spread == 0:  # as in scikit-learn: there is no variation to explain
            return float(left == 0)
        return float(1 - left / spread)

    def scores(self, X: Any, y: Any, *, noise: Any = None) -> dict[str, float]:
        """Return RMSE, MAE, CRPS, log score and coverages of predictions of observations; see `scores.scores`.

        Args:
            X: Points, shape (q, d).
            y: Observations, shape (q,).
            noise: Relative variances of the observations' noise, as `predict` takes them.
        """
        group = self._group
        with all_or_none(group):
            values = values_of(y, len(X))
        mean, std = (
            as_array(part) for part in self.predict(X, return_std=True, include_noise=True, noise=noise)
        )
        return scores(*(all_rows(group, part) for part in (values, mean, std)))

    def leave_one_out(self) -> tuple[Array, Array]:
        """Return mean and standard deviation of each value's prediction from all others, noise included, both (n,).

        `leave_one_out_error_` is then the relative error of the standard deviations. Up to 1,024 values cost a solve
        each, and the error is that of residuals; for more values, near values and 32 random fields give an estimate.
        The difference of a value from its mean errs by twice as much, and by `residual_` (of `predict`) times the ratio
        of the variance to that of the noise (`left_out.py`).
        """
        self._require_fitted()
        mean, std, self.leave_one_out_error_ = replace(
            self._conditional, fitted=self._accurate()
        ).leave_one_out()
        return mean, std

    def _accurate(self) -> LikelihoodEvaluation:
        """Return the likelihood at the parameters in use, evaluated more tightly if predictions needed less."""
        found: LikelihoodEvaluation = self._conditional.fitted
        if self._group is not None or found.error <= self._model.allowed_error:
            return found
        return self._model.at(found.theta, found=found)

    @property
    def log_likelihood_(self) -> float:
        """The log-likelihood at the parameters in use, in nats; evaluated again if it is not accurate yet."""
        return self._value_and_error()[0]

    @property
    def log_likelihood_error_(self) -> float:
        """The estimated error of `log_likelihood_`, in nats."""
        return self._value_and_error()[1]

    def _value_and_error(self) -> tuple[float, float]:
        self._require_fitted()
        if self._judged[1] > self._model.allowed_error and self._group is None and not self._judged_again:
            found = self._accurate()
            self._judged, self._judged_again = (found.value, found.error), True
        return self._judged

    def log_likelihood(self, theta: Any = None, *, gradient: bool = False) -> Any:
        """Return the log-likelihood at logarithms of the parameters, and with `gradient` its gradient there.

        Args:
            theta: Shape (parameters,), in the order of `parameter_names_`; as fitted if left out.
            gradient: Whether to return value and gradient.
        """
        self._require_fitted()
        if theta is not None and np.shape(theta) != (len(self.parameter_names_),):
            raise ValueError(
                f"theta needs {len(self.parameter_names_)} logarithms ({', '.join(self.parameter_names_)}), not an "
                f"array of shape {np.shape(theta)}"
            )
        at = self._accurate() if theta is None else self._model.at(np.asarray(theta, dtype=np.float64))
        return (at.value, self._model.derivatives(at).gradient) if gradient else at.value

    @property
    def theta_(self) -> Array:
        """The logarithms of the fitted parameters, in the order of `parameter_names_`."""
        self._require_fitted()
        return self._conditional.fitted.theta

    @property
    def parameter_names_(self) -> tuple[str, ...]:
        """The names of the parameters that the fit changed."""
        self._require_fitted()
        return self._model.names

    def profile(self, name: str, values: Sequence[float]) -> Array:
        """Return the greatest log-likelihood for each given value of a parameter, with the others fitted again.

        Values where it is more than 1.92 nats below `log_likelihood_` lie outside the 95 % confidence interval, if
        `log_likelihood_error_` is smaller than that; from 440,000 values on, it may be as large.

        Raises:
            ConfigError: If the parameter was not fitted.
        """
        self._require_fitted()
        if name not in self._model.names:
            raise ConfigError(
                f"profile: {name!r} was not fitted; {', '.join(self._model.names) or 'nothing'} was"
            )
        i, (lower, upper) = self._model.names.index(name), self._bounds
        found = np.empty(len(values))
        for number, value in enumerate(values):
            low, high, theta = lower.copy(), upper.copy(), self.theta_.copy()
            low[i] = high[i] = theta[i] = math.log(positive(value, f"profile of {name}"))
            best = by_scoring(self._model, theta, low, high, max_iterations=self.max_iterations)
            found[number] = best.evaluation.value
        return found

    def _new_points(self, X: Any) -> Array:
        with all_or_none(self._group):
            self._require_fitted()
            points = points_of(X)
            if points.shape[1] != self.n_features_in_:
                raise ValueError(
                    f"X has {points.shape[1]} coordinates, and the fit had {self.n_features_in_}"
                )
            columns = columns_of(X)
            if None not in (columns, self._columns) and columns != self._columns:
                raise ValueError(
                    f"X has the columns {', '.join(columns or ())}, and the fit had {', '.join(self._columns or ())}"
                )
        return points

    def _require_fitted(self) -> None:
        if not self.__sklearn_is_fitted__():
            raise NotFittedError("this GaussianProcess is not fitted; call fit(X, y) first")
