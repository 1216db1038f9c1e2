"""How rounding errors grow through the network, against float64."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.precision.plan import Layer
from pipeline.precision.reference import reference
from pipeline.precision.routines import Execution


@dataclass(frozen=True)
class LayerError:
    """How far the half-precision network is from float64 after a layer, all errors before it included.

    Attributes:
        layer: The layer's name.
        relative_error: |y - exact| / |exact|, Frobenius norm over all samples.
        sqnr_db: -20 log10 of that; infinite if exact.
        largest: The largest magnitude of the exact result; binary16 ends at 65504.
        n_saturated: Results of this layer that were stored as +-65504.
    """

    layer: str
    relative_error: float
    sqnr_db: float
    largest: float
    n_saturated: int


def layer_errors(
    layers: Sequence[Layer], parameters: Mapping[str, Tensor], execution: Execution, x: Tensor
) -> list[LayerError]:
    """Compare every layer's result in half precision with float64.

    Args:
        layers: The plan.
        parameters: The weights before rounding.
        execution: The network in half precision.
        x: Shape (n, channels, rows, columns).
    """
    exact = reference(layers, parameters, x)
    found = execution.activations(x)
    errors = []
    for layer, wanted, stored in zip(layers, exact, found, strict=True):
        norm = wanted.norm().item()
        distance = (stored.double() - wanted).norm().item()
        relative = distance / norm if norm > 0 else distance
        saturated = stored.dtype == torch.float16
        errors.append(
            LayerError(
                layer=layer.name,
                relative_error=relative,
                sqnr_db=-20.0 * math.log10(relative) if relative > 0 else math.inf,
                largest=wanted.abs().max().item(),
                n_saturated=int((stored.abs() >= 65504.0).sum()) if saturated else 0,
            )
        )
    return errors
