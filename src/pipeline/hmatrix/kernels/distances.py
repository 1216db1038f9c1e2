"""Distances between two point sets, exact where points are close.

The familiar |x|² + |y|² - 2 x·y loses all digits of a small distance; here coordinates are subtracted
first, and divided by a length only then, so that a distance has full relative accuracy however far from the
origin the points lie, is the same both ways, and is exactly 0 between equal points.
"""

import torch
from torch import Tensor

from pipeline.options import Positive

_FEW_DIMENSIONS = 4  # up to here one pass per coordinate is faster than torch.cdist

LengthScale = Positive | tuple[Positive, ...]


def squared_distances(targets: Tensor, sources: Tensor, lengths: LengthScale = 1.0) -> Tensor:
    """Return |(x - y)/lengths|² for points of shapes (..., m, d) and (..., n, d), shape (..., m, n).

    Args:
        targets: Points x.
        sources: Points y.
        lengths: The unit of length, one for all coordinates or one for each.
    """
    dimension = _dimension(targets, sources, lengths)
    if dimension > _FEW_DIMENSIONS:
        return distances(targets, sources, lengths).square_()
    # Rows of one coordinate are contiguous in the transposed copies: ten times faster than strided reads.
    x, y = targets.mT.contiguous(), sources.mT.contiguous()
    total = _difference(x, y, 0, lengths).square_()
    for k in range(1, dimension):
        difference = _difference(x, y, k, lengths)
        total.addcmul_(difference, difference)
    return total


def distances(targets: Tensor, sources: Tensor, lengths: LengthScale = 1.0) -> Tensor:
    """Return |(x - y)/lengths| for points of shapes (..., m, d) and (..., n, d), shape (..., m, n)."""
    if _dimension(targets, sources, lengths) <= _FEW_DIMENSIONS:
        return squared_distances(targets, sources, lengths).sqrt_()
    # Here coordinates are divided before they are subtracted, which needs the digits of double precision.
    x, y = (_divided(points.double(), lengths) for points in (targets, sources))
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").to(targets.dtype)


def _dimension(targets: Tensor, sources: Tensor, lengths: LengthScale) -> int:
    """Return how many coordinates the points have."""
    dimension = targets.shape[-1]
    if sources.shape[-1] != dimension:
        raise ValueError(
            f"points of {dimension} and {sources.shape[-1]} coordinates have no distance from each other"
        )
    if isinstance(lengths, tuple) and len(lengths) != dimension:
        raise ValueError(f"{len(lengths)} length scales do not fit points of {dimension} coordinates")
    return dimension


def _difference(x: Tensor, y: Tensor, k: int, lengths: LengthScale) -> Tensor:
    """Return (x - y)/length of coordinate k, for transposed points."""
    length = lengths[k] if isinstance(lengths, tuple) else lengths
    difference = x[..., k, :, None] - y[..., k, None, :]
    return difference if length == 1 else difference.div_(length)


def _divided(points: Tensor, lengths: LengthScale) -> Tensor:
    if isinstance(lengths, tuple):
        return points / torch.tensor(lengths, dtype=points.dtype, device=points.device)
    return points if lengths == 1 else points / lengths
