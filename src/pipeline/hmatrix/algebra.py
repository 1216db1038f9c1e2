"""Arithmetic: sums, products, inverses and recompressions of H2 matrices are H2 matrices again.

Where all operands are kernel matrices over the same points, a sum is the matrix of the sum of their kernels, and is
compressed anew from its entries, at once and with all that a kernel matrix can do. Everything else is compressed from
its products with random vectors (`from_operator.py`); the result is a matrix without kernel.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.errors import ConvergenceError
from pipeline.hmatrix.compression import compress_kernel
from pipeline.hmatrix.correction import add_sparse
from pipeline.hmatrix.diagonal import with_diagonal_term
from pipeline.hmatrix.exact_rows import exact_product, sampled_rows
from pipeline.hmatrix.factor import factorize_even_indefinite
from pipeline.hmatrix.form import H2Form
from pipeline.hmatrix.from_operator import from_operator
from pipeline.hmatrix.inputs import require_tolerance
from pipeline.hmatrix.kernels import Kernel
from pipeline.hmatrix.product import product
from pipeline.hmatrix.rounding import is_narrow
from pipeline.hmatrix.streams import Purpose, stream

logger = logging.getLogger("pipeline.hmatrix")

Map = Callable[[NDArray[Any]], NDArray[Any]]

_REFINEMENTS = 6
_TIGHTEST = 1e-13
_COMPRESSED = 1e-11  # the tightest tolerance of a compression
_FACTORIZATIONS = 4
_PROBED = 8  # right-hand sides that tell how often to refine
# Share of the tolerance that solves may err by: their error is of full rank, and from a third of the tolerance on it
# inflates ranks and the sketch.
_NOISE = 0.08
_TIGHTER = 3e-4  # share of the tolerance, for the first factorization of a matrix to be inverted
_ENOUGH = 0.5  # share of the tolerance that is accepted where solves cannot be more accurate
_DIFFERS = 10.0  # times the tolerance: a larger difference of A X b and b gets a note
_LARGEST = 0.1  # tolerance that an error advises
_IN_DOUBLE = "give points in double precision, "
_SURELY = 0.3  # share of the allowed noise that the next factorization aims at
_NOISELESS = 0.1  # share of the tolerance for the factors of a product: their errors are noise of full rank


def add(A: H2Form, B: H2Form, *, tolerance: float | None = None) -> H2Form:
    """Return A + B.

    Args:
        tolerance: Relative error of the sum; the larger of the two matrices' by default.
    """
    if A.shape != B.shape:
        raise ValueError(f"matrices of shapes {A.shape} and {B.shape} cannot be added")
    tolerance = _wanted(tolerance, max(A.tolerance, B.tolerance))
    corrected = A.correction is not None or B.correction is not None
    if A.kernel is not None and B.kernel is not None and not corrected and _same_points(A, B):
        return _of_kernel(A, A.kernel + B.kernel, _sum(A.diagonal_term, B.diagonal_term), tolerance)
    symmetric = A.is_symmetric and B.is_symmetric

    def transposed(X: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(product(A, X, transposed=True) + product(B, X, transposed=True))

    result = from_operator(
        A.rows,
        lambda X: product(A, X) + product(B, X),
        product_transposed=None if symmetric else transposed,
        columns=A.columns,
        tolerance=tolerance,
        admissibility=A.admissibility,
    )
    return replace(result, device=A.device)


def multiply(A: H2Form, B: H2Form, *, tolerance: float | None = None) -> H2Form:
    """Return A B.

    Args:
        tolerance: Relative error of the product; the larger of the two matrices' by default.
    """
    if A.shape[1] != B.shape[0]:
        raise ValueError(f"matrices of shapes {A.shape} and {B.shape} cannot be multiplied")
    tolerance = _wanted(tolerance, max(A.tolerance, B.tolerance))
    left = _noiseless(A, tolerance)
    right = left if A is B else _noiseless(B, tolerance)

    def transposed(X: NDArray[Any]) -> NDArray[Any]:
        return product(right, product(left, X, transposed=True), transposed=True)

    result = from_operator(
        A.rows,
        lambda X: product(left, product(right, X)),
        # A square of a symmetric matrix is symmetric, and half the work.
        product_transposed=None if A is B and A.is_symmetric else transposed,
        # The columns may be the same points as the rows in a tree of their own: one tree makes the matrix square.
        columns=A.rows if _same_tree(A.rows, B.columns) else B.columns,
        tolerance=tolerance,
        admissibility=A.admissibility,
    )
    return replace(result, device=A.device)


def _wanted(tolerance: float | None, default: float) -> float:
    if tolerance is None:
        return default
    require_tolerance(tolerance)
    return tolerance


def _noiseless(A: H2Form, tolerance: float) -> H2Form:
    """Return a kernel matrix compressed so much tighter that its error does not show in a product's ranks."""
    tighter = max(_NOISELESS * tolerance, _COMPRESSED)
    if A.kernel is None or A.tolerance <= tighter or is_narrow(A.dtype):
        return A
    return recompress(A, tolerance=tighter)


