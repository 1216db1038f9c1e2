"""Weight average: end with the mean of the weights of the last steps."""

from dataclasses import dataclass
from typing import ClassVar

from pipeline.options import Share
from pipeline.training.smoothing.base import Smoothing


@dataclass(frozen=True)
class WeightAverage(Smoothing):
    """Let training end with the mean of the weights after the last steps, not with the last ones.

    Late steps wander about a minimum; their mean lies nearer to its middle [1] and, where they move along a
    valley whose walls differ in steepness, on the flatter side of it [2]. Training itself does not change; the mean
    costs one pass over the weights per step and one more copy of them. The learning rate may then stay higher for
    longer. Running statistics of batch normalization are averaged as weights are.

    Attributes:
        share: The part of all steps, the last ones, whose weights are averaged.

    References:
        [1] Polyak, Juditsky, "Acceleration of stochastic approximation by averaging", SICON 1992.
        [2] Izmailov, Podoprikhin, Garipov, Vetrov, Wilson, "Averaging weights leads to wider optima and better
            generalization", UAI 2018.
    """

    name: ClassVar[str] = "weight_average"
    STRENGTH: ClassVar[str] = "share"

    share: Share

    def averages(self, done: float) -> bool:
        # Rounding of 1 - share must not add a step.
        return done > 1 - self.share + 1e-9
