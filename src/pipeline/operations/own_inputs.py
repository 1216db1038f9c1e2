"""What a study reads of somebody's own, looked at before anything runs: points, meshes, images and networks."""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.config.images import ImageData
from pipeline.config.points import FilePoints, OwnMesh, PointsSpec
from pipeline.config.precision import PHOTOGRAPHS, OwnNetwork
from pipeline.data import load_images, split
from pipeline.data.own_mesh import load_usable_mesh
from pipeline.data.own_points import OwnPoints
from pipeline.data.samples import read_samples
from pipeline.errors import ConfigError, PipelineError
from pipeline.models.packaged import PACKAGED
from pipeline.precision import onnx_module

#: Bytes of files that are read here; larger ones are left to the stage that reads them.
READ_UP_TO = 64_000_000


def require_readable(specs: Mapping[str, Mapping[str, Any]]) -> None:
    """Read a study's own files as its stages will.

    Args:
        specs: Specs of the study by their paths, those of the stages in `LOOKS` alone.

    Raises:
        ConfigError: If a file is wrong; the message names the section of the study, the file, and the first mistake.
    """
    for path, spec in specs.items():
        stage, _, name = path.partition("/")
        section, look = LOOKS[stage]
        try:
            look(spec)
        except PipelineError as error:
            raise ConfigError(f"{section.format(name)}: {error}") from None


def _points(spec: Mapping[str, Any]) -> None:
    points = PointsSpec.model_validate(spec).points
    if isinstance(points, OwnMesh):
        if _is_small(points.path):
            load_usable_mesh(Path(points.path))
    elif isinstance(points, FilePoints):
        own = OwnPoints.open(
            Path(points.path),
            coordinates=points.coordinates,
            crs=points.crs,
            values=points.values,
            units=points.units,
        )
        if _is_small(points.path):
            for _ in own.parts():
                pass


def _images(spec: Mapping[str, Any]) -> None:
    data = ImageData.model_validate(spec)
    named = data.path or data.directory
    if data.name not in ("folder", "idx", "arrays") or named is None or not _is_small(named):
        return
    own: dict[str, Any] = data.model_dump(include={"image_size", "channels"}, exclude_none=True)
    if data.path is not None:
        own["path"] = Path(data.path)
    directory = Path(data.directory) if data.directory else None
    images = load_images(data.name, directory=directory, cache=Path(), **own)
    split(
        images,
        train_samples=data.train_samples,
        validation_samples=data.validation_samples,
        seed=data.split_seed,
    )


def _network(spec: Mapping[str, Any]) -> None:
    own = OwnNetwork.model_validate(spec)
    if own.package is not None:
        PACKAGED[own.package].path()
    elif _is_small(own.path):
        onnx_module(Path(own.path))
    if own.inputs != PHOTOGRAPHS and _is_small(own.inputs):
        read_samples(Path(own.inputs), Path(own.labels) if own.labels else None)


#: The section of a study that a spec is of, and what looks at it, by the first part of the spec's path.
LOOKS: dict[str, tuple[str, Callable[[Mapping[str, Any]], None]]] = {
    "dataset": ("dataset", _images),
    "points": ("matrices.{}.points", _points),
    "networks": ("precision.networks.{}", _network),
}


def _is_small(name: str) -> bool:
    total = 0
    for n_bytes in _sizes(Path(name)):
        total += n_bytes
        if total > READ_UP_TO:
            return False
    return True


def _sizes(path: Path) -> Iterator[int]:
    """Sizes of the files that a path names; what is not there is left to whoever reads it."""
    if path.is_dir():
        for folder, _, files in os.walk(path, followlinks=True):
            for file in files:
                yield (Path(folder) / file).stat().st_size if (Path(folder) / file).exists() else 0
    elif path.exists():
        yield path.stat().st_size
