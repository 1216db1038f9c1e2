"""Boundary integral operators by a Galerkin method: single, double, adjoint double layer and hypersingular.

On functions linear on each triangle, a fundamental solution G and its normal derivative have the matrices

    Q^T K Q + Z,

where Q spreads functions over quadrature points, K is the kernel matrix of these points, compressed, and Z is sparse:
it replaces what K says of near triangles by accurate integrals (`panel_integrals.py`). An operator is a sum of terms
L^T (Q^T K Q + Z) R with sparse matrices L, R that say how its functions look on the triangles (`spaces.py`).

Conventions: G = exp(i k r)/(4 pi r); normals n point out of the body; V t is the integral of G t, K u that of
dG/dn_y u, K' its transpose, and W u = -d/dn_x K u. On smooth parts of a closed surface, with u and t = du/dn from
inside, (1/2 + K) u = V t and W u = (1/2 - K') t; from outside, for u that radiates, (1/2 - K) u = -V t and
W u = -(1/2 + K') t.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from pipeline.hmatrix.boundary_elements.near_field import rule_points
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
from pipeline.hmatrix.kernels import Helmholtz, LaplaceSingleLayer, Yukawa
from pipeline.hmatrix.matrix import H2Matrix
from pipeline.meshes.diagnosis import Diagnosis, diagnose
from pipeline.meshes.triangles import TriangleMesh

_NORMALS = 1e-3  # of the least diameter: normals so short do not part points that are near each other


@dataclass(frozen=True, eq=False)
class PanelMatrix:
    """Q^T K Q + Z on functions linear on each triangle.

    Attributes:
        rule: Q, shape (points, 3 t).
        far: K.
        near: Z.
    """

    rule: csr_array
    far: H2Matrix
    near: csr_array

    def product(self, x: NDArray[Any], *, transposed: bool) -> NDArray[Any]:
        """Return the product with x of shape (3 t, m), or that of the transpose."""
        points = self.rule @ x
        far = self.far.product_transposed(points) if transposed else self.far @ points
        return np.asarray(self.rule.T @ far + (self.near.T if transposed else self.near) @ x)


@dataclass(frozen=True, eq=False)
class Term:
    """coefficient · L^T P R, P a panel matrix or its transpose."""

    coefficient: complex
    panels: PanelMatrix
    left: csr_array
    right: csr_array
    transposed: bool = False


@dataclass(frozen=True, eq=False)
class BoundaryOperator:
    """A Galerkin matrix: terms with panel matrices, and a sparse one. Sums and multiples are operators again.

    Attributes:
        shape: Functions that test, functions that are tried.
        dtype: The type of products with real vectors.
        terms: The operators whose sum it is, together with
        sparse: this, or None.
    """

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    terms: tuple[Term, ...]
    sparse: csr_array | None = None

    # NumPy's numbers leave their products with an operator to it.
    __array_ufunc__ = None

    def __matmul__(self, x: Any) -> Any:
        """Return the product with x of shape (n,) or (n, m): a tensor of a tensor, an array of an array."""
        if isinstance(x, torch.Tensor):
            return torch.from_numpy(self @ x.detach().cpu().numpy())
        x = np.asarray(x)
        if x.ndim not in (1, 2) or len(x) != self.shape[1]:
            raise ValueError(
                f"the product wants shape ({self.shape[1]},) or ({self.shape[1]}, m), not {x.shape}"
            )
        columns = x.reshape(len(x), -1)
        m = columns.shape[1]
        y = np.zeros((self.shape[0], m), np.result_type(self.dtype, x.dtype))
        if self.sparse is not None:
            y += self.sparse @ columns
        # Terms with the same panel matrix go through one product of more columns.
        waiting = list(self.terms)
        while waiting:
            first = waiting[0]
            together = [t for t in waiting if (t.panels, t.transposed) == (first.panels, first.transposed)]
            waiting = [t for t in waiting if t not in together]
            spread = np.concatenate([t.right @ columns for t in together], axis=1)
            product = first.panels.product(spread, transposed=first.transposed)
            for number, term in enumerate(together):
                y += term.coefficient * (term.left.T @ product[:, number * m : (number + 1) * m])
        return y.reshape(self.shape[0], *x.shape[1:])

    def matvec(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return A x, as `scipy.sparse.linalg.aslinearoperator` asks."""
        return np.asarray(self @ x)

    def rmatvec(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return A^H x, like `matvec`."""
        return np.asarray((self.T @ x.conj()).conj())

    @property
    def T(self) -> "BoundaryOperator":
        """The transpose."""
        terms = tuple(Term(t.coefficient, t.panels, t.right, t.left, not t.transposed) for t in self.terms)
        sparse = None if self.sparse is None else self.sparse.T.tocsr()
        return BoundaryOperator(self.shape[::-1], self.dtype, terms, sparse)

    def __add__(self, other: Any) -> "BoundaryOperator":
        """Return the sum with an operator or a SciPy sparse matrix."""
        if isinstance(other, BoundaryOperator):
            terms, sparse = other.terms, other.sparse
        elif issparse(other):
            terms, sparse = (), csr_array(other)
        else:
            return NotImplemented
        if other.shape != self.shape:
            raise ValueError(f"operators of shapes {self.shape} and {other.shape} cannot be added")
        parts = [part for part in (self.sparse, sparse) if part is not None]
        total = None if not parts else (parts[0] if len(parts) == 1 else (parts[0] + parts[1]).tocsr())
        return BoundaryOperator(
            self.shape, np.result_type(self.dtype, other.dtype), (*self.terms, *terms), total
        )

    def __radd__(self, other: Any) -> "BoundaryOperator":
        """Return the sum with a sparse matrix, or with the 0 that `sum` begins with."""
        return self if isinstance(other, int | float) and other == 0 else self + other

    def __mul__(self, factor: complex) -> "BoundaryOperator":
        """Return the operator times a number."""
        if not isinstance(factor, int | float | complex | np.number):
            return NotImplemented
        if not np.isfinite(factor):
            raise ValueError(f"an operator can be multiplied by finite factors, not {factor}")
        factor = np.asarray(factor).item()
        terms = tuple(
            Term(factor * t.coefficient, t.panels, t.left, t.right, t.transposed) for t in self.terms
        )
        sparse = None if self.sparse is None else (factor * self.sparse).tocsr()
        kind = np.result_type(self.dtype, np.complex128 if isinstance(factor, complex) else np.float64)
        return BoundaryOperator(self.shape, kind, terms, sparse)

    __rmul__ = __mul__

    def __truediv__(self, divisor: complex) -> "BoundaryOperator":
        """Return the operator divided by a number."""
        if not isinstance(divisor, int | float | complex | np.number):
            return NotImplemented
        if divisor == 0:
            raise ZeroDivisionError("an operator cannot be divided by 0")
        return self * (1 / divisor)

    def __neg__(self) -> "BoundaryOperator":
        return -1.0 * self

    def __sub__(self, other: Any) -> "BoundaryOperator":
        if not (isinstance(other, BoundaryOperator) or issparse(other)):
            return NotImplemented
        negative: BoundaryOperator = -1.0 * other
        return self + negative

    def __rsub__(self, other: Any) -> "BoundaryOperator":
        return -self + other if issparse(other) else NotImplemented

    def scaling(self) -> NDArray[np.float64]:
        """Return the sizes of what is near on the diagonal, to precondition with."""
        total = np.zeros(self.shape[0], complex)
        for t in self.terms:
            near = t.panels.near.T if t.transposed else t.panels.near
            total += t.coefficient * (t.left * (near @ t.right)).sum(axis=0)
        if self.sparse is not None:
            total += self.sparse.diagonal()
        return np.abs(total)

    def to_dense(self) -> NDArray[Any]:
        """Return the matrix as it is represented: for tests and small ones."""
        return np.asarray(self @ np.eye(self.shape[1]))

    def as_linear_operator(self) -> LinearOperator:
        """Return the same for SciPy's iterative methods."""
        return aslinearoperator(self)


@dataclass(frozen=True, eq=False)
class LayerOperators:
    """The boundary integral operators of a mesh and a fundamental solution, each made when it is first wanted.

    Attributes:
        mesh: The surface; closed, unless `screen`.
        kernel: The fundamental solution, in space.
        tolerance: The relative error allowed to compression.
        order: Gauss points in each direction of the rules for near triangles: 4 leaves 1e-5 of their integrals.
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
    _spaces: dict[Space, csr_array] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.kernel, LaplaceSingleLayer | Yukawa | Helmholtz):
            raise TypeError(
                f"kernel wants a fundamental solution (LaplaceSingleLayer, Yukawa, Helmholtz), not {self.kernel!r}"
            )
        self.diagnosis.require_usable(closed=not self.screen)

    @cached_property
    def diagnosis(self) -> Diagnosis:
        """What was found wrong with the mesh."""
        return diagnose(self.mesh)

    @property
    def wavenumber(self) -> complex:
        return wavenumber_of(self.kernel)

    def n(self, space: Space) -> int:
        """Return the number of functions of a space."""
        return int(self._space(space).shape[1])

    def single_layer(self, test: Space = "P0", trial: Space = "P0") -> BoundaryOperator:
        """Return V, tested and tried with functions of these spaces."""
        return self._operator([Term(1.0, self._single, self._space(test), self._space(trial))])

    def double_layer(self, test: Space = "P0", trial: Space = "P1") -> BoundaryOperator:
        """Return K."""
        return self._operator([Term(1.0, self._double, self._space(test), self._space(trial))])

    def adjoint_double_layer(self, test: Space = "P0", trial: Space = "P0") -> BoundaryOperator:
        """Return K'."""
        return self._operator(
            [Term(1.0, self._double, self._space(test), self._space(trial), transposed=True)]
        )

    def hypersingular(self, space: Space | None = None) -> BoundaryOperator:
        """Return W on continuous functions; by default those that vanish on the edge of a screen.

        Integration by parts leaves G alone [1, section 3.3.4]: (v, W u) is the integral of
        G (curl v · curl u - k² v u n_x · n_y).

        References:
            [1] Sauter, Schwab, "Boundary Element Methods", Springer 2011.
        """
        chosen: Space = space or "P1_0"
        if chosen == "P0":
            raise ValueError("the hypersingular operator wants continuous functions, P1 or P1_0, not P0")
        terms = [Term(1.0, self._single, c, c) for c in surface_curls(self.mesh, chosen)]
        if self.wavenumber:
            square: complex = self.wavenumber**2
            factor = -square.real if square.imag == 0 else -square
            terms += [Term(factor, self._single, c, c) for c in normal_components(self.mesh, chosen)]
        return self._operator(terms)

    def mass(self, test: Space = "P0", trial: Space = "P0") -> csr_array:
        """Return the integrals of products of functions of two spaces."""
        return (self._space(test).T @ mass_matrix(self.mesh) @ self._space(trial)).tocsr()

    def loads(self, values: Callable[[NDArray[Any]], NDArray[Any]], test: Space = "P0") -> NDArray[Any]:
        """Return the integrals of a function times those of a space, by seven points a triangle.

        Args:
            values: Function of points (n, 3), with values (n,).
            test: The space.
        """
        coordinates, weights = (part.numpy() for part in gauss_rule(7))
        corners, areas = self.mesh.corners.double().numpy(), self.mesh.areas.double().numpy()
        points = (coordinates @ corners).reshape(-1, 3)
        found = np.asarray(values(points))
        if found.shape != (len(points),):
            raise ValueError(
                f"a function of points (n, 3) has to give values (n,): shape ({len(points)},), not {found.shape}"
            )
        local = areas[:, None] * ((found.reshape(len(areas), -1) * weights) @ coordinates)
        return np.asarray(self._space(test).T @ local.reshape(-1))

    def on_panels(self, values: NDArray[Any], space: Space) -> NDArray[Any]:
        """Return a function of a space by its values at the corners of each triangle, shape (3 t,)."""
        return np.asarray(self._space(space) @ values)

    def _operator(self, terms: Sequence[Term]) -> BoundaryOperator:
        kinds = [np.asarray(t.coefficient).dtype for t in terms] + [terms[0].panels.far.dtype]
        return BoundaryOperator(
            (terms[0].left.shape[1], terms[0].right.shape[1]), np.result_type(*kinds), tuple(terms)
        )

    def _space(self, space: Space) -> csr_array:
        if space not in self._spaces:
            self._spaces[space] = space_matrix(self.mesh, space)
        return self._spaces[space]

    @cached_property
    def _single(self) -> PanelMatrix:
        far = H2Matrix.from_kernel(self._points, self.kernel, tolerance=self.tolerance)
        return PanelMatrix(self._rule, far, self._integrals.single)

    @cached_property
    def _double(self) -> PanelMatrix:
        scale = _NORMALS * float(self.mesh.diameters.min())
        normals = self.mesh.normals.double().repeat_interleave(self.n_points, dim=0)
        far = H2Matrix.from_kernel(
            torch.cat([self._points, scale * normals], dim=1),
            NormalDerivative(self.kernel, scale),
            tolerance=self.tolerance,
            admissibility="strong",
        )
        return PanelMatrix(self._rule, far, self._integrals.double)

    @cached_property
    def _integrals(self) -> PanelIntegrals:
        return PanelIntegrals.of(
            self._centered, self.wavenumber, n_points=self.n_points, near=self.near, order=self.order
        )

    @cached_property
    def _points(self) -> torch.Tensor:
        return rule_points(self._centered, self.n_points)

    @cached_property
    def _rule(self) -> csr_array:
        """Q: weights times functions at the quadrature points."""
        coordinates, weights = (part.numpy() for part in gauss_rule(self.n_points))
        n, q = len(self.mesh), self.n_points
        values = self.mesh.areas.double().numpy()[:, None, None] * (weights[:, None] * coordinates)
        rows = (q * np.arange(n)[:, None, None] + np.arange(q)[:, None]) + np.zeros((1, 1, 3), int)
        columns = (3 * np.arange(n)[:, None, None] + np.arange(3)) + np.zeros((1, q, 1), int)
        return csr_array((values.ravel(), (rows.ravel(), columns.ravel())), shape=(n * q, 3 * n))

    @cached_property
    def _centered(self) -> TriangleMesh:
        """The mesh about the origin, so that no digits go to its distance from there."""
        vertices = self.mesh.vertices.double()
        return TriangleMesh(vertices - vertices.mean(dim=0), self.mesh.triangles)
