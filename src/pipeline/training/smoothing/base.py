"""What a smoothing can do to a training step."""

from collections.abc import Mapping

import numpy as np
from torch import Tensor


class Smoothing:
    """A change to the objective that makes it smoother; each method here leaves it as it is.

    Subclasses are frozen dataclasses that override one method. Several compose: targets pass through all in
    order, displacements add up. Generators are keyed by position, so results do not depend on who computes
    them.
    """

    def blend(self, images: Tensor, targets: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Change one micro-batch: images of shape (n, c, h, w) and class probabilities of shape (n,
        n_classes)."""
        return images, targets

    def displace(
        self, weights: Mapping[str, Tensor], rng: np.random.Generator, *, sign: int, done: float
    ) -> dict[str, Tensor]:
        """Return what to add to the weights while one micro-batch is passed; weights that stay may be
        missing.

        Args:
            weights: All trained parameters by name; not to be changed.
            rng: The same for both micro-batches of a pair.
            sign: +1 for the first micro-batch of a pair, -1 for the second.
            done: The part of training that is done, in [0, 1).
        """
        return {}
