"""Boundary integral operators of a surface whose triangles are divided among processes.

A panel matrix Q^T K Q + Z is divided by rows, those of a process's own triangles (`boundary_elements/operators.py` has
the terms). K is a divided H2 matrix of their quadrature points; the transpose of a double layer's is compressed anew.
For Z a process knows the triangles near its own, and of a space all functions on either. It fetches the values of those
that are others', and what it adds up for them goes back to their owners. Constants belong to the owner of their
triangle, linear functions to that of their vertex.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from pipeline.hmatrix.boundary_elements import LayerOperators, TriangleMesh
from pipeline.hmatrix.boundary_elements.boundary_operator import Functions, Panels
from pipeline.hmatrix.boundary_elements.normal_derivative import FundamentalSolution
from pipeline.hmatrix.boundary_elements.problems import notes_on
from pipeline.hmatrix.boundary_elements.spaces import Space, space_matrix
from pipeline.hmatrix.boundary_elements.surface import WholeSurface
from pipeline.hmatrix.distributed.matrix import DistributedH2Matrix
from pipeline.hmatrix.distributed.single_layer import OwnTriangles
from pipeline.hmatrix.kernels import Kernel
from pipeline.hmatrix.swap import Halo, Ids, exchange
from pipeline.runtime.communicator import Communicator
from pipeline.runtime.together import gather_text, together


@dataclass(frozen=True, eq=False)
class KnownFunctions:
    """Functions of a space, whose values are divided by ranges of their numbers.

    Attributes:
        known: Numbers of the functions on own triangles and those near them, sorted.
        edges: Shape (processes + 1,); process p has the values of functions edges[p] to edges[p + 1] - 1.
        halo: Who has the values of the known ones that are others'.
        communicator: The processes.
    """

    known: Ids
    edges: Ids
    halo: Halo
    communicator: Communicator

    @classmethod
    def of(cls, known: Ids, edges: Ids, communicator: Communicator) -> "KnownFunctions":
        """Ask the others for the values that will be wanted; collective."""
        first, last = edges[communicator.rank :][:2]
        others = known[(known < first) | (known >= last)]
        return cls(known, edges, Halo.of(communicator, others, edges), communicator)

    @property
    def n(self) -> int:
        """How many values this process has."""
        return int(np.diff(self.edges)[self.communicator.rank])

    @cached_property
    def _is_own(self) -> NDArray[np.bool_]:
        first, last = self.edges[self.communicator.rank :][:2]
        return np.asarray((self.known >= first) & (self.known < last))

    @cached_property
    def _own(self) -> Ids:
        return np.asarray(self.known[self._is_own] - self.edges[self.communicator.rank], np.int64)

    def spread(self, own: NDArray[Any]) -> NDArray[Any]:
        """Return values of the known functions, given this process's, shape (n, m); collective."""
        values = np.empty((len(self.known), *own.shape[1:]), own.dtype)
        values[self._is_own] = own[self._own]
        values[~self._is_own] = self.halo.fetch(self.communicator, own)
        return values

    def collect(self, known: NDArray[Any]) -> NDArray[Any]:
        """Return sums over all processes for this process's functions, given its share for known ones; collective."""
        total = np.zeros((self.n, *known.shape[1:]), known.dtype)
        total[self._own] = known[self._is_own]
        ranks = list(self.halo.n_rows)
        ends = np.cumsum([self.halo.n_rows[rank] for rank in ranks])[:-1]
        shares = np.split(known[~self._is_own], ends) if ranks else []
        arrived = exchange(self.communicator, dict(zip(ranks, shares, strict=True)))
        for rank, rows in self.halo.asked.items():
            total[rows] += arrived[rank]
        return total


@dataclass(frozen=True, eq=False)
class OwnPanels:
    """Rows of a panel matrix and of its transpose: those of own triangles, which come first.

    Attributes:
        rule: Q of own triangles.
        near: Z, whose rows and columns of own triangles are complete; shape (3 t, 3 t) for own triangles and those near
            them.
        dtype: The type of the entries.
        compressed: Gives K divided like the triangles, or its transpose; collective. The equations of a wave take one
            of the two.
    """

    rule: csr_array
    near: csr_array
    dtype: np.dtype[Any]
    compressed: Callable[[bool], DistributedH2Matrix]
    _made: dict[bool, tuple[DistributedH2Matrix, csr_array]] = field(default_factory=dict, repr=False)

    def product(self, x: NDArray[Any], *, transposed: bool) -> NDArray[Any]:
        """Return own rows of the product with x of shape (3 t, m), 0 in those of others; collective."""
        n_own = self.rule.shape[1]
        far, near = self.rows(transposed=transposed)
        y = np.asarray(near @ x)
        y[:n_own] += self.rule.T @ (far @ (self.rule @ x[:n_own]))
        return y

    def rows(self, *, transposed: bool) -> tuple[DistributedH2Matrix, csr_array]:
        """Return own rows of K and of Z, or of their transposes; collective where they are first wanted."""
        if transposed not in self._made:
            near = _first_rows(
                self.near.T.tocsr() if transposed else self.near, self.rule.shape[1], self.dtype
            )
            self._made[transposed] = self.compressed(transposed), near
        return self._made[transposed]

    def near_rows(self, *, transposed: bool) -> csr_array:
        """Return own rows of Z or of its transpose; others are 0."""
        return self.rows(transposed=transposed)[1]


