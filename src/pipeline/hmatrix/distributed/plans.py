"""Plans of the levels of a divided matrix: processes plan for the boxes that they own, and keep what their parts need.

Nobody has all near lists. Levels above the cut, a few boxes for each process, are planned by everyone alike. Of the
others a process knows the boxes on seams, the cuts and its own boxes, with those within two near-steps of them.
"""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from pipeline.hmatrix.admissibility import Lists
from pipeline.hmatrix.cluster import Ints
from pipeline.hmatrix.distributed.tree import Division
from pipeline.hmatrix.distributed.vectors import shifted
from pipeline.hmatrix.partition import LevelPartition, phases, told_of
from pipeline.hmatrix.parts import Team
from pipeline.hmatrix.places import distinct
from pipeline.hmatrix.ranges import Boxes, alone_on, cut, rows_of
from pipeline.hmatrix.swap import Halo, Ids, chained
from pipeline.runtime.communicator import Communicator


@dataclass(frozen=True, eq=False)
class NearBoxes:
    """Near boxes of any box, from its owner.

    Attributes:
        division: Who owns which boxes.
        near: Near boxes of own boxes and of those above the cut.
        communicator: The processes.
    """

    division: Division
    near: Lists
    communicator: Communicator

    def edges(self, level: int) -> Ids:
        """Return where the boxes of each process start on a level at or below the cut, from the level's first."""
        return self.division.cuts * self.division.tree.arity ** (level - self.division.cut)

    def of(self, level: int, boxes: Ids) -> tuple[Ids, Ids]:
        """Return the near boxes of some of a level one after the other, and where each box's start; collective.

        Args:
            level: Number of the level; boxes are numbered from its first.
            boxes: Sorted.
        """
        first = int(self.division.tree.level_start[level])
        if level < self.division.cut:
            start = self.near.start[first + boxes]
            stop = self.near.start[first + boxes + 1]
            found = self.near.boxes[chained(start, stop)].astype(np.int64) - first
            return np.concatenate([[0], np.cumsum(stop - start)]), found
        edges = self.edges(level)
        low, high = (first + int(edges[self.communicator.rank + i]) for i in range(2))
        start = self.near.start[low : high + 1]
        own = self.near.boxes[start[0] : start[-1]].astype(np.int64) - first
        halo = Halo.of(self.communicator, boxes, edges)
        return halo.fetch_lists(self.communicator, start - start[0], own)

    def around(self, level: int, boxes: Ids) -> tuple[Ids, Ids, csr_array]:
        """Return near lists of some boxes of a level and of boxes near to these; collective.

        Returns:
            Numbers of the boxes near to `boxes` that are others, those of all boxes in the lists, both sorted, and the
            lists as rows of a matrix of the latter: empty ones for boxes at two steps.
        """
        start, members = self.of(level, boxes)
        ring = np.setdiff1d(members, boxes)
        ring_start, ring_members = self.of(level, ring)
        names = distinct(np.concatenate([boxes, ring, ring_members]))
        own_rows, ring_rows = (np.searchsorted(names, some) for some in (boxes, ring))
        counts = np.zeros(len(names), np.int64)
        counts[own_rows], counts[ring_rows] = np.diff(start), np.diff(ring_start)
        ends = np.concatenate([[0], np.cumsum(counts)])
        columns = np.empty(int(ends[-1]), np.int64)
        for rows, found in ((own_rows, members), (ring_rows, ring_members)):
            columns[chained(ends[rows], ends[rows + 1])] = np.searchsorted(names, found)
        return ring, names, rows_of(ends, columns, len(names))

    def planned(self, level: int) -> Boxes:
        """Return the boxes of a level that this process plans for: its own, or all above the cut; collective."""
        tree = self.division.tree
        if level < self.division.cut:
            return Boxes.of(tree, self.near, level)
        edges, rank = self.edges(level), self.communicator.rank
        own = np.arange(edges[rank], edges[rank + 1])
        ring, names, near = self.around(level, own)
        at = int(np.searchsorted(names, edges[rank]))
        return Boxes(
            near, alone_on(tree, level), names, len(tree.level(level)), slice(at, at + len(own)),
            self.communicator, np.searchsorted(names, ring), Halo.of(self.communicator, ring, edges),
        )  # fmt: skip


def divided_plans(near: NearBoxes, team: Team) -> tuple[list[LevelPartition], Lists]:
    """Plan all levels; collective.

    Returns:
        What this process's parts need of the plan of each level, and the near lists of the boxes that they own on any
        level and of boxes near to these; lists of others are empty.
    """
    division, communicator, tree = near.division, near.communicator, near.division.tree
    drafts: list[tuple[Ints, Ints, int]] = []
    for level in range(tree.n_levels):
        boxes = near.planned(level)
        cuts = cut(boxes, team.speeds)
        drafts.append((cuts, *phases(boxes, cuts, team.speeds)))
    ends = np.searchsorted(team.place, np.arange(communicator.size + 1))  # parts of each process
    counts = np.zeros(tree.n_boxes, np.int64)
    plans, members = [], []
    below = np.zeros(0, np.int64)  # own boxes of the level below
    for level in range(tree.n_levels - 1, -1, -1):
        cuts, phase, n_phases = drafts[level]
        edges = cuts[ends].astype(np.int64)
        low, high = (int(edges[communicator.rank + i]) for i in range(2))
        own = np.arange(low, high)
        _, names, rows = near.around(level, np.union1d(own, below // tree.arity))
        if level < division.cut:
            phase = phase[low:high]
        else:
            ranges = np.stack([edges[:-1], edges[1:]], axis=1)
            phase = shifted(phase, int(near.edges(level)[communicator.rank]), ranges, communicator)
        first = int(tree.level_start[level])
        plans.append(LevelPartition(level, first, cuts, n_phases, low, phase, *told_of(names, rows, cuts)))
        counts[first + names] = np.diff(rows.indptr)
        members.append((first + names[rows.indices]).astype(np.int32))
        below = own
    start = np.concatenate([[0], np.cumsum(counts)])
    return plans[::-1], Lists(start, np.concatenate(members[::-1]))
