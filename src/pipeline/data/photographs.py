"""Photographs that installed packages carry, for networks that were trained on photographs."""

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline.errors import ConfigError

PHOTOGRAPHS = (
    ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
    ("sklearn", "datasets/images/china.jpg"),
    ("sklearn", "datasets/images/flower.jpg"),
)


@cache
def photographs() -> tuple[Image.Image, ...]:
    """Read the photographs of matplotlib and scikit-learn: an officer, a palace, a flower.

    Raises:
        ConfigError: If a package is not installed, or its photograph cannot be read.
    """
    images = []
    for package, name in PHOTOGRAPHS:
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise ConfigError(
                f"photographs come with {package}, which is not installed; pip install {package}"
            )
        path = Path(spec.origin).parent / name
        try:
            with Image.open(path) as image:
                images.append(image.convert("RGB"))
        except OSError as error:
            raise ConfigError(
                f"{path}: not a readable photograph ({error}); install {package} again"
            ) from None
    return tuple(images)


def crops(images: Sequence[Image.Image], n: int, *, size: int, seed: int) -> Tensor:
    """Cut random squares from the images in turn, of .4 to 1 of the shorter side, each mirrored with probability 1/2.

    Args:
        images: The images to cut from.
        n: Number of squares.
        size: Pixels of a side, after resizing.
        seed: Seed of places, sizes and mirroring.

    Returns:
        Pixels of 0 to 255, uint8 of shape (n, 3, size, size).
    """
    generator = np.random.default_rng(seed)
    pixels = np.empty((n, size, size, 3), np.uint8)
    for place in range(n):
        image = images[place % len(images)]
        side = int(min(image.size) * generator.uniform(0.4, 1.0))
        left, top = (int(generator.integers(0, length - side + 1)) for length in image.size)
        box = (left, top, left + side, top + side)
        crop = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
        pixels[place] = np.asarray(
            crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if generator.random() < 0.5 else crop
        )
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
