"""Mixup: train on convex combinations of samples."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from pipeline.options import Positive
from pipeline.training.smoothing.base import Former, Smoothing


@dataclass(frozen=True)
class Mixup(Smoothing):
    """Mix every sample of a micro-batch with another one, images and targets alike [1].

    One weight per micro-batch is drawn from Beta(alpha, alpha); alpha below one favors nearly pure samples.

    Attributes:
        alpha: Parameter of the Beta distribution of the weights.

    References:
        [1] Zhang, Cisse, Dauphin, Lopez-Paz, "mixup: beyond empirical risk minimization", ICLR 2018.
    """

    name: ClassVar[str] = "mixup"
    STRENGTH: ClassVar[str] = "alpha"

    alpha: Positive

    def blend(
        self, images: Tensor, targets: Tensor, rng: np.random.Generator, former: Former
    ) -> tuple[Tensor, Tensor]:
        weight = float(rng.beta(self.alpha, self.alpha))
        partner = torch.from_numpy(rng.permutation(len(images))).to(images.device)
        return torch.lerp(images[partner], images, weight), torch.lerp(targets[partner], targets, weight)
