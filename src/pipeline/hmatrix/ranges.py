"""Which part owns which boxes of a level: ranges whose work is in proportion to the parts' speeds.

Work is foretold from near lists alone. Eliminating a box updates the blocks between any two of its near boxes, so that
its work grows as the square of the unknowns that these have left. A part does so for its own boxes, and for those of
others as far as blocks of its own boxes are concerned: seams weigh the more the fewer boxes a part has.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from pipeline.hmatrix.admissibility import Lists
from pipeline.hmatrix.cluster import ClusterTree, Ints

FEW = 12  # boxes of a slow part; with fewer, the others wait longer at its seams than its work is worth
LITTLE = 1 / 8  # of all speed; parts that have less together make others wait for longer than they help
LEAST = 4  # boxes of a part; with fewer, boxes of several parts go to one of them
_KEPT = 0.4  # of its unknowns a box keeps as skeletons
_HALF = (1 + _KEPT) / 2  # is left on average of a box that goes before or after another
_ALONE = 8.0  # what compressing a leaf is worth, beside half the square of its near boxes' unknowns, counted in boxes
_ALONE_ABOVE = 1.0  # the same of a larger box
_UPDATE = 0.7  # of the rest is updating blocks; what remains is the owner's
_ROUNDS = 4  # of moving cuts; the best is kept


@dataclass(frozen=True, eq=False)
class Boxes:
    """The boxes of a level, numbered from its first.

    Attributes:
        near: The near boxes of each box: entries of a matrix of all the level's boxes.
        alone: Work of a box that does not depend on its near boxes.
    """

    near: csr_array
    alone: float

    @classmethod
    def of(cls, tree: ClusterTree, near: Lists, level: int) -> "Boxes":
        """Take those of a level."""
        first, last = int(tree.level_start[level]), int(tree.level_start[level + 1])
        start = near.start[first : last + 1]
        columns = near.boxes[start[0] : start[-1]].astype(np.int64) - first
        ones = np.ones(len(columns), np.int32)
        matrix = csr_array((ones, columns, start - start[0]), shape=(last - first,) * 2)
        return cls(matrix, _ALONE if level == tree.n_levels - 1 else _ALONE_ABOVE)

    def __len__(self) -> int:
        return int(self.near.shape[0])

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """The box of each entry of `near`."""
        return np.repeat(np.arange(len(self)), np.diff(self.near.indptr))

    def left(self, turn: Ints) -> NDArray[np.float64]:
        """Return what is left of near boxes when each box is eliminated in its turn, for each entry of `near`."""
        return np.where(turn[self.near.indices] <= turn[self.rows], _KEPT, 1.0)

    def left_with_seams_last(self, owner: Ints) -> NDArray[np.float64]:
        """Return the same where each part eliminates interior boxes first; seams of two parts go half and half."""
        other = owner[self.near.indices] != owner[self.rows]
        on_seam = np.bincount(self.rows, other, minlength=len(self)) > 0
        turn = np.arange(len(self)) + len(self) * on_seam
        return np.where(other, _HALF, self.left(turn))


@dataclass(frozen=True, eq=False)
class PartsWork:
    """What parts do on a level.

    Attributes:
        own: Shape (boxes,), eliminating each box.
        boxes, parts, applied: Boxes of others whose updates a part applies, the part, and the work of it.
    """

    own: NDArray[np.float64]
    boxes: Ints
    parts: Ints
    applied: NDArray[np.float64]

    @classmethod
    def of(cls, level: Boxes, owner: Ints, n_parts: int, left: NDArray[np.float64]) -> "PartsWork":
        """Foretell the work.

        Args:
            level: The boxes.
            owner: Shape (boxes,), each box's part.
            n_parts: How many parts there are.
            left: What is left of near boxes when each box is eliminated, for each entry of `level.near`.
        """
        near = level.near
        owning = csr_array(
            (np.ones(len(owner)), owner, np.arange(len(owner) + 1)), shape=(len(owner), n_parts)
        )
        found = csr_array(csr_array((left, near.indices, near.indptr), shape=near.shape) @ owning).tocoo()
        boxes, parts = found.coords
        unknowns = np.bincount(boxes, found.data, minlength=len(owner))
        whole = unknowns**2 / 2
        touched = whole[boxes] - (unknowns[boxes] - found.data) ** 2 / 2
        mine = owner[boxes] == parts
        own = level.alone + (1 - _UPDATE) * whole
        own[boxes[mine]] += _UPDATE * touched[mine]
        return cls(own, boxes[~mine], parts[~mine], _UPDATE * touched[~mine])

    def of_parts(self, owner: Ints, n_parts: int) -> NDArray[np.float64]:
        """Return the work of each part, shape (parts,)."""
        own = np.bincount(owner, self.own, minlength=n_parts)
        return np.asarray(own + np.bincount(self.parts, self.applied, minlength=n_parts))


def cut(level: Boxes, speeds: NDArray[np.float64]) -> Ints:
    """Cut a level's boxes into ranges, shape (parts + 1,), so that all parts take about equally long.

    Args:
        level: The boxes.
        speeds: Shape (parts,), the parts' speeds beside each other.
    """
    n_boxes, n_parts = len(level), len(speeds)
    working = at_work(n_boxes, speeds)
    wanted = working / working.sum()
    weights = PartsWork.of(level, np.zeros(n_boxes, np.int32), 1, np.full(level.near.nnz, _HALF)).own
    shares, least, best = wanted, np.inf, np.zeros(n_parts + 1, np.int32)
    for _ in range(_ROUNDS if np.count_nonzero(working) > 1 and n_boxes else 1):
        cuts = _in_shares(weights, shares)
        owner = np.repeat(np.arange(n_parts, dtype=np.int32), np.diff(cuts))
        work = PartsWork.of(level, owner, n_parts, level.left_with_seams_last(owner)).of_parts(owner, n_parts)
        longest = float((work[working > 0] / working[working > 0]).max())
        if longest < least:
            least, best = longest, cuts
        shares = np.maximum(shares + (wanted * work.sum() - work) / max(weights.sum(), 1.0), 0.0)
        shares = np.where(working > 0, shares, 0.0)
    return best


def at_work(n_boxes: int, speeds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the speeds of the parts that own boxes of a level, and zeros for those that own none.

    Where parts would own fewer than `LEAST` boxes on average, the fastest of every two owns those of both, and so on:
    levels near the top belong to few parts. Parts of less than half the greatest speed own none where they would own
    fewer than `FEW`, or where all of them together have less than `LITTLE` of all speed.
    """
    n_parts, stride = len(speeds), 1
    slow, shares = speeds < speeds.max() / 2, speeds / speeds.sum()
    idle = slow & ((shares * n_boxes < FEW) | (shares[slow].sum() < LITTLE))
    speeds = np.where(idle, 0.0, speeds)
    while stride < n_parts and n_boxes < LEAST * -(-n_parts // stride):
        stride *= 2
    working = np.zeros(n_parts)
    for first in range(0, n_parts, stride):
        fastest = first + int(np.argmax(speeds[first : first + stride]))
        working[fastest] = speeds[fastest]
    return working


def range_edges(tree: ClusterTree, first: int, cuts: Ints) -> NDArray[np.int64]:
    """Return the place in tree order at which each range of a level's boxes starts, shape (len(cuts),).

    Args:
        tree: The boxes.
        first: The level's first box.
        cuts: Where the ranges start, from the level's first box; the number of the level's boxes at their end.
    """
    n_points = int(tree.stop.max(initial=0))
    return np.append(tree.start, n_points)[np.where(cuts == cuts[-1], len(tree.start), first + cuts)].astype(
        np.int64
    )


def _in_shares(weights: NDArray[np.float64], shares: NDArray[np.float64]) -> Ints:
    """Cut boxes of these weights into ranges in proportion to shares."""
    ends = np.concatenate([[0.0], np.cumsum(shares)])
    ends *= weights.sum() / ends[-1]
    middles = np.cumsum(weights) - weights / 2
    cuts = np.searchsorted(middles, ends).astype(np.int32)
    cuts[ends >= ends[-1]] = len(weights)
    return cuts
