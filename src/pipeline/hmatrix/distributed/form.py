"""The part of an H2 matrix that a process holds: the rows of its boxes, and which columns of others they need."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.hmatrix import _native
from pipeline.hmatrix.admissibility import Admissibility, Interactions
from pipeline.hmatrix.blocks import Blocks
from pipeline.hmatrix.cluster import Ints
from pipeline.hmatrix.distributed.points import KeptPoints
from pipeline.hmatrix.distributed.tree import Division, Route
from pipeline.hmatrix.form import WITHOUT_BLOCKS
from pipeline.hmatrix.kernels import Kernel
from pipeline.hmatrix.skeleton import Basis
from pipeline.hmatrix.swap import Halo, Ids


@dataclass(frozen=True, eq=False)
class OwnBasis:
    """Bases of own boxes and of those above the cut, and where the coefficients of others' boxes are kept.

    Attributes:
        basis: Bases of own boxes and of those above the cut; others have rank 0 in it.
        rank: Shape (boxes,), also of others' boxes that are known.
    """

    basis: Basis
    rank: Ints

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the native view, which is made anew where it is wanted."""
        return {name: value for name, value in vars(self).items() if name != "native"}

    def none(self) -> "OwnBasis":
        """Return the bases of no boxes, of the same type."""
        return OwnBasis(self.basis.none(), self.rank[:0].copy())

    @cached_property
    def start(self) -> Ids:
        """Where each box's coefficients start, shape (boxes + 1,)."""
        return np.concatenate([[0], np.cumsum(self.rank, dtype=np.int64)])

    @cached_property
    def native(self) -> Any:
        """The view that native routines take."""
        basis = self.basis
        view = getattr(_native, f"Basis_{basis.values.dtype.name}")
        return view(self.rank, self.start, basis.order_start, basis.order, basis.value_start, basis.values)


@dataclass(frozen=True, eq=False)
class OwnBlocks:
    """Blocks of the rows that a process owns.

    Attributes:
        inner: Blocks between own boxes; mirrored if the matrix is symmetric.
        outer: Blocks with columns that others own, or of boxes above the cut.
    """

    inner: Blocks
    outer: Blocks

    @property
    def n_bytes(self) -> int:
        return self.inner.n_bytes + self.outer.n_bytes

    def none(self) -> "OwnBlocks":
        """Return empty lists of blocks of the same type."""
        return OwnBlocks(self.inner.none(), self.outer.none())


@dataclass(frozen=True, eq=False)
class OwnForm:
    """What a process holds of a compressed matrix.

    Attributes:
        division: Owner of each box.
        route: How vectors go from the caller's rows to the tree order.
        admissibility, interactions: Near and far boxes of own boxes and of all above the cut.
        points: The own points.
        n_fetched: Number of others' points that blocks and samples have used.
        row_basis, column_basis: Bases; the same object if the matrix is symmetric.
        near, far: Blocks.
        near_places: Places of others' points in near blocks, sorted.
        near_halo: Exchange with the owners of these points.
        far_boxes: Others' boxes in far blocks, in order of their owners.
        far_halo: Exchange of these boxes' coefficients with their owners.
        mirrored: Whether the matrix is symmetric.
        diagonal_term: Added to the diagonal of own rows, in tree order, or None.
        kernel: The kernel whose entries these are.
        tolerance, norm, dtype, notes: See `H2Form`; they are those of the whole matrix.
    """

    division: Division
    route: Route
    admissibility: Admissibility
    interactions: Interactions
    points: KeptPoints
    n_fetched: int
    row_basis: OwnBasis
    column_basis: OwnBasis
    near: OwnBlocks
    far: OwnBlocks
    near_places: Ids
    near_halo: Halo
    far_boxes: Ids
    far_halo: Halo
    mirrored: bool
    diagonal_term: NDArray[Any] | None
    kernel: Kernel
    tolerance: float
    norm: float
    dtype: np.dtype[Any]
    notes: tuple[str, ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the native view of the tree, which is made anew where it is wanted."""
        return {name: value for name, value in vars(self).items() if name != "own_tree"}

    @property
    def has_blocks(self) -> bool:
        """Whether blocks and bases are present; see `without_blocks`."""
        return len(self.row_basis.rank) > 0 or self.division.n_points == 0

    def without_blocks(self) -> "OwnForm":
        """Return the form without blocks and bases: it can be factorized, but has no products."""
        return replace(
            self, row_basis=self.row_basis.none(), column_basis=self.column_basis.none(),
            near=self.near.none(), far=self.far.none(),
        )  # fmt: skip

    def require_blocks(self) -> None:
        """Raise ValueError for a matrix whose blocks were left out."""
        if not self.has_blocks:
            raise ValueError(WITHOUT_BLOCKS)

    @property
    def n_own(self) -> int:
        """Number of rows that this process owns in tree order."""
        return self.division.last - self.division.first

    @property
    def computed(self) -> np.dtype[Any]:
        """The type that products are computed in."""
        terms = [self.near.inner.values, *([] if self.diagonal_term is None else [self.diagonal_term])]
        return np.dtype(np.complex128 if any(term.dtype.kind == "c" for term in terms) else np.float64)

    @property
    def n_bytes(self) -> int:
        """Bytes of blocks, bases and diagonal on this process."""
        bases = {id(side): side.basis.n_bytes for side in (self.row_basis, self.column_basis)}
        diagonal = 0 if self.diagonal_term is None else self.diagonal_term.nbytes
        return self.near.n_bytes + self.far.n_bytes + sum(bases.values()) + diagonal

    @cached_property
    def own_tree(self) -> "_native.Tree":
        """The tree with the points of own leaves numbered from the first own one."""
        tree, first = self.division.tree, self.division.first
        shifted = replace(tree, start=tree.start - np.int32(first), stop=tree.stop - np.int32(first))
        return shifted.native
