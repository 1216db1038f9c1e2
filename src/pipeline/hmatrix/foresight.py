"""The residual that a factorization of many points will leave, foretold by those of two small parts of the points.

What a factorization loses is a share of the Frobenius norm, which grows in proportion to n, while the smallest
eigenvalues, those of the noise, stay as they are: for a given tolerance, the residual that a random right-hand side is
left with grows as sqrt(n) times the norm of the inverse, which grows too until noise is all that is left. On the
square, exp(-r / 0.1) with nugget 1e-2 at tolerance 1e-6 leaves 3e-5, 1e-4, 4e-4 and 1.2e-3 of 16,384, 65,536, 262,144
and 1,000,000 points.
"""

import logging
import math
from collections.abc import Callable

from pipeline.errors import ConvergenceError
from pipeline.hmatrix.compression import compress_kernel
from pipeline.hmatrix.form import H2Form
from pipeline.hmatrix.trust import TIGHTEST

MANY = 500_000  # unknowns from which an attempt in vain costs more than looking ahead
AIMED = 0.3  # of the residual that is let pass: what the next attempt is to leave
LARGEST_STEP = 1e-4  # from one tolerance to the next
_FEWER = 16, 64  # times: the larger part costs a sixteenth of a factorization
_CLOSE = 0.7  # of the residual that is let pass: so much foretold may prove to be more

logger = logging.getLogger("pipeline.hmatrix")


def look_ahead(
    A: H2Form, tolerance: float, allowed: float, residual_of: Callable[[H2Form], float]
) -> tuple[float, tuple[str, ...]]:
    """Return the tolerance to begin with, and a note where parts of the points foretell that the one asked for fails.

    Args:
        A: A kernel matrix over one point set.
        tolerance: Asked for.
        allowed: Largest relative residual that is let pass.
        residual_of: Factorizes a matrix at this tolerance, and measures the relative residual of its solves.
    """
    try:
        foretold = foretold_residual(A, residual_of)
    except ConvergenceError:  # the whole matrix says so better, with its own places
        return tolerance, ()
    if not _CLOSE * allowed < foretold < math.inf:  # nor does NaN foretell anything
        return tolerance, ()
    used = max(tolerance * max(AIMED * allowed / foretold, LARGEST_STEP), min(tolerance, TIGHTEST))
    note = (
        f"at tolerance {tolerance:.0e} solves would leave a relative residual of about {foretold:.0e}, as parts of the "
        f"points foretell, so the factorization began at {used:.1e}"
    )
    logger.info(note)
    return used, (note,)


def foretold_residual(A: H2Form, residual_of: Callable[[H2Form], float]) -> float:
    """Return what a factorization of A will leave, by the growth from every 64th point to every 16th.

    Points are taken in the tree's order, evenly in space. Arguments as `look_ahead` describes them.
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
