"""The mean of a Gaussian process: regressors with unknown coefficients.

Ordinary kriging has a constant, universal kriging polynomials of the coordinates or a user's regressors. The
coefficients follow by generalized least squares [1, section 3.4].

References:
    [1] Cressie, "Statistics for Spatial Data", Wiley 1993.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.hmatrix.gaussian_process.divided import all_rows, total
from pipeline.runtime.communicator import Communicator

Array = NDArray[np.float64]
Trend = str | int | Callable[[Array], Array] | None
_MADE_UP = 1e-6  # largest relative residual of polynomials in the span of a function's regressors
_DEGREES = {"constant": 0, "linear": 1, "quadratic": 2}


@dataclass(frozen=True, eq=False)
class Regressors:
    """The columns of the mean, evaluated at points.

    Attributes:
        function: A user's regressors, or None for polynomials.
        degree: Largest total degree of the monomials; -1 for none.
        center, scale: Shift and scale of the coordinates, shape (d,), which keep monomials of the order of 1.
    """

    function: Callable[[Array], Array] | None
    degree: int
    center: Array
    scale: Array

    @classmethod
    def of(cls, trend: Trend, points: Array, communicator: Communicator | None = None) -> "Regressors":
        """Return the regressors that a trend stands for: its name, the degree of polynomials, a function, or None.

        Points may be divided among the processes of a communicator.

        Raises:
            ConfigError: If there is no such trend.
        """
        center, scale = _center_and_scale(points, communicator)
        if callable(trend):
            return cls(trend, -1, center, scale)
        if trend is None or trend == "none":
            return cls(None, -1, center, scale)
        degree = _DEGREES.get(trend, -1) if isinstance(trend, str) else trend
        if isinstance(degree, bool) or not isinstance(degree, int | np.integer) or degree < 0:
            raise ConfigError(
                f"trend: {trend!r} is unknown; give one of {', '.join(_DEGREES)}, none, the degree of a polynomial, or "
                "a function of the points that returns one column for each regressor"
            )
        return cls(None, int(degree), center, scale)

    def __call__(self, points: Array) -> Array:
        """Return the regressors at points of shape (q, d), shape (q, p).

        Raises:
            ConfigError: If a user's function returns another shape, or values that are not finite.
        """
        if self.function is not None:
            columns = np.asarray(self.function(points), dtype=np.float64)
            columns = columns[:, None] if columns.ndim == 1 else columns
            if columns.ndim != 2 or len(columns) != len(points) or not np.isfinite(columns).all():
                raise ConfigError(
                    f"trend: the function must return finite numbers of shape ({len(points)}, p), and gave shape "
                    f"{columns.shape}"
                )
            return columns
        scaled = (points - self.center) / self.scale
        chosen = [
            powers
            for total in range(self.degree + 1)
            for powers in itertools.combinations_with_replacement(range(points.shape[1]), total)
        ]
        columns = np.ones((len(points), len(chosen)))
        for number, powers in enumerate(chosen):
            for axis in powers:
                columns[:, number] *= scaled[:, axis]
        return columns


def _center_and_scale(points: Array, communicator: Communicator | None) -> tuple[Array, Array]:
    """Return the mean of the points of all processes and half their extent, 1 where that is 0."""
    ends = (
        np.stack([points.min(axis=0), -points.max(axis=0)]) if len(points) else np.zeros((0, points.shape[1]))
    )
    n = total(communicator, np.array([len(points)]))[0]
    center = total(communicator, points.sum(axis=0)) / max(n, 1)
    ends = all_rows(communicator, ends)
    if not len(ends):
        return np.ones(points.shape[1]), np.ones(points.shape[1])
    scale = (-ends[1::2].min(axis=0) - ends[::2].min(axis=0)) / 2
    return center, np.where(scale > 0, scale, 1.0)


def require_polynomials(trend: Trend, degree: int, points: Array, basis: Array) -> None:
    """Raise ConfigError unless a trend has the polynomials up to a degree.

    Args:
        trend: The trend as it was given.
        degree: The degree of the polynomials.
        points: Shape (n, d).
        basis: The trend's regressors there, shape (n, p); a function's regressors must span the polynomials.
    """
    names = [name for name, of in _DEGREES.items() if of >= degree]
    advice = f"the kernel is positive definite only with polynomials of degree {degree}; give one of "
    if not callable(trend):
        given = _DEGREES.get(trend, -1) if isinstance(trend, str) else trend
        if given is None or given < degree:
            raise ConfigError(f"trend: {advice}{', '.join(names)}, not {trend!r}")
        return
    wanted = Regressors.of(degree, points)(points)
    coefficients = np.linalg.lstsq(basis, wanted, rcond=None)[0]
    if np.linalg.norm(wanted - basis @ coefficients) > _MADE_UP * np.linalg.norm(wanted):
        raise ConfigError(
            f"trend: {advice}{', '.join(names)}, or let the function return these columns as well"
        )


def require_independent(columns: Array, communicator: Communicator | None = None) -> None:
    """Raise ConfigError unless there are fewer regressors than values, and none is a combination of the others."""
    p = columns.shape[1]
    n = int(total(communicator, np.array([len(columns)]))[0])
    if communicator is not None:
        # R of each process's rows = Q R has the lengths and the rank of its columns.
        columns = all_rows(communicator, np.asarray(np.linalg.qr(columns, mode="r")) if p else columns[:0])
    if p >= n:
        raise ConfigError(
            f"trend: {p} regressors explain {n} values exactly, so nothing is left to fit; use fewer"
        )
    size = np.linalg.norm(columns, axis=0)
    if p and (size.min() == 0 or np.linalg.matrix_rank(columns / size, tol=1e-9 * np.sqrt(p)) < p):
        raise ConfigError(
            f"trend: the {p} regressors are linearly dependent at these points; leave some out, or use trend='constant'"
        )
