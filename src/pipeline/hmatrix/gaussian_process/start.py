"""The starts of a fit, and the default bounds of its search.

The likelihood of groups of neighbors, taken as independent [1], is dense and quick, and contains short distances, which
a random subsample of the same size would lack. From its maximum few steps on all data remain.

References:
    [1] Stein, Chi, Welty, "Approximating likelihoods for large spatial data sets", JRSS B 2004.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.spatial import cKDTree

from pipeline.errors import ConfigError
from pipeline.hmatrix.gaussian_process.anchored import Anchored, is_stationary
from pipeline.hmatrix.gaussian_process.likelihood import Likelihood
from pipeline.hmatrix.gaussian_process.parameters import NUGGET

logger = logging.getLogger("pipeline.hmatrix")

Array = NDArray[np.float64]

_GROUP, _GROUPS = 100, 40
_SPREAD = 1e4  # largest ratio of a variance to that of the values, either way
_SMALLEST_NUGGET = 1e-6  # share of the variance of the values; it bounds the condition number
_NEAREST, _FARTHEST = 0.1, 10.0  # bounds of length scales / distance of neighbors and extent
_SAME = 0.3  # maxima whose logarithms are nearer count as one


def bounds_of(likelihood: Likelihood, given: Mapping[str, tuple[float, float]]) -> tuple[Array, Array]:
    """Return lower and upper bounds of the logarithms of a likelihood's parameters.

    By default length scales lie between a tenth of the median distance of neighbors and ten times the extent of the
    points: those of a coordinate in its own unit. Variances lie within a factor of 10^4 of the variance of the values
    about their trend, and the nugget between 10^-6 and ten times that, divided by the median of the relative noise.
    The variance of a term within a product lies within that factor of its start.

    Args:
        likelihood: The likelihood to maximize.
        given: Bounds by name of the parameter or its field.

    Raises:
        ConfigError: If a name is unknown, or its bounds are not two positive numbers in order.
    """
    known = {NUGGET, *(name for p in likelihood.parameters for name in p.names)}
    for name, pair in given.items():
        if name not in known:
            raise ConfigError(
                f"bounds: there is no parameter {name!r}; give one of {', '.join(likelihood.names)}"
            )
        if not _is_interval(pair):
            raise ConfigError(f"bounds.{name} must be two positive numbers in order, not {pair!r}")
    variance = residual_variance(likelihood)
    unit = _unit(likelihood)
    lower, upper = np.empty(len(likelihood.names)), np.empty(len(likelihood.names))
    for i in range(len(likelihood.names)):
        parameter = likelihood.parameters[i] if i < len(likelihood.parameters) else None
        kind = NUGGET if parameter is None else parameter.field
        if kind == "length_scale":
            near, extent = _distances(likelihood.points, _axis(likelihood, i))
            pair = (_NEAREST * near, _FARTHEST * extent)
        elif parameter is not None and parameter.is_relative:
            own = math.exp(likelihood.start[i])
            pair = (own / _SPREAD, own * _SPREAD)
        elif kind in ("variance", "factor"):
            pair = (variance / unit / _SPREAD, variance / unit * _SPREAD)
        elif kind == NUGGET:
            of_nugget = variance / typical_noise(likelihood)
            pair = (_SMALLEST_NUGGET * of_nugget, 10 * of_nugget)
        else:
            pair = (0.05, 50.0)
        for key in reversed(parameter.names) if parameter else (NUGGET,):
            pair = given.get(key, pair)
        lower[i], upper[i] = np.log(pair)
    return lower, upper


def _is_interval(pair: object) -> bool:
    """Return whether `pair` is two positive numbers in order."""
    if not isinstance(pair, tuple | list | np.ndarray) or len(pair) != 2:
        return False
    numbers = all(isinstance(end, int | float | np.number) and not isinstance(end, bool) for end in pair)
    return numbers and bool(0 < pair[0] <= pair[1] < math.inf)


def _axis(likelihood: Likelihood, i: int) -> int | None:
    """Return the coordinate that a length scale belongs to; None if it belongs to all."""
    path = likelihood.parameters[i].path
    return path[-1] if isinstance(path[-1], int) else None


def _distances(points: Array, axis: int | None) -> tuple[float, float]:
    """Return the median distance of neighbors and the extent of points.

    For one coordinate, whose unit may differ from that of the others, points are scaled into a cube, and both numbers
    are multiplied by the coordinate's extent.
    """
    extents = np.ptp(points, axis=0)
    unit = 1.0
    if axis is not None:
        unit = float(extents[axis]) or 1.0
        points, extents = points / np.where(extents > 0, extents, 1.0), (extents > 0).astype(np.float64)
    sample = points[np.linspace(0, len(points) - 1, min(len(points), 1000)).astype(int)]
    nearest = cKDTree(points).query(sample, k=2)[0][:, 1] if len(points) > 1 else np.ones(1)
    near = float(np.median(nearest[nearest > 0])) if (nearest > 0).any() else 1.0
    return unit * near, unit * (float(np.linalg.norm(extents)) or 1.0)


def residual_variance(likelihood: Likelihood) -> float:
    """Return the variance of the values about their trend, fitted by ordinary least squares.

    Raises:
        ConfigError: If the trend explains the values up to rounding.
    """
    residual = ordinary_residual(likelihood)
    variance = float(np.mean(residual**2))
    if not variance > 1e-24 * max(float(np.mean(likelihood.values**2)), 1e-300):
        raise ConfigError(
            "y: the trend explains the values up to rounding (they may be constant, or equal a regressor), so there is "
            "no covariance to fit"
        )
    return variance


def typical_noise(likelihood: Likelihood) -> float:
    """Return the median of the relative noise variances that are not zero."""
    return float(np.median(likelihood.noise[likelihood.noise > 0]))


def _unit(likelihood: Likelihood) -> float:
    """Return the field's mean variance where the kernel's `variance` is 1: 1 unless the kernel is anchored."""
    kernel = likelihood.kernel
    variance = getattr(kernel.kernel, "variance", None) if isinstance(kernel, Anchored) else None
    if variance is None:
        return 1.0
    sample = likelihood.points[:: max(1, len(likelihood.points) // 1000)]
    return float(kernel.diagonal(sample).mean()) / float(variance)


def ordinary_residual(likelihood: Likelihood) -> Array:
    """Return the values less their trend by ordinary least squares."""
    if not likelihood.basis.shape[1]:
        return likelihood.values
    beta = np.linalg.lstsq(likelihood.basis, likelihood.values, rcond=None)[0]
    return np.asarray(likelihood.values - likelihood.basis @ beta)


@dataclass(frozen=True, eq=False)
class Groups:
    """Groups of neighbors, taken as independent.

    Attributes:
        likelihood: The model.
        points: Shape (groups, m, d).
        values: Shape (groups, m), less a trend by ordinary least squares.
        noise: Shape (groups, m).
    """

    likelihood: Likelihood
    points: torch.Tensor
    values: torch.Tensor
    noise: torch.Tensor

    @classmethod
    def of(cls, likelihood: Likelihood, generator: np.random.Generator) -> "Groups":
        """Draw centers, and take the neighbors of each."""
        n = len(likelihood.points)
        size, count = min(_GROUP, n), max(1, min(_GROUPS, n // _GROUP))
        # Coordinates with length scales of their own may have units of their own.
        cube = any(_axis(likelihood, i) is not None for i in range(len(likelihood.parameters)))
        extents = np.ptp(likelihood.points, axis=0) if cube else np.ones(1)
        alike = likelihood.points / np.where(extents > 0, extents, 1.0)
        centers = alike[generator.choice(n, count, replace=False)]
        members = cKDTree(alike).query(centers, k=size)[1].reshape(count, size)
        # Relative to one point, so that points far from the origin keep their distances.
        origin = likelihood.points[0] if is_stationary(likelihood.kernel) else 0.0
        points = likelihood.points - origin
        arrays = (points[members], ordinary_residual(likelihood)[members], likelihood.noise[members])
        return cls(likelihood, *map(torch.from_numpy, arrays))

    def radius(self, axis: int | None) -> float:
        """Return the median distance from a group's center, along one coordinate or in space."""
        from_center = self.points - self.points.mean(dim=1, keepdim=True)
        distance = from_center.norm(dim=-1) if axis is None else from_center[..., axis].abs()
        return float(distance.median()) or 1.0

    def negative(self, theta: Array) -> float:
        """Return minus the log-likelihood of all groups; 1e10 where a covariance is not positive definite."""
        kernel, nugget = self.likelihood.parameters_at(theta)
        covariance = kernel(self.points, self.points) + torch.diag_embed(nugget * self.noise)
        factor, failed = torch.linalg.cholesky_ex(covariance)
        if failed.any():
            return 1e10
        whitened = torch.linalg.solve_triangular(factor, self.values[..., None], upper=False)
        logdet = 2 * float(factor.diagonal(dim1=1, dim2=2).log().sum())
        return 0.5 * (float(whitened.square().sum()) + logdet + self.values.numel() * math.log(2 * math.pi))


