"""Which part owns which boxes of a level: ranges whose work is proportional to the parts' speeds.

Work is predicted from near lists alone. Eliminating a box updates the blocks between any two of its near boxes, so the
work grows as the square of their remaining unknowns. A part applies the updates of its own boxes and, to the blocks of
its own boxes, those of other parts' boxes: the fewer boxes a part has, the more its seams weigh.

Each process plans for a range of boxes. Work is counted in whole numbers of a unit: sums are exact, and the plan does
not depend on the order of summation.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from pipeline.hmatrix.admissibility import Lists
from pipeline.hmatrix.cluster import ClusterTree, Ints
from pipeline.hmatrix.swap import Halo, Ids, gather, summed
from pipeline.runtime.communicator import Communicator, Serial

FEW = 12  # boxes of a slow part; with fewer, the others wait longer at its seams than its work is worth
LITTLE = 1 / 8  # of all speed; parts that have less together make others wait for longer than they help
LEAST = 4  # boxes of a part; with fewer, boxes of several parts go to one of them
_ALL, _KEPT = 10.0, 4.0  # unknowns of a box before and after it is eliminated, in tenths
_HALF = (_ALL + _KEPT) / 2  # unknowns left on average of a box that may come before or after another
_UPDATE = (
    7.0  # tenths of half the square of near boxes' unknowns: for updating blocks; the rest is the owner's
)
_UNIT = 2 * _ALL**2 * 10  # work: the square of one near box's unknowns, as it is counted
_ALONE = 8.0 * _UNIT  # work of compressing a leaf
_ALONE_ABOVE = 1.0 * _UNIT  # work of compressing a box above the leaves
_ROUNDS = 4  # rounds of moving cuts; the best is kept


@dataclass(frozen=True, eq=False)
class Boxes:
    """Boxes of a level that this process plans for, and the boxes around them.

    Attributes:
        near: Matrix of the known boxes whose entries mark near pairs, sorted in each row. Rows of boxes that are two
            near-steps from the planned ones are empty.
        alone: Work of a box that does not depend on its near boxes.
        numbers_on_level: Shape (known boxes,), their numbers from the level's first, sorted.
        n_boxes: Number of boxes of the level.
        planned: Places in `numbers_on_level` of the boxes that are planned for here, neighbors in the tree's order.
        communicator: The processes that plan for the level together, in the order of their boxes.
        around: Places in `numbers_on_level` of other processes' boxes that are near to a planned one.
        halo: Exchange with the processes that plan for the boxes around.
    """

    near: csr_array
    alone: float
    numbers_on_level: Ids
    n_boxes: int
    planned: slice
    communicator: Communicator = field(default_factory=Serial)
    around: Ids = field(default_factory=lambda: np.zeros(0, np.int64))
    halo: Halo = field(default_factory=lambda: Halo({}, {}))

    @classmethod
    def of(cls, tree: ClusterTree, near: Lists, level: int) -> "Boxes":
        """Plan for all boxes of a level."""
        first, last = int(tree.level_start[level]), int(tree.level_start[level + 1])
        start = near.start[first : last + 1]
        columns = near.boxes[start[0] : start[-1]].astype(np.int64) - first
        return cls.whole(rows_of(start - start[0], columns, last - first), alone_on(tree, level))

    @classmethod
    def whole(cls, near: csr_array, alone: float) -> "Boxes":
        """Plan for all boxes of a level, given their near boxes."""
        n = int(near.shape[0])
        return cls(near, alone, np.arange(n, dtype=np.int64), n, slice(0, n))

    @cached_property
    def rows(self) -> Ids:
        """The known box of each entry of `near`."""
        return np.repeat(np.arange(len(self.numbers_on_level)), np.diff(self.near.indptr))

    @property
    def entries(self) -> slice:
        """The entries of `near` in rows of planned boxes."""
        return slice(int(self.near.indptr[self.planned.start]), int(self.near.indptr[self.planned.stop]))

    def left(self, turn: NDArray[Any]) -> NDArray[np.float64]:
        """Return the unknowns left of near boxes when each box is eliminated in its turn, for each entry of `near`.

        Args:
            turn: Turn of each known box; lower numbers are eliminated first.
        """
        return np.where(turn[self.near.indices] <= turn[self.rows], _KEPT, _ALL)

    def left_with_seams_last(self, owner: Ints) -> NDArray[np.float64]:
        """Return the same if each part eliminates interior boxes first; between two parts, either order counts half."""
        other = owner[self.near.indices] != owner[self.rows]
        on_seam = np.bincount(self.rows, other, minlength=len(self.numbers_on_level)) > 0
        turn = self.numbers_on_level + self.n_boxes * on_seam
        return np.where(other, _HALF, self.left(turn))

    def total(self, own: NDArray[Any]) -> NDArray[Any]:
        """Return the sum of the processes' arrays; collective."""
        return own if self.communicator.size == 1 else summed(self.communicator, own)

    def everybodys(self, own: NDArray[Any]) -> list[NDArray[Any]]:
        """Return the array of each process, in order; collective."""
        return gather(self.communicator, own)

    def spread(self, planned: NDArray[Any]) -> NDArray[Any]:
        """Return values of known boxes, given those of planned ones; 0 for boxes two near-steps away; collective."""
        values = np.zeros((len(self.numbers_on_level), *planned.shape[1:]), planned.dtype)
        values[self.planned] = planned
        if self.communicator.size > 1:
            values[self.around] = self.halo.fetch(self.communicator, planned)
        return values


