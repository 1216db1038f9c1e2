"""EfficientNet-Lite0, whose trained weights a package carries (see `packaged`).

References:
    Tan, Le, "EfficientNet: rethinking model scaling for convolutional neural networks", ICML 2019, table 1.
"""

from torch import Tensor, nn
from torch.nn import functional


class Same(nn.Module):
    """TensorFlow's "same" padding, with an odd pixel at the end: a stride of s gives ceil(size / s) outputs."""

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (
            max((-(-size // self.stride) - 1) * self.stride + self.kernel - size, 0) for size in x.shape[2:]
        )
        return functional.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))


class InvertedBottleneck(nn.Module):
    """Convolutions: 1 x 1 to more channels, depthwise, 1 x 1 to fewer; a shortcut if the shapes agree."""

    def __init__(self, channels: int, outputs: int, factor: int, kernel: int, stride: int) -> None:
        super().__init__()
        inner = channels * factor
        self.expands, self.adds = factor > 1, stride == 1 and channels == outputs
        if self.expands:
            self._expand_conv = nn.Conv2d(channels, inner, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(inner, eps=1e-3)
        self.pad = Same(kernel, stride)
        self._depthwise_conv = nn.Conv2d(inner, inner, kernel, stride, groups=inner, bias=False)
        self._bn1 = nn.BatchNorm2d(inner, eps=1e-3)
        self._project_conv = nn.Conv2d(inner, outputs, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = functional.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = functional.relu6(self._bn1(self._depthwise_conv(self.pad(y))))
        y = self._bn2(self._project_conv(y))
        return x + y if self.adds else y


class EfficientNetLite0(nn.Module):
    """EfficientNet-B0 without squeeze and excitation, with ReLU6; parameters are named as in the trained weights."""

    # Expansion factor, output channels, kernel size, stride of the first block, number of blocks.
    BLOCKS = (
        (1, 16, 3, 1, 1),
        (6, 24, 3, 2, 2),
        (6, 40, 5, 2, 2),
        (6, 80, 3, 2, 3),
        (6, 112, 5, 1, 3),
        (6, 192, 5, 2, 4),
        (6, 320, 3, 1, 1),
    )

    def __init__(self) -> None:
        super().__init__()
        self.pad = Same(3, 2)
        self._conv_stem = nn.Conv2d(3, 32, 3, 2, bias=False)
        self._bn0 = nn.BatchNorm2d(32, eps=1e-3)
        blocks, channels = [], 32
        for factor, outputs, kernel, stride, n in self.BLOCKS:
            for place in range(n):
                blocks.append(InvertedBottleneck(channels, outputs, factor, kernel, 1 if place else stride))
                channels = outputs
        self._blocks = nn.Sequential(*blocks)
        self._conv_head = nn.Conv2d(channels, 1280, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(1280, eps=1e-3)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu6(self._bn0(self._conv_stem(self.pad(x))))
        x = functional.relu6(self._bn1(self._conv_head(self._blocks(x))))
        return self._fc(x.mean((2, 3)))  # type: ignore[no-any-return]
