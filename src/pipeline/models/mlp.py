"""A multilayer perceptron."""

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import nn

from pipeline.models.classifier import Classifier, initialized


def mlp(
    *,
    input_shape: tuple[int, int, int],
    n_classes: int,
    generator: torch.Generator,
    hidden: Sequence[int] = (128, 64),
) -> Classifier:
    """Build fully connected layers with rectifiers and a head.

    Args:
        input_shape: Channels, height, width; images are flattened.
        n_classes: How many scores the head gives.
        generator: Source of the initial weights, which live on its device.
        hidden: Width of each hidden layer; the last is `n_features`. None at all gives soft-max regression.
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
