"""Constants on the surfaces of a mesh, up to which Laplace's equation determines a field by its derivatives.

A mesh may have several connected surfaces: those of bodies, and of cavities inside of them. The hypersingular operator
does not see a constant on any of them. The double layer tells which surface is inside of which: with normals out of the
body, K of 1 on a surface is -1/2 on it if it is an outer one and 1/2 if it is that of a cavity, -1 or 1
inside of it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipeline.errors import ConfigError
from pipeline.hmatrix.boundary_elements.operators import LayerOperators

_BALANCED = (
    1e-2  # net flux through a closed surface, as a share of all flux, that counts as a discretization error
)


@dataclass(frozen=True, eq=False)
class Constants:
    """The connected surfaces of a mesh.

    Attributes:
        of_vertices, of_triangles: The surface that each belongs to.
        areas: The area of each triangle, shape (triangles,).
        doubles: Mean over surface i of the double layer of 1 on surface j, to the nearest half; shape (s, s).
    """

    of_vertices: NDArray[np.int64]
    of_triangles: NDArray[np.int64]
    areas: NDArray[np.float64]
    doubles: NDArray[np.float64]

    @classmethod
    def of(cls, layers: LayerOperators) -> "Constants":
        """Find the surfaces of a mesh, and which is inside of which."""
        triangles, areas = layers.mesh.triangles.numpy(), layers.mesh.areas.double().numpy()
        n = len(layers.mesh.vertices)
        edges = triangles[:, [0, 1, 1, 2]].reshape(-1, 2).T
        graph = coo_array((np.ones(edges.shape[1]), tuple(edges)), shape=(n, n))
        count, of_vertices = connected_components(graph, directed=False)
        of_triangles = of_vertices[triangles[:, 0]]
        if count == 1:
            return cls(of_vertices, of_triangles, areas, np.array([[-0.5]]))
        columns = (of_vertices[:, None] == np.arange(count)).astype(float)
        images = layers.double_layer("P0", "P1") @ columns
        sums = np.zeros((count, count))
        np.add.at(sums, of_triangles, images)
        sizes = np.bincount(of_triangles, areas, minlength=count)
        return cls(of_vertices, of_triangles, areas, np.round(2 * sums / sizes[:, None]) / 2)

    @property
    def has_cavity(self) -> bool:
        return bool((self.doubles.diagonal() > 0).any())

    def balanced(self, t: NDArray[Any]) -> NDArray[Any]:
        """Return derivatives (triangles,) with the least change that makes the net flux out of each body 0.

        Raises:
            ConfigError: If the net flux is not small.
        """
        # Surface j counts in the flux out of an outer surface i with weight 1 if it is surface i or lies inside of it.
        outer = np.flatnonzero(self.doubles.diagonal() < 0)
        weights = (np.eye(len(self.doubles)) / 2 - self.doubles).T[outer]
        flux, sizes = self._sums(self.areas * t), self._sums(self.areas * np.abs(t))
        out, scale = weights @ flux, np.abs(weights) @ sizes
        wrong = np.flatnonzero(np.abs(out) > _BALANCED * scale)
        if len(wrong):
            innermost = wrong[np.abs(weights[wrong]).sum(axis=1).argmin()]
            total, n = out[innermost], len(self.doubles)
            place = "the surface" if n == 1 else f"connected part {outer[innermost] + 1} of {n}"
            number = f"{total:.2g}" if np.isrealobj(total) else f"{total.real:.2g}{total.imag:+.2g}i"
            raise ConfigError(
                f"derivatives: the total flux out of {place} is {number}, but Laplace's equation inside needs 0; "
                "subtract the mean of the derivatives" + ("" if n == 1 else " over each body's surface")
            )
        roots = np.sqrt(self._sums(self.areas))
        change = np.linalg.lstsq(weights * roots, -out, rcond=None)[0] / roots
        return np.asarray(t + change[self.of_triangles])

    def completed(self, u: NDArray[Any], residual: NDArray[Any], mass: NDArray[np.float64]) -> NDArray[Any]:
        """Return values (vertices,) with constants added such that the mean over each body's surface is 0.

        Args:
            u: Values that are right up to a constant on each surface.
            residual: Integrals of V t - (1/2 + K) u over each triangle, which tell the constants of cavities.
            mass: Integrals of the functions of the vertices.
        """
        n = len(self.doubles)
        outer = np.flatnonzero(self.doubles.diagonal() < 0)
        if len(outer) < n:
            wanted = self._sums(residual) / self._sums(self.areas)
            u = u + np.linalg.lstsq(np.eye(n) / 2 + self.doubles, wanted, rcond=None)[0][self.of_vertices]
        # A surface belongs to the innermost body around it, which is itself inside of the most bodies.
        around = (np.eye(n) / 2 - self.doubles)[:, outer] > 0
        body = np.argmax(np.where(around, around[outer].sum(axis=1), 0), axis=1)[self.of_vertices]
        means = np.zeros(max(len(outer), 1), u.dtype)
        np.add.at(means, body, mass * u)
        means /= np.bincount(body, mass, minlength=len(means))
        return np.asarray(u - means[body])

    def _sums(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return sums of values (triangles,) over each surface."""
        sums = np.zeros(len(self.doubles), values.dtype)
        np.add.at(sums, self.of_triangles, values)
        return sums
