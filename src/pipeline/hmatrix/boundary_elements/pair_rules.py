"""Quadrature rules for pairs of triangles that share a corner, an edge or all corners, or are near each other.

A rule is three arrays: barycentric coordinates of q points on either triangle, and q weights that sum up to 1. The
weighted sum times both areas is the integral over both triangles. For touching pairs, relative coordinates remove the
singularity of the kernel [1, section 5.2.1]: the integrand becomes analytic, and errors fall exponentially with the
order.

References:
    [1] Sauter, Schwab, "Boundary Element Methods", Springer 2011.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.meshes.triangles import TriangleMesh

Array = NDArray[np.float64]
PairRule = tuple[Array, Array, Array]  # (q, 3), (q, 3), (q,)


@cache
def touching_rule(n_common: int, order: int) -> PairRule:
    """Return the rule for triangles with 1, 2 or 3 common corners, which come first in both.

    Args:
        n_common: Number of common corners.
        order: Gauss points in each of four directions.
    """
    nodes, weights = np.polynomial.legendre.leggauss(order)
    nodes, weights = (nodes + 1) / 2, weights / 2
    xi, a, b, c = (grid.ravel() for grid in np.meshgrid(nodes, nodes, nodes, nodes, indexing="ij"))
    w = np.prod(np.meshgrid(weights, weights, weights, weights, indexing="ij"), axis=0).ravel()
    if n_common == 3:
        first = [
            ((xi, xi * (1 - a + a * b)), (xi * (1 - a * b * c), xi * (1 - a))),
            ((xi, xi * a * (1 - b + b * c)), (xi * (1 - a * b), xi * a * (1 - b))),
            ((xi * (1 - a * b * c), xi * a * (1 - b * c)), (xi, xi * a * (1 - b))),
        ]
        parts = [(x, y, xi**3 * a**2 * b) for pair in first for x, y in (pair, pair[::-1])]
    elif n_common == 2:
        parts = [
            ((xi, xi * a * c), (xi * (1 - a * b), xi * a * (1 - b)), xi**3 * a**2),
            ((xi, xi * a), (xi * (1 - a * b * c), xi * a * b * (1 - c)), xi**3 * a**2 * b),
            ((xi * (1 - a * b), xi * a * (1 - b)), (xi, xi * a * b * c), xi**3 * a**2 * b),
            ((xi * (1 - a * b * c), xi * a * b * (1 - c)), (xi, xi * a), xi**3 * a**2 * b),
            ((xi * (1 - a * b * c), xi * a * (1 - b * c)), (xi, xi * a * b), xi**3 * a**2 * b),
        ]
    else:
        x, y = (xi, xi * a), (xi * b, xi * b * c)
        parts = [(x, y, xi**3 * b), (y, x, xi**3 * b)]
    left, right = (np.concatenate([_barycentric(*part[side]) for part in parts]) for side in (0, 1))
    # The reference triangle has the area 1/2.
    return left, right, np.concatenate([4 * w * jacobian for _, _, jacobian in parts])


@cache
def conical_rule(order: int) -> tuple[Array, Array]:
    """Return order² points on a triangle, exact for degree 2 order - 2, and weights that sum up to 1."""
    nodes, weights = np.polynomial.legendre.leggauss(order)
    nodes, weights = (nodes + 1) / 2, weights / 2
    u, v = (grid.ravel() for grid in np.meshgrid(nodes, nodes, indexing="ij"))
    return _barycentric(u, u * v), 2 * u * np.outer(weights, weights).ravel()


def product_rule(points: Array, weights: Array) -> PairRule:
    """Return the rule for pairs of triangles that takes all pairs of points of a rule for one triangle."""
    n = len(weights)
    return np.repeat(points, n, axis=0), np.tile(points, (n, 1)), np.outer(weights, weights).ravel()


def _barycentric(x: Array, y: Array) -> Array:
    """Return barycentric coordinates of points (x, y) of the triangle (0, 0), (1, 0), (1, 1)."""
    return np.stack([1 - x, x - y, y], axis=1)


@dataclass(frozen=True, eq=False)
class TrianglePairs:
    """Pairs of triangles, whose corners are numbered so that common ones come first.

    Attributes:
        triangles: Shape (2, p).
        corners: Which corner of its triangle each is, shape (2, p, 3).
        n_common: Shape (p,).
    """

    triangles: Tensor
    corners: Tensor
    n_common: Tensor

    @classmethod
    def of(cls, mesh: TriangleMesh, triangles: Tensor) -> "TrianglePairs":
        """Order the corners of pairs of triangles, shape (2, p)."""
        left, right = (mesh.triangles[side] for side in triangles)
        same = left[:, :, None] == right[:, None, :]
        in_left, in_right = same.any(dim=2), same.any(dim=1)
        # Common corners first, in the order of the left triangle; the right one follows their vertices' order.
        order_left = torch.argsort((~in_left).to(torch.int8), dim=1, stable=True)
        place = torch.where(in_right, _rank_of(left, order_left, same), 3 + torch.arange(3))
        order_right = torch.argsort(place, dim=1, stable=True)
        return cls(triangles, torch.stack([order_left, order_right]), same.sum(dim=(1, 2)))

    def __getitem__(self, chosen: Tensor | slice) -> "TrianglePairs":
        return TrianglePairs(self.triangles[:, chosen], self.corners[:, chosen], self.n_common[chosen])

    def __len__(self) -> int:
        return self.triangles.shape[1]


def _rank_of(left: Tensor, order: Tensor, same: Tensor) -> Tensor:
    """Return for each corner of the right triangle the place of its vertex in the left one's new order."""
    rank = torch.argsort(order, dim=1)
    return (same * rank[:, :, None]).sum(dim=1)
