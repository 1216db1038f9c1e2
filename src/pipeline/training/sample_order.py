"""Where the samples stand among the inputs of a layer: mostly first, after the steps of a sequence, or nobody knows."""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from pipeline.training.structures import Structure

Arrange = Callable[[Tensor], Tensor]


def arrangement(
    structure: Structure, x: Tensor, *, n_rows: int | None, n_samples: int | None, steps_first: bool
) -> tuple[Arrange, bool]:
    """Tell how to bring samples first, and whether it is certain that they then come first.

    Args:
        structure: The layer's.
        x: The layer's inputs.
        n_rows: Length of the network's inputs, mostly the number of samples; None if it is not known.
        n_samples: The number of samples, where steps are known to come before them.
        steps_first: Whether there are layers in the network that take steps before samples.

    Returns:
        A function for inputs and gradients at outputs, and whether the first so many of its rows are samples.
    """
    if n_samples is not None:
        return (partial(_unflattened, n=n_samples) if x.dim() == 2 else turned), True
    if x.dim() < structure.n_dimensions:
        return _single, True
    if n_rows is None or not structure.features_last:
        return as_is, True
    has_positions = x.dim() > structure.n_dimensions
    if len(x) == n_rows:
        return as_is, not (has_positions and steps_first)
    likely = n_rows > 0 and (len(x) % n_rows != 0 or steps_first)
    if has_positions and x.shape[1] == n_rows and likely:
        return turned, len(x) % n_rows != 0
    return as_is, False


def as_is(t: Tensor) -> Tensor:
    return t


def _single(t: Tensor) -> Tensor:
    """One sample without a dimension of its own."""
    return t[None]


def turned(t: Tensor) -> Tensor:
    """Positions came before samples."""
    return t.transpose(0, 1)


def _unflattened(t: Tensor, n: int) -> Tensor:
    """Positions came before samples, all in one dimension."""
    return t.reshape(-1, n, t.shape[-1]).transpose(0, 1)
