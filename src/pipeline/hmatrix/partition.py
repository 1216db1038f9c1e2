"""Which part owns which boxes, in which order boxes on seams are eliminated, and which parts need to know of each box.

A part owns a contiguous range of boxes on every level. The plan is static: it follows from tree and near lists alone.
Processes plan a level together, each for a range of its boxes, and then keep what their parts need of the plan. On a
level:

- a box is on a *seam* if a near box of it belongs to another part, else it is *interior*;
- near boxes of different parts are eliminated in different *phases*. Boxes further apart need no order: their updates
  of a third box add up, and eliminated unknowns are decoupled from far boxes. Seam boxes take turns in runs along the
  tree's order; interior boxes come first, and some fill the turns in which their part would wait;
- eliminating a box updates blocks between its near boxes, so parts that own a near box need the update. Parts that own
  a box within two near-steps hold blocks of the box, and need to know its remaining unknowns: it is their *ghost*.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from pipeline.hmatrix.admissibility import Lists
from pipeline.hmatrix.cluster import ClusterTree, Ints
from pipeline.hmatrix.places import distinct, is_in
from pipeline.hmatrix.ranges import Boxes, PartsWork, cut, owners, range_edges
from pipeline.hmatrix.seams import Seams
from pipeline.hmatrix.swap import Ids

NOBODY, SIZES, UPDATES = 0, 1, 2  # what others have to be told of a box, as native/eliminate.hpp numbers it
_PALETTES = 2, 3, 4, 5, 6, 8, 10, 12  # numbers of turns that boxes on seams begin with
_ROUNDS = 2  # rounds of filling turns with interior boxes, whose work depends on the order
_ENOUGH = 1.01  # times the mean of the parts' work: a plan that takes no longer is not compared with others
_WAITING = 0.5  # cost of the end of a phase, in boxes: work is predicted about that well


@dataclass(frozen=True, eq=False)
class LevelPartition:
    """What the parts of this process need of a level's plan; boxes are numbered from the level's first.

    Attributes:
        level: Number of the level.
        first: The level's first box in the tree.
        cuts: Shape (parts + 1,); part p owns boxes cuts[p] to cuts[p + 1] - 1.
        places: Shape (parts + 1,); the place in tree order at which each part's boxes start.
        n_phases: Number of phases.
        low: The first box of this process's parts.
        phase: Phases, from 0 on, of this process's boxes: low, low + 1, ...
        updated: Pairs (box, part) of boxes whose update another part needs, sorted; shape (pairs, 2).
        ghosts: Pairs (box, part) of boxes that are ghosts of another part, sorted; these contain `updated`. They are
            complete for this process's boxes, for the parents of its boxes below, and for its parts.
    """

    level: int
    first: int
    cuts: Ints
    places: Ids
    n_phases: int
    low: int
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
    def n_bytes(self) -> int:
        """Bytes of the arrays that describe boxes."""
        return self.phase.nbytes + self.updated.nbytes + self.ghosts.nbytes

    def owner(self, boxes: NDArray[Any]) -> Ints:
        """Return the part of each box."""
        return owners(self.cuts, boxes)

    @cached_property
    def seam(self) -> Ints:
        """Known boxes with a near box of another part."""
        return distinct(self.updated[:, 0])

    @cached_property
    def _ghost_boxes(self) -> Ints:
        return distinct(self.ghosts[:, 0])

    def told(self, boxes: Ints) -> Ints:
        """Return NOBODY, SIZES or UPDATES for each of this process's boxes, the most that another part has to know."""
        told = np.where(is_in(boxes, self._ghost_boxes), SIZES, NOBODY)
        return np.where(is_in(boxes, self.seam), UPDATES, told).astype(np.int32)

    def range_of(self, part: int) -> tuple[int, int]:
        """Return first and last + 1 of a part's boxes, as the tree numbers them."""
        return self.first + int(self.cuts[part]), self.first + int(self.cuts[part + 1])

    def boxes_of(self, part: int, phase: int) -> Ints:
        """Return the boxes that a part of this process eliminates in a phase, numbered from the level's first."""
        low, high = int(self.cuts[part]), int(self.cuts[part + 1])
        return (low + np.flatnonzero(self.phase[low - self.low : high - self.low] == phase)).astype(np.int32)

    def ghosts_of(self, part: int) -> Ints:
        """Return the known ghosts of a part, sorted: all of them for a part of this process."""
        return np.asarray(self.ghosts[self.ghosts[:, 1] == part, 0], np.int32)

    def ghosts_among(self, boxes: NDArray[Any]) -> Ints:
        """Return the pairs (box, part) of `ghosts` whose box is among the given ones, in the same order."""
        return self.ghosts[np.isin(self.ghosts[:, 0], boxes)]

    def known_to(self, part: int) -> Ints:
        """Return the boxes that a part of this process owns and its ghosts, sorted."""
        own = np.arange(self.cuts[part], self.cuts[part + 1], dtype=np.int32)
        return np.sort(np.concatenate([own, self.ghosts_of(part)]))

    def listeners(self, boxes: Ints) -> dict[int, tuple[Ints, NDArray[np.bool_]]]:
        """Return, for each part that some boxes are ghosts of, which of `boxes` (indices), and which with updates."""
        order = np.argsort(boxes).astype(np.int32)
        ordered = boxes[order]
        result = {}
        found = self.ghosts[is_in(self.ghosts[:, 0], ordered)]
        needed = set(map(tuple, self.updated[is_in(self.updated[:, 0], ordered)].tolist()))
        for part in np.unique(found[:, 1]).tolist():
            concerned = np.sort(order[np.searchsorted(ordered, found[found[:, 1] == part, 0])])
            with_update = np.array([(int(boxes[i]), part) in needed for i in concerned], bool)
            result[part] = concerned, with_update
        return result


