"""A set of points with values known at them, as which every point set is loaded."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError


@dataclass(frozen=True)
class PointSet:
    """Points in Euclidean space, with named quantities known at each.

    Attributes:
        points: Shape (n, d), float64.
        values: Quantities at the points by name, each of shape (n,).
        names: Name of each point; empty if points have none.
        description: A phrase that says what the points are.
        units: The unit of each entry of `values`, and under "points" that of the coordinates.
    """

    points: NDArray[np.float64]
    values: dict[str, NDArray[np.float64]]
    names: list[str]
    description: str
    units: dict[str, str]

    def subset(self, indices: NDArray[np.int64]) -> "PointSet":
        """Keep the points at `indices`, in that order."""
        return replace(
            self,
            points=self.points[indices],
            values={name: value[indices] for name, value in self.values.items()},
            names=[self.names[i] for i in indices] if self.names else [],
        )

    def with_value(self, name: str, value: NDArray[np.float64], *, unit: str) -> "PointSet":
        """Add a quantity, or replace the quantity of that name."""
        return replace(self, values=self.values | {name: value}, units=self.units | {name: unit})


def random_subset(point_set: PointSet, *, n_points: int | None, seed: int) -> PointSet:
    """Keep `n_points` of the points, drawn without replacement, in their original order.

    With the same seed, a smaller subset is part of every larger one. `None` keeps all.

    Raises:
        ConfigError: If `n_points` is less than 1 or more than there are.
    """
    n_available = len(point_set.points)
    if n_points is None:
        return point_set
    if not 1 <= n_points <= n_available:
        raise ConfigError(
            f"n_points: wanted {n_points} of {point_set.description}, found {n_available}; "
            f"choose 1 to {n_available}"
        )
    chosen = np.random.default_rng(seed).permutation(n_available)[:n_points]
    return point_set.subset(np.sort(chosen))


def require_some_points(n_points: int) -> None:
    """Raise ConfigError if a generated point set would have no points."""
    if n_points < 1:
        raise ConfigError(f"n_points: wanted at least 1, found {n_points}")
