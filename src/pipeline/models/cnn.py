"""A small convolutional network for small images."""

from collections import OrderedDict

import torch
from torch import nn

from pipeline.models.classifier import Classifier, initialized
from pipeline.options import Count

# Images with a shorter side keep their size in the first convolution, because three strides of two leave few pixels.
SMALL_IMAGE = 16


def cnn(
    *,
    input_shape: tuple[int, int, int],
    n_classes: int,
    generator: torch.Generator,
    channels: tuple[Count, ...] = (16, 32, 64),
    hidden: Count = 96,
    batch_norm: bool = False,
) -> Classifier:
    """Build three strided convolutions and two fully connected layers.

    It has 122,922 parameters for 1x28x28 and ten classes. Each convolution halves the image (5x5 first, then 3x3). If
    a side is below 16 pixels, the first is 3x3 and keeps the size. With strides instead of pooling, every operation is
    a convolution, a matrix product or a rectifier.

    Args:
        input_shape: Channels, height, width.
        n_classes: Number of classes, one score each.
        generator: Source of the initial weights, which live on its device.
        channels: Output channels of each convolution.
        hidden: Width of the hidden layer, which is `n_features`.
        batch_norm: Whether batch normalization follows each convolution, which then has no bias. Conversion to half
            precision folds it into the convolution.
    """

    def build() -> Classifier:
        n_channels, height, width = input_shape
        small = min(height, width) < SMALL_IMAGE
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for i, n_outputs in enumerate(channels, start=1):
            size = 5 if i == 1 and not small else 3
            stride = 1 if i == 1 and small else 2
            layers[f"conv{i}"] = nn.Conv2d(
                n_channels, n_outputs, size, stride=stride, padding=size // 2, bias=not batch_norm
            )
            if batch_norm:
                layers[f"norm{i}"] = nn.BatchNorm2d(n_outputs)
            layers[f"relu{i}"] = nn.ReLU()
            n_channels, height, width = n_outputs, -(-height // stride), -(-width // stride)
        layers["flatten"] = nn.Flatten()
        layers["hidden"] = nn.Linear(n_channels * height * width, hidden)
        layers["relu"] = nn.ReLU()
        return Classifier(nn.Sequential(layers), nn.Linear(hidden, n_classes))

    return initialized(build, generator)
