"""Gradient-noise convolution: average the loss over steps that small batches might have taken."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from pipeline.options import Positive
from pipeline.training.smoothing.base import Smoothing, norm_of


@dataclass(frozen=True)
class GradientNoise(Smoothing):
    """Pass each micro-batch through weights displaced along a random combination of its samples' gradients.

    Small batches smooth the loss by the noise of their gradients, which has the shape of their covariance rather than
    that of a ball [1]. Signs drawn for every sample give a displacement of that shape in one pass: the sum of s_i g_i
    with s_i = +-1 has mean zero and covariance sum g_i g_i'. (The original takes the noise of other processes'
    gradients of the step before; this one needs no memory and no second process.) Costs a second pass.

    Attributes:
        std: Norm of the displacement relative to that of all weights.

    References:
        [1] Haruki, Suzuki, Hamakawa, Toda, Sakai, Ozawa, Kimura, "Gradient noise convolution (GNC): smoothing
            loss function for distributed large-batch SGD", 2019, arXiv:1906.10822.
    """

    name: ClassVar[str] = "gradient_noise"
    STRENGTH: ClassVar[str] = "std"
    EXPLORES: ClassVar[bool] = True

    std: Positive

    def explore(self, losses: Tensor, rng: np.random.Generator) -> Tensor:
        signs = torch.from_numpy(rng.choice((-1.0, 1.0), len(losses))).to(losses)
        return (signs * losses).mean()

    @torch.no_grad()
    def climb(self, weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        scale = self.std * norm_of(weights) / norm_of(gradients).clamp_min(1e-12)
        return {name: g * scale for name, g in gradients.items()}
