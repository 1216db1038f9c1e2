"""Leave-one-out predictions, by formulas that need the diagonal of A^-1, and the error of that diagonal.

The residual of value i is (P y)_i / P_ii and its variance 1 / P_ii [1, equation 5.12], P as in `likelihood.py`.

References:
    [1] Rasmussen, Williams, "Gaussian Processes for Machine Learning", MIT Press 2006.
"""

import logging
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pipeline.hmatrix.gaussian_process.divided import all_rows, root_mean_square, rows_before, total
from pipeline.hmatrix.gaussian_process.likelihood import LikelihoodEvaluation
from pipeline.hmatrix.gaussian_process.prepared import exact_rows, left_on_exact_rows, solved
from pipeline.hmatrix.gaussian_process.variances import (
    RESIDUAL,
    SOLVED,
    SOLVED_FOR,
    SOLVES,
    UNSURE,
    spread,
)

logger = logging.getLogger("pipeline.hmatrix")

Array = NDArray[np.float64]

EXACT = 1024  # values whose diagonal costs one solve each
_DETERMINED = (
    1e-10  # share of A^-1's diagonal: if P's is less, this value alone determines a coefficient of the trend
)


def left_one_out(
    model: LikelihoodEvaluation,
    points: Array,
    values: Array,
    noise: Array,
    estimated: Callable[[], tuple[Array, Array]],
) -> tuple[Array, Array, float]:
    """Return mean and standard deviation of each value's prediction from the others, noise included, and their error.

    The error is the root mean square of the standard deviations' relative errors; the residual of a value errs by twice
    that, and by the error of the weights. A value that alone determines a coefficient of the trend has an infinite
    standard deviation, and NaN as its mean.

    Args:
        model: The likelihood at the parameters in use.
        points: Shape (n, d).
        values: Shape (n,).
        noise: Variances of the values' noise, shape (n,).
        estimated: Estimates the diagonal of A^-1 and its relative errors, both of shape (n,); called if there are too
            many values for a solve each.
    """
    group = model.communicator
    diagonal, relative = _inverse_diagonal(model, points, noise, estimated)
    left = diagonal
    if len(model.gram):
        W = model.solved_basis
        left = diagonal - (W * np.linalg.solve(model.gram, W.T).T).sum(axis=1)
    predicted = left > _DETERMINED * diagonal
    variance = np.where(predicted, 1 / np.where(predicted, left, 1.0), np.inf)
    mean = values - np.where(predicted, model.weights, np.nan) * np.where(predicted, variance, 0.0)
    error = root_mean_square(group, 0.5 * (relative * diagonal)[predicted] / left[predicted])
    if error > UNSURE:
        logger.warning(
            "standard deviations of values left out err by about %.0f %%: each depends on more values than lie near",
            100 * error,
        )  # fmt: skip
    return mean, np.sqrt(variance), error


def _inverse_diagonal(
    model: LikelihoodEvaluation, points: Array, noise: Array, estimated: Callable[[], tuple[Array, Array]]
) -> tuple[Array, Array]:
    """Return the diagonal of A^-1 at own rows and its relative errors, both of shape (n,)."""
    group, n = model.communicator, len(points)
    n_all, first = int(total(group, np.array([n]))[0]), rows_before(group, n)
    if n_all <= EXACT:
        found, errors = diagonal_at(model, points, noise, np.arange(n_all))
        return found[first : first + n], errors[first : first + n]
    diagonal, relative = estimated()
    rows = spread(n_all, SOLVED)
    exact, lost = diagonal_at(model, points, noise, rows)
    here = (rows >= first) & (rows < first + n)
    off = root_mean_square(group, diagonal[rows[here] - first] / exact[here] - 1)
    measured = math.hypot(off, float(np.sqrt(np.mean(lost**2))))
    # Standard deviations err by half as much.
    unsure = relative > 2 * UNSURE if measured <= 2 * UNSURE else np.ones(n, np.bool_)
    relative = np.maximum(relative, measured)
    of_all = all_rows(group, relative)
    unsure_of_all = np.flatnonzero(all_rows(group, unsure.astype(np.float64)))
    chosen = np.sort(unsure_of_all[np.argsort(-of_all[unsure_of_all], kind="stable")[:SOLVED_FOR]])
    if len(chosen):
        logger.info(
            "%d values left out need a solve each: their neighbors alone predict them too poorly", len(chosen)
        )
        found, errors = diagonal_at(model, points, noise, chosen)
        here = (chosen >= first) & (chosen < first + n)
        diagonal[chosen[here] - first], relative[chosen[here] - first] = found[here], errors[here]
    return diagonal, relative


def diagonal_at(
    model: LikelihoodEvaluation, points: Array, noise: Array, rows: NDArray[np.int64]
) -> tuple[Array, Array]:
    """Return the diagonal of A^-1 at rows of all processes by a solve each, and its relative errors, both (rows,).

    With e a column of the identity and x of the residual r = e - A x, e' A^-1 e = x' (e + r) + r' A^-1 r. The remaining
    error is that of compression, measured on exact rows as in `variances.exact_variances`.
    """
    group, n = model.communicator, len(points)
    first = rows_before(group, n)
    found, errors = np.zeros(len(rows)), np.zeros(len(rows))
    for start in range(0, len(rows), SOLVES):
        part = rows[start : start + SOLVES] - first
        own = np.flatnonzero((part >= 0) & (part < n))
        columns = np.zeros((n, len(part)))
        columns[part[own], own] = 1.0
        x, left = solved(model, columns, RESIDUAL)
        beyond = total(group, (left * np.asarray(model.F.solve(left))).sum(axis=0))
        value = total(group, (x * (columns + left)).sum(axis=0)) + beyond
        off = left_on_exact_rows(model, points, noise, columns, x) - left[exact_rows(n, group)]
        squares, count = total(group, (off**2).sum(axis=0)), total(group, np.array([len(off)]))[0]
        lost = np.sqrt(squares / max(count, 1.0)) * total(group, np.abs(x).sum(axis=0)) + np.abs(beyond)
        found[start : start + len(part)], errors[start : start + len(part)] = value, lost / np.abs(value)
    return found, errors
