"""Whether a problem inside of a body is near a resonance, told by waves whose fields are known.

Near a resonance the smallest error of the discretization grows into a field of its own. Neither a residual nor a second
integral equation shows it, because the resonant field solves both. Plane waves are known solutions: solved for together
with the given data, they show the errors that the resonance amplifies.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.errors import ConvergenceError
from pipeline.hmatrix.boundary_elements.potentials import inside, too_near
from pipeline.meshes.triangles import TriangleMesh

logger = logging.getLogger("pipeline.hmatrix")

_NOTED, _REFUSED = 0.05, 0.3  # relative errors of a known wave
# Directions off the usual axes and planes of symmetry.
_DIRECTIONS = np.array([[0.48, 0.6, 0.64], [-0.64, 0.48, 0.6]])
# Number of triangles below which fields are compared, and the depths in their diameters.
_STARTS, _DEPTHS = 12, 0.5 * 2.0 ** np.arange(6)


class SolvedWave(Protocol):
    """The field of a solution, which can be evaluated."""

    def __call__(self, points: ArrayLike) -> NDArray[np.complex128]:
        """Return its values at points (m, 3)."""


@dataclass(frozen=True)
class KnownWaves:
    """Plane waves exp(i k d x) in two directions.

    Attributes:
        wavenumber: k.
    """

    wavenumber: complex

    def values(self, points: NDArray[np.float64]) -> NDArray[np.complex128]:
        """Return their values at points (n, 3), shape (n, 2)."""
        return np.asarray(np.exp(1j * self.wavenumber * (points @ _DIRECTIONS.T)))

    def derivatives(
        self, points: NDArray[np.float64], normals: NDArray[np.float64]
    ) -> NDArray[np.complex128]:
        """Return their derivatives along normals (n, 3), shape (n, 2)."""
        return np.asarray(1j * self.wavenumber * (normals @ _DIRECTIONS.T) * self.values(points))

    def judge(self, mesh: TriangleMesh, found: Sequence[SolvedWave]) -> tuple[str, ...]:
        """Return a note if the fields found differ much from the waves at some points inside.

        A body thinner than a triangle has no such points, but it does not resonate with waves that its triangles
        resolve.

        Raises:
            ConvergenceError: If the difference is so large that no field can be trusted.
        """
        points = _points_inside(mesh)
        if not len(points):
            return ()
        exact = self.values(points)
        errors = [np.abs(field(points) - exact[:, i]).max() for i, field in enumerate(found)]
        error = float(np.max(errors) / np.abs(exact).max())
        if error <= _NOTED:
            return ()
        text = (
            f"a plane wave, whose field inside of the surface is known, comes out wrong by {error:.0%}: the wavenumber "
            "is near a resonance of the body for these triangles; refine the mesh, or take another wavenumber"
        )
        if not error <= _REFUSED:
            raise ConvergenceError(text)
        logger.warning(text)
        return (text,)


def _points_inside(mesh: TriangleMesh) -> NDArray[np.float64]:
    """Return points inside of a closed surface, at several depths below some triangles."""
    chosen = np.unique(np.linspace(0, len(mesh) - 1, min(len(mesh), _STARTS)).astype(int))
    centers, normals = (part.double().numpy()[chosen] for part in (mesh.centroids, mesh.normals))
    depths = _DEPTHS[:, None, None] * mesh.diameters.double().numpy()[chosen, None]
    points = np.asarray((centers - depths * normals).reshape(-1, 3))
    points = points[~too_near(mesh, points)]
    return points[inside(mesh, points)]
