"""Where the numbers of a tensor lie in the result of a layer.

A result is kept as rows of channels, whatever shape the network gives it. Reshaping, transposing, slicing, padding with
zeros and the like only choose among its numbers. So a tensor is a result and an index of places in it, and such an
operator is traced by running it on the index. Only where a layer needs its numbers in another order is a `gather` layer
made of the index.
"""

import functools
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

ZERO = -1  # the place of a number that padding added


@dataclass(frozen=True, eq=False)
class View:
    """A tensor made of a layer's result.

    Attributes:
        source: The layer's name, or `INPUT`.
        n_source: How many numbers its result has per sample.
        index: The place of each number, int64 of the tensor's shape with the sample as first dimension; -1 for zero.
        factor: Factor by which the numbers are still to be multiplied.
    """

    source: str
    n_source: int
    index: Tensor
    factor: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.index.shape)

    def moved(self, index: Tensor) -> "View":
        """A view of the same numbers at other places."""
        return replace(self, index=index)

    @functools.cached_property
    def is_whole(self) -> bool:
        """Whether every number of the result occurs exactly once."""
        return self.index.numel() == self.n_source and self.order is not None

    @functools.cached_property
    def order(self) -> Tensor | None:
        """Return the place in the tensor of each number of the result; None unless each occurs exactly once."""
        flat = self.index.flatten()
        if flat.numel() != self.n_source or (flat.numel() and int(flat.min()) < 0):
            return None
        order = torch.full((self.n_source,), ZERO)
        order[flat] = torch.arange(self.n_source)
        return None if (order == ZERO).any() else order


@functools.lru_cache(maxsize=64)
def natural(shape: tuple[int, ...]) -> Tensor:
    """The index of a result that lies as layers leave it: images channels last, others in rows.

    Args:
        shape: (channels, rows, columns) or another, without the sample's dimension, which the index has in front.
    """
    n = math.prod(shape)
    if len(shape) != 3:
        return torch.arange(n).view(1, *shape)
    channels, rows, columns = shape
    return torch.arange(n).view(1, rows, columns, channels).permute(0, 3, 1, 2)


def resting(index: Tensor) -> tuple[tuple[int, ...], Tensor]:
    """Return the layer's shape and the index of a new result: images channels last, others in rows."""
    if index.ndim == 4 and index.shape[0] == 1:
        shape = tuple(index.shape[1:])
        return shape, natural(shape)
    return (index.numel(),), torch.arange(index.numel()).view(index.shape)


def rows_of(index: Tensor) -> tuple[int, int]:
    """How many rows a tensor's last dimension makes, and how long they are."""
    width = index.shape[-1]
    return (index.numel() // width if width else 0), width


def is_natural(view: View, index: Tensor) -> bool:
    """Whether the view's numbers lie where `index` wants them, and are all of the result."""
    return view.n_source == index.numel() == view.index.numel() and torch.equal(
        view.index.reshape(index.shape) if view.index.shape != index.shape else view.index, index
    )


def strides_of(view: View) -> tuple[Tensor, int, int] | None:
    """The offsets (n,) of a tensor's last two dimensions, and its strides, if it lies in such a way.

    Number (b, m, k) is then at offset b + m * row stride + k * column stride.
    """
    index = view.index.reshape(-1, *view.index.shape[-2:])
    _, rows, columns = index.shape
    row = int(index[0, 1, 0] - index[0, 0, 0]) if rows > 1 else 0
    column = int(index[0, 0, 1] - index[0, 0, 0]) if columns > 1 else 0
    offsets = index[:, 0, 0]
    wanted = (
        offsets.view(-1, 1, 1)
        + torch.arange(rows).view(1, -1, 1) * row
        + torch.arange(columns).view(1, 1, -1) * column
    )
    return (offsets, row, column) if int(index.min()) >= 0 and torch.equal(index, wanted) else None