def starts(
    likelihood: Likelihood, lower: Array, upper: Array, generator: np.random.Generator, n_random: int = 0
) -> list[Array]:
    """Return starts, best first: different maxima of the groups' likelihood.

    Args:
        likelihood: The likelihood to maximize.
        lower, upper: Bounds of the logarithms.
        generator: Draws the centers of the groups and the random starts.
        n_random: Starts drawn uniformly between the bounds, beside the given parameters and a typical guess.
    """
    logger.info("fit to %d values: looking for a start among groups of neighbors", likelihood.n_values)
    groups = Groups.of(likelihood, generator)
    typical = likelihood.start.copy()
    variance = math.log(residual_variance(likelihood))
    n_variances = sum(p.field == "variance" and not p.is_relative for p in likelihood.parameters)
    for i, name in enumerate(likelihood.names):
        kind = likelihood.parameters[i].field if i < len(likelihood.parameters) else name
        if kind == "length_scale":
            typical[i] = math.log(groups.radius(_axis(likelihood, i)))
        elif kind == "variance" and not likelihood.parameters[i].is_relative:
            typical[i] = variance - math.log(max(n_variances, 1) * _unit(likelihood))
        elif kind == NUGGET:
            typical[i] = variance + math.log(0.1 / typical_noise(likelihood))
    given = [likelihood.start, typical, *generator.uniform(lower, upper, (n_random, len(lower)))]
    found = []
    for start in given:
        result = minimize(
            groups.negative, np.clip(start, lower, upper), method="L-BFGS-B",
            bounds=list(zip(lower, upper, strict=True)), options={"maxiter": 60},
        )  # fmt: skip
        found.append((float(result.fun), np.asarray(result.x)))
    chosen: list[Array] = []
    for _, theta in sorted(found, key=lambda pair: pair[0]):
        if all(np.abs(theta - other).max(initial=0.0) > _SAME for other in chosen):
            chosen.append(theta)
    return chosen[: 1 + n_random]
