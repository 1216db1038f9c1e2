"""Checks of what a study asks of a matrix, before anything runs: vectors, predictions, held-out parts and kernels."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config.matrices import (
    CompressSpec,
    Matrix,
    Predict,
    SolveSpec,
    require_drawable,
    require_fittable,
)
from pipeline.config.points import FilePoints, Generated, PointsSpec
from pipeline.config.study import Study
from pipeline.data import Places
from pipeline.data.asked_places import grid_ends, open_places
from pipeline.data.own_points import PointsPart
from pipeline.data.splits import n_held_out_of
from pipeline.data.vectors import open_vectors, require_finite
from pipeline.errors import ConfigError, errors_about
from pipeline.hmatrix import kernels
from pipeline.operations.column_names import require_longitude_first
from pipeline.operations.sizes import is_small

Array = NDArray[np.float64]

NO_RASTER = "predict: a GeoTIFF needs a regular grid of rows and columns; set predict.format to nc or csv"


@dataclass(frozen=True)
class _Known:
    """Knowledge of a matrix's points before a stage makes them."""

    section: Any

    @cached_property
    def rows(self) -> PointsPart | None:
        """The known points of a file that is small enough to be read here."""
        if not isinstance(self.section, FilePoints) or not is_small(self.section.path):
            return None
        parts = list(self.section.open().parts())
        known, _ = self.section.divide(sum(len(part.points) for part in parts))
        degrees = [part.degrees for part in parts if part.degrees is not None]
        return PointsPart(
            np.concatenate([part.points for part in parts])[known],
            np.concatenate([part.values for part in parts])[known],
            np.concatenate(degrees)[known] if degrees else None,
        )

    @property
    def n(self) -> int | None:
        """The number of points that are not held out; None where only a stage can tell."""
        if isinstance(self.section, FilePoints) and self.rows is not None:
            return len(self.rows.points)
        if isinstance(self.section, FilePoints | Places):
            wanted = self.section.n
            if wanted is None and isinstance(self.section, FilePoints):
                own = self.section.open()
                wanted = own.table.n_rows([*own.coordinates, *own.values])
            held_out = (
                self.section.part_held_out if isinstance(self.section, FilePoints) else self.section.held_out
            )
            return None if wanted is None else wanted - n_held_out_of(wanted, held_out)
        if isinstance(self.section, Generated):
            return self.section.n
        return None

    @cached_property
    def corners(self) -> Array | None:
        """Least and greatest coordinates, in degrees on the globe; for a large file, those of its first rows."""
        if isinstance(self.section, FilePoints):
            part = self.rows or next(self.section.open().parts())
            places = part.points if part.degrees is None else part.degrees
            return np.stack([places.min(axis=0), places.max(axis=0)])
        if isinstance(self.section, Places):
            values = self.section.load().values
            ends = [(values[axis].min(), values[axis].max()) for axis in ("longitude", "latitude")]
            return np.array(ends).T
        return None


def look_at(specs: Mapping[str, Mapping[str, Any]], name: str) -> None:
    """Raise ConfigError if vectors, predictions or held-out points of a matrix don't fit its points."""
    asked = SolveSpec.model_validate(specs[f"solve/{name}"])
    known = _Known(PointsSpec.model_validate(specs[f"points/{name}"]).points)
    fitted = CompressSpec.model_validate(specs[f"compress/{name}"]).fit is not None
    if fitted and known.n is not None:
        require_fittable(known.n)
    for key, path in (("right_hand_side", asked.right_hand_side), ("vectors", asked.vectors)):
        if path is not None:
            with errors_about(key):
                vectors = open_vectors(Path(path), known.n)
                if is_small(path):
                    require_finite(Path(path), vectors)
    if asked.samples is not None and known.n is not None:
        require_drawable(asked.samples, known.n)
    if asked.predict is not None:
        _predictions(asked.predict, known)


def _predictions(predict: Predict, known: _Known) -> None:
    raster, section = predict.file_name.endswith(".tif"), known.section
    crs = section.crs if isinstance(section, FilePoints) else "lonlat"
    names = section.open().coordinates if isinstance(section, FilePoints) else ("longitude", "latitude")
    if predict.grid is not None:
        if raster and len(names) != 2:
            raise ConfigError(NO_RASTER)
        if known.corners is not None:
            grid_ends(known.corners, predict.grid.spacing)
        return
    own, names = open_places(Path(predict.path or ""), given=predict.coordinates, coordinates=names, crs=crs)
    require_longitude_first(own, "predict.coordinates")
    if raster and len(own.table.axes(names)) != 2:
        raise ConfigError(NO_RASTER)
    if is_small(str(own.path)):
        with errors_about("predict"):
            deque(own.parts(), maxlen=0)


def usable_kernels(study: Study) -> None:
    """Try every kernel on a few points of its matrix; functions of the user's own may have changed since last time."""
    for name, matrix in study.matrices.items():
        with errors_about(f"matrices.{name}"):
            points = _few(matrix)
            if points is not None:
                kernels.require_usable(matrix.kernel, points)


def _few(matrix: Matrix) -> Array | None:
    """A few points: the first ones of a file, or random ones of the same dimension; None where nothing is known."""
    section = matrix.points
    if isinstance(section, FilePoints):
        return next(section.open().parts()).points[: kernels.TRIED].copy()
    dimension = 3 if isinstance(section, Places) else getattr(section, "DIMENSION", 0)
    return np.random.default_rng(0).random((kernels.TRIED, dimension)) if dimension else None
