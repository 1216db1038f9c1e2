"""The places of a study's predictions: those of a file, or a grid over the points."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.artifacts.results.points import PointsFacts
from pipeline.config.matrices import Predict
from pipeline.data.asked_places import grid_ends, open_places
from pipeline.data.fields import Field
from pipeline.data.globe import unit_vectors
from pipeline.data.own_points import System

Array = NDArray[np.float64]

MAP_CELLS = 180  # along the longer side of a map


@dataclass(frozen=True)
class AskedPlaces:
    """Places to predict at: `points` in the coordinates of the matrix's points, shape (q, d).

    `field` has the same places in their own coordinates, still without quantities. Places on the globe also have their
    longitudes and latitudes in `degrees`, shape (q, 2).
    """

    points: Array
    field: Field
    degrees: Array | None

    @property
    def is_map(self) -> bool:
        """Whether the places are a grid of rows and columns."""
        names = list(self.field.coordinates)
        axes = {self.field.axis_of(name) for name in names}
        return len(names) == 2 and len(self.field.axes) == 2 and len(axes - {None}) == 2

    def lines(self, most: int) -> tuple[list[Array], NDArray[np.int64]]:
        """The lines of a map along both coordinates, and its points' indices row by row, the first coordinate fastest.

        If there are more than `most` lines in a direction, only every second, third and so on is taken.
        """
        across, up = (self.field.axis_of(name) for name in self.field.coordinates)
        assert across is not None
        assert up is not None
        sizes = list(self.field.axes.values())
        index = np.arange(len(self.points)).reshape(sizes)
        if list(self.field.axes) == [across, up]:
            index = index.T
        rows, columns = (slice(None, None, -(-n // most)) for n in index.shape)
        index = index[rows, columns]
        x, y = self.field.coordinates.values()
        return [x[index[0]], y[index[:, 0]]], index.ravel()


def places_of(predict: Predict, facts: PointsFacts, corners: Array) -> AskedPlaces:
    """Return the places that a study names for a matrix's points; `corners` bound them (in degrees on the globe)."""
    if predict.grid is not None:
        return grid_of(facts, corners, predict.grid.spacing)
    path = Path(predict.path or "")
    own, names = open_places(path, given=predict.coordinates, coordinates=facts.coordinates, crs=facts.crs)
    rows = np.concatenate(list(own.table.parts(names)))
    axes = dict(own.table.axes(names)) or {"place": len(rows)}
    part = own.placed(rows, rows[:, :0])
    return AskedPlaces(part.points, _field(names, rows, axes, facts.crs, own.table.units), part.degrees)


def grid_of(facts: PointsFacts, corners: Array, spacing: float) -> AskedPlaces:
    """A grid over the box of the points, at multiples of its spacing."""
    names, on_globe = facts.coordinates, System.of(facts.crs).to_degrees is not None
    ends = grid_ends(corners, spacing)
    lines = [np.arange(first, last) * spacing for first, last in ends.T]
    if on_globe:
        lines[1] = lines[1][np.abs(lines[1]) <= 90.0]
    # The first coordinate runs fastest, as longitudes do in a picture.
    mesh = np.meshgrid(*reversed(lines), indexing="ij")
    rows = np.stack([part.ravel() for part in reversed(mesh)], axis=1)
    axes = {name: len(line) for name, line in zip(reversed(names), reversed(lines), strict=True)}
    points = unit_vectors(rows[:, 1], rows[:, 0]) if on_globe else rows
    return AskedPlaces(
        points, _field(names, rows, axes, "lonlat" if on_globe else facts.crs, {}), rows if on_globe else None
    )


def map_of(facts: PointsFacts, corners: Array) -> AskedPlaces:
    """Return the grid of a map that no study asks for: some thousand cells over the box of the points."""
    longer = float(np.ptp(corners, axis=0).max())
    return grid_of(facts, corners, max(longer, 1e-6) / MAP_CELLS)


def corners_of(facts: PointsFacts, points: Array) -> Array:
    """Least and greatest coordinates of points, shape (2, axes), in degrees on the globe."""
    if System.of(facts.crs).to_degrees is not None:
        x, y, z = points.T
        points = np.degrees(np.stack([np.arctan2(y, x), np.arcsin(np.clip(z, -1.0, 1.0))], axis=1))
    return np.stack([points.min(axis=0), points.max(axis=0)])


def _field(
    names: Sequence[str], rows: Array, axes: Mapping[str, int], crs: str, units: Mapping[str, str]
) -> Field:
    coordinates = {name: rows[:, i].copy() for i, name in enumerate(names)}
    return Field(coordinates, {}, {name: units[name] for name in names if name in units}, axes, crs)
