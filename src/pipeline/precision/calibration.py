"""Calibration of a network: the range of its activations, and errors on a few inputs."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.precision.bias_correction import MeanInput, sample_means
from pipeline.precision.execution import Execution, is_dense_and_real
from pipeline.precision.plan import Layer
from pipeline.precision.rounding import storable_in_half
from pipeline.precision.verification import UNRESOLVED

CALIBRATION_SAMPLES = 256  # more hardly change the range of the activations
SAMPLES_AT_ONCE = 16  # samples of one pass, since all its activations are held at once
ERROR_SAMPLES = 8  # samples that pass through every candidate of every layer
ERROR_FLOPS = 4e9  # limit on the FLOPs of these samples together, in float64; but there are at least two
HIDDEN = 2.0**-6  # rounding errors of this share of the variation over samples are too large


def check_calibration(calibration: Tensor, labels: Tensor | None) -> None:
    """Refuse inputs or labels with which no network can be calibrated.

    Raises:
        TypeError: If one is no torch tensor, or the calibration set is not of dense real numbers.
        ConfigError: If there is no input, one is not finite, or the labels are not one for each.
    """
    for what, given in (("calibration set", calibration), ("labels", labels)):
        if not isinstance(given, Tensor) and given is not None:
            raise TypeError(
                f"the {what} must be a torch tensor, not {type(given).__name__}; use torch.from_numpy"
            )
    if not is_dense_and_real(calibration):
        raise TypeError(
            f"the calibration set must be dense real numbers, not {calibration.dtype} ({calibration.layout})"
        )
    if calibration.ndim < 2 or calibration.numel() == 0:
        raise ConfigError(
            f"the calibration set has shape {tuple(calibration.shape)}; wanted at least one input to see the "
            "range of the activations"
        )
    if not calibration.float().isfinite().all():
        raise ConfigError(
            "the calibration set holds NaN or infinity, or numbers beyond float32, which tell nothing about the "
            "range of the activations; leave such inputs out"
        )
    if labels is not None and labels.shape != calibration.shape[:1]:
        raise ConfigError(
            f"the calibration set has {len(calibration)} inputs and labels of shape {tuple(labels.shape)}; wanted "
            "one label per input"
        )


def few_of(samples: Tensor, layers: Sequence[Layer]) -> Tensor:
    """Return as many of the samples as can go through every candidate of every layer in a moment."""
    flops = max(sum(layer.flops for layer in layers), 1)
    return samples[: max(2, min(ERROR_SAMPLES, int(ERROR_FLOPS // flops)))]


@dataclass(frozen=True)
class Observed:
    """Inputs and results of the layers of a network at float32.

    Attributes:
        wide: Names of the layers whose results binary16 does not hold: they exceed its range, would be rounded to a
            zero divisor, or vary over samples by so little that rounding hides the variation.
        given: The mean inputs of each layer with weights, by its name.
    """

    wide: set[str]
    given: dict[str, MeanInput]


def observe(layers: Sequence[Layer], twin: Execution, calibration: Tensor) -> Observed:
    """Run the first samples of the calibration set, and observe every layer."""
    calibration = calibration[:CALIBRATION_SAMPLES]
    wide = _never_zero(layers) | _squares(layers)
    sums: dict[str, Tensor] = {}
    by_sample: dict[str, list[Tensor]] = {}
    for number, part in enumerate(torch.split(calibration, SAMPLES_AT_ONCE)):
        for layer, (given, result, _) in zip(layers, twin.steps(part), strict=True):
            if not storable_in_half(result) or (number == 0 and _hides(result)):
                wide.add(layer.name)
            if layer.has_weights:
                sums[layer.name] = sums.get(layer.name, 0) + given.sum(0, dtype=torch.float64)
                by_sample.setdefault(layer.name, []).append(sample_means(layer, given))
    inputs = {
        name: MeanInput(total / len(calibration), torch.cat(by_sample[name])) for name, total in sums.items()
    }
    return Observed(wide, inputs)


def _hides(results: Tensor) -> bool:
    """Whether rounding float32 results, one row per sample, to binary16 hides much of their variation over samples."""
    varying = torch.linalg.vector_norm(results - results.mean(dim=0), dtype=torch.float64)
    if len(results) < 2 or not varying > UNRESOLVED * torch.linalg.vector_norm(results, dtype=torch.float64):
        return False
    return bool(torch.linalg.vector_norm(results.half() - results, dtype=torch.float64) > HIDDEN * varying)


def _squares(layers: Sequence[Layer]) -> set[str]:
    """Name the results that are squares: those of binary16 numbers may exceed its range for other inputs."""
    names: set[str] = set()
    for layer in layers:
        is_square = layer.function == "square" or (layer.kind == "multiply" and layer.source == layer.addend)
        if is_square or (layer.kind == "gather" and names.intersection(layer.sources)):
            names.add(layer.name)
    return names


def _never_zero(layers: Sequence[Layer]) -> set[str]:
    """Name the results that are divisors or arguments of a logarithm, so that they must not be rounded to zero."""
    names: set[str] = set()
    for layer in reversed(layers):
        if layer.function in ("reciprocal", "log"):
            names.add(layer.source)
        if layer.name in names and layer.kind in ("gather", "activation"):
            names |= set(layer.sources)
    return names
