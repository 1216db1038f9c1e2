"""Diagnosis of a mesh before anything is computed on it: defects, their number, and where they are."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from pipeline.errors import ConfigError
from pipeline.meshes.triangles import TriangleMesh

_FLAT = 1e-12  # twice the area / longest edge squared, up to which a triangle counts as flat
_SLIVER = 20.0  # longest edge / height on it; 1.15 in an equilateral triangle
_UNLIKE = 10.0  # ratio of the diameters of neighbors
_CLOSE = 0.3  # distance / diameter; 0.87 for equilateral triangles without a common corner in a mesh
_AT_A_TIME = 20_000  # sample points in one search
_ADVICE = {
    "outside": "give the numbers of vertices that exist",
    "not_finite": "remove them",
    "degenerate": "remove them",
    "duplicate": "keep one of each",
    "non_manifold": "divide the surface into sheets that meet in no more than two triangles at an edge",
    "inconsistent": "turn triangles over until neighbors run through their common edge in opposite directions",
    "open_edges": "close the surface, unless it is a screen",
    "inside_out": "turn their triangles over, so that normals point out",
    "unused": "remove them",
    "unmerged": "merge them (merge_vertices)",
    "slivers": "mesh anew: integrals over them are less accurate, and systems are worse conditioned",
    "unlike": "grade the mesh: integrals between them are less accurate",
    "close": "refine the mesh until triangles are of the size of the gap: integrals across it are less accurate",
}
_ADVICE_FOR_ONE = _ADVICE | {
    "not_finite": "remove it",
    "degenerate": "remove it",
    "duplicate": "keep one of the two",
    "inside_out": "turn its triangles over, so that normals point out",
    "unused": "remove it",
    "unmerged": "merge the two (merge_vertices)",
    "slivers": "mesh anew: integrals over it are less accurate, and systems are worse conditioned",
    "unlike": "grade the mesh: integrals between the two are less accurate",
    "close": "refine the mesh until the triangle is of the size of the gap: integrals across it are less accurate",
}
_WHAT = {
    "outside": "triangles with corners that do not exist",
    "not_finite": "vertices that are NaN or infinite",
    "degenerate": "triangles without area",
    "duplicate": "triangles that are there more than once",
    "non_manifold": "edges of more than two triangles",
    "inconsistent": "edges whose two triangles are oriented differently",
    "open_edges": "open edges",
    "inside_out": "closed parts whose normals point inwards",
    "unused": "vertices without a triangle",
    "unmerged": "vertices at the place of another one",
    "slivers": f"slivers (longer than {_SLIVER:g} times their height)",
    "unlike": f"neighbors whose diameters differ by more than {_UNLIKE:g} times",
    "close": f"triangles nearer than {_CLOSE:g} of their diameter to one that they share no corner with",
}
_ONE = {
    "outside": "triangle with a corner that does not exist",
    "not_finite": "vertex that is NaN or infinite",
    "degenerate": "triangle without area",
    "duplicate": "triangle that is there more than once",
    "non_manifold": "edge of more than two triangles",
    "inconsistent": "edge whose two triangles are oriented differently",
    "open_edges": "open edge",
    "inside_out": "closed part whose normals point inwards",
    "unused": "vertex without a triangle",
    "unmerged": "vertex at the place of another one",
    "slivers": f"sliver (longer than {_SLIVER:g} times its height)",
    "unlike": f"pair of neighbors whose diameters differ by more than {_UNLIKE:g} times",
    "close": f"triangle nearer than {_CLOSE:g} of its diameter to one that it shares no corner with",
}
_OF_TRIANGLES = ("outside", "degenerate", "duplicate", "inside_out", "slivers", "close")
_WARNINGS = ("slivers", "unlike", "close")


@dataclass(frozen=True, eq=False)
class Finding:
    """One kind of defect.

    Attributes:
        kind: Name of the defect, a key of `Diagnosis.counts`.
        what: The defect in words.
        count: Number of defects of this kind.
        indices: Triangles or vertices concerned, shape (count,), or edges as pairs of vertices, shape (count, 2).
        place: Coordinates of the first defect, or None if it has none.
        advice: What to do about it.
    """

    kind: str
    what: str
    count: int
    indices: NDArray[np.int64]
    place: tuple[float, ...] | None
    advice: str

    def __str__(self) -> str:
        """Say how often the defect was found and where first; triangles and vertices count from 1, as in files.

        Edges and vertices are given by their place only, because merged vertices have other numbers than in a file.
        """
        where = "" if self.place is None else f" at ({', '.join(f'{x:.4g}' for x in self.place)})"
        first = "the first"
        if self.kind in _OF_TRIANGLES or self.place is None:
            noun = "vertex" if self.kind == "not_finite" else "triangle"
            first += f": {noun} {int(self.indices[0]) + 1}"
        return f"{self.count} {self.what} ({first}{where}): {self.advice}"


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """Defects and size of a mesh.

    Attributes:
        errors: Defects that make boundary elements meaningless. Open edges are among them, but are an error only
            where a surface has to be closed.
        warnings: Defects that cost accuracy or iterations.
        n_vertices, n_triangles, n_parts: Numbers of vertices, triangles and connected parts.
        is_closed: Whether no edge is open.
    """

    errors: tuple[Finding, ...]
    warnings: tuple[Finding, ...]
    n_vertices: int
    n_triangles: int
    n_parts: int
    is_closed: bool

    @property
    def counts(self) -> dict[str, int]:
        """Number of defects of each kind; 0 for kinds that were not found."""
        found = {finding.kind: finding.count for finding in (*self.errors, *self.warnings)}
        return {kind: found.get(kind, 0) for kind in _WHAT}

    def __str__(self) -> str:
        """Return a line for the mesh, and one for each kind of defect."""
        triangles = "triangle" if self.n_triangles == 1 else "triangles"
        parts = "part" if self.n_parts == 1 else "parts"
        lines = [
            f"{self.n_triangles} {triangles}, {self.n_vertices} vertices, {self.n_parts} connected {parts}, "
            f"{'closed' if self.is_closed else 'open'}"
        ]
        lines += [f"error: {finding}" for finding in self.errors]
        lines += [f"warning: {finding}" for finding in self.warnings]
        return "\n".join(lines)

    def require_usable(self, *, closed: bool = True) -> None:
        """Raise ConfigError if the mesh has errors or no triangle; its message is one line.

        Args:
            closed: Whether the surface has to be closed.
        """
        if self.n_triangles == 0:
            raise ConfigError("the mesh cannot be used: it has no triangle")
        errors = [finding for finding in self.errors if closed or finding.kind != "open_edges"]
        if errors:
            raise ConfigError("the mesh cannot be used: " + "; ".join(map(str, errors)))


def diagnose(mesh: TriangleMesh | tuple[ArrayLike, ArrayLike]) -> Diagnosis:
    """Look for defects that make a mesh unfit for boundary elements; costs O(n log n).

    Intersections of triangles that share no corner are not looked for.

    Args:
        mesh: A mesh, or vertices (v, 3) and triangles (t, 3) that `TriangleMesh` may refuse.

    Raises:
        ValueError: If vertices or triangles have another shape.
    """
    given = (mesh.vertices, mesh.triangles) if isinstance(mesh, TriangleMesh) else mesh
    vertices, triangles = np.asarray(given[0], np.float64), np.asarray(given[1], np.int64)
    for name, array in (("vertices", vertices), ("triangles", triangles)):
        if array.ndim != 2 or array.shape[1] != 3:
            raise ValueError(f"{name} of a mesh must have the shape (n, 3), not {array.shape}")
    found: dict[str, NDArray[np.int64]] = {
        "not_finite": np.flatnonzero(~np.isfinite(vertices).all(axis=1)),
        "outside": np.flatnonzero(((triangles < 0) | (triangles >= len(vertices))).any(axis=1)),
    }
    n_parts, is_closed = 0, True
    if not any(len(places) for places in found.values()):
        of_triangles, sound = _triangles(vertices, triangles)
        of_edges, n_parts = _edges(vertices, triangles, sound)
        found |= of_triangles | of_edges | _vertices(vertices, triangles)
        found["close"] = _close(vertices, triangles, sound)
        is_closed = len(found["open_edges"]) == 0 and len(triangles) > 0
    findings = [
        Finding(
            kind, (_ONE if len(found[kind]) == 1 else _WHAT)[kind], len(found[kind]), found[kind],
            _place(vertices, triangles, kind, found[kind]),
            (_ADVICE_FOR_ONE if len(found[kind]) == 1 else _ADVICE)[kind],
        )
        for kind in _WHAT
        if len(found.get(kind, ()))
    ]  # fmt: skip
    return Diagnosis(
        tuple(finding for finding in findings if finding.kind not in _WARNINGS),
        tuple(finding for finding in findings if finding.kind in _WARNINGS),
        len(vertices),
        len(triangles),
        n_parts,
        is_closed,
    )


def merge_vertices(vertices: ArrayLike, triangles: ArrayLike, *, within: float = 0.0) -> TriangleMesh:
    """Return the mesh with equal vertices merged and unused ones left out, as files of separate triangles (STL) need.

    Args:
        vertices: Shape (v, 3).
        triangles: Shape (t, 3).
        within: Vertices in the same cell of a grid of this size are merged; 0 merges only equal ones.

    Raises:
        ValueError: If `TriangleMesh` refuses the result; `diagnose(merged(vertices, triangles))` tells all defects.
    """
    return TriangleMesh(*merged(vertices, triangles, within=within))  # type: ignore[arg-type]


def merged(
    vertices: ArrayLike, triangles: ArrayLike, *, within: float = 0.0
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return vertices and triangles of `merge_vertices`, even if `TriangleMesh` would refuse them."""
    places, corners = np.asarray(vertices, np.float64), np.asarray(triangles, np.int64)
    cells = places + 0.0 if within == 0 else np.round(places / within)  # -0.0 and 0.0 are one place
    _, first, inverse = np.unique(cells, axis=0, return_index=True, return_inverse=True)
    corners = inverse.reshape(-1)[corners]
    used, numbers = np.unique(corners, return_inverse=True)
    return places[first[used]], numbers.reshape(corners.shape)


