"""The H2 format: near field, nested bases and couplings, in linear storage.

A = diagonal + near blocks of leaf pairs + sum over far pairs of U_b S_bc V_c^T. Bases U and V are nested and
interpolative (`skeleton.py`); for a kernel matrix, S_bc are entries of A between skeletons.

Everything is a flat array with one list per box or pair, numbered level by level: a partition of pairs is a
partition of the matrix. The modules of the operations (`product`, `factor`, `algebra`, ...) take and return forms;
`matrix.H2Matrix` is the public class.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from pipeline.hmatrix.admissibility import Admissibility, Interactions
from pipeline.hmatrix.blocks import Blocks
from pipeline.hmatrix.cluster import ClusterTree
from pipeline.hmatrix.geometry import Geometry
from pipeline.hmatrix.inputs import CPU
from pipeline.hmatrix.kernels import Kernel
from pipeline.hmatrix.skeleton import Basis

WITHOUT_BLOCKS = "this matrix has no blocks, as built for a likelihood search: it can only be factorized"


@dataclass(frozen=True, eq=False)
class H2Form:
    """The data of a compressed matrix.

    Attributes:
        geometry: Trees and lists.
        row_basis, column_basis: Nested bases; the same object if the matrix is symmetric.
        near: Dense blocks of near leaf pairs, without `diagonal_term`.
        far: Couplings of far pairs.
        mirrored: Whether only pairs with row box <= column box are kept, which stand for their transposes as well.
        diagonal_term: Shape (n,), added to the diagonal, in tree order; or None.
        kernel: The kernel whose entries these are, or None for a matrix without kernel.
        tolerance: Requested relative error of a product.
        norm: Estimated Frobenius norm, without `diagonal_term`.
        dtype: Type of the matrix as callers see it; blocks may be kept in a narrower one.
        notes: Remarks on the construction.
        correction: Sparse entries, in tree order, that near blocks hold beyond the kernel's; see `correction.py`.
        device: Device of the points, which factorizes the matrix. Products run on the device of the vectors. All
            arrays are kept in the host's memory.
    """

    geometry: Geometry
    row_basis: Basis
    column_basis: Basis
    near: Blocks
    far: Blocks
    mirrored: bool
    diagonal_term: NDArray[Any] | None
    kernel: Kernel | None
    tolerance: float
    norm: float
    dtype: np.dtype[Any]
    notes: tuple[str, ...] = field(default=())
    correction: csr_array | None = None
    device: torch.device = CPU

    @property
    def rows(self) -> ClusterTree:
        return self.geometry.rows

    @property
    def columns(self) -> ClusterTree:
        return self.geometry.columns

    @property
    def admissibility(self) -> Admissibility:
        return self.geometry.admissibility

    @property
    def interactions(self) -> Interactions:
        return self.geometry.interactions

    @property
    def shape(self) -> tuple[int, int]:
        return self.geometry.shape

    @property
    def is_square(self) -> bool:
        """Whether rows and columns are of one point set."""
        return self.geometry.is_square

    @property
    def is_symmetric(self) -> bool:
        return self.mirrored

    @property
    def n_bytes(self) -> int:
        """Bytes of blocks, bases and diagonal: what grows with the matrix, without its tree."""
        bases = self.row_basis.n_bytes + (
            0 if self.column_basis is self.row_basis else self.column_basis.n_bytes
        )
        diagonal = 0 if self.diagonal_term is None else self.diagonal_term.nbytes
        return self.near.n_bytes + self.far.n_bytes + bases + diagonal

    @property
    def computed(self) -> np.dtype[Any]:
        """The type that products are computed in."""
        is_complex = self.near.values.dtype.kind == "c" or (
            self.diagonal_term is not None and self.diagonal_term.dtype.kind == "c"
        )
        return np.dtype(np.complex128 if is_complex else np.float64)

    @property
    def has_blocks(self) -> bool:
        """Whether blocks and bases are present; see `without_blocks`."""
        return len(self.row_basis.rank) == self.rows.n_boxes

    def without_blocks(self) -> "H2Form":
        """Return the form without blocks and bases: it can be factorized, but has no products."""
        return replace(
            self, row_basis=self.row_basis.none(), column_basis=self.column_basis.none(),
            near=self.near.none(), far=self.far.none(),
        )  # fmt: skip

    def require_blocks(self) -> None:
        """Raise ValueError for a matrix whose blocks were left out."""
        if not self.has_blocks:
            raise ValueError(WITHOUT_BLOCKS)

    def require_square(self, what: str) -> None:
        """Raise ValueError unless rows and columns are of one point set."""
        if not self.is_square:
            raise ValueError(f"{what} needs a square matrix over one point set, not {self.shape}")
