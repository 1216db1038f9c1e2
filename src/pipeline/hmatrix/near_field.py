"""How a box's near field is taken off its samples: by the null space of the tests, or by entries that are known."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

Array = NDArray[Any]


class NearField(Protocol):
    """A box's samples Y = C_near X_near + C_far X_far, of which the near part is to go."""

    @property
    def most(self) -> int:
        """How many samples of the far field can be had."""

    def far_samples(self, width: int, generator: np.random.Generator) -> Array:
        """Return C_far G for a matrix G of `width` columns, normal and of unit variance; shape (n, width)."""

    def residual(self, kept: Array, dropped: Array, interpolation: Array) -> Array:
        """Return C_near[dropped] - T^T C_near[kept], shape (n - k, near unknowns)."""


@dataclass(frozen=True, eq=False)
class NullSpace:
    """Nothing but samples is known: Y P with X_near P = 0 has no near part [1], and least squares gives the residual.

    The Gram matrix of the tests serves for both. With half as many tests again as near unknowns, and bases
    of moderate entries, its condition number is some thousands: no digits are lost that a second pass does
    not restore.

    Attributes:
        samples: Y, shape (n, p).
        tests: X_near, shape (near unknowns, p).
        factor: Cholesky factor of X_near X_near^H.
        variance: Of the tests on far unknowns, once they are orthogonalized: 1 for normal ones.

    References:
        [1] Levitt, Martinsson, "Linear-complexity black-box randomized compression of rank-structured matrices", SISC
            2024.
    """

    samples: Array
    tests: Array
    factor: Array
    variance: float

    @classmethod
    def of(cls, samples: Array, tests: Array, gram: Array, *, unit_vectors: bool) -> "NullSpace":
        # Of unit vectors, what is orthogonal to the near ones is a random subspace of the far unknowns.
        variance = 1 / max(tests.shape[1] - len(tests), 1) if unit_vectors else 1.0
        factor = scipy.linalg.cholesky(gram, lower=True, check_finite=False)
        return cls(samples, tests, factor, variance)

    @property
    def most(self) -> int:
        return int(self.tests.shape[1] - len(self.tests))

    def far_samples(self, width: int, generator: np.random.Generator) -> Array:
        null = generator.standard_normal((self.tests.shape[1], width))
        for _ in range(2):
            null = null - adjoint(self.tests) @ self._solved(self.tests @ null)
        if null.size:
            null = scipy.linalg.qr(null, mode="economic", check_finite=False)[0]
        return np.asarray(self.samples @ null / np.sqrt(self.variance))

    def residual(self, kept: Array, dropped: Array, interpolation: Array) -> Array:
        sought = self.samples[dropped] - interpolation.T @ self.samples[kept]
        return np.asarray(adjoint(self._solved(adjoint(sought @ adjoint(self.tests)))))

    def _solved(self, right: Array) -> Array:
        return np.asarray(scipy.linalg.cho_solve((self.factor, True), right, check_finite=False))


@dataclass(frozen=True, eq=False)
class Entries:
    """The near block itself is known.

    Attributes:
        block: C_near, shape (n, near unknowns).
        samples: C_far X_far, shape (n, p).
    """

    block: Array
    samples: Array

    @classmethod
    def of(cls, samples: Array, tests: Array, block: Array) -> "Entries":
        return cls(block, samples - block @ tests)

    @property
    def most(self) -> int:
        return int(self.samples.shape[1])

    def far_samples(self, width: int, generator: np.random.Generator) -> Array:
        return self.samples[:, :width]

    def residual(self, kept: Array, dropped: Array, interpolation: Array) -> Array:
        return np.asarray(self.block[dropped] - interpolation.T @ self.block[kept])


def adjoint(matrix: Array) -> Array:
    """Return the conjugate transpose, without a copy of a real matrix."""
    return matrix.conj().T if matrix.dtype.kind == "c" else matrix.T
