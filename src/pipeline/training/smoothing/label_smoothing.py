"""Label smoothing: be a little unsure of every label."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from pipeline.training.smoothing.base import Former, Smoothing


@dataclass(frozen=True)
class LabelSmoothing(Smoothing):
    """Replace targets p by (1 - amount) p + amount / n_classes [1, section 7].

    References:
        [1] Szegedy, Vanhoucke, Ioffe, Shlens, Wojna, "Rethinking the Inception architecture", CVPR 2016.
    """

    STRENGTH: ClassVar[str] = "amount"

    amount: float

    def __post_init__(self) -> None:
        if not 0 <= self.amount < 1:
            raise ValueError(f"label smoothing needs an amount in [0, 1), not {self.amount}")

    def blend(
        self, images: Tensor, targets: Tensor, rng: np.random.Generator, former: Former
    ) -> tuple[Tensor, Tensor]:
        return images, (1 - self.amount) * targets + self.amount / targets.shape[1]
