"""The empirical variogram: how differences of values grow with distance.

References:
    [1] Matheron, "Principles of geostatistics", Economic Geology 1963.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from pipeline.hmatrix.inputs import as_array, as_points
from pipeline.hmatrix.streams import Purpose, stream

Array = NDArray[np.float64]

_POINTS = 1500  # drawn points, of which all pairs are used
_NEIGHBORS = 12  # nearest points of each, for short distances


@dataclass(frozen=True, eq=False)
class Variogram:
    """Semivariances by distance.

    Attributes:
        distance: Mean distance of the pairs in each class, shape (classes,).
        semivariance: Half the mean squared difference of their values, shape (classes, fields).
        n_pairs: Shape (classes,).
    """

    distance: Array
    semivariance: Array
    n_pairs: NDArray[np.int64]


def variogram(points: Any, values: Any, *, n_classes: int = 16, seed: int = 0) -> Variogram:
    """Return the empirical variogram of one or more fields, from pairs of 1,500 random points and their neighbors.

    White noise of variance v has the semivariance v at all distances, so standardized residuals of a model that fits
    have 1. Distances fall into classes of equal ratio, up to half the extent of the points.

    Args:
        points: Shape (n, d).
        values: Shape (n,) or (n, fields).
        n_classes: Classes of distance, of which empty ones are left out.
        seed: Seed of the draw.
    """
    places = as_points(as_array(points), "points").astype(np.float64)
    fields = np.asarray(as_array(values), dtype=np.float64).reshape(len(places), -1)
    n = len(places)
    chosen = stream(Purpose.PAIRS, seed).permutation(n)[:_POINTS]
    first, second = np.triu_indices(len(chosen), k=1)
    near = cKDTree(places).query(places[chosen], k=min(_NEIGHBORS + 1, n))[1].reshape(len(chosen), -1)[:, 1:]
    i = np.concatenate([chosen[first], np.repeat(chosen, near.shape[1])])
    j = np.concatenate([chosen[second], near.ravel()])
    distance = np.linalg.norm(places[i] - places[j], axis=1)
    kept = (distance > 0) & (distance <= 0.5 * np.linalg.norm(np.ptp(places, axis=0)))
    i, j, distance = i[kept], j[kept], distance[kept]
    if not len(distance):
        return Variogram(np.zeros(0), np.zeros((0, fields.shape[1])), np.zeros(0, np.int64))
    # The nearest hundredth of a percent of the pairs is one class, because single pairs tell nothing.
    edges = np.geomspace(np.quantile(distance, 1e-4), distance.max() * (1 + 1e-12), n_classes + 1)
    classes = np.clip(np.searchsorted(edges, distance, side="right") - 1, 0, n_classes - 1)
    counts = np.bincount(classes, minlength=n_classes)
    filled = counts > 0
    squares = 0.5 * (fields[i] - fields[j]) ** 2
    sums = np.stack([np.bincount(classes, column, n_classes) for column in squares.T], axis=1)
    return Variogram(
        np.bincount(classes, distance, n_classes)[filled] / counts[filled],
        sums[filled] / counts[filled, None],
        counts[filled].astype(np.int64),
    )
