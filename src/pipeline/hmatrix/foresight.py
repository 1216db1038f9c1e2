"""The residual that a factorization of many points will leave, predicted from those of two small subsets of the points.

The error of a factorization is a share of the Frobenius norm, which grows in proportion to n, while the smallest
eigenvalues, those of the noise, stay the same. At a given tolerance, the relative residual of a random right-hand side
therefore grows as sqrt(n) times the norm of the inverse, which grows too until the noise bounds it. For exp(-r / 0.1)
on the square with nugget 1e-2, tolerance 1e-6 leaves 3e-5, 1e-4, 4e-4 and 1.2e-3 at 16,384, 65,536, 262,144 and
1,000,000 points.
"""

import logging
import math
from collections.abc import Callable

from pipeline.errors import ConvergenceError
from pipeline.hmatrix.compression import compress_kernel
from pipeline.hmatrix.form import H2Form
from pipeline.hmatrix.trust import TIGHTEST

MANY = 500_000  # unknowns from which an attempt in vain costs more than looking ahead
AIMED = 0.3  # share of the accepted residual that the next attempt aims at
LARGEST_STEP = 1e-4  # smallest factor from one tolerance to the next
_FEWER = 16, 64  # times fewer points: the larger subset costs a sixteenth of a factorization
_CLOSE = 0.7  # share of the accepted residual: a larger prediction may prove to be too much

logger = logging.getLogger("pipeline.hmatrix")


def look_ahead(
    A: H2Form, tolerance: float, allowed: float, residual_of: Callable[[H2Form], float]
) -> tuple[float, tuple[str, ...]]:
    """Return the tolerance to begin with, and a note if subsets of the points predict that the requested one fails.

    Args:
        A: A kernel matrix over one point set.
        tolerance: Tolerance that was asked for.
        allowed: Largest relative residual that is accepted.
        residual_of: Factorizes a matrix at this tolerance, and returns the measured relative residual of its solves.
    """
    try:
        predicted = predicted_residual(A, residual_of)
    except ConvergenceError:  # the error of the whole matrix will name its own points
        return tolerance, ()
    if not _CLOSE * allowed < predicted < math.inf:  # NaN predicts nothing either
        return tolerance, ()
    used = max(tolerance * max(AIMED * allowed / predicted, LARGEST_STEP), min(tolerance, TIGHTEST))
    note = (
        f"subsets of the points predict that solves would leave a relative residual of about {predicted:.0e} at "
        f"tolerance {tolerance:.0e}, so the factorization began at {used:.1e}"
    )
    logger.info(note)
    return used, (note,)


def predicted_residual(A: H2Form, residual_of: Callable[[H2Form], float]) -> float:
    """Predict a factorization's residual from its growth between every 64th and every 16th point.

    Points are taken along the tree's order, evenly in space. Arguments as `look_ahead` describes them.
    """
    assert A.kernel is not None
    found = []
    for times in _FEWER:
        term = None if A.diagonal_term is None else A.diagonal_term[::times]
        part = compress_kernel(
            A.rows.points[::times], A.kernel, diagonal=term, tolerance=A.tolerance, sources=None, leaf_size=None,
            admissibility=A.admissibility,
        )  # fmt: skip
        found.append(residual_of(part))
    larger, smaller = found
    if not larger > smaller > 0:
        return larger
    exponent = math.log(larger / smaller) / math.log(_FEWER[1] / _FEWER[0])
    return larger * math.exp(exponent * math.log(_FEWER[0]))
