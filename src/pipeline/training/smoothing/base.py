"""What a smoothing can do to a training step."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Self

import numpy as np
from annotated_types import Ge
from torch import Tensor

from pipeline.options import require_bounds

# The raw images and targets of the micro-batch of the same number some steps ago; None before the first step.
Former = Callable[[int], tuple[Tensor, Tensor] | None]


@dataclass(frozen=True, kw_only=True)
class Smoothing:
    """A change of the objective that makes it smoother; the methods of this base class change nothing.

    Subclasses are frozen dataclasses with a `name` that override `blend`, `displace`, `averages`, or both `explore` and
    `climb`. Smoothings compose: images and targets pass through all in order, displacements add up. Random generators
    are keyed by step and micro-batch, so results do not depend on the process that computes them.

    Attributes:
        full_steps: Smallest number of steps of a run at full strength. In shorter runs the strength falls in
            proportion, since few steps leave no time to overcome the bias of smoothing; 0: it never falls.
    """

    name: ClassVar[str]  # its name in studies
    STRENGTH: ClassVar[str]  # the field that the number of steps scales
    EXPLORES: ClassVar[bool] = False  # whether `explore` and `climb` are called, at the cost of a pass

    full_steps: Annotated[int, Ge(0)] = 0

    def __post_init__(self) -> None:
        require_bounds(self)

    def within(self, n_steps: int) -> Self:
        """Return the smoothing with its strength in a run of `n_steps` steps."""
        if n_steps >= self.full_steps:
            return self
        change: dict[str, Any] = {self.STRENGTH: getattr(self, self.STRENGTH) * n_steps / self.full_steps}
        return replace(self, **change, full_steps=0)

    def blend(
        self, images: Tensor, targets: Tensor, rng: np.random.Generator, former: Former
    ) -> tuple[Tensor, Tensor]:
        """Change one micro-batch: images of shape (n, c, h, w) and class probabilities of shape (n,
        n_classes)."""
        return images, targets

    def displace(
        self, weights: Mapping[str, Tensor], rng: np.random.Generator, *, sign: int, done: float
    ) -> dict[str, Tensor]:
        """Return the displacements of the weights for one micro-batch; weights that stay may be missing.

        Args:
            weights: All trained parameters by name; not to be changed.
            rng: The same for both micro-batches of a pair.
            sign: +1 for the first micro-batch of a pair, -1 for the second.
            done: The part of training that is done, in [0, 1).
        """
        return {}

    def explore(self, losses: Tensor, rng: np.random.Generator) -> Tensor:
        """Return the scalar that a first pass differentiates, from the losses of a micro-batch, shape (n,)."""
        return losses.mean()

    def climb(self, weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the displacements of the weights, from the gradients of a first pass."""
        return {}

    def averages(self, done: float) -> bool:
        """Whether the weights after a step belong to the mean that training ends with; `done` in (0, 1] is the
        part of training that is done after it."""
        return False


def norm_of(tensors: Mapping[str, Tensor]) -> Tensor:
    """Return the 2-norm of all entries together, a scalar."""
    squares = [(t.abs() if t.is_complex() else t).square().sum() for t in tensors.values()]
    return sum(squares, start=squares[0].new_zeros(())).sqrt()
