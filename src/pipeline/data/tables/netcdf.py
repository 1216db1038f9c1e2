"""NetCDF files: lists of places, and grids, whose cells are places."""

from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.tables.table import ROWS_AT_ONCE, OpenTable, Rows, unreadable
from pipeline.errors import ConfigError


def open_netcdf(path: Path) -> OpenTable:
    """Open a NetCDF file: every variable of numbers is a column.

    The variable with the most dimensions gives the dimensions of the rows. Other variables have some of them, and their
    values are repeated along the others. So latitude, longitude and a field on a grid make a row for each cell. Missing
    values, scale and offset follow the file's attributes.
    """
    import netCDF4

    try:
        with netCDF4.Dataset(path) as file:
            shapes = {
                name: dict(zip(variable.dimensions, variable.shape, strict=True))
                for name, variable in file.variables.items()
                if getattr(variable.dtype, "kind", None) in ("f", "i", "u") and variable.ndim
            }
            units = {name: str(getattr(file.variables[name], "units", "")) for name in shapes}
    except (OSError, RuntimeError) as error:
        raise unreadable(path, error, "write it again as NetCDF") from None
    if not shapes:
        raise ConfigError(f"{path}: has no variable of numbers along a dimension; write the points as such")

    def read(names: Sequence[str]) -> Iterator[Rows]:
        axes = _axes(path, {name: shapes[name] for name in names})
        try:
            with netCDF4.Dataset(path) as file:
                yield from _parts(file, names, axes)
        except (OSError, RuntimeError) as error:
            raise unreadable(path, error, "write it again as NetCDF") from None

    widest = max(shapes.values(), key=len)
    axes_alone = all([name] == list(shape) for name, shape in shapes.items())
    columns = tuple(name for name, shape in shapes.items() if axes_alone or shape.keys() <= widest.keys())
    return OpenTable(
        path,
        columns,
        read,
        units={name: unit for name, unit in units.items() if unit},
        axes=lambda names: _axes(path, {name: shapes[name] for name in names}),
    )


def _axes(path: Path, shapes: dict[str, dict[str, int]]) -> dict[str, int]:
    """Return the dimensions of the rows and their sizes."""
    widest = max(shapes, key=lambda name: len(shapes[name]))
    for name, shape in shapes.items():
        foreign = [dimension for dimension in shape if dimension not in shapes[widest]]
        if foreign and len(shape) == 1 and len(shapes[widest]) == 1:
            # Coordinate variables alone span a grid.
            return {key: n for other in reversed(list(shapes)) for key, n in shapes[other].items()}
        if foreign:
            raise ConfigError(
                f"{path}: variable {name} has the dimension {foreign[0]}, which {widest} lacks; name variables that "
                "share their dimensions"
            )
    return shapes[widest]


def _parts(file: Any, names: Sequence[str], axes: dict[str, int]) -> Iterator[Rows]:
    """Yield the rows of slabs: ranges along one dimension, for each index of the dimensions before it."""
    dimensions, sizes = list(axes), list(axes.values())
    # The first dimension whose slices have at most `ROWS_AT_ONCE` rows.
    cut = next(k for k in range(len(sizes)) if prod(sizes[k + 1 :]) <= ROWS_AT_ONCE or k == len(sizes) - 1)
    step = max(1, ROWS_AT_ONCE // max(prod(sizes[cut + 1 :]), 1))
    for before in np.ndindex(*sizes[:cut]):
        for first in range(0, sizes[cut], step):
            ranges = [slice(i, i + 1) for i in before]
            ranges += [slice(first, min(first + step, sizes[cut]))]
            ranges += [slice(0, size) for size in sizes[cut + 1 :]]
            slab = dict(zip(dimensions, ranges, strict=True))
            yield np.stack([_values(file.variables[name], slab) for name in names], axis=1)


def _values(variable: Any, slab: dict[str, slice]) -> NDArray[np.float64]:
    """Return the values of a variable in a slab, repeated along the dimensions that it lacks."""
    own = list(variable.dimensions)
    found = variable[tuple(slab[name] for name in own)]
    values = np.ma.filled(np.ma.asarray(found).astype(np.float64), np.nan)
    values = values.transpose([own.index(name) for name in slab if name in own])
    shape = [part.stop - part.start for part in slab.values()]
    wide = [size if name in own else 1 for name, size in zip(slab, shape, strict=True)]
    return np.broadcast_to(values.reshape(wide), shape).reshape(-1)
