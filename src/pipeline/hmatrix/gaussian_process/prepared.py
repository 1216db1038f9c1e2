"""Weights and coefficients of a trend by conjugate gradients, as accurate as the values' noise requires.

A prediction is a smoothing of the values. Weights w with the residual r = y - H beta - A w predict what exact weights
predict from the values y - r, whatever the condition number of A: a mean moves by at most r times the sum of the
absolute weights with which the values enter it, and by much less if r is irregular. The size of r on sampled exact rows
relative to the noise therefore tells if the weights are accurate enough, and the factorization only preconditions.
"""

import logging
import math
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.errors import ConvergenceError
from pipeline.hmatrix.gaussian_process.cross import exactly
from pipeline.hmatrix.gaussian_process.divided import (
    all_rows,
    compressed,
    root_mean_square,
    rows_before,
    total,
)
from pipeline.hmatrix.gaussian_process.likelihood import LikelihoodEvaluation
from pipeline.hmatrix.krylov import conjugate_gradient
from pipeline.hmatrix.matrix import H2Matrix
from pipeline.runtime.communicator import Communicator

logger = logging.getLogger("pipeline.hmatrix")

Array = NDArray[np.float64]

_OF_NOISE = 0.01  # accepted residual, in standard deviations of the noise
_OF_VALUES = 1e-5  # accepted residual, in standard deviations of the values, if there is hardly any noise
_ITERATED = 0.1  # share of the accepted residual that the iteration may leave; the rest is for compression
_LEAST, _MOST = 1e-10, 1e-6  # relative residuals of the iteration
_ROWS = 32  # rows that are evaluated exactly
_ATTEMPTS = 4
_TIGHTEST = 1e-12
_ITERATIONS = 100


def solved(
    model: LikelihoodEvaluation, b: Array, tolerance: float, start: Array | None = None
) -> tuple[Array, Array]:
    """Return x near A^-1 b and b - A x, both of shape (n, m), by conjugate gradients on the compressed matrix.

    Args:
        model: A and a factorization.
        b: Shape (n, m).
        tolerance: Relative residual of each column, 2-norm.
        start: First guess, shape (n, m); the factorization's solution if left out.

    Raises:
        ConvergenceError: If the tolerance is not reached, or the compressed A is not positive definite.
    """
    first = np.asarray(model.F.solve(b)) if start is None else start
    x, _ = conjugate_gradient(
        lambda v: torch.from_numpy(np.asarray(model.A @ v.numpy())),
        torch.from_numpy(b),
        preconditioner=lambda r: torch.from_numpy(np.asarray(model.F.solve(r.numpy()))),
        tolerance=tolerance,
        max_iterations=_ITERATIONS,
        start=torch.from_numpy(first),
        communicator=model.communicator,
    )
    found = x.numpy()
    return found, b - np.asarray(model.A @ found)


def of_noise(noise: Array, group: Communicator | None = None) -> float:
    """Return the residual that is accepted on each row: a hundredth of the noise's standard deviation.

    Of different variances, the harmonic mean counts, since predictions follow the values with little noise. If a value
    has no noise, the result is 0.
    """
    positive = noise[noise > 0]
    n, n_positive, inverse = total(group, np.array([len(noise), len(positive), (1 / positive).sum()]))
    return _OF_NOISE * math.sqrt(n / inverse) if n == n_positive and inverse > 0 else 0.0


def deviation(values: Array, group: Communicator | None) -> float:
    """Return the standard deviation of the values of all processes."""
    n, first = total(group, np.array([len(values), values.sum()]))
    return root_mean_square(group, values - first / max(n, 1.0))


