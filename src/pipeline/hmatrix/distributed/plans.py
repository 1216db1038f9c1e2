"""Plans of the levels of a divided matrix: processes plan for the boxes that they own, and keep what their parts need.

No process has all near lists. Levels above the cut, a few boxes per process, are planned by every process in the same
way. On other levels a process knows the cuts, its own boxes, and the boxes within two near-steps of them.
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
from pipeline.runtime.communicator import Communicator, on_level


@dataclass(frozen=True, eq=False)
class NearBoxes:
    """Near boxes of any box, fetched from its owner.

    Attributes:
        division: Owner of each box.
        near: Near boxes of own boxes and of those above the cut.
        communicator: The processes.
    """

    division: Division
    near: Lists
    communicator: Communicator

    def of(self, level: int, boxes: Ids) -> tuple[Ids, Ints]:
        """Return where each box's near boxes start, and the near boxes one after the other; collective.

        Args:
            level: Number of the level; boxes are numbered from its first.
            boxes: Boxes of the level, sorted.
        """
        division, first = self.division, int(self.division.whole.level_start[level])
        if level < division.cut:
            start, stop = self.near.start[first + boxes], self.near.start[first + boxes + 1]
            found = self.near.boxes[chained(start, stop)] - np.int32(first)
            return np.concatenate([[0], np.cumsum(stop - start)]), found
        low, high = division.range_of(level)
        start = self.near.start[low : high + 1]
        names = (division.numbers[slice(*self._known(level))] - first).astype(np.int32)
        own = names[self.near.boxes[start[0] : start[-1]] - np.int32(self._known(level)[0])]
        halo = Halo.of(self.communicator, boxes, division.edges_on(level))
        return halo.fetch_lists(self.communicator, start - start[0], own)

    def _known(self, level: int) -> tuple[int, int]:
        """Return first and last + 1 of the known boxes of a level."""
        start, stop = self.division.tree.level_start[level : level + 2].tolist()
        return start, stop

    def around(self, level: int, boxes: Ids) -> tuple[Ids, Ids, csr_array]:
        """Return near lists of some boxes of a level and of boxes near to these; collective.

        Returns:
            Numbers of the boxes near to `boxes` but not among them, sorted; numbers of all boxes in the lists, sorted;
            and the lists as rows of a matrix of the latter, with empty rows for boxes two near-steps away.
        """
        start, members = self.of(level, boxes)
        ring = np.setdiff1d(distinct(members), boxes, assume_unique=True)
        ring_start, ring_members = self.of(level, ring)
        numbers = distinct(np.concatenate([boxes, ring, distinct(ring_members)]))
        own_rows, ring_rows = (np.searchsorted(numbers, some) for some in (boxes, ring))
        counts = np.zeros(len(numbers), np.int64)
        counts[own_rows], counts[ring_rows] = np.diff(start), np.diff(ring_start)
        ends = np.concatenate([[0], np.cumsum(counts)])
        columns = np.empty(int(ends[-1]), np.int32)
        places = numbers.astype(np.int32)
        for rows, found in ((own_rows, members), (ring_rows, ring_members)):
            columns[chained(ends[rows], ends[rows + 1])] = np.searchsorted(places, found)
        return ring, numbers, rows_of(ends, columns, len(numbers))

    def planned(self, level: int) -> Boxes:
        """Return the boxes of a level that this process plans for: its own, or all above the cut; collective."""
        division = self.division
        if level < division.cut:
            return Boxes.of(division.tree, self.near, level)
        edges, own = division.edges_on(level), division.own_on(level)
        ring, numbers, near = self.around(level, own)
        at = int(np.searchsorted(numbers, edges[division.rank]))
        return Boxes(
            near, alone_on(division.tree, level), numbers, int(division.whole.sizes[level]), slice(at, at + len(own)),
            self.communicator, np.searchsorted(numbers, ring), Halo.of(self.communicator, ring, edges),
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class DividedPlan:
    """The plan of a level, and near lists around the boxes of this process's parts.

    Attributes:
        partition: What the parts need of the plan.
        numbers_on_level: Boxes within two near-steps of those that the parts own here, or below, numbered from the
            level's first.
        near: Lists as rows of a matrix of these boxes, with empty rows for boxes two near-steps away.
    """

    partition: LevelPartition
    numbers_on_level: Ids
    near: csr_array


def divided_plans(near: NearBoxes, team: Team) -> list[DividedPlan]:
    """Plan all levels; collective."""
    division, communicator, whole = near.division, near.communicator, near.division.whole
    drafts: list[tuple[Ints, Ints, int]] = []
    for level in range(whole.n_levels):
        with on_level(communicator, level):
            boxes = near.planned(level)
            cuts = cut(boxes, team.speeds)
            drafts.append((cuts, *phases(boxes, cuts, team.speeds)))
    ends = np.searchsorted(team.place, np.arange(communicator.size + 1))  # parts of each process
    plans = []
    below = np.zeros(0, np.int64)  # own boxes of the level below
    for level in range(whole.n_levels - 1, -1, -1):
        cuts, phase, n_phases = drafts[level]
        edges = cuts[ends].astype(np.int64)
        low, high = (int(edges[communicator.rank + i]) for i in range(2))
        own = np.arange(low, high)
        with on_level(communicator, level):
            _, numbers, rows = near.around(level, np.union1d(own, below // whole.arity))
        if level < division.cut:
            phase = phase[low:high]
        else:
            ranges = np.stack([edges[:-1], edges[1:]], axis=1)
            first = int(division.edges_on(level)[communicator.rank])
            with on_level(communicator, level):
                phase = shifted(phase, first, ranges, communicator)
        start, _ = whole.places(level, np.minimum(cuts, whole.sizes[level] - 1).astype(np.int64))
        places = np.where(cuts == whole.sizes[level], whole.n_points, start)
        first = int(whole.level_start[level])
        partition = LevelPartition(
            level, first, cuts, places, n_phases, low, phase, *told_of(numbers, rows, cuts)
        )
        plans.append(DividedPlan(partition, numbers, rows))
        below = own
    return plans[::-1]
