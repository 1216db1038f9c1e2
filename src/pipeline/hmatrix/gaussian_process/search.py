"""The search for the greatest likelihood: its starts, and its course.

A start is the maximum of the likelihood of independent groups of neighbors (`start.py`). From 100,000 values on, an
eighth of the values is searched first, and an eighth of that before. The result lies within about three standard errors
of the maximum for all values, so that one or two steps on all of them remain. The maximum is always that of the
likelihood of all values: a subset decides where the search starts, not where it ends.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipeline.hmatrix.gaussian_process.likelihood import Likelihood, on_first
from pipeline.hmatrix.gaussian_process.maximize import OPTIMIZERS, Optimum
from pipeline.hmatrix.gaussian_process.start import starts
from pipeline.hmatrix.streams import Purpose, stream

Array = NDArray[np.float64]

_WHOLE = 100_000  # values from which a search begins with a part of them
_PART = 8  # one of so many values is in that part
_FEWEST = 20  # values from which groups of neighbors are meaningful


def greatest(
    likelihood: Likelihood,
    lower: Array,
    upper: Array,
    *,
    optimizer: str,
    restarts: int,
    max_iterations: int,
    seed: int,
) -> Optimum:
    """Find the greatest likelihood between bounds; collective.

    Args:
        likelihood: The likelihood to maximize.
        lower, upper: Bounds of the logarithms of the parameters.
        optimizer: A name in `OPTIMIZERS`.
        restarts: Number of random starts that `start.starts` adds, and of further maxima that are tried.
        max_iterations: Largest number of steps of the optimizer from each start.
        seed: Seed of the random starts and of the part that is searched first.
    """
    generator = stream(Purpose.STARTS, seed)
    if likelihood.n_values > _WHOLE:
        group = likelihood.communicator
        draw = generator if group is None else stream(Purpose.STARTS, seed, group.rank)
        chosen = draw.permutation(len(likelihood.points))[: len(likelihood.points) // _PART]
        part = replace(
            likelihood,
            **{key: getattr(likelihood, key)[chosen] for key in ("points", "values", "basis", "noise")},
        )
        found = greatest(
            part, lower, upper, optimizer=optimizer, restarts=restarts, max_iterations=max_iterations, seed=seed
        )  # fmt: skip
        first = [found.evaluation.theta]
        # A first attempt that would be too loose costs as much as one that serves.
        likelihood = replace(likelihood, tolerance=likelihood.foreseen(found.evaluation, part.n_values))
        del found  # its matrix and factorization
    elif likelihood.n_values < _FEWEST:
        first = [likelihood.start]
    else:
        first = list(
            on_first(likelihood, lambda whole: np.array(starts(whole, lower, upper, generator, restarts)))
        )
    search = OPTIMIZERS[optimizer]
    best = search(likelihood, first[0], lower, upper, max_iterations=max_iterations)
    for theta in first[1:]:
        other = search(likelihood, theta, lower, upper, max_iterations=max_iterations)
        best = max(best, other, key=lambda optimum: optimum.evaluation.value)
    return best
