"""What operators on a part of a surface need to know of the whole surface."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.meshes.diagnosis import Diagnosis
from pipeline.meshes.triangles import TriangleMesh


@dataclass(frozen=True, eq=False)
class WholeSurface:
    """Numbers that describe a whole surface.

    Attributes:
        n_triangles, n_vertices, n_parts: Number of triangles, vertices and connected parts.
        area: The sum of the triangles' areas.
        shortest: The least diameter of a triangle.
        longest: The largest diameter of a triangle.
        center: The mean of the vertices, shape (3,).
        radius: The largest distance of a vertex from the middle of the bounding box.
        open_vertices: Vertices on open edges, sorted.
    """

    n_triangles: int
    n_vertices: int
    n_parts: int
    area: float
    shortest: float
    longest: float
    center: NDArray[np.float64]
    radius: float
    open_vertices: NDArray[np.int64]

    @classmethod
    def of(cls, mesh: TriangleMesh, diagnosis: Diagnosis) -> "WholeSurface":
        """Describe a mesh that is usable."""
        vertices = mesh.vertices.double().numpy()
        middle = (vertices.min(axis=0) + vertices.max(axis=0)) / 2
        return cls(
            n_triangles=len(mesh),
            n_vertices=len(vertices),
            n_parts=diagnosis.n_parts,
            area=float(mesh.areas.double().sum()),
            shortest=float(mesh.diameters.min()),
            longest=float(mesh.diameters.max()),
            center=mesh.vertices.double().mean(dim=0).numpy(),
            radius=float(np.linalg.norm(vertices - middle, axis=1).max()),
            open_vertices=np.unique(mesh.open_edges.numpy()).astype(np.int64),
        )
