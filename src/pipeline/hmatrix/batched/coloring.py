"""Colors of boxes: boxes of one color are eliminated at once."""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from pipeline.hmatrix.admissibility import Lists
from pipeline.hmatrix.batched.padding import Integers
from pipeline.hmatrix.cluster import ClusterTree


def near_of_level(tree: ClusterTree, near: Lists, level: int) -> csr_array:
    """Return the near boxes of a level, numbered from its first."""
    first, last = (int(tree.level_start[level + i]) for i in (0, 1))
    start = near.start[first : last + 1]
    columns = near.boxes[start[0] : start[-1]].astype(np.int64) - first
    shape = (last - first, last - first)
    return csr_array((np.ones(len(columns), np.int64), columns, start - start[0]), shape=shape)


def within_two_steps(near: csr_array) -> csr_array:
    """Return which pairs of boxes have a near box in common: an elimination may touch their block."""
    return csr_array(near @ near)


def colors(coupled: csr_array, present: NDArray[np.bool_]) -> list[Integers]:
    """Return boxes by color, such that no two of a color are coupled.

    Each box in turn takes the first color that none of its coupled boxes has: 13 colors for 4,096 boxes of the square,
    50 of the cube, one with weak admissibility.

    Args:
        coupled: Boxes that share a near box.
        present: Boxes to color.
    """
    found = np.full(len(present), -1)
    for b in np.flatnonzero(present):
        taken = set(found[coupled.indices[coupled.indptr[b] : coupled.indptr[b + 1]]].tolist())
        color = 0
        while color in taken:
            color += 1
        found[b] = color
    return [np.flatnonzero(found == color) for color in range(int(found.max(initial=-1)) + 1)]
