"""Points of one's own, from a file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.data.columns import read_columns
from pipeline.data.globe import unit_vectors
from pipeline.data.points import PointSet, random_subset
from pipeline.errors import ConfigError


def load_own_points(
    *,
    path: Path,
    coordinates: Sequence[str] | None = None,
    crs: str = "plane",
    value: str | None = None,
    unit: str = "",
    n_points: int | None = None,
    seed: int = 0,
) -> PointSet:
    """Load points and one value at each from columns of a file; see `read_columns` for its kinds.

    Args:
        path: The file.
        coordinates: Names of the coordinates' columns; every column but the value's by default.
        crs: "plane" for Cartesian coordinates; "lonlat" for longitude and latitude in degrees, which become unit
            vectors.
        value: Name of the column of values; without one there are none.
        unit: Unit of the values.
        n_points: How many to keep, drawn by `seed`; all of them by default.
        seed: Seed of the draw.

    Raises:
        ConfigError: If the file cannot be read, or a coordinate is out of range.
    """
    names = None if coordinates is None else [*coordinates, *([] if value is None else [value])]
    columns = read_columns(path, names)
    if value is not None and value not in columns:
        raise ConfigError(f"{path}: has no column {value!r}; columns: {', '.join(columns)}")
    axes = list(coordinates or [name for name in columns if name != value])
    if not axes:
        raise ConfigError(
            f"{path}: has no column of coordinates beside {value!r}; name some in points.coordinates"
        )
    values = {} if value is None else {value: columns[value]}
    units = {} if value is None else {value: unit}
    if crs == "lonlat":
        if len(axes) != 2:
            raise ConfigError(
                f"{path}: longitude and latitude are two columns, found {len(axes)} ({', '.join(axes)}); name them in "
                "points.coordinates"
            )
        longitude, latitude = (columns[name] for name in axes)
        for name, degrees, most in ((axes[0], longitude, 360.0), (axes[1], latitude, 90.0)):
            bad = np.flatnonzero(np.abs(degrees) > most)
            if len(bad):
                raise ConfigError(
                    f"{path}: row {bad[0] + 1}, column {name}: wanted degrees from {-most:g} to {most:g}, found "
                    f"{degrees[bad[0]]:g}; points.coordinates names the longitude first"
                )
        points = unit_vectors(latitude, longitude)
        values |= {"longitude": (longitude + 180.0) % 360.0 - 180.0, "latitude": latitude}
        units |= {"points": "Earth radii", "longitude": "degrees", "latitude": "degrees"}
    else:
        points = np.stack([columns[name] for name in axes], axis=1)
        units |= {"points": ""}
    own = PointSet(points, values=values, names=[], description=f"the points of {path}", units=units)
    return random_subset(own, n_points=n_points, seed=seed)
