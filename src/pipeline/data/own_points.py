"""A user's points, from a file."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.globe import unit_vectors
from pipeline.data.points import PointSet, random_subset
from pipeline.data.tables import OpenTable, open_table
from pipeline.errors import ConfigError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PointsPart:
    """Some rows of a file as points.

    Attributes:
        points: Shape (rows, d): unit vectors for places on the globe.
        values: Shape (rows, values).
        degrees: Longitude and latitude, shape (rows, 2), for places on the globe.
    """

    points: Array
    values: Array
    degrees: Array | None


@dataclass(frozen=True)
class OwnPoints:
    """Points in a file, with values at each; their rows are read by `parts` only.

    Attributes:
        table: The file.
        coordinates: Names of the coordinates' columns.
        crs: "plane", "lonlat", or a code such as "EPSG:25832".
        values: Names of the columns of values.
        units: Units by name of value.
    """

    table: OpenTable
    coordinates: tuple[str, ...]
    crs: str
    values: tuple[str, ...]
    units: dict[str, str]

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        coordinates: Sequence[str] | None = None,
        crs: str = "plane",
        values: Sequence[str] = (),
        units: Sequence[str] = (),
    ) -> "OwnPoints":
        """Open a file; see `load_own_points` for what its options mean.

        Raises:
            ConfigError: If the file cannot be read, or its columns do not fit.
        """
        table = open_table(path)
        table.chosen([*(coordinates or ()), *values])
        if coordinates is None:
            table.require_names()  # one without a name that counts the rows is left out
        axes = tuple(coordinates or (name for name in table.columns if name and name not in values))
        if not axes:
            raise ConfigError(
                f"{path}: has no column of coordinates beside {', '.join(map(repr, values))}; name some in "
                "points.coordinates"
            )
        if crs != "plane" and len(axes) != 2:
            raise ConfigError(
                f"{path}: longitude and latitude are two columns, found {len(axes)} ({', '.join(axes)}); name them in "
                "points.coordinates"
            )
        if table.crs not in ("", "EPSG:4326" if crs == "lonlat" else crs):
            wanted = "lonlat" if table.crs == "EPSG:4326" else table.crs
            raise ConfigError(f"{path}: its coordinates are {wanted}, not {crs}; set points.crs to {wanted}")
        System.of(crs)
        told = dict(zip(values, units, strict=False))
        return cls(
            table=table,
            coordinates=axes,
            crs=crs,
            values=tuple(values),
            units={name: told.get(name) or table.units.get(name, "") for name in values},
        )

    @property
    def path(self) -> Path:
        """The file."""
        return self.table.path

    @cached_property
    def system(self) -> "System":
        """Coordinate reference system of the coordinates."""
        return System.of(self.crs)

    @property
    def coordinate_unit(self) -> str:
        """Unit of the points' coordinates."""
        return self.system.unit or self.table.units.get(self.coordinates[0], "")

    def parts(self) -> Iterator[PointsPart]:
        """Read the rows, a part at a time.

        Raises:
            ConfigError: If a value is not a finite number, or out of range; the message names its row and column.
        """
        first, d = 1, len(self.coordinates)
        for rows in self.table.parts([*self.coordinates, *self.values]):
            yield self.placed(rows[:, :d], rows[:, d:], first)
            first += len(rows)

    def placed(self, rows: Array, values: Array, first: int = 1) -> PointsPart:
        """Turn coordinates of the file into points; `first` is the number of the first row.

        Raises:
            ConfigError: If a longitude or latitude is out of range.
        """
        if self.system.to_degrees is None:
            return PointsPart(rows, values, None)
        degrees = self.system.to_degrees(rows)
        for axis, most in enumerate((360.0, 90.0)):
            bad = np.flatnonzero(~(np.abs(degrees[:, axis]) <= most))
            if len(bad):
                raise ConfigError(
                    f"{self.path}: row {first + bad[0]}, column {self.coordinates[axis]}: wanted degrees from "
                    f"{-most:g} to {most:g}, found {rows[bad[0], axis]:g}; points.coordinates names the longitude first"
                )
        points = unit_vectors(degrees[:, 1], degrees[:, 0])
        degrees[:, 0] = (degrees[:, 0] + 180.0) % 360.0 - 180.0
        return PointsPart(points, values, degrees)