def partition_level(
    tree: ClusterTree, near: Lists, level: int, n_parts: int, shares: NDArray[np.float64] | None = None
) -> LevelPartition:
    """Divide a level, whose boxes are all known here, among parts.

    Costs O(near pairs within two steps), and O(boxes on seams) in Python.

    Args:
        tree: Tree of the points.
        near: Near boxes of each box.
        level: Number of the level.
        n_parts: Number of parts in all; high levels may leave some without boxes.
        shares: Shape (parts,), relative work that each part should own; equal if left out.
    """
    speeds = np.ones(n_parts) if shares is None else shares
    boxes = Boxes.of(tree, near, level)
    cuts = cut(boxes, speeds)
    phase, n_phases = phases(boxes, cuts, speeds)
    told = told_of(boxes.numbers_on_level, boxes.near, cuts)
    first = int(tree.level_start[level])
    return LevelPartition(level, first, cuts, range_edges(tree, first, cuts), n_phases, 0, phase, *told)


def told_of(numbers_on_level: Ids, near: csr_array, cuts: Ints) -> tuple[Ints, Ints]:
    """Return the pairs (box, part) of boxes whose updates another part needs, and the pairs of ghosts.

    Both are complete for boxes whose near boxes have rows, and for parts that own such boxes.

    Args:
        numbers_on_level: Known boxes, numbered from the level's first, sorted.
        near: Their near boxes, in the numbering of `numbers_on_level`; rows may be empty.
        cuts: First box of each part's range.
    """
    owner = owners(cuts, numbers_on_level)
    rows = np.repeat(np.arange(len(numbers_on_level)), np.diff(near.indptr))
    crossing = owner[rows] != owner[near.indices]
    if not crossing.any():
        return np.zeros((0, 2), np.int32), np.zeros((0, 2), np.int32)
    seams = distinct(rows[crossing])
    updated = _box_parts(numbers_on_level, owner, rows[crossing], near.indices[crossing], len(cuts) - 1)
    # A ghost is near to a near box of an own box: rows of seam boxes and of their near boxes suffice.
    around = np.unique(near[seams].indices)
    two_steps = csr_array(near[around] @ near).tocoo()
    first, second = around[two_steps.coords[0]], two_steps.coords[1]
    others = owner[first] != owner[second]
    return updated, _box_parts(numbers_on_level, owner, first[others], second[others], len(cuts) - 1)


