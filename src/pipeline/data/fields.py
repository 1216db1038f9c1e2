"""Quantities at places, written as CSV, NetCDF or GeoTIFF."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Field:
    """Named quantities at places.

    Attributes:
        coordinates: The places, in the coordinates of `crs`, each of shape (n,).
        quantities: Values by name, each of shape (n,).
        units: Units of coordinates and quantities that have one, by name.
        axes: Names and sizes of the dimensions of the places, the last one fastest; a list has one.
        crs: "plane", "lonlat", or a code such as "EPSG:25832".
    """

    coordinates: Mapping[str, Array]
    quantities: Mapping[str, Array]
    units: Mapping[str, str]
    axes: Mapping[str, int]
    crs: str

    def write(self, path: Path) -> None:
        """Write all quantities; the ending of the path, .csv, .nc or .tif, tells how.

        Raises:
            ConfigError: If a GeoTIFF is wanted, and the places are not a regular grid of rows and columns.
        """
        {".csv": self._to_csv, ".nc": self._to_netcdf, ".tif": self._to_geotiff}[path.suffix](path)

    def _to_csv(self, path: Path) -> None:
        import pyarrow
        from pyarrow import csv

        csv.write_csv(pyarrow.table({**self.coordinates, **self.quantities}), path)

    def _to_netcdf(self, path: Path) -> None:
        import netCDF4

        known = _names_in_netcdf([*self.axes, *self.coordinates, *self.quantities])
        with netCDF4.Dataset(path, "w") as file:
            for name, size in self.axes.items():
                file.createDimension(known[name], size)
            file.Conventions = "CF-1.8"
            for name, values in {**self.coordinates, **self.quantities}.items():
                axis = self.axis_of(name) if name in self.coordinates else None
                dimensions = tuple(known[name] for name in (self.axes if axis is None else (axis,)))
                variable = file.createVariable(known[name], "f8", dimensions)
                if known[name] != name:
                    variable.long_name = name
                variable[...] = self._shaped(values) if axis is None else self._along(axis, values)
                if self.units.get(name):
                    variable.units = self.units[name]
            if self.crs == "lonlat" and len(self.coordinates) == 2:
                longitude, latitude = (known[name] for name in self.coordinates)
                file[longitude].setncatts({"standard_name": "longitude", "units": "degrees_east"})
                file[latitude].setncatts({"standard_name": "latitude", "units": "degrees_north"})
            elif self.crs.startswith("EPSG"):
                file.crs = self.crs

    def _to_geotiff(self, path: Path) -> None:
        import rasterio

        refused = ConfigError(
            "predict: a GeoTIFF needs a regular grid of rows and columns; set predict.format to nc or csv"
        )
        names = list(self.coordinates)
        if len(names) != 2 or len(self.axes) != 2:
            raise refused
        across, up = (self.axis_of(name) for name in names)
        if across is None or up is None or across == up:
            raise refused
        x, y = self._along(across, self.coordinates[names[0]]), self._along(up, self.coordinates[names[1]])
        steps = [_step(x), _step(y)]
        if not all(steps):
            raise refused
        dx, dy = steps
        west, north = x.min() - abs(dx) / 2, y.max() + abs(dy) / 2
        grid = rasterio.Affine(abs(dx), 0.0, west, 0.0, -abs(dy), north)
        code = {"plane": None, "lonlat": "EPSG:4326"}.get(self.crs, self.crs)
        with rasterio.open(
            path, "w", driver="GTiff", width=len(x), height=len(y), count=len(self.quantities),
            dtype="float64", transform=grid, crs=code, compress="deflate",
        ) as file:  # fmt: skip
            for band, (name, values) in enumerate(self.quantities.items(), 1):
                picture = self._shaped(values)
                picture = picture.T if next(iter(self.axes)) == across else picture
                # Rows of a picture run from north to south, columns from west to east.
                file.write(picture[:: 1 if dy < 0 else -1, :: 1 if dx > 0 else -1], band)
                file.set_band_description(band, name)
                file.set_band_unit(band, self.units.get(name, ""))

    def _shaped(self, values: Array) -> Array:
        assert len(values) == prod(self.axes.values())
        return values.reshape(tuple(self.axes.values()))

    def _along(self, axis: str, values: Array) -> Array:
        """Return the values along one axis, at the beginning of all others."""
        shaped, place = self._shaped(values), list(self.axes).index(axis)
        return shaped[tuple(slice(None) if i == place else 0 for i in range(shaped.ndim))]

    def axis_of(self, name: str) -> str | None:
        """Return the axis along which alone a coordinate changes; None if there is none."""
        shaped = self._shaped(self.coordinates[name])
        for place, axis in enumerate(self.axes):
            first = tuple(slice(None) if i == place else slice(0, 1) for i in range(shaped.ndim))
            if np.array_equal(np.broadcast_to(shaped[first], shaped.shape), shaped) and (
                shaped.shape[place] > 1 or shaped.size == 1
            ):
                return axis
        return None


def _names_in_netcdf(names: Iterable[str]) -> dict[str, str]:
    """Return a name that NetCDF accepts for each name; it refuses some characters, as in `mm/day`."""
    names = list(dict.fromkeys(names))
    refused = re.compile(r"^\W|[/\x00-\x1f\x7f]|\s$|^$")
    known = {name: name for name in names if not refused.search(name)}
    for name in filter(refused.search, names):
        taken = re.sub(r"[^\w.+@-]", "_", name)
        taken = taken if re.match(r"\w", taken) else f"_{taken}"
        while taken in known.values():
            taken += "_"
        known[name] = taken
    return known


def _step(values: Array) -> float:
    """Return the step between evenly spaced values; 0 if they are not evenly spaced."""
    steps = np.diff(values)
    if not len(steps) or np.ptp(steps) > 1e-6 * abs(steps[0]):
        return 0.0
    return float(steps.mean())
