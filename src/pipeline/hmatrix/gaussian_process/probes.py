"""Traces of an inverse from a few solves, with random signs on points that lie far apart.

z' A^-1 z of a vector of random signs is the trace plus the entries of A^-1 between all pairs of points, at random
signs. Entries of a covariance's inverse are large between near points alone. So each vector is non-zero on one of
several colors: the points of a color hold the same place in equal cells of a recursive bisection, and are far apart
[1].

References:
    [1] Stathopoulos, Laeuchli, Orginos, "Hierarchical probing for estimating the trace of the matrix inverse on
        toroidal lattices", SISC 2013.
"""

import math

import numpy as np
from numpy.typing import NDArray

from pipeline.hmatrix import _native
from pipeline.hmatrix.factorization import Factorization

_COLORS = 32
_DRAWS = 2  # independent sets of signs, whose difference tells the error
_AT_A_TIME = 16  # vectors


def colors_of(points: NDArray[np.float64], n_colors: int) -> NDArray[np.int64]:
    """Return a color in [0, n_colors) for each point, shape (n,): points of one color are far apart."""
    halvings = max(0, math.floor(math.log2(max(len(points), 1))))
    order = _native.bisect(np.ascontiguousarray(points, dtype=np.float64), halvings)
    colors = np.empty(len(points), dtype=np.int64)
    colors[order] = np.arange(len(points)) % n_colors
    return colors


def diagonal_of_inverse_trace(
    F: Factorization, points: NDArray[np.float64], weights: NDArray[np.float64], seed: int
) -> tuple[float, float]:
    """Return sum_i weights_i (A^-1)_ii and its standard error.

    Costs 64 solves. Up to 64 points every point has a color of its own, and the result is exact.

    Args:
        F: Factorization of A.
        points: Shape (n, d).
        weights: Shape (n,).
        seed: Seed of the signs.
    """
    n_colors = _COLORS if len(points) > _COLORS * _DRAWS else max(len(points), 1)
    colors = colors_of(points, n_colors)
    generator = np.random.default_rng(seed)
    draws = []
    for _ in range(_DRAWS):
        signs = generator.choice([-1.0, 1.0], len(points))
        total = 0.0
        for first in range(0, n_colors, _AT_A_TIME):
            chosen = np.arange(first, min(first + _AT_A_TIME, n_colors))
            vectors = np.where(colors[:, None] == chosen, signs[:, None], 0.0)
            total += float(((weights[:, None] * vectors) * F.solve(vectors)).sum())
        draws.append(total)
    return float(np.mean(draws)), float(abs(draws[0] - draws[1]) / 2)
