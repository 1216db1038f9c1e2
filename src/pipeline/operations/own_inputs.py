"""Checks of a user's own files before anything runs: points, meshes, images and networks."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.config.images import ImageData
from pipeline.config.matrices import CompressSpec
from pipeline.config.points import FilePoints, OwnMesh, PointsSpec
from pipeline.config.precision import PHOTOGRAPHS, OwnNetwork
from pipeline.data.own_mesh import load_usable_mesh
from pipeline.data.samples import open_labels, open_samples, read_samples, single
from pipeline.errors import ConfigError, errors_about
from pipeline.hmatrix.boundary_elements.problems import notes_on_wave
from pipeline.hmatrix.kernels import Helmholtz
from pipeline.models.packaged import PACKAGED
from pipeline.operations.column_names import require_longitude_first
from pipeline.operations.own_matrices import look_at
from pipeline.operations.sizes import is_small
from pipeline.precision import onnx_module
from pipeline.precision.onnx_import import onnx_shapes
from pipeline.precision.predictions import check_labels

Specs = Mapping[str, Mapping[str, Any]]


def require_readable(specs: Mapping[str, Mapping[str, Any]]) -> None:
    """Read a study's own files as its stages will, by its specs; the specs of a matrix must be given together.

    Raises:
        ConfigError: If a file is wrong; the message names the section of the study, the file, and the first mistake.
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
    named = data.path or data.directory
    if data.name in ("folder", "idx", "arrays") and named is not None and is_small(named):
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


#: The study's section behind a spec, and the function that checks it, by the first part of the spec's path.
LOOKS: dict[str, tuple[str, Callable[[Specs, str], None]]] = {
    "dataset": ("dataset", _images),
    "points": ("matrices.{}.points", _points),
    "networks": ("precision.networks.{}", _network),
    "solve": ("matrices.{}", look_at),
}
