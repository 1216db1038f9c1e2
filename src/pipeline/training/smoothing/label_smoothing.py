"""Label smoothing: be a little unsure of every label."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Interval
from torch import Tensor

from pipeline.training.smoothing.base import Former, Smoothing


@dataclass(frozen=True)
class LabelSmoothing(Smoothing):
    """Replace targets p by (1 - amount) p + amount / n_classes [1, section 7].

    Attributes:
        amount: The part of every label that is spread over all classes.

    References:
        [1] Szegedy, Vanhoucke, Ioffe, Shlens, Wojna, "Rethinking the Inception architecture", CVPR 2016.
    """

    name: ClassVar[str] = "label_smoothing"
    STRENGTH: ClassVar[str] = "amount"

    amount: Annotated[float, Interval(gt=0, lt=1)]

    def blend(
        self, images: Tensor, targets: Tensor, rng: np.random.Generator, former: Former
    ) -> tuple[Tensor, Tensor]:
        return images, (1 - self.amount) * targets + self.amount / targets.shape[1]
