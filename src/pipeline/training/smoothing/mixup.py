"""Mixup: train on convex combinations of samples."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from pipeline.training.smoothing.base import Former, Smoothing


@dataclass(frozen=True)
class Mixup(Smoothing):
    """Mix every sample of a micro-batch with another one of it, images and targets alike [1].

    One weight per micro-batch is drawn from Beta(alpha, alpha): below one it favors nearly pure samples.

    References:
        [1] Zhang, Cisse, Dauphin, Lopez-Paz, "mixup: beyond empirical risk minimization", ICLR 2018.
    """

    STRENGTH: ClassVar[str] = "alpha"

    alpha: float

    def __post_init__(self) -> None:
        if not self.alpha > 0:
            raise ValueError(f"mixup needs alpha > 0, not {self.alpha}")

    def blend(
        self, images: Tensor, targets: Tensor, rng: np.random.Generator, former: Former
    ) -> tuple[Tensor, Tensor]:
        weight = float(rng.beta(self.alpha, self.alpha))
        partner = torch.from_numpy(rng.permutation(len(images))).to(images.device)
        return torch.lerp(images[partner], images, weight), torch.lerp(targets[partner], targets, weight)
