"""Random numbers for the library's own estimates: each purpose has a stream that nobody else draws from.

Users often draw points and values from a generator of seed 0. If our estimates drew from it too, their random vectors
would be functions of the points, since NumPy makes a normal number from the same bits as a uniform one. An estimate
whose vectors depend on the data is wrong.
"""

from enum import IntEnum

import numpy as np

_OURS = 7_403_111  # sets these streams apart from those of a user's seeds


class Purpose(IntEnum):
    """What random numbers are for."""

    SIGNS = 0  # signs that estimate traces
    ERRORS = 1  # vectors and rows that show the error of a product
    TRUST = 2  # right-hand sides and rows that judge a factorization
    ROWS = 3  # rows on which a residual is evaluated exactly
    ALGEBRA = 4  # right-hand sides that judge inverses and products of matrices
    OPERATOR = 5  # test vectors for a matrix that is given by its products
    PIVOTS = 6  # pivots of a Cholesky factorization
    FIELDS = 7  # fields of a model that judge its variances
    STARTS = 8  # starts of a search, and the part of the points that it looks at first
    PAIRS = 9  # pairs of points in a variogram
    SAMPLES = 10  # samples that a user asks for by a seed


def stream(purpose: Purpose, seed: int = 0, rank: int = 0) -> np.random.Generator:
    """Return the generator of a purpose for a non-negative seed, on one process of several."""
    return np.random.default_rng((_OURS, purpose, seed, rank))
