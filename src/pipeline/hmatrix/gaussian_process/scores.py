"""Scores of predictions, as numbers and as distributions.

References:
    [1] Gneiting, Raftery, "Strictly proper scoring rules, prediction, and estimation", JASA 2007.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from pipeline.hmatrix.inputs import as_array

LEVELS = (0.5, 0.8, 0.9, 0.95)


def root_mean_square_error(predicted: Any, observed: Any) -> float:
    """Return the root of the mean squared difference, in the unit of the values."""
    difference = np.asarray(as_array(predicted), np.float64) - np.asarray(as_array(observed), np.float64)
    return float(np.sqrt(np.mean(difference**2)))


def coverage(observed: Any, mean: Any, std: Any, levels: Sequence[float] = LEVELS) -> dict[float, float]:
    """Return the share of the observations within the central intervals of the given probabilities."""
    scaled = np.abs(_standardized(observed, mean, std)[0])
    return {level: float(np.mean(scaled <= ndtri(0.5 + level / 2))) for level in levels}


def scores(observed: Any, mean: Any, std: Any) -> dict[str, float]:
    """Return the scores of normal predictions: smaller is better, except for the coverages.

    Args:
        observed: Shape (q,).
        mean: Predictions, shape (q,).
        std: Standard deviations of the observations' predictive distributions, noise included, shape (q,).

    Returns:
        `rmse` and `mae`, errors of the mean; `crps`, the continuous ranked probability score [1, equation 21], in the
        unit of the values; `log_score`, minus the mean logarithm of the predictive density [1, section 4.1];
        `coverage_50`, `coverage_80`, `coverage_90` and `coverage_95`, shares of observations within these intervals.

    Raises:
        ValueError: If shapes differ, a number is not finite, or a standard deviation is not positive.
    """
    scaled, difference, deviation = _standardized(observed, mean, std)
    density = np.exp(-0.5 * scaled**2) / math.sqrt(2 * math.pi)
    crps = deviation * (scaled * (2 * ndtr(scaled) - 1) + 2 * density - 1 / math.sqrt(math.pi))
    result = {
        "rmse": float(np.sqrt(np.mean(difference**2))),
        "mae": float(np.mean(np.abs(difference))),
        "crps": float(np.mean(crps)),
        "log_score": float(np.mean(0.5 * scaled**2 + np.log(deviation) + 0.5 * math.log(2 * math.pi))),
    }
    parts = coverage(observed, mean, std)
    return result | {f"coverage_{100 * level:.0f}": part for level, part in parts.items()}


def _standardized(
    observed: Any, mean: Any, std: Any
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return errors in standard deviations, errors, and standard deviations."""
    values, centers, deviation = (np.asarray(as_array(x), dtype=np.float64) for x in (observed, mean, std))
    if not (values.shape == centers.shape == deviation.shape and values.ndim == 1 and len(values)):
        raise ValueError(
            f"observations, means and deviations want one shape (q,) with q >= 1, not {values.shape}, {centers.shape} "
            f"and {deviation.shape}"
        )
    if not all(np.isfinite(part).all() for part in (values, centers, deviation)):
        raise ValueError("an observation, mean or deviation is NaN or infinite: leave it out")
    if not (deviation > 0).all():
        raise ValueError(
            "a standard deviation is 0 or less; scores want those of the observations, noise included"
        )
    return (values - centers) / deviation, values - centers, deviation
