"""A surface of flat triangles."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class TriangleMesh:
    """Triangles in space, given by the numbers of their corners.

    Neighbors need not share corners: piecewise constants ask for no more than that triangles do not overlap.

    Attributes:
        vertices: Shape (v, 3); their precision is that of the integrals.
        triangles: Shape (t, 3), int64.

    Raises:
        ValueError: On wrong shapes, a corner that does not exist, or a triangle without area.
    """

    vertices: Tensor
    triangles: Tensor

    def __post_init__(self) -> None:
        for name in ("vertices", "triangles"):
            value = torch.as_tensor(getattr(self, name))
            if value.ndim != 2 or value.shape[1] != 3:
                raise ValueError(f"{name} of a mesh have the shape (n, 3), not {tuple(value.shape)}")
            object.__setattr__(self, name, value)
        outside = (self.triangles < 0) | (self.triangles >= len(self.vertices))
        if outside.any():
            raise ValueError(
                f"a triangle has corner {int(self.triangles[outside][0])} of {len(self.vertices)}"
            )
        rounding = 10 * torch.finfo(self.vertices.dtype).eps
        flat = ~(self.areas > rounding * self.diameters.square())
        if flat.any():
            raise ValueError(f"triangle {int(flat.nonzero()[0])} has no area")

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
        a, b, c = self.corners.unbind(dim=1)
        areas: Tensor = torch.linalg.cross(b - a, c - a).norm(dim=1) / 2
        return areas

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
