"""A multilayer perceptron."""

import math
from collections import OrderedDict
from typing import Annotated

import torch
from annotated_types import Interval
from torch import nn

from pipeline.models.classifier import Classifier, initialized


def mlp(
    *,
    input_shape: tuple[int, int, int],
    n_classes: int,
    generator: torch.Generator,
    hidden: tuple[Annotated[int, Interval(ge=1, le=65536)], ...] = (128, 64),
) -> Classifier:
    """Build fully connected layers with rectifiers.

    Args:
        input_shape: Channels, height, width; images are flattened.
        n_classes: Number of classes, one score each.
        generator: Source of the initial weights, which live on its device.
        hidden: Widths of the hidden layers; an empty list gives soft-max regression.
    """

    def build() -> Classifier:
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        n_inputs = math.prod(input_shape)
        for i, width in enumerate(hidden, start=1):
            layers[f"hidden{i}"] = nn.Linear(n_inputs, width)
            layers[f"relu{i}"] = nn.ReLU()
            n_inputs = width
        return Classifier(nn.Sequential(layers), nn.Linear(n_inputs, n_classes))

    return initialized(build, generator)
