"""Random changes of training images that keep their classes.

They are drawn for each micro-batch from generators keyed by step and micro-batch, as smoothings are, so neither the
number of processes nor an interruption changes them. A new augmentation is a class and a row in `AUGMENTATIONS`.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Interval
from torch import Tensor
from torch.nn import functional

from pipeline.options import Count, Share
from pipeline.training.smoothing.base import Former, Smoothing


class Augmentation(Smoothing):
    """A change of images alone, at full strength whatever the number of steps."""

    def blend(
        self, images: Tensor, targets: Tensor, rng: np.random.Generator, former: Former
    ) -> tuple[Tensor, Tensor]:
        return self.change(images, rng), targets

    def change(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        """Return changed copies of images of shape (n, c, h, w)."""
        raise NotImplementedError


@dataclass(frozen=True)
class Crop(Augmentation):
    """Shift each image by up to `padding` pixels in each direction; gaps get the smallest pixel value of all images.

    Attributes:
        padding: Largest shift in each direction, in pixels.
    """

    name: ClassVar[str] = "crop"

    padding: Count

    def change(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        n, _, height, width = images.shape
        top, left = (torch.from_numpy(rng.integers(0, 2 * self.padding + 1, n)) for _ in range(2))
        padded = functional.pad(images, (self.padding,) * 4, value=float(images.amin()) if n else 0.0)
        rows = (top[:, None] + torch.arange(height)).to(images.device)
        columns = (left[:, None] + torch.arange(width)).to(images.device)
        sample = torch.arange(n, device=images.device)[:, None, None]
        # Indices around a slice put their own dimensions first: (n, h, w, c).
        return padded[sample, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


@dataclass(frozen=True)
class Flip(Augmentation):
    """Mirror each image left to right with probability one half."""

    name: ClassVar[str] = "flip"

    def change(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        flipped = torch.from_numpy(rng.random(len(images)) < 0.5).to(images.device)
        return torch.where(flipped[:, None, None, None], images.flip(3), images)


@dataclass(frozen=True)
class Erasing(Augmentation):
    """Overwrite a random rectangle of an image by Gaussian noise with the images' mean and standard deviation [1].

    Attributes:
        probability: Probability that a rectangle of an image is overwritten.
        largest: Largest share of the image's area that a rectangle covers; the smallest is 0.02.

    References:
        [1] Zhong, Zheng, Kang, Li, Yang, "Random erasing data augmentation", AAAI 2020, algorithm 1.
    """

    name: ClassVar[str] = "erasing"

    probability: Share = 0.5
    largest: Annotated[float, Interval(ge=0.02, le=1)] = 0.25

    def change(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        n, channels, height, width = images.shape
        erased = images.clone()
        mean, deviation = (float(images.mean()), float(images.std(correction=0))) if n else (0.0, 1.0)
        for i in np.flatnonzero(rng.random(n) < self.probability):
            area = rng.uniform(0.02, self.largest) * height * width
            ratio = np.exp(rng.uniform(np.log(0.3), np.log(1 / 0.3)))
            h = min(height, max(1, round(float(np.sqrt(area * ratio)))))
            w = min(width, max(1, round(float(np.sqrt(area / ratio)))))
            top, left = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
            noise = rng.normal(mean, deviation, (channels, h, w))
            erased[i, :, top : top + h, left : left + w] = torch.from_numpy(noise).to(images)
        return erased


AUGMENTATIONS: dict[str, type[Augmentation]] = {kind.name: kind for kind in (Crop, Flip, Erasing)}
