"""Lists of different lengths as rows of one array, and copies between host and device.

The host gets numbers of the device through `to_host` alone, which waits for the device.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Integers = NDArray[np.int64]

LARGEST = 2**25  # elements of a bucket's largest array
_WASTE = 1.2  # times the elements of its lists: what a bucket may be padded to
_SMALL = 2**16  # elements: below, padding costs less than another bucket


def to_device(values: NDArray[Any], device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(device)


def to_host(values: Tensor) -> NDArray[Any]:
    return np.asarray(values.cpu().numpy())


def ranges(start: NDArray[Any], counts: NDArray[Any], padding: int, width: int | None = None) -> Integers:
    """Return rows start[b], ..., start[b] + counts[b] - 1, padded to the longest or a given width."""
    step = np.arange(int(counts.max(initial=0)) if width is None else width, dtype=np.int64)
    return np.where(step < counts[:, None], start[:, None] + step, padding)


def chained(counts: NDArray[Any]) -> tuple[Integers, Integers]:
    """Return, for rows of lists one after the other, the list of each element and its place there.

    Args:
        counts: Shape (b, p), lengths of the lists of each row.

    Returns:
        Two arrays of shape (b, longest row); the list of padding is p, its place 0.
    """
    p, ends = counts.shape[1], counts.cumsum(axis=1)
    step = np.arange(int(ends[:, -1].max(initial=0)) if p else 0, dtype=np.int64)
    lists = np.zeros((len(counts), len(step)), np.int64)
    for i in range(p):
        lists += step >= ends[:, i, None]
    starts = np.concatenate([ends - counts, np.zeros((len(counts), 1), np.int64)], axis=1)
    places = np.where(lists < p, step - np.take_along_axis(starts, lists, axis=1), 0)
    return lists, places


def buckets(heights: NDArray[Any], widths: NDArray[Any]) -> Iterator[Integers]:
    """Divide arrays into buckets of similar sizes, the largest first.

    The arrays of a bucket, padded to the largest height and width, have at most `LARGEST` elements together.

    Args:
        heights: Height of each array, shape (b,); arrays are sorted by height first.
        widths: Width of each array, shape (b,).
    """
    order = np.lexsort((-widths, -heights))
    first, height, width, true = 0, 0, 0, 0
    for i, (h, w) in enumerate(zip(heights[order].tolist(), widths[order].tolist(), strict=True)):
        padded = max(height, h) * max(width, w) * (i + 1 - first)
        if i > first and (padded > max(_WASTE * (true + h * w), _SMALL) or padded > LARGEST):
            yield order[first:i]
            first, height, width, true = i, 0, 0, 0
        height, width, true = max(height, h), max(width, w), true + h * w
    if len(order):
        yield order[first:]
