"""Where predictions are asked for, before anything is computed there: rows of a file, or a grid over a box."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.data.own_points import OwnPoints
from pipeline.errors import ConfigError

MOST_PLACES = 10**7


def grid_ends(corners: NDArray[np.float64], spacing: float) -> NDArray[np.float64]:
    """Return the range of multiples of the spacing that covers a box: first, and last + 1, shape (2, axes).

    Args:
        corners: Smallest and largest coordinates of the box, shape (2, axes).
        spacing: Distance between the lines of the grid.

    Raises:
        ConfigError: If the grid has too many places.
    """
    with np.errstate(over="ignore"):
        ends = np.stack([np.floor(corners[0] / spacing), np.ceil(corners[1] / spacing) + 1])
        n = float(np.prod(ends[1] - ends[0]))
    if not n <= MOST_PLACES:
        raise ConfigError(
            f"predict.grid.spacing: {spacing:g} makes {n:.3g} places over the points; wanted at most {MOST_PLACES:,}, "
            "so choose a larger one"
        )
    return ends


def open_places(
    path: Path, *, given: Sequence[str] | None, coordinates: Sequence[str], crs: str
) -> tuple[OwnPoints, tuple[str, ...]]:
    """Open the file of the places; return it and the names of its coordinates.

    Args:
        path: The file.
        given: The names of the coordinates in the file, if a study gives them.
        coordinates: The names of the points' coordinates.
        crs: The system of the points' coordinates.

    Raises:
        ConfigError: If the file cannot be read, or does not fit the points.
    """
    names = tuple(("x", "y") if path.suffix == ".tif" else given or coordinates)
    if len(names) != len(coordinates):
        raise ConfigError(
            f"predict: {path}: {len(names)} coordinates ({', '.join(names)}), but the points have "
            f"{len(coordinates)} ({', '.join(coordinates)}); name as many in predict.coordinates"
        )
    try:
        return OwnPoints.open(path, coordinates=names, crs=crs), names
    except ConfigError as error:
        raise ConfigError(f"predict: {error}") from None
