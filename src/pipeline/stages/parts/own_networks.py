"""Trained networks from a user's own file or from a package; they are converted without a training."""

from argparse import Namespace
from pathlib import Path

from pydantic import ValidationError
from torch import Tensor, nn

from pipeline.config.messages import mistakes
from pipeline.config.precision import PHOTOGRAPHS, OwnNetwork, Timing
from pipeline.data.photographs import crops, photographs
from pipeline.data.samples import read_samples
from pipeline.errors import ConfigError
from pipeline.models.packaged import PACKAGED
from pipeline.precision import Budget, onnx_module

CROPS = 16  # of photographs; the first half calibrates, the other tests. A conversion takes 2.2 GB; with 64 crops 4.6
CROPS_SEED = 0


def budget_of(own: OwnNetwork) -> Budget:
    """Return the errors that half precision may cause in a user's own network; a layer may add a quarter of them."""
    given = own.budget
    return Budget(
        points=given.points, layer_error=given.relative_error / 4, output_error=given.relative_error
    )


def network_of(own: OwnNetwork) -> tuple[nn.Module, int]:
    """Return the network as a module, and the bytes of its file."""
    if own.package is None:
        return onnx_module(Path(own.path)), Path(own.path).stat().st_size
    packaged = PACKAGED[own.package]
    return packaged.load(), packaged.path().stat().st_size


def named(path: Path, options: Namespace) -> OwnNetwork:
    """Return a network with the samples and labels that the command line names; ConfigError if one is wrong."""
    given = {
        "path": str(path),
        "inputs": str(options.inputs),
        "labels": None if options.labels is None else str(options.labels),
    }
    try:
        return OwnNetwork.model_validate(given)
    except ValidationError as error:
        raise ConfigError(mistakes(error, given)) from None


def samples_of(own: OwnNetwork) -> tuple[Tensor, Tensor | None]:
    """Return the network's samples, and their classes if they are known."""
    if own.inputs != PHOTOGRAPHS or own.package is None:
        return read_samples(Path(own.inputs), Path(own.labels) if own.labels else None)
    packaged = PACKAGED[own.package]
    return packaged.prepare(crops(photographs(), CROPS, size=packaged.size, seed=CROPS_SEED)), None


def timing_of(own: OwnNetwork, timing: Timing) -> Timing:
    """Return the timing options of the study, replaced by those of the network's own section where it has any."""
    given = {"batch_sizes": own.batch_sizes, "modes": own.modes}
    return timing.model_copy(update={key: value for key, value in given.items() if value is not None})
