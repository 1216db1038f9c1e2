"""How far a factorization can be trusted: measured on a random right-hand side with exactly evaluated rows.

A factorization of A is exact for F = A - E, where E is the error of compression and rounding. For normal b and
x = F^-1 b the residual b - A x is -E F^-1 b, so that one solve tells what matters about M = E F^-1:

- the relative residual of solves with random right-hand sides;
- |M|_F, the norm of the residual itself. If it is below 1, all eigenvalues of A have the same sign as F's;
- log det A - log det F = log det(1 + M) = tr M up to |M|_F^2, with the trace estimated by -b^H (b - A x) [1].

Small eigenvalues of A, below tolerance times norm, make all three large. A few of the rows where x is largest are
always among those evaluated: a factorization that breaks down does so somewhere.

References:
    [1] Hutchinson, "A stochastic estimator of the trace of the influence matrix", Communications in Statistics 1990.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.hmatrix.exact_rows import exact_product, sampled_rows
from pipeline.hmatrix.form import H2Form
from pipeline.hmatrix.product import product
from pipeline.hmatrix.streams import Purpose, stream

TIGHTEST = 1e-13  # tolerance: rounding leaves no more
_ALL_ROWS = 4e6  # entries up to which every row is evaluated
_MANY, _FEW = 8, 1  # right-hand sides if every row is evaluated, and for larger matrices
_ROWS = 64  # evaluated rows of larger matrices, spread over all regions
_LARGEST = 16  # further rows, where the solution is largest
_SURE = 0.5  # |M|_F up to which the determinant's sign is certain
_EPSILON = float(np.finfo(np.float64).eps)
_DEVIATIONS = 3  # standard deviations of an estimate that its stated error covers


@dataclass(frozen=True)
class Trust:
    """The measured accuracy of a factorization.

    Attributes:
        residual: |b - A x| / |b| of a random right-hand side, 2-norm, on exactly evaluated rows of A where it is a
            kernel matrix, else with its products.
        change: Estimate of |M|_F, the Frobenius norm of the relative change of A.
        logdet_error: Bound of the error of log |det|, by three standard deviations of its estimate.
    """

    residual: float
    change: float
    logdet_error: float

    @property
    def sign_is_sure(self) -> bool:
        """Whether the error is too small to have changed the sign of an eigenvalue."""
        return self.change <= _SURE


def measure(A: H2Form, solve: Callable[[NDArray[Any]], NDArray[Any]], *, seed: int = 0) -> Trust:
    """Measure a factorization of A by one solve; costs that and up to 80 rows of A, or all rows of a small A.

    Args:
        A: The matrix.
        solve: b -> x with A x ~ b, for b of shape (n, m).
        seed: Seed of the right-hand side and the rows.
    """
    n = A.shape[0]
    if n == 0:
        return Trust(0.0, 0.0, 0.0)
    generator = stream(Purpose.TRUST, seed)
    # By chance, one vector may miss the only direction with an error: small matrices can afford more vectors.
    count = _MANY if n * n <= _ALL_ROWS else _FEW
    b = generator.standard_normal((n, count))
    if A.computed.kind == "c":
        b = (b + 1j * generator.standard_normal((n, count))) / math.sqrt(2)
    x = np.asarray(solve(b))
    if not np.isfinite(x).all():
        return Trust(math.inf, math.inf, math.inf)
    in_tree_order = A.rows.permutation
    if A.kernel is None:
        off, chosen, weights = b - product(A, x), np.arange(n), np.ones(n)
    else:
        places, weights = _rows(A, np.abs(x[in_tree_order]).max(axis=1), generator)
        chosen = in_tree_order[places]
        off = b[chosen] - exact_product(A, places, x.astype(A.computed, copy=False))
    squares, products = (np.abs(off) ** 2).mean(axis=1), (b[chosen].conj() * off).mean(axis=1)
    change = math.sqrt(float(weights @ squares))
    trace = abs(complex(weights @ products))
    # Rows left out are like the chosen ones: the variance of their sum is that of a stratified sample.
    sampled = float((weights * (weights - 1)) @ np.abs(products) ** 2)
    error = trace + _DEVIATIONS * math.sqrt(2 * change**2 / count + sampled) + change**2 + n * _EPSILON
    return Trust(change / float(np.linalg.norm(b)) * math.sqrt(count), change, error)


def _rows(
    A: H2Form, sizes: NDArray[np.float64], generator: np.random.Generator
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Choose places of the tree order, and the number of rows that each stands for."""
    n = len(sizes)
    if n * n <= _ALL_ROWS or n <= _ROWS + _LARGEST:
        return np.arange(n, dtype=np.int32), np.ones(n)
    largest = np.argpartition(sizes, n - _LARGEST)[n - _LARGEST :].astype(np.int32)
    spread = np.setdiff1d(sampled_rows(A, generator, _ROWS), largest)
    weights = np.full(len(largest) + len(spread), (n - len(largest)) / len(spread))
    weights[: len(largest)] = 1
    return np.concatenate([largest, spread]), weights
