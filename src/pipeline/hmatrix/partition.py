"""Who owns which boxes, in which order boxes on a seam take turns, and who has to be told of each.

A part owns a contiguous range of boxes on every level. All of it is static: it follows from tree and near lists alone,
so that every process finds the same. Of a level:

- a box is on a *seam* if a near box of it belongs to another part, else it is *interior*;
- near boxes of different parts are eliminated in different *phases*. Boxes further apart need no order: their updates
  of a third box add up, and what is eliminated is decoupled from far boxes. Seam boxes take turns in runs along the
  tree's order; interior boxes come first, and some fill the turns in which their part would wait;
- eliminating a box updates blocks between its near boxes, so that parts which own one of these need its update. Parts
  that own a box within two near-steps hold blocks of it, and need to know which unknowns are left: it is their *ghost*.
"""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from pipeline.hmatrix.admissibility import Lists
from pipeline.hmatrix.cluster import ClusterTree, Ints

FEW = 12  # boxes of a slow part; with fewer, the others wait longer at its seams than its work is worth
LEAST = 4  # boxes of a part; with fewer, boxes of several parts go to one of them
NOBODY, SIZES, UPDATES = 0, 1, 2  # what others have to be told of a box, as native/eliminate.hpp numbers it
_PALETTES = (
    2,
    3,
    4,
    5,
    6,
    8,
    10,
    12,
)  # turns to begin with: those that make the shortest sum of turns are kept


@dataclass(frozen=True, eq=False)
class LevelPartition:
    """One level, its boxes numbered from the first.

    Attributes:
        level: Number of the level.
        first: The level's first box in the tree.
        cuts: Shape (parts + 1,); part p owns boxes cuts[p] to cuts[p + 1] - 1.
        phase: Shape (boxes,), from 0 on.
        updated: Pairs (box, part) of boxes whose update another part needs, sorted; shape (pairs, 2).
        ghosts: Pairs (box, part) of boxes that are ghosts of another part, sorted; these contain `updated`.
    """

    level: int
    first: int
    cuts: Ints
    phase: Ints
    updated: Ints
    ghosts: Ints

    def __repr__(self) -> str:
        return (
            f"LevelPartition(level {self.level}: {self.n_boxes} boxes of {self.n_active} parts, "
            f"{len(self.seam)} on seams, {self.n_phases} phases)"
        )

    @property
    def n_boxes(self) -> int:
        return int(self.cuts[-1])

    @property
    def n_parts(self) -> int:
        return len(self.cuts) - 1

    @property
    def n_active(self) -> int:
        """How many parts own boxes."""
        return int(np.count_nonzero(np.diff(self.cuts)))

    @property
    def n_phases(self) -> int:
        return int(self.phase.max(initial=0)) + 1

    @cached_property
    def owner(self) -> Ints:
        """The part of each box."""
        return np.repeat(np.arange(self.n_parts, dtype=np.int32), np.diff(self.cuts))

    @cached_property
    def seam(self) -> Ints:
        """Boxes with a near box of another part."""
        return np.unique(self.updated[:, 0])

    @cached_property
    def told(self) -> Ints:
        """Shape (boxes,): NOBODY, SIZES or UPDATES, the most that any other part has to know."""
        told = np.zeros(self.n_boxes, np.int32)
        told[self.ghosts[:, 0]] = SIZES
        told[self.updated[:, 0]] = UPDATES
        return told

    def range_of(self, part: int) -> tuple[int, int]:
        """Return first and last + 1 of a part's boxes, as the tree numbers them."""
        return self.first + int(self.cuts[part]), self.first + int(self.cuts[part + 1])

    def boxes_of(self, part: int, phase: int) -> Ints:
        """Return the boxes that a part eliminates in a phase, numbered from the level's first."""
        low, high = int(self.cuts[part]), int(self.cuts[part + 1])
        return (low + np.flatnonzero(self.phase[low:high] == phase)).astype(np.int32)

    def known_to(self, part: int) -> Ints:
        """Return the boxes that a part owns and its ghosts, sorted."""
        own = np.arange(self.cuts[part], self.cuts[part + 1], dtype=np.int32)
        return np.sort(np.concatenate([own, self.ghosts[self.ghosts[:, 1] == part, 0]]))

    def listeners(self, boxes: Ints) -> dict[int, tuple[Ints, NDArray[np.bool_]]]:
        """Return, for each part that some boxes are ghosts of, which of `boxes` (indices), and which with updates."""
        place = np.full(self.n_boxes, -1, np.int32)
        place[boxes] = np.arange(len(boxes))
        result = {}
        found = self.ghosts[place[self.ghosts[:, 0]] >= 0]
        needed = set(map(tuple, self.updated[place[self.updated[:, 0]] >= 0].tolist()))
        for part in np.unique(found[:, 1]).tolist():
            concerned = np.sort(place[found[found[:, 1] == part, 0]])
            with_update = np.array([(int(boxes[i]), part) in needed for i in concerned], bool)
            result[part] = concerned, with_update
        return result


