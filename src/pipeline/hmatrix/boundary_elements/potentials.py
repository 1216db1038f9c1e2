"""Potentials of layers on a surface, at points off it."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from pipeline.errors import ConfigError
from pipeline.hmatrix.boundary_elements.normal_derivative import inner, radial
from pipeline.hmatrix.boundary_elements.pair_rules import conical_rule
from pipeline.hmatrix.boundary_elements.quadrature import gauss_rule
from pipeline.meshes.triangles import TriangleMesh

_EVALUATIONS = 2_000_000  # evaluations of the kernel at a time
_CLOSE = 3.0  # diameters: triangles whose centers are nearer to a point get a rule of many points
_CLOSEST = 0.25  # diameters: nearer to the surface no rule is accurate
_TOUCHED = 1.0  # diameters from the center: triangles farther off are not closest (2/3 + 1/4 would do)
_ORDER = 10  # of the rule of many points: at a quarter of a diameter its relative error is about 1e-4


def potential(
    mesh: TriangleMesh,
    wavenumber: complex,
    points: NDArray[np.float64],
    *,
    single: NDArray[Any] | None = None,
    double: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Return the potential of a single layer plus that of a double layer at points, shape (m,).

    Costs O(m t).

    Args:
        mesh: The surface.
        wavenumber: k of exp(i k r)/(4 pi r).
        points: Shape (m, 3).
        single: Density by its values at the corners of each triangle, shape (3 t,).
        double: The density of the double layer, likewise.

    Raises:
        ConfigError: If a point is nearer to a triangle than a quarter of its longest edge, or is not finite.
    """
    places = torch.from_numpy(np.ascontiguousarray(points, np.float64))
    if places.ndim != 2 or places.shape[1] != 3:
        raise ValueError(f"points must have the shape (m, 3), not {tuple(places.shape)}")
    if not places.isfinite().all():
        raise ConfigError("points: a coordinate is NaN or infinite; make it finite, or leave the point out")
    _require_distance(mesh, points)
    dense = [None if d is None else torch.from_numpy(np.asarray(d).reshape(-1, 3)) for d in (single, double)]
    kinds = [d.dtype for d in dense if d is not None]
    is_complex = wavenumber.real != 0 or any(kind.is_complex for kind in kinds)
    total = torch.zeros(len(places), dtype=torch.complex128 if is_complex else torch.float64)
    rule = gauss_rule(7)
    far = _Sources(mesh, wavenumber, rule, dense)
    step = max(1, _EVALUATIONS // max(len(mesh) * len(rule[1]), 1))
    for first in range(0, len(places), step):
        x = places[first : first + step]
        values = far(x[:, None], torch.arange(len(mesh)))
        total[first : first + step] = values.sum(dim=1)
    target, triangle = _close_pairs(mesh, points)
    fine = _Sources(mesh, wavenumber, tuple(map(torch.from_numpy, conical_rule(_ORDER))), dense)
    step = _EVALUATIONS // _ORDER**2
    for first in range(0, len(target), step):
        i, j = target[first : first + step], triangle[first : first + step]
        better = fine(places[i], j) - far(places[i], j)
        total.index_add_(0, i, better.to(total.dtype))
    return np.asarray(total.numpy())


class _Sources:
    """Layers on triangles as sources at the points of a rule."""

    def __init__(self, mesh: TriangleMesh, wavenumber: complex, rule: Any, dense: list[Any]) -> None:
        self._mesh, self._wavenumber, self._dense = mesh, wavenumber, dense
        self._coordinates, self._weights = rule

    def __call__(self, x: torch.Tensor, triangles: torch.Tensor) -> torch.Tensor:
        """Return potentials of triangles (n,) at points (n, 3), or (m, 1, 3) for all of (m, n)."""
        mesh = self._mesh
        y = self._coordinates @ mesh.corners[triangles].double()
        away = x[..., None, :] - y
        G, F = radial(inner(away, away), self._wavenumber)
        single, double = self._dense
        weights = self._weights * mesh.areas[triangles].double()[:, None]
        total = torch.zeros((), dtype=G.dtype)
        if single is not None:
            total = total + (G * (weights * (single[triangles] @ self._coordinates.T.to(single.dtype)))).sum(
                dim=-1
            )
        if double is not None:
            along = inner(away, mesh.normals[triangles].double()[:, None])
            density = weights * (double[triangles] @ self._coordinates.T.to(double.dtype))
            total = total + (F * along * density).sum(dim=-1)
        return total


def inside(mesh: TriangleMesh, points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell which points are inside of a closed surface: there Laplace's double layer of 1 is -1, by Gauss's law."""
    return potential(mesh, 0j, points, double=np.ones(3 * len(mesh))) < -0.5


def too_near(mesh: TriangleMesh, points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell which points (m, 3) are nearer to a triangle than a quarter of its longest edge."""
    target, triangle = (pairs.numpy() for pairs in _close_pairs(mesh, points, reach=_TOUCHED))
    distance = _distances(points[target], mesh.corners.double().numpy()[triangle])
    near = np.zeros(len(points), bool)
    near[target[~(distance >= _CLOSEST * mesh.diameters.double().numpy()[triangle])]] = True
    return near


def _require_distance(mesh: TriangleMesh, points: NDArray[np.float64]) -> None:
    """Raise ConfigError if a point is nearer to a triangle, edges included, than a quarter of its longest edge."""
    close = np.flatnonzero(too_near(mesh, points))
    if len(close):
        worst = int(close[0])
        verb = "is" if len(close) == 1 else "are"
        raise ConfigError(
            f"{len(close)} of {len(points)} points {verb} nearer to the surface than a quarter of a triangle, the "
            f"first is point {worst} at {np.asarray(points[worst]).tolist()}: move them away, or refine the mesh"
        )


def _distances(points: NDArray[np.float64], corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the distances of points (n, 3) from triangles (n, 3, 3)."""
    following = np.roll(corners, -1, axis=1)
    edges, away = following - corners, points[:, None] - corners
    along = np.clip((away * edges).sum(axis=2) / (edges**2).sum(axis=2), 0.0, 1.0)
    to_edges = np.linalg.norm(away - along[:, :, None] * edges, axis=2).min(axis=1)
    normals = np.cross(edges[:, 0], edges[:, 1])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    heights = np.abs((away[:, 0] * normals).sum(axis=1))
    # A point is over a triangle where it is to the left of all edges.
    over = ((np.cross(edges, away) * normals[:, None]).sum(axis=2) >= 0).all(axis=1)
    return np.asarray(np.where(over, heights, to_edges))


def _close_pairs(
    mesh: TriangleMesh, points: NDArray[np.float64], *, reach: float = _CLOSE
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return points and triangles whose centers are within `reach` diameters of each other."""
    centers, radii = mesh.centroids.double().numpy(), reach * mesh.diameters.double().numpy()
    found = cKDTree(points).query_ball_point(centers, radii)
    triangles = np.repeat(np.arange(len(mesh)), [len(f) for f in found])
    targets = np.fromiter((i for f in found for i in f), np.int64, len(triangles))
    return torch.from_numpy(targets), torch.from_numpy(triangles)
