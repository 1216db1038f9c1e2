"""How the rate changes during training: a linear warm-up, then one of these decays."""

import math
from dataclasses import dataclass
from typing import ClassVar

from pipeline.options import Positive, require_bounds


@dataclass(frozen=True)
class Schedule:
    """A decay: maps the part of training that is done, in [0, 1], to the part of the rate that is left."""

    name: ClassVar[str]

    def __post_init__(self) -> None:
        require_bounds(self)

    def __call__(self, done: float) -> float:
        raise NotImplementedError


@dataclass(frozen=True)
class Constant(Schedule):
    """No decay."""

    name: ClassVar[str] = "constant"

    def __call__(self, done: float) -> float:
        return 1.0


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine wave from one to zero."""

    name: ClassVar[str] = "cosine"

    def __call__(self, done: float) -> float:
        return 0.5 * (1 + math.cos(math.pi * done))


@dataclass(frozen=True)
class Polynomial(Schedule):
    """A power of the part of training that is left.

    Attributes:
        power: The exponent; 1 is linear.
    """

    name: ClassVar[str] = "polynomial"

    power: Positive = 2.0

    def __call__(self, done: float) -> float:
        return float((1 - done) ** self.power)


SCHEDULES: dict[str, type[Schedule]] = {kind.name: kind for kind in (Cosine, Polynomial, Constant)}


def learning_rate(step: int, n_steps: int, *, peak: float, n_warmup: int, schedule: Schedule) -> float:
    """Return the rate of step `step` (from 0) of `n_steps`.

    The warm-up rises linearly over its `n_warmup` steps and reaches `peak` in the last of them; the decay
    starts at `peak` right after and would end in step `n_steps`, so no step has rate zero.
    """
    if step < n_warmup:
        return peak * (step + 1) / n_warmup
    return peak * schedule((step - n_warmup) / max(1, n_steps - n_warmup))


def coupled_momentum(lr: float, *, momentum: float, peak: float) -> float:
    """Return the momentum that falls in proportion to the rate [1, section 5.2].

    Late small steps then do not continue in the direction of early large ones.

    References:
        [1] Osawa, Tsuji, Ueno, Naruse, Yokota, Matsuoka, "Large-scale distributed second-order optimization using
            Kronecker-factored approximate curvature for deep convolutional neural networks", CVPR 2019.
    """
    return momentum * lr / peak
