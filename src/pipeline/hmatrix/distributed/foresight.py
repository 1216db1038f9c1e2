"""The largest tolerance at which Cholesky succeeds as a preconditioner, predicted from the smallest eigenvalue.

A factorization breaks down if the error of compression outweighs the smallest eigenvalue of the matrix. With n points
the norm that tolerances refer to grows in proportion to n, while the smallest eigenvalue tends to that of the noise;
and each failed attempt costs as much as a successful one. For exp(-r / 0.1) on the square with nugget 1e-2, tolerance
1e-4 succeeds with 500,000 points and fails with a million.

A preconditioner may also be that of A + s I: at a million points, 1e-4 succeeds with twice the nugget. The largest
tolerance grows about as the square root of the smallest eigenvalue (2e-4 fails with five times the nugget). With s
fifteen times the smallest eigenvalue, the shift alone gives the preconditioned matrix a condition number of at most 16,
which takes a dozen more iterations, and the tolerance is four times as large.
"""

import logging
import math
from dataclasses import dataclass

import numpy as np

from pipeline.hmatrix.distributed.exact_rows import exact_rows, rounded
from pipeline.hmatrix.distributed.form import OwnForm
from pipeline.hmatrix.places import is_in
from pipeline.hmatrix.swap import Array, gather
from pipeline.runtime.communicator import Communicator
from pipeline.runtime.together import together

_POINTS = 256  # largest number of points of a box whose block is looked at
_BOXES = 16  # boxes that are looked at, evenly along the tree's order
_BORNE = 80.0  # times the smallest eigenvalue: the largest Frobenius norm of the error
_SHIFT = 15.0  # times the smallest eigenvalue: the shift of the diagonal

logger = logging.getLogger("pipeline.hmatrix")


@dataclass(frozen=True)
class Start:
    """The first attempt at a preconditioner.

    Attributes:
        tolerance: The tolerance that was asked for, or a smaller one.
        shift: Number that is added to the diagonal.
    """

    tolerance: float
    shift: float = 0.0


def foreseen_start(
    A: OwnForm,
    own_term: Array,
    tolerance: float,
    *,
    share: float,
    tightest: float,
    communicator: Communicator,
) -> Start:
    """Return where a preconditioner by Cholesky should begin; collective.

    Args:
        A: A positive definite matrix.
        own_term: Diagonal term of own rows, in tree order.
        tolerance: Tolerance that was asked for.
        share: Share of a factorization's tolerance that its boxes may lose.
        tightest: Smallest tolerance; if even this one is too large, the result is `tolerance` without a shift.
        communicator: The processes.
    """
    smallest = smallest_eigenvalue(A, own_term, communicator)
    lost = share * tolerance * A.norm
    if lost <= _BORNE * smallest:
        return Start(tolerance)
    borne = tolerance * _BORNE * math.sqrt(1 + _SHIFT) * smallest / lost
    if not borne >= tightest:
        return Start(tolerance)
    start = Start(min(borne, tolerance), _SHIFT * smallest)
    logger.info(
        "the smallest eigenvalue is about %.1e: preconditioning by A + %.1e I, factorized at tolerance %.1e",
        smallest, start.shift, start.tolerance,
    )  # fmt: skip
    return start


def smallest_eigenvalue(A: OwnForm, own_term: Array, communicator: Communicator) -> float:
    """Return the smallest eigenvalue of some diagonal blocks, which is at least that of the matrix; collective.

    The boxes are the same for every number of processes, as long as their level is one below the cut.
    """
    whole, first = A.division.whole, A.division.first
    small = [level for level in range(whole.n_levels) if whole.largest(level) <= _POINTS]
    level = max(A.division.cut, min(small, default=whole.n_levels - 1))
    low, high = (int(whole.level_start[level + i]) - i for i in range(2))
    boxes = np.unique(np.linspace(low, high, _BOXES).astype(int)) - low
    own = boxes[is_in(boxes, A.division.own_on(level))]
    least = np.inf
    with together(communicator):
        for start, stop in zip(*whole.places(level, own), strict=True):
            chosen = slice(start - first, min(stop, start + _POINTS) - first)
            points, term = A.points.own[chosen], own_term[chosen]
            if len(points):
                block = exact_rows(A.kernel, points, points) + np.diag(term)
                least = min(least, float(np.linalg.eigvalsh(block)[0]))
    return rounded(float(np.min(np.concatenate(gather(communicator, np.array([least]))))))
