"""Random numbers that estimates of our own draw: each purpose has a stream that nobody else draws from.

Users often draw points and values from a generator of seed 0. Were our estimates drawn from it, too, their random
vectors would be functions of the points, since NumPy makes a normal number of the same bits as a uniform one; and an
estimate whose vectors depend on what it looks at is wrong.
"""

from enum import IntEnum

import numpy as np

_OURS = 7_403_111  # sets these streams apart from those of a user's seeds


class Purpose(IntEnum):
    """What random numbers are for."""

    SIGNS = 0  # of estimated traces
    ERRORS = 1  # vectors and rows of a product's error
    TRUST = 2  # right-hand sides and rows by which a factorization is judged
    SOLVES = 3  # rows of a residual
    ALGEBRA = 4  # right-hand sides by which inverses and products of matrices are judged
    OPERATOR = 5  # vectors that a matrix given by its products is applied to
    PIVOTS = 6  # of a randomly pivoted Cholesky factorization
    FIELDS = 7  # drawn from a model, to judge its variances
    STARTS = 8  # of a search, and the part of the points that it looks at first
    PAIRS = 9  # of points in a variogram
    SAMPLES = 10  # that a user wants by a seed


def stream(purpose: Purpose, seed: int = 0, rank: int = 0) -> np.random.Generator:
    """Return the generator of a purpose for a non-negative seed, on one process of several."""
    return np.random.default_rng((_OURS, purpose, seed, rank))
