"""Division of a box's samples into near field and far field, by least squares or by known entries."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class NearFarSamples:
    """A box's samples Y = C_near X_near + C_far X_far, divided in two.

    Attributes:
        block: A matrix B, shape (n, near unknowns), that differs from C_near by a combination of the rows of C_far: on
            combinations of rows that vanish on the far field, the two are the same.
        far: C_far G, shape (n, p), for a matrix G of normal numbers and mean square 1 that has rank `most`.
        most: How many independent samples of the far field there are.
    """

    block: Array
    far: Array
    most: int

    def residual(self, kept: Array, dropped: Array, interpolation: Array) -> Array:
        """Return C_near[dropped] - T^T C_near[kept], shape (n - k, near unknowns)."""
        return np.asarray(self.block[dropped] - interpolation.T @ self.block[kept])


def by_least_squares(
    samples: Array, tests: list[Array], gram: Array, *, unit_vectors: bool
) -> NearFarSamples:
    """Divide samples by least squares: B = Y X_near^+ leaves Y - B X_near = C_far X_far P.

    P projects onto the null space of X_near, which is how [1] takes the near field off the samples. With a quarter more
    tests than near unknowns, and bases of moderate entries, the condition number of the Gram matrix is some thousands:
    the normal equations cost no digits that a tolerance could ask for.

    Args:
        samples: Y, shape (n, p).
        tests: X_near, in parts of shape (unknowns of a near box, p).
        gram: X_near X_near^H, Hermitian; the lower triangle counts. Overwritten.
        unit_vectors: The tests are all unit vectors rather than normal numbers.

    References:
        [1] Levitt, Martinsson, "Linear-complexity black-box randomized compression of rank-structured matrices", SISC
            2024.
    """
    most = int(samples.shape[1] - len(gram))
    if not tests:
        return NearFarSamples(samples[:, :0], samples, most)
    # B G = Y X^H, solved as conj(G) B^T = (Y X^H)^T, in LAPACK's column order without copies
    factor = scipy.linalg.cholesky(gram.T, lower=False, overwrite_a=True, check_finite=False)
    inner = np.concatenate([samples @ adjoint(part) for part in tests], axis=1)
    block = scipy.linalg.cho_solve((factor, False), inner.T, overwrite_b=True, check_finite=False).T
    far = _less(samples, block, tests)
    # Unit vectors that are orthogonal to the near ones are an orthonormal basis of the far unknowns.
    return NearFarSamples(block, far * np.sqrt(most) if unit_vectors else far, most)


def by_entries(samples: Array, tests: list[Array], block: Array) -> NearFarSamples:
    """Divide samples by the near block, which is known."""
    return NearFarSamples(block, _less(samples, block, tests), int(samples.shape[1]))


def _less(samples: Array, block: Array, tests: list[Array]) -> Array:
    """Return samples - block @ tests."""
    far, start = samples, 0
    for part in tests:
        far = far - block[:, start : start + len(part)] @ part
        start += len(part)
    return far


def adjoint(matrix: Array) -> Array:
    """Return the conjugate transpose, without a copy of a real matrix."""
    return matrix.conj().T if matrix.dtype.kind == "c" else matrix.T
