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
from pipeline.hmatrix.streams import Purpose, stream

_CHECKED_ROWS, _CHECKED_ENTRIES = 128, 8e6  # what gives more rows: up to 2800 points, all rows are checked
_ENTRIES_AT_A_TIME = 2e6
_TYPICAL, _TYPICAL_TARGET = 0.75, 0.95  # quantiles of the sizes of rows
NEAREST, OUTSTANDING = 8, 8.0  # points nearly coincide whose entry exceeds 8 times its row's 8th largest
_FEW_VECTORS, _MANY_VECTORS = 8, 64  # vectors that measure an error; many if every row is checked
_WORST = 4.0  # times the tolerance is accepted in the worst tenth of the rows


def typical_norm(source: Source, rows: ClusterTree, n_columns: int, *, singular: bool, square: bool) -> float:
    """Estimate the norm that tolerances refer to: the Frobenius norm of a matrix all of whose rows are typical.

    It is sqrt(n) times the size that three quarters of the rows stay below (19 of 20 in a rectangular matrix, where
    many targets may lie far from all sources), or the Frobenius norm if that is less. A few rows of huge entries thus
    do not set the tolerance of all others. A diagonal term is stored exactly and does not count. For a singular kernel,
    pairs of points that nearly coincide count little: an entry counts as at most eight times the eighth largest of its
    row.

    Args:
        source: Entries of the matrix.
        rows: Tree of its rows.
        n_columns: Number of columns of the matrix.
        singular: Whether entries grow without bound as points approach each other.
        square: Whether rows and columns are of one point set.
    """
    n = rows.n_points
    chosen = np.unique(np.linspace(0, n - 1, min(n, 64)).astype(np.int32)) if n else np.zeros(0, np.int32)
    squares = []
    for part in _in_pieces(chosen, n_columns):
        entries = np.abs(source.exact_rows(part))
        if singular and n_columns > NEAREST:
            limit = OUTSTANDING * nth_largest(entries, NEAREST)
            np.minimum(entries, limit[:, None], out=entries)
        squares.append(np.einsum("ij,ij->i", entries, entries))
    return norm_of_rows(np.concatenate(squares), n, square=square) if n * n_columns else 0.0


def _in_pieces(chosen: NDArray[np.int32], n_columns: int) -> list[NDArray[np.int32]]:
    """Divide rows into groups whose entries take little memory, which is reused."""
    return np.array_split(chosen, max(math.ceil(len(chosen) * n_columns / _ENTRIES_AT_A_TIME), 1))


def nth_largest(values: NDArray[np.float64], nth: int) -> NDArray[np.float64]:
    """Return the nth largest value of each row, shape (rows,), for rows of at least `nth` values.

    Each row is cut into pieces, and only the `nth` pieces of largest maxima are searched: one pass over the values.
    """
    rows, columns = values.shape
    size = max(math.isqrt(columns), nth)
    whole = columns - columns % size
    parts = values[:, :whole].reshape(rows, whole // size, size)
    if whole // size > nth:
        best = np.argpartition(parts.max(axis=2), -nth, axis=1)[:, -nth:]
        left = np.take_along_axis(parts, best[:, :, None], axis=1).reshape(rows, -1)
        values = np.concatenate([left, values[:, whole:]], axis=1)
    return np.asarray(np.partition(values, values.shape[1] - nth, axis=1)[:, values.shape[1] - nth])


def norm_of_rows(squares: NDArray[np.float64], n_rows: int, *, square: bool) -> float:
    """Return the norm of a matrix of `n_rows` typical rows, given the squared norms of some rows."""
    typical = np.quantile(squares, _TYPICAL if square else _TYPICAL_TARGET)
    return float(np.sqrt(n_rows * min(float(typical), float(squares.mean()))))


def sampled_error(
    A: H2Form,
    *,
    seed: int,
    n_rows: int | None = None,
    n_vectors: int | None = None,
    copies: DeviceCopies | None = None,
) -> float:
    """Return the relative error of A X for normal X on sampled rows: as a whole and row by row, whichever is larger.

    As a whole, the error is that of the Frobenius norm. Row by row, each error is relative to the row or to a typical
    row, whichever is larger (see `typical_norm`); their root mean square counts, or a quarter of that of the worst
    tenth of the rows if that is larger. An error of rank one is measured with a relative standard deviation of
    1 / sqrt(2 n_vectors); small matrices, which may lose a single direction only, take more vectors.
    """
    if A.kernel is None:
        raise ValueError("error_estimate needs exact entries, and this matrix was not built from a kernel")
    if 0 in A.shape:
        return 0.0
    generator = stream(Purpose.ERRORS, seed)
    chosen = sampled_rows(A, generator, n_rows)
    if n_vectors is None:
        n_vectors = _MANY_VECTORS if len(chosen) == A.shape[0] else _FEW_VECTORS
    X = generator.standard_normal((A.shape[1], n_vectors))
    exact = exact_product(A, chosen, X)
    found = to_host(product(A, to_device(X, A.device), copies=copies))[A.rows.permutation[chosen]]
    sizes, errors = (np.linalg.norm(values, axis=1) for values in (exact, found - exact))
    return error_of_rows(sizes, errors, square=A.is_square)


def error_of_rows(sizes: NDArray[np.float64], errors: NDArray[np.float64], *, square: bool) -> float:
    """Return the error that `sampled_error` describes, given the norms of rows and of their errors."""
    if not np.isfinite(errors).all():
        return math.inf
    norm = float(np.linalg.norm(sizes))
    whole = float(np.linalg.norm(errors)) / (norm or 1.0)
    typical = float(np.quantile(sizes, _TYPICAL if square else _TYPICAL_TARGET))
    if typical == 0:
        return whole
    shares = np.sort((errors / np.maximum(sizes, typical)) ** 2)
    worst = shares[-max(len(shares) // 10, 1) :]
    return max(whole, math.sqrt(shares.mean()), math.sqrt(worst.mean()) / _WORST)


def sampled_rows(A: H2Form, generator: np.random.Generator, n_rows: int | None = None) -> NDArray[np.int32]:
    """Draw one place of the tree order from each of `n_rows` equal ranges, so that every region is sampled."""
    n = A.shape[0]
    n_rows = min(n, n_rows or max(_CHECKED_ROWS, int(_CHECKED_ENTRIES / max(A.shape[1], 1))))
    edges = np.arange(n_rows + 1, dtype=np.int64) * n // max(n_rows, 1)
    return generator.integers(edges[:-1], edges[1:]).astype(np.int32)


def exact_product(A: H2Form, chosen: NDArray[np.int32], X: NDArray[Any]) -> NDArray[Any]:
    """Return rows `chosen`, places of the tree order, of A's exact entries times X, which is in the caller's order."""
    assert A.kernel is not None
    kind = np.dtype(np.complex128 if A.kernel.is_complex else np.float64)
    in_tree_order = X[A.columns.permutation]
    device = None if A.device.type == "cpu" else A.device
    source = source_of(A.kernel, A.rows, A.columns, kind, device, A.correction)
    exact = np.concatenate(
        [source.exact_rows(part) @ in_tree_order for part in _in_pieces(chosen, A.shape[1])]
    )
    if A.diagonal_term is not None:
        exact = exact + A.diagonal_term[chosen, None] * in_tree_order[chosen]
    return np.asarray(exact)
