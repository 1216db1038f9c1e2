"""The single-layer operator 1/(4 pi r) on piecewise constants, made ready for compression.

Unknowns are the charges q of the triangles, and row i is the mean potential over triangle i:

    A = W' K W + C,   K_xy = 1/(4 pi |x - y|) between quadrature points, 0 where x = y.

W spreads a charge evenly over the points of its triangle, W' takes the mean. K is a kernel matrix and what
an H2 matrix compresses; C is sparse and symmetric, and replaces K's values between near triangles by the
Galerkin integrals. With one point per triangle, each entry of the far field has a relative error of
(diameter/distance)², and the charge one of O(h); with three, the error is far below that of the constants.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from pipeline.hmatrix.boundary_elements.near_field import NearField, rule_points
from pipeline.hmatrix.krylov import SolveInfo, conjugate_gradient
from pipeline.hmatrix.vectors import Vectors, arrays_as_tensors
from pipeline.meshes.triangles import TriangleMesh


class ImplicitMatrix(Protocol):
    """A matrix known by its products."""

    def __matmul__(self, x: Tensor, /) -> Tensor:
        """Return A x for x of shape (n,) or (n, m)."""


class Solver(Protocol):
    """A factorization."""

    def solve(self, b: Tensor, /) -> Tensor:
        """Return the solution for b of shape (n,) or (n, m)."""


@dataclass(frozen=True, eq=False)
class SingleLayer:
    """The single-layer operator of a mesh, without the kernel matrix of its points.

    Attributes:
        mesh: The surface.
        n_points: Quadrature points of each triangle, 1 or 3; those of triangle t are rows t n_points + 0, 1, ... of
            `points`.
        near: Triangles interact exactly within `near` times the larger of their diameters.
        near_field: The near integrals, if they are known already; else they are computed at their first use.

    Raises:
        ValueError: If the near field belongs to another mesh or choice of points.
    """

    mesh: TriangleMesh
    n_points: int = 3
    near: float = 2.0
    near_field: NearField | None = None

    def __post_init__(self) -> None:
        known, n = self.near_field, len(self.mesh)
        if known is not None and (known.n_triangles, known.n_points, known.near) != (
            n,
            self.n_points,
            self.near,
        ):
            raise ValueError(
                f"the near field is that of {known.n_triangles} triangles of {known.n_points} points within "
                f"{known.near} diameters, and this layer has {n} of {self.n_points} within {self.near}"
            )

    def __repr__(self) -> str:
        return f"SingleLayer({self.mesh!r}, {self.n_points} points a triangle)"

    @cached_property
    def points(self) -> Tensor:
        """Quadrature points, shape (n_points t, 3): those of K."""
        return rule_points(self.mesh, self.n_points)

    @cached_property
    def computed_near_field(self) -> NearField:
        """The near integrals: those given, or computed now."""
        return self.near_field or NearField.of(self.mesh, n_points=self.n_points, near=self.near)

    @cached_property
    def corrections(self) -> Tensor:
        """The sparse matrix C, shape (t, t), coalesced COO."""
        return self.computed_near_field.corrections

    @property
    def safe_diagonal(self) -> Tensor:
        """The diagonal that preconditions, shape (t,); see `NearField`."""
        return self.computed_near_field.safe_diagonal

    def operator(self, far: ImplicitMatrix) -> "SingleLayerOperator":
        """Return A, given K as a compressed or dense matrix of the kernel on `points` with diagonal 0."""
        return SingleLayerOperator(self, far)

    def densities(self, charges: Tensor) -> Tensor:
        """Return charge per area."""
        return charges / self.mesh.areas


@dataclass(frozen=True, eq=False)
class SingleLayerOperator:
    """A = W' K W + C as a product.

    Attributes:
        layer: All parts except K.
        far: K.
    """

    layer: SingleLayer
    far: ImplicitMatrix

    def __repr__(self) -> str:
        return f"SingleLayerOperator({self.layer!r}, far {self.far!r})"

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.layer.mesh), len(self.layer.mesh)

    def __matmul__(self, x: Vectors) -> Vectors:
        """Return A x for charges of shape (t,) or (t, m): a tensor for a tensor, an array for an array."""
        y: Vectors = arrays_as_tensors(self._product)(x)
        return y

    def _product(self, x: Any) -> Any:
        if not isinstance(x, Tensor) or x.ndim not in (1, 2) or len(x) != self.shape[1]:
            what = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(
                f"the product needs shape ({self.shape[1]},) or ({self.shape[1]}, m), not {what}"
            )
        if x.is_complex():
            return torch.complex(self._product(x.real), self._product(x.imag))
        columns = x.reshape(len(x), -1).to(self.layer.mesh.vertices.dtype)
        q = self.layer.n_points
        spread = self.far @ (columns / q).repeat_interleave(q, dim=0)
        y = spread.reshape(len(x), q, -1).mean(dim=1)
        y = y + self.layer.corrections @ columns
        return y.reshape(x.shape)


def solve_capacitance(
    A: SingleLayerOperator, F: Solver | None = None, *, tolerance: float = 1e-8, max_iterations: int = 200
) -> tuple[float, Tensor, SolveInfo]:
    """Find the charges that hold a surface at unit potential, and with them its capacitance.

    Args:
        A: The operator.
        F: Factorization that preconditions, of the kernel matrix of the centroids with `safe_diagonal`.
        tolerance: Relative residual, 2-norm.
        max_iterations: Largest number of iterations of conjugate gradients.

    Returns:
        The capacitance in units of 4 pi eps0 (that of a sphere is its radius), the charges (t,), how the solve went.
    """
    charges, info = conjugate_gradient(
        A.__matmul__,
        torch.ones_like(A.layer.mesh.areas),
        preconditioner=None if F is None else F.solve,
        tolerance=tolerance,
        max_iterations=max_iterations,
    )
    return capacitance(charges), charges, info


def capacitance(charges: Tensor) -> float:
    """Return the capacitance, in units of 4 pi eps0, from the charges of a surface at unit potential."""
    return float(charges.sum()) / (4 * math.pi)


def extrapolate(coarse: float, fine: float, *, rate: float, ratio: float = 2.0) -> float:
    """Return the limit of a quantity whose error falls as h^rate, from meshes of sizes h ratio and h (Richardson)."""
    return fine + (fine - coarse) / (math.pow(ratio, rate) - 1)
