"""Common names for columns of points, as users' own files have them."""

import re
from collections.abc import Sequence

from pipeline.data.own_points import OwnPoints
from pipeline.errors import ConfigError

#: Names of coordinates: the first coordinate, then the second, then the third.
LONGITUDES = ("lon", "longitude", "long", "lng")
LATITUDES = ("lat", "latitude")
CARTESIAN = (("x", "easting", "east"), ("y", "northing", "north"), ("z", "height", "depth"))
#: Names of columns for heights, and of columns that number rows or hold the time of a measurement. Such a column is
#: the value only where there is no other column.
HEIGHTS = ("elevation", "elev", "altitude", "alt", "height", "depth", "z")
LABELS = ("id", "fid", "index", "number", "no", "row", "code", "station", "station_id", "site", "site_id",
          "year", "month", "day", "hour", "date", "time")  # fmt: skip


def without_unit(column: str) -> str:
    """Return a column's name in lower case, without a unit such as [deg], (m) or _km at its end."""
    name = re.sub(r"[\s_]*(\[[^]]*\]|\([^)]*\))$", "", column.strip().lower())
    return re.sub(r"[\s_]+(deg|degrees?|m|km)$", "", name)


def coordinates_of(columns: Sequence[str]) -> tuple[list[str], bool]:
    """Return the columns named like coordinates, and whether they are longitude and latitude; none if no two are."""
    by_name = {without_unit(name): name for name in reversed(columns)}

    def first_of(names: Sequence[str]) -> list[str]:
        return [by_name[name] for name in names if name in by_name][:1]

    globe = [*first_of(LONGITUDES), *first_of(LATITUDES)]
    if len(globe) == 2:
        return globe, True
    plane = [column for names in CARTESIAN for column in first_of(names)]
    return (plane if len(plane) > 1 else []), False


def require_longitude_first(own: OwnPoints, key: str) -> None:
    """Raise ConfigError where places on the globe have a column named like a latitude as their longitude.

    The message names the `key` of a study that says which columns are the coordinates.
    """
    if own.system.to_degrees is None:
        return
    first, second = own.coordinates
    if without_unit(first) in LATITUDES or without_unit(second) in LONGITUDES:
        raise ConfigError(
            f"{own.path}: column {first} would be the longitude and {second} the latitude; write {key}: "
            f"[{second}, {first}], or rename them if they are what the order says"
        )
