"""Rows of a kernel matrix evaluated exactly, and the error of its compressed form against them."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.hmatrix.batched.padding import to_device, to_host
from pipeline.hmatrix.cluster import ClusterTree
from pipeline.hmatrix.form import H2Form
from pipeline.hmatrix.product import DeviceCopies, product
from pipeline.hmatrix.sources import Source, source_of

_CHECKED_ROWS, _CHECKED_ENTRIES = 128, 8e6  # the more of the two: up to 2800 points, every row is checked
_ENTRIES_AT_A_TIME = 2e6


def frobenius_norm(source: Source, rows: ClusterTree, term: NDArray[Any] | None) -> float:
    """Estimate the Frobenius norm from evenly spread exact rows, with a diagonal term in tree order."""
    n = rows.n_points
    chosen = np.unique(np.linspace(0, n - 1, min(n, 64)).astype(np.int32)) if n else np.zeros(0, np.int32)
    squares = float((np.abs(source.exact_rows(chosen)) ** 2).sum()) * n / max(len(chosen), 1)
    if term is not None:
        squares += float((np.abs(term) ** 2).sum())
    return float(np.sqrt(squares))


def sampled_error(
    A: H2Form, *, seed: int, n_rows: int | None = None, n_vectors: int, copies: DeviceCopies | None = None
) -> float:
    """Return the relative error of A X for normal X, in the Frobenius norm of sampled rows."""
    if A.kernel is None:
        raise ValueError("error_estimate needs exact entries, and this matrix was not built from a kernel")
    if 0 in A.shape:
        return 0.0
    generator = np.random.default_rng(seed)
    chosen = sampled_rows(A, generator, n_rows)
    X = generator.standard_normal((A.shape[1], n_vectors))
    exact = exact_product(A, chosen, X)
    found = to_host(product(A, to_device(X, A.device), copies=copies))[A.rows.permutation[chosen]]
    norm = np.linalg.norm(exact)
    return float(np.linalg.norm(found - exact) / norm) if norm > 0 else float(np.linalg.norm(found))


def sampled_rows(A: H2Form, generator: np.random.Generator, n_rows: int | None = None) -> NDArray[np.int32]:
    """Draw places of the tree order, one from each of equal parts, so that no region goes without."""
    n = A.shape[0]
    n_rows = min(n, n_rows or max(_CHECKED_ROWS, int(_CHECKED_ENTRIES / max(A.shape[1], 1))))
    edges = np.arange(n_rows + 1, dtype=np.int64) * n // max(n_rows, 1)
    return generator.integers(edges[:-1], edges[1:]).astype(np.int32)


def exact_product(A: H2Form, chosen: NDArray[np.int32], X: NDArray[Any]) -> NDArray[Any]:
    """Return rows, at places of the tree order, of the product of A's exact entries with X in the caller's order."""
    assert A.kernel is not None
    kind = np.dtype(np.complex128 if A.kernel.is_complex else np.float64)
    in_tree_order = X[A.columns.permutation]
    device = None if A.device.type == "cpu" else A.device
    source = source_of(A.kernel, A.rows, A.columns, kind, device, A.correction)
    n_parts = max(math.ceil(len(chosen) * A.shape[1] / _ENTRIES_AT_A_TIME), 1)
    exact = np.concatenate(
        [source.exact_rows(part) @ in_tree_order for part in np.array_split(chosen, n_parts)]
    )
    if A.diagonal_term is not None:
        exact = exact + A.diagonal_term[chosen, None] * in_tree_order[chosen]
    return np.asarray(exact)
