"""Boundary integral operators of a surface whose triangles are divided among processes.

A panel matrix Q^T K Q + Z (`boundary_elements/operators.py`) is divided by rows: a process has those of its own
triangles. K is a divided H2 matrix of the quadrature points; the transpose of a double layer's K is compressed by
itself. For Z a process knows the triangles near its own, and all functions of a space on either. It fetches the values
of functions that others own, and sends its sums for them to the owners. A constant belongs to the owner of its
triangle, a linear function to the owner of its vertex.
"""

import json
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from pipeline.hmatrix.boundary_elements import LayerOperators, TriangleMesh
from pipeline.hmatrix.boundary_elements.boundary_operator import Functions, Panels
from pipeline.hmatrix.boundary_elements.normal_derivative import FundamentalSolution
from pipeline.hmatrix.boundary_elements.problems import notes_on
from pipeline.hmatrix.boundary_elements.spaces import Space, space_matrix
from pipeline.hmatrix.boundary_elements.surface import WholeSurface
from pipeline.hmatrix.distributed.known_functions import KnownFunctions
from pipeline.hmatrix.distributed.matrix import DistributedH2Matrix
from pipeline.hmatrix.distributed.single_layer import OwnTriangles
from pipeline.hmatrix.inputs import as_array, described, require_tolerance
from pipeline.hmatrix.kernels import Helmholtz, Kernel, LaplaceSingleLayer, Yukawa
from pipeline.hmatrix.swap import Ids
from pipeline.meshes.diagnosis import Diagnosis
from pipeline.runtime.communicator import Communicator, require_communicator
from pipeline.runtime.together import gather_text, require_alike, together
from pipeline.runtime.words import shown

_AT_A_TIME = 65536  # rows of an array that are read together
_TIE = 1e-2  # relative difference of distances, above that of rounding wherever a mesh may lie


@dataclass(frozen=True, eq=False)
class OwnPanels:
    """Rows of a panel matrix and of its transpose: those of own triangles, which come first.

    Attributes:
        rule: Q of own triangles.
        near: Z, whose rows and columns of own triangles are complete; shape (3 t, 3 t) for own triangles and those near
            them.
        dtype: The type of the entries.
        compressed: Returns K divided like the triangles, or its transpose if called with True; collective. The
            equations of a wave need one of the two.
    """

    rule: csr_array
    near: csr_array
    dtype: np.dtype[Any]
    compressed: Callable[[bool], DistributedH2Matrix]
    _made: dict[bool, tuple[DistributedH2Matrix, csr_array]] = field(
        default_factory=dict, init=False, repr=False
    )

    def product(self, x: NDArray[Any], *, transposed: bool) -> NDArray[Any]:
        """Return own rows of the product with x of shape (3 t, m), 0 in those of others; collective."""
        n_own = self.rule.shape[1]
        far, near = self.rows(transposed=transposed)
        y = np.asarray(near @ x)
        y[:n_own] += self.rule.T @ (far @ (self.rule @ x[:n_own]))
        return y

    def rows(self, *, transposed: bool) -> tuple[DistributedH2Matrix, csr_array]:
        """Return own rows of K and of Z, or of their transposes; collective at the first call."""
        if transposed not in self._made:
            n_own = self.rule.shape[1]
            near = _first_rows(self.near.T.tocsr() if transposed else self.near, n_own, self.dtype)
            self._made[transposed] = self.compressed(transposed), near
        return self._made[transposed]

    def near_rows(self, *, transposed: bool) -> csr_array:
        """Return own rows of Z or of its transpose; others are 0."""
        return self.rows(transposed=transposed)[1]


