"""Entries that an H2 matrix represents, for native routines: for matrices that have no kernel to evaluate."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.hmatrix import _native
from pipeline.hmatrix.entries import Entries, entry_matrix
from pipeline.hmatrix.form import H2Form


def represented_matrix(A: H2Form) -> "_native.KernelMatrix":
    """Return a matrix for native routines whose entries are those that A represents, without the diagonal term.

    So matrices without a kernel (sums, products, inverses, operators known by their products) are factorized as well.
    """
    return entry_matrix(represented_entries(A), A.rows, A.columns)


def represented_entries(A: H2Form) -> Entries:
    """Return (rows, columns) -> block that A represents at places of the tree order, without the diagonal term.

    An entry costs O(k), beside O(k^2) a level for each row and column of a block.
    """
    view = getattr(_native, f"Represented_{A.near.values.dtype.name}")
    represented = view(
        A.rows.native, A.columns.native, A.row_basis.native, A.column_basis.native, A.near.native, A.far.native,
        A.mirrored,
    )  # fmt: skip

    def entries(rows: NDArray[np.int32], columns: NDArray[np.int32]) -> NDArray[Any]:
        block = np.asarray(represented.block(rows, columns)).reshape(len(columns), len(rows)).T
        return block.astype(A.computed, copy=False)

    return entries