def partition_level(
    tree: ClusterTree, near: Lists, level: int, n_parts: int, shares: NDArray[np.float64] | None = None
) -> LevelPartition:
    """Divide a level among parts.

    Costs O(near pairs within two steps), and O(boxes on seams) in Python.

    Args:
        tree: Tree of the points.
        near: Near boxes of each box.
        level: Number of the level.
        n_parts: How many parts there are in all; high levels may leave some without boxes.
        shares: Shape (parts,), how much each part should own; equal if left out.
    """
    first, last = int(tree.level_start[level]), int(tree.level_start[level + 1])
    speeds = np.ones(n_parts) if shares is None else shares
    cuts = cut(last - first, speeds)
    start = near.start[first : last + 1]
    columns = near.boxes[start[0] : start[-1]].astype(np.int64) - first
    one_step = csr_array(
        (np.ones(len(columns), np.int32), columns, start - start[0]), shape=(last - first,) * 2
    )
    owner = np.repeat(np.arange(n_parts, dtype=np.int32), np.diff(cuts))
    rows, columns = one_step.tocoo().coords
    crossing = owner[rows] != owner[columns]
    seam_pairs = np.stack([rows[crossing], columns[crossing]], axis=1).astype(np.int32)
    updated = _box_parts(seam_pairs, owner, n_parts)
    # A ghost is near a box that is near an own one: rows of seam boxes and of their near boxes suffice.
    around = np.unique(one_step[np.unique(seam_pairs[:, 0])].indices)
    two_steps = csr_array(one_step[around] @ one_step).tocoo()
    pairs = np.stack([around[two_steps.coords[0]], two_steps.coords[1]], axis=1).astype(np.int32)
    ghosts = _box_parts(pairs[owner[pairs[:, 0]] != owner[pairs[:, 1]]], owner, n_parts)
    phase = _fill(_turns(seam_pairs, owner), owner, speeds)
    return LevelPartition(level, first, cuts, phase, updated, ghosts)


def cut(n_boxes: int, shares: NDArray[np.float64]) -> Ints:
    """Cut a level's boxes into ranges in proportion to shares, shape (parts + 1,).

    Where parts would own fewer than `LEAST` boxes on average, every second part hands its boxes to the one before it,
    and so on: levels near the top belong to few parts. Parts of less than half the greatest share own none where they
    would own fewer than `FEW`.
    """
    n_parts, stride = len(shares), 1
    slow = (shares < shares.max() / 2) & (shares / shares.sum() * n_boxes < FEW)
    shares = np.where(slow, 0.0, shares)
    while stride < n_parts and n_boxes < LEAST * -(-n_parts // stride):
        stride *= 2
    ends = np.concatenate([[0.0], np.cumsum(shares)]) / shares.sum() * n_boxes
    heads = np.append(np.arange(0, n_parts, stride), n_parts)
    edges = np.round(ends[heads]).astype(np.int32)
    cuts = np.empty(n_parts + 1, np.int32)
    cuts[heads] = edges
    for head, following, edge in zip(heads[:-1], heads[1:], edges[1:], strict=True):
        cuts[head + 1 : following] = edge
    return cuts


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


def _box_parts(pairs: Ints, owner: Ints, n_parts: int) -> Ints:
    """Return for pairs of boxes the distinct (first box, part of the second), sorted."""
    keys = np.unique(pairs[:, 0].astype(np.int64) * n_parts + owner[pairs[:, 1]])
    return np.stack([keys // n_parts, keys % n_parts], axis=1).astype(np.int32)


def _turns(seam_pairs: Ints, owner: Ints) -> Ints:
    """Return a phase for every box: 0 for interior ones, else from 1 on, different for the two of each pair."""
    phase = np.zeros(len(owner), np.int32)
    members = np.unique(seam_pairs[:, 0])
    if len(members) == 0:
        return phase
    others: dict[int, list[int]] = {}
    for i, j in seam_pairs.tolist():
        others.setdefault(i, []).append(j)
    counts = Counter(owner[members].tolist())
    best: tuple[int, dict[int, int]] | None = None
    for palette in _PALETTES:
        length, found = _runs(members.tolist(), others, owner, counts, palette)
        if best is None or length < best[0]:
            best = length, found
    assert best is not None
    phase[members] = [1 + best[1][box] for box in members.tolist()]
    return phase


def _runs(
    members: list[int], others: dict[int, list[int]], owner: Ints, counts: Counter[int], palette: int
) -> tuple[int, dict[int, int]]:
    """Give each part turns in long runs along the tree's order; return the sum of turns' lengths, and the turns."""
    found: dict[int, int] = {}
    load: Counter[tuple[int, int]] = Counter()
    last: dict[int, int] = {}
    n_turns = palette
    for box in members:
        part = int(owner[box])
        taken = {found[other] for other in others[box] if other in found}
        turn = last.get(part)
        if turn is None or turn in taken or load[part, turn] >= -(-counts[part] // palette):
            free = [turn for turn in range(n_turns) if turn not in taken]
            if not free:
                free, n_turns = [n_turns], n_turns + 1
            turn = min(free, key=lambda turn: (load[part, turn], turn))
        found[box] = last[part] = turn
        load[part, turn] += 1
    return sum(max(load[part, turn] for part in counts) for turn in range(n_turns)), found


def _fill(phase: Ints, owner: Ints, speeds: NDArray[np.float64]) -> Ints:
    """Move interior boxes, of phase 0, into turns in which their part would wait for others."""
    phase = phase.copy()
    n_phases = int(phase.max(initial=0)) + 1
    on_seam = phase > 0
    load = np.zeros((n_phases, len(speeds)))
    np.add.at(load, (phase[on_seam], owner[on_seam]), 1)
    longest = (load / speeds).max(axis=1, keepdims=True)
    idle = np.floor(longest * speeds - load + 1e-9).astype(np.int64)  # boxes, at the part's own speed
    for part in np.unique(owner).tolist():
        interior = np.flatnonzero((owner == part) & ~on_seam)
        turns = np.repeat(np.arange(1, n_phases), idle[1:, part])[: len(interior)]
        phase[interior[len(interior) - len(turns) :]] = turns
    return phase