@dataclass(frozen=True, eq=False)
class DistributedLayerOperators(LayerOperators):
    """The operators of `LayerOperators` on a divided surface. Making one and every product are collective.

    Attributes:
        n_own: The first so many triangles of `mesh` are this process's; the others are near to these.
        numbers: Numbers of the triangles of `mesh` in the whole mesh.
        vertices: Numbers of its vertices, sorted.
        edges: Shape (processes + 1,); process p has triangles edges[p] to edges[p + 1] - 1.
        whole: All of the surface in a few numbers.
        notes: What is to be said of it.
        communicator: The processes.
    """

    n_own: int = 0
    numbers: Ids = field(default_factory=lambda: np.zeros(0, np.int64))
    vertices: Ids = field(default_factory=lambda: np.zeros(0, np.int64))
    edges: Ids = field(default_factory=lambda: np.zeros(0, np.int64))
    whole: WholeSurface | None = None
    notes: tuple[str, ...] = ()
    communicator: Communicator | None = None
    _known: dict[Space, KnownFunctions] = field(default_factory=dict, repr=False)
    _panels: dict[str, Panels] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls,
        vertices: NDArray[Any],
        triangles: NDArray[Any],
        kernel: FundamentalSolution,
        communicator: Communicator,
        *,
        tolerance: float = 1e-6,
    ) -> "DistributedLayerOperators":
        """Divide a surface into as many ranges of triangles as there are processes; collective.

        A surface with open edges is a screen. The first process looks at all of the mesh, to diagnose it; the others
        read it piece by piece, so that arrays mapped from files never come to memory whole.

        Args:
            vertices: Shape (v, 3), the same on all processes.
            triangles: Shape (t, 3).
            kernel: The fundamental solution.
            communicator: The processes.
            tolerance: The relative error allowed to compression.

        Raises:
            ConfigError: If the mesh is not usable, or too coarse for the kernel's wavelength.
        """
        whole, notes = _everybodys_surface(vertices, triangles, kernel, communicator)
        edges = _edges(len(triangles), communicator)
        first, last = edges[communicator.rank :][:2].tolist()
        with together(communicator):
            near = OwnTriangles.of(vertices, triangles, first, last)
            numbers = np.concatenate([np.arange(first, last), near.others])
            corners = np.asarray(triangles[numbers], np.int64).reshape(-1, 3)
            known = np.unique(corners)
            mesh = TriangleMesh(
                torch.from_numpy(np.array(vertices[known], np.float64).reshape(-1, 3)),
                torch.from_numpy(np.searchsorted(known, corners)),
            )
        return cls(
            mesh, kernel, tolerance, near=near.near, screen=len(whole.open_vertices) > 0,
            n_own=last - first, numbers=numbers, vertices=known, edges=edges, whole=whole, notes=notes,
            communicator=communicator,
        )  # fmt: skip

    def __post_init__(self) -> None:
        if self.whole is None or self.communicator is None:
            raise TypeError("divided operators are made by DistributedLayerOperators.of")

    @property
    def surface(self) -> WholeSurface:
        """The surface in a few numbers."""
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
        # Rules have a first triangle, which is the same whoever integrates.
        numbers = torch.from_numpy(self.numbers)[pairs]
        return torch.where(numbers[0] <= numbers[1], pairs, pairs.flip(0))

    # Processes may be threads, and `cached_property` lets one thread after the other in: nothing collective is one.
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


def _edges(n: int, communicator: Communicator) -> Ids:
    """Return where the ranges of about equally many begin, shape (processes + 1,)."""
    return np.arange(communicator.size + 1, dtype=np.int64) * n // communicator.size


def _first_rows(matrix: csr_array, n: int, dtype: np.dtype[Any]) -> csr_array:
    """Return a matrix of the same shape with the first rows alone."""
    end = matrix.indptr[n]
    starts = np.minimum(matrix.indptr, end)
    return csr_array((matrix.data[:end].astype(dtype), matrix.indices[:end], starts), shape=matrix.shape)


def _everybodys_surface(
    vertices: NDArray[Any], triangles: NDArray[Any], kernel: FundamentalSolution, communicator: Communicator
) -> tuple[WholeSurface, tuple[str, ...]]:
    """Return the surface in a few numbers, which process 0 finds, and what is to be said of it; collective."""
    told = ""
    with together(communicator):
        if communicator.rank == 0:
            mesh = TriangleMesh(*(torch.from_numpy(np.array(part)) for part in (vertices, triangles)))
            layers = LayerOperators(mesh, kernel, screen=not mesh.is_closed)
            found = asdict(layers.surface) | {"notes": notes_on(layers)}
            told = json.dumps({k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in found.items()})
    values = json.loads(gather_text(communicator, told)[0])
    notes = tuple(values.pop("notes"))
    values["center"] = np.array(values["center"], np.float64)
    values["open_vertices"] = np.array(values["open_vertices"], np.int64)
    return WholeSurface(**values), notes
