"""Conditionally positive definite kernels as covariances: anchored at as many points as there are polynomials.

A kernel k is conditionally positive definite of degree m if sums of c_i c_j k(x_i, x_j) are positive for
coefficients orthogonal to polynomials of degree m. Kriging with such a trend is a saddle point,

    [A H; H' 0] [w; beta] = [y; 0],

whose solution does not change if anything of the form p(x)' q(y) + q(x)' p(y) with polynomials p is added to k. One
choice makes the sum positive definite [1, section 10.3]: with points xi_i and Lagrange's polynomials l_i on them,

    k(x, y) - sum l_i(x) k(xi_i, y) - sum l_j(y) k(x, xi_j) + sum l_i(x) l_j(y) (k(xi_i, xi_j) + c [i = j]).

The saddle point is thus solved by a Cholesky factorization and generalized least squares. All else works as for a
covariance: fields can be drawn, and the restricted likelihood is that of contrasts, free of polynomials.

References:
    [1] Wendland, "Scattered Data Approximation", Cambridge 2005.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.hmatrix.kernels import Kernel, Product, Scaled, Stationary, Sum


def conditional_degree(kernel: Kernel) -> int:
    """Return the degree of the polynomials that a kernel's coefficients must be orthogonal to; -1 for covariances."""
    if isinstance(kernel, Sum):
        return max(conditional_degree(term) for term in kernel.terms)
    if isinstance(kernel, Scaled):
        return conditional_degree(kernel.kernel) if kernel.factor.imag == 0 and kernel.factor.real > 0 else -1
    return kernel.conditional_degree


def is_covariance(kernel: Kernel) -> bool:
    """Tell whether a kernel is a covariance, by itself or together with a polynomial trend."""
    if isinstance(kernel, Sum):
        return all(is_covariance(term) for term in kernel.terms)
    conditional = conditional_degree(kernel) >= 0
    return kernel.symmetric and not kernel.singular and (kernel.positive_definite or conditional)


def is_stationary(kernel: Kernel) -> bool:
    """Tell whether a kernel is known to depend on differences of points alone."""
    if isinstance(kernel, Sum | Product):
        return all(is_stationary(term) for term in kernel.terms)
    if isinstance(kernel, Scaled):
        return is_stationary(kernel.kernel)
    return isinstance(kernel, Stationary)


@dataclass(frozen=True)
class Anchored(Kernel):
    """A conditionally positive definite kernel of degree up to 1 made positive definite.

    Attributes:
        kernel: The kernel.
        nodes: Points xi on which Lagrange's polynomials are given: as many as there are monomials.
        degree: Degree of the polynomials, 0 or 1.
    """

    name: ClassVar[str] = "anchored"
    positive_definite: ClassVar[bool] = True
    kernel: Kernel
    nodes: tuple[tuple[float, ...], ...]
    degree: int

    @classmethod
    def at(cls, kernel: Kernel, points: NDArray[np.float64]) -> "Anchored":
        """Anchor a kernel at widely spread points, which a pivoted QR of the monomials chooses.

        Raises:
            ConfigError: If the points do not determine the polynomials, such as points on one line.
        """
        degree = conditional_degree(kernel)
        if degree > 1:
            raise ConfigError(f"kernel: only kernels of degree 0 and 1 are known, not of {degree}")
        scaled = (points - points.mean(axis=0)) / (np.ptp(points, axis=0).max(initial=0.0) or 1.0)
        monomials = np.column_stack([np.ones(len(points)), scaled]) if degree else np.ones((len(points), 1))
        count = monomials.shape[1]
        _, R, order = scipy.linalg.qr(monomials.T, mode="economic", pivoting=True)
        if len(points) < count or abs(R[count - 1, count - 1]) < 1e-9:
            raise ConfigError(
                f"X: the points do not determine the {count} coefficients of a linear trend, which the kernel needs; "
                "they lie on a line or plane, or are too few"
            )
        return cls(kernel, tuple(map(tuple, points[order[:count]].tolist())), degree)

    def to_dict(self) -> dict[str, Any]:
        """Return name and parameters in a form that JSON can hold."""
        return {
            "name": self.name,
            "kernel": self.kernel.to_dict(),
            "nodes": self.nodes,
            "degree": self.degree,
        }

    def block(self, targets: Tensor, sources: Tensor) -> Tensor:
        nodes = torch.tensor(self.nodes, dtype=targets.dtype, device=targets.device)
        lagrange = torch.linalg.inv(self._monomials(nodes, nodes))
        left, right = (self._monomials(x, nodes) @ lagrange for x in (targets, sources))
        between = self.kernel(nodes, nodes)
        between = between + between.abs().max() * torch.eye(
            len(nodes), dtype=between.dtype, device=between.device
        )
        block: Tensor = (
            self.kernel(targets, sources)
            - left @ self.kernel(nodes, sources)
            - self.kernel(targets, nodes) @ right.mT
            + left @ between @ right.mT
        )
        return block

    def _monomials(self, points: Tensor, nodes: Tensor) -> Tensor:
        ones = torch.ones_like(points[..., :1])
        if self.degree == 0:
            return ones
        size = (nodes - nodes[0]).abs().max()
        return torch.cat([ones, (points - nodes[0]) / size], dim=-1)