@dataclass(frozen=True, eq=False)
class DistributedLayerOperators(LayerOperators):
    """The operators of `LayerOperators` on a divided surface.

    Construction, products, sums and multiples are collective: all processes call the same methods in the same order.

    Attributes:
        n_own: Number of own triangles, the first of `mesh`; the others are near to these.
        numbers: Numbers of the triangles of `mesh` in the whole mesh.
        vertices: Numbers of the vertices of `mesh` in the whole mesh, sorted.
        edges: Shape (processes + 1,); process p has triangles edges[p] to edges[p + 1] - 1.
        whole: Numbers that describe the whole surface.
        notes: Notes on the surface.
        communicator: The processes.
    """

    n_own: int = 0
    numbers: Ids = field(default_factory=lambda: np.zeros(0, np.int64))
    vertices: Ids = field(default_factory=lambda: np.zeros(0, np.int64))
    edges: Ids = field(default_factory=lambda: np.zeros(0, np.int64))
    whole: WholeSurface | None = None
    notes: tuple[str, ...] = ()
    communicator: Communicator | None = None
    _known: dict[Space, KnownFunctions] = field(default_factory=dict, init=False, repr=False)
    _panels: dict[str, Panels] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of(
        cls,
        vertices: ArrayLike,
        triangles: ArrayLike,
        kernel: FundamentalSolution,
        communicator: Communicator,
        *,
        tolerance: float = 1e-6,
    ) -> "DistributedLayerOperators":
        """Divide a surface into as many ranges of triangles as there are processes; collective.

        A surface with open edges is a screen. The first process looks at all of the mesh, to diagnose it; the others
        read it piece by piece, so that arrays mapped from files never come to memory whole.

        Args:
            vertices: Shape (v, 3). All arguments are the same on all processes.
            triangles: Shape (t, 3).
            kernel: The fundamental solution.
            communicator: The processes.
            tolerance: Relative error of the compression.

        Raises:
            ConfigError: If the mesh is not usable, or too coarse for the kernel's wavelength, or if processes pass
                different arguments; all of them raise it.
            TypeError, ValueError: If an argument of one process is wrong; all of them raise it.
        """
        require_communicator(communicator)
        with together(communicator):
            if not isinstance(kernel, LaplaceSingleLayer | Yukawa | Helmholtz):
                raise TypeError(
                    "kernel must be a fundamental solution (LaplaceSingleLayer, Yukawa, Helmholtz), not "
                    f"{shown(kernel)}"
                )
            require_tolerance(tolerance)
            vertices = _as_rows(vertices, "vertices", "biuf", "numbers")
            triangles = _as_rows(triangles, "triangles", "iu", "whole numbers")
            told = {"kernel": described(kernel), "tolerance": float(tolerance)}
            told |= _checksums("vertices", vertices, np.float64) | _checksums(
                "triangles", triangles, np.int64
            )
        require_alike(communicator, told)
        whole, notes = _everybodys_surface(vertices, triangles, kernel, communicator)
        edges = _edges(len(triangles), communicator)
        first, last = edges[communicator.rank :][:2].tolist()
        with together(communicator):
            # On structured meshes, distances may equal the limit for near triangles, so that rounding decides in
            # `near_pairs`. Both processes have to know such triangles.
            others = OwnTriangles.of(vertices, triangles, first, last, near=(1 + _TIE) * cls.near).others
            numbers = np.concatenate([np.arange(first, last), others])
            corners = np.asarray(triangles[numbers], np.int64).reshape(-1, 3)
            known = np.unique(corners)
            mesh = TriangleMesh(
                torch.from_numpy(np.array(vertices[known], np.float64).reshape(-1, 3)),
                torch.from_numpy(np.searchsorted(known, corners)),
            )
        return cls(
            mesh, kernel, tolerance, screen=len(whole.open_vertices) > 0,
            n_own=last - first, numbers=numbers, vertices=known, edges=edges, whole=whole, notes=notes,
            communicator=communicator,
        )  # fmt: skip

    def __post_init__(self) -> None:
        if self.whole is None or self.communicator is None:
            raise TypeError("divided operators are made by DistributedLayerOperators.of")

    def __getstate__(self) -> None:
        """Raise TypeError: processes cannot be copied."""
        raise TypeError(
            "operators of a divided surface cannot be pickled or copied: make them anew on all processes"
        )

    @property
    def diagnosis(self) -> Diagnosis:
        """Raise TypeError: triangles here are a part of the surface, which is open whatever the whole is."""
        raise TypeError(
            "divided operators know a part of their surface: `notes` has what was found wrong with all of it, and "
            "solve_distributed_scattering solves with them"
        )

    @property
    def surface(self) -> WholeSurface:
        """Numbers that describe the surface."""
        assert self.whole is not None
        return self.whole

    @cached_property
    def own_mesh(self) -> TriangleMesh:
        """This process's triangles."""
        return TriangleMesh(self.mesh.vertices, self.mesh.triangles[: self.n_own])

    def n(self, space: Space) -> int:
        """Return the number of functions of a space, over all processes."""
        if space == "P0":
            return self.surface.n_triangles
        return self.surface.n_vertices - (len(self.surface.open_vertices) if space == "P1_0" else 0)

    def mass(self, test: Space = "P0", trial: Space = "P0") -> csr_array:
        """Raise TypeError: `identity` is the same as an operator, whose products are collective."""
        raise TypeError("the mass matrix of a divided surface is an operator: identity(test, trial)")

    @property
    def _n_own(self) -> int:
        return self.n_own

    def _space(self, space: Space) -> csr_array:
        if space not in self._spaces:
            if space == "P0":
                found = space_matrix(self.mesh, "P0")[:, np.argsort(self.numbers)]
            else:
                found = space_matrix(self.mesh, "P1")
                if space == "P1_0":
                    found = found[:, ~np.isin(self.vertices, self.surface.open_vertices)]
            self._spaces[space] = csr_array(found)
        return self._spaces[space]

    def _functions(self, space: Space) -> Functions:
        if space == "P1_0" and not len(self.surface.open_vertices):
            space = "P1"  # no vertex is left out: these are the same functions
        if space not in self._known:
            assert self.communicator is not None
            known, edges = np.sort(self.numbers), self.edges
            if space != "P0":
                known, is_open = self.vertices, self.surface.open_vertices
                if space == "P1_0":
                    known = known[~np.isin(known, is_open)]
                    known = known - np.searchsorted(is_open, known)
                edges = _edges(self.n(space), self.communicator)
            self._known[space] = KnownFunctions.of(known, edges, self.communicator)
        return self._known[space]

    def _near_pairs(self) -> torch.Tensor:
        pairs = super()._near_pairs()
        pairs = pairs[:, pairs.amin(dim=0) < self.n_own]
        # Rules tell a first and a second triangle apart: their order is the same on both processes.
        numbers = torch.from_numpy(self.numbers)[pairs]
        return torch.where(numbers[0] <= numbers[1], pairs, pairs.flip(0))

    # Processes may be threads, and `cached_property` lets in one thread at a time: nothing collective is cached by it.
    @property
    def _single(self) -> Panels:
        if "single" not in self._panels:
            far = self._compressed(self._points, self.kernel, None)
            self._panels["single"] = OwnPanels(self._rule, self._integrals.single, far.dtype, lambda _: far)
        return self._panels["single"]

    @property
    def _double(self) -> Panels:
        def compressed(adjoint: bool) -> DistributedH2Matrix:
            kernel = replace(self._normal_derivative, adjoint=adjoint)
            return self._compressed(self._points_with_normals, kernel, "strong")

        if "double" not in self._panels:
            dtype = np.dtype(np.complex128 if self.kernel.is_complex else np.float64)
            self._panels["double"] = OwnPanels(self._rule, self._integrals.double, dtype, compressed)
        return self._panels["double"]

    def _compressed(
        self, points: torch.Tensor, kernel: Kernel, admissibility: str | None
    ) -> DistributedH2Matrix:
        assert self.communicator is not None
        return DistributedH2Matrix.from_kernel(
            points, kernel, self.communicator, tolerance=self.tolerance, admissibility=admissibility
        )


