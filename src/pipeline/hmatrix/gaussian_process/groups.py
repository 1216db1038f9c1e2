"""A Matérn covariance fitted by the likelihood of independent groups of neighbors: quick, and dense throughout."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from pipeline.hmatrix.kernels import Matern
from pipeline.hmatrix.vectors import arrays_as_tensors


@arrays_as_tensors
def median_distance(points: Tensor, generator: torch.Generator, *, sample: int = 1000) -> float:
    """Return the median distance between points of a random sample: the usual first guess of a length scale."""
    chosen = points[torch.randperm(len(points), generator=generator)[:sample].to(points.device)]
    # In double precision, so that points far from the origin keep their distances.
    return float(torch.nn.functional.pdist(chosen.double()).median())


@dataclass(frozen=True)
class MaternFit:
    """Hyper-parameters of greatest likelihood.

    Attributes:
        kernel: The kernel with the length scale and the variance that were found.
        nugget: Variance of the independent part of each observation, to be added to the diagonal.
        log_likelihood: Log-likelihood of the groups at these parameters.
    """

    kernel: Matern
    nugget: float
    log_likelihood: float


@arrays_as_tensors
def fit_matern(
    points: Tensor,
    values: Tensor,
    *,
    generator: torch.Generator,
    nu: float = 0.5,
    subsample: int = 2000,
    group: int = 100,
    smallest_nugget: float = 1e-3,
) -> MaternFit:
    """Find length scale, variance and nugget of a Matérn covariance of order nu by maximum likelihood.

    The likelihood is that of `subsample / group` groups of neighbors, taken as independent [1]: dense,
    batched, and with pairs at short distances, that a random subsample of the same size would lack. The
    variance has a closed form for given length scale and nugget-to-variance ratio; these two are sought by
    Nelder and Mead on their logarithms.

    Args:
        points: Shape (n, d).
        values: Observations with their mean subtracted, shape (n,).
        generator: Chooses the centers of the groups.
        nu: Smoothness, fixed.
        subsample: Largest number of points in all groups together; groups may overlap.
        group: Number of neighbors in a group.
        smallest_nugget: Lower bound of the ratio of nugget to variance: it bounds the condition number.

    Raises:
        ValueError: If there are fewer than two points, or the values are all 0.

    References:
        [1] Stein, Chi, Welty, "Approximating likelihoods for large spatial data sets", JRSS B 2004.
    """
    if len(points) < 2 or not torch.any(values != 0):
        raise ValueError("a covariance can be fitted to two points or more with values that are not all 0")
    # In double precision, relative to one of them: points far from the origin keep their distances.
    points, values = points.double() - points[:1].double(), values.double()
    group = min(group, len(points))
    n_groups = max(1, min(subsample, len(points)) // group)
    centers = points[torch.randperm(len(points), generator=generator)[:n_groups].to(points.device)]
    members = torch.cdist(centers, points).topk(group, largest=False).indices
    sets, observed = points[members], values[members]
    identity = torch.eye(group, dtype=points.dtype, device=points.device)

    def profile(logarithms: np.ndarray) -> tuple[float, float, float, float]:
        """Return minus the log-likelihood, and length scale, ratio and variance."""
        length_scale, ratio = (float(value) for value in np.exp(logarithms))
        ratio = max(ratio, smallest_nugget)
        correlation = Matern(length_scale=length_scale, nu=nu)(sets, sets) + ratio * identity
        factor = torch.linalg.cholesky(correlation)
        whitened = torch.linalg.solve_triangular(factor, observed[..., None], upper=False)
        n = observed.numel()
        variance = float(whitened.square().sum()) / n
        logdet = 2 * float(factor.diagonal(dim1=1, dim2=2).log().sum())
        return 0.5 * (n * math.log(2 * math.pi * variance) + logdet + n), length_scale, ratio, variance

    # The median radius of a group is a length that the values determine well.
    typical = float((sets - centers[:, None]).norm(dim=-1).median()) or 1.0
    start = np.log([typical, 0.05])
    found = minimize(
        lambda logarithms: profile(logarithms)[0],
        start,
        method="Nelder-Mead",
        options={
            "initial_simplex": start + np.array([[0, 0], [0.5, 0], [0, 0.5]]),
            "xatol": 0.02,
            "fatol": 0.1,
        },
    )
    negative, length_scale, ratio, variance = profile(found.x)
    return MaternFit(Matern(length_scale, variance, nu), ratio * variance, -negative)
