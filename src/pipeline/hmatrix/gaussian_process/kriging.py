"""Kriging: weights, likelihood, predictions and their variances from a compressed covariance matrix.

Plain functions over `A`, anything with `A @ x` (x of shape (n,) or (n, m)), and `F`, a factorization of A
or of something near it, with `F.solve(b)` and `F.logdet()`. A loose F costs iterations of conjugate
gradients, never accuracy of what A solves; only the log-determinant is as accurate as F. Tensors in, tensors out;
NumPy arrays in, NumPy arrays out.
"""

import math
from typing import Protocol

import torch
from torch import Tensor

from pipeline.hmatrix.kernels import Kernel
from pipeline.hmatrix.krylov import conjugate_gradient
from pipeline.hmatrix.vectors import arrays_as_tensors

_BLOCK_ENTRIES = 2**22  # entries of a cross-covariance at a time: 32 MB in double precision


class Operator(Protocol):
    """A symmetric positive definite matrix known by its products."""

    def __matmul__(self, x: Tensor, /) -> Tensor:
        """Return A x for x of shape (n,) or (n, m)."""


class Factorization(Protocol):
    """A factorization of A, or of a matrix near it."""

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
        values: Observations with their mean subtracted, shape (n,), or (n, m) for m fields at once.
        A: Covariance of the observations, nugget included.
        F: Factorization of A that preconditions.
        tolerance: Relative residual, 2-norm.
        max_iterations: Largest number of iterations of conjugate gradients.

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
