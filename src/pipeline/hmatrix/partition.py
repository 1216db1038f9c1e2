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
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from pipeline.hmatrix.admissibility import Lists
from pipeline.hmatrix.cluster import ClusterTree, Ints
from pipeline.hmatrix.ranges import Boxes, PartsWork, cut

NOBODY, SIZES, UPDATES = 0, 1, 2  # what others have to be told of a box, as native/eliminate.hpp numbers it
_PALETTES = 2, 3, 4, 5, 6, 8, 10, 12  # turns of boxes on seams to begin with
_ROUNDS = 2  # of filling turns with interior boxes, whose work depends on the order
_ENOUGH = 1.01  # times the mean of the parts' work: plans that take as little need not be compared
_WAITING = 0.5  # boxes that the end of a phase costs, since work is foretold about that well


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
    first = int(tree.level_start[level])
    speeds = np.ones(n_parts) if shares is None else shares
    boxes = Boxes.of(tree, near, level)
    one_step, cuts = boxes.near, cut(boxes, speeds)
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
    return LevelPartition(level, first, cuts, _phases(seam_pairs, boxes, owner, speeds), updated, ghosts)


def _box_parts(pairs: Ints, owner: Ints, n_parts: int) -> Ints:
    """Return for pairs of boxes the distinct (first box, part of the second), sorted."""
    keys = np.unique(pairs[:, 0].astype(np.int64) * n_parts + owner[pairs[:, 1]])
    return np.stack([keys // n_parts, keys % n_parts], axis=1).astype(np.int32)


def _phases(seam_pairs: Ints, boxes: Boxes, owner: Ints, speeds: NDArray[np.float64]) -> Ints:
    """Return a phase for every box, different for the two of each pair: the plan that takes least of those tried."""
    phase = np.zeros(len(owner), np.int32)
    members = np.unique(seam_pairs[:, 0])
    if len(members) == 0:
        return phase
    others: dict[int, list[int]] = {}
    for i, j in seam_pairs.tolist():
        others.setdefault(i, []).append(j)
    counts = Counter(owner[members].tolist())
    n_parts, best, least = len(speeds), phase, np.inf
    for palette in _PALETTES:
        found = _runs(members.tolist(), others, owner, counts, palette)
        phase[members] = [1 + found[box] for box in members.tolist()]
        plan = phase
        work = PartsWork.of(boxes, owner, n_parts, boxes.left(_turns(plan)))
        for _ in range(_ROUNDS):
            plan = _fill(phase, owner, work, speeds)
            work = PartsWork.of(boxes, owner, n_parts, boxes.left(_turns(plan)))
            longest = float((_loads(plan, owner, work, n_parts) / speeds).max(axis=1).sum())
            longest += _WAITING * float(work.own.mean()) * plan.max() / speeds.max()
            if longest < least:
                best, least = plan, longest
        if least <= _ENOUGH * work.of_parts(owner, n_parts).sum() / speeds.sum():
            break
    return best


def _turns(phase: Ints) -> Ints:
    """Number boxes in the order in which they are eliminated: phase by phase, along the tree's order."""
    turn = np.empty_like(phase)
    turn[np.argsort(phase, kind="stable")] = np.arange(len(phase))
    return turn


def _runs(
    members: list[int], others: dict[int, list[int]], owner: Ints, counts: Counter[int], palette: int
) -> dict[int, int]:
    """Give boxes on seams turns, in long runs along the tree's order of each part."""
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
    return found


def _loads(phase: Ints, owner: Ints, work: PartsWork, n_parts: int) -> NDArray[np.float64]:
    """Return the work of each superstep and part: what others eliminated in a phase is applied in the next."""
    loads = np.zeros((int(phase.max(initial=0)) + 2, n_parts))
    np.add.at(loads, (phase, owner), work.own)
    np.add.at(loads, (phase[work.boxes] + 1, work.parts), work.applied)
    return loads


def _fill(seams: Ints, owner: Ints, work: PartsWork, speeds: NDArray[np.float64]) -> Ints:
    """Move interior boxes, the last of each part, into turns in which their part would wait for others.

    Args:
        seams: Phases of boxes on seams, from 1 on, and 0 for interior ones.
        owner, work, speeds: Who eliminates each box, and for how long.
    """
    interior = seams == 0
    loads = _loads(seams, owner, replace(work, own=np.where(interior, 0.0, work.own)), len(speeds))
    idle = ((loads / speeds).max(axis=1, keepdims=True) * speeds - loads)[1:-1]
    filled = seams.copy()
    for part in np.unique(owner).tolist():
        boxes = np.flatnonzero((owner == part) & interior)
        own = work.own[boxes]
        after = own.sum() - np.cumsum(own) + own / 2
        ends = np.cumsum(idle[:, part])
        room = min(float(ends[-1]), float(own.sum()))
        moved = after < room
        filled[boxes[moved]] = 1 + np.searchsorted(ends, room - after[moved])
    return filled
