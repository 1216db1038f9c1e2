"""Where single precision suffices: limits of tolerances and norms, for building and for factorizing.

Rounding to single precision has a relative error of 6e-8. Its effect differs between the two uses:

- *Building* rounds blocks and bases once, and a product sees the sum of the rounding errors. From a tolerance of 5e-7
  on they do not show. Norms only need to keep entries within the range of single precision.
- *Factorizing* rounds each step after its update in the precision of the computation. From a tolerance of 1e-7 on, the
  rounding error is noise beside the compression error, but squares of norms have to be within range as well, because
  budgets are shares of squares. From 1e-3 on, the steps are computed in single precision too.
"""

from typing import Any

import numpy as np

BUILT_FROM = 5e-7
STEPS_FROM = 1e-7
COMPUTED_FROM = 1e-3
ENTRIES_HELD = 1e-25, 1e35  # norms of matrices whose entries single precision holds
SQUARES_HELD = (
    1e-12,
    1e15,
)  # norms whose squares, and the shares of them that boxes may lose, do not underflow
PIVOT = 1e-3  # share of the diagonal: a smaller pivot may be single precision's fault


def wide_type(values: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type of double precision that is real or complex as the given one is."""
    return np.dtype(np.complex128 if values.kind == "c" else np.float64)


def narrow_type(values: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type of single precision that is real or complex as the given one is."""
    return np.dtype(np.complex64 if values.kind == "c" else np.float32)


def is_narrow(values: np.dtype[Any]) -> bool:
    """Tell whether a type is of single precision."""
    return values in (np.float32, np.complex64)


def stored_type(
    tolerance: float, norm: float, computed: np.dtype[Any], wanted: np.dtype[Any]
) -> np.dtype[Any]:
    """Return the type that blocks and bases are kept in.

    Args:
        tolerance: Relative error of the matrix.
        norm: Its Frobenius norm.
        computed: Type in which entries are computed.
        wanted: Type of the matrix as callers see it.
    """
    suffices = tolerance >= BUILT_FROM or is_narrow(wanted)
    return narrow_type(computed) if suffices and _within(norm, ENTRIES_HELD) else computed


def sketched_type(tolerance: float, norm: float, computed: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type that blocks and bases compressed from products are kept in: squares have to be within range."""
    return narrow_type(computed) if tolerance >= BUILT_FROM and _within(norm, SQUARES_HELD) else computed


def step_types(tolerance: float, norm: float, computed: np.dtype[Any]) -> tuple[np.dtype[Any], np.dtype[Any]]:
    """Return the types that the steps of a factorization are computed and stored in.

    Args:
        tolerance: Relative error of the factorization.
        norm: Frobenius norm of the matrix with its diagonal term.
        computed: Type of double precision.
    """
    held = SQUARES_HELD[0] <= norm <= SQUARES_HELD[1]
    stored = narrow_type(computed) if tolerance >= STEPS_FROM and held else computed
    return (narrow_type(computed) if tolerance >= COMPUTED_FROM and held else computed), stored


def _within(norm: float, limits: tuple[float, float]) -> bool:
    return norm == 0 or limits[0] <= norm <= limits[1]
