"""Evenly spread points on the unit sphere."""

import numpy as np

from pipeline.data.points import PointSet, require_some_points


def fibonacci_sphere(*, n_points: int) -> PointSet:
    """Place points on the unit sphere along a Fibonacci spiral.

    Point i lies in the middle of the i-th of n slabs of equal height, hence of equal area (Archimedes), and is turned
    by the golden angle from point i - 1. So distances of neighbors are nearly equal everywhere [1, equations 1 and 2,
    in the variant without a point at the poles].

    References:
        [1] Gonzalez, "Measurement of areas on a sphere using Fibonacci and latitude-longitude lattices",
            Mathematical Geosciences 2010.
    """
    require_some_points(n_points)
    i = np.arange(n_points, dtype=np.float64)
    height = 1.0 - (2.0 * i + 1.0) / n_points
    angle = i * (np.pi * (3.0 - np.sqrt(5.0)))
    radius = np.sqrt(1.0 - height**2)
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle), height], axis=1)
    return PointSet(
        points,
        values={},
        names=[],
        description="Fibonacci points on the unit sphere",
        units={"points": "radii"},
    )