def rows_of(start: Ids, columns: NDArray[Any], n_columns: int) -> csr_array:
    """Return lists as the rows of a matrix of ones."""
    return csr_array((np.ones(len(columns), bool), columns, start), shape=(len(start) - 1, n_columns))


def alone_on(tree: ClusterTree, level: int) -> float:
    """Return the work of a level's box that does not depend on its near boxes."""
    return _ALONE if level == tree.n_levels - 1 else _ALONE_ABOVE


@dataclass(frozen=True, eq=False)
class PartsWork:
    """Work of the parts for the planned boxes of a level, in whole numbers.

    Attributes:
        own: Work of eliminating each box, shape (planned boxes,).
        boxes, parts, applied: Boxes whose updates another part applies, that part, and its work.
    """

    own: NDArray[np.float64]
    boxes: Ints
    parts: Ints
    applied: NDArray[np.float64]

    @classmethod
    def of(cls, level: Boxes, owner: Ints, n_parts: int, left: NDArray[np.float64]) -> "PartsWork":
        """Predict the work.

        Args:
            level: The boxes.
            owner: Each known box's part.
            n_parts: Number of parts.
            left: Unknowns left of near boxes when each box is eliminated, for each entry of `level.near`.
        """
        near, entries = level.near, level.entries
        mine = owner[level.planned]
        rows = level.rows[entries] - level.planned.start
        theirs = owner[near.indices[entries]]
        # Near boxes of a box are sorted, and each part is a range of boxes: those of one part are neighbors.
        first = np.flatnonzero(np.diff(rows * n_parts + theirs, prepend=-1))
        boxes, parts = rows[first], theirs[first]
        of_part = np.add.reduceat(left[entries], first) if len(first) else np.zeros(0)
        unknowns = np.bincount(boxes, of_part, minlength=len(mine))
        whole = unknowns**2
        touched = whole[boxes] - (unknowns[boxes] - of_part) ** 2
        by_owner = mine[boxes] == parts
        own = np.asarray(level.alone + (10 - _UPDATE) * whole, np.float64)
        own[boxes[by_owner]] += _UPDATE * touched[by_owner]
        return cls(own, boxes[~by_owner], parts[~by_owner], _UPDATE * touched[~by_owner])

    def of_parts(self, owner: Ints, n_parts: int) -> NDArray[np.float64]:
        """Return the work of each part for the planned boxes, whose parts are given: shape (parts,)."""
        own = np.bincount(owner, self.own, minlength=n_parts)
        # NumPy counts an empty array in integers.
        return np.asarray(own + np.bincount(self.parts, self.applied, minlength=n_parts), np.float64)


def cut(level: Boxes, speeds: NDArray[np.float64]) -> Ints:
    """Cut a level's boxes into ranges, shape (parts + 1,), so that all parts take about equally long; collective.

    Args:
        level: The boxes.
        speeds: Shape (parts,), the parts' relative speeds.
    """
    n_boxes, n_parts = level.n_boxes, len(speeds)
    working = at_work(n_boxes, speeds)
    wanted = working / working.sum()
    alike = np.full(level.near.nnz, _HALF)
    weights = PartsWork.of(level, np.zeros(len(level.numbers_on_level), np.int32), 1, alike).own
    sums = np.concatenate(level.everybodys(weights.sum(keepdims=True)))
    before, whole = float(sums[: level.communicator.rank].sum()), float(sums.sum())
    middles = before + np.cumsum(weights) - weights / 2
    shares, least, best = wanted, np.inf, np.zeros(n_parts + 1, np.int32)
    for _ in range(_ROUNDS if np.count_nonzero(working) > 1 and n_boxes else 1):
        ends = np.concatenate([[0.0], np.cumsum(shares)])
        ends *= whole / ends[-1]
        cuts = level.total(np.searchsorted(middles, ends)).astype(np.int32)
        cuts[ends >= ends[-1]] = n_boxes
        owner = owners(cuts, level.numbers_on_level)
        work = level.total(
            PartsWork.of(level, owner, n_parts, level.left_with_seams_last(owner)).of_parts(
                owner[level.planned], n_parts
            )
        )
        longest = float((work[working > 0] / working[working > 0]).max())
        if longest < least:
            least, best = longest, cuts
        shares = np.maximum(shares + (wanted * work.sum() - work) / max(whole, 1.0), 0.0)
        shares = np.where(working > 0, shares, 0.0)
    return best


def owners(cuts: Ints, boxes: NDArray[Any]) -> Ints:
    """Return the part of each box, given where the parts' ranges start."""
    return (np.searchsorted(cuts, boxes, side="right") - 1).astype(np.int32)


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
        cuts: First box of each range, counted from the level's first box, and the number of the level's boxes.
    """
    n_points = int(tree.stop.max(initial=0))
    return np.append(tree.start, n_points)[np.where(cuts == cuts[-1], len(tree.start), first + cuts)].astype(
        np.int64
    )