@dataclass(frozen=True)
class System:
    """A coordinate reference system.

    Attributes:
        unit: Unit of the points' coordinates; empty if nothing tells it.
        to_degrees: Turns rows of coordinates into longitudes and latitudes; None if coordinates are used as they are.
    """

    unit: str
    to_degrees: Callable[[Array], Array] | None

    @classmethod
    def of(cls, crs: str) -> "System":
        """Look up "plane", "lonlat", or a code such as "EPSG:25832".

        Raises:
            ConfigError: If there is no such code, or its system does not give positions by two coordinates.
        """
        if crs == "plane":
            return cls("", None)
        if crs == "lonlat":
            return cls("Earth radii", lambda rows: rows.copy())
        import pyproj

        try:
            system = pyproj.CRS.from_user_input(crs)
        except pyproj.exceptions.CRSError:
            raise ConfigError(
                f"crs: pyproj knows no {crs!r}; wanted plane, lonlat, or a code such as EPSG:25832"
            ) from None
        kind = "heights" if system.is_vertical else "three coordinates from the Earth's center"
        if (system.is_vertical and not system.is_compound) or system.is_geocentric:
            raise ConfigError(
                f"crs: {crs} is {system.name}, a system of {kind}; wanted one of positions in two coordinates, such as "
                "EPSG:25832"
            )
        if not system.is_geographic:
            return cls(_symbol(system.axis_info[0].unit_name), None)
        change = pyproj.Transformer.from_crs(system, "EPSG:4326", always_xy=True)

        def to_degrees(rows: Array) -> Array:
            return np.stack(change.transform(rows[:, 0], rows[:, 1]), axis=1)

        return cls("Earth radii", to_degrees)


def _symbol(unit: str) -> str:
    return {"metre": "m", "kilometre": "km"}.get(unit, unit)


def load_own_points(
    *,
    path: Path,
    coordinates: Sequence[str] | None = None,
    crs: str = "plane",
    value: str | Sequence[str] | None = None,
    unit: str | Sequence[str] = "",
    n_points: int | None = None,
    seed: int = 0,
) -> PointSet:
    """Load points and values at each from columns of a file; see `open_table` for its kinds.

    Args:
        path: The file.
        coordinates: Names of the coordinates' columns; every column but the values' by default.
        crs: "plane" for Cartesian coordinates; "lonlat" for longitude and latitude in degrees, which become unit
            vectors; a code such as "EPSG:25832" for the kind that its system has.
        value: Name of the column of values, or several names; None for no values.
        unit: Unit of the values, or one for each column; by default the file's.
        n_points: How many to keep, drawn by `seed`; all of them by default.
        seed: Seed of the draw.

    Raises:
        ConfigError: If the file cannot be read, or a coordinate is out of range.
    """
    names = () if value is None else _several(value)
    own = OwnPoints.open(path, coordinates=coordinates, crs=crs, values=names, units=_several(unit))
    parts = list(own.parts())
    columns = np.concatenate([part.values for part in parts])
    values = {name: columns[:, i].copy() for i, name in enumerate(names)}
    units: dict[str, str] = {**own.units, "points": own.coordinate_unit}
    degrees = [part.degrees for part in parts if part.degrees is not None]
    if degrees:
        longitude, latitude = np.concatenate(degrees).T.copy()
        values |= {"longitude": longitude, "latitude": latitude}
        units |= {"longitude": "degrees", "latitude": "degrees"}
    found = PointSet(
        np.concatenate([part.points for part in parts]),
        values=values,
        names=[],
        description=f"the points of {path}",
        units=units,
    )
    return random_subset(found, n_points=n_points, seed=seed)


def _several(given: str | Sequence[str]) -> tuple[Any, ...]:
    return (given,) if isinstance(given, str) else tuple(given)
