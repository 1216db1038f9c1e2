"""Running mixup: mix each batch with the mixtures of the batches before."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from pipeline.options import Count, Positive
from pipeline.training.smoothing.base import Former, Smoothing


@dataclass(frozen=True)
class RunningMixup(Smoothing):
    """Mix every micro-batch with the already mixed one of the step before [1, section 6.1].

    z_t = w_t x_t + (1 - w_t) z_(t-1), w_t ~ max(b, 1 - b) with b ~ Beta(alpha, alpha), images and targets
    alike. So each result mixes samples of several steps, and the current sample always has the largest weight. Instead
    of keeping z, which would be part of every checkpoint, the recursion is unrolled `depth` steps with weights drawn
    afresh: the distribution is the same up to a remainder of at most 2^-depth. Former samples are taken as they are in
    the data, so this smoothing comes first where several are combined.

    Attributes:
        alpha: Parameter of the Beta distribution of the weights; values below one favor nearly pure samples.
        depth: How many former steps take part.

    References:
        [1] Osawa, Tsuji, Ueno, Naruse, Foo, Yokota, "Scalable and practical natural gradient for large-scale
            deep learning", TPAMI 2022.
    """

    name: ClassVar[str] = "running_mixup"
    STRENGTH: ClassVar[str] = "alpha"

    alpha: Positive
    depth: Count = 3

    def blend(
        self, images: Tensor, targets: Tensor, rng: np.random.Generator, former: Former
    ) -> tuple[Tensor, Tensor]:
        weights = rng.beta(self.alpha, self.alpha, self.depth)
        weights = np.maximum(weights, 1 - weights)
        chain = [(images, targets)]
        for age in range(1, self.depth + 1):
            older = former(age)
            if older is None or not len(older[0]):
                break
            # A former micro-batch may hold a sample more or less.
            rows = torch.arange(len(images), device=images.device) % len(older[0])
            chain.append((older[0][rows], older[1][rows]))
        x, y = chain.pop()
        for weight, (newer_x, newer_y) in zip(weights.tolist(), reversed(chain), strict=False):
            x, y = torch.lerp(x, newer_x, weight), torch.lerp(y, newer_y, weight)
        return x, y
