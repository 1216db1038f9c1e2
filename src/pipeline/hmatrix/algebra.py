"""Arithmetic: sums, products, inverses and recompressions of H2 matrices are H2 matrices again.

Where all operands are kernel matrices over the same points, a sum is the matrix of the sum of their kernels, and is
compressed anew from its entries, at once and with all that a kernel matrix can do. Everything else is compressed from
its products with random vectors (`from_operator.py`); the result is a matrix without kernel.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConvergenceError
from pipeline.hmatrix.from_operator import from_operator
from pipeline.hmatrix.h2 import H2Matrix
from pipeline.hmatrix.kernels import Kernel

Map = Callable[[NDArray[Any]], NDArray[Any]]

_REFINEMENTS = 6
_TIGHTEST = 1e-11
_PROBED = 8  # right-hand sides that tell how often to refine
_REFINED = 1e-3  # of the tolerance: what is left is noise of full rank, and must not show in any box


def add(A: H2Matrix, B: H2Matrix, *, tolerance: float | None = None) -> H2Matrix:
    """Return A + B.

    Args:
        tolerance: Relative error of the sum; the larger of the two matrices' by default.
    """
    if A.shape != B.shape:
        raise ValueError(f"matrices of shapes {A.shape} and {B.shape} cannot be added")
    tolerance = tolerance or max(A.tolerance, B.tolerance)
    if A.kernel is not None and B.kernel is not None and _same_points(A, B):
        return _of_kernel(A, A.kernel + B.kernel, _sum(A.diagonal_term, B.diagonal_term), tolerance)
    symmetric = A.is_symmetric and B.is_symmetric

    def transposed(X: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(A.product_transposed(X) + B.product_transposed(X))

    return from_operator(
        A.rows,
        lambda X: A @ X + B @ X,
        product_transposed=None if symmetric else transposed,
        columns=A.columns,
        tolerance=tolerance,
        admissibility=A.admissibility,
    )


def multiply(A: H2Matrix, B: H2Matrix, *, tolerance: float | None = None) -> H2Matrix:
    """Return A B.

    Args:
        tolerance: Relative error of the product; the larger of the two matrices' by default.
    """
    if A.shape[1] != B.shape[0]:
        raise ValueError(f"matrices of shapes {A.shape} and {B.shape} cannot be multiplied")

    def transposed(X: NDArray[Any]) -> NDArray[Any]:
        return B.product_transposed(A.product_transposed(X))

    return from_operator(
        A.rows,
        lambda X: A @ (B @ X),
        # A square of a symmetric matrix is symmetric, and half the work.
        product_transposed=None if A is B and A.is_symmetric else transposed,
        # The columns may be the same points as the rows in a tree of their own: one tree makes the matrix square.
        columns=A.rows if _same_tree(A.rows, B.columns) else B.columns,
        tolerance=tolerance or max(A.tolerance, B.tolerance),
        admissibility=A.admissibility,
    )


def inverse(A: H2Matrix, *, tolerance: float | None = None) -> H2Matrix:
    """Return the inverse of A, compressed from solves with its factorization.

    What A has lost in compression is noise of full rank to the inverse, multiplied by the condition number, and would
    inflate its ranks. So a kernel matrix is first compressed anew, a thousand times tighter, and solutions are refined
    until their residuals are a thousandth of the tolerance.

    Args:
        tolerance: Relative error of the compression; A's by default.

    Raises:
        ConvergenceError: If A is too near singular to be refined to the tolerance.
    """
    tolerance = tolerance or A.tolerance
    if A.kernel is not None and A.dtype.itemsize > 4 and A.dtype.name != "complex64":
        A = recompress(A, tolerance=max(1e-3 * tolerance, _TIGHTEST))
    F = A.factorize(min(tolerance, A.tolerance))

    symmetric = A.is_symmetric
    return from_operator(
        A.rows,
        _refined(F.solve, A.__matmul__, A.shape[0], tolerance),
        product_transposed=None
        if symmetric
        else _refined(F.solve_transposed, A.product_transposed, A.shape[0], tolerance),
        tolerance=tolerance,
        admissibility=A.admissibility,
    )


def _refined(approximate: Map, apply: Map, n: int, tolerance: float) -> Map:
    """Return solves with as many refinements as leave a few random right-hand sides the residual that is wanted."""
    X = np.random.default_rng(0).standard_normal((n, _PROBED))
    solution = approximate(X)
    wanted = _REFINED * tolerance
    steps = 0
    residual = X - apply(solution)
    while np.linalg.norm(residual) > wanted * np.linalg.norm(X) and steps < _REFINEMENTS:
        steps += 1
        solution = solution + approximate(residual)
        residual = X - apply(solution)
    if np.linalg.norm(residual) > wanted * np.linalg.norm(X):
        size = np.linalg.norm(residual) / np.linalg.norm(X)
        raise ConvergenceError(
            f"solves for the inverse stay at relative residual {size:.1e} (wanted {wanted:.0e}): "
            "the matrix is too near singular; add to its diagonal, or ask for a larger tolerance"
        )

    def solve(X: NDArray[Any]) -> NDArray[Any]:
        solution = approximate(X)
        for _ in range(steps):
            solution += approximate(X - apply(solution))
        return solution

    return solve


def recompress(A: H2Matrix, *, tolerance: float | None = None) -> H2Matrix:
    """Return A compressed anew, usually to a larger tolerance and fewer bytes."""
    tolerance = tolerance or A.tolerance
    if A.kernel is not None:
        return _of_kernel(A, A.kernel, A.diagonal_term, tolerance)
    return from_operator(
        A.rows,
        A.__matmul__,
        product_transposed=None if A.is_symmetric else A.product_transposed,
        columns=A.columns,
        tolerance=tolerance,
        admissibility=A.admissibility,
    )


def _of_kernel(A: H2Matrix, kernel: Kernel, diagonal: NDArray[Any] | None, tolerance: float) -> H2Matrix:
    """Compress another kernel over A's points, with a diagonal term in tree order."""

    def in_order(tree: Any) -> NDArray[Any]:
        points = np.empty_like(tree.points)
        points[tree.permutation] = tree.points
        return np.asarray(
            points, dtype=np.float32 if A.dtype.name in ("float32", "complex64") else np.float64
        )

    leaves = A.rows.level(A.rows.n_levels - 1)
    leaf_size = int((A.rows.stop - A.rows.start)[leaves.start :].max(initial=1))
    result = H2Matrix.from_kernel(
        in_order(A.rows),
        kernel,
        tolerance=tolerance,
        sources=None if A.is_square else in_order(A.columns),
        leaf_size=max(1, leaf_size),
        admissibility=A.admissibility,
    )
    return replace(result, diagonal_term=diagonal)


def _sum(left: NDArray[Any] | None, right: NDArray[Any] | None) -> NDArray[Any] | None:
    if left is None or right is None:
        return right if left is None else left
    return np.asarray(left + right)


def _same_points(A: H2Matrix, B: H2Matrix) -> bool:
    return A.is_square == B.is_square and _same_tree(A.rows, B.rows) and _same_tree(A.columns, B.columns)


def _same_tree(left: Any, right: Any) -> bool:
    """Tell whether two trees order the same points in the same way."""
    return left is right or (
        np.array_equal(left.points, right.points) and np.array_equal(left.permutation, right.permutation)
    )
