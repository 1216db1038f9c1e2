"""A surface of flat triangles."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

_RESOLVED = 1e-3  # spacing of floating-point numbers / diameter; more would show in integrals


@dataclass(frozen=True, eq=False)
class TriangleMesh:
    """Triangles in space, given by the indices of their corners.

    Neighbors need not share corners: piecewise constants only require that triangles do not overlap.

    Attributes:
        vertices: Shape (v, 3); integrals are computed in their precision.
        triangles: Shape (t, 3), int64.

    Raises:
        ValueError: If shapes are wrong, a corner does not exist, or a triangle has no area or is too small, at its
            distance from the origin, for the precision of the vertices.
    """

    vertices: Tensor
    triangles: Tensor

    def __post_init__(self) -> None:
        for name in ("vertices", "triangles"):
            value = torch.as_tensor(getattr(self, name))
            if name == "vertices" and not value.is_floating_point():
                value = value.double()
            if value.ndim != 2 or value.shape[1] != 3:
                raise ValueError(f"{name} of a mesh must have the shape (n, 3), not {tuple(value.shape)}")
            object.__setattr__(self, name, value)
        outside = (self.triangles < 0) | (self.triangles >= len(self.vertices))
        if outside.any():
            raise ValueError(
                f"a triangle has corner {int(self.triangles[outside][0])} of {len(self.vertices)}"
            )
        rounding = 10 * torch.finfo(self.vertices.dtype).eps
        flat = ~(self.areas > rounding * self.diameters.square())
        if flat.any():
            raise ValueError(f"triangle {int(flat.nonzero()[0][0]) + 1}, counted from 1, has no area")
        self._require_digits()

    def _require_digits(self) -> None:
        """Raise ValueError if a triangle is too small for the spacing of floating-point numbers at its place."""
        if not len(self):
            return
        resolved = torch.finfo(self.vertices.dtype).eps * self.corners.abs().amax(dim=(1, 2))
        worst = int((resolved / self.diameters).argmax())
        if float(resolved[worst]) > _RESOLVED * float(self.diameters[worst]):
            kind = str(self.vertices.dtype).removeprefix("torch.")
            raise ValueError(
                f"triangle {worst + 1}, counted from 1, has the diameter "
                f"{float(self.diameters[worst]):.2g} where {kind} resolves "
                f"{float(resolved[worst]):.1g}: move the mesh to the origin"
                + ("" if self.vertices.dtype == torch.float64 else ", or give vertices in float64")
            )

    def __repr__(self) -> str:
        return f"TriangleMesh({len(self.vertices)} vertices, {len(self)} triangles)"

    def __len__(self) -> int:
        return len(self.triangles)

    @cached_property
    def corners(self) -> Tensor:
        """Corners of each triangle, shape (t, 3, 3): triangle, corner, coordinate."""
        return self.vertices[self.triangles]

    @cached_property
    def areas(self) -> Tensor:
        """Area of each triangle, shape (t,)."""
        areas: Tensor = self._crossed.norm(dim=1) * self.diameters.square() / 2
        return areas

    @cached_property
    def normals(self) -> Tensor:
        """Unit normal of each triangle, shape (t, 3), about which its corners run counterclockwise."""
        normals: Tensor = self._crossed / self._crossed.norm(dim=1, keepdim=True)
        return normals

    @cached_property
    def _crossed(self) -> Tensor:
        """Cross product of two edges in units of the diameter; its length depends only on a triangle's shape."""
        a, b, c = self.corners.unbind(dim=1)
        length = torch.where(self.diameters > 0, self.diameters, 1.0)[:, None]
        crossed: Tensor = torch.linalg.cross((b - a) / length, (c - a) / length)
        return crossed

    @cached_property
    def open_edges(self) -> Tensor:
        """Edges of one triangle only, as pairs of vertices, shape (e, 2)."""
        ways = self.triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).sort(dim=1).values
        edges, count = torch.unique(ways, dim=0, return_counts=True)
        open_edges: Tensor = edges[count == 1]
        return open_edges

    @property
    def is_closed(self) -> bool:
        """Whether there are triangles, and none of their edges is open."""
        return len(self) > 0 and len(self.open_edges) == 0

    @cached_property
    def centroids(self) -> Tensor:
        """Center of mass of each triangle, shape (t, 3)."""
        return self.corners.mean(dim=1)

    @cached_property
    def diameters(self) -> Tensor:
        """Longest edge of each triangle, shape (t,)."""
        edges: Tensor = self.corners - self.corners.roll(1, dims=1)
        longest: Tensor = edges.norm(dim=2).amax(dim=1)
        return longest
