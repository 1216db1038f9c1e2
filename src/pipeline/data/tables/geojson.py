"""GeoJSON files of points: a collection of features, read one after the other."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.tables.table import ROWS_AT_ONCE, OpenTable, Rows, unreadable, wrong_value
from pipeline.errors import ConfigError

COORDINATES = ("lon", "lat", "height")


def open_geojson(path: Path) -> OpenTable:
    """Open a FeatureCollection of Points: columns `lon`, `lat` (and `height`), and properties that are numbers.

    The first feature determines the columns.
    """
    first = next(_features(path), None)
    if first is None:
        raise ConfigError(f"{path}: holds no features; wanted a FeatureCollection of Points")
    position = _position(path, 1, first, None)
    properties = first.get("properties")
    numeric = [key for key, value in (properties or {}).items() if _is_number(value)]
    geometry = COORDINATES[: len(position)]
    for name in geometry:
        if name in numeric:
            raise ConfigError(f"{path}: property {name!r} has the name of a coordinate; rename it")
    return OpenTable(
        path,
        (*geometry, *numeric),
        lambda names: _read(path, names, len(position)),
        units={"lon": "degrees", "lat": "degrees", "height": "m"},
        crs="EPSG:4326",
    )


def _features(path: Path) -> Iterator[dict[str, Any]]:
    import ijson

    try:
        with path.open("rb") as file:
            for number, feature in enumerate(ijson.items(file, "features.item", use_float=True), 1):
                if not isinstance(feature, dict) or feature.get("type") != "Feature":
                    found = feature.get("type") if isinstance(feature, dict) else feature
                    raise ConfigError(
                        f"{path}: row {number}: wanted a Feature, found {str(found)[:40]!r}; correct it or leave it out"
                    )
                yield feature
    except (ijson.JSONError, UnicodeDecodeError) as error:
        raise unreadable(path, error, "wanted a FeatureCollection of Points in JSON") from None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _position(path: Path, number: int, feature: dict[str, Any], wanted: int | None) -> list[float]:
    """Return the coordinates of a feature, which has to be a point."""
    geometry = feature.get("geometry")
    kind = geometry.get("type") if isinstance(geometry, dict) else geometry
    if not isinstance(geometry, dict) or kind != "Point":
        raise ConfigError(
            f"{path}: row {number}, geometry: wanted a Point, found {str(kind)[:40]}; correct it or leave it out"
        )
    position = geometry.get("coordinates")
    if not isinstance(position, list) or len(position) not in (2, 3) or not all(map(_is_number, position)):
        raise ConfigError(
            f"{path}: row {number}, geometry: wanted 2 or 3 numbers as coordinates, found {str(position)[:40]}; "
            "correct it or leave it out"
        )
    if wanted is not None and len(position) != wanted:
        raise ConfigError(
            f"{path}: row {number}, geometry: wanted {wanted} coordinates as in row 1, found {len(position)}; "
            "correct it"
        )
    return [float(entry) for entry in position]


def _read(path: Path, names: Sequence[str], dimension: int) -> Iterator[Rows]:
    rows: list[list[float]] = []
    for number, feature in enumerate(_features(path), 1):
        there = dict(zip(COORDINATES, _position(path, number, feature, dimension), strict=False))
        properties = feature.get("properties") or {}
        values = [there[name] if name in there else properties.get(name) for name in names]
        for name, value in zip(names, values, strict=True):
            if not _is_number(value):
                raise wrong_value(path, number, name, "no value" if value is None else str(value))
        rows.append([float(value) for value in values])  # type: ignore[arg-type]
        if len(rows) == ROWS_AT_ONCE:
            yield np.array(rows)
            rows = []
    yield np.array(rows, dtype=np.float64).reshape(len(rows), len(names))