def inverse(A: H2Form, *, tolerance: float | None = None) -> H2Form:
    """Return the inverse of A, compressed from solves with a factorization.

    The error of a factorization, multiplied by the condition number, is noise of full rank in the inverse and would
    inflate its ranks. A kernel matrix in double precision is therefore factorized some thousand times tighter than the
    tolerance asks, which costs less than refinement. The result is the inverse of the exact kernel matrix: A's
    compression error does not count. For any other matrix, solves are refined with its products.

    The tolerance is relative to the norm of the inverse, where small eigenvalues of A weigh most. A X b may therefore
    differ from b by the tolerance times the condition number. The difference is measured for random b on exactly
    evaluated rows of A; if it exceeds ten tolerances, a note of the result states it.

    Args:
        tolerance: Relative error of the inverse in the Frobenius norm, as random vectors measure it; A's by default.

    Raises:
        ConvergenceError: If A is too near singular to be inverted to the tolerance, judged by solves on exact rows.
    """
    tolerance = _wanted(tolerance, A.tolerance)
    # Solutions that overflow single precision are detected by their residual.
    with np.errstate(over="ignore", invalid="ignore"):
        solves = (
            _refined_solves(A, tolerance)
            if A.kernel is None or is_narrow(A.dtype)
            else _exact_solves(A, tolerance)
        )
        residual = _Probe(A).residual(solves[0]) if A.kernel is not None and is_narrow(A.dtype) else 0.0
    # Products in single precision do not show the compression error, but exact rows do. As in compression, an error of
    # up to two tolerances is accepted.
    if not residual <= 2 * tolerance:
        raise _inaccurate(residual, tolerance, 2.0, _IN_DOUBLE)
    result = from_operator(
        A.rows,
        solves[0],
        product_transposed=None if A.is_symmetric else solves[1],
        tolerance=tolerance,
        admissibility=A.admissibility,
    )
    off = _Probe(A).residual(partial(product, result))
    notes = result.notes
    if off > _DIFFERS * tolerance:
        notes = (
            *notes,
            f"A X b differs from b by {off:.1e} of it: the tolerance of {tolerance:.0e} is relative to the norm of the "
            "inverse X, and the condition number multiplies it",
        )
    return replace(result, device=A.device, notes=notes)


class _Probe:
    """A few random right-hand sides, and the rows of A on which their solutions are checked."""

    def __init__(self, A: H2Form) -> None:
        self.A = A
        self.b = stream(Purpose.ALGEBRA).standard_normal((A.shape[0], _PROBED))
        self.rows = sampled_rows(A, stream(Purpose.ALGEBRA, 1))

    def residual(self, solve: Map) -> float:
        """Return |b - A x| / |b| for x = solve(b), on exactly evaluated rows where A has a kernel."""
        x = np.asarray(solve(self.b))
        if self.A.kernel is None:
            wanted, found = self.b, np.asarray(product(self.A, x))
        else:
            wanted = self.b[self.A.rows.permutation[self.rows]]
            found = exact_product(self.A, self.rows, x)
        size = max(float(np.linalg.norm(wanted)), np.finfo(float).tiny)
        return float(np.linalg.norm(wanted - found)) / size


def _exact_solves(A: H2Form, tolerance: float) -> tuple[Map, Map]:
    """Return solves x -> A^-1 x and A^-T x with the kernel matrix itself, tightened until exact rows confirm them."""
    probe, used, residual = _Probe(A), max(_TIGHTER * tolerance, _TIGHTEST), math.inf
    for _ in range(_FACTORIZATIONS):
        F = factorize_even_indefinite(A, used)
        residual = probe.residual(F.solve)
        logger.info("factorized at %.0e: residual %.1e on exact rows", F.used_tolerance, residual)
        if residual <= _NOISE * tolerance or F.used_tolerance <= _TIGHTEST:
            break
        # The residual is proportional to the error of the factorization, and grows with n.
        share = _SURELY * _NOISE * tolerance / residual if math.isfinite(residual) else 0.0
        used = max(F.used_tolerance * share, _TIGHTEST)
    # As long as the residuals look like noise, the errors of the solutions are no larger.
    if not residual <= _ENOUGH * tolerance:
        raise _inaccurate(residual, tolerance)
    return F.solve, F.solve_transposed


