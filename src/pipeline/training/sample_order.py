"""Which dimension of a layer's inputs holds the samples: the first; the second, after the steps; or none."""

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn

from pipeline.training.structures import LookUp, Structure

Arrange = Callable[[Tensor], Tensor]


def arrangement(
    structure: Structure,
    x: Tensor,
    *,
    n_rows: int | None,
    n_samples: int | None,
    steps_first: bool,
    always: bool = False,
) -> tuple[Arrange, bool]:
    """Find the function that brings samples first, and whether they are then certain to come first.

    Args:
        structure: The structure of the layer.
        x: The layer's inputs.
        n_rows: Length of the network's inputs, mostly the number of samples; None if it is not known.
        n_samples: The number of samples if inputs are known to have steps before samples, else None.
        steps_first: Whether the network has layers whose inputs have steps before samples.
        always: Whether all of its layers that care have such inputs, so that with as many steps as samples the others'
            are taken to be of that order, too.

    Returns:
        The function, for inputs and output gradients, and whether the rows of its result are certain to be samples.
    """
    if n_samples is not None:
        return (partial(_unflattened, n=n_samples) if x.dim() == 2 else turned), True
    if x.dim() < structure.n_dimensions:
        return _single, True
    if n_rows is None or not structure.features_last:
        return as_is, True
    has_positions = x.dim() > structure.n_dimensions
    if has_positions and always and len(x) == x.shape[1] == n_rows:
        return turned, False
    if len(x) == n_rows:
        return as_is, not (has_positions and steps_first)
    likely = n_rows > 0 and (len(x) % n_rows != 0 or steps_first)
    if has_positions and x.shape[1] == n_rows and likely:
        return turned, len(x) % n_rows != 0
    return as_is, False


def lacks_samples(structure: Structure, x: Tensor, *, n_rows: int | None, shape: Sequence[int]) -> bool:
    """Whether a layer's inputs are the same for all samples, as positions, relative positions and learned queries are.

    The gradient at the layer's outputs is then a sum over the samples, from which those of single ones cannot be told.

    Args:
        structure: The structure of the layer.
        x: The layer's inputs.
        n_rows: Length of the network's inputs, mostly the number of samples; None if it is not known.
        shape: Shape of the network's inputs.
    """
    if n_rows is None or n_rows < 2:
        return False
    if isinstance(x, nn.Parameter) or isinstance(x._base, nn.Parameter):
        return x.stride(0) != 0 or len(x) != n_rows  # an expanded one has a copy for each sample
    if not isinstance(structure, LookUp) or x.is_floating_point():
        return False
    steps = set(shape[:2]) - {n_rows}
    same_for_all = x.dim() == 1 or (x.dim() == 2 and x.shape[0] == x.shape[1])
    return x.numel() % n_rows != 0 or (same_for_all and len(x) in steps) or (x.dim() > 1 and len(x) == 1)


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
