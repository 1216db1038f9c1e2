"""Variances at new points: by a solve each, or from near values with a correction by random fields.

A predictor w'y of f has a mean square error of the variance given all values, plus the mean square of its difference
from the best predictor. So with weights w of near values, weights x = A^-1 c of all values, and fields v,

    var(f | all) = E (f - w'y)^2 - E (x'v - w'v)^2.

The first term is dense algebra with exact entries. The second is small where near values tell enough, and errors in the
covariance of the fields and in A^-1 v enter it only in proportion to x - w. Fields have the covariance F of a
factorization, and conjugate gradients solve with A. The relative error of (x - w)' F (x - w) is the relative difference
of F and A as preconditioner and matrix, not the error of F relative to the smallest noise.
"""

import logging
import math

import numpy as np
from numpy.typing import NDArray

from pipeline.hmatrix.gaussian_process.divided import total
from pipeline.hmatrix.gaussian_process.likelihood import LikelihoodEvaluation
from pipeline.hmatrix.gaussian_process.local import NEIGHBORS, grouped, groups_within_reach, neighborhoods
from pipeline.hmatrix.gaussian_process.prepared import exact_rows, left_on_exact_rows, of_noise, solved
from pipeline.hmatrix.kernels import Kernel
from pipeline.hmatrix.streams import Purpose, stream

logger = logging.getLogger("pipeline.hmatrix")

Array = NDArray[np.float64]

FIELDS = 32  # random fields that are drawn for the variances of many points
SOLVES = 64  # right-hand sides at a time
UNSURE = 0.1  # relative standard error of a standard deviation above which a point gets a solve or a warning
RESIDUAL = 1e-7  # relative residual of solves for variances; the variances' error is of its square
_LEFT_OUT = 1e-3  # largest share of a variance that a residual may add before it is subtracted
_TIGHTENINGS = 3
_LEAST_RESIDUAL = 1e-13
_ONE_PLACE = 1e-12  # differences of coordinates, relative to the extent, that are rounding, as at the poles
_LEAST_NOISE = 1e-14  # share of the values' variance
_LEAST_OF_FIELDS, _MOST_OF_FIELDS = 1e-9, 1e-2  # bounds of the relative residual of fields
_SURE = 0.02  # relative standard error below which no more near values are taken
_MORE = (4, 16, 64)  # factors of the number of near values where they tell too little
_AS_LONG = 16  # more near values may take this many times the work of all groups,
_OPERATIONS = 2.0**35  # or this many operations
SOLVED = 16  # new points that get a solve, which measures the error of the others
SOLVED_FOR = 1024  # largest number of new points that get a solve where near values tell too little
_SOLVED_NUMBERS = 2**24  # largest number of entries of their solutions
_LEAST_LEFT = 0.02  # share of the variance given near values that a correction leaves at least


def exact_variances(
    model: LikelihoodEvaluation, points: Array, noise: Array, new_points: Array
) -> tuple[Array, Array]:
    """Return variances by a solve each, and the relative errors of the standard deviations, both of shape (q,).

    Where values are divided among processes, every process gives all new points and gets all results.

    With the residual r = c - A x of a solution x, c' A^-1 c = x' (c + r) + r' A^-1 r. The last term is computed with
    F^-1 in place of A^-1, and the iteration goes on until the term is at most a thousandth of the variance, because a
    small residual may be large compared with small noise. The error e of compression, measured on exact rows, is of
    similar size in all rows, but its signs may follow those of x, as where both are smooth. So |x' e| is bounded by the
    root mean square of e times the sum of |x|.
    """
    kernel, group = model.kernel, model.communicator
    variances, errors = np.zeros(len(new_points)), np.zeros(len(new_points))
    for first in range(0, len(new_points), SOLVES):
        part = slice(first, first + SOLVES)
        cross = kernel(points, new_points[part])
        x, tolerance = np.asarray(model.F.solve(cross)), RESIDUAL
        for attempt in range(_TIGHTENINGS + 1):
            x, left = solved(model, cross, tolerance, x)
            beyond = np.maximum(total(group, (left * np.asarray(model.F.solve(left))).sum(axis=0)), 0.0)
            explained = total(group, (x * (cross + left)).sum(axis=0))
            found = kernel.diagonal(new_points[part]) - explained - beyond
            found = np.maximum(found, 0.0)
            worst = float((beyond / np.maximum(found, 1e-300)).max(initial=0.0))
            if worst <= _LEFT_OUT or tolerance <= _LEAST_RESIDUAL or attempt == _TIGHTENINGS:
                break
            tolerance = max(tolerance * min(0.1, 0.5 * math.sqrt(_LEFT_OUT / worst)), _LEAST_RESIDUAL)
        rows = exact_rows(len(points), group)
        off = left_on_exact_rows(model, points, noise, cross, x) - left[rows]
        count = float(total(group, np.array([len(rows)]))[0])
        mean = total(group, (off**2).sum(axis=0)) / max(count, 1.0)
        lost = np.sqrt(mean) * total(group, np.abs(x).sum(axis=0)) + beyond
        variances[part], errors[part] = found, lost / np.maximum(2 * found, 1e-300)
    return variances, errors