def _inaccurate(
    residual: float, tolerance: float, share: float = _ENOUGH, advice: str = ""
) -> ConvergenceError:
    """Return the error for solves whose residual exceeds `share` times the tolerance; `advice` is a further remedy."""
    reached = residual / (share * _SURELY)
    larger = f", or ask for the tolerance {reached:.0e}" if reached < _LARGEST else ""
    return ConvergenceError(
        f"solves for the inverse stay at relative residual {residual:.1e} on exact rows (at most "
        f"{share * tolerance:.0e} is wanted for the tolerance {tolerance:.0e}): the matrix is too near singular; "
        f"{advice}add to its diagonal{larger}"
    )


def _refined_solves(A: H2Form, tolerance: float) -> tuple[Map, Map]:
    """Return solves refined with A's products, for matrices without kernel and for single precision."""
    F = factorize_even_indefinite(A, min(tolerance, A.tolerance))
    advice = _IN_DOUBLE if A.kernel is not None and is_narrow(A.dtype) else ""
    forth = _refined(F.solve, partial(product, A), A.shape[0], tolerance, advice)
    if A.is_symmetric:
        return forth, forth
    back = _refined(F.solve_transposed, partial(product, A, transposed=True), A.shape[0], tolerance, advice)
    return forth, back


def _refined(approximate: Map, apply: Map, n: int, tolerance: float, advice: str = "") -> Map:
    """Return solves with as many refinement steps as a few random right-hand sides need to reach the residual."""
    X = stream(Purpose.ALGEBRA).standard_normal((n, _PROBED))
    solution = approximate(X)
    wanted = _NOISE * tolerance
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
            f"the matrix is too near singular; {advice}add to its diagonal, or ask for a larger tolerance"
        )

    def solve(X: NDArray[Any]) -> NDArray[Any]:
        solution = approximate(X)
        for _ in range(steps):
            solution += approximate(X - apply(solution))
        return solution

    return solve


def recompress(A: H2Form, *, tolerance: float | None = None) -> H2Form:
    """Return A compressed anew, usually to a larger tolerance and fewer bytes."""
    tolerance = _wanted(tolerance, A.tolerance)
    if A.kernel is not None:
        return _of_kernel(A, A.kernel, A.diagonal_term, tolerance)
    result = from_operator(
        A.rows,
        partial(product, A),
        product_transposed=None if A.is_symmetric else partial(product, A, transposed=True),
        columns=A.columns,
        tolerance=tolerance,
        admissibility=A.admissibility,
    )
    return replace(result, device=A.device)


def _of_kernel(A: H2Form, kernel: Kernel, diagonal: NDArray[Any] | None, tolerance: float) -> H2Form:
    """Compress a kernel over A's points, with A's correction and a diagonal term in tree order."""

    def in_order(tree: Any) -> Tensor:
        points = np.empty_like(tree.points)
        points[tree.permutation] = tree.points
        return torch.from_numpy(points).to(A.device, torch.float32 if is_narrow(A.dtype) else torch.float64)

    leaves = A.rows.level(A.rows.n_levels - 1)
    leaf_size = int((A.rows.stop - A.rows.start)[leaves.start :].max(initial=1))
    result = compress_kernel(
        in_order(A.rows),
        kernel,
        diagonal=None,
        tolerance=tolerance,
        sources=None if A.is_square else in_order(A.columns),
        leaf_size=max(1, leaf_size),
        admissibility=A.admissibility,
    )
    if A.correction is not None:
        entries = A.correction.tocoo()
        i, j = A.rows.permutation[entries.coords[0]], A.columns.permutation[entries.coords[1]]
        result = add_sparse(result, i, j, entries.data)
    if diagonal is None:
        return result
    # Another kernel's length scales may make another tree.
    return with_diagonal_term(result, diagonal[A.rows.places][result.rows.permutation])


def _sum(left: NDArray[Any] | None, right: NDArray[Any] | None) -> NDArray[Any] | None:
    if left is None or right is None:
        return right if left is None else left
    return np.asarray(left + right)


def _same_points(A: H2Form, B: H2Form) -> bool:
    return A.is_square == B.is_square and _same_tree(A.rows, B.rows) and _same_tree(A.columns, B.columns)


def _same_tree(left: Any, right: Any) -> bool:
    """Tell whether two trees order the same points in the same way."""
    return left is right or (
        np.array_equal(left.points, right.points) and np.array_equal(left.permutation, right.permutation)
    )
