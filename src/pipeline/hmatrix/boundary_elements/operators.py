"""Boundary integral operators by a Galerkin method: single, double, adjoint double layer and hypersingular.

On functions linear on each triangle, a fundamental solution G and its normal derivative have the matrices

    Q^T K Q + Z,

where Q spreads functions over quadrature points, K is the compressed kernel matrix of these points, and Z is sparse:
it replaces K's values between near triangles by accurate integrals (`panel_integrals.py`). An operator is a sum of
terms L^T (Q^T K Q + Z) R with sparse matrices L, R that express its functions on the triangles (`spaces.py`).

Conventions: G = exp(i k r)/(4 pi r); normals n point out of the body; V t is the integral of G t, K u that of
dG/dn_y u, K' its transpose, and W u = -d/dn_x K u. On smooth parts of a closed surface, with u and t = du/dn from
inside, (1/2 + K) u = V t and W u = (1/2 - K') t; from outside, for u that radiates, (1/2 - K) u = -V t and
W u = -(1/2 + K') t.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from pipeline.hmatrix.boundary_elements.boundary_operator import (
    AllFunctions,
    BoundaryOperator,
    Functions,
    PanelMatrix,
    Panels,
    Term,
)
from pipeline.hmatrix.boundary_elements.near_field import near_pairs, rule_points
from pipeline.hmatrix.boundary_elements.normal_derivative import (
    FundamentalSolution,
    NormalDerivative,
    wavenumber_of,
)
from pipeline.hmatrix.boundary_elements.panel_integrals import PanelIntegrals
from pipeline.hmatrix.boundary_elements.quadrature import gauss_rule
from pipeline.hmatrix.boundary_elements.spaces import (
    Space,
    mass_matrix,
    normal_components,
    space_matrix,
    surface_curls,
)
from pipeline.hmatrix.boundary_elements.surface import WholeSurface
from pipeline.hmatrix.kernels import Helmholtz, LaplaceSingleLayer, Yukawa
from pipeline.hmatrix.matrix import H2Matrix
from pipeline.meshes.diagnosis import Diagnosis, diagnose
from pipeline.meshes.triangles import TriangleMesh
from pipeline.runtime.together import gather_text, together

_NORMALS = 1e-3  # share of the least diameter: such short normals do not separate points near each other


@dataclass(frozen=True, eq=False)
class LayerOperators:
    """The boundary integral operators of a mesh and a fundamental solution, each built at its first use.

    Attributes:
        mesh: The surface; closed, unless `screen`.
        kernel: The fundamental solution, in space.
        tolerance: Relative error of the compression.
        order: Gauss points in each direction of the rules for near triangles; 4 give a relative error of 1e-5.
        n_points: Quadrature points of each triangle for far ones, 1, 3 or 7.
        near: Triangles are near within `near` times the larger of their diameters.
        screen: Whether the surface is open: its two sides are one surface then.

    Raises:
        ConfigError: If the mesh is diagnosed as unusable.
        TypeError: If the kernel is no fundamental solution.
    """

    mesh: TriangleMesh
    kernel: FundamentalSolution = field(default_factory=LaplaceSingleLayer)
    tolerance: float = 1e-6
    order: int = 4
    n_points: int = 3
    near: float = 2.0
    screen: bool = False
    _spaces: dict[Space, csr_array] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.kernel, LaplaceSingleLayer | Yukawa | Helmholtz):
            raise TypeError(
                f"kernel must be a fundamental solution (LaplaceSingleLayer, Yukawa, Helmholtz), not {self.kernel!r}"
            )
        self.diagnosis.require_usable(closed=not self.screen)

    @cached_property
    def diagnosis(self) -> Diagnosis:
        """What was found wrong with the mesh."""
        return diagnose(self.mesh)

    @cached_property
    def surface(self) -> WholeSurface:
        """Numbers that describe the surface."""
        return WholeSurface.of(self.mesh, self.diagnosis)

    @property
    def wavenumber(self) -> complex:
        return wavenumber_of(self.kernel)

    def n(self, space: Space) -> int:
        """Return the number of functions of a space, over all processes."""
        return int(self._space(space).shape[1])

    def single_layer(self, test: Space = "P0", trial: Space = "P0") -> BoundaryOperator:
        """Return V for test and trial functions of these spaces."""
        return self._operator(test, trial, [Term(1.0, self._single, self._space(test), self._space(trial))])

    def double_layer(self, test: Space = "P0", trial: Space = "P1") -> BoundaryOperator:
        """Return K."""
        return self._operator(test, trial, [Term(1.0, self._double, self._space(test), self._space(trial))])

    def adjoint_double_layer(self, test: Space = "P0", trial: Space = "P0") -> BoundaryOperator:
        """Return K'."""
        term = Term(1.0, self._double, self._space(test), self._space(trial), transposed=True)
        return self._operator(test, trial, [term])

    def hypersingular(self, space: Space | None = None) -> BoundaryOperator:
        """Return W on continuous functions; by default those that vanish on the edge of a screen.

        Integration by parts leaves G alone [1, section 3.3.4]: (v, W u) is the integral of
        G (curl v · curl u - k² v u n_x · n_y).

        References:
            [1] Sauter, Schwab, "Boundary Element Methods", Springer 2011.
        """
        chosen: Space = space or "P1_0"
        if chosen == "P0":
            raise ValueError("the hypersingular operator needs continuous functions, P1 or P1_0, not P0")
        functions = self._space(chosen)
        terms = [Term(1.0, self._single, c, c) for c in surface_curls(self.mesh, functions)]
        if self.wavenumber:
            square: complex = self.wavenumber**2
            factor = -square.real if square.imag == 0 else -square
            terms += [Term(factor, self._single, c, c) for c in normal_components(self.mesh, functions)]
        return self._operator(chosen, chosen, terms)

    def mass(self, test: Space = "P0", trial: Space = "P0") -> csr_array:
        """Return the integrals of products of functions of two spaces."""
        return self._mass(test, trial)

    def identity(self, test: Space = "P0", trial: Space = "P0") -> BoundaryOperator:
        """Return the mass matrix as an operator."""
        mass = self._mass(test, trial)
        return BoundaryOperator(self._functions(test), self._functions(trial), np.dtype(np.float64), (), mass)

    def _mass(self, test: Space, trial: Space) -> csr_array:
        """Return the mass matrix of this process's triangles."""
        return (self._space(test).T @ mass_matrix(self.mesh, self._n_own) @ self._space(trial)).tocsr()

    def loads(self, values: Callable[[NDArray[Any]], NDArray[Any]], test: Space = "P0") -> NDArray[Any]:
        """Return the integrals of a function times the functions of a space, by seven points per triangle.

        Args:
            values: Function of points (n, 3), with values (n,). On a divided surface each process calls it for its own
                triangles.
            test: The space.
        """
        coordinates, weights = (part.numpy() for part in gauss_rule(7))
        n, functions = self._n_own, self._functions(test)
        corners, areas = self.mesh.corners[:n].double().numpy(), self.mesh.areas[:n].double().numpy()
        points = (coordinates @ corners).reshape(-1, 3)
        with together(functions.communicator):
            found = np.asarray(values(points))
            if found.shape != (len(points),):
                raise ValueError(
                    f"a function of points (n, 3) has to give values (n,): shape ({len(points)},), not {found.shape}"
                )
            if found.dtype.kind not in "biufc":
                raise TypeError(f"a function of points has to give numbers, not {found.dtype}")
        # Some processes may have no triangles, and no values to tell their type.
        kind = np.result_type(np.float64, *gather_text(functions.communicator, found.dtype.name))
        local = areas[:, None] * ((found.astype(kind).reshape(n, len(weights)) * weights) @ coordinates)
        share = self._space(test)[: 3 * n].T @ local.reshape(-1, 1)
        return np.asarray(functions.collect(share)[:, 0])

    def on_panels(self, values: NDArray[Any], space: Space) -> NDArray[Any]:
        """Return functions of a space by their values at the corners of each triangle, shape (3 t,) or (3 t, m)."""
        columns = np.asarray(values)
        known = self._functions(space).spread(columns.reshape(len(columns), math.prod(columns.shape[1:])))
        found = np.asarray(self._space(space) @ known)[: 3 * self._n_own]
        return found.reshape(len(found), *columns.shape[1:])

    def _operator(self, test: Space, trial: Space, terms: Sequence[Term]) -> BoundaryOperator:
        kinds = [np.asarray(t.coefficient).dtype for t in terms] + [terms[0].panels.dtype]
        return BoundaryOperator(
            self._functions(test), self._functions(trial), np.result_type(*kinds), tuple(terms)
        )

    @property
    def _n_own(self) -> int:
        """Number of own triangles, which come before those known as neighbors only: here all of them."""
        return len(self.mesh)

    def _functions(self, space: Space) -> Functions:
        """Return the functions of a space, as far as this process knows them."""
        return AllFunctions(int(self._space(space).shape[1]))

    def _space(self, space: Space) -> csr_array:
        if space not in self._spaces:
            self._spaces[space] = space_matrix(self.mesh, space)
        return self._spaces[space]

    @cached_property
    def _single(self) -> Panels:
        far = H2Matrix.from_kernel(self._points, self.kernel, tolerance=self.tolerance)
        return PanelMatrix(self._rule, far, self._integrals.single)

    @cached_property
    def _double(self) -> Panels:
        far = H2Matrix.from_kernel(
            self._points_with_normals,
            self._normal_derivative,
            tolerance=self.tolerance,
            admissibility="strong",
        )
        return PanelMatrix(self._rule, far, self._integrals.double)

    @cached_property
    def _normal_derivative(self) -> NormalDerivative:
        return NormalDerivative(self.kernel, _NORMALS * self.surface.shortest)

    @cached_property
    def _integrals(self) -> PanelIntegrals:
        return PanelIntegrals.of(
            self._centered, self.wavenumber, self._near_pairs(), n_points=self.n_points, order=self.order
        )

    def _near_pairs(self) -> torch.Tensor:
        """Return the pairs of triangles that are integrated accurately, shape (2, p): each with itself first."""
        itself = torch.arange(self._n_own).expand(2, self._n_own)
        return torch.cat([itself, near_pairs(self._centered, self.near)], dim=1)

    @cached_property
    def _points(self) -> torch.Tensor:
        return rule_points(self._centered, self.n_points)[: self.n_points * self._n_own]

    @property
    def _points_with_normals(self) -> torch.Tensor:
        normals = self.mesh.normals.double()[: self._n_own].repeat_interleave(self.n_points, dim=0)
        return torch.cat([self._points, self._normal_derivative.scale * normals], dim=1)

    @cached_property
    def _rule(self) -> csr_array:
        """Q: weights times functions at the quadrature points."""
        coordinates, weights = (part.numpy() for part in gauss_rule(self.n_points))
        n, q = self._n_own, self.n_points
        values = self.mesh.areas.double().numpy()[:n, None, None] * (weights[:, None] * coordinates)
        rows = (q * np.arange(n)[:, None, None] + np.arange(q)[:, None]) + np.zeros((1, 1, 3), int)
        columns = (3 * np.arange(n)[:, None, None] + np.arange(3)) + np.zeros((1, q, 1), int)
        return csr_array((values.ravel(), (rows.ravel(), columns.ravel())), shape=(n * q, 3 * n))

    @cached_property
    def _centered(self) -> TriangleMesh:
        """The mesh moved to the origin, so that no digits are lost to its distance from there."""
        center = torch.from_numpy(self.surface.center)
        return TriangleMesh(self.mesh.vertices.double() - center, self.mesh.triangles)
