"""Traces of an inverse from a few solves, with random signs on points that lie far apart.

For a vector z of random signs, z' A^-1 z is the trace plus the entries of A^-1 between all pairs of points, with random
signs. Entries of a covariance's inverse are large only between near points. Each vector is therefore non-zero on one of
several colors only: the points of a color have the same place in equal cells of a recursive bisection, and are far
apart [1].

References:
    [1] Stathopoulos, Laeuchli, Orginos, "Hierarchical probing for estimating the trace of the matrix inverse on
        toroidal lattices", SISC 2013.
"""

import math

import numpy as np
from numpy.typing import NDArray

from pipeline.hmatrix import _native
from pipeline.hmatrix.distributed.factor import DistributedFactorization
from pipeline.hmatrix.factorization import Factorization
from pipeline.hmatrix.gaussian_process.divided import Covariance, total
from pipeline.hmatrix.matrix import H2Matrix
from pipeline.hmatrix.streams import Purpose, stream
from pipeline.runtime.communicator import Communicator

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


def colors_of_rows(points: NDArray[np.float64], A: Covariance, n_points: int) -> NDArray[np.int64]:
    """Return the color of each row of A; 64 rows or fewer have one each.

    Where rows are divided, each process colors the region of points whose rows it owns, and colors go to the rows'
    own processes: near points have one color only where regions meet.
    """
    if isinstance(A, H2Matrix):
        return colors_of(points, _number_of_colors(n_points))
    form, communicator = A.form, A.communicator
    if n_points <= _COLORS * _DRAWS:
        colors = np.arange(form.division.first, form.division.last)
    else:
        colors = colors_of(form.division.tree.points, _COLORS)
    return np.asarray(form.route.back(communicator, colors))


def _number_of_colors(n_points: int) -> int:
    return _COLORS if n_points > _COLORS * _DRAWS else max(n_points, 1)


def diagonal_of_inverse_trace(
    F: Factorization | DistributedFactorization,
    colors: NDArray[np.int64],
    weights: NDArray[np.float64],
    seed: int,
    communicator: Communicator | None = None,
) -> tuple[float, float]:
    """Return sum_i weights_i (A^-1)_ii and its standard error.

    Costs 64 solves. Up to 64 points every point has a color of its own, and the result is exact.

    Args:
        F: Factorization of A.
        colors: Color of each row, shape (n,).
        weights: Shape (n,).
        seed: Seed of the signs.
        communicator: The processes among which the rows are divided.
    """
    n_points = int(total(communicator, np.array([len(colors)]))[0])
    n_colors = _number_of_colors(n_points)
    generator = stream(Purpose.SIGNS, seed, 0 if communicator is None else communicator.rank)
    draws = np.zeros(_DRAWS)
    for draw in range(_DRAWS):
        signs = generator.choice([-1.0, 1.0], len(colors))
        for first in range(0, n_colors, _AT_A_TIME):
            chosen = np.arange(first, min(first + _AT_A_TIME, n_colors))
            vectors = np.where(colors[:, None] == chosen, signs[:, None], 0.0)
            draws[draw] += float(((weights[:, None] * vectors) * F.solve(vectors)).sum())
    draws = total(communicator, draws)
    return float(np.mean(draws)), float(abs(draws[0] - draws[1]) / 2)
