"""Checks before anything runs: of a user's own points, meshes, images and networks, and of what a matrix is asked.

A matrix is asked for products with vectors, predictions and held-out parts, and has a kernel that may be the user's.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pipeline.config.images import ImageData
from pipeline.config.matrices import (
    CompressSpec,
    Matrix,
    Predict,
    SolveSpec,
    require_drawable,
    require_fittable,
)
from pipeline.config.points import FilePoints, Generated, OwnMesh, PointsSpec
from pipeline.config.precision import PHOTOGRAPHS, OwnNetwork
from pipeline.config.study import Study
from pipeline.data import Places
from pipeline.data.asked_places import grid_ends, open_places
from pipeline.data.own_mesh import load_usable_mesh
from pipeline.data.own_points import PointsPart
from pipeline.data.samples import open_labels, open_samples, read_samples, single
from pipeline.data.splits import n_held_out_of
from pipeline.data.vectors import open_vectors, require_finite
from pipeline.errors import ConfigError, errors_about
from pipeline.hmatrix import kernels
from pipeline.hmatrix.boundary_elements.problems import notes_on_wave
from pipeline.hmatrix.kernels import Helmholtz
from pipeline.models.packaged import PACKAGED
from pipeline.operations.column_names import require_longitude_first
from pipeline.operations.paths import is_small
from pipeline.precision import onnx_module
from pipeline.precision.onnx_import import onnx_shapes
from pipeline.precision.predictions import check_labels

Specs = Mapping[str, Mapping[str, Any]]
Array = NDArray[np.float64]

NO_RASTER = "predict: a GeoTIFF needs a regular grid of rows and columns; set predict.format to nc or csv"


def require_readable(specs: Mapping[str, Mapping[str, Any]]) -> None:
    """Read a study's own files as its stages will, by its specs; the specs of a matrix must be given together.

    A ConfigError names the section of the study, the file, and the first mistake.
    """
    for path in specs:
        stage, _, name = path.partition("/")
        if stage in LOOKS:
            section, look = LOOKS[stage]
            with errors_about(section.format(name)):
                look(specs, name)


def _points(specs: Specs, name: str) -> None:
    points = PointsSpec.model_validate(specs[f"points/{name}"]).points
    if isinstance(points, OwnMesh):
        if is_small(points.path):
            mesh, _ = load_usable_mesh(Path(points.path))
            kernel = CompressSpec.model_validate(specs[f"compress/{name}"]).kernel
            if isinstance(kernel, Helmholtz):
                notes_on_wave(mesh, complex(kernel.wavenumber))
    elif isinstance(points, FilePoints):
        own = points.open()
        require_longitude_first(own, "coordinates")
        if is_small(points.path):
            points.divide(sum(len(part.points) for part in own.parts()))


def _images(specs: Specs, _: str) -> None:
    data = ImageData.model_validate(specs["dataset"])
    named = [path for path in vars(data.images).values() if isinstance(path, Path)]
    if data.images.N_TRAIN is None and named and all(map(is_small, named)):
        data.load(Path())


def _network(specs: Specs, name: str) -> None:
    own = OwnNetwork.model_validate(specs[f"networks/{name}"])
    wanted, outputs = ((), ()) if own.package is not None else onnx_shapes(Path(own.path))
    if own.package is not None:
        PACKAGED[own.package].path()
    if own.inputs == PHOTOGRAPHS:  # they exist only for a network of the package
        return
    samples = open_samples(Path(own.inputs))
    labels = open_labels(Path(own.labels), len(samples)) if own.labels else None
    if is_small(own.inputs):
        read_samples(Path(own.inputs), None)
    n_classes = None
    if own.package is not None:
        n_classes = _outputs(PACKAGED[own.package].load(), samples, own)
    else:
        _require_shape(samples.shape, wanted, own)
        if is_small(own.path):
            n_classes = _outputs(onnx_module(Path(own.path), samples.shape[1:]), samples, own)
        elif len(outputs) == 2:
            n_classes = outputs[1]
    if labels is not None and n_classes is not None:
        with errors_about(str(own.labels)):
            check_labels(torch.from_numpy(np.array(labels).astype(np.int64)), n_classes)


def _require_shape(found: Sequence[int], wanted: Sequence[int | None], own: OwnNetwork) -> None:
    """Compare the shape of samples with the input shape in the network's file."""
    fits = len(found) == len(wanted) and all(
        size in (None, there) for size, there in zip(wanted[1:], found[1:], strict=True)
    )
    if wanted and not fits:
        sizes = ", ".join("any" if size is None else str(size) for size in wanted[1:])
        raise ConfigError(
            f"{own.inputs}: holds samples of shape {tuple(found[1:])}; wanted ({sizes}{',' * (len(wanted) == 2)}), "
            f"which {own.path} takes"
        )


def _outputs(network: nn.Module, samples: np.ndarray[Any, Any], own: OwnNetwork) -> int:
    """Return the number of a network's outputs for the first sample."""
    first = single(samples[:1])
    try:
        with torch.no_grad():
            found = network.eval()(first)
    except ConfigError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        text = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"{own.inputs}: {own.path} does not take samples of shape {tuple(first.shape[1:])} ({text}); give it "
            "others"
        ) from None
    return int(found.shape[1]) if found.ndim > 1 else 1


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


def _asked(specs: Specs, name: str) -> None:
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


#: The study's section behind a spec, and the function that checks it, by the first part of the spec's path.
LOOKS: dict[str, tuple[str, Callable[[Specs, str], None]]] = {
    "dataset": ("dataset", _images),
    "points": ("matrices.{}.points", _points),
    "networks": ("precision.networks.{}", _network),
    "solve": ("matrices.{}", _asked),
}
