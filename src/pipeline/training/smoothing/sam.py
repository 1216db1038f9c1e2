"""Sharpness-aware minimization: take the gradient where the loss nearby is worst."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pipeline.options import Positive
from pipeline.training.smoothing.base import Smoothing, norm_of


@dataclass(frozen=True)
class SAM(Smoothing):
    """Pass each micro-batch through weights moved uphill by a distance `rho` [1, equation 2].

    Each micro-batch climbs its own slope, which smooths more than a common one and needs no message; it costs
    a second pass. If `adaptive`, distances are relative to each weight's magnitude, so that they do not depend on how a
    network is scaled [2, equation 8].

    Attributes:
        rho: Distance that each micro-batch climbs, in the 2-norm of all weights.
        adaptive: Whether distances are relative to the magnitude of each weight.

    References:
        [1] Foret, Kleiner, Mobahi, Neyshabur, "Sharpness-aware minimization for efficiently improving
            generalization", ICLR 2021.
        [2] Kwon, Kim, Park, Choi, "ASAM: adaptive sharpness-aware minimization", ICML 2021.
    """

    name: ClassVar[str] = "sam"
    STRENGTH: ClassVar[str] = "rho"
    EXPLORES: ClassVar[bool] = True

    rho: Positive
    adaptive: bool = False

    @torch.no_grad()
    def climb(self, weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if self.adaptive:
            scaled = {name: weights[name].abs() * g for name, g in gradients.items()}
            length = norm_of(scaled).clamp_min(1e-12)
            return {name: weights[name].abs() * g * (self.rho / length) for name, g in scaled.items()}
        length = norm_of(gradients).clamp_min(1e-12)
        return {name: g * (self.rho / length) for name, g in gradients.items()}
