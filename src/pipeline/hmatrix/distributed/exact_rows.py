"""Exact rows of a divided matrix: the norm that tolerances refer to, and the error of products.

Every process evaluates the rows' entries in its own columns, a piece at a time: whole rows would take more memory than
the compressed matrix.
"""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.hmatrix import _native
from pipeline.hmatrix.distributed.form import OwnForm
from pipeline.hmatrix.distributed.points import KeptPoints, kernel_matrix
from pipeline.hmatrix.distributed.product import product
from pipeline.hmatrix.exact_rows import NEAREST, OUTSTANDING, error_of_rows, norm_of_rows
from pipeline.hmatrix.kernels import Kernel
from pipeline.hmatrix.streams import Purpose, stream
from pipeline.hmatrix.swap import Array, Ids, gather, summed
from pipeline.runtime.communicator import Communicator
from pipeline.runtime.together import together

_NORM_ROWS = 64
_CHECKED_ROWS = 128
_COLUMNS = 16384  # columns that are evaluated at a time
_TRIED = 4  # points between which kernels are compared
_SAME = 1e-6  # relative difference that the rounding of different processors may cause


def typical_norm(kernel: Kernel, points: KeptPoints, n: int, communicator: Communicator) -> float:
    """Estimate the norm that tolerances refer to, as `exact_rows.typical_norm` does; collective.

    Args:
        kernel: The kernel.
        points: The own points.
        n: Points of all processes.
        communicator: The processes.
    """
    if n == 0:
        return 0.0
    chosen = np.unique(np.linspace(0, n - 1, min(n, _NORM_ROWS)).astype(np.int32))
    own = chosen[(chosen >= points.first) & (chosen < points.last)]
    rows = np.concatenate(gather(communicator, points.at(own)))

    def sizes() -> Iterator[Array]:
        return (np.abs(exact_rows(kernel, rows, points.own[columns])) for columns in _pieces(len(points.own)))

    limit = np.full(len(rows), np.inf)
    if kernel.singular and n > NEAREST:
        largest = np.zeros((len(rows), 0))
        with together(communicator):
            for entries in sizes():
                largest = _largest(np.concatenate([largest, entries], axis=1))
        nearest = np.concatenate(gather(communicator, np.ascontiguousarray(largest.T)))
        limit = OUTSTANDING * np.partition(nearest, len(nearest) - NEAREST, axis=0)[len(nearest) - NEAREST]
    squares = np.zeros(len(rows))
    with together(communicator), np.errstate(over="ignore"):
        for entries in sizes():
            squares += (np.minimum(entries, limit[:, None]) ** 2).sum(axis=1)
    return rounded(norm_of_rows(summed(communicator, squares), n, square=True))


def _largest(entries: Array) -> Array:
    """Return the `NEAREST` largest entries of each row."""
    place = max(entries.shape[1] - NEAREST, 0)
    return np.partition(entries, place, axis=1)[:, place:] if place else entries


def _pieces(n: int) -> Iterator[slice]:
    """Yield ranges that tile n columns."""
    return (slice(first, min(first + _COLUMNS, n)) for first in range(0, n, _COLUMNS))


def rounded(value: float) -> float:
    """Round to 24 bits: sums over other numbers of processes differ in their last bits, and later steps must not."""
    if not math.isfinite(value):
        return value
    mantissa, exponent = math.frexp(value)
    return math.ldexp(round(mantissa * 2**24), exponent - 24)


def exact_rows(kernel: Kernel, rows: NDArray[np.float64], columns: NDArray[np.float64]) -> Array:
    """Return entries between plain points, shape (rows, columns)."""
    kind = np.dtype(np.complex128 if kernel.is_complex else np.float64)
    matrix = kernel_matrix(kernel, rows, columns)
    zero, m, n = np.zeros(1, np.int32), len(rows), len(columns)
    flat = getattr(_native, f"evaluate_blocks_{kind.name}")(
        matrix, np.array([0, m]), np.arange(m, dtype=np.int32), np.array([0, n]), np.arange(n, dtype=np.int32), zero,
        zero, 1,
    )  # fmt: skip
    return np.asarray(flat).reshape(n, m).T


def require_alike_entries(
    kernel: Kernel, own_points: NDArray[np.float64], communicator: Communicator
) -> None:
    """Raise ConfigError on all processes unless their kernels agree between a few of the points; collective.

    Nothing else tells whether two functions are the same.
    """
    counts = [len(part) for part in gather(communicator, own_points[:_TRIED])]
    chosen = own_points[: _TRIED if communicator.rank == int(np.argmax(counts)) else 0]
    points = np.concatenate(gather(communicator, chosen))
    with together(communicator):
        entries = exact_rows(kernel, points, points)
    first, *others = gather(communicator, np.ascontiguousarray(entries))
    for rank, theirs in enumerate(others, 1):
        if not np.allclose(first, theirs, rtol=_SAME, atol=0.0, equal_nan=True):
            raise ConfigError(
                f"kernel: process {rank} has other values between the same points than process 0; pass the same on "
                "all processes"
            )


def sampled_error(A: OwnForm, communicator: Communicator, *, seed: int, n_vectors: int) -> float:
    """Return the relative error of A X for normal X, as `exact_rows.sampled_error` does; collective."""
    X = stream(Purpose.ERRORS, seed, communicator.rank).standard_normal((A.n_own, n_vectors))
    own, exact = exact_products(A, X, communicator, seed=seed)
    found = product(A, X, communicator)[own]
    with np.errstate(over="ignore", invalid="ignore"):
        rows = np.stack([np.linalg.norm(values, axis=1) for values in (exact, found - exact)], axis=1)
    sizes, errors = np.concatenate(gather(communicator, rows)).T
    return error_of_rows(sizes, errors, square=True) if len(sizes) else 0.0


def exact_products(A: OwnForm, X: Array, communicator: Communicator, *, seed: int) -> tuple[Ids, Array]:
    """Return sampled own rows, and these rows of the product of A's exact entries with X; collective.

    Args:
        A: The matrix.
        X: Own rows in tree order, shape (n, m).
        communicator: The processes.
        seed: Seed of the sample, one row from each of equal parts of the tree order.
    """
    points, n = A.points, A.division.n_points
    n_rows = min(n, _CHECKED_ROWS)
    edges = np.arange(n_rows + 1, dtype=np.int64) * n // max(n_rows, 1)
    chosen = stream(Purpose.ROWS, seed).integers(edges[:-1], edges[1:])
    own = chosen[(chosen >= points.first) & (chosen < points.last)] - points.first
    rows = np.concatenate(gather(communicator, points.own[own]))
    kind = np.complex128 if A.kernel.is_complex else np.float64
    part = np.zeros((len(rows), X.shape[1]), np.result_type(X, kind))
    with together(communicator), np.errstate(over="ignore", invalid="ignore"):
        for columns in _pieces(len(points.own)):
            part += exact_rows(A.kernel, rows, points.own[columns]) @ X[columns]
    before = int(np.searchsorted(chosen, points.first))
    exact = summed(communicator, part)[before : before + len(own)]
    if A.diagonal_term is not None:
        exact = exact + A.diagonal_term[own, None] * X[own]
    return own, exact