def _box_parts(numbers: Ids, owner: Ints, first: NDArray[Any], second: NDArray[Any], n_parts: int) -> Ints:
    """Return the distinct pairs (box, part of the other box) over pairs of boxes in both orders, sorted."""
    keys = np.concatenate(
        [numbers[first] * n_parts + owner[second], numbers[second] * n_parts + owner[first]]
    )
    keys = distinct(keys)
    return np.stack([keys // n_parts, keys % n_parts], axis=1).astype(np.int32)


def phases(level: Boxes, cuts: Ints, speeds: NDArray[np.float64]) -> tuple[Ints, int]:
    """Return the phase of every planned box and the number of phases: the fastest plan of those tried; collective.

    Near boxes of different parts have different phases.
    """
    planned, n_parts = level.planned, len(speeds)
    owner = owners(cuts, level.numbers_on_level)
    seams = Seams.of(level, owner, n_parts)
    if not seams.counts.any():
        return np.zeros(planned.stop - planned.start, np.int32), 1
    best, least, n_phases = np.zeros(0, np.int32), np.inf, 1
    # Several processes try all palettes at once, and wait for each other less often.
    together = [(palette,) for palette in _PALETTES] if level.communicator.size == 1 else [_PALETTES]
    for phase, last in (tried for palettes in together for tried in seams.turns(palettes)):
        plan = phase
        work = PartsWork.of(level, owner, n_parts, level.left(_turns(plan, level)))
        for _ in range(_ROUNDS):
            plan = level.spread(_fill(phase[planned], owner[planned], work, speeds, last, level))
            work = PartsWork.of(level, owner, n_parts, level.left(_turns(plan, level)))
            loads = level.total(_loads(plan[planned], owner[planned], work, last, n_parts))
            everything = level.total(np.array([work.own.sum(), work.applied.sum()]))
            longest = float((loads / speeds).max(axis=1).sum())
            longest += _WAITING * float(everything[0]) / level.n_boxes * last / speeds.max()
            if longest < least:
                best, least, n_phases = plan, longest, last + 1
        if least <= _ENOUGH * everything.sum() / speeds.sum():
            break
    return best[planned], n_phases


def _turns(phase: Ints, level: Boxes) -> Ids:
    """Number boxes in the order in which they are eliminated: phase by phase, along the tree's order."""
    return phase.astype(np.int64) * level.n_boxes + level.numbers_on_level


def _loads(phase: Ints, owner: Ints, work: PartsWork, last: int, n_parts: int) -> NDArray[np.float64]:
    """Return the work of each superstep and part: what others eliminated in a phase is applied in the next."""
    loads = np.zeros((last + 2, n_parts))
    np.add.at(loads, (phase, owner), work.own)
    np.add.at(loads, (phase[work.boxes] + 1, work.parts), work.applied)
    return loads


def _fill(
    seams: Ints, owner: Ints, work: PartsWork, speeds: NDArray[np.float64], last: int, level: Boxes
) -> Ints:
    """Move the last interior boxes of each part into turns in which the part would wait for others; collective.

    Args:
        seams: Phases of planned boxes on seams, from 1 on, and 0 for interior ones.
        owner, work, speeds: Part and work of each planned box, and the speeds of the parts.
        last: The last phase.
        level: The boxes.
    """
    interior = seams == 0
    alone = replace(work, own=np.where(interior, 0.0, work.own))
    loads = level.total(_loads(seams, owner, alone, last, len(speeds)))
    idle = ((loads / speeds).max(axis=1, keepdims=True) * speeds - loads)[1:-1]
    filled = seams.copy()
    parts = np.unique(owner)
    inside = {part: np.flatnonzero((owner == part) & interior) for part in parts.tolist()}
    sums = [float(work.own[boxes].sum()) for boxes in inside.values()]
    everybodys = level.everybodys(np.stack([parts.astype(np.float64), np.array(sums)], axis=1))
    before, whole = (
        {int(part): 0.0 for part in parts} for _ in range(2)
    )  # interior work of each part: with processes before this one, and of all
    for process, table in enumerate(everybodys):
        for part, share in table.tolist():
            if int(part) in whole:
                whole[int(part)] += share
                before[int(part)] += share if process < level.communicator.rank else 0.0
    for part, boxes in inside.items():
        own = work.own[boxes]
        after = whole[part] - (before[part] + np.cumsum(own)) + own / 2
        ends = np.cumsum(idle[:, part])
        room = min(float(ends[-1]), whole[part])
        moved = after < room
        filled[boxes[moved]] = 1 + np.searchsorted(ends, room - after[moved])
    return filled
