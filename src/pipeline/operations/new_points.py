"""The study of points in a file: kriging of a column of values, or a system of equations without one."""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.config.points import LONGEST_UNIT
from pipeline.data.tables import OpenTable, WrongValueError, open_table
from pipeline.errors import ConfigError
from pipeline.operations.column_names import HEIGHTS, LABELS, coordinates_of, without_unit
from pipeline.operations.templates import filled
from pipeline.operations.text import size
from pipeline.runtime.predicted_memory import predict_memory

#: Number of rows among which duplicates are searched.
MOST_COMPARED = 10**6
#: Tolerances of compression and of the solution's residual. Rows of the exact matrix meet the second only if the first
#: is some thousand times tighter, because small eigenvalues enlarge the compression error.
TOLERANCE = 1e-7
SOLVE_TOLERANCE = 1e-3
FACTOR_TOLERANCE = 1e-2
GRID_LINES = 100  # along the longer side
#: Column names that are symbols of units; single letters that often name other things are left out.
UNITS = ("mm", "cm", "m", "km", "K", "degC", "°C", "Pa", "hPa", "kPa", "g", "kg", "t", "s", "h", "Hz", "W", "kW",
         "V", "%", "m/s", "km/h", "mm/h", "mm/day", "W/m2", "kg/m3", "mg/l", "mg/kg", "ppm")  # fmt: skip


@dataclass(frozen=True)
class Look:
    """How many rows a file holds, the ends of each column, and how many of the first million repeat another's place."""

    n: int
    ranges: dict[str, tuple[float, float]]
    duplicates: int


def study_of_points(name: str, path: Path) -> str:
    """Look at every row of a file, and write a study of it."""
    table = open_table(path)
    numeric, left_out = _numeric(table)
    coordinates, on_globe = _coordinates(table, numeric)
    values = sorted((column for column in numeric if column not in coordinates), key=_beside)
    look = _look(table, [*coordinates, *values[:1]], coordinates)
    if on_globe:
        _require_degrees(path, coordinates, look)
    bytes_needed = predict_memory(
        "file", look.n, len(coordinates), TOLERANCE, FACTOR_TOLERANCE, 1,
        on_globe=on_globe, kriging=bool(values), fitted=look.n if values else 0,
    )  # fmt: skip
    return filled(
        "study_of_points.yaml.jinja",
        name=name,
        path=str(path),
        key=_key(values[0] if values else name),
        look=look,
        coordinates=coordinates,
        on_globe=on_globe,
        value=values[0] if values else "",
        unit=_unit(table, values[0]) if values else "",
        units=table.units,
        others=[column for column in numeric if column in values[1:]],
        left_out=left_out,
        needed=size(max(bytes_needed.compress_bytes, bytes_needed.solve_bytes)),
        dense=size(8 * look.n**2),
        spacing=_spacing(look, coordinates),
        length=_extent(look, coordinates) / 10,
        tolerance=TOLERANCE,
        solve_tolerance=SOLVE_TOLERANCE,
    )


def _key(column: str) -> str:
    """Turn a column's name into a name for its matrix."""
    safe = "".join(mark if mark.isascii() and (mark.isalnum() or mark in "_-") else "_" for mark in column)
    safe = safe.lstrip("_-")[:40]
    # YAML does not read numbers, or yes and no, as text.
    return safe if safe and safe[0].isalpha() and len(safe) > 3 else f"values_{safe}".rstrip("_")


def _numeric(table: OpenTable) -> tuple[list[str], list[str]]:
    """The columns that begin with a number, and the others; an unnamed column numbers the rows and is in neither."""
    table.require_names()
    numeric, others, found = [], [], ""
    for column in filter(None, table.columns):
        try:
            next(table.parts([column]))
            numeric.append(column)
        except WrongValueError as error:
            if error.row > 1:  # a column of numbers with a mistake
                raise
            found = found or str(error).removeprefix(f"{table.path}: ")
            others.append(column)
    if not others and not numeric:
        raise ConfigError(
            f"{table.path}: has no columns; wanted their names in the first line, then rows of numbers"
        )
    if not numeric:
        raise ConfigError(f"{table.path}: has no column of numbers alone: {found}")
    return numeric, others


def _coordinates(table: OpenTable, numeric: list[str]) -> tuple[list[str], bool]:
    """The columns of coordinates, by their names or else the first ones, and whether they are on the globe."""
    named, on_globe = coordinates_of(numeric)
    if named:
        return named, on_globe or table.crs == "EPSG:4326"
    likely = sorted(numeric, key=_beside)
    n = sum(not _beside(column) for column in numeric)
    # With at most two other columns, the height is the value and the others are the coordinates.
    n += n <= 2 and any(without_unit(column) in HEIGHTS for column in numeric)
    return likely[: max(1, min(3, n - 1))], False


def _beside(column: str) -> int:
    """Rank columns as values: 0 for possible measurements, then heights, then labels."""
    name = without_unit(column)
    return 2 if name in LABELS else int(name in HEIGHTS)


def _unit(table: OpenTable, column: str) -> str:
    """Return the key for a unit that is a column's name or follows it in brackets; empty where the file tells one."""
    name = column.strip()
    found = re.search(r"\[([^]]*)\]$|\(([^)]*)\)$", name)
    unit = name if name in UNITS else " ".join((found[1] or found[2] or "").split()) if found else ""
    if not unit or len(unit) > LONGEST_UNIT or table.units.get(column):
        return ""
    return f", unit: {unit if name == unit and unit.isalpha() else json.dumps(unit, ensure_ascii=False)}"


def _look(table: OpenTable, columns: list[str], coordinates: list[str]) -> Look:
    n, low, high = 0, np.full(len(columns), np.inf), np.full(len(columns), -np.inf)
    compared: list[NDArray[np.float64]] = []
    for part in table.parts(columns):
        low, high = np.minimum(low, part.min(axis=0)), np.maximum(high, part.max(axis=0))
        if n < MOST_COMPARED:
            compared.append(part[:, : len(coordinates)])
        n += len(part)
    places = np.concatenate(compared)
    ranges = {name: (float(a), float(b)) for name, a, b in zip(columns, low, high, strict=True)}
    return Look(n, ranges, len(places) - len(np.unique(places, axis=0)))


def _require_degrees(path: Path, coordinates: list[str], look: Look) -> None:
    for name, most in zip(coordinates, (360.0, 90.0), strict=True):
        low, high = look.ranges[name]
        if low < -most or high > most:
            raise ConfigError(
                f"{path}: column {name}: wanted degrees from {-most:g} to {most:g}, found {low:g} to {high:g}; "
                "rename it if it is no angle"
            )


def _extent(look: Look, coordinates: list[str]) -> float:
    return max(look.ranges[name][1] - look.ranges[name][0] for name in coordinates) or 1.0


def _spacing(look: Look, coordinates: list[str]) -> float:
    """Return a round number that divides the longer side into about a hundred lines."""
    wanted = _extent(look, coordinates) / GRID_LINES
    unit = 10.0 ** math.floor(math.log10(wanted))
    return unit * next(step for step in (1, 2, 5, 10) if step * unit >= wanted * (1 - 1e-12))
