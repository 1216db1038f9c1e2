"""A residual network for small images."""

from collections import OrderedDict
from typing import Annotated

import torch
from annotated_types import MinLen
from torch import Tensor, nn

from pipeline.models.classifier import Classifier, initialized
from pipeline.options import Count


class ResidualBlock(nn.Module):
    """Two normalized 3x3 convolutions beside a shortcut: relu(x + f(x)) [1, section 3].

    Where the shape changes the shortcut is a normalized 1x1 convolution, else the identity.
    """

    def __init__(self, n_inputs: int, n_outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_inputs, n_outputs, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(n_outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(n_outputs, n_outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(n_outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or n_inputs != n_outputs:
            self.shortcut = nn.Sequential(
                OrderedDict(
                    conv=nn.Conv2d(n_inputs, n_outputs, 1, stride=stride, bias=False),
                    norm=nn.BatchNorm2d(n_outputs),
                )
            )
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, n_inputs, h, w) to (n, n_outputs, h / stride, w / stride), rounded up."""
        y = self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(x)))))
        return self.relu2(y + self.shortcut(x))  # type: ignore[no-any-return]


def resnet(
    *,
    input_shape: tuple[int, int, int],
    n_classes: int,
    generator: torch.Generator,
    width: Count = 64,
    blocks: Annotated[tuple[Count, ...], MinLen(1)] = (2, 2, 2, 2),
) -> Classifier:
    """Build a residual network for small images, ResNet-18 unless its blocks are changed.

    It has 11.2 million parameters at width 64. Its stem is one 3x3 convolution without stride or pooling, which keeps
    the resolution of small images [1, section 4.2]. Each stage but the first halves the image and doubles the channels.
    The features are means over all positions.

    Args:
        input_shape: Channels, height, width.
        n_classes: Number of classes, one score each.
        generator: Source of the initial weights, which live on its device.
        width: Channels of the first stage; each later stage doubles them.
        blocks: Number of residual blocks in each stage.

    References:
        [1] He, Zhang, Ren, Sun, "Deep residual learning for image recognition", CVPR 2016.
    """

    def build() -> Classifier:
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            conv=nn.Conv2d(input_shape[0], width, 3, padding=1, bias=False),
            norm=nn.BatchNorm2d(width),
            relu=nn.ReLU(),
        )
        n_channels = width
        for i, n_blocks in enumerate(blocks):
            n_outputs = width * 2**i
            stage: OrderedDict[str, nn.Module] = OrderedDict()
            for j in range(n_blocks):
                stage[f"block{j + 1}"] = ResidualBlock(n_channels, n_outputs, 2 if i > 0 and j == 0 else 1)
                n_channels = n_outputs
            layers[f"stage{i + 1}"] = nn.Sequential(stage)
        layers["pool"] = nn.AdaptiveAvgPool2d(1)
        layers["flatten"] = nn.Flatten()
        return Classifier(nn.Sequential(layers), nn.Linear(n_channels, n_classes))

    return initialized(build, generator)
