"""Points drawn uniformly from the unit square and the unit cube."""

import numpy as np

from pipeline.data.points import PointSet, require_some_points


def uniform_square(*, n_points: int, seed: int = 0) -> PointSet:
    """Draw points from the unit square; with the same seed, fewer points are the first of more points."""
    return _uniform(n_points, 2, seed, "random points in the unit square")


def uniform_cube(*, n_points: int, seed: int = 0) -> PointSet:
    """Draw points from the unit cube; with the same seed, fewer points are the first of more points."""
    return _uniform(n_points, 3, seed, "random points in the unit cube")


def _uniform(n_points: int, n_dimensions: int, seed: int, description: str) -> PointSet:
    require_some_points(n_points)
    points = np.random.default_rng(seed).random((n_points, n_dimensions))
    return PointSet(points, values={}, names=[], description=description, units={"points": "edge lengths"})
