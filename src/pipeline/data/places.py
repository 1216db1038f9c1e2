"""Point sets that studies know by name: places with a quantity, which is predicted where it is held out."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Interval

from pipeline.data.airports import load_airports
from pipeline.data.cities import load_cities
from pipeline.data.geoid import load_geoid
from pipeline.data.points import PointSet
from pipeline.options import Count, Seed, require_bounds


@dataclass(frozen=True, kw_only=True)
class Places(ABC):
    """Places with one quantity that a study predicts.

    Attributes:
        n: How many places to use, drawn by seed; null takes them all.
        held_out: Part of the places that is held out to judge predictions.
        seed: Seed of the draw and of the held-out part.
    """

    #: Name of the set in studies.
    name: ClassVar[str]
    #: Name of the quantity among the values of the points.
    QUANTITY: ClassVar[str]

    n: Count | None = None
    held_out: Annotated[float, Interval(gt=0, lt=1)] = 0.1
    seed: Seed = 0

    def __post_init__(self) -> None:
        require_bounds(self)

    @abstractmethod
    def load(self) -> PointSet:
        """Return the `n` places drawn by `seed`.

        Raises:
            ConfigError: If there are fewer than `n`, or their source is not available.
        """


@dataclass(frozen=True, kw_only=True)
class Airports(Places):
    """28,298 airports on the unit sphere with their elevations."""

    name: ClassVar[str] = "airports"
    QUANTITY: ClassVar[str] = "elevation"

    def load(self) -> PointSet:
        """Return airports."""
        return load_airports(n_points=self.n, seed=self.seed)


@dataclass(frozen=True, kw_only=True)
class Cities(Places):
    """Up to 234,908 cities on the unit sphere with their populations."""

    name: ClassVar[str] = "cities"
    QUANTITY: ClassVar[str] = "log10 population"

    def load(self) -> PointSet:
        """Return cities. An unrecorded population is 0; it counts as one inhabitant, whose logarithm is finite."""
        cities = load_cities(n_points=self.n, seed=self.seed)
        return cities.with_value(
            self.QUANTITY, np.log10(np.maximum(cities.values["population"], 1.0)), unit="log10 of people"
        )


@dataclass(frozen=True, kw_only=True)
class Geoid(Places):
    """1,038,240 places of a grid of the globe with the height of the geoid there."""

    name: ClassVar[str] = "geoid"
    QUANTITY: ClassVar[str] = "geoid height"

    def load(self) -> PointSet:
        """Return places of the grid."""
        geoid = load_geoid(n_points=self.n, seed=self.seed)
        return geoid.with_value(self.QUANTITY, geoid.values["height"], unit="m")
