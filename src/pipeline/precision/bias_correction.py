"""Correct a layer's bias for the mean error that rounded weights add to the layer's results.

Rounding the weights W by d adds d x to the results of an input x. Behind a ReLU no x is negative, so this error has a
mean. It is the same for every pixel and remains in the averages at a network's end. The mean over the calibration set
is subtracted from the bias [1, section 4.2], which costs nothing when the network runs. Where the samples of the
calibration set do not agree on the mean, it is due to chance, and nothing is subtracted. A correction has the scale of
the calibration set and would drown the results of much smaller inputs, which are close to the layer's biases. So a
correction that is large beside the biases is left out.

[1] Nagel, van Baalen, Blankevoort and Welling, "Data-free quantization through weight equalization and bias
    correction", ICCV 2019, arXiv:1906.04721.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.precision.plan import Layer
from pipeline.precision.rounding import LARGEST_HALF, widen

CORRECTION = "bias_correction"  # name of a tensor of shape (2, outputs), a row per type of rounded weights
BINARY16, BFLOAT16 = 0, 1
UNITS = (2.0**-11, 2.0**-8)  # unit roundoffs of these types
LARGEST = 8.0  # largest correction, in unit roundoffs of the biases' root mean square
STANDARD_ERRORS = 3.0  # by which a mean must differ from zero


@dataclass(frozen=True)
class MeanInput:
    """The mean inputs that a layer with weights gets from a calibration set.

    Attributes:
        mean: Mean over the samples, float64, channels last, flat.
        by_sample: Results of `sample_means` for every sample.
    """

    mean: Tensor
    by_sample: Tensor


def sample_means(layer: Layer, given: Tensor) -> Tensor:
    """Return each sample's means over the pixels for a convolution, (n, channels), or its inputs for a linear layer.

    Args:
        layer: The layer.
        given: Its inputs, channels last, (n, numbers).
    """
    if layer.kind == "linear":
        return _in_order(layer, given)
    return given.view(len(given), -1, layer.input_shape[0]).mean(1)


def bias_corrections(
    layers: Sequence[Layer],
    stored: Mapping[str, Tensor],
    complete: Mapping[str, Tensor],
    given: Mapping[str, MeanInput],
) -> dict[str, Tensor]:
    """Compute the mean results of each layer's rounding errors; zero where they are uncertain or too large.

    Args:
        layers: The plan.
        stored: Weights as they are stored.
        complete: Weights before rounding, and biases.
        given: The inputs of each layer with weights, by its name.

    Returns:
        `NAME.bias_correction` of shape (2, outputs), float16, or float32 if float16 overflows. Row 0 is to be
        subtracted from the bias if weights are multiplied as binary16, row 1 if they are rounded to bfloat16.
    """
    corrections = {}
    for layer in layers:
        if layer.has_weights:
            weight, half = complete[f"{layer.name}.weight"], stored[f"{layer.name}.weight"]
            bias = complete[f"{layer.name}.bias"].double().square().mean().sqrt()
            rows = []
            for unit, dtype in zip(UNITS, (torch.float16, torch.bfloat16), strict=True):
                error = widen(half.to(dtype).float(), layer.scale_exponents).double()
                error -= weight  # in place: a layer may have a hundred million weights
                mean = _certain_mean(layer, error, given[layer.name])
                rows.append(torch.where(mean.abs() <= LARGEST * unit * bias, mean, 0.0))
            both = torch.stack(rows)
            corrections[f"{layer.name}.{CORRECTION}"] = (
                both.half() if both.abs().max() <= LARGEST_HALF else both.float()
            )
    return corrections


def corrected_bias(layer: Layer, parameters: Mapping[str, Tensor], routine: str) -> Tensor:
    """Return the bias to add in float32 on a routine.

    Winograd's routines round the transformed weights once more; this error is not corrected.
    """
    bias = parameters[f"{layer.name}.bias"].float()
    correction = parameters.get(f"{layer.name}.{CORRECTION}")
    if correction is None or layer.weight_dtype == "float32":
        return bias
    return bias - correction[BFLOAT16 if routine in ("direct bf16", "product bf16") else BINARY16].float()


def _certain_mean(layer: Layer, error: Tensor, given: MeanInput) -> Tensor:
    """Return the mean result of an error of the weights, zero where samples do not agree on it: shape (outputs,)."""
    n = len(given.by_sample)
    if n < 2:
        return torch.zeros(layer.output_shape[0], dtype=torch.float64)
    by_sample = _results_of_colors(layer, error, given.by_sample.double())
    certain = by_sample.mean(0).abs() >= STANDARD_ERRORS * by_sample.std(0) / n**0.5
    return torch.where(certain, _mean_results(layer, error, given.mean), 0.0)


def _results_of_colors(layer: Layer, weight: Tensor, by_sample: Tensor) -> Tensor:
    """Return the results of images with constant channels, averaged over the pixels: shape (n, outputs)."""
    if layer.kind == "linear":
        return by_sample @ weight.T
    assert layer.geometry is not None
    groups, (height, width) = layer.geometry.groups, layer.geometry.kernel
    every_tap = torch.eye(height * width, dtype=weight.dtype).view(-1, 1, height, width)
    inside = _convolve(layer, torch.ones(1, *layer.input_shape[1:], dtype=weight.dtype), every_tap, groups=1)
    weight = (weight * inside.view(height, width)).sum((2, 3))  # by the share of windows with the tap inside
    weight = weight.view(groups, -1, weight.shape[1])
    return torch.einsum("goc,ngc->ngo", weight, by_sample.view(len(by_sample), groups, -1)).flatten(1)


def _mean_results(layer: Layer, weight: Tensor, mean: Tensor) -> Tensor:
    """The layer's linear part for the mean of its inputs, averaged over the pixels: shape (outputs,)."""
    if layer.kind == "linear":
        return weight @ _in_order(layer, mean[None])[0]
    assert layer.geometry is not None
    channels, rows, columns = layer.input_shape
    image = mean.view(rows, columns, channels).permute(2, 0, 1)
    return _convolve(layer, image, weight, layer.geometry.groups)


def _convolve(layer: Layer, image: Tensor, weight: Tensor, groups: int) -> Tensor:
    """The mean over the pixels of a convolution with the layer's windows: shape (outputs,)."""
    geometry = layer.geometry
    assert geometry is not None
    top, left, bottom, right = geometry.paddings
    image = functional.pad(image, (left, right, top, bottom))
    results = functional.conv2d(
        image[None], weight, stride=geometry.stride, dilation=geometry.dilation, groups=groups
    )
    return results.mean((0, 2, 3))


def _in_order(layer: Layer, given: Tensor) -> Tensor:
    """Inputs of a linear layer, (n, numbers), in the order of its weights, which is torch's."""
    if len(layer.input_shape) < 3:
        return given
    channels, rows, columns = layer.input_shape
    return given.view(-1, rows, columns, channels).permute(0, 3, 1, 2).flatten(1)
