"""The world's airports with their elevations: real, strongly clustered points on a sphere.

They are all 28,298 places of `airportsdata` that have an ICAO or local code. Five pairs share their coordinates
exactly, so a covariance matrix of all places needs a nugget.

About 60 airports far inland have an elevation of 0, which certainly means that it is unrecorded. They are kept,
because a rule that finds them from their neighbors would also drop airports on coasts, and would choose the held-out
data by their values.
"""

import numpy as np
from numpy.typing import NDArray

from pipeline.data.globe import unit_vectors
from pipeline.data.points import PointSet, random_subset

METERS_PER_FOOT = 0.3048

# The shore of the Dead Sea (-430 m) and the highest settlement (5,100 m) bound the elevations of airports.
LOWEST_METERS, HIGHEST_METERS = -450.0, 5200.0


def plausible(elevation: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which elevations, in meters, an airport can have: finite ones on the Earth's inhabited surface."""
    return (elevation >= LOWEST_METERS) & (elevation <= HIGHEST_METERS)


def load_airports(*, n_points: int | None = None, seed: int = 0) -> PointSet:
    """Load the airports as unit vectors with elevation (m), latitude and longitude (degrees).

    Airports whose elevation is not `plausible` are left out; in the tested version of the package there is
    none.

    Args:
        n_points: How many to keep, drawn by `seed`; all of them by default.
        seed: Seed of the draw.
    """
    import airportsdata

    records = airportsdata.load("ICAO")
    codes = sorted(records)
    latitude, longitude, feet = (
        np.array([records[code][key] for code in codes], dtype=np.float64)
        for key in ("lat", "lon", "elevation")
    )
    elevation = feet * METERS_PER_FOOT
    everything = PointSet(
        points=unit_vectors(latitude, longitude),
        values={"elevation": elevation, "latitude": latitude, "longitude": longitude},
        names=[f"{code} {records[code]['name']}" for code in codes],
        description="the world's airports on the unit sphere (airportsdata)",
        units={"points": "Earth radii", "elevation": "m", "latitude": "degrees", "longitude": "degrees"},
    )
    kept = everything.subset(np.flatnonzero(plausible(elevation)))
    return random_subset(kept, n_points=n_points, seed=seed)
