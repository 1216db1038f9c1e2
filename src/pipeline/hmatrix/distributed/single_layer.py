"""The single layer of a mesh whose triangles are divided among processes.

A = W' K W + C as in `boundary_elements/single_layer.py`. Every process has a contiguous range of the triangles, and
their rows of K and of C; of other triangles it knows those near its own, whose charges a product fetches.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from pipeline.hmatrix.boundary_elements import NearField, TriangleMesh
from pipeline.hmatrix.boundary_elements.near_field import rule_points
from pipeline.hmatrix.distributed.matrix import DistributedH2Matrix
from pipeline.hmatrix.swap import Halo, Ids
from pipeline.runtime.communicator import Communicator

_AT_A_TIME = 65536  # triangles of others that are looked at together


@dataclass(frozen=True, eq=False)
class OwnTriangles:
    """A process's triangles, and those of others near them.

    Attributes:
        mesh: The own triangles in order, then the others.
        n_own: Number of own triangles.
        others: Numbers of the others in the whole mesh, sorted.
        n_points: Quadrature points of each triangle, 1 or 3.
        near: Triangles interact exactly within `near` times the larger of their diameters.
    """

    mesh: TriangleMesh
    n_own: int
    others: Ids
    n_points: int = 3
    near: float = 2.0

    @classmethod
    def of(
        cls,
        vertices: NDArray[Any],
        triangles: NDArray[Any],
        first: int,
        last: int,
        *,
        n_points: int = 3,
        near: float = 2.0,
    ) -> "OwnTriangles":
        """Take triangles `first` to `last` - 1 out of a mesh, and find those near them.

        Reads the whole mesh once, piece by piece, so that arrays mapped from files never come to memory whole.

        Args:
            vertices: Shape (v, 3).
            triangles: Shape (t, 3).
            first, last: The own range.
            n_points, near: See `SingleLayer`.
        """
        own = TriangleMesh(torch.from_numpy(_corners(vertices, triangles[first:last])), _each(last - first))
        others = np.concatenate(
            [np.zeros(0, np.int64), *_near_ones(own, vertices, triangles, (first, last), near)]
        )
        corners = np.concatenate([own.vertices.numpy(), _corners(vertices, triangles[others])])
        mesh = TriangleMesh(torch.from_numpy(corners), _each(last - first + len(others)))
        return cls(mesh, last - first, others, n_points, near)

    @property
    def points(self) -> Tensor:
        """Quadrature points of the own triangles, shape (n_points own, 3): own rows of K."""
        return rule_points(self.mesh, self.n_points)[: self.n_own * self.n_points]

    @property
    def centroids(self) -> Tensor:
        """Centers of the own triangles, shape (own, 3)."""
        return self.mesh.centroids[: self.n_own]

    def near_field(self) -> NearField:
        """Compute the near integrals: own rows of C in the numbering of `mesh`, and the own part of the diagonal."""
        found = NearField.of(self.mesh, n_points=self.n_points, near=self.near, n_rows=self.n_own)
        rows = found.indices[0] < self.n_own
        return NearField(
            found.indices[:, rows],
            found.values[rows],
            found.safe_diagonal[: self.n_own],
            self.n_points,
            self.near,
        )


@dataclass(frozen=True, eq=False)
class DistributedSingleLayer:
    """Own rows of the single layer as a product.

    Attributes:
        far: K over the quadrature points, divided like the triangles.
        corrections: Own rows of C, shape (own, own + others), sparse.
        halo: Exchange with the owners of the other triangles.
        n_points: Quadrature points of each triangle.
        communicator: The processes.
    """

    far: DistributedH2Matrix
    corrections: Tensor
    halo: Halo
    n_points: int
    communicator: Communicator

    @classmethod
    def of(
        cls,
        far: DistributedH2Matrix,
        near_field: NearField,
        others: Ids,
        edges: Ids,
        communicator: Communicator,
    ) -> "DistributedSingleLayer":
        """Put the operator together; collective.

        Args:
            far: K, with `near_field.n_points` own rows for each own triangle.
            near_field: Own rows of C, columns numbered as `OwnTriangles.mesh` numbers triangles.
            others: Numbers of the other triangles in the whole mesh, sorted.
            edges: Shape (processes + 1,); process p has triangles edges[p] to edges[p + 1] - 1.
            communicator: The processes.
        """
        n_own = near_field.n_triangles
        corrections = torch.sparse_coo_tensor(
            near_field.indices, near_field.values, (n_own, n_own + len(others)), check_invariants=True
        ).coalesce()
        return cls(far, corrections, Halo.of(communicator, others, edges), near_field.n_points, communicator)

    def __matmul__(self, own_x: Tensor) -> Tensor:
        """Return own rows of A x for charges of the own triangles, shape (own,) or (own, m); collective."""
        n, q = len(own_x), self.n_points
        columns = own_x.reshape(n, 1 if own_x.ndim == 1 else own_x.shape[1]).double()
        spread = self.far @ (columns / q).repeat_interleave(q, dim=0)
        others = torch.from_numpy(self.halo.fetch(self.communicator, columns.numpy()))
        y = spread.reshape(n, q, columns.shape[1]).mean(dim=1)
        y = y + self.corrections @ torch.cat([columns, others])
        return y.reshape(own_x.shape)


def _near_ones(
    own: TriangleMesh, vertices: NDArray[Any], triangles: NDArray[Any], range_: tuple[int, int], near: float
) -> Iterator[Ids]:
    """Yield the numbers of others' triangles near own ones, in order."""
    if not len(own):
        return
    centers, reach = own.centroids.numpy(), (near * own.diameters).numpy()
    tree = cKDTree(centers)
    for start in range(0, len(triangles), _AT_A_TIME):
        numbers = np.arange(start, min(start + _AT_A_TIME, len(triangles)))
        numbers = numbers[(numbers < range_[0]) | (numbers >= range_[1])]
        if not len(numbers):
            continue
        part = TriangleMesh(torch.from_numpy(_corners(vertices, triangles[numbers])), _each(len(numbers)))
        theirs = part.centroids.numpy()
        counts = tree.query_ball_point(theirs, (near * part.diameters).numpy(), return_length=True)
        found = np.asarray(counts) > 0
        for listed in cKDTree(theirs).query_ball_point(centers, reach):
            found[listed] = True
        yield numbers[found]


def _corners(vertices: NDArray[Any], triangles: NDArray[Any]) -> NDArray[np.float64]:
    """Return the corners of triangles, shape (3 t, 3)."""
    return np.array(vertices[np.asarray(triangles).reshape(-1)], np.float64).reshape(-1, 3)


def _each(n: int) -> Tensor:
    """Return n triangles without common corners."""
    return torch.arange(3 * n).reshape(n, 3)
