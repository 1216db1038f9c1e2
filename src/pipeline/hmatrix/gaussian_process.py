"""Gaussian processes and kernel ridge regression on a compressed covariance matrix.

Plain functions over `A`, anything with `A @ x` (x of shape (n,) or (n, m)), and `F`, a factorization of A
or of something near it, with `F.solve(b)` and `F.logdet()`. A loose F costs iterations of conjugate
gradients, never accuracy of what A solves; only the log-determinant is as accurate as F. Tensors in, tensors out;
NumPy arrays in, NumPy arrays out.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from pipeline.hmatrix.kernels import Kernel, Matern
from pipeline.hmatrix.krylov import conjugate_gradient
from pipeline.hmatrix.vectors import arrays_as_tensors

_BLOCK_ENTRIES = 2**22  # of a cross-covariance at a time: 32 MB in double precision


class Operator(Protocol):
    """A symmetric positive definite matrix known by its products."""

    def __matmul__(self, x: Tensor, /) -> Tensor:
        """Return A x for x of shape (n,) or (n, m)."""


class Factorization(Protocol):
    """What solves with A, exactly or nearly so."""

    def solve(self, b: Tensor, /) -> Tensor:
        """Return A^-1 b for b of shape (n,) or (n, m)."""

    def logdet(self) -> float | Tensor:
        """Return log det A."""


@arrays_as_tensors
def kriging_weights(
    values: Tensor, A: Operator, F: Factorization, *, tolerance: float = 1e-8, max_iterations: int = 200
) -> Tensor:
    """Return A^-1 values: the weights by which observations enter every prediction.

    Args:
        values: Observations with their mean taken off, shape (n,), or (n, m) for m fields at once.
        A: Covariance of the observations, nugget included.
        F: Factorization of A that preconditions.
        tolerance: Relative residual, 2-norm.
        max_iterations: Of conjugate gradients.

    Raises:
        ConvergenceError: If A is not positive definite or F too loose.
    """
    weights, _ = conjugate_gradient(
        A.__matmul__, values, preconditioner=F.solve, tolerance=tolerance, max_iterations=max_iterations
    )
    return weights


@arrays_as_tensors
def log_likelihood(values: Tensor, A: Operator, F: Factorization, *, tolerance: float = 1e-8) -> float:
    """Return the Gaussian log-likelihood -(v' A^-1 v + log det A + n log 2 pi)/2 of observations v of mean zero."""
    weights = kriging_weights(values, A, F, tolerance=tolerance)
    return -0.5 * (float(values @ weights) + float(F.logdet()) + len(values) * math.log(2 * math.pi))


@arrays_as_tensors
def predict(kernel: Kernel, points: Tensor, weights: Tensor, new_points: Tensor) -> Tensor:
    """Return the conditional mean k(new_points, points) weights, shape (q,) or (q, m), block by block.

    Costs O(q n) time and bounded memory: the cross-covariance is never whole.
    """
    rows = max(1, _BLOCK_ENTRIES // max(1, len(points)))
    dtype = torch.promote_types(points.dtype, weights.dtype)
    weights = weights.to(dtype)
    parts: list[Tensor] = [kernel(part, points).to(dtype) @ weights for part in torch.split(new_points, rows)]
    return torch.cat(parts) if parts else weights.new_zeros(0, *weights.shape[1:])


@arrays_as_tensors
def predictive_variance(
    kernel: Kernel,
    points: Tensor,
    A: Operator,
    F: Factorization,
    new_points: Tensor,
    *,
    tolerance: float = 1e-6,
    max_iterations: int = 200,
) -> Tensor:
    """Return the conditional variance k(x, x) - c' A^-1 c of the field (without nugget), c = k(points, x); shape (q,).

    One solve for each new point, sixty-four at a time; `tolerance` is the relative residual of each.
    """
    variances = []
    for part in torch.split(new_points, 64):
        cross = kernel(points, part)
        solved = kriging_weights(cross, A, F, tolerance=tolerance, max_iterations=max_iterations)
        variances.append(kernel.diagonal(part) - (cross * solved).sum(dim=0))
    return torch.cat(variances) if variances else new_points.new_zeros(0)


@arrays_as_tensors
def one_hot(labels: Tensor, n_classes: int, *, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return right-hand sides of kernel ridge classification, shape (n, n_classes): 1 for the class, centered."""
    return torch.nn.functional.one_hot(labels.long(), n_classes).to(dtype) - 1 / n_classes


@arrays_as_tensors
def predict_labels(kernel: Kernel, points: Tensor, weights: Tensor, new_points: Tensor) -> Tensor:
    """Return the class of largest score at new points; weights are the `kriging_weights` of `one_hot` labels."""
    return predict(kernel, points, weights, new_points).argmax(dim=1)


@arrays_as_tensors
def root_mean_square_error(predicted: Tensor, observed: Tensor) -> float:
    """Return the root of the mean squared difference, in the unit of the values."""
    return float((predicted - observed).square().mean().sqrt())


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
        kernel: With length scale and variance as found.
        nugget: Variance of the independent part of each observation, to be added to the diagonal.
        log_likelihood: Of the groups on which it was found.
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
        values: Observations with their mean taken off, shape (n,).
        generator: Chooses the centers of the groups.
        nu: Smoothness, fixed.
        subsample: How many points to use at most, groups overlapping or not.
        group: How many neighbors make a group.
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

    # The median radius of a group is a length at which the values have something to say.
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
