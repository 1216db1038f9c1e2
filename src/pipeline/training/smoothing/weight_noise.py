"""Weight noise: minimize the loss convolved with a Gaussian over the weights."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from pipeline.options import Positive
from pipeline.training.smoothing.base import Smoothing


@dataclass(frozen=True)
class WeightNoise(Smoothing):
    """Pass each micro-batch through weights displaced by Gaussian noise.

    The expected gradient is that of E[L(w + e)], e ~ N(0, s^2 I): for a quadratic loss the curvature is
    untouched and only the noise of the gradient grows, for others sharp minima are filled up. The noise of
    a weight matrix has the deviation `std` times the root mean square of the matrix, so layers of all
    scales are treated alike; biases and normalizations stay. If `filter_wise`, each row (the weights of one output) has
    the deviation `std` times its own root mean square [1], so weak filters are not drowned.

    The two micro-batches of a pair take e and -e, wherever they are computed, so terms odd in e cancel without an extra
    pass. A last micro-batch without a partner takes e alone.

    Attributes:
        std: Standard deviation relative to the root mean square of each weight matrix.
        antithetic: Whether the micro-batches of a pair take opposite noise; if not, each has noise of its own.
        annealed: Whether the deviation falls to zero during training, as half a cosine wave.
        filter_wise: Whether noise is relative to each row of a weight matrix.

    References:
        [1] Li, Xu, Taylor, Studer, Goldstein, "Visualizing the loss landscape of neural nets", NeurIPS 2018.
    """

    name: ClassVar[str] = "weight_noise"
    STRENGTH: ClassVar[str] = "std"

    std: Positive
    antithetic: bool = True
    annealed: bool = False
    filter_wise: bool = False

    @torch.no_grad()
    def displace(
        self, weights: Mapping[str, Tensor], rng: np.random.Generator, *, sign: int, done: float
    ) -> dict[str, Tensor]:
        std = self.std * (0.5 * (1 + math.cos(math.pi * done)) if self.annealed else 1.0)
        if not self.antithetic and sign < 0:
            rng = rng.spawn(1)[0]
        factor = sign * std if self.antithetic else std
        displacement = {}
        for name, weight in weights.items():
            if weight.ndim > 1:
                parts = torch.view_as_real(weight) if weight.is_complex() else weight
                noise = torch.from_numpy(rng.standard_normal(parts.shape, dtype=np.float32)).to(parts)
                across = tuple(range(1, parts.ndim)) if self.filter_wise else tuple(range(parts.ndim))
                scale = parts.square().mean(dim=across, keepdim=True).sqrt()
                noise.mul_(factor * scale)
                displacement[name] = torch.view_as_complex(noise) if weight.is_complex() else noise
        return displacement