def prepared(
    model: LikelihoodEvaluation, points: Array, values: Array, basis: Array, noise: Array
) -> tuple[LikelihoodEvaluation, float]:
    """Return a model with weights and coefficients that are accurate enough to predict with, and their residual.

    The covariance is compressed again, more tightly, if exact rows show a residual above a hundredth of the noise.

    Args:
        model: A, a factorization, and the weights that it gives.
        points: Shape (n, d).
        values: Shape (n,).
        basis: Regressors of the mean, shape (n, p).
        noise: Variances, shape (n,).

    Where the model has a communicator, n are this process's values, and the call is collective.

    Returns:
        The model, and the root mean square of y - H beta - A w on sampled exact rows, in the values' unit.

    Raises:
        ConvergenceError: If the iteration does not converge at the tightest tolerance.
    """
    group = model.communicator
    wanted = max(
        of_noise(noise, group), _OF_VALUES * deviation(values, group), 1e-12 * root_mean_square(group, values)
    )
    for attempt in range(_ATTEMPTS):
        last = attempt == _ATTEMPTS - 1 or model.tolerance <= _TIGHTEST
        try:
            found = _refined(model, values, basis, wanted)
        except ConvergenceError as error:
            if last:
                raise
            tolerance = max(0.1 * model.tolerance, _TIGHTEST)
            logger.info("%s: compressed and factorized anew at tolerance %.0e", error, tolerance)
            model = _tighter(model, points, noise, tolerance, factorize=True)
            continue
        residual = (values - basis @ found.beta)[:, None]
        off = left_on_exact_rows(found, points, noise, residual, found.weights[:, None])
        left = root_mean_square(group, off)
        if left <= wanted:
            return found, left
        if last:
            logger.warning(
                "the weights of predictions leave %.1e of the values on exact rows (%.1e was wanted): raise the nugget",
                left, wanted,
            )  # fmt: skip
            return found, left
        # The error of compression is proportional to its tolerance.
        tolerance = max(model.tolerance * min(0.1, 0.3 * wanted / left), _TIGHTEST)
        logger.info(
            "the weights leave %.1e on exact rows: compressed anew at tolerance %.0e", left, tolerance
        )
        model = _tighter(found, points, noise, tolerance, factorize=False)
    raise AssertionError("the last attempt returns or raises")


def _refined(model: LikelihoodEvaluation, values: Array, basis: Array, wanted: float) -> LikelihoodEvaluation:
    """Return the model with weights and coefficients by iteration on A."""
    group = model.communicator
    residual = values - basis @ model.beta
    size = root_mean_square(group, residual)
    tolerance = min(max(_ITERATED * wanted / (size or 1.0), _LEAST), _MOST)
    start = np.column_stack([model.weights, model.solved_basis])
    x, _ = solved(model, np.column_stack([residual, basis]), tolerance, start)
    solved_basis = x[:, 1:]
    inner = total(group, basis.T @ x)
    gram = (inner[:, 1:] + inner[:, 1:].T) / 2
    missed = np.linalg.solve(gram, inner[:, 0]) if len(gram) else model.beta
    return replace(
        model,
        weights=np.asarray(x[:, 0] - solved_basis @ missed),
        beta=model.beta + missed,
        solved_basis=solved_basis,
        gram=gram,
    )


def exact_rows(n: int, group: Communicator | None = None) -> NDArray[np.int64]:
    """Return this process's share of the rows that are evaluated exactly, spread evenly over its n rows."""
    share = _ROWS if group is None else -(-_ROWS // group.size)
    return np.unique(np.linspace(0, n - 1, min(n, share)).astype(np.int64))


def left_on_exact_rows(model: LikelihoodEvaluation, points: Array, noise: Array, b: Array, x: Array) -> Array:
    """Return b - A x on `exact_rows`, shape (rows, m), for b and x of shape (n, m)."""
    group = model.communicator
    rows = exact_rows(len(points), group)
    products = total(group, exactly(model.kernel, all_rows(group, points[rows]), points, x))
    first = rows_before(group, len(rows))
    return np.asarray(b[rows] - products[first : first + len(rows)] - noise[rows, None] * x[rows])


def _tighter(
    model: LikelihoodEvaluation, points: Array, noise: Array, tolerance: float, *, factorize: bool
) -> LikelihoodEvaluation:
    A = compressed(points, model.kernel, model.communicator, diagonal=noise, tolerance=tolerance)
    F = model.F
    if factorize:
        if isinstance(A, H2Matrix):
            F = A.factorize(tolerance, "cholesky", checked=False)
        else:
            F = A.factorize(tolerance, "cholesky")
    return replace(model, A=A, F=F, tolerance=tolerance)