def _triangles(
    vertices: NDArray[np.float64], triangles: NDArray[np.int64]
) -> tuple[dict[str, NDArray[np.int64]], NDArray[np.bool_]]:
    """Look at each triangle by itself; return defects, and which triangles have an area."""
    corners = vertices[triangles]
    longest = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2).max(axis=1, initial=0.0)
    double = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    flat = ~(double > _FLAT * longest**2)
    with np.errstate(divide="ignore", invalid="ignore"):
        thin = ~flat & (longest**2 > _SLIVER * double)
    _, first = np.unique(np.sort(triangles, axis=1), axis=0, return_index=True)
    again = np.setdiff1d(np.arange(len(triangles)), first)
    return {
        "degenerate": np.flatnonzero(flat),
        "slivers": np.flatnonzero(thin),
        "duplicate": again,
    }, ~flat


def _edges(
    vertices: NDArray[np.float64], triangles: NDArray[np.int64], sound: NDArray[np.bool_]
) -> tuple[dict[str, NDArray[np.int64]], int]:
    """Look at the edges of triangles with an area; return defects, and the number of connected parts."""
    kept = triangles[sound]
    ways = kept[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    owner = np.repeat(np.arange(len(kept)), 3)
    edges, number, count = np.unique(np.sort(ways, axis=1), axis=0, return_inverse=True, return_counts=True)
    number = number.reshape(-1)
    forward = np.bincount(number, weights=ways[:, 0] < ways[:, 1], minlength=len(edges))
    twice = count == 2
    order = np.argsort(number, kind="stable")
    starts = np.concatenate([[0], np.cumsum(count)]).astype(np.int64)[:-1]
    left, right = (owner[order[starts[twice] + k]] for k in (0, 1))
    corners = vertices[kept]
    diameters = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2).max(axis=1, initial=0.0)
    ratio = np.maximum(diameters[left], diameters[right]) / np.minimum(diameters[left], diameters[right])
    n = len(kept)
    graph = coo_array((np.ones(len(left)), (left, right)), shape=(n, n))
    n_parts, part = connected_components(graph, directed=False) if n else (0, np.zeros(0, np.int64))
    # Six times the volume that each part encloses; only a part without defects encloses one.
    volumes = np.bincount(part, weights=np.linalg.det(corners - corners[:1, :1]), minlength=n_parts)
    spoiled = np.zeros(n_parts, bool)
    spoiled[part[owner[(~twice | (forward != 1))[number]]]] = True
    candidates = np.flatnonzero((volumes < 0) & ~spoiled).tolist()
    turned = np.array([p for p in candidates if not _is_inside(p, part, corners)], np.int64)
    _, first = np.unique(part, return_index=True)
    return {
        "open_edges": edges[count == 1],
        "non_manifold": edges[count > 2],
        "inconsistent": edges[twice & (forward != 1)],
        "unlike": np.flatnonzero(sound)[left[ratio > _UNLIKE]],
        "inside_out": np.flatnonzero(sound)[first[turned]],
    }, int(n_parts)


