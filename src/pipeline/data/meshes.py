"""Triangle meshes of surfaces whose capacitance is known.

Each mesh is a pair of arrays: vertices (v, 3) float64 and triangles (t, 3) int64, oriented so that normals point
outwards.
"""

import numpy as np
from numpy.typing import NDArray

Mesh = tuple[NDArray[np.float64], NDArray[np.int64]]


def sphere_mesh(refinements: int) -> Mesh:
    """Return the unit sphere as an icosahedron whose triangles are split in four `refinements` times: 20 · 4^k of them.

    Vertices lie on the sphere, so area and capacitance are below the sphere's; the error falls as the edges' square.
    """
    if refinements < 0:
        raise ValueError(f"refinements must be at least 0, not {refinements}")
    vertices, triangles = _icosahedron()
    for _ in range(refinements):
        vertices, triangles = _split_in_four(vertices, triangles)
        vertices /= np.linalg.norm(vertices, axis=1, keepdims=True)
    return vertices, triangles


def cube_mesh(n: int, grading: float = 1.0) -> Mesh:
    """Return the surface of the unit cube, each face n x n rectangles of two triangles: 12 n² of them.

    Args:
        n: Rectangles along each edge.
        grading: 1 is uniform; above 1, lines are denser towards the edges: the k-th of n/2 lies (2 k/n)^grading of the
            way to the middle. Charge is singular at the edges, as distance^(-1/3), and the error of piecewise constants
            falls as n^-min(4/3 grading, 3), so a grading of 2.25 or more restores the full rate.

    Raises:
        ValueError: If `n` or `grading` is less than 1.
    """
    if n < 1 or grading < 1:
        raise ValueError(f"a cube mesh needs n >= 1 and a grading >= 1, not {n} and {grading}")
    uniform = np.linspace(0, 1, n + 1)
    half = 0.5 * (2 * np.minimum(uniform, 1 - uniform)) ** grading
    lines = np.where(uniform < 0.5, half, 1 - half)
    u, v = (part.ravel() for part in np.meshgrid(lines, lines, indexing="ij"))
    corner = (np.arange(n)[:, None] * (n + 1) + np.arange(n)).ravel()
    right, up, across = corner + n + 1, corner + 1, corner + n + 2
    face = np.concatenate([np.stack([corner, right, across], axis=1), np.stack([corner, across, up], axis=1)])
    vertices: list[NDArray[np.float64]] = []
    triangles: list[NDArray[np.int64]] = []
    for axis in range(3):
        for side in (0.0, 1.0):
            # With (u, v) on the next two axes in cyclic order the normal is along +axis.
            points = np.empty((len(u), 3))
            points[:, axis], points[:, (axis + 1) % 3], points[:, (axis + 2) % 3] = side, u, v
            triangles.append((face if side else face[:, ::-1]) + len(u) * len(vertices))
            vertices.append(points)
    return _merge_equal(np.concatenate(vertices), np.concatenate(triangles))


def torus_mesh(n: int, m: int, *, radius: float = 1.0, tube: float = 0.4) -> Mesh:
    """Return a torus about the z axis: n times around the axis, m times around the tube, 2 n m triangles.

    Args:
        n, m: Rectangles each way, at least 3.
        radius: Distance of the tube's center from the axis.
        tube: Radius of the tube, below `radius`.
    """
    if n < 3 or m < 3 or not 0 < tube < radius:
        raise ValueError(f"a torus needs n, m >= 3 and 0 < tube < radius, not {n}, {m}, {tube} and {radius}")
    around, about = np.meshgrid(np.arange(n) * 2 * np.pi / n, np.arange(m) * 2 * np.pi / m, indexing="ij")
    distance = radius + tube * np.cos(about)
    vertices = np.stack(
        [distance * np.cos(around), distance * np.sin(around), tube * np.sin(about)], axis=-1
    ).reshape(-1, 3)
    i, j = (part.ravel() for part in np.meshgrid(np.arange(n), np.arange(m), indexing="ij"))
    corner, right = i * m + j, (i + 1) % n * m + j
    up, across = i * m + (j + 1) % m, (i + 1) % n * m + (j + 1) % m
    triangles = [np.stack([corner, right, across], axis=1), np.stack([corner, across, up], axis=1)]
    return vertices, np.concatenate(triangles)


def _icosahedron() -> Mesh:
    golden = (1 + 5**0.5) / 2
    signs = np.array([(1, 1), (1, -1), (-1, 1), (-1, -1)])
    rectangle = np.stack([np.zeros(4), signs[:, 0], golden * signs[:, 1]], axis=1)
    vertices = np.concatenate([np.roll(rectangle, shift, axis=1) for shift in range(3)])
    vertices /= np.linalg.norm(vertices, axis=1, keepdims=True)
    distance = np.linalg.norm(vertices[:, None] - vertices, axis=-1)
    adjacent = np.isclose(distance, distance[distance > 0].min())
    triangles = [
        (i, j, k) if np.linalg.det(vertices[[i, j, k]]) > 0 else (i, k, j)
        for i in range(12)
        for j in range(i)
        for k in range(j)
        if adjacent[i, j] and adjacent[j, k] and adjacent[i, k]
    ]
    return vertices, np.array(triangles, dtype=np.int64)


def _split_in_four(vertices: NDArray[np.float64], triangles: NDArray[np.int64]) -> Mesh:
    """Return the mesh with every triangle split between its corners and the midpoints of its edges."""
    edges = np.sort(triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    unique, inverse = np.unique(edges, axis=0, return_inverse=True)
    a, b, c = triangles.T
    ab, bc, ca = inverse.reshape(-1, 3).T + len(vertices)
    parts = [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]
    split = np.concatenate([np.stack(part, axis=1) for part in parts])
    return np.concatenate([vertices, vertices[unique].mean(axis=1)]), split


def _merge_equal(vertices: NDArray[np.float64], triangles: NDArray[np.int64]) -> Mesh:
    """Return the mesh with every vertex once."""
    unique, inverse = np.unique(vertices, axis=0, return_inverse=True)
    return unique, inverse.reshape(-1)[triangles].astype(np.int64)