def variances_from_near(
    model: LikelihoodEvaluation, points: Array, noise: Array, new_points: Array, drawn: Array, full: Array
) -> tuple[Array, Array]:
    """Return variances from near values, corrected by fields, and relative errors of their roots, both of shape (q,).

    Values at one place are replaced by their mean, weighted by 1 / noise, which holds the same information on the
    field. Points for which 40 near values tell too little get 160, then 640, then 2,560, in groups that share these, as
    long as the work stays below a bound. Solves at 16 of the points test whether the fields' covariance agrees with the
    matrix. Points whose errors still exceed 10 % get a solve each: 1,024 at most, and fewer where n is large.

    Args:
        model: The model.
        points: Places of the values, shape (n, d).
        noise: Variances of their noise, shape (n,).
        new_points: Shape (q, d).
        drawn: Fields at the values, noise included, shape (n, S).
        full: Their predictions from all values, shape (q, S).
    """
    near, corrections = np.empty(len(new_points)), np.empty(len(new_points))
    if not len(new_points):
        return near, corrections
    places, noise_there, drawn_there = _merged(points, noise, drawn)
    groups = [grouped(model.kernel, places, new_points)]
    allowed = max(_AS_LONG * sum(_work(part, NEIGHBORS) for part in groups), _OPERATIONS)
    for times, following in zip((1, *_MORE), (*_MORE, None), strict=True):
        for members in groups:
            for part in neighborhoods(
                model.kernel, places, noise_there, new_points, groups=members, n_neighbors=times * NEIGHBORS
            ):
                difference = full[part.targets] - part.predict(drawn_there)
                corrections[part.targets] = np.mean(difference**2, axis=-1)
                near[part.targets] = part.variances.numpy()
        variances, relative = corrected(near, corrections)
        unsure = np.flatnonzero(relative > _SURE)
        if following is None or not len(unsure) or times * NEIGHBORS >= len(places):
            break
        n_near = following * NEIGHBORS
        groups = groups_within_reach(model.kernel, places, new_points, unsure, n_near)
        groups = _worth_it(groups, relative, n_near, allowed)
        logger.info(
            "%d new points are predicted from %d near values", sum(part.size for part in groups), n_near
        )
    checked = spread(len(new_points), SOLVED)
    exact, lost = exact_variances(model, points, noise, new_points[checked])
    off = np.sqrt(variances[checked] / np.maximum(exact, 1e-300)) - 1
    measured = math.sqrt(float(np.mean(off**2)) + float(np.mean(lost**2)))
    unsure = np.flatnonzero(relative > UNSURE) if measured <= UNSURE else np.arange(len(relative))
    relative = np.maximum(relative, measured)
    most = min(SOLVED_FOR, max(_SOLVED_NUMBERS // len(points), SOLVED))
    chosen = unsure[np.argsort(-relative[unsure], kind="stable")[:most]]
    if len(chosen):
        logger.info(
            "%d standard deviations need a solve each: the neighbors alone predict too poorly", len(chosen)
        )
        variances[chosen], relative[chosen] = exact_variances(model, points, noise, new_points[chosen])
    return variances, relative


def spread(n: int, count: int) -> NDArray[np.int64]:
    """Return `count` of n indices, the middles of equal parts, since the first and last may be unlike all others."""
    return np.unique(((np.arange(count) + 0.5) / count * n).astype(np.int64))[: max(n, 0)]


def _work(groups: NDArray[np.int64], n_neighbors: int) -> float:
    """Return the number of operations of groups: a Cholesky factorization each, and two solves for every target."""
    return float(len(groups) * n_neighbors**2 * (n_neighbors / 3 + 2 * groups.shape[1]))


def _worth_it(
    groups: list[NDArray[np.int64]], relative: Array, n_neighbors: int, allowed: float
) -> list[NDArray[np.int64]]:
    """Return the groups with the largest errors relative to their work, up to `allowed` operations."""
    work = np.concatenate([np.full(len(part), _work(part[:1], n_neighbors)) for part in groups])
    gain = np.concatenate([(relative[part] ** 2).sum(axis=1) for part in groups]) / work
    order = np.argsort(-gain, kind="stable")
    taken = np.zeros(len(work), np.bool_)
    taken[order[np.cumsum(work[order]) <= allowed]] = True
    ends = np.cumsum([len(part) for part in groups])[:-1]
    chosen = [part[keep] for part, keep in zip(groups, np.split(taken, ends), strict=True)]
    return [part for part in chosen if len(part)]


def _merged(points: Array, noise: Array, drawn: Array) -> tuple[Array, Array, Array]:
    """Return the distinct places, the noise of the values' mean at each place, and this mean for each field."""
    extent = float(np.ptp(points, axis=0).max(initial=0.0)) or 1.0
    rounded = np.round((points - points[0]) / (_ONE_PLACE * extent))
    order = np.lexsort(rounded.T)
    in_order = rounded[order]
    first = np.flatnonzero(np.append(True, (in_order[1:] != in_order[:-1]).any(axis=1)))
    if len(first) == len(points):
        return points, noise, drawn
    # A value without noise outweighs the others at its place.
    weights = 1 / np.maximum(noise[order], _LEAST_NOISE * max(float(noise.max()), float(np.mean(drawn**2))))
    sums = np.add.reduceat(weights, first)
    means = np.add.reduceat(weights[:, None] * drawn[order], first) / sums[:, None]
    merged = np.add.reduceat(weights**2 * noise[order], first) / sums**2
    return points[order[first]], merged, means


def fields_of(model: LikelihoodEvaluation, noise: Array, seed: int) -> tuple[Array, Array]:
    """Return values of fields drawn from the model, noise included, and A^-1 times them, both of shape (n, S).

    The solves are as accurate as those for weights of predictions: to a hundredth of the noise.
    """
    group = model.communicator
    drawn = np.asarray(model.F.sample(stream(Purpose.FIELDS, seed), FIELDS))
    squares, count = total(group, np.array([(drawn**2).sum(), drawn.size]))
    relative = of_noise(noise, group) / (math.sqrt(squares / max(count, 1)) or 1.0)
    return drawn, solved(model, drawn, min(max(relative, _LEAST_OF_FIELDS), _MOST_OF_FIELDS))[0]


def corrected(variances: Array, corrections: Array) -> tuple[Array, Array]:
    """Return variances less their corrections, and the relative standard errors of the standard deviations.

    The errors are relative to a variance that is smaller by two standard errors of the correction, because a correction
    that is too small by chance has a standard error that is too small as well.
    """
    # A correction is a mean of squares; only by chance does it exceed the variance.
    variances = np.maximum(variances, 0.0)
    error, least = math.sqrt(2 / FIELDS) * corrections, _LEAST_LEFT * variances
    left = np.maximum(variances - corrections, least)
    return left, error / np.maximum(2 * np.maximum(left - 2 * error, least), 1e-300)


def warned(error: float) -> float:
    """Return the relative standard error of standard deviations; warn where it is large."""
    if error > UNSURE:
        logger.warning(
            "standard deviations err by about %.0f %%: the noise is so large that each depends on more values than lie "
            "near; predict with exact=True takes a solve for each",
            100 * error,
        )  # fmt: skip
    return error


def inverse_diagonal(
    kernel: Kernel, points: Array, noise: Array, drawn: Array, solved: Array, n_rows: int | None = None
) -> tuple[Array, Array]:
    """Return the diagonal of A^-1 at the first rows from near values, corrected by fields, and its relative errors.

    With row b_i of the near values' inverse, (A^-1)_ii = b_ii + E (A^-1 v - b_i v)^2 for fields v. The errors are
    standard errors of these means.

    Args:
        kernel: Covariance of the field.
        points: Places of the values, shape (n, d).
        noise: Variances of their noise, shape (n,).
        drawn, solved: Fields v and A^-1 v, shape (n, S).
        n_rows: Number of rows; all by default.
    """
    diagonal = np.empty(len(points) if n_rows is None else n_rows)
    corrections = np.empty_like(diagonal)
    for part in neighborhoods(kernel, points, noise, n_left_out=n_rows):
        own = part.targets[:, 0]
        local = 1 / (part.variances.numpy()[:, 0] + noise[own])
        rows = local[:, None] * (drawn[own] - part.predict(drawn)[:, 0])
        corrections[own] = np.mean((solved[own] - rows) ** 2, axis=1)
        diagonal[own] = local + corrections[own]
    return diagonal, math.sqrt(2 / FIELDS) * corrections / diagonal
