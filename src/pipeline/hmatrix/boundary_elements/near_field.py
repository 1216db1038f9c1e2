"""The near field of the single layer, which replaces the quadrature points' kernel between near triangles."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from pipeline.hmatrix.boundary_elements.quadrature import gauss_rule, pair_means, self_mean
from pipeline.hmatrix.kernels import LaplaceSingleLayer
from pipeline.meshes.triangles import TriangleMesh

_PAIRS_AT_A_TIME = 50_000  # bounds the memory of the near integrals to some tens of megabytes


@dataclass(frozen=True, eq=False)
class NearField:
    """The sparse, symmetric matrix C of the single layer, and the diagonal that preconditions.

    Its computation is the most expensive part of a layer. It consists of plain tensors, from which it can be rebuilt.

    Attributes:
        indices: Rows and columns of the entries of C, shape (2, m), int64, sorted by row and column, none twice.
        values: The entries, shape (m,).
        safe_diagonal: The diagonal that makes the kernel matrix of the *centroids* a positive definite
            preconditioner, shape (t,). The self terms alone suffice on a mesh of well-shaped triangles, but between
            long thin ones the kernel of the centroids is too large. Adding the absolute errors of each row makes up for
            that, since a symmetric matrix with such a diagonal is positive semidefinite.
        n_points: Quadrature points of each triangle that the entries are corrections to.
        near: Triangles interact exactly within `near` times the larger of their diameters.
    """

    indices: Tensor
    values: Tensor
    safe_diagonal: Tensor
    n_points: int = 3
    near: float = 2.0

    @classmethod
    def of(
        cls, mesh: TriangleMesh, *, n_points: int = 3, near: float = 2.0, n_rows: int | None = None
    ) -> "NearField":
        """Compute the near integrals of a mesh, at about a million pairs a second.

        Args:
            mesh: The triangles.
            n_points, near: See the attributes.
            n_rows: Number of wanted rows, the first of the mesh. Pairs of two later triangles are then left out, and
                later rows are right only in the columns of the wanted triangles.
        """
        i, j = near_pairs(mesh, near)
        if n_rows is not None:
            i, j = i[i < n_rows], j[i < n_rows]  # i < j in every pair
        corners, each = mesh.corners, torch.arange(len(mesh), device=mesh.triangles.device)
        means = _kernel_means(corners, i, j)
        own = self_mean(corners) / (4 * math.pi)
        points = rule_points(mesh, n_points).reshape(len(mesh), n_points, 3)
        off = means - _point_means(points, i, j)
        diagonal = own - _point_means(points, each, each)
        matrix = torch.sparse_coo_tensor(
            torch.stack([torch.cat([i, j, each]), torch.cat([j, i, each])]),
            torch.cat([off, off, diagonal]),
            (len(mesh), len(mesh)),
            check_invariants=True,
        ).coalesce()
        excess = (means - _point_means(mesh.centroids[:, None], i, j)).abs()
        safe = own.index_add(0, i, excess).index_add(0, j, excess)
        return cls(matrix.indices(), matrix.values(), safe, n_points, near)

    def __repr__(self) -> str:
        return f"NearField({self.n_triangles} triangles, {len(self.values)} entries)"

    @property
    def n_triangles(self) -> int:
        return len(self.safe_diagonal)

    @property
    def corrections(self) -> Tensor:
        """C, shape (t, t), coalesced COO."""
        size = (self.n_triangles, self.n_triangles)
        # Entries are in order, none twice: an eager check is all that `coalesce` would add.
        return torch.sparse_coo_tensor(
            self.indices, self.values, size, is_coalesced=True, check_invariants=True
        )


def near_pairs(mesh: TriangleMesh, near: float) -> Tensor:
    """Return pairs (i, j), i < j, of triangles within `near` times the larger of their diameters, shape (2, p)."""
    n = len(mesh)
    centers, reach = mesh.centroids.cpu().numpy(), (near * mesh.diameters).cpu().numpy()
    within = cKDTree(centers).query_ball_point(centers, reach)
    rows = np.repeat(np.arange(n), [len(found) for found in within])
    columns = np.fromiter((j for found in within for j in found), dtype=np.int64, count=len(rows))
    both = np.unique(np.minimum(rows, columns) * n + np.maximum(rows, columns))
    pairs = np.stack(np.divmod(both, max(n, 1)))
    return torch.from_numpy(pairs[:, pairs[0] != pairs[1]]).to(mesh.triangles.device)


def rule_points(mesh: TriangleMesh, n_points: int) -> Tensor:
    """Return the points of the rule on all triangles, shape (n_points t, 3)."""
    coordinates, _ = gauss_rule(n_points)
    return (coordinates.to(mesh.corners) @ mesh.corners).reshape(-1, 3)


def _kernel_means(corners: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """Return the means of 1/(4 pi |x - y|) over pairs of triangles, shape (p,)."""
    parts = [
        pair_means(corners[a], corners[b])
        for a, b in torch.split(torch.stack([i, j]), _PAIRS_AT_A_TIME, dim=1)
    ]
    return torch.cat([*parts, corners.new_zeros(0)]) / (4 * math.pi)


def _point_means(points: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """Return the means of K over the points of pairs of triangles; `points` has shape (t, q, 3)."""
    kernel = LaplaceSingleLayer()
    parts = [
        kernel(points[a], points[b]).mean(dim=(1, 2))
        for a, b in torch.split(torch.stack([i, j]), _PAIRS_AT_A_TIME, dim=1)
    ]
    return torch.cat([*parts, points.new_zeros(0)])
