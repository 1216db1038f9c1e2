"""The single-layer operator 1/(4 pi r) on piecewise constants, made ready for compression.

Unknowns are the charges q of the triangles, and row i is the mean potential over triangle i:

    A = W' K W + C,   K_xy = 1/(4 pi |x - y|) between quadrature points, 0 where x = y.

W spreads a charge evenly over the points of its triangle, W' takes the mean. K is a kernel matrix and what
an H2 matrix compresses; C is sparse and symmetric, and replaces what K says of near triangles by the
Galerkin integral. With one point a triangle the far field is wrong by (diameter/distance)² each, which sums
to O(h) in the charge; with three the error is far below that of the constants.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from pipeline.hmatrix.boundary_elements.mesh import TriangleMesh
from pipeline.hmatrix.boundary_elements.quadrature import gauss_rule, pair_means, self_mean
from pipeline.hmatrix.h2 import H2Matrix
from pipeline.hmatrix.kernels import LaplaceSingleLayer
from pipeline.hmatrix.krylov import SolveInfo, conjugate_gradient

_PAIRS_AT_A_TIME = 50_000  # bounds the memory of the near integrals to some tens of megabytes


class Product(Protocol):
    """A matrix known by its products."""

    def __matmul__(self, x: Tensor, /) -> Tensor:
        """Return A x for x of shape (n,) or (n, m)."""


class Solver(Protocol):
    """A factorization."""

    def solve(self, b: Tensor, /) -> Tensor:
        """Return the solution for b of shape (n,) or (n, m)."""


@dataclass(frozen=True, eq=False)
class SingleLayer:
    """The single-layer operator of a mesh, but for the kernel matrix of its points.

    Attributes:
        mesh: The surface.
        n_points: Quadrature points of each triangle, 1 or 3; those of triangle t are rows t n_points + 0, 1, ... of
            `points`.
        near: Triangles interact exactly within `near` times the larger of their diameters.
    """

    mesh: TriangleMesh
    n_points: int = 3
    near: float = 2.0

    @cached_property
    def points(self) -> Tensor:
        """Quadrature points, shape (n_points t, 3): those of K."""
        coordinates, _ = gauss_rule(self.n_points)
        return (coordinates.to(self.mesh.corners) @ self.mesh.corners).reshape(-1, 3)

    @cached_property
    def near_pairs(self) -> Tensor:
        """Pairs (i, j), i < j, of near triangles, shape (2, p)."""
        centers, reach = self.mesh.centroids.cpu().numpy(), (self.near * self.mesh.diameters).cpu().numpy()
        within = cKDTree(centers).query_ball_point(centers, reach, return_sorted=True)
        rows = np.repeat(np.arange(len(centers)), [len(found) for found in within])
        columns = np.concatenate([*map(np.asarray, within), np.zeros(0)]).astype(np.int64)
        pairs = np.sort(np.stack([rows, columns]), axis=0)[:, rows != columns]
        return torch.from_numpy(np.unique(pairs, axis=1)).to(self.mesh.triangles.device)

    @cached_property
    def self_terms(self) -> Tensor:
        """Mean of 1/(4 pi |x - y|) over each triangle with itself, shape (t,)."""
        return self_mean(self.mesh.corners) / (4 * math.pi)

    @cached_property
    def _near_means(self) -> Tensor:
        """Mean of 1/(4 pi |x - y|) over each near pair."""
        corners = self.mesh.corners
        parts = [
            pair_means(corners[i], corners[j])
            for i, j in torch.split(self.near_pairs, _PAIRS_AT_A_TIME, dim=1)
        ]
        return torch.cat([*parts, corners.new_zeros(0)]) / (4 * math.pi)

    def _point_means(self, points: Tensor, i: Tensor, j: Tensor) -> Tensor:
        """Return what K says of pairs of triangles, from points of shape (t, q, 3)."""
        kernel = LaplaceSingleLayer()
        parts = [
            kernel(points[a], points[b]).mean(dim=(1, 2))
            for a, b in torch.split(torch.stack([i, j]), _PAIRS_AT_A_TIME, dim=1)
        ]
        return torch.cat([*parts, points.new_zeros(0)])

    @cached_property
    def corrections(self) -> Tensor:
        """The sparse matrix C, shape (t, t), coalesced COO."""
        n, (i, j) = len(self.mesh), self.near_pairs
        each = torch.arange(n, device=i.device)
        points = self.points.reshape(n, self.n_points, 3)
        off = self._near_means - self._point_means(points, i, j)
        own = self.self_terms - self._point_means(points, each, each)
        indices = torch.stack([torch.cat([i, j, each]), torch.cat([j, i, each])])
        values = torch.cat([off, off, own])
        return torch.sparse_coo_tensor(indices, values, (n, n), check_invariants=True).coalesce()

    @cached_property
    def safe_diagonal(self) -> Tensor:
        """The diagonal that makes the kernel matrix of the *centroids* a positive definite preconditioner, shape (t,).

        The self terms alone do so on a mesh of well-shaped triangles only: between long thin ones the kernel of the
        centroids is too large. Adding the sums of |C| over each row makes up for it, since a symmetric matrix with
        such a diagonal is positive semidefinite.
        """
        i, j = self.near_pairs
        excess = (self._near_means - self._point_means(self.mesh.centroids[:, None], i, j)).abs()
        return self.self_terms.index_add(0, i, excess).index_add(0, j, excess)

    def operator(self, far: Product) -> "SingleLayerOperator":
        """Return A, given K as a compressed or dense matrix of the kernel on `points` with diagonal 0."""
        return SingleLayerOperator(self, far)

    def densities(self, charges: Tensor) -> Tensor:
        """Return charge per area."""
        return charges / self.mesh.areas


@dataclass(frozen=True, eq=False)
class SingleLayerOperator:
    """A = W' K W + C as a product.

    Attributes:
        layer: All but K.
        far: K.
        corrected: C is part of it; left out of all but one of several shares.
    """

    layer: SingleLayer
    far: Product
    corrected: bool = True

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.layer.mesh), len(self.layer.mesh)

    def __matmul__(self, x: Tensor) -> Tensor:
        columns = x.reshape(len(x), -1)
        q = self.layer.n_points
        spread = self.far @ (columns / q).repeat_interleave(q, dim=0)
        y = spread.reshape(len(x), q, -1).mean(dim=1)
        if self.corrected:
            y = y + self.layer.corrections @ columns
        return y.reshape(x.shape)

    def part(self, number: int, count: int) -> "SingleLayerOperator":
        """Return share `number` of `count`, for an H2 matrix as `far`; the shares' products sum up to A's."""
        if not isinstance(self.far, H2Matrix):
            raise TypeError(f"only an H2 matrix has shares, not {type(self.far).__name__}")
        return SingleLayerOperator(self.layer, self.far.part(number, count), corrected=number == 0)


def solve_capacitance(
    A: SingleLayerOperator, F: Solver | None = None, *, tolerance: float = 1e-8, max_iterations: int = 200
) -> tuple[float, Tensor, SolveInfo]:
    """Find the charges that hold a surface at unit potential, and with them its capacitance.

    Args:
        A: The operator.
        F: Factorization that preconditions, of the kernel matrix of the centroids with `safe_diagonal`.
        tolerance: Relative residual, 2-norm.
        max_iterations: Of conjugate gradients.

    Returns:
        The capacitance in units of 4 pi eps0 (that of a sphere is its radius), the charges (t,), how the solve went.
    """
    charges, info = conjugate_gradient(
        A.__matmul__,
        torch.ones_like(A.layer.mesh.areas),
        preconditioner=None if F is None else F.solve,
        tolerance=tolerance,
        max_iterations=max_iterations,
    )
    return capacitance(charges), charges, info


def capacitance(charges: Tensor) -> float:
    """Return the capacitance in units of 4 pi eps0 that the charges of a surface at unit potential amount to."""
    return float(charges.sum()) / (4 * math.pi)


def extrapolate(coarse: float, fine: float, *, rate: float, ratio: float = 2.0) -> float:
    """Return the limit of a quantity whose error falls as h^rate, from meshes of sizes h ratio and h (Richardson)."""
    return fine + (fine - coarse) / (math.pow(ratio, rate) - 1)
