"""Which samples a step sees: epochs cut into batches, batches into micro-batches, micro-batches dealt to
processes.

Only the dealing depends on the number of processes.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from pipeline.training.mapped import MappedImages
from pipeline.training.randomness import Purpose, generator


@dataclass(frozen=True)
class Samples:
    """Labelled images.

    Attributes:
        images: Shape (n, c, h, w), normalized, floating point; or `MappedImages`, which yield such tensors when
            indexed.
        labels: Shape (n,), int64, from 0.
    """

    images: Tensor | MappedImages
    labels: Tensor

    def __post_init__(self) -> None:
        if len(self.images) != len(self.labels):
            raise ValueError(f"{len(self.images)} images have {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, chosen: Tensor | slice) -> "Samples":
        return Samples(self.images[chosen], self.labels[chosen])


def n_pieces(n: int, size: int) -> int:
    """Return the smallest number of pieces of at most `size` that hold `n` things."""
    return -(-n // size)


def cut(n: int, pieces: int) -> list[slice]:
    """Cut 0..n into consecutive pieces whose sizes differ by at most one, so that none is a noisy stub."""
    return [slice(i * n // pieces, (i + 1) * n // pieces) for i in range(pieces)]


def epoch_order(n_samples: int, *, seed: int, epoch: int) -> Tensor:
    """Return the order in which an epoch visits the samples, shape (n_samples,)."""
    return torch.from_numpy(generator(seed, Purpose.ORDER, epoch).permutation(n_samples))


@dataclass(frozen=True)
class Batches:
    """Which samples each step of a run sees."""

    n_samples: int
    steps_per_epoch: int
    seed: int

    def __call__(self, step: int) -> Tensor:
        """Return the indices of the samples of a step (from 0), shape (batch size,)."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order = _kept_order(self.n_samples, self.seed, epoch)
        return order[cut(self.n_samples, self.steps_per_epoch)[position]]


# The epoch under way, and the one before for methods that look back.
@lru_cache(maxsize=4)
def _kept_order(n_samples: int, seed: int, epoch: int) -> Tensor:
    return epoch_order(n_samples, seed=seed, epoch=epoch)
