"""Each value predicted from all others, by formulas that need the diagonal of A^-1, and how sure that diagonal is.

The residual of value i is (P y)_i / P_ii and its variance 1 / P_ii [1, equation 5.12], P as in `likelihood.py`.

References:
    [1] Rasmussen, Williams, "Gaussian Processes for Machine Learning", MIT Press 2006.
"""

import logging
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pipeline.hmatrix.gaussian_process.divided import all_rows, root_mean_square, rows_before, total
from pipeline.hmatrix.gaussian_process.likelihood import LikelihoodEvaluation
from pipeline.hmatrix.gaussian_process.variances import SOLVED, SOLVED_FOR, SOLVES, UNSURE, spread

logger = logging.getLogger("pipeline.hmatrix")

Array = NDArray[np.float64]

EXACT = 1024  # values whose diagonal costs one solve each
_DETERMINED = (
    1e-10  # of A^-1's diagonal: with less in P's, a coefficient of the trend follows from this value alone
)


def left_one_out(
    model: LikelihoodEvaluation, values: Array, estimated: Callable[[], tuple[Array, Array]]
) -> tuple[Array, Array, float]:
    """Return mean and standard deviation of each value's prediction from the others, noise included, and their error.

    The error is the relative error of the standard deviations, a root mean square; means err by as much of the
    difference between value and mean. A value on which alone a coefficient of the trend depends has an infinite
    standard deviation, and a mean that is not a number.

    Args:
        model: The likelihood at the parameters in use.
        values: Shape (n,).
        estimated: Estimates the diagonal of A^-1 and its relative errors, both of shape (n,), where solves for all are
            too many.
    """
    group = model.communicator
    diagonal, relative = _inverse_diagonal(model, len(values), estimated)
    left = diagonal
    if len(model.gram):
        W = model.solved_basis
        left = diagonal - (W * np.linalg.solve(model.gram, W.T).T).sum(axis=1)
    told = left > _DETERMINED * diagonal
    variance = np.where(told, 1 / np.where(told, left, 1.0), np.inf)
    mean = values - np.where(told, model.weights, np.nan) * np.where(told, variance, 0.0)
    error = root_mean_square(group, 0.5 * (relative * diagonal)[told] / left[told])
    if error > UNSURE:
        logger.warning(
            "standard deviations of values left out err by about %.0f %%: each depends on more values than lie near",
            100 * error,
        )  # fmt: skip
    return mean, np.sqrt(variance), error


def _inverse_diagonal(
    model: LikelihoodEvaluation, n: int, estimated: Callable[[], tuple[Array, Array]]
) -> tuple[Array, Array]:
    """Return the diagonal of A^-1 at own rows and its relative errors, both of shape (n,)."""
    group = model.communicator
    n_all, first = int(total(group, np.array([n]))[0]), rows_before(group, n)
    own = np.arange(n) + first
    if n_all <= EXACT:
        return diagonal_at(model, n, np.arange(n_all))[own], np.zeros(n)
    diagonal, relative = estimated()
    rows = spread(n_all, SOLVED)
    exact = diagonal_at(model, n, rows)
    here = (rows >= first) & (rows < first + n)
    measured = root_mean_square(group, diagonal[rows[here] - first] / exact[here] - 1)
    # Standard deviations err by half as much.
    unsure = relative > 2 * UNSURE if measured <= 2 * UNSURE else np.ones(n, np.bool_)
    relative = np.maximum(relative, measured)
    of_all, unsure_of_all = (
        all_rows(group, relative),
        np.flatnonzero(all_rows(group, unsure.astype(np.float64))),
    )
    chosen = np.sort(unsure_of_all[np.argsort(-of_all[unsure_of_all], kind="stable")[:SOLVED_FOR]])
    if len(chosen):
        logger.info("%d values left out cost a solve each: near values tell too little", len(chosen))
        found = diagonal_at(model, n, chosen)
        here = (chosen >= first) & (chosen < first + n)
        diagonal[chosen[here] - first], relative[chosen[here] - first] = found[here], 0.0
    return diagonal, relative


def diagonal_at(model: LikelihoodEvaluation, n: int, rows: NDArray[np.int64]) -> Array:
    """Return the diagonal of A^-1 at rows of all processes, by a solve each; n rows are this process's own."""
    group = model.communicator
    first, found = rows_before(group, n), np.zeros(len(rows))
    for start in range(0, len(rows), SOLVES):
        part = rows[start : start + SOLVES] - first
        own = np.flatnonzero((part >= 0) & (part < n))
        columns = np.zeros((n, len(part)))
        columns[part[own], own] = 1.0
        found[start + own] = np.asarray(model.F.solve(columns))[part[own], own]
    return total(group, found)
