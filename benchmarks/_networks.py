"""Networks for benchmarks/precision.py, with weights that keep the size of activations."""

import torch
from torch import Tensor, nn


def he(module: nn.Module, seed: int = 0) -> nn.Module:
    """Set weights that keep the size of activations, and statistics of normalizations; switch to evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.Conv2d | nn.Linear):
                fan_in = part.weight[0].numel()
                part.weight.copy_(torch.randn(part.weight.shape, generator=generator) * (2 / fan_in) ** 0.5)
                if part.bias is not None:
                    part.bias.copy_(torch.randn(part.bias.shape, generator=generator) * 0.1)
    return module.eval()


def inputs(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Storing(nn.Module):
    """A layer between two poolings of one pixel, so that it reads and writes activations as a network stores them."""

    def __init__(self, layer: nn.Module, residual: bool = False) -> None:
        super().__init__()
        self.before, self.layer, self.after = nn.MaxPool2d(1), layer, nn.MaxPool2d(1)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        y = self.before(x)
        return self.after(y + self.layer(y) if self.residual else self.layer(y))


def chain() -> nn.Module:
    """Sixteen 3x3 convolutions: those of a ResNet-18 on 32x32 images, without its shortcuts."""
    layers: list[nn.Module] = []
    channels = 64
    for outputs in (64, 128, 256, 512):
        for _ in range(4):
            stride = 1 if outputs == channels else 2
            layers += [nn.Conv2d(channels, outputs, 3, stride, 1), nn.ReLU()]
            channels = outputs
    return nn.Sequential(*layers)


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, channels: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


def resnet18(channels: int = 3, n_classes: int = 10) -> nn.Module:
    """The residual network of 18 layers for 32x32 images [He et al., CVPR 2016, section 4.2 with table 1's widths]."""
    layers = [nn.Conv2d(channels, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    before = 64
    for width in (64, 128, 256, 512):
        layers += [Block(before, width, 1 if width == before else 2), Block(width, width, 1)]
        before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, n_classes))
