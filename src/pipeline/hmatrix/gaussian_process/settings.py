"""The arguments of a fit, checked and joined with data into a likelihood.

All mistakes that a caller can make in arguments or data are found here, before anything is computed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.hmatrix.gaussian_process.anchored import Anchored, conditional_degree, is_covariance
from pipeline.hmatrix.gaussian_process.divided import all_or_none, from_first, rows_on_first
from pipeline.hmatrix.gaussian_process.likelihood import Likelihood, on_first
from pipeline.hmatrix.gaussian_process.maximize import OPTIMIZERS
from pipeline.hmatrix.gaussian_process.parameters import NUGGET, free_parameters
from pipeline.hmatrix.gaussian_process.start import residual_variance, typical_noise
from pipeline.hmatrix.gaussian_process.trend import (
    Regressors,
    Trend,
    require_independent,
    require_polynomials,
)
from pipeline.hmatrix.inputs import as_array, as_points, require_kernel, require_tolerance
from pipeline.hmatrix.kernels import Kernel
from pipeline.runtime.communicator import Communicator

Array = NDArray[np.float64]

_LARGEST = 1e140  # largest value, since squares are summed


@dataclass(frozen=True, eq=False)
class Settings:
    """The arguments of `GaussianProcess` that a likelihood depends on, with the same meaning.

    Attributes:
        communicator: The processes; None if there is only one.
    """

    kernel: Kernel
    nugget: float | str
    trend: Trend
    tolerance: float
    optimizer: str | None
    method: str
    fixed: Sequence[str]
    smoothness: bool
    random_state: int
    communicator: Communicator | None

    def likelihood(self, X: Any, y: Any, noise: Any) -> Likelihood:
        """Return the likelihood of values `y` at points `X`; collective.

        Raises:
            ConfigError: If data or arguments are not usable.
        """
        group = self.communicator
        with all_or_none(group):
            points, values = points_of(X), values_of(y, len(X))
            variances = noise_of(noise, len(points))
            self._require()
        regressors = Regressors.of(self.trend, points, group)
        with all_or_none(group):
            basis = regressors(points)
            degree = conditional_degree(self.kernel)
            if degree >= 0:
                require_polynomials(self.trend, degree, points, basis)
        require_independent(basis, group)
        return self._likelihood(points, values, basis, variances)

    def _require(self) -> None:
        require_kernel(self.kernel)
        require_tolerance(self.tolerance)
        if self.optimizer is not None and self.optimizer not in OPTIMIZERS:
            raise ConfigError(
                f"optimizer: {self.optimizer!r} is unknown; give one of {', '.join(OPTIMIZERS)}, or None"
            )
        if self.method not in ("ml", "reml"):
            raise ConfigError(f"method: {self.method!r} is unknown; give 'ml' or 'reml'")
        degree = conditional_degree(self.kernel)
        if degree >= 0 and self.method != "reml":
            raise ConfigError(
                f"method: {type(self.kernel).__name__} is positive definite only with a trend, whose coefficients the "
                "likelihood must not count; give method='reml'"
            )
        if not is_covariance(self.kernel):
            raise ConfigError(
                f"kernel: {type(self.kernel).__name__} is no covariance; give a symmetric positive definite one, such "
                "as Matern, or Custom(function, symmetric=True, positive_definite=True)"
            )
        number = isinstance(self.nugget, int | float | np.number) and not isinstance(self.nugget, bool)
        if self.nugget != "fit" and not (number and 0 <= float(self.nugget) < math.inf):
            raise ConfigError(f"nugget must be a number of at least 0 or 'fit', not {self.nugget!r}")
        if self.nugget == "fit" and NUGGET in self.fixed:
            raise ConfigError(
                "nugget: a fixed nugget is a number; leave it out of `fixed`, or give its value"
            )
        if self.nugget == "fit" and self.optimizer is None:
            raise ConfigError("nugget: 'fit' needs an optimizer; give a number, or optimizer='scoring'")

    def _likelihood(self, points: Array, values: Array, basis: Array, noise: Array) -> Likelihood:
        varies = self.nugget == "fit"
        degree = conditional_degree(self.kernel)
        kernel = self._anchored(points) if degree >= 0 else self.kernel
        free = (
            () if self.optimizer is None
            else free_parameters(kernel, fixed=self.fixed, smoothness=self.smoothness)
        )  # fmt: skip
        likelihood = Likelihood(
            points, values, basis, noise, kernel, free,
            nugget=1.0 if varies else float(self.nugget), nugget_varies=varies, tolerance=self.tolerance,
            restricted=self.method == "reml", seed=self.random_state, communicator=self.communicator,
        )  # fmt: skip
        if not varies:
            return likelihood
        nugget = on_first(
            likelihood, lambda whole: np.array([0.1 * residual_variance(whole) / typical_noise(whole)])
        )
        return replace(likelihood, nugget=float(nugget[0]))

    def _anchored(self, points: Array) -> Anchored:
        group = self.communicator
        if group is None:
            return Anchored.at(self.kernel, points)
        everybodys = rows_on_first(group, points)
        nodes = from_first(group, lambda: np.array(Anchored.at(self.kernel, everybodys).nodes))
        return Anchored(self.kernel, tuple(map(tuple, nodes.tolist())), conditional_degree(self.kernel))


def points_of(X: Any) -> Array:
    """Return a copy of points as an array of shape (n, d): the caller may change theirs."""
    given = as_points(X if isinstance(X, torch.Tensor) else np.asarray(X), "X")
    return np.array(given, np.float64, order="C")


def columns_of(X: Any) -> tuple[str, ...] | None:
    """Return the names of a DataFrame's columns; None where columns have no names."""
    columns = tuple(getattr(X, "columns", ()))
    return columns if columns and all(isinstance(name, str) for name in columns) else None


def values_of(y: Any, n: int) -> Array:
    """Return a copy of n finite values, shape (n,).

    Raises:
        ValueError: If `y` is not n real numbers.
        ConfigError: If a value is NaN, infinite or too large to be squared.
    """
    values = as_array(y)
    if values.dtype.kind not in "biuf" or values.shape not in ((n,), (n, 1)):
        raise ValueError(f"y needs {n} real numbers, not {values.dtype} of shape {values.shape}")
    if not np.isfinite(values).all():
        raise ConfigError(
            f"y: value {int(np.flatnonzero(~np.isfinite(values.ravel()))[0])} is NaN or infinite"
        )
    if np.abs(values.astype(np.float64)).max(initial=0.0) > _LARGEST:
        raise ConfigError(
            f"y: the squares of values above {_LARGEST:.0e} would overflow; give y another unit"
        )
    return np.array(values.reshape(n), np.float64)


def noise_of(noise: Any, n: int) -> Array:
    """Return relative variances of the noise of n values: as given, or all 1."""
    if noise is None:
        return np.ones(n)
    values = as_array(noise)
    if values.shape != (n,) or values.dtype.kind not in "iuf":
        raise ValueError(f"noise needs {n} real numbers, not {values.dtype} of shape {values.shape}")
    if not (np.isfinite(values).all() and values.min(initial=0.0) >= 0 and values.max(initial=0.0) > 0):
        raise ConfigError("noise: relative variances must be finite and at least 0, and not all 0")
    return np.array(values, np.float64)