def _close(
    vertices: NDArray[np.float64], triangles: NDArray[np.int64], sound: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Return triangles that nearly touch another one, judged at four points of each."""
    if not sound.any():
        return np.zeros(0, np.int64)
    corners = vertices[triangles[sound]]
    inner = np.vstack([np.full((1, 3), 1 / 3), (1 + 3 * np.eye(3)) / 6])
    samples = (inner @ corners).reshape(-1, 3)
    reach = _CLOSE * np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2).max(axis=1)
    owner = np.repeat(np.flatnonzero(sound), len(inner))
    tree = cKDTree(samples)
    found = [np.zeros(0, np.int64)]
    for first in range(0, len(samples), _AT_A_TIME):
        part = slice(first, first + _AT_A_TIME)
        near = tree.query_ball_point(samples[part], np.repeat(reach, len(inner))[part])
        left = np.repeat(owner[part], [len(others) for others in near])
        right = owner[np.fromiter((i for others in near for i in others), np.int64, len(left))]
        left, right = np.unique(np.stack([left, right]), axis=1)
        apart = ~(triangles[left][:, :, None] == triangles[right][:, None, :]).any(axis=(1, 2))
        found.append(left[apart])
    return np.unique(np.concatenate(found))


def _is_inside(number: int, part: NDArray[Any], corners: NDArray[np.float64]) -> bool:
    """Return whether a part lies within the box of the others; its normals then point into a cavity."""
    own, others = corners[part == number], corners[part != number]
    if len(others) == 0:
        return False
    inside = own.min(axis=(0, 1)) > others.min(axis=(0, 1)), own.max(axis=(0, 1)) < others.max(axis=(0, 1))
    return bool(np.concatenate(inside).all())


def _vertices(vertices: NDArray[np.float64], triangles: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    used = np.unique(triangles)
    _, first = np.unique(vertices[used] + 0.0, axis=0, return_index=True)
    return {
        "unused": np.setdiff1d(np.arange(len(vertices)), used),
        "unmerged": np.setdiff1d(used, used[first]),
    }


def _place(
    vertices: NDArray[np.float64], triangles: NDArray[np.int64], kind: str, places: NDArray[Any]
) -> tuple[float, ...] | None:
    """Return the coordinates of the first defect of a kind, or None if it has none."""
    if kind in ("not_finite", "outside"):
        return None
    first = places[0]
    if kind in ("open_edges", "non_manifold", "inconsistent"):
        point = vertices[first].mean(axis=0)
    elif kind in ("unused", "unmerged"):
        point = vertices[first]
    else:
        point = vertices[triangles[first]].mean(axis=0)
    return tuple(float(x) for x in point)