def _as_rows(values: ArrayLike, what: str, kinds: str, wanted: str) -> NDArray[Any]:
    """Return an array of shape (n, 3) of numbers of some kinds; it is not read."""
    array = as_array(values)
    if array.ndim != 2 or array.shape[1] != 3:
        raise ValueError(f"{what} of a mesh must have the shape (n, 3), not {array.shape}")
    if array.dtype.kind not in kinds:
        raise TypeError(f"{what} of a mesh are {wanted}, not {array.dtype}")
    return array


def _checksums(what: str, array: NDArray[Any], dtype: type) -> dict[str, int]:
    """Return what tells whether processes have the same numbers, whatever their type; reads them piece by piece."""
    found = 0
    for first in range(0, len(array), _AT_A_TIME):
        found = zlib.crc32(np.asarray(array[first : first + _AT_A_TIME], dtype).tobytes(), found)
    return {f"number of {what}": len(array), f"checksum of {what}": found}


def _edges(n: int, communicator: Communicator) -> Ids:
    """Return where ranges of about equal size begin, shape (processes + 1,)."""
    return np.arange(communicator.size + 1, dtype=np.int64) * n // communicator.size


def _first_rows(matrix: csr_array, n: int, dtype: np.dtype[Any]) -> csr_array:
    """Return a matrix of the same shape with the first rows alone; entries are copied only to change their type."""
    end = matrix.indptr[n]
    starts = np.minimum(matrix.indptr, end)
    entries = matrix.data[:end].astype(dtype, copy=False)
    return csr_array((entries, matrix.indices[:end], starts), shape=matrix.shape)


def _everybodys_surface(
    vertices: NDArray[Any], triangles: NDArray[Any], kernel: FundamentalSolution, communicator: Communicator
) -> tuple[WholeSurface, tuple[str, ...]]:
    """Return numbers that describe the surface and notes on it, as process 0 finds them; collective."""
    told = ""
    with together(communicator):
        if communicator.rank == 0:
            mesh = TriangleMesh(
                torch.from_numpy(np.array(vertices)), torch.from_numpy(np.array(triangles, np.int64))
            )
            layers = LayerOperators(mesh, kernel, screen=not mesh.is_closed)
            found = asdict(layers.surface) | {"notes": notes_on(layers)}
            told = json.dumps({k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in found.items()})
    values = json.loads(gather_text(communicator, told)[0])
    notes = tuple(values.pop("notes"))
    values["center"] = np.array(values["center"], np.float64)
    values["open_vertices"] = np.array(values["open_vertices"], np.int64)
    return WholeSurface(**values), notes
