"""Sparse corrections of the near field: exact entries where a kernel at two points is only an approximation.

Boundary elements need them: integrals over near and touching elements are not the kernel at two midpoints. Only
near blocks may be corrected, so that the compression stays as it is.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from pipeline.errors import ConfigError
from pipeline.hmatrix.blocks import Blocks
from pipeline.hmatrix.cluster import ClusterTree
from pipeline.hmatrix.form import H2Form


def is_near(A: H2Form, i: NDArray[np.int64], j: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which entries (i[k], j[k]), in the caller's order, lie in near blocks and can be corrected."""
    places = _tree_places(A, i, j)
    return _find_pairs(A, *places)[0] >= 0


def add_sparse(A: H2Form, i: NDArray[np.int64], j: NDArray[np.int64], values: NDArray[Any]) -> H2Form:
    """Return A with values[k] added to the entry (i[k], j[k]), in the caller's order; values of one entry add up.

    Products, error estimates and factorizations all see the sum.

    Raises:
        ConfigError: If a value is not finite.
        ValueError: If an entry lies in a far block, or a symmetric matrix would lose its symmetry.
    """
    if not np.isfinite(values).all():
        raise ConfigError("values: a correction is NaN or infinite")
    if len(values) == 0:
        return A
    rows, columns = _tree_places(A, i, j)
    pairs, _ = _find_pairs(A, rows, columns)
    if (pairs < 0).any():
        k = int(np.flatnonzero(pairs < 0)[0])
        raise ValueError(
            f"entry ({np.asarray(i)[k]}, {np.asarray(j)[k]}) lies in a far block and cannot be corrected; "
            "ask is_near first, or raise the separation of Strong"
        )
    is_complex = np.iscomplexobj(values)
    added = csr_array((np.asarray(values), (rows, columns)), shape=A.shape)
    added.sum_duplicates()
    if A.mirrored and abs(added - added.T).max() > 1e-12 * abs(added).max():
        raise ValueError("a symmetric matrix takes symmetric corrections only")
    if is_complex and A.near.values.dtype.kind != "c":
        raise ValueError("a real matrix takes real corrections only")
    total = added if A.correction is None else csr_array(A.correction + added)
    total.sort_indices()
    return replace(A, near=_added_to(A, added), correction=total)


def _tree_places(
    A: H2Form, i: NDArray[np.int64], j: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return A.rows.places[np.asarray(i)], A.columns.places[np.asarray(j)]


def _leaf_of(tree: ClusterTree, places: NDArray[np.int64]) -> NDArray[np.int64]:
    leaves = int(tree.level_start[-2])
    return leaves + np.searchsorted(tree.stop[leaves:], places, side="right")


def _find_pairs(
    A: H2Form, rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the near pair of each entry (-1 in far blocks), and which entries are kept as their mirror image."""
    first, second = _leaf_of(A.rows, rows), _leaf_of(A.columns, columns)
    flipped = (first > second) if A.mirrored else np.zeros(len(first), dtype=bool)
    low, high = np.where(flipped, second, first), np.where(flipped, first, second)
    keys = A.near.first.astype(np.int64) * A.columns.n_boxes + A.near.second
    order = np.argsort(keys)
    wanted = low * A.columns.n_boxes + high
    found = np.minimum(np.searchsorted(keys[order], wanted), max(len(keys) - 1, 0))
    if len(keys) == 0:
        return np.full(len(wanted), -1), flipped
    return np.where(keys[order[found]] == wanted, order[found], -1), flipped


def _added_to(A: H2Form, added: Any) -> Blocks:
    """Return the near blocks plus a sparse matrix in tree order."""
    entries = added.tocoo()
    rows, columns = entries.coords
    pairs, flipped = _find_pairs(A, rows, columns)
    kept = ~flipped
    pairs, rows, columns = pairs[kept], rows[kept], columns[kept]
    first, second = A.near.first[pairs], A.near.second[pairs]
    heights = (A.rows.stop - A.rows.start)[first]
    at = A.near.start[pairs] + (columns - A.columns.start[second]) * heights + rows - A.rows.start[first]
    values = A.near.values.copy()
    np.add.at(values, at, entries.data[kept])
    return replace(A.near, values=values)
